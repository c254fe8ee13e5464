//! The value that the driver owns: packets, datagrams, frames and target bytes in; the same out.
//!
//! The loop is: `handle_*` for what came in, [`Engine::flush`] once per batch, then `poll_*` until nothing is left, then
//! sleep until [`Engine::poll_timeout`].

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use punch_api::ForwardKey;
use punch_connect::{
    Connector, ConnectorConfig, ConnectorEvent, LinkState, LinkStatus, Path, ServerId, Signal,
};
use punch_forward::{Order, Rules, StreamId, TargetEvent};
use punch_packet::{Batch, Buffer, Offload, PeerHandle};
use punch_signal_protocol::{Candidate, Frame, Ipv4Range};
use punch_stun_protocol::is_stun;
use punch_traversal::{DirectPath, Family, NatProfile, SocketId, StepKind};
use punch_wireguard::{LocalKeys, SessionId, data_index};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::config::{Change, EngineConfig, PeerConfig, PeerKind};
use crate::handshakes::{Handshakes, Job, JobDone};
use crate::lane::{Host, Lane};
use crate::outbox::Burst;
use crate::peers::{PeerTable, Session, Tunnel};
use crate::pings::Pong;
use crate::reply_to::ReplyTo;
use crate::report::{DropReason, PeerReport};

/// Sessions look at their timers this often.
const TICK: Duration = Duration::from_millis(250);
/// The interval of the packets that keep an unmodified WireGuard peer's mapping alive.
const FIXED_KEEPALIVE: Duration = Duration::from_secs(25);

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
    Pong(Pong),
}

