//! How often this machine connects by TCP: peers may name whatever addresses they like, and what listens there is to be neither flooded
//! with requests nor scanned for open ports, whichever peers have named it and in however many attempts.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use punch_packet::{PeerHandle, Rate, TokenBucket};
use punch_traversal::Nat64;

use crate::pace::Buckets;

/// Connections to one address, or to one network of /64.
const TO_ADDRESS: Rate = Rate {
    burst: 12,
    interval: Duration::from_secs(5),
};
/// Connections to addresses that one peer has named: it must not use up what all have together.
const FOR_PEER: Rate = Rate {
    burst: 24,
    interval: Duration::from_secs(5),
};
/// Connections to one address, or to one such network, that one peer has named. It is less than what the address has: whoever names that of
/// another peer again and again must not use up what is there for the other one.
const FOR_PAIR: Rate = Rate {
    burst: 8,
    interval: Duration::from_secs(10),
};
/// All connections that this machine makes to peers.
const ALL: Rate = Rate {
    burst: 128,
    interval: Duration::from_millis(250),
};
/// Addresses that are remembered. [`ALL`] keeps them below that; beyond it, none is connected to that is not known.
const MAX_ADDRESSES: usize = 512;

/// See the module.
#[derive(Debug)]
pub(crate) struct Dials {
    all: TokenBucket,
    by_peer: Buckets<PeerHandle>,
    by_address: Buckets<IpAddr>,
    by_pair: Buckets<(PeerHandle, IpAddr)>,
}

impl Default for Dials {
    fn default() -> Self {
        Self {
            all: TokenBucket::new(ALL),
            by_peer: Buckets::new(FOR_PEER),
            by_address: Buckets::new(TO_ADDRESS),
            by_pair: Buckets::new(FOR_PAIR),
        }
    }
}

impl Dials {
    /// Whether an address that this peer has named may be connected to now; if so, that is counted.
    pub(crate) fn take(&mut self, peer: PeerHandle, to: IpAddr, now: Instant) -> bool {
        self.by_peer.forget(now);
        self.by_address.forget(now);
        self.by_pair.forget(now);
        let to = target_of(to);
        let has_place = self.by_address.has(&to) || self.by_address.len() < MAX_ADDRESSES;
        // Only what is done takes tokens: an address that is refused costs the peer nothing.
        has_place
            && self.all.holds(now)
            && self.by_peer.holds(&peer, now)
            && self.by_pair.holds(&(peer, to), now)
            && self.by_address.take(to, now)
            && self.by_pair.take((peer, to), now)
            && self.by_peer.take(peer, now)
            && self.all.take(now)
    }

    /// Addresses that are remembered.
    pub(crate) fn count(&self) -> usize {
        self.by_address.len()
    }
}

/// An address, or the network that one machine has over IPv6. Below the prefix of translators (RFC 6052 §2.1) it is one machine of IPv4's.
fn target_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) if Nat64::WELL_KNOWN.extract(v6).is_some() => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xc612_0000 + n).into()
    }

    /// Tries ten times a second by each of these peers; returns how many connections were made, and the most within a minute.
    fn try_for(minutes: u64, peers: u32, to: impl Fn(u64) -> IpAddr) -> (usize, usize) {
        let (mut dials, start) = (Dials::default(), start());
        let mut made = Vec::new();
        for tick in 0..minutes * 600 {
            let now = start + Duration::from_millis(100 * tick);
            for peer in 0..peers {
                if dials.take(
                    PeerHandle(peer),
                    to(tick * u64::from(peers) + u64::from(peer)),
                    now,
                ) {
                    made.push(now);
                }
            }
            assert!(dials.count() <= MAX_ADDRESSES);
            assert!(dials.by_pair.len() <= MAX_ADDRESSES);
            assert!(dials.by_peer.len() <= peers as usize);
        }
        let minute = Duration::from_secs(60);
        let most = made.iter().enumerate().map(|(index, began)| {
            let within = made[index..].iter();
            within.take_while(|at| **at - *began < minute).count()
        });
        (made.len(), most.max().unwrap_or(0))
    }

    #[test]
    fn one_address_is_connected_to_so_often_whoever_names_it() {
        let (made, most) = try_for(10, 20, |_| address(1));
        // Eleven come back within less than a minute.
        assert_eq!((made, most), (12 + 119, 12 + 11));
        // One machine has all addresses of such a network.
        let (_, most) = try_for(3, 20, |n| {
            Ipv6Addr::from_bits((0x2001_0db8 << 96) | u128::from(n)).into()
        });
        assert_eq!(most, 12 + 11);
    }

    #[test]
    fn one_peer_names_so_many_addresses_and_bars_no_other_one() {
        let (_, most) = try_for(10, 1, |n| address(n as u32));
        assert_eq!(most, 24 + 11);
        let (mut dials, start) = (Dials::default(), start());
        for n in 0..1000 {
            dials.take(PeerHandle(1), address(n), start);
        }
        assert_eq!(dials.count(), 24);
        assert!(dials.take(PeerHandle(2), address(5000), start));
    }

    #[test]
    fn a_peer_that_names_the_address_of_another_one_does_not_bar_it() {
        let (mut dials, start) = (Dials::default(), start());
        // It names the address as often as it can, with whatever port.
        for tick in 0..3000 {
            let now = start + Duration::from_millis(100 * tick);
            dials.take(PeerHandle(1), address(1), now);
        }
        let now = start + Duration::from_secs(300);
        let made = (0..8).filter(|_| dials.take(PeerHandle(2), address(1), now));
        assert_eq!(made.count(), 8);
    }

    #[test]
    fn behind_a_translator_each_machine_counts_for_itself() {
        let translated = |n: u128| Ipv6Addr::from_bits((0x0064_ff9b << 96) | n).into();
        let (_, most) = try_for(2, 4, |n| translated(u128::from(n)));
        assert_eq!(most, 4 * (24 + 11));
    }

    #[test]
    fn all_peers_together_name_so_many() {
        let (_, most) = try_for(2, 60, |n| address(n as u32));
        assert_eq!(most, 128 + 239);
    }

    #[test]
    fn what_is_full_again_is_forgotten() {
        let (mut dials, start) = (Dials::default(), start());
        for n in 0..100 {
            assert!(dials.take(PeerHandle(n), address(n % 50), start));
        }
        assert_eq!((dials.count(), dials.by_peer.len()), (50, 100));
        let later = start + Duration::from_secs(11);
        assert!(dials.take(PeerHandle(7), address(7), later));
        assert_eq!((dials.count(), dials.by_peer.len()), (1, 1));
    }
}
