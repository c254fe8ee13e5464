//! One WireGuard session with one peer: which keys seal and open, when it wants new ones, what waits for them (§6).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use punch_packet::{Batch, Buffer};
use zeroize::Zeroizing;

use crate::job::{Asker, Done, HandshakeJob, Step, Task};
use crate::keys::{
    KeyRing, Keys, LocalKeys, REJECT_AFTER, REJECT_AFTER_MESSAGES, padded_length, sealed_length,
};
use crate::message::{
    COOKIE_REPLY, COOKIE_REPLY_LENGTH, DATA, Initiation, OVERHEAD, RESPONSE, Response, SessionId,
    index_at, slot_of,
};
use crate::slots::{Recipe, Slots};
use crate::timers::{Calling, REKEY_AFTER, REKEY_BEFORE_END, Timers, jitter};

/// Packets that wait for keys; beyond that the oldest are lost.
const MAX_WAITING: usize = 256;
/// Handshake messages of one kind that wait for a tunnel that is lent. Several, so that who forges two responses does not keep out the true
/// one.
const MAX_LATER: usize = 8;

/// What came of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Authentic, and there was a packet in it.
    Packet,
    /// Authentic, and empty.
    Keepalive,
    /// Not authentic, replayed, or for keys that are gone.
    Refused,
    /// For keys in a tunnel that is lent to a handshake: to be tried again when that is done.
    Later,
}

/// What came of a step of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<R> {
    /// Nothing is to be done.
    Nothing,
    /// The message did not authenticate, or was not new.
    Refused,
    /// To be sent: to `reply_to`, or if that is `None` where the peer's path leads.
    Send {
        /// Where the message that is answered came from.
        reply_to: Option<R>,
        /// The handshake message.
        message: Vec<u8>,
    },
    /// There are new keys.
    Established {
        /// Where the response came from.
        reply_to: R,
        /// Confirms the keys to the peer: to be sent before anything else.
        confirmation: Vec<u8>,
    },
}

/// A handshake message that waits for a tunnel that is lent.
enum Later<R> {
    Initiation(Box<Initiation>, R),
    Response(Box<Response>, R),
}

/// See the module.
pub struct Session<R> {
    id: SessionId,
    mtu: usize,
    slots: Slots,
    keys: KeyRing,
    calling: Calling,
    timers: Timers,
    /// The newest initiation of the peer that was answered, and whether the answerer has seen it.
    newest: Option<(Box<Initiation>, bool)>,
    later: VecDeque<Later<R>>,
    waiting: VecDeque<Vec<u8>>,
    has_received: bool,
}

impl<R: Copy> Session<R> {
    /// A session without keys. Packets are padded up to `mtu` bytes; `keepalive` is the interval of empty packets that keep a path
    /// open.
    pub fn new(
        own: &Arc<LocalKeys>,
        id: SessionId,
        remote: &[u8; 32],
        preshared: Option<[u8; 32]>,
        keepalive: Option<Duration>,
        mtu: usize,
    ) -> Self {
        Self {
            id,
            mtu,
            slots: Slots::new(Recipe {
                own: own.clone(),
                remote: *remote,
                preshared: Zeroizing::new(preshared.unwrap_or_default()),
                session: id.number,
            }),
            keys: KeyRing::default(),
            calling: Calling::default(),
            timers: Timers::new(keepalive),
            newest: None,
            later: VecDeque::new(),
            waiting: VecDeque::new(),
            has_received: false,
        }
    }

    /// Packets are padded up to so many bytes from now on.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// The session's number.
    pub fn number(&self) -> u32 {
        self.id.number
    }

    /// Whether a handshake has been completed and its keys have not expired.
    pub fn is_established(&self) -> bool {
        self.keys.current.is_some()
    }

    /// Whether there are keys that have not expired: those in use, or those that a response has made and the peer has not used yet.
    pub(crate) fn has_keys(&self) -> bool {
        self.keys.iter().next().is_some()
    }

    /// Whether anything authentic has come through this session's keys.
    pub fn has_received(&self) -> bool {
        self.has_received
    }

