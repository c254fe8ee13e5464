//! An unmodified WireGuard machine as a peer.

use std::net::SocketAddr;
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use punch_engine::{DropReason, EngineEvent, LinkState, SocketId};

use crate::packets::{at, udp};
use crate::plain::{Bench, endpoint, tunn};
use crate::world::{millis, seconds};

const NONE: Vec<Vec<u8>> = Vec::new();

fn both(test: impl Fn(bool)) {
    test(false);
    test(true);
}

/// Data both ways.
fn works(bench: &mut Bench, index: usize, v6: bool) {
    bench.take_inbox(index);
    bench.grant(index, true);
    let (own, peer) = (bench.own(v6), bench.peers[index].address);
    let there = udp(at(own, 1), at(peer, 2), b"there");
    let back = udp(at(peer, 3), at(own, 4), b"back");
    bench.host_sends(&there);
    bench.peer_sends(index, &back);
    assert_eq!(bench.take_inbox(index), [there]);
    assert_eq!(bench.take_tun(), [back]);
}

/// The state that is told a little later.
fn state(bench: &mut Bench, index: usize) -> LinkState {
    bench.pass(millis(300));
    bench.engine.peer_state(bench.peers[index].handle).unwrap()
}

#[test]
fn the_peer_shakes_hands_and_data_flows() {
    both(|v6| {
        let mut bench = Bench::empty();
        bench.add(v6, None);
        assert_eq!(state(&mut bench, 0), LinkState::Down);
        bench.set_up_unheard(0);
        assert_eq!(state(&mut bench, 0), LinkState::Connecting);

        bench.call(0);

        assert_eq!(state(&mut bench, 0), LinkState::Connected);
        works(&mut bench, 0, v6);
        let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
        assert!(report.established);
        let length = if v6 { 40 } else { 20 } + 8;
        assert_eq!((report.sent, report.received), (length + 5, length + 4));
    });
}

#[test]
fn up_shakes_hands_at_once() {
    both(|v6| {
        let mut bench = Bench::empty();
        bench.add(v6, None);
        bench.set_up(0, true);
        assert_eq!(state(&mut bench, 0), LinkState::Connected);
        works(&mut bench, 0, v6);
    });
}

#[test]
fn packets_of_the_host_wait_for_the_handshake() {
    let mut bench = Bench::empty();
    bench.add(true, None);
    bench.set_up_unheard(0);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    let packets: Vec<_> = (0..10)
        .map(|n| udp(at(own, 1), at(peer, 2), &[n]))
        .collect();
    for packet in &packets {
        bench.host_sends(packet);
    }
    assert_eq!(bench.take_inbox(0), NONE);

    bench.call(0);

    assert_eq!(bench.take_inbox(0), packets);
}

#[test]
fn of_two_answers_that_come_together_the_right_one_counts() {
    let mut bench = Bench::empty();
    bench.add(true, Some([5; 32]));
    bench.set_up_unheard(0);
    let initiation = bench.sent.last().unwrap().3.clone();
    let secret = bench.peers[0].secret.clone();
    let answer = |tunn: &mut Tunn| match tunn.decapsulate(None, &initiation, &mut [0; 200]) {
        TunnResult::WriteToNetwork(answer) => answer.to_vec(),
        other => panic!("{other:?}"),
    };
    // As from a peer that is about to change its preshared key.
    let wrong = answer(&mut tunn(&secret, Some([6; 32]), 7));
    let right = answer(&mut bench.peers[0].tunn);

    for answer in [wrong, right] {
        let (from, length) = (endpoint(0), answer.len());
        let socket = SocketId::MAIN_V4;
        bench
            .engine
            .handle_train(socket, None, from, length, &answer, bench.now);
    }
    bench.pump();

    assert_eq!(state(&mut bench, 0), LinkState::Connected);
    works(&mut bench, 0, true);
}

