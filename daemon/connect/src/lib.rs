//! How peers are reached: signalling, candidates, checks. Deterministic: time, wall clock and seed come in.
//!
//! For every peer that is wanted (the user said `up`, or the peer has connected to us) the connector keeps one [`Link`]
//! alive: an offer goes to every signalling server at hand, the answer starts an agent that finds a path, and when the path
//! dies, the network changes or the peer comes back, a new offer starts over, while the old path goes on serving.

mod interface;
mod ledger;
mod link;
mod netchecks;
mod path;
mod search;
mod secrets;
mod signalling;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_packet::PeerHandle;
use punch_signal_protocol::{Candidate, Frame, Identity, Ipv4Range, PeerId, seal};
use punch_stun_protocol::{Class, Message};
use punch_traversal::{Budget, Family, Gatherer, SocketId, StepKind, Transmit};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use ledger::Ledger;
use link::{Link, Offered, Outlet};
use netchecks::Netchecks;

pub use interface::{
    ConnectorConfig, ConnectorEvent, DroppedEnvelopes, LinkStatus, ServerId, Signal,
};
pub use link::LinkState;
pub use path::Path;
pub use secrets::draw;

/// An offer whose stamp differs from our wall clock by more than this is refused.
pub const MAX_STALE: Duration = Duration::from_secs(600);

/// Watches sent at once, and the pause between: a server allows 50 frames a second.
const WATCHES: usize = 16;
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// Sockets that are opened for a purpose are numbered from here on; the main ones are 0 and 1.
const FIRST_SOCKET: u32 = 16;

/// Gives sockets their numbers.
#[derive(Debug)]
struct SocketIds(u32);

impl SocketIds {
    fn next(&mut self) -> SocketId {
        let id = SocketId(self.0);
        self.0 = self.0.wrapping_add(1).max(FIRST_SOCKET);
        id
    }
}

/// See the module.
pub struct Connector {
    identity: Identity,
    id: PeerId,
    ipv4_range: Option<Ipv4Range>,
    rng: ChaCha20Rng,
    /// For what must stay secret later, too: it is replaced at each draw.
    secrets: ChaCha20Rng,
    wall: (Instant, u64),
    gatherer: Gatherer,
    netchecks: Netchecks,
    ids: SocketIds,
    /// Sockets of attempts: whose, and of which attempt.
    sockets: HashMap<SocketId, (PeerHandle, u64)>,
    budget: Budget,
    ledger: Ledger,
    /// Stands for the network that this machine is in.
    network: Option<u64>,
    addresses: Vec<IpAddr>,
    /// Whether the addresses have been told.
    situated: bool,
    stun_servers: Vec<SocketAddr>,
    /// Addresses inside tunnels: a path over one of them would lead a tunnel into itself.
    overlay: HashSet<IpAddr>,
    links: BTreeMap<PeerHandle, Link>,
    by_id: HashMap<PeerId, PeerHandle>,
    servers: BTreeSet<ServerId>,
    watches: VecDeque<(ServerId, PeerId)>,
    next_watches: Option<Instant>,
    dropped: DroppedEnvelopes,
    transmits: VecDeque<Transmit>,
    signals: VecDeque<Signal>,
    events: VecDeque<ConnectorEvent>,
}

impl Connector {
    /// A connector without peers, servers and sockets.
    pub fn new(config: ConnectorConfig, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(config.seed);
        let mut secrets = rng.clone();
        secrets.set_stream(1);
        Self {
            id: config.identity.id(),
            identity: config.identity,
            ipv4_range: config.ipv4_range,
            gatherer: Gatherer::new(rng.next_u64()),
            netchecks: Netchecks::new(rng.next_u64(), config.nat),
            ids: SocketIds(FIRST_SOCKET),
            sockets: HashMap::new(),
            budget: config.budget,
            ledger: Ledger::default(),
            network: None,
            rng,
            secrets: ChaCha20Rng::from_seed(draw(&mut secrets)),
            wall: (now, config.wall_ms),
            addresses: Vec::new(),
            situated: false,
            stun_servers: Vec::new(),
            overlay: HashSet::new(),
            links: BTreeMap::new(),
            by_id: HashMap::new(),
            servers: BTreeSet::new(),
            watches: VecDeque::new(),
            next_watches: None,
            dropped: DroppedEnvelopes::default(),
            transmits: VecDeque::new(),
            signals: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    // --- configuration ---

    /// Adds a peer, or takes note of its stamps if it is there. `stamps` are the newest sent and seen before a restart.
    pub fn add_peer(&mut self, peer: PeerHandle, id: PeerId, stamps: (u64, u64)) {
        self.by_id.insert(id, peer);
        self.links
            .entry(peer)
            .or_insert_with(|| Link::new(id, stamps));
    }

    /// What has worked with a peer, by network.
    pub fn remember(&mut self, peer: PeerHandle, memory: Vec<(u64, StepKind)>) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.memory = memory;
        }
    }

