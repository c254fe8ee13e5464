//! Sockets, targets and leave that do not come.

use super::*;

#[test]
fn with_fewer_sockets_than_it_asked_for_a_search_makes_do() {
    for (name, config, kind) in every_search(Budget::Normal) {
        let mut machine = Machine::new(config);
        // One for the canary, and one for the search.
        machine.can_open = 2;

        machine.run(secs(60));

        let report = machine.report();
        assert_eq!(
            (report.kind, report.outcome),
            (kind, Outcome::Exhausted),
            "{name}"
        );
        assert!(report.packets > 0, "{name}");
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
        assert!(machine.is_clean(), "{name}");
    }
}

#[test]
fn without_any_socket_a_search_that_needs_some_says_so() {
    for (name, config, _) in every_search(Budget::Normal) {
        let mut machine = Machine::new(config);
        machine.can_open = 0;

        machine.run(secs(60));

        let report = machine.report();
        if name.starts_with("probes") {
            assert_eq!(report.outcome, Outcome::Unwatched, "{name}");
        } else {
            assert_eq!(report.outcome, Outcome::NoSockets, "{name}");
            assert!(report.refused_sockets > 0, "{name}");
            assert_eq!((report.packets, report.mappings), (0, 0), "{name}");
        }
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
    }
}

#[test]
fn a_search_whose_sockets_never_come_ends_all_the_same() {
    let mut machine = Machine::between(
        hard(block(1024), Budget::Normal),
        hard(block(1024), Budget::Normal),
    );
    machine.may_search = false;
    machine.run(secs(1));
    let now = machine.now;
    machine.agent.start_search(4096, now);
    while machine.agent.poll_event().is_some() {}

    machine.run(secs(60));

    assert_eq!(machine.report().outcome, Outcome::Exhausted);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    // One that comes at last is closed at once.
    machine.opened.insert(SocketId(99));
    let now = machine.now;
    machine.agent.handle_socket(Some(SocketId(99)), now);
    machine.run(ms(1));
    assert_eq!(machine.closed, [SocketId(99)]);
}

#[test]
fn where_a_search_fails_before_it_begins_the_agent_still_says_that_it_failed() {
    // The ordinary checks are over when the machine's budget lets the search begin, and then there are no sockets.
    let mut machine = Machine::between(
        hard(block(1024), Budget::Normal),
        hard(block(1024), Budget::Normal),
    );
    machine.may_search = false;
    machine.run(secs(60));
    assert_eq!(machine.count(&AgentEvent::Failed), 0, "it still waits");

    machine.may_search = true;
    machine.can_open = 0;
    machine.run(secs(60));

    assert_eq!(machine.report().outcome, Outcome::NoSockets);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn a_search_that_is_refused_leads_to_failure() {
    for (name, config, _) in every_search(Budget::Normal) {
        let mut machine = Machine::new(config);
        machine.may_search = false;
        machine.run(ms(500));
        assert!(machine.agent.wants_search(machine.now), "{name}");

        let now = machine.now;
        machine.agent.refuse_search(now);
        machine.may_search = true;
        machine.run(secs(60));

        assert!(was_refused(&machine.agent), "{name}");
        assert_eq!(machine.report().outcome, Outcome::OverBudget, "{name}");
        assert_eq!(machine.searched().len(), 0, "{name}");
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
        assert!(!machine.agent.has_search() && machine.is_clean(), "{name}");
    }
}

#[test]
fn a_search_that_is_refused_when_all_checks_are_over_leads_to_failure() {
    let mut machine = Machine::between(
        hard(block(1024), Budget::Normal),
        hard(block(1024), Budget::Normal),
    );
    machine.may_search = false;
    machine.run(secs(60));

    let now = machine.now;
    machine.agent.refuse_search(now);
    machine.run(secs(60));

    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn a_search_for_which_the_peer_has_named_no_target_does_not_keep_the_agent_from_failing() {
    let nowhere = NatSummary {
        addresses: Vec::new(),
        ..easy(Budget::Normal)
    };
    let mut config = ends(hard(FULL, Budget::Normal), nowhere, Role::Controlling);
    config.candidates = vec![host("192.168.7.7:4000")];
    let mut machine = Machine::new(config);

    machine.run(secs(120));

    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn a_target_that_is_named_later_lets_the_search_begin() {
    let nowhere = NatSummary {
        addresses: Vec::new(),
        ..easy(Budget::Normal)
    };
    let mut config = ends(hard(FULL, Budget::Normal), nowhere, Role::Controlling);
    config.candidates = vec![host("192.168.7.7:4000")];
    let mut machine = Machine::new(config);
    machine.run(secs(2));
    assert_eq!(machine.report().outcome, Outcome::Waiting);

    let now = machine.now;
    machine.agent.handle_candidates(vec![reflexive(PEER)], now);
    machine.run(secs(1));

    assert_eq!(machine.report().outcome, Outcome::Running);
    assert!(machine.searched().len() >= 240);
}
