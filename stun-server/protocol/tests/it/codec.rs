//! Bytes that stay for ever, and what is refused.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use punch_stun_protocol::{
    ChangeRequest, Class, ErrorCode, Message, ParseError, TransactionId, Writer,
};

use crate::{TRANSACTION, addr, extended, hex, message, without_fingerprint};

const KEY: &[u8] = b"a key that both ends know";

fn writer(class: Class) -> Writer {
    Writer::new(class, TRANSACTION)
}

#[test]
fn each_class_has_its_number_for_ever() {
    let classes = [
        (Class::Request, "0001"),
        (Class::Indication, "0011"),
        (Class::Success, "0101"),
        (Class::Error, "0111"),
    ];
    for (class, number) in classes {
        let bytes = writer(class).finish_plain();

        assert_eq!(
            bytes,
            hex(&format!("{number} 0000 2112a442 b7e7a701bc34d686fa87dfae"))
        );
        assert_eq!(Message::parse(&bytes).unwrap().class, class);
    }
}

#[test]
fn only_a_binding_request_tells_its_transaction_without_being_read() {
    let request = writer(Class::Request).username(b"a:b").finish();
    assert_eq!(TransactionId::of_request(&request), Some(TRANSACTION));
    for class in [Class::Indication, Class::Success, Class::Error] {
        let other = writer(class).finish();
        assert_eq!(TransactionId::of_request(&other), None);
    }
    for length in 0..request.len() {
        assert_eq!(TransactionId::of_request(&request[..length]), None);
    }
}

#[test]
fn each_attribute_has_its_bytes_for_ever() {
    let change = |ip, port| writer(Class::Request).change(ChangeRequest { ip, port });
    let attributes = [
        (
            writer(Class::Success).xor_mapped(addr("192.0.2.1:32853")),
            "0020 0008 0001a147 e112a643",
        ),
        (
            writer(Class::Success).xor_mapped(addr("[2001:db8:1234:5678:11:2233:4455:6677]:32853")),
            "0020 0014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9",
        ),
        (
            writer(Class::Success).origin(addr("192.0.2.1:3478")),
            "802b 0008 00010d96 c0000201",
        ),
        (
            writer(Class::Success).other(addr("192.0.2.2:3479")),
            "802c 0008 00010d97 c0000202",
        ),
        (
            writer(Class::Success).other(addr("[2001:db8::1]:3478")),
            "802c 0014 00020d96 20010db8000000000000000000000001",
        ),
        (change(false, false), "0003 0004 00000000"),
        (change(false, true), "0003 0004 00000002"),
        (change(true, false), "0003 0004 00000004"),
        (change(true, true), "0003 0004 00000006"),
        (
            writer(Class::Request).response_port(40_001),
            "0027 0002 9c41 0000",
        ),
        (
            writer(Class::Success).sample_ports((3480, 3543)),
            "c0de 0004 0d98 0dd7",
        ),
        (
            writer(Class::Request).username(b"ab:cd"),
            "0006 0005 61623a6364 000000",
        ),
        (
            writer(Class::Request).priority(0x6E00_01FF),
            "0024 0004 6e0001ff",
        ),
        (writer(Class::Request).nominate(), "0025 0000"),
        (
            writer(Class::Error).error(ErrorCode::BAD_REQUEST),
            "0009 000f 00000400 4261642052657175657374 00",
        ),
        (
            writer(Class::Error).error(ErrorCode::UNKNOWN_ATTRIBUTE),
            "0009 0015 00000414 556e6b6e6f776e20417474726962757465 000000",
        ),
        (
            writer(Class::Error).error(ErrorCode(699)),
            "0009 0004 00000663",
        ),
        (
            writer(Class::Error).unknown(&[0x7777, 0x0026, 0x0027]),
            "000a 0006 777700260027 0000",
        ),
    ];
    for (writer, expected) in attributes {
        assert_eq!(writer.finish_plain()[20..], hex(expected), "{expected}");
    }
}

