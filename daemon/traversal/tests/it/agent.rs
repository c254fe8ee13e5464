//! Finding a path, and what is not believed on the way.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Credentials, MAX_CANDIDATES};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use punch_traversal::{
    Agent, AgentConfig, AgentEvent, Allocation, DirectPath, Family, Filtering, MAX_PAIRS,
    MAX_PROBES, Mapping, NatSummary, Role, SocketId, Transmit, receiver_of,
};

use crate::network::{A, B, Network, Wire};
use crate::{addr, config, credentials, host, ms, origin, reflexive, secs};

const V4: SocketId = SocketId::MAIN_V4;
const PEER: &str = "192.0.2.9:4000";

/// An agent with credentials 1 whose peer has credentials 2.
fn alone(role: Role, candidates: Vec<Candidate>) -> Agent {
    let config = config(role, credentials(1), credentials(2), candidates, 7);
    Agent::new(config, origin())
}

fn name(receiver: &Credentials, sender: &Credentials) -> Vec<u8> {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    format!("{}:{}", hex(&receiver.fragment), hex(&sender.fragment)).into_bytes()
}

/// A check as the peer of [`alone`] sends it.
fn request(n: u8) -> Writer {
    Writer::new(Class::Request, TransactionId([n; 12]))
        .username(&name(&credentials(1), &credentials(2)))
        .priority(Candidate::new(CandidateKind::PeerReflexive, addr(PEER)).priority())
}

fn ask(agent: &mut Agent, from: SocketAddr, bytes: &[u8], now: Instant) {
    let message = Message::parse(bytes).unwrap();
    agent.handle_request(V4, Some("10.0.0.1".parse().unwrap()), from, &message, now);
}

fn answer(agent: &mut Agent, from: SocketAddr, bytes: &[u8], now: Instant) {
    agent.handle_response(V4, from, &Message::parse(bytes).unwrap(), now);
}

/// The peer's good answer to a check.
fn success(check: &Transmit) -> Vec<u8> {
    let request = Message::parse(&check.bytes).unwrap();
    Writer::new(Class::Success, request.transaction)
        .xor_mapped(addr("198.51.100.1:1"))
        .finish_with_integrity(&credentials(2).password)
}

fn transmits(agent: &mut Agent) -> Vec<Transmit> {
    std::iter::from_fn(|| agent.poll_transmit()).collect()
}

fn events(agent: &mut Agent) -> Vec<AgentEvent> {
    std::iter::from_fn(|| agent.poll_event()).collect()
}

/// Lets an agent that nobody answers work for two minutes; returns what it sent.
fn shout_into_the_void(agent: &mut Agent) -> Vec<Transmit> {
    let mut sent = transmits(agent);
    let end = origin() + secs(120);
    while let Some(at) = agent.poll_timeout().filter(|at| *at < end) {
        agent.handle_timeout(at);
        sent.extend(transmits(agent));
        assert!(sent.len() < 10_000);
    }
    sent
}

// --- two agents ---

#[test]
fn both_ends_find_a_path_and_select_the_same_one() {
    let wires = [
        Wire::new("192.168.1.1:1000", "192.168.1.2:2000", 1),
        Wire::new("198.51.100.1:1001", "203.0.113.1:2001", 20),
    ];
    let of_b = vec![host("192.168.1.2:2000"), reflexive("203.0.113.1:2001")];
    let of_a = vec![host("192.168.1.1:1000"), reflexive("198.51.100.1:1001")];
    let mut network = Network::new(&wires, of_b, of_a);

    network.run(secs(2));

    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(0), Some(0))
    );
    for side in [A, B] {
        let first = &network.events[side][0];
        assert_eq!(first.1, AgentEvent::Proven, "{side}");
        assert!(first.0 < ms(10), "{side}");
        assert!(network.agents[side].is_answering());
        assert!(!network.has_event(side, &AgentEvent::Failed));
    }
}

#[test]
fn a_path_is_found_although_every_third_packet_is_lost() {
    for seed in 0..20 {
        let mut wire = Wire::new("192.168.1.1:1000", "192.168.1.2:2000", 15);
        wire.loses_every = 3;
        let (of_b, of_a) = (
            vec![host("192.168.1.2:2000")],
            vec![host("192.168.1.1:1000")],
        );
        let mut network = Network::seeded(&[wire], of_b, of_a, seed);

        network.run(secs(5));

        assert_eq!(
            (network.selected(A), network.selected(B)),
            (Some(0), Some(0)),
            "{seed}"
        );
    }
}