    /// Forgets a peer: goodbye, and silence from now on.
    pub fn remove_peer(&mut self, peer: PeerHandle, now: Instant) {
        self.close(peer);
        if let Some(mut link) = self.links.remove(&peer) {
            self.by_id.remove(&link.id);
            if link.watched {
                self.unwatch(link.id);
            }
            let (sockets, searched) = link.dissolve();
            self.ledger.add(searched, now);
            for socket in sockets {
                self.close_socket(socket);
            }
        }
    }

    /// Whether the user wants a connection.
    pub fn set_up(&mut self, peer: PeerHandle, up: bool, now: Instant) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if link.up == up {
            return;
        }
        link.up = up;
        let searching = link.has_search();
        self.watch_if_sought(peer, now);
        if !up {
            self.close(peer);
        } else if !searching {
            self.offer(peer, now);
        }
        // What the attempts held closes soon.
        self.settle(now);
    }

    /// Whether an address is one inside a tunnel, this machine's or a peer's: never a candidate, and never where a check comes from.
    pub fn set_overlay(&mut self, address: IpAddr, inside: bool) {
        if inside {
            self.overlay.insert(address);
        } else {
            self.overlay.remove(&address);
        }
    }

    /// Makes an offer at once to a peer that is wanted and has no path, unless one has just gone out.
    pub fn retry(&mut self, peer: PeerHandle, now: Instant) {
        let due = |link: &Link| {
            let idle = link.path().is_none() && !link.has_search();
            link.wanted() && idle && !link.offer_is_fresh(now)
        };
        match self.links.get_mut(&peer) {
            Some(link) if due(link) => self.offer(peer, now),
            Some(link) => link.hurry(),
            None => {}
        }
        self.settle(now);
    }

    /// Whether the peer's own offers are refused, because the user has disconnected it. What came of an earlier one ends.
    pub fn set_barred(&mut self, peer: PeerHandle, barred: bool, now: Instant) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let turned = link.barred != barred;
        link.barred = barred;
        if turned && barred && !link.up {
            self.close(peer);
            self.settle(now);
        }
    }

    /// The STUN servers are now these.
    pub fn set_stun_servers(&mut self, servers: Vec<SocketAddr>, now: Instant) {
        if self.stun_servers != servers {
            self.netchecks.restart(now);
        }
        self.stun_servers.clone_from(&servers);
        self.gatherer.handle_servers(servers, now);
        self.settle(now);
    }

    // --- the machine ---

    /// A main socket is open, or one that was asked for with [`ConnectorEvent::OpenSocket`].
    pub fn handle_socket(&mut self, socket: SocketId, port: u16, now: Instant) {
        if socket == SocketId::MAIN_V4 || socket == SocketId::MAIN_V6 {
            self.gatherer.handle_socket(socket, port, now);
        } else {
            self.handle_opened(socket, Some(port), now);
        }
        self.settle(now);
    }

    /// A socket that was asked for could not be opened.
    pub fn handle_socket_failed(&mut self, socket: SocketId, now: Instant) {
        self.handle_opened(socket, None, now);
        self.settle(now);
    }

    /// The machine's addresses are now these.
    pub fn handle_addresses(&mut self, addresses: Vec<IpAddr>, now: Instant) {
        self.addresses.clone_from(&addresses);
        let moved = std::mem::replace(&mut self.situated, true);
        if self.gatherer.handle_addresses(addresses, now) {
            if moved {
                self.events.push_back(ConnectorEvent::NetworkChanged);
            }
            self.netchecks.restart(now);
            self.network = None;
            for link in self.links.values_mut() {
                link.failures = 0;
            }
            let wanted: Vec<_> = self.wanted().collect();
            for peer in wanted {
                self.offer(peer, now);
            }
        }
        self.settle(now);
    }

    /// The router leads this address here now, or nothing any more.
    pub fn handle_port_mapping(&mut self, external: Option<SocketAddr>, now: Instant) {
        self.gatherer.handle_port_mapping(external, now);
        self.settle(now);
    }

    /// The machine has slept: every path is doubtful, every mapping at a NAT may be gone.
    pub fn handle_resume(&mut self, now: Instant) {
        self.events.push_back(ConnectorEvent::NetworkChanged);
        self.gatherer.restart(now);
        self.netchecks.restart(now);
        self.network = None;
        for link in self.links.values_mut() {
            link.verify(now);
        }
        self.settle(now);
    }

    /// Milliseconds since 1970, told now and then: the wall clock may be set, and goes on while the machine sleeps.
    pub fn handle_wall_clock(&mut self, wall_ms: u64, now: Instant) {
        self.wall = (now, wall_ms);
    }

    // --- the network ---

    /// A STUN message has come in on `socket`; `local` is the address it came to.
    pub fn handle_stun(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> bool {
        let Ok(message) = Message::parse(datagram) else {
            return false;
        };
        if self.overlay.contains(&from.ip()) {
            return false;
        }
        let taken = match message.class {
            Class::Request => match message.username {
                Some(name) => self
                    .links
                    .values_mut()
                    .any(|link| link.handle_request(name, socket, local, from, &message, now)),
                None => self.netchecks.handle_request(socket, &message),
            },
            Class::Success | Class::Error => {
                self.links
                    .values_mut()
                    .any(|link| link.handle_response(socket, from, &message, now))
                    || self.netchecks.handle_response(socket, from, &message, now)
                    || self.gatherer.handle_response(socket, from, &message, now)
            }
            Class::Indication => false,
        };
        if taken {
            self.settle(now);
        }
        taken
    }

    /// Packets of the tunnel with this peer flow.
    pub fn handle_traffic(&mut self, peer: PeerHandle, now: Instant) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.handle_traffic(now);
        }
    }

    /// Finds out how the NAT behaves; ends with [`ConnectorEvent::Netcheck`]. Joins a run that is under way.
    pub fn start_netcheck(&mut self, now: Instant) {
        let addresses = &self.addresses;
        let families = [Family::V4, Family::V6].into_iter().filter(|family| {
            addresses
                .iter()
                .any(|ip| Family::of(*ip) == *family && !ip.is_loopback())
        });
        self.netchecks.start(families, &mut self.ids);
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_watches.is_some_and(|at| at <= now) {
            self.watch(now);
        }
        self.gatherer.handle_timeout(now);
        self.netchecks.handle_timeout(&mut self.ids, now);
        self.gatherer.set_lifetime(self.netchecks.lifetime());
        if self.netchecks.is_due(now) && !self.stun_servers.is_empty() {
            self.start_netcheck(now);
        }
        let mut again = Vec::new();
        for (peer, link) in &mut self.links {
            if link.handle_timeout(now) {
                again.push(*peer);
            }
        }
        for peer in again {
            self.offer(peer, now);
        }
        self.settle(now);
    }

    /// Says goodbye to every peer: punchd stops.
    pub fn shut_down(&mut self) {
        let peers: Vec<_> = self.links.keys().copied().collect();
        for peer in peers {
            self.close(peer);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next frame for a signalling server.
    pub fn poll_signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<ConnectorEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.links
            .values()
            .filter_map(Link::poll_timeout)
            .chain(self.gatherer.poll_timeout())
            .chain(self.netchecks.poll_timeout())
            .chain(self.next_watches)
            .chain(self.search_timeout())
            .min()
    }

    /// What status shows of one link.
    pub fn link_status(&self, peer: PeerHandle, now: Instant) -> Option<LinkStatus> {
        let link = self.links.get(&peer)?;
        let mine = self.netchecks.profile(Family::V4);
        Some(link.status(mine, self.budget, now))
    }

    /// The range of a peer's overlay IPv4 address, once it has said so.
    pub fn peer_range(&self, peer: PeerHandle) -> Option<Option<Ipv4Range>> {
        self.links.get(&peer).and_then(Link::peer_range)
    }

    /// The round trip of a peer's path.
    pub fn round_trip(&self, peer: PeerHandle) -> Option<Duration> {
        self.links.get(&peer).and_then(Link::round_trip)
    }

    /// How one link does.
    pub fn link_state(&self, peer: PeerHandle) -> LinkState {
        self.links.get(&peer).map_or(LinkState::Down, Link::state)
    }

    /// This machine's candidates.
    pub fn candidates(&self) -> Vec<Candidate> {
        outside(&self.overlay, self.gatherer.candidates())
    }

    /// STUN servers that have answered, and what they saw.
    pub fn reflexive(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.gatherer.reflexive().collect()
    }

    /// Envelopes that were not let through.
    pub fn dropped_envelopes(&self) -> DroppedEnvelopes {
        self.dropped
    }

    // --- inside ---

    /// The time since 1970.
    pub fn wall(&self, now: Instant) -> Duration {
        Duration::from_millis(self.wall.1) + now.saturating_duration_since(self.wall.0)
    }

    fn wall_ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.wall.0).as_millis();
        self.wall.1 + u64::try_from(elapsed).unwrap_or(0)
    }

    fn wanted(&self) -> impl Iterator<Item = PeerHandle> {
        self.links
            .iter()
            .filter(|(_, link)| link.wanted())
            .map(|(peer, _)| *peer)
    }

    /// Sends a fresh offer to the peer over every server at hand.
    fn offer(&mut self, peer: PeerHandle, now: Instant) {
        let wall = self.wall_ms(now);
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if self.servers.is_empty() {
            link.postpone(now);
            return;
        }
        let profile = self.netchecks.profile(Family::V4);
        let nat = profile.map(|profile| profile.summary(self.budget, link.failures));
        let description = link.describe(
            wall,
            outside(&self.overlay, self.gatherer.candidates()),
            self.ipv4_range,
            nat,
            !self.gatherer.answering(Family::V4).is_empty(),
            &mut self.rng,
        );
        let local = description.credentials.clone();
        let seed = draw(&mut self.secrets);
        let sealed = seal::PendingOffer::seal(&self.identity, &link.id, description, seed);
        let Ok((pending, envelope)) = sealed else {
            link.postpone(now);
            return;
        };
        let nat = link.described_nat.clone();
        link.offered(Offered::new(pending, local, nat), &mut self.rng, now);
        let to = link.id;
        self.signal_all(&Frame::Send { to, envelope });
        self.note_stamps(peer);
    }

    fn close(&mut self, peer: PeerHandle) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let to = link.id;
        for envelope in link.close() {
            self.signal_all(&Frame::Send { to, envelope });
        }
        self.events.push_back(ConnectorEvent::Closed { peer });
    }

    fn signal_all(&mut self, frame: &Frame) {
        for server in &self.servers {
            self.signals.push_back(Signal {
                server: *server,
                frame: frame.clone(),
            });
        }
    }

    fn note_stamps(&mut self, peer: PeerHandle) {
        if let Some(link) = self.links.get(&peer) {
            let (sent, seen) = link.stamps;
            self.events
                .push_back(ConnectorEvent::Stamps { peer, sent, seen });
        }
    }

    /// Drains the children: their datagrams, and what they have to say.
    fn settle(&mut self, now: Instant) {
        if self.gatherer.poll_changed() {
            self.tell_candidates();
            let seen = self.gatherer.reflexive().map(|(_, mapped)| mapped.ip());
            for ip in seen.filter(IpAddr::is_ipv4) {
                self.netchecks.handle_public(ip, now);
            }
        }
        while let Some(transmit) = self.gatherer.poll_transmit() {
            self.transmits.push_back(transmit);
        }
        if self.netchecks.drain(&mut self.transmits, &mut self.events) {
            self.network = Some(self.fingerprint());
        }
        let peers: Vec<_> = self.links.keys().copied().collect();
        for peer in peers {
            if self.drain_one(peer, now) {
                self.offer(peer, now);
            }
        }
        self.settle_searches(now);
    }

    /// Carries away what one link has to send and to say; returns whether a new offer is due at once.
    fn drain_one(&mut self, peer: PeerHandle, now: Instant) -> bool {
        let network = self.network;
        let Some(link) = self.links.get_mut(&peer) else {
            return false;
        };
        let mut outlet = Outlet {
            peer,
            network,
            transmits: &mut self.transmits,
            events: &mut self.events,
            ids: &mut self.ids,
            sockets: &mut self.sockets,
            envelopes: Vec::new(),
            searched: 0,
        };
        let again = link.drain(&mut outlet, now);
        let (to, envelopes, searched) = (link.id, outlet.envelopes, outlet.searched);
        self.ledger.add(searched, now);
        for envelope in envelopes {
            self.signal_all(&Frame::Send { to, envelope });
        }
        self.watch_if_sought(peer, now);
        again
    }

    /// Peers with whom checks are under way hear of new candidates (RFC 8838).
    fn tell_candidates(&mut self) {
        let candidates = self.candidates();
        let mut notes = Vec::new();
        for link in self.links.values_mut() {
            if let Some(envelope) = link.tell(&candidates) {
                notes.push((link.id, envelope));
            }
        }
        for (to, envelope) in notes {
            self.signal_all(&Frame::Send { to, envelope });
        }
    }
}

/// The candidates that do not lie inside a tunnel.
fn outside(overlay: &HashSet<IpAddr>, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.retain(|candidate| !overlay.contains(&candidate.address.ip()));
    candidates
}
