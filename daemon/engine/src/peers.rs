//! The peers that the engine knows, and the look-ups that lead to one: by address, by static key, by session.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_connect::{Connector, LinkState, Path, PathReason, PeerTraffic};
use punch_forward::Presence;
use punch_packet::{PeerHandle, Rate, Reassembly, TokenBucket};
use punch_wireguard::SESSION_BITS;
use rand_core::RngCore;

use crate::config::{PeerConfig, PeerKind};
use crate::event::EngineEvent;
use crate::flows::FlowTable;
use crate::mtu::PeerMtu;
use crate::outbox::Outbox;
use crate::reply_to::ReplyTo;
use crate::report::TableSizes;
use crate::way::Way;

/// Keys that have expired are renewed by the next keepalive; this long a plain WireGuard peer still counts as connected.
const RENEWAL: Duration = Duration::from_secs(60);
/// Data messages of a peer that wait until a handshake is done; more than that are lost. At most 100 KiB.
const MAX_HELD: usize = 64;

/// Resets and ICMP errors for packets of one peer that go nowhere: each costs as much as a packet of data. Linux limits its own
/// ICMP errors to a thousand a second, too.
const REFUSALS: Rate = Rate {
    burst: 1000,
    interval: Duration::from_millis(1),
};

pub(crate) type Tunnel = punch_wireguard::Tunnel<ReplyTo>;
pub(crate) type Session = punch_wireguard::Session<ReplyTo>;

/// When there have been keys with a peer.
#[derive(Default)]
struct KeysSeen {
    last: Option<Instant>,
    /// Of a plain WireGuard peer: within the last [`RENEWAL`].
    lately: bool,
}

/// What there is to tell of a peer's path.
#[derive(Default)]
pub(crate) struct Course {
    since: Option<(Instant, PathReason)>,
    /// Whether the path was selected, and is not just where something authentic has come from.
    selected: bool,
    /// Of a plain WireGuard peer: where it has come from of late, which nobody has been told.
    roamed: Option<SocketAddr>,
}

impl Course {
    /// When packets began to take the path, and why.
    pub(crate) fn since(&self) -> Option<(Instant, PathReason)> {
        self.since
    }
}

/// One peer.
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    /// Where packets for it go to and come from inside the tunnel.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) tunnel: Tunnel,
    pub(crate) path: Option<Path>,
    mtu: PeerMtu,
    pub(crate) flows: FlowTable,
    pub(crate) reassembly: Reassembly,
    /// Bytes inside the tunnel.
    pub(crate) traffic: PeerTraffic,
    /// Data messages for keys that a handshake uses at the moment, and where they came from.
    pub(crate) held: VecDeque<(Path, Vec<u8>)>,
    /// How often it is told that its packet goes nowhere.
    pub(crate) refusals: TokenBucket,
    busy: bool,
    pub(crate) course: Course,
    keys: KeysSeen,
    announced: LinkState,
}

impl Peer {
    /// `mtu` is that of the tunnel's interface.
    fn new(config: PeerConfig, mtu: usize) -> Self {
        Self {
            config,
            addresses: Vec::new(),
            tunnel: Tunnel::default(),
            path: None,
            mtu: PeerMtu::new(mtu),
            flows: FlowTable::default(),
            reassembly: Reassembly::default(),
            traffic: PeerTraffic::default(),
            held: VecDeque::new(),
            refusals: TokenBucket::new(REFUSALS),
            busy: false,
            course: Course::default(),
            keys: KeysSeen::default(),
            announced: LinkState::Down,
        }
    }

    /// Something authentic has come this way. A plain WireGuard peer may roam; a Punch peer's path is the agent's choice once
    /// it has made one, and until then it is where the last packet has come from.
    pub(crate) fn settle_path(&mut self, path: Path, now: Instant) {
        let roams = matches!(self.config.kind, PeerKind::Wireguard { .. });
        let relayed = matches!(path, Path::Relayed(_));
        if (roams && !matches!(path, Path::Direct(_))) || (self.config.direct_only && relayed) {
            // It knows of no relay and of no TCP, or may use none: somebody on its way has led its packets there.
            return;
        }
        if roams && self.path.and_then(|path| path.endpoint()) != path.endpoint() {
            self.course.roamed = path.endpoint();
        }
        let follows = roams || !self.course.selected;
        if self.path.is_none() || (follows && self.path != Some(path)) {
            let why = match self.path {
                Some(_) => PathReason::PeerMoved,
                None => PathReason::First,
            };
            self.take_path(path, why, now);
        }
    }

