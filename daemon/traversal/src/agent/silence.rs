//! Whether anything comes back over a path that packets go out over.
//!
//! Nearly all traffic goes both ways: TCP acknowledges, pings are answered. Where packets go out and none comes in, the path may be
//! dead, and a check tells long before the next one would be due. Traffic that goes only out costs a check a second of each path
//! that answers by this.

use std::time::{Duration, Instant};

/// Packets that go out for so long while none comes in set off a check.
const PATIENCE: Duration = Duration::from_millis(700);

/// Bytes of the tunnel with one peer, as a kind of path sees them: what comes in over another kind says nothing of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes that have left, over whatever path.
    pub sent: u64,
    /// Bytes that have come in over this kind of path.
    pub received: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    traffic: Traffic,
    /// When a check is due: some time after the first packet that has left since one has come in.
    due: Option<Instant>,
    /// When a check was last due because the peer's packets came another way.
    detour: Option<Instant>,
}

impl Silence {
    /// So many bytes have been exchanged by now; returns whether some have come in.
    pub(crate) fn handle_traffic(&mut self, traffic: Traffic, now: Instant) -> bool {
        let has_received = traffic.received != self.traffic.received;
        if has_received {
            self.due = None;
        } else if traffic.sent != self.traffic.sent {
            self.due.get_or_insert(now + PATIENCE);
        }
        self.traffic = traffic;
        has_received
    }

    /// The peer's packets come another way: a check is due at once, but not more often than by silence.
    pub(crate) fn handle_detour(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < PATIENCE;
        if !self.detour.is_some_and(lately) {
            (self.detour, self.due) = (Some(now), Some(now));
        }
    }

    /// The path has answered.
    pub(crate) fn handle_answer(&mut self) {
        self.due = None;
    }

    /// Whether it has lasted too long; asked once.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if due {
            self.due = None;
        }
        due
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.due
    }
}
