//! How often something may happen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ServerId;

/// So many at once, and then one in each interval.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) interval: Duration,
}

/// A bucket that holds a [`Rate`].
#[derive(Debug)]
pub(crate) struct TokenBucket {
    rate: Rate,
    tokens: u32,
    /// Up to when tokens have been credited.
    since: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            tokens: rate.burst,
            since: None,
        }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_above(0, now)
    }

    /// Takes a token, if more than `reserve` are there.
    pub(crate) fn take_above(&mut self, reserve: u32, now: Instant) -> bool {
        self.credit(now);
        let taken = self.tokens > reserve;
        self.tokens -= u32::from(taken);
        taken
    }

    /// From when on [`Self::take_above`] succeeds; `None` before anything was taken.
    pub(crate) fn ready_at(&self, reserve: u32) -> Option<Instant> {
        let missing = (reserve + 1).saturating_sub(self.tokens);
        Some(self.since? + self.rate.interval * missing)
    }

    /// Whether there is a token.
    pub(crate) fn holds(&mut self, now: Instant) -> bool {
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

/// A bucket for each server: what one of them makes up bars nothing of another.
#[derive(Debug)]
pub(crate) struct ServerBuckets {
    rate: Rate,
    buckets: BTreeMap<ServerId, TokenBucket>,
}

impl ServerBuckets {
    /// A full bucket for each server.
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: BTreeMap::new(),
        }
    }

    /// Takes a token out of the server's bucket, if there is one.
    pub(crate) fn take(&mut self, server: ServerId, now: Instant) -> bool {
        self.bucket(server).take(now)
    }

    /// Whether there is a token in the server's bucket.
    pub(crate) fn holds(&mut self, server: ServerId, now: Instant) -> bool {
        self.bucket(server).holds(now)
    }

    fn bucket(&mut self, server: ServerId) -> &mut TokenBucket {
        let bucket = self.buckets.entry(server);
        bucket.or_insert_with(|| TokenBucket::new(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    const RATE: Rate = Rate {
        burst: 3,
        interval: Duration::from_millis(100),
    };

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_in_each_interval_however_often_it_is_asked() {
        let start = start();
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
        let start = start();
        let mut bucket = TokenBucket::new(RATE);
        assert!(bucket.take_above(2, start));
        assert!(!bucket.take_above(2, start));
        assert_eq!(bucket.ready_at(2), Some(start + RATE.interval));
        assert!(bucket.take(start) && bucket.take(start) && !bucket.take(start));
        assert_eq!(bucket.ready_at(2), Some(start + 3 * RATE.interval));
        assert!(!bucket.take_above(2, start + 3 * RATE.interval - Duration::from_nanos(1)));
        assert!(bucket.take_above(2, start + 3 * RATE.interval));
    }

    #[test]
    fn one_server_takes_nothing_from_another() {
        let start = start();
        let mut buckets = ServerBuckets::new(RATE);
        let taken = |buckets: &mut ServerBuckets, server| {
            (0..9)
                .filter(|_| buckets.take(ServerId(server), start))
                .count()
        };
        assert_eq!(taken(&mut buckets, 1), 3);
        assert_eq!(taken(&mut buckets, 2), 3);
    }
}
