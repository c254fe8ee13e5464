//! The signalling channel on the DHT: frames of punch-signal in and out, as if there were a server that is slow.
//!
//! What one machine has for another is an item under a key that only the two can derive, another each UTC day (`sealed`). The newest
//! envelope takes the place of older ones. There is no push: the other machine's items are asked for again and again, every few
//! seconds while something is going on and once a minute else.

mod outgoing;
mod pair;
mod reading;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use punch_signal_protocol::rendezvous::PairSecret;
use punch_signal_protocol::seal::Kind;
use punch_signal_protocol::{Frame, Identity, PeerId};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use self::outgoing::Outgoing;
use self::pair::Pair;
use self::reading::Reading;
use crate::client::{self, Client, How, Report, Transmit, Urgency};
use crate::id::{NodeId, Scope};
use crate::item::Item;
use crate::sealed::MAX_ENVELOPE;

/// Identities that one channel serves.
pub const MAX_ATTACHED: usize = 16;
/// Peers of one identity.
pub const MAX_PAIRS: usize = 1024;
/// So many are few: what goes on with one may concern all.
const FEW_PAIRS: usize = 16;
/// Frames and events that wait to be drained; the oldest goes.
const MAX_QUEUE: usize = 256;
/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For pauses.
    pub now: Instant,
    /// For days and sequence numbers: milliseconds since 1970.
    pub wall_ms: u64,
}

impl Moment {
    fn day(self) -> u64 {
        self.wall_ms / DAY_MS
    }

    /// How far midnight (UTC) is.
    fn to_midnight(self) -> Duration {
        let passed = self.wall_ms % DAY_MS;
        Duration::from_millis(passed.min(DAY_MS - passed))
    }
}

/// The number of an identity that the channel serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attached(u32);

/// What the owner of the channel should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nodes to begin with after a restart, at most 50.
    Nodes(Vec<SocketAddrV4>),
    /// Several nodes see this machine here.
    Seen(Ipv4Addr),
}

struct Attachment {
    identity: Identity,
    pairs: BTreeMap<PeerId, Pair>,
}

/// The channel.
pub struct Rendezvous {
    client: Client,
    rng: ChaCha20Rng,
    attached: BTreeMap<Attached, Attachment>,
    last: u32,
    /// Whose items are at a place; two, if one process is both machines of a pair.
    places: BTreeMap<NodeId, BTreeSet<(Attached, PeerId)>>,
    frames: VecDeque<(Attached, Frame)>,
    told: VecDeque<Told>,
    /// When a pair is due; nothing while operations of its kind have to end first.
    due: Option<Instant>,
    day: u64,
}

