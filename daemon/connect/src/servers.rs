//! The signalling servers that are reached, what goes to them, and whose logins they are asked to tell of.
//!
//! A server closes a connection that sends too much, and what another server says must not bring that about. So there is a lane
//! to each, and its frames wait for their turn: envelopes before watches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use punch_packet::{PeerHandle, Rate, TokenBucket};
use punch_signal_protocol::seal::Kind;
use punch_signal_protocol::{Capabilities, Capability, Frame, PeerId, RelayToken};

use crate::medium::Channel;
use crate::path::{Path, RelayPath};
use crate::peer::PeerConnection;
use crate::{ServerId, Signal};

/// Frames to one server: it allows 50 a second and 200 at once, and the queue to its connection holds 64.
const FRAMES: Rate = Rate {
    burst: 48,
    interval: Duration::from_millis(25),
};
/// Of the frames that may go out at once, so many are kept for envelopes.
const FOR_ENVELOPES: u32 = 24;
/// Envelopes that wait for a server; then the oldest is lost, as it could be anywhere on its way.
const MAX_WAITING: usize = 256;
/// Frames about relay links that wait for a server; then the oldest is lost, and the peer's next attempt asks anew.
const MAX_RELAY: usize = 256;

/// What waits for one server.
#[derive(Debug)]
struct Lane {
    bucket: TokenBucket,
    envelopes: VecDeque<(PeerId, Vec<u8>)>,
    /// Peers whose logins the server is asked to tell of (`true`), or no longer to.
    watches: VecDeque<(PeerId, bool)>,
    /// What is said of relay links.
    relay: VecDeque<Frame>,
    /// What the server can do beyond version 1 of the protocol.
    capabilities: Capabilities,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::new(FRAMES),
            envelopes: VecDeque::new(),
            watches: VecDeque::new(),
            relay: VecDeque::new(),
            capabilities: Capabilities::NONE,
        }
    }
}

impl Lane {
    fn push(&mut self, to: PeerId, envelope: Vec<u8>) {
        // A newer offer takes the place of one that has not gone out.
        if Kind::of(&envelope) == Some(Kind::Offer) {
            self.envelopes
                .retain(|(id, waiting)| *id != to || Kind::of(waiting) != Some(Kind::Offer));
        }
        if self.envelopes.len() >= MAX_WAITING {
            self.envelopes.pop_front();
        }
        self.envelopes.push_back((to, envelope));
    }

    fn push_relay(&mut self, frame: Frame) {
        if self.relay.len() >= MAX_RELAY {
            self.relay.pop_front();
        }
        self.relay.push_back(frame);
    }

    /// The server is to tell of a peer's logins, or no longer to. What it was not told yet it need not hear.
    fn watch(&mut self, id: PeerId, wanted: bool) {
        match self.watches.iter().position(|(waiting, _)| *waiting == id) {
            Some(index) if self.watches.get(index) != Some(&(id, wanted)) => {
                self.watches.remove(index);
            }
            Some(_) => {}
            None => self.watches.push_back((id, wanted)),
        }
    }

    /// The next frame, whatever the pace.
    fn pop(&mut self) -> Option<Frame> {
        if let Some((to, envelope)) = self.envelopes.pop_front() {
            return Some(Frame::Send { to, envelope });
        }
        if let Some(frame) = self.relay.pop_front() {
            return Some(frame);
        }
        let (id, wanted) = self.watches.pop_front()?;
        Some(if wanted {
            Frame::Watch(id)
        } else {
            Frame::Unwatch(id)
        })
    }

    /// The next frame that may go out now.
    fn pop_paced(&mut self, now: Instant) -> Option<Frame> {
        let reserve = self.reserve()?;
        self.bucket.take_above(reserve, now).then(|| self.pop())?
    }

    /// When [`Self::pop_paced`] has a frame.
    fn poll_timeout(&self) -> Option<Instant> {
        self.bucket.ready_at(self.reserve()?)
    }

    /// The tokens that must be left when the next frame has gone out; `None` when nothing waits.
    fn reserve(&self) -> Option<u32> {
        if self.envelopes.is_empty() && self.relay.is_empty() {
            (!self.watches.is_empty()).then_some(FOR_ENVELOPES)
        } else {
            Some(0)
        }
    }
}

/// A peer that serves a meeting place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) peer: PeerHandle,
    pub(crate) id: PeerId,
}

