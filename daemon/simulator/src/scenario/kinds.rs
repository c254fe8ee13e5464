//! The kinds of attachment, and the NAT of each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::nat::{Allocation, Filtering, Mapping, NatSpec, Pooling};

/// How many ports [`Kind::SymmetricBlock`] has.
const BLOCK: u16 = 1024;

/// How a machine is attached to the internet. "Drawn" means: from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A public address, nothing in between.
    Open,
    /// A public IPv4 address behind a stateful firewall.
    Firewall,
    /// EIM, EIF.
    FullCone,
    /// EIM, ADF.
    AddressRestricted,
    /// EIM, APDF, port preserved.
    PortRestricted,
    /// EIM, APDF, sequential ports.
    PortRestrictedSequential,
    /// EIM, APDF, random ports.
    PortRestrictedRandom,
    /// EIM, APDF, four public addresses: each socket gets any of them.
    PortRestrictedPool,
    /// EIM, APDF, port preserved; mappings live for 15 s.
    PortRestrictedBrief,
    /// A Linux router without an input filter: what comes too early takes the port.
    PortRestrictedStateful,
    /// A Linux router with room for 16 entries, one for each destination.
    SmallTable,
    /// A port-restricted home behind a port-restricted carrier.
    DoubleEasy,
    /// ADM, ADF, random ports.
    AddressDependent,
    /// APDM, APDF, sequential ports: step (1 to 8), direction and the other hosts' mappings per
    /// second (0 to 20) are drawn.
    SymmetricSequential,
    /// APDM, APDF, random ports in a block of 1,024; which block is drawn.
    SymmetricBlock,
    /// APDM, APDF, random ports.
    Symmetric,
    /// As `Symmetric`, with four public addresses: each mapping gets any of them.
    SymmetricPool,
    /// A port-restricted home behind a carrier like `Symmetric`.
    DoubleHard,
    /// IPv4 as `Symmetric`, and IPv6 behind a stateful firewall.
    DualStack,
    /// IPv6 only, no NAT, behind a stateful firewall.
    Ipv6Firewall,
    /// APDM, APDF, random ports in an exclusive block of 256: no port has two mappings. The block is drawn, and so is
    /// how long mappings live: 30, 60 or 120 s.
    Exclusive256,
    /// As `Exclusive256`, with 512 ports.
    Exclusive512,
    /// As `Exclusive256`, with 1,024 ports.
    Exclusive1024,
    /// As `Exclusive256`, with 2,048 ports.
    Exclusive2048,
    /// A Linux router that keeps 400 entries for a host, one for each destination, for 30, 60 or 120 s (drawn).
    Entries400,
    /// As `Entries400`, with 1,000 entries.
    Entries1000,
    /// As `Symmetric`, with 400 mappings at most for a host, for 30, 60 or 120 s (drawn).
    Sessions400,
    /// As `Sessions400`, with 1,000 mappings.
    Sessions1000,
}

/// What stands between a kind and a peer, over IPv4 if it has that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HardClass {
    /// The endpoint is known, and whoever is at an address to which this one has sent gets in:
    /// ordinary checks suffice with any peer that has one address.
    Reachable,
    /// The endpoint is known, but only packets from where this one has sent get in.
    Easy,
    /// As `Easy`, for as long as this one sends before the other's packets arrive.
    Fragile,
    /// One unknown port for each address of a peer, open to all its ports.
    AddressDependent,
    /// Unknown ports that can be predicted.
    Sequential,
    /// Unknown ports in a block of 1,024.
    Block,
    /// Unknown ports in a block, no more mappings than ports: what others need is not the search's.
    Exclusive,
    /// Unknown ports anywhere.
    Random,
    /// Unknown ports anywhere, and few of them at a time.
    RandomLimited,
    /// Unknown ports anywhere, on one of several addresses.
    RandomPool,
}

