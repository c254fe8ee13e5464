//! Keeping a path, and leaving it when it dies.

use std::time::Duration;

use punch_traversal::{Agent, AgentConfig, AgentEvent, Role, Traffic, handle_detour};

use crate::network::{A, B, Network, Wire};
use crate::{config, credentials, host, ms, reflexive, secs};

fn two_wires(delay_ms: u64) -> Network {
    let wires = [
        Wire::new("192.168.1.1:1000", "192.168.1.2:2000", delay_ms),
        Wire::new("198.51.100.1:1001", "203.0.113.1:2001", delay_ms),
    ];
    let of_b = vec![host("192.168.1.2:2000"), reflexive("203.0.113.1:2001")];
    let of_a = vec![host("192.168.1.1:1000"), reflexive("198.51.100.1:1001")];
    Network::new(&wires, of_b, of_a)
}

fn gaps(times: &[Duration]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// The gaps between checks on a wire from now on.
fn gaps_in_the_next(
    network: &mut Network,
    span: Duration,
    side: usize,
    wire: usize,
) -> Vec<Duration> {
    let from = network.elapsed();
    network.run(span);
    let times: Vec<_> = network
        .checks(side, wire)
        .into_iter()
        .filter(|at| *at > from)
        .collect();
    gaps(&times)
}

#[test]
fn an_idle_path_and_its_reserve_are_kept_alive_every_12_seconds() {
    for wire in [0, 1] {
        let mut network = two_wires(10);
        network.run(secs(30));

        let gaps = gaps_in_the_next(&mut network, secs(600), A, wire);

        assert!(gaps.len() >= 49, "{gaps:?}");
        assert!(
            gaps.iter()
                .all(|gap| (ms(10_800)..=ms(12_100)).contains(gap)),
            "{gaps:?}"
        );
    }
}

#[test]
fn where_the_lifetime_of_mappings_is_known_keepalives_come_in_six_tenths_of_it() {
    for (lifetime, keepalive) in [
        (5, ms(4_000)),
        (15, ms(9_000)),
        (25, ms(15_000)),
        (40, ms(24_000)),
        (60, ms(25_000)),
        (120, ms(25_000)),
    ] {
        let mut network = two_wires(10);
        for (side, role) in [(A, Role::Controlling), (B, Role::Controlled)] {
            let other = network.wires[0].ends[1 - side];
            let (mine, theirs) = if side == A { (1, 2) } else { (2, 1) };
            let named = vec![host(&other.to_string())];
            let known = AgentConfig {
                lifetime: Some(secs(lifetime)),
                ..config(role, credentials(mine), credentials(theirs), named, 5)
            };
            network.agents[side] = Agent::new(known, network.now);
        }
        network.run(secs(30));

        let gaps = gaps_in_the_next(&mut network, secs(300), A, 0);

        assert!(gaps.len() >= 10, "{lifetime}: {gaps:?}");
        let expected = keepalive.mul_f64(0.9)..=keepalive + ms(100);
        assert!(
            gaps.iter().all(|gap| expected.contains(gap)),
            "{lifetime}: {gaps:?}"
        );
    }
}

#[test]
fn while_traffic_flows_the_path_is_checked_every_3_seconds_and_the_reserve_is_not() {
    let mut network = two_wires(10);
    network.run(secs(5));
    network.traffic = true;
    network.run(secs(5));

    let gaps = gaps_in_the_next(&mut network, secs(60), B, 0);

    assert!(gaps.len() >= 19, "{gaps:?}");
    assert!(
        gaps.iter().all(|gap| (ms(2_700)..=ms(3_100)).contains(gap)),
        "{gaps:?}"
    );
    let reserve = network
        .checks(B, 1)
        .into_iter()
        .filter(|at| *at > secs(10))
        .count();
    assert!(reserve <= 6, "{reserve}: no more than keepalives");
}

#[test]
fn the_first_packet_after_a_pause_brings_the_close_watch_back_at_once() {
    let mut network = two_wires(10);
    network.run(secs(31));
    let before = network.checks(A, 0).len();

    let now = network.now;
    let (sent, received) = (100, 100);
    network.agents[A].handle_traffic(Traffic { sent, received }, now);
    network.run(ms(3_100));

    assert_eq!(network.checks(A, 0).len(), before + 1);
}

#[test]
fn packets_that_go_out_while_none_comes_in_set_off_a_check_a_second() {
    let mut network = two_wires(10);
    network.run(secs(31));
    let before = network.checks(A, 0).len();
    let mut traffic = Traffic::default();
    for _ in 0..100 {
        traffic.sent += 100;
        let now = network.now;
        network.agents[A].handle_traffic(traffic, now);
        network.run(ms(100));
    }
    let checks = network.checks(A, 0).len() - before;
    assert!((10..=14).contains(&checks), "{checks} in ten seconds");
    // The pauses of a conversation are no silence.
    let before = network.checks(A, 0).len();
    for _ in 0..20 {
        (traffic.sent, traffic.received) = (traffic.sent + 100, traffic.received + 100);
        let now = network.now;
        network.agents[A].handle_traffic(traffic, now);
        network.run(ms(500));
    }
    let checks = network.checks(A, 0).len() - before;
    assert!(checks <= 5, "{checks} in ten seconds");
}

#[test]
fn two_paths_that_die_at_once_are_lost_at_once() {
    for moment in 0..30 {
        let mut network = two_wires(25);
        network.traffic = true;
        network.run(secs(20) + ms(100 * moment));
        network.cut(0);
        network.cut(1);
        network.run(ms(4200));
        for side in [A, B] {
            assert!(network.has_event(side, &AgentEvent::Lost), "{moment}");
            assert_eq!(
                network.selections(side),
                1,
                "{moment}: no dead one is tried"
            );
        }
        // What answers again is the path again.
        network.wires[1].up = true;
        network.run(secs(2));
        assert_eq!(network.selected(A), network.selected(B));
    }
}

#[test]
fn when_traffic_ends_keepalives_return() {
    let mut network = two_wires(10);
    network.traffic = true;
    network.run(secs(30));
    network.traffic = false;
    network.run(secs(10));

    let gaps = gaps_in_the_next(&mut network, secs(300), A, 0);

    assert!(
        gaps.iter()
            .all(|gap| (ms(10_800)..=ms(12_100)).contains(gap)),
        "{gaps:?}"
    );
}

#[test]
fn a_dead_path_is_left_within_4_seconds_while_traffic_flows_and_the_reserve_takes_over() {
    // The worst moment is right after an answer; all moments of one interval are tried. On paths with round trips of more
    // than 300 ms the repetitions wait longer, and so does the farewell.
    for (delay, moment) in (0..30).flat_map(|moment| [(25, moment), (150, moment)]) {
        let mut network = two_wires(delay);
        network.traffic = true;
        network.run(secs(20) + ms(100 * moment));
        assert_eq!(
            (network.selected(A), network.selected(B)),
            (Some(0), Some(0))
        );

        network.cut(0);
        network.run(ms(4_200));

        let now = (network.selected(A), network.selected(B));
        assert_eq!(now, (Some(1), Some(1)), "{delay} ms, {moment}");
        network.run(secs(30));
        assert_eq!(
            (network.selected(A), network.selected(B)),
            now,
            "{delay} ms, {moment}"
        );
        assert!(
            !network.has_event(A, &AgentEvent::Lost) && !network.has_event(B, &AgentEvent::Lost)
        );
    }
}

#[test]
fn an_idle_path_that_dies_is_left_after_the_next_keepalive() {
    let mut network = two_wires(25);
    network.run(secs(10));

    network.cut(0);
    network.run(secs(29));

    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(1), Some(1))
    );
}

