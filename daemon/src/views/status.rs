//! What `punchctl status`, `peers`, `servers` and `forwards` show.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::view::CandidateView;
use punch_api::{
    DetourView, DhtView, ForwardKey, ForwardTrouble, ForwardView, HeardView, IdView, KeyView,
    LanView, LossView, NetworkView, OpenEnum, PathKind, PathView, PeerKey, PeerName, PeerState,
    PeerView, RightsView, ServerAddress, ServerKind, ServerState, ServerView, Status, StrangerView,
};
use punch_engine::{LOSS_WINDOW, LinkState, LinkStatus, Loss, PeerHandle, ServerId};
use punch_signal_protocol::Candidate;
use punch_state::{Forward, Peer};

use super::advice::{self, Case};
use super::facts::{Facts, ServerFacts};
use super::{change, met, obstacle, refused};
use crate::overlay::Why;
use crate::snapshot::{PeerSnapshot, Snapshot};

/// What is said to help in the list of peers; `punchctl why` says all.
const DETOUR_ADVICE: usize = 2;
/// A server that takes longer to answer is said to be silent.
const ANSWER_EXPECTED: Duration = Duration::from_secs(3);

/// The identity and the overlay addresses of this machine.
pub(crate) fn id(facts: &Facts<'_>) -> IdView {
    let id = facts.id;
    IdView {
        id,
        ipv4: facts.config.ipv4.map(|range| id.overlay_ipv4(range)),
        ipv6: id.overlay_ipv6(),
        wireguard: BASE64_STANDARD.encode(id.x25519()),
    }
}

/// This machine's keys, and the file that they are in.
pub(crate) fn key(facts: &Facts<'_>, file: &Path) -> KeyView {
    KeyView {
        id: facts.id,
        wireguard: BASE64_STANDARD.encode(facts.id.x25519()),
        file: file.display().to_string(),
    }
}

/// Everything that `punchctl status` shows.
pub(crate) fn status(facts: &Facts<'_>, snapshot: &Snapshot) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        id: id(facts),
        interface: facts.config.interface.clone(),
        uptime_s: facts.now.saturating_duration_since(facts.started).as_secs(),
        network: NetworkView {
            port_v4: facts.ports.udp.0,
            port_v6: facts.ports.udp.1,
            nat64: facts.nat64.map(|prefix| prefix.to_string()),
            tcp_port_v4: facts.ports.tcp.0,
            tcp_port_v6: facts.ports.tcp.1,
            candidates: snapshot
                .candidates
                .iter()
                .map(|candidate| CandidateView {
                    kind: PathKind::from(candidate.kind).into(),
                    address: candidate.address,
                })
                .collect(),
        },
        servers: servers(facts, snapshot),
        lan: lan(facts),
        dht: dht(facts, snapshot),
        public: public(facts),
        peers: peers(facts, snapshot),
        forwards: forwards(facts, snapshot),
        warnings: not_saved(facts).chain(warnings(facts)).collect(),
        strangers: snapshot
            .strangers
            .iter()
            .map(|stranger| StrangerView {
                id: stranger.id,
                asked: stranger.asked,
                last_s: stranger.ago.as_secs(),
            })
            .collect(),
        dropped: snapshot
            .drops
            .iter()
            .map(|(reason, count)| (reason.to_string(), *count))
            .collect(),
    }
}

/// What was said of the public DHT and STUN servers.
fn public(facts: &Facts<'_>) -> Option<bool> {
    let mut all = facts
        .state
        .servers
        .iter()
        .chain(&facts.config.channels.servers);
    let is_used = all.any(|address| *address == ServerAddress::Public);
    (is_used || facts.state.refuses_public).then_some(is_used)
}

fn not_saved(facts: &Facts<'_>) -> impl Iterator<Item = String> {
    let why = facts.not_saved.iter();
    why.map(|why| format!("not saved: {why}"))
}

/// What the user should know of the interface, the overlay's addresses, and what else is on this machine.
pub(super) fn warnings(facts: &Facts<'_>) -> Vec<String> {
    let own = facts.overlay.why_no_own();
    let own = own.map(|why| format!("IPv6 only: {why}"));
    own.into_iter().chain(facts.interface.warnings()).collect()
}

