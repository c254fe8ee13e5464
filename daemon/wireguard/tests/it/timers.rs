//! Packets that nobody has asked for: keepalives, and handshakes after silence.

use crate::*;

#[test]
fn data_that_is_only_received_is_answered_by_an_empty_packet_after_ten_seconds() {
    let mut world = World::connected();
    for number in 0..20 {
        world.send(A, number);
        world.run(millis(100));
    }
    world.run(secs(60));

    let sent: Vec<_> = world.sent_by(B).collect();
    assert_eq!(sent.len(), 1);
    let (at, datagram) = sent[0];
    assert_eq!(datagram.len(), OVERHEAD);
    assert!(at >= secs(10) && at <= secs(10) + TICK, "{at:?}");
    // That is no data: nobody answers it, and nobody misses an answer.
    assert_eq!(world.sent_by(A).count(), 20);
}

#[test]
fn data_that_is_answered_by_data_needs_no_empty_packet() {
    let mut world = World::connected();
    for number in 0..50 {
        world.send(A, number);
        world.run(secs(1));
        world.send(B, number);
        world.run(secs(1));
    }
    assert!(
        world
            .sent
            .iter()
            .all(|(.., datagram)| datagram.len() > OVERHEAD)
    );
    assert_eq!(world.sent.len(), 100);
}

#[test]
fn data_that_nobody_answers_begins_a_handshake_after_fifteen_seconds() {
    for from in [A, B] {
        let mut world = World::connected();
        world.loss = 1000;
        for number in 0..100 {
            world.send(from, number);
            world.run(millis(200));
        }
        let end = &world.ends[from];
        let begun = *end.begun.last().unwrap() - world.start;
        let latest = secs(15) + millis(334) + TICK;
        assert!(begun >= secs(15) && begun <= latest, "{begun:?}");
        assert_eq!(
            world.sent_by(from).filter(|(_, it)| !is_data(it)).count(),
            1
        );
    }
}

#[test]
fn a_peer_that_has_lost_its_keys_gets_new_ones() {
    let mut world = World::connected();
    let end = &mut world.ends[B];
    end.session = End::session(&end.keys, 2, &end.peer, None, None);
    for number in 0..200 {
        world.send(A, number);
        world.run(millis(100));
    }
    assert!(world.both_ways_work());
}

#[test]
fn a_persistent_keepalive_comes_every_interval_and_not_more_often() {
    let mut world = World::with([None; 2], [Some(secs(25)), None]);
    world.connect();
    world.run(secs(1000));

    let empty: Vec<_> = world.sent_by(A).filter(|(_, it)| is_data(it)).collect();
    assert!(empty.iter().all(|(_, datagram)| datagram.len() == OVERHEAD));
    // One more for each handshake: it confirms the keys.
    let handshakes = world.ends[A].begun.len() - 1;
    assert!((7..=8).contains(&handshakes), "{handshakes}");
    assert!(
        (38 + handshakes..=40 + handshakes).contains(&empty.len()),
        "{}",
        empty.len()
    );
    for pair in empty.windows(2) {
        assert!(pair[1].0 - pair[0].0 <= secs(25) + TICK);
    }
    assert_eq!(world.sent_by(B).filter(|(_, it)| is_data(it)).count(), 0);
}

#[test]
fn traffic_takes_the_place_of_a_persistent_keepalive() {
    let mut world = World::with([None; 2], [Some(secs(25)), Some(secs(25))]);
    world.connect();
    for number in 0..5 {
        world.send(A, number);
        world.run(secs(9));
        world.send(B, number);
        world.run(secs(9));
    }
    assert!(
        world
            .sent
            .iter()
            .all(|(.., datagram)| datagram.len() > OVERHEAD)
    );
}

#[test]
fn a_persistent_keepalive_begins_handshakes_when_keys_are_gone() {
    let mut world = World::with([None; 2], [Some(secs(25)), None]);
    world.connect();
    world.loss = 1000;
    world.run(secs(600));
    assert!(!world.ends[A].session.is_established());
    let begun = &world.ends[A].begun;
    assert!(world.now - *begun.last().unwrap() < secs(30));
    assert!(begun.windows(2).all(|pair| pair[1] - pair[0] >= secs(5)));

    world.loss = 0;
    world.run(secs(31));
    assert!(world.both_ways_work());
}

#[test]
fn without_traffic_nothing_is_sent() {
    let mut world = World::connected();
    world.run(secs(3600));
    assert!(world.sent.is_empty());
    assert!(world.ends.iter().all(|end| !end.session.is_established()));
}