    /// Packets take this path from now on; how much fits there is to be seen.
    fn take_path(&mut self, path: Path, why: PathReason, now: Instant) {
        self.path = Some(path);
        self.course.since = Some((now, why));
        self.mtu.begin(path, self.is_checked());
        self.size_sessions();
    }

    /// Whether it answers checks, so that something can be found out about its path.
    fn is_checked(&self) -> bool {
        matches!(self.config.kind, PeerKind::Punch { .. })
    }

    /// So long a packet fits on the path, in bytes; `whole` is whether nobody may cut it there.
    pub(crate) fn set_mtu(&mut self, mtu: usize, whole: bool) {
        self.mtu.find(mtu, whole);
        self.size_sessions();
    }

    /// The longest packet that fits on the path, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu.get()
    }

    /// Whether a longer packet fits is not known yet.
    pub(crate) fn is_mtu_assumed(&self) -> bool {
        self.mtu.is_assumed()
    }

    /// The longest packet that fits on the path, in bytes, where there is one of which that is known.
    pub(crate) fn known_mtu(&self) -> Option<u16> {
        let is_known = self.path.is_some() && !self.mtu.is_assumed();
        is_known.then(|| u16::try_from(self.mtu.get()).ok())?
    }

    fn size_sessions(&mut self) {
        let mtu = self.mtu.get();
        self.tunnel
            .sessions()
            .for_each(|session| session.set_mtu(mtu));
    }

    /// The way of its packets, in which they are counted, if it has a path and a session.
    pub(crate) fn way<'a>(
        &'a mut self,
        outbox: &'a mut Outbox,
        next_id: &'a mut u32,
    ) -> Option<(Way<'a>, &'a mut u64)> {
        let way = Way {
            path: self.path?,
            mtu: self.mtu,
            session: self.tunnel.sealer()?,
            outbox,
            next_id,
        };
        Some((way, &mut self.traffic.sent))
    }

    /// Whether the peer's machine is there.
    pub(crate) fn presence(&self) -> Presence {
        match self.config.kind {
            PeerKind::Punch { .. } if self.path.is_some() => Presence::Here,
            PeerKind::Punch { .. } => Presence::Away,
            PeerKind::Wireguard { .. } => Presence::Unknown,
        }
    }

    /// Takes note of keys that are there, or have been lately; returns whether that is different from before.
    pub(crate) fn note_keys(&mut self, now: Instant) -> bool {
        if self.tunnel.is_established() {
            self.keys.last = Some(now);
        }
        let lately = |at: Instant| now.saturating_duration_since(at) < RENEWAL;
        let established = self.keys.last.is_some_and(lately);
        std::mem::replace(&mut self.keys.lately, established) != established
    }

    /// Whether packets have been exchanged since the last [`PeerTable::take_busy`].
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Keeps a data message until a handshake is done.
    pub(crate) fn hold(&mut self, path: Path, datagram: &[u8]) -> bool {
        let room = self.held.len() < MAX_HELD;
        if room {
            self.held.push_back((path, datagram.to_vec()));
        }
        room
    }

    /// Whether the state that was announced last says that there is no connection and none is tried.
    pub(crate) fn is_announced_down(&self) -> bool {
        self.announced == LinkState::Down
    }

    /// No path is selected any more.
    pub(crate) fn lose_path(&mut self) {
        self.path = None;
        self.course.selected = false;
    }

    /// Forgets path and keys; returns the numbers of the sessions that were there.
    fn disconnect(&mut self) -> Vec<u32> {
        self.lose_path();
        self.mtu.forget();
        self.held.clear();
        let tunnel = std::mem::take(&mut self.tunnel);
        tunnel.numbers()
    }

    /// A Punch peer is connected when it has a path *and* keys; a plain WireGuard peer has a path from the start.
    pub(crate) fn state(&self, connector: &Connector) -> LinkState {
        match &self.config.kind {
            PeerKind::Punch { .. } => match connector.link_state(self.config.handle) {
                LinkState::Connected if !self.tunnel.is_ready() => LinkState::Connecting,
                state => state,
            },
            PeerKind::Wireguard { .. } if self.keys.lately => LinkState::Connected,
            PeerKind::Wireguard { .. } if self.config.up => LinkState::Connecting,
            PeerKind::Wireguard { .. } => LinkState::Down,
        }
    }

    /// Whether time may change anything about it.
    fn is_active(&self) -> bool {
        let idle = self.path.is_none() && self.tunnel.numbers().is_empty();
        !idle || !self.is_announced_down() || self.keys.lately
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct PeerTable {
    /// That of the tunnel's interface.
    mtu: usize,
    peers: HashMap<PeerHandle, Peer>,
    by_key: HashMap<[u8; 32], PeerHandle>,
    by_session: HashMap<u32, PeerHandle>,
    routes: HashMap<IpAddr, PeerHandle>,
    /// Where the peers' paths lead, looked up now and then.
    endpoints: HashSet<SocketAddr>,
    /// Those with whom packets have been exchanged since the last [`Self::take_busy`].
    busy: Vec<PeerHandle>,
    /// Those that may be in another state than was announced.
    changed: BTreeSet<PeerHandle>,
    /// Those of which time may change something.
    active: BTreeSet<PeerHandle>,
}

impl PeerTable {
    /// No peers; `mtu` is that of the tunnel's interface.
    pub(crate) fn new(mtu: usize) -> Self {
        Self {
            mtu,
            ..Self::default()
        }
    }

    pub(crate) fn get(&self, handle: PeerHandle) -> Option<&Peer> {
        self.peers.get(&handle)
    }

    pub(crate) fn get_mut(&mut self, handle: PeerHandle) -> Option<&mut Peer> {
        self.peers.get_mut(&handle)
    }

    pub(crate) fn handles(&self) -> impl Iterator<Item = PeerHandle> {
        self.peers.keys().copied()
    }

    /// The peer that packets for this address go to.
    pub(crate) fn route(&self, to: IpAddr) -> Option<PeerHandle> {
        self.routes.get(&to).copied()
    }

    /// The peer with this static key.
    pub(crate) fn by_key(&self, public: &[u8; 32]) -> Option<PeerHandle> {
        self.by_key.get(public).copied()
    }

    /// The peer of the session with this number.
    pub(crate) fn by_session(&self, number: u32) -> Option<PeerHandle> {
        self.by_session.get(&number).copied()
    }

    /// The session with this number.
    pub(crate) fn session(&mut self, number: u32) -> Option<&mut Session> {
        let handle = self.by_session.get(&number)?;
        self.peers.get_mut(handle)?.tunnel.by_number(number)
    }

    /// Whether a peer's path leads there.
    pub(crate) fn is_known(&self, endpoint: SocketAddr) -> bool {
        self.endpoints.contains(&endpoint)
    }

    /// Adds a peer, or gives it its new configuration; returns the one before.
    pub(crate) fn insert(&mut self, config: PeerConfig) -> Option<PeerConfig> {
        let handle = config.handle;
        self.changed.insert(handle);
        if let Some(peer) = self.peers.get_mut(&handle) {
            return Some(std::mem::replace(&mut peer.config, config));
        }
        self.by_key.insert(config.public(), handle);
        self.peers.insert(handle, Peer::new(config, self.mtu));
        None
    }

    /// Removes a peer; returns the addresses that nobody has now.
    pub(crate) fn remove(&mut self, handle: PeerHandle) -> Vec<IpAddr> {
        let Some(mut peer) = self.peers.remove(&handle) else {
            return Vec::new();
        };
        self.by_key.remove(&peer.config.public());
        self.changed.remove(&handle);
        self.active.remove(&handle);
        self.forget_sessions(peer.disconnect());
        self.unroute(peer.addresses)
    }

    /// Leads packets for these addresses to the peer, and no others; returns the addresses that nobody has now. An address that another
    /// peer has is refused: whoever had it first keeps it, and packets from it are that one's alone.
    pub(crate) fn route_to(
        &mut self,
        handle: PeerHandle,
        mut addresses: Vec<IpAddr>,
    ) -> Vec<IpAddr> {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return Vec::new();
        };
        let routes = &mut self.routes;
        addresses.retain(|ip| *routes.entry(*ip).or_insert(handle) == handle);
        let mut gone = std::mem::replace(&mut peer.addresses, addresses);
        gone.retain(|ip| !peer.addresses.contains(ip));
        self.unroute(gone)
    }

    /// Leads packets for these addresses, which a peer had, nowhere any more; returns them.
    fn unroute(&mut self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        for ip in &addresses {
            self.routes.remove(ip);
        }
        addresses
    }

    /// A number for a new session with a peer.
    pub(crate) fn reserve_session(&mut self, handle: PeerHandle, rng: &mut impl RngCore) -> u32 {
        loop {
            let number = rng.next_u32() >> (u32::BITS - SESSION_BITS);
            if let std::collections::hash_map::Entry::Vacant(free) = self.by_session.entry(number) {
                free.insert(handle);
                return number;
            }
        }
    }

    /// These numbers are no longer in use.
    pub(crate) fn forget_sessions(&mut self, numbers: Vec<u32>) {
        for number in numbers {
            self.by_session.remove(&number);
        }
    }

    /// The peer's packets take this path now.
    pub(crate) fn set_path(
        &mut self,
        handle: PeerHandle,
        path: Path,
        why: PathReason,
        now: Instant,
    ) {
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.take_path(path, why, now);
            peer.course.selected = true;
            self.endpoints.insert(path.origin());
            self.mark(handle);
        }
    }

    /// Forgets path and keys of a peer.
    pub(crate) fn disconnect(&mut self, handle: PeerHandle) {
        if let Some(peer) = self.peers.get_mut(&handle) {
            let numbers = peer.disconnect();
            peer.keys = KeysSeen::default();
            self.forget_sessions(numbers);
        }
    }

    /// What the tables of the peers hold.
    pub(crate) fn sizes(&self) -> TableSizes {
        let mut sizes = TableSizes {
            sessions: self.by_session.len(),
            ..TableSizes::default()
        };
        for peer in self.peers.values() {
            let (flows, granted) = peer.flows.counts();
            sizes.flows = sizes.flows.max(flows);
            sizes.granted_flows = sizes.granted_flows.max(granted);
            sizes.fragmented = sizes.fragmented.max(peer.reassembly.count());
            sizes.held = sizes.held.max(peer.held.len());
        }
        sizes
    }

    // --- what is to be looked at again ---

    /// Something has happened to a peer: its state may be another one.
    pub(crate) fn mark(&mut self, handle: PeerHandle) {
        if self.peers.contains_key(&handle) {
            self.changed.insert(handle);
            self.active.insert(handle);
        }
    }

    /// Packets are exchanged with a peer.
    pub(crate) fn note_traffic(&mut self, handle: PeerHandle) {
        if let Some(peer) = self.peers.get_mut(&handle)
            && !std::mem::replace(&mut peer.busy, true)
        {
            self.busy.push(handle);
        }
    }

    pub(crate) fn busy_count(&self) -> usize {
        self.busy.len()
    }

    /// Those with whom packets have been exchanged since the last call, and how many bytes by now.
    pub(crate) fn take_busy(&mut self) -> Vec<(PeerHandle, PeerTraffic)> {
        let (busy, peers) = (std::mem::take(&mut self.busy), &mut self.peers);
        let traffic = |handle: PeerHandle| {
            let peer = peers.get_mut(&handle)?;
            peer.busy = false;
            Some((handle, peer.traffic))
        };
        busy.into_iter().filter_map(traffic).collect()
    }

    /// Whether there is any peer of which time may change something.
    pub(crate) fn is_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Those of which time may change something. Looks up their endpoints anew.
    pub(crate) fn active(&mut self) -> Vec<PeerHandle> {
        let peers = &self.peers;
        self.active
            .retain(|handle| peers.get(handle).is_some_and(Peer::is_active));
        self.endpoints.clear();
        let paths = self
            .active
            .iter()
            .filter_map(|handle| peers.get(handle)?.path);
        self.endpoints.extend(paths.map(|path| path.origin()));
        self.changed.extend(&self.active);
        self.active.iter().copied().collect()
    }

    /// The plain WireGuard peers among those that something has happened to that are at another address than was told.
    pub(crate) fn take_roamed(&mut self) -> Vec<(PeerHandle, SocketAddr)> {
        let mut roamed = Vec::new();
        for handle in &self.changed {
            let peer = self.peers.get_mut(handle);
            let to = peer.and_then(|peer| peer.course.roamed.take());
            roamed.extend(to.map(|to| (*handle, to)));
        }
        roamed
    }

    /// What fits on the paths of those that something has happened to, where it is more or less than was told. Of a plain WireGuard peer
    /// nothing is found out: its routes have no size of their own, and follow what the interface is given.
    pub(crate) fn take_resized(&mut self) -> Vec<EngineEvent> {
        let mut resized = Vec::new();
        for handle in &self.changed {
            let peer = self.peers.get_mut(handle);
            let with_path = peer.filter(|peer| peer.path.is_some() && peer.is_checked());
            let mtu = with_path.and_then(|peer| peer.mtu.untold());
            let peer = *handle;
            resized.extend(mtu.map(|(mtu, before)| EngineEvent::Mtu { peer, mtu, before }));
        }
        resized
    }

    /// The peers whose state is another one than was announced; it is announced from now on.
    pub(crate) fn take_changed(&mut self, connector: &Connector) -> Vec<(PeerHandle, LinkState)> {
        let mut news = Vec::new();
        for handle in std::mem::take(&mut self.changed) {
            let Some(peer) = self.peers.get_mut(&handle) else {
                continue;
            };
            let state = peer.state(connector);
            if state != peer.announced {
                peer.announced = state;
                self.active.insert(handle);
                news.push((handle, state));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use punch_connect::{RelayPath, ServerId};
    use punch_signal_protocol::{Identity, RelayLink};
    use punch_traversal::SocketId;

    use super::*;
    use crate::start::start;

    fn peer(kind: PeerKind) -> Peer {
        let config = PeerConfig {
            handle: PeerHandle(1),
            kind,
            up: true,
            blocked: false,
            direct_only: false,
            host: false,
            stamps: (0, 0),
            memory: Vec::new(),
        };
        Peer::new(config, 1420)
    }

    #[test]
    fn what_comes_over_a_relay_moves_no_plain_wireguard_peer_there() {
        let relayed = Path::Relayed(RelayPath {
            server: ServerId(1),
            link: RelayLink(1),
        });
        let here = SocketAddr::from(([192, 0, 2, 7], 51_820));
        let direct = Path::direct(SocketId::MAIN_V4, here);
        let mut plain = peer(PeerKind::Wireguard {
            public: [7; 32],
            endpoint: None,
            address: None,
            preshared: None,
        });
        plain.settle_path(relayed, start());
        assert_eq!(plain.path, None);
        plain.settle_path(direct, start());
        plain.settle_path(relayed, start());
        assert_eq!(plain.path, Some(direct));
        assert_eq!(plain.course.roamed, Some(here));

        let id = Identity::from_seed(&[9; 32]).id();
        let mut punch = peer(PeerKind::Punch { id, ipv4: None });
        punch.settle_path(relayed, start());
        assert_eq!(punch.path, Some(relayed));
    }

    #[test]
    fn what_comes_over_a_relay_moves_no_peer_there_that_is_to_be_reached_directly() {
        let id = Identity::from_seed(&[9; 32]).id();
        let mut punch = peer(PeerKind::Punch { id, ipv4: None });
        punch.config.direct_only = true;
        punch.settle_path(
            Path::Relayed(RelayPath {
                server: ServerId(1),
                link: RelayLink(1),
            }),
            start(),
        );
        assert_eq!(punch.path, None);
        let direct = Path::direct(SocketId::MAIN_V4, SocketAddr::from(([192, 0, 2, 7], 1)));
        punch.settle_path(direct, start());
        assert_eq!(punch.path, Some(direct));
    }
}
