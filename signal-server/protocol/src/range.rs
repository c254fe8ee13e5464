//! The IPv4 range from which overlay addresses are taken.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 prefix of 8 to 24 bits with the host bits clear, such as `100.64.0.0/10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Range {
    network: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not an [`Ipv4Range`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ipv4RangeError {
    /// Not of the form `A.B.C.D/N`.
    #[error("an IPv4 range looks like 100.64.0.0/10")]
    Malformed,
    /// The prefix is shorter than 8 or longer than 24 bits.
    #[error("the prefix length of an overlay range is 8 to 24, not {0}")]
    Prefix(u8),
    /// Bits are set beyond the prefix.
    #[error("{0} is the network of that range; write it instead of an address inside it")]
    HostBits(Ipv4Range),
}

impl Ipv4Range {
    /// The range unless another one is configured: `100.64.0.0/10`, the shared address space of RFC 6598.
    pub const DEFAULT: Self = Self {
        network: Ipv4Addr::new(100, 64, 0, 0),
        prefix: 10,
    };

    /// Checks the prefix length and that no host bit is set.
    ///
    /// # Errors
    /// [`Ipv4RangeError::Prefix`] or [`Ipv4RangeError::HostBits`].
    pub fn new(network: Ipv4Addr, prefix: u8) -> Result<Self, Ipv4RangeError> {
        if !(8..=24).contains(&prefix) {
            return Err(Ipv4RangeError::Prefix(prefix));
        }
        let mask = u32::MAX << (32 - u32::from(prefix));
        let masked = Ipv4Addr::from(u32::from(network) & mask);
        let range = Self {
            network: masked,
            prefix,
        };
        if masked != network {
            return Err(Ipv4RangeError::HostBits(range));
        }
        Ok(range)
    }

    /// The first address of the range.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// The length of the prefix, in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address whose host bits are the top bits of `hash`, never the first or the last of the range.
    pub fn address(&self, hash: u32) -> Ipv4Addr {
        let host_max = u32::MAX >> self.prefix;
        let host = (hash >> self.prefix).clamp(1, host_max - 1);
        Ipv4Addr::from(u32::from(self.network) | host)
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Ipv4Range {
    type Err = Ipv4RangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (network, prefix) = text.split_once('/').ok_or(Ipv4RangeError::Malformed)?;
        let network = network.parse().map_err(|_| Ipv4RangeError::Malformed)?;
        let prefix = prefix.parse().map_err(|_| Ipv4RangeError::Malformed)?;
        Self::new(network, prefix)
    }
}
