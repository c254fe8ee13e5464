//! Putting fragments together again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use punch_packet::{
    Fragment, MAX_REASSEMBLED, Packet, Reassembly, ReassemblyFull, UdpReply, split, udp_packets,
};

use crate::{ACK, alice, assert_sound, bob, fragment, ip, ping, tcp, udp};

const LIMIT: u16 = 64;
const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(15);

fn add(
    table: &mut Reassembly,
    bytes: &[u8],
    now: Instant,
) -> Result<Option<Vec<u8>>, ReassemblyFull> {
    let packet = Packet::parse(bytes).unwrap();
    table.add(&packet, packet.fragment().unwrap(), now)
}

fn datagram(v6: bool, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (source, destination) = (
        SocketAddr::new(bob(v6), 53),
        SocketAddr::new(alice(v6), 40_000),
    );
    udp_packets(
        UdpReply {
            source,
            destination,
            payload,
            id: 9,
        },
        mtu,
    )
}

/// Fragments of a UDP packet whose data are 40 bytes: offset, whether more follow, and length.
fn piece(offset: usize, more: bool, length: usize) -> Vec<u8> {
    let whole = udp(false, &[7; 40]);
    fragment(
        false,
        17,
        1,
        offset,
        more,
        &whole[20 + offset..20 + offset + length],
    )
}

#[test]
fn the_last_missing_fragment_completes_the_packet() {
    let (mut table, now) = (Reassembly::default(), Instant::now());

    assert_eq!(add(&mut table, &piece(32, false, 16), now), Ok(None));
    assert_eq!(add(&mut table, &piece(0, true, 16), now), Ok(None));
    assert_eq!(
        add(&mut table, &piece(16, true, 16), now),
        Ok(Some(udp(false, &[7; 40])))
    );
}

#[test]
fn a_fragment_that_is_the_whole_packet_is_complete_at_once() {
    let whole = udp(true, b"atomic");
    let atomic = fragment(true, 17, 3, 0, false, &whole[40..]);

    assert_eq!(
        add(&mut Reassembly::default(), &atomic, Instant::now()),
        Ok(Some(whole))
    );
}

#[test]
fn every_protocol_is_put_together_as_what_it_was() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    for v6 in [false, true] {
        for (protocol, whole) in [
            (6, tcp(v6, ACK, 1, 2, b"abcdefgh")),
            (17, udp(v6, b"abcdefghi")),
            (if v6 { 58 } else { 1 }, ping(v6, b"abcdefghi")),
            (132, ip(v6, 132, b"an SCTP packet")),
        ] {
            let segment = &whole[if v6 { 40 } else { 20 }..];
            let first = fragment(v6, protocol, 1, 0, true, &segment[..8]);
            let last = fragment(v6, protocol, 1, 8, false, &segment[8..]);

            assert_eq!(add(&mut table, &first, now), Ok(None));
            assert_eq!(add(&mut table, &last, now), Ok(Some(whole)));
        }
    }
}

#[test]
fn a_fragment_of_nothing_is_no_packet() {
    let empty = fragment(true, 132, 1, 0, false, b"");

    assert_eq!(
        add(&mut Reassembly::default(), &empty, Instant::now()),
        Ok(None)
    );
}

#[test]
fn packets_are_told_apart_by_sender_protocol_and_id() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    let first = |protocol, id| fragment(false, protocol, id, 0, true, &[7; 16]);
    let last = |protocol, id| fragment(false, protocol, id, 16, false, &[8; 8]);
    let from_bob = |mut bytes: Vec<u8>| {
        bytes[15] = 2;
        bytes
    };
    for bytes in [
        first(17, 1),
        first(6, 1),
        first(17, 2),
        from_bob(first(17, 1)),
    ] {
        assert_eq!(add(&mut table, &bytes, now), Ok(None));
    }

    for bytes in [last(17, 1), last(6, 1), last(17, 2), from_bob(last(17, 1))] {
        let whole = add(&mut table, &bytes, now)
            .unwrap()
            .expect("each of the four completes");

        let (whole, last) = (
            Packet::parse(&whole).unwrap(),
            Packet::parse(&bytes).unwrap(),
        );
        assert_eq!(
            (whole.source(), whole.protocol()),
            (last.source(), last.protocol())
        );
        assert_eq!(whole.segment(), [[7; 16].as_slice(), &[8; 8]].concat());
    }
}

