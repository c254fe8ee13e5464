//! What a netcheck has found out about the NAT of this machine.

use punch_api::{NetcheckView, PortMappingView, ProbeView};
use punch_engine::{Family, NatProfile, Probe, ProbeOutcome};

use super::nat::{allocation_view, filtering_name, mapping_name};

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
                probe: match probe {
                    Probe::Primary => "binding".to_owned(),
                    Probe::ChangeBoth => "answer_from_other_address_and_port".to_owned(),
                    Probe::ChangePort => "answer_from_other_port".to_owned(),
                    Probe::Sample(_) => "sample".to_owned(),
                    Probe::Another => "binding_from_another_socket".to_owned(),
                    Probe::Opened(ttl) => format!("answer_through_opening_with_ttl_{ttl}"),
                },
                mapped,
                rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            }
        })
    });
    NetcheckView {
        family: match profile.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
        .to_owned(),
        udp_blocked: profile.udp_blocked,
        public: profile.public,
        addresses: profile.addresses.clone(),
        mapping: profile.mapping.map(mapping_name),
        filtering: profile.filtering.map(filtering_name),
        preserves_port: profile.preserves_port,
        allocation: profile.allocation.map(allocation_view),
        hairpinning: profile.hairpinning,
        lifetime_s: profile.lifetime.map(|lifetime| lifetime.as_secs()),
        opening_ttl: profile.opening_ttl,
        double_nat: profile.double_nat,
        evidence: probes.collect(),
        port_mapping: (profile.family == Family::V4).then(|| port_mapping.clone()),
    }
}
