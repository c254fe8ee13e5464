//! Whether any pair of addresses can have a chance at all: where none can, nothing is computed, and the reason is told.

use std::net::IpAddr;

use punch_api::PeerName;
use punch_engine::{LinkStatus, NatSummary, Outcome, StepKind, is_private};
use punch_signal_protocol::Candidate;

/// Why no pair of addresses can have a chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// No UDP passes: no STUN server answers this machine or the peer, and checks were in vain.
    UdpBlocked {
        /// Whether no STUN server answers here.
        here: bool,
        /// Whether no STUN server seems to answer the peer.
        there: bool,
    },
    /// One has IPv4 only, the other IPv6 only.
    NoCommonFamily,
    /// Neither knows a public address of the other, and in the networks that they are in they do not reach each other.
    NoPublicAddress,
    /// Both are behind one NAT, which does not send packets for its own address back inside.
    NoHairpinning,
    /// Both seem to be in one network, which keeps its machines apart; or they are in two like it behind one NAT, as homes behind
    /// a carrier's are, which does not send packets for its own address back inside.
    ApartBehindOneNat,
}

impl Obstacle {
    /// The reason as a clause, of the peer of this name.
    pub(super) fn reason(self, name: &PeerName) -> String {
        let reason = match self {
            Self::UdpBlocked { here, there } => {
                return match (here, there) {
                    (true, true) => format!(
                        "no UDP seems to pass here, nor at {name}: no STUN server answers here or there"
                    ),
                    (true, false) => {
                        "no UDP seems to pass in the network here: no STUN server answers"
                            .to_owned()
                    }
                    (false, _) => format!(
                        "no UDP seems to pass at {name}: no STUN server has answered it, and no check"
                    ),
                };
            }
            Self::NoCommonFamily => {
                "one machine has only IPv4 and the other only IPv6, so that no two of their addresses can reach each other"
            }
            Self::NoPublicAddress => {
                "neither knows a public address of the other, because no STUN server has answered here or there, and they are not in one network"
            }
            Self::NoHairpinning => {
                "both are behind the same NAT, which does not send packets for its own public address back inside"
            }
            Self::ApartBehindOneNat => {
                "both are behind the same NAT, which does not send packets for its own public address back inside; and if they are in one network, it lets its machines not talk to each other (client isolation)"
            }
        };
        reason.to_owned()
    }
}

/// The obstacle between this machine, which has these candidates, and a peer, once checks to all its addresses were in vain; where no UDP
/// passes here, as soon as there are checks.
pub(super) fn obstacle(own: &[Candidate], link: &LinkStatus) -> Option<Obstacle> {
    let checks = link.steps.iter().find(|step| step.kind == StepKind::Checks);
    // An attempt follows on the other: those before have tried the same.
    let in_vain = checks?.outcome == Outcome::Exhausted || link.failures > 0;
    let own: Vec<_> = own.iter().map(|candidate| candidate.address.ip()).collect();
    let pairs = link.agent.iter().flat_map(|agent| &agent.pairs);
    let theirs: Vec<_> = pairs.map(|pair| pair.remote.ip()).collect();
    let here = link.mine.as_ref().is_some_and(|mine| mine.udp_blocked);
    let there = link.theirs.as_ref().is_some_and(is_unanswered);
    if here && (in_vain || !may_pass_without_servers(&own, &theirs)) {
        return Some(Obstacle::UdpBlocked { here, there });
    }
    if !in_vain {
        return None;
    }
    let hairpinning = link.mine.as_ref().and_then(|mine| mine.hairpinning);
    let between = between(&own, &theirs, hairpinning);
    between.or(there.then_some(Obstacle::UdpBlocked { here, there }))
}

/// Whether a peer has asked STUN servers, as far as it tells, and none has answered.
fn is_unanswered(nat: &NatSummary) -> bool {
    let measuring = nat.search.is_some_and(|search| search.measuring);
    !measuring && nat.mapping.is_none() && nat.addresses.is_empty()
}

