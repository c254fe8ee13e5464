//! What this machine tells a peer of itself.

use punch_signal_protocol::{
    Candidate, CandidateKind, Capabilities, Capability, Credentials, Description, Ipv4Range,
    MAX_CANDIDATES, NatSummary,
};
use punch_traversal::takes_fresh_base;
use rand_core::RngCore;

/// What a new description of this machine is made from.
pub(crate) struct DescriptionParts {
    pub(crate) wall_ms: u64,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) ipv4_range: Option<Ipv4Range>,
    pub(crate) nat: Option<NatSummary>,
    /// Whether a fresh socket's public address could be learned.
    pub(crate) fresh_base: bool,
    /// Whether this machine may be reached over relays.
    pub(crate) relay: bool,
    /// Whether a translator leads to IPv4, which cuts what is long.
    pub(crate) translated: bool,
}

impl DescriptionParts {
    /// The description, with fresh credentials.
    pub(super) fn describe(self, stamp: u64, rng: &mut impl RngCore) -> Description {
        let mut candidates = self.candidates;
        // A repeated attempt checks from a fresh socket: what is known of the old one would only keep a mapping alive that did
        // not serve.
        let again = self.fresh_base && self.nat.as_ref().is_some_and(takes_fresh_base);
        candidates.retain(|candidate| {
            !again
                || candidate.kind != CandidateKind::ServerReflexive
                || candidate.address.is_ipv6()
        });
        candidates.truncate(MAX_CANDIDATES);
        let mut credentials = Credentials {
            fragment: [0; 8],
            password: [0; 32],
        };
        rng.fill_bytes(&mut credentials.fragment);
        rng.fill_bytes(&mut credentials.password);
        Description {
            stamp,
            credentials,
            candidates,
            kem: Vec::new(),
            ipv4_range: self.ipv4_range,
            nat: self.nat,
            capabilities: match (self.relay, self.translated) {
                (true, true) => Capabilities::RELAYED_PEER.with(Capability::WantsWhole),
                (true, false) => Capabilities::RELAYED_PEER,
                (false, true) => Capabilities::PEER.with(Capability::WantsWhole),
                (false, false) => Capabilities::PEER,
            },
        }
    }
}

/// What an offer or an answer has told the peer.
#[derive(Debug, Clone)]
pub(crate) struct SentDescription {
    pub(crate) credentials: Credentials,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) nat: Option<NatSummary>,
    /// Whether this machine may be reached over relays.
    pub(crate) relay: bool,
}

impl SentDescription {
    /// What `description` tells.
    pub(crate) fn of(description: &Description) -> Self {
        Self {
            credentials: description.credentials.clone(),
            candidates: description.candidates.clone(),
            nat: description.nat.clone(),
            relay: description.capabilities.contains(Capability::Relays),
        }
    }

    /// Whether this side's NAT was not known yet, or not well.
    pub(super) fn is_unmeasured(&self) -> bool {
        let nat = self.nat.as_ref();
        nat.is_none_or(|nat| nat.search.is_some_and(|search| search.measuring))
    }
}
