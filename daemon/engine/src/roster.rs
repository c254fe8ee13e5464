//! The peers and what leads to them: the connector that finds paths, and the handshakes that agree on keys.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_connect::{Connector, News, Path, PathReason, SessionEvent, UserWish, over_tcp};
use punch_packet::PeerHandle;
use punch_traversal::{Family, SocketId};
use punch_wireguard::SessionId;
use rand_chacha::ChaCha20Rng;

use crate::config::{PeerConfig, PeerKind};
use crate::handshakes::{Handshakes, JobDone, Performed};
use crate::host::Host;
use crate::peers::{Peer, PeerTable, Session, Tunnel};
use crate::reply_to::ReplyTo;
use crate::report::DropReason;

/// The interval of the packets that keep an unmodified WireGuard peer's mapping alive.
const FIXED_KEEPALIVE: Duration = Duration::from_secs(25);

/// See the module.
pub(crate) struct Roster {
    host: Arc<Host>,
    rng: ChaCha20Rng,
    pub(crate) connector: Connector,
    pub(crate) peers: PeerTable,
    pub(crate) handshakes: Handshakes,
}

impl Roster {
    pub(crate) fn new(
        host: Arc<Host>,
        mut connector: Connector,
        handshakes: Handshakes,
        rng: ChaCha20Rng,
    ) -> Self {
        for ip in &host.addresses {
            connector.set_overlay(*ip, true);
        }
        Self {
            peers: PeerTable::new(host.mtu),
            host,
            rng,
            connector,
            handshakes,
        }
    }

    /// Adds a peer, or brings it in line with its new configuration.
    pub(crate) fn apply_peer(&mut self, config: PeerConfig, now: Instant) {
        let (handle, up, kind) = (config.handle, config.up, config.kind.clone());
        let wish = match (up, config.blocked) {
            (true, _) => UserWish::Up,
            (false, true) => UserWish::Down,
            (false, false) => UserWish::Unsaid,
        };
        let (stamps, direct_only) = (config.stamps, config.direct_only);
        let memory = config.memory.clone();
        let before = self.peers.insert(config);
        if before.is_none()
            && let PeerKind::Punch { id, .. } = &kind
        {
            self.connector.add_peer(handle, *id, stamps);
            self.connector.remember(handle, memory);
        }
        self.route_peer(handle);
        self.connector.set_direct_only(handle, direct_only, now);
        self.connector.set_wish(handle, wish, now);
        if before.as_ref().is_some_and(|before| before.up) == up {
            if up && let Some(before) = before {
                self.call_elsewhere(handle, (&before.kind, &kind), now);
            }
            return;
        }
        match kind {
            PeerKind::Punch { .. } => {}
            PeerKind::Wireguard { .. } if !up => self.peers.disconnect(handle),
            PeerKind::Wireguard {
                public,
                endpoint,
                preshared,
                ..
            } => {
                let preshared = preshared.as_ref().map(|key| **key);
                let mut session = self.session(handle, &public, preshared, Some(FIXED_KEEPALIVE));
                session.initiate(now);
                if let Some(peer) = self.peers.get_mut(handle) {
                    peer.tunnel = Tunnel::fixed(session);
                }
                if let Some(endpoint) = endpoint {
                    let socket = SocketId::main(Family::of(endpoint.ip()));
                    let path = Path::direct(socket, endpoint);
                    self.peers
                        .set_path(handle, path, PathReason::Configured, now);
                }
                self.peers.mark(handle);
                self.work(handle, now);
            }
        }
    }

    /// A plain WireGuard peer that is wanted has another endpoint now: it is called there, unless it is there already.
    fn call_elsewhere(
        &mut self,
        handle: PeerHandle,
        (before, now_kind): (&PeerKind, &PeerKind),
        now: Instant,
    ) {
        let endpoint = |kind: &PeerKind| match kind {
            PeerKind::Wireguard { endpoint, .. } => *endpoint,
            PeerKind::Punch { .. } => None,
        };
        let Some(to) = endpoint(now_kind).filter(|to| endpoint(before) != Some(*to)) else {
            return;
        };
        let Some(peer) = self.peers.get(handle) else {
            return;
        };
        if peer.path.and_then(|path| path.endpoint()) != Some(to) {
            self.call_at(handle, to, now);
        }
    }

    /// Begins a handshake with a plain WireGuard peer at this address.
    pub(crate) fn call_at(&mut self, handle: PeerHandle, to: SocketAddr, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else {
            return;
        };
        for session in peer.tunnel.responders() {
            session.initiate(now);
        }
        let socket = SocketId::main(Family::of(to.ip()));
        let path = Path::direct(socket, to);
        self.peers
            .set_path(handle, path, PathReason::Configured, now);
        self.work(handle, now);
    }

    fn session(
        &mut self,
        peer: PeerHandle,
        public: &[u8; 32],
        preshared: Option<[u8; 32]>,
        keepalive: Option<Duration>,
    ) -> Session {
        let number = self.peers.reserve_session(peer, &mut self.rng);
        let id = SessionId { peer, number };
        let own = self.handshakes.own();
        let mtu = self.peers.get(peer).map_or(self.host.mtu, Peer::mtu);
        Session::new(own, id, public, preshared, keepalive, mtu)
    }

    /// Leads packets for the peer's addresses to it. Where the two ends take their IPv4 addresses from different ranges, the pair uses
    /// IPv6 only.
    fn route_peer(&mut self, handle: PeerHandle) {
        let differs = self.ipv4_differs(handle);
        let Some(peer) = self.peers.get(handle) else {
            return;
        };
        let mut addresses = peer.config.addresses();
        addresses.retain(|ip| ip.is_ipv6() || !differs);
        if addresses == peer.addresses {
            return;
        }
        let freed = self.peers.route_to(handle, addresses);
        self.leave_overlay(&freed);
        let peer = self.peers.get(handle);
        for ip in peer.into_iter().flat_map(|peer| &peer.addresses) {
            self.connector.set_overlay(*ip, true);
        }
    }

