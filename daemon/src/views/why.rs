//! Why the path to a peer is as it is: both NATs, each step with its chance and its outcome, and what would help.

use std::time::Duration;

use punch_api::{
    ApiError, ErrorCode, PathKind, PathView, PeerName, PeerState, PeerView, Step, StepOutcome,
    StepView, WhyView,
};
use punch_engine::{LinkStatus, Outcome, StepKind, StepReport};

use super::advice::{Case, GOOD_CHANCE, in_words, search, small};
use super::facts::Facts;
use super::obstacle::Told;
use super::{advice, budget, nat, obstacle, plain, status};
use crate::snapshot::Snapshot;

/// From the end of a search that has spent the budget to the next one: its mappings must be gone, which takes 120 s at most
/// routers.
const SEARCH_PAUSE: Duration = Duration::from_secs(130);

/// Tells why the path to a peer is as it is; of a plain WireGuard peer, what both configurations say.
///
/// # Errors
/// The peer has gone meanwhile.
pub(crate) fn why(
    facts: &Facts<'_>,
    snapshot: &Snapshot,
    name: &PeerName,
) -> Result<WhyView, ApiError> {
    let view = status::peer(facts, snapshot, name)
        .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the peer is gone again"))?;
    let state = status::connection(facts, snapshot, name);
    let handle = facts.handles.get(name);
    let Some(link) = handle.and_then(|handle| snapshot.peers.get(handle)?.link.as_ref()) else {
        return Ok(plain::why(facts, view, state));
    };
    // A path over UDP is looked for beside the relay or the TCP connection: what is in its way is told as if there were none.
    let detour = advice::is_detour(view.path.as_ref());
    let looked_for = match detour {
        true => PeerState::Connecting,
        false => state,
    };
    let told = obstacle::obstacle(facts, name, looked_for, link);
    let candidates = &snapshot.candidates;
    let case = Case::new(facts, candidates, (name, state), (link, view.path.as_ref()));
    let advice = advice_on(facts, &view, told.as_ref(), &case);
    let unreachable = case.unreachable;
    Ok(WhyView {
        peer: name.clone(),
        state: view.state,
        obstacle: told.as_ref().map(|told| told.obstacle.into()),
        plain: None,
        summary: match (over(name, view.path.as_ref()), &told, unreachable) {
            (Some(over), ..) => over,
            (None, Some(told), _) => told.sentence.clone(),
            (None, None, Some(_)) => format!("No direct path to {name}: {}.", case.clause()),
            (None, None, None) => summary(name, state, link),
        },
        path: view.path.clone(),
        refused: view.refused,
        mine: link.mine.as_ref().map(nat::mine),
        theirs: link.theirs.as_ref().map(nat::theirs),
        steps: link
            .steps
            .iter()
            .map(|report| StepView {
                // What was computed from the two NATs means nothing then.
                chance: unreachable.map_or(report.chance, |_| 0.0),
                expected_s: step(report).expected_s.filter(|_| unreachable.is_none()),
                ..step(report)
            })
            .collect(),
        failures: link.failures,
        retry_in_s: link.retry_in.map(|retry| retry.as_secs_f64()),
        budget: budget::budget(link.budget, link.mine.as_ref()),
        advice,
    })
}

/// What would help, the most likely first.
fn advice_on(
    facts: &Facts<'_>,
    view: &PeerView,
    told: Option<&Told>,
    case: &Case<'_>,
) -> Vec<String> {
    let (name, path) = (&view.name, view.path.as_ref());
    let first = told.and_then(|told| told.advice.clone());
    let mut advice: Vec<_> = first.into_iter().collect();
    // An obstacle comes with its own advice.
    if case.apart && path.is_none() && told.is_none() {
        advice.extend(obstacle::advice_on_dead_servers(facts, name));
    }
    advice.extend(case.advice());
    let over_tcp = path.is_some_and(|path| path.kind == PathKind::Tcp);
    if case.apart
        && !over_tcp
        && let Some(why) = facts.not_relayed(name)
    {
        let lift = match stored_direct_only(facts, name) {
            true => format!("punchctl up {name} --direct-only=false"),
            false => "[punch] direct_only and [relay] enabled in /etc/punch/punchd.toml, then: sudo systemctl restart punchd".to_owned(),
        };
        advice.push(format!(
            "Packets are {why}. A relay would carry them until there is a direct path: {lift}"
        ));
    } else {
        advice.extend(view.note.clone());
    }
    advice.extend(status::warnings(facts));
    advice
}

