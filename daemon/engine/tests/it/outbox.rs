//! Trains: what the kernel can be given at once (UDP_SEGMENT), in the order in which it was written.

use punch_engine::Offload;
use std::net::SocketAddr;

use boringtun::noise::TunnResult;
use proptest::collection::vec;
use proptest::prelude::{Just, any, prop_oneof, proptest};
use proptest::test_runner::Config;

use crate::packets::{at, udp};
use crate::plain::Bench;

/// WireGuard's overhead and that of UDP over IPv6.
const AROUND: usize = 32 + 40 + 8;

/// Destination, segment length, and the datagrams.
type Sent = (SocketAddr, usize, Vec<Vec<u8>>);

/// Sends packets with payloads of these lengths to these peers, and checks every train.
fn trains(bench: &mut Bench, packets: &[(usize, usize)]) -> Vec<Sent> {
    let own = bench.own(true);
    for (number, (peer, length)) in packets.iter().enumerate() {
        let mut payload = vec![0; *length];
        payload[..4].copy_from_slice(&(number as u32).to_be_bytes());
        let packet = udp(at(own, 1), at(bench.peers[*peer].address, 2), &payload);
        bench
            .engine
            .handle_tun(&packet, Offload::default(), bench.now);
    }
    bench.engine.flush(bench.now);
    let mut all = Vec::new();
    while let Some(train) = bench.engine.poll_train() {
        let datagrams: Vec<_> = train
            .bytes
            .chunks(train.segment)
            .map(<[u8]>::to_vec)
            .collect();
        assert!(train.segment > 0 && !datagrams.is_empty());
        assert!(datagrams.len() <= 44, "{}", datagrams.len());
        assert!(
            train.bytes.len() <= 65_000 || datagrams.len() == 1,
            "{}",
            train.bytes.len()
        );
        all.push((train.to.unwrap(), train.segment, datagrams));
        bench.engine.recycle(train);
    }
    all
}

/// What each peer gets out of them, as numbers, and the lengths of the datagrams.
fn open(bench: &mut Bench, trains: &[Sent]) -> Vec<Vec<u32>> {
    let mut numbers = vec![Vec::new(); bench.peers.len()];
    for (to, _, datagrams) in trains {
        let index = bench
            .peers
            .iter()
            .position(|peer| peer.endpoint == *to)
            .unwrap();
        for datagram in datagrams {
            let mut buffer = vec![0; datagram.len() + 200];
            match bench.peers[index]
                .tunn
                .decapsulate(None, datagram, &mut buffer)
            {
                TunnResult::WriteToTunnelV6(packet, _) => {
                    numbers[index].push(u32::from_be_bytes(packet[48..52].try_into().unwrap()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    numbers
}

fn bench() -> Bench {
    let mut bench = Bench::with_mtu(true, 65_535);
    bench.add(true, None);
    bench.connect(1);
    bench
}

#[test]
fn packets_of_one_length_share_bursts_of_forty_four() {
    let mut bench = bench();
    let trains = trains(&mut bench, &[(0, 512); 100]);
    let lengths: Vec<_> = trains.iter().map(|train| train.2.len()).collect();
    assert_eq!(lengths, [44, 44, 12]);
    assert!(trains.iter().all(|train| train.1 == 512 + AROUND));
    assert_eq!(open(&mut bench, &trains)[0], (0..100).collect::<Vec<_>>());
}

#[test]
fn long_packets_fill_no_more_than_65_000_bytes() {
    let mut bench = bench();
    let trains = trains(&mut bench, &[(0, 9000 - AROUND); 20]);
    let lengths: Vec<_> = trains.iter().map(|train| train.2.len()).collect();
    assert_eq!(lengths, [7, 7, 6]);
}

#[test]
fn a_shorter_packet_ends_its_burst() {
    let mut bench = bench();
    let trains = trains(
        &mut bench,
        &[(0, 512), (0, 512), (0, 304), (0, 304), (0, 512)],
    );
    let lengths: Vec<_> = trains
        .iter()
        .map(|train| {
            train
                .2
                .iter()
                .map(|datagram| datagram.len() - AROUND)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(lengths, [vec![512, 512, 304], vec![304], vec![512]]);
    assert_eq!(open(&mut bench, &trains)[0], (0..5).collect::<Vec<_>>());
}

#[test]
fn packets_for_different_peers_do_not_share_a_burst() {
    let mut bench = bench();
    let trains = trains(&mut bench, &[(0, 512), (1, 512), (0, 512), (0, 512)]);
    let lengths: Vec<_> = trains.iter().map(|train| train.2.len()).collect();
    assert_eq!(lengths, [1, 1, 2]);
}

#[test]
fn what_comes_between_keeps_its_place() {
    // A refusal is sent on its own; data before and after it is not reordered.
    let mut bench = bench();
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    let handle = bench.peers[0].handle;
    let now = bench.now;
    for number in 0..3_u32 {
        let packet = udp(at(own, 1), at(peer, 2), &number.to_be_bytes());
        bench.engine.handle_tun(&packet, Offload::default(), now);
        bench.engine.ping(handle, now).unwrap();
    }
    bench.pump();
    let kinds: Vec<_> = bench.take_inbox(0).iter().map(|packet| packet[6]).collect();
    assert_eq!(kinds, [17, 58, 17, 58, 17, 58]);
}

proptest! {
    #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

    #[test]
    fn bursts_are_even_bounded_and_in_order(
        packets in vec(
            (0..2_usize, prop_oneof![Just(4_usize), Just(1300), 4..1400_usize, 4..20_000_usize]),
            1..200,
        ),
        splits in any::<u8>(),
    ) {
        let mut bench = bench();
        let mut numbers = vec![Vec::new(); 2];
        let size = usize::from(splits) % packets.len() + 1;
        for part in packets.chunks(size) {
            let trains = trains(&mut bench, part);
            let opened = open(&mut bench, &trains);
            for (all, new) in numbers.iter_mut().zip(opened) {
                all.push(new);
            }
        }
        for (peer, numbers) in numbers.into_iter().enumerate() {
            let expected = packets.chunks(size).map(|part| {
                let mine = part.iter().enumerate().filter(|(_, packet)| packet.0 == peer);
                mine.map(|(number, _)| number as u32).collect::<Vec<_>>()
            });
            assert_eq!(numbers, expected.collect::<Vec<_>>());
        }
    }
}