#[test]
fn ipv6_goes_over_the_ipv6_socket_and_comes_first() {
    let wires = [
        Wire::new("192.0.2.1:1000", "192.0.2.2:2000", 10),
        Wire::new("[2001:db8::1]:1000", "[2001:db8::2]:2000", 10),
    ];
    let of_b = vec![host("192.0.2.2:2000"), host("[2001:db8::2]:2000")];
    let of_a = vec![host("192.0.2.1:1000"), host("[2001:db8::1]:1000")];
    let mut network = Network::new(&wires, of_b, of_a);

    network.run(secs(2));

    let expected = DirectPath {
        socket: SocketId::MAIN_V6,
        remote: addr("[2001:db8::2]:2000"),
    };
    assert_eq!(network.agents[A].path(), Some(expected));
    assert_eq!(network.selected(B), Some(1));
    assert_eq!(expected.to_string(), "[2001:db8::2]:2000");
}

fn in_tunnel(text: &str) -> Candidate {
    Candidate::in_tunnel(addr(text))
}

#[test]
fn a_path_inside_another_tunnel_is_left_for_any_other_however_slow() {
    let wires = [
        Wire::new("10.99.0.2:1000", "10.99.0.3:2000", 1),
        Wire::new("198.51.100.1:1001", "203.0.113.1:2001", 150),
    ];
    let of_b = vec![in_tunnel("10.99.0.3:2000"), reflexive("203.0.113.1:2001")];
    let of_a = vec![in_tunnel("10.99.0.2:1000"), reflexive("198.51.100.1:1001")];
    let mut network = Network::new(&wires, of_b, of_a);

    network.run(ms(100));
    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(0), Some(0)),
        "data flows over what there is"
    );
    network.run(secs(3));
    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(1), Some(1))
    );
}

#[test]
fn an_end_that_was_told_no_address_inside_the_tunnel_hears_what_a_check_from_there_is_worth() {
    let wires = [
        Wire::new("10.99.0.2:1000", "10.99.0.3:2000", 1),
        Wire::new("198.51.100.1:1001", "203.0.113.1:2001", 150),
    ];
    // The controlling end has not told that it is in the other tunnel, too: its check comes from an unheard-of address.
    let of_b = vec![in_tunnel("10.99.0.3:2000"), reflexive("203.0.113.1:2001")];
    let of_a = vec![reflexive("198.51.100.1:1001")];
    let mut network = Network::new(&wires, of_b, of_a);
    network.run(secs(3));
    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(1), Some(1))
    );
}

#[test]
fn the_controlled_end_follows_the_nomination_against_its_own_preference() {
    // B would prefer the second wire, where A's address is a host's; A knows better.
    let wires = [
        Wire::new("198.51.100.1:1000", "192.168.1.2:2000", 10),
        Wire::new("192.168.1.1:1001", "203.0.113.1:2001", 10),
    ];
    let of_b = vec![host("192.168.1.2:2000"), reflexive("203.0.113.1:2001")];
    let of_a = vec![reflexive("198.51.100.1:1000"), host("192.168.1.1:1001")];
    let mut network = Network::new(&wires, of_b, of_a);

    network.run(secs(60));

    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(0), Some(0))
    );
    let nominated = |sent: &&crate::network::Sent| sent.nominated;
    assert!(
        network
            .sent
            .iter()
            .filter(nominated)
            .all(|sent| sent.side == A)
    );
    let last_on_other = network
        .sent
        .iter()
        .rfind(|sent| sent.side == A && sent.to == wires[1].ends[B]);
    assert!(!last_on_other.unwrap().nominated);
}

#[test]
fn the_address_of_a_peer_that_nobody_named_is_learned_from_its_check() {
    let wires = [Wire::new("198.51.100.1:1000", "203.0.113.77:54321", 10)];
    let mut network = Network::new(&wires, Vec::new(), vec![reflexive("198.51.100.1:1000")]);

    network.run(secs(1));

    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(0), Some(0))
    );
    let status = network.agents[A].status(network.now).selected.unwrap();
    assert_eq!(status.kind, CandidateKind::PeerReflexive);
    assert_eq!(status.remote, addr("203.0.113.77:54321"));
    assert!(status.valid);
    assert_eq!(status.rtt, Some(ms(20)));
}

