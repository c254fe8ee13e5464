//! A small internet in virtual time: hosts that each run an engine behind a one-to-one NAT (IPv4) or in the open (IPv6), a
//! STUN server, and a signalling server. The lab has the real NATs; here the tunnel is the subject.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use punch_engine::{
    Allocation, Batch, Budget, DropReason, Engine, EngineConfig, EngineEvent, Family, Filtering,
    Heritage, LinkState, Mapping, NatOverrides, News, Offload, Order, OwnAddress, Path, PeerConfig,
    PeerHandle, PeerKind, RelayPath, Renumbered, ServerId, Signal, SocketId, SocketOrder, TcpOrder,
    TcpPath,
};
use punch_signal_protocol::{
    Capabilities, Frame, Identity, Ipv4Range, PeerId, RelayLink, Unreachable,
};
use punch_stun_protocol::{Endpoint, respond};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::configuration::Configuration;
use crate::switchboard::Switchboard;
use crate::wires::Wires;

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const SERVER: ServerId = ServerId(1);
pub(crate) const PORT: u16 = 51_820;
/// 2027-01-15, in milliseconds.
pub(crate) const WALL: u64 = 1_800_000_000_000;
pub(crate) const STUN: [&str; 2] = ["203.0.113.1:3478", "[2001:db8:ffff::1]:3478"];

/// The handle by which every host knows host `index`.
pub(crate) fn handle(index: usize) -> PeerHandle {
    PeerHandle(index as u32 + 1)
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    /// Whether nobody may cut it on its way.
    pub(crate) whole: bool,
}

impl Datagram {
    /// Between a host and a STUN server, or from a netcheck to its own public address, to see whether the NAT turns it back.
    pub(crate) fn is_with_server(&self) -> bool {
        let servers = STUN.map(|server| server.parse::<SocketAddr>().unwrap());
        let turned_back = self.from.ip() == self.to.ip();
        servers.contains(&self.from) || servers.contains(&self.to) || turned_back
    }
}

pub(crate) struct Host {
    pub(crate) identity: Identity,
    pub(crate) engine: Engine,
    pub(crate) configuration: Configuration,
    pub(crate) range: Option<Ipv4Range>,
    pub(crate) public: Ipv4Addr,
    pub(crate) private: Ipv4Addr,
    pub(crate) global: Ipv6Addr,
    /// What has come out at the TUN.
    pub(crate) tun: Vec<Vec<u8>>,
    pub(crate) events: Vec<EngineEvent>,
    pub(crate) orders: Vec<Order>,
    pub(crate) wake_ups: u64,
    pub(crate) sockets: BTreeMap<SocketId, u16>,
    nat: Option<Nat>,
    batch: Batch,
}

/// A NAT in front of a host that has no IPv6: lets in only what comes from where something was sent to (APDF). The lab has the
/// real ones.
#[derive(Debug, Clone)]
pub(crate) struct Nat {
    /// A mapping for each destination, on any of [`Nat::PORTS`]; otherwise one for all, on the local port.
    hard: bool,
    mappings: BTreeMap<(u16, Option<SocketAddr>), u16>,
    /// Public port and remote, and the local port.
    permits: BTreeMap<(u16, SocketAddr), u16>,
    /// What the administrator says of it.
    pub(crate) lifetime: Option<Duration>,
}

impl Nat {
    pub(crate) const PORTS: (u16, u16) = (20_480, 21_503);

    pub(crate) fn new(hard: bool) -> Self {
        Self {
            hard,
            mappings: BTreeMap::new(),
            permits: BTreeMap::new(),
            lifetime: None,
        }
    }

    /// What the administrator knows about it: with one STUN server that has one address, nothing else tells.
    pub(crate) fn known(&self) -> NatOverrides {
        let (low, high) = Self::PORTS;
        let (mapping, allocation) = if self.hard {
            (
                Mapping::AddressAndPortDependent,
                Allocation::Block { low, high },
            )
        } else {
            (Mapping::EndpointIndependent, Allocation::Preserving)
        };
        NatOverrides {
            mapping: Some(mapping),
            filtering: Some(Filtering::AddressAndPortDependent),
            allocation: Some(allocation),
            lifetime: self.lifetime,
            ..NatOverrides::default()
        }
    }

