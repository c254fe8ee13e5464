//! What the engine of one process leaves to that of the next, so that tunnels go on: paths, the keys to make their sessions anew, and
//! the conversations that this host has begun. Sessions themselves are never left: their counters must not be used twice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_connect::Bequest;
use punch_packet::{Flow, PeerHandle};
use punch_traversal::SocketId;

use crate::config::PeerKind;
use crate::roster::Roster;

/// Flows of all peers that are left to the next process; more than that are not.
pub const MAX_FLOWS_LEFT: usize = 65_536;

/// See the module. It has secrets.
#[derive(Clone, Default)]
pub struct Heritage {
    /// Punch peers.
    pub peers: Vec<Bequest>,
    /// Plain WireGuard peers with whom there are keys.
    pub plain: Vec<PlainBequest>,
    /// The conversations that this host has begun, [`MAX_FLOWS_LEFT`] at most.
    pub flows: Vec<FlowBequest>,
}

/// Where a plain WireGuard peer was reached last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainBequest {
    /// Its X25519 key.
    pub public: [u8; 32],
    /// Its address outside the tunnel.
    pub endpoint: SocketAddr,
}

/// A conversation that this host has begun and that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowBequest {
    /// The X25519 key of the peer.
    pub public: [u8; 32],
    /// The flow as packets from the peer name it.
    pub flow: Flow,
    /// How long ago this host's last packet was.
    pub since: Duration,
    /// How long ago the last packet of either was.
    pub used: Duration,
}

/// A path from another socket than the main ones goes on: the socket that had the number `was` has the number `is` now, which may be
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renumbered {
    /// The number in the heritage.
    pub was: SocketId,
    /// The number from now on.
    pub is: SocketId,
}

/// What there is to leave.
pub(crate) fn bequeath(roster: &Roster, flows: bool, now: Instant) -> Heritage {
    let mut heritage = Heritage {
        peers: punch_connect::bequeath(&roster.connector),
        ..Heritage::default()
    };
    for peer in roster.peers.handles().filter_map(|h| roster.peers.get(h)) {
        let public = peer.config.public();
        if let PeerKind::Wireguard { .. } = peer.config.kind
            && peer.tunnel.is_established()
            && let Some(endpoint) = peer.path.and_then(|path| path.endpoint())
        {
            heritage.plain.push(PlainBequest { public, endpoint });
        }
        if !flows {
            continue;
        }
        let room = MAX_FLOWS_LEFT - heritage.flows.len();
        let flows = peer.flows.bequeath(now).take(room);
        heritage
            .flows
            .extend(flows.map(|(flow, since, used)| FlowBequest {
                public,
                flow,
                since,
                used,
            }));
    }
    heritage
}

/// Goes on with all that is still wanted; returns the numbers that sockets have from now on. Those of others are needed no more.
pub(crate) fn inherit(roster: &mut Roster, heritage: Heritage, now: Instant) -> Vec<Renumbered> {
    let mut sockets = Vec::new();
    for bequest in heritage.peers {
        let Some(handle) = roster.peers.by_key(&bequest.id.x25519()) else {
            continue;
        };
        punch_connect::inherit_stamps(&mut roster.connector, handle, bequest.stamps);
        let Some(path) = bequest.path else { continue };
        let was = path.proven.path.socket;
        if let Ok(is) = punch_connect::inherit(&mut roster.connector, handle, path, now)
            && !is.is_main()
        {
            sockets.push(Renumbered { was, is });
        }
    }
    for PlainBequest { public, endpoint } in heritage.plain {
        if let Some(handle) = plain(roster, &public) {
            roster.call_at(handle, endpoint, now);
        }
    }
    for bequest in heritage.flows {
        let handle = roster.peers.by_key(&bequest.public);
        if let Some(peer) = handle.and_then(|handle| roster.peers.get_mut(handle)) {
            let FlowBequest { since, used, .. } = bequest;
            peer.flows.inherit(bequest.flow, (since, used), now);
        }
    }
    sockets
}

/// The plain WireGuard peer with this key, if it is wanted.
fn plain(roster: &Roster, public: &[u8; 32]) -> Option<PeerHandle> {
    let handle = roster.peers.by_key(public)?;
    let config = &roster.peers.get(handle)?.config;
    let is_plain = matches!(config.kind, PeerKind::Wireguard { .. });
    (is_plain && config.up).then_some(handle)
}
