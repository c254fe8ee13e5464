//! What a client and punch-signal say to each other.

use proptest::prelude::*;
use punch_signal_protocol::{
    Capabilities, Capability, DecodeError, Frame, MAX_CAPABILITIES, MAX_ENVELOPE, MAX_FRAME,
    MAX_SERVER_NAME, PeerId, Refusal, RelayLink, RelayToken, Unreachable,
};

use crate::{hex, machine};

const KEY: &str = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";

fn every_frame() -> Vec<(Frame, Vec<u8>)> {
    let id = machine(7).id();
    let proof = Frame::Proof {
        id,
        signature: [0x5A; 64],
        server: "a.example:443".to_owned(),
    };
    let send = Frame::Send {
        to: id,
        envelope: vec![0xDE, 0xAD],
    };
    let deliver = Frame::Deliver {
        from: id,
        envelope: vec![0xBE, 0xEF],
    };
    let unreachable = |why| Frame::Unreachable { to: id, why };
    [
        (
            proof,
            format!(
                "01 01 {KEY} {} 61 2e 65 78 61 6d 70 6c 65 3a 34 34 33",
                "5a".repeat(64)
            ),
        ),
        (send, format!("02 {KEY} dead")),
        (Frame::Watch(id), format!("03 {KEY}")),
        (Frame::Unwatch(id), format!("04 {KEY}")),
        (
            Frame::Challenge([0xC5; 32]),
            format!("40 01 {}", "c5".repeat(32)),
        ),
        (Frame::Welcome, "41".to_owned()),
        (deliver, format!("42 {KEY} beef")),
        (unreachable(Unreachable::Offline), format!("43 {KEY} 01")),
        (unreachable(Unreachable::Full), format!("43 {KEY} 02")),
        (unreachable(Unreachable::TooFast), format!("43 {KEY} 03")),
        (Frame::Appeared(id), format!("44 {KEY}")),
        (Frame::Refused(Refusal::BadProof), "45 01".to_owned()),
        (Frame::Refused(Refusal::WrongServer), "45 02".to_owned()),
        (Frame::Refused(Refusal::Replaced), "45 03".to_owned()),
        (Frame::Refused(Refusal::Full), "45 04".to_owned()),
        (Frame::Refused(Refusal::BadFrame), "45 05".to_owned()),
        (Frame::Refused(Refusal::TimedOut), "45 06".to_owned()),
        (Frame::Refused(Refusal::TooSlow), "45 07".to_owned()),
        (Frame::Refused(Refusal::TooFast), "45 08".to_owned()),
        (
            Frame::RelayJoin(RelayToken([0x7C; 16])),
            format!("06 {}", "7c".repeat(16)),
        ),
        (
            Frame::RelayLeave(RelayLink(0x0102_0304)),
            "07 01020304".to_owned(),
        ),
        (
            Frame::RelayReady {
                token: RelayToken([0x7C; 16]),
                link: RelayLink(9),
            },
            format!("47 {} 00000009", "7c".repeat(16)),
        ),
        (Frame::RelayGone(RelayLink(9)), "48 00000009".to_owned()),
        (
            Frame::ClientCapabilities(Capabilities::NONE),
            "05".to_owned(),
        ),
        (
            Frame::ClientCapabilities(Capabilities::OURS),
            "05 01".to_owned(),
        ),
        (
            Frame::ServerCapabilities(Capabilities::NONE),
            "46".to_owned(),
        ),
        (
            Frame::ServerCapabilities(Capabilities::OURS),
            "46 01".to_owned(),
        ),
    ]
    .map(|(frame, bytes)| (frame, hex(&bytes)))
    .into()
}

#[test]
fn each_frame_has_its_bytes_for_ever() {
    for (frame, bytes) in every_frame() {
        assert_eq!(frame.encode(), bytes, "{frame:?}");
        assert_eq!(Frame::decode(&bytes), Ok(frame));
    }
}

#[test]
fn the_limits_are_part_of_the_protocol() {
    assert_eq!(
        (MAX_ENVELOPE, MAX_FRAME, MAX_SERVER_NAME),
        (4096, 4160, 261)
    );
}