/// Whether checks may be answered where no STUN server is: in one network, and over IPv6, which is asked for itself.
fn may_pass_without_servers(own: &[IpAddr], theirs: &[IpAddr]) -> bool {
    own.iter().any(|ip| {
        theirs.iter().any(|other| match (ip, other) {
            (IpAddr::V4(ip), IpAddr::V4(other)) => ip.octets()[..3] == other.octets()[..3],
            (IpAddr::V6(_), IpAddr::V6(_)) => true,
            _ => false,
        })
    })
}

fn between(own: &[IpAddr], theirs: &[IpAddr], hairpinning: Option<bool>) -> Option<Obstacle> {
    if own.is_empty() || theirs.is_empty() {
        return None;
    }
    let common = own
        .iter()
        .any(|ip| theirs.iter().any(|other| other.is_ipv4() == ip.is_ipv4()));
    if !common {
        return Some(Obstacle::NoCommonFamily);
    }
    let public = |ips: &[IpAddr], v4: bool| {
        let mut ips = ips.iter();
        ips.any(|ip| ip.is_ipv4() == v4 && is_public(*ip))
    };
    if public(own, false) && public(theirs, false) {
        return None;
    }
    let neighbours = own
        .iter()
        .any(|ip| theirs.iter().any(|other| is_near(*ip, *other)));
    let shared = own.iter().any(|ip| is_public(*ip) && theirs.contains(ip));
    match (shared, neighbours) {
        (true, true) => (hairpinning == Some(false)).then_some(Obstacle::ApartBehindOneNat),
        (true, false) => (hairpinning == Some(false)).then_some(Obstacle::NoHairpinning),
        (false, true) => None,
        (false, false) => {
            let known = public(own, true) || public(theirs, true);
            let sixth = public(own, false) || public(theirs, false);
            (!known && !sixth).then_some(Obstacle::NoPublicAddress)
        }
    }
}

/// Whether an address can be reached from everywhere, as far as its range tells.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(is_private(ip) || ip.is_link_local() || ip.is_loopback()),
        IpAddr::V6(ip) => !(ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback()),
    }
}

/// Whether two private IPv4 addresses look like neighbours.
fn is_near(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) if !is_public(one.into()) => {
            one.octets()[..3] == other.octets()[..3]
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    fn found(own: &[&str], theirs: &[&str], hairpinning: Option<bool>) -> Option<Obstacle> {
        let parse = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>();
        between(&parse(own), &parse(theirs), hairpinning)
    }

    #[test]
    fn each_obstacle_is_told_and_where_there_is_a_chance_none_is() {
        let (lan, other_lan) = ("192.168.1.2", "10.0.2.2");
        let (public, another) = ("203.0.113.5", "203.0.113.6");
        for (own, theirs, hairpinning, expected) in [
            (
                &[lan][..],
                &["2001:db8::1"][..],
                None,
                Some(Obstacle::NoCommonFamily),
            ),
            (&[lan], &[other_lan], None, Some(Obstacle::NoPublicAddress)),
            (
                &[lan],
                &["100.64.3.4"],
                None,
                Some(Obstacle::NoPublicAddress),
            ),
            (
                &[lan, public],
                &[other_lan, public],
                Some(false),
                Some(Obstacle::NoHairpinning),
            ),
            (
                &[lan, public],
                &["192.168.1.3", public],
                Some(false),
                Some(Obstacle::ApartBehindOneNat),
            ),
            // There is a chance, or it is not known.
            (&[lan, public], &["192.168.1.3", public], Some(true), None),
            (&[lan, public], &["192.168.1.3", public], None, None),
            (&[lan, public], &[other_lan, public], Some(true), None),
            (&[lan, public], &[other_lan, public], None, None),
            (&[lan, public], &[other_lan, another], Some(false), None),
            (&[lan], &[other_lan, another], None, None),
            (&[lan], &["192.168.1.3"], None, None),
            (
                &[lan, "2001:db8::2"],
                &[other_lan, "2001:db8::1"],
                Some(false),
                None,
            ),
            (&[], &[other_lan], None, None),
            (&[lan], &[], None, None),
        ] {
            assert_eq!(
                found(own, theirs, hairpinning),
                expected,
                "{own:?} {theirs:?}"
            );
        }
    }
}
