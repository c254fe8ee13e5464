//! What a packet costs between the TUN and the sockets: two engines with real WireGuard between them, in memory. Rates are
//! bytes and packets per second. The number is that of peers and of forwards; only finding a rule may grow with it, by its
//! logarithm. At the end, what configured peers cost that nobody has called: nothing may grow with them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a benchmark"
)]

#[path = "../tests/it/packets.rs"]
#[allow(dead_code, reason = "the tests make more kinds of packets")]
mod packets;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use packets::{ACK, at, tcp, udp};
use punch_api::{ForwardKey, Protocol};
use punch_engine::{
    Access, Batch, Budget, Change, Engine, EngineConfig, Job, NatOverrides, Offload, PeerConfig,
    PeerHandle, PeerKind, Rule, Rules, SocketId,
};
use punch_packet::{GsoKind, PartialChecksum};
use punch_signal_protocol::{Identity, Ipv4Range};

const MTU: usize = 1420;
const MSS: usize = MTU - 40;
/// As many full packets come in with one call, sealed, at the most.
const TRAIN: usize = 45;
/// How many peers and forwards there are.
const COUNTS: [u16; 3] = [1, 10, 1000];
/// How many peers are configured and not connected.
const CONFIGURED: [u32; 4] = [1, 100, 1000, 10_000];
/// The first port that is forwarded; each next one is two further.
const FORWARDED: u16 = 20_000;
/// Lies between forwards, where there are several, and is none.
const OPEN: u16 = FORWARDED + 1;

fn main() {
    divan::main();
}

#[divan::bench(args = COUNTS)]
fn seal_64_kib_in_one(bencher: Bencher<'_, '_>, count: u16) {
    let pair = Pair::new(count);
    let (near, far) = (pair.near.address, pair.far.address);
    let data = vec![7; 65_535 - 40];
    let packet = tcp(at(near, 40_000), at(far, OPEN), ACK, 1, 1, &data);
    let offload = Offload {
        checksum: Some(PartialChecksum {
            start: 20,
            offset: 16,
        }),
        gso: Some((GsoKind::Tcp4, MSS as u16)),
    };
    seal(bencher, pair, &[packet], offload, data.len().div_ceil(MSS));
}

#[divan::bench(args = COUNTS)]
fn seal_64_packets_of_64_bytes(bencher: Bencher<'_, '_>, count: u16) {
    let pair = Pair::new(count);
    let packets: Vec<_> = (0..64).map(|_| pair.small(0)).collect();
    seal(bencher, pair, &packets, Offload::default(), 64);
}

#[divan::bench(args = COUNTS)]
fn open_45_full_packets(bencher: Bencher<'_, '_>, count: u16) {
    let pair = Pair::new(count);
    let (near, far) = (pair.near.address, pair.far.address);
    let packets: Vec<_> = (0..TRAIN)
        .map(|index| {
            let sequence = (index * MSS) as u32;
            tcp(at(near, 40_000), at(far, OPEN), ACK, sequence, 1, &[7; MSS])
        })
        .collect();
    open(bencher, pair, &packets);
}

#[divan::bench(args = COUNTS)]
fn open_45_packets_of_64_bytes(bencher: Bencher<'_, '_>, count: u16) {
    let pair = Pair::new(count);
    let packets: Vec<_> = (0..TRAIN).map(|_| pair.small(0)).collect();
    open(bencher, pair, &packets);
}

/// What is decided about a packet holds for those of its flow behind it; here it is decided about each.
#[divan::bench(args = COUNTS)]
fn open_45_packets_of_64_bytes_of_45_flows(bencher: Bencher<'_, '_>, count: u16) {
    let pair = Pair::new(count);
    let packets: Vec<_> = (0..TRAIN).map(|flow| pair.small(flow as u16)).collect();
    open(bencher, pair, &packets);
}

