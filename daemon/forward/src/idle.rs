//! Whether the client of a quiet connection is still there.
//!
//! A client that loses its power says nothing, and this host's own TCP answers the keepalives of the target; so what the target
//! would notice by itself must be noticed here. A quiet client is probed after a while, and more and more seldom as long as it
//! answers: ten thousand quiet connections cost some forty small packets a second. One that does not answer although its
//! machine does has vanished within seconds. Where its machine is away, nothing can be learnt: a laptop that sleeps through its
//! lunch keeps its connections, as it does with data that it has not acknowledged.

use std::time::{Duration, Instant};

/// The first probe follows so long after the last sign of life, each further one after twice as long.
const FIRST: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(240);
/// Probes that are not answered follow each other after this.
const RETRY: Duration = Duration::from_secs(3);
/// So many without an answer mean that the client has vanished: six lost in a row are nobody's bad luck.
const PROBES: u32 = 6;
/// Nothing acknowledged for so long, though the client's machine is there, means the same; it is repeated more and more seldom, so
/// this is longer. Linux gives up after a quarter of an hour.
const UNHEARD: Duration = Duration::from_secs(600);
/// While it is not known whether the machine is there, it is asked, or looked for, this often.
const AWAY: Duration = Duration::from_secs(60);
/// A machine that is away keeps its connections so long (RFC 9293 §3.8.3 suggests at least 100 s for what is not acknowledged).
pub(crate) const GIVE_UP: Duration = Duration::from_secs(3600);

/// What is known of the client's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It answers on the path to it.
    Here,
    /// It has no path.
    Away,
    /// Nothing is known: a plain WireGuard peer says nothing by itself.
    Unknown,
}

/// What is to be done about a quiet client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// It is asked now, and again and again until it is heard.
    Probe {
        every: Duration,
    },
    /// It has vanished.
    GiveUp,
}

/// What the connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// Nothing: it is quiet.
    Nothing,
    /// An acknowledgement, which is asked for already.
    Acknowledgement,
    /// Its end, which has a timer of its own.
    End,
}

#[derive(Debug)]
pub(crate) struct Idle {
    heard: Instant,
    pace: Duration,
    unanswered: u32,
    /// Since then the machine is there, and the client silent.
    ignored_since: Option<Instant>,
    look_at: Instant,
}

impl Idle {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            pace: FIRST,
            unanswered: 0,
            ignored_since: None,
            look_at: now + FIRST,
        }
    }

    /// The client has sent something, be it an acknowledgement.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.ignored_since = None;
        if std::mem::take(&mut self.unanswered) > 0 {
            self.pace = (2 * self.pace).min(LONGEST);
        }
    }

    /// Bytes go one way or the other.
    pub(crate) fn busy(&mut self, now: Instant) {
        if self.pace > FIRST {
            self.pace = FIRST;
            self.look_at = self.look_at.min(now + FIRST);
        }
    }

    /// When [`Self::look`] has something to do. It is not moved by every packet.
    pub(crate) fn next(&self) -> Instant {
        self.look_at
    }

    pub(crate) fn look(&mut self, presence: Presence, awaits: Awaits, now: Instant) -> Due {
        if now < self.look_at {
            return Due::Nothing;
        }
        let quiet_until = match awaits {
            Awaits::Nothing => self.heard + self.pace,
            Awaits::Acknowledgement => self.heard + FIRST,
            Awaits::End => now + FIRST,
        };
        if now < quiet_until {
            self.look_at = quiet_until;
            return Due::Nothing;
        }
        let silent = now.saturating_duration_since(self.heard);
        if silent >= GIVE_UP {
            return Due::GiveUp;
        }
        if presence != Presence::Here {
            self.unanswered = 0;
            self.ignored_since = None;
            self.look_at = now + AWAY;
            let asks = presence == Presence::Unknown && awaits == Awaits::Nothing;
            return if asks {
                Due::Probe { every: AWAY }
            } else {
                Due::Nothing
            };
        }
        let ignored_since = *self.ignored_since.get_or_insert(now);
        if awaits == Awaits::Acknowledgement {
            self.look_at = now + FIRST;
            let ignored = now.saturating_duration_since(ignored_since);
            return if ignored >= UNHEARD {
                Due::GiveUp
            } else {
                Due::Nothing
            };
        }
        if self.unanswered >= PROBES {
            return Due::GiveUp;
        }
        self.unanswered += 1;
        self.look_at = now + RETRY;
        Due::Probe { every: RETRY }
    }
}
