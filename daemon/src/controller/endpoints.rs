//! Where plain WireGuard peers are called: where each was last seen, and what the user has said, an address or a name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_api::{Endpoint, PeerKey};
use punch_engine::{Nat64, PeerHandle};
use punch_state::Peer;
use tokio::sync::watch;

use crate::resolver::Resolver;
use crate::tasks::Spawner;

/// A peer that does not answer is called at its next address after this.
const TURN: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Endpoints {
    peers: BTreeMap<PeerHandle, Place>,
    resolver: Resolver,
}

/// One peer.
struct Place {
    /// What the user has said.
    said: Option<Endpoint>,
    /// Where something authentic last came from.
    seen: Option<SocketAddr>,
    /// Where the peer is called.
    current: Option<SocketAddr>,
    /// Whether the user wants a connection.
    up: bool,
    /// Whether the peer answers.
    connected: bool,
    /// When it is called elsewhere; `None` while it answers, or is not wanted.
    turn: Option<Instant>,
}

impl Endpoints {
    /// No peers yet.
    pub(super) fn new(spawner: Spawner, nat64: watch::Receiver<Option<Nat64>>) -> Self {
        Self {
            peers: BTreeMap::new(),
            resolver: Resolver::behind(spawner, nat64),
        }
    }

    /// A peer is new, or something about it has changed. `seen` is where it was last seen before the last restart.
    pub(super) fn follow(
        &mut self,
        handle: PeerHandle,
        peer: &Peer,
        seen: Option<SocketAddr>,
        now: Instant,
    ) {
        let PeerKey::Wireguard { endpoint, .. } = &peer.key else {
            return;
        };
        if !self.peers.contains_key(&handle) {
            if let Some(said) = endpoint {
                self.resolver.add(said.to_string());
            }
            let literal = endpoint.as_ref().filter(|said| said.literal().is_some());
            let literal = literal.map(|said| self.resolver.addresses(&said.to_string()));
            let literal = literal.and_then(|shown| shown.first().copied());
            let place = Place {
                said: endpoint.clone(),
                seen,
                current: seen.or(literal),
                up: false,
                connected: false,
                turn: None,
            };
            self.peers.insert(handle, place);
        }
        if let Some(place) = self.peers.get_mut(&handle) {
            place.up = peer.up;
            place.plan(now);
        }
    }

    /// A peer is gone.
    pub(super) fn remove(&mut self, handle: PeerHandle) {
        let Some(said) = self.peers.remove(&handle).and_then(|place| place.said) else {
            return;
        };
        let others = self.peers.values();
        if !others
            .into_iter()
            .any(|other| other.said.as_ref() == Some(&said))
        {
            self.resolver.remove(&said.to_string());
        }
    }

    /// Where a peer is called.
    pub(super) fn current(&self, handle: PeerHandle) -> Option<SocketAddr> {
        self.peers.get(&handle)?.current
    }

    /// Something authentic has come from there.
    pub(super) fn see(&mut self, handle: PeerHandle, at: SocketAddr) {
        if let Some(place) = self.peers.get_mut(&handle) {
            place.seen = Some(at);
            place.current = Some(at);
        }
    }

    /// A peer answers now, or no longer.
    pub(super) fn set_connected(&mut self, handle: PeerHandle, connected: bool, now: Instant) {
        let Some(place) = self.peers.get_mut(&handle) else {
            return;
        };
        let lost = std::mem::replace(&mut place.connected, connected) && !connected;
        place.plan(now);
        if lost {
            // A name may stand for another address by now.
            self.resolver.refresh();
        }
    }

    /// When [`Endpoints::turn`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.peers.values().filter_map(|place| place.turn).min()
    }

    /// Waits until a name was looked up. Nothing is lost if the wait is given up.
    pub(super) async fn changed(&mut self) {
        self.resolver.changed().await;
    }

    /// Calls those that do not answer elsewhere, and those whose name stands for another address now; tells which.
    pub(super) fn turn(&mut self, now: Instant) -> Vec<PeerHandle> {
        let mut turned = Vec::new();
        let mut refresh = false;
        for (handle, place) in &mut self.peers {
            let said = place.said.as_ref().map(ToString::to_string);
            let resolved = said.map(|said| self.resolver.addresses(&said));
            let resolved = resolved.unwrap_or_default();
            let due = place.turn.is_some_and(|at| at <= now);
            if due {
                place.turn = Some(now + TURN);
                refresh |= place
                    .said
                    .as_ref()
                    .is_some_and(|said| said.literal().is_none());
            }
            let next = place.next(&resolved, due);
            if next != place.current {
                place.current = next;
                turned.push(*handle);
            }
        }
        if refresh {
            self.resolver.refresh();
        }
        turned
    }
}

impl Place {
    /// Plans the next turn, if there is to be one.
    fn plan(&mut self, now: Instant) {
        let wanted = self.up && !self.connected;
        self.turn = wanted.then(|| self.turn.unwrap_or(now + TURN));
    }

    /// Where the peer is to be called: the next of its addresses if it is `due`, otherwise where it is called already.
    fn next(&self, resolved: &[SocketAddr], due: bool) -> Option<SocketAddr> {
        let mut known: Vec<_> = self.seen.into_iter().collect();
        for address in resolved {
            if !known.contains(address) {
                known.push(*address);
            }
        }
        let at = known
            .iter()
            .position(|address| Some(*address) == self.current);
        match (self.current, at) {
            (Some(current), _) if !due => Some(current),
            (_, Some(at)) => known.get((at + 1) % known.len()).copied(),
            (_, None) => known.first().copied(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_that_does_not_answer_is_called_at_each_of_its_addresses_in_turn() {
        let [seen, one, two] = ["192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3"].map(address);
        let mut place = Place {
            said: None,
            seen: Some(seen),
            current: Some(seen),
            up: true,
            connected: false,
            turn: None,
        };
        assert_eq!(place.next(&[one, two], false), Some(seen), "it answers");
        let mut called = Vec::new();
        for _ in 0..4 {
            place.current = place.next(&[one, two], true);
            called.extend(place.current);
        }
        assert_eq!(called, [one, two, seen, one]);
        // The name stands for another address now.
        assert_eq!(place.next(&[two], true), Some(seen));
    }

    #[tokio::test]
    async fn an_address_below_a_translators_prefix_is_called_as_what_it_stands_for() {
        let nat64 = watch::Sender::new(Some(Nat64::WELL_KNOWN));
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let mut endpoints = Endpoints::new(spawner, nat64.subscribe());
        let key = PeerKey::Wireguard {
            key: String::new(),
            address: "10.9.0.1".parse().unwrap(),
            endpoint: Some("[64:ff9b::cb00:7101]:51820".parse().unwrap()),
            preshared: None,
        };
        let peer = Peer::new(key);
        endpoints.follow(PeerHandle(1), &peer, None, Instant::now());
        let right = address("203.0.113.1:51820");
        assert_eq!(endpoints.current(PeerHandle(1)), Some(right));
    }

    #[test]
    fn a_peer_without_an_address_waits_until_it_calls() {
        let mut place = Place {
            said: None,
            seen: None,
            current: None,
            up: true,
            connected: false,
            turn: None,
        };
        assert_eq!(place.next(&[], true), None);
        place.seen = Some(address("192.0.2.1:1"));
        assert_eq!(place.next(&[], false), place.seen);
    }
}