/// What an initiation costs the packets: all but its arithmetic.
#[divan::bench(args = COUNTS, sample_size = 1)]
fn admit_initiation(bencher: Bencher<'_, '_>, count: u16) {
    let Pair {
        near,
        far,
        now,
        initiation,
    } = Pair::new(count);
    let (from, far, seconds) = (near.endpoint, RefCell::new(far), Cell::new(0));
    let later = || now + Duration::from_secs(seconds.get());
    bencher
        .counter(ItemsCount::new(1_u32))
        .with_inputs(|| {
            far.borrow_mut().work(later());
            // Each in a second of its own, so that no cookie is asked for.
            seconds.set(seconds.get() + 1);
        })
        .bench_local_values(|()| {
            let (socket, length) = (SocketId::MAIN_V4, initiation.len());
            let engine = &mut far.borrow_mut().engine;
            engine.handle_train(socket, None, from, length, black_box(&initiation), later());
        });
}

/// The arithmetic, which another thread does: to find out who sends it.
#[divan::bench(sample_size = 1)]
fn identify_initiation(bencher: Bencher<'_, '_>) {
    let Pair {
        near,
        mut far,
        now,
        initiation,
    } = Pair::new(1);
    let (from, done) = (near.endpoint, Cell::new(None));
    let mut seconds = 0;
    bencher
        .counter(ItemsCount::new(1_u32))
        .with_inputs(|| {
            if let Some(done) = done.take() {
                far.engine.handle_job(done, now);
            }
            seconds += 1;
            let (socket, length) = (SocketId::MAIN_V4, initiation.len());
            let now = now + Duration::from_secs(seconds);
            far.engine
                .handle_train(socket, None, from, length, &initiation, now);
            far.engine.poll_job().unwrap()
        })
        .bench_local_values(|job: Job| done.set(Some(job.perform())));
}

/// A turn in which nothing has come in.
#[divan::bench(args = CONFIGURED, sample_size = 100)]
fn turn_without_work(bencher: Bencher<'_, '_>, count: u32) {
    let (mut engine, now) = (with_configured(count), Instant::now());
    bencher.bench_local(|| {
        engine.flush(now);
        engine.poll_timeout()
    });
}

/// One peer is changed: the command that the packets wait for.
#[divan::bench(args = CONFIGURED, sample_size = 10)]
fn change_one_peer(bencher: Bencher<'_, '_>, count: u32) {
    let (mut engine, now) = (with_configured(count), Instant::now());
    let mut peer = configured(count);
    bencher.bench_local(|| {
        peer.host = !peer.host;
        let change = Change {
            peers: vec![peer.clone()],
            ..Change::default()
        };
        engine.apply(change, now);
    });
}

/// One more peer is added and goes again.
#[divan::bench(args = CONFIGURED, sample_size = 10)]
fn add_and_remove_one_peer(bencher: Bencher<'_, '_>, count: u32) {
    let (mut engine, now) = (with_configured(count), Instant::now());
    let peer = configured(count + 1);
    bencher.bench_local(|| {
        let (handle, peers) = (peer.handle, vec![peer.clone()]);
        engine.apply(
            Change {
                peers,
                ..Change::default()
            },
            now,
        );
        engine.apply(
            Change {
                gone: vec![handle],
                ..Change::default()
            },
            now,
        );
    });
}

/// The look-up of a packet's peer, which is not connected.
#[divan::bench(args = CONFIGURED, sample_size = 100)]
fn find_route(bencher: Bencher<'_, '_>, count: u32) {
    let (mut engine, now) = (with_configured(count), Instant::now());
    let to = *configured(count / 2 + 1).addresses().first().unwrap();
    let packet = udp(at(overlay(1), 40_000), at(to, OPEN), &[7; 36]);
    let mut batch = Batch::default();
    bencher.bench_local(|| {
        engine.handle_tun(black_box(&packet), Offload::default(), now);
        engine.swap_tun(&mut batch);
    });
}

