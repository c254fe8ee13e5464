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
    /// Tokens are gained from here on.
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
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        let gained = elapsed.as_nanos() / self.rate.interval.as_nanos().max(1);
        if gained > 0 {
            let missing = self.rate.burst - self.tokens;
            match u32::try_from(gained) {
                Ok(gained) if gained < missing => {
                    self.tokens += gained;
                    self.since = Some(since + self.rate.interval * gained);
                }
                _ => {
                    self.tokens = self.rate.burst;
                    self.since = Some(now);
                }
            }
        }
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