#[test]
fn overlapping_fragments_spoil_their_packet() {
    let overlaps = [
        piece(8, true, 16),
        piece(0, true, 8),
        piece(0, true, 16),
        piece(8, true, 8),
    ];
    for overlap in overlaps {
        let (mut table, now) = (Reassembly::default(), Instant::now());
        assert_eq!(add(&mut table, &piece(0, true, 16), now), Ok(None));

        assert_eq!(add(&mut table, &overlap, now), Ok(None));

        for bytes in [
            piece(16, true, 16),
            piece(24, true, 8),
            piece(32, false, 16),
            piece(0, true, 16),
        ] {
            assert_eq!(add(&mut table, &bytes, now), Ok(None), "nothing mends it");
        }
    }
}

#[test]
fn a_spoiled_packet_is_forgotten_in_time() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    for bytes in [piece(0, true, 16), piece(8, true, 16)] {
        assert_eq!(add(&mut table, &bytes, now), Ok(None));
    }

    let later = now + REASSEMBLY_TIMEOUT;

    assert_eq!(add(&mut table, &piece(0, true, 32), later), Ok(None));
    assert!(
        add(&mut table, &piece(32, false, 16), later)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_hole_is_never_filled_by_bytes_from_behind_the_end() {
    // 0..8, 16..24 (the last) and 24..32 are as many bytes as a whole packet of 24 has.
    let behind = [piece(0, true, 8), piece(16, false, 8), piece(24, true, 8)];
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [2, 1, 0],
        [1, 2, 0],
        [1, 0, 2],
        [2, 0, 1],
    ] {
        let (mut table, now) = (Reassembly::default(), Instant::now());
        for index in order {
            assert_eq!(add(&mut table, &behind[index], now), Ok(None), "{order:?}");
        }
    }
}

#[test]
fn two_different_ends_spoil_their_packet() {
    let (mut table, now) = (Reassembly::default(), Instant::now());

    for bytes in [
        piece(32, false, 16),
        piece(16, false, 16),
        piece(0, true, 16),
        piece(16, true, 16),
    ] {
        assert_eq!(add(&mut table, &bytes, now), Ok(None));
    }
}

#[test]
fn a_fragment_before_the_last_must_be_a_multiple_of_eight_long() {
    let (mut table, now) = (Reassembly::default(), Instant::now());

    for bytes in [piece(0, true, 12), piece(0, true, 16), piece(16, false, 32)] {
        assert_eq!(add(&mut table, &bytes, now), Ok(None));
    }
}

#[test]
fn fragments_that_wait_too_long_do_not_meet() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    assert_eq!(add(&mut table, &piece(0, true, 32), now), Ok(None));

    assert_eq!(
        add(&mut table, &piece(32, false, 16), now + REASSEMBLY_TIMEOUT),
        Ok(None)
    );
    assert!(
        add(
            &mut table,
            &piece(0, true, 32),
            now + REASSEMBLY_TIMEOUT + Duration::from_secs(1)
        )
        .unwrap()
        .is_some()
    );
}

#[test]
fn the_table_is_bounded_and_recovers() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    let first = |id| fragment(false, 17, id, 0, true, &[7; 8]);
    let last = |id| fragment(false, 17, id, 8, false, &[7; 8]);
    for id in 0..LIMIT {
        assert_eq!(add(&mut table, &first(id), now), Ok(None));
    }

    assert_eq!(add(&mut table, &first(LIMIT), now), Err(ReassemblyFull));
    assert!(
        add(&mut table, &last(0), now).unwrap().is_some(),
        "packets that wait are still completed"
    );
    assert_eq!(
        add(&mut table, &first(LIMIT), now),
        Ok(None),
        "and make room"
    );
    assert_eq!(add(&mut table, &first(LIMIT + 1), now), Err(ReassemblyFull));
    assert_eq!(
        add(&mut table, &first(LIMIT + 1), now + REASSEMBLY_TIMEOUT),
        Ok(None),
        "as time does"
    );
}

#[test]
fn a_packet_in_more_parts_than_any_honest_one_is_spoiled() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    let payload = [7; 8 * 65];

    for index in 0..65 {
        let bytes = fragment(false, 17, 1, 8 * index, index < 64, &payload[..8]);
        assert_eq!(add(&mut table, &bytes, now), Ok(None));
    }
}