#[test]
fn a_candidate_that_comes_later_is_tried_too() {
    let wires = [Wire::new("198.51.100.1:1000", "203.0.113.1:2000", 10)];
    let mut network = Network::new(&wires, vec![host("10.9.9.9:9")], vec![host("10.8.8.8:8")]);
    network.run(secs(60));
    for side in [A, B] {
        assert_eq!(network.events[side].last().unwrap().1, AgentEvent::Failed);
    }

    let now = network.now;
    network.agents[A].handle_candidates(vec![reflexive("203.0.113.1:2000")], now);
    network.run(secs(1));

    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(0), Some(0))
    );
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    let run = |seed| {
        let wires = [
            Wire::new("192.168.1.1:1000", "192.168.1.2:2000", 1),
            Wire::new("198.51.100.1:1001", "203.0.113.1:2001", 20),
        ];
        let of_b = vec![host("192.168.1.2:2000"), reflexive("203.0.113.1:2001")];
        let of_a = vec![host("192.168.1.1:1000"), reflexive("198.51.100.1:1001")];
        let mut network = Network::seeded(&wires, of_b, of_a, seed);
        network.run(secs(100));
        network.sent
    };
    let first = run(3);
    assert!(first.len() > 30);
    assert_eq!(first, run(3));
    assert_ne!(first, run(4));
}

// --- what is not believed ---

#[test]
fn a_check_with_the_wrong_password_gets_silence() {
    let mut agent = alone(Role::Controlled, Vec::new());

    ask(
        &mut agent,
        addr(PEER),
        &request(1).finish_with_integrity(&[0; 32]),
        origin(),
    );
    // The peer's own password is for the other direction.
    ask(
        &mut agent,
        addr(PEER),
        &request(1).finish_with_integrity(&credentials(2).password),
        origin(),
    );

    assert_eq!(transmits(&mut agent), []);
    assert_eq!(events(&mut agent), []);
    assert_eq!(agent.status(origin()).pairs, []);
}

#[test]
fn a_check_without_a_password_gets_silence() {
    let mut agent = alone(Role::Controlled, Vec::new());

    ask(&mut agent, addr(PEER), &request(1).finish(), origin());
    ask(
        &mut agent,
        addr(PEER),
        &request(1).nominate().finish_plain(),
        origin(),
    );

    assert_eq!(transmits(&mut agent), []);
    assert_eq!(events(&mut agent), []);
    assert_eq!(agent.status(origin()).pairs, []);
}

#[test]
fn what_is_authenticated_but_no_request_gets_silence() {
    let mut agent = alone(Role::Controlled, Vec::new());

    for class in [Class::Indication, Class::Success, Class::Error] {
        let bytes = Writer::new(class, TransactionId([1; 12]))
            .finish_with_integrity(&credentials(1).password);
        ask(&mut agent, addr(PEER), &bytes, origin());
    }

    assert_eq!(transmits(&mut agent), []);
    assert_eq!(agent.status(origin()).pairs, []);
}

#[test]
fn a_check_is_for_the_agent_whose_name_it_carries() {
    let agent = alone(Role::Controlled, Vec::new());
    let (me, peer, stranger) = (credentials(1), credentials(2), credentials(3));

    assert!(agent.is_addressed(&name(&me, &peer)));

    // One's own checks, thrown back, and other people's.
    assert!(!agent.is_addressed(&name(&peer, &me)));
    assert!(!agent.is_addressed(&name(&me, &stranger)));
    assert!(!agent.is_addressed(&name(&stranger, &peer)));
    assert!(!agent.is_addressed(&name(&me, &peer)[..32]));
    assert!(!agent.is_addressed(b""));
}

