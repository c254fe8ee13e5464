//! When the network is looked at: soon after the kernel's notices, and now and then without any.

use std::time::{Duration, Instant};

use punch_platform::clock;
use tokio::sync::mpsc;

use crate::tasks::sleep_until;

/// Notices of the kernel come several at a time: the network is looked at when none has come for this long.
const QUIET: Duration = Duration::from_millis(100);
/// The longest time that notices can put the look at the network off.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// Some changes come without a notice, such as another name server.
const PERIOD: Duration = Duration::from_secs(60);
/// Looking takes at most this part of the time, where tables are large and change all the time.
const SHARE: u32 = 10;

/// See the module.
pub(crate) struct Watch {
    /// Notices of the kernel that something in the network has changed.
    notices: mpsc::Receiver<()>,
    /// When the first notice came of those that were not followed by a look.
    first: Option<Instant>,
    /// When the network is looked at next, and before when it is not.
    next: Instant,
    earliest: Instant,
}

impl Watch {
    /// Waits for these notices.
    pub(crate) fn new(notices: mpsc::Receiver<()>) -> Self {
        let now = clock::now();
        Self {
            notices,
            first: None,
            next: now + PERIOD,
            earliest: now,
        }
    }

    /// Waits until the network has changed and is quiet again, or until it is time for a look anyway. Nothing is lost if the wait
    /// is given up.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.notices.recv() => {
                    let now = clock::now();
                    let first = *self.first.get_or_insert(now);
                    self.next = (now + QUIET).min(first + QUIET_MAX).max(self.earliest);
                }
                () = sleep_until(Some(self.next)) => {
                    self.first = None;
                    self.next = clock::now() + PERIOD;
                    return;
                }
            }
        }
    }

    /// The network is to be looked at by then, too.
    pub(crate) fn also_at(&mut self, at: Instant) {
        self.next = self.next.min(at.max(self.earliest));
    }

    /// A look has taken from `began` to `now`.
    pub(crate) fn looked(&mut self, began: Instant, now: Instant) {
        self.earliest = now + now.saturating_duration_since(began) * SHARE;
    }
}
