use std::time::Duration;

use punch_engine::{AgentStatus, Contact, Family, LinkState, Mapping, NatProfile, PairStatus};

use super::*;

fn name() -> PeerName {
    "db".parse().unwrap()
}

fn profile(mapping: Option<Mapping>) -> NatProfile {
    let mut profile = NatProfile::unmeasured(Family::V4);
    profile.search.measuring = false;
    profile.mapping = mapping;
    profile
}

fn step(kind: StepKind, chance: f64, outcome: Outcome) -> StepReport {
    StepReport {
        kind,
        chance,
        typical: Duration::from_secs(1),
        outcome,
        mappings: 1,
        packets: 1,
        peak_rate: 0,
        refused_sockets: 0,
        took: Duration::from_secs(1),
    }
}

/// A connection whose checks are under way, to a peer at this address; it tells what the profile says.
fn link(mine: NatProfile, theirs: &NatProfile, at: &str) -> LinkStatus {
    let pair = PairStatus {
        remote: format!("{at}:7000").parse().unwrap(),
        kind: CandidateKind::Host,
        last_resort: false,
        valid: false,
        rtt: None,
    };
    let steps = vec![step(StepKind::Checks, 0.5, Outcome::Running)];
    let theirs = theirs.summary(Budget::Normal, 0);
    LinkStatus {
        state: LinkState::Connected,
        refused: None,
        contact: Contact::Answered,
        agent: Some(AgentStatus {
            selected: None,
            pairs: vec![pair],
            steps: steps.clone(),
            theirs: Some(theirs.clone()),
        }),
        round_trip: None,
        loss: None,
        peer_range: None,
        mine: Some(mine),
        theirs: Some(theirs),
        steps,
        failures: 0,
        retry_in: Some(Duration::from_secs(12)),
        budget: Budget::Normal,
        met_over: None,
    }
}

fn relayed(reason: PathReason) -> PathView {
    PathView {
        nat64: None,
        remote: "198.51.100.1:443".parse().unwrap(),
        kind: PathKind::Relayed.into(),
        rtt_ms: None,
        via: Some("wss://a:443/".to_owned()),
        mtu: None,
        loss: None,
        since_ms: None,
        reason: Some(reason.into()),
        because: None,
        met_over: None,
        detour: None,
    }
}

/// What is said of a peer that is relayed, for this reason, by a machine with this address: the cause, and what would help.
fn says_for(link: &LinkStatus, reason: PathReason) -> (String, String) {
    let own = Candidate::new(CandidateKind::Host, ([10, 1, 1, 2], 7000).into());
    let (name, path) = (name(), relayed(reason));
    let case = case(&name, link, Some(&path), own);
    (case.clause(), case.advice().join("\n"))
}

/// The case of a machine with this address.
fn case<'a>(
    name: &'a PeerName,
    link: &'a LinkStatus,
    path: Option<&'a PathView>,
    own: Candidate,
) -> Case<'a> {
    Case {
        name,
        link,
        path,
        apart: true,
        unreachable: reach::obstacle(&[own], link),
        mapped: false,
        tcp: true,
        relays: true,
        untranslated: false,
    }
}

fn says(link: &LinkStatus) -> (String, String) {
    says_for(link, PathReason::First)
}

const EASY: Option<Mapping> = Some(Mapping::EndpointIndependent);
const HARD: Option<Mapping> = Some(Mapping::AddressAndPortDependent);

fn blocked() -> NatProfile {
    let mut profile = profile(None);
    profile.udp_blocked = true;
    profile
}

fn easy() -> NatProfile {
    let mut profile = profile(EASY);
    profile.addresses = vec!["203.0.113.9".parse().unwrap()];
    profile
}

#[test]
fn where_udp_is_blocked_that_is_said_and_nothing_that_would_not_help() {
    let (clause, advice) = says(&link(blocked(), &easy(), "203.0.113.9"));
    assert!(clause.contains("in the network here"), "{clause}");
    assert!(
        advice.starts_with("Let UDP out of the network here"),
        "{advice}"
    );
    assert!(advice.contains("forward the TCP port"), "{advice}");

    let (clause, advice) = says(&link(blocked(), &blocked(), "203.0.113.9"));
    assert!(clause.contains("pass here, nor at db"), "{clause}");
    assert!(advice.contains("At db, let UDP out"), "{advice}");

    // Of the other end it is known only once checks were in vain.
    let mut there = link(easy(), &blocked(), "203.0.113.9");
    let (clause, advice) = says(&there);
    assert_eq!(clause, "a direct path is still being looked for");
    assert_eq!(advice, "");
    there.failures = 1;
    let (clause, advice) = says(&there);
    assert!(clause.contains("no UDP seems to pass at db"), "{clause}");
    assert!(advice.starts_with("At db, let UDP out"), "{advice}");
    assert_eq!(advice.lines().count(), 2, "{advice}");

    for link in [link(blocked(), &easy(), "203.0.113.9"), there] {
        let (_, advice) = says(&link);
        for part in ["two addresses", "budget", "UPnP", "IPv6 at both ends"] {
            assert!(!advice.contains(part), "{part}: {advice}");
        }
    }
}

#[test]
fn in_one_network_checks_may_pass_although_no_server_answers() {
    let mut near = link(blocked(), &easy(), "10.1.1.3");
    let (clause, _) = says(&near);
    assert_eq!(clause, "a direct path is still being looked for");
    near.failures = 1;
    let (clause, _) = says(&near);
    assert!(clause.contains("no UDP seems to pass"), "{clause}");
}

