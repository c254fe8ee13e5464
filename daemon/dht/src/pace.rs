//! How many queries may go out: what somebody waits for has its own allowance, and what goes on for ever a smaller one.

use std::time::{Duration, Instant};

/// Why something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for it.
    Soon,
    /// It goes on as long as the program runs.
    Idle,
}

/// Queries in a minute that somebody waits for, and how many of them at once.
const SOON: (u32, u32) = (600, 150);
/// Queries in a minute that nobody waits for, and how many of them at once. With an answer to each they are 150 packets a minute.
const IDLE: (u32, u32) = (75, 15);

/// An allowance that fills by itself.
#[derive(Debug)]
struct Allowance {
    interval: Duration,
    burst: Duration,
    /// When it is full.
    full_at: Option<Instant>,
}

impl Allowance {
    fn new((per_minute, burst): (u32, u32)) -> Self {
        let interval = Duration::from_secs(60) / per_minute;
        Self {
            interval,
            burst: interval * burst,
            full_at: None,
        }
    }

    fn ready_at(&self, now: Instant) -> Instant {
        let next = self.full_at.unwrap_or(now).max(now) + self.interval;
        next.checked_sub(self.burst).map_or(now, |at| at.max(now))
    }

    fn take(&mut self, now: Instant) {
        self.full_at = Some(self.full_at.unwrap_or(now).max(now) + self.interval);
    }
}

/// The allowances of a client.
#[derive(Debug)]
pub(crate) struct Pace {
    soon: Allowance,
    idle: Allowance,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            soon: Allowance::new(SOON),
            idle: Allowance::new(IDLE),
        }
    }

    fn of(&mut self, urgency: Urgency) -> &mut Allowance {
        match urgency {
            Urgency::Soon => &mut self.soon,
            Urgency::Idle => &mut self.idle,
        }
    }

    /// When the next query may go out: `now`, or later.
    pub(crate) fn ready_at(&mut self, urgency: Urgency, now: Instant) -> Instant {
        self.of(urgency).ready_at(now)
    }

    /// A query goes out.
    pub(crate) fn take(&mut self, urgency: Urgency, now: Instant) {
        self.of(urgency).take(now);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some moment")]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_queries_and_no_more() {
        for (urgency, (per_minute, burst)) in [(Urgency::Soon, SOON), (Urgency::Idle, IDLE)] {
            let mut pace = Pace::new();
            let start = Instant::now();
            let mut sent = 0;
            for ms in 0..60_000 {
                let now = start + Duration::from_millis(ms);
                while pace.ready_at(urgency, now) <= now {
                    pace.take(urgency, now);
                    sent += 1;
                }
            }
            assert!(sent <= per_minute + burst, "{urgency:?}: {sent}");
            assert!(sent + 2 >= per_minute + burst, "{urgency:?}: {sent}");
        }
    }
}
