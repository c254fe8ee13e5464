//! The LAN as a channel: which machines of the peers' are heard in this machine's networks, and what goes there when.
//!
//! A machine calls its peers in all its networks, each under a tag that only the two can compute: all of them when it starts and when its
//! network changes, as a login at a server would tell of it, and those that are watched every half minute from then on. Whoever is called
//! answers the caller alone. So each knows where the other takes datagrams, and envelopes go straight there.

mod leaving;
mod link;
mod outcome;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use punch_packet::{Rate, TokenBucket};
use punch_signal_protocol::lan::{self, Keys, Kind, Nonce, Said, Tag};
use punch_signal_protocol::rendezvous::{Author, PairSecret};
use punch_signal_protocol::{Frame, Identity, MAX_ENVELOPE, PeerId, Unreachable};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::pace::Buckets;

use self::leaving::Leaving;
pub use self::link::Link;
pub use self::outcome::Outcome;

/// Calls of one peer after a start, a change of the network, or a new watch, counted from then on: a datagram may be lost, and a network may take a while
/// until it carries any.
const BURST: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// Calls of a peer that is watched, from then on.
const PERIOD: Duration = Duration::from_secs(30);
/// A peer that was not heard for so long is not there any more: three calls and their answers are lost.
const KNOWN: Duration = Duration::from_secs(100);
/// A peer that nothing was heard of for so long, although it was sent an envelope, is called again, since who is called answers; and if that
/// brings nothing, it is not there any more.
const DOUBTED: Duration = Duration::from_secs(2);
const GONE: Duration = Duration::from_secs(6);
/// A peer's calls are answered this often; the first one after a start is answered at once.
const ANSWER: Duration = Duration::from_secs(1);
/// A tag is taken in three minutes of this machine's clock, and no datagram twice meanwhile.
const REMEMBERED: Duration = Duration::from_secs(180);
/// Datagrams of one peer in that time; what comes beyond that is refused.
const MAX_REMEMBERED: usize = 256;
/// Addresses of one peer: its networks, and both families.
const MAX_PLACES: usize = 4;
/// An envelope goes to so many of them: one may lead nowhere any more. The receiver takes the first.
const SENT_TO: usize = 2;
/// Calls of all peers, in each network.
const CALLS: Rate = Rate {
    burst: 64,
    interval: Duration::from_millis(10),
};
/// Datagrams with a tag that is awaited, from one address and from all: what a proof costs is a few microseconds.
const PROOFS: Rate = Rate {
    burst: 128,
    interval: Duration::from_millis(5),
};
const ALL_PROOFS: Rate = Rate {
    burst: 512,
    interval: Duration::from_millis(1),
};
/// Addresses whose datagrams are counted apart; the others share what is left for all.
const MAX_SOURCES: usize = 1024;
/// Answers and envelopes that wait to be sent, and frames that wait to be taken; then the oldest is lost.
const MAX_WAITING: usize = 256;

/// Where something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To the group, in every network; each gets a datagram of its own.
    All,
    /// To one machine.
    One(SocketAddr),
}

/// Something to be sent, as soon as it is known where from: see [`Lan::seal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes.
    pub to: To,
    peer: PeerId,
    kind: Kind,
    /// An envelope goes to several addresses of the peer, which takes it once.
    nonce: Option<Nonce>,
    envelope: Vec<u8>,
}

/// A peer, and what is heard of it.
struct Neighbour {
    pair: PairSecret,
    /// What makes this machine's datagrams in the present minute.
    keys: Keys,
    watched: bool,
    /// When it is called next, and how often it was since the burst began.
    next_call: Option<Instant>,
    calls: usize,
    burst_began: Instant,
    /// Where it takes datagrams, the newest last, and when it was heard from there.
    places: Vec<(SocketAddr, Instant)>,
    instance: Option<u32>,
    /// Whether it was told that it is there.
    told: bool,
    /// Whether anything was sent to it since it was heard as another one, or not at all.
    sent: bool,
    /// Since when envelopes have been sent and nothing has been heard.
    unheard_since: Option<Instant>,
    /// Its datagrams of late.
    nonces: VecDeque<(Nonce, Instant)>,
    answered: Option<Instant>,
}

