//! What is found beside a search.

use super::*;

#[test]
fn where_a_search_is_refused_or_cannot_begin_the_checks_still_have_their_time() {
    for refuse in [true, false] {
        let mut config = ends(
            hard(block(1024), Budget::Normal),
            hard(block(1024), Budget::Normal),
            Role::Controlling,
        );
        config.candidates.push(host("192.168.7.7:4000"));
        let mut machine = Machine::new(config);
        machine.can_open = 0;
        machine.may_search = !refuse;
        machine.run(ms(100));
        if refuse {
            let now = machine.now;
            machine.agent.refuse_search(now);
        }
        machine.run(ms(100));
        assert_eq!(machine.count(&AgentEvent::Failed), 0, "refused: {refuse}");

        // A path that takes a while to answer.
        machine.answers_at = Some((None, addr("192.168.7.7:4000")));
        machine.run(secs(5));
        assert!(machine.agent.path().is_some());
        assert_eq!(machine.count(&AgentEvent::Failed), 0);
    }
}

#[test]
fn a_candidate_that_comes_after_a_failed_search_has_its_time() {
    let mut machine = Machine::between(
        hard(block(1024), Budget::Normal),
        hard(block(1024), Budget::Normal),
    );
    machine.run(secs(60));
    assert_eq!(machine.count(&AgentEvent::Failed), 1);

    let now = machine.now;
    let late = vec![host("192.168.7.7:4000")];
    machine.agent.handle_candidates(late, now);
    machine.run(secs(1));

    assert_eq!(machine.count(&AgentEvent::Failed), 1, "it has only begun");
    machine.answers_at = Some((None, addr("192.168.7.7:4000")));
    machine.run(secs(3));
    assert!(machine.agent.path().is_some());
}

#[test]
fn a_path_that_a_search_finds_has_room_although_the_peer_has_named_very_many_addresses() {
    let target = addr("203.0.113.1:32800");
    let theirs = NatSummary {
        addresses: (1..=8).map(|n| [203, 0, 113, n].into()).collect(),
        ..hard(block(64), Budget::Normal)
    };
    let mut config = ends(hard(block(1024), Budget::Normal), theirs, Role::Controlling);
    config.candidates = (1..=28)
        .map(|n| host(&format!("192.168.7.{n}:4000")))
        .chain((1..=4).map(|n| reflexive(&format!("203.0.113.1:{n}"))))
        .collect();
    let mut machine = Machine::new(config);
    machine.answers_at = Some((Some(SocketId(11)), target));

    machine.run(secs(10));

    let path = machine.agent.path().map(|path| (path.socket, path.remote));
    assert_eq!(path, Some((SocketId(11), target)));
}

#[test]
fn a_lying_server_makes_no_candidate_and_no_prediction() {
    for lie in [
        "0.0.0.0:7",
        "127.0.0.1:7",
        "203.0.113.5:0",
        "[2001:db8::1]:7",
    ] {
        let mut machine = again(vec![reflexive(PEER)]);
        machine.tells = addr(lie);
        machine.run(secs(5));
        let told = AgentEvent::Reflexive(addr(lie));
        assert_eq!(machine.count(&told), 0, "{lie}");

        let mut machine = Machine::between(hard(sequence(1), Budget::Normal), easy(Budget::Normal));
        machine.tells = addr(lie);
        machine.run(secs(5));
        let predicted =
            |(_, event): &&(Duration, AgentEvent)| matches!(event, AgentEvent::Predicted(_));
        assert_eq!(machine.events.iter().filter(predicted).count(), 0, "{lie}");
    }
}

#[test]
fn a_search_that_is_started_twice_is_one_search() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), easy(Budget::Normal));
    machine.run(secs(1));
    let opened = machine.opened.len();
    assert!(!machine.agent.wants_search(machine.now));
    let now = machine.now;
    machine.agent.start_search(4096, now);
    machine.run(secs(1));
    let canaries = machine.opened.len() - opened;
    assert!(canaries < 10, "{canaries}");
}
