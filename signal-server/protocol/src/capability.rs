//! What a peer, a client or a server can do beyond version 1 of the protocol, so that newer ones know what they may send it.

use crate::codec::DecodeError;

/// A set of capabilities takes at most this many bytes.
pub const MAX_CAPABILITIES: usize = 32;

/// One thing that somebody can do. The numbers are on the wire for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Capability {
    /// Passes over what it does not know instead of refusing the message that has it: a peer, kinds and families of candidates
    /// and values of a NAT summary; a client, frames of the server.
    PassesOver = 0,
    /// A peer reads the refusals of its offers.
    ReadsRefusals = 1,
    /// A peer joins the relay links of its exchanges; a server makes links, and a client may join them.
    Relays = 2,
    /// A peer understands that another one is away for a moment ([`crate::Note::Away`]) and keeps its path meanwhile.
    WaitsForReturn = 3,
    /// A translator (NAT64) in front of a peer cuts what it gets over IPv4 unless that forbids it (RFC 7915 §4), and what is cut may not
    /// arrive: packets of the tunnel are to be sent whole, as soon as it is known that they fit.
    WantsWhole = 4,
}

/// A set of [`Capability`]. Numbers that this version does not know are left out when a set is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u8);

impl Capabilities {
    /// The empty set, which is also that of somebody who does not tell.
    pub const NONE: Self = Self(0);
    /// What this version can do as a client of a signalling server, and what its server can do.
    pub const OURS: Self = Self(1 << Capability::PassesOver as u8);
    /// The same of a server that relays.
    pub const RELAYING: Self = Self(Self::OURS.0 | 1 << Capability::Relays as u8);
    /// What this version can do as a peer.
    pub const PEER: Self = Self(
        1 << Capability::PassesOver as u8
            | 1 << Capability::ReadsRefusals as u8
            | 1 << Capability::WaitsForReturn as u8,
    );
    /// The same of a peer that may be reached over a relay.
    pub const RELAYED_PEER: Self = Self(Self::PEER.0 | 1 << Capability::Relays as u8);

    /// All capabilities that have a number.
    const KNOWN: u8 = Self::RELAYED_PEER.with(Capability::WantsWhole).0;

    /// The set with one more.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability as u8)
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `capability` is in the set.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u8) != 0
    }

    /// Capability n is bit n mod 8 of byte n / 8; zero bytes at the end are left out.
    pub(crate) fn encode(self) -> Vec<u8> {
        if self.is_empty() {
            Vec::new()
        } else {
            vec![self.0]
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CAPABILITIES {
            return Err(DecodeError::TooLong("capabilities"));
        }
        let first = bytes.first().copied().unwrap_or(0);
        Ok(Self(first & Self::KNOWN))
    }
}