#[test]
fn a_name_leads_to_the_agent_without_asking_each() {
    let agent = alone(Role::Controlled, Vec::new());
    let (me, peer) = (credentials(1), credentials(2));
    assert_eq!(agent.fragment(), me.fragment);

    assert_eq!(receiver_of(&name(&me, &peer)), Some(me.fragment));
    assert_eq!(receiver_of(&name(&peer, &me)), Some(peer.fragment));

    // What no agent can be called leads nowhere: another length, no colon, no digits, capital letters.
    let good = name(&credentials(0xAB), &peer);
    assert_eq!(receiver_of(&good), Some([0xAB; 8]));
    assert_eq!(receiver_of(&good.to_ascii_uppercase()), None);
    assert_eq!(receiver_of(&good[..32]), None);
    assert_eq!(receiver_of(&[&good[..], b"0"].concat()), None);
    assert_eq!(receiver_of(b""), None);
    for (at, byte) in [(0, b'g'), (15, b' '), (16, b'0'), (7, 0xFF)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(receiver_of(&bad), None, "{at}");
    }
}

#[test]
fn the_answer_to_a_check_tells_the_peer_its_address_and_leaves_from_where_it_was_asked() {
    let mut agent = alone(Role::Controlled, Vec::new());
    let bytes = request(1).finish_with_integrity(&credentials(1).password);

    ask(&mut agent, addr(PEER), &bytes, origin());

    let sent = transmits(&mut agent);
    assert_eq!(sent.len(), 2, "an answer and a triggered check");
    let answer = Message::parse(&sent[0].bytes).unwrap();
    assert_eq!(
        (answer.class, answer.transaction),
        (Class::Success, TransactionId([1; 12]))
    );
    assert_eq!(answer.mapped, Some(addr(PEER)));
    assert!(answer.verify_integrity(&credentials(1).password));
    assert_eq!((sent[0].socket, sent[0].to), (V4, addr(PEER)));
    assert_eq!(sent[0].source, Some(IpAddr::from([10, 0, 0, 1])));
    let check = Message::parse(&sent[1].bytes).unwrap();
    assert_eq!((check.class, sent[1].to), (Class::Request, addr(PEER)));
    assert_eq!(
        check.username,
        Some(&*name(&credentials(2), &credentials(1)))
    );
    assert!(check.verify_integrity(&credentials(2).password));
    assert!(check.priority.is_some() && !check.nominated);
    assert_eq!(events(&mut agent), [AgentEvent::Proven]);
}

#[test]
fn an_answer_from_another_address_or_socket_shows_no_path() {
    let mut agent = alone(Role::Controlling, vec![host(PEER)]);
    agent.handle_timeout(origin());
    let check = agent.poll_transmit().unwrap();
    let bytes = success(&check);

    answer(
        &mut agent,
        addr("192.0.2.9:4001"),
        &bytes,
        origin() + ms(10),
    );
    answer(
        &mut agent,
        addr("192.0.2.10:4000"),
        &bytes,
        origin() + ms(10),
    );
    let message = Message::parse(&bytes).unwrap();
    agent.handle_response(SocketId(5), addr(PEER), &message, origin() + ms(10));

    assert_eq!((agent.path(), events(&mut agent)), (None, vec![]));
    answer(&mut agent, addr(PEER), &bytes, origin() + ms(10));
    assert_eq!(agent.path().unwrap().remote, addr(PEER));
}

#[test]
fn an_answer_that_is_not_authenticated_or_is_an_error_shows_no_path() {
    let mut agent = alone(Role::Controlling, vec![host(PEER)]);
    agent.handle_timeout(origin());
    let check = agent.poll_transmit().unwrap();
    let id = Message::parse(&check.bytes).unwrap().transaction;
    assert!(agent.owns(&Message::parse(&check.bytes).unwrap()));
    let success = || Writer::new(Class::Success, id).xor_mapped(addr(PEER));

    for bytes in [
        success().finish(),
        success().finish_plain(),
        success().finish_with_integrity(&credentials(1).password),
        success().finish_with_integrity(&[0; 32]),
        Writer::new(Class::Error, id).finish_with_integrity(&credentials(2).password),
        Writer::new(Class::Success, TransactionId([9; 12]))
            .finish_with_integrity(&credentials(2).password),
    ] {
        answer(&mut agent, addr(PEER), &bytes, origin() + ms(10));
        assert_eq!((agent.path(), events(&mut agent)), (None, vec![]));
    }
}

