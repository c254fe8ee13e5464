//! The value that the driver owns: packets, datagrams, frames and target bytes in; the same out.
//!
//! The loop is: `handle_*` for what came in, [`Engine::flush`] once per batch, then `poll_*` until nothing is left, then
//! sleep until [`Engine::poll_timeout`].

mod data;
mod handshakes;
mod inner;
mod peers;
mod views;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use punch_connect::{
    Connector, ConnectorConfig, ConnectorEvent, LinkState, Path, ServerId, Signal,
};
use punch_forward::{Order, Rules, Stack, StreamId, TargetEvent};
use punch_packet::{Batch, Buffer, PeerHandle, Reassembly};
use punch_signal_protocol::{Frame, Ipv4Range};
use punch_traversal::{Family, NatProfile, SocketId, StepKind};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::config::{Change, EngineConfig, PeerConfig};
use crate::flows::FlowTable;
use crate::outbox::{Burst, Outbox};
use crate::report::{DropReason, Drops};
use crate::session::{Gate, Owner, Session, Work};
use crate::tunnel::Tunnel;

/// Sessions look at their timers this often.
const TICK: Duration = Duration::from_millis(250);
/// An unmodified WireGuard peer's mapping is kept alive this often, in seconds.
const FIXED_KEEPALIVE: Duration = Duration::from_secs(25);
/// Keys that have expired are renewed by the next keepalive; this long a plain WireGuard peer still counts as connected.
const RENEWAL: Duration = Duration::from_secs(60);
/// Segments of unknown connections are not reset for so long after the start: ours may only have been forgotten.
const GRACE: Duration = Duration::from_secs(60);

/// What the engine has to say to the driver.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// A peer's connection does otherwise now.
    State {
        /// Who.
        peer: PeerHandle,
        /// How it does.
        state: LinkState,
    },
    /// A peer's packets take another path.
    Selected {
        /// Who.
        peer: PeerHandle,
        /// Where.
        path: Path,
    },
    /// The newest stamps with a peer, to be kept across restarts.
    Stamps {
        /// Who.
        peer: PeerHandle,
        /// Sent and seen.
        stamps: (u64, u64),
    },
    /// A peer's offer was refused: its clock is off by so many seconds.
    Stale {
        /// Whose.
        peer: PeerHandle,
        /// The peer's clock minus ours.
        seconds: i64,
    },
    /// A search for ports begins.
    Searching {
        /// For whom.
        peer: PeerHandle,
        /// Which.
        step: StepKind,
        /// The chance that it finds a path, from 0 to 1.
        chance: f64,
    },
    /// What has worked with a peer from this network, to be kept across restarts.
    Worked {
        /// With whom.
        peer: PeerHandle,
        /// What stands for this network.
        network: u64,
        /// What has worked.
        step: StepKind,
    },
    /// Open a socket and report with [`Engine::handle_socket`].
    OpenSocket {
        /// Its number.
        socket: SocketId,
        /// Its family.
        family: Family,
    },
    /// Close a socket.
    CloseSocket {
        /// Its number.
        socket: SocketId,
    },
    /// A netcheck is finished.
    Netcheck(Vec<NatProfile>),
    /// This machine's addresses are others than those told before, or it has slept.
    NetworkChanged,
    /// A peer answered a ping.
    Pong {
        /// Who.
        peer: PeerHandle,
        /// Which ping.
        id: u16,
        /// The address that answered.
        address: IpAddr,
        /// How long it took.
        rtt: Duration,
    },
}

struct Peer {
    config: PeerConfig,
    addresses: Vec<IpAddr>,
    tunnel: Tunnel,
    path: Option<Path>,
    flows: FlowTable,
    reassembly: Reassembly,
    received: u64,
    sent: u64,
    busy: bool,
    /// Of a plain WireGuard peer: there have been keys within the last [`RENEWAL`].
    lately_established: bool,
    last_established: Option<Instant>,
    announced: LinkState,
}

/// See the module.
pub struct Engine {
    ipv4_range: Option<Ipv4Range>,
    own: Vec<IpAddr>,
    mtu: usize,
    started: Instant,
    rng: ChaCha20Rng,
    gate: Gate,
    connector: Connector,
    peers: HashMap<PeerHandle, Peer>,
    by_key: HashMap<[u8; 32], PeerHandle>,
    by_index: HashMap<u32, PeerHandle>,
    routes: HashMap<IpAddr, PeerHandle>,
    rules: Rules,
    stack: Stack,
    pings: HashMap<u16, (PeerHandle, Instant)>,
    next_tick: Option<Instant>,
    /// Some peer may do otherwise than was announced.
    unannounced: bool,
    drops: Drops,
    /// Where the peers' paths lead, looked up now and then.
    places: HashSet<SocketAddr>,
    /// Steps of handshakes to be done, and how many of others are under way.
    work: VecDeque<Work>,
    asked: usize,
    segment: Buffer,
    /// A packet that is not simply the host's.
    aside: Buffer,
    busy: Vec<PeerHandle>,
    outbox: Outbox,
    to_tun: Batch,
    events: VecDeque<EngineEvent>,
}