#[test]
fn the_preshared_key_must_be_the_same() {
    for (ours, theirs, good) in [
        (Some([5; 32]), Some([5; 32]), true),
        (Some([5; 32]), None, false),
        (None, Some([5; 32]), false),
        (Some([5; 32]), Some([6; 32]), false),
    ] {
        let mut bench = Bench::empty();
        bench.add(true, ours);
        let secret = bench.peers[0].secret.clone();
        bench.peers[0].tunn = tunn(&secret, theirs, 9);

        bench.connect(0);

        assert_eq!(
            state(&mut bench, 0) == LinkState::Connected,
            good,
            "{ours:?} {theirs:?}"
        );
        if good {
            works(&mut bench, 0, true);
        }
    }
}

#[test]
fn the_peer_may_roam() {
    let mut bench = Bench::new(true);
    let elsewhere: SocketAddr = "203.0.113.77:9999".parse().unwrap();
    let (own, peer) = (bench.own(true), bench.peers[0].address);

    // The next thing that it says comes from another address: answers go there from now on.
    bench.peers[0].endpoint = elsewhere;
    bench.peer_sends(0, &udp(at(peer, 3), at(own, 4), b"back"));

    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert_eq!(report.path.unwrap().endpoint(), Some(elsewhere));
    works(&mut bench, 0, true);
    assert!(bench.astray.is_empty());
}

#[test]
fn the_peer_may_roam_to_the_other_family() {
    let mut bench = Bench::new(true);
    bench.peers[0].endpoint = "[2001:db8::77]:9999".parse().unwrap();
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    bench.peer_sends(0, &udp(at(peer, 3), at(own, 4), b"back"));
    works(&mut bench, 0, true);
    let (socket, to, ..) = bench.sent.last().unwrap();
    assert_eq!(
        (*socket, *to),
        (punch_engine::SocketId::MAIN_V6, bench.peers[0].endpoint)
    );
}

#[test]
fn a_copy_of_an_old_datagram_does_not_make_the_peer_roam() {
    let mut bench = Bench::new(true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    let thief: SocketAddr = "203.0.113.66:1".parse().unwrap();
    let home = bench.peers[0].endpoint;
    let data = bench.seal(0, &udp(at(peer, 3), at(own, 4), b"back"));
    let initiation = bench.initiation(0);
    bench.receive(home, &data);
    bench.receive(home, &initiation);

    bench.receive(thief, &data);
    bench.receive(thief, &initiation);

    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert_eq!(report.path.unwrap().endpoint(), Some(home));
    assert_eq!(bench.drops(DropReason::NotForUs), 2);
    assert!(bench.astray.is_empty());
}

#[test]
fn a_copy_of_an_initiation_moves_nobody_even_if_the_session_is_new() {
    let mut bench = Bench::new(true);
    let thief: SocketAddr = "203.0.113.66:1".parse().unwrap();
    let home = bench.peers[0].endpoint;
    let initiation = bench.initiation(0);
    bench.receive(home, &initiation);
    bench.set_up(0, false);
    bench.set_up_unheard(0);

    bench.receive(thief, &initiation);

    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert_eq!(report.path.unwrap().endpoint(), Some(home));
}

#[test]
fn a_peer_cannot_roam_into_its_own_tunnel() {
    // It sends its datagrams to this machine's overlay address, which it may reach: they come from inside.
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.grant(0, true);
        let home = bench.peers[0].endpoint;
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let data = bench.seal(0, &udp(at(peer, 3), at(own, 4), b"back"));

        bench.receive(at(peer, 51_820), &data);

        let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
        assert_eq!(report.path.unwrap().endpoint(), Some(home));
    });
}

#[test]
fn only_the_peers_own_address_may_be_the_source_inside() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.grant(0, true);
        let own = bench.own(v6);
        let foreign = if v6 { "2001:db8::5" } else { "10.0.0.5" }.parse().unwrap();
        bench.peer_sends(0, &udp(at(foreign, 3), at(own, 4), b"back"));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.take_inbox(0), NONE);
        assert_eq!(bench.dropped(), [(DropReason::WrongSource, 1)]);
    });
}

