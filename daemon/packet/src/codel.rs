//! Controlled delay (RFC 8289): tells from how long packets wait whether a queue only evens out bursts or stands.

use std::time::{Duration, Instant};

/// How long packets may wait without being dropped: at several Gbit/s some hundred packets.
pub(crate) const TARGET: Duration = Duration::from_millis(1);
/// How long the wait must have been longer than that before a packet is dropped.
const INTERVAL: Duration = Duration::from_millis(20);
/// If the queue stands again within this time, dropping goes on at its former pace.
const SOON: u32 = 16;

/// The state of one queue.
#[derive(Debug, Default, Clone)]
pub struct Codel {
    /// When the queue will have stood for long enough.
    above_at: Option<Instant>,
    dropping: bool,
    next: Option<Instant>,
    count: u32,
    last_count: u32,
}

impl Codel {
    /// A packet leaves the queue after this `wait`; `last` says that it leaves it empty. Returns whether it shall be dropped.
    pub fn drops(&mut self, wait: Duration, last: bool, now: Instant) -> bool {
        let standing = self.stands(wait, last, now);
        if self.dropping {
            if !standing {
                self.dropping = false;
                return false;
            }
            let due = self.next.filter(|next| *next <= now);
            if let Some(due) = due {
                self.count = self.count.saturating_add(1);
                self.next = Some(due.max(now - INTERVAL) + self.step());
            }
            return due.is_some();
        }
        if !standing {
            return false;
        }
        self.dropping = true;
        // Where it stopped dropping only just now, it begins with the pace that had helped (RFC 8289 §5.4).
        let delta = self.count.saturating_sub(self.last_count);
        let lately = |next| now.saturating_duration_since(next) < SOON * INTERVAL;
        self.count = if delta > 1 && self.next.is_some_and(lately) {
            delta
        } else {
            1
        };
        self.last_count = self.count;
        self.next = Some(now + self.step());
        true
    }

    fn stands(&mut self, wait: Duration, last: bool, now: Instant) -> bool {
        if wait < TARGET || last {
            self.above_at = None;
            return false;
        }
        match self.above_at {
            None => {
                self.above_at = Some(now + INTERVAL);
                false
            }
            Some(at) => now >= at,
        }
    }

    fn step(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}
