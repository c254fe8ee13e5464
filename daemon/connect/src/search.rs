//! Sockets for attempts, and leave to search: one search at a time, within what the budget has left.

use std::net::IpAddr;
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_traversal::{Caps, Family, SocketId};

use super::{Connector, ConnectorEvent};

impl Connector {
    /// A socket that was asked for is open on a port, or could not be opened.
    pub(super) fn handle_opened(&mut self, socket: SocketId, port: Option<u16>, now: Instant) {
        let servers = self.stun_servers.clone();
        if self
            .netchecks
            .handle_socket(socket, port, &self.addresses, &servers, now)
        {
            return;
        }
        let owner = self.sockets.get(&socket).copied();
        let taken = owner.is_some_and(|(peer, serial)| {
            let open = port.map(|_| socket);
            let link = self.links.get_mut(&peer);
            link.is_some_and(|link| link.handle_socket(serial, open, now))
        });
        if port.is_none() {
            self.sockets.remove(&socket);
        } else if !taken {
            self.close_socket(socket);
        }
    }

    pub(super) fn close_socket(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
        self.events
            .push_back(ConnectorEvent::CloseSocket { socket });
    }

    /// Lets the next search begin, if none is under way.
    pub(super) fn settle_searches(&mut self, now: Instant) {
        if self.links.values().any(|link| link.is_searching()) {
            return;
        }
        let waiting = self.links.iter().find(|(_, link)| link.wants_search(now));
        let Some(peer) = waiting.map(|(peer, _)| *peer) else {
            return;
        };
        let cap = Caps::of(self.budget).mappings;
        let left = cap.saturating_sub(self.ledger.alive(now));
        let clear_at = self.ledger.clear_at();
        if let Some(link) = self.links.get_mut(&peer) {
            let Some(step) = link.waiting_search(now).cloned() else {
                return;
            };
            if let Some(until) = link.search_barred_until(now) {
                link.refuse_search(Some(until), now);
            } else if left < (step.mappings / 4).max(1) {
                // A quarter of what it would cost is not worth the packets.
                link.refuse_search(clear_at, now);
            } else {
                link.start_search(left, now);
                self.events.push_back(ConnectorEvent::Searching {
                    peer,
                    step: step.kind,
                    chance: step.chance,
                });
            }
        }
        self.drain_link(peer, now);
    }

    /// When a search could begin.
    pub(super) fn search_timeout(&self) -> Option<Instant> {
        if self.links.values().any(|link| link.is_searching()) {
            return None;
        }
        let times = self.links.values().filter_map(|link| link.search_at());
        times.min()
    }

    /// What stands for a network: its public addresses and this machine's subnets.
    pub(super) fn fingerprint(&self) -> u64 {
        let public = self
            .netchecks
            .profile(Family::V4)
            .map(|profile| profile.addresses)
            .unwrap_or_default();
        let mut places: Vec<[u8; 4]> = self
            .addresses
            .iter()
            .filter_map(|ip| match ip {
                IpAddr::V4(ip) if !self.overlay.contains(&IpAddr::V4(*ip)) => {
                    let [a, b, c, _] = ip.octets();
                    Some([a, b, c, 0])
                }
                _ => None,
            })
            .chain(public.iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip.octets()),
                IpAddr::V6(_) => None,
            }))
            .collect();
        places.sort_unstable();
        places.dedup();
        // FNV-1a: it must be the same in every version.
        places
            .iter()
            .flatten()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }

    /// Carries away what one link has to send and to say.
    fn drain_link(&mut self, peer: PeerHandle, now: Instant) {
        if self.drain_one(peer, now) {
            self.offer(peer, now);
        }
    }
}
