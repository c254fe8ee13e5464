//! A machine with the daemon's own engine, and how much each turn makes it do.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_engine::{
    Batch, Change, Engine, EngineConfig, EngineEvent, News, Offload, Order, PeerConfig, PeerHandle,
    RelayPath, Rules, Signal, SocketId, SocketOrder, TargetEvent, TcpOrder,
};
use punch_packet::Packet;
use punch_signal_protocol::{Identity, Ipv4Range};
use punch_traversal::{Budget, NatOverrides};

use crate::network::{Datagram, HostId};

/// The longest packet inside the tunnels.
pub(crate) const MTU: usize = 1280;
const HOPS: u8 = 64;
const FIRST_PORT: u16 = 41_000;
/// The ports of the main sockets.
const MAIN: [(SocketId, u16); 2] = [(SocketId::MAIN_V4, 40_004), (SocketId::MAIN_V6, 40_006)];

/// What one turn of a machine has made it do: one call of `handle_*`, and all that follows at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steps {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Frames for signalling servers.
    pub frames: u64,
    /// Steps of handshakes that other threads compute.
    pub jobs: u64,
    /// Events told, and orders given to the owner of targets.
    pub events: u64,
    /// Packets given to the kernel.
    pub packets: u64,
}

impl Steps {
    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            datagrams: self.datagrams.max(other.datagrams),
            frames: self.frames.max(other.frames),
            jobs: self.jobs.max(other.jobs),
            events: self.events.max(other.events),
            packets: self.packets.max(other.packets),
        }
    }
}

/// What is to be sent at the end of a turn, and whether the signalling clients start anew.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) datagrams: Vec<Datagram>,
    pub(crate) signals: Vec<Signal>,
    /// Packets for relay links.
    pub(crate) relayed: Vec<(RelayPath, Vec<u8>)>,
    /// Where it wanted to connect by TCP.
    pub(crate) dials: Vec<SocketAddr>,
    /// The engine has seen that the machine is in another network.
    pub(crate) network_changed: bool,
}

/// What a machine is made from.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) identity: Identity,
    pub(crate) seed: [u8; 32],
    pub(crate) peers: Vec<PeerConfig>,
    pub(crate) rules: Rules,
    pub(crate) stun: Vec<SocketAddr>,
}

pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) identity: Identity,
    pub(crate) host: HostId,
    pub(crate) peers: Vec<PeerConfig>,
    sockets: BTreeMap<SocketId, u16>,
    by_port: BTreeMap<u16, SocketId>,
    next_port: u16,
    batch: Batch,
    /// Numbers at the beginning of datagrams that have come out of the tunnels; each counts once.
    pub(crate) heard: HashSet<u64>,
    /// The searches that have begun, by peer.
    pub(crate) searches: Vec<(PeerHandle, Instant)>,
    /// The most that one turn has made it do.
    pub(crate) most: Steps,
}

impl Machine {
    pub(crate) fn new(setup: Setup, host: HostId, wall_ms: u64, now: Instant) -> Self {
        let config = EngineConfig {
            relay: true,
            tcp: true,
            identity: setup.identity.clone(),
            ipv4_range: Some(Ipv4Range::DEFAULT),
            mtu: MTU,
            seed: setup.seed,
            budget: Budget::Normal,
            nat: NatOverrides::default(),
        };
        let mut engine = Engine::new(config, wall_ms, now);
        let change = Change {
            peers: setup.peers.clone(),
            gone: Vec::new(),
            rules: Some(setup.rules),
            stun_servers: Some(setup.stun),
        };
        engine.apply(change, now);
        let mut machine = Self {
            engine,
            identity: setup.identity,
            host,
            peers: setup.peers,
            sockets: BTreeMap::new(),
            by_port: BTreeMap::new(),
            next_port: FIRST_PORT,
            batch: Batch::default(),
            heard: HashSet::new(),
            searches: Vec::new(),
            most: Steps::default(),
        };
        for (socket, port) in MAIN {
            machine.open(socket, port);
            machine.engine.handle_socket(socket, port, now);
        }
        machine
    }

    /// The user wants a peer, or not any longer.
    pub(crate) fn set_up(&mut self, peer: PeerHandle, up: bool, now: Instant) {
        let configured = self.peers.iter_mut().find(|config| config.handle == peer);
        if let Some(config) = configured {
            config.up = up;
            let change = Change {
                peers: vec![config.clone()],
                ..Change::default()
            };
            self.engine.apply(change, now);
        }
    }

    /// The most searches for one peer that have begun within a minute.
    pub(crate) fn searches_in_a_minute(&self) -> usize {
        let within = |(peer, from): &(PeerHandle, Instant)| {
            let span = *from..*from + Duration::from_secs(60);
            let all = self.searches.iter();
            all.filter(|(other, at)| other == peer && span.contains(at))
                .count()
        };
        self.searches.iter().map(within).max().unwrap_or(0)
    }

    /// This machine's overlay address.
    pub(crate) fn overlay(&self) -> IpAddr {
        self.identity.id().overlay_ipv6().into()
    }

