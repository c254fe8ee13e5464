//! What is done to each packet beside its cipher: looking at it, cutting what the kernel hands over in one piece, joining what
//! the kernel takes in one piece. Rates are bytes and packets per second.
#![allow(clippy::unwrap_used, reason = "it is a benchmark")]

use std::net::{IpAddr, SocketAddr};

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use punch_packet::{
    Batch, Buffer, Coalescer, GsoKind, Offload, Packet, PartialChecksum, UdpReply, segments,
    transport_checksum, udp_packets,
};

const MTU: usize = 1420;
/// The longest IP packet.
const LARGE: usize = 65_535;
/// As many full packets come in with one call, sealed, at the most.
const TRAIN: usize = 45;
/// TCP's header with the time stamps that Linux sends.
const TCP_HEADER: usize = 32;
const UDP_HEADER: usize = 8;

fn main() {
    divan::main();
}

#[divan::bench(sample_size = 1000)]
fn checksum(bencher: Bencher<'_, '_>) {
    let (source, destination) = (ip(Family::V4, 1), ip(Family::V4, 2));
    let segment = payload(MTU);
    bencher
        .counter(BytesCount::new(MTU))
        .counter(ItemsCount::new(1_u32))
        .bench_local(|| transport_checksum(source, destination, 6, black_box(&segment)));
}

#[divan::bench(args = [Family::V4, Family::V6], sample_size = 1000)]
fn parse(bencher: Bencher<'_, '_>, family: Family) {
    let packet = Flow::new(family, 0).tcp(1).remove(0);
    bencher
        .counter(BytesCount::new(packet.len()))
        .counter(ItemsCount::new(1_u32))
        .bench_local(|| Packet::parse(black_box(&packet)).unwrap().flow());
}

#[divan::bench(args = [Family::V4, Family::V6])]
fn cut_tcp(bencher: Bencher<'_, '_>, family: Family) {
    let payload = LARGE - family.header() - TCP_HEADER;
    cut(bencher, Flow::new(family, 0).tcp_in_one(payload));
}

#[divan::bench(args = [Family::V4, Family::V6])]
fn cut_udp(bencher: Bencher<'_, '_>, family: Family) {
    let payload = LARGE - family.header() - UDP_HEADER;
    cut(bencher, Flow::new(family, 0).udp_in_one(payload));
}

#[divan::bench(args = [Family::V4, Family::V6])]
fn join_tcp_of_one_flow(bencher: Bencher<'_, '_>, family: Family) {
    join(bencher, &Flow::new(family, 0).tcp(TRAIN), 1);
}

#[divan::bench]
fn join_tcp_of_8_flows_interleaved(bencher: Bencher<'_, '_>) {
    let each = TRAIN.div_ceil(8);
    let flows: Vec<_> = (0..8)
        .map(|flow| Flow::new(Family::V4, flow).tcp(each))
        .collect();
    let packets: Vec<_> = (0..TRAIN).map(|at| flows[at % 8][at / 8].clone()).collect();
    join(bencher, &packets, 8);
}

#[divan::bench]
fn join_udp_of_one_flow(bencher: Bencher<'_, '_>) {
    join(bencher, &Flow::new(Family::V4, 0).udp(TRAIN), 1);
}

/// Each is compared with the flows before it.
#[divan::bench]
fn join_nothing_of_45_flows(bencher: Bencher<'_, '_>) {
    let packets: Vec<_> = (0..TRAIN)
        .flat_map(|flow| Flow::new(Family::V4, flow as u16).udp(1))
        .collect();
    join(bencher, &packets, TRAIN);
}

/// Acknowledgements without data are not joined, and there are many.
#[divan::bench]
fn join_nothing_of_acknowledgements(bencher: Bencher<'_, '_>) {
    let acknowledgement = Flow::new(Family::V4, 0).acknowledgement();
    join(bencher, &vec![acknowledgement; TRAIN], TRAIN);
}

fn cut(bencher: Bencher<'_, '_>, (bytes, offload): (Vec<u8>, Offload)) {
    let packet = Packet::parse(&bytes).unwrap();
    let mut scratch = Buffer::default();
    let count = segments(&packet, offload, &mut scratch, |_| ()).unwrap();
    assert!(count > TRAIN);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .counter(ItemsCount::new(count))
        .bench_local(|| {
            segments(black_box(&packet), offload, &mut scratch, |segment| {
                black_box(segment);
            })
        });
}

