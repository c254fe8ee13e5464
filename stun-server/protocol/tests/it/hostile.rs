//! Nothing panics on any bytes, no answer amplifies, and WireGuard is never taken for STUN.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use punch_stun_protocol::{Class, Endpoint, MAX_AMPLIFICATION, Message, Writer, is_stun, respond};

use crate::{TRANSACTION, addr, extended, hex, message};

/// Every public function that reads bytes; returns whether there was an answer.
fn try_everything(bytes: &[u8], source: SocketAddr, endpoint: Endpoint) -> bool {
    let parsed = Message::parse(bytes);
    assert!(is_stun(bytes) || parsed.is_err());
    if let Ok(message) = &parsed {
        let _ = message.verify_integrity(b"key");
    }
    let Some(answer) = respond(bytes, source, endpoint) else {
        return false;
    };
    let request = parsed.expect("only what parses is answered");
    let response = Message::parse(&answer.bytes).expect("an answer is a STUN message");
    assert_eq!(request.class, Class::Request);
    assert_eq!(response.transaction, request.transaction);
    assert!(matches!(response.class, Class::Success | Class::Error));
    assert!(answer.bytes.len() <= bytes.len() * MAX_AMPLIFICATION);
    assert_eq!(answer.to.ip(), source.ip(), "nobody else is answered");
    assert!(answer.to == source || answer.to.port() != 0);
    assert_eq!(respond(&answer.bytes, source, endpoint), None);
    true
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let samples =
        prop::option::of((1..=u16::MAX).prop_flat_map(|first| (Just(first), first..=u16::MAX)));
    (
        any::<[IpAddr; 2]>(),
        any::<[u16; 2]>(),
        any::<bool>(),
        samples,
    )
        .prop_map(|(ips, ports, alternate, samples)| Endpoint {
            local: SocketAddr::new(ips[0], ports[0]),
            other: alternate.then_some(SocketAddr::new(ips[1], ports[1])),
            samples,
        })
}

fn any_attribute() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let known = prop::sample::select(vec![
        0x0001, 0x0003, 0x0006, 0x0008, 0x0009, 0x000A, 0x0020, 0x0024, 0x0025, 0x0027, 0x8022,
        0x8028, 0x802B, 0x802C, 0xC0DE,
    ]);
    let length = prop_oneof![
        Just(0_usize),
        Just(2),
        Just(4),
        Just(8),
        Just(20),
        0..40_usize
    ];
    let value = length.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
    (prop_oneof![4 => known, 1 => any::<u16>()], value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn arbitrary_bytes_are_harmless(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), ip: IpAddr, endpoint in any_endpoint(),
    ) {
        let framed = extended(&message(0x0001, &[]), &bytes);

        try_everything(&bytes, SocketAddr::new(ip, 1), endpoint);
        try_everything(&framed, SocketAddr::new(ip, 1), endpoint);
    }

    #[test]
    fn arbitrary_attributes_are_harmless(
        class in prop::sample::select(vec![0x0001_u16, 0x0011, 0x0101, 0x0111]),
        attributes in proptest::collection::vec(any_attribute(), 0..36),
        ip: IpAddr,
        endpoint in any_endpoint(),
    ) {
        let attributes: Vec<(u16, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();

        let answered = try_everything(&message(class, &attributes), SocketAddr::new(ip, 1), endpoint);

        prop_assert!(class == 0x0001 || !answered);
    }

    #[test]
    fn requests_with_unknown_attributes_are_answered_within_the_limit(
        kinds in proptest::collection::vec(0x1000..0x8000_u16, 0..=32), ip: IpAddr, endpoint in any_endpoint(),
    ) {
        let attributes: Vec<(u16, &[u8])> = kinds.iter().map(|kind| (*kind, &[][..])).collect();

        prop_assert!(try_everything(&message(0x0001, &attributes), SocketAddr::new(ip, 1), endpoint));
    }

    #[test]
    fn a_changed_message_is_harmless(
        at: prop::sample::Index, byte: u8, cut: prop::sample::Index, integrity: bool, endpoint in any_endpoint(),
    ) {
        let writer = Writer::new(Class::Request, TRANSACTION).username(b"ab:cdefg").priority(1).nominate()
            .response_port(9).sample_ports((1, 2));
        let mut bytes = if integrity { writer.finish_with_integrity(b"key") } else { writer.finish_plain() };
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let part = &bytes[..cut.index(bytes.len() + 1)];

        try_everything(&bytes, addr("192.0.2.9:9"), endpoint);
        try_everything(part, addr("192.0.2.9:9"), endpoint);
        if part.len() >= 20 {
            try_everything(&extended(part, &[]), addr("192.0.2.9:9"), endpoint);
        }
    }

    /// What holds, and for whatever an adversary writes behind the first four bytes: WireGuard's reserved bytes 1 to 3 are
    /// zero, so that as STUN it claims a length of zero and would have to be exactly 20 bytes long; the shortest WireGuard
    /// message, a keepalive, has 32. The magic cookie, which a data packet's receiver index may equal, is not needed for it.
    /// (Bytes 1 to 3 that are not zero are no WireGuard, and nothing holds for them.)
    #[test]
    fn no_wireguard_message_is_taken_for_stun(kind in 1..=4_u8, body in proptest::collection::vec(any::<u8>(), 28..600)) {
        let mut bytes = [vec![kind, 0, 0, 0], body].concat();
        prop_assert!(!is_stun(&bytes));
        bytes[4..8].copy_from_slice(&hex("2112a442"));
        prop_assert!(!is_stun(&bytes));
    }
}

#[test]
fn wireguard_messages_of_their_true_sizes_are_not_stun_even_with_the_cookie_as_index() {
    for (kind, length) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1452), (4, 65_507)] {
        let mut bytes = vec![0; length];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&hex("2112a442"));

        assert!(!is_stun(&bytes), "type {kind}, {length} bytes");
    }
}

#[test]
fn only_twenty_bytes_could_be_both() {
    let both = hex("04000000 2112a442 000000000000000000000000");

    assert!(is_stun(&both));
    assert!(
        Message::parse(&both).is_err(),
        "and even that is no Binding message"
    );
}

#[test]
fn the_longest_message_is_harmless() {
    let value = vec![0; 65_528];
    let bytes = message(0x0001, &[(0x8022, &value)]);

    assert!(try_everything(
        &bytes,
        addr("192.0.2.9:9"),
        Endpoint {
            local: addr("192.0.2.1:1"),
            other: None,
            samples: None
        }
    ));
    let _ = Writer::new(Class::Request, TRANSACTION)
        .username(&vec![0; 70_000])
        .username(b"x")
        .finish_with_integrity(b"key");
}
