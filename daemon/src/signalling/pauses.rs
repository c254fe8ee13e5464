//! How long a client of a server waits before it connects again: longer after each time that it was not let in, and hardly at all when
//! the way to the server was lost, as on a train.

use std::time::{Duration, Instant};

use punch_engine::{Rate, TokenBucket};

/// The first pause; each further one is twice as long, up to the longest.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);
/// A connection that was lost before it had stood so long says nothing of the way to the server.
const LET_IN: Duration = Duration::from_secs(1);
/// Connections that were lost after they had stood, and are made again after the first pause. Servers whose connections are lost more
/// often, because they die at once for example, are spared.
const BROKEN: Rate = Rate {
    burst: 24,
    interval: Duration::from_secs(30),
};

/// See the module.
pub(super) struct Pauses {
    next: Duration,
    broken: TokenBucket,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            next: FIRST,
            broken: TokenBucket::new(BROKEN),
        }
    }
}

impl Pauses {
    /// The pause after a connection that had stood for so long (`None`: this machine was not let in). `lost` says that it was not the
    /// server that has ended it. One that had stood longer than the longest pauses counts as good, however it ended.
    pub(super) fn after(&mut self, stood: Option<Duration>, lost: bool, now: Instant) -> Duration {
        let stood = stood.unwrap_or_default();
        if stood > 2 * LONGEST || lost && stood >= LET_IN && self.broken.take(now) {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use punch_platform::clock;

    use super::*;

    const STOOD: Option<Duration> = Some(Duration::from_secs(5));

    #[test]
    fn whoever_is_not_let_in_waits_longer_each_time() {
        let (mut pauses, now) = (Pauses::default(), clock::now());
        let waited: Vec<_> = (0..8)
            .map(|_| pauses.after(None, true, now).as_millis())
            .collect();
        assert_eq!(waited, [250, 500, 1000, 2000, 4000, 8000, 15000, 15000]);
        // Somebody else who logs in as this machine throws it out as soon as it is back.
        assert_eq!(pauses.after(STOOD, false, now), LONGEST);
        assert_eq!(pauses.after(Some(LET_IN / 2), true, now), LONGEST);
        assert_eq!(pauses.after(Some(3 * LONGEST), false, now), FIRST);
    }

    #[test]
    fn a_connection_that_breaks_time_and_again_comes_back_at_once_until_that_is_too_much() {
        let (mut pauses, start) = (Pauses::default(), clock::now());
        for n in 0..40 {
            let now = start + n * Duration::from_secs(25);
            assert_eq!(pauses.after(STOOD, true, now), FIRST, "{n}");
        }
        let (mut pauses, mut now) = (Pauses::default(), start);
        let mut waited = Vec::new();
        for _ in 0..40 {
            let pause = pauses.after(STOOD, true, now);
            now += pause;
            waited.push(pause);
        }
        assert!(waited.iter().take(24).all(|pause| *pause == FIRST));
        let over: Duration = waited.iter().skip(24).sum();
        assert!(over > Duration::from_secs(45), "{waited:?}");
    }
}
