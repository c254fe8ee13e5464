//! Controlled delay (RFC 8289): tells from how long frames wait whether a queue only evens out bursts or stands.

use std::time::{Duration, Instant};

/// How long frames may wait without being dropped.
pub(super) const TARGET: Duration = Duration::from_millis(5);
/// How long the wait must have been longer than that before a frame is dropped: about a round trip on the internet, which the
/// connections inside the tunnel need to become slower.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// If the queue stands again within so many intervals, dropping goes on at its former pace.
const SOON: u32 = 16;

/// The state of one link's queue.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// When the queue will have stood for long enough.
    above_at: Option<Instant>,
    /// When the next frame is dropped, while frames are being dropped.
    next: Option<Instant>,
    /// When dropping ended last.
    ended: Option<Instant>,
    count: u32,
    count_at_start: u32,
}

impl Codel {
    /// A frame leaves the queue after this `wait`; `last` says that it leaves it empty. Returns whether it shall be dropped.
    pub(super) fn drops(&mut self, wait: Duration, last: bool, now: Instant) -> bool {
        if !self.stands(wait, last, now) {
            if self.next.take().is_some() {
                self.ended = Some(now);
            }
            return false;
        }
        match self.next {
            Some(next) if next > now => false,
            Some(next) => {
                self.count = self.count.saturating_add(1);
                // Nobody has asked for frames for long: what is overdue does not fall all at once.
                self.next = Some(next.max(now) + self.step());
                true
            }
            None => {
                self.begin(now);
                true
            }
        }
    }

    /// Where it stopped dropping only just now, it begins with the pace that had helped (RFC 8289 §5.4).
    fn begin(&mut self, now: Instant) {
        let gained = self.count.saturating_sub(self.count_at_start);
        let lately = |ended| now.saturating_duration_since(ended) < SOON * INTERVAL;
        let again = gained > 1 && self.ended.is_some_and(lately);
        self.count = if again { gained } else { 1 };
        self.count_at_start = self.count;
        self.next = Some(now + self.step());
    }

    fn stands(&mut self, wait: Duration, last: bool, now: Instant) -> bool {
        if wait < TARGET || last {
            self.above_at = None;
            return false;
        }
        now >= *self.above_at.get_or_insert(now + INTERVAL)
    }

    fn step(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}
