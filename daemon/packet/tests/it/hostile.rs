//! Nothing panics on any bytes, and whatever is made of them is itself a sound packet.

use std::time::Instant;

use proptest::prelude::*;
use punch_packet::{
    Fragment, Packet, Reassembly, Transport, Unreachable, echo_reply, is_our_echo, refuse,
    tcp_reset, transport_checksum, unreachable,
};

use crate::{ACK, SYN, alice, assert_sound, bob, fragment, icmp, ip, ping, tcp, udp};

/// Every public function that reads a packet.
fn try_everything(bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else {
        return;
    };
    assert!(packet.bytes().len() <= bytes.len());
    assert_eq!(
        [packet.ip_header(), packet.segment()].concat(),
        packet.bytes()
    );
    let _ = (
        packet.udp_payload(),
        packet.flow(),
        packet.quoted_flow(),
        packet.checksum_is_right(),
    );
    let _ = is_our_echo(&packet);
    let _ = transport_checksum(packet.source(), packet.destination(), 6, packet.segment());
    let answers = [
        tcp_reset(&packet),
        echo_reply(&packet),
        refuse(&packet, Unreachable::Prohibited),
        unreachable(&packet, alice(false), Unreachable::Port),
        unreachable(&packet, bob(true), Unreachable::Address),
    ];
    for answer in answers.into_iter().flatten() {
        assert_sound(&answer);
        let answer = Packet::parse(&answer).expect("an answer is a packet");
        assert_eq!(answer.destination(), packet.source());
        let may_be_refused = matches!(answer.transport(), Transport::Echo { .. });
        assert!(may_be_refused || refuse(&answer, Unreachable::Port).is_none());
        assert!(!answer.source().is_multicast());
    }
    let mut table = Reassembly::default();
    for fragment in packet.fragment().into_iter().chain([Fragment {
        id: 1,
        offset: 0,
        more: false,
    }]) {
        if let Ok(Some(whole)) = table.add(&packet, fragment, Instant::now()) {
            let _ = Packet::parse(&whole);
        }
    }
}

fn any_valid_packet() -> impl Strategy<Value = Vec<u8>> {
    let data = proptest::collection::vec(any::<u8>(), 0..60);
    (any::<bool>(), 0..9_u8, any::<u8>(), data).prop_map(|(v6, kind, byte, data)| match kind {
        0 => tcp(v6, SYN, u32::MAX, 0, &data),
        1 => tcp(v6, ACK, 1, 2, &data),
        2 => tcp(v6, byte, 1, 2, &data),
        3 => udp(v6, &data),
        4 => ping(v6, &data),
        5 => icmp(v6, if v6 { 1 } else { 3 }, &udp(v6, &data)),
        6 => icmp(v6, byte, &tcp(!v6, SYN, 1, 2, &data)),
        7 => fragment(
            v6,
            17,
            7,
            8 * usize::from(byte),
            byte & 1 == 0,
            &[&[0; 8], &data[..]].concat(),
        ),
        _ => ip(
            true,
            0,
            &[
                &[
                    44, 0, 1, 4, 0, 0, 0, 0, 60, 0, 0, 1, 0, 0, 0, 9, 6, 0, 1, 4, 0, 0, 0, 0,
                ],
                &tcp(true, SYN, 1, 2, &data)[40..],
            ]
            .concat(),
        ),
    })
}

#[test]
fn packets_cut_at_every_length_are_harmless() {
    for v6 in [false, true] {
        let quoted = icmp(v6, if v6 { 1 } else { 3 }, &tcp(v6, SYN, 1, 2, b"abc"));
        for whole in [
            tcp(v6, SYN, 1, 2, b"abc"),
            udp(v6, b"abc"),
            ping(v6, b"abc"),
            quoted,
        ] {
            for length in 0..=whole.len() {
                // Once as it was cut, and once with a length that fits, so that the reader gets beyond the IP header.
                let mut cut = whole[..length].to_vec();
                try_everything(&cut);
                if v6 && length >= 40 {
                    cut[4..6].copy_from_slice(&(length as u16 - 40).to_be_bytes());
                } else if !v6 && length >= 20 {
                    cut[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                }
                try_everything(&cut);
            }
        }
    }
}

#[test]
fn the_longest_packets_are_harmless() {
    for v6 in [false, true] {
        let room = if v6 { 65_535 } else { 65_515 };
        for protocol in [1, 6, 17, 58, 99] {
            let mut segment = vec![0x88; room];
            segment[12] = 0x50;
            segment[13] = SYN;
            try_everything(&ip(v6, protocol, &segment));
        }
        try_everything(&ping(v6, &vec![7; room - 8]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn arbitrary_bytes_are_harmless(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in prop::sample::select(vec![0x45, 0x46, 0x60]),
    ) {
        try_everything(&bytes);
        if bytes.len() >= 10 {
            bytes[0] = version;
            let length = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..6].copy_from_slice(&length.saturating_sub(40).to_be_bytes());
            try_everything(&bytes);
        }
    }

    #[test]
    fn valid_packets_are_harmless(bytes in any_valid_packet()) {
        try_everything(&bytes);
    }

    #[test]
    fn changed_packets_are_harmless(
        mut bytes in any_valid_packet(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut: prop::sample::Index,
    ) {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        try_everything(&bytes);
        try_everything(&bytes[..cut.index(bytes.len() + 1)]);
    }
}
