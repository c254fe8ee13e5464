//! How often something may happen, of each server.

use std::collections::BTreeMap;
use std::time::Instant;

use punch_packet::{Rate, TokenBucket};

use crate::ServerId;

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
    use std::time::Duration;

    use super::*;
    use crate::start::start;

    const RATE: Rate = Rate {
        burst: 3,
        interval: Duration::from_millis(100),
    };

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