impl Engine {
    /// An engine without peers. `wall_ms` is the time since 1970.
    pub fn new(config: EngineConfig, wall_ms: u64, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(config.seed);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let id = config.identity.id();
        let ipv4 = config.ipv4_range.map(|range| id.overlay_ipv4(range));
        let own: Vec<IpAddr> = ipv4
            .map(IpAddr::from)
            .into_iter()
            .chain([id.overlay_ipv6().into()])
            .collect();
        let connector_config = ConnectorConfig {
            identity: config.identity.clone(),
            ipv4_range: config.ipv4_range,
            seed,
            wall_ms,
            budget: config.budget,
            nat: config.nat,
        };
        let mut connector = Connector::new(connector_config, now);
        for ip in &own {
            connector.set_overlay(*ip, true);
        }
        Self {
            ipv4_range: config.ipv4_range,
            own,
            mtu: config.mtu,
            started: now,
            gate: Gate::new(&config.identity),
            stack: Stack::new(config.mtu, rng.next_u64()),
            rng,
            connector,
            peers: HashMap::new(),
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            routes: HashMap::new(),
            rules: Rules::default(),
            pings: HashMap::new(),
            next_tick: None,
            unannounced: false,
            drops: Drops::default(),
            places: HashSet::new(),
            work: VecDeque::new(),
            asked: 0,
            segment: Buffer::default(),
            aside: Buffer::default(),
            busy: Vec::new(),
            outbox: Outbox::default(),
            to_tun: Batch::with_capacity(64, 1500),
            events: VecDeque::new(),
        }
    }

    /// This machine's overlay addresses.
    pub fn own_addresses(&self) -> &[IpAddr] {
        &self.own
    }

    /// Peers, forwards or STUN servers change. The cost is that of what changes; only new rules look at every open stream.
    pub fn apply(&mut self, change: Change, now: Instant) {
        let Change {
            peers,
            gone,
            rules,
            stun_servers,
        } = change;
        let gone_any = !gone.is_empty();
        for handle in gone {
            self.remove_peer(handle, now);
        }
        for config in peers {
            self.apply_peer(config, now);
        }
        let rules_changed = rules.is_some();
        if let Some(rules) = rules {
            self.rules = rules;
        }
        if rules_changed || gone_any {
            let (rules, peers) = (&self.rules, &self.peers);
            self.stack.retain(
                |peer, forward, flow| {
                    peers.contains_key(&peer)
                        && rules
                            .find(forward.protocol, flow.destination.port(), peer)
                            .is_some_and(|rule| rule.key == forward)
                },
                now,
            );
        }
        if let Some(servers) = stun_servers {
            self.connector.set_stun_servers(servers, now);
        }
        self.unannounced = true;
        self.flush(now);
    }

    // --- the machine and signalling: passed on to the connector ---

    /// A socket is open on this port.
    pub fn handle_socket(&mut self, socket: SocketId, port: u16, now: Instant) {
        self.connector.handle_socket(socket, port, now);
        self.flush(now);
    }

    /// A socket could not be opened.
    pub fn handle_socket_failed(&mut self, socket: SocketId, now: Instant) {
        self.connector.handle_socket_failed(socket, now);
        self.flush(now);
    }

    /// The machine's underlay addresses are now these.
    pub fn handle_addresses(&mut self, mut addresses: Vec<IpAddr>, now: Instant) {
        addresses.retain(|ip| !self.own.contains(ip));
        self.connector.handle_addresses(addresses, now);
        self.flush(now);
    }

    /// The router leads this address to the main IPv4 socket now, or nothing any more.
    pub fn handle_port_mapping(&mut self, external: Option<SocketAddr>, now: Instant) {
        // A router that names an address of the overlay would lead packets into the tunnel that they belong to.
        let external = external.filter(|at| !self.own.contains(&at.ip()));
        self.connector.handle_port_mapping(external, now);
        self.flush(now);
    }

    /// The machine has slept.
    pub fn handle_resume(&mut self, now: Instant) {
        self.connector.handle_resume(now);
        // While our clock stood still the peers may have forgotten their keys.
        let established = |(handle, peer): (&PeerHandle, &mut Peer)| {
            let sessions = peer.tunnel.responders();
            let held = sessions.filter(|session| session.established());
            (held.map(|session| session.initiate(now)).count() > 0).then_some(*handle)
        };
        let held: Vec<_> = self.peers.iter_mut().filter_map(established).collect();
        for handle in held {
            self.begin_handshakes(handle, now);
        }
        self.flush(now);
    }

