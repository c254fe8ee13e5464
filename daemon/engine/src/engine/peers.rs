//! Peers come, change and go.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_packet::Reassembly;
use punch_traversal::{Family, SocketId};
use rand_core::RngCore;

use super::{Engine, FIXED_KEEPALIVE, Peer, TICK};
use crate::config::{PeerConfig, PeerKind};
use crate::flows::FlowTable;
use crate::session::{Owner, Session};
use crate::tunnel::Tunnel;
use punch_connect::{LinkState, Path};

impl Engine {
    pub(super) fn apply_peer(&mut self, config: PeerConfig, now: Instant) {
        let handle = config.handle;
        if !self.peers.contains_key(&handle) {
            let (tunnel, path) = match &config.kind {
                PeerKind::Punch { id, .. } => {
                    self.connector.add_peer(handle, *id, config.stamps);
                    self.connector.remember(handle, config.memory.clone());
                    (Tunnel::default(), None)
                }
                PeerKind::Wireguard { .. } => (Tunnel::default(), None),
            };
            self.by_key.insert(*config.public(), handle);
            self.next_tick.get_or_insert(now + TICK);
            self.peers.insert(
                handle,
                Peer {
                    addresses: Vec::new(),
                    config: PeerConfig {
                        up: false,
                        ..config.clone()
                    },
                    tunnel,
                    path,
                    flows: FlowTable::default(),
                    reassembly: Reassembly::default(),
                    received: 0,
                    sent: 0,
                    busy: false,
                    lately_established: false,
                    last_established: None,
                    announced: LinkState::Down,
                },
            );
        }
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let turned = peer.config.up != config.up;
        self.connector.set_barred(handle, config.barred, now);
        peer.config = config;
        self.route_peer(handle);
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        if !turned {
            return;
        }
        let up = peer.config.up;
        match &peer.config.kind {
            PeerKind::Punch { .. } => self.connector.set_up(handle, up, now),
            PeerKind::Wireguard { .. } if !up => {
                for index in peer.tunnel.indices() {
                    self.by_index.remove(&index);
                }
                peer.tunnel = Tunnel::default();
                peer.path = None;
                peer.last_established = None;
                peer.lately_established = false;
            }
            PeerKind::Wireguard {
                public,
                endpoint,
                preshared,
                ..
            } => {
                let (public, preshared) = (*public, preshared.as_ref().map(|key| **key));
                let endpoint = *endpoint;
                let index = self.free_index(handle);
                let owner = Owner {
                    peer: handle,
                    session: index,
                };
                let keepalive = Some(FIXED_KEEPALIVE);
                let mut session =
                    Session::new(&self.gate, owner, &public, preshared, keepalive, self.mtu);
                session.initiate(now);
                if let Some(peer) = self.peers.get_mut(&handle) {
                    peer.tunnel = Tunnel::fixed(session);
                    peer.path = Some(fixed_path(endpoint));
                }
                self.places.insert(endpoint);
                self.begin_handshakes(handle, now);
            }
        }
    }

    /// Leads packets for the peer's addresses to it, and those for addresses that it has no longer to nobody. Where the two ends
    /// take their IPv4 addresses from different ranges, the pair uses IPv6 only.
    pub(super) fn route_peer(&mut self, handle: PeerHandle) {
        let differs = self.ipv4_differs(handle);
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let mut addresses = peer.config.addresses();
        addresses.retain(|ip| ip.is_ipv6() || !differs);
        let before = std::mem::replace(&mut peer.addresses, addresses.clone());
        if before == addresses {
            return;
        }
        self.unroute(handle, &before);
        for ip in addresses {
            self.routes.insert(ip, handle);
            self.connector.set_overlay(ip, true);
        }
    }

    fn unroute(&mut self, handle: PeerHandle, addresses: &[IpAddr]) {
        for ip in addresses {
            if self.routes.get(ip) == Some(&handle) {
                self.routes.remove(ip);
                self.connector.set_overlay(*ip, self.own.contains(ip));
            }
        }
    }

    pub(super) fn remove_peer(&mut self, handle: PeerHandle, now: Instant) {
        self.connector.remove_peer(handle, now);
        if let Some(peer) = self.peers.remove(&handle) {
            self.by_key.remove(peer.config.public());
            self.unroute(handle, &peer.addresses);
            for index in peer.tunnel.indices() {
                self.by_index.remove(&index);
            }
        }
    }

    pub(super) fn free_index(&mut self, handle: PeerHandle) -> u32 {
        loop {
            let index = self.rng.next_u32() >> 8;
            if let std::collections::hash_map::Entry::Vacant(free) = self.by_index.entry(index) {
                free.insert(handle);
                return index;
            }
        }
    }
}

fn fixed_path(endpoint: SocketAddr) -> Path {
    Path::direct(SocketId::main(Family::of(endpoint.ip())), endpoint)
}