#[test]
fn when_no_path_answers_any_more_it_is_lost_and_said_once() {
    let mut network = two_wires(25);
    network.traffic = true;
    network.run(secs(10));

    network.cut(0);
    network.cut(1);
    network.run(secs(60));

    for side in [A, B] {
        assert_eq!(network.selected(side), None);
        let told: Vec<_> = network.events[side]
            .iter()
            .map(|(_, event)| event.clone())
            .collect();
        let lost = told
            .iter()
            .filter(|event| **event == AgentEvent::Lost)
            .count();
        let failed = told
            .iter()
            .filter(|event| **event == AgentEvent::Failed)
            .count();
        assert_eq!((lost, failed), (1, 1), "{told:?}");
        assert_eq!(
            network.agents[side].poll_timeout(),
            None,
            "an agent without hope rests"
        );
    }
}

#[test]
fn two_lost_checks_in_a_row_do_not_kill_a_path() {
    let mut network = two_wires(25);
    network.traffic = true;
    network.run(secs(10));

    for _ in 0..10 {
        network.cut(0);
        network.run(ms(1_500));
        network.wires[0].up = true;
        network.run(secs(6));
    }

    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(0), Some(0))
    );
    assert_eq!(network.selections(A), 1);
}

#[test]
fn a_path_around_the_world_does_not_die_of_its_length() {
    let mut network = two_wires(600);
    network.traffic = true;
    network.run(secs(300));

    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(0), Some(0))
    );
    for side in [A, B] {
        assert!(
            !network.has_event(side, &AgentEvent::Lost),
            "{:?}",
            network.events[side]
        );
        assert_eq!(
            network.agents[side]
                .status(network.now)
                .selected
                .unwrap()
                .rtt,
            Some(ms(1_200))
        );
    }
}

