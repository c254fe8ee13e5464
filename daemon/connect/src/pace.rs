//! How often something may happen, of each server, peer or address.

use std::collections::BTreeMap;
use std::time::Instant;

use punch_packet::{Rate, TokenBucket};

/// A bucket for each: what one of them makes up bars nothing of another.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    buckets: BTreeMap<K, TokenBucket>,
}

impl<K: Ord> Buckets<K> {
    /// A full bucket for each.
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: BTreeMap::new(),
        }
    }

    /// How many buckets are remembered.
    pub(crate) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether the bucket of this one is remembered.
    pub(crate) fn has(&self, key: &K) -> bool {
        self.buckets.contains_key(key)
    }

    /// Whether there is a token in the bucket of this one.
    pub(crate) fn holds(&mut self, key: &K, now: Instant) -> bool {
        let bucket = self.buckets.get_mut(key);
        bucket.is_none_or(|bucket| bucket.holds(now))
    }

    /// Takes a token out of the bucket of this one, if there is one.
    pub(crate) fn take(&mut self, key: K, now: Instant) -> bool {
        let bucket = self.buckets.entry(key);
        let bucket = bucket.or_insert_with(|| TokenBucket::new(self.rate));
        bucket.take(now)
    }

    /// Forgets the buckets that are full again.
    pub(crate) fn forget(&mut self, now: Instant) {
        let reserve = self.rate.burst - 1;
        self.buckets
            .retain(|_, bucket| bucket.ready_at(reserve).is_some_and(|full| full > now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ServerId;
    use crate::start::start;

    const RATE: Rate = Rate {
        burst: 3,
        interval: Duration::from_millis(100),
    };

    #[test]
    fn one_server_takes_nothing_from_another() {
        let start = start();
        let mut buckets = Buckets::new(RATE);
        let taken = |buckets: &mut Buckets<ServerId>, server| {
            (0..9)
                .filter(|_| buckets.take(ServerId(server), start))
                .count()
        };
        assert_eq!(taken(&mut buckets, 1), 3);
        assert_eq!(taken(&mut buckets, 2), 3);
    }
}
