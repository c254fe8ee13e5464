//! Views: the state, and what the engine says of it, put together.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::view::CandidateView;
use punch_api::{
    AllocationView, ApiError, ErrorCode, ForwardKey, ForwardView, IdView, KeyView, NetcheckView,
    NetworkView, PathKind, PathView, PeerName, PeerState, PeerView, PortMappingView, ProbeView,
    ServerKind, ServerState, ServerView, Status,
};
use punch_engine::{
    Allocation, Family, Filtering, LinkState, Mapping, NatProfile, PeerKind, Probe, ProbeOutcome,
};
use punch_platform::clock;
use punch_signal_protocol::CandidateKind;

use super::Desk;
use crate::snapshot::{PeerSnapshot, Snapshot};

impl Desk {
    pub(super) fn id_view(&self) -> IdView {
        let id = self.parts.identity.id();
        IdView {
            id,
            ipv4: self.parts.config.ipv4.map(|range| id.overlay_ipv4(range)),
            ipv6: id.overlay_ipv6(),
            wireguard: BASE64_STANDARD.encode(id.x25519()),
        }
    }

    pub(super) fn key_view(&self) -> KeyView {
        let id = self.parts.identity.id();
        KeyView {
            id,
            wireguard: BASE64_STANDARD.encode(id.x25519()),
            file: self.parts.store.identity_path().display().to_string(),
        }
    }

    pub(super) fn status(&self, snapshot: &Snapshot) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: self.id_view(),
            interface: self.parts.config.interface.clone(),
            uptime_s: clock::now()
                .saturating_duration_since(self.started)
                .as_secs(),
            network: NetworkView {
                port_v4: self.parts.ports.0,
                port_v6: self.parts.ports.1,
                candidates: snapshot
                    .candidates
                    .iter()
                    .map(|candidate| CandidateView {
                        kind: path_kind(candidate.kind),
                        address: candidate.address,
                    })
                    .collect(),
            },
            servers: self.server_views(snapshot),
            peers: self.peer_views(snapshot),
            forwards: self.forward_views(snapshot),
            dropped: snapshot
                .drops
                .iter()
                .map(|(reason, count)| (reason.to_string(), *count))
                .collect(),
        }
    }

    pub(super) fn server_views(&self, snapshot: &Snapshot) -> Vec<ServerView> {
        let answers = |address| {
            let resolved = self.stun.get(address).into_iter().flatten();
            resolved.into_iter().any(|ip| snapshot.stun.contains(ip))
        };
        self.servers
            .iter()
            .map(|server| {
                let connected = match server.address.kind() {
                    ServerKind::Signal => server.connected,
                    ServerKind::Stun => answers(&server.address),
                };
                ServerView {
                    kind: server.address.kind(),
                    address: server.address.to_string(),
                    fixed: server.fixed,
                    state: if connected {
                        ServerState::Connected
                    } else {
                        ServerState::Connecting
                    },
                    trouble: server.trouble.clone(),
                }
            })
            .collect()
    }

    pub(super) fn peer_views(&self, snapshot: &Snapshot) -> Vec<PeerView> {
        let names: HashMap<_, _> = self
            .handles
            .iter()
            .map(|(name, handle)| (handle, name))
            .collect();
        let views = self.peer_configs().into_iter().filter_map(|config| {
            let name = PeerName::clone(names.get(&config.handle)?);
            let addresses = config.addresses();
            let peer = snapshot.peers.get(&config.handle);
            let differs = peer.is_some_and(|peer| peer.ipv4_differs);
            let ipv6_only = matches!(&config.kind, PeerKind::Punch { ipv4: None, .. });
            let note = if differs {
                Some("IPv6 only: the peer takes its IPv4 address from another range".to_owned())
            } else if ipv6_only {
                Some("IPv6 only: IPv4 is switched off here or for this peer".to_owned())
            } else {
                None
            };
            let report = peer.map(|peer| &peer.report);
            Some(PeerView {
                id: match &config.kind {
                    PeerKind::Punch { id, .. } => Some(*id),
                    PeerKind::Wireguard { .. } => None,
                },
                wireguard: BASE64_STANDARD.encode(config.public()),
                ipv4: addresses.iter().find_map(|ip| match ip {
                    std::net::IpAddr::V4(ip) if !differs => Some(*ip),
                    _ => None,
                }),
                ipv6: addresses.iter().find_map(|ip| match ip {
                    std::net::IpAddr::V6(ip) => Some(*ip),
                    std::net::IpAddr::V4(_) => None,
                }),
                up: config.up,
                host: config.host,
                state: peer.map_or(PeerState::Down, |peer| peer_state(peer.state)),
                path: peer.and_then(path_view),
                received_bytes: report.map_or(0, |report| report.received),
                sent_bytes: report.map_or(0, |report| report.sent),
                last_handshake_s: report
                    .and_then(|report| report.last_handshake)
                    .map(|at| clock::now().saturating_duration_since(at).as_secs()),
                note,
                name,
            })
        });
        views.collect()
    }

    pub(super) async fn peer_view(&self, name: &PeerName) -> Result<PeerView, ApiError> {
        self.expect_peer(name)?;
        let snapshot = self.snapshot().await?;
        let mut views = self.peer_views(&snapshot).into_iter();
        views
            .find(|view| view.name == *name)
            .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the peer is gone again"))
    }

    pub(super) fn forward_views(&self, snapshot: &Snapshot) -> Vec<ForwardView> {
        let view = |key: ForwardKey| snapshot.forwards.get(&key).copied().unwrap_or_default();
        self.state
            .forwards
            .iter()
            .map(|forward| {
                let (open, total) = view(forward.key);
                ForwardView {
                    protocol: forward.key.protocol,
                    ports: forward.key.ports,
                    target: forward.target.clone(),
                    peers: forward.peers.clone(),
                    open,
                    total,
                }
            })
            .collect()
    }
}

