//! What bounds a client: rate, watches, connections.

use std::time::Duration;

use punch_signal::hub::{Limits, Output, WatchLimits};
use punch_signal_protocol::{Frame, Refusal};

use crate::hub_harness::{HubHarness, NAME, closed, id, identity, ip, milliseconds, seconds};

#[test]
fn a_client_that_sends_too_fast_is_closed() {
    let mut harness = HubHarness::new();
    let (one, _two) = (harness.client(1), harness.client(2));
    // The login was the first of its burst of 200.
    for number in 1..200 {
        let outputs = harness.send(one, 2, b"x");
        assert!(matches!(outputs[..], [Output::Send(..)]), "frame {number}");
    }
    assert_eq!(harness.send(one, 2, b"x"), [closed(one, Refusal::TooFast)]);
    assert_eq!(harness.hub.online(), 1);
}

#[test]
fn a_client_may_send_fifty_frames_a_second_for_ever() {
    let mut harness = HubHarness::new();
    let (one, _two) = (harness.client(1), harness.client(2));
    for _ in 0..600 {
        harness.now += seconds(1);
        for _ in 0..50 {
            assert!(matches!(harness.send(one, 2, b"x")[..], [Output::Send(..)]));
        }
    }
}

#[test]
fn a_pause_gives_no_more_than_one_burst() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    for _ in 0..100 {
        harness.now += seconds(60);
        harness.hub.handle_alive(one, harness.now);
        harness.hub.handle_alive(two, harness.now);
        harness.hub.handle_timeout(harness.now);
    }
    let mut passed = 0;
    while matches!(harness.send(one, 2, b"x")[..], [Output::Send(..)]) {
        passed += 1;
    }
    assert_eq!(passed, 200);
}

#[test]
fn the_rate_counts_before_the_login_too() {
    let mut harness = HubHarness::with(Limits {
        burst: 1,
        rate: 1,
        ..Limits::default()
    });
    let (connection, nonce) = harness.connect();
    harness.say(connection, &Frame::proof(&identity(1), &nonce, NAME));
    assert_eq!(
        harness.say(connection, &Frame::Watch(id(2))),
        [closed(connection, Refusal::TooFast)]
    );
}

#[test]
fn one_clients_haste_is_no_others_loss() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    while matches!(harness.send(one, 2, b"x")[..], [Output::Send(..)]) {}
    assert!(matches!(harness.send(two, 2, b"x")[..], [Output::Send(..)]));
}

#[test]
fn a_client_may_watch_so_many_and_no_more() {
    let mut harness = HubHarness::with(Limits {
        watches: WatchLimits {
            per_client: 3,
            ..WatchLimits::default()
        },
        ..Limits::default()
    });
    let one = harness.client(1);
    for number in 10..13 {
        assert_eq!(harness.say(one, &Frame::Watch(id(number))), []);
    }
    // One that is watched already is none more; one given up makes room.
    assert_eq!(harness.say(one, &Frame::Watch(id(11))), []);
    harness.say(one, &Frame::Unwatch(id(10)));
    assert_eq!(harness.say(one, &Frame::Watch(id(13))), []);

    // One too many is passed over, and the client stays.
    harness.client(14);
    assert_eq!(harness.say(one, &Frame::Watch(id(14))), []);
    assert_eq!(harness.hub.online(), 2);
    harness.say(one, &Frame::Unwatch(id(11)));
    assert_eq!(
        harness.say(one, &Frame::Watch(id(14))),
        [Output::Send(one, Frame::Appeared(id(14)))]
    );
}

#[test]
fn one_address_may_have_so_many_connections_under_way_and_no_more() {
    let mut harness = HubHarness::with(Limits {
        unproven_per_address: 3,
        ..Limits::default()
    });
    let mut waiting: Vec<_> = (0..3)
        .map(|_| harness.connect_from(ip(1)).unwrap())
        .collect();
    assert_eq!(harness.connect_from(ip(1)), Err(Refusal::Full));
    assert!(
        harness.connect_from(ip(2)).is_ok(),
        "another address is another matter"
    );

    // Each way out makes room for one: a proof, a disconnect, a refusal, a timeout.
    let (proves, nonce) = waiting.pop().unwrap();
    harness.say(proves, &Frame::proof(&identity(1), &nonce, NAME));
    waiting.push(harness.connect_from(ip(1)).unwrap());
    assert_eq!(harness.connect_from(ip(1)), Err(Refusal::Full));
    harness.hub.handle_disconnect(waiting.pop().unwrap().0);
    waiting.push(harness.connect_from(ip(1)).unwrap());
    assert_eq!(harness.connect_from(ip(1)), Err(Refusal::Full));
    harness.say_bytes(waiting.pop().unwrap().0, b"");
    waiting.push(harness.connect_from(ip(1)).unwrap());
    assert_eq!(harness.connect_from(ip(1)), Err(Refusal::Full));
    assert_eq!(harness.pass(seconds(10)).len(), 4);
    for _ in 0..3 {
        harness.connect_from(ip(1)).unwrap();
    }
    assert_eq!(harness.connect_from(ip(1)), Err(Refusal::Full));
}