impl Neighbour {
    fn new(pair: PairSecret, minute: u64, now: Instant) -> Self {
        Self {
            keys: Keys::new(&pair, minute, Author::Us),
            pair,
            watched: false,
            next_call: Some(now),
            calls: 0,
            burst_began: now,
            places: Vec::new(),
            instance: None,
            told: false,
            sent: false,
            unheard_since: None,
            nonces: VecDeque::new(),
            answered: None,
        }
    }

    fn begin_burst(&mut self, now: Instant) {
        (self.next_call, self.calls, self.burst_began) = (Some(now), 0, now);
    }

    /// It is called now.
    fn handle_called(&mut self, random: u32, now: Instant) {
        self.calls = self.calls.saturating_add(1);
        let after_burst = || {
            let jitter = f64::from(random) / f64::from(u32::MAX);
            self.watched
                .then(|| now + PERIOD.mul_f64(0.8 + 0.4 * jitter))
        };
        self.next_call = match BURST.get(self.calls) {
            Some(after) => Some(self.burst_began + *after),
            None => after_burst(),
        };
    }

    /// Whether a datagram is new; it is not from then on.
    fn take(&mut self, nonce: Nonce, now: Instant) -> Outcome {
        while let Some((_, at)) = self.nonces.front()
            && now.saturating_duration_since(*at) > REMEMBERED
        {
            self.nonces.pop_front();
        }
        if self.nonces.iter().any(|(seen, _)| *seen == nonce) {
            return Outcome::Repeated;
        }
        if self.nonces.len() >= MAX_REMEMBERED {
            return Outcome::TooMany;
        }
        self.nonces.push_back((nonce, now));
        Outcome::Taken
    }

    /// It was heard from there; returns whether what was sent to it before has gone elsewhere.
    fn hear(&mut self, place: SocketAddr, instance: u32, now: Instant) -> bool {
        let mut lost = false;
        if self.instance.replace(instance) != Some(instance) {
            // It has started anew, or its network has changed: nothing that was known of it holds.
            self.places.clear();
            self.told = false;
            // Whoever was answered a moment ago does not know of it any more.
            self.answered = None;
            lost = std::mem::take(&mut self.sent);
        }
        self.unheard_since = None;
        self.expire(now);
        self.places.retain(|(known, _)| *known != place);
        if self.places.len() >= MAX_PLACES {
            self.places.remove(0);
        }
        self.places.push((place, now));
        lost
    }

    /// An envelope is to be sent: if the last ones have met silence, it is called, or given up.
    fn doubt(&mut self, now: Instant) {
        if self.places.is_empty() {
            return;
        }
        let since = *self.unheard_since.get_or_insert(now);
        let silent = now.saturating_duration_since(since);
        if silent >= GONE {
            (self.unheard_since, self.told) = (None, false);
            self.places.clear();
        }
        if silent >= DOUBTED && !self.is_called() {
            self.begin_burst(now);
        }
    }

    /// Whether a burst of calls is under way.
    fn is_called(&self) -> bool {
        self.next_call.is_some() && self.calls < BURST.len()
    }

    fn expire(&mut self, now: Instant) {
        self.places
            .retain(|(_, at)| now.saturating_duration_since(*at) <= KNOWN);
        self.told &= !self.places.is_empty();
    }

    /// Whether a call is answered now.
    fn admits_answer(&mut self, now: Instant) -> bool {
        let last = self.answered;
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= ANSWER);
        if due {
            self.answered = Some(now);
        }
        due
    }
}

