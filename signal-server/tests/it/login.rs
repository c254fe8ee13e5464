//! A client proves its identity by signing a challenge, for this server and no other.

use punch_signal::hub::{Counters, Limits, Output};
use punch_signal_protocol::{Frame, Refusal, login_message};

use crate::hall::{Hall, NAME, closed, id, identity, ip, seconds, welcome};

fn named(name: &str) -> Hall {
    Hall::with(Limits {
        name: Some(name.to_owned()),
        ..Limits::default()
    })
}

#[test]
fn a_signed_challenge_is_welcome() {
    let mut hall = Hall::new();
    let (connection, nonce) = hall.connect();
    assert_eq!(hall.hub.online(), 0);

    let outputs = hall.say(connection, &Frame::proof(&identity(1), &nonce, NAME));

    assert_eq!(outputs, [welcome(connection)]);
    assert_eq!(hall.hub.online(), 1);
    assert_eq!(hall.hub.counters().logins, 1);
}

#[test]
fn a_signature_of_another_challenge_is_refused() {
    let mut hall = Hall::new();
    let (_, other) = hall.connect();
    let (connection, _) = hall.connect();
    let outputs = hall.say(connection, &Frame::proof(&identity(1), &other, NAME));
    assert_eq!(outputs, [closed(connection, Refusal::BadProof)]);
    assert_eq!(hall.hub.online(), 0);
}

#[test]
fn a_signature_of_somebody_else_is_refused() {
    let mut hall = Hall::new();
    let (connection, nonce) = hall.connect();
    let proof = Frame::Proof {
        id: id(1),
        signature: identity(2).sign(&login_message(&nonce, NAME)),
        server: NAME.to_owned(),
    };
    assert_eq!(
        hall.say(connection, &proof),
        [closed(connection, Refusal::BadProof)]
    );
}

#[test]
fn a_changed_signature_is_refused() {
    for index in [0, 31, 32, 63] {
        let mut hall = Hall::new();
        let (connection, nonce) = hall.connect();
        let mut bytes = Frame::proof(&identity(1), &nonce, NAME).encode();
        bytes[34 + index] ^= 1;
        let outputs = hall.say_bytes(connection, &bytes);
        assert_eq!(outputs, [closed(connection, Refusal::BadProof)]);
    }
}

#[test]
fn a_signature_for_another_server_is_refused() {
    // Signed for another server, which plays it to this one: the name is part of what is signed.
    let mut hall = named("signal.example");
    let (connection, nonce) = hall.connect();
    let stolen = Frame::proof(&identity(1), &nonce, "evil.example:443");
    assert_eq!(
        hall.say(connection, &stolen),
        [closed(connection, Refusal::WrongServer)]
    );

    let (connection, nonce) = hall.connect();
    let renamed = Frame::Proof {
        id: id(1),
        signature: identity(1).sign(&login_message(&nonce, "evil.example:443")),
        server: NAME.to_owned(),
    };
    assert_eq!(
        hall.say(connection, &renamed),
        [closed(connection, Refusal::BadProof)]
    );
    assert_eq!(hall.hub.counters().refused, 2);
}

#[test]
fn a_server_goes_by_its_name_with_and_without_port() {
    for (name, dialled, good) in [
        ("signal.example", "signal.example", true),
        ("signal.example", "signal.example:443", true),
        ("signal.example", "signal.example:9000", true),
        ("signal.example:443", "signal.example:443", true),
        ("signal.example:443", "signal.example:444", false),
        ("signal.example:443", "signal.example", false),
        ("signal.example", "xsignal.example", false),
        ("signal.example", "signal.example.evil", false),
        ("signal.example", "", false),
        ("signal.example", ":443", false),
        ("[2001:db8::1]", "[2001:db8::1]:443", true),
        ("192.0.2.1", "192.0.2.1:443", true),
    ] {
        let mut hall = named(name);
        let (connection, nonce) = hall.connect();
        let outputs = hall.say(connection, &Frame::proof(&identity(1), &nonce, dialled));
        let expected = if good {
            welcome(connection)
        } else {
            closed(connection, Refusal::WrongServer)
        };
        assert_eq!(outputs, [expected], "{name} dialled as {dialled}");
    }
}

