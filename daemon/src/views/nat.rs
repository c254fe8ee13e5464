//! The NATs of both ends in the API's terms.

use std::net::IpAddr;

use punch_api::{Allocation, Filtering, Mapping, NatView, nat_words};
use punch_engine::{NatProfile, NatSummary};

/// The NAT of this machine, as far as it has been measured.
pub(super) fn mine(profile: &NatProfile) -> NatView {
    let addresses = profile.addresses.clone();
    let seen = view(
        profile.mapping,
        profile.filtering,
        profile.allocation,
        addresses,
    );
    match profile.udp_blocked {
        true => NatView {
            summary: "no STUN server answers over UDP".to_owned(),
            ..seen
        },
        false => seen,
    }
}

/// The NAT of a peer, as the peer describes it.
pub(super) fn theirs(nat: &NatSummary) -> NatView {
    let addresses = nat.addresses.iter().copied().map(IpAddr::V4).collect();
    view(nat.mapping, nat.filtering, nat.allocation, addresses)
}

fn view(
    mapping: Option<Mapping>,
    filtering: Option<Filtering>,
    allocation: Option<Allocation>,
    addresses: Vec<IpAddr>,
) -> NatView {
    let mapping = mapping.map(Into::into);
    let filtering = filtering.map(Into::into);
    let allocation = allocation.map(Into::into);
    NatView {
        summary: nat_words(mapping.as_ref(), filtering.as_ref(), allocation.as_ref()),
        mapping,
        filtering,
        allocation,
        addresses,
    }
}
