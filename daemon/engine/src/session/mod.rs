//! One WireGuard session with one peer: its keys, when it wants new ones, what waits for them (WireGuard paper §6). Nothing here reads
//! a clock or draws a random number, and the arithmetic of handshakes is done elsewhere ([`Work`]).

mod gate;
mod handshake;
mod keys;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_packet::PeerHandle;
use punch_packet::{Batch, Buffer};
use zeroize::Zeroizing;

pub(crate) use self::gate::{Admission, Gate};
use self::gate::{COOKIE_LIFE, Labels, Mac};
pub(crate) use self::handshake::{Answer, Asked, Done, HandshakeBegun, Origin, Owner};
use self::handshake::{Begun, Preshared, Seed, TIMESTAMP, Task};
pub use self::handshake::{Work, WorkDone};
use self::keys::{Keys, REJECT_AFTER, sealed_length};
pub(crate) use self::keys::{OVERHEAD, Secrets};

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const DATA: u8 = 4;

/// §6.1. Who began a handshake begins the next when it sends and the keys are so old,
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// or when it receives and they end soon.
const REKEY_BEFORE_END: Duration = Duration::from_secs(165);
/// An initiation is repeated after this and up to a third of a second (§6.4),
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const JITTER_MS: u64 = 334;
/// for so long.
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// Data that is not answered by data is answered by an empty packet (§6.5).
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Data that is not answered at all for so long: the peer may have lost its keys.
const SILENCE: Duration = Duration::from_secs(15);
/// Keys that nobody has renewed are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER.as_secs());
/// Packets that wait for keys; beyond that the oldest are lost.
const MAX_WAITING: usize = 256;

/// What came of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenedData {
    /// There was a packet in it.
    Packet,
    /// Authentic, and empty.
    Keepalive,
    /// Not authentic, replayed, or for keys that are gone.
    Refused,
}

/// The receiver's index of a data message (type 4, three zero bytes; receiver, counter, then at least a tag).
pub(crate) fn data_index(datagram: &[u8]) -> Option<u32> {
    let header: &[u8; 8] = datagram.first_chunk()?;
    let [DATA, 0, 0, 0, receiver @ ..] = header else {
        return None;
    };
    (datagram.len() >= OVERHEAD).then(|| u32::from_le_bytes(*receiver) >> 8)
}

/// A handshake that this end has begun and that is not finished.
struct Attempt {
    since: Instant,
    /// When the next initiation is to be sent.
    next: Instant,
    count: u32,
}

/// How far the initiation that was sent last is.
enum Pending {
    None,
    /// Somebody works on it.
    Lent {
        local: u32,
    },
    Sent(Begun),
}

pub(crate) struct Session {
    own: Arc<gate::Own>,
    peer: PeerHandle,
    remote: [u8; 32],
    labels: Arc<Labels>,
    preshared: Preshared,
    mtu: usize,
    index: u32,
    /// Tells the keys of one session from each other: the lowest byte of their index.
    number: u8,
    current: Option<Keys>,
    /// Data on its way may still need them.
    previous: Option<Keys>,
    /// The answer with them has been sent, and not confirmed.
    next: Option<Keys>,
    attempt: Option<Attempt>,
    pending: Pending,
    last_initiation: Option<Instant>,
    /// That of the newest initiation of the peer: an older one is a replay.
    newest: [u8; TIMESTAMP],
    /// For the peer, when it is under load.
    cookie: Option<(Mac, Instant)>,
    /// Our index for the keys that the newest initiation of the peer is answered with.
    answering: u32,
    /// That of our own newest one: they must increase even if the wall clock is set back.
    stamp: Duration,
    /// The first MAC of the message that a cookie may be for.
    last_mac: Option<Mac>,
    /// A response that has come while another one was being read.
    aside: Option<(Origin, [u8; gate::RESPONSE_LENGTH])>,
    waiting: VecDeque<Vec<u8>>,
    /// The new keys are to be confirmed by a packet.
    confirm: bool,
    has_received: bool,
    established_at: Option<Instant>,
    /// Seconds between packets that keep a path open.
    persistent: Option<Duration>,
    keepalive_at: Option<Instant>,
    silence_at: Option<Instant>,
    last_packet: Option<Instant>,
}

