//! Deadlines by peer, in order of time: setting one and asking for the next cost little, however many peers there are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use punch_packet::PeerHandle;

/// At most one deadline for each peer.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    by_peer: BTreeMap<PeerHandle, Instant>,
    by_time: BTreeSet<(Instant, PeerHandle)>,
}

impl Schedule {
    /// Puts a peer's deadline in place of the one before.
    pub(crate) fn set(&mut self, peer: PeerHandle, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.by_peer.insert(peer, at),
            None => self.by_peer.remove(&peer),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, peer));
        }
        if let Some(at) = at {
            self.by_time.insert((at, peer));
        }
    }

    /// Sets a peer's deadline, unless it has an earlier one.
    pub(crate) fn bring_forward(&mut self, peer: PeerHandle, at: Instant) {
        let before = self.by_peer.get(&peer);
        self.set(peer, Some(before.map_or(at, |before| at.min(*before))));
    }

    /// The peer whose deadline has come first; it has none any more.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<PeerHandle> {
        let (_, peer) = self.first().filter(|(at, _)| *at <= now)?;
        self.set(peer, None);
        Some(peer)
    }

    /// The earliest deadline, and whose it is.
    pub(crate) fn first(&self) -> Option<(Instant, PeerHandle)> {
        self.by_time.first().copied()
    }

    /// The peers whose deadlines have come, in order of time.
    pub(crate) fn due(&self, now: Instant) -> Vec<PeerHandle> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, peer)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::start::start;

    #[test]
    fn a_deadline_replaces_the_one_before_and_the_earliest_comes_first() {
        let start = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (PeerHandle(1), PeerHandle(2));
        let mut schedule = Schedule::default();
        schedule.set(one, Some(at(5)));
        schedule.set(two, Some(at(3)));
        assert_eq!(schedule.first(), Some((at(3), two)));
        schedule.set(one, Some(at(1)));
        assert_eq!(schedule.first(), Some((at(1), one)));
        assert_eq!(schedule.due(at(2)), [one]);
        assert_eq!(schedule.due(at(3)), [one, two]);
        schedule.set(one, None);
        schedule.set(two, Some(at(9)));
        assert_eq!(schedule.first(), Some((at(9), two)));
        assert_eq!(schedule.due(at(8)), []);
    }
}
