//! New keys in time, and none that are too old.

use crate::*;
use punch_wireguard::Tunnel;

#[test]
fn the_initiator_begins_again_when_it_sends_after_two_minutes_and_the_responder_does_not() {
    let mut world = World::connected();
    for (at, wants) in [(119_999, false), (120_000, true)] {
        world.now = world.start + millis(at);
        assert!(world.ends[A].seal(1, world.now).is_some());
        assert!(world.ends[B].seal(1, world.now).is_some());
        assert_eq!(world.ends[A].session.wants_handshake(world.now), wants);
        assert!(!world.ends[B].session.wants_handshake(world.now));
    }
}

#[test]
fn the_initiator_begins_again_when_it_receives_shortly_before_the_end_and_the_responder_does_not() {
    let mut world = World::connected();
    for (at, wants) in [(164_999, false), (165_000, true)] {
        world.now = world.start + millis(at);
        let (now, [a, b]) = (world.now, &mut world.ends);
        // The initiator's is older: sending it has not asked for keys.
        let to_a = b.seal(1, now).unwrap();
        assert_eq!(a.open(&to_a, now), Opened::Packet);
        assert_eq!(a.session.wants_handshake(now), wants);
    }
    let mut world = World::connected();
    let to_b = world.ends[A].seal(1, world.now).unwrap();
    world.now += secs(170);
    assert_eq!(world.ends[B].open(&to_b, world.now), Opened::Packet);
    assert!(!world.ends[B].session.wants_handshake(world.now));
}

#[test]
fn no_packet_is_lost_and_none_overtakes_another_while_keys_change() {
    for latency in [0, 1, 30, 200, 900] {
        let mut world = World::connected();
        world.latency = millis(latency);
        world.skip_to(secs(118));
        for number in 0..1000 {
            world.send(A, number);
            world.send(B, number);
            world.run(millis(10));
        }
        world.run(secs(2));

        assert_eq!(
            (world.ends[A].begun.len(), world.ends[B].begun.len()),
            (2, 0)
        );
        for end in &world.ends {
            assert!(end.inbox.iter().copied().eq(0..1000), "{latency}");
        }
    }
}

#[test]
fn old_keys_open_what_is_under_way_and_then_are_gone() {
    let mut world = World::connected();
    let sealed_at = [130, 131, 132];
    world.skip_to(secs(130));
    let late = sealed_at.map(|number| {
        let now = world.now;
        let [a, b] = &mut world.ends;
        (a.seal(number, now).unwrap(), b.seal(number, now).unwrap())
    });
    let datagrams = world.ends[A].begin(world.now).into_iter().collect();
    world.transmit(A, datagrams);
    world.settle();
    assert_eq!(world.ends[A].finished, 2);
    assert!(world.both_ways_work());

    for (at, (to_b, to_a)) in [130, 179, 180].into_iter().zip(&late) {
        let now = world.start + secs(at);
        let expected = if at < 180 {
            Opened::Packet
        } else {
            Opened::Refused
        };
        assert_eq!(world.ends[B].open(to_b, now), expected);
        assert_eq!(world.ends[A].open(to_a, now), expected);
        assert_eq!(world.ends[B].open(to_b, now), Opened::Refused, "again");
    }
}

#[test]
fn the_keys_before_the_last_are_gone_after_the_next_handshake() {
    let mut world = World::connected();
    let late = world.ends[A].seal(1, world.now).unwrap();
    for _ in 0..2 {
        world.now += secs(5);
        let session = &mut world.ends[A].session;
        session.initiate(world.now);
        let datagrams = world.ends[A].begin(world.now).into_iter().collect();
        world.transmit(A, datagrams);
        world.settle();
    }
    assert_eq!(world.ends[B].open(&late, world.now), Opened::Refused);
}

#[test]
fn shortly_before_three_minutes_packets_wait_for_new_keys_and_then_leave_in_order() {
    let mut world = World::connected();
    world.now = world.start + secs(175) - millis(1);
    let last = world.ends[B].seal(0, world.now).unwrap();
    assert!(!world.ends[B].session.wants_handshake(world.now));
    // A packet that takes its time is not refused.
    let arrival = world.start + secs(180) - millis(1);
    assert_eq!(world.ends[A].open(&last, arrival), Opened::Packet);
    world.ends[A].inbox.clear();

    world.skip_to(secs(175));
    for number in 1..=300 {
        assert_eq!(world.ends[B].seal(number, world.now), None);
    }
    assert!(world.ends[B].session.wants_handshake(world.now));
    assert!(!world.ends[B].session.has_waiting(world.now));
    let datagrams = world.ends[B].begin(world.now).into_iter().collect();
    world.transmit(B, datagrams);
    world.settle();

    // 256 of them; the oldest are lost.
    assert!(world.ends[A].inbox.iter().copied().eq(45..=300));
    assert!(world.both_ways_work());
}

