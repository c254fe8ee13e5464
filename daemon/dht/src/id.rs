//! Names of nodes and places in the DHT, the distance between them (BEP 5), and how a node's address bounds its name (BEP 42).

use std::fmt;
use std::net::Ipv4Addr;

use rand_core::RngCore;

/// 160 bits: a node's name, or the place of an item.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 20]);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}…")
    }
}

impl NodeId {
    /// How far two are apart: their bits' exclusive or, as a number.
    pub fn distance(&self, other: &Self) -> [u8; 20] {
        std::array::from_fn(|at| self.0[at] ^ other.0[at])
    }

    /// How many leading bits two have in common, 0 to 160.
    pub fn common_bits(&self, other: &Self) -> usize {
        let mut bits = 0;
        for byte in self.distance(other) {
            let zeros = byte.leading_zeros();
            bits += zeros as usize;
            if zeros < 8 {
                break;
            }
        }
        bits
    }

    /// Any of them.
    pub fn random(rng: &mut impl RngCore) -> Self {
        let mut bytes = [0; 20];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// One that a node at this address may have (BEP 42, "The node ID").
    pub fn of(ip: Ipv4Addr, rng: &mut impl RngCore) -> Self {
        let mut id = Self::random(rng);
        let [first, second, third] = prefix(ip, id.0[19]);
        id.0[0] = first;
        id.0[1] = second;
        id.0[2] = (third & 0xf8) | (id.0[2] & 7);
        id
    }

    /// Whether a node at this address may have this name: the first 21 bits follow from the address and the name's last byte. Machines
    /// of networks that are not the Internet's may have any (BEP 42, "Local Networks").
    pub fn fits(&self, ip: Ipv4Addr, scope: Scope) -> bool {
        let [first, second, third] = prefix(ip, self.0[19]);
        !scope.is_public(ip)
            || (self.0[0] == first && self.0[1] == second && (self.0[2] ^ third) & 0xf8 == 0)
    }
}

/// Whose nodes a DHT has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everybody's: one machine has one say, under a name that follows from its address.
    #[default]
    Internet,
    /// One's own: many may be at one address, and have the names that they like.
    Own,
}

impl Scope {
    /// Whether whoever is at this address is a stranger.
    pub(crate) fn is_public(self, ip: Ipv4Addr) -> bool {
        self == Self::Internet && is_global(ip)
    }
}

/// The first three bytes of the CRC of an address, as BEP 42 masks it.
fn prefix(ip: Ipv4Addr, random: u8) -> [u8; 3] {
    let masked = u32::from(ip) & 0x030f_3fff | u32::from(random & 7) << 29;
    let crc = crc32c(&masked.to_be_bytes()).to_be_bytes();
    [crc[0], crc[1], crc[2]]
}

/// CRC-32C (RFC 3720 §12.1), bit by bit: there are four bytes at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * low);
        }
    }
    !crc
}

/// Whether a node of the Internet may be at this address: none of a private network, of this machine, of a group, or without use.
pub fn is_global(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    let shared = first == 100 && second & 0xc0 == 64;
    let without_use = first == 0 || first >= 224;
    !(shared || without_use || ip.is_private() || ip.is_loopback() || ip.is_link_local())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    /// BEP 42, "Example": address, the number `rand`, and the first and the last bytes of the name.
    #[test]
    fn names_follow_from_addresses_as_bep_42_shows() {
        for (ip, random, first) in [
            ("124.31.75.21", 1, [0x5f, 0xbf, 0xbf]),
            ("21.75.31.124", 86, [0x5a, 0x3c, 0xe9]),
            ("65.23.51.170", 22, [0xa5, 0xd4, 0x32]),
            ("84.124.73.14", 65, [0x1b, 0x03, 0x21]),
            ("43.213.53.83", 90, [0xe5, 0x6f, 0x6c]),
        ] {
            let ip = ip.parse().unwrap();
            let found = prefix(ip, random);
            assert_eq!(found[..2], first[..2], "{ip}");
            assert_eq!(found[2] & 0xf8, first[2] & 0xf8, "{ip}");
            let mut id = NodeId([0; 20]);
            id.0[..3].copy_from_slice(&first);
            id.0[19] = random;
            assert!(id.fits(ip, Scope::Internet), "{ip}");
            id.0[1] ^= 1;
            assert!(!id.fits(ip, Scope::Internet), "{ip}");
        }
    }

    #[test]
    fn a_name_that_was_made_for_an_address_fits_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..100 {
            let ip = Ipv4Addr::from(rng.next_u32());
            assert!(NodeId::of(ip, &mut rng).fits(ip, Scope::Internet));
        }
        let any = NodeId([7; 20]);
        assert!(any.fits(Ipv4Addr::new(192, 168, 1, 1), Scope::Internet));
        assert!(!any.fits(Ipv4Addr::new(11, 168, 1, 1), Scope::Internet));
        assert!(any.fits(Ipv4Addr::new(11, 168, 1, 1), Scope::Own));
    }

    #[test]
    fn common_bits_are_counted_over_bytes() {
        let zero = NodeId([0; 20]);
        assert_eq!(zero.common_bits(&zero), 160);
        let mut other = zero;
        other.0[2] = 0x10;
        assert_eq!(zero.common_bits(&other), 19);
    }
}
