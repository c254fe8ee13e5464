//! When a session wants new keys and when it sends an empty packet (§6.1 to §6.5).

use std::time::{Duration, Instant};

use crate::keys::REJECT_AFTER;

/// Whoever began a handshake begins the next when it sends and the keys are so old,
pub(crate) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// or when it receives and they end soon.
pub(crate) const REKEY_BEFORE_END: Duration = Duration::from_secs(165);
/// An initiation is repeated after this and up to a third of a second (§6.4),
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const JITTER_MS: u64 = 334;
/// for so long.
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// Data that is not answered by data is answered by an empty packet (§6.5).
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Data that is not answered at all for so long: the peer may have lost its keys.
const SILENCE: Duration = Duration::from_secs(15);
/// An initiation without a response is forgotten so long after the last handshake (§6.3).
const FORGET_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER.as_secs());

/// This end's attempt at new keys.
#[derive(Debug, Default)]
pub(crate) struct Calling {
    attempt: Option<Attempt>,
    /// The index in the newest initiation, which a response must be for.
    pending: Option<u32>,
    last_initiation: Option<Instant>,
}

#[derive(Debug)]
struct Attempt {
    since: Instant,
    /// When the next initiation is to be sent.
    next: Instant,
    count: u32,
}

impl Calling {
    /// Begins an attempt, if none is under way, though not sooner than the last initiation allows.
    pub(crate) fn want(&mut self, now: Instant) {
        let earliest = self.last_initiation.map(|last| last + REKEY_TIMEOUT);
        self.attempt.get_or_insert(Attempt {
            since: now,
            next: earliest.map_or(now, |earliest| earliest.max(now)),
            count: 0,
        });
    }

    /// Begins an attempt now, whatever is under way.
    pub(crate) fn start(&mut self, now: Instant) {
        self.attempt = Some(Attempt {
            since: now,
            next: now,
            count: 0,
        });
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.attempt
            .as_ref()
            .is_some_and(|attempt| attempt.next <= now)
    }

    pub(crate) fn count(&self) -> u32 {
        self.attempt.as_ref().map_or(0, |attempt| attempt.count)
    }

    /// An initiation is being made.
    pub(crate) fn handle_begin(&mut self, jitter: Duration, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.next = now + REKEY_TIMEOUT + jitter;
            attempt.count = attempt.count.saturating_add(1);
        }
        self.last_initiation = Some(now);
    }

    /// An initiation with this index is sent, if the attempt goes on; returns whether it does.
    pub(crate) fn handle_begun(&mut self, local: u32) -> bool {
        self.pending = self.attempt.as_ref().map(|_| local);
        self.pending.is_some()
    }

    /// Whether a response for this index is waited for.
    pub(crate) fn is_for(&self, local: u32) -> bool {
        self.pending == Some(local)
    }

    /// There are new keys. With `own`, those that this end has asked for.
    pub(crate) fn handle_established(&mut self, own: bool) {
        self.attempt = None;
        if own {
            self.pending = None;
        }
    }

    /// The last handshake was so long ago that an initiation from before is not waited for any more.
    pub(crate) fn forget(&mut self) {
        self.pending = None;
    }

    /// Ends an attempt that has taken too long; returns whether it has.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let over = self
            .attempt
            .take_if(|attempt| attempt.since + REKEY_ATTEMPT <= now);
        if over.is_some() {
            self.pending = None;
        }
        over.is_some()
    }
}

/// When something is sent that nobody has asked for.
#[derive(Debug)]
pub(crate) struct Timers {
    /// The interval of packets that keep a path open.
    persistent: Option<Duration>,
    keepalive_at: Option<Instant>,
    silence_at: Option<Instant>,
    last_packet: Option<Instant>,
    established_at: Option<Instant>,
}

impl Timers {
    pub(crate) fn new(persistent: Option<Duration>) -> Self {
        Self {
            persistent,
            keepalive_at: None,
            silence_at: None,
            last_packet: None,
            established_at: None,
        }
    }

    /// The path is to be kept open from now on, whether somebody answers or not.
    pub(crate) fn handle_start(&mut self, now: Instant) {
        self.last_packet.get_or_insert(now);
    }

    pub(crate) fn handle_sent(
        &mut self,
        is_data: bool,
        jitter: impl FnOnce() -> Duration,
        now: Instant,
    ) {
        self.keepalive_at = None;
        self.last_packet = Some(now);
        if is_data && self.silence_at.is_none() {
            self.silence_at = Some(now + SILENCE + jitter());
        }
    }

    pub(crate) fn handle_received(&mut self, is_data: bool, now: Instant) {
        self.silence_at = None;
        self.last_packet = Some(now);
        if is_data {
            self.keepalive_at.get_or_insert(now + KEEPALIVE);
        }
    }

    pub(crate) fn handle_established(&mut self, now: Instant) {
        self.established_at = Some(now);
        self.silence_at = None;
    }

    /// Whether the last handshake was so long ago that nothing of it is kept; once for each handshake.
    pub(crate) fn take_forgotten(&mut self, now: Instant) -> bool {
        let forgotten = |at: &mut Instant| *at + FORGET_AFTER <= now;
        self.established_at.take_if(forgotten).is_some()
    }

    /// Whether data has gone unanswered for too long; once for each time.
    pub(crate) fn take_silence(&mut self, now: Instant) -> bool {
        self.silence_at.take_if(|at| *at <= now).is_some()
    }

    /// Whether an empty packet is due; once for each time.
    pub(crate) fn take_keepalive(&mut self, now: Instant) -> bool {
        let quiet = self.persistent.zip(self.last_packet);
        let persistent = quiet.is_some_and(|(every, last)| last + every <= now);
        let answer = self.keepalive_at.is_some_and(|at| at <= now);
        if persistent || answer {
            self.keepalive_at = None;
            self.last_packet = Some(now);
        }
        persistent || answer
    }
}

/// What is added to a wait so that two ends do not act together: up to a third of a second, from the session and the attempt.
pub(crate) fn jitter(session: u32, attempts: u32) -> Duration {
    let mixed = u64::from(session) * 2_654_435_761 + u64::from(attempts) * 97;
    Duration::from_millis(mixed % JITTER_MS)
}