pub(super) fn peer_state(state: LinkState) -> PeerState {
    match state {
        LinkState::Down => PeerState::Down,
        LinkState::Waiting => PeerState::Waiting,
        LinkState::Connecting => PeerState::Connecting,
        LinkState::Connected => PeerState::Connected,
    }
}

fn path_kind(kind: CandidateKind) -> PathKind {
    match kind {
        CandidateKind::Host => PathKind::Host,
        CandidateKind::ServerReflexive => PathKind::ServerReflexive,
        CandidateKind::PeerReflexive => PathKind::PeerReflexive,
        CandidateKind::PortMapped => PathKind::PortMapped,
    }
}

pub(super) fn path_view(peer: &PeerSnapshot) -> Option<PathView> {
    let path = peer.report.path?;
    let Some(link) = &peer.link else {
        return Some(PathView {
            remote: path.remote,
            kind: PathKind::Fixed,
            rtt_ms: None,
        });
    };
    let selected = link.agent.as_ref()?.selected.as_ref()?;
    Some(PathView {
        remote: selected.remote,
        kind: path_kind(selected.kind),
        rtt_ms: selected.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
    })
}

pub(super) fn netcheck(profile: &NatProfile, port_mapping: &PortMappingView) -> NetcheckView {
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

pub(super) fn mapping_name(mapping: Mapping) -> String {
    match mapping {
        Mapping::None => "none",
        Mapping::EndpointIndependent => "endpoint_independent",
        Mapping::AddressDependent => "address_dependent",
        Mapping::AddressAndPortDependent => "address_and_port_dependent",
        Mapping::Dependent => "dependent",
    }
    .to_owned()
}

pub(super) fn filtering_name(filtering: Filtering) -> String {
    match filtering {
        Filtering::EndpointIndependent => "endpoint_independent",
        Filtering::AddressDependent => "address_dependent",
        Filtering::AddressAndPortDependent => "address_and_port_dependent",
    }
    .to_owned()
}

pub(super) fn allocation_view(allocation: Allocation) -> AllocationView {
    match allocation {
        Allocation::Preserving => AllocationView::Preserving,
        Allocation::Sequential { step, others } => AllocationView::Sequential { step, others },
        Allocation::Block { low, high } => AllocationView::Block { low, high },
        Allocation::Random => AllocationView::Random,
    }
}
