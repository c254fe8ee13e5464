//! How often what somebody takes away is set again.

use std::time::{Duration, Instant};

/// So many times in a row it is set again at once.
const FREE: u32 = 12;
/// The first pause after that; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After so long without a loss all is forgiven.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// Counts losses, and says when the next one may be made good.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    losses: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Patience {
    /// Something is missing: `Ok` if it may be set again now, otherwise when.
    pub(crate) fn ask(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.until.filter(|until| now < *until) {
            return Err(until);
        }
        if self.last.is_some_and(|last| now >= last + FORGOTTEN) {
            self.losses = 0;
        }
        self.losses += 1;
        self.last = Some(now);
        self.until = self.losses.checked_sub(FREE).map(|beyond| {
            let pause = FIRST_PAUSE.saturating_mul(1 << beyond.min(6));
            now + pause.min(LONGEST_PAUSE)
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody takes something away again at once, for an hour.
    #[test]
    fn the_pause_grows_when_somebody_fights() {
        let begin = Instant::now();
        let (mut patience, mut now, mut set) = (Patience::default(), begin, Vec::new());
        while now < begin + Duration::from_secs(3600) {
            match patience.ask(now) {
                Ok(()) => {
                    set.push(now);
                    now += Duration::from_millis(100);
                }
                Err(until) => now = until,
            }
        }
        let pauses: Vec<_> = set
            .windows(2)
            .map(|two| (two[1] - two[0]).as_secs())
            .collect();
        assert_eq!(pauses[..11], [0; 11]);
        assert_eq!(pauses[11..18], [1, 2, 4, 8, 16, 32, 60]);
        assert!(pauses[18..].iter().all(|pause| *pause == 60));
    }

    #[test]
    fn after_two_quiet_minutes_all_is_forgiven() {
        let begin = Instant::now();
        let mut patience = Patience::default();
        for _ in 0..12 {
            assert_eq!(patience.ask(begin), Ok(()));
        }
        assert!(patience.ask(begin).is_err());
        let later = begin + FORGOTTEN;
        for _ in 0..12 {
            assert_eq!(patience.ask(later), Ok(()));
        }
        assert_eq!(patience.ask(later), Err(later + FIRST_PAUSE));
    }
}
