//! Why the path to a peer is as it is: both NATs, what was tried with which chance, what came of it, what would help.

use std::net::IpAddr;
use std::time::Duration;

use punch_api::{ApiError, BudgetView, ErrorCode, NatView, PeerName, PeerState, StepView, WhyView};
use punch_engine::{
    Budget, Caps, LinkStatus, NatProfile, NatSummary, Outcome, StepKind, StepReport, is_hard,
};
use punch_signal_protocol::CandidateKind;

use super::facts::Facts;
use super::nat::{allocation_view, describe, filtering_name, mapping_name};
use super::status;
use crate::snapshot::Snapshot;

/// A search that has spent the budget is repeated when its mappings are gone: 120 s after it, as far as is known.
const PAUSE: Duration = Duration::from_secs(130);
/// Below this chance, an attempt is not expected to succeed.
const GOOD: f64 = 0.9;

/// Tells why the path to a Punch peer is as it is.
///
/// # Errors
/// A plain WireGuard peer has a fixed endpoint, and nothing was tried.
pub(crate) fn why(
    facts: &Facts<'_>,
    snapshot: &Snapshot,
    name: &PeerName,
) -> Result<WhyView, ApiError> {
    let handle = facts.handles.get(name);
    let link = handle
        .and_then(|handle| snapshot.peers.get(handle)?.link.as_ref())
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::Invalid,
                format!("{name} is a plain WireGuard peer: packets go to its fixed endpoint"),
            )
        })?;
    let view = status::peer(facts, snapshot, name)
        .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the peer is gone again"))?;
    let mapped = snapshot.candidates.iter().any(|candidate| {
        candidate.kind == CandidateKind::PortMapped && candidate.address.is_ipv4()
    });
    Ok(WhyView {
        peer: name.clone(),
        state: view.state,
        path: view.path,
        summary: summary(name, view.state, link),
        mine: link.mine.as_ref().map(my_nat),
        theirs: link.theirs.as_ref().map(their_nat),
        steps: link.steps.iter().map(step).collect(),
        failures: link.failures,
        retry_in_s: link.retry_in.map(|retry| retry.as_secs_f64()),
        budget: budget(link.budget),
        advice: advice(name, view.state, link, mapped),
    })
}

fn budget(budget: Budget) -> BudgetView {
    let caps = Caps::of(budget);
    BudgetView {
        name: budget_name(budget).to_owned(),
        mappings: caps.mappings,
        packets_per_s: caps.rate,
        packets_per_address: caps.packets(),
        duration_s: caps.duration.as_secs(),
    }
}

fn budget_name(budget: Budget) -> &'static str {
    match budget {
        Budget::Gentle => "gentle",
        Budget::Normal => "normal",
        Budget::Aggressive => "aggressive",
    }
}

fn my_nat(profile: &NatProfile) -> NatView {
    NatView {
        summary: describe(profile.mapping, profile.filtering, profile.allocation),
        mapping: profile.mapping.map(mapping_name),
        filtering: profile.filtering.map(filtering_name),
        allocation: profile.allocation.map(allocation_view),
        addresses: profile.addresses.clone(),
    }
}

fn their_nat(nat: &NatSummary) -> NatView {
    NatView {
        summary: describe(nat.mapping, nat.filtering, nat.allocation),
        mapping: nat.mapping.map(mapping_name),
        filtering: nat.filtering.map(filtering_name),
        allocation: nat.allocation.map(allocation_view),
        addresses: nat.addresses.iter().map(|ip| IpAddr::V4(*ip)).collect(),
    }
}

fn step(report: &StepReport) -> StepView {
    let first = report.chance >= GOOD || report.outcome == Outcome::Found;
    let attempt = PAUSE + report.typical.min(Duration::from_secs(30));
    StepView {
        step: step_name(report.kind).to_owned(),
        chance: report.chance,
        typical_s: report.typical.as_secs_f64(),
        expected_s: (!first && report.chance > 0.0).then(|| attempt.as_secs_f64() / report.chance),
        outcome: match report.outcome {
            Outcome::Waiting => "waiting",
            Outcome::Running => "running",
            Outcome::Found => "found",
            Outcome::NotNeeded => "not_needed",
            Outcome::Exhausted => "exhausted",
            Outcome::OverBudget => "over_budget",
            Outcome::NoSockets => "no_sockets",
            Outcome::NoPrediction => "no_prediction",
        }
        .to_owned(),
        mappings: report.mappings,
        packets: report.packets,
        peak_rate: report.peak_rate,
        refused_sockets: report.refused_sockets,
        took_s: report.took.as_secs_f64(),
    }
}

