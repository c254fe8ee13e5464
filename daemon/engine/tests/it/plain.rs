//! One engine and bare WireGuard peers (boringtun without anything around it), with no time between them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use punch_engine::{
    Access, Batch, Budget, DropReason, Engine, EngineConfig, EngineEvent, Family, NatOverrides,
    Offload, Order, PeerConfig, PeerHandle, PeerKind, Rule, Rules, SocketId,
};
use punch_signal_protocol::{Identity, Ipv4Range};

use crate::configuration::Configuration;
use crate::world::WALL;

/// A WireGuard machine that is nothing else.
pub(crate) struct Plain {
    pub(crate) handle: PeerHandle,
    pub(crate) address: IpAddr,
    pub(crate) endpoint: SocketAddr,
    pub(crate) tunn: Tunn,
    pub(crate) secret: StaticSecret,
    /// Packets that came out of its tunnel.
    pub(crate) inbox: Vec<Vec<u8>>,
}

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) configuration: Configuration,
    pub(crate) now: Instant,
    pub(crate) peers: Vec<Plain>,
    /// What came out at the TUN.
    pub(crate) tun: Vec<Vec<u8>>,
    pub(crate) orders: Vec<Order>,
    pub(crate) events: Vec<EngineEvent>,
    /// Datagrams for nobody here.
    pub(crate) astray: Vec<(SocketAddr, Vec<u8>)>,
    /// Everything that was sent, as socket, destination, source address and bytes.
    pub(crate) sent: Vec<(SocketId, SocketAddr, Option<IpAddr>, Vec<u8>)>,
    batch: Batch,
}

pub(crate) fn server_identity() -> Identity {
    Identity::from_seed(&[7; 32])
}

/// The endpoint of peer `index`.
pub(crate) fn endpoint(index: u8) -> SocketAddr {
    SocketAddr::new([192, 0, 2, index + 1].into(), 51_820)
}

pub(crate) fn tunn(secret: &StaticSecret, preshared: Option<[u8; 32]>, index: u32) -> Tunn {
    let server = PublicKey::from(server_identity().id().x25519());
    Tunn::new(secret.clone(), server, preshared, None, index, None)
}

impl Bench {
    /// An engine without peers.
    pub(crate) fn empty() -> Self {
        Self::empty_with(1400)
    }

    fn empty_with(mtu: usize) -> Self {
        let now = Instant::now();
        let config = EngineConfig {
            relay: true,
            tcp: true,
            identity: server_identity(),
            ipv4_range: Some(Ipv4Range::DEFAULT),
            mtu,
            seed: [3; 32],
            budget: Budget::Normal,
            nat: NatOverrides::default(),
        };
        Self {
            engine: Engine::new(config, WALL, now),
            configuration: Configuration::default(),
            now,
            peers: Vec::new(),
            tun: Vec::new(),
            orders: Vec::new(),
            events: Vec::new(),
            astray: Vec::new(),
            sent: Vec::new(),
            batch: Batch::default(),
        }
    }

    /// An engine with one connected peer, past the minute in which unknown connections get the benefit of the doubt.
    pub(crate) fn new(v6: bool) -> Self {
        Self::with_mtu(v6, 1400)
    }

    /// The same behind an interface that takes packets of this length.
    pub(crate) fn with_mtu(v6: bool, mtu: usize) -> Self {
        let mut bench = Self::empty_with(mtu);
        bench.add(v6, None);
        bench.connect(0);
        bench.pass(Duration::from_secs(61));
        bench
    }

    /// One more peer, which is down; returns its number.
    pub(crate) fn add(&mut self, v6: bool, preshared: Option<[u8; 32]>) -> usize {
        let index = self.peers.len();
        let number = index as u8;
        let secret = StaticSecret::from([100 + number; 32]);
        let address: IpAddr = if v6 {
            [0xfd70, 0x756e, 0x6368, 0, 0, 0, 0xAAAA, u16::from(number)].into()
        } else {
            [100, 64, 200, number].into()
        };
        self.peers.push(Plain {
            handle: PeerHandle(u32::from(number) + 50),
            address,
            endpoint: endpoint(number),
            tunn: tunn(&secret, preshared, u32::from(number) + 900),
            secret,
            inbox: Vec::new(),
        });
        let plain = &self.peers[index];
        let config = PeerConfig {
            handle: plain.handle,
            kind: PeerKind::Wireguard {
                public: PublicKey::from(&plain.secret).to_bytes(),
                endpoint: Some(plain.endpoint),
                address: Some(address),
                preshared: preshared.map(Into::into),
            },
            up: false,
            blocked: false,
            direct_only: false,
            host: false,
            stamps: (0, 0),
            memory: Vec::new(),
        };
        self.edit(|configuration| configuration.peers.push(config));
        index
    }