    fn leave_overlay(&mut self, freed: &[IpAddr]) {
        for ip in freed {
            let own = self.host.addresses.contains(ip);
            self.connector.set_overlay(*ip, own);
        }
    }

    /// A datagram that is neither data nor STUN; the error says why it comes to nothing.
    pub(crate) fn handle_handshake(
        &mut self,
        from: ReplyTo,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let clock = self.connector.wall_clock();
        let peers = &mut self.peers;
        self.handshakes
            .handle_datagram(peers, from, datagram, clock, now)
    }

    /// Whether this peer is let in there: a relay link and a TCP connection lead to one peer, and nobody else is let in. Datagrams may come
    /// from anywhere.
    pub(crate) fn lets_in(&self, path: Path, peer: Option<PeerHandle>) -> bool {
        let owner = match path {
            Path::Direct(_) => return true,
            Path::Relayed(link) => self.connector.link_owner(link),
            Path::Tcp(path) => over_tcp::owner(&self.connector, path),
        };
        owner.is_some() && owner == peer
    }

    /// A step of a handshake has been performed.
    pub(crate) fn handle_job(&mut self, done: JobDone, now: Instant) -> Performed {
        let clock = self.connector.wall_clock();
        self.handshakes
            .handle_job(&mut self.peers, done, clock, now)
    }

    /// Collects the steps that the sessions with a peer want to be done.
    pub(crate) fn work(&mut self, handle: PeerHandle, now: Instant) {
        let clock = self.connector.wall_clock();
        self.handshakes.work(&mut self.peers, handle, clock, now);
    }

    /// Forgets a peer.
    pub(crate) fn remove_peer(&mut self, handle: PeerHandle, now: Instant) {
        self.connector.remove_peer(handle, now);
        let freed = self.peers.remove(handle);
        self.leave_overlay(&freed);
    }

    /// Whether a peer takes its IPv4 address from another range than this machine.
    pub(crate) fn ipv4_differs(&self, handle: PeerHandle) -> bool {
        self.connector
            .peer_range(handle)
            .is_some_and(|range| range != self.host.ipv4_range)
    }

    /// Begins handshakes with all peers that there are keys with.
    pub(crate) fn renew_keys(&mut self, slept: Duration, now: Instant) {
        // While this machine's clock stood still the peers may have forgotten their keys.
        for handle in self.peers.active() {
            let Some(peer) = self.peers.get_mut(handle) else {
                continue;
            };
            let all = peer.tunnel.sessions();
            all.for_each(|session| session.handle_sleep(slept));
            let sessions = peer.tunnel.responders();
            let held = sessions.filter(|session| session.is_established());
            if held.map(|session| session.initiate(now)).count() > 0 {
                self.work(handle, now);
            }
        }
    }

    /// Does what a step in the life of a peer's session asks for.
    pub(crate) fn handle_session(&mut self, event: &SessionEvent, now: Instant) {
        match event {
            SessionEvent::Proven {
                peer,
                preshared,
                initiator,
            } => self.prepare(*peer, *preshared.as_bytes(), *initiator, now),
            SessionEvent::Lost { peer } => {
                if let Some(entry) = self.peers.get_mut(*peer) {
                    entry.lose_path();
                }
                self.peers.mark(*peer);
            }
            SessionEvent::Closed { peer } => {
                self.peers.disconnect(*peer);
                self.peers.mark(*peer);
            }
            SessionEvent::Abandoned { peer } => {
                if let Some(entry) = self.peers.get_mut(*peer) {
                    let gone = entry.tunnel.abandon(now);
                    self.peers.forget_sessions(gone);
                }
                self.peers.mark(*peer);
            }
        }
    }

    /// Takes note of what concerns the peers, too, on its way to the controller.
    pub(crate) fn handle_news(&mut self, news: &News, now: Instant) {
        match news {
            News::Selected { peer, path, why } => {
                self.route_peer(*peer);
                self.peers.set_path(*peer, *path, *why, now);
                if let Some(entry) = self.peers.get_mut(*peer) {
                    entry.tunnel.start(now);
                }
                self.work(*peer, now);
            }
            News::Mtu {
                peer,
                path,
                mtu,
                whole,
            } => {
                let entry = self.peers.get_mut(*peer);
                if let Some(entry) = entry.filter(|peer| peer.path == Some((*path).into())) {
                    entry.set_mtu((*mtu).into(), *whole);
                    self.peers.mark(*peer);
                }
            }
            News::Stamps { peer, .. } => self.peers.mark(*peer),
            News::Stale { .. }
            | News::Refused { .. }
            | News::Stranger { .. }
            | News::Searching { .. }
            | News::Worked { .. }
            | News::Capacity { .. }
            | News::Netcheck(_)
            | News::NetworkChanged => {}
        }
    }

    /// The peer has proven a new exchange, which brings a session beside the one in use.
    fn prepare(&mut self, peer: PeerHandle, preshared: [u8; 32], initiator: bool, now: Instant) {
        let Some(entry) = self.peers.get(peer) else {
            return;
        };
        let public = entry.config.public();
        let session = self.session(peer, &public, Some(preshared), None);
        if let Some(entry) = self.peers.get_mut(peer) {
            let gone = entry.tunnel.prepare(session, initiator, now);
            self.peers.forget_sessions(gone);
        }
        self.peers.mark(peer);
    }
}
