//! Machines that have called and are no peers, before anything is said of them: of two machines that pair, one knows the other a moment
//! earlier, and its first call may come before the other has added it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use punch_api::PeerId;

/// A machine that is a peer after this time is not spoken of. Over a DHT, the word that makes it one can take longer than its call.
const GRACE: Duration = Duration::from_secs(5);
/// So many wait; of more at once, `punchctl status` tells.
const MAX_WAITING: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// Since when they wait; the newest last.
    waiting: VecDeque<(Instant, PeerId)>,
}

impl Callers {
    /// A machine that is no peer has called.
    pub(super) fn note(&mut self, id: PeerId, now: Instant) {
        let waits = self.waiting.iter().any(|(_, known)| *known == id);
        if !waits && self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((now, id));
        }
    }

    /// When [`Callers::take`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.waiting.front()?.0 + GRACE)
    }

    /// The machines that have waited for long enough, and are not among these peers.
    pub(super) fn take(&mut self, now: Instant, peers: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let over = |(since, _): &&(Instant, PeerId)| now >= *since + GRACE;
        let count = self.waiting.iter().take_while(over).count();
        let over = self.waiting.drain(..count).map(|(_, id)| id);
        over.filter(|id| !peers(*id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use punch_signal_protocol::Identity;

    use super::*;

    fn id(seed: u8) -> PeerId {
        Identity::from_seed(&[seed; 32]).id()
    }

    #[test]
    fn a_caller_that_becomes_a_peer_is_not_spoken_of() {
        let now = Instant::now();
        let mut callers = Callers::default();
        callers.note(id(1), now);
        callers.note(id(2), now + GRACE / 2);
        callers.note(id(1), now + GRACE / 2);
        assert_eq!(callers.due(), Some(now + GRACE));
        assert_eq!(callers.take(now + GRACE, |peer| peer == id(1)), []);
        assert_eq!(callers.take(now + 2 * GRACE, |_| false), [id(2)]);
        assert_eq!(callers.due(), None);
    }

    #[test]
    fn only_few_wait() {
        let now = Instant::now();
        let mut callers = Callers::default();
        for seed in 0..100 {
            callers.note(id(seed), now);
        }
        assert_eq!(callers.take(now + GRACE, |_| false).len(), MAX_WAITING);
    }
}