    /// Both want the connection: both shake hands.
    pub(crate) fn connect(&mut self, index: usize) {
        self.set_up(index, true);
        self.call(index);
    }

    /// The user wants the peer, which does not hear of it yet.
    pub(crate) fn set_up_unheard(&mut self, index: usize) {
        let nowhere = SocketAddr::new([192, 0, 2, 200].into(), 1);
        let endpoint = std::mem::replace(&mut self.peers[index].endpoint, nowhere);
        self.set_up(index, true);
        self.peers[index].endpoint = endpoint;
        self.astray.clear();
    }

    /// The peer shakes hands.
    pub(crate) fn call(&mut self, index: usize) {
        let initiation = self.initiation(index);
        let from = self.peers[index].endpoint;
        self.receive(from, &initiation);
    }

    pub(crate) fn initiation(&mut self, index: usize) -> Vec<u8> {
        let mut buffer = [0; 148];
        match self.peers[index]
            .tunn
            .format_handshake_initiation(&mut buffer, true)
        {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Configuration)) {
        let before = self.configuration.clone();
        change(&mut self.configuration);
        self.engine
            .apply(self.configuration.since(&before), self.now);
        self.pump();
    }

    pub(crate) fn grant(&mut self, index: usize, host: bool) {
        self.edit(|configuration| configuration.peers[index].host = host);
    }

    /// Where plain WireGuard peers were told to be.
    pub(crate) fn roamed(&self) -> Vec<(PeerHandle, SocketAddr)> {
        let roamed = self.events.iter().filter_map(|event| match event {
            EngineEvent::Roamed { peer, to } => Some((*peer, *to)),
            _ => None,
        });
        roamed.collect()
    }

    /// The peer is to be called somewhere else, or nowhere.
    pub(crate) fn set_endpoint(&mut self, index: usize, to: Option<SocketAddr>) {
        let handle = self.peers[index].handle;
        self.edit(|configuration| {
            let mut peers = configuration.peers.iter_mut();
            let peer = peers.find(|peer| peer.handle == handle).unwrap();
            if let PeerKind::Wireguard { endpoint, .. } = &mut peer.kind {
                *endpoint = to;
            }
        });
    }

    /// The peer has another address inside the tunnel, or none.
    pub(crate) fn set_address(&mut self, index: usize, to: Option<IpAddr>) {
        let handle = self.peers[index].handle;
        self.edit(|configuration| {
            let mut peers = configuration.peers.iter_mut();
            let peer = peers.find(|peer| peer.handle == handle).unwrap();
            if let PeerKind::Wireguard { address, .. } = &mut peer.kind {
                *address = to;
            }
        });
    }

    pub(crate) fn set_up(&mut self, index: usize, up: bool) {
        self.edit(|configuration| configuration.peers[index].up = up);
    }

    /// Shares `ports` towards `target`; for `peers`, or for everybody.
    pub(crate) fn forward(&mut self, rules: &[(&str, &str, &str, Option<&[usize]>)]) {
        let rules = rules.iter().map(|(protocol, ports, target, peers)| Rule {
            key: punch_api::ForwardKey {
                protocol: protocol.parse().unwrap(),
                ports: ports.parse().unwrap(),
            },
            target: target.parse().unwrap(),
            access: match peers {
                Some(peers) => {
                    Access::Peers(peers.iter().map(|peer| self.peers[*peer].handle).collect())
                }
                None => Access::AllPeers,
            },
        });
        let rules = Rules::new(rules.collect::<Vec<_>>());
        self.edit(|configuration| configuration.rules = rules);
    }

