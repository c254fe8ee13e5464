//! Reading packets.

use std::net::SocketAddr;

use punch_packet::{Flow, Fragment, Malformed, Packet, Protocol, TcpFlags, Transport};

use crate::{ACK, FIN, PSH, RST, SYN, alice, bob, fragment, hex, icmp, ip, ping, tcp, udp};

fn every_kind() -> Vec<Vec<u8>> {
    [false, true]
        .into_iter()
        .flat_map(|v6| {
            [
                tcp(v6, SYN, 1, 2, b""),
                tcp(v6, ACK | PSH, 1, 2, b"some data"),
                udp(v6, b"odd"),
                ping(v6, b"payload"),
                icmp(v6, if v6 { 1 } else { 3 }, &udp(v6, b"quoted")),
                ip(v6, 47, b"generic routing"),
            ]
        })
        .collect()
}

#[test]
fn a_tcp_packet_over_ipv4_is_seen() {
    let bytes = hex("4500 0029 1234 4000 40 06 0000 c0a80102 0a000001
        d431 01bb 00000001 00000002 50 18 ffff 0000 0000 78");

    let packet = Packet::parse(&bytes).unwrap();

    assert_eq!(packet.source().to_string(), "192.168.1.2");
    assert_eq!(packet.destination().to_string(), "10.0.0.1");
    assert_eq!(
        (packet.protocol(), packet.fragment()),
        (Protocol::Tcp, None)
    );
    let Transport::Tcp {
        source,
        destination,
        flags,
    } = packet.transport()
    else {
        panic!("TCP")
    };
    assert_eq!((source, destination, flags), (54_321, 443, TcpFlags(0x18)));
    assert_eq!(
        (packet.bytes(), packet.ip_header(), packet.segment()),
        (&bytes[..], &bytes[..20], &bytes[20..])
    );
}

#[test]
fn a_udp_packet_over_ipv6_is_seen() {
    let bytes = hex(
        "6 01 23456 000b 11 3f 20010db8000000000000000000000001 20010db8000000000000000000000002
        1f90 0035 000b 0000 616263",
    );

    let packet = Packet::parse(&bytes).unwrap();

    assert_eq!(packet.source().to_string(), "2001:db8::1");
    assert_eq!(packet.destination().to_string(), "2001:db8::2");
    assert_eq!(
        packet.transport(),
        Transport::Udp {
            source: 8080,
            destination: 53
        }
    );
    assert_eq!(packet.udp_payload(), Some(&b"abc"[..]));
    assert_eq!(packet.segment().len(), 11);
}

#[test]
fn every_kind_of_icmp_message_is_told_apart() {
    let seen = |v6, kind| {
        Packet::parse(&icmp(v6, kind, &[0; 40]))
            .unwrap()
            .transport()
    };
    for kind in 0..=255 {
        let v4 = match kind {
            0 => Transport::Echo {
                request: false,
                id: 0x1D2E,
            },
            8 => Transport::Echo {
                request: true,
                id: 0x1D2E,
            },
            3 | 4 | 5 | 11 | 12 => Transport::IcmpError,
            _ => Transport::Opaque,
        };
        // RFC 4443 §2.1: the high bit is clear in all error messages.
        let v6 = match kind {
            0..=127 => Transport::IcmpError,
            128 => Transport::Echo {
                request: true,
                id: 0x1D2E,
            },
            129 => Transport::Echo {
                request: false,
                id: 0x1D2E,
            },
            _ => Transport::Opaque,
        };
        assert_eq!(
            (seen(false, kind), seen(true, kind)),
            (v4, v6),
            "type {kind}"
        );
    }
}

#[test]
fn flags_say_what_a_segment_does() {
    let flags = |bits| TcpFlags(bits);

    assert!(flags(SYN).opens());
    assert!(!flags(SYN | ACK).opens() && !flags(SYN | RST).opens() && !flags(ACK).opens());
    assert!(flags(FIN).fin() && flags(SYN).syn() && flags(RST).rst() && flags(ACK).ack());
    let others = flags(!(FIN | SYN | RST | ACK));
    assert!(!others.fin() && !others.syn() && !others.rst() && !others.ack());
}

#[test]
fn ipv4_options_are_passed_over() {
    let mut bytes = udp(false, b"abc");
    bytes[0] = 0x47;
    bytes[3] += 8;
    bytes.splice(20..20, [1; 8]);

    let packet = Packet::parse(&bytes).unwrap();

    assert_eq!(
        (packet.ip_header().len(), packet.udp_payload()),
        (28, Some(&b"abc"[..]))
    );
}

#[test]
fn extension_headers_are_passed_over() {
    // Hop-by-hop options of 8 bytes, routing of 24, destination options of 8, then UDP.
    let chain = [
        &hex("2b 00 010400000000")[..],
        &[&hex("3c 02")[..], &[0; 22]].concat(),
        &hex("11 00 010400000000"),
    ]
    .concat();
    let bytes = ip(true, 0, &[&chain, &udp(true, b"abc")[40..]].concat());

    let packet = Packet::parse(&bytes).unwrap();

    assert_eq!(packet.protocol(), Protocol::Udp);
    assert_eq!(
        (packet.ip_header().len(), packet.udp_payload()),
        (80, Some(&b"abc"[..]))
    );
    assert!(packet.checksum_is_right());
}

#[test]
fn extension_headers_behind_the_fragment_header_are_passed_over_in_the_first_fragment_only() {
    let segment = [&[17, 0, 1, 4, 0, 0, 0, 0], &udp(true, b"abcdefgh")[40..]].concat();
    let first = fragment(true, 60, 1, 0, true, &segment);
    let later = fragment(true, 60, 1, 24, false, &segment);

    let (first, later) = (
        Packet::parse(&first).unwrap(),
        Packet::parse(&later).unwrap(),
    );

    assert_eq!(
        first.transport(),
        Transport::Udp {
            source: 40_000,
            destination: 53
        }
    );
    assert_eq!(
        (later.protocol(), later.transport()),
        (Protocol::Other(60), Transport::Opaque)
    );
}

#[test]
fn eight_extension_headers_are_a_packet_and_nine_are_an_attack() {
    let chained = |count: usize| {
        let mut chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        chain[8 * (count - 1)] = 17;
        ip(true, 60, &[&chain, &udp(true, b"")[40..]].concat())
    };

    assert_eq!(
        Packet::parse(&chained(8))
            .map(|packet| packet.protocol())
            .ok(),
        Some(Protocol::Udp)
    );
    assert_eq!(Packet::parse(&chained(9)).err(), Some(Malformed::Header));
}

#[test]
fn what_hides_behind_unknown_headers_is_another_protocol() {
    for next in [50, 51, 59, 135, 255] {
        let bytes = ip(true, next, &[0; 24]);
        let packet = Packet::parse(&bytes).unwrap();

        assert_eq!(
            (packet.protocol(), packet.transport()),
            (Protocol::Other(next), Transport::Opaque)
        );
        assert_eq!(packet.flow(), None);
    }
}

#[test]
fn only_the_first_fragment_has_ports() {
    for v6 in [false, true] {
        let whole = udp(v6, &[9; 40]);
        let segment = &whole[if v6 { 40 } else { 20 }..];
        let (first, last) = (
            fragment(v6, 17, 77, 0, true, &segment[..24]),
            fragment(v6, 17, 77, 24, false, &segment[24..]),
        );

        let (first, last) = (
            Packet::parse(&first).unwrap(),
            Packet::parse(&last).unwrap(),
        );

        assert_eq!(
            first.fragment(),
            Some(Fragment {
                id: 77,
                offset: 0,
                more: true
            })
        );
        assert_eq!(
            first.transport(),
            Transport::Udp {
                source: 40_000,
                destination: 53
            }
        );
        assert_eq!(
            last.fragment(),
            Some(Fragment {
                id: 77,
                offset: 24,
                more: false
            })
        );
        assert_eq!(
            (last.protocol(), last.transport(), last.flow()),
            (Protocol::Udp, Transport::Opaque, None)
        );
        assert_eq!(last.segment(), &segment[24..]);
    }
}

#[test]
fn do_not_fragment_is_no_fragment() {
    let mut bytes = udp(false, b"abc");
    bytes[6] = 0x40;

    assert_eq!(Packet::parse(&bytes).unwrap().fragment(), None);
}

#[test]
fn a_second_fragment_header_is_another_protocol() {
    let bytes = fragment(true, 44, 1, 0, true, &[17; 16]);

    assert_eq!(
        Packet::parse(&bytes).unwrap().protocol(),
        Protocol::Other(44)
    );
}

#[test]
fn bytes_behind_the_packet_are_cut_off() {
    for bytes in every_kind() {
        let padded = [&bytes[..], &[0xEE; 30]].concat();

        assert_eq!(Packet::parse(&padded).unwrap().bytes(), bytes);
    }
}

#[test]
fn a_packet_cut_anywhere_is_truncated() {
    for bytes in every_kind() {
        for length in 0..bytes.len() {
            assert_eq!(
                Packet::parse(&bytes[..length]).err(),
                Some(Malformed::Truncated),
                "{length} of {bytes:02x?}"
            );
        }
    }
}

#[test]
fn a_packet_whose_transport_header_does_not_fit_is_truncated() {
    for (v6, protocol) in [
        (false, 6),
        (false, 17),
        (false, 1),
        (true, 6),
        (true, 17),
        (true, 58),
    ] {
        for length in 0..8 {
            assert_eq!(
                Packet::parse(&ip(v6, protocol, &vec![0; length])).err(),
                Some(Malformed::Truncated)
            );
        }
    }
    assert!(Packet::parse(&ip(false, 47, &[])).is_ok());
    assert!(Packet::parse(&ip(true, 47, &[])).is_ok());
    assert_eq!(
        Packet::parse(&ip(true, 0, &[17])).err(),
        Some(Malformed::Truncated)
    );
    assert_eq!(
        Packet::parse(&ip(true, 0, &[59, 1, 0, 0, 0, 0, 0, 0])).err(),
        Some(Malformed::Truncated)
    );
    assert_eq!(
        Packet::parse(&ip(true, 44, &[17, 0, 0, 0])).err(),
        Some(Malformed::Truncated)
    );
}

#[test]
fn impossible_headers_are_told_apart() {
    let with = |at: usize, byte: u8| {
        let mut bytes = udp(false, b"abc");
        bytes[at] = byte;
        Packet::parse(&bytes).err()
    };

    assert_eq!(Packet::parse(&[]).err(), Some(Malformed::Truncated));
    assert_eq!(with(0, 0x55), Some(Malformed::Version));
    assert_eq!(with(0, 0x00), Some(Malformed::Version));
    assert_eq!(with(0, 0x44), Some(Malformed::Header));
    assert_eq!(with(3, 19), Some(Malformed::Header));
    assert_eq!(
        with(0, 0x4F),
        Some(Malformed::Header),
        "a header of 60 bytes in a packet of 31"
    );
}

#[test]
fn a_udp_payload_ends_where_its_own_length_says() {
    for v6 in [false, true] {
        let at = if v6 { 44 } else { 24 };
        let payload = |length: u8| {
            let mut bytes = udp(v6, b"abcdef");
            bytes[at + 1] = length;
            Packet::parse(&bytes)
                .unwrap()
                .udp_payload()
                .map(<[u8]>::to_vec)
        };

        assert_eq!(payload(14), Some(b"abcdef".to_vec()));
        assert_eq!(payload(11), Some(b"abc".to_vec()));
        assert_eq!(payload(8), Some(Vec::new()));
        assert_eq!((payload(7), payload(0), payload(15)), (None, None, None));
        assert_eq!(
            Packet::parse(&tcp(v6, ACK, 0, 0, b"abc"))
                .unwrap()
                .udp_payload(),
            None
        );
    }
}

#[test]
fn a_checksum_is_right_until_a_bit_flips() {
    for bytes in every_kind() {
        let packet = Packet::parse(&bytes).unwrap();
        assert!(packet.checksum_is_right(), "{bytes:02x?}");
        if matches!(packet.protocol(), Protocol::Other(_)) {
            continue;
        }
        for bit in 8 * packet.ip_header().len()..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !Packet::parse(&flipped).unwrap().checksum_is_right(),
                "bit {bit} of {bytes:02x?}"
            );
        }
    }
}

