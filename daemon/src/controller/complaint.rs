//! What is said in the log of a trouble that lasts: its beginning, each change, and then once an hour how often it has come.

use std::time::{Duration, Instant};

/// A trouble that goes on is told again after this.
const AGAIN: Duration = Duration::from_secs(3600);

/// A trouble that comes again and again.
#[derive(Default)]
pub(super) struct Complaint {
    /// What was said last, and when.
    said: Option<(String, Instant)>,
    /// How often the trouble came since then.
    unsaid: u64,
}

impl Complaint {
    /// The trouble is there. Returns how often it came since the log was told last, if it is to be told now.
    pub(super) fn comes(&mut self, text: &str, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        let recent = self
            .said
            .as_ref()
            .is_some_and(|(said, at)| said == text && now.saturating_duration_since(*at) < AGAIN);
        if recent {
            return None;
        }
        self.said = Some((text.to_owned(), now));
        Some(std::mem::take(&mut self.unsaid))
    }

    /// The trouble is over. Returns whether the log had been told of it.
    pub(super) fn ends(&mut self) -> bool {
        self.unsaid = 0;
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_begins_changes_and_once_an_hour() {
        let start = Instant::now();
        let mut complaint = Complaint::default();
        assert!(!complaint.ends(), "there was none");
        let mut told = Vec::new();
        for minute in 0..150 {
            let text = if minute < 130 { "full" } else { "broken" };
            let now = start + Duration::from_secs(60 * minute);
            told.extend(complaint.comes(text, now).map(|count| (minute, count)));
        }
        assert_eq!(told, [(0, 1), (60, 60), (120, 60), (130, 10)]);
        assert!(complaint.ends());
        assert_eq!(complaint.comes("broken", start), Some(1), "it begins anew");
    }
}
