//! The value that the driver owns: packets, datagrams, frames and target bytes in; the same out.
//!
//! The loop is: `handle_*` for what came in, [`Engine::flush`] once per batch, then `poll_*` until nothing is left, then
//! sleep until [`Engine::poll_timeout`].

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use punch_api::ForwardKey;
use punch_connect::{
    Connector, ConnectorConfig, ConnectorEvent, ConnectorSizes, LinkState, LinkStatus, News, Path,
    RelayPath, ServerId, Signal, Stranger, TcpPath, over_tcp,
};
use punch_forward::{ForwardCounts, Order, Rules, StreamId, TargetEvent};
use punch_packet::{Batch, Buffer, Offload, PeerHandle};
use punch_signal_protocol::{Candidate, Frame, Ipv4Range};
use punch_traversal::{Family, OwnAddress, SocketId};
use punch_wireguard::LocalKeys;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::config::{Change, EngineConfig};
use crate::event::EngineEvent;
use crate::handshakes::{Handshakes, Job, JobDone};
use crate::heritage::{self, Heritage, Renumbered};
use crate::host::Host;
use crate::lane::Lane;
use crate::outbox::Train;
use crate::reception::Reception;
use crate::reply_to::ReplyTo;
use crate::report::{DropReason, PeerReport, TableSizes};
use crate::roster::Roster;

/// Sessions look at their timers this often.
const TICK: Duration = Duration::from_millis(250);

