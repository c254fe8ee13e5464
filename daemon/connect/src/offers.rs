//! The turns of the peers to get an offer. Each costs two key exchanges on the thread that carries packets, and a frame to each
//! signalling server.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use punch_packet::{PeerHandle, Rate, TokenBucket};

use crate::ServerId;
use crate::schedule::Schedule;

/// Offers to all peers.
const OFFERS: Rate = Rate {
    burst: 32,
    interval: Duration::from_millis(40),
};

/// What an offer is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The user asks for it now.
    User,
    /// This machine has found it due.
    Own,
    /// A server says that the peer is there.
    Server(ServerId),
}

/// See the module. What the user asks for comes first; for the others each server has its turn, and this machine itself: one that
/// names all peers again and again does not keep the others waiting.
#[derive(Debug)]
pub(crate) struct OfferQueue {
    bucket: TokenBucket,
    user: Schedule,
    /// By the server that has named the peers; `None` for those that this machine has found due.
    others: BTreeMap<Option<ServerId>, Schedule>,
    /// The turn that was last.
    last: Option<ServerId>,
}

impl Default for OfferQueue {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::new(OFFERS),
            user: Schedule::default(),
            others: BTreeMap::new(),
            last: None,
        }
    }
}

impl OfferQueue {
    /// A peer is to get an offer, not before `at`.
    pub(crate) fn add(&mut self, peer: PeerHandle, cause: Cause, at: Instant) {
        let queue = match cause {
            Cause::User => &mut self.user,
            Cause::Own => self.others.entry(None).or_default(),
            Cause::Server(server) => self.others.entry(Some(server)).or_default(),
        };
        queue.bring_forward(peer, at);
    }

    /// A peer is gone.
    pub(crate) fn remove(&mut self, peer: PeerHandle) {
        self.user.set(peer, None);
        for queue in self.others.values_mut() {
            queue.set(peer, None);
        }
    }

    /// A server is gone, and what it has said does not count any more.
    pub(crate) fn remove_server(&mut self, server: ServerId) {
        self.others.remove(&Some(server));
    }

    /// The peer whose turn it is now, if an offer may go out: it waits no longer.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(PeerHandle, Cause)> {
        if !self.bucket.holds(now) {
            return None;
        }
        if let Some(peer) = self.user.pop(now) {
            return Some((peer, Cause::User));
        }
        let later = self
            .others
            .range((Bound::Excluded(self.last), Bound::Unbounded));
        let order: Vec<_> = later.chain(&self.others).map(|(of, _)| *of).collect();
        order.into_iter().find_map(|of| {
            let peer = self.others.get_mut(&of)?.pop(now)?;
            self.last = of;
            Some((peer, of.map_or(Cause::Own, Cause::Server)))
        })
    }

    /// An offer goes out.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.bucket.take(now);
    }

    /// When [`Self::next`] has a peer.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let queues = self.others.values().chain([&self.user]);
        let first = queues.filter_map(Schedule::first).map(|(at, _)| at).min()?;
        Some(self.bucket.ready_at(0).map_or(first, |at| at.max(first)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;
    use crate::start::start;

    /// The peers that get their turn within `ms` milliseconds.
    fn turns(queue: &mut OfferQueue, from: Instant, ms: u64) -> Vec<u32> {
        let mut turns = Vec::new();
        for ms in 0..ms {
            let now = from + Duration::from_millis(ms);
            while let Some((peer, _)) = queue.next(now) {
                queue.spend(now);
                turns.push(peer.0);
            }
        }
        turns
    }

    #[test]
    fn a_burst_goes_at_once_and_then_twenty_five_a_second() {
        let (mut queue, start) = (OfferQueue::default(), start());
        for peer in 0..1000 {
            queue.add(PeerHandle(peer), Cause::Own, start);
            queue.add(PeerHandle(peer), Cause::Own, start);
        }
        assert_eq!(turns(&mut queue, start, 1).len(), 32);
        let next = queue.poll_timeout().unwrap();
        assert_eq!(next, start + OFFERS.interval);
        assert_eq!(turns(&mut queue, next, 10_000).len(), 250);
    }

    #[test]
    fn the_user_comes_first_and_no_server_keeps_another_waiting() {
        let (mut queue, start) = (OfferQueue::default(), start());
        let (loud, quiet) = (ServerId(1), ServerId(2));
        for peer in 0..500 {
            queue.add(PeerHandle(peer), Cause::Server(loud), start);
        }
        queue.add(PeerHandle(900), Cause::Server(quiet), start);
        queue.add(PeerHandle(901), Cause::Server(quiet), start);
        queue.add(
            PeerHandle(902),
            Cause::User,
            start + Duration::from_millis(1),
        );
        queue.add(PeerHandle(903), Cause::Own, start);
        let turns = turns(&mut queue, start + Duration::from_millis(1), 1);
        assert_eq!(turns[0], 902);
        let first: Vec<_> = turns[..8].iter().filter(|peer| **peer >= 900).collect();
        assert_eq!(first.len(), 4, "{turns:?}");
    }

    #[test]
    fn nobody_comes_before_its_time_and_who_is_gone_has_no_turn() {
        let (mut queue, start) = (OfferQueue::default(), start());
        let at = start + Duration::from_secs(3);
        queue.add(PeerHandle(1), Cause::Server(ServerId(1)), at);
        queue.add(PeerHandle(2), Cause::Server(ServerId(2)), at);
        queue.add(PeerHandle(3), Cause::Own, at);
        assert_eq!(queue.poll_timeout(), Some(at));
        assert_eq!(turns(&mut queue, start, 2999), [0; 0]);
        queue.remove_server(ServerId(2));
        queue.remove(PeerHandle(3));
        assert_eq!(turns(&mut queue, at, 1), [1]);
        assert_eq!(queue.poll_timeout(), None);
    }
}
