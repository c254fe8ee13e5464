//! Checks over what is no pair of addresses: a link of a relay's, or a TCP connection. They tell how long the way takes and whether
//! anything comes through, which the relay itself cannot be asked. The two ends of a link know them by credentials that only their
//! exchange gives, and that no check of a direct path has: the relay sees the checks. A TCP connection has those of direct paths.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Credentials};
use punch_stun_protocol::{Message, TransactionId};

use crate::agent::{Silence, Traffic};
use crate::loss::{Loss, LossCount};
use crate::messages::Messages;

/// A check that goes unanswered is repeated after these, in milliseconds; then the link is dead. None is longer than a second: a link
/// that passes packets again must not be given up because nobody has asked it since.
const REPEAT_INTERVALS: [u64; 10] = [200, 400, 600, 1000, 1000, 1000, 1000, 1000, 1000, 1000];
/// After more checks than this without an answer anything else is better.
const SILENT: usize = 3;
/// After more checks than this a link that has never answered is worse than anything else.
const LATE: usize = 1;
/// A TCP connection loses nothing, and may lead to a program that is not the peer's: its first check is sent once, and its answer
/// awaited for so long, in milliseconds.
const FIRST_ON_STREAM: [u64; 1] = [5000];
/// Between two checks while the link carries traffic.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(3);
/// Between two checks of an idle link that serves, and of one that could take its place.
const IDLE_INTERVAL: Duration = Duration::from_secs(25);
/// A link over which a packet has come within this is alive, be the answers to checks late.
const HEARD_LATELY: Duration = Duration::from_secs(1);
/// Traffic flows for this long after the last packet.
const ACTIVITY_TIMEOUT: Duration = Duration::from_secs(6);

/// What a link is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkUse {
    /// The peer's packets go over it.
    Serves,
    /// Another link serves.
    Spare,
    /// A direct path serves, and nothing is asked of the link once it has answered.
    Behind,
}

/// What checks have shown of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkHealth {
    /// The last checks were answered.
    Answers,
    /// No check was answered yet, or none since what was known became doubtful, and the first ones may still be.
    New,
    /// The last checks were not answered.
    Silent,
    /// Nothing has come through for eight seconds.
    Dead,
}

/// Whether checks were ever answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Never,
    /// Last at this time, which says something.
    At(Instant),
    /// Before something after which that says nothing any more.
    Before,
}

/// What answers have told of the way.
#[derive(Debug, Default)]
struct Measured {
    /// The smoothed round trip.
    rtt: Option<Duration>,
    loss: LossCount,
}

/// See the module.
#[derive(Debug)]
pub struct LinkCheck {
    messages: Messages,
    /// What stands for the link where messages want an address.
    stand_in: SocketAddr,
    role: LinkUse,
    /// Whether the link is a TCP connection.
    stream: bool,
    /// Whether anything of the peer's has come.
    authentic: bool,
    answered: Answered,
    /// Checks since the last answer.
    unanswered: usize,
    measured: Measured,
    sent: VecDeque<(TransactionId, Instant)>,
    /// When the next check is due; behind a direct path none is.
    next: Option<Instant>,
    dead: bool,
    last_traffic: Option<Instant>,
    /// When an authentic packet has last come over the link.
    heard: Option<Instant>,
    silence: Silence,
    out: VecDeque<Vec<u8>>,
}