impl Kind {
    /// The kinds between which ordinary checks must always find a path.
    pub const EASY: [Self; 5] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedRandom,
    ];

    /// The kinds between which ordinary checks do what the oracle says, no more and no less.
    pub const ICE: [Self; 14] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedSequential,
        Self::PortRestrictedRandom,
        Self::PortRestrictedPool,
        Self::PortRestrictedBrief,
        Self::SmallTable,
        Self::DoubleEasy,
        Self::AddressDependent,
        Self::Symmetric,
        Self::Ipv6Firewall,
    ];

    /// All of them, the easier ones first.
    pub const ALL: [Self; 28] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedSequential,
        Self::PortRestrictedRandom,
        Self::PortRestrictedPool,
        Self::PortRestrictedBrief,
        Self::PortRestrictedStateful,
        Self::SmallTable,
        Self::DoubleEasy,
        Self::AddressDependent,
        Self::SymmetricSequential,
        Self::SymmetricBlock,
        Self::Symmetric,
        Self::SymmetricPool,
        Self::DoubleHard,
        Self::DualStack,
        Self::Ipv6Firewall,
        Self::Exclusive256,
        Self::Exclusive512,
        Self::Exclusive1024,
        Self::Exclusive2048,
        Self::Entries400,
        Self::Entries1000,
        Self::Sessions400,
        Self::Sessions1000,
    ];

    /// Those that let a host have so few mappings that a careless search would take them all.
    pub const SCARCE: [Self; 8] = [
        Self::Exclusive256,
        Self::Exclusive512,
        Self::Exclusive1024,
        Self::Exclusive2048,
        Self::Entries400,
        Self::Entries1000,
        Self::Sessions400,
        Self::Sessions1000,
    ];

    /// Its name in arguments, tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Firewall => "firewall",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::PortRestrictedSequential => "port-restricted-sequential",
            Self::PortRestrictedRandom => "port-restricted-random",
            Self::PortRestrictedPool => "port-restricted-pool",
            Self::PortRestrictedBrief => "port-restricted-brief",
            Self::PortRestrictedStateful => "port-restricted-stateful",
            Self::SmallTable => "small-table",
            Self::DoubleEasy => "double-easy",
            Self::AddressDependent => "address-dependent",
            Self::SymmetricSequential => "symmetric-sequential",
            Self::SymmetricBlock => "symmetric-block",
            Self::Symmetric => "symmetric",
            Self::SymmetricPool => "symmetric-pool",
            Self::DoubleHard => "double-hard",
            Self::DualStack => "dual-stack",
            Self::Ipv6Firewall => "ipv6-firewall",
            Self::Exclusive256 => "exclusive-256",
            Self::Exclusive512 => "exclusive-512",
            Self::Exclusive1024 => "exclusive-1024",
            Self::Exclusive2048 => "exclusive-2048",
            Self::Entries400 => "entries-400",
            Self::Entries1000 => "entries-1000",
            Self::Sessions400 => "sessions-400",
            Self::Sessions1000 => "sessions-1000",
        }
    }

    /// What stands between it and a peer.
    pub fn class(self) -> HardClass {
        match self {
            Self::Open | Self::FullCone | Self::AddressRestricted => HardClass::Reachable,
            Self::Firewall
            | Self::PortRestricted
            | Self::PortRestrictedSequential
            | Self::PortRestrictedRandom
            | Self::PortRestrictedPool
            | Self::PortRestrictedBrief
            | Self::SmallTable
            | Self::DoubleEasy
            | Self::Ipv6Firewall
            | Self::Entries400
            | Self::Entries1000 => HardClass::Easy,
            Self::PortRestrictedStateful => HardClass::Fragile,
            Self::AddressDependent => HardClass::AddressDependent,
            Self::SymmetricSequential => HardClass::Sequential,
            Self::SymmetricBlock => HardClass::Block,
            Self::Symmetric | Self::DoubleHard | Self::DualStack => HardClass::Random,
            Self::SymmetricPool => HardClass::RandomPool,
            Self::Exclusive256 | Self::Exclusive512 | Self::Exclusive1024 | Self::Exclusive2048 => {
                HardClass::Exclusive
            }
            Self::Sessions400 | Self::Sessions1000 => HardClass::RandomLimited,
        }
    }

    /// How many mappings a host may have where that is so few that a search must mind it ([`Kind::SCARCE`]).
    pub fn capacity(self) -> Option<u16> {
        match self {
            Self::Exclusive256 => Some(256),
            Self::Exclusive512 => Some(512),
            Self::Exclusive1024 => Some(1024),
            Self::Exclusive2048 => Some(2048),
            Self::Entries400 | Self::Sessions400 => Some(400),
            Self::Entries1000 | Self::Sessions1000 => Some(1000),
            _ => None,
        }
    }

    /// Whether it has an IPv4 address.
    pub fn has_ipv4(self) -> bool {
        self != Self::Ipv6Firewall
    }

    /// Whether it has an IPv6 address.
    pub fn has_ipv6(self) -> bool {
        matches!(self, Self::Ipv6Firewall | Self::DualStack)
    }

    /// The NAT at `public`, with its pool at the next addresses; `None` where there is none.
    pub(crate) fn nat(self, public: Ipv4Addr, rng: &mut ChaCha8Rng) -> Option<NatSpec> {
        let ip = IpAddr::V4(public);
        let easy = NatSpec::port_restricted(ip);
        let pool = || (0..4).map(|n| Ipv4Addr::from_bits(public.to_bits() + n).into());
        Some(match self {
            Self::Open | Self::Firewall | Self::Ipv6Firewall => return None,
            Self::Exclusive256
            | Self::Exclusive512
            | Self::Exclusive1024
            | Self::Exclusive2048
            | Self::Entries400
            | Self::Entries1000
            | Self::Sessions400
            | Self::Sessions1000 => self.scarce(self.capacity()?, ip, rng),
            Self::FullCone => NatSpec::full_cone(ip),
            Self::AddressRestricted => NatSpec::address_restricted(ip),
            Self::PortRestricted | Self::DoubleEasy | Self::DoubleHard => easy,
            Self::PortRestrictedSequential => NatSpec {
                allocation: Allocation::Sequential { step: 1 },
                ..easy
            },
            Self::PortRestrictedRandom => NatSpec {
                allocation: Allocation::Random,
                ..easy
            },
            Self::PortRestrictedPool => NatSpec {
                public: pool().collect(),
                pooling: Pooling::Arbitrary,
                ..easy
            },
            Self::PortRestrictedBrief => NatSpec {
                timeout: Duration::from_secs(15),
                ..easy
            },
            Self::PortRestrictedStateful => NatSpec {
                keeps_unsolicited: true,
                ..NatSpec::linux(ip)
            },
            Self::SmallTable => NatSpec {
                capacity: 16,
                ..NatSpec::linux(ip)
            },
            Self::AddressDependent => NatSpec {
                allocation: Allocation::Random,
                ..NatSpec::new(Mapping::AddressDependent, Filtering::AddressDependent, ip)
            },
            Self::SymmetricSequential => {
                let step = 1 + pick(rng, 8) as u16;
                let is_down = pick(rng, 2) == 1;
                let step = if is_down { step.wrapping_neg() } else { step };
                NatSpec {
                    others: f64::from(pick(rng, 21)),
                    ..NatSpec::symmetric(Allocation::Sequential { step }, ip)
                }
            }
            Self::SymmetricBlock => {
                let low = BLOCK * (1 + pick(rng, 63) as u16);
                let high = low + (BLOCK - 1);
                NatSpec::symmetric(Allocation::RandomIn { low, high }, ip)
            }
            Self::Symmetric | Self::DualStack => hard(ip),
            Self::SymmetricPool => NatSpec {
                public: pool().collect(),
                pooling: Pooling::Arbitrary,
                ..hard(ip)
            },
        })
    }

    /// The NAT of a kind that has a [`Kind::capacity`].
    fn scarce(self, capacity: u16, ip: IpAddr, rng: &mut ChaCha8Rng) -> NatSpec {
        let timeout = Duration::from_secs([30, 60, 120][pick(rng, 3) as usize]);
        let host_limit = usize::from(capacity);
        let spec = match self.class() {
            HardClass::Exclusive => {
                let blocks = u32::from(u16::MAX / capacity);
                let low = capacity * (1 + pick(rng, blocks - 1) as u16);
                NatSpec::exclusive_block(low.max(1024), capacity, ip)
            }
            HardClass::Easy => NatSpec {
                host_limit,
                ..NatSpec::linux(ip)
            },
            _ => NatSpec {
                host_limit,
                ..hard(ip)
            },
        };
        NatSpec { timeout, ..spec }
    }

    /// The carrier's NAT in front of the home's, if there is one.
    pub(super) fn carrier(self, public: Ipv4Addr) -> Option<NatSpec> {
        match self {
            Self::DoubleEasy => Some(NatSpec::port_restricted(public.into())),
            Self::DoubleHard => Some(hard(public.into())),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind(pub String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Kind::ALL.map(Kind::name).join(", ");
        write!(f, "there is no kind \"{}\"; use one of: {names}", self.0)
    }
}

impl std::error::Error for UnknownKind {}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

/// The hardest NAT.
fn hard(public: IpAddr) -> NatSpec {
    NatSpec::symmetric(Allocation::Random, public)
}

/// A number below `end`, good enough for a few choices.
fn pick(rng: &mut ChaCha8Rng, end: u32) -> u32 {
    rng.next_u32() % end
}
