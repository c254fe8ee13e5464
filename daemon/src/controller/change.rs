//! What a change of the state means for the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use punch_api::{PeerId, PeerKey};
use punch_engine::{Access, Change, PeerConfig, PeerHandle, PeerKind, Rule, Rules};
use punch_state::{Difference, Machine, Peer, State, key_bytes};
use zeroize::Zeroizing;

use super::endpoints::Endpoints;
use super::handles::Handles;
use super::history::History;
use crate::overlay::Overlay;

/// What a change is seen against.
pub(super) struct Ground<'a> {
    pub(super) machine: &'a Machine,
    pub(super) overlay: &'a Overlay,
    pub(super) history: &'a History,
    pub(super) now: Instant,
}

/// Brings the handles in line with `after`, and tells what the engine has to know.
pub(super) fn engine(
    difference: &Difference,
    after: &State,
    ground: Ground<'_>,
    handles: &mut Handles,
    endpoints: &mut Endpoints,
) -> Change {
    for (from, to) in &difference.renamed {
        handles.rename(from, to);
    }
    let gone = difference.gone.iter();
    let gone: Vec<_> = gone.filter_map(|name| handles.remove(name)).collect();
    for handle in &gone {
        endpoints.remove(*handle);
    }
    let mut peers = Vec::new();
    for name in &difference.changed {
        let handle = handles.assign(name);
        let Some(peer) = after.peers.get(name) else {
            continue;
        };
        let seen = ground.history.seen(&peer.key);
        endpoints.follow(handle, peer, seen, ground.now);
        peers.extend(peer_config(handle, peer, &ground, endpoints));
    }
    Change {
        peers,
        gone,
        rules: difference.forwards.then(|| rules(after, handles)),
        stun_servers: None,
    }
}

fn peer_config(
    handle: PeerHandle,
    peer: &Peer,
    ground: &Ground<'_>,
    endpoints: &Endpoints,
) -> Option<PeerConfig> {
    let is_used = |ip: IpAddr| ground.overlay.why_not(ip).is_none();
    let kind = match &peer.key {
        PeerKey::Punch { key, ipv6_only } => {
            let range = ground.machine.ipv4.filter(|_| !ipv6_only);
            let ipv4 = range.map(|range| key.overlay_ipv4(range));
            PeerKind::Punch {
                id: *key,
                ipv4: ipv4.filter(|ip| is_used((*ip).into())),
            }
        }
        PeerKey::Wireguard {
            key,
            address,
            preshared,
            ..
        } => PeerKind::Wireguard {
            public: key_bytes(key)?,
            endpoint: endpoints.current(handle),
            address: Some(*address).filter(|ip| is_used(*ip)),
            preshared: match preshared {
                Some(text) => Some(Zeroizing::new(key_bytes(text.expose())?)),
                None => None,
            },
        },
    };
    let id = peer.id();
    Some(PeerConfig {
        handle,
        kind,
        up: peer.up,
        blocked: peer.blocked,
        host: peer.host,
        direct_only: peer.direct_only,
        stamps: id.map(|id| ground.history.stamps(&id)).unwrap_or_default(),
        memory: id.map(|id| ground.history.memory(&id)).unwrap_or_default(),
    })
}

/// The peers that may meet here, if they may be others than before.
pub(super) fn guests(
    difference: &Difference,
    state: &State,
    handles: &Handles,
) -> Option<BTreeMap<PeerHandle, PeerId>> {
    difference.forwards.then(|| all_guests(state, handles))
}

fn all_guests(state: &State, handles: &Handles) -> BTreeMap<PeerHandle, PeerId> {
    let guests = state.guests();
    let known = guests.filter_map(|name| Some((handles.get(name)?, state.peers.get(name)?.id()?)));
    known.collect()
}

fn rules(state: &State, handles: &Handles) -> Rules {
    let rules = Rules::new(state.forwards.iter().map(|forward| Rule {
        key: forward.key,
        target: forward.target.clone(),
        access: if forward.peers.is_empty() {
            Access::AllPeers
        } else {
            let peers = forward.peers.iter();
            Access::Peers(peers.filter_map(|name| handles.get(name)).collect())
        },
    }));
    rules.with_guests(all_guests(state, handles).into_keys().collect())
}