/// A channel that takes its time.
#[derive(Debug, Clone, Copy)]
struct Slow {
    channel: Channel,
    /// The only peer that it reaches.
    only: Option<PeerId>,
}

/// What goes to the signalling servers.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// Those that are quick.
    online: BTreeSet<ServerId>,
    /// Those of them that are no servers, but networks of this machine.
    networks: BTreeSet<ServerId>,
    /// Those of the servers that are meeting places of peers. Nothing that concerns a peer goes over its own.
    hosts: BTreeMap<ServerId, Host>,
    slow: BTreeMap<ServerId, Slow>,
    lanes: BTreeMap<ServerId, Lane>,
    signals: VecDeque<Signal>,
    /// Meeting places that are not used although their connections stand, and whether it was told that those are to be ended.
    given_up: BTreeMap<ServerId, bool>,
}

impl Servers {
    /// A server has welcomed this machine, and is asked to tell of these peers.
    pub(crate) fn add(&mut self, server: ServerId, peers: Vec<PeerId>) {
        self.online.insert(server);
        self.open_lane(server, peers);
    }

    /// A slow channel can carry envelopes, of one peer or of all; it is asked to tell of these peers.
    pub(crate) fn add_slow(
        &mut self,
        server: ServerId,
        channel: Channel,
        only: Option<PeerId>,
        peers: Vec<PeerId>,
    ) {
        self.slow.insert(server, Slow { channel, only });
        self.open_lane(server, peers);
    }

    fn open_lane(&mut self, server: ServerId, peers: Vec<PeerId>) {
        self.given_up.remove(&server);
        let mut lane = Lane::default();
        lane.watches.extend(peers.into_iter().map(|id| (id, true)));
        self.lanes.insert(server, lane);
    }

    /// A network carries envelopes, and is asked to tell of these peers.
    pub(crate) fn add_network(&mut self, server: ServerId, peers: Vec<PeerId>) {
        self.networks.insert(server);
        self.add(server, peers);
    }

    /// The meeting place of a peer has welcomed this machine, and is asked to tell of these peers, but for its host.
    pub(crate) fn add_meeting(&mut self, server: ServerId, host: Host, mut peers: Vec<PeerId>) {
        peers.retain(|id| *id != host.id);
        self.hosts.insert(server, host);
        self.add(server, peers);
    }

    /// The connection to a server is lost.
    pub(crate) fn remove(&mut self, server: ServerId) {
        self.online.remove(&server);
        self.lanes.remove(&server);
        self.networks.remove(&server);
        self.hosts.remove(&server);
        self.slow.remove(&server);
        self.given_up.remove(&server);
    }

    /// The peer whose meeting place this server is, if it is one.
    pub(crate) fn host(&self, server: ServerId) -> Option<Host> {
        self.hosts.get(&server).copied()
    }

    /// A meeting place is not used, or no longer: its connection is to be ended, so that a later one finds how things stand then.
    pub(crate) fn give_up(&mut self, server: ServerId) {
        self.given_up.insert(server, false);
    }

    /// The next meeting place whose connection is to be ended.
    pub(crate) fn poll_given_up(&mut self) -> Option<ServerId> {
        let mut untold = self.given_up.iter_mut().filter(|(_, told)| !**told);
        let (server, told) = untold.next()?;
        *told = true;
        Some(*server)
    }

    /// Whether nothing is heard of a server any more, although its connection may stand.
    pub(crate) fn is_given_up(&self, server: ServerId) -> bool {
        self.given_up.contains_key(&server)
    }

    /// Whether the packets of a connection are relayed by a peer now, be it only as long as its direct path is in doubt.
    pub(crate) fn is_by_a_peer(&self, connection: &PeerConnection) -> bool {
        let path = connection.attempts.stands_in();
        let path = path.or_else(|| connection.serving());
        matches!(path, Some(Path::Relayed(path)) if self.hosts.contains_key(&path.server))
    }

    /// The meeting place of a peer, if it must not be used any more, because of what the connection with the peer goes over.
    pub(crate) fn barred(&self, peer: PeerHandle, connection: &PeerConnection) -> Option<ServerId> {
        if !self.is_by_a_peer(connection) {
            return None;
        }
        let mut hosts = self.hosts.iter();
        hosts.find_map(|(server, host)| (host.peer == peer).then_some(*server))
    }