    /// When the keys that seal were agreed on.
    pub fn last_handshake(&self) -> Option<Instant> {
        self.keys.current.map(|keys| keys.since)
    }

    // --- data ---

    /// Appends the sealed packet to `out` and returns the number of bytes appended. Without keys the packet waits, and a
    /// handshake is wanted.
    pub fn seal(&mut self, packet: &[u8], now: Instant, out: &mut Buffer) -> usize {
        let keys = self.keys.current.as_mut();
        let usable = keys.filter(|keys| keys.may_seal(now));
        let (Some(keys), Some(tunnel)) = (usable, self.slots.carrier()) else {
            if !packet.is_empty() {
                if self.waiting.len() >= MAX_WAITING {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(packet.to_vec());
            }
            self.calling.want(now);
            return 0;
        };
        let length = seal_with(tunnel, packet, self.mtu, out);
        keys.sent += 1;
        let old = keys.initiator && keys.age(now) >= REKEY_AFTER;
        if old || keys.are_worn() {
            self.calling.want(now);
        }
        let (number, calling) = (self.id.number, &self.calling);
        let jitter = || jitter(number, calling.count());
        self.timers.handle_sent(!packet.is_empty(), jitter, now);
        length
    }

    /// Appends the next packet that waited for keys.
    pub fn seal_waiting(&mut self, now: Instant, out: &mut Buffer) -> usize {
        match self.waiting.pop_front() {
            Some(packet) => self.seal(&packet, now, out),
            None => 0,
        }
    }

    /// Whether there is something for [`Self::seal_waiting`].
    pub fn has_waiting(&self, now: Instant) -> bool {
        let usable = |keys: &Keys| keys.may_seal(now);
        self.keys.current.as_ref().is_some_and(usable) && !self.waiting.is_empty()
    }

    /// Takes over the packets that wait in a session which this one replaces; they are older than its own.
    pub(crate) fn take_waiting(&mut self, left: &mut Self) {
        left.waiting.append(&mut self.waiting);
        std::mem::swap(&mut self.waiting, &mut left.waiting);
        let surplus = self.waiting.len().saturating_sub(MAX_WAITING);
        self.waiting.drain(..surplus);
    }

    /// Opens a data message and appends the packet in it, if there is one. What boringtun knows to be no IP packet is appended, too,
    /// with its padding.
    pub fn open(&mut self, datagram: &[u8], now: Instant, out: &mut Batch) -> Opened {
        let local = index_at(datagram, 4);
        let Some(keys) = self.keys.find(local).copied() else {
            return Opened::Refused;
        };
        let counter = datagram.get(8..16).and_then(<[u8]>::first_chunk);
        let counter = counter.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        let is_data = crate::message::data_index(datagram).is_some();
        if !is_data || keys.age(now) >= REJECT_AFTER || counter >= REJECT_AFTER_MESSAGES {
            return Opened::Refused;
        }
        let slot = slot_of(local);
        let Some(tunnel) = self.slots.at(slot) else {
            return Opened::Later;
        };
        let opened = open_with(tunnel, datagram, out);
        if opened == Opened::Refused {
            return opened;
        }
        if self.keys.next.is_some_and(|next| next.local == local) {
            self.handle_confirmed(now);
        }
        if keys.initiator && keys.age(now) >= REKEY_BEFORE_END {
            self.calling.want(now);
        }
        self.has_received = true;
        self.keys.heard = Some(local);
        if self.keys.current.is_some_and(|keys| keys.local == local) {
            let passed = self.keys.passed.take();
            self.drop_keys(passed);
        }
        self.keys.follow(local);
        self.timers.handle_received(opened == Opened::Packet, now);
        opened
    }

    /// The peer uses the keys that it has asked for. If both have begun at once, or this comes late, there are newer ones that this
    /// end has asked for. Of two ends that each use their own the one with the smaller public key takes the other's: where both went on
    /// with their own, the next handshake of both would be made by a tunnel that still opens what the peer sends. In all other cases the
    /// session goes on with the newer ones, and this end renews them.
    fn handle_confirmed(&mut self, now: Instant) {
        let Some(confirmed) = self.keys.next.take() else {
            return;
        };
        // They are in one tunnel with these, which seals with whatever has come in last.
        let superseded = self.keys.superseded.take();
        self.drop_keys(superseded);
        let heard = self.keys.heard;
        let yields = self.slots.has_smaller_key();
        let goes_on = |keys: Keys| {
            let is_newer = keys.initiator && keys.since > confirmed.since;
            is_newer && !(yields && heard != Some(keys.local))
        };
        if self.keys.current.is_some_and(goes_on) {
            self.drop_keys(self.keys.previous);
            self.keys.previous = Some(confirmed);
        } else {
            self.establish(confirmed, now);
        }
    }

    fn establish(&mut self, keys: Keys, now: Instant) {
        let previous = self.keys.previous;
        let replaced = self.keys.current.replace(keys);
        // Until the peer is heard to use keys that this end has asked for, it may use those before: their confirmation may be on its way,
        // and where both have begun at once it goes on with its own until it hears of these. (Keys that the peer has asked for and uses
        // show by that that it has left the others.)
        let unheard = |keys: Keys| keys.initiator && self.keys.heard != Some(keys.local);
        if keys.initiator && previous.is_some() && replaced.is_some_and(unheard) {
            let gone = std::mem::replace(&mut self.keys.passed, replaced);
            self.drop_keys(gone);
        } else {
            self.drop_keys(previous);
            self.keys.previous = replaced;
        }
        let slot = slot_of(keys.local);
        if slot == self.slots.answerer() {
            // The tunnel that answers from now on has not seen the initiation that these keys came of.
            self.newest = self.newest.take().map(|(message, _)| (message, false));
        }
        self.slots.carry_from(slot);
        self.calling.handle_established(keys.initiator);
        self.timers.handle_established(now);
    }

    fn drop_keys(&mut self, keys: Option<Keys>) {
        if let Some(keys) = keys {
            self.slots.mark_stale(slot_of(keys.local));
        }
    }

    fn is_live(&self, slot: usize) -> bool {
        self.keys.iter().any(|keys| slot_of(keys.local) == slot)
    }

    // --- time ---

    /// The machine has slept, and its clock has stood still: the peer's has not, and keys are as old as it says.
    pub fn handle_sleep(&mut self, slept: Duration) {
        self.keys.handle_sleep(slept);
    }

    /// Keepalives and the ends of keys and attempts; to be called every quarter of a second. Returns the number of bytes appended.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Buffer) -> usize {
        for local in self.keys.expire(now) {
            self.slots.mark_stale(slot_of(local));
        }
        if self.timers.take_forgotten(now) {
            self.calling.forget();
        }
        if self.calling.expire(now) {
            self.waiting.clear();
        }
        if self.timers.take_silence(now) {
            self.calling.want(now);
        }
        if self.timers.take_keepalive(now) {
            return self.seal(&[], now, out);
        }
        0
    }

