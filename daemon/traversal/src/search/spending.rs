//! What a search costs, and when it may send the next packet.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::ends::MappingScope;
use crate::capacity::Caps;
use crate::pace::Pace;
use crate::plan::Step;
use crate::report::{Outcome, StepReport};

/// Packets leave in bursts of this interval.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// A sender that was kept waiting does not make up for more than this.
const MAX_BURST: Duration = Duration::from_millis(25);

/// The mappings that a search may make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// In all: what other attempts have left of the cap.
    pub(crate) all: u32,
    /// Before others are known to still get theirs.
    pub(crate) first: u32,
    /// Those of the canaries that are still to come when the search has made all others.
    pub(crate) last_canaries: u32,
}

/// The packets and mappings that a search has spent.
#[derive(Debug)]
pub(super) struct Spending {
    /// Mappings that the search may make in all.
    allowance: u32,
    /// Mappings that it may make in this stage and those before, and when they were made.
    stage: u32,
    stage_ended: Option<Instant>,
    /// Sockets and the addresses to which they have sent, where each such pair is a mapping.
    reached: BTreeSet<(usize, IpAddr)>,
    /// Packets that only looked whether others still get theirs.
    canaries: u32,
    report: StepReport,
}

impl Spending {
    pub(super) fn new(step: &Step, allowance: Allowance) -> Self {
        Self {
            allowance: allowance.all.saturating_sub(allowance.last_canaries),
            stage: allowance.first.max(1),
            stage_ended: None,
            reached: BTreeSet::new(),
            canaries: 0,
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

    /// Whether the search has to wait for the next stage.
    pub(super) fn has_spent_stage(&mut self, now: Instant) -> bool {
        let spent = self.report.mappings >= self.stage && !self.has_spent_mappings();
        if spent {
            self.stage_ended.get_or_insert(now);
        }
        spent
    }

    /// When the stage was spent; `None` while there is something left of it.
    pub(super) fn stage_ended(&self) -> Option<Instant> {
        self.stage_ended
    }

    /// The next stage is as long as all those before.
    pub(super) fn begin_stage(&mut self) {
        self.stage = self.stage.saturating_mul(2);
        self.stage_ended = None;
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

    /// A canary leaves now: `fresh` tells whether it makes a mapping.
    pub(super) fn count_canary(&mut self, pace: &mut Pace, fresh: bool, now: Instant) {
        self.count_packet(pace, now);
        self.canaries += 1;
        if fresh {
            self.count_mapping();
        }
    }

    /// Whether the search has sent anything beside its canaries.
    pub(super) fn has_sent(&self) -> bool {
        self.report.packets > self.canaries
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
    /// Nothing leaves before.
    begins: Instant,
}

impl Ticks {
    /// The first burst is due at `begins` at the earliest.
    pub(super) fn new(now: Instant, begins: Instant) -> Self {
        Self {
            last: now,
            tokens: 0.0,
            begins,
        }
    }

    /// When the next burst is due.
    pub(super) fn next(&self) -> Instant {
        self.last + TICK
    }

    /// Makes the next burst due at `at`, if none has to wait longer.
    pub(super) fn schedule(&mut self, at: Instant) {
        let at = at.max(self.begins);
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