/// See the module.
pub struct Engine {
    ipv4_range: Option<Ipv4Range>,
    rng: ChaCha20Rng,
    connector: Connector,
    peers: PeerTable,
    handshakes: Handshakes,
    lane: Lane,
    next_tick: Option<Instant>,
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
        let addresses: Vec<IpAddr> = ipv4
            .map(IpAddr::from)
            .into_iter()
            .chain([id.overlay_ipv6().into()])
            .collect();
        let own = LocalKeys::new(config.identity.x25519_secret().to_bytes());
        let connector_config = ConnectorConfig {
            identity: config.identity,
            ipv4_range: config.ipv4_range,
            seed,
            wall_ms,
            budget: config.budget,
            nat: config.nat,
        };
        let mut connector = Connector::new(connector_config, now);
        for ip in &addresses {
            connector.set_overlay(*ip, true);
        }
        let host = Host {
            addresses,
            mtu: config.mtu,
            started: now,
        };
        let mut lane_rng = rng.clone();
        lane_rng.set_stream(1);
        Self {
            ipv4_range: config.ipv4_range,
            rng,
            connector,
            peers: PeerTable::default(),
            handshakes: Handshakes::new(own),
            lane: Lane::new(host, lane_rng),
            next_tick: None,
            events: VecDeque::new(),
        }
    }

    /// This machine's overlay addresses.
    pub fn own_addresses(&self) -> &[IpAddr] {
        &self.lane.host.addresses
    }

    // --- configuration ---

    /// Peers, forwards or STUN servers change. The cost is that of what changes; only new rules look at every open stream.
    pub fn apply(&mut self, change: Change, now: Instant) {
        let Change {
            peers,
            gone,
            rules,
            stun_servers,
        } = change;
        let streams = rules.is_some() || !gone.is_empty();
        for handle in gone {
            self.connector.remove_peer(handle, now);
            let freed = self.peers.remove(handle);
            self.leave_overlay(&freed);
        }
        for config in peers {
            self.apply_peer(config, now);
        }
        if streams {
            self.lane.apply_rules(rules, &self.peers, now);
        }
        if let Some(servers) = stun_servers {
            self.connector.set_stun_servers(servers, now);
        }
        self.flush(now);
    }

    fn apply_peer(&mut self, config: PeerConfig, now: Instant) {
        let (handle, up, kind) = (config.handle, config.up, config.kind.clone());
        let (blocked, stamps) = (config.barred, config.stamps);
        let memory = config.memory.clone();
        let before = self.peers.insert(config);
        if before.is_none()
            && let PeerKind::Punch { id, .. } = &kind
        {
            self.connector.add_peer(handle, *id, stamps);
            self.connector.remember(handle, memory);
        }
        self.connector.set_barred(handle, blocked, now);
        self.route_peer(handle);
        if before.is_some_and(|before| before.up) == up {
            return;
        }
        match kind {
            PeerKind::Punch { .. } => self.connector.set_up(handle, up, now),
            PeerKind::Wireguard { .. } if !up => self.peers.disconnect(handle),
            PeerKind::Wireguard {
                public,
                endpoint,
                preshared,
                ..
            } => {
                let preshared = preshared.as_ref().map(|key| **key);
                let mut session = self.session(handle, &public, preshared, Some(FIXED_KEEPALIVE));
                session.initiate(now);
                if let Some(peer) = self.peers.get_mut(handle) {
                    peer.tunnel = Tunnel::fixed(session);
                }
                let socket = SocketId::main(Family::of(endpoint.ip()));
                self.peers.set_path(handle, Path::direct(socket, endpoint));
                self.handshakes.work(&mut self.peers, handle, now);
            }
        }
    }

    fn session(
        &mut self,
        peer: PeerHandle,
        public: &[u8; 32],
        preshared: Option<[u8; 32]>,
        keepalive: Option<Duration>,
    ) -> Session {
        let number = self.peers.reserve_session(peer, &mut self.rng);
        let id = SessionId { peer, number };
        let (own, mtu) = (self.handshakes.own(), self.lane.host.mtu);
        Session::new(own, id, public, preshared, keepalive, mtu)
    }

    /// Leads packets for the peer's addresses to it. Where the two ends take their IPv4 addresses from different ranges, the pair uses
    /// IPv6 only.
    fn route_peer(&mut self, handle: PeerHandle) {
        let differs = self.ipv4_differs(handle);
        let Some(peer) = self.peers.get(handle) else {
            return;
        };
        let mut addresses = peer.config.addresses();
        addresses.retain(|ip| ip.is_ipv6() || !differs);
        if addresses == peer.addresses {
            return;
        }
        for ip in &addresses {
            self.connector.set_overlay(*ip, true);
        }
        let freed = self.peers.route_to(handle, addresses);
        self.leave_overlay(&freed);
    }

    fn leave_overlay(&mut self, freed: &[IpAddr]) {
        for ip in freed {
            let own = self.lane.host.addresses.contains(ip);
            self.connector.set_overlay(*ip, own);
        }
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
        addresses.retain(|ip| !self.lane.host.addresses.contains(ip));
        self.connector.handle_addresses(addresses, now);
        self.flush(now);
    }

    /// The router leads this address to the main IPv4 socket now, or nothing any more.
    pub fn handle_port_mapping(&mut self, external: Option<SocketAddr>, now: Instant) {
        // A router that names an address of the overlay would lead packets into the tunnel that they belong to.
        let external = external.filter(|at| !self.lane.host.addresses.contains(&at.ip()));
        self.connector.handle_port_mapping(external, now);
        self.flush(now);
    }

    /// The machine has slept.
    pub fn handle_resume(&mut self, now: Instant) {
        self.connector.handle_resume(now);
        // While this machine's clock stood still the peers may have forgotten their keys.
        for handle in self.peers.active() {
            let Some(peer) = self.peers.get_mut(handle) else {
                continue;
            };
            let sessions = peer.tunnel.responders();
            let held = sessions.filter(|session| session.is_established());
            if held.map(|session| session.initiate(now)).count() > 0 {
                self.handshakes.work(&mut self.peers, handle, now);
            }
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
        self.lane.stack.handle_target(stream, event, now);
    }

    /// Takes bytes that a client sent.
    pub fn read_stream(&mut self, stream: StreamId, max: usize) -> Bytes {
        self.lane.stack.read(stream, max)
    }

    /// Gives a client the target's bytes; returns how many were taken.
    pub fn write_stream(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        self.lane.stack.write(stream, bytes)
    }

    /// Gives a client the target's datagram.
    pub fn write_datagram(&mut self, stream: StreamId, payload: &[u8], now: Instant) {
        self.lane.stack.write_datagram(stream, payload, now);
    }

    // --- packets ---

    /// A packet of this host, or with `offload` what stands for several of one flow.
    pub fn handle_tun(&mut self, bytes: &[u8], offload: Offload, now: Instant) {
        self.lane.handle_tun(&mut self.peers, bytes, offload, now);
    }

    /// Datagrams have come in on `socket`, back to back, each of `stride` bytes, the last one possibly shorter; `local` is the
    /// address they came to, where the kernel says so. Many of the same session cost little more than opening them.
    pub fn handle_train(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        stride: usize,
        bytes: &[u8],
        now: Instant,
    ) {
        let mut datagrams = bytes.chunks(stride.max(1)).peekable();
        if self.is_inside(from.ip()) {
            datagrams.for_each(|_| self.lane.drops.count(DropReason::NotForUs));
            return;
        }
        let path = DirectPath {
            socket,
            remote: from,
        };
        while let Some(datagram) = datagrams.peek() {
            let Some(session) = data_index(datagram) else {
                self.handle_control(ReplyTo { path, local }, datagram, now);
                datagrams.next();
                continue;
            };
            let authentic = self
                .lane
                .open_run(&mut self.peers, session, path, &mut datagrams, now);
            if let Some(peer) = authentic {
                self.lane.after_handshake(&mut self.peers, peer, now);
            }
        }
    }

    /// Whether an address is one that is reached through a tunnel.
    fn is_inside(&self, ip: IpAddr) -> bool {
        self.peers.route(ip).is_some() || self.lane.host.addresses.contains(&ip)
    }

    /// A datagram from outside that carries no data: STUN or a handshake.
    fn handle_control(&mut self, from: ReplyTo, datagram: &[u8], now: Instant) {
        let ReplyTo { path, local } = from;
        let result = if !is_stun(datagram) {
            self.handshakes
                .handle_datagram(&mut self.peers, from, datagram, now)
        } else if self
            .connector
            .handle_stun(path.socket, local, path.remote, datagram, now)
        {
            Ok(())
        } else {
            Err(DropReason::NotForUs)
        };
        if let Err(reason) = result {
            self.lane.drops.count(reason);
        }
        self.send_handshakes();
    }

    fn send_handshakes(&mut self) {
        while let Some(transmit) = self.handshakes.poll_transmit() {
            self.lane.outbox.push(transmit);
        }
    }

    /// With how many peers packets have been exchanged since the last [`Self::flush`].
    pub fn busy_peers(&self) -> usize {
        self.peers.busy_count()
    }

    /// Sends an echo request to a peer; [`EngineEvent::Pong`] with the returned number tells of the answer. `None` when the
    /// peer is not connected.
    pub fn ping(&mut self, handle: PeerHandle, now: Instant) -> Option<u16> {
        let id = self.lane.ping(&mut self.peers, handle, now);
        self.flush(now);
        id
    }

    // --- handshakes ---

    /// The next step of a handshake: hand what comes of it to [`Self::handle_job`]. There are never more than 8 of strangers and
    /// three for each session under way.
    pub fn poll_job(&mut self) -> Option<Job> {
        self.handshakes.poll_job()
    }

    /// A step of a handshake has been performed.
    pub fn handle_job(&mut self, done: JobDone, now: Instant) {
        let result = self.handshakes.handle_job(&mut self.peers, done, now);
        self.send_handshakes();
        match result {
            Ok(Some(peer)) => {
                self.lane.after_handshake(&mut self.peers, peer, now);
                self.open_held(peer, now);
            }
            Ok(None) => {}
            Err(reason) => self.lane.drops.count(reason),
        }
    }

    /// Opens what has come for keys that were in use by a handshake.
    fn open_held(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else {
            return;
        };
        for (path, datagram) in std::mem::take(&mut peer.held) {
            if let Some(session) = data_index(&datagram) {
                let mut train = [datagram.as_slice()].into_iter().peekable();
                let (lane, peers) = (&mut self.lane, &mut self.peers);
                if lane
                    .open_run(peers, session, path, &mut train, now)
                    .is_some()
                {
                    lane.after_handshake(peers, handle, now);
                }
            }
        }
    }

    // --- time ---

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = None;
            self.tick(now);
        }
        if self.connector.poll_timeout().is_some_and(|at| at <= now) {
            self.connector.handle_timeout(now);
        }
        self.lane.stack.handle_timeout(now);
        self.flush(now);
    }

    /// Looks at the timers of all sessions.
    fn tick(&mut self, now: Instant) {
        for handle in self.peers.active() {
            let rtt = self.connector.round_trip(handle);
            let Some(peer) = self.peers.get_mut(handle) else {
                continue;
            };
            let (path, outbox) = (peer.path, &mut self.lane.outbox);
            let gone = peer.tunnel.handle_timeout(rtt, now, |fill| {
                // Timers run without a path too; what they would send is lost like any packet.
                match path {
                    Some(path) => outbox.push_with(path, |out| fill(out)),
                    None => {
                        fill(&mut Buffer::default());
                    }
                }
            });
            peer.note_keys(now);
            let wants = peer.tunnel.wants_job(now);
            self.peers.forget_sessions(gone);
            if wants {
                self.handshakes.work(&mut self.peers, handle, now);
            }
        }
        self.lane.handle_timeout(now);
    }

    /// Ends a batch: lets streams and the connector work, and collects what they have to say.
    pub fn flush(&mut self, now: Instant) {
        for handle in self.peers.take_busy() {
            self.connector.handle_traffic(handle, now);
            self.handshakes.work(&mut self.peers, handle, now);
        }
        self.lane.flush_streams(&mut self.peers, now);
        while let Some(event) = self.connector.poll_event() {
            self.handle_connector(event, now);
        }
        while let Some(transmit) = self.connector.poll_transmit() {
            self.lane.outbox.push(transmit);
        }
        while let Some(pong) = self.lane.poll_pong() {
            self.events.push_back(EngineEvent::Pong(pong));
        }
        for (peer, state) in self.peers.take_changed(&self.connector) {
            self.events.push_back(EngineEvent::State { peer, state });
        }
        if self.next_tick.is_none() && self.peers.is_active() {
            self.next_tick = Some(now + TICK);
        }
    }

    fn handle_connector(&mut self, event: ConnectorEvent, now: Instant) {
        let event = match event {
            ConnectorEvent::Proven {
                peer,
                preshared,
                initiator,
            } => {
                let Some(entry) = self.peers.get(peer) else {
                    return;
                };
                let public = *entry.config.public();
                let session = self.session(peer, &public, Some(*preshared.as_bytes()), None);
                if let Some(entry) = self.peers.get_mut(peer) {
                    let gone = entry.tunnel.prepare(session, initiator);
                    self.peers.forget_sessions(gone);
                }
                self.peers.mark(peer);
                return;
            }
            ConnectorEvent::Selected { peer, path } => {
                self.route_peer(peer);
                self.peers.set_path(peer, path);
                if let Some(entry) = self.peers.get_mut(peer) {
                    entry.tunnel.start(now);
                }
                self.handshakes.work(&mut self.peers, peer, now);
                EngineEvent::Selected { peer, path }
            }
            ConnectorEvent::Lost { peer } => {
                if let Some(entry) = self.peers.get_mut(peer) {
                    entry.path = None;
                }
                self.peers.mark(peer);
                return;
            }
            ConnectorEvent::Closed { peer } => {
                self.peers.disconnect(peer);
                self.peers.mark(peer);
                return;
            }
            ConnectorEvent::Abandoned { peer } => {
                if let Some(entry) = self.peers.get_mut(peer) {
                    let gone = entry.tunnel.abandon();
                    self.peers.forget_sessions(gone);
                }
                self.peers.mark(peer);
                return;
            }
            ConnectorEvent::Stamps { peer, sent, seen } => {
                self.peers.mark(peer);
                EngineEvent::Stamps {
                    peer,
                    stamps: (sent, seen),
                }
            }
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

    // --- what goes out ---

    /// The next datagrams to send; give them back with [`Self::recycle`].
    pub fn poll_burst(&mut self) -> Option<Burst> {
        self.lane.outbox.pop()
    }

    /// The next datagrams to send to which nothing will be added: so that they can leave while more is sealed.
    pub fn poll_full_burst(&mut self) -> Option<Burst> {
        self.lane.outbox.pop_full()
    }

    /// Takes back a burst that was sent, for its memory.
    pub fn recycle(&mut self, burst: Burst) {
        self.lane.outbox.recycle(burst);
    }

    /// How many bytes of packets for the TUN there are.
    pub fn tun_bytes(&self) -> usize {
        self.lane.to_tun.total()
    }

    /// The packets for the TUN since the last call; give the batch back, cleared or not, with the next call.
    pub fn swap_tun(&mut self, batch: &mut Batch) {
        batch.clear();
        std::mem::swap(&mut self.lane.to_tun, batch);
    }

    /// The next frame for a signalling server.
    pub fn poll_signal(&mut self) -> Option<Signal> {
        self.connector.poll_signal()
    }

    /// The next order for the owner of the target sockets.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.lane.stack.poll_order()
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
            self.lane.stack.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Packets were lost on the way to the engine or from it.
    pub fn count_drops(&mut self, reason: DropReason, packets: u64) {
        self.lane.drops.add(reason, packets);
    }

    // --- what is to be seen ---

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerHandle> {
        self.peers.handles()
    }

    /// All forwards.
    pub fn rules(&self) -> &Rules {
        &self.lane.rules
    }

    /// How the connection to a peer does.
    pub fn peer_state(&self, handle: PeerHandle) -> Option<LinkState> {
        let peer = self.peers.get(handle)?;
        Some(peer.state(&self.connector))
    }

    /// What is known of a peer's tunnel.
    pub fn peer_report(&self, handle: PeerHandle) -> Option<PeerReport> {
        let peer = self.peers.get(handle)?;
        Some(PeerReport {
            path: peer.path,
            established: peer.tunnel.is_established(),
            last_handshake: peer.tunnel.last_handshake(),
            received: peer.received,
            sent: peer.sent,
        })
    }

    /// What is known of the way to a Punch peer.
    pub fn link_status(&self, handle: PeerHandle, now: Instant) -> Option<LinkStatus> {
        self.connector.link_status(handle, now)
    }

    /// Whether a peer takes its IPv4 address from another range than this machine, as its offer or answer said.
    pub fn ipv4_differs(&self, handle: PeerHandle) -> bool {
        self.connector
            .peer_range(handle)
            .is_some_and(|range| range != self.ipv4_range)
    }

    /// This machine's candidates.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.connector.candidates()
    }

    /// STUN servers that answer, and what they see.
    pub fn reflexive(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.connector.reflexive()
    }

    /// The range of this machine's overlay IPv4 address.
    pub fn ipv4_range(&self) -> Option<Ipv4Range> {
        self.ipv4_range
    }

    /// Streams of a forward: open now, and in all.
    pub fn forward_counts(&self, forward: ForwardKey) -> (u64, u64) {
        self.lane.stack.counts(forward)
    }

    /// How many packets, datagrams and envelopes were not let through.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let envelopes = self.connector.dropped_envelopes();
        DropReason::ALL
            .into_iter()
            .map(|reason| {
                let count = match reason {
                    DropReason::Stranger => envelopes.strangers,
                    DropReason::BadEnvelope => envelopes.unusable,
                    packets => self.lane.drops.get(packets),
                };
                (reason, count)
            })
            .collect()
    }
}