    /// Milliseconds since 1970, told now and then.
    pub fn handle_wall_clock(&mut self, wall_ms: u64, now: Instant) {
        self.connector.handle_wall_clock(wall_ms, now);
    }

    /// A signalling server has welcomed us, or is gone.
    pub fn handle_server(&mut self, server: ServerId, up: bool, now: Instant) {
        if up {
            self.connector.handle_server_up(server, now);
        } else {
            self.connector.handle_server_down(server, now);
        }
        self.flush(now);
    }

    /// A frame has come from a signalling server.
    pub fn handle_frame(&mut self, server: ServerId, frame: Frame, now: Instant) {
        self.connector.handle_frame(server, frame, now);
        self.flush(now);
    }

    /// The user asks again for a peer that is wanted and not connected: no waiting for the next retry.
    pub fn retry(&mut self, handle: PeerHandle, now: Instant) {
        self.connector.retry(handle, now);
        self.flush(now);
    }

    /// Finds out how the NAT behaves; ends with [`EngineEvent::Netcheck`].
    pub fn start_netcheck(&mut self, now: Instant) {
        self.connector.start_netcheck(now);
        self.flush(now);
    }

    /// Says goodbye to every peer; poll once more and then stop.
    pub fn shut_down(&mut self, now: Instant) {
        self.connector.shut_down();
        self.flush(now);
    }

    // --- targets: passed on to the stack ---

    /// Something happened at a forward's target.
    pub fn handle_target(&mut self, stream: StreamId, event: TargetEvent, now: Instant) {
        self.stack.handle_target(stream, event, now);
    }

    /// Takes bytes that a client sent.
    pub fn read_stream(&mut self, stream: StreamId, max: usize) -> Bytes {
        self.stack.read(stream, max)
    }

    /// Gives a client the target's bytes; returns how many were taken.
    pub fn write_stream(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        self.stack.write(stream, bytes)
    }

    /// Gives a client the target's datagram.
    pub fn write_datagram(&mut self, stream: StreamId, payload: &[u8], now: Instant) {
        self.stack.write_datagram(stream, payload, now);
    }

