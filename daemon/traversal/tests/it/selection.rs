//! Which of several paths is taken.

use punch_signal_protocol::Candidate;

use crate::network::{A, B, Network, Wire};
use crate::{host, reflexive, secs};

/// A network with one wire for each delay (one way, in milliseconds), the first one with the highest priority.
fn ranked(delays: &[u64]) -> Network {
    let wires: Vec<_> = delays
        .iter()
        .enumerate()
        .map(|(n, delay)| {
            Wire::new(
                &format!("192.0.2.1:{}", 1000 + n),
                &format!("192.0.2.2:{}", 2000 + n),
                *delay,
            )
        })
        .collect();
    let candidates = |side: usize| {
        let candidate = |(n, wire): (usize, &Wire)| Candidate {
            preference: 1000 - n as u16,
            ..host(&wire.ends[side].to_string())
        };
        wires.iter().enumerate().map(candidate).collect()
    };
    let (of_b, of_a) = (candidates(B), candidates(A));
    Network::new(&wires, of_b, of_a)
}

fn both(network: &Network) -> (Option<usize>, Option<usize>) {
    (network.selected(A), network.selected(B))
}

#[test]
fn of_paths_that_are_about_as_fast_the_one_of_higher_priority_is_taken() {
    let mut network = ranked(&[24, 20]);
    network.run(secs(10));
    assert_eq!(both(&network), (Some(0), Some(0)));
}

#[test]
fn a_path_that_is_clearly_slower_is_not_taken_for_its_priority() {
    let mut network = ranked(&[60, 20]);
    network.run(secs(10));
    assert_eq!(both(&network), (Some(1), Some(1)));
}

#[test]
fn a_path_of_lower_priority_is_not_taken_for_being_a_little_faster() {
    let mut network = ranked(&[20, 14]);
    network.run(secs(200));
    assert_eq!(both(&network), (Some(0), Some(0)));
    assert!(network.selections(A) <= 2, "{:?}", network.events[A]);
}

#[test]
fn host_comes_before_server_reflexive() {
    let wires = [
        Wire::new("198.51.100.1:1", "203.0.113.1:1", 5),
        Wire::new("192.168.1.1:2", "192.168.1.2:2", 5),
    ];
    let of_b = vec![reflexive("203.0.113.1:1"), host("192.168.1.2:2")];
    let of_a = vec![reflexive("198.51.100.1:1"), host("192.168.1.1:2")];
    let mut network = Network::new(&wires, of_b, of_a);
    network.run(secs(10));
    assert_eq!(both(&network), (Some(1), Some(1)));
}

#[test]
fn three_paths_of_which_each_next_is_only_a_little_faster_do_not_make_the_choice_go_round() {
    // Round trips of 100, 70 and 45 ms: the first is about as fast as the second, the second as the third, but the first
    // is clearly slower than the third.
    let mut network = ranked(&[50, 35, 22]);
    network.run(secs(60));

    let selections = network.selections(A);
    let checks = network.sent.iter().filter(|sent| sent.side == A).count();
    assert!(
        selections <= 4,
        "{selections} selections in a minute, {checks} packets"
    );
    assert_eq!(both(&network), (Some(1), Some(1)));
}

#[test]
fn a_path_that_becomes_clearly_slower_is_left_for_a_faster_one() {
    let mut network = ranked(&[20, 25]);
    network.run(secs(5));
    assert_eq!(both(&network), (Some(0), Some(0)));

    network.traffic = true;
    network.wires[0].delay *= 10;
    network.run(secs(60));

    assert_eq!(both(&network), (Some(1), Some(1)));
}