#[test]
fn keys_that_are_too_old_open_nothing_and_timers_forget_them() {
    let mut world = World::connected();
    let to_b = world.ends[A].seal(1, world.now).unwrap();
    let now = world.start + secs(180);
    assert_eq!(world.ends[B].open(&to_b, now), Opened::Refused);
    assert!(world.ends[B].session.is_established());
    assert!(world.ends[B].tick(now).is_empty());
    assert!(!world.ends[B].session.is_established());
    assert_eq!(world.ends[B].session.last_handshake(), None);
}

#[test]
fn an_unanswered_initiation_is_repeated_for_ninety_seconds_and_what_waited_is_forgotten() {
    let mut world = World::new();
    world.loss = 1000;
    world.send(A, 1);
    while world.now < world.start + secs(200) {
        world.run(millis(1));
        let datagrams = world.ends[A].begin(world.now).into_iter().collect();
        world.transmit(A, datagrams);
    }

    let begun = &world.ends[A].begun;
    for pair in begun.windows(2) {
        let between = pair[1] - pair[0];
        assert!(between >= secs(5) && between <= millis(5335), "{between:?}");
    }
    let last = *begun.last().unwrap() - world.start;
    assert!(last > secs(84) && last <= secs(90), "{last:?}");

    world.loss = 0;
    world.send(A, 2);
    world.run(secs(1));
    assert_eq!(world.ends[B].inbox, [2]);
    assert!(world.both_ways_work());
}

#[test]
fn packets_that_wait_do_not_begin_a_handshake_each() {
    let mut world = World::new();
    world.loss = 1000;
    for number in 0..1000 {
        world.send(A, number);
        world.run(millis(10));
    }
    assert_eq!(world.ends[A].begun.len(), 2);
}

#[test]
fn keys_that_are_confirmed_late_do_not_take_the_place_of_newer_ones() {
    let mut world = World::new();
    let initiation = world.ends[A].send(1, world.now).remove(0);
    let response = world.ends[B].receive(&initiation, address(1), world.now);
    // This is on its way for a long time.
    let late = world.ends[A].receive(&response[0], address(2), world.now);
    for _ in 0..2 {
        world.now += secs(6);
        world.ends[B].session.initiate(world.now);
        let datagrams = world.ends[B].begin(world.now).into_iter().collect();
        world.transmit(B, datagrams);
        world.settle();
    }
    assert!(world.both_ways_work());

    for datagram in &late {
        world.arrive(B, datagram);
    }

    assert!(world.both_ways_work());
}

#[test]
fn what_waits_in_a_session_leaves_through_the_one_that_replaces_it() {
    let mut world = World::new();
    let now = world.now;
    let fresh = || {
        let [a, _] = World::new().ends;
        a.session
    };
    let mut tunnel = Tunnel::fixed(fresh());
    for number in 1..=3 {
        let sealer = tunnel.sealer().unwrap();
        assert_eq!(sealer.seal(&packet(number), now, &mut Buffer::default()), 0);
    }
    world.send(A, 0);
    world.settle();
    let ready = std::mem::replace(&mut world.ends[A].session, fresh());
    assert!(ready.is_established());
    tunnel.prepare(ready, true, now);

    assert!(tunnel.promote(now).0);

    let sealer = tunnel.sealer().unwrap();
    while sealer.has_waiting(now) {
        let mut out = Buffer::default();
        sealer.seal_waiting(now, &mut out);
        world.ends[B].open(&out, world.now);
    }
    assert_eq!(world.ends[B].inbox, [0, 1, 2, 3]);
}

#[test]
fn after_any_silence_the_first_packet_brings_new_keys_over_a_slow_path() {
    for silence in [200, 539, 540, 541, 600, 3600] {
        let mut world = World::connected();
        world.latency = millis(400);
        world.run(secs(silence));
        let begun = world.ends[A].begun.len() + world.ends[B].begun.len();
        world.send(A, 7);
        world.run(secs(2));

        assert_eq!(world.ends[B].inbox, [7], "{silence}");
        let begun_after = world.ends[A].begun.len() + world.ends[B].begun.len();
        assert_eq!(begun_after, begun + 1, "{silence}");
    }
}

#[test]
fn keys_grow_old_while_the_machine_sleeps() {
    let mut world = World::connected();
    world.skip_to(secs(30));
    let now = world.now;
    world.ends[A].session.handle_sleep(secs(144));
    assert!(world.ends[A].seal(1, now).is_some());
    world.ends[A].session.handle_sleep(secs(2));
    assert_eq!(world.ends[A].seal(2, now), None);
    assert!(world.ends[A].session.wants_handshake(now));
}

#[test]
fn keys_that_have_just_been_made_are_renewed_when_somebody_asks() {
    let mut world = World::connected();
    world.ends[A].session.initiate(world.now);
    assert!(world.ends[A].session.wants_handshake(world.now));
}
