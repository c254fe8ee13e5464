//! What a change of the state means for the engine and for the kernel's routes.

use std::collections::HashSet;
use std::net::IpAddr;

use punch_api::{PeerKey, PeerName};
use punch_engine::{Access, Change, PeerConfig, PeerKind, Rule, Rules};
use punch_state::{Difference, Machine, Peer, State, key_bytes};
use zeroize::Zeroizing;

use super::handles::Handles;
use super::history::History;

/// The addresses that lead into the tunnel no longer, and those that do from now on.
pub(super) fn routes(
    difference: &Difference,
    (before, after): (&State, &State),
    machine: &Machine,
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let addresses = |state: &State, names: &mut dyn Iterator<Item = &PeerName>| -> Vec<IpAddr> {
        names
            .filter_map(|name| state.peers.get(name))
            .flat_map(|peer| peer.addresses(machine.ipv4))
            .collect()
    };
    let Difference { gone, changed, .. } = difference;
    let added = addresses(after, &mut changed.iter());
    let mut removed = addresses(before, &mut gone.iter().chain(changed));
    removed.retain(|ip| !added.contains(ip));
    if !removed.is_empty() {
        // Two peers may have the same IPv4 address: a range that was made smaller brings that about.
        let kept: HashSet<_> = addresses(after, &mut after.peers.keys())
            .into_iter()
            .collect();
        removed.retain(|ip| !kept.contains(ip));
    }
    (removed, added)
}

/// Brings the handles in line with `after`, and tells what the engine has to know.
pub(super) fn engine(
    difference: &Difference,
    after: &State,
    machine: &Machine,
    handles: &mut Handles,
    history: &History,
) -> Change {
    for (from, to) in &difference.renamed {
        handles.rename(from, to);
    }
    let gone = difference.gone.iter();
    let gone = gone.filter_map(|name| handles.remove(name)).collect();
    let mut peers = Vec::new();
    for name in &difference.changed {
        handles.assign(name);
        let peer = after.peers.get(name);
        peers.extend(peer.and_then(|peer| peer_config(name, peer, machine, handles, history)));
    }
    Change {
        peers,
        gone,
        rules: difference.forwards.then(|| rules(after, handles)),
        stun_servers: None,
    }
}

fn peer_config(
    name: &PeerName,
    peer: &Peer,
    machine: &Machine,
    handles: &Handles,
    history: &History,
) -> Option<PeerConfig> {
    let kind = match &peer.key {
        PeerKey::Punch { key, ipv6_only } => {
            let range = machine.ipv4.filter(|_| !ipv6_only);
            PeerKind::Punch {
                id: *key,
                ipv4: range.map(|range| key.overlay_ipv4(range)),
            }
        }
        PeerKey::Wireguard {
            key,
            endpoint,
            address,
            preshared,
        } => PeerKind::Wireguard {
            public: key_bytes(key)?,
            endpoint: *endpoint,
            address: *address,
            preshared: match preshared {
                Some(text) => Some(Zeroizing::new(key_bytes(text.expose())?)),
                None => None,
            },
        },
    };
    let id = peer.id();
    Some(PeerConfig {
        handle: handles.get(name)?,
        kind,
        up: peer.up,
        blocked: peer.blocked,
        host: peer.host,
        stamps: id.map(|id| history.stamps(&id)).unwrap_or_default(),
        memory: id.map(|id| history.memory(&id)).unwrap_or_default(),
    })
}

fn rules(state: &State, handles: &Handles) -> Rules {
    Rules::new(state.forwards.iter().map(|forward| Rule {
        key: forward.key,
        target: forward.target.clone(),
        access: if forward.peers.is_empty() {
            Access::AllPeers
        } else {
            let peers = forward.peers.iter();
            Access::Peers(peers.filter_map(|name| handles.get(name)).collect())
        },
    }))
}