/// What one identity hears and says. See the module.
pub struct Lan {
    identity: Identity,
    rng: ChaCha20Rng,
    instance: u32,
    neighbours: BTreeMap<PeerId, Neighbour>,
    leaving: Leaving,
    /// By which tag each of them is known in the minute before, the present one, and the next: clocks differ.
    expected: HashMap<Tag, (PeerId, Keys)>,
    minute: u64,
    sources: Buckets<IpAddr>,
    all_sources: TokenBucket,
    calls: VecDeque<PeerId>,
    called: TokenBucket,
    replies: VecDeque<Transmit>,
    frames: VecDeque<Frame>,
}

impl Lan {
    /// An identity without peers.
    pub fn new(identity: Identity, seed: [u8; 32], wall_ms: u64) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            identity,
            instance: rng.next_u32(),
            rng,
            neighbours: BTreeMap::new(),
            leaving: Leaving::default(),
            expected: HashMap::new(),
            minute: lan::minute(wall_ms),
            sources: Buckets::new(PROOFS),
            all_sources: TokenBucket::new(ALL_PROOFS),
            calls: VecDeque::new(),
            called: TokenBucket::new(CALLS),
            replies: VecDeque::new(),
            frames: VecDeque::new(),
        }
    }

    // --- what comes in ---

    /// These are its peers now. Those that are new are called; those that are gone can be sent a goodbye for a moment.
    pub fn set_peers(&mut self, peers: &BTreeSet<PeerId>, now: Instant) {
        for (id, gone) in self.neighbours.extract_if(.., |id, _| !peers.contains(id)) {
            let places = gone.places.into_iter().map(|(place, _)| place);
            self.leaving.add(id, gone.keys, places.collect(), now);
        }
        self.expected.retain(|_, (id, _)| peers.contains(id));
        for id in peers {
            if self.neighbours.contains_key(id) {
                continue;
            }
            if let Some(pair) = PairSecret::new(&self.identity, id) {
                expect(&mut self.expected, &pair, *id, self.minute);
                let neighbour = Neighbour::new(pair, self.minute, now);
                self.leaving.forget(*id);
                self.neighbours.insert(*id, neighbour);
            }
        }
    }

    /// The machine is in other networks than before: all peers are called, and what was heard is forgotten.
    pub fn handle_network(&mut self, now: Instant) {
        self.instance = self.rng.next_u32();
        self.replies.clear();
        self.leaving = Leaving::default();
        for neighbour in self.neighbours.values_mut() {
            neighbour.places.clear();
            neighbour.told = false;
            neighbour.begin_burst(now);
        }
    }

    /// The machine is in these networks, and in no others: what was heard elsewhere is forgotten, and nothing goes there any more, which a
    /// router would pass on.
    pub fn keep_to(&mut self, links: &[Link]) {
        let is_here = |at: &SocketAddr| links.iter().any(|link| link.has(*at));
        self.leaving.keep(is_here);
        for neighbour in self.neighbours.values_mut() {
            neighbour.places.retain(|(at, _)| is_here(at));
            neighbour.told &= !neighbour.places.is_empty();
        }
        self.replies.retain(|reply| match &reply.to {
            To::One(at) => is_here(at),
            To::All => true,
        });
    }

    /// A frame for the channel.
    pub fn handle_frame(&mut self, frame: Frame, now: Instant) {
        match frame {
            Frame::Watch(id) => {
                let Some(neighbour) = self.neighbours.get_mut(&id) else {
                    return;
                };
                neighbour.watched = true;
                neighbour.expire(now);
                if neighbour.places.is_empty() {
                    // Its first calls may be under way.
                    if !neighbour.is_called() {
                        neighbour.begin_burst(now);
                    }
                } else {
                    neighbour.told = true;
                    neighbour.next_call.get_or_insert(now + PERIOD);
                    self.bring(Frame::Appeared(id));
                }
            }
            Frame::Unwatch(id) => {
                if let Some(neighbour) = self.neighbours.get_mut(&id) {
                    neighbour.watched = false;
                    neighbour.next_call = None;
                }
            }
            Frame::Send { to, envelope } => self.send(to, &envelope, now),
            // What only a server understands.
            Frame::Proof { .. }
            | Frame::ClientCapabilities(_)
            | Frame::RelayJoin(_)
            | Frame::RelayLeave(_)
            | Frame::Challenge(_)
            | Frame::Welcome
            | Frame::Deliver { .. }
            | Frame::Unreachable { .. }
            | Frame::Appeared(_)
            | Frame::Refused(_)
            | Frame::ServerCapabilities(_)
            | Frame::RelayReady { .. }
            | Frame::RelayGone(_) => {}
        }
    }

    fn send(&mut self, to: PeerId, envelope: &[u8], now: Instant) {
        let mut places = Vec::new();
        if let Some(neighbour) = self.neighbours.get_mut(&to) {
            neighbour.expire(now);
            neighbour.doubt(now);
            let newest = neighbour.places.iter().rev().take(SENT_TO);
            places.extend(newest.map(|(place, _)| *place));
            neighbour.sent |= !places.is_empty();
        } else {
            places.extend(self.leaving.places(to, now).take(SENT_TO));
        }
        if places.is_empty() || envelope.is_empty() || envelope.len() > MAX_ENVELOPE {
            let why = Unreachable::Offline;
            return self.bring(Frame::Unreachable { to, why });
        }
        let nonce = Some(self.nonce());
        for place in places {
            self.reply(Transmit {
                to: To::One(place),
                peer: to,
                kind: Kind::Envelope,
                nonce,
                envelope: envelope.to_vec(),
            });
        }
    }

    fn reply(&mut self, reply: Transmit) {
        if self.replies.len() >= MAX_WAITING {
            self.replies.pop_front();
        }
        self.replies.push_back(reply);
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = Nonce::default();
        self.rng.fill_bytes(&mut nonce);
        nonce
    }

    fn bring(&mut self, frame: Frame) {
        if self.frames.len() >= MAX_WAITING {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }

    /// A datagram has come from a machine of one of this machine's networks.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        wall_ms: u64,
        now: Instant,
    ) -> Outcome {
        self.turn(wall_ms);
        let expected = lan::tag(datagram).and_then(|tag| self.expected.get(&tag));
        let Some((id, keys)) = expected else {
            return Outcome::Stranger;
        };
        let id = *id;
        if !admit(&mut self.sources, &mut self.all_sources, from.ip(), now) {
            return Outcome::TooMany;
        }
        let Some((said, nonce, envelope)) = keys.open(datagram, from.ip()) else {
            return Outcome::Forged;
        };
        let Some(neighbour) = self.neighbours.get_mut(&id) else {
            return Outcome::Stranger;
        };
        // What an envelope was sent to another address for has come already, and says nothing new either.
        let outcome = neighbour.take(nonce, now);
        if outcome != Outcome::Taken {
            return outcome;
        }
        let mut place = from;
        place.set_port(said.port.get());
        let lost = neighbour.hear(place, said.instance, now);
        let answers = said.kind == Kind::Call && neighbour.admits_answer(now);
        let appears = said.kind != Kind::Envelope && !std::mem::replace(&mut neighbour.told, true);
        let appears = appears && neighbour.watched;
        if answers {
            self.reply(Transmit {
                to: To::One(place),
                peer: id,
                kind: Kind::Answer,
                nonce: None,
                envelope: Vec::new(),
            });
        }
        if lost {
            let why = Unreachable::Offline;
            self.bring(Frame::Unreachable { to: id, why });
        }
        if appears {
            self.bring(Frame::Appeared(id));
        }
        if said.kind == Kind::Envelope {
            let envelope = envelope.to_vec();
            self.bring(Frame::Deliver { from: id, envelope });
        }
        outcome
    }

    /// Another minute has begun, or the clock was set: tags are others.
    fn turn(&mut self, wall_ms: u64) {
        let minute = lan::minute(wall_ms);
        if minute == self.minute {
            return;
        }
        self.minute = minute;
        self.expected.clear();
        for (id, neighbour) in &mut self.neighbours {
            neighbour.keys = Keys::new(&neighbour.pair, minute, Author::Us);
            expect(&mut self.expected, &neighbour.pair, *id, minute);
        }
    }

    // --- what goes out ---

    /// What is to be sent next. Peers that are called at the same time are called in random order.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if self.calls.is_empty() {
            let due = self.neighbours.iter_mut().filter(|(_, neighbour)| {
                let next = neighbour.next_call;
                next.is_some_and(|next| next <= now)
            });
            for (id, neighbour) in due {
                neighbour.handle_called(self.rng.next_u32(), now);
                self.calls.push_back(*id);
            }
            shuffle(self.calls.make_contiguous(), &mut self.rng);
        }
        if self.calls.is_empty() || !self.called.take(now) {
            return None;
        }
        Some(Transmit {
            to: To::All,
            peer: self.calls.pop_front()?,
            kind: Kind::Call,
            nonce: None,
            envelope: Vec::new(),
        })
    }

    /// The datagram for something that leaves from `source`; what is sent to this machine alone comes to `port`. `None` for a peer that is
    /// gone.
    pub fn seal(
        &mut self,
        transmit: &Transmit,
        (source, port): (IpAddr, NonZeroU16),
        wall_ms: u64,
    ) -> Option<Vec<u8>> {
        self.turn(wall_ms);
        let nonce = transmit.nonce.unwrap_or_else(|| self.nonce());
        let said = Said {
            kind: transmit.kind,
            port,
            instance: self.instance,
        };
        let keys = match self.neighbours.get(&transmit.peer) {
            Some(neighbour) => &neighbour.keys,
            None if transmit.kind == Kind::Envelope => self.leaving.keys(transmit.peer)?,
            None => return None,
        };
        Some(keys.seal(said, nonce, source, &transmit.envelope))
    }

    /// The next frame that the channel brings.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// When [`Self::poll_transmit`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.calls.is_empty() {
            return self.called.ready_at(0);
        }
        let neighbours = self.neighbours.values();
        neighbours.filter_map(|neighbour| neighbour.next_call).min()
    }

    // --- what is known ---

    /// The peers that are heard, where each was heard last, and until when that holds.
    pub fn heard(&self) -> impl Iterator<Item = (PeerId, (SocketAddr, Instant))> {
        self.neighbours.iter().filter_map(|(id, neighbour)| {
            let (place, at) = neighbour.places.last()?;
            Some((*id, (*place, *at + KNOWN)))
        })
    }

    /// How much is remembered: peers, tags, addresses of peers, datagrams, senders, and what waits.
    pub fn sizes(&self) -> [usize; 6] {
        let sum = |of: fn(&Neighbour) -> usize| self.neighbours.values().map(of).sum();
        [
            self.neighbours.len() + self.leaving.len(),
            self.expected.len(),
            sum(|neighbour| neighbour.places.len()),
            sum(|neighbour| neighbour.nonces.len()),
            self.sources.len(),
            self.calls.len() + self.replies.len() + self.frames.len(),
        ]
    }
}

fn expect(into: &mut HashMap<Tag, (PeerId, Keys)>, pair: &PairSecret, id: PeerId, minute: u64) {
    for minute in minute.saturating_sub(1)..=minute.saturating_add(1) {
        let keys = Keys::new(pair, minute, Author::Them);
        into.insert(keys.tag(), (id, keys));
    }
}

/// Whether the proof of one more datagram from this address is looked at.
fn admit(sources: &mut Buckets<IpAddr>, all: &mut TokenBucket, ip: IpAddr, now: Instant) -> bool {
    if sources.len() >= MAX_SOURCES && !sources.has(&ip) {
        sources.forget(now);
    }
    let counted = sources.has(&ip) || sources.len() < MAX_SOURCES;
    (!counted || sources.take(ip, now)) && all.take(now)
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], rng: &mut ChaCha20Rng) {
    for last in (1..items.len()).rev() {
        let other = rng.next_u64() % (last as u64 + 1);
        items.swap(last, usize::try_from(other).unwrap_or(last));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests;