    fn jitter(&self) -> Duration {
        jitter(self.id.number, self.calling.count())
    }

    // --- handshakes ---

    /// Starts a handshake now, whatever is under way.
    pub fn initiate(&mut self, now: Instant) {
        self.timers.handle_start(now);
        self.calling.start(now);
    }

    /// Whether [`Self::poll_job`] would begin a handshake now.
    pub fn wants_handshake(&self, now: Instant) -> bool {
        self.calling.is_due(now) && !self.slots.is_lent(self.slots.caller())
    }

    /// Whether [`Self::poll_job`] may have something, where this end can begin a handshake.
    pub fn wants_job(&self, now: Instant) -> bool {
        let stale = self.slots.stale_slot(|slot| self.is_live(slot));
        self.wants_handshake(now) || !self.later.is_empty() || stale.is_some()
    }

    /// The next step that can be done now: what has come for a handshake, an initiation that is due (if this end knows where to send
    /// it: `can_begin`), old keys to be forgotten. No more than three are under way at a time. `wall` is the time since 1970.
    pub fn poll_job(
        &mut self,
        can_begin: bool,
        wall: Duration,
        now: Instant,
    ) -> Option<HandshakeJob<R>> {
        self.slots.note_clock(wall, now);
        if let Some(job) = self.poll_later() {
            return Some(job);
        }
        if can_begin && self.wants_handshake(now) {
            if self.keys.iter().next().is_none() && self.slots.renew(wall, now) {
                self.newest = self.newest.take().map(|(message, _)| (message, false));
            }
            self.calling.handle_begin(self.jitter(), now);
            return self.lend(self.slots.caller(), Task::Begin);
        }
        let slot = self.slots.stale_slot(|slot| self.is_live(slot))?;
        self.lend(slot, Task::Wipe)
    }

