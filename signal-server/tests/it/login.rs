//! A client proves its identity by signing a challenge, for this server and no other.

use punch_signal::hub::{Counters, Limits, Output};
use punch_signal_protocol::{Capabilities, Capability, Frame, Refusal, login_message};

use crate::hub_harness::{HubHarness, NAME, closed, id, identity, ip, seconds, welcome};

fn named(name: &str) -> HubHarness {
    HubHarness::with(Limits {
        name: Some(name.to_owned()),
        ..Limits::default()
    })
}

#[test]
fn a_signed_challenge_is_welcome() {
    let mut harness = HubHarness::new();
    let (connection, nonce) = harness.connect();
    assert_eq!(harness.hub.online(), 0);

    let outputs = harness.say(connection, &Frame::proof(&identity(1), &nonce, NAME));

    assert_eq!(outputs, welcome(connection));
    assert_eq!(harness.hub.online(), 1);
    assert_eq!(harness.hub.counters().logins, 1);
}

#[test]
fn a_signature_of_another_challenge_is_refused() {
    let mut harness = HubHarness::new();
    let (_, other) = harness.connect();
    let (connection, _) = harness.connect();
    let outputs = harness.say(connection, &Frame::proof(&identity(1), &other, NAME));
    assert_eq!(outputs, [closed(connection, Refusal::BadProof)]);
    assert_eq!(harness.hub.online(), 0);
}

#[test]
fn a_signature_of_somebody_else_is_refused() {
    let mut harness = HubHarness::new();
    let (connection, nonce) = harness.connect();
    let proof = Frame::Proof {
        id: id(1),
        signature: identity(2).sign(&login_message(&nonce, NAME)),
        server: NAME.to_owned(),
    };
    assert_eq!(
        harness.say(connection, &proof),
        [closed(connection, Refusal::BadProof)]
    );
}

#[test]
fn a_changed_signature_is_refused() {
    for index in [0, 31, 32, 63] {
        let mut harness = HubHarness::new();
        let (connection, nonce) = harness.connect();
        let mut bytes = Frame::proof(&identity(1), &nonce, NAME).encode();
        bytes[34 + index] ^= 1;
        let outputs = harness.say_bytes(connection, &bytes);
        assert_eq!(outputs, [closed(connection, Refusal::BadProof)]);
    }
}

#[test]
fn a_signature_for_another_server_is_refused() {
    // Signed for another server, which plays it to this one: the name is part of what is signed.
    let mut harness = named("signal.example");
    let (connection, nonce) = harness.connect();
    let stolen = Frame::proof(&identity(1), &nonce, "evil.example:443");
    assert_eq!(
        harness.say(connection, &stolen),
        [closed(connection, Refusal::WrongServer)]
    );

    let (connection, nonce) = harness.connect();
    let renamed = Frame::Proof {
        id: id(1),
        signature: identity(1).sign(&login_message(&nonce, "evil.example:443")),
        server: NAME.to_owned(),
    };
    assert_eq!(
        harness.say(connection, &renamed),
        [closed(connection, Refusal::BadProof)]
    );
    assert_eq!(harness.hub.counters().refused, 2);
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
        let mut harness = named(name);
        let (connection, nonce) = harness.connect();
        let outputs = harness.say(connection, &Frame::proof(&identity(1), &nonce, dialled));
        let expected = if good {
            welcome(connection).to_vec()
        } else {
            vec![closed(connection, Refusal::WrongServer)]
        };
        assert_eq!(outputs, expected, "{name} dialled as {dialled}");
    }
}

#[test]
fn a_server_without_a_name_goes_by_any() {
    for dialled in ["a", "127.0.0.1:8080", ""] {
        let mut harness = HubHarness::new();
        let (connection, nonce) = harness.connect();
        let outputs = harness.say(connection, &Frame::proof(&identity(1), &nonce, dialled));
        assert_eq!(outputs, welcome(connection));
    }
}

#[test]
fn a_second_proof_is_refused() {
    let mut harness = HubHarness::new();
    let (connection, nonce) = harness.connect();
    let proof = Frame::proof(&identity(1), &nonce, NAME);
    harness.say(connection, &proof);
    assert_eq!(
        harness.say(connection, &proof),
        [closed(connection, Refusal::BadFrame)]
    );
    assert_eq!(harness.hub.online(), 0);
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
        Frame::ClientCapabilities(Capabilities::OURS),
    ] {
        let mut harness = HubHarness::new();
        let receiver = harness.client(2);
        let (connection, _) = harness.connect();
        let outputs = harness.say(connection, &frame);
        assert_eq!(outputs, [closed(connection, Refusal::BadFrame)]);
        assert_ne!(connection, receiver);
    }
}

