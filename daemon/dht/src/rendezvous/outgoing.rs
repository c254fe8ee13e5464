//! The newest envelope for the other machine, and when it is published.

use std::time::{Duration, Instant};

use punch_signal_protocol::seal::Kind;

use super::Moment;
use crate::client::Urgency;

/// Items live for about two hours where they are stored (BEP 44): they are stored again after half of that at the latest.
const AGAIN: Duration = Duration::from_secs(45 * 60);
/// After so long an envelope is of no use to anybody.
const KEPT: Duration = Duration::from_secs(2 * 60 * 60);
/// The pause after nobody has taken it; each further one is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(5 * 60);

pub(super) struct Outgoing {
    pub(super) envelope: Vec<u8>,
    pub(super) seq: i64,
    since: Instant,
    pub(super) due: Instant,
    under_way: bool,
    /// Whether another envelope has come while it was on its way.
    changed: bool,
    failures: u32,
    /// Whether somebody waits for it.
    pub(super) urgency: Urgency,
}

impl Outgoing {
    pub(super) fn new(envelope: Vec<u8>, seq: i64, at: Moment) -> Self {
        Self {
            envelope,
            seq,
            since: at.now,
            due: at.now,
            under_way: false,
            changed: false,
            failures: 0,
            urgency: Urgency::Soon,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        !self.under_way
    }

    pub(super) fn is_fresh(&self, at: Moment) -> bool {
        at.now.duration_since(self.since) < KEPT
    }

    /// Whether it calls the other machine, and answers nothing.
    pub(super) fn is_offer(&self) -> bool {
        Kind::of(&self.envelope) == Some(Kind::Offer)
    }

    pub(super) fn started(&mut self) {
        self.under_way = true;
    }

    /// It is published under another key now; what becomes of it under the old one is nobody's business.
    pub(super) fn turn_over(&mut self, at: Moment) {
        self.due = at.now;
        self.under_way = false;
        self.changed = false;
    }

    /// It is published anew, once it is not under way.
    pub(super) fn move_on(&mut self, at: Moment) {
        self.due = at.now;
        self.changed |= self.under_way;
    }

    /// Nodes have a newer item of the same key: this one has to be newer still.
    pub(super) fn outbid(&mut self, seq: i64, at: Moment) {
        self.seq = self.seq.max(seq);
        self.move_on(at);
    }

    pub(super) fn done(&mut self, stored: usize, spread: f64, at: Moment) {
        self.under_way = false;
        if std::mem::take(&mut self.changed) {
            return;
        }
        let pause = if stored > 0 {
            self.failures = 0;
            self.urgency = Urgency::Idle;
            AGAIN.mul_f64(0.67 + spread * 0.66)
        } else {
            self.failures += 1;
            let pause = PAUSE * 2_u32.saturating_pow(self.failures.min(10) - 1);
            pause.min(LONGEST).mul_f64(0.75 + spread / 2.0)
        };
        self.due = at.now + pause;
    }
}