    /// The first of the messages that wait whose tunnel is here.
    fn poll_later(&mut self) -> Option<HandshakeJob<R>> {
        let calling = &self.calling;
        self.later.retain(|later| match later {
            Later::Response(message, _) => calling.is_for(index_at(&**message, 8)),
            Later::Initiation(..) => true,
        });
        let slot = |later: &Later<R>, slots: &Slots| match later {
            Later::Initiation(..) => slots.answerer(),
            Later::Response(..) => slots.caller(),
        };
        let here = |later: &Later<R>| !self.slots.is_lent(slot(later, &self.slots));
        let at = self.later.iter().position(here)?;
        match self.later.remove(at)? {
            Later::Initiation(message, reply_to) => {
                let newest = match &self.newest {
                    Some((newest, false)) => Some(newest.clone()),
                    _ => None,
                };
                let task = Task::Answer {
                    message,
                    newest,
                    reply_to,
                };
                self.lend(self.slots.answerer(), task)
            }
            Later::Response(message, reply_to) => {
                self.lend(self.slots.caller(), Task::Finish { message, reply_to })
            }
        }
    }

    fn lend(&mut self, slot: usize, task: Task<R>) -> Option<HandshakeJob<R>> {
        let live = self.is_live(slot);
        let loan = self.slots.lend(slot, live)?;
        Some(HandshakeJob::step(self.id, loan, task))
    }

    /// Somebody with the peer's static key asks for new keys; returns whether that is worth a job. A copy of the initiation that was
    /// answered last is not.
    pub fn handle_asker(&mut self, asker: &Asker<R>) -> bool {
        let known = |(newest, _): &(Box<Initiation>, bool)| *newest == asker.message;
        let waiting = |later: &&Later<R>| matches!(later, Later::Initiation(..));
        let full = self.later.iter().filter(waiting).count() >= MAX_LATER;
        if full || self.newest.as_ref().is_some_and(known) {
            return false;
        }
        let later = Later::Initiation(asker.message.clone(), asker.reply_to);
        self.later.push_back(later);
        true
    }

    /// A response or a cookie has come for this session; returns whether it makes sense.
    pub fn handle_answer(&mut self, datagram: &[u8], reply_to: R) -> bool {
        let message = match datagram {
            [COOKIE_REPLY, 0, 0, 0, ..] if datagram.len() == COOKIE_REPLY_LENGTH => {
                return self.handle_cookie(datagram);
            }
            [RESPONSE, 0, 0, 0, ..] => <Response>::try_from(datagram),
            _ => return false,
        };
        let Ok(message) = message else {
            return false;
        };
        let waiting = |later: &&Later<R>| matches!(later, Later::Response(..));
        let full = self.later.iter().filter(waiting).count() >= MAX_LATER;
        if full || !self.calling.is_for(index_at(&message, 8)) {
            return false;
        }
        let same =
            |later: &Later<R>| matches!(later, Later::Response(known, _) if **known == message);
        if !self.later.iter().any(same) {
            let later = Later::Response(Box::new(message), reply_to);
            self.later.push_back(later);
        }
        true
    }

    /// The peer is under load; returns whether the cookie is for what this session has sent last.
    fn handle_cookie(&mut self, datagram: &[u8]) -> bool {
        let slot = slot_of(index_at(datagram, 4));
        let tunnel = self.slots.at(slot);
        let mut room = [0; COOKIE_REPLY_LENGTH];
        tunnel.is_some_and(|tunnel| {
            let taken = tunnel.decapsulate(None, datagram, &mut room);
            matches!(taken, TunnResult::Done)
        })
    }