#[test]
fn the_newest_connection_of_an_identity_counts() {
    let mut harness = HubHarness::new();
    let old = harness.client(1);
    let sender = harness.client(2);
    let (new, nonce) = harness.connect();

    let outputs = harness.say(new, &Frame::proof(&identity(1), &nonce, NAME));
    assert_eq!(outputs[..1], [closed(old, Refusal::Replaced)]);
    assert_eq!(outputs[1..], welcome(new));
    assert_eq!(harness.hub.online(), 2);
    let outputs = harness.send(sender, 1, b"x");
    assert!(matches!(&outputs[..], [Output::Send(to, Frame::Deliver { .. })] if *to == new));

    // What the old connection still says, and its end, change nothing.
    assert_eq!(harness.say(old, &Frame::Watch(id(2))), []);
    harness.hub.handle_disconnect(old);
    assert_eq!(harness.hub.online(), 2);
    assert_eq!(harness.send(sender, 1, b"x").len(), 1);
}

#[test]
fn the_watches_of_a_replaced_connection_are_over() {
    let mut harness = HubHarness::new();
    let old = harness.client(1);
    harness.say(old, &Frame::Watch(id(3)));
    harness.client(1);
    let (third, nonce) = harness.connect();
    let outputs = harness.say(third, &Frame::proof(&identity(3), &nonce, NAME));
    assert_eq!(outputs, welcome(third));
}

#[test]
fn after_the_login_a_client_may_tell_what_it_can_and_the_last_word_counts() {
    let mut harness = HubHarness::new();
    let client = harness.client(1);
    assert_eq!(harness.hub.capabilities(client), Capabilities::NONE);

    for told in [Capabilities::OURS, Capabilities::NONE, Capabilities::OURS] {
        let outputs = harness.say(client, &Frame::ClientCapabilities(told));
        assert_eq!(outputs, []);
        assert_eq!(harness.hub.capabilities(client), told);
    }

    // Of what a newer client can do the numbers that are known here are kept, and a set that is too long is no set.
    assert_eq!(harness.say_bytes(client, &[5, 0xFF, 0xFF, 0xFF]), []);
    let all = Capabilities::RELAYED_PEER.with(Capability::WantsWhole);
    assert_eq!(harness.hub.capabilities(client), all);
    assert_eq!(
        harness.say_bytes(client, &[5; 34]),
        [closed(client, Refusal::BadFrame)]
    );
    assert_eq!(harness.hub.capabilities(client), Capabilities::NONE);
}

#[test]
fn a_login_that_takes_too_long_is_closed() {
    let mut harness = HubHarness::new();
    let (connection, nonce) = harness.connect();
    assert_eq!(harness.pass(seconds(9)), []);
    // A WebSocket ping is no login.
    harness.hub.handle_alive(connection, harness.now);

    assert_eq!(
        harness.pass(seconds(1)),
        [closed(connection, Refusal::TimedOut)]
    );

    assert_eq!(
        harness.say(connection, &Frame::proof(&identity(1), &nonce, NAME)),
        []
    );
    assert_eq!(harness.hub.online(), 0);
}

#[test]
fn a_client_that_is_silent_for_too_long_is_closed() {
    let mut harness = HubHarness::new();
    let silent = harness.client(1);
    let pings = harness.client(2);
    let speaks = harness.client(3);
    assert_eq!(harness.pass(seconds(50)), []);
    harness.hub.handle_alive(pings, harness.now);
    harness.say(speaks, &Frame::Watch(id(1)));

    assert_eq!(
        harness.pass(seconds(25)),
        [closed(silent, Refusal::TimedOut)]
    );

    assert_eq!(harness.hub.online(), 2);
    assert_eq!(harness.pass(seconds(49)), []);
}

#[test]
fn counters_count() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    let _two = harness.client(2);
    harness.send(one, 2, b"x");
    harness.send(one, 2, b"y");
    harness.send(one, 9, b"z");
    let (connection, _) = harness.connect_from(ip(9)).unwrap();
    harness.say_bytes(connection, b"");
    let counters = Counters {
        logins: 2,
        delivered: 2,
        unreachable: 1,
        refused: 1,
        unknown_links: 0,
    };
    assert_eq!(harness.hub.counters(), counters);
}
