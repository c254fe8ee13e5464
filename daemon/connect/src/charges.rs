//! What searches have sent to each address that peers have named: it may be somebody else's, so it is counted over time, whichever
//! peers have named it and whatever their searches have come to.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use punch_traversal::{Budget, Caps};

/// An address gets the packets of one search (`Caps::packets`) in this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 256;
/// Searches that are remembered for each address: more begin no sooner than the oldest of them is forgotten.
const MAX_SEARCHES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    /// When searches for an address began, and how many packets each was to send.
    by_address: BTreeMap<Ipv4Addr, Vec<(Instant, u32)>>,
}

impl Charges {
    /// When a search may send so many packets to these addresses, if that is not now.
    pub(crate) fn free_at(
        &mut self,
        targets: &[Ipv4Addr],
        packets: u32,
        budget: Budget,
        now: Instant,
    ) -> Option<Instant> {
        self.forget(now);
        let cap = Caps::of(budget).packets();
        let blocked = targets.iter().filter_map(|target| {
            let Some(searches) = self.by_address.get(target) else {
                let full = self.by_address.len() + targets.len() > MAX_ADDRESSES;
                return full.then(|| now + WINDOW);
            };
            let mut sent: u32 = searches.iter().map(|(_, packets)| *packets).sum();
            let mut count = searches.len();
            // The oldest are forgotten first.
            let mut searches = searches.iter();
            let mut at = None;
            while count >= MAX_SEARCHES || (count > 0 && sent.saturating_add(packets) > cap) {
                let (began, packets) = searches.next()?;
                sent = sent.saturating_sub(*packets);
                count -= 1;
                at = Some(*began + WINDOW);
            }
            at
        });
        blocked.max()
    }

    /// A search begins that sends so many packets to these addresses.
    pub(crate) fn charge(&mut self, targets: &[Ipv4Addr], packets: u32, now: Instant) {
        for target in targets {
            let searches = self.by_address.entry(*target).or_default();
            searches.push((now, packets));
        }
    }

    /// The peer has proven that this address is its own: what it got was sent to nobody else.
    pub(crate) fn refund(&mut self, address: Ipv4Addr) {
        self.by_address.remove(&address);
    }

    fn forget(&mut self, now: Instant) {
        self.by_address.retain(|_, searches| {
            searches.retain(|(began, _)| now.saturating_duration_since(*began) < WINDOW);
            !searches.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    const VICTIM: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

    #[test]
    fn an_address_gets_the_packets_of_one_search_in_a_minute_however_many_there_are() {
        let (start, budget) = (start(), Budget::Normal);
        let mut charges = Charges::default();
        let mut sent: Vec<(Instant, u32)> = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            for packets in [5000, 1024, 12_000] {
                if charges.free_at(&[VICTIM], packets, budget, now).is_none() {
                    charges.charge(&[VICTIM], packets, now);
                    sent.push((now, packets));
                }
            }
            let lately = sent.iter().filter(|(at, _)| now - *at < WINDOW);
            let lately: u32 = lately.map(|(_, packets)| packets).sum();
            assert!(lately <= 12_000, "{lately} packets in a minute");
        }
        assert!(sent.len() > 10, "the others are let through");
    }

    #[test]
    fn a_search_that_must_wait_is_told_until_when_and_other_addresses_need_not_wait() {
        let (start, budget) = (start(), Budget::Normal);
        let mut charges = Charges::default();
        charges.charge(&[VICTIM], 8000, start);
        let later = start + Duration::from_secs(10);
        charges.charge(&[VICTIM], 3000, later);
        let at =
            |charges: &mut Charges, packets| charges.free_at(&[VICTIM], packets, budget, later);
        assert_eq!(at(&mut charges, 1000), None);
        assert_eq!(at(&mut charges, 5000), Some(start + WINDOW));
        assert_eq!(at(&mut charges, 10_000), Some(later + WINDOW));
        let other = [Ipv4Addr::new(198, 18, 0, 2)];
        assert_eq!(charges.free_at(&other, 12_000, budget, later), None);
    }

    #[test]
    fn only_so_many_addresses_are_remembered_and_more_have_to_wait() {
        let (start, budget) = (start(), Budget::Normal);
        let mut charges = Charges::default();
        let address = |n: u16| Ipv4Addr::from(0xc612_0000 + u32::from(n));
        for n in 0..300 {
            if charges.free_at(&[address(n)], 1, budget, start).is_none() {
                charges.charge(&[address(n)], 1, start);
            }
        }
        assert_eq!(charges.by_address.len(), MAX_ADDRESSES);
        let later = start + WINDOW;
        assert_eq!(charges.free_at(&[address(299)], 1, budget, later), None);
    }
}
