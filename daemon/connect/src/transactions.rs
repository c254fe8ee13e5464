//! The peer whose check a STUN response answers, found without asking every peer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use punch_packet::PeerHandle;
use punch_stun_protocol::TransactionId;

/// An answer that takes longer than this is not recognized any more; a path is given up after 7 s without one.
const MEMORY: Duration = Duration::from_secs(30);

/// Requests that were sent within the last [`MEMORY`]; their number is bounded for each attempt by the budget's packets per second and by the 48 pairs whose checks a peer's own may trigger.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// The peer that a transaction belongs to, and when it was sent last: all requests of a search have one transaction.
    senders: HashMap<TransactionId, (PeerHandle, Instant)>,
    by_age: VecDeque<(Instant, TransactionId)>,
}

impl Transactions {
    /// A datagram for a peer goes out; requests are remembered.
    pub(crate) fn note(&mut self, datagram: &[u8], peer: PeerHandle, now: Instant) {
        let Some(id) = TransactionId::of_request(datagram) else {
            return;
        };
        if self.senders.insert(id, (peer, now)).is_none() {
            self.forget_old(now);
            self.by_age.push_back((now, id));
        }
    }

    /// The peer that a response with this transaction comes from, if it answers a check.
    pub(crate) fn sender(&self, id: TransactionId) -> Option<PeerHandle> {
        self.senders.get(&id).map(|(peer, _)| *peer)
    }

    /// How many requests are remembered.
    pub(crate) fn count(&self) -> usize {
        self.by_age.len()
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((noted, id)) = self.by_age.front().copied()
            && noted + MEMORY <= now
        {
            self.by_age.pop_front();
            match self.senders.get(&id) {
                Some((_, sent)) if *sent + MEMORY > now => self.by_age.push_back((*sent, id)),
                _ => {
                    self.senders.remove(&id);
                }
            }
        }
        // A storm of checks must not hold its memory for ever.
        if self.senders.capacity() > 1024 && self.senders.len() < self.senders.capacity() / 8 {
            self.senders.shrink_to(2 * self.senders.len());
            self.by_age.shrink_to(2 * self.by_age.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use punch_stun_protocol::{Class, Writer};

    use super::*;
    use crate::start::start;

    fn datagram(class: Class, id: u8) -> (TransactionId, Vec<u8>) {
        let id = TransactionId([id; 12]);
        (id, Writer::new(class, id).finish())
    }

    #[test]
    fn a_request_is_remembered_for_its_time_and_one_that_is_repeated_longer() {
        let start = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut transactions = Transactions::default();
        let (check, bytes) = datagram(Class::Request, 1);
        let (search, probe) = datagram(Class::Request, 2);
        transactions.note(&bytes, PeerHandle(1), at(0));
        transactions.note(&probe, PeerHandle(2), at(0));
        transactions.note(&probe, PeerHandle(2), at(20));
        let (_, later) = datagram(Class::Request, 3);
        transactions.note(&later, PeerHandle(3), at(31));
        assert_eq!(transactions.sender(check), None);
        assert_eq!(transactions.sender(search), Some(PeerHandle(2)));
        let (_, last) = datagram(Class::Request, 4);
        transactions.note(&last, PeerHandle(3), at(51));
        assert_eq!(transactions.sender(search), None);
        assert_eq!(transactions.senders.len(), 2);
        assert_eq!(transactions.by_age.len(), 2);
    }

    #[test]
    fn answers_are_not_remembered() {
        let (id, bytes) = datagram(Class::Success, 1);
        let mut transactions = Transactions::default();
        transactions.note(&bytes, PeerHandle(1), start());
        assert_eq!(transactions.sender(id), None);
    }
}