impl LinkCheck {
    /// A link that has just been made, by the ends with these credentials. `stand_in` is what messages say in place of an address.
    pub fn new(
        [local, remote]: [Credentials; 2],
        stand_in: SocketAddr,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            messages: Messages::new(local, remote, seed),
            stand_in,
            role: LinkUse::Spare,
            stream: false,
            authentic: false,
            answered: Answered::Never,
            unanswered: 0,
            measured: Measured::default(),
            sent: VecDeque::new(),
            next: Some(now),
            dead: false,
            last_traffic: None,
            heard: None,
            silence: Silence::default(),
            out: VecDeque::new(),
        }
    }

    /// The same of a TCP connection, over which one check is sent and no more until it is answered.
    pub fn over_stream(
        credentials: [Credentials; 2],
        remote: SocketAddr,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            stream: true,
            ..Self::new(credentials, remote, seed, now)
        }
    }

    // --- what comes in ---

    /// What the link is there for now.
    pub fn set_use(&mut self, role: LinkUse, now: Instant) {
        if self.role == role {
            return;
        }
        let before = std::mem::replace(&mut self.role, role);
        // Nothing was asked of it meanwhile. Relay links are compared among each other alone, and none of them was asked.
        let is_old = |at: Instant| now.saturating_duration_since(at) > IDLE_INTERVAL;
        if self.stream
            && before == LinkUse::Behind
            && matches!(self.answered, Answered::At(at) if is_old(at))
        {
            self.answered = Answered::Before;
        }
        if self.unanswered > 0 || self.dead {
            return;
        }
        // What takes over shows at once whether it can.
        let woken = role == LinkUse::Serves || before == LinkUse::Behind;
        self.next = match role {
            LinkUse::Behind if matches!(self.answered, Answered::At(_)) => None,
            _ if woken => Some(now),
            _ => self.next,
        };
    }

    /// What was known of the link may be so no longer: it is checked now, and does not count as answering until that is answered.
    pub fn verify(&mut self, now: Instant) {
        if self.has_answered() && !self.dead {
            self.answered = Answered::Before;
            self.next = Some(now);
        }
    }

    /// A message has come over the link; returns whether it is the peer's. What is not gets silence.
    pub fn handle_message(&mut self, message: &Message<'_>, now: Instant) -> bool {
        if message
            .username
            .is_some_and(|name| self.messages.is_addressed(name))
            && self.messages.is_request(message)
        {
            let answer = self.messages.answer(message.transaction, self.stand_in);
            self.out.push_back(answer);
            self.authentic = true;
            return true;
        }
        self.messages.is_success(message) && self.handle_answer(message.transaction, now)
    }

    /// Returns whether a check is answered with it that waits for that.
    fn handle_answer(&mut self, transaction: TransactionId, now: Instant) -> bool {
        let Some(index) = self.sent.iter().position(|(id, _)| *id == transaction) else {
            return false;
        };
        let (_, sent_at) = self.sent[index];
        self.sent.drain(..=index);
        // The first ones may have gone before the other end was there.
        if self.has_answered() {
            self.measured.loss.count(index, now);
        }
        let sample = now.saturating_duration_since(sent_at);
        // RFC 6298 §2.3's smoothing.
        self.measured.rtt = Some(
            self.measured
                .rtt
                .map_or(sample, |rtt| (rtt * 7 + sample) / 8),
        );
        (self.authentic, self.unanswered) = (true, 0);
        self.answered = Answered::At(now);
        self.silence.handle_answer();
        let pause = match self.role {
            LinkUse::Serves if self.is_active(now) => Some(ACTIVE_INTERVAL),
            LinkUse::Serves | LinkUse::Spare => Some(IDLE_INTERVAL),
            LinkUse::Behind => None,
        };
        let jitter = self.messages.jitter();
        self.next = pause.map(|pause| now + pause.mul_f64(0.9 + 0.1 * jitter));
        true
    }

    /// An authentic packet has come over the link: it is alive, although an answer may be late behind what waits at a bottleneck.
    pub fn handle_heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Packets of the tunnel go over the link, in either direction: so many bytes by now.
    pub fn handle_traffic(&mut self, traffic: Traffic, now: Instant) {
        self.silence.handle_traffic(traffic, now);
        if !self.is_active(now) {
            let soon = now + ACTIVE_INTERVAL;
            self.next = self.next.map(|at| at.min(soon));
        }
        self.last_traffic = Some(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.silence.take_due(now) && self.unanswered == 0 && self.role == LinkUse::Serves {
            self.next = Some(now);
        }
        if self.next.is_some_and(|at| at <= now) {
            self.check(now);
        }
    }

    fn check(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < HEARD_LATELY;
        if self.heard.is_some_and(lately) {
            // The check counts as the first one that was not answered.
            self.unanswered = self.unanswered.min(1);
        }
        let pauses = match self.stream && !self.has_answered() {
            true => &FIRST_ON_STREAM[..],
            false => &REPEAT_INTERVALS,
        };
        let Some(pause) = pauses.get(self.unanswered) else {
            (self.next, self.dead) = (None, true);
            return;
        };
        let id = self.messages.transaction();
        let worth = Candidate::new(CandidateKind::PeerReflexive, self.stand_in);
        self.out.push_back(self.messages.check(id, worth, false));
        self.sent.push_back((id, now));
        self.unanswered += 1;
        // An answer may still be under way on a long path, or behind what waits at the relay.
        let rtt = self.measured.rtt.map_or(Duration::ZERO, |rtt| 2 * rtt);
        let pause = Duration::from_millis(*pause).max(rtt.min(Duration::from_secs(2)));
        self.next = Some(now + pause);
    }

    // --- what goes out ---

    /// The next message for the other end.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.silence.next_timeout();
        let silence = silence.filter(|_| self.role == LinkUse::Serves);
        [self.next, silence].into_iter().flatten().min()
    }

    // --- what is known ---

    /// What checks have shown.
    pub fn health(&self) -> LinkHealth {
        if self.dead {
            LinkHealth::Dead
        } else if self.unanswered > if self.has_answered() { SILENT } else { LATE } {
            LinkHealth::Silent
        } else if matches!(self.answered, Answered::At(_)) {
            LinkHealth::Answers
        } else {
            LinkHealth::New
        }
    }

    /// Whether a check or an answer of the peer's has come: nothing else may be taken from the link, or sent over it, before that.
    pub fn is_heard(&self) -> bool {
        self.authentic
    }

    /// Whether a check was ever answered.
    pub fn has_answered(&self) -> bool {
        self.answered != Answered::Never
    }

    /// The smoothed round trip between the two ends.
    pub fn round_trip(&self) -> Option<Duration> {
        self.measured.rtt
    }

    /// How many of the latest checks were not answered, once there were enough.
    pub fn loss(&self, now: Instant) -> Option<Loss> {
        self.measured.loss.report(now)
    }

    fn is_active(&self, now: Instant) -> bool {
        self.last_traffic
            .is_some_and(|at| now.saturating_duration_since(at) < ACTIVITY_TIMEOUT)
    }
}