/// Why an address of a peer is not used, or packets for it do not come into the tunnel.
fn address_note(facts: &Facts<'_>, peer: &Peer) -> Option<String> {
    let addresses = peer.addresses(facts.config.ipv4);
    let several = addresses.len() > 1;
    addresses.iter().find_map(|ip| {
        let problem = match facts.overlay.why_not(*ip) {
            Some(why @ Why::NoOwn(..)) => why.to_string(),
            Some(why) => format!("{ip} is not used: {why}"),
            None => facts.interface.trouble(*ip)?.to_owned(),
        };
        Some(match (several, ip) {
            (false, _) => problem,
            (true, IpAddr::V4(_)) => format!("IPv6 only: {problem}"),
            (true, IpAddr::V6(_)) => format!("IPv4 only: {problem}"),
        })
    })
}

/// Lists all servers.
pub(crate) fn servers(facts: &Facts<'_>, snapshot: &Snapshot) -> Vec<ServerView> {
    let servers = facts.servers.iter();
    servers
        .map(|server| view_server(server, snapshot, facts.now))
        .collect()
}

fn view_server(server: &ServerFacts<'_>, snapshot: &Snapshot, now: Instant) -> ServerView {
    let connected = match server.address.kind() {
        ServerKind::Signal | ServerKind::Dht | ServerKind::Public => server.connected,
        ServerKind::Stun => {
            let mut resolved = server.resolved.iter();
            resolved.any(|address| snapshot.stun.contains(address))
        }
    };
    ServerView {
        kind: server.address.kind().into(),
        address: server.address.to_string(),
        proxy: server.proxy.map(ToString::to_string),
        fixed: server.fixed,
        state: if connected {
            ServerState::Connected.into()
        } else {
            ServerState::Connecting.into()
        },
        trouble: server.trouble.clone().or_else(|| {
            let waited = now.saturating_duration_since(server.since);
            let silent = !connected && waited >= ANSWER_EXPECTED;
            silent.then(|| format!("no answer for {} s", waited.as_secs()))
        }),
    }
}

/// The networks of this machine, and the peers that are heard there.
fn lan(facts: &Facts<'_>) -> Option<LanView> {
    let (_, lan) = facts.others.lan.as_ref()?;
    let peers = facts.state.peers.iter();
    let heard = peers.filter_map(|(name, peer)| {
        let (address, until) = lan.heard.get(&peer.id()?)?;
        (*until > facts.now).then(|| HeardView {
            peer: name.clone(),
            address: *address,
        })
    });
    Some(LanView {
        links: lan.links.clone(),
        heard: heard.collect(),
        trouble: lan.trouble.clone(),
        sent: lan.counts.sent,
        taken: lan.counts.taken,
        strangers: lan.counts.strangers,
        refused: lan.counts.refused,
    })
}

/// How the DHT is, if it runs.
fn dht(facts: &Facts<'_>, snapshot: &Snapshot) -> Option<DhtView> {
    let mut servers = facts.servers.iter();
    let standing = servers.find_map(|server| server.dht.as_ref())?;
    let report = &standing.report;
    let asked = report.vantage.iter().map(|node| SocketAddr::V4(*node));
    let vantage = asked.filter(|node| snapshot.stun.contains(node));
    let ago = |at: Instant| facts.now.saturating_duration_since(at).as_secs();
    Some(DhtView {
        nodes: report.nodes as u64,
        answered_s: report.answered.map(ago),
        address: standing.seen,
        sent: report.sent,
        received: report.received,
        lookups: report.lookups,
        stored: report.stored,
        found: report.found,
        vantage: vantage.count() as u64,
        trouble: standing.trouble(facts.now),
    })
}

/// Lists all peers.
pub(crate) fn peers(facts: &Facts<'_>, snapshot: &Snapshot) -> Vec<PeerView> {
    facts
        .state
        .peers
        .iter()
        .filter_map(|(name, peer)| view_peer(facts, snapshot, name, peer))
        .collect()
}

/// Shows the peer of this name.
pub(crate) fn peer(facts: &Facts<'_>, snapshot: &Snapshot, name: &PeerName) -> Option<PeerView> {
    let (name, peer) = facts.state.peers.get_key_value(name)?;
    view_peer(facts, snapshot, name, peer)
}