#[test]
fn packets_go_to_the_peer_that_has_their_address() {
    let mut bench = Bench::empty();
    for _ in 0..3 {
        bench.add(false, None);
    }
    bench.add(true, None);
    for index in 0..4 {
        bench.connect(index);
    }
    for index in [2, 0, 3, 1] {
        let own = bench.own(index == 3);
        let packet = udp(
            at(own, 1),
            at(bench.peers[index].address, 2),
            &[index as u8],
        );
        bench.host_sends(&packet);
        for other in 0..4 {
            let expected = if other == index {
                vec![packet.clone()]
            } else {
                vec![]
            };
            assert_eq!(bench.take_inbox(other), expected);
        }
    }
}

#[test]
fn a_peer_without_an_endpoint_is_served_where_it_calls_from() {
    let mut bench = Bench::empty();
    bench.add(false, None);
    bench.set_endpoint(0, None);
    bench.set_up(0, true);
    bench.pass(seconds(30));
    assert_eq!(bench.sent.len(), 0, "there is nobody to call");

    bench.call(0);
    let (own, address) = (bench.own(false), bench.peers[0].address);
    // The caller confirms the keys by using them.
    bench.peer_sends(0, &udp(at(address, 2), at(own, 1), b"first"));
    let packet = udp(at(own, 1), at(address, 2), b"to the caller");
    bench.host_sends(&packet);
    assert_eq!(bench.take_inbox(0).last(), Some(&packet));
    let there = bench.peers[0].endpoint;
    let told = bench.roamed();
    assert_eq!(told, [(bench.peers[0].handle, there)]);

    // What the controller has been told changes nothing.
    let sent = bench.sent.len();
    bench.set_endpoint(0, Some(there));
    assert_eq!(bench.sent.len(), sent);
}

#[test]
fn a_plain_peers_routes_follow_the_interface() {
    let mut bench = Bench::new(false);
    let to = "198.51.100.9:7".parse().unwrap();
    bench.set_endpoint(0, Some(to));
    bench.pass(Duration::from_secs(5));
    let is_mtu = |event: &EngineEvent| matches!(event, EngineEvent::Mtu { .. });
    assert!(!bench.events.iter().any(is_mtu), "{:?}", bench.events);
    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert_eq!(report.mtu, Some(1400));
}

#[test]
fn a_peer_that_does_not_answer_is_called_where_the_controller_says_next() {
    let mut bench = Bench::empty();
    bench.add(false, None);
    let there = bench.peers[0].endpoint;
    let nowhere = "192.0.2.200:1".parse().unwrap();
    bench.set_endpoint(0, Some(nowhere));
    bench.set_up(0, true);
    bench.pass(seconds(12));
    let (own, address) = (bench.own(false), bench.peers[0].address);
    assert_eq!(bench.take_inbox(0), NONE);
    bench.set_endpoint(0, Some(there));
    bench.pass(seconds(1));
    let packet = udp(at(own, 1), at(address, 2), b"found");
    bench.host_sends(&packet);
    assert_eq!(bench.take_inbox(0), [packet]);
}

/// Whoever had an address first keeps it, in whichever order the two are told of again.
#[test]
fn a_second_owner_of_an_address_is_refused() {
    let mut bench = Bench::empty();
    for _ in 0..2 {
        bench.add(false, None);
        bench.connect(bench.peers.len() - 1);
        bench.grant(bench.peers.len() - 1, true);
    }
    let (own, first) = (bench.own(false), bench.peers[0].address);
    bench.set_address(1, Some(first));
    bench.edit(|configuration| configuration.peers.reverse());
    bench.edit(|_| ());

    let packet = udp(at(own, 1), at(first, 2), b"to the first");
    bench.host_sends(&packet);
    assert_eq!(bench.take_inbox(0), [packet]);
    assert_eq!(bench.take_inbox(1), NONE);
    bench.peer_sends(1, &udp(at(first, 2), at(own, 1), b"forged"));
    assert_eq!(bench.take_tun(), NONE);
    assert_eq!(bench.dropped(), [(DropReason::WrongSource, 1)]);

    // Without an address nothing goes to the first; the second has it when it is told so again.
    bench.set_address(0, None);
    bench.edit(|_| ());
    let packet = udp(at(own, 1), at(first, 2), b"to the second");
    bench.host_sends(&packet);
    assert_eq!(bench.take_inbox(0), NONE);
    assert_eq!(bench.take_inbox(1), [packet]);
}

