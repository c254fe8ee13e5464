//! Waiting for a peer that may not have read the answer yet: it comes over a channel that takes its time.
//!
//! The one who answers keeps its NAT open meanwhile by few packets, so that the other's first check gets in whenever it comes. The one who
//! has read the answer checks as always, and goes on gently where nothing has come of that: its peer may just be searching.

use std::time::{Duration, Instant};

use super::config::AgentConfig;
use crate::pair::{Pair, State};

/// Between two checks of a pair at first, and in the end.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The pause is this part of what the waiting has taken.
const PART: u32 = 6;
/// How much later than it would otherwise a search begins of a side whose answer is still under way.
pub(super) const SEARCH_DELAY: Duration = Duration::from_secs(4);
/// Between a search that has found nothing and the next one; who may search how often is for others to say.
pub(super) const SEARCH_PAUSE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Patience {
    began: Instant,
    until: Option<Instant>,
    /// Whether the peer hears of this side later than this side of the peer.
    answers: bool,
}

impl Patience {
    pub(super) fn new(config: &AgentConfig, now: Instant) -> Self {
        Self {
            began: now,
            until: config.patience.map(|patience| now + patience),
            answers: config.answers,
        }
    }

    /// Whether the peer may not know of this attempt yet.
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Whether a pair has not answered, and is checked gently now.
    pub(super) fn is_for(&self, pair: &Pair) -> bool {
        let silent = matches!(pair.state, State::Probing { .. });
        self.is_on() && silent && (self.answers || pair.exhausted())
    }

    /// The pause until a pair's next gentle check; `jitter` is 0 to 1.
    pub(super) fn pause(&self, jitter: f64, now: Instant) -> Duration {
        let waited = now.saturating_duration_since(self.began);
        let pause = (waited / PART).clamp(FIRST_PAUSE, LAST_PAUSE);
        pause.mul_f64(0.9 + 0.2 * jitter)
    }

    /// The peer is heard: returns whether it was waited for.
    pub(super) fn end(&mut self) -> bool {
        self.until.take().is_some()
    }

    /// Ends the waiting when it was long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        self.until = self.until.filter(|until| *until > now);
    }

    /// When [`Self::expire`] does something.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.until
    }
}
