//! Envelopes: passed on unread, or answered "unreachable" at once.

use punch_signal::hub::Output;
use punch_signal_protocol::{
    Capabilities, Frame, MAX_ENVELOPE, Refusal, RelayLink, RelayToken, Unreachable,
};

use crate::hub_harness::{HubHarness, closed, id, identity, welcome};

fn unreachable(to: u16, why: Unreachable) -> Frame {
    Frame::Unreachable { to: id(to), why }
}

#[test]
fn an_envelope_reaches_its_receiver_with_its_senders_name() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    for length in [0, 1, 1300, MAX_ENVELOPE] {
        let envelope = vec![7; length];
        let deliver = Frame::Deliver {
            from: id(1),
            envelope: envelope.clone(),
        };
        assert_eq!(
            harness.send(one, 2, &envelope),
            [Output::Send(two, deliver)]
        );
    }
}

#[test]
fn an_envelope_to_nobody_online_is_answered_at_once() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    let answer = Output::Send(one, unreachable(2, Unreachable::Offline));
    assert_eq!(harness.send(one, 2, b"x"), std::slice::from_ref(&answer));

    let two = harness.client(2);
    assert_eq!(harness.send(one, 2, b"x").len(), 1);
    harness.hub.handle_disconnect(two);
    assert_eq!(harness.send(one, 2, b"x"), [answer]);
}

#[test]
fn a_client_that_has_not_logged_in_receives_nothing() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    harness.connect();
    let answer = Output::Send(one, unreachable(2, Unreachable::Offline));
    assert_eq!(harness.send(one, 2, b"x"), [answer]);
}

#[test]
fn an_envelope_to_oneself_comes_back() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    let outputs = harness.send(one, 1, b"x");
    assert!(matches!(&outputs[..], [Output::Send(to, Frame::Deliver { .. })] if *to == one));
}

#[test]
fn an_envelope_that_is_too_long_closes_the_connection() {
    let mut harness = HubHarness::new();
    let (one, _) = (harness.client(1), harness.client(2));
    let outputs = harness.send(one, 2, &vec![0; MAX_ENVELOPE + 1]);
    assert_eq!(outputs, [closed(one, Refusal::BadFrame)]);
}

#[test]
fn an_envelope_that_found_a_full_queue_is_told_to_its_sender() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    let outputs = harness.send(one, 2, b"x");
    let [Output::Send(_, frame)] = &outputs[..] else {
        panic!("{outputs:?}");
    };

    harness.hub.handle_overflow(two, frame);

    let told = Output::Send(one, unreachable(2, Unreachable::Full));
    assert_eq!(harness.outputs(), [told]);
}

#[test]
fn other_frames_that_found_a_full_queue_are_told_to_nobody() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    let (unproven, _) = harness.connect();
    let deliver = Frame::Deliver {
        from: id(1),
        envelope: vec![],
    };
    for (connection, frame) in [
        (two, Frame::Appeared(id(1))),
        (two, unreachable(1, Unreachable::Offline)),
        (two, Frame::Welcome),
        (unproven, Frame::Challenge([0; 32])),
        (unproven, deliver.clone()),
    ] {
        harness.hub.handle_overflow(connection, &frame);
        assert_eq!(harness.outputs(), []);
    }
    harness.hub.handle_disconnect(one);
    harness.hub.handle_overflow(two, &deliver);
    assert_eq!(harness.outputs(), [], "its sender has gone");
}

#[test]
fn a_frame_that_only_a_server_may_send_is_refused() {
    for frame in [
        Frame::Challenge([0; 32]),
        Frame::Welcome,
        Frame::ServerCapabilities(Capabilities::OURS),
        Frame::RelayReady {
            token: RelayToken([1; 16]),
            link: RelayLink(1),
        },
        Frame::RelayGone(RelayLink(1)),
        Frame::Deliver {
            from: id(2),
            envelope: vec![1],
        },
        unreachable(2, Unreachable::Offline),
        Frame::Appeared(id(2)),
        Frame::Refused(Refusal::Full),
    ] {
        let mut harness = HubHarness::new();
        harness.client(2);
        let one = harness.client(1);
        assert_eq!(harness.say(one, &frame), [closed(one, Refusal::BadFrame)]);
        let (unproven, _) = harness.connect();
        assert_eq!(
            harness.say(unproven, &frame),
            [closed(unproven, Refusal::BadFrame)]
        );
        assert_eq!(harness.hub.online(), 1);
    }
}

#[test]
fn what_a_closed_connection_says_is_not_heard() {
    let mut harness = HubHarness::new();
    let (one, _two) = (harness.client(1), harness.client(2));
    harness.say_bytes(one, b"nonsense");
    assert_eq!(harness.send(one, 2, b"x"), []);
    harness.hub.handle_alive(one, harness.now);
    harness.hub.handle_disconnect(one);
    harness.hub.handle_disconnect(one);
    assert_eq!(harness.outputs(), []);
    assert_eq!(harness.hub.online(), 1);
}

#[test]
fn a_proof_can_be_as_long_as_the_longest_name() {
    let mut harness = HubHarness::new();
    let (connection, nonce) = harness.connect();
    let name = "n".repeat(punch_signal_protocol::MAX_SERVER_NAME);
    let outputs = harness.say(connection, &Frame::proof(&identity(1), &nonce, &name));
    assert_eq!(outputs, welcome(connection));
    assert_eq!(harness.hub.online(), 1);
    let (connection, nonce) = harness.connect();
    let outputs = harness.say(
        connection,
        &Frame::proof(&identity(2), &nonce, &format!("{name}n")),
    );
    assert_eq!(outputs, [closed(connection, Refusal::BadFrame)]);
}