#[test]
fn a_path_in_doubt_is_checked_at_once_and_not_believed_until_it_answers() {
    let mut network = two_wires(25);
    network.run(secs(10));
    let before = network.checks(A, 0).len();
    let now = network.now;

    network.agents[A].verify_path(now);
    network.run(ms(20));

    assert_eq!(network.checks(A, 0).len(), before + 1);
    assert!(!network.agents[A].is_answering());
    network.run(secs(1));
    assert!(network.agents[A].is_answering());
}

#[test]
fn doubting_a_good_path_again_and_again_does_not_kill_it() {
    let mut network = two_wires(100);
    network.run(secs(10));

    for _ in 0..20 {
        let now = network.now;
        network.agents[A].verify_path(now);
        network.run(ms(10));
    }
    network.run(secs(5));

    assert_eq!(network.selected(A), Some(0));
    assert!(!network.has_event(A, &AgentEvent::Lost));
    assert_eq!(network.selections(A), 1, "{:?}", network.events[A]);
}

#[test]
fn a_path_that_comes_back_is_taken_again_when_the_peer_is_heard_on_it() {
    let mut network = two_wires(25);
    network.traffic = true;
    network.run(secs(10));
    network.cut(0);
    network.run(secs(20));
    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(1), Some(1))
    );

    network.wires[0].up = true;
    let (now, of_a, of_b) = (
        network.now,
        host("192.168.1.1:1000"),
        host("192.168.1.2:2000"),
    );
    network.agents[A].handle_candidates(vec![of_b], now);
    network.agents[B].handle_candidates(vec![of_a], now);
    network.run(secs(10));

    // Known addresses that were given up are not probed again; a new attempt (a new offer) does that.
    assert_eq!(
        (network.selected(A), network.selected(B)),
        (Some(1), Some(1))
    );
}

#[test]
fn a_path_that_passes_packets_again_while_its_last_check_is_out_is_kept() {
    for outage in [2300, 2400, 2500] {
        let wires = [Wire::new("198.51.100.1:1001", "203.0.113.1:2001", 10)];
        let of_b = vec![reflexive("203.0.113.1:2001")];
        let of_a = vec![reflexive("198.51.100.1:1001")];
        let mut network = Network::new(&wires, of_b, of_a);
        network.traffic = true;
        network.run(secs(20));

        network.wires[0].up = false;
        network.run(ms(outage));
        network.wires[0].up = true;
        network.run(secs(10));

        for side in [A, B] {
            let mut events = network.events[side].iter();
            assert!(
                !events.any(|(_, event)| *event == AgentEvent::Lost),
                "{side} {outage}"
            );
        }
    }
}

#[test]
fn a_peer_that_sends_another_way_sets_off_a_check_at_once_and_not_more_than_silence_would() {
    let mut network = two_wires(10);
    network.run(secs(31));
    let before = network.checks(A, 0).len();
    let began = secs(31);
    for _ in 0..100 {
        let now = network.now;
        handle_detour(&mut network.agents[A], now);
        network.run(ms(100));
    }
    let checks = network.checks(A, 0).split_off(before);
    assert_eq!(checks[0], began, "at once");
    assert!((12..=16).contains(&checks.len()), "{checks:?}");
}