impl Rendezvous {
    /// A channel that serves nobody. `seed` must be fresh randomness.
    pub fn new(seed: [u8; 32], scope: Scope) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self {
            client: Client::new(seed, scope),
            rng,
            attached: BTreeMap::new(),
            last: 0,
            places: BTreeMap::new(),
            frames: VecDeque::new(),
            told: VecDeque::new(),
            due: None,
            day: 0,
        }
    }

    /// Nodes may be here: looked up, or remembered.
    pub fn bootstrap(&mut self, addresses: &[SocketAddrV4], at: Moment) {
        self.client.bootstrap(addresses, at.now);
        self.advance(at);
    }

    /// Serves an identity; `None` when it serves as many as it may.
    pub fn attach(&mut self, identity: Identity) -> Option<Attached> {
        if self.attached.len() >= MAX_ATTACHED {
            return None;
        }
        self.last += 1;
        let number = Attached(self.last);
        let pairs = BTreeMap::new();
        self.attached.insert(number, Attachment { identity, pairs });
        Some(number)
    }

    /// Serves an identity no longer.
    pub fn detach(&mut self, number: Attached) {
        if let Some(attachment) = self.attached.remove(&number) {
            for (peer, pair) in attachment.pairs {
                self.forget(number, peer, pair.places());
            }
        }
        self.frames.retain(|(attached, _)| *attached != number);
    }

    /// These are the peers of an identity: what they write is looked for from time to time even if nobody watches them, as nobody
    /// else would tell that they call. What there was of one that is none any more is forgotten at once.
    pub fn set_peers(&mut self, number: Attached, peers: &[PeerId], at: Moment) {
        let peers: BTreeSet<_> = peers.iter().take(MAX_PAIRS).copied().collect();
        let known = self.attached.get(&number).map(|a| a.pairs.keys().copied());
        let all: BTreeSet<_> = peers
            .iter()
            .copied()
            .chain(known.into_iter().flatten())
            .collect();
        // Of a few that are new, as after a start, each is looked for at once and often; of many one after the other.
        let few = peers.len() <= FEW_PAIRS;
        for peer in all {
            let is_peer = peers.contains(&peer);
            let pairs = self.attached.get_mut(&number).map(|a| &mut a.pairs);
            let removed = pairs.and_then(|pairs| {
                let had = pairs.get(&peer).is_some_and(|pair| pair.is_peer);
                (had && !is_peer).then(|| pairs.remove(&peer))?
            });
            if let Some(pair) = removed {
                self.forget(number, peer, pair.places());
            } else if let Some(pair) = self.pair(number, peer, at) {
                if is_peer && !pair.is_peer && few {
                    pair.stir(at);
                }
                pair.is_peer = is_peer;
            }
        }
        self.tidy(at);
        self.advance(at);
    }

    /// A frame that would go to a server. What a slow channel cannot do is passed over.
    pub fn handle_frame(&mut self, number: Attached, frame: Frame, at: Moment) {
        match frame {
            Frame::Watch(peer) => {
                if let Some(pair) = self.pair(number, peer, at) {
                    pair.watch(at);
                }
            }
            Frame::Unwatch(peer) => {
                let attachment = self.attached.get_mut(&number);
                if let Some(pair) = attachment.and_then(|a| a.pairs.get_mut(&peer)) {
                    pair.unwatch();
                }
                self.tidy(at);
            }
            Frame::Send { to, envelope } => {
                // Notes come too late to be of use, and each would take the place of the offer or answer before it.
                let is_note = Kind::of(&envelope) == Some(Kind::Note);
                if !is_note
                    && envelope.len() <= MAX_ENVELOPE
                    && let Some(pair) = self.pair(number, to, at)
                {
                    pair.send(envelope, at);
                }
            }
            _ => {}
        }
        self.advance(at);
    }

    /// The network has changed: nodes are looked for at once, and all that is watched is looked at.
    pub fn handle_network_changed(&mut self, at: Moment) {
        self.client.handle_network_changed(at.now);
        let few = self.sizes().0 <= FEW_PAIRS;
        let pairs = self
            .attached
            .values_mut()
            .flat_map(|a| a.pairs.values_mut());
        for pair in pairs.filter(|pair| few || pair.is_watched) {
            pair.stir(at);
        }
        self.advance(at);
    }

    /// A datagram has come to the channel's socket.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], at: Moment) {
        // What nobody has asked for costs no look at all peers.
        if self.client.handle_datagram(from, bytes, at.now) {
            self.advance(at);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, at: Moment) {
        self.client.handle_timeout(at.now);
        self.advance(at);
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.client.poll_transmit()
    }

    /// The next frame, as if from a server, and for which identity it is.
    pub fn poll_frame(&mut self) -> Option<(Attached, Frame)> {
        self.frames.pop_front()
    }

    /// The next news for the owner.
    pub fn poll_event(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.client.poll_timeout(), self.due]
            .into_iter()
            .flatten()
            .min()
    }

    /// What there is to be shown of the client.
    pub fn report(&self) -> Report {
        self.client.report()
    }

    /// Pairs that are served, and places that are known to be theirs.
    pub fn sizes(&self) -> (usize, usize) {
        let pairs = self.attached.values().map(|a| a.pairs.len()).sum();
        (pairs, self.places.len())
    }

    /// A node does not answer whoever asks it in place of a STUN server ([`crate::vantage`]).
    pub fn refuse_vantage(&mut self, node: SocketAddrV4) {
        self.client.refuse_vantage(node);
    }

    // --- pairs ---

    /// What there is of a peer; made now, if there may be more.
    fn pair(&mut self, number: Attached, peer: PeerId, at: Moment) -> Option<&mut Pair> {
        let attachment = self.attached.get_mut(&number)?;
        if !attachment.pairs.contains_key(&peer) {
            if attachment.pairs.len() >= MAX_PAIRS || attachment.identity.id() == peer {
                return None;
            }
            let secret = PairSecret::new(&attachment.identity, &peer)?;
            let spread = self.rng.next_u32();
            let pair = Pair::new(secret, at, spread);
            for place in pair.places() {
                let known = self.places.entry(place).or_default();
                known.insert((number, peer));
            }
            attachment.pairs.insert(peer, pair);
        }
        attachment.pairs.get_mut(&peer)
    }

    fn forget(&mut self, number: Attached, peer: PeerId, places: Vec<NodeId>) {
        for place in places {
            if let Some(known) = self.places.get_mut(&place) {
                known.remove(&(number, peer));
                if known.is_empty() {
                    self.places.remove(&place);
                    self.client.forget(place);
                }
            }
        }
    }

    /// Forgets pairs that nobody wants any more.
    fn tidy(&mut self, at: Moment) {
        let mut gone = Vec::new();
        for (number, attachment) in &mut self.attached {
            attachment.pairs.retain(|peer, pair| {
                let is_kept = pair.is_kept(at);
                if !is_kept {
                    gone.push((*number, *peer, pair.places()));
                }
                is_kept
            });
        }
        for (number, peer, places) in gone {
            self.forget(number, peer, places);
        }
    }

    /// Another day has begun: other keys, other places.
    fn turn_over(&mut self, at: Moment) {
        if self.day == at.day() {
            return;
        }
        self.day = at.day();
        let mut moved = Vec::new();
        for (number, attachment) in &mut self.attached {
            for (peer, pair) in &mut attachment.pairs {
                let before = pair.places();
                if pair.turn_over(at) {
                    moved.push((*number, *peer, before, pair.places()));
                }
            }
        }
        for (number, peer, before, after) in moved {
            let gone = before.into_iter().filter(|place| !after.contains(place));
            self.forget(number, peer, gone.collect());
            for place in after {
                let known = self.places.entry(place).or_default();
                known.insert((number, peer));
            }
        }
        self.tidy(at);
    }

    // --- what goes on ---

    fn advance(&mut self, at: Moment) {
        self.turn_over(at);
        self.take_events(at);
        self.start(at);
        // Operations that could end at once, as there is nobody to ask.
        self.take_events(at);
    }

    fn take_events(&mut self, at: Moment) {
        while let Some(event) = self.client.poll_event() {
            match event {
                client::Event::Found(item) => self.found(&item, at),
                client::Event::Done {
                    place,
                    answers,
                    stored,
                    outdated,
                } => {
                    let random = self.rng.next_u32();
                    for pair in self.at_place(place) {
                        pair.1.done(place, (answers, stored, outdated), random, at);
                    }
                }
                client::Event::Nodes(nodes) => self.tell(Told::Nodes(nodes)),
                client::Event::Seen(ip) => self.tell(Told::Seen(ip)),
            }
        }
    }

    fn tell(&mut self, told: Told) {
        if self.told.len() >= MAX_QUEUE {
            self.told.pop_front();
        }
        self.told.push_back(told);
    }

    fn at_place(&mut self, place: NodeId) -> impl Iterator<Item = ((Attached, PeerId), &mut Pair)> {
        let known = self.places.get(&place).cloned().unwrap_or_default();
        let attached = self.attached.iter_mut();
        attached.flat_map(move |(number, attachment)| {
            let known = known.clone();
            let pairs = attachment.pairs.iter_mut();
            pairs.filter_map(move |(peer, pair)| {
                let whose = (*number, *peer);
                known.contains(&whose).then_some((whose, pair))
            })
        })
    }

    fn found(&mut self, item: &Item, at: Moment) {
        let mut delivered = Vec::new();
        for ((number, from), pair) in self.at_place(item.place()) {
            if let Some(envelope) = pair.found(item, at) {
                delivered.push((number, Frame::Deliver { from, envelope }));
            }
        }
        for frame in delivered {
            if self.frames.len() >= MAX_QUEUE {
                self.frames.pop_front();
            }
            self.frames.push_back(frame);
        }
    }

    /// Begins what is due, the longest due first, as far as the client takes it.
    fn start(&mut self, at: Moment) {
        let many = self.sizes().0 > FEW_PAIRS;
        let mut tasks = Vec::new();
        let mut next = None;
        for (number, attachment) in &self.attached {
            for (peer, pair) in &attachment.pairs {
                for task in pair.tasks(at) {
                    match task.due <= at.now {
                        true => tasks.push((task.urgency, task.due, *number, *peer, task)),
                        false => next = Some(next.map_or(task.due, |n: Instant| n.min(task.due))),
                    }
                }
            }
        }
        self.due = next;
        tasks.sort_by_key(|(urgency, due, number, peer, _)| (*urgency, *due, *number, *peer));
        let mut full = BTreeSet::new();
        for (urgency, _, number, peer, task) in tasks {
            if full.contains(&urgency) {
                continue;
            }
            let random = self.rng.next_u32();
            let mut nonce = [0; 24];
            self.rng.fill_bytes(&mut nonce);
            let attachment = self.attached.get_mut(&number);
            let Some(pair) = attachment.and_then(|a| a.pairs.get_mut(&peer)) else {
                continue;
            };
            let now = at.now;
            let taken = match task.work {
                pair::Work::Read(day) => {
                    let Some(key) = pair.key_of(day) else {
                        continue;
                    };
                    let how = How::Ask(match (urgency, many) {
                        (Urgency::Soon, _) => 3,
                        (Urgency::Idle, false) => 2,
                        (Urgency::Idle, true) => 1,
                    });
                    self.client.get(key, how, urgency, now)
                }
                pair::Work::Prepare => self.client.get(pair.own_key(), How::Walk, urgency, now),
                pair::Work::Publish => {
                    let item = pair.item(nonce);
                    item.is_some_and(|item| self.client.put(item, urgency, now))
                }
            };
            match taken {
                true => pair.started(task.work, random, at),
                false => drop(full.insert(urgency)),
            }
        }
        // What a start has put off is due later.
        let pairs = self.attached.values().flat_map(|a| a.pairs.values());
        let later = pairs.flat_map(|pair| pair.tasks(at)).map(|task| task.due);
        let later = later.filter(|due| *due > at.now).min();
        self.due = [self.due, later].into_iter().flatten().min();
    }
}
