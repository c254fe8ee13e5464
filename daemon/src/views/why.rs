//! Why the path to a peer is as it is: both NATs, each step with its chance and its outcome, and what would help.

use std::net::SocketAddr;
use std::time::Duration;

use punch_api::{
    ApiError, ErrorCode, PathKind, PeerName, PeerState, Step, StepOutcome, StepView, WhyView,
};
use punch_engine::{Budget, LinkStatus, NatSummary, Outcome, StepKind, StepReport, is_hard};
use punch_signal_protocol::CandidateKind;

use super::facts::Facts;
use super::{budget, nat, obstacle, plain, reach, status};
use crate::snapshot::Snapshot;

/// From the end of a search that has spent the budget to the next one: its mappings must be gone, which takes 120 s at most
/// routers.
const SEARCH_PAUSE: Duration = Duration::from_secs(130);
/// With at least this chance, the first attempt is expected to succeed.
const GOOD_CHANCE: f64 = 0.9;

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
    let relay = view.path.as_ref().and_then(|path| path.via.clone());
    let handle = facts.handles.get(name);
    let Some(link) = handle.and_then(|handle| snapshot.peers.get(handle)?.link.as_ref()) else {
        return Ok(plain::why(facts, view, state));
    };
    let over_tcp = view.path.as_ref().filter(|path| path.kind == PathKind::Tcp);
    let over_tcp = over_tcp.map(|path| path.remote);
    // A path over UDP is looked for beside the relay or the TCP connection: what is in its way is told as if there were none.
    let state = match (&relay, over_tcp) {
        (None, None) => state,
        _ => PeerState::Connecting,
    };
    let told = obstacle::obstacle(facts, name, state, link);
    let mapped = snapshot.candidates.iter().any(|candidate| {
        candidate.kind == CandidateKind::PortMapped && candidate.address.is_ipv4()
    });
    let apart = matches!(state, PeerState::Waiting | PeerState::Connecting);
    let unreachable = reach::obstacle(&snapshot.candidates, link).filter(|_| apart);
    let first = told.as_ref().and_then(|told| told.advice.clone());
    let mut advice: Vec<_> = first
        .into_iter()
        .chain(advice(name, state, link, mapped))
        .collect();
    if apart
        && over_tcp.is_none()
        && let Some(why) = status::not_relayed(facts, name)
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
    Ok(WhyView {
        peer: name.clone(),
        state: view.state,
        path: view.path,
        refused: view.refused,
        obstacle: told.as_ref().map(|told| told.obstacle.into()),
        plain: None,
        summary: {
            let direct = match (&told, unreachable) {
                (Some(told), _) => told.sentence.clone(),
                (None, Some(why)) => format!("No direct path to {name}: {}", why.reason()),
                (None, None) => summary(name, state, link),
            };
            over(name, relay, over_tcp, direct)
        },
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

/// Whether the user has said of this peer that it is never relayed.
fn stored_direct_only(facts: &Facts<'_>, name: &PeerName) -> bool {
    let peer = facts.state.peers.get(name);
    peer.is_some_and(|peer| peer.direct_only)
}

/// What carries packets where no path over UDP does, before what is said of that.
fn over(name: &PeerName, relay: Option<String>, tcp: Option<SocketAddr>, direct: String) -> String {
    match (relay, tcp) {
        (Some(server), _) => format!("Packets to {name} are relayed by {server}. {direct}"),
        (None, Some(remote)) => format!(
            "Packets to {name} go directly over TCP, with {remote}: no path over UDP has been found. punchd goes on looking for one."
        ),
        (None, None) => direct,
    }
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
                "No direct path to {name} so far: a search for ports waits until both NATs are measured."
            ),
            Some(step) if step.outcome == Outcome::TooUnlikely => format!(
                "No direct path to {name}: {} would find one in {:.2} % of attempts with this budget, so it is not made.",
                in_words(step.kind),
                100.0 * step.chance
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

pub(super) fn in_words(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Checks => "ordinary checks",
        StepKind::HoldAndProbe => "holding ports open on the hard side and probing from the other",
        StepKind::Meet => "meeting at predicted ports",
        StepKind::Birthday => "a birthday search over random ports",
    }
}

/// What the user could do to get a path.
fn advice(name: &PeerName, state: PeerState, link: &LinkStatus, mapped: bool) -> Vec<String> {
    let mut advice = advice_on_servers(link);
    if matches!(state, PeerState::Waiting | PeerState::Connecting) {
        advice.extend(advice_on_nats(link, mapped));
        advice.extend(advice_on_budgets(name, link));
        advice.extend(advice_on_search(name, link));
        if link.theirs.is_none() && !link.steps.is_empty() {
            advice.push(format!(
                "{name} has told nothing of its NAT: it has no STUN server that answers, has not measured yet, or runs an older version."
            ));
        }
    }
    advice
}

fn advice_on_servers(link: &LinkStatus) -> Vec<String> {
    let mut advice = Vec::new();
    let mine = link.mine.as_ref();
    if mine.is_none_or(|mine| mine.mapping.is_none()) {
        advice.push(
            "Add a STUN server with two addresses, so that the NAT here can be measured: punchctl server add stun HOST"
                .to_owned(),
        );
    }
    if mine.is_some_and(|mine| mine.search.used_up) {
        advice.push(
            "The NAT's ports are used up here: it gives out no new ones. The netcheck is repeated when some are free again."
                .to_owned(),
        );
    }
    if mine.is_some_and(|mine| mine.udp_blocked) {
        advice.push(
            "No STUN server answers: the network here may block UDP. Allow outgoing UDP."
                .to_owned(),
        );
    }
    advice
}

/// What makes a search needless where both NATs are hard.
fn advice_on_nats(link: &LinkStatus, mapped: bool) -> Vec<String> {
    let mut advice = Vec::new();
    let mine = link.mine.as_ref();
    let mine_hard = mine.is_some_and(|mine| is_hard(&mine.summary(link.budget, 0)));
    let theirs_hard = link.theirs.as_ref().is_some_and(is_hard);
    if mine_hard && theirs_hard {
        if !mapped {
            advice.push(
                "Switch on UPnP, NAT-PMP or PCP on one of the two routers: with a mapped port, ordinary checks are enough."
                    .to_owned(),
            );
        }
        advice.push("With IPv6 at both ends no search is needed.".to_owned());
    }
    advice
}

fn advice_on_budgets(name: &PeerName, link: &LinkStatus) -> Vec<String> {
    let mut advice = Vec::new();
    if !search(link).is_some_and(|step| step.chance < GOOD_CHANCE) {
        return advice;
    }
    let known = link.mine.as_ref().and_then(|mine| {
        let allowed = |budget| mine.allowed(budget);
        Some((
            mine.capacity()?,
            allowed(link.budget),
            allowed(Budget::Aggressive),
        ))
    });
    advice.extend(larger_budget(link.budget, known));
    let theirs = link.theirs.as_ref().map(|nat| nat.budget);
    if let Some(theirs) = theirs.filter(|theirs| *theirs < link.budget) {
        advice.push(format!(
            "{name} has the smaller budget (\"{theirs}\"); both count."
        ));
    }
    advice
}

/// Advises the budget aggressive, if there is more in it. `known` is how many mappings there are, and how many of them a search may
/// hold with `budget` and with aggressive.
fn larger_budget(budget: Budget, known: Option<(u32, u32, u32)>) -> Option<String> {
    let is_larger = known.is_none_or(|(_, now, aggressive)| now < aggressive);
    let makes = match known {
        Some((all, _, aggressive)) => {
            format!("It holds up to {aggressive} of the {all} mappings that the NAT here has.")
        }
        None => "It makes up to 131,072 mappings, which cheap routers may not carry.".to_owned(),
    };
    (budget < Budget::Aggressive && is_larger).then(|| format!(
        "A larger budget raises the chance: [punch] budget = \"aggressive\" in /etc/punch/punchd.toml (now \"{budget}\") at both ends, then: sudo systemctl restart punchd. {makes}"
    ))
}

/// Tells of a search that has come to the end of the ports; `learned` tells whether it is known since how many there are.
fn ports_used_up(learned: bool) -> String {
    let next = if learned {
        " Next time it stays below what was held then."
    } else {
        ""
    };
    format!(
        "The NAT's ports are used up: new flows got no answer while old ones did, so the search has stopped.{next}"
    )
}

/// What it takes before a search is made.
fn advice_on_withheld(name: &PeerName, link: &LinkStatus, step: &StepReport) -> Option<String> {
    let known =
        |nat: &NatSummary| nat.mapping.is_some() && (nat.allocation.is_some() || !is_hard(nat));
    match step.outcome {
        Outcome::Unmeasured => {
            let mine = link.mine.as_ref();
            let measuring = mine.is_some_and(|mine| mine.search.measuring);
            let here = mine.is_some_and(|mine| known(&mine.summary(link.budget, 0)));
            Some(if measuring {
                "The netcheck here is still under way; a new attempt is made as soon as it is finished.".to_owned()
            } else if here {
                format!("The NAT of {name} is not known well enough to search for its ports: its netcheck must finish, with a STUN server that has two addresses and many ports (punch-stun).")
            } else {
                "The NAT here is not known well enough to search for ports: too few samples. It takes a STUN server with two addresses and many ports (punch-stun), or [nat] in punchd.toml.".to_owned()
            })
        }
        Outcome::TooUnlikely => Some(format!(
            "No search is made below a chance of 5 %: with {:.2} % it would take ports from everybody else behind the NATs for nothing.",
            100.0 * step.chance
        )),
        Outcome::PortsUsedUp => {
            let mine = link.mine.as_ref();
            Some(ports_used_up(mine.is_some_and(|mine| mine.search.capacity.is_some())))
        }
        Outcome::Unwatched => Some(
            "No STUN server answered during the search, so nobody could have seen whether it harms others behind the NAT; it has stopped."
                .to_owned(),
        ),
        _ => None,
    }
}

/// What has kept the search from its full chance.
fn advice_on_search(name: &PeerName, link: &LinkStatus) -> Vec<String> {
    let mut advice = Vec::new();
    let Some(step) = search(link) else {
        return advice;
    };
    advice.extend(advice_on_withheld(name, link, step));
    if step.outcome == Outcome::NoPrediction {
        advice.push(
            "The ports could not be predicted: a STUN server did not answer in time, here or there."
                .to_owned(),
        );
    }
    if step.refused_sockets > 0 {
        let effect = if step.outcome == Outcome::NoSockets {
            "it could not begin"
        } else {
            "its chance was smaller than computed"
        };
        advice.push(format!(
            "{} sockets of the search could not be opened, {effect}: raise the limit of open files for punchd.",
            step.refused_sockets
        ));
    }
    if step.outcome == Outcome::OverBudget {
        advice.push(
            "The next search waits: mappings of earlier ones may still be alive at the router, or the last one for this peer has only just ended."
                .to_owned(),
        );
    }
    advice
}

/// The search of the attempt: the step after the ordinary checks.
fn search(link: &LinkStatus) -> Option<&StepReport> {
    link.steps.iter().find(|step| step.kind != StepKind::Checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_budget_is_advised_only_where_it_may_hold_more_and_says_how_many() {
        let says = |budget, known| larger_budget(budget, known).unwrap_or_default();
        assert!(says(Budget::Normal, None).contains("up to 131,072 mappings"));
        let text = says(Budget::Normal, Some((400, 300, 336)));
        assert!(text.contains("up to 336 of the 400 mappings"), "{text}");
        assert!(text.contains("(now \"normal\")"), "{text}");
        assert_eq!(says(Budget::Normal, Some((100, 75, 75))), "");
        assert_eq!(says(Budget::Aggressive, None), "");
    }

    #[test]
    fn what_was_held_is_named_only_if_it_was_learned() {
        assert!(
            ports_used_up(true)
                .ends_with("has stopped. Next time it stays below what was held then.")
        );
        assert!(ports_used_up(false).ends_with("so the search has stopped."));
    }
}