/// See the module.
pub struct Engine {
    pub(crate) roster: Roster,
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
        let own = LocalKeys::new(config.identity.x25519_secret().to_bytes());
        let handshakes = Handshakes::new(own);
        let host = Arc::new(Host::new(&config, now));
        let connector = Connector::new(
            ConnectorConfig {
                identity: config.identity,
                ipv4_range: config.ipv4_range,
                seed,
                wall_ms,
                budget: config.budget,
                nat: config.nat,
                mtu: u16::try_from(config.mtu).unwrap_or(u16::MAX),
                relay: config.relay,
                tcp: config.tcp,
            },
            now,
        );
        let mut lane_rng = rng.clone();
        lane_rng.set_stream(1);
        Self {
            lane: Lane::new(host.clone(), lane_rng),
            roster: Roster::new(host, connector, handshakes, rng),
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
            self.roster.remove_peer(handle, now);
        }
        for config in peers {
            self.roster.apply_peer(config, now);
        }
        if streams {
            let peers = &mut self.roster.peers;
            self.lane.apply_rules(rules, peers, now);
        }
        if let Some(servers) = stun_servers {
            self.roster.connector.set_stun_servers(servers, now);
        }
        self.flush(now);
    }

    // --- the machine and signalling: passed on to the connector ---

    /// A socket is open on this port.
    pub fn handle_socket(&mut self, socket: SocketId, port: u16, now: Instant) {
        self.roster.connector.handle_socket(socket, port, now);
        self.flush(now);
    }

    /// A socket could not be opened.
    pub fn handle_socket_failed(&mut self, socket: SocketId, now: Instant) {
        self.roster.connector.handle_socket_failed(socket, now);
        self.flush(now);
    }

    /// The machine's underlay addresses are now these.
    pub fn handle_addresses(&mut self, mut addresses: Vec<OwnAddress>, now: Instant) {
        self.lane.stack.handle_network();
        addresses.retain(|own| !self.lane.host.addresses.contains(&own.ip));
        self.roster.connector.handle_addresses(addresses, now);
        self.flush(now);
    }

    /// The router leads these addresses to the main IPv4 socket and to the port for TCP connections now, or nothing any more.
    pub fn handle_port_mapping(&mut self, external: [Option<SocketAddr>; 2], now: Instant) {
        // A router that names an address of the overlay would lead packets into the tunnel that they belong to.
        let own = &self.lane.host.addresses;
        let external = external.map(|at| at.filter(|at| !own.contains(&at.ip())));
        self.roster.connector.handle_port_mapping(external, now);
        self.flush(now);
    }

    /// The machine has slept for so long, while its clock stood still.
    pub fn handle_resume(&mut self, slept: Duration, now: Instant) {
        self.roster.connector.handle_resume(now);
        self.roster.renew_keys(slept, now);
        self.flush(now);
    }

    /// Milliseconds since 1970, told now and then.
    pub fn handle_wall_clock(&mut self, wall_ms: u64, now: Instant) {
        self.roster.connector.handle_wall_clock(wall_ms, now);
    }

    /// A signalling server has welcomed us, or is gone.
    pub fn handle_server(&mut self, server: ServerId, up: bool, now: Instant) {
        if up {
            self.roster.connector.handle_server_up(server, now);
        } else {
            self.roster.connector.handle_server_down(server, now);
        }
        self.flush(now);
    }

    /// A frame has come from a signalling server.
    pub fn handle_frame(&mut self, server: ServerId, frame: Frame, now: Instant) {
        self.roster.connector.handle_frame(server, frame, now);
        self.flush(now);
    }

    /// The user asks again for a peer that is wanted and not connected: no waiting for the next retry.
    pub fn retry(&mut self, handle: PeerHandle, now: Instant) {
        self.roster.connector.retry(handle, now);
        self.flush(now);
    }

    /// Finds out how the NAT behaves; ends with [`punch_connect::News::Netcheck`].
    pub fn start_netcheck(&mut self, now: Instant) {
        self.roster.connector.start_netcheck(now);
        self.flush(now);
    }

    /// Says goodbye to every peer; poll once more and then stop.
    pub fn shut_down(&mut self, now: Instant) {
        self.roster.connector.shut_down();
        self.flush(now);
    }

    // --- the next process ---

    /// What the next process needs to go on with the tunnels; the conversations only with `flows`: there may be tens of thousands.
    pub fn bequeath(&self, flows: bool, now: Instant) -> Heritage {
        heritage::bequeath(&self.roster, flows, now)
    }

    /// Goes on with the tunnels of an earlier process: their sessions are made anew at once. Returns the numbers that sockets
    /// have from now on; each must be there before the next datagram leaves.
    pub fn inherit(&mut self, heritage: Heritage, now: Instant) -> Vec<Renumbered> {
        let sockets = heritage::inherit(&mut self.roster, heritage, now);
        self.flush(now);
        sockets
    }

    /// Tells peers that this process ends and another one goes on within so many seconds; those that do not wait hear a goodbye.
    pub fn go_away(&mut self, seconds: u8, now: Instant) {
        self.roster.connector.go_away(seconds);
        self.flush(now);
    }

    // --- targets: passed on to the stack ---

    /// Something happened at a forward's target.
    pub fn handle_target(&mut self, stream: StreamId, event: TargetEvent, now: Instant) {
        self.lane.stack.handle_target(stream, event, now);
    }

    /// A stream's target failed; `what` says it in words for people.
    pub fn handle_target_failure(
        &mut self,
        stream: StreamId,
        event: TargetEvent,
        what: String,
        now: Instant,
    ) {
        self.lane.stack.handle_failure(stream, event, what, now);
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
        self.lane
            .handle_tun(&mut self.roster.peers, bytes, offload, now);
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
        let datagrams = bytes.chunks(stride.max(1));
        if self.is_inside(from.ip()) {
            datagrams.for_each(|_| self.lane.drops.count(DropReason::NotForUs));
            return;
        }
        let from = ReplyTo::datagram(Path::direct(socket, from), local);
        self.reception().take(from, datagrams, now);
    }

    /// Packets have come over a relay link: those of a tunnel, and checks of the link.
    pub fn handle_relayed<'a>(
        &mut self,
        path: RelayPath,
        packets: impl Iterator<Item = &'a [u8]>,
        now: Instant,
    ) {
        self.reception().take_link(path, packets, now);
    }

    /// A STUN server sees the port on which this machine takes TCP connections as `mapped`: what [`crate::TcpOrder::Ask`] was for.
    pub fn handle_tcp_seen(&mut self, server: SocketAddr, mapped: SocketAddr, now: Instant) {
        over_tcp::handle_seen(&mut self.roster.connector, server, mapped, now);
        self.flush(now);
    }

    /// This machine takes TCP connections of this family on this port.
    pub fn handle_tcp_port(&mut self, family: Family, port: u16) {
        over_tcp::handle_port(&mut self.roster.connector, family, port);
    }

    /// Somebody has connected from `remote`, and this is the first message: the connection's number, if it is a peer's.
    pub fn handle_tcp_call(
        &mut self,
        remote: SocketAddr,
        message: &[u8],
        now: Instant,
    ) -> Option<TcpPath> {
        if self.is_inside(remote.ip()) {
            return None;
        }
        let path = over_tcp::handle_call(&mut self.roster.connector, remote, message, now);
        self.flush(now);
        path
    }

    /// A connection that was to be made ([`crate::TcpOrder::Dial`]) stands (`open`), could not be made, or has ended, as any other may.
    pub fn handle_tcp_state(&mut self, path: TcpPath, open: bool, now: Instant) {
        over_tcp::handle_state(&mut self.roster.connector, path, open, now);
        self.flush(now);
    }

    /// Datagrams have come over a TCP connection: packets of a tunnel, once the peer has been heard, and checks.
    pub fn handle_tcp<'a>(
        &mut self,
        path: TcpPath,
        datagrams: impl Iterator<Item = &'a [u8]>,
        now: Instant,
    ) {
        self.reception().take_tcp(path, datagrams, now);
    }

    /// Whether an address is one that is reached through a tunnel: no datagram may come from there, and none may go there.
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        self.roster.peers.route(ip).is_some() || self.lane.host.addresses.contains(&ip)
    }

    fn reception(&mut self) -> Reception<'_> {
        Reception {
            roster: &mut self.roster,
            lane: &mut self.lane,
        }
    }

    /// With how many peers packets have been exchanged since the last [`Self::flush`].
    pub fn busy_peers(&self) -> usize {
        self.roster.peers.busy_count()
    }

    /// Sends an echo request to a peer; [`EngineEvent::Pong`] with the returned number tells of the answer. `None` when the
    /// peer is not connected.
    pub fn ping(&mut self, handle: PeerHandle, now: Instant) -> Option<u16> {
        let id = self.lane.ping(&mut self.roster.peers, handle, now);
        self.flush(now);
        id
    }

    // --- handshakes ---

    /// The next step of a handshake: hand what comes of it to [`Self::handle_job`]. There are never more than 8 of strangers and
    /// three for each session under way.
    pub fn poll_job(&mut self) -> Option<Job> {
        self.roster.handshakes.poll_job()
    }

    /// A step of a handshake has been performed.
    pub fn handle_job(&mut self, done: JobDone, now: Instant) {
        self.reception().handle_job(done, now);
    }

    // --- time ---

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = None;
            self.tick(now);
        }
        let due = self.roster.connector.poll_timeout();
        if due.is_some_and(|at| at <= now) {
            self.roster.connector.handle_timeout(now);
        }
        self.lane.handle_streams_timeout(&self.roster.peers, now);
        self.flush(now);
    }

    /// Looks at the timers of all sessions.
    fn tick(&mut self, now: Instant) {
        for handle in self.roster.peers.active() {
            let rtt = self.roster.connector.round_trip(handle);
            let Some(peer) = self.roster.peers.get_mut(handle) else {
                continue;
            };
            let (path, outbox) = (peer.path, &mut self.lane.outbox);
            let gone = peer.tunnel.handle_timeout(rtt, now, |fill| {
                // Timers run without a path too; what they would send is lost like any packet.
                match path {
                    Some(path) => outbox.push_with(path, false, |out| fill(out)),
                    None => {
                        fill(&mut Buffer::default());
                    }
                }
            });
            peer.note_keys(now);
            let wants = peer.tunnel.wants_job(now);
            self.roster.peers.forget_sessions(gone);
            if wants {
                self.roster.work(handle, now);
            }
        }
        self.lane.handle_timeout(&mut self.roster.peers, now);
    }

    /// Ends a batch: lets streams and the connector work, and collects what they have to say.
    pub fn flush(&mut self, now: Instant) {
        for (handle, traffic) in self.roster.peers.take_busy() {
            self.roster.connector.handle_traffic(handle, traffic, now);
            self.roster.work(handle, now);
        }
        self.lane.flush_streams(&mut self.roster.peers, now);
        while let Some(event) = self.roster.connector.poll_event() {
            self.handle_connector(event, now);
        }
        while let Some(transmit) = self.roster.connector.poll_transmit() {
            self.lane.outbox.push(transmit);
        }
        while let Some(crowded) = self.lane.stack.poll_crowded() {
            self.events.push_back(EngineEvent::Crowded(crowded));
        }
        self.events
            .extend(std::iter::from_fn(|| self.lane.poll_event()));
        for (peer, to) in self.roster.peers.take_roamed() {
            self.events.push_back(EngineEvent::Roamed { peer, to });
        }
        self.events.extend(self.roster.peers.take_resized());
        for (peer, state) in self.roster.peers.take_changed(&self.roster.connector) {
            let event = EngineEvent::state(&self.roster.connector, peer, state);
            self.events.push_back(event);
        }
        if self.next_tick.is_none() && self.roster.peers.is_active() {
            self.next_tick = Some(now + TICK);
        }
    }

    /// Has the roster do its part, and passes on what others want to know.
    fn handle_connector(&mut self, event: ConnectorEvent, now: Instant) {
        match event {
            ConnectorEvent::Session(event) => self.roster.handle_session(&event, now),
            ConnectorEvent::Socket(order) => self.events.push_back(EngineEvent::Socket(order)),
            ConnectorEvent::Tcp(order) => self.events.push_back(EngineEvent::Tcp(order)),
            ConnectorEvent::Link { path, message } => {
                let outbox = &mut self.lane.outbox;
                outbox.push_message(ReplyTo::path(path), &message);
            }
            ConnectorEvent::News(news) => {
                self.roster.handle_news(&news, now);
                // What fits is told with what the tunnel's interface has, too: [`EngineEvent::Mtu`].
                if !matches!(news, News::Mtu { .. }) {
                    self.events.push_back(EngineEvent::News(news));
                }
            }
        }
    }

    // --- what goes out ---

    /// The next datagrams to send; give them back with [`Self::recycle`].
    pub fn poll_train(&mut self) -> Option<Train> {
        self.lane.outbox.pop()
    }

    /// The next datagrams to send to which nothing will be added: so that they can leave while more is sealed.
    pub fn poll_full_train(&mut self) -> Option<Train> {
        self.lane.outbox.pop_full()
    }

    /// Takes back a train that was sent, for its memory.
    pub fn recycle(&mut self, train: Train) {
        self.lane.outbox.recycle(train);
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
        self.roster.connector.poll_signal()
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
            self.roster.connector.poll_timeout(),
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
        self.roster.peers.handles()
    }

    /// All forwards.
    pub fn rules(&self) -> &Rules {
        &self.lane.rules
    }

    /// How the connection to a peer does.
    pub fn peer_state(&self, handle: PeerHandle) -> Option<LinkState> {
        let peer = self.roster.peers.get(handle)?;
        Some(peer.state(&self.roster.connector))
    }

    /// What is known of a peer's tunnel.
    pub fn peer_report(&self, handle: PeerHandle) -> Option<PeerReport> {
        let peer = self.roster.peers.get(handle)?;
        Some(PeerReport {
            path: peer.path,
            since: peer.course.since().filter(|_| peer.path.is_some()),
            mtu: peer.known_mtu(),
            established: peer.tunnel.is_established(),
            last_handshake: peer.tunnel.last_handshake(),
            received: peer.traffic.received(),
            sent: peer.traffic.sent,
        })
    }

    /// What is known of the way to a Punch peer.
    pub fn link_status(&self, handle: PeerHandle, now: Instant) -> Option<LinkStatus> {
        self.roster.connector.link_status(handle, now)
    }

    /// Whether a peer takes its IPv4 address from another range than this machine, as its offer or answer said.
    pub fn ipv4_differs(&self, handle: PeerHandle) -> bool {
        self.roster.ipv4_differs(handle)
    }

    /// This machine's candidates.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.roster.connector.candidates()
    }

    /// STUN servers that answer, and what they see.
    pub fn reflexive(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.roster.connector.reflexive()
    }

    /// Machines that have called and are no peers, the last one first.
    pub fn strangers(&self, now: Instant) -> Vec<Stranger> {
        self.roster.connector.strangers(now)
    }

    /// The range of this machine's overlay IPv4 address.
    pub fn ipv4_range(&self) -> Option<Ipv4Range> {
        self.lane.host.ipv4_range
    }

    /// What has become of the streams of a forward.
    pub fn forward_counts(&self, forward: ForwardKey) -> ForwardCounts {
        self.lane.stack.counts(forward)
    }

    /// How much the tables hold that others can make grow.
    pub fn table_sizes(&self) -> TableSizes {
        TableSizes {
            connector: ConnectorSizes::of(&self.roster.connector),
            jobs: self.roster.handshakes.waiting(),
            trains: self.lane.outbox.waiting(),
            events: self.events.len(),
            ..self.roster.peers.sizes()
        }
    }

    /// How many packets, datagrams and envelopes were not let through.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let envelopes = self.roster.connector.dropped_envelopes();
        self.lane.drops.list(envelopes)
    }
}