fn join(bencher: Bencher<'_, '_>, packets: &[Vec<u8>], groups: usize) {
    let mut coalescer = Coalescer::new(true, true);
    bencher
        .counter(BytesCount::new(packets.iter().map(Vec::len).sum::<usize>()))
        .counter(ItemsCount::new(packets.len()))
        // Joining changes the packets.
        .with_inputs(|| {
            let mut batch = Batch::with_capacity(packets.len(), MTU);
            packets.iter().for_each(|packet| batch.push(packet));
            batch
        })
        .bench_local_refs(|batch| {
            coalescer.join(batch);
            assert_eq!(coalescer.groups().count(), groups);
        });
}

#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// How long its header is.
    fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

fn ip(family: Family, host: u16) -> IpAddr {
    match family {
        Family::V4 => [100, 64, 0, host as u8].into(),
        Family::V6 => [0xFD70, 0x756E, 0x6368, 0, 0, 0, 0, host].into(),
    }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

struct Flow {
    family: Family,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Flow {
    fn new(family: Family, number: u16) -> Self {
        Self {
            family,
            source: (ip(family, 1), 40_000 + number).into(),
            destination: (ip(family, 2), 5432).into(),
        }
    }

    /// Full datagrams that follow each other.
    fn udp(&self, count: usize) -> Vec<Vec<u8>> {
        let size = MTU - self.family.header() - UDP_HEADER;
        apart(self.udp_in_one(count * size))
    }

    /// Full segments that follow each other.
    fn tcp(&self, count: usize) -> Vec<Vec<u8>> {
        let size = MTU - self.family.header() - TCP_HEADER;
        apart(self.tcp_in_one(count * size))
    }

    fn acknowledgement(&self) -> Vec<u8> {
        apart(self.tcp_in_one(0)).remove(0)
    }

    /// Datagrams as Linux hands them over for a card to cut.
    fn udp_in_one(&self, length: usize) -> (Vec<u8>, Offload) {
        let size = MTU - self.family.header() - UDP_HEADER;
        (self.datagram(length), self.offload(GsoKind::Udp, 6, size))
    }

    /// Segments as Linux hands them over for a card to cut.
    fn tcp_in_one(&self, length: usize) -> (Vec<u8>, Offload) {
        // Only the headers of this packet differ from those of a datagram that is as long.
        let mut packet = self.datagram(TCP_HEADER - UDP_HEADER + length);
        let at = self.family.header();
        packet[if at == 20 { 9 } else { 6 }] = 6;
        let header = &mut packet[at..at + TCP_HEADER];
        header[4..].fill(0);
        header[12] = ((TCP_HEADER / 4) << 4) as u8;
        header[13] = 0x10;
        // Two fillers, and time stamps.
        header[20..24].copy_from_slice(&[1, 1, 8, 10]);
        let kind = match self.family {
            Family::V4 => GsoKind::Tcp4,
            Family::V6 => GsoKind::Tcp6,
        };
        (packet, self.offload(kind, 16, MTU - at - TCP_HEADER))
    }

    fn datagram(&self, length: usize) -> Vec<u8> {
        let datagram = UdpReply {
            source: self.source,
            destination: self.destination,
            payload: &payload(length),
            id: 1,
        };
        udp_packets(datagram, usize::MAX).remove(0)
    }

    fn offload(&self, kind: GsoKind, offset: u16, size: usize) -> Offload {
        Offload {
            checksum: Some(PartialChecksum {
                start: self.family.header() as u16,
                offset,
            }),
            gso: Some((kind, size as u16)),
        }
    }
}

/// What a card makes of it.
fn apart((bytes, offload): (Vec<u8>, Offload)) -> Vec<Vec<u8>> {
    let packet = Packet::parse(&bytes).unwrap();
    let mut all = Vec::new();
    let each = |segment: &[u8]| all.push(segment.to_vec());
    segments(&packet, offload, &mut Buffer::default(), each).unwrap();
    all
}
