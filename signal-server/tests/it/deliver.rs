//! Envelopes: passed on unread, or answered "unreachable" at once.

use punch_signal::hub::Output;
use punch_signal_protocol::{Frame, MAX_ENVELOPE, Refusal, Unreachable};

use crate::hall::{Hall, closed, id, identity};

fn unreachable(to: u16, why: Unreachable) -> Frame {
    Frame::Unreachable { to: id(to), why }
}

#[test]
fn an_envelope_reaches_its_receiver_with_its_senders_name() {
    let mut hall = Hall::new();
    let (one, two) = (hall.client(1), hall.client(2));
    for length in [0, 1, 1300, MAX_ENVELOPE] {
        let envelope = vec![7; length];
        let deliver = Frame::Deliver {
            from: id(1),
            envelope: envelope.clone(),
        };
        assert_eq!(hall.send(one, 2, &envelope), [Output::Send(two, deliver)]);
    }
}

#[test]
fn an_envelope_to_nobody_online_is_answered_at_once() {
    let mut hall = Hall::new();
    let one = hall.client(1);
    let answer = Output::Send(one, unreachable(2, Unreachable::Offline));
    assert_eq!(hall.send(one, 2, b"x"), std::slice::from_ref(&answer));

    let two = hall.client(2);
    assert_eq!(hall.send(one, 2, b"x").len(), 1);
    hall.hub.handle_disconnect(two);
    assert_eq!(hall.send(one, 2, b"x"), [answer]);
}

#[test]
fn a_client_that_has_not_logged_in_receives_nothing() {
    let mut hall = Hall::new();
    let one = hall.client(1);
    hall.connect();
    let answer = Output::Send(one, unreachable(2, Unreachable::Offline));
    assert_eq!(hall.send(one, 2, b"x"), [answer]);
}

#[test]
fn an_envelope_to_oneself_comes_back() {
    let mut hall = Hall::new();
    let one = hall.client(1);
    let outputs = hall.send(one, 1, b"x");
    assert!(matches!(&outputs[..], [Output::Send(to, Frame::Deliver { .. })] if *to == one));
}

#[test]
fn an_envelope_that_is_too_long_closes_the_connection() {
    let mut hall = Hall::new();
    let (one, _) = (hall.client(1), hall.client(2));
    let outputs = hall.send(one, 2, &vec![0; MAX_ENVELOPE + 1]);
    assert_eq!(outputs, [closed(one, Refusal::BadFrame)]);
}

#[test]
fn an_envelope_that_found_a_full_queue_is_told_to_its_sender() {
    let mut hall = Hall::new();
    let (one, two) = (hall.client(1), hall.client(2));
    let outputs = hall.send(one, 2, b"x");
    let [Output::Send(_, frame)] = &outputs[..] else {
        panic!("{outputs:?}");
    };

    hall.hub.handle_overflow(two, frame);

    let told = Output::Send(one, unreachable(2, Unreachable::Full));
    assert_eq!(hall.outputs(), [told]);
}

#[test]
fn other_frames_that_found_a_full_queue_are_told_to_nobody() {
    let mut hall = Hall::new();
    let (one, two) = (hall.client(1), hall.client(2));
    let (unproven, _) = hall.connect();
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
        hall.hub.handle_overflow(connection, &frame);
        assert_eq!(hall.outputs(), []);
    }
    hall.hub.handle_disconnect(one);
    hall.hub.handle_overflow(two, &deliver);
    assert_eq!(hall.outputs(), [], "its sender has gone");
}

#[test]
fn a_frame_that_only_a_server_may_send_is_refused() {
    for frame in [
        Frame::Challenge([0; 32]),
        Frame::Welcome,
        Frame::Deliver {
            from: id(2),
            envelope: vec![1],
        },
        unreachable(2, Unreachable::Offline),
        Frame::Appeared(id(2)),
        Frame::Refused(Refusal::Full),
    ] {
        let mut hall = Hall::new();
        hall.client(2);
        let one = hall.client(1);
        assert_eq!(hall.say(one, &frame), [closed(one, Refusal::BadFrame)]);
        let (unproven, _) = hall.connect();
        assert_eq!(
            hall.say(unproven, &frame),
            [closed(unproven, Refusal::BadFrame)]
        );
        assert_eq!(hall.hub.online(), 1);
    }
}

#[test]
fn what_a_closed_connection_says_is_not_heard() {
    let mut hall = Hall::new();
    let (one, _two) = (hall.client(1), hall.client(2));
    hall.say_bytes(one, b"nonsense");
    assert_eq!(hall.send(one, 2, b"x"), []);
    hall.hub.handle_alive(one, hall.now);
    hall.hub.handle_disconnect(one);
    hall.hub.handle_disconnect(one);
    assert_eq!(hall.outputs(), []);
    assert_eq!(hall.hub.online(), 1);
}

#[test]
fn a_proof_can_be_as_long_as_the_longest_name() {
    let mut hall = Hall::new();
    let (connection, nonce) = hall.connect();
    let name = "n".repeat(punch_signal_protocol::MAX_SERVER_NAME);
    assert_eq!(
        hall.say(connection, &Frame::proof(&identity(1), &nonce, &name))
            .len(),
        1
    );
    assert_eq!(hall.hub.online(), 1);
    let (connection, nonce) = hall.connect();
    let outputs = hall.say(
        connection,
        &Frame::proof(&identity(2), &nonce, &format!("{name}n")),
    );
    assert_eq!(outputs, [closed(connection, Refusal::BadFrame)]);
}
