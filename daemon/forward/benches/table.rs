//! What a new stream costs that finds no room, beside one that finds it: with empty tables and with full ones.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a benchmark"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use punch_api::{ForwardKey, Protocol};
use punch_forward::{
    Access, MAX_FLOWS, MAX_FLOWS_PER_PEER, MAX_STREAMS, MAX_STREAMS_PER_PEER, Refused, Rule, Rules,
    Stack,
};
use punch_packet::{Checksum, Packet, PeerHandle, UdpReply, transport_checksum, udp_packets};

const PEER: PeerHandle = PeerHandle(1);
const OTHER: PeerHandle = PeerHandle(2);

fn main() {
    divan::main();
}

fn rules() -> Rules {
    let rule = |protocol| Rule {
        key: ForwardKey {
            protocol,
            ports: "53".parse().unwrap(),
        },
        target: "127.0.0.1:53".parse().unwrap(),
        access: Access::AllPeers,
    };
    Rules::new([rule(Protocol::Tcp), rule(Protocol::Udp)])
}

/// The address of the nth client, and of the forward.
fn ends(n: usize) -> (SocketAddr, SocketAddr) {
    let port = u16::try_from(1000 + n).unwrap();
    let client = SocketAddr::new([100, 64, 0, 2].into(), port);
    (client, SocketAddr::new([100, 64, 0, 1].into(), 53))
}

fn first_packet(protocol: Protocol, n: usize) -> Vec<u8> {
    let (source, destination) = ends(n);
    if protocol == Protocol::Udp {
        let datagram = UdpReply {
            source,
            destination,
            payload: b"question",
            id: 1,
        };
        return udp_packets(datagram, 1420).pop().unwrap();
    }
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&destination.port().to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 2;
    let checksum = transport_checksum(source.ip(), destination.ip(), 6, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend([100, 64, 0, 2, 100, 64, 0, 1]);
    let sum = Checksum::default().with(&packet).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(segment);
    packet
}

struct Bench {
    stack: Stack,
    rules: Rules,
    now: Instant,
}

impl Bench {
    /// Tables in which each peer has so many of both protocols.
    fn with(streams: &[(PeerHandle, usize, usize)]) -> Self {
        let mut bench = Self {
            stack: Stack::new(1420, 1),
            rules: rules(),
            now: Instant::now(),
        };
        for (peer, tcp, udp) in streams {
            for (protocol, count) in [(Protocol::Tcp, *tcp), (Protocol::Udp, *udp)] {
                for n in 0..count {
                    bench.now += Duration::from_millis(1);
                    let packet = first_packet(protocol, n);
                    assert_eq!(bench.take(*peer, &packet), Ok(()));
                }
            }
        }
        while bench.stack.poll_order().is_some() {}
        bench
    }

    fn full() -> Self {
        Self::with(&[
            (PEER, MAX_STREAMS_PER_PEER, MAX_FLOWS_PER_PEER),
            (
                OTHER,
                MAX_STREAMS - MAX_STREAMS_PER_PEER,
                MAX_FLOWS - MAX_FLOWS_PER_PEER,
            ),
        ])
    }

    fn take(&mut self, peer: PeerHandle, packet: &[u8]) -> Result<(), Refused> {
        let packet = Packet::parse(packet).unwrap();
        self.stack
            .handle_packet(peer, &packet, &self.rules, self.now)
    }
}

/// A packet for a port that is not shared: what every refusal costs at least.
#[divan::bench(args = [Protocol::Tcp, Protocol::Udp])]
fn refused_with_empty_tables(bencher: Bencher<'_, '_>, protocol: Protocol) {
    let mut bench = Bench::with(&[]);
    bench.rules = Rules::default();
    let packet = first_packet(protocol, 30_000);
    bencher.bench_local(|| black_box(bench.take(PEER, &packet)));
}

#[divan::bench(args = [Protocol::Tcp, Protocol::Udp])]
fn refused_with_full_tables(bencher: Bencher<'_, '_>, protocol: Protocol) {
    let mut bench = Bench::full();
    let packet = first_packet(protocol, 30_000);
    bencher.bench_local(|| {
        bench.now += Duration::from_millis(1);
        let refused = bench.take(PEER, &packet);
        assert_eq!(refused, Err(Refused::Full));
        refused
    });
}

#[divan::bench(args = [Protocol::Tcp, Protocol::Udp])]
fn refused_for_being_too_fast(bencher: Bencher<'_, '_>, protocol: Protocol) {
    let mut bench = Bench::full();
    let packet = first_packet(protocol, 30_000);
    while bench.take(PEER, &packet) != Err(Refused::TooFast) {}
    bencher.bench_local(|| black_box(bench.take(PEER, &packet)));
}

/// A peer with little takes from the one that holds most.
#[divan::bench(args = [Protocol::Tcp, Protocol::Udp])]
fn taken_from_the_largest(bencher: Bencher<'_, '_>, protocol: Protocol) {
    let mut bench = Bench::full();
    let mut n = 0;
    bencher.bench_local(|| {
        bench.now += Duration::from_millis(1);
        n = (n + 1) % 60_000;
        let taken = bench.take(PeerHandle(3 + n as u32), &first_packet(protocol, n));
        while bench.stack.poll_order().is_some() {}
        while bench.stack.poll_packet().is_some() {}
        taken
    });
}

/// One more datagram of a flow that is there, among few and among many.
#[divan::bench(args = [1, MAX_FLOWS_PER_PEER])]
fn a_datagram_of_a_known_flow(bencher: Bencher<'_, '_>, flows: usize) {
    let mut bench = Bench::with(&[(PEER, 0, flows)]);
    let packet = first_packet(Protocol::Udp, 0);
    bencher.bench_local(|| {
        bench.now += Duration::from_micros(10);
        let taken = bench.take(PEER, &packet);
        while bench.stack.poll_order().is_some() {}
        taken
    });
}