    fn outbound(&mut self, port: u16, to: SocketAddr, rng: &mut ChaCha8Rng) -> u16 {
        let key = (port, self.hard.then_some(to));
        let (low, high) = Self::PORTS;
        let random = low + (rng.next_u32() % u32::from(high - low + 1)) as u16;
        let fresh = if self.hard { random } else { port };
        let public = *self.mappings.entry(key).or_insert(fresh);
        // Of two that clash, which happens seldom, the newer one loses.
        self.permits.entry((public, to)).or_insert(port);
        public
    }

    fn inbound(&self, public: u16, from: SocketAddr) -> Option<u16> {
        self.permits.get(&(public, from)).copied()
    }
}

impl Host {
    pub(crate) fn id(&self) -> PeerId {
        self.identity.id()
    }

    pub(crate) fn overlay(&self, v6: bool) -> IpAddr {
        let own = self.engine.own_addresses();
        *own.iter().find(|ip| ip.is_ipv6() == v6).unwrap()
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        let drops = self.engine.drops();
        drops.iter().find(|(which, _)| *which == reason).unwrap().1
    }

    pub(crate) fn take_tun(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.tun)
    }

    pub(crate) fn addresses(&self) -> Vec<OwnAddress> {
        match self.nat {
            None => vec![self.private.into(), self.global.into()],
            Some(_) => vec![self.private.into()],
        }
    }
}

enum Arrival {
    Datagram(Datagram),
    Frame(usize, Frame),
    Relayed(usize, RelayLink, Vec<u8>),
    /// A host's own TCP connection stands.
    TcpConnected(usize, TcpPath),
    TcpClosed(usize, TcpPath),
    /// What this host has sent over a TCP connection.
    Tcp(usize, TcpPath, Vec<u8>),
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) hosts: Vec<Host>,
    pub(crate) latency: Duration,
    /// The chance that a datagram is lost.
    pub(crate) loss: f64,
    /// All datagrams are lost.
    pub(crate) cut: bool,
    /// Which datagrams may pass.
    pub(crate) filter: Box<dyn FnMut(&Datagram) -> bool>,
    /// Datagrams that were sent, while `Some`.
    pub(crate) tap: Option<Vec<Datagram>>,
    /// Datagrams to addresses that nobody has.
    pub(crate) astray: Vec<Datagram>,
    /// All envelopes that hosts have sent: from, to, bytes.
    pub(crate) envelopes: Vec<(PeerId, PeerId, Vec<u8>)>,
    /// All frames that hosts have sent.
    pub(crate) frames: Vec<(usize, Frame)>,
    /// Frames for other servers, which do not exist.
    pub(crate) elsewhere: Vec<Signal>,
    /// The relay of the signalling server, if it has one.
    pub(crate) relay: Option<Switchboard>,
    /// Of the interfaces of machines that start from now on.
    pub(crate) mtu: usize,
    /// Whether engines that start from now on may be reached over relays.
    pub(crate) relay_allowed: bool,
    /// TCP connections.
    pub(crate) wires: Wires,
    online: BTreeMap<PeerId, usize>,
    watches: BTreeSet<(PeerId, usize)>,
    arrivals: BTreeMap<(Instant, u64), Arrival>,
    sequence: u64,
    seed: u64,
    rng: ChaCha8Rng,
    spins: u32,
}

/// The path of one host's packets to another.
pub(crate) fn path(world: &World, index: usize, peer: usize) -> Option<Path> {
    let report = world.hosts[index].engine.peer_report(handle(peer));
    report.unwrap().path
}

impl World {
    /// Two hosts that know each other, are signed in, and want nothing yet.
    pub(crate) fn pair(seed: u64) -> Self {
        let range = Some(Ipv4Range::DEFAULT);
        let mut world = Self::new(seed, &[range, range]);
        world.sign_in(A);
        world.sign_in(B);
        world
    }

    /// The same, connected.
    pub(crate) fn connected(seed: u64) -> Self {
        let mut world = Self::pair(seed);
        world.set_up(A, B, true);
        world.wait_for_both(seconds(10));
        world
    }

    /// Hosts with these IPv4 ranges, all of whom know each other, in front of silent servers.
    pub(crate) fn new(seed: u64, ranges: &[Option<Ipv4Range>]) -> Self {
        Self::behind(seed, ranges, &vec![None; ranges.len()])
    }

