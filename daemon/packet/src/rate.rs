//! How often something may happen.

use std::time::{Duration, Instant};

/// So many at once, and after that one more in each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// What may happen at once after a pause.
    pub burst: u32,
    /// The time in which one more is gained; not zero.
    pub interval: Duration,
}

/// A full bucket of tokens at first; each event takes one, and time brings them back.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    tokens: u32,
    /// Up to when tokens have been credited.
    since: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            tokens: rate.burst,
            since: None,
        }
    }

    /// Takes a token, if there is one at `now`.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_above(0, now)
    }

    /// Takes a token, if more than `reserve` are there at `now`.
    pub fn take_above(&mut self, reserve: u32, now: Instant) -> bool {
        self.credit(now);
        let taken = self.tokens > reserve;
        self.tokens -= u32::from(taken);
        taken
    }

    /// From when on [`Self::take_above`] succeeds with this `reserve`; `None` before anything was taken.
    pub fn ready_at(&self, reserve: u32) -> Option<Instant> {
        let missing = (reserve + 1).saturating_sub(self.tokens);
        Some(self.since? + self.rate.interval * missing)
    }

    /// Whether there is a token at `now`.
    pub fn holds(&mut self, now: Instant) -> bool {
        self.credit(now);
        self.tokens > 0
    }

    fn credit(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let interval = self.rate.interval.as_nanos().max(1);
        let elapsed = now.saturating_duration_since(since).as_nanos();
        let gained = u32::try_from(elapsed / interval).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(gained) >= self.rate.burst {
            (self.tokens, self.since) = (self.rate.burst, Some(now));
        } else {
            self.tokens += gained;
            self.since = Some(since + self.rate.interval * gained);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 3,
        interval: Duration::from_millis(100),
    };

    #[test]
    fn a_burst_passes_and_after_that_one_in_each_interval() {
        let start = crate::start::start();
        let mut bucket = TokenBucket::new(Rate {
            burst: 3,
            interval: Duration::from_millis(10),
        });
        let mut passed = |ms| {
            let now = start + Duration::from_millis(ms);
            std::iter::from_fn(|| bucket.take(now).then_some(())).count()
        };
        assert_eq!(passed(0), 3);
        assert_eq!(passed(9), 0);
        // The half of an interval that is over counts later.
        assert_eq!(passed(15), 1);
        assert_eq!(passed(20), 1);
        assert_eq!(passed(3_600_000), 3, "no more than the burst");
        assert_eq!(passed(3_600_009), 0);
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_in_each_interval_however_often_it_is_asked() {
        let start = crate::start::start();
        let mut bucket = TokenBucket::new(RATE);
        let taken: u32 = (0..10_000)
            .map(|ms| u32::from(bucket.take(start + Duration::from_millis(ms))))
            .sum();
        assert_eq!(taken, 3 + 99);
        // However long it stands, it holds no more than the burst.
        let later = start + Duration::from_secs(1000);
        let taken = (0..9).filter(|_| bucket.take(later)).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn a_bucket_says_when_it_gives_again() {
        let start = crate::start::start();
        let mut bucket = TokenBucket::new(RATE);
        assert!(bucket.take_above(2, start));
        assert!(!bucket.take_above(2, start));
        assert_eq!(bucket.ready_at(2), Some(start + RATE.interval));
        assert!(bucket.take(start) && bucket.take(start) && !bucket.take(start));
        assert_eq!(bucket.ready_at(2), Some(start + 3 * RATE.interval));
        assert!(!bucket.take_above(2, start + 3 * RATE.interval - Duration::from_nanos(1)));
        assert!(bucket.take_above(2, start + 3 * RATE.interval));
    }
}