#[test]
fn integrity_and_fingerprint_have_their_bytes_for_ever() {
    // Computed with another implementation of HMAC-SHA1 and CRC-32.
    let bytes = writer(Class::Request)
        .priority(1)
        .finish_with_integrity(KEY);

    assert_eq!(
        bytes,
        hex("0001 0028 2112a442 b7e7a701bc34d686fa87dfae
             0024 0004 00000001
             0008 0014 0b8acbdeeacc8a1c2ad50065c2d4191ef3c82041
             8028 0004 dbda97ae")
    );
    assert_eq!(
        writer(Class::Request).finish()[20..],
        hex("8028 0004 fdf6ae02")
    );
}

#[test]
fn a_check_is_read_as_it_was_written() {
    let bytes = writer(Class::Request)
        .username(b"them:me")
        .priority(0x6E7F_FFFF)
        .nominate()
        .finish_with_integrity(KEY);

    let check = Message::parse(&bytes).unwrap();

    assert_eq!(check.username, Some(&b"them:me"[..]));
    assert_eq!(check.priority, Some(0x6E7F_FFFF));
    assert!(check.nominated && check.unknown.is_empty());
    assert!(check.verify_integrity(KEY));
}

#[test]
fn an_error_with_its_unknown_attributes_is_read_as_it_was_written() {
    let bytes = writer(Class::Error)
        .error(ErrorCode::UNKNOWN_ATTRIBUTE)
        .unknown(&[0x7777])
        .finish();

    let error = Message::parse(&bytes).unwrap();

    assert_eq!(error.error, Some(ErrorCode::UNKNOWN_ATTRIBUTE));
    assert_eq!(
        error.unknown, [0; 0],
        "UNKNOWN-ATTRIBUTES itself is understood"
    );
}

#[test]
fn mapped_address_counts_only_where_the_xored_one_is_absent() {
    let plain = (0x0001, &hex("0001 0d96 c0000207")[..]);
    let xored = (0x0020, &hex("0001 a147 e112a643")[..]);
    let mapped = |attributes: &[_]| Message::parse(&message(0x0101, attributes)).unwrap().mapped;

    assert_eq!(mapped(&[plain]), Some(addr("192.0.2.7:3478")));
    assert_eq!(mapped(&[plain, xored]), Some(addr("192.0.2.1:32853")));
    assert_eq!(mapped(&[xored, plain]), Some(addr("192.0.2.1:32853")));
}

#[test]
fn only_two_bits_of_a_change_request_mean_anything() {
    let change = |flags: &str| {
        let bytes = message(0x0001, &[(0x0003, &hex(flags))]);
        Message::parse(&bytes).unwrap().change
    };

    assert_eq!(change("fffffff9"), Some(ChangeRequest::default()));
    assert_eq!(
        change("00000006"),
        Some(ChangeRequest {
            ip: true,
            port: true
        })
    );
}

#[test]
fn a_response_port_may_count_its_padding_as_coturn_does() {
    for value in ["9c41", "9c41 0000"] {
        let bytes = message(0x0001, &[(0x0027, &hex(value))]);

        assert_eq!(Message::parse(&bytes).unwrap().response_port, Some(40_001));
    }
}

#[test]
fn another_key_does_not_verify() {
    let bytes = writer(Class::Request).finish_with_integrity(KEY);
    let message = Message::parse(&bytes).unwrap();

    assert!(message.verify_integrity(KEY));
    assert!(!message.verify_integrity(b"another key"));
    assert!(!message.verify_integrity(b""));
}

#[test]
fn a_message_without_integrity_never_verifies() {
    let bytes = writer(Class::Request).finish();
    let message = Message::parse(&bytes).unwrap();

    assert!(!message.has_integrity());
    assert!(!message.verify_integrity(b""));
}

#[test]
fn attributes_behind_message_integrity_are_ignored() {
    let authentic = without_fingerprint(
        &writer(Class::Request)
            .priority(7)
            .finish_with_integrity(KEY),
    );
    let smuggled = message(
        0x0001,
        &[
            (0x0025, &[]),
            (0x0024, &[0, 0, 0, 9]),
            (0x0006, b"mallory"),
            (0x7777, b"?"),
            (0x0008, &[0; 20]),
        ],
    );

    let bytes = extended(&authentic, &smuggled[20..]);
    let message = Message::parse(&bytes).unwrap();

    assert!(message.verify_integrity(KEY));
    assert_eq!(
        (message.nominated, message.priority, message.username),
        (false, Some(7), None)
    );
    assert!(message.unknown.is_empty());
}

#[test]
fn a_wrong_fingerprint_is_refused() {
    let mut bytes = writer(Class::Request).finish();
    *bytes.last_mut().unwrap() ^= 1;

    assert_eq!(Message::parse(&bytes), Err(ParseError::Fingerprint));
}

#[test]
fn a_fingerprint_that_is_not_the_last_attribute_is_refused() {
    let closed = writer(Class::Request).finish();
    let behind = message(0x0001, &[(0x8022, b"late")]);

    assert_eq!(
        Message::parse(&extended(&closed, &behind[20..])),
        Err(ParseError::Fingerprint)
    );
}

#[test]
fn an_unknown_attribute_is_reported_only_if_it_must_be_understood() {
    let bytes = message(
        0x0001,
        &[
            (0x7FFF, b"x"),
            (0x8000, b"y"),
            (0xFFFF, b"z"),
            (0x0026, &[]),
        ],
    );

    assert_eq!(Message::parse(&bytes).unwrap().unknown, [0x7FFF, 0x0026]);
}

#[test]
fn impossible_values_name_their_attribute() {
    let parse = |kind, value: &[u8]| Message::parse(&message(0x0001, &[(kind, value)])).err();

    for kind in [0x0001, 0x0020, 0x802B, 0x802C] {
        for value in [
            "",
            "0001 0d96",
            "0001 0d96 c00002",
            "0001 0d96 c000020100",
            "0002 0d96 c0000201",
            "0003 0d96 c0000201",
        ] {
            assert_eq!(
                parse(kind, &hex(value)),
                Some(ParseError::Attribute(kind)),
                "{value}"
            );
        }
    }
    assert_eq!(parse(0x0003, &[0; 3]), Some(ParseError::Attribute(0x0003)));
    assert_eq!(
        parse(0x0006, &[b'u'; 514]),
        Some(ParseError::Attribute(0x0006))
    );
    assert_eq!(parse(0x0008, &[0; 32]), Some(ParseError::Attribute(0x0008)));
    assert_eq!(parse(0x0009, &[0; 3]), Some(ParseError::Attribute(0x0009)));
    assert_eq!(parse(0x0024, &[0; 5]), Some(ParseError::Attribute(0x0024)));
    for value in ["", "9c", "9c4100", "9c41000000"] {
        let error = Some(ParseError::Attribute(0x0027));
        assert_eq!(parse(0x0027, &hex(value)), error, "{value}");
    }
    // Too short, too long, backwards, from no port.
    for value in ["", "0d98", "0d980dd700", "0d980d97", "00000dd7"] {
        let error = Some(ParseError::Attribute(0xC0DE));
        assert_eq!(parse(0xC0DE, &hex(value)), error, "{value}");
    }
    assert_eq!(parse(0x0025, &[0]), Some(ParseError::Attribute(0x0025)));
}

#[test]
fn an_attribute_longer_than_the_message_is_refused() {
    let mut bytes = message(0x0001, &[(0x0006, b"user")]);
    bytes[23] = 5;

    assert_eq!(Message::parse(&bytes), Err(ParseError::Attribute(0x0006)));
}

#[test]
fn more_attributes_than_honest_messages_have_are_refused() {
    let parse =
        |count| Message::parse(&message(0x0001, &vec![(0x8022, &b"soft"[..]); count])).err();

    assert_eq!(parse(32), None);
    assert_eq!(parse(33), Some(ParseError::TooMany));
}

#[test]
fn another_method_is_named() {
    assert_eq!(
        Message::parse(&message(0x0003, &[])),
        Err(ParseError::Method(0x003))
    );
    assert_eq!(
        Message::parse(&message(0x3EEF, &[])),
        Err(ParseError::Method(0xFFF))
    );
}

#[test]
fn a_message_of_any_other_length_than_it_says_is_not_stun() {
    let whole = writer(Class::Request).username(b"ab:cd").finish();

    for length in 0..whole.len() {
        assert_eq!(
            Message::parse(&whole[..length]),
            Err(ParseError::NotStun),
            "{length}"
        );
    }
    assert_eq!(
        Message::parse(&[&whole[..], &[0]].concat()),
        Err(ParseError::NotStun)
    );
    // A length that fits but is no multiple of four.
    assert_eq!(
        Message::parse(&extended(&whole, &[0])),
        Err(ParseError::NotStun)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn every_response_survives_the_wire(
        id: [u8; 12], ips: [IpAddr; 3], ports: [u16; 3], first in 1..=u16::MAX, more: u16, key in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let samples = (first, first.saturating_add(more));
        let [mapped, origin, other] = [0, 1, 2].map(|n| SocketAddr::new(ips[n], ports[n]));
        let bytes = Writer::new(Class::Success, TransactionId(id))
            .xor_mapped(mapped)
            .origin(origin)
            .other(other)
            .sample_ports(samples)
            .finish_with_integrity(&key);

        let message = Message::parse(&bytes).unwrap();

        prop_assert_eq!((message.class, message.transaction), (Class::Success, TransactionId(id)));
        prop_assert_eq!((message.mapped, message.origin, message.other), (Some(mapped), Some(origin), Some(other)));
        prop_assert_eq!(message.sample_ports, Some(samples));
        prop_assert!(message.verify_integrity(&key));
    }

    #[test]
    fn every_request_survives_the_wire(
        name in proptest::collection::vec(any::<u8>(), 0..=513), priority: u32, ip: bool, port: bool, answer_to: u16,
    ) {
        let change = ChangeRequest { ip, port };
        let bytes = writer(Class::Request).username(&name).priority(priority).change(change)
            .response_port(answer_to).finish();

        let message = Message::parse(&bytes).unwrap();

        prop_assert_eq!(message.username, Some(&name[..]));
        prop_assert_eq!((message.priority, message.change), (Some(priority), Some(change)));
        prop_assert_eq!(message.response_port, Some(answer_to));
    }

    #[test]
    fn every_error_code_survives_the_wire(code in 300..700_u16) {
        let bytes = writer(Class::Error).error(ErrorCode(code)).finish();

        prop_assert_eq!(Message::parse(&bytes).unwrap().error, Some(ErrorCode(code)));
    }
}

#[test]
fn padding_makes_a_message_as_long_as_is_asked_for_and_is_no_part_of_what_is_read() {
    let shortest = 20 + 4 + 24 + 8;
    for length in [shortest, shortest + 4, 1172, 1452, 8972] {
        let bytes = writer(Class::Request)
            .pad_with_integrity_to(length)
            .finish_with_integrity(b"key");
        assert_eq!(bytes.len(), length);
        // 0x0026 (RFC 5780 §7.6), its length, and zeros.
        assert_eq!(bytes[20..22], [0, 0x26]);
        let padding = length - shortest;
        assert_eq!(
            usize::from(u16::from_be_bytes([bytes[22], bytes[23]])),
            padding
        );
        assert!(bytes[24..24 + padding].iter().all(|byte| *byte == 0));
        let message = Message::parse(&bytes).unwrap();
        assert!(message.verify_integrity(b"key"));
        // It must be understood by a server, and by nobody else.
        assert_eq!(message.unknown, [0x26]);
    }
    // What is as long already stays as it is.
    let plain = writer(Class::Request).finish_with_integrity(b"key");
    for length in [0, plain.len(), plain.len() + 3] {
        let padded = writer(Class::Request).pad_with_integrity_to(length);
        assert_eq!(padded.finish_with_integrity(b"key"), plain);
    }
}