    /// What a channel is, if it is a slow one.
    pub(crate) fn slow(&self, server: ServerId) -> Option<Channel> {
        self.slow.get(&server).map(|slow| slow.channel)
    }

    /// The slow channels that may lead to this peer.
    pub(crate) fn reach_slow(&self, to: PeerId) -> Vec<(ServerId, Channel)> {
        let slow = self.slow.iter();
        let to_it = slow.filter(|(_, slow)| slow.only.is_none_or(|only| only == to));
        to_it
            .map(|(server, slow)| (*server, slow.channel))
            .collect()
    }

    /// The servers that are reached and that may know of this peer: quick ones.
    pub(crate) fn reach(&self, to: PeerId) -> impl Iterator<Item = ServerId> {
        let online = self.online.iter().copied();
        online.filter(move |server| self.hosts.get(server).is_none_or(|host| host.id != to))
    }

    /// How many of what is reached are servers, of anybody's.
    pub(crate) fn count_servers(&self) -> usize {
        self.online.difference(&self.networks).count()
    }

    /// The servers that are reached: quick ones.
    pub(crate) fn online(&self) -> &BTreeSet<ServerId> {
        &self.online
    }

    /// Sends an envelope to a peer over every server, but no slow channel.
    pub(crate) fn send(&mut self, to: PeerId, envelope: &[u8]) {
        let servers: Vec<_> = self.reach(to).collect();
        for server in servers {
            let lane = self.lanes.entry(server).or_default();
            lane.push(to, envelope.to_vec());
        }
    }

    /// Sends an envelope to a peer over one server.
    pub(crate) fn send_over(&mut self, server: ServerId, to: PeerId, envelope: Vec<u8>) {
        self.lanes.entry(server).or_default().push(to, envelope);
    }

    /// A server has told what it can do.
    pub(crate) fn set_capabilities(&mut self, server: ServerId, capabilities: Capabilities) {
        if let Some(lane) = self.lanes.get_mut(&server) {
            lane.capabilities = capabilities;
        }
    }

    /// Asks a server for a link with whoever has the same token; returns whether it is one that relays.
    pub(crate) fn join(&mut self, server: ServerId, token: RelayToken) -> bool {
        let lane = self.lanes.get_mut(&server);
        let lane = lane.filter(|lane| lane.capabilities.contains(Capability::Relays));
        let relays = lane.is_some();
        if let Some(lane) = lane {
            lane.push_relay(Frame::RelayJoin(token));
        }
        relays
    }

    /// Tells a server that a link is no longer needed.
    pub(crate) fn leave(&mut self, path: RelayPath) {
        if let Some(lane) = self.lanes.get_mut(&path.server)
            && lane.capabilities.contains(Capability::Relays)
        {
            lane.push_relay(Frame::RelayLeave(path.link));
        }
    }

    /// Asks every server to tell when a peer logs in, or no longer to, if that is another thing than before.
    pub(crate) fn update_watch(&mut self, connection: &mut PeerConnection) {
        let wanted = connection.wants_watch();
        if connection.calls.set_watched(wanted) {
            self.watch(connection.id, wanted);
        }
    }

    /// No server need tell of a peer any more.
    pub(crate) fn unwatch(&mut self, id: PeerId) {
        self.watch(id, false);
    }

    fn watch(&mut self, id: PeerId, wanted: bool) {
        let slow = self.reach_slow(id).into_iter().map(|(server, _)| server);
        let servers: Vec<_> = self.reach(id).chain(slow).collect();
        for server in servers {
            self.lanes.entry(server).or_default().watch(id, wanted);
        }
    }

    /// Lets those frames go out whose turn has come.
    pub(crate) fn advance(&mut self, now: Instant) {
        for (server, lane) in &mut self.lanes {
            while let Some(frame) = lane.pop_paced(now) {
                let server = *server;
                self.signals.push_back(Signal { server, frame });
            }
        }
    }

    /// Lets all envelopes go out at once: nothing comes after them.
    pub(crate) fn finish(&mut self) {
        for (server, lane) in &mut self.lanes {
            lane.watches.clear();
            lane.relay.clear();
            while let Some(frame) = lane.pop() {
                let server = *server;
                self.signals.push_back(Signal { server, frame });
            }
        }
    }