#[test]
fn a_server_with_two_addresses_is_advised_where_one_could_tell_more() {
    let advised = |mine: NatProfile| {
        let (_, advice) = says(&link(mine, &easy(), "203.0.113.9"));
        advice.contains("two addresses")
    };
    assert!(advised(profile(None)));
    assert!(!advised(profile(EASY)));
    assert!(!advised(blocked()));
    let mut mine = profile(None);
    mine.search.measuring = true;
    assert!(!advised(mine.clone()), "the run may still tell");
    mine.search.measuring = false;
    mine.search.used_up = true;
    assert!(!advised(mine), "it would get no answer either");
}

#[test]
fn a_larger_budget_is_not_advised_where_it_is_not_the_budget_that_is_missing() {
    let hard = profile(HARD);
    let mut link = link(hard.clone(), &hard, "203.0.113.9");
    for (outcome, advised) in [
        (Outcome::Unmeasured, false),
        (Outcome::TooUnlikely, true),
        (Outcome::Exhausted, true),
    ] {
        link.steps.truncate(1);
        link.steps.push(step(StepKind::Birthday, 0.0, outcome));
        let (_, advice) = says(&link);
        let is_advised = advice.contains("A larger budget raises the chance");
        assert_eq!(is_advised, advised, "{outcome:?}: {advice}");
    }
}

#[test]
fn each_state_of_a_search_is_told_as_the_cause() {
    let hard = profile(HARD);
    let mut link = link(hard.clone(), &hard, "203.0.113.9");
    for (outcome, part) in [
        (Outcome::Waiting, "is about to begin"),
        (Outcome::Running, "is under way (chance 40.0 %)"),
        (
            Outcome::Exhausted,
            "found none (chance 40.0 %); the next attempt begins in 12 s",
        ),
        (Outcome::OverBudget, "waits for the budget"),
        (Outcome::NoSockets, "no socket"),
        (Outcome::NoPrediction, "could not be predicted"),
        (Outcome::Unmeasured, "before both NATs are measured"),
        (Outcome::TooUnlikely, "in 40.00 % of attempts"),
        (Outcome::PortsUsedUp, "ports are used up"),
        (Outcome::Unwatched, "no STUN server answered"),
    ] {
        link.steps.truncate(1);
        link.steps.push(step(StepKind::Birthday, 0.4, outcome));
        let (clause, _) = says(&link);
        assert!(clause.starts_with("both NATs are hard"), "{clause}");
        assert!(clause.contains(part), "{part}: {clause}");
    }
}

#[test]
fn a_path_that_was_lost_is_told_and_checks_in_vain_are() {
    let mut link = link(easy(), &easy(), "203.0.113.9");
    let (clause, _) = says_for(&link, PathReason::Silent);
    assert_eq!(
        clause,
        "the direct path before did not answer any more, and one is looked for"
    );
    link.failures = 1;
    let (clause, advice) = says(&link);
    assert!(clause.contains("were in vain"), "{clause}");
    assert!(advice.contains("a firewall here or at db"), "{advice}");
    let (clause, _) = says_for(&link, PathReason::Silent);
    assert!(
        clause.starts_with("the direct path before") && clause.contains("in vain since"),
        "{clause}"
    );
}

#[test]
fn where_nothing_carries_packets_and_an_attempt_was_in_vain_a_peer_is_advised_as_relay() {
    let own = || Candidate::new(CandidateKind::Host, ([10, 1, 1, 2], 7000).into());
    let (name, path) = (name(), relayed(PathReason::First));
    let mut link = link(easy(), &easy(), "203.0.113.9");
    let advised = |case: &Case<'_>| case.advice().join("\n").contains("allow NAME --relay");
    assert!(!advised(&case(&name, &link, None, own())), "it may succeed");
    link.failures = 1;
    let mut alone = case(&name, &link, None, own());
    assert!(advised(&alone));
    alone.relays = false;
    assert!(!advised(&alone), "the user has forbidden it");
    assert!(!advised(&case(&name, &link, Some(&path), own())));
}

#[test]
fn a_translator_that_a_setting_forbids_is_named_as_the_cause() {
    let own = || {
        let ip = "2001:db8::2".parse().map(|ip: std::net::IpAddr| (ip, 7000));
        Candidate::new(CandidateKind::Host, ip.unwrap().into())
    };
    assert!(are_all_ipv6(&[own()]));
    assert!(!are_all_ipv6(&[]));
    let (name, mut link) = (name(), link(easy(), &easy(), "203.0.113.9"));
    link.failures = 1;
    let mut case = case(&name, &link, None, own());
    assert!(case.clause().ends_with("reach each other"));
    assert!(!case.advice().join("\n").contains("nat64"));
    case.untranslated = true;
    assert!(case.clause().contains("[underlay] nat64 = \"off\""));
    let advice = case.advice();
    assert!(advice[0].contains("nat64 = \"auto\""), "{advice:?}");
}

#[test]
fn a_chance_that_is_next_to_none_is_not_told_as_zero() {
    assert_eq!(small(0.0001), "less than 0.01");
    assert_eq!(small(0.4), "0.40");
}

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
        ports_used_up(true).ends_with("has stopped. Next time it stays below what was held then.")
    );
    assert!(ports_used_up(false).ends_with("so the search has stopped."));
}