#[test]
fn a_frame_cut_anywhere_is_refused_unless_its_end_is_free() {
    for (frame, bytes) in every_frame() {
        let free = match &frame {
            Frame::Proof { server, .. } => server.len(),
            Frame::Send { envelope, .. } | Frame::Deliver { envelope, .. } => envelope.len(),
            Frame::ClientCapabilities(_) | Frame::ServerCapabilities(_) => bytes.len() - 1,
            _ => 0,
        };
        for length in 0..bytes.len() - free {
            assert_eq!(
                Frame::decode(&bytes[..length]),
                Err(DecodeError::Truncated),
                "{frame:?} {length}"
            );
        }
    }
}

#[test]
fn a_byte_behind_a_frame_of_fixed_length_is_refused() {
    for (frame, mut bytes) in every_frame() {
        if matches!(
            frame,
            Frame::Proof { .. }
                | Frame::Send { .. }
                | Frame::Deliver { .. }
                | Frame::ClientCapabilities(_)
                | Frame::ServerCapabilities(_)
        ) {
            continue;
        }
        bytes.push(0);

        assert_eq!(
            Frame::decode(&bytes),
            Err(DecodeError::Trailing(1)),
            "{frame:?}"
        );
    }
}

#[test]
fn every_other_message_number_is_unknown() {
    let known = [1, 2, 3, 4, 5, 6, 7, 64, 65, 66, 67, 68, 69, 70, 71, 72];

    for number in (0..=255).filter(|number| !known.contains(number)) {
        assert_eq!(
            Frame::decode(&[number, 0, 0]),
            Err(DecodeError::UnknownMessage(number))
        );
    }
}

#[test]
fn every_other_reason_is_refused() {
    let id = hex(KEY);
    for reason in (0..=255).filter(|reason| !(1..=8).contains(reason)) {
        let unreachable = [&[67], &id[..], &[reason]].concat();

        assert_eq!(
            Frame::decode(&[69, reason]),
            Err(DecodeError::BadValue("reason"))
        );
        assert_eq!(
            Frame::decode(&unreachable),
            Err(DecodeError::BadValue("reason"))
        );
    }
}

#[test]
fn another_version_is_named_in_the_error() {
    let challenge = [&[64, 2], &[0; 32][..]].concat();

    assert_eq!(Frame::decode(&challenge), Err(DecodeError::Version(2)));
    assert_eq!(Frame::decode(&[1, 9]), Err(DecodeError::Version(9)));
}

#[test]
fn a_weak_identity_is_refused_in_every_frame_that_has_one() {
    for (_, mut bytes) in every_frame() {
        let at = match bytes[0] {
            1 => 2,
            2..=4 | 66..=68 => 1,
            _ => continue,
        };
        bytes[at..at + 32].copy_from_slice(&hex(&format!("01{}", "00".repeat(31))));

        assert_eq!(
            Frame::decode(&bytes),
            Err(DecodeError::BadValue("identity"))
        );
    }
}