#[test]
fn the_longest_packet_is_put_together_and_a_longer_one_is_not() {
    for v6 in [false, true] {
        let longest = MAX_REASSEMBLED - if v6 { 48 } else { 28 };
        let (mut table, now) = (Reassembly::default(), Instant::now());
        let payload = vec![7; longest];

        let whole = datagram(v6, &payload, 1280)
            .iter()
            .filter_map(|bytes| add(&mut table, bytes, now).unwrap())
            .last();

        assert_eq!(whole.expect("it is complete").len(), MAX_REASSEMBLED);
    }
    let (mut table, now) = (Reassembly::default(), Instant::now());
    let beyond = datagram(true, &vec![7; MAX_REASSEMBLED - 47], 1280);
    assert!(
        beyond
            .iter()
            .all(|bytes| add(&mut table, bytes, now) == Ok(None))
    );
}

#[test]
fn a_fragment_at_the_largest_offset_is_harmless() {
    for v6 in [false, true] {
        let bytes = fragment(v6, 17, 1, 65_528, false, &[7; 2000]);

        assert_eq!(
            add(&mut Reassembly::default(), &bytes, Instant::now()),
            Ok(None)
        );
    }
}

#[test]
fn the_clock_may_stand_still_or_run_backwards() {
    let (mut table, now) = (Reassembly::default(), Instant::now() + REASSEMBLY_TIMEOUT);
    assert_eq!(add(&mut table, &piece(0, true, 32), now), Ok(None));

    assert!(
        add(
            &mut table,
            &piece(32, false, 16),
            now - Duration::from_secs(5)
        )
        .unwrap()
        .is_some()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_datagram_in_fragments_arrives_the_same_in_any_order(
        v6: bool,
        length in 1600..9000_usize,
        mtu in 1280..1600_usize,
        order: [u16; 16],
    ) {
        let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let mut fragments: Vec<_> = datagram(v6, &payload, mtu).into_iter().zip(order).collect();
        fragments.sort_by_key(|(_, place)| *place);
        let (mut table, now) = (Reassembly::default(), Instant::now());

        let mut whole: Vec<_> = fragments.iter().filter_map(|(bytes, _)| add(&mut table, bytes, now).unwrap()).collect();

        prop_assert!(fragments.iter().all(|(bytes, _)| bytes.len() <= mtu));
        prop_assert_eq!(whole.len(), 1);
        let whole = whole.remove(0);
        assert_sound(&whole);
        let packet = Packet::parse(&whole).unwrap();
        prop_assert_eq!(packet.udp_payload(), Some(&payload[..]));
        prop_assert_eq!((packet.fragment(), packet.checksum_is_right()), (None, true));
    }

    #[test]
    fn what_is_put_together_has_no_hole_and_no_doubt(
        fragments in proptest::collection::vec((0..6_usize, any::<bool>(), 1..4_usize), 1..12),
    ) {
        // Every byte tells its place, so that a packet put together wrongly shows it.
        let bytes: Vec<u8> = (0..72).collect();
        let (mut table, now) = (Reassembly::default(), Instant::now());
        for (start, more, length) in fragments {
            let (start, end) = (8 * start, 8 * (start + length));
            let packet = fragment(false, 132, 1, start, more, &bytes[start..end]);
            let packet = Packet::parse(&packet).unwrap();

            let whole = table.add(&packet, Fragment { id: 1, offset: start, more }, now).unwrap();

            if let Some(whole) = whole {
                prop_assert_eq!(&whole[20..], &bytes[..whole.len() - 20]);
            }
        }
    }
}

#[test]
fn a_packet_and_its_fragments_can_be_cut_into_smaller_ones() {
    for v6 in [false, true] {
        let payload: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
        for first in [1280, 1400, usize::MAX] {
            for second in [576, 1200, 1276] {
                let mut parts = Vec::new();
                for mut part in datagram(v6, &payload, first) {
                    // Class and hop limit stay those of the packet.
                    if v6 {
                        part[7] = 9;
                    } else {
                        part[8] = 9;
                        part[10..12].fill(0);
                        let sum = punch_packet::Checksum::default().with(&part[..20]).finish();
                        part[10..12].copy_from_slice(&sum.to_be_bytes());
                    }
                    parts.extend(split(part, second, 77));
                }
                assert!(parts.iter().all(|part| part.len() <= second));
                assert!(parts.iter().all(|part| part[if v6 { 7 } else { 8 }] == 9));
                let (mut table, now) = (Reassembly::default(), Instant::now());
                let mut whole = None;
                for part in &parts {
                    whole = whole.or(add(&mut table, part, now).unwrap());
                }
                let whole = whole.unwrap();
                let packet = Packet::parse(&whole).unwrap();
                assert_eq!(
                    packet.udp_payload(),
                    Some(&payload[..]),
                    "{v6} {first} {second}"
                );
            }
        }
    }
}
