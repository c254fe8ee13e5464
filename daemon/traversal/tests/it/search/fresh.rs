//! A fresh socket for another attempt.

use super::*;

#[test]
fn another_attempt_checks_public_addresses_from_a_fresh_socket_and_tells_its_own() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);

    machine.run(secs(60));

    for (_, transmit) in &machine.sent {
        let local = transmit.to == addr("192.168.7.7:4000");
        assert_eq!(transmit.socket == SocketId::MAIN_V4, local, "{transmit:?}");
    }
    let probes = machine.sent.iter().filter(|(_, t)| t.to == addr(PEER));
    assert_eq!(probes.count(), MAX_PROBES as usize);
    let told = AgentEvent::Reflexive(addr("192.0.2.5:50000"));
    assert_eq!(machine.count(&told), 1);
    assert_eq!(machine.count(&AgentEvent::OpenSockets(1)), 1);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    assert!(machine.is_clean());
}

#[test]
fn nothing_goes_to_a_public_address_before_the_fresh_socket_is_there() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);
    machine.can_open = 0;
    while machine.agent.poll_event().is_some() {}
    machine.run(secs(5));
    assert!(machine.sent.iter().all(|(_, t)| t.to != addr(PEER)));
    assert_eq!(machine.count(&AgentEvent::Failed), 0, "it still waits");

    // It cannot be opened: the long-lived one must do.
    let now = machine.now;
    machine.agent.handle_socket(None, now);
    machine.run(secs(60));

    let probes = machine.sent.iter().filter(|(_, t)| t.to == addr(PEER));
    assert!(probes.clone().all(|(_, t)| t.socket == SocketId::MAIN_V4));
    assert_eq!(probes.count(), MAX_PROBES as usize);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn where_no_server_tells_the_fresh_socket_s_address_it_is_used_all_the_same() {
    let mut machine = again(vec![reflexive(PEER)]);
    machine.server = false;
    machine.answers_at = None;
    machine.run(secs(3));
    machine.answers_at = Some((Some(SocketId(10)), addr(PEER)));
    machine.run(secs(10));

    assert_eq!(machine.agent.path().unwrap().socket, SocketId(10));
    let tells = |(_, event): &&(Duration, AgentEvent)| matches!(event, AgentEvent::Reflexive(_));
    assert_eq!(machine.events.iter().filter(tells).count(), 0);
    let asked = machine.sent.iter().filter(|(_, t)| t.to == addr(SAMPLER));
    assert_eq!(asked.count(), 3);
}

#[test]
fn a_probing_search_of_another_attempt_leaves_from_the_fresh_socket() {
    for server in [true, false] {
        let mine = NatSummary {
            attempt: 2,
            ..easy(Budget::Normal)
        };
        let mut machine = Machine::between(mine, hard(FULL, Budget::Normal));
        machine.server = server;
        machine.run(secs(60));
        let searched = machine.searched();
        let to_peer = searched.iter().filter(|(_, t)| t.to != addr(SAMPLER));
        assert!(to_peer.clone().all(|(_, t)| t.socket == SocketId(10)));
        // Without a server nobody can see whether a search harms others.
        let least = if server { 1000 } else { 0 };
        let count = to_peer.count();
        assert!(count > least || (!server && count == 0), "{count}");
        assert!(machine.is_clean());
    }
}

#[test]
fn behind_a_hard_nat_or_without_servers_another_attempt_needs_no_fresh_socket() {
    let attempt = |nat| NatSummary { attempt: 1, ..nat };
    let hard = attempt(hard(FULL, Budget::Normal));
    let machine = Machine::between(hard, easy(Budget::Normal));
    assert_eq!(machine.events, []);
    let mut config = ends(
        attempt(easy(Budget::Normal)),
        easy(Budget::Normal),
        Role::Controlling,
    );
    config.samplers = Vec::new();
    let mut machine = Machine::new(config);
    machine.run(secs(1));
    assert!(machine.opened.is_empty() && !machine.sent.is_empty());
}

#[test]
fn a_fresh_socket_that_comes_when_a_path_is_there_does_not_stay_for_ever() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);
    machine.answers_at = Some((None, addr("192.168.7.7:4000")));
    while machine.agent.poll_event().is_some() {}
    machine.run(secs(2));
    assert_eq!(machine.agent.path().unwrap().socket, SocketId::MAIN_V4);

    machine.opened.insert(SocketId(10));
    let now = machine.now;
    machine.agent.handle_socket(Some(SocketId(10)), now);
    machine.run(secs(60));

    assert_eq!(machine.closed, [SocketId(10)]);
}

#[test]
fn after_a_failure_nothing_leaves_from_the_closed_fresh_socket() {
    let mut machine = again(vec![reflexive(PEER)]);
    machine.run(secs(60));
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    assert!(machine.is_clean());

    let now = machine.now;
    let more = vec![reflexive("203.0.113.10:5000")];
    machine.agent.handle_candidates(more, now);

    // The machine's own check tells when a packet leaves from a closed socket.
    machine.run(secs(60));
}

#[test]
fn after_a_path_on_another_socket_nothing_leaves_from_the_closed_fresh_socket() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);
    machine.answers_at = Some((None, addr("192.168.7.7:4000")));
    machine.run(secs(5));
    assert!(machine.is_clean() && machine.opened.len() == 1);

    let now = machine.now;
    let more = vec![reflexive("203.0.113.10:5000")];
    machine.agent.handle_candidates(more, now);

    machine.run(secs(60));
}
