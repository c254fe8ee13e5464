//! What bounds a client: rate, watches, connections.

use punch_signal::hub::{Limits, Output};
use punch_signal_protocol::{Frame, Refusal};

use crate::hall::{Hall, NAME, closed, id, identity, ip, seconds};

#[test]
fn a_client_that_sends_too_fast_is_closed() {
    let mut hall = Hall::new();
    let (one, _two) = (hall.client(1), hall.client(2));
    // The login was the first of its burst of 200.
    for number in 1..200 {
        let outputs = hall.send(one, 2, b"x");
        assert!(matches!(outputs[..], [Output::Send(..)]), "frame {number}");
    }
    assert_eq!(hall.send(one, 2, b"x"), [closed(one, Refusal::TooFast)]);
    assert_eq!(hall.hub.online(), 1);
}

#[test]
fn a_client_may_send_fifty_frames_a_second_for_ever() {
    let mut hall = Hall::new();
    let (one, _two) = (hall.client(1), hall.client(2));
    for _ in 0..600 {
        hall.now += seconds(1);
        for _ in 0..50 {
            assert!(matches!(hall.send(one, 2, b"x")[..], [Output::Send(..)]));
        }
    }
}

#[test]
fn a_pause_gives_no_more_than_one_burst() {
    let mut hall = Hall::new();
    let (one, two) = (hall.client(1), hall.client(2));
    for _ in 0..100 {
        hall.now += seconds(60);
        hall.hub.handle_alive(one, hall.now);
        hall.hub.handle_alive(two, hall.now);
        hall.hub.handle_timeout(hall.now);
    }
    let mut passed = 0;
    while matches!(hall.send(one, 2, b"x")[..], [Output::Send(..)]) {
        passed += 1;
    }
    assert_eq!(passed, 200);
}

#[test]
fn the_rate_counts_before_the_login_too() {
    let mut hall = Hall::with(Limits {
        burst: 1,
        rate: 1,
        ..Limits::default()
    });
    let (connection, nonce) = hall.connect();
    hall.say(connection, &Frame::proof(&identity(1), &nonce, NAME));
    assert_eq!(
        hall.say(connection, &Frame::Watch(id(2))),
        [closed(connection, Refusal::TooFast)]
    );
}

#[test]
fn one_clients_haste_is_no_others_loss() {
    let mut hall = Hall::new();
    let (one, two) = (hall.client(1), hall.client(2));
    while matches!(hall.send(one, 2, b"x")[..], [Output::Send(..)]) {}
    assert!(matches!(hall.send(two, 2, b"x")[..], [Output::Send(..)]));
}

#[test]
fn a_client_may_watch_so_many_and_no_more() {
    let mut hall = Hall::with(Limits {
        watches: 3,
        ..Limits::default()
    });
    let one = hall.client(1);
    for number in 10..13 {
        assert_eq!(hall.say(one, &Frame::Watch(id(number))), []);
    }
    // One that is watched already is none more; one given up makes room.
    assert_eq!(hall.say(one, &Frame::Watch(id(11))), []);
    hall.say(one, &Frame::Unwatch(id(10)));
    assert_eq!(hall.say(one, &Frame::Watch(id(13))), []);

    // One too many is passed over, and the client stays.
    hall.client(14);
    assert_eq!(hall.say(one, &Frame::Watch(id(14))), []);
    assert_eq!(hall.hub.online(), 2);
    hall.say(one, &Frame::Unwatch(id(11)));
    assert_eq!(
        hall.say(one, &Frame::Watch(id(14))),
        [Output::Send(one, Frame::Appeared(id(14)))]
    );
}

#[test]
fn one_address_may_have_so_many_connections_under_way_and_no_more() {
    let mut hall = Hall::with(Limits {
        unproven_per_address: 3,
        ..Limits::default()
    });
    let mut waiting: Vec<_> = (0..3).map(|_| hall.connect_from(ip(1)).unwrap()).collect();
    assert_eq!(hall.connect_from(ip(1)), Err(Refusal::Full));
    assert!(
        hall.connect_from(ip(2)).is_ok(),
        "another address is another matter"
    );

    // Each way out makes room for one: a proof, a disconnect, a refusal, a timeout.
    let (proves, nonce) = waiting.pop().unwrap();
    hall.say(proves, &Frame::proof(&identity(1), &nonce, NAME));
    waiting.push(hall.connect_from(ip(1)).unwrap());
    assert_eq!(hall.connect_from(ip(1)), Err(Refusal::Full));
    hall.hub.handle_disconnect(waiting.pop().unwrap().0);
    waiting.push(hall.connect_from(ip(1)).unwrap());
    assert_eq!(hall.connect_from(ip(1)), Err(Refusal::Full));
    hall.say_bytes(waiting.pop().unwrap().0, b"");
    waiting.push(hall.connect_from(ip(1)).unwrap());
    assert_eq!(hall.connect_from(ip(1)), Err(Refusal::Full));
    assert_eq!(hall.pass(seconds(10)).len(), 4);
    for _ in 0..3 {
        hall.connect_from(ip(1)).unwrap();
    }
    assert_eq!(hall.connect_from(ip(1)), Err(Refusal::Full));
}

#[test]
fn many_identities_of_one_address_leave_places_for_others() {
    let mut hall = Hall::with(Limits {
        connections: 4,
        per_address: 3,
        ..Limits::default()
    });
    let login = |hall: &mut Hall, n: u16| {
        let (connection, nonce) = hall.connect_from(ip(1)).unwrap();
        hall.say(connection, &Frame::proof(&identity(n), &nonce, NAME));
        connection
    };
    let first = login(&mut hall, 1);
    login(&mut hall, 2);
    login(&mut hall, 3);
    assert_eq!(hall.connect_from(ip(1)), Err(Refusal::Full));
    assert!(hall.connect_from(ip(2)).is_ok());
    hall.hub.handle_disconnect(first);
    // The place of all connections, not the address's, is what is left.
    login(&mut hall, 4);
    assert_eq!(hall.hub.online(), 3);
}

#[test]
fn the_addresses_of_an_ipv6_network_count_as_one() {
    let mut hall = Hall::with(Limits {
        unproven_per_address: 3,
        ..Limits::default()
    });
    for host in 0..3_u16 {
        let source = [0x2001, 0xdb8, 0, 1, host, 0, 0, host].into();
        hall.connect_from(source).unwrap();
    }
    let same = [0x2001, 0xdb8, 0, 1, 9, 9, 9, 9].into();
    let other = [0x2001, 0xdb8, 0, 2, 9, 9, 9, 9].into();
    assert_eq!(hall.connect_from(same), Err(Refusal::Full));
    assert!(hall.connect_from(other).is_ok());

    // They are forgotten under the same name as they were counted.
    assert_eq!(hall.pass(seconds(10)).len(), 4);
    assert!(hall.connect_from(same).is_ok());
}

#[test]
fn the_hub_has_so_many_connections_and_no_more() {
    let mut hall = Hall::with(Limits {
        connections: 5,
        ..Limits::default()
    });
    let first = hall.client(1);
    for number in 2..6 {
        hall.connect_from(ip(number)).unwrap();
    }
    assert_eq!(hall.connect_from(ip(9)), Err(Refusal::Full));
    assert_eq!(hall.hub.counters().refused, 1);

    hall.hub.handle_disconnect(first);
    assert!(hall.connect_from(ip(9)).is_ok());
}

#[test]
fn connections_get_numbers_that_never_come_again() {
    let mut hall = Hall::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let (connection, _) = hall.connect();
        assert!(seen.insert(connection));
        hall.hub.handle_disconnect(connection);
    }
}
