//! Refusing a packet so that its sender knows at once.

use punch_packet::{Packet, Unreachable, refuse, tcp_reset, too_long, unreachable};

use crate::{
    ACK, FIN, GROUP, PSH, RST, SYN, alice, assert_sound, bob, fragment, icmp, ip, ping, sealed,
    tcp, udp, with_address,
};

const NOBODY: [&str; 2] = ["00000000", "00000000000000000000000000000000"];

/// Flags, sequence number and data; the reset's sequence and acknowledgement numbers and its flags.
type Case = (u8, u32, &'static [u8], [u32; 2], u8);

#[test]
fn a_reset_has_the_numbers_that_its_receiver_accepts() {
    // RFC 9293 §3.10.7.1: the sequence number of a reset is the segment's acknowledgement; without one it is 0, and the
    // reset acknowledges all that the segment occupies.
    let (seq, ack) = (0x0102_03FF, 0x0506_0708);
    let segments: [Case; 9] = [
        (SYN, seq, b"", [0, 0x0102_0400], RST | ACK),
        (SYN, seq, b"early", [0, 0x0102_0405], RST | ACK),
        (SYN, u32::MAX, b"", [0, 0], RST | ACK),
        (ACK, seq, b"", [ack, 0], RST),
        (ACK | PSH, seq, b"data", [ack, 0], RST),
        (SYN | ACK, seq, b"", [ack, 0], RST),
        (FIN | ACK, seq, b"", [ack, 0], RST),
        (FIN, seq, b"last", [0, 0x0102_0404], RST | ACK),
        (0, seq, b"data", [0, 0x0102_0403], RST | ACK),
    ];
    for v6 in [false, true] {
        for (flags, sequence, data, expected, expected_flags) in segments {
            let segment = tcp(v6, flags, sequence, ack, data);

            let reset = tcp_reset(&Packet::parse(&segment).unwrap()).unwrap();

            assert_sound(&reset);
            let packet = Packet::parse(&reset).unwrap();
            assert_eq!(
                (packet.source(), packet.destination()),
                (bob(v6), alice(v6))
            );
            let words: Vec<u32> = packet
                .segment()
                .chunks(4)
                .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
                .collect();
            assert_eq!(words[0], 5432 << 16 | 40_000, "the ports change sides");
            assert_eq!(
                words[1..3],
                expected,
                "flags {flags:#04x}, {} bytes",
                data.len()
            );
            assert_eq!(
                (packet.segment().len(), words[3] >> 16),
                (20, 0x5000 | u32::from(expected_flags))
            );
        }
    }
}

#[test]
fn tcp_options_are_not_counted_as_data() {
    let mut segment = tcp(false, SYN, 1000, 0, &[1; 12]);
    segment[32] = 0x80;

    let reset = tcp_reset(&Packet::parse(&segment).unwrap()).unwrap();

    assert_eq!(reset[28..32], 1001_u32.to_be_bytes());
}

#[test]
fn there_is_no_reset_for_a_reset() {
    for flags in [RST, RST | ACK, RST | SYN] {
        let segment = tcp(false, flags, 1, 2, b"");
        let packet = Packet::parse(&segment).unwrap();

        assert_eq!(tcp_reset(&packet), None);
        assert_eq!(
            refuse(&packet, Unreachable::Port),
            None,
            "and no ICMP error instead"
        );
    }
}

#[test]
fn there_is_no_reset_for_what_is_no_whole_segment() {
    let reset = |bytes: &[u8]| tcp_reset(&Packet::parse(bytes).unwrap());
    let whole = tcp(false, SYN, 1, 2, b"12345678");
    let with_offset = |words: u8| {
        let mut segment = whole.clone();
        segment[32] = words << 4;
        segment
    };

    assert_eq!(reset(&fragment(false, 6, 1, 0, true, &whole[20..])), None);
    assert_eq!(reset(&fragment(false, 6, 1, 24, false, &whole[20..])), None);
    assert_eq!(
        reset(&ip(false, 6, &whole[20..39])),
        None,
        "the header is cut"
    );
    assert_eq!(reset(&with_offset(4)), None);
    assert_eq!(reset(&with_offset(8)), None);
    assert!(reset(&with_offset(7)).is_some());
    assert_eq!(reset(&udp(false, b"")), None);
}

#[test]
fn there_is_no_reset_to_or_from_a_group() {
    // RFC 9293 §3.9.2.3: such a segment is discarded silently.
    for v6 in [false, true] {
        for destination in [false, true] {
            let segment =
                with_address(tcp(v6, SYN, 1, 2, b""), destination, GROUP[usize::from(v6)]);
            let packet = Packet::parse(&segment).unwrap();

            assert_eq!(tcp_reset(&packet), None);
            assert_eq!(refuse(&packet, Unreachable::Port), None);
        }
    }
}

#[test]
fn each_reason_has_its_icmp_numbers() {
    let reasons = [
        (Unreachable::Port, [3, 3], [1, 4]),
        (Unreachable::Prohibited, [3, 13], [1, 1]),
        (Unreachable::Address, [3, 1], [1, 3]),
    ];
    for (reason, v4, v6) in reasons {
        for (is_v6, numbers) in [(false, v4), (true, v6)] {
            let original = udp(is_v6, b"hello");
            let packet = Packet::parse(&original).unwrap();

            let error = unreachable(&packet, bob(is_v6), reason).unwrap();

            assert_sound(&error);
            let error = Packet::parse(&error).unwrap();
            assert_eq!(
                (error.source(), error.destination()),
                (bob(is_v6), alice(is_v6))
            );
            assert_eq!(error.segment()[..2], numbers);
            assert_eq!(error.segment()[4..8], [0; 4]);
            assert_eq!(
                error.segment()[8..],
                original,
                "a small packet is quoted whole"
            );
        }
    }
}

#[test]
fn an_error_is_as_long_as_the_smallest_mtu_and_no_longer() {
    for (v6, limit) in [(false, 576), (true, 1280)] {
        let headers = if v6 { 40 + 8 + 48 } else { 20 + 8 + 28 };
        for (data, length) in [
            (0, headers),
            (limit - headers, limit),
            (limit - headers + 1, limit),
            (9000, limit),
        ] {
            let original = udp(v6, &vec![7; data]);
            let packet = Packet::parse(&original).unwrap();

            for reason in [
                Unreachable::Port,
                Unreachable::Prohibited,
                Unreachable::Address,
            ] {
                let error = unreachable(&packet, bob(v6), reason).unwrap();

                assert_sound(&error);
                assert_eq!(error.len(), length, "{reason:?}, {data} bytes of data");
                let quote = &error[if v6 { 48 } else { 28 }..];
                assert_eq!(quote, &original[..quote.len()]);
            }
        }
    }
}

#[test]
fn an_error_may_come_from_another_address_of_the_same_family_only() {
    let original = udp(false, b"");
    let packet = Packet::parse(&original).unwrap();

    let error = unreachable(&packet, "100.64.9.9".parse().unwrap(), Unreachable::Address).unwrap();

    assert_eq!(
        Packet::parse(&error).unwrap().source().to_string(),
        "100.64.9.9"
    );
    assert_eq!(unreachable(&packet, bob(true), Unreachable::Address), None);
}

#[test]
fn there_is_no_error_about_an_error() {
    for (v6, kinds) in [
        (false, &[3, 4, 5, 11, 12][..]),
        (true, &[1, 2, 3, 4, 100, 127, 137]),
    ] {
        for &kind in kinds {
            let original = icmp(v6, kind, &udp(v6, b"quoted"));
            let packet = Packet::parse(&original).unwrap();

            assert_eq!(refuse(&packet, Unreachable::Port), None, "type {kind}");
        }
        assert!(refuse(&Packet::parse(&ping(v6, b"")).unwrap(), Unreachable::Port).is_some());
    }
}

#[test]
fn there_is_no_error_about_a_group_nor_to_one_nor_to_nobody() {
    for v6 in [false, true] {
        let (group, nobody) = (GROUP[usize::from(v6)], NOBODY[usize::from(v6)]);
        for (destination, address) in [(true, group), (false, group), (false, nobody)] {
            let original = with_address(udp(v6, b""), destination, address);
            let packet = Packet::parse(&original).unwrap();

            assert_eq!(unreachable(&packet, bob(v6), Unreachable::Port), None);
        }
    }
}

#[test]
fn there_is_no_error_about_a_later_fragment() {
    for v6 in [false, true] {
        let first = fragment(v6, 17, 5, 0, true, &[0; 16]);
        let later = fragment(v6, 17, 5, 16, false, &[0; 16]);

        assert!(refuse(&Packet::parse(&first).unwrap(), Unreachable::Port).is_some());
        assert_eq!(
            refuse(&Packet::parse(&later).unwrap(), Unreachable::Port),
            None
        );
    }
}

#[test]
fn tcp_is_refused_with_a_reset_and_all_else_with_an_error_from_its_destination() {
    for v6 in [false, true] {
        let segment = tcp(v6, SYN, 1, 0, b"");
        let segment = Packet::parse(&segment).unwrap();
        assert_eq!(
            refuse(&segment, Unreachable::Prohibited),
            tcp_reset(&segment)
        );
        for original in [
            udp(v6, b"x"),
            ping(v6, b"x"),
            ip(v6, 132, b"an SCTP packet"),
        ] {
            let packet = Packet::parse(&original).unwrap();
            assert_eq!(
                refuse(&packet, Unreachable::Port),
                unreachable(&packet, bob(v6), Unreachable::Port)
            );
        }
    }
}

#[test]
fn the_flow_that_an_error_is_about_is_found_in_its_quote() {
    for v6 in [false, true] {
        for original in [
            udp(v6, b""),
            udp(v6, &[7; 9000]),
            tcp(v6, SYN, 1, 0, b""),
            tcp(v6, ACK, 1, 0, &[7; 3000]),
            ping(v6, b"x"),
        ] {
            let packet = Packet::parse(&original).unwrap();
            let error = unreachable(&packet, bob(v6), Unreachable::Address).unwrap();

            let quoted = Packet::parse(&error).unwrap().quoted_flow();

            assert!(quoted.is_some());
            assert_eq!(quoted, packet.flow());
        }
    }
}

#[test]
fn eight_bytes_of_the_quoted_transport_header_are_enough() {
    for v6 in [false, true] {
        let original = tcp(v6, SYN, 1, 0, b"");
        let flow = Packet::parse(&original).unwrap().flow();
        let header = if v6 { 40 } else { 20 };
        let quoted = |length: usize| {
            let error = icmp(v6, if v6 { 1 } else { 3 }, &original[..length]);
            Packet::parse(&error).unwrap().quoted_flow()
        };

        assert_eq!(quoted(header + 8), flow);
        for length in 0..header + 8 {
            assert_eq!(quoted(length), None, "{length}");
        }
    }
}

#[test]
fn a_redirect_and_source_quench_tell_of_no_packet() {
    for v6 in [false, true] {
        let kinds = (0..=255).filter(|kind| {
            let error = icmp(v6, *kind, &udp(v6, b"quoted"));
            Packet::parse(&error).unwrap().quoted_flow().is_some()
        });
        let expected: &[u8] = if v6 { &[1, 2, 3, 4] } else { &[3, 11, 12] };
        assert!(kinds.eq(expected.iter().copied()));
    }
}

#[test]
fn what_is_no_error_quotes_nothing() {
    for v6 in [false, true] {
        let later = fragment(v6, 17, 5, 16, false, &[0; 16]);
        let error = if v6 { 1 } else { 3 };
        for bytes in [
            udp(v6, &udp(v6, b"")),
            ping(v6, &udp(v6, b"")),
            icmp(v6, error, &icmp(v6, error, &udp(v6, b""))),
            icmp(v6, error, &later),
            icmp(v6, error, b"\xffgarbage"),
            sealed(
                v6,
                if v6 { 58 } else { 1 },
                2,
                &[error, 0, 0, 0, 0, 0, 0, 0],
            ),
        ] {
            assert_eq!(
                Packet::parse(&bytes).unwrap().quoted_flow(),
                None,
                "{bytes:02x?}"
            );
        }
    }
}

#[test]
fn who_sends_too_long_a_packet_is_told_what_would_fit() {
    for v6 in [false, true] {
        let long = udp(v6, &[7; 3000]);
        let packet = Packet::parse(&long).unwrap();
        for (mtu, v4_word, v6_word) in [
            (1400, 1400, 1400),
            // IPv6 is never told less than it may send always.
            (1140, 1140, 1280),
            (usize::MAX, 65_535, 65_535),
        ] {
            let error = too_long(&packet, bob(v6), mtu).unwrap();

            assert_sound(&error);
            let error = Packet::parse(&error).unwrap();
            assert_eq!(
                (error.source(), error.destination()),
                (bob(v6), packet.source())
            );
            let segment = error.segment();
            let (kind, word) = if v6 {
                ([2, 0], v6_word)
            } else {
                ([3, 4], v4_word)
            };
            assert_eq!(segment[..2], kind);
            assert_eq!(segment[4..8], u32::to_be_bytes(word));
            assert!(long.starts_with(&segment[8..]));
        }
        // No error about an error.
        let error = too_long(&packet, bob(v6), 1400).unwrap();
        let error = Packet::parse(&error).unwrap();
        assert_eq!(too_long(&error, bob(v6), 576), None);
    }
}