    /// How many sockets are open.
    pub(crate) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// The socket at a port.
    pub(crate) fn socket_at(&self, port: u16) -> Option<SocketId> {
        self.by_port.get(&port).copied()
    }

    /// A datagram of the network.
    pub(crate) fn receive(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) {
        self.engine
            .handle_train(socket, local, from, bytes.len(), bytes, now);
        self.engine.flush(now);
    }

    /// A packet of the machine's kernel.
    pub(crate) fn send(&mut self, packet: &[u8], now: Instant) {
        self.engine.handle_tun(packet, Offload::default(), now);
        self.engine.flush(now);
    }

    fn open(&mut self, socket: SocketId, port: u16) {
        self.sockets.insert(socket, port);
        self.by_port.insert(port, socket);
    }

    /// Ends a turn: carries out what the engine wants, and returns what is to be sent.
    pub(crate) fn drain(&mut self, now: Instant) -> Turn {
        let mut steps = Steps::default();
        let mut turn = Turn::default();
        loop {
            let before = steps;
            while let Some(job) = self.engine.poll_job() {
                steps.jobs += 1;
                self.engine.handle_job(job.perform(), now);
            }
            while let Some(order) = self.engine.poll_order() {
                steps.events += 1;
                self.obey(order, now);
            }
            while let Some(event) = self.engine.poll_event() {
                steps.events += 1;
                match event {
                    EngineEvent::Socket(order) => self.arrange(order, now),
                    // Nobody listens anywhere.
                    EngineEvent::Tcp(TcpOrder::Dial(path)) => {
                        self.engine.handle_tcp_state(path, false, now);
                        turn.dials.push(path.remote);
                    }
                    EngineEvent::News(News::Searching { peer, .. }) => {
                        self.searches.push((peer, now));
                    }
                    EngineEvent::News(News::Stamps { peer, sent, seen }) => {
                        self.keep_stamps(peer, (sent, seen));
                    }
                    EngineEvent::News(News::NetworkChanged) => turn.network_changed = true,
                    _ => {}
                }
            }
            if steps == before {
                break;
            }
            self.engine.flush(now);
        }
        while let Some(signal) = self.engine.poll_signal() {
            turn.signals.push(signal);
        }
        steps.frames = turn.signals.len() as u64;
        steps.packets = self.take_packets();
        self.take_trains(&mut turn);
        steps.datagrams = turn.datagrams.len() as u64;
        self.most = self.most.max(steps);
        turn
    }

    /// What the store keeps for the next start.
    fn keep_stamps(&mut self, peer: PeerHandle, stamps: (u64, u64)) {
        let configured = self.peers.iter_mut().find(|config| config.handle == peer);
        if let Some(config) = configured {
            config.stamps = stamps;
        }
    }

    /// A target that is there for TCP, takes everything, and says nothing.
    fn obey(&mut self, order: Order, now: Instant) {
        match order {
            Order::Connect { stream, .. } => {
                self.engine
                    .handle_target(stream, TargetEvent::Connected, now);
            }
            Order::Readable(stream) => while !self.engine.read_stream(stream, 65_536).is_empty() {},
            Order::Finish(stream) => {
                self.engine
                    .handle_target(stream, TargetEvent::Finished, now);
            }
            Order::Writable(_) | Order::Datagram(..) | Order::Reset(_) | Order::Close(_) => {}
        }
    }

    fn arrange(&mut self, order: SocketOrder, now: Instant) {
        match order {
            SocketOrder::Open { socket, .. } => {
                // A fresh port each time, as kernels give them.
                let port = self.next_port;
                self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
                self.open(socket, port);
                self.engine.handle_socket(socket, port, now);
            }
            SocketOrder::Close { socket } => {
                if let Some(port) = self.sockets.remove(&socket) {
                    self.by_port.remove(&port);
                }
            }
        }
    }

    fn take_packets(&mut self) -> u64 {
        self.engine.swap_tun(&mut self.batch);
        let mut count = 0;
        for bytes in self.batch.iter() {
            count += 1;
            let packet = Packet::parse(bytes).ok();
            let payload = packet.as_ref().and_then(|packet| packet.udp_payload());
            if let Some(number) = payload.and_then(<[u8]>::first_chunk) {
                self.heard.insert(u64::from_be_bytes(*number));
            }
        }
        count
    }

    fn take_trains(&mut self, turn: &mut Turn) {
        while let Some(train) = self.engine.poll_train() {
            let parts = train.bytes.chunks(train.segment.max(1));
            if let Some(path) = train.relay {
                turn.relayed
                    .extend(parts.map(|bytes| (path, bytes.to_vec())));
            } else if let (Some(to), Some(port)) = (train.to, self.sockets.get(&train.socket)) {
                let any = if to.is_ipv4() {
                    IpAddr::from([0; 4])
                } else {
                    IpAddr::from([0; 16])
                };
                let src = SocketAddr::new(train.source.unwrap_or(any), *port);
                turn.datagrams.extend(parts.map(|bytes| Datagram {
                    src,
                    dst: to,
                    ttl: train.ttl.unwrap_or(HOPS),
                    payload: bytes.to_vec(),
                }));
            }
            self.engine.recycle(train);
        }
    }
}