    /// The engine's own overlay address.
    pub(crate) fn own(&self, v6: bool) -> IpAddr {
        let own = self.engine.own_addresses();
        *own.iter().find(|ip| ip.is_ipv6() == v6).unwrap()
    }

    /// Time goes by.
    pub(crate) fn pass(&mut self, duration: Duration) {
        self.now += duration;
        self.engine.handle_timeout(self.now);
        self.pump();
    }

    /// A packet of this host's kernel.
    pub(crate) fn host_sends(&mut self, packet: &[u8]) {
        self.engine.handle_tun(packet, Offload::default(), self.now);
        self.engine.flush(self.now);
        self.pump();
    }

    /// A packet that peer `index` sends through its tunnel.
    pub(crate) fn peer_sends(&mut self, index: usize, packet: &[u8]) {
        let datagram = self.seal(index, packet);
        let from = self.peers[index].endpoint;
        self.receive(from, &datagram);
    }

    pub(crate) fn seal(&mut self, index: usize, packet: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; packet.len() + 200];
        match self.peers[index].tunn.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// A datagram from anywhere.
    pub(crate) fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.hand_over(from, datagram);
        self.pump();
    }

    /// The same, of which nothing follows yet.
    pub(crate) fn hand_over(&mut self, from: SocketAddr, datagram: &[u8]) {
        let socket = SocketId::main(Family::of(from.ip()));
        self.engine
            .handle_train(socket, None, from, datagram.len(), datagram, self.now);
        self.engine.flush(self.now);
    }

    pub(crate) fn take_tun(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.tun)
    }

    pub(crate) fn take_inbox(&mut self, index: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.peers[index].inbox)
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        let drops = self.engine.drops();
        drops.iter().find(|(which, _)| *which == reason).unwrap().1
    }

    /// All drops that were counted.
    pub(crate) fn dropped(&self) -> Vec<(DropReason, u64)> {
        let drops = self.engine.drops().into_iter();
        drops.filter(|(_, count)| *count > 0).collect()
    }

    /// Carries datagrams to the peers and their answers back until nobody has anything to say.
    pub(crate) fn pump(&mut self) {
        loop {
            while let Some(job) = self.engine.poll_job() {
                self.engine.handle_job(job.perform(), self.now);
            }
            self.engine.flush(self.now);
            while let Some(order) = self.engine.poll_order() {
                self.orders.push(order);
            }
            while let Some(event) = self.engine.poll_event() {
                self.events.push(event);
            }
            self.engine.swap_tun(&mut self.batch);
            self.tun.extend(self.batch.iter().map(<[u8]>::to_vec));
            let mut datagrams = VecDeque::new();
            while let Some(train) = self.engine.poll_train() {
                let to = train.to.unwrap();
                assert!(train.segment > 0 && train.bytes.len() <= 44 * train.segment);
                for datagram in train.bytes.chunks(train.segment) {
                    self.sent
                        .push((train.socket, to, train.source, datagram.to_vec()));
                    datagrams.push_back((to, datagram.to_vec()));
                }
                self.engine.recycle(train);
            }
            if datagrams.is_empty() {
                return;
            }
            for (to, datagram) in datagrams {
                match self.peers.iter().position(|peer| peer.endpoint == to) {
                    Some(index) => self.deliver(index, &datagram),
                    None => self.astray.push((to, datagram)),
                }
            }
        }
    }

    fn deliver(&mut self, index: usize, datagram: &[u8]) {
        let mut buffer = vec![0; datagram.len() + 200];
        let plain = &mut self.peers[index];
        let from = plain.endpoint;
        match plain.tunn.decapsulate(None, datagram, &mut buffer) {
            TunnResult::WriteToNetwork(reply) => {
                let reply = reply.to_vec();
                self.hand_over(from, &reply);
                loop {
                    let mut buffer = vec![0; 66_000];
                    match self.peers[index].tunn.decapsulate(None, &[], &mut buffer) {
                        TunnResult::WriteToNetwork(more) => {
                            let more = more.to_vec();
                            self.hand_over(from, &more);
                        }
                        _ => break,
                    }
                }
            }
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                plain.inbox.push(packet.to_vec());
            }
            TunnResult::Done | TunnResult::Err(_) => {}
        }
    }
}