/// Whether the user has said of this peer that it is never relayed.
fn stored_direct_only(facts: &Facts<'_>, name: &PeerName) -> bool {
    let peer = facts.state.peers.get(name);
    peer.is_some_and(|peer| peer.direct_only)
}

/// What carries packets where no path over UDP does, and why, if something does.
fn over(name: &PeerName, path: Option<&PathView>) -> Option<String> {
    let path = path?;
    let because = &path.detour.as_ref()?.because;
    Some(match &path.via {
        Some(server) => format!("Packets to {name} are relayed by {server}, because {because}."),
        None => format!(
            "Packets to {name} go directly over TCP, with {}, because {because}. punchd goes on looking for a path over UDP.",
            path.remote
        ),
    })
}

fn step(report: &StepReport) -> StepView {
    let first = report.chance >= GOOD_CHANCE || report.outcome == Outcome::Found;
    let made = !matches!(report.outcome, Outcome::Unmeasured | Outcome::TooUnlikely);
    let attempt = SEARCH_PAUSE + report.typical.min(Duration::from_secs(30));
    StepView {
        step: step_view(report.kind).into(),
        chance: report.chance,
        typical_s: report.typical.as_secs_f64(),
        expected_s: (!first && made && report.chance > 0.0)
            .then(|| attempt.as_secs_f64() / report.chance),
        outcome: outcome(report.outcome).into(),
        mappings: report.mappings,
        packets: report.packets,
        peak_rate: report.peak_rate,
        refused_sockets: report.refused_sockets,
        took_s: report.took.as_secs_f64(),
    }
}

fn step_view(kind: StepKind) -> Step {
    match kind {
        StepKind::Checks => Step::Checks,
        StepKind::HoldAndProbe => Step::HoldAndProbe,
        StepKind::Meet => Step::Meet,
        StepKind::Birthday => Step::Birthday,
    }
}

fn outcome(outcome: Outcome) -> StepOutcome {
    match outcome {
        Outcome::Waiting => StepOutcome::Waiting,
        Outcome::Running => StepOutcome::Running,
        Outcome::Found => StepOutcome::Found,
        Outcome::NotNeeded => StepOutcome::NotNeeded,
        Outcome::Exhausted => StepOutcome::Exhausted,
        Outcome::OverBudget => StepOutcome::OverBudget,
        Outcome::NoSockets => StepOutcome::NoSockets,
        Outcome::NoPrediction => StepOutcome::NoPrediction,
        Outcome::Unmeasured => StepOutcome::Unmeasured,
        Outcome::TooUnlikely => StepOutcome::TooUnlikely,
        Outcome::PortsUsedUp => StepOutcome::PortsUsedUp,
        Outcome::Unwatched => StepOutcome::Unwatched,
    }
}

fn summary(name: &PeerName, state: PeerState, link: &LinkStatus) -> String {
    let found = link
        .steps
        .iter()
        .find(|step| step.outcome == Outcome::Found);
    match (state, found) {
        (PeerState::Connected, Some(step)) if step.kind != StepKind::Checks => format!(
            "The path to {name} is direct. It was found by {} in {:.1} s, with {} packets.",
            in_words(step.kind),
            step.took.as_secs_f64(),
            step.packets
        ),
        (PeerState::Connected, Some(_)) => {
            format!("The path to {name} is direct; ordinary checks have found it.")
        }
        (PeerState::Connected, None) => format!("The path to {name} is direct."),
        (PeerState::Down | PeerState::Refused, _) => {
            format!("Nobody has asked for a connection to {name}.")
        }
        (PeerState::Waiting, _) => {
            format!("This machine is connecting to its signalling server, to call {name}.")
        }
        (PeerState::Connecting, _) if link.theirs.is_none() && link.steps.is_empty() => {
            format!("{name} has not answered yet.")
        }
        (PeerState::Connecting, _) => match search(link) {
            Some(step) if step.outcome == Outcome::Unmeasured => format!(
                "No direct path to {name} so far: no search for ports is made before both NATs are measured."
            ),
            Some(step) if step.outcome == Outcome::TooUnlikely => format!(
                "No direct path to {name}: {} would find one in {} % of attempts with this budget, so it is not made.",
                in_words(step.kind),
                small(100.0 * step.chance)
            ),
            Some(step) if step.chance < GOOD_CHANCE => format!(
                "No direct path to {name} so far: {} finds one in {:.1} % of attempts with this budget.",
                in_words(step.kind),
                100.0 * step.chance
            ),
            _ => format!("No direct path to {name} so far; punchd is trying."),
        },
    }
}
