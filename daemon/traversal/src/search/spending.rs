//! What a search costs, and when it may send the next packet.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::ends::MappingScope;
use crate::pace::Pace;
use crate::plan::{Caps, Step};
use crate::report::{Outcome, StepReport};

/// Packets leave in bursts of this interval.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// A sender that was kept waiting does not make up for more than this.
const MAX_BURST: Duration = Duration::from_millis(25);

/// The packets and mappings that a search has spent.
#[derive(Debug)]
pub(super) struct Spending {
    /// Mappings that the search may make: what other attempts have left of the cap.
    allowance: u32,
    /// Sockets and the addresses to which they have sent, where each such pair is a mapping.
    reached: BTreeSet<(usize, IpAddr)>,
    report: StepReport,
}

impl Spending {
    pub(super) fn new(step: &Step, allowance: u32) -> Self {
        Self {
            allowance,
            reached: BTreeSet::new(),
            report: StepReport::new(step, Outcome::Running),
        }
    }

    /// What the search has cost so far; the time that it has taken is set by [`Self::end`].
    pub(super) fn report(&self) -> &StepReport {
        &self.report
    }

    /// Whether the search may make no more mappings.
    pub(super) fn has_spent_mappings(&self) -> bool {
        self.report.mappings >= self.allowance
    }

    /// Whether the search may send nothing more, of which `limit` packets are the most.
    pub(super) fn has_spent_all(&self, limit: u32) -> bool {
        self.report.packets >= limit || self.has_spent_mappings()
    }

    /// A socket that the search wanted could not be opened.
    pub(super) fn count_refused_socket(&mut self) {
        self.report.refused_sockets += 1;
    }

    /// A packet leaves now.
    pub(super) fn count_packet(&mut self, pace: &mut Pace, now: Instant) {
        pace.count(now);
        self.report.packets += 1;
        self.report.peak_rate = self.report.peak_rate.max(pace.recent(now));
    }

    /// A packet makes a mapping.
    pub(super) fn count_mapping(&mut self) {
        self.report.mappings += 1;
    }

    /// A packet goes from a socket to `to`: counts the mapping that it makes, if it makes one. `fresh` tells whether the packet
    /// goes there for the first time, `first` whether it is the first of its socket.
    pub(super) fn count_destination(
        &mut self,
        scope: MappingScope,
        socket: usize,
        to: SocketAddr,
        fresh: bool,
        first: bool,
    ) {
        let makes_one = match scope {
            MappingScope::Endpoint => fresh,
            MappingScope::Address => self.reached.insert((socket, to.ip())),
            MappingScope::Socket => fresh && first,
        };
        if makes_one {
            self.count_mapping();
        }
    }

    /// The search is over.
    pub(super) fn end(&mut self, outcome: Outcome, took: Duration) {
        self.report.took = took;
        self.report.outcome = outcome;
    }
}

/// Lets packets go at the budget's rate, in bursts.
#[derive(Debug)]
pub(super) struct Ticks {
    last: Instant,
    tokens: f64,
}

impl Ticks {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            tokens: 0.0,
        }
    }

    /// When the next burst is due.
    pub(super) fn next(&self) -> Instant {
        self.last + TICK
    }

    /// Makes the next burst due at `at`.
    pub(super) fn schedule(&mut self, at: Instant) {
        self.last = at.checked_sub(TICK).unwrap_or(at);
    }

    /// A burst begins in which at most `room` packets may leave.
    pub(super) fn refill(&mut self, caps: Caps, room: u32, now: Instant) {
        let elapsed = now.saturating_duration_since(self.last).min(MAX_BURST);
        self.last = now;
        // A little below the cap: checks need room too.
        self.tokens += elapsed.as_secs_f64() * f64::from(caps.rate) * 0.97;
        // What has no room now does not pile up.
        self.tokens = self.tokens.min(f64::from(room) + 1.0);
    }

    /// Whether one more packet may leave in this burst.
    pub(super) fn has_token(&self) -> bool {
        self.tokens >= 1.0
    }

    /// A packet leaves.
    pub(super) fn spend(&mut self) {
        self.tokens -= 1.0;
    }

    /// What is left of this burst is not used.
    pub(super) fn clear(&mut self) {
        self.tokens = 0.0;
    }
}
