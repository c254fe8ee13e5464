//! Addresses inside the tunnel that more than one machine has: a range that was made smaller brings that about.

use std::collections::BTreeMap;
use std::net::IpAddr;

use punch_api::PeerName;

use crate::model::{Machine, State};

/// An address, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// The address.
    pub ip: IpAddr,
    /// The peers that have it.
    pub peers: Vec<PeerName>,
    /// Whether this machine has it too.
    pub own: bool,
}

/// All addresses that more than one machine has, in their order.
pub fn collisions(state: &State, machine: &Machine) -> Vec<Collision> {
    let mut owners: BTreeMap<IpAddr, Vec<PeerName>> = BTreeMap::new();
    for (name, peer) in &state.peers {
        for ip in peer.addresses(machine.ipv4) {
            owners.entry(ip).or_default().push(name.clone());
        }
    }
    let own = machine.addresses();
    let collisions = owners.into_iter().map(|(ip, peers)| Collision {
        own: own.contains(&ip),
        ip,
        peers,
    });
    collisions
        .filter(|collision| collision.own || collision.peers.len() > 1)
        .collect()
}