fn view_peer(
    facts: &Facts<'_>,
    snapshot: &Snapshot,
    name: &PeerName,
    stored: &Peer,
) -> Option<PeerView> {
    let handle = *facts.handles.get(name)?;
    let known = snapshot.peers.get(&handle);
    let addresses = stored.addresses(facts.config.ipv4);
    let differs = known.is_some_and(|peer| peer.ipv4_differs);
    let ipv6_only =
        matches!(stored.key, PeerKey::Punch { .. }) && !addresses.iter().any(IpAddr::is_ipv4);
    let note = if differs {
        Some("IPv6 only: the peer takes its IPv4 address from another range".to_owned())
    } else if ipv6_only {
        Some("IPv6 only: IPv4 is switched off here or for this peer".to_owned())
    } else {
        address_note(facts, stored)
    };
    let state = connection(facts, snapshot, name);
    let apart = matches!(state, PeerState::Waiting | PeerState::Connecting);
    let direct_only = facts.not_relayed(name).filter(|_| apart);
    let note = match (direct_only, note) {
        (Some(why), Some(note)) => Some(format!("{why}; {note}")),
        (why, note) => why.map(str::to_owned).or(note),
    };
    let mut path = known.and_then(|peer| path_view(facts, name, peer));
    if let (Some(path), Some(link)) = (&mut path, known.and_then(|peer| peer.link.as_ref())) {
        path.detour = detour_view(facts, &snapshot.candidates, (name, state), (link, path));
    }
    let used = |ip: &IpAddr| facts.overlay.why_not(*ip).is_none();
    let report = known.map(|peer| &peer.report);
    Some(PeerView {
        name: name.clone(),
        id: stored.id(),
        wireguard: BASE64_STANDARD.encode(stored.public()?),
        ipv4: addresses
            .iter()
            .filter(|ip| used(ip))
            .find_map(|ip| match ip {
                IpAddr::V4(ip) if !differs => Some(*ip),
                _ => None,
            }),
        ipv6: addresses
            .iter()
            .filter(|ip| used(ip))
            .find_map(|ip| match ip {
                IpAddr::V6(ip) => Some(*ip),
                IpAddr::V4(_) => None,
            }),
        up: stored.up,
        rights: RightsView {
            host: stored.host,
            relay: stored.relay,
            relayed: facts.place.relayed(handle),
            meeting: meeting(facts, handle),
        },
        direct_only: stored.direct_only,
        state: state.into(),
        path,
        refused: known
            .and_then(|peer| peer.link.as_ref()?.refused)
            .map(|refused| refused::view(name, refused)),
        received_bytes: report.map_or(0, |report| report.received),
        sent_bytes: report.map_or(0, |report| report.sent),
        last_handshake_s: report
            .and_then(|report| report.last_handshake)
            .map(|at| facts.now.saturating_duration_since(at).as_secs()),
        note,
    })
}

/// The state of the connection to a peer.
pub(super) fn connection(facts: &Facts<'_>, snapshot: &Snapshot, name: &PeerName) -> PeerState {
    let handle = facts.handles.get(name);
    let known = handle.and_then(|handle| snapshot.peers.get(handle));
    match known.map_or(PeerState::Down, |peer| peer_state(peer.state)) {
        PeerState::Down if facts.state.peers.get(name).is_some_and(|peer| peer.blocked) => {
            PeerState::Refused
        }
        state => state,
    }
}

/// Lists all forwards.
pub(crate) fn forwards(facts: &Facts<'_>, snapshot: &Snapshot) -> Vec<ForwardView> {
    let forwards = facts.state.forwards.iter();
    forwards
        .map(|forward| view_forward(facts, forward, snapshot))
        .collect()
}

/// The forward of this key.
pub(crate) fn forward(
    facts: &Facts<'_>,
    snapshot: &Snapshot,
    key: ForwardKey,
) -> Option<ForwardView> {
    let mut forwards = facts.state.forwards.iter();
    let forward = forwards.find(|forward| forward.key == key)?;
    Some(view_forward(facts, forward, snapshot))
}