    /// Hosts behind NATs, without IPv6, signed in; they have found out about their networks.
    pub(crate) fn natted(seed: u64, nats: &[Nat]) -> Self {
        let ranges = vec![Some(Ipv4Range::DEFAULT); nats.len()];
        let nats: Vec<_> = nats.iter().cloned().map(Some).collect();
        let mut world = Self::behind(seed, &ranges, &nats);
        for index in 0..nats.len() {
            world.sign_in(index);
        }
        world.run_for(seconds(5));
        world
    }

    fn behind(seed: u64, ranges: &[Option<Ipv4Range>], nats: &[Option<Nat>]) -> Self {
        let now = Instant::now();
        let mut world = Self {
            now,
            start: now,
            hosts: Vec::new(),
            latency: millis(10),
            loss: 0.0,
            cut: false,
            filter: Box::new(|_| true),
            tap: None,
            astray: Vec::new(),
            envelopes: Vec::new(),
            frames: Vec::new(),
            elsewhere: Vec::new(),
            relay: None,
            mtu: 1400,
            relay_allowed: true,
            wires: Wires::default(),
            online: BTreeMap::new(),
            watches: BTreeSet::new(),
            arrivals: BTreeMap::new(),
            sequence: 0,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            spins: 0,
        };
        let identities: Vec<_> = ranges
            .iter()
            .map(|_| {
                let mut secret = [0; 32];
                world.rng.fill_bytes(&mut secret);
                Identity::from_seed(&secret)
            })
            .collect();
        for (index, range) in ranges.iter().enumerate() {
            let peers = identities
                .iter()
                .enumerate()
                .filter(|(peer, _)| *peer != index);
            let configuration = Configuration {
                peers: peers
                    .map(|(peer, identity)| PeerConfig {
                        handle: handle(peer),
                        kind: PeerKind::Punch {
                            id: identity.id(),
                            ipv4: range.map(|range| identity.id().overlay_ipv4(range)),
                        },
                        up: false,
                        blocked: false,
                        direct_only: false,
                        host: false,
                        stamps: (0, 0),
                        memory: Vec::new(),
                    })
                    .collect(),
                stun_servers: STUN.map(|server| server.parse().unwrap()).to_vec(),
                ..Configuration::default()
            };
            let engine = world.new_engine(&identities[index], *range, nats[index].as_ref());
            let number = index as u8 + 1;
            world.hosts.push(Host {
                identity: identities[index].clone(),
                engine,
                configuration,
                range: *range,
                public: [198, 51, 100, number].into(),
                private: [192, 168, number, 2].into(),
                global: [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)].into(),
                tun: Vec::new(),
                events: Vec::new(),
                orders: Vec::new(),
                wake_ups: 0,
                sockets: BTreeMap::new(),
                nat: nats[index].clone(),
                batch: Batch::default(),
            });
            world.boot(index);
        }
        world
    }

    fn new_engine(
        &mut self,
        identity: &Identity,
        ipv4_range: Option<Ipv4Range>,
        nat: Option<&Nat>,
    ) -> Engine {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let config = EngineConfig {
            identity: identity.clone(),
            ipv4_range,
            mtu: self.mtu,
            seed,
            budget: Budget::Normal,
            nat: nat.map(Nat::known).unwrap_or_default(),
            relay: self.relay_allowed,
            tcp: true,
        };
        Engine::new(config, self.wall(), self.now)
    }

    fn boot(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let change = host.configuration.since(&Configuration::default());
        host.engine.apply(change, self.now);
        host.sockets = [(SocketId::MAIN_V4, PORT), (SocketId::MAIN_V6, PORT)].into();
        host.engine.handle_socket(SocketId::MAIN_V4, PORT, self.now);
        host.engine.handle_socket(SocketId::MAIN_V6, PORT, self.now);
        host.engine.handle_addresses(host.addresses(), self.now);
        self.drain(index);
    }

    pub(crate) fn wall(&self) -> u64 {
        WALL + (self.now - self.start).as_millis() as u64
    }

    // --- what tests do to hosts ---

    /// Changes a host's configuration.
    pub(crate) fn edit(&mut self, index: usize, change: impl FnOnce(&mut Configuration)) {
        let host = &mut self.hosts[index];
        let before = host.configuration.clone();
        change(&mut host.configuration);
        host.engine
            .apply(host.configuration.since(&before), self.now);
        self.drain(index);
    }

    /// Changes what `index` thinks of `peer`.
    pub(crate) fn edit_peer(
        &mut self,
        index: usize,
        peer: usize,
        change: impl FnOnce(&mut PeerConfig),
    ) {
        self.edit(index, |configuration| {
            let entry = configuration
                .peers
                .iter_mut()
                .find(|entry| entry.handle == handle(peer));
            change(entry.unwrap());
        });
    }

    pub(crate) fn set_up(&mut self, index: usize, peer: usize, up: bool) {
        self.edit_peer(index, peer, |entry| entry.up = up);
    }

    pub(crate) fn grant(&mut self, index: usize, peer: usize, host: bool) {
        self.edit_peer(index, peer, |entry| entry.host = host);
    }

    /// The process is gone, and the next one has not begun; returns the sockets that were open.
    pub(crate) fn vanish(&mut self, index: usize) -> BTreeMap<SocketId, u16> {
        self.sign_out(index);
        let (identity, range) = (self.hosts[index].identity.clone(), self.hosts[index].range);
        let nat = self.hosts[index].nat.clone();
        self.hosts[index].engine = self.new_engine(&identity, range, nat.as_ref());
        std::mem::take(&mut self.hosts[index].sockets)
    }

    /// Another process goes on with what this one leaves, after a gap in which nobody is there.
    pub(crate) fn hand_over(&mut self, index: usize, gap: Duration, heritage: Heritage) {
        let open = self.vanish(index);
        self.run_for(gap);
        self.boot(index);
        let now = self.now;
        let host = &mut self.hosts[index];
        for Renumbered { was, is } in host.engine.inherit(heritage, now) {
            host.sockets.insert(is, open[&was]);
        }
        self.drain(index);
    }

    /// The machine starts anew, with what the store has kept.
    pub(crate) fn restart(&mut self, index: usize) {
        self.sign_out(index);
        let (identity, range) = (self.hosts[index].identity.clone(), self.hosts[index].range);
        let nat = self.hosts[index].nat.clone();
        self.hosts[index].engine = self.new_engine(&identity, range, nat.as_ref());
        self.boot(index);
        self.sign_in(index);
    }

    /// The machine moves to another network; packets to the old addresses are lost.
    pub(crate) fn renumber(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let bump = |octet: u8| if octet > 200 { octet - 190 } else { octet + 10 };
        let [a, b, c, d] = host.public.octets();
        host.public = [a, b, c, bump(d)].into();
        let [a, b, c, d] = host.private.octets();
        host.private = [a, b, bump(c), d].into();
        let mut segments = host.global.segments();
        segments[7] = segments[7].wrapping_add(16);
        host.global = segments.into();
        host.engine.handle_addresses(host.addresses(), self.now);
        self.drain(index);
    }

    /// From now on hosts take TCP connections.
    pub(crate) fn open_tcp(&mut self) {
        self.wires.open = true;
        for host in &mut self.hosts {
            for family in [Family::V4, Family::V6] {
                host.engine.handle_tcp_port(family, PORT);
            }
        }
    }

    fn order_tcp(&mut self, index: usize, order: TcpOrder) {
        match order {
            TcpOrder::Dial(path) => {
                let to = self.hosts.iter().position(|host| {
                    let ip = path.remote.ip();
                    ip == host.public || ip == host.global
                });
                if let Some(to) = to.filter(|_| self.wires.open && !self.wires.cut) {
                    self.wires.dial((index, path), to);
                    self.schedule(Arrival::TcpConnected(index, path));
                }
            }
            // Nobody answers.
            TcpOrder::Ask(_) => {}
            TcpOrder::Close(connection) => {
                if let Some((to, path)) = self.wires.close(index, connection) {
                    self.schedule(Arrival::TcpClosed(to, path));
                }
            }
        }
    }

    /// A host has sent this over a TCP connection, and it is there.
    fn arrive_tcp(&mut self, index: usize, path: TcpPath, bytes: &[u8]) {
        let now = self.now;
        let Some((to, known)) = self.wires.other((index, path)) else {
            return;
        };
        let from = SocketAddr::new(self.hosts[index].public.into(), 50_000);
        let engine = &mut self.hosts[to].engine;
        match known {
            Some(path) => engine.handle_tcp(path, [bytes].into_iter(), now),
            None => {
                if let Some(taken) = engine.handle_tcp_call(from, bytes, now) {
                    self.wires.join((index, path), (to, taken));
                }
            }
        }
        self.hosts[to].engine.flush(now);
    }

    /// A packet of the host's kernel.
    pub(crate) fn send(&mut self, index: usize, packet: &[u8]) {
        self.hosts[index]
            .engine
            .handle_tun(packet, Offload::default(), self.now);
        self.hosts[index].engine.flush(self.now);
        self.drain(index);
    }

    /// A datagram from anywhere, at once.
    pub(crate) fn receive(&mut self, index: usize, from: SocketAddr, bytes: &[u8]) {
        let socket = SocketId::main(Family::of(from.ip()));
        let engine = &mut self.hosts[index].engine;
        engine.handle_train(socket, None, from, bytes.len(), bytes, self.now);
        engine.flush(self.now);
        self.drain(index);
    }

    /// A frame from the server, at once.
    pub(crate) fn hear(&mut self, index: usize, frame: Frame) {
        self.hosts[index]
            .engine
            .handle_frame(SERVER, frame, self.now);
        self.drain(index);
    }

    // --- the signalling server ---

    pub(crate) fn sign_in(&mut self, index: usize) {
        let id = self.hosts[index].id();
        self.online.insert(id, index);
        self.hosts[index]
            .engine
            .handle_server(SERVER, true, self.now);
        if self.relay.is_some() {
            self.tell(index, Frame::ServerCapabilities(Capabilities::RELAYING));
        }
        let watchers: Vec<_> = self
            .watches
            .iter()
            .filter(|(watched, _)| *watched == id)
            .collect();
        for (_, watcher) in watchers.into_iter().copied().collect::<Vec<_>>() {
            self.tell(watcher, Frame::Appeared(id));
        }
        self.drain(index);
    }

    pub(crate) fn sign_out(&mut self, index: usize) {
        self.online.remove(&self.hosts[index].id());
        self.watches.retain(|(_, watcher)| *watcher != index);
        let gone = self.relay.as_mut().map(|relay| relay.sign_out(index));
        for (host, frame) in gone.unwrap_or_default() {
            self.tell(host, frame);
        }
        self.hosts[index]
            .engine
            .handle_server(SERVER, false, self.now);
        self.drain(index);
    }

    pub(crate) fn is_online(&self, index: usize) -> bool {
        self.online.contains_key(&self.hosts[index].id())
    }

    fn tell(&mut self, index: usize, frame: Frame) {
        self.schedule(Arrival::Frame(index, frame));
    }

    fn serve(&mut self, index: usize, frame: Frame) {
        self.frames.push((index, frame.clone()));
        let from = self.hosts[index].id();
        match frame {
            Frame::Send { to, envelope } => {
                self.envelopes.push((from, to, envelope.clone()));
                match self.online.get(&to).copied() {
                    Some(receiver) => self.tell(receiver, Frame::Deliver { from, envelope }),
                    None => {
                        let why = Unreachable::Offline;
                        self.tell(index, Frame::Unreachable { to, why });
                    }
                }
            }
            Frame::Watch(id) => {
                self.watches.insert((id, index));
                if self.online.contains_key(&id) {
                    self.tell(index, Frame::Appeared(id));
                }
            }
            Frame::Unwatch(id) => {
                self.watches.remove(&(id, index));
            }
            Frame::RelayJoin(token) => {
                let told = self.relay.as_mut().map(|relay| relay.join(index, token));
                for (host, frame) in told.unwrap_or_default() {
                    self.tell(host, frame);
                }
            }
            Frame::RelayLeave(link) => {
                let told = self.relay.as_mut().map(|relay| relay.leave(index, link));
                for (host, frame) in told.unwrap_or_default() {
                    self.tell(host, frame);
                }
            }
            other => panic!("a client says {other:?}"),
        }
    }

    // --- the network ---

    fn schedule(&mut self, arrival: Arrival) {
        let at = self.now + self.latency;
        self.arrivals.insert((at, self.sequence), arrival);
        self.sequence += 1;
    }

    fn post(&mut self, datagram: Datagram) {
        if let Some(tap) = &mut self.tap {
            tap.push(datagram.clone());
        }
        let chance = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        if !self.cut && chance >= self.loss && (self.filter)(&datagram) {
            self.schedule(Arrival::Datagram(datagram));
        }
    }

    /// A packet for a relay link.
    fn pass(&mut self, index: usize, path: RelayPath, bytes: &[u8]) {
        assert_eq!(path.server, SERVER);
        let online = self.is_online(index);
        let relay = self.relay.as_mut().filter(|_| online);
        if let Some((to, link)) = relay.and_then(|relay| relay.pass(index, path.link)) {
            self.schedule(Arrival::Relayed(to, link, bytes.to_vec()));
        }
    }

    fn arrive(&mut self, datagram: Datagram) {
        let Datagram {
            from, to, bytes, ..
        } = &datagram;
        if STUN.iter().any(|server| server.parse() == Ok(*to)) {
            let endpoint = Endpoint {
                local: *to,
                other: None,
                samples: None,
            };
            if let Some(answer) = respond(bytes, *from, endpoint) {
                self.post(Datagram {
                    from: answer.from,
                    to: answer.to,
                    bytes: answer.bytes,
                    whole: false,
                });
            }
            return;
        }
        let found = self.hosts.iter_mut().enumerate().find_map(|(index, host)| {
            let local = match to.ip() {
                IpAddr::V4(ip) if ip == host.public => IpAddr::V4(host.private),
                IpAddr::V6(ip) if ip == host.global => to.ip(),
                _ => return None,
            };
            let arrives = match &host.nat {
                Some(nat) => nat.inbound(to.port(), *from)?,
                None => to.port(),
            };
            let family = Family::of(local);
            let socket = host.sockets.iter().find(|(socket, port)| {
                let other = [SocketId::MAIN_V4, SocketId::MAIN_V6]
                    .into_iter()
                    .any(|main| main == **socket && main != SocketId::main(family));
                **port == arrives && !other
            });
            Some((index, local, *socket?.0))
        });
        let Some((index, local, socket)) = found else {
            self.astray.push(datagram);
            return;
        };
        let engine = &mut self.hosts[index].engine;
        engine.handle_train(socket, Some(local), *from, bytes.len(), bytes, self.now);
        engine.flush(self.now);
    }

    // --- the loop ---

    /// Carries out what an engine wants.
    pub(crate) fn drain(&mut self, index: usize) {
        loop {
            let host = &mut self.hosts[index];
            let (mut quiet, mut tcp) = (true, Vec::new());
            while let Some(job) = host.engine.poll_job() {
                quiet = false;
                host.engine.handle_job(job.perform(), self.now);
            }
            while let Some(order) = host.engine.poll_order() {
                host.orders.push(order);
                quiet = false;
            }
            while let Some(event) = host.engine.poll_event() {
                quiet = false;
                match &event {
                    EngineEvent::Socket(SocketOrder::Open { socket, .. }) => {
                        let port = 40_000 + socket.0 as u16;
                        host.sockets.insert(*socket, port);
                        host.engine.handle_socket(*socket, port, self.now);
                    }
                    EngineEvent::Socket(SocketOrder::Close { socket }) => {
                        host.sockets.remove(socket);
                    }
                    EngineEvent::Tcp(order) => tcp.push(*order),
                    EngineEvent::News(News::Stamps { peer, sent, seen }) => {
                        let peers = &mut host.configuration.peers;
                        if let Some(entry) = peers.iter_mut().find(|entry| entry.handle == *peer) {
                            entry.stamps = (*sent, *seen);
                        }
                    }
                    _ => {}
                }
                host.events.push(event);
            }
            if quiet {
                break;
            }
            host.engine.flush(self.now);
            for order in tcp {
                self.order_tcp(index, order);
            }
        }
        while let Some(signal) = self.hosts[index].engine.poll_signal() {
            if signal.server == SERVER {
                self.serve(index, signal.frame);
            } else {
                self.elsewhere.push(signal);
            }
        }
        let host = &mut self.hosts[index];
        host.engine.swap_tun(&mut host.batch);
        host.tun.extend(host.batch.iter().map(<[u8]>::to_vec));
        self.send_trains(index);
    }

    /// Sends what an engine has to send.
    fn send_trains(&mut self, index: usize) {
        while let Some(train) = self.hosts[index].engine.poll_train() {
            assert!(train.segment > 0 && train.bytes.len() <= 44 * train.segment);
            if let Some(path) = train.relay {
                for bytes in train.bytes.chunks(train.segment) {
                    self.pass(index, path, bytes);
                }
                self.hosts[index].engine.recycle(train);
                continue;
            }
            if let Some(path) = train.tcp {
                for bytes in train.bytes.chunks(train.segment) {
                    self.schedule(Arrival::Tcp(index, path, bytes.to_vec()));
                }
                self.hosts[index].engine.recycle(train);
                continue;
            }
            let host = &mut self.hosts[index];
            let to = train.to.unwrap();
            if let Some(port) = host.sockets.get(&train.socket).copied() {
                let port = match &mut host.nat {
                    Some(nat) => nat.outbound(port, to, &mut self.rng),
                    None => port,
                };
                let from = match to {
                    SocketAddr::V4(_) => SocketAddr::new(host.public.into(), port),
                    SocketAddr::V6(_) => SocketAddr::new(host.global.into(), port),
                };
                for bytes in train.bytes.chunks(train.segment) {
                    self.post(Datagram {
                        from,
                        to,
                        bytes: bytes.to_vec(),
                        whole: train.whole,
                    });
                }
            }
            self.hosts[index].engine.recycle(train);
        }
    }

    /// Goes on to the next thing that happens; returns whether there was one before `deadline`.
    fn step(&mut self, deadline: Instant) -> bool {
        let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
        let timers = self
            .hosts
            .iter()
            .filter_map(|host| host.engine.poll_timeout());
        let Some(next) = timers.chain(arrival).min().filter(|at| *at <= deadline) else {
            self.now = deadline;
            return false;
        };
        self.spins = if next > self.now { 0 } else { self.spins + 1 };
        assert!(self.spins < 5_000, "time stands still");
        self.now = self.now.max(next);
        while let Some(entry) = self.arrivals.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                Arrival::Datagram(datagram) => self.arrive(datagram),
                Arrival::Tcp(index, path, bytes) => self.arrive_tcp(index, path, &bytes),
                Arrival::TcpConnected(index, path) => {
                    let engine = &mut self.hosts[index].engine;
                    engine.handle_tcp_state(path, true, self.now);
                }
                Arrival::TcpClosed(index, path) => {
                    let engine = &mut self.hosts[index].engine;
                    engine.handle_tcp_state(path, false, self.now);
                }
                Arrival::Relayed(index, link, bytes) => {
                    if self.is_online(index) {
                        let path = RelayPath {
                            server: SERVER,
                            link,
                        };
                        let engine = &mut self.hosts[index].engine;
                        engine.handle_relayed(path, [bytes.as_slice()].into_iter(), self.now);
                        engine.flush(self.now);
                    }
                }
                Arrival::Frame(index, frame) => {
                    let online = self.is_online(index);
                    if online {
                        self.hosts[index]
                            .engine
                            .handle_frame(SERVER, frame, self.now);
                    }
                }
            }
        }
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            if host.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                host.wake_ups += 1;
                host.engine.handle_timeout(self.now);
            }
            self.drain(index);
        }
        true
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let deadline = self.now + duration;
        while self.step(deadline) {}
    }

    /// Runs until `done`, and says how long it took.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let began = self.now;
        while !done(self) {
            assert!(
                self.step(began + limit),
                "not within {limit:?} (seed {}): {:?}",
                self.seed,
                self.states()
            );
        }
        self.now - began
    }

    #[track_caller]
    pub(crate) fn wait_for_both(&mut self, limit: Duration) -> Duration {
        self.wait_for(limit, |world| {
            world.state(A, B) == LinkState::Connected && world.state(B, A) == LinkState::Connected
        })
    }

    pub(crate) fn state(&self, index: usize, peer: usize) -> LinkState {
        self.hosts[index].engine.peer_state(handle(peer)).unwrap()
    }

    fn states(&self) -> Vec<(usize, LinkState)> {
        let hosts = self.hosts.iter().enumerate();
        hosts
            .flat_map(|(index, host)| {
                let states = host
                    .engine
                    .peers()
                    .filter_map(|peer| host.engine.peer_state(peer));
                states.map(move |state| (index, state))
            })
            .collect()
    }
}
