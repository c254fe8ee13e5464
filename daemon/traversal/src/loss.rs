//! How many of the checks on a path are not answered: what there is to say of its loss, without a packet more.
//!
//! A check counts if the path was known to answer when it left, and as soon as it is answered or a later one is. A lost answer counts
//! like a lost check: the two cannot be told apart.

use std::time::{Duration, Instant};

/// Checks that are older than this count no longer.
pub const LOSS_WINDOW: Duration = Duration::from_secs(600);
/// With fewer than this, one that is lost by chance would say too much.
const ENOUGH: u32 = 10;
/// The window goes on by a tenth of it at a time.
const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_secs(60);

/// What checks have shown of the loss on a path, within [`LOSS_WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Checks that were not answered.
    pub lost: u32,
    /// All checks, at least ten.
    pub samples: u32,
}

/// Counts checks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LossCount {
    /// When the slot began that was counted in last.
    began: Option<Instant>,
    /// The number of that slot.
    newest: usize,
    slots: [Loss; SLOTS],
}

impl LossCount {
    /// A check is answered, and so many before it were not.
    pub(crate) fn count(&mut self, lost: usize, now: Instant) {
        self.advance(now);
        let slot = &mut self.slots[self.newest];
        let lost = u32::try_from(lost).unwrap_or(u32::MAX);
        slot.lost = slot.lost.saturating_add(lost);
        slot.samples = slot.samples.saturating_add(lost).saturating_add(1);
    }

    /// What was counted within the window, if that is enough to say something.
    pub(crate) fn report(mut self, now: Instant) -> Option<Loss> {
        self.advance(now);
        let sum = |count: fn(&Loss) -> u32| {
            let slots = self.slots.iter().map(count);
            slots.fold(0, u32::saturating_add)
        };
        let (lost, samples) = (sum(|slot| slot.lost), sum(|slot| slot.samples));
        (samples >= ENOUGH).then_some(Loss { lost, samples })
    }

    fn advance(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let slots = now.saturating_duration_since(began).as_secs() / SLOT.as_secs();
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        for _ in 0..slots.min(SLOTS as u32) {
            self.newest = (self.newest + 1) % SLOTS;
            self.slots[self.newest] = Loss::default();
        }
        self.began = Some(began + SLOT * slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    fn after(seconds: u64) -> Instant {
        start() + Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_said_of_few_checks() {
        let mut count = LossCount::default();
        assert_eq!(count.report(start()), None);
        for second in 0..7 {
            count.count(0, after(3 * second));
        }
        count.count(1, after(21));
        assert_eq!(count.report(after(21)), None, "nine");
        count.count(0, after(24));
        let (lost, samples) = (1, 10);
        assert_eq!(count.report(after(24)), Some(Loss { lost, samples }));
    }

    #[test]
    fn what_is_older_than_the_window_counts_no_longer() {
        let mut count = LossCount::default();
        for second in 0..30 {
            count.count(1, after(second));
        }
        for second in 0..30 {
            count.count(0, after(300 + second));
        }
        let all = Loss {
            lost: 30,
            samples: 90,
        };
        assert_eq!(count.report(after(330)), Some(all));
        assert_eq!(count.report(after(540)), Some(all));
        let late = Loss {
            lost: 0,
            samples: 30,
        };
        assert_eq!(count.report(after(601)), Some(late));
        assert_eq!(count.report(after(901)), None);
        // The window goes on from where it stands, however long nothing came.
        count.count(0, after(100_000));
        assert_eq!(count.report(after(100_000)), None);
    }

    #[test]
    fn counts_end_where_numbers_do() {
        let mut count = LossCount::default();
        for _ in 0..3 {
            count.count(usize::MAX, start());
        }
        let most = Loss {
            lost: u32::MAX,
            samples: u32::MAX,
        };
        assert_eq!(count.report(start()), Some(most));
    }
}