/// A Punch peer that nobody has called.
fn configured(number: u32) -> PeerConfig {
    let mut seed = [5; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    let id = Identity::from_seed(&seed).id();
    PeerConfig {
        handle: PeerHandle(number),
        kind: PeerKind::Punch {
            ipv4: Some(id.overlay_ipv4(Ipv4Range::DEFAULT)),
            id,
        },
        up: false,
        ..peer_config(&identity(2), overlay(2), endpoint(2))
    }
}

fn with_configured(count: u32) -> Engine {
    let mut engine = new_engine(1, Instant::now());
    let change = Change {
        peers: (1..=count).map(configured).collect(),
        ..Change::default()
    };
    engine.apply(change, Instant::now());
    engine
}

#[divan::bench(args = COUNTS, sample_size = 1000)]
fn find_rule(bencher: Bencher<'_, '_>, count: u16) {
    let (rules, port) = (rules(count), FORWARDED + count / 2 * 2);
    assert!(rules.find(Protocol::Tcp, port, PEER).is_some());
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench_local(|| rules.find(black_box(Protocol::Tcp), black_box(port), PEER));
}

#[divan::bench(args = COUNTS, sample_size = 1000)]
fn find_no_rule(bencher: Bencher<'_, '_>, count: u16) {
    let (rules, port) = (rules(count), FORWARDED + count / 2 * 2 + 1);
    assert!(rules.find(Protocol::Tcp, port, PEER).is_none());
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench_local(|| rules.find(black_box(Protocol::Tcp), black_box(port), PEER));
}

/// The near host's kernel sends these packets, with one reading of the TUN each, and `datagrams` leave.
fn seal(
    bencher: Bencher<'_, '_>,
    pair: Pair,
    packets: &[Vec<u8>],
    offload: Offload,
    datagrams: usize,
) {
    let Host { mut engine, .. } = pair.near;
    let now = pair.now;
    bencher
        .counter(BytesCount::new(packets.iter().map(Vec::len).sum::<usize>()))
        .counter(ItemsCount::new(datagrams))
        .bench_local(|| {
            for packet in packets {
                engine.handle_tun(black_box(packet), offload, now);
            }
            engine.flush(now);
            let mut sent = 0;
            while let Some(train) = engine.poll_train() {
                sent += train.bytes.len().div_ceil(train.segment);
                engine.recycle(train);
            }
            assert_eq!(sent, datagrams);
        });
}

/// The far host gets these packets from the near one, which all have one length, in one train.
fn open(bencher: Bencher<'_, '_>, pair: Pair, packets: &[Vec<u8>]) {
    let Pair {
        mut near,
        mut far,
        now,
        ..
    } = pair;
    let (from, mut batch) = (near.endpoint, Batch::default());
    bencher
        .counter(BytesCount::new(packets.iter().map(Vec::len).sum::<usize>()))
        .counter(ItemsCount::new(packets.len()))
        // A datagram is opened once and never again.
        .with_inputs(|| {
            for packet in packets {
                near.engine.handle_tun(packet, Offload::default(), now);
            }
            near.engine.flush(now);
            let mut train = (0, Vec::new());
            near.send(|_, stride, bytes| {
                train.0 = stride;
                train.1.extend_from_slice(bytes);
            });
            train
        })
        .bench_local_refs(|(stride, train)| {
            far.engine
                .handle_train(SocketId::MAIN_V4, None, from, *stride, train, now);
            far.engine.flush(now);
            far.engine.swap_tun(&mut batch);
            assert_eq!(batch.len(), packets.len());
        });
}

/// The handle by which the two know each other.
const PEER: PeerHandle = PeerHandle(0);

struct Host {
    engine: Engine,
    address: IpAddr,
    endpoint: SocketAddr,
}

/// Two hosts that are connected, and that grant themselves to each other.
struct Pair {
    near: Host,
    far: Host,
    now: Instant,
    /// What near began with.
    initiation: Vec<u8>,
}

impl Pair {
    /// Each with so many peers, the other one being the first of them, and so many forwards.
    fn new(count: u16) -> Self {
        let now = Instant::now();
        let mut pair = Self {
            near: Host::new(1, 2, count, now),
            far: Host::new(2, 1, count, now),
            now,
            initiation: Vec::new(),
        };
        // Both shake hands with everybody; the far one's are lost.
        pair.far.work(now);
        pair.far.send(|_, _, _| ());
        pair.near.work(now);
        let (from, to) = (pair.near.endpoint, pair.far.endpoint);
        pair.near.send(|peer, _, bytes| {
            if peer == to {
                pair.initiation = bytes.to_vec();
            }
        });
        let (socket, initiation) = (SocketId::MAIN_V4, &pair.initiation);
        pair.far
            .engine
            .handle_train(socket, None, from, initiation.len(), initiation, now);
        pair.far.send_to(&mut pair.near, now);
        pair.near.send_to(&mut pair.far, now);
        for host in [&pair.near, &pair.far] {
            assert!(host.engine.peer_report(PEER).unwrap().established);
        }
        pair
    }

    /// 64 bytes from near to far.
    fn small(&self, flow: u16) -> Vec<u8> {
        let source = at(self.near.address, 40_000 + flow);
        udp(source, at(self.far.address, OPEN), &[7; 36])
    }
}

fn new_engine(own: u8, now: Instant) -> Engine {
    let config = EngineConfig {
        relay: true,
        tcp: true,
        identity: identity(own),
        ipv4_range: Some(Ipv4Range::DEFAULT),
        mtu: MTU,
        seed: [own; 32],
        budget: Budget::Normal,
        nat: NatOverrides::default(),
    };
    Engine::new(config, 1_800_000_000_000, now)
}

impl Host {
    /// Host `own` with host `peer` and strangers as its peers.
    fn new(own: u8, peer: u8, count: u16, now: Instant) -> Self {
        let mut engine = new_engine(own, now);
        let strangers = (1..count).map(|number| {
            let [high, low] = number.to_be_bytes();
            let mut seed = [3; 32];
            seed[..2].copy_from_slice(&[high, low]);
            PeerConfig {
                handle: PeerHandle(number.into()),
                ..peer_config(
                    &Identity::from_seed(&seed),
                    [10, 0, high, low].into(),
                    SocketAddr::new([198, 18, high, low].into(), 51_820),
                )
            }
        });
        let peer = peer_config(&identity(peer), overlay(peer), endpoint(peer));
        let change = Change {
            peers: [peer].into_iter().chain(strangers).collect(),
            rules: Some(rules(count)),
            ..Change::default()
        };
        engine.apply(change, now);
        Self {
            engine,
            address: overlay(own),
            endpoint: endpoint(own),
        }
    }

    /// Gives each train to `take`, as its destination, the length of its datagrams, and the datagrams.
    fn send(&mut self, mut take: impl FnMut(SocketAddr, usize, &[u8])) {
        while let Some(train) = self.engine.poll_train() {
            take(train.to.unwrap(), train.segment, &train.bytes);
            self.engine.recycle(train);
        }
    }

    /// Does what handshakes need.
    fn work(&mut self, now: Instant) {
        while let Some(job) = self.engine.poll_job() {
            self.engine.handle_job(job.perform(), now);
        }
    }

    fn send_to(&mut self, other: &mut Self, now: Instant) {
        self.work(now);
        let from = self.endpoint;
        self.send(|to, stride, bytes| {
            if to == other.endpoint {
                let socket = SocketId::MAIN_V4;
                other
                    .engine
                    .handle_train(socket, None, from, stride, bytes, now);
            }
        });
        other.engine.flush(now);
    }
}

fn identity(host: u8) -> Identity {
    Identity::from_seed(&[host; 32])
}

fn overlay(host: u8) -> IpAddr {
    identity(host).id().overlay_ipv4(Ipv4Range::DEFAULT).into()
}

fn endpoint(host: u8) -> SocketAddr {
    SocketAddr::new([192, 0, 2, host].into(), 51_820)
}

/// A plain WireGuard peer, so that nothing has to be found out about it first.
fn peer_config(identity: &Identity, address: IpAddr, endpoint: SocketAddr) -> PeerConfig {
    PeerConfig {
        handle: PEER,
        kind: PeerKind::Wireguard {
            public: identity.id().x25519(),
            endpoint: Some(endpoint),
            address: Some(address),
            preshared: None,
        },
        up: true,
        blocked: false,
        direct_only: false,
        host: true,
        stamps: (0, 0),
        memory: Vec::new(),
    }
}

/// So many of each protocol.
fn rules(count: u16) -> Rules {
    let rules = (0..count).flat_map(|number| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Rule {
            key: ForwardKey {
                protocol,
                ports: (FORWARDED + 2 * number).to_string().parse().unwrap(),
            },
            target: "127.0.0.1:5432".parse().unwrap(),
            access: Access::AllPeers,
        })
    });
    Rules::new(rules)
}