#[test]
fn an_answer_counts_once() {
    let mut agent = alone(Role::Controlling, vec![host(PEER)]);
    agent.handle_timeout(origin());
    let bytes = success(&agent.poll_transmit().unwrap());
    answer(&mut agent, addr(PEER), &bytes, origin() + ms(10));
    let rtt = agent.status(origin()).selected.unwrap().rtt;
    transmits(&mut agent);

    assert!(!agent.owns(&Message::parse(&bytes).unwrap()));
    answer(&mut agent, addr(PEER), &bytes, origin() + secs(3));

    assert_eq!(rtt, Some(ms(10)));
    assert_eq!(agent.status(origin()).selected.unwrap().rtt, rtt);
}

#[test]
fn with_passwords_of_another_exchange_there_is_no_path_at_all() {
    let wires = [Wire::new("192.168.1.1:1000", "192.168.1.2:2000", 5)];
    let (of_b, of_a) = (
        vec![host("192.168.1.2:2000")],
        vec![host("192.168.1.1:1000")],
    );
    let mut network = Network::new(&wires, of_b.clone(), of_a);
    let old = |n| Credentials {
        password: [0; 32],
        ..credentials(n)
    };
    network.agents[A] = Agent::new(config(Role::Controlling, old(1), old(2), of_b, 1), origin());

    network.run(secs(60));

    assert_eq!((network.selected(A), network.selected(B)), (None, None));
    for side in [A, B] {
        assert_eq!(
            network.events[side],
            [(network.events[side][0].0, AgentEvent::Failed)]
        );
    }
}

// --- the budget ---

#[test]
fn an_address_that_never_answers_is_probed_a_bounded_number_of_times() {
    let mut agent = alone(Role::Controlling, vec![host(PEER)]);

    let sent = shout_into_the_void(&mut agent);

    assert_eq!(sent.len(), MAX_PROBES as usize);
    assert!(sent.iter().all(|transmit| transmit.to == addr(PEER)));
    assert_eq!(agent.poll_timeout(), None);
}

#[test]
fn the_candidates_of_one_description_cost_a_bounded_number_of_packets() {
    let candidates = (1..=MAX_CANDIDATES as u16)
        .map(|port| reflexive(&format!("192.0.2.9:{port}")))
        .collect();
    let mut agent = alone(Role::Controlling, candidates);

    let sent = shout_into_the_void(&mut agent);

    let mut per_address: BTreeMap<_, usize> = BTreeMap::new();
    for transmit in &sent {
        *per_address.entry(transmit.to).or_default() += 1;
    }
    assert_eq!(per_address.len(), MAX_CANDIDATES);
    assert!(
        per_address
            .values()
            .all(|count| *count == MAX_PROBES as usize)
    );
    assert_eq!(events(&mut agent), [AgentEvent::Failed]);
}

#[test]
fn where_answers_get_lost_the_checks_of_both_ends_do_not_set_each_other_off_without_end() {
    let mut wire = Wire::new("192.168.1.1:1000", "192.168.1.2:2000", 1);
    wire.loses_answers = true;
    let (of_b, of_a) = (
        vec![host("192.168.1.2:2000")],
        vec![host("192.168.1.1:1000")],
    );
    let mut network = Network::new(&[wire], of_b, of_a);

    network.run(secs(10));

    for side in [A, B] {
        let checks = network.checks(side, 0).len();
        assert!(checks <= 250, "{checks} checks in ten seconds");
    }
}

#[test]
fn naming_an_address_again_does_not_have_it_probed_again() {
    let mut agent = alone(Role::Controlling, vec![host(PEER), host(PEER)]);
    let sent = shout_into_the_void(&mut agent);
    assert_eq!(sent.len(), MAX_PROBES as usize);

    agent.handle_candidates(vec![host(PEER), reflexive(PEER)], origin() + secs(130));

    assert_eq!(agent.poll_timeout(), None);
    assert_eq!(transmits(&mut agent), []);
}

#[test]
fn first_checks_leave_one_after_the_other_best_first() {
    let candidates = vec![
        reflexive("192.0.2.9:1"),
        host("192.0.2.9:2"),
        host("[2001:db8::9]:3"),
        reflexive("[2001:db8::9]:4"),
    ];
    let mut agent = alone(Role::Controlling, candidates);

    let mut firsts = Vec::new();
    for at in 0..16 {
        agent.handle_timeout(origin() + ms(at));
        for transmit in transmits(&mut agent) {
            firsts.push((at, transmit.to.port()));
        }
    }

    assert_eq!(firsts, [(0, 3), (5, 2), (10, 4), (15, 1)]);
}