#[test]
fn many_identities_of_one_address_leave_places_for_others() {
    let mut harness = HubHarness::with(Limits {
        connections: 4,
        per_address: 3,
        ..Limits::default()
    });
    let login = |harness: &mut HubHarness, n: u16| {
        let (connection, nonce) = harness.connect_from(ip(1)).unwrap();
        harness.say(connection, &Frame::proof(&identity(n), &nonce, NAME));
        connection
    };
    let first = login(&mut harness, 1);
    login(&mut harness, 2);
    login(&mut harness, 3);
    assert_eq!(harness.connect_from(ip(1)), Err(Refusal::Full));
    assert!(harness.connect_from(ip(2)).is_ok());
    harness.hub.handle_disconnect(first);
    // The place of all connections, not the address's, is what is left.
    login(&mut harness, 4);
    assert_eq!(harness.hub.online(), 3);
}

#[test]
fn the_addresses_of_an_ipv6_network_count_as_one() {
    let mut harness = HubHarness::with(Limits {
        unproven_per_address: 3,
        ..Limits::default()
    });
    for host in 0..3_u16 {
        let source = [0x2001, 0xdb8, 0, 1, host, 0, 0, host].into();
        harness.connect_from(source).unwrap();
    }
    let same = [0x2001, 0xdb8, 0, 1, 9, 9, 9, 9].into();
    let other = [0x2001, 0xdb8, 0, 2, 9, 9, 9, 9].into();
    assert_eq!(harness.connect_from(same), Err(Refusal::Full));
    assert!(harness.connect_from(other).is_ok());

    // They are forgotten under the same name as they were counted.
    assert_eq!(harness.pass(seconds(10)).len(), 4);
    assert!(harness.connect_from(same).is_ok());
}

#[test]
fn the_hub_has_so_many_connections_and_no_more() {
    let mut harness = HubHarness::with(Limits {
        connections: 5,
        ..Limits::default()
    });
    let first = harness.client(1);
    for number in 2..6 {
        harness.connect_from(ip(number)).unwrap();
    }
    assert_eq!(harness.connect_from(ip(9)), Err(Refusal::Full));
    assert_eq!(harness.hub.counters().refused, 1);

    harness.hub.handle_disconnect(first);
    assert!(harness.connect_from(ip(9)).is_ok());
}

#[test]
fn connections_get_numbers_that_never_come_again() {
    let mut harness = HubHarness::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let (connection, _) = harness.connect();
        assert!(seen.insert(connection));
        harness.hub.handle_disconnect(connection);
    }
}

#[test]
fn what_one_source_sends_too_fast_waits_and_others_do_not() {
    let mut harness = HubHarness::with(Limits {
        source_rate: 100,
        source_burst: 40,
        ..Limits::default()
    });
    let (one, two) = (harness.client(1), harness.client(2));
    let (other, _) = harness.connect_from(ip(9)).unwrap();
    // Two clients of one source share its burst.
    for _ in 0..20 {
        assert_eq!(harness.hub.pace(one, harness.now), Duration::ZERO);
        assert_eq!(harness.hub.pace(two, harness.now), Duration::ZERO);
    }
    // The next frames wait in turn, 10 ms each at 100 a second.
    assert_eq!(harness.hub.pace(one, harness.now), milliseconds(10));
    assert_eq!(harness.hub.pace(two, harness.now), milliseconds(20));
    assert_eq!(harness.hub.pace(other, harness.now), Duration::ZERO);
    harness.now += milliseconds(30);
    assert_eq!(harness.hub.pace(one, harness.now), Duration::ZERO);
    // A wait closes nobody.
    assert_eq!(harness.hub.online(), 2);
}

