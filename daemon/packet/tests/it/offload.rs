//! Cutting and joining are each other's reverse, and the kernel's.

use std::net::IpAddr;

use proptest::prelude::*;
use punch_packet::{
    Batch, Buffer, Checksum, Coalescer, GsoKind, Malformed, Offload, Packet, PartialChecksum,
    pseudo_header, segments, transport_checksum,
};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

fn addresses(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
    } else {
        ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
    }
}

fn ip(v6: bool, protocol: u8, id: u16, transport: &[u8]) -> Vec<u8> {
    let (source, destination) = addresses(v6);
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, 0]);
            packet.extend(u16::try_from(20 + transport.len()).unwrap().to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend([0x40, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = Checksum::default().with(&packet).finish();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(u16::try_from(transport.len()).unwrap().to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => unreachable!(),
    }
    packet.extend(transport);
    packet
}

#[derive(Debug, Clone)]
struct Tcp {
    v6: bool,
    port: u16,
    id: u16,
    sequence: u32,
    ack: u32,
    flags: u8,
    options: usize,
    payload: Vec<u8>,
}

impl Tcp {
    fn new(payload: &[u8]) -> Self {
        Self {
            v6: false,
            port: 1000,
            id: 7,
            sequence: u32::MAX - 1000,
            ack: 99,
            flags: ACK,
            options: 12,
            payload: payload.to_vec(),
        }
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.port.to_be_bytes());
        segment.extend(80_u16.to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.ack.to_be_bytes());
        let words = u8::try_from(5 + self.options / 4).unwrap();
        segment.extend([words << 4, self.flags, 1, 2, 0, 0, 0, 0]);
        segment.extend(std::iter::repeat_n(1, self.options));
        segment.extend(&self.payload);
        segment
    }

    fn packet(&self) -> Vec<u8> {
        let mut segment = self.segment();
        let (source, destination) = addresses(self.v6);
        let sum = transport_checksum(source, destination, 6, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        ip(self.v6, 6, self.id, &segment)
    }

    /// As the kernel hands over what a card shall cut.
    fn large(&self, size: u16) -> (Vec<u8>, Offload) {
        let mut segment = self.segment();
        let (source, destination) = addresses(self.v6);
        let sum = !pseudo_header(source, destination, 6, segment.len()).finish();
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let kind = if self.v6 {
            GsoKind::Tcp6
        } else {
            GsoKind::Tcp4
        };
        let offload = Offload {
            checksum: Some(PartialChecksum {
                start: if self.v6 { 40 } else { 20 },
                offset: 16,
            }),
            gso: Some((kind, size)),
        };
        (ip(self.v6, 6, self.id, &segment), offload)
    }

    /// What a card makes of it.
    fn cut(&self, size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(size);
        let cuts = self.payload.chunks(size).enumerate().map(|(index, chunk)| {
            let mut flags = self.flags;
            if index + 1 < count {
                flags &= !(FIN | PSH);
            }
            if index > 0 {
                flags &= !CWR;
            }
            Self {
                id: self.id.wrapping_add(index as u16),
                sequence: self.sequence.wrapping_add((index * size) as u32),
                flags,
                payload: chunk.to_vec(),
                ..self.clone()
            }
            .packet()
        });
        cuts.collect()
    }
}

fn udp(v6: bool, port: u16, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(port.to_be_bytes());
    segment.extend(53_u16.to_be_bytes());
    segment.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    let (source, destination) = addresses(v6);
    let sum = transport_checksum(source, destination, 17, &segment);
    segment[6..8].copy_from_slice(&sum.max(1).to_be_bytes());
    ip(v6, 17, id, &segment)
}

fn cut(packet: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut cut = Vec::new();
    let packet = Packet::parse(packet)?;
    let count = segments(&packet, offload, &mut Buffer::default(), |segment| {
        cut.push(segment.to_vec());
    })?;
    assert_eq!(count, cut.len());
    Ok(cut)
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

/// Joins, and says which packets became one, as the kernel gets them.
fn join(packets: &[Vec<u8>]) -> Vec<(Vec<usize>, Vec<u8>, Offload)> {
    let mut batch = Batch::default();
    for packet in packets {
        batch.push(packet);
    }
    let mut coalescer = Coalescer::new(true, true);
    coalescer.join(&mut batch);
    let groups = coalescer.groups().map(|group| {
        let members: Vec<_> = coalescer.members(group).collect();
        let mut whole = batch.get(members[0]).to_vec();
        for member in &members[1..] {
            whole.extend(&batch.get(*member)[usize::from(group.headers)..]);
        }
        (members, whole, group.offload)
    });
    groups.collect()
}

fn shape(packets: &[Vec<u8>]) -> Vec<Vec<usize>> {
    let groups = join(packets).into_iter().map(|(members, ..)| members);
    groups.collect()
}

#[test]
fn a_header_is_read_as_it_was_written() {
    let cases = [
        Offload::default(),
        Offload {
            checksum: Some(PartialChecksum {
                start: 20,
                offset: 6,
            }),
            gso: None,
        },
        Offload {
            checksum: Some(PartialChecksum {
                start: 40,
                offset: 16,
            }),
            gso: Some((GsoKind::Tcp6, 1360)),
        },
        Offload {
            checksum: None,
            gso: Some((GsoKind::Udp, 1)),
        },
    ];
    for offload in cases {
        assert_eq!(Offload::decode(&offload.encode(54)), Ok(offload));
    }
}

#[test]
fn ways_to_cut_that_nobody_asked_for_are_refused() {
    for kind in [2, 3, 6, 127] {
        let header = [0, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Offload::decode(&header), Err(Malformed::Header));
    }
    let ecn = Offload::decode(&[1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(ecn.gso, Some((GsoKind::Tcp4, 0)));
}

#[test]
fn a_large_tcp_packet_is_cut_as_a_card_would() {
    for v6 in [false, true] {
        for flags in [ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR] {
            for length in [1, 999, 1000, 1001, 30_000] {
                let large = Tcp {
                    v6,
                    flags,
                    ..Tcp::new(&bytes(length))
                };
                let (packet, offload) = large.large(1000);

                assert_eq!(cut(&packet, offload).unwrap(), large.cut(1000));
            }
        }
    }
}

/// Sequence number, flags, urgent pointer and length of the data of each piece; their headers are of 32 bytes.
fn pieces(packet: &[u8], v6: bool, size: u16) -> Vec<(u32, u8, u16, usize)> {
    let (_, offload) = Tcp {
        v6,
        ..Tcp::new(b"")
    }
    .large(size);
    let at = if v6 { 40 } else { 20 };
    let pieces = cut(packet, offload).unwrap().into_iter().map(|piece| {
        let (source, destination) = addresses(v6);
        let segment = &piece[at..];
        assert_eq!(transport_checksum(source, destination, 6, segment), 0);
        let sequence = u32::from_be_bytes(segment[4..8].try_into().unwrap());
        let urgent = u16::from_be_bytes(segment[18..20].try_into().unwrap());
        (sequence, segment[13], urgent, segment.len() - 32)
    });
    pieces.collect()
}

#[test]
fn urgent_data_ends_where_it_did() {
    for v6 in [false, true] {
        for urgent in [1, 1000, 1001, 2500_u16] {
            let large = Tcp {
                v6,
                flags: ACK | URG,
                ..Tcp::new(&bytes(2500))
            };
            let (mut packet, _) = large.large(1000);
            let pointer = if v6 { 58 } else { 38 };
            packet[pointer..pointer + 2].copy_from_slice(&urgent.to_be_bytes());

            for (index, piece) in pieces(&packet, v6, 1000).into_iter().enumerate() {
                let start = index as u16 * 1000;
                let left = urgent.saturating_sub(start);
                let flags = if left > 0 { ACK | URG } else { ACK };
                let sequence = large.sequence.wrapping_add(start.into());
                let length = 1000.min(2500 - usize::from(start));
                assert_eq!(piece, (sequence, flags, left, length), "{urgent}");
            }
        }
    }
}

#[test]
fn a_connection_that_begins_with_data_begins_once() {
    for v6 in [false, true] {
        let large = Tcp {
            v6,
            flags: SYN,
            sequence: u32::MAX - 500,
            ..Tcp::new(&bytes(1500))
        };
        let (packet, _) = large.large(1000);
        let right = [(u32::MAX - 500, SYN, 0, 1000), (500, 0, 0, 500)];
        assert_eq!(pieces(&packet, v6, 1000), right);
    }
}

#[test]
fn a_large_udp_packet_is_cut_into_datagrams() {
    for v6 in [false, true] {
        let payload = bytes(2500);
        let offload = Offload {
            checksum: None,
            gso: Some((GsoKind::Udp, 1000)),
        };

        let cut = cut(&udp(v6, 9, 3, &payload), offload).unwrap();

        let expected: Vec<_> = payload
            .chunks(1000)
            .enumerate()
            .map(|(index, chunk)| udp(v6, 9, 3 + index as u16, chunk))
            .collect();
        assert_eq!(cut, expected);
    }
}

#[test]
fn a_partial_checksum_is_completed() {
    let tcp = Tcp::new(b"hello");
    let (packet, offload) = tcp.large(0);
    let offload = Offload {
        gso: None,
        ..offload
    };

    assert_eq!(cut(&packet, offload).unwrap(), [tcp.packet()]);
    let whole = Offload::default();
    assert_eq!(cut(&tcp.packet(), whole).unwrap(), [tcp.packet()]);
}

#[test]
fn an_offload_that_does_not_fit_the_packet_is_refused() {
    let (packet, offload) = Tcp::new(&bytes(3000)).large(1000);
    let with = |checksum, gso| Offload { checksum, gso };
    let beyond = PartialChecksum {
        start: 20,
        offset: 60_000,
    };
    let mut short = packet.clone();
    short[20 + 12] = 0x40;
    let mut long = Tcp::new(b"").packet();
    long[20 + 12] = 0xF0;

    for (packet, offload) in [
        (&packet, with(None, Some((GsoKind::Udp, 1000)))),
        (&packet, with(None, Some((GsoKind::Tcp4, 0)))),
        (&packet, with(Some(beyond), None)),
        (&short, offload),
        (&long, offload),
    ] {
        assert!(cut(packet, offload).is_err(), "{offload:?}");
    }
}

#[test]
fn segments_of_one_flow_are_joined_into_what_they_were_cut_from() {
    for v6 in [false, true] {
        let large = Tcp {
            v6,
            flags: ACK | PSH,
            ..Tcp::new(&bytes(10_500))
        };

        let groups = join(&large.cut(1000));

        let [(members, whole, offload)] = &groups[..] else {
            panic!("{groups:?}");
        };
        assert_eq!(*members, (0..11).collect::<Vec<_>>());
        assert_eq!(
            (whole, *offload),
            (&large.large(1000).0, large.large(1000).1)
        );
    }
}

#[test]
fn datagrams_of_one_flow_are_joined() {
    for v6 in [false, true] {
        let packets: Vec<_> = bytes(2300)
            .chunks(500)
            .map(|chunk| udp(v6, 9, 0, chunk))
            .collect();

        let groups = join(&packets);

        let [(_, whole, offload)] = &groups[..] else {
            panic!("{groups:?}");
        };
        // Fragments are forbidden: identifications mean nothing.
        let cut: Vec<_> = cut(whole, *offload)
            .unwrap()
            .into_iter()
            .map(|packet| Packet::parse(&packet).unwrap().segment().to_vec())
            .collect();
        let expected: Vec<_> = packets
            .iter()
            .map(|packet| Packet::parse(packet).unwrap().segment().to_vec())
            .collect();
        assert_eq!(cut, expected);
    }
}

#[test]
fn what_one_header_cannot_say_is_not_joined() {
    let first = Tcp::new(&bytes(100));
    let next = Tcp {
        id: first.id + 1,
        sequence: first.sequence + 100,
        ..first.clone()
    };
    assert_eq!(shape(&[first.packet(), next.packet()]), [vec![0, 1]]);
    let change = |change: fn(&mut Tcp)| {
        let mut changed = next.clone();
        change(&mut changed);
        changed.packet()
    };
    let spoil = |at: usize, value: u8| {
        let mut packet = next.packet();
        packet[at] = value;
        let sum = {
            packet[10..12].fill(0);
            Checksum::default().with(&packet[..20]).finish()
        };
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let others = [
        ("a gap", change(|tcp| tcp.sequence += 1)),
        ("another acknowledgement", change(|tcp| tcp.ack += 1)),
        ("longer", change(|tcp| tcp.payload.push(0))),
        ("no payload", change(|tcp| tcp.payload.clear())),
        ("the end", change(|tcp| tcp.flags |= FIN)),
        ("other options", change(|tcp| tcp.options = 0)),
        ("another flow", change(|tcp| tcp.port += 1)),
        ("another family", change(|tcp| tcp.v6 = true)),
        ("a congestion mark", spoil(1, 3)),
        ("another TTL", spoil(8, 63)),
        ("a fragment", spoil(6, 0x20)),
        ("a wrong checksum", {
            let mut packet = next.packet();
            packet[60] ^= 1;
            packet
        }),
    ];
    for (what, other) in others {
        assert_eq!(shape(&[first.packet(), other]), [[0], [1]], "{what}");
    }
}

#[test]
fn nothing_is_joined_behind_what_ends_a_flow_or_a_group() {
    let segments = Tcp::new(&bytes(400)).cut(100);
    let pushed = Tcp {
        flags: ACK | PSH,
        ..Tcp::new(&bytes(100))
    };
    // PSH ends a group; a pure acknowledgement of the same flow is not overtaken.
    let mut packets = segments.clone();
    packets[1] = Tcp {
        id: 8,
        sequence: pushed.sequence.wrapping_add(100),
        ..pushed
    }
    .packet();
    assert_eq!(shape(&packets), [vec![0, 1], vec![2, 3]]);
    let acknowledgement = Tcp::new(b"").packet();
    packets = segments.clone();
    packets.insert(2, acknowledgement);
    assert_eq!(shape(&packets), [vec![0, 1], vec![2], vec![3, 4]]);
    // What cannot be read may belong to the flow.
    packets[2] = vec![0x46; 60];
    assert_eq!(shape(&packets), [vec![0, 1], vec![2], vec![3, 4]]);
}

#[test]
fn many_flows_are_joined_side_by_side() {
    for flows in [2, 8, 64, 1000] {
        let all: Vec<_> = (0..flows)
            .map(|flow| {
                Tcp {
                    port: flow,
                    ..Tcp::new(&bytes(300))
                }
                .cut(100)
            })
            .collect();
        let packets: Vec<_> = (0..3)
            .flat_map(|at| all.iter().map(move |flow| flow[at].clone()))
            .collect();

        let groups = shape(&packets);

        let flows = usize::from(flows);
        let whole = groups.iter().filter(|group| group.len() == 3).count();
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 3 * flows);
        // More flows than places: those that share one are not joined, and stay in order.
        let least = if flows <= 64 { flows * 3 / 4 } else { 0 };
        assert!(whole >= least, "{whole} of {flows}");
        assert!(flows > 8 || whole == flows, "{whole} of {flows}");
    }
}

#[test]
fn no_group_is_larger_than_the_kernel_takes() {
    let groups = join(&Tcp::new(&bytes(100 * 130)).cut(100));
    assert_eq!(
        groups.iter().map(|(m, ..)| m.len()).collect::<Vec<_>>(),
        [64, 64, 2]
    );
    let mut packets = Tcp::new(&bytes(60_000)).cut(1400);
    packets.extend(
        Tcp {
            id: 7 + 43,
            sequence: Tcp::new(b"").sequence.wrapping_add(60_000),
            ..Tcp::new(&bytes(60_000))
        }
        .cut(1400),
    );
    for (_, whole, _) in join(&packets) {
        assert!(whole.len() <= 65_535);
        assert!(Packet::parse(&whole).is_ok());
    }
}

#[test]
fn protocols_can_be_left_alone() {
    let mut batch = Batch::default();
    for packet in Tcp::new(&bytes(300)).cut(100) {
        batch.push(&packet);
    }
    for chunk in bytes(300).chunks(100) {
        batch.push(&udp(false, 1, 0, chunk));
    }
    for (tcp, udp, groups) in [
        (true, true, 2),
        (true, false, 4),
        (false, true, 4),
        (false, false, 6),
    ] {
        let mut batch = {
            let mut copy = Batch::default();
            batch.iter().for_each(|packet| copy.push(packet));
            copy
        };
        let mut coalescer = Coalescer::new(tcp, udp);
        coalescer.join(&mut batch);
        assert_eq!(coalescer.groups().count(), groups);
    }
    batch.clear();
}

/// A packet of one of a few flows, much of which follows its forerunner.
fn step() -> impl Strategy<Value = (bool, u16, u8, usize, bool)> {
    (
        any::<bool>(),
        0..3_u16,
        prop_oneof![8 => Just(ACK), 1 => Just(ACK | PSH), 1 => Just(ACK | FIN)],
        prop_oneof![3 => Just(200_usize), 1 => 0..300_usize],
        prop::bool::weighted(0.1),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn cutting_undoes_joining_and_no_flow_is_reordered(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut sequences = [0_u32; 6];
        let mut packets = Vec::new();
        for (v6, port, flags, length, is_udp) in steps {
            if is_udp {
                packets.push(udp(v6, port, packets.len() as u16, &bytes(length)));
                continue;
            }
            let sequence = &mut sequences[usize::from(port) + 3 * usize::from(v6)];
            packets.push(Tcp {
                v6,
                port,
                flags,
                id: 0,
                sequence: *sequence,
                ..Tcp::new(&bytes(length))
            }.packet());
            *sequence += length as u32;
        }

        let mut seen = vec![false; packets.len()];
        let mut newest = std::collections::HashMap::new();
        for (members, whole, offload) in join(&packets) {
            let pieces = cut(&whole, offload).unwrap();
            prop_assert_eq!(pieces.len(), members.len());
            for (member, piece) in members.into_iter().zip(pieces) {
                let (before, after) = (Packet::parse(&packets[member]).unwrap(), Packet::parse(&piece).unwrap());
                prop_assert_eq!(before.segment(), after.segment());
                prop_assert_eq!(before.flow(), after.flow());
                prop_assert!(!std::mem::replace(&mut seen[member], true));
                let last = newest.insert(before.flow(), member);
                prop_assert!(last.is_none_or(|last| last < member), "a flow was reordered");
            }
        }
        prop_assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn nothing_panics_on_arbitrary_bytes(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..20),
        header: [u8; 10],
        version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
    ) {
        let packets: Vec<_> = packets.into_iter().map(|mut packet| {
            if let Some(first) = packet.first_mut() {
                *first = version;
            }
            packet
        }).collect();
        join(&packets);
        if let Ok(offload) = Offload::decode(&header) {
            for packet in &packets {
                let _ = cut(packet, offload);
            }
        }
    }
}