    /// A step has been done. Ask [`Self::poll_job`] for the next one.
    pub fn handle_step(&mut self, step: Step<R>, now: Instant) -> Outcome<R> {
        let Step {
            session,
            loan,
            done,
        } = step;
        // The step of a session that is gone, whose number has been given again.
        if session != self.id {
            return Outcome::Nothing;
        }
        self.slots.take_back(loan);
        match done {
            Done::Begun(message) => match message {
                Some(message) if self.calling.handle_begun(index_at(&*message, 4)) => {
                    Outcome::Send {
                        reply_to: None,
                        message: message.to_vec(),
                    }
                }
                _ => Outcome::Nothing,
            },
            Done::Answered {
                response,
                message,
                reply_to,
            } => self.handle_answered(response, message, reply_to, now),
            Done::Finished {
                local,
                confirmation,
                reply_to,
            } => match confirmation {
                Some(confirmation) if self.calling.is_for(local) => {
                    let mut keys = Keys::new(local, true, now);
                    keys.sent = 1;
                    self.establish(keys, now);
                    // It is no data, so no answer to it is waited for.
                    self.timers.handle_sent(false, Duration::default, now);
                    Outcome::Established {
                        reply_to,
                        confirmation: confirmation.to_vec(),
                    }
                }
                Some(_) => {
                    self.slots.mark_stale(slot_of(local));
                    Outcome::Nothing
                }
                None => Outcome::Refused,
            },
            Done::Wiped => Outcome::Nothing,
        }
    }

    /// The response is there: its keys are good as soon as the peer uses them.
    fn handle_answered(
        &mut self,
        response: Option<Box<Response>>,
        message: Box<Initiation>,
        reply_to: R,
        now: Instant,
    ) -> Outcome<R> {
        if let Some((_, seen)) = &mut self.newest {
            *seen = true;
        }
        let Some(response) = response else {
            return Outcome::Refused;
        };
        let superseded = std::mem::replace(&mut self.keys.superseded, self.keys.next);
        self.drop_keys(superseded);
        self.newest = Some((message, true));
        self.keys.next = Some(Keys::new(index_at(&*response, 4), false, now));
        Outcome::Send {
            reply_to: Some(reply_to),
            message: response.to_vec(),
        }
    }
}

/// Appends a data message with the padded packet; returns its length, or 0 if the tunnel has no keys.
fn seal_with(tunnel: &mut Tunn, packet: &[u8], mtu: usize, out: &mut Buffer) -> usize {
    let (padded, sealed) = (
        padded_length(packet.len(), mtu),
        sealed_length(packet.len(), mtu),
    );
    let padding = padded != packet.len();
    // boringtun takes the plaintext from elsewhere; where it must be padded, that is behind the message.
    let room = sealed + if padding { padded } else { 0 };
    out.append_with(room, |slot| {
        let (message, rest) = slot.split_at_mut(sealed);
        let plaintext = if padding {
            rest[..packet.len()].copy_from_slice(packet);
            rest[packet.len()..].fill(0);
            &*rest
        } else {
            packet
        };
        match tunnel.encapsulate(plaintext, message) {
            TunnResult::WriteToNetwork([DATA, rest @ ..]) => rest.len() + 1,
            _ => 0,
        }
    })
}

/// Opens a data message, which is at least [`OVERHEAD`] long, and appends what is in it.
fn open_with(tunnel: &mut Tunn, datagram: &[u8], out: &mut Batch) -> Opened {
    let mut opened = Opened::Refused;
    out.push_with(datagram.len(), |slot| {
        let length = match tunnel.decapsulate(None, datagram, slot) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                packet.len()
            }
            // Authentic: header and length were looked at before. What is in it stands in the slot all the same.
            TunnResult::Err(WireGuardError::InvalidPacket) => {
                datagram.len().saturating_sub(OVERHEAD)
            }
            TunnResult::Done => {
                opened = Opened::Keepalive;
                return None;
            }
            TunnResult::Err(_) | TunnResult::WriteToNetwork(_) => return None,
        };
        opened = Opened::Packet;
        Some(length)
    });
    opened
}