    // --- time ---

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = (!self.peers.is_empty()).then_some(now + TICK);
            self.tick(now);
        }
        if self.connector.poll_timeout().is_some_and(|at| at <= now) {
            self.connector.handle_timeout(now);
        }
        self.stack.handle_timeout(now);
        self.flush(now);
    }

    fn tick(&mut self, now: Instant) {
        // Keys expire by themselves.
        self.unannounced = true;
        let paths = self.peers.values().filter_map(|peer| peer.path);
        self.places.clear();
        self.places.extend(paths.filter_map(|path| path.endpoint()));
        let outbox = &mut self.outbox;
        for (handle, peer) in &mut self.peers {
            let rtt = self.connector.round_trip(*handle);
            let path = peer.path;
            let gone = peer.tunnel.handle_timeout(rtt, now, |fill| {
                // Timers run without a path too; what they would send is lost like any packet.
                match path {
                    Some(path) => outbox.push_with(path, |out| fill(out)),
                    None => {
                        fill(&mut Buffer::default());
                    }
                }
            });
            for index in gone {
                self.by_index.remove(&index);
            }
            if peer.tunnel.established() {
                peer.last_established = Some(now);
            }
            let lately = |at: Instant| now.saturating_duration_since(at) < RENEWAL;
            peer.lately_established = peer.last_established.is_some_and(lately);
        }
        let wanting = |(handle, peer): (&PeerHandle, &mut Peer)| {
            peer.tunnel.wants_handshake(now).then_some(*handle)
        };
        for handle in self
            .peers
            .iter_mut()
            .filter_map(wanting)
            .collect::<Vec<_>>()
        {
            self.begin_handshakes(handle, now);
        }
        self.pings
            .retain(|_, (_, sent)| now.saturating_duration_since(*sent) < Duration::from_secs(60));
    }

    /// Ends a batch: lets streams and the connector work, and collects what they have to say.
    pub fn flush(&mut self, now: Instant) {
        for handle in std::mem::take(&mut self.busy) {
            if let Some(peer) = self.peers.get_mut(&handle) {
                peer.busy = false;
                self.connector.handle_traffic(handle, now);
                self.begin_handshakes(handle, now);
            }
        }
        self.stack.flush(now);
        while let Some((peer, packet)) = self.stack.poll_packet() {
            self.send(peer, &packet, now);
        }
        while let Some(event) = self.connector.poll_event() {
            self.handle_connector(event, now);
        }
        while let Some(transmit) = self.connector.poll_transmit() {
            self.outbox.push(transmit);
        }
        self.announce();
    }

    fn handle_connector(&mut self, event: ConnectorEvent, now: Instant) {
        self.unannounced = true;
        let event = match event {
            ConnectorEvent::Proven {
                peer,
                preshared,
                initiator,
            } => {
                let index = self.free_index(peer);
                if let Some(entry) = self.peers.get_mut(&peer) {
                    let public = entry.config.public();
                    let preshared = Some(*preshared.as_bytes());
                    let owner = Owner {
                        peer,
                        session: index,
                    };
                    let session =
                        Session::new(&self.gate, owner, public, preshared, None, self.mtu);
                    for gone in entry.tunnel.prepare(session, initiator) {
                        self.by_index.remove(&gone);
                    }
                }
                return;
            }
            ConnectorEvent::Selected { peer, path } => {
                self.route_peer(peer);
                if let Some(entry) = self.peers.get_mut(&peer) {
                    entry.path = Some(path);
                    entry.tunnel.start(now);
                }
                self.places.extend(path.endpoint());
                self.begin_handshakes(peer, now);
                EngineEvent::Selected { peer, path }
            }
            ConnectorEvent::Lost { peer } => {
                if let Some(entry) = self.peers.get_mut(&peer) {
                    entry.path = None;
                }
                return;
            }
            ConnectorEvent::Closed { peer } => {
                if let Some(entry) = self.peers.get_mut(&peer) {
                    entry.path = None;
                    for index in entry.tunnel.indices() {
                        self.by_index.remove(&index);
                    }
                    entry.tunnel = Tunnel::default();
                }
                return;
            }
            ConnectorEvent::Abandoned { peer } => {
                if let Some(entry) = self.peers.get_mut(&peer) {
                    for index in entry.tunnel.abandon() {
                        self.by_index.remove(&index);
                    }
                }
                return;
            }
            ConnectorEvent::Stamps { peer, sent, seen } => EngineEvent::Stamps {
                peer,
                stamps: (sent, seen),
            },
            ConnectorEvent::Searching { peer, step, chance } => {
                EngineEvent::Searching { peer, step, chance }
            }
            ConnectorEvent::Worked {
                peer,
                network,
                step,
            } => EngineEvent::Worked {
                peer,
                network,
                step,
            },
            ConnectorEvent::Stale { peer, seconds } => EngineEvent::Stale { peer, seconds },
            ConnectorEvent::OpenSocket { socket, family } => {
                EngineEvent::OpenSocket { socket, family }
            }
            ConnectorEvent::CloseSocket { socket } => EngineEvent::CloseSocket { socket },
            ConnectorEvent::Netcheck(profiles) => EngineEvent::Netcheck(profiles),
            ConnectorEvent::NetworkChanged => EngineEvent::NetworkChanged,
        };
        self.events.push_back(event);
    }

    /// Looks at all peers, but only when something has happened to one: a packet's cost must not grow with their number.
    fn announce(&mut self) {
        if !std::mem::take(&mut self.unannounced) {
            return;
        }
        for (handle, peer) in &mut self.peers {
            let state = views::state(&self.connector, *handle, peer);
            if state != peer.announced {
                peer.announced = state;
                self.events.push_back(EngineEvent::State {
                    peer: *handle,
                    state,
                });
            }
        }
    }

    // --- what goes out ---

    /// The next datagrams to send; give them back with [`Self::recycle`].
    pub fn poll_burst(&mut self) -> Option<Burst> {
        self.outbox.pop()
    }

    /// The next datagrams to send to which nothing will be added: so that they can leave while more is sealed.
    pub fn poll_full_burst(&mut self) -> Option<Burst> {
        self.outbox.pop_full()
    }

    /// Takes back a burst that was sent, for its memory.
    pub fn recycle(&mut self, burst: Burst) {
        self.outbox.recycle(burst);
    }

    /// How many bytes of packets for the TUN there are.
    pub fn tun_bytes(&self) -> usize {
        self.to_tun.total()
    }

    /// The packets for the TUN since the last call; give the batch back, cleared or not, with the next call.
    pub fn swap_tun(&mut self, batch: &mut Batch) {
        batch.clear();
        std::mem::swap(&mut self.to_tun, batch);
    }

    /// The next frame for a signalling server.
    pub fn poll_signal(&mut self) -> Option<Signal> {
        self.connector.poll_signal()
    }

    /// The next order for the owner of the target sockets.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.stack.poll_order()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.next_tick,
            self.connector.poll_timeout(),
            self.stack.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Packets were lost on the way to the engine or from it.
    pub fn count_drops(&mut self, reason: DropReason, packets: u64) {
        self.drops.add(reason, packets);
    }

    fn drop_packet(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }
}