impl Session {
    /// `index` has 24 bits; the other end sends it back in every message.
    pub(crate) fn new(
        gate: &Gate,
        owner: Owner,
        remote: &[u8; 32],
        preshared: Option<[u8; 32]>,
        keepalive: Option<Duration>,
        mtu: usize,
    ) -> Self {
        Self {
            own: gate.own.clone(),
            peer: owner.peer,
            remote: *remote,
            labels: Arc::new(Labels::new(remote)),
            preshared: Zeroizing::new(preshared.unwrap_or_default()),
            mtu,
            index: owner.session,
            number: 0,
            current: None,
            previous: None,
            next: None,
            attempt: None,
            pending: Pending::None,
            last_initiation: None,
            newest: [0; TIMESTAMP],
            answering: 0,
            stamp: Duration::ZERO,
            cookie: None,
            last_mac: None,
            aside: None,
            waiting: VecDeque::new(),
            confirm: false,
            has_received: false,
            established_at: None,
            persistent: keepalive,
            keepalive_at: None,
            silence_at: None,
            last_packet: None,
        }
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether a handshake has been completed and not expired.
    pub(crate) fn established(&self) -> bool {
        self.current.is_some()
    }

    /// Whether anything authentic has come through this session's keys.
    pub(crate) fn has_received(&self) -> bool {
        self.has_received
    }

    pub(crate) fn last_handshake(&self) -> Option<Instant> {
        self.current.as_ref().map(Keys::since)
    }

    // --- data ---

    /// Appends the sealed packet to `out` and returns the number of bytes appended. Without keys the packet waits, and a
    /// handshake is wanted.
    pub(crate) fn seal(&mut self, packet: &[u8], now: Instant, out: &mut Buffer) -> usize {
        let Some(keys) = self.current.as_mut().filter(|keys| keys.are_valid(now)) else {
            if !packet.is_empty() {
                if self.waiting.len() >= MAX_WAITING {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(packet.to_vec());
            }
            self.want_keys(now);
            return 0;
        };
        let room = sealed_length(packet.len(), self.mtu);
        let length = out.append_with(room, |slot| keys.seal(packet, self.mtu, slot));
        let old = keys.is_initiator() && keys.age(now) >= REKEY_AFTER;
        if old || keys.are_worn() {
            self.want_keys(now);
        }
        self.confirm = false;
        self.keepalive_at = None;
        self.last_packet = Some(now);
        if !packet.is_empty() && self.silence_at.is_none() {
            self.silence_at = Some(now + SILENCE + self.jitter());
        }
        length
    }

    /// Appends the next packet that waited for keys, or what confirms new ones.
    pub(crate) fn seal_waiting(&mut self, now: Instant, out: &mut Buffer) -> usize {
        match self.waiting.pop_front() {
            Some(packet) => self.seal(&packet, now, out),
            None if self.confirm => self.seal(&[], now, out),
            None => 0,
        }
    }

    /// Whether there is something for [`Self::seal_waiting`].
    pub(crate) fn has_waiting(&self, now: Instant) -> bool {
        let usable = self
            .current
            .as_ref()
            .is_some_and(|keys| keys.are_valid(now));
        usable && (self.confirm || !self.waiting.is_empty())
    }

    /// Takes over the packets that wait in a session which this one replaces; they are older than its own.
    pub(crate) fn take_waiting(&mut self, left: &mut Self) {
        left.waiting.append(&mut self.waiting);
        std::mem::swap(&mut self.waiting, &mut left.waiting);
        let surplus = self.waiting.len().saturating_sub(MAX_WAITING);
        self.waiting.drain(..surplus);
    }

    /// Opens a data message and appends the packet in it, if there is one.
    pub(crate) fn open_data(
        &mut self,
        datagram: &[u8],
        now: Instant,
        out: &mut Batch,
    ) -> OpenedData {
        let mine = |keys: &Option<Keys>| keys.as_ref().is_some_and(|keys| keys.are_for(datagram));
        let unconfirmed = mine(&self.next);
        let keys = if mine(&self.current) {
            &mut self.current
        } else if unconfirmed {
            &mut self.next
        } else {
            &mut self.previous
        };
        let usable = |keys: &&mut Keys| keys.are_for(datagram) && keys.age(now) < REJECT_AFTER;
        let Some(keys) = keys.as_mut().filter(usable) else {
            return OpenedData::Refused;
        };
        let mut length = None;
        out.push_with(datagram.len(), |slot| {
            length = keys.open(datagram, slot);
            length.filter(|length| *length > 0)
        });
        let Some(length) = length else {
            return OpenedData::Refused;
        };
        let old = keys.is_initiator() && keys.age(now) >= REKEY_BEFORE_END;
        if unconfirmed {
            self.handle_confirmed(now);
        }
        if old {
            self.want_keys(now);
        }
        self.has_received = true;
        self.silence_at = None;
        self.last_packet = Some(now);
        if length == 0 {
            return OpenedData::Keepalive;
        }
        self.keepalive_at.get_or_insert(now + KEEPALIVE);
        OpenedData::Packet
    }

    /// The peer uses the keys that it has asked for. If both have begun at once, or this comes late, there are newer ones that we
    /// have asked for: we go on with those, and it is we who renew them.
    fn handle_confirmed(&mut self, now: Instant) {
        let Some(confirmed) = self.next.take() else {
            return;
        };
        let is_newer = |keys: &Keys| keys.is_initiator() && keys.since() > confirmed.since();
        if self.current.as_ref().is_some_and(is_newer) {
            self.previous = Some(confirmed);
        } else {
            self.establish(Some(confirmed), now);
        }
    }

    fn establish(&mut self, keys: Option<Keys>, now: Instant) {
        self.previous = std::mem::replace(&mut self.current, keys);
        self.established_at = Some(now);
        self.attempt = None;
        self.silence_at = None;
    }

    // --- time ---

    /// Keepalives; to be called every quarter of a second. Returns the number of bytes appended.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Buffer) -> usize {
        for keys in [&mut self.current, &mut self.previous, &mut self.next] {
            keys.take_if(|keys| keys.age(now) >= REJECT_AFTER);
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.established_at.map(|at| at + FORGET_AFTER)) {
            self.established_at = None;
            self.pending = Pending::None;
        }
        if is_due(
            self.attempt
                .as_ref()
                .map(|attempt| attempt.since + REKEY_ATTEMPT),
        ) {
            self.attempt = None;
            self.pending = Pending::None;
            self.waiting.clear();
        }
        if is_due(self.silence_at) {
            self.silence_at = None;
            self.want_keys(now);
        }
        let quiet = self.persistent.zip(self.last_packet);
        let persistent = quiet.map(|(every, last)| last + every);
        if is_due(self.keepalive_at) || is_due(persistent) {
            self.keepalive_at = None;
            self.last_packet = Some(now);
            return self.seal(&[], now, out);
        }
        0
    }

    fn jitter(&self) -> Duration {
        let attempts = self.attempt.as_ref().map_or(0, |attempt| attempt.count);
        let mixed = u64::from(self.index) * 2_654_435_761 + u64::from(attempts) * 97;
        Duration::from_millis(mixed % JITTER_MS)
    }

    // --- handshakes ---

    /// Begins a handshake, if none is under way, though not sooner than the last one allows.
    fn want_keys(&mut self, now: Instant) {
        let earliest = self.last_initiation.map(|last| last + REKEY_TIMEOUT);
        self.attempt.get_or_insert(Attempt {
            since: now,
            next: earliest.map_or(now, |earliest| earliest.max(now)),
            count: 0,
        });
    }

    /// Starts a handshake now, whatever is under way.
    pub(crate) fn initiate(&mut self, now: Instant) {
        // The path is to be kept open from now on, whether somebody answers or not.
        self.last_packet.get_or_insert(now);
        self.attempt = Some(Attempt {
            since: now,
            next: now,
            count: 0,
        });
    }

    /// Whether [`Self::begin`] would do something now.
    pub(crate) fn wants_handshake(&self, now: Instant) -> bool {
        let due = |attempt: &Attempt| attempt.next <= now;
        self.attempt.as_ref().is_some_and(due) && !matches!(self.pending, Pending::Lent { .. })
    }

    /// The initiation that is due. `wall` is the time since 1970.
    pub(crate) fn begin(&mut self, wall: Duration, seed: Seed, now: Instant) -> Option<Work> {
        if !self.wants_handshake(now) {
            return None;
        }
        let jitter = self.jitter();
        if let Some(attempt) = &mut self.attempt {
            attempt.next = now + REKEY_TIMEOUT + jitter;
            attempt.count = attempt.count.saturating_add(1);
        }
        self.last_initiation = Some(now);
        self.stamp = wall.max(self.stamp + Duration::from_nanos(1));
        let local = self.next_local();
        self.pending = Pending::Lent { local };
        let task = Task::Begin {
            owner: self.owner(),
            remote: self.remote,
            labels: self.labels.clone(),
            preshared: self.preshared.clone(),
            local,
            timestamp: tai64n(self.stamp),
            cookie: self.good_cookie(now),
        };
        Some(Work::new(&self.own, seed, task))
    }

    /// The initiation is there; returns whether it is still wanted, to be sent.
    pub(crate) fn handle_begun(&mut self, begun: Option<HandshakeBegun>) -> bool {
        let lent = match self.pending {
            Pending::Lent { local } => Some(local),
            Pending::None | Pending::Sent(_) => None,
        };
        let Some(HandshakeBegun { begun, .. }) =
            begun.filter(|work| lent == Some(work.begun.local))
        else {
            if lent.is_some() {
                self.pending = Pending::None;
            }
            return false;
        };
        self.last_mac = Some(begun.mac1);
        self.pending = Pending::Sent(begun);
        true
    }

    /// Answers an initiation, unless it is older than one that was answered.
    pub(crate) fn answer(&mut self, asked: Asked, seed: Seed, now: Instant) -> Option<Work> {
        if asked.timestamp <= self.newest {
            return None;
        }
        self.newest = asked.timestamp;
        let local = self.next_local();
        self.answering = local;
        let task = Task::Answer {
            owner: self.owner(),
            asked,
            labels: self.labels.clone(),
            preshared: self.preshared.clone(),
            local,
            cookie: self.good_cookie(now),
        };
        Some(Work::new(&self.own, seed, task))
    }

    /// The answer is there: its keys are good as soon as the peer uses them. Returns whether it is to be sent: another thread may
    /// have been faster with a newer one.
    pub(crate) fn handle_answered(&mut self, answer: Answer, now: Instant) -> bool {
        if answer.secrets.local != self.answering {
            return false;
        }
        self.last_mac = Some(answer.mac1);
        self.next = Some(Keys::new(answer.secrets, now));
        true
    }

    /// The peer has answered.
    pub(crate) fn finish(&mut self, datagram: &[u8], origin: Origin, seed: Seed) -> Option<Work> {
        let message: [u8; gate::RESPONSE_LENGTH] = datagram.try_into().ok()?;
        let is_for = |local: u32| message[8..12] == local.to_le_bytes();
        if matches!(self.pending, Pending::Lent { local } if is_for(local)) {
            // A peer with two preshared keys answers twice, and only one of the answers is right.
            self.aside.get_or_insert((origin, message));
            return None;
        }
        if !matches!(&self.pending, Pending::Sent(begun) if is_for(begun.local)) {
            return None;
        }
        let Pending::Sent(begun) = std::mem::replace(&mut self.pending, Pending::None) else {
            return None;
        };
        self.pending = Pending::Lent { local: begun.local };
        self.aside = None;
        let task = Task::Finish {
            owner: self.owner(),
            origin,
            begun,
            message,
        };
        Some(Work::new(&self.own, seed, task))
    }

    /// The answer has been read; returns whether there are new keys.
    pub(crate) fn handle_finished(
        &mut self,
        result: Result<Secrets, HandshakeBegun>,
        now: Instant,
    ) -> bool {
        let local = match &result {
            Ok(secrets) => secrets.local,
            Err(work) => work.begun.local,
        };
        if !matches!(self.pending, Pending::Lent { local: lent } if lent == local) {
            return false;
        }
        match result {
            Ok(secrets) => {
                self.pending = Pending::None;
                self.establish(Some(Keys::new(secrets, now)), now);
                self.confirm = true;
                true
            }
            Err(work) => {
                self.pending = Pending::Sent(work.begun);
                false
            }
        }
    }

    /// The response that has come meanwhile, if the one that was being read was wrong.
    pub(crate) fn finish_next(&mut self, seed: Seed) -> Option<Work> {
        let (origin, message) = self.aside.take()?;
        self.finish(&message, origin, seed)
    }

    /// The peer is under load; returns whether the cookie is for us.
    pub(crate) fn handle_cookie(&mut self, datagram: &[u8], now: Instant) -> bool {
        let opened = self
            .last_mac
            .and_then(|mac| self.labels.open_cookie(datagram, &mac));
        let Some(cookie) = opened else { return false };
        self.cookie = Some((cookie, now));
        true
    }

    fn good_cookie(&self, now: Instant) -> Option<Mac> {
        let (cookie, at) = self.cookie?;
        (now.saturating_duration_since(at) < COOKIE_LIFE).then_some(cookie)
    }

    fn owner(&self) -> Owner {
        Owner {
            peer: self.peer,
            session: self.index,
        }
    }

    fn next_local(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.index << 8 | u32::from(self.number)
    }
}

/// TAI64N: seconds since 1970 with an offset, and nanoseconds (paper §5.4.2).
fn tai64n(wall: Duration) -> [u8; TIMESTAMP] {
    const EPOCH: u64 = (1 << 62) + 10;
    let mut stamp = [0; TIMESTAMP];
    stamp[..8].copy_from_slice(&(EPOCH + wall.as_secs()).to_be_bytes());
    stamp[8..].copy_from_slice(&wall.subsec_nanos().to_be_bytes());
    stamp
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests;