#[test]
fn a_source_that_opens_too_many_connections_is_not_let_in_and_others_are() {
    let mut harness = HubHarness::with(Limits {
        connection_rate: 10,
        connection_burst: 10,
        ..Limits::default()
    });
    let opened = |harness: &mut HubHarness, from| {
        let tries = (0..50).filter(|_| harness.hub.may_open(from, harness.now));
        tries.count()
    };
    assert_eq!(opened(&mut harness, ip(1)), 10);
    assert_eq!(harness.hub.counters().refused, 40);
    assert_eq!(opened(&mut harness, ip(2)), 10);
    // Going away fills no bucket.
    harness.pass(milliseconds(500));
    assert_eq!(opened(&mut harness, ip(1)), 5);
    assert_eq!(harness.hub.sources(), 2);

    // A source is forgotten when its bucket is full again.
    harness.pass(seconds(1));
    assert_eq!(harness.hub.sources(), 0);
    assert_eq!(opened(&mut harness, ip(1)), 10);
}

#[test]
fn a_busy_client_keeps_nobody_behind_its_address_from_logging_in_and_the_other_way_round() {
    let mut harness = HubHarness::new();
    let busy = harness.client(1);
    // 4,000 frames at once are read at once, and what comes beyond waits.
    for _ in 0..5000 {
        harness.hub.pace(busy, harness.now);
    }
    assert_eq!(harness.hub.pace(busy, harness.now), milliseconds(1001));
    let opened = |harness: &mut HubHarness| {
        let tries = (0..1000).filter(|_| harness.hub.may_open(ip(1), harness.now));
        tries.count()
    };
    assert_eq!(opened(&mut harness), 400);
    // Nor do connections cost frames.
    assert_eq!(harness.hub.pace(busy, harness.now), milliseconds(1002));
    harness.now += seconds(1);
    assert_eq!(opened(&mut harness), 100);

    // The source is forgotten only when both buckets are full again.
    harness.hub.handle_disconnect(busy);
    harness.pass(milliseconds(3900));
    assert_eq!(harness.hub.sources(), 1);
    harness.pass(milliseconds(1200));
    assert_eq!(harness.hub.sources(), 0);
}

#[test]
fn sources_that_came_and_went_are_not_remembered_without_bound() {
    let mut harness = HubHarness::new();
    for network in 0..20_000_u16 {
        let source = [0x2001, 0xdb8, 0, network, 0, 0, 0, 1].into();
        assert!(harness.hub.may_open(source, harness.now));
    }
    assert_eq!(harness.hub.sources(), 4096);
    // One with a connection is never forgotten.
    let (kept, _) = harness.connect();
    for network in 20_000..40_000_u16 {
        let source = [0x2001, 0xdb8, 0, network, 0, 0, 0, 1].into();
        assert!(harness.hub.may_open(source, harness.now));
    }
    assert_eq!(harness.hub.sources(), 4097);
    harness.hub.handle_disconnect(kept);
    harness.pass(seconds(4));
    assert_eq!(harness.hub.sources(), 0);
}

#[test]
fn the_watches_of_one_source_and_of_all_are_bounded() {
    let mut harness = HubHarness::with(Limits {
        watches: WatchLimits {
            per_address: 5,
            in_all: 8,
            ..WatchLimits::default()
        },
        ..Limits::default()
    });
    let (one, two) = (harness.client(1), harness.client(2));
    for number in 10..20 {
        harness.say(one, &Frame::Watch(id(number)));
        harness.say(one, &Frame::Watch(id(number)));
        harness.say(two, &Frame::Watch(id(number)));
    }
    assert_eq!(harness.hub.watches(), 5, "of one source");
    let (other, nonce) = harness.connect_from(ip(2)).unwrap();
    harness.say(other, &Frame::proof(&identity(3), &nonce, NAME));
    for number in 10..20 {
        harness.say(other, &Frame::Watch(id(number)));
    }
    assert_eq!(harness.hub.watches(), 8, "of all");

    // What ends makes room, by whichever way it ends.
    harness.say(one, &Frame::Unwatch(id(10)));
    harness.say(one, &Frame::Unwatch(id(10)));
    assert_eq!(harness.hub.watches(), 7);
    harness.hub.handle_disconnect(one);
    assert_eq!(harness.hub.watches(), 5);
    harness.say(two, &Frame::Watch(id(30)));
    assert_eq!(harness.hub.watches(), 6);
    harness.hub.handle_disconnect(two);
    harness.hub.handle_disconnect(other);
    assert_eq!(harness.hub.watches(), 0);
}
