//! What a description tells of the sender's IPv4 NAT, so that both ends make the same plan.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader};

/// A NAT with more public addresses than this is described by the first of them.
pub const MAX_NAT_ADDRESSES: usize = 8;

/// What a mapping depends on (RFC 4787 §4.1). The numbers are on the wire for ever, the names in the control API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Mapping {
    /// No NAT: a server sees the machine's own address.
    None = 1,
    /// One mapping for all destinations (EIM).
    EndpointIndependent = 2,
    /// One per destination address (ADM).
    AddressDependent = 3,
    /// One per destination address and port (APDM, "symmetric").
    AddressAndPortDependent = 4,
    /// One for every destination or pair of them; which could not be told with the servers at hand.
    Dependent = 5,
}

/// From where packets may come in through a mapping (RFC 4787 §5). The numbers are on the wire for ever, the names in the control API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Filtering {
    /// From everywhere (EIF).
    EndpointIndependent = 1,
    /// From addresses that were sent to (ADF).
    AddressDependent = 2,
    /// From addresses and ports that were sent to (APDF).
    AddressAndPortDependent = 3,
}

/// How the ports of new mappings are chosen, as far as samples tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "model")]
pub enum Allocation {
    /// The local port, wherever it is free (RFC 4787 §4.2.1's port preservation).
    Preserving,
    /// The port of the last mapping plus a step.
    Sequential {
        /// The distance from one mapping to the next, negative where they count down, never 0.
        step: i16,
        /// Mappings that others behind the same NAT make, per second.
        others: u16,
    },
    /// Any of a block.
    Block {
        /// The lowest port of it.
        low: u16,
        /// The highest.
        high: u16,
    },
    /// Any of all.
    Random,
}

/// How much an attempt may ask of the routers. The numbers are on the wire for ever, the names in the control API.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Budget {
    /// For routers that fall over easily.
    Gentle = 1,
    /// What home routers carry.
    #[default]
    Normal = 2,
    /// What it takes for two NATs with random ports.
    Aggressive = 3,
}

impl Budget {
    /// The name in punchd.toml and in the control API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gentle => "gentle",
            Self::Normal => "normal",
            Self::Aggressive => "aggressive",
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One end's NAT, as the other end needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatSummary {
    /// What a mapping of the NAT depends on, when known.
    pub mapping: Option<Mapping>,
    /// From where packets may come in, when known.
    pub filtering: Option<Filtering>,
    /// How the ports of new mappings are chosen, when known.
    pub allocation: Option<Allocation>,
    /// Its public addresses, as far as they were seen; at most [`MAX_NAT_ADDRESSES`].
    pub addresses: Vec<Ipv4Addr>,
    /// What the sender is ready to spend.
    pub budget: Budget,
    /// How many attempts between the two have failed just before: each next one uses other ports.
    pub attempt: u8,
    /// What the sender says of its searches; `None` from one that says nothing, which is read by the budget and the allocation.
    pub search: Option<SearchFacts>,
}

/// What a sender says of its searches: a field of its own beside the summary, which has no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SearchFacts {
    /// Whether the sender is still measuring its NAT: what the summary says may be wrong, and an offer follows soon.
    pub measuring: bool,
    /// The most mappings that a search of the sender holds at its NAT, with those of everything else that it knows of.
    pub mappings: u32,
}

impl SearchFacts {
    /// `flags, u32`; bit 0 of the flags says that the sender is still measuring.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![u8::from(self.measuring)];
        out.extend(self.mappings.to_be_bytes());
        out
    }

    /// Reads the facts; unknown flags and bytes behind them are passed over, so that more can follow.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        let mappings = u32::from_be_bytes(reader.array()?);
        reader.rest();
        Ok(Self {
            measuring: flags & 1 != 0,
            mappings,
        })
    }
}

impl NatSummary {
    /// `mapping, filtering, budget, attempt, allocation tag, two u16, addresses`; 0 stands for unknown.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, first, second) = match self.allocation {
            None => (0, 0, 0),
            Some(Allocation::Preserving) => (1, 0, 0),
            Some(Allocation::Sequential { step, others }) => (2, step.cast_unsigned(), others),
            Some(Allocation::Block { low, high }) => (3, low, high),
            Some(Allocation::Random) => (4, 0, 0),
        };
        let mut out = vec![
            self.mapping.map_or(0, |mapping| mapping as u8),
            self.filtering.map_or(0, |filtering| filtering as u8),
            self.budget as u8,
            self.attempt,
            kind,
        ];
        out.extend(first.to_be_bytes());
        out.extend(second.to_be_bytes());
        for address in self.addresses.iter().take(MAX_NAT_ADDRESSES) {
            out.extend(address.octets());
        }
        out
    }

    /// Reads a summary. Numbers that only a newer version knows are read as "unknown"; such a budget, as the usual one.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mapping = match reader.u8()? {
            0 => None,
            1 => Some(Mapping::None),
            2 => Some(Mapping::EndpointIndependent),
            3 => Some(Mapping::AddressDependent),
            4 => Some(Mapping::AddressAndPortDependent),
            5 => Some(Mapping::Dependent),
            _ => None,
        };
        let filtering = match reader.u8()? {
            0 => None,
            1 => Some(Filtering::EndpointIndependent),
            2 => Some(Filtering::AddressDependent),
            3 => Some(Filtering::AddressAndPortDependent),
            _ => None,
        };
        let budget = match reader.u8()? {
            0 => return Err(DecodeError::BadValue("budget")),
            1 => Budget::Gentle,
            2 => Budget::Normal,
            3 => Budget::Aggressive,
            _ => Budget::default(),
        };
        let attempt = reader.u8()?;
        let kind = reader.u8()?;
        let (first, second) = (reader.u16()?, reader.u16()?);
        let allocation = match kind {
            0 => None,
            1 => Some(Allocation::Preserving),
            2 if first != 0 => Some(Allocation::Sequential {
                step: first.cast_signed(),
                others: second,
            }),
            3 if first <= second && first > 0 => Some(Allocation::Block {
                low: first,
                high: second,
            }),
            4 => Some(Allocation::Random),
            2 | 3 => return Err(DecodeError::BadValue("NAT port allocation")),
            _ => None,
        };
        let mut addresses = Vec::new();
        while !reader.is_empty() {
            if addresses.len() == MAX_NAT_ADDRESSES {
                return Err(DecodeError::TooLong("NAT addresses"));
            }
            addresses.push(Ipv4Addr::from(reader.array::<4>()?));
        }
        Ok(Self {
            mapping,
            filtering,
            allocation,
            addresses,
            budget,
            attempt,
            search: None,
        })
    }
}

/// "My NAT has just given out this port": what a peer needs to foretell the next ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// The number of the try that the prediction is for.
    pub round: u8,
    /// The last port that a STUN server saw.
    pub port: u16,
}
