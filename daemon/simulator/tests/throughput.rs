//! What a birthday run asks of the simulator. Prints its speed; for the real figures:
//! `PUNCH_SIMULATOR_PACKETS=520000 cargo test --release -p punch-simulator --test throughput -- --nocapture`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it is a test"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_simulator::nat::{Allocation, NatSpec};
use punch_simulator::network::{Datagram, Gateway, INTERNET, LinkSpec, Network};

/// Each side's distinct (socket, destination port) pairs.
const PAIRS: u32 = 131_072;
/// Few enough ports that some packets get through.
const LOW: u16 = 1024;
const PORTS: u32 = 8192;

/// Two hard NATs; each side sends 13,000 packets a second, walking over its pairs. Answers with a
/// hash over all arrivals, their number, and the mappings that each NAT had at the most.
fn birthday(packets: u32, seed: u64) -> (u64, u64, [usize; 2]) {
    let start = Instant::now();
    let mut network = Network::new(seed, start);
    let link = LinkSpec {
        delay: Duration::from_millis(10),
        ..LinkSpec::default()
    };
    let publics = [1, 2].map(|number| IpAddr::from([203, 0, 113, number]));
    let high = LOW + (PORTS - 1) as u16;
    let block = Allocation::RandomIn { low: LOW, high };
    let zones = publics.map(|public| {
        let spec = NatSpec::symmetric(block, public);
        network.add_zone(INTERNET, Gateway::Nat(spec), link)
    });
    let inside = IpAddr::from([10, 0, 0, 2]);
    let hosts = zones.map(|zone| network.add_host(zone, &[inside]));
    let (mut hash, mut arrived) = (0xcbf2_9ce4_8422_2325_u64, 0_u64);
    for number in 0..packets / 2 {
        let now = start + Duration::from_secs(1) / 13_000 * number;
        while network.next_event().is_some_and(|at| at <= now) {
            while let Some(packet) = network.poll_delivery(now) {
                arrived += 1;
                hash = (hash ^ u64::from(packet.from.port())).wrapping_mul(0x0000_0100_0000_01b3);
                hash = (hash ^ u64::from(packet.to.port())).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        let pair = number % PAIRS;
        let port = LOW + (pair % PORTS) as u16;
        let socket = 20_000 + (pair / PORTS) as u16;
        for (host, other) in hosts.into_iter().zip([publics[1], publics[0]]) {
            let datagram = Datagram {
                src: SocketAddr::new(inside, socket),
                dst: SocketAddr::new(other, port),
                ttl: 64,
                payload: vec![7; 100],
            };
            network.send(now, host, datagram);
        }
    }
    let peaks = zones.map(|zone| network.gate(zone).peak());
    (hash, arrived, peaks)
}

#[test]
fn a_birthday_run_is_the_same_for_the_same_seed() {
    let packets =
        std::env::var("PUNCH_SIMULATOR_PACKETS").map_or(40_000, |text| text.parse().unwrap());
    let began = Instant::now();
    let first = birthday(packets, 7);
    let took = began.elapsed();
    println!(
        "{packets} packets through two NATs in {took:.2?}: {:.2} million/s; {} arrived; mappings at the most: {:?}",
        f64::from(packets) / took.as_secs_f64() / 1e6,
        first.1,
        first.2
    );
    assert_eq!(first, birthday(packets, 7));
    assert_ne!(first.0, birthday(packets, 8).0);
    assert!(first.2.iter().all(|peak| *peak > packets as usize / 10));
}
