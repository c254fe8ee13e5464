//! The NAT of this machine, as `punchctl netcheck` shows it.

use punch_api::{AddressFamily, NetcheckView, PortMappingView, PortsView, ProbeKind, ProbeView};
use punch_engine::{Family, NatProfile, Probe, ProbeOutcome};

pub(crate) fn netcheck(profile: &NatProfile, port_mapping: &PortMappingView) -> NetcheckView {
    let probes = profile.evidence.iter().flat_map(|check| {
        check.probes.iter().map(|(probe, outcome)| {
            let (mapped, rtt) = match outcome {
                ProbeOutcome::Mapped(mapped, rtt) => (Some(*mapped), Some(*rtt)),
                ProbeOutcome::Silence | ProbeOutcome::Refused => (None, None),
            };
            let server = match probe {
                Probe::Sample(place) => *place,
                _ => check.server,
            };
            ProbeView {
                server,
                probe: kind(*probe).into(),
                mapped,
                rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            }
        })
    });
    NetcheckView {
        family: family(profile.family).into(),
        udp_blocked: profile.udp_blocked,
        public: profile.public,
        addresses: profile.addresses.clone(),
        mapping: profile.mapping.map(Into::into),
        filtering: profile.filtering.map(Into::into),
        preserves_port: profile.preserves_port,
        allocation: profile.allocation.map(Into::into),
        ports: PortsView {
            capacity: profile.capacity(),
            used_up: profile.search.used_up,
        },
        hairpinning: profile.hairpinning,
        lifetime_s: profile.lifetime.map(|lifetime| lifetime.as_secs()),
        opening_ttl: profile.opening_ttl,
        double_nat: profile.double_nat,
        evidence: probes.collect(),
        port_mapping: (profile.family == Family::V4).then(|| port_mapping.clone()),
    }
}

fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Ipv4,
        Family::V6 => AddressFamily::Ipv6,
    }
}

fn kind(probe: Probe) -> ProbeKind {
    match probe {
        Probe::Primary => ProbeKind::Binding,
        Probe::ChangeBoth => ProbeKind::AnswerFromOtherAddressAndPort,
        Probe::ChangePort => ProbeKind::AnswerFromOtherPort,
        Probe::Sample(_) => ProbeKind::Sample,
        Probe::Another => ProbeKind::BindingFromAnotherSocket,
        Probe::Opened(ttl) => ProbeKind::AnswerThroughOpening { ttl },
    }
}