fn step_name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Checks => "checks",
        StepKind::HoldAndProbe => "hold_and_probe",
        StepKind::Meet => "meet",
        StepKind::Birthday => "birthday",
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
        (PeerState::Down, _) => format!("Nobody has asked for a connection to {name}."),
        (PeerState::Waiting, _) => format!(
            "{name} is not on any signalling server that this machine reaches, so nothing can be tried."
        ),
        (PeerState::Connecting, _) if link.theirs.is_none() && link.steps.is_empty() => {
            format!("{name} has not answered yet.")
        }
        (PeerState::Connecting, _) => {
            let search = link.steps.iter().find(|step| step.kind != StepKind::Checks);
            match search {
                Some(step) if step.chance < GOOD => format!(
                    "No direct path to {name} so far: {} finds one in {:.1} % of attempts with this budget.",
                    in_words(step.kind),
                    100.0 * step.chance
                ),
                _ => format!("No direct path to {name} so far; it is being tried."),
            }
        }
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

/// What the user could do.
fn advice(name: &PeerName, state: PeerState, link: &LinkStatus, mapped: bool) -> Vec<String> {
    let mut advice = Vec::new();
    let mine = link.mine.as_ref();
    if mine.is_none_or(|mine| mine.mapping.is_none()) {
        advice.push(
            "Add a STUN server with two addresses, so that the NAT here can be measured: punchctl server add stun HOST"
                .to_owned(),
        );
    }
    if mine.is_some_and(|mine| mine.udp_blocked) {
        advice.push(
            "No STUN server answers: the network here may block UDP. Allow outgoing UDP."
                .to_owned(),
        );
    }
    if state == PeerState::Waiting {
        advice.push(format!(
            "Start punchd on {name}, and give both machines a signalling server in common."
        ));
    }
    if state == PeerState::Connected || state == PeerState::Down {
        return advice;
    }
    let mine_hard = mine.is_some_and(|mine| is_hard(&mine.summary(link.budget, 0)));
    let theirs_hard = link.theirs.as_ref().is_some_and(is_hard);
    let search = link.steps.iter().find(|step| step.kind != StepKind::Checks);
    if mine_hard && theirs_hard {
        if !mapped {
            advice.push(
                "Switch on UPnP, NAT-PMP or PCP on one of the two routers: with a mapped port, ordinary checks are enough."
                    .to_owned(),
            );
        }
        advice.push("IPv6 on both sides needs no port to be found.".to_owned());
    }
    let low = search.is_some_and(|step| step.chance < GOOD);
    let theirs_budget = link.theirs.as_ref().map(|nat| nat.budget);
    if low && link.budget < Budget::Aggressive {
        advice.push(format!(
            "A larger budget raises the chance: [punch] budget = \"aggressive\" in punchd.toml (now \"{}\"), on both sides. It makes up to 131,072 mappings, which cheap routers may not carry.",
            budget_name(link.budget)
        ));
    }
    if let Some(theirs) = theirs_budget
        && low
        && theirs < link.budget
    {
        advice.push(format!(
            "{name} has the smaller budget (\"{}\"); both count.",
            budget_name(theirs)
        ));
    }
    let unpredicted = search.is_some_and(|step| step.outcome == Outcome::NoPrediction);
    if unpredicted {
        advice.push(
            "The ports could not be predicted: a STUN server did not answer in time, here or there."
                .to_owned(),
        );
    }
    if let Some(step) = search.filter(|step| step.refused_sockets > 0) {
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
    if search.is_some_and(|step| step.outcome == Outcome::OverBudget) {
        advice.push(
            "The next search waits: mappings of earlier ones may still be alive at the router, or the last one for this peer was just now."
                .to_owned(),
        );
    }
    if link.theirs.is_none() && !link.steps.is_empty() {
        advice.push(format!(
            "{name} has told nothing of its NAT: it has no STUN server that answers, has not measured yet, or runs an older version."
        ));
    }
    advice
}