/// What leaves in the first second, and when: to where, and with which TTL.
fn first_second(config: AgentConfig) -> Vec<(Duration, SocketAddr, Option<u8>)> {
    let mut agent = Agent::new(config, origin());
    let mut sent = Vec::new();
    let mut now = origin();
    loop {
        for transmit in transmits(&mut agent) {
            sent.push((now - origin(), transmit.to, transmit.ttl));
        }
        now = match agent.poll_timeout() {
            Some(at) if at < origin() + secs(1) => now.max(at),
            _ => return sent,
        };
        agent.handle_timeout(now);
    }
}

/// Both sides have an easy NAT with a filter; this one answered the other's offer.
fn answering(candidates: Vec<Candidate>) -> AgentConfig {
    let nat = NatSummary {
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        allocation: Some(Allocation::Preserving),
        ..NatSummary::default()
    };
    AgentConfig {
        mine: Some(nat.clone()),
        theirs: Some(nat),
        ..config(
            Role::Controlled,
            credentials(1),
            credentials(2),
            candidates,
            7,
        )
    }
}

#[test]
fn between_two_easy_nats_the_one_who_answers_lets_the_other_s_checks_come_first() {
    for (measured, ttl) in [(None, 5), (Some(2), 2)] {
        let sent = first_second(AgentConfig {
            opening_ttl: measured,
            ..answering(vec![reflexive(PEER)])
        });
        let opener = (ms(0), addr(PEER), Some(ttl));
        assert_eq!(sent[..2], [opener, opener]);
        assert_eq!(sent[2], (ms(250), addr(PEER), None));
        assert!(sent[2..].iter().all(|(_, _, ttl)| ttl.is_none()));
    }
}

#[test]
fn who_is_not_behind_such_a_nat_or_made_the_offer_checks_at_once() {
    let with = |change: fn(&mut AgentConfig)| {
        let mut config = answering(vec![reflexive(PEER)]);
        change(&mut config);
        config
    };
    let nat = |config: &mut AgentConfig, mapping, filtering| {
        config.theirs = Some(NatSummary {
            mapping,
            filtering,
            ..NatSummary::default()
        });
    };
    let mut others = vec![
        with(|config| config.answers = false),
        with(|config| config.mine = None),
        with(|config| config.theirs = None),
        answering(vec![host(PEER)]),
        answering(vec![reflexive("[2001:db8::9]:4000")]),
    ];
    for (mapping, filtering) in [
        (None, Some(Filtering::AddressAndPortDependent)),
        (
            Some(Mapping::None),
            Some(Filtering::AddressAndPortDependent),
        ),
        (
            Some(Mapping::EndpointIndependent),
            Some(Filtering::EndpointIndependent),
        ),
    ] {
        let mut config = answering(vec![reflexive(PEER)]);
        nat(&mut config, mapping, filtering);
        others.push(config);
    }
    for config in others {
        let label = format!("{config:?}");
        let sent = first_second(config);
        assert_eq!((sent[0].0, sent[0].2), (ms(0), None), "{label}");
        assert!(sent.iter().all(|(_, _, ttl)| ttl.is_none()), "{label}");
    }
}

#[test]
fn who_waits_for_the_other_s_checks_answers_the_first_one_at_once() {
    let mut agent = Agent::new(answering(vec![reflexive(PEER)]), origin());
    transmits(&mut agent);
    let now = origin() + ms(60);
    let bytes = request(1).finish_with_integrity(&credentials(1).password);

    ask(&mut agent, addr(PEER), &bytes, now);

    let sent = transmits(&mut agent);
    assert_eq!(sent.len(), 2, "an answer and a triggered check");
    answer(&mut agent, addr(PEER), &success(&sent[1]), now + ms(40));
    assert_eq!(agent.path().unwrap().remote, addr(PEER));
}

