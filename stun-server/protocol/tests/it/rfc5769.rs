//! The test vectors of RFC 5769 with short-term credentials (§2.1 to §2.3).

use punch_stun_protocol::{Class, Message};

use crate::{TRANSACTION, addr, hex, without_fingerprint};

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// The user name is padded with spaces, which MESSAGE-INTEGRITY covers.
const REQUEST: &str = "
    0001 0058 2112a442 b7e7a701bc34d686fa87dfae
    8022 0010 5354554e207465737420636c69656e74
    0024 0004 6e0001ff
    8029 0008 932ff9b151263b36
    0006 0009 6576746a3a68367659 202020
    0008 0014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    8028 0004 e57a3bcf";

const IPV4_RESPONSE: &str = "
    0101 003c 2112a442 b7e7a701bc34d686fa87dfae
    8022 000b 7465737420766563746f72 20
    0020 0008 0001a147 e112a643
    0008 0014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
    8028 0004 c07d4c96";

const IPV6_RESPONSE: &str = "
    0101 0048 2112a442 b7e7a701bc34d686fa87dfae
    8022 000b 7465737420766563746f72 20
    0020 0014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9
    0008 0014 a382954e4be67bf11784c97c8292c275bfe3ed41
    8028 0004 c8fb0b4c";

#[test]
fn the_sample_request_is_read_and_authenticated() {
    let bytes = hex(REQUEST);

    let request = Message::parse(&bytes).unwrap();

    assert_eq!(
        (request.class, request.transaction),
        (Class::Request, TRANSACTION)
    );
    assert_eq!(request.username, Some(&b"evtj:h6vY"[..]));
    assert_eq!(request.priority, Some(0x6E00_01FF));
    assert!(request.unknown.is_empty() && !request.nominated);
    assert!(request.has_integrity() && request.verify_integrity(PASSWORD));
}

#[test]
fn the_sample_ipv4_response_is_read_and_authenticated() {
    let bytes = hex(IPV4_RESPONSE);

    let response = Message::parse(&bytes).unwrap();

    assert_eq!(
        (response.class, response.transaction),
        (Class::Success, TRANSACTION)
    );
    assert_eq!(response.mapped, Some(addr("192.0.2.1:32853")));
    assert!(response.verify_integrity(PASSWORD));
}

#[test]
fn the_sample_ipv6_response_is_read_and_authenticated() {
    let bytes = hex(IPV6_RESPONSE);

    let response = Message::parse(&bytes).unwrap();

    assert_eq!(
        response.mapped,
        Some(addr("[2001:db8:1234:5678:11:2233:4455:6677]:32853"))
    );
    assert!(response.verify_integrity(PASSWORD));
}

#[test]
fn every_flipped_bit_of_the_samples_is_noticed() {
    for sample in [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE] {
        let bare = without_fingerprint(&hex(sample));
        assert!(Message::parse(&bare).unwrap().verify_integrity(PASSWORD));
        for bit in 0..8 * bare.len() {
            let mut flipped = bare.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let authentic =
                Message::parse(&flipped).is_ok_and(|message| message.verify_integrity(PASSWORD));
            assert!(!authentic, "bit {bit}");
        }
    }
}

#[test]
fn another_password_does_not_verify() {
    let bytes = hex(REQUEST);
    let request = Message::parse(&bytes).unwrap();

    for password in [
        &b""[..],
        b"VOkJxbRl1RmTxUk/WvJxBT",
        b"VOkJxbRl1RmTxUk/WvJxBt\n",
    ] {
        assert!(!request.verify_integrity(password));
    }
}
