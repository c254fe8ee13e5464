//! What is logged of something that happens again and again: the first time, and then once an hour with a count.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A text that repeats itself is logged again after this.
const PERIOD: Duration = Duration::from_secs(3600);
/// So many different texts are remembered; the one that was logged longest ago makes room.
const MAX_TEXTS: usize = 64;

/// The texts that were logged lately.
#[derive(Debug, Default)]
pub struct Repeats {
    /// The one that was logged last stands last.
    told: VecDeque<Told>,
}

#[derive(Debug)]
struct Told {
    text: String,
    at: Instant,
    /// How often the text came since.
    since: u32,
}

impl Repeats {
    /// Takes note of a text. `Some` says that it is to be logged, and how often it came since it was logged last.
    pub fn note(&mut self, text: &str, now: Instant) -> Option<u32> {
        let known = self.told.iter().position(|told| told.text == text);
        let mut since = 0;
        if let Some(told) = known.and_then(|at| self.told.get_mut(at)) {
            if now.saturating_duration_since(told.at) < PERIOD {
                told.since = told.since.saturating_add(1);
                return None;
            }
            since = told.since;
        }
        if let Some(at) = known {
            self.told.remove(at);
        }
        self.told.push_back(Told {
            text: text.to_owned(),
            at: now,
            since: 0,
        });
        if self.told.len() > MAX_TEXTS {
            self.told.pop_front();
        }
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_text_that_repeats_itself_is_logged_once_an_hour_with_a_count() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        // A server that is tried every 15 s for a day.
        let lines: Vec<_> = (0..5760)
            .filter_map(|turn| repeats.note("refused", start + seconds(15 * turn)))
            .collect();
        assert_eq!(lines.len(), 24);
        assert_eq!((lines[0], lines[1], lines[23]), (0, 239, 239));
    }

    #[test]
    fn another_text_is_logged_at_once_and_so_is_one_that_comes_and_goes_only_once() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        for turn in 0..100 {
            let now = start + seconds(turn);
            assert_eq!(repeats.note("a", now).is_some(), turn == 0);
            assert_eq!(repeats.note("b", now).is_some(), turn == 0);
        }
        assert_eq!(repeats.note("c", start), Some(0));
    }

    #[test]
    fn few_texts_are_remembered() {
        let now = Instant::now();
        let mut repeats = Repeats::default();
        for number in 0..1000 {
            assert_eq!(repeats.note(&number.to_string(), now), Some(0));
        }
        assert_eq!(repeats.told.len(), MAX_TEXTS);
        assert_eq!(repeats.note("999", now), None);
    }
}