#[test]
fn a_udp_checksum_may_be_absent_over_ipv4_only() {
    let without = |v6| {
        let mut bytes = udp(v6, b"abc");
        let at = if v6 { 46 } else { 26 };
        bytes[at..at + 2].fill(0);
        Packet::parse(&bytes).unwrap().checksum_is_right()
    };

    assert!(without(false));
    assert!(!without(true));
}

#[test]
fn a_flow_names_both_ends_and_turns_round() {
    for v6 in [false, true] {
        let flow = |bytes: &[u8]| Packet::parse(bytes).unwrap().flow();
        let between = |protocol, source, destination| {
            let (source, destination) = (
                SocketAddr::new(alice(v6), source),
                SocketAddr::new(bob(v6), destination),
            );
            Flow {
                protocol,
                source,
                destination,
            }
        };

        assert_eq!(
            flow(&tcp(v6, SYN, 0, 0, b"")),
            Some(between(Protocol::Tcp, 40_000, 5432))
        );
        assert_eq!(
            flow(&udp(v6, b"")),
            Some(between(Protocol::Udp, 40_000, 53))
        );
        assert_eq!(
            flow(&ping(v6, b"")),
            Some(between(Protocol::Icmp, 0x1D2E, 0x1D2E))
        );
        assert_eq!(flow(&ip(v6, 47, b"12345678")), None);
        let reversed = between(Protocol::Udp, 40_000, 53).reversed();
        assert_eq!(
            (reversed.source, reversed.destination),
            (
                SocketAddr::new(bob(v6), 53),
                SocketAddr::new(alice(v6), 40_000)
            )
        );
        assert_eq!(reversed.reversed(), between(Protocol::Udp, 40_000, 53));
    }
}

#[test]
fn a_reply_belongs_to_the_reversed_flow_of_its_request() {
    for v6 in [false, true] {
        let request = ping(v6, b"abc");
        let request = Packet::parse(&request).unwrap();

        let reply = punch_packet::echo_reply(&request).unwrap();

        assert_eq!(
            Packet::parse(&reply).unwrap().flow(),
            request.flow().map(Flow::reversed)
        );
    }
}
