//! A path is there: what ends, what stays, what is believed.

use super::*;

#[test]
fn a_search_that_finds_a_path_stops_at_once_and_keeps_only_the_path_s_socket() {
    let target = addr("203.0.113.9:32800");
    let theirs = hard(block(64), Budget::Normal);
    let mut machine = Machine::between(hard(block(1024), Budget::Normal), theirs);
    machine.answers_at = Some((Some(SocketId(12)), target));

    machine.run(secs(30));

    let path = machine.agent.path().unwrap();
    assert_eq!((path.socket, path.remote), (SocketId(12), target));
    assert_eq!(machine.report().outcome, Outcome::Found);
    let found = machine
        .events
        .iter()
        .find(|(_, event)| matches!(event, AgentEvent::Selected(_)))
        .unwrap()
        .0;
    assert!(machine.searched().iter().all(|(at, _)| *at <= found));
    let closes: Vec<_> = machine
        .events
        .iter()
        .filter(|(_, event)| {
            // Those of canaries close when they have served.
            let searched = |socket| {
                let mut sent = machine.sent.iter();
                sent.any(|(_, t)| t.socket == socket && t.to != addr(SAMPLER))
            };
            matches!(event, AgentEvent::CloseSocket(socket) if searched(*socket))
        })
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(closes.len(), 3);
    assert_eq!(machine.closed.len(), machine.opened.len() - 1);
    assert!(
        closes
            .iter()
            .all(|at| *at >= found + secs(1) && *at <= found + ms(1100))
    );
    assert!(!machine.closed.contains(&path.socket));
    assert_eq!(machine.agent.sockets().collect::<Vec<_>>(), [path.socket]);
    assert_eq!(machine.count(&AgentEvent::Failed), 0);
}

#[test]
fn a_path_that_the_peer_s_check_finds_ends_the_search_too() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), easy(Budget::Normal));
    machine.run(secs(2));
    assert!(is_searching(&machine.agent));
    let socket = SocketId(20);
    assert!(machine.opened.contains(&socket));

    machine.answers_at = Some((Some(socket), addr(PEER)));
    machine.ask(socket, addr(PEER));
    machine.run(secs(20));

    let path = machine.agent.path().unwrap();
    assert_eq!((path.socket, path.remote), (socket, addr(PEER)));
    assert_eq!(machine.report().outcome, Outcome::Found);
    assert!(!machine.closed.contains(&socket));
    assert_eq!(machine.closed.len(), machine.opened.len() - 1);
}

#[test]
fn when_a_path_of_a_search_dies_its_socket_closes() {
    let target = addr("203.0.113.9:32800");
    let theirs = hard(block(64), Budget::Normal);
    let mut machine = Machine::between(hard(block(1024), Budget::Normal), theirs);
    machine.answers_at = Some((Some(SocketId(12)), target));
    machine.run(secs(30));
    assert!(machine.agent.path().is_some());

    machine.answers_at = None;
    machine.run(secs(60));

    assert_eq!(machine.count(&AgentEvent::Lost), 1);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    assert!(machine.is_clean());
}

#[test]
fn where_checks_find_a_path_first_no_search_is_made() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), easy(Budget::Normal));
    machine.answers_at = Some((Some(SocketId::MAIN_V4), addr(PEER)));
    machine.may_search = false;
    machine.run(secs(5));

    assert_eq!(machine.agent.path().unwrap().socket, SocketId::MAIN_V4);
    assert_eq!(machine.report().outcome, Outcome::NotNeeded);
    assert!(!machine.agent.wants_search(machine.now) && !machine.agent.has_search());
    assert_eq!(machine.opened.len(), 0);
}

#[test]
fn a_socket_that_comes_after_the_path_was_found_is_closed_at_once() {
    let mut machine = Machine::between(
        hard(block(1024), Budget::Normal),
        hard(block(1024), Budget::Normal),
    );
    machine.may_search = false;
    machine.run(secs(1));
    let now = machine.now;
    machine.agent.start_search(4096, now);
    while machine.agent.poll_event().is_some() {}
    machine.answers_at = Some((None, addr(PEER)));
    machine.run(secs(3));
    assert!(machine.agent.path().is_some());

    machine.opened.insert(SocketId(50));
    let now = machine.now;
    machine.agent.handle_socket(Some(SocketId(50)), now);
    machine.run(ms(1));

    assert_eq!(machine.closed, [SocketId(50)]);
}

#[test]
fn what_a_search_hears_from_where_it_has_sent_nothing_or_without_a_password_is_not_believed() {
    let mut machine = Machine::between(
        hard(block(1024), Budget::Normal),
        hard(block(1024), Budget::Normal),
    );
    machine.run(secs(1));
    let mut searched = machine.searched();
    searched.retain(|(_, t)| t.to != addr(SAMPLER));
    let (_, probe) = (*searched.last().unwrap()).clone();
    let id = Message::parse(&probe.bytes).unwrap().transaction;
    let success = || Writer::new(Class::Success, id).xor_mapped(addr("192.0.2.5:1"));
    let good = success().finish_with_integrity(&credentials(2).password);
    let now = machine.now;
    for (socket, from, bytes) in [
        (probe.socket, probe.to, success().finish()),
        (
            probe.socket,
            probe.to,
            success().finish_with_integrity(&credentials(1).password),
        ),
        (probe.socket, addr("203.0.113.77:40000"), good.clone()),
        (SocketId(77), probe.to, good.clone()),
        (SocketId::MAIN_V4, probe.to, good.clone()),
    ] {
        let message = Message::parse(&bytes).unwrap();
        assert!(machine.agent.owns(&message));
        machine.agent.handle_response(socket, from, &message, now);
        assert_eq!(machine.agent.path(), None, "{socket:?} {from}");
    }
    let message = Message::parse(&good).unwrap();
    machine
        .agent
        .handle_response(probe.socket, probe.to, &message, now);
    assert_eq!(machine.agent.path().unwrap().remote, probe.to);
}

#[test]
fn what_worked_last_time_is_tried_at_once() {
    let begins = |remembered| {
        let mut config = ends(
            hard(FULL, Budget::Normal),
            easy(Budget::Normal),
            Role::Controlling,
        );
        config.remembered = remembered;
        Machine::new(config).agent.search_at().unwrap() - origin()
    };
    assert_eq!(begins(Some(StepKind::HoldAndProbe)), ms(0));
    assert!(begins(None) > ms(0));
    assert!(begins(Some(StepKind::Birthday)) > ms(0));
}

#[test]
fn the_same_seed_gives_the_same_search_and_another_one_another() {
    let run = |seed| {
        let mut config = ends(
            hard(block(512), Budget::Gentle),
            hard(block(512), Budget::Gentle),
            Role::Controlling,
        );
        config.seed = seed;
        let mut machine = Machine::new(config);
        machine.run(secs(3));
        machine.sent
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