    /// When [`Self::advance`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.lanes.values().filter_map(Lane::poll_timeout).min()
    }

    /// The next frame for a server.
    pub(crate) fn poll_signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    /// Frames that nobody has taken yet, watches that wait, and what waits of relay links.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let lanes = || self.lanes.values();
        let envelopes: usize = lanes().map(|lane| lane.envelopes.len()).sum();
        let watches = lanes().map(|lane| lane.watches.len()).sum();
        let relay = lanes().map(|lane| lane.relay.len()).sum();
        (self.signals.len() + envelopes, watches, relay)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use punch_signal_protocol::Identity;

    use super::*;
    use crate::start::start;

    const SERVER: ServerId = ServerId(1);

    fn id(number: u8) -> PeerId {
        Identity::from_seed(&[number; 32]).id()
    }

    fn frames(servers: &mut Servers, now: Instant) -> Vec<Frame> {
        servers.advance(now);
        let signals = std::iter::from_fn(|| servers.poll_signal());
        signals.map(|signal| signal.frame).collect()
    }

    #[test]
    fn a_server_gets_fewer_frames_than_it_allows_however_many_wait() {
        let mut servers = Servers::default();
        let start = start();
        servers.add(SERVER, vec![id(1); 5000]);
        for n in 0..250_u8 {
            servers.send_over(SERVER, id(2), vec![3, n]);
        }
        let mut sent = frames(&mut servers, start).len();
        assert_eq!(sent, 48);
        for ms in 1..=10_000 {
            let now = start + Duration::from_millis(ms);
            sent += frames(&mut servers, now).len();
            let allowed = 200 + 50 * usize::try_from(ms).unwrap() / 1000;
            assert!(sent < allowed, "{sent} in {ms} ms");
        }
        assert_eq!(sent, 48 + 400 - 24, "watches leave some for envelopes");
    }

    #[test]
    fn envelopes_go_before_watches_and_a_newer_offer_in_the_place_of_an_older_one() {
        let mut servers = Servers::default();
        let start = start();
        servers.add(SERVER, (0..100).map(id).collect());
        assert_eq!(
            frames(&mut servers, start).len(),
            24,
            "the rest is for envelopes"
        );
        for n in 0..30 {
            servers.send(id(7), &[1, n]);
            servers.send(id(8), &[3, n]);
        }
        let sent = frames(&mut servers, start);
        assert_eq!(sent.len(), 24);
        let envelope = |to, bytes: [u8; 2]| Frame::Send {
            to: id(to),
            envelope: bytes.to_vec(),
        };
        assert_eq!(sent[0], envelope(8, [3, 0]));
        assert_eq!(sent[23], envelope(8, [3, 23]));
        let later = frames(&mut servers, start + Duration::from_secs(1));
        assert!(later.contains(&envelope(7, [1, 29])));
        assert!(!later.contains(&envelope(7, [1, 28])));
    }

    #[test]
    fn what_waits_for_a_server_is_bounded_and_gone_with_the_connection() {
        let mut servers = Servers::default();
        let start = start();
        servers.add(SERVER, Vec::new());
        for n in 0..1000_u16 {
            let [high, low] = n.to_be_bytes();
            servers.send(id(1), &[3, high, low]);
        }
        let lane = &servers.lanes[&SERVER];
        assert_eq!(lane.envelopes.len(), MAX_WAITING);
        assert_eq!(lane.envelopes.back().unwrap().1, [3, 3, 231]);
        servers.remove(SERVER);
        assert_eq!(frames(&mut servers, start), []);
        assert_eq!(servers.poll_timeout(), None);
    }

    #[test]
    fn a_watch_that_is_taken_back_before_its_turn_is_never_sent() {
        let mut servers = Servers::default();
        let start = start();
        servers.add(SERVER, (0..30).map(id).collect());
        assert_eq!(frames(&mut servers, start).len(), 24);
        servers.watch(id(29), false);
        servers.watch(id(0), false);
        servers.watch(id(0), false);
        let later = frames(&mut servers, start + Duration::from_secs(9));
        assert!(!later.contains(&Frame::Watch(id(29))));
        assert!(!later.contains(&Frame::Unwatch(id(29))));
        let unwatches = later.iter().filter(|f| **f == Frame::Unwatch(id(0)));
        assert_eq!(unwatches.count(), 1);
    }
}