#[test]
fn an_envelope_may_be_as_long_as_the_limit_and_no_longer() {
    let id = machine(7).id();
    let send = |length| Frame::Send {
        to: id,
        envelope: vec![0xEE; length],
    };
    let deliver = |length| Frame::Deliver {
        from: id,
        envelope: vec![0xEE; length],
    };

    for frame in [send(0), send(MAX_ENVELOPE), deliver(MAX_ENVELOPE)] {
        assert!(frame.encode().len() <= MAX_FRAME);
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
    for frame in [send(MAX_ENVELOPE + 1), deliver(MAX_ENVELOPE + 1)] {
        assert_eq!(
            Frame::decode(&frame.encode()),
            Err(DecodeError::TooLong("envelope"))
        );
    }
    assert_eq!(
        Frame::decode(&vec![2; MAX_FRAME + 1]),
        Err(DecodeError::TooLong("frame"))
    );
}

#[test]
fn a_server_name_may_be_as_long_as_the_limit_and_no_longer() {
    let challenge = [0; 32];
    let longest = Frame::proof(&machine(7), &challenge, &"x".repeat(MAX_SERVER_NAME));
    let longer = Frame::proof(&machine(7), &challenge, &"x".repeat(MAX_SERVER_NAME + 1));

    assert_eq!(Frame::decode(&longest.encode()), Ok(longest));
    assert_eq!(
        Frame::decode(&longer.encode()),
        Err(DecodeError::TooLong("server name"))
    );
}

#[test]
fn a_server_name_that_is_no_text_is_refused() {
    let mut bytes = Frame::proof(&machine(7), &[0; 32], "x").encode();
    *bytes.last_mut().unwrap() = 0xFF;

    assert_eq!(
        Frame::decode(&bytes),
        Err(DecodeError::BadValue("server name"))
    );
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let id = || (0..4_u8).prop_map(|n| machine(n).id());
    let envelope = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        (id(), any::<[u8; 32]>(), ".{0,60}").prop_map(|(id, half, server)| Frame::Proof {
            id,
            signature: [half, half].concat().try_into().unwrap(),
            server
        }),
        (id(), envelope()).prop_map(|(to, envelope)| Frame::Send { to, envelope }),
        (id(), envelope()).prop_map(|(from, envelope)| Frame::Deliver { from, envelope }),
        id().prop_map(Frame::Watch),
        any::<[u8; 32]>().prop_map(Frame::Challenge),
        Just(Frame::ClientCapabilities(Capabilities::OURS)),
        Just(Frame::ServerCapabilities(Capabilities::NONE)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn every_frame_survives_the_wire(frame in any_frame()) {
        prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_are_what_we_would_have_written(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        number in prop_oneof![1..6_u8, 64..71_u8],
    ) {
        for bytes in [bytes.clone(), [vec![number, 1], bytes].concat()] {
            match Frame::decode(&bytes) {
                // What only a newer version can do is left out.
                Ok(frame @ (Frame::ClientCapabilities(_) | Frame::ServerCapabilities(_))) => {
                    prop_assert!(frame.encode().len() <= bytes.len());
                    prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
                }
                Ok(frame) => prop_assert_eq!(frame.encode(), bytes),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_changed_frame_is_refused_or_is_another_frame(
        frame in any_frame(), at: prop::sample::Index, bit in 0..8_u8,
    ) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;

        match Frame::decode(&bytes) {
            // A capability that nobody has yet is no difference.
            Ok(Frame::ClientCapabilities(_) | Frame::ServerCapabilities(_)) | Err(_) => {}
            Ok(other) => prop_assert_ne!(other, frame),
        }
    }
}

#[test]
fn capabilities_that_only_a_newer_version_knows_are_left_out_and_their_number_is_bounded() {
    for number in [5, 70] {
        let read = |set: &[u8]| Frame::decode(&[&[number], set].concat());
        let is = |frame: Result<Frame, DecodeError>, expected: Capabilities| {
            matches!(frame, Ok(Frame::ClientCapabilities(set) | Frame::ServerCapabilities(set))
                if set == expected)
        };
        assert!(is(read(&[0xE1]), Capabilities::OURS));
        assert!(is(
            read(&[0xFF; MAX_CAPABILITIES]),
            Capabilities::RELAYED_PEER.with(Capability::WantsWhole)
        ));
        assert!(is(read(&[0xE0, 0xFF]), Capabilities::NONE));
        assert!(is(read(&[0; 5]), Capabilities::NONE));
        assert_eq!(
            read(&[1; MAX_CAPABILITIES + 1]),
            Err(DecodeError::TooLong("capabilities"))
        );
    }
}

#[test]
fn identities_in_frames_are_those_that_were_sent() {
    let ids: Vec<PeerId> = (0..5).map(|n| machine(n).id()).collect();

    for id in ids {
        assert_eq!(
            Frame::decode(&Frame::Appeared(id).encode()),
            Ok(Frame::Appeared(id))
        );
    }
}
