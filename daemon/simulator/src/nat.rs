//! Middleboxes as RFC 4787 describes them: a NAT is mapping x filtering x port allocation x expiry.

mod state;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub use state::Nat;

/// How long an idle mapping lives unless a spec says otherwise: RFC 4787 REQ-5's least.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// How many mappings fit into a table unless a spec says otherwise: `nf_conntrack_max` of a Linux
/// machine that has some memory, and room for a birthday run over all ports.
pub const DEFAULT_CAPACITY: usize = 262_144;

/// When two packets from one inside endpoint share a mapping (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mapping {
    /// One mapping for every destination (EIM, an "easy" NAT).
    EndpointIndependent,
    /// One mapping for each destination address (ADM).
    AddressDependent,
    /// One mapping for each destination address and port (APDM, a "hard" NAT).
    AddressAndPortDependent,
}

/// The senders whose packets may enter through a mapping (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filtering {
    /// Anybody's (EIF).
    EndpointIndependent,
    /// Those from addresses to which the mapping has sent (ADF).
    AddressDependent,
    /// Those from endpoints to which the mapping has sent (APDF).
    AddressAndPortDependent,
}

/// The public port that a new mapping gets (RFC 4787 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// The inside port; a random free port when another mapping already holds it.
    Preserving,
    /// The inside port; a random free port when it is taken towards the same destination. With
    /// [`Mapping::AddressAndPortDependent`], what Linux does: endpoint-independent to the eye of
    /// STUN, for as long as nothing clashes ([`NatSpec::linux`]).
    PreservingShared,
    /// The last port plus `step`, from 1024 to 65535, skipping those in use; the first is random.
    Sequential {
        /// The distance, read as two's complement: `u16::MAX` counts down by one.
        step: u16,
    },
    /// Any free port of one block.
    RandomIn {
        /// The lowest port of the block.
        low: u16,
        /// The highest port of the block.
        high: u16,
    },
    /// Any free port from 1024 to 65535.
    Random,
}

/// The one of several public addresses that a new mapping gets (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pooling {
    /// Always the same one for one inside address.
    Paired,
    /// Any, at random.
    Arbitrary,
}

/// Everything that distinguishes one NAT from another.
#[derive(Debug, Clone, PartialEq)]
pub struct NatSpec {
    /// When a mapping is reused.
    pub mapping: Mapping,
    /// The senders that may send through a mapping.
    pub filtering: Filtering,
    /// How public ports are chosen.
    pub allocation: Allocation,
    /// How long a mapping, and each permission in it, outlives the last packet sent through it.
    pub timeout: Duration,
    /// Whether inside hosts reach each other through the public addresses (RFC 4787 section 6).
    pub hairpinning: bool,
    /// The public addresses; with none, nothing is translated.
    pub public: Vec<IpAddr>,
    /// How one of them is chosen.
    pub pooling: Pooling,
    /// The most mappings alive at once; with 0, no UDP passes.
    pub capacity: usize,
    /// The most mappings alive at once of any one inside address: a NAT's session limit, and with
    /// [`NatSpec::linux`] a router's limit of conntrack entries, of which each destination needs one.
    pub host_limit: usize,
    /// Whether a public port belongs to one mapping alone, so that there are no more mappings than
    /// ports: port blocks of a carrier (RFC 7422). Else mappings to other destinations share it.
    pub exclusive: bool,
    /// Whether a packet from outside that may not enter leaves an entry in the table all the same,
    /// as in a Linux router without an input filter. For `timeout` that public endpoint is taken
    /// towards that remote one, so that a mapping made for it later gets another port.
    pub keeps_unsolicited: bool,
    /// How many mappings a second other inside hosts make, on average; they take ports and room.
    pub others: f64,
}

impl NatSpec {
    /// A port-preserving NAT without hairpinning, with the default timeout and capacity.
    pub fn new(mapping: Mapping, filtering: Filtering, public: IpAddr) -> Self {
        Self {
            mapping,
            filtering,
            allocation: Allocation::Preserving,
            timeout: DEFAULT_TIMEOUT,
            hairpinning: false,
            public: vec![public],
            pooling: Pooling::Paired,
            capacity: DEFAULT_CAPACITY,
            host_limit: usize::MAX,
            exclusive: false,
            keeps_unsolicited: false,
            others: 0.0,
        }
    }

    /// EIM and EIF: whoever learns the mapping may use it.
    pub fn full_cone(public: IpAddr) -> Self {
        Self::new(EIM, Filtering::EndpointIndependent, public)
    }

    /// EIM and ADF.
    pub fn address_restricted(public: IpAddr) -> Self {
        Self::new(EIM, Filtering::AddressDependent, public)
    }

    /// EIM and APDF: the usual home router.
    pub fn port_restricted(public: IpAddr) -> Self {
        Self::new(EIM, Filtering::AddressAndPortDependent, public)
    }

    /// APDM and APDF; `Allocation::Random` makes the hardest kind.
    pub fn symmetric(allocation: Allocation, public: IpAddr) -> Self {
        let mut spec = Self::port_restricted(public);
        spec.mapping = Mapping::AddressAndPortDependent;
        Self { allocation, ..spec }
    }

    /// Linux masquerading: an entry for each destination, yet the inside port wherever possible.
    pub fn linux(public: IpAddr) -> Self {
        Self::symmetric(Allocation::PreservingShared, public)
    }

    /// A carrier's NAT that gives a subscriber a block of `ports` from `low` up (at most to 65535),
    /// APDM and APDF, each port to one mapping.
    pub fn exclusive_block(low: u16, ports: u16, public: IpAddr) -> Self {
        let high = low.saturating_add(ports.saturating_sub(1));
        Self {
            exclusive: true,
            ..Self::symmetric(Allocation::RandomIn { low, high }, public)
        }
    }

    /// A stateful firewall: translates nothing, APDF, as home routers treat IPv6 (RFC 6092).
    pub fn firewall(timeout: Duration) -> Self {
        let (public, nat) = (Vec::new(), Self::port_restricted(UNSPECIFIED));
        Self {
            timeout,
            public,
            ..nat
        }
    }

    /// Whether this is a firewall, behind which addresses are the same as before it.
    pub fn is_transparent(&self) -> bool {
        self.public.is_empty()
    }

    /// How the mapping looks from outside, as long as nothing clashes.
    pub fn visible_mapping(&self) -> Mapping {
        match self.allocation {
            Allocation::PreservingShared => EIM,
            _ => self.mapping,
        }
    }
}

const EIM: Mapping = Mapping::EndpointIndependent;
const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY: SocketAddr = SocketAddr::new(UNSPECIFIED, 0);

/// The part of a remote endpoint that matters to a mapping or filtering behaviour.
pub(crate) fn scope(strictness: u8, remote: SocketAddr) -> SocketAddr {
    match strictness {
        0 => ANY,
        1 => SocketAddr::new(remote.ip(), 0),
        _ => remote,
    }
}