#[test]
fn an_address_that_nobody_can_send_to_is_never_probed() {
    let unusable = [
        "127.0.0.1:1",
        "[::1]:1",
        "0.0.0.0:1",
        "[::]:1",
        "224.0.0.1:1",
        "239.1.2.3:1",
        "[ff02::1]:1",
        "[ff0e::1]:1",
        "255.255.255.255:1",
        "169.254.1.1:1",
        "[fe80::1]:1",
        "[fec0::1]:1",
        "[::ffff:192.0.2.1]:1",
        "192.0.2.1:0",
        "[2001:db8::1]:0",
    ];
    let mut agent = alone(
        Role::Controlling,
        unusable.iter().map(|text| host(text)).collect(),
    );
    agent.handle_candidates(
        unusable.iter().map(|text| reflexive(text)).collect(),
        origin(),
    );

    let sent = shout_into_the_void(&mut agent);

    assert_eq!(sent, []);
    assert_eq!(agent.status(origin()).pairs, []);
}

#[test]
fn when_nothing_answers_the_agent_says_so_once() {
    let mut agent = alone(Role::Controlled, vec![host(PEER), host("192.0.2.10:1")]);

    shout_into_the_void(&mut agent);

    assert_eq!(events(&mut agent), [AgentEvent::Failed]);
    agent.handle_timeout(origin() + secs(500));
    assert_eq!(events(&mut agent), []);
}

#[test]
fn with_nothing_to_try_the_agent_says_so_at_its_first_turn_and_still_listens() {
    let mut agent = alone(Role::Controlled, Vec::new());

    agent.handle_timeout(origin());

    assert_eq!(events(&mut agent), [AgentEvent::Failed]);
    let bytes = request(1).finish_with_integrity(&credentials(1).password);
    ask(&mut agent, addr(PEER), &bytes, origin() + secs(1));
    assert_eq!(events(&mut agent), [AgentEvent::Proven]);
    assert!(agent.poll_timeout().is_some());
}

#[test]
fn a_flood_of_authenticated_checks_from_many_addresses_fills_a_bounded_table() {
    let mut agent = alone(Role::Controlled, vec![host(PEER)]);
    agent.handle_timeout(origin());
    let check = agent.poll_transmit().unwrap();
    answer(&mut agent, addr(PEER), &success(&check), origin() + ms(10));
    transmits(&mut agent);

    let mut checks = 0;
    for n in 0..5000_u16 {
        let from = SocketAddr::new(IpAddr::from([198, 51, 100, (n % 250) as u8]), 1 + n);
        let bytes = request(1).finish_with_integrity(&credentials(1).password);
        ask(&mut agent, from, &bytes, origin() + ms(20));
        let sent = transmits(&mut agent);
        assert!(sent.iter().all(|transmit| transmit.to == from));
        checks += sent.len() - 1;
    }

    assert_eq!(agent.status(origin()).pairs.len(), MAX_PAIRS);
    assert_eq!(
        checks,
        MAX_PAIRS - 1,
        "one triggered check for each that found room"
    );
    assert_eq!(
        agent.path().unwrap().remote,
        addr(PEER),
        "the path that works stays"
    );
}

#[test]
fn a_peer_that_moves_on_takes_the_place_of_a_pair_that_failed() {
    let candidates = (1..=MAX_PAIRS as u16)
        .map(|port| reflexive(&format!("192.0.2.9:{port}")))
        .collect();
    let mut agent = alone(Role::Controlled, candidates);
    shout_into_the_void(&mut agent);

    let now = origin() + secs(200);
    let bytes = request(1).finish_with_integrity(&credentials(1).password);
    ask(&mut agent, addr("198.51.100.7:7"), &bytes, now);
    let check = transmits(&mut agent).pop().unwrap();
    answer(&mut agent, check.to, &success(&check), now + ms(5));

    assert_eq!(agent.path().unwrap().remote, addr("198.51.100.7:7"));
    assert_eq!(agent.status(origin()).pairs.len(), MAX_PAIRS);
}

#[test]
fn a_peer_that_is_heard_on_an_address_that_was_given_up_is_checked_again() {
    let mut agent = alone(Role::Controlled, vec![host(PEER)]);
    shout_into_the_void(&mut agent);
    events(&mut agent);

    let now = origin() + secs(200);
    ask(
        &mut agent,
        addr(PEER),
        &request(1).finish_with_integrity(&credentials(1).password),
        now,
    );
    let check = transmits(&mut agent).pop().unwrap();
    answer(&mut agent, addr(PEER), &success(&check), now + ms(5));

    assert_eq!(agent.path().unwrap().remote, addr(PEER));
    assert_eq!(Family::of(check.to.ip()), Family::V4);
}
