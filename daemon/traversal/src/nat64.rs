//! IPv4 addresses as a network without IPv4 reaches them: embedded in IPv6 ones, by which a translator (NAT64) knows them (RFC 6052 §2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::address::is_translatable;

/// The lengths that a prefix may have, in bits (RFC 6052 §2.2).
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// The byte that is zero in every such address whatever its prefix (RFC 6052 §2.2, bits 64 to 71).
const ZERO: usize = 8;
/// What a translator's name server tells the prefix by: these, embedded, are the addresses of `ipv4only.arpa` (RFC 7050 §2.2, §8.2).
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// Answers of a name server that are looked at.
const MAX_ANSWERS: usize = 16;

/// What stands for this machine's IPv4 address where it has none and a translator gives it one that it does not know: of the range that
/// is for this (RFC 7335 §3), and told to nobody.
pub const BEHIND_NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// Whether an address is of the range in which machines without IPv4 give themselves one (RFC 7335 §3): no peer can send there.
pub(crate) fn is_of_translator(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[..3] == [192, 0, 0] && ip.octets()[3] < 8)
}

/// The prefix of a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nat64 {
    prefix: Ipv6Addr,
    length: u8,
}

impl Nat64 {
    /// The prefix that every network may use (RFC 6052 §2.1).
    pub const WELL_KNOWN: Self = Self {
        prefix: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0),
        length: 96,
    };

    /// A prefix of `length` bits; `None` if RFC 6052 §2.2 has no such length, if bits behind it or those that must be zero are set, and
    /// if the addresses below it are not other machines'.
    pub fn new(prefix: Ipv6Addr, length: u8) -> Option<Self> {
        let found = Self { prefix, length };
        let is_own = prefix.is_multicast()
            || prefix.is_unicast_link_local()
            // Loopback, none, and IPv4 in the notation of the sockets.
            || prefix.segments()[..5] == [0; 5];
        let right = LENGTHS.contains(&length)
            && !is_own
            && found.masked(prefix) == prefix
            && prefix.octets()[ZERO] == 0;
        right.then_some(found)
    }

    /// The first address below the prefix, and the prefix's length in bits.
    pub fn parts(self) -> (Ipv6Addr, u8) {
        (self.prefix, self.length)
    }

    /// The prefix by what a name server tells of `ipv4only.arpa` (RFC 7050 §3), or `None` if there is no translator.
    ///
    /// Where such an address fits in several places, the prefix counts that both well-known addresses show.
    pub fn discover(answers: impl IntoIterator<Item = IpAddr>) -> Option<Self> {
        let v6 = |ip| match ip {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        };
        let answers: Vec<_> = answers
            .into_iter()
            .filter_map(v6)
            .take(MAX_ANSWERS)
            .collect();
        let fitting = |answer: Ipv6Addr| -> Vec<Self> {
            let prefixes = LENGTHS.into_iter().filter_map(|length| {
                let any = Self {
                    prefix: answer,
                    length,
                };
                let found = Self::new(any.masked(answer), length)?;
                let known = WELL_KNOWN.into_iter();
                let mut known = known.filter(|known| found.embed(*known) == answer);
                known.next().map(|_| found)
            });
            prefixes.collect()
        };
        let is_shown_twice = |found: &Self| {
            let mut known = WELL_KNOWN.iter();
            known.all(|known| answers.contains(&found.embed(*known)))
        };
        let all: Vec<_> = answers.iter().map(|answer| fitting(*answer)).collect();
        let twice = all.iter().flatten().find(|found| is_shown_twice(found));
        let alone = || all.iter().find(|found| found.len() == 1)?.first();
        twice.or_else(alone).copied()
    }

    /// The IPv6 address that stands for an IPv4 address.
    pub fn embed(self, ip: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.octets();
        for (at, octet) in self.places().zip(ip.octets()) {
            octets[at] = octet;
        }
        octets.into()
    }

    /// The IPv4 address that an IPv6 address stands for, if it lies below the prefix; what follows the IPv4 address says nothing.
    pub fn extract(self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.covers(ip) {
            return None;
        }
        let octets = ip.octets();
        let mut v4 = [0; 4];
        for (octet, at) in v4.iter_mut().zip(self.places()) {
            *octet = octets[at];
        }
        Some(v4.into())
    }

    /// Where packets for this address go: to the translator if it stands for an IPv4 address, and otherwise straight there. `None` if
    /// nobody may be asked for it.
    pub fn outwards(self, to: SocketAddr) -> Option<SocketAddr> {
        match to {
            SocketAddr::V4(v4) if is_translatable(*v4.ip()) => {
                Some(SocketAddr::new(self.embed(*v4.ip()).into(), v4.port()))
            }
            SocketAddr::V6(v6) if self.covers(*v6.ip()) => {
                let is_right = self.extract(*v6.ip()).is_some_and(is_translatable);
                is_right.then_some(to)
            }
            _ => Some(to),
        }
    }

    /// What an address stands for: the IPv4 address behind the translator, or itself. `None` if it lies below the prefix and
    /// stands for nobody.
    pub fn inwards(self, from: SocketAddr) -> Option<SocketAddr> {
        match from {
            SocketAddr::V6(v6) if self.covers(*v6.ip()) => {
                let ip = self.extract(*v6.ip()).filter(|ip| is_translatable(*ip))?;
                Some(SocketAddr::new(ip.into(), v6.port()))
            }
            _ => Some(from),
        }
    }

    /// Whether what a name server tells of `ipv4only.arpa` shows this prefix, perhaps beside others.
    pub fn is_shown_by(self, answers: &[IpAddr]) -> bool {
        let mut known = WELL_KNOWN.into_iter();
        known.any(|known| answers.contains(&self.embed(known).into()))
    }

    /// Whether a network, of which this is an address and `length` the prefix's in bits, has addresses in common with this one.
    pub fn meets(self, ip: Ipv6Addr, length: u8) -> bool {
        let shorter = Self {
            prefix: self.prefix,
            length: self.length.min(length),
        };
        shorter.masked(ip) == shorter.masked(self.prefix)
    }

    fn covers(self, ip: Ipv6Addr) -> bool {
        self.masked(ip) == self.prefix && ip.octets()[ZERO] == 0
    }

    fn masked(self, ip: Ipv6Addr) -> Ipv6Addr {
        let host = u128::MAX.checked_shr(u32::from(self.length));
        (u128::from(ip) & !host.unwrap_or(0)).into()
    }

    /// The bytes that hold the IPv4 address.
    fn places(self) -> impl Iterator<Item = usize> {
        let first = usize::from(self.length / 8);
        (first..16).filter(|at| *at != ZERO).take(4)
    }
}

impl fmt::Display for Nat64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix, self.length)
    }
}

/// A text that is no prefix of a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoNat64;

impl fmt::Display for NoNat64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "it must be an IPv6 prefix with a length of 32, 40, 48, 56, 64 or 96 and zeros behind it, such as 64:ff9b::/96, and not the link's (fe80::), multicast or the machine's own",
        )
    }
}

impl std::error::Error for NoNat64 {}

impl FromStr for Nat64 {
    type Err = NoNat64;

    fn from_str(text: &str) -> Result<Self, NoNat64> {
        let (prefix, length) = text.split_once('/').ok_or(NoNat64)?;
        let prefix = prefix.parse().map_err(|_| NoNat64)?;
        let length = length.parse().map_err(|_| NoNat64)?;
        Self::new(prefix, length).ok_or(NoNat64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
