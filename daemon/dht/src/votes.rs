//! What nodes tell of this machine's public address (BEP 42, `ip`): one machine has one vote, and a few liars have no majority.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// The votes that count, the newest.
const MAX: usize = 12;
/// So many must say the same.
const ENOUGH: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Votes {
    /// Who has said what.
    votes: VecDeque<(Ipv4Addr, Ipv4Addr)>,
    /// What most have said.
    seen: Option<Ipv4Addr>,
    /// The votes of one machine, in a network in which all nodes are at one address.
    of_one: usize,
}

impl Votes {
    /// A node tells where it sees this machine; the address, if most now say another one than before. One machine of the Internet, which is a
    /// stranger, never decides by itself, although it may be the only one that answers.
    pub(crate) fn add(
        &mut self,
        (from, is_stranger): (Ipv4Addr, bool),
        seen: Ipv4Addr,
    ) -> Option<Ipv4Addr> {
        let is_other = |(who, _): &(Ipv4Addr, Ipv4Addr)| *who != from;
        self.of_one = match is_stranger || self.votes.iter().any(is_other) {
            true => 0,
            false => self.of_one + 1,
        };
        self.votes.retain(is_other);
        self.votes.push_back((from, seen));
        if self.votes.len() > MAX {
            self.votes.pop_front();
        }
        let same = self.votes.iter().filter(|(_, what)| *what == seen).count();
        let is_most = 2 * same > self.votes.len() && same.max(self.of_one) >= ENOUGH;
        (is_most && self.seen.replace(seen) != Some(seen)).then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    #[test]
    fn most_of_several_machines_decide_once() {
        let mut votes = Votes::default();
        let told: Vec<_> = (1..10)
            .filter_map(|n| votes.add((ip(n), true), ip(100)))
            .collect();
        assert_eq!(told, [ip(100)]);
        for liar in 20..23 {
            assert_eq!(votes.add((ip(liar), true), ip(66)), None);
        }
        for _ in 0..50 {
            assert_eq!(
                votes.add((ip(23), true), ip(66)),
                None,
                "one machine has one vote"
            );
        }
        let told: Vec<_> = (1..10)
            .filter_map(|n| votes.add((ip(n), true), ip(101)))
            .collect();
        assert_eq!(told, [ip(101)], "the address has changed");
    }

    #[test]
    fn a_network_at_one_address_is_believed_after_a_while() {
        let mut votes = Votes::default();
        let mut tell = |is_stranger| {
            let each = (0..10).map(|_| votes.add((ip(1), is_stranger), ip(100)));
            each.collect::<Vec<_>>()
        };
        assert_eq!(tell(true), [None; 10], "a stranger is not");
        let told = tell(false);
        assert_eq!(told.iter().flatten().count(), 1);
        assert_eq!(told[..3], [None; 3]);
    }
}