#[test]
fn a_server_without_a_name_goes_by_any() {
    for dialled in ["a", "127.0.0.1:8080", ""] {
        let mut hall = Hall::new();
        let (connection, nonce) = hall.connect();
        let outputs = hall.say(connection, &Frame::proof(&identity(1), &nonce, dialled));
        assert_eq!(outputs, [welcome(connection)]);
    }
}

#[test]
fn a_second_proof_is_refused() {
    let mut hall = Hall::new();
    let (connection, nonce) = hall.connect();
    let proof = Frame::proof(&identity(1), &nonce, NAME);
    hall.say(connection, &proof);
    assert_eq!(
        hall.say(connection, &proof),
        [closed(connection, Refusal::BadFrame)]
    );
    assert_eq!(hall.hub.online(), 0);
}

#[test]
fn nothing_but_a_proof_is_heard_before_the_login() {
    for frame in [
        Frame::Send {
            to: id(2),
            envelope: vec![1],
        },
        Frame::Watch(id(2)),
        Frame::Unwatch(id(2)),
    ] {
        let mut hall = Hall::new();
        let receiver = hall.client(2);
        let (connection, _) = hall.connect();
        let outputs = hall.say(connection, &frame);
        assert_eq!(outputs, [closed(connection, Refusal::BadFrame)]);
        assert_ne!(connection, receiver);
    }
}

#[test]
fn the_newest_connection_of_an_identity_counts() {
    let mut hall = Hall::new();
    let old = hall.client(1);
    let sender = hall.client(2);
    let (new, nonce) = hall.connect();

    let outputs = hall.say(new, &Frame::proof(&identity(1), &nonce, NAME));
    assert_eq!(outputs, [closed(old, Refusal::Replaced), welcome(new)]);
    assert_eq!(hall.hub.online(), 2);
    let outputs = hall.send(sender, 1, b"x");
    assert!(matches!(&outputs[..], [Output::Send(to, Frame::Deliver { .. })] if *to == new));

    // What the old connection still says, and its end, change nothing.
    assert_eq!(hall.say(old, &Frame::Watch(id(2))), []);
    hall.hub.handle_disconnect(old);
    assert_eq!(hall.hub.online(), 2);
    assert_eq!(hall.send(sender, 1, b"x").len(), 1);
}

#[test]
fn the_watches_of_a_replaced_connection_are_over() {
    let mut hall = Hall::new();
    let old = hall.client(1);
    hall.say(old, &Frame::Watch(id(3)));
    hall.client(1);
    let (third, nonce) = hall.connect();
    let outputs = hall.say(third, &Frame::proof(&identity(3), &nonce, NAME));
    assert_eq!(outputs, [welcome(third)]);
}

#[test]
fn a_login_that_takes_too_long_is_closed() {
    let mut hall = Hall::new();
    let (connection, nonce) = hall.connect();
    assert_eq!(hall.pass(seconds(9)), []);
    // A WebSocket ping is no login.
    hall.hub.handle_alive(connection, hall.now);

    assert_eq!(
        hall.pass(seconds(1)),
        [closed(connection, Refusal::TimedOut)]
    );

    assert_eq!(
        hall.say(connection, &Frame::proof(&identity(1), &nonce, NAME)),
        []
    );
    assert_eq!(hall.hub.online(), 0);
}

#[test]
fn a_client_that_is_silent_for_too_long_is_closed() {
    let mut hall = Hall::new();
    let silent = hall.client(1);
    let pings = hall.client(2);
    let speaks = hall.client(3);
    assert_eq!(hall.pass(seconds(50)), []);
    hall.hub.handle_alive(pings, hall.now);
    hall.say(speaks, &Frame::Watch(id(1)));

    assert_eq!(hall.pass(seconds(25)), [closed(silent, Refusal::TimedOut)]);

    assert_eq!(hall.hub.online(), 2);
    assert_eq!(hall.pass(seconds(49)), []);
}

#[test]
fn counters_count() {
    let mut hall = Hall::new();
    let one = hall.client(1);
    let _two = hall.client(2);
    hall.send(one, 2, b"x");
    hall.send(one, 2, b"y");
    hall.send(one, 9, b"z");
    let (connection, _) = hall.connect_from(ip(9)).unwrap();
    hall.say_bytes(connection, b"");
    let counters = Counters {
        logins: 2,
        delivered: 2,
        unreachable: 1,
        refused: 1,
    };
    assert_eq!(hall.hub.counters(), counters);
}