/// Shows one forward.
fn view_forward(facts: &Facts<'_>, forward: &Forward, snapshot: &Snapshot) -> ForwardView {
    let counts = snapshot.forwards.get(&forward.key);
    let counts = counts.cloned().unwrap_or_default();
    let trouble = counts.trouble.map(|trouble| {
        let ago = facts.now.saturating_duration_since(trouble.at).as_millis();
        let ago = u64::try_from(ago).unwrap_or(u64::MAX);
        ForwardTrouble {
            at_ms: facts.wall_ms.saturating_sub(ago),
            message: trouble.what,
        }
    });
    ForwardView {
        protocol: forward.key.protocol.into(),
        ports: forward.key.ports,
        target: forward.target.clone(),
        peers: forward.peers.clone(),
        open: counts.open,
        total: counts.total,
        failed: counts.failed,
        refused: counts.refused,
        trouble,
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

/// Where packets are relayed, and by whom: the address of a server, or the name of a peer.
fn relay(facts: &Facts<'_>, by: ServerId) -> Option<(Option<SocketAddr>, String)> {
    if let Some(meeting) = facts
        .others
        .meetings
        .iter()
        .find(|meeting| meeting.id == by)
    {
        return Some((meeting.reached, facts.name_of(meeting.peer)?.to_string()));
    }
    let server = facts.servers.iter().find(|server| server.id == by)?;
    Some((server.reached, server.address.to_string()))
}

/// The state of the connection to the meeting place of a peer.
fn meeting(facts: &Facts<'_>, peer: PeerHandle) -> Option<OpenEnum<ServerState>> {
    let mut meetings = facts.others.meetings.iter();
    let meeting = meetings.find(|meeting| meeting.peer == peer)?;
    Some(match meeting.connected {
        true => ServerState::Connected.into(),
        false => ServerState::Connecting.into(),
    })
}

fn path_view(facts: &Facts<'_>, name: &PeerName, peer: &PeerSnapshot) -> Option<PathView> {
    let path = peer.report.path?;
    let link = peer.link.as_ref();
    let rtt = link.and_then(|link| link.round_trip);
    let (remote, kind, via) = match path {
        punch_engine::Path::Relayed(by) => {
            let (reached, via) = relay(facts, by.server)?;
            (reached?, PathKind::Relayed, Some(via))
        }
        punch_engine::Path::Tcp(tcp) => (tcp.remote, PathKind::Tcp, None),
        punch_engine::Path::Direct(direct) => match link {
            None => (direct.remote, PathKind::Fixed, None),
            Some(link) => {
                let selected = link.agent.as_ref()?.selected.as_ref()?;
                (selected.remote, PathKind::from(selected.kind), None)
            }
        },
    };
    let why = peer.report.since.map(|(_, why)| why);
    let since = peer.report.since.map(|(since, _)| {
        let passed = facts.now.saturating_duration_since(since).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        facts.wall_ms.saturating_sub(passed)
    });
    Some(PathView {
        nat64: translated(facts, &path, remote),
        remote,
        kind: kind.into(),
        rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        via,
        mtu: peer.report.mtu,
        loss: link.and_then(|link| link.loss).map(loss),
        since_ms: since,
        reason: why.map(|why| change::reason(why).into()),
        because: why.map(|why| change::clause(name, why)),
        met_over: met::of(facts, link.and_then(|link| link.met_over)),
        detour: None,
    })
}

/// The prefix of the translator that leads to a peer's address over UDP, if one does.
fn translated(facts: &Facts<'_>, path: &punch_engine::Path, remote: SocketAddr) -> Option<String> {
    let prefix = facts
        .nat64
        .filter(|_| matches!(path, punch_engine::Path::Direct(_)))?;
    let is_translated = prefix.outwards(remote)? != remote;
    is_translated.then(|| prefix.to_string())
}

/// Why packets take this path and none over UDP, if they do.
fn detour_view(
    facts: &Facts<'_>,
    candidates: &[Candidate],
    (name, state): (&PeerName, PeerState),
    (link, path): (&LinkStatus, &PathView),
) -> Option<DetourView> {
    if !advice::is_detour(Some(path)) {
        return None;
    }
    let case = Case::new(facts, candidates, (name, state), (link, Some(path)));
    let told = obstacle::obstacle(facts, name, PeerState::Connecting, link);
    let (because, first) = match told {
        Some(told) => (told.sentence.trim_end_matches('.').to_owned(), told.advice),
        None => (case.clause(), None),
    };
    let advice = first.into_iter().chain(case.advice());
    Some(DetourView {
        because,
        advice: advice.take(DETOUR_ADVICE).collect(),
    })
}

fn loss(loss: Loss) -> LossView {
    LossView {
        fraction: f64::from(loss.lost) / f64::from(loss.samples.max(1)),
        samples: loss.samples,
        window_s: LOSS_WINDOW.as_secs(),
    }
}