#[test]
fn a_machine_whose_key_is_not_a_peers_gets_silence() {
    let mut bench = Bench::new(true);
    let stranger = [66; 32].into();
    let mut tunn = tunn(&stranger, None, 1);
    let mut buffer = [0; 148];
    let TunnResult::WriteToNetwork(initiation) =
        tunn.format_handshake_initiation(&mut buffer, true)
    else {
        panic!("no initiation");
    };
    let sent = bench.sent.len();

    bench.receive("203.0.113.66:1".parse().unwrap(), initiation);

    assert_eq!(bench.sent.len(), sent);
    assert_eq!(bench.dropped(), [(DropReason::NotForUs, 1)]);
}

#[test]
fn a_removed_peer_gets_silence() {
    let mut bench = Bench::new(true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    let from = bench.peers[0].endpoint;
    bench.grant(0, true);
    let data = bench.seal(0, &udp(at(peer, 3), at(own, 4), b"back"));
    let initiation = bench.initiation(0);
    bench.edit(|configuration| configuration.peers.clear());
    let sent = bench.sent.len();

    bench.receive(from, &data);
    bench.receive(from, &initiation);
    bench.pass(seconds(1));

    assert_eq!(bench.sent.len(), sent);
    assert_eq!(bench.take_tun(), NONE);
    bench.host_sends(&udp(at(own, 1), at(peer, 2), b"there"));
    assert_eq!(bench.sent.len(), sent);
    assert_eq!(
        bench.take_tun().len(),
        1,
        "this host's kernel hears that there is no such address"
    );
}

#[test]
fn down_forgets_the_keys_and_answers_nobody() {
    let mut bench = Bench::empty();
    bench.add(true, None);
    bench.connect(0);
    bench.grant(0, true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    let data = bench.seal(0, &udp(at(peer, 3), at(own, 4), b"back"));

    bench.set_up(0, false);

    assert_eq!(state(&mut bench, 0), LinkState::Down);
    assert!(bench.events.iter().any(|event| {
        matches!(
            event,
            EngineEvent::State {
                state: LinkState::Down,
                ..
            }
        )
    }));
    let (from, sent) = (bench.peers[0].endpoint, bench.sent.len());
    bench.receive(from, &data);
    bench.call(0);
    assert_eq!(bench.take_tun(), NONE);
    bench.host_sends(&udp(at(own, 1), at(peer, 2), b"there"));
    assert_eq!(bench.take_tun().len(), 1, "this host hears at once");
    assert_eq!(bench.sent.len(), sent);
    assert_eq!(state(&mut bench, 0), LinkState::Down);

    bench.set_up(0, true);
    works(&mut bench, 0, true);
}

#[test]
fn a_changed_configuration_leaves_the_session_alone() {
    let mut bench = Bench::new(true);
    let sent = bench.sent.len();
    bench.grant(0, true);
    bench.forward(&[("tcp", "22", "127.0.0.1:22", None)]);
    bench.add(true, None);
    assert_eq!(bench.sent.len(), sent, "no new handshake");
    works(&mut bench, 0, true);
}

#[test]
fn the_largest_packets_pass() {
    both(|v6| {
        let mut bench = Bench::with_mtu(v6, 65_535);
        bench.grant(0, true);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        for length in [1300, 9000, 65_000] {
            let back = udp(at(peer, 3), at(own, 4), &vec![7; length]);
            bench.peer_sends(0, &back);
            assert_eq!(bench.take_tun(), [back]);
            let there = udp(at(own, 3), at(peer, 4), &vec![7; length]);
            bench.host_sends(&there);
            assert_eq!(bench.take_inbox(0), [there]);
        }
    });
}

#[test]
fn a_packet_is_cut_to_its_own_length() {
    // WireGuard pads; what follows the packet's end is nobody's.
    let mut bench = Bench::new(false);
    bench.grant(0, true);
    let (own, peer) = (bench.own(false), bench.peers[0].address);
    let packet = udp(at(peer, 3), at(own, 4), b"back");
    let padded = [&packet[..], &[0; 15]].concat();
    bench.peer_sends(0, &padded);
    assert_eq!(bench.take_tun(), [packet]);
}
