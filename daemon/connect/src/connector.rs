//! The connector: what comes in, in order of its origin, and what goes out.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_packet::PeerHandle;
use punch_signal_protocol::{Candidate, Frame, Ipv4Range, PeerId};
use punch_stun_protocol::{Class, Message};
use punch_traversal::{OwnAddress, SocketId, StepKind, Transmit};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::ServerId;
use crate::clock::WallClock;
use crate::envelopes::Envelopes;
use crate::events::{
    ConnectorConfig, ConnectorEvent, DroppedEnvelopes, LinkState, LinkStatus, News, SessionEvent,
    Signal, SocketOrder, TcpOrder, UserWish,
};
use crate::network::{AddressNews, LocalNetwork};
use crate::offers::Cause;
use crate::path::{RelayPath, TcpPath};
use crate::peer::{Outputs, PeerConnection, farewell, searching, status};
use crate::peers::Peers;
use crate::searches::Searches;
use crate::secrets::Randomness;
use crate::signalling::{Around, Signalling};
use crate::sockets::Sockets;
use crate::strangers::Stranger;
use crate::tcp::Connections;
use crate::traffic::PeerTraffic;

/// Decides how peers are reached. The loop: `handle_*` for what came in, then `poll_transmit`, `poll_signal` and `poll_event`
/// until nothing is left, then sleep until [`Connector::poll_timeout`].
pub struct Connector {
    pub(crate) signalling: Signalling,
    pub(crate) network: LocalNetwork,
    pub(crate) sockets: Sockets,
    /// TCP connections with peers.
    pub(crate) connections: Connections,
    searches: Searches,
    pub(crate) peers: Peers,
    transmits: VecDeque<Transmit>,
    events: VecDeque<ConnectorEvent>,
}

impl Connector {
    /// A connector without peers, servers and sockets.
    pub fn new(config: ConnectorConfig, now: Instant) -> Self {
        let mut randomness = Randomness::new(ChaCha20Rng::from_seed(config.seed));
        let seeds = [randomness.open.next_u64(), randomness.open.next_u64()];
        Self {
            network: LocalNetwork::new(seeds, config.nat.clone(), config.mtu, config.tcp),
            connections: Connections::default(),
            sockets: Sockets::default(),
            searches: Searches::new(config.budget),
            signalling: Signalling::new(Envelopes::new(config, randomness, now)),
            peers: Peers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    // --- configuration ---

    /// Adds a peer, unless it is there. `stamps` are the newest sent and seen before a restart.
    pub fn add_peer(&mut self, peer: PeerHandle, id: PeerId, stamps: (u64, u64)) {
        self.peers.add(peer, id, stamps);
        self.signalling.strangers.forget(id);
    }

    /// What has worked with a peer before a restart, by network.
    pub fn remember(&mut self, peer: PeerHandle, worked: Vec<(u64, StepKind)>) {
        if let Some(connection) = self.peers.get_mut(peer) {
            connection.history.set_worked(worked);
        }
    }

    /// Says goodbye to a peer and forgets it.
    pub fn remove_peer(&mut self, peer: PeerHandle, now: Instant) {
        self.close(peer);
        if let Some(mut connection) = self.peers.remove(peer, &mut self.searches) {
            if connection.calls.is_watched() {
                self.signalling.servers.unwatch(connection.id);
            }
            let (sockets, tcp, relayed, mappings) = connection.dissolve();
            for path in tcp {
                self.hang_up(path);
            }
            self.signalling.handle_relayed(peer, relayed);
            self.searches.book(mappings, now);
            for socket in sockets {
                self.close_socket(socket);
            }
        }
        self.signalling.remove_peer(peer);
        self.signalling.servers.advance(now);
    }

    /// What the user wants of a peer.
    pub fn set_wish(&mut self, peer: PeerHandle, wish: UserWish, now: Instant) {
        let before = self.peers.get(peer).map(PeerConnection::wish);
        let (Some(connection), Some(before)) = (self.peers.get_mut(peer), before) else {
            return;
        };
        if before == wish {
            return;
        }
        connection.set_wish(wish);
        let searching = connection.attempts.has_search();
        self.signalling.servers.update_watch(connection);
        match (before, wish) {
            (_, UserWish::Up) if searching => {}
            (_, UserWish::Up) => self.offer(peer, Cause::User, now),
            (UserWish::Down, UserWish::Unsaid) => {}
            (_, UserWish::Unsaid | UserWish::Down) => self.close(peer),
        }
        self.drain_children(now);
    }

    /// Whether packets never go over relays between this machine and a peer. Where they may again, the peer hears of it at once, unless
    /// there is a direct path.
    pub fn set_direct_only(&mut self, peer: PeerHandle, direct_only: bool, now: Instant) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let is_new = connection.attempts.set_direct_only(direct_only, now);
        let offers = !direct_only && connection.is_wanted() && connection.path().is_none();
        if is_new && direct_only {
            self.peers.handle_forbidden(peer);
        } else if is_new && offers {
            self.offer(peer, Cause::User, now);
        }
        self.drain_children(now);
    }

    /// Whether an address is one inside a tunnel, this machine's or a peer's: never a candidate, and never where a check comes from.
    pub fn set_overlay(&mut self, address: IpAddr, inside: bool) {
        self.network.set_overlay(address, inside);
    }

    /// Makes an offer at once to a peer that is wanted and has no path, unless one has just gone out.
    pub fn retry(&mut self, peer: PeerHandle, now: Instant) {
        let connection = self.peers.get_mut(peer);
        if connection.is_some_and(|connection| connection.handle_retry(now)) {
            self.offer(peer, Cause::User, now);
        }
        self.drain_children(now);
    }

    /// The STUN servers are now these.
    pub fn set_stun_servers(&mut self, servers: Vec<SocketAddr>, now: Instant) {
        self.network.set_stun_servers(servers, now);
        self.drain_children(now);
    }

    /// The nodes of the DHT that can stand in for STUN servers, where those are too few, are now these.
    pub fn set_nodes(&mut self, nodes: Vec<SocketAddr>, now: Instant) {
        self.network.set_nodes(nodes, now);
        self.drain_children(now);
    }

    // --- the machine ---

    /// A main socket is open, or one that was asked for with [`SocketOrder::Open`].
    pub fn handle_socket(&mut self, socket: SocketId, port: u16, now: Instant) {
        if socket.is_main() {
            self.network.handle_main_socket(socket, port, now);
        } else {
            self.handle_opened(socket, Some(port), now);
        }
        self.drain_children(now);
    }

    /// A socket that was asked for could not be opened.
    pub fn handle_socket_failed(&mut self, socket: SocketId, now: Instant) {
        self.handle_opened(socket, None, now);
        self.drain_children(now);
    }

    /// The machine's addresses are now these.
    pub fn handle_addresses(&mut self, addresses: Vec<OwnAddress>, now: Instant) {
        let news = self.network.handle_addresses(addresses, now);
        if news == AddressNews::Changed {
            self.news(News::NetworkChanged);
        }
        if news != AddressNews::Same {
            self.connections.seen.forget();
            for peer in self.peers.handle_new_network(now) {
                self.offer(peer, Cause::Own, now);
            }
        }
        self.drain_children(now);
    }

    /// The router leads these addresses here now, the first one for UDP and the second one for TCP, or nothing any more.
    pub fn handle_port_mapping(&mut self, [udp, tcp]: [Option<SocketAddr>; 2], now: Instant) {
        self.network.handle_port_mapping(udp, now);
        if self.network.set_tcp_mapping(tcp) {
            self.peers.tell_tcp_again(now);
        }
        self.drain_children(now);
    }

    /// The machine has slept: every path is doubtful, every mapping at a NAT may be gone.
    pub fn handle_resume(&mut self, now: Instant) {
        self.news(News::NetworkChanged);
        self.network.handle_resume(now);
        self.connections.seen.forget();
        self.peers.verify_paths(now);
        self.drain_children(now);
    }

    /// Milliseconds since 1970, told now and then: the wall clock may be set, and goes on while the machine sleeps.
    pub fn handle_wall_clock(&mut self, wall_ms: u64, now: Instant) {
        if self.signalling.envelopes.set_clock(wall_ms, now) {
            for peer in self.peers.handle_clock_step() {
                self.offer(peer, Cause::Own, now);
            }
            self.drain_children(now);
        }
    }

    /// Finds out how the NAT behaves; ends with [`News::Netcheck`]. Joins a run that is under way.
    pub fn start_netcheck(&mut self, now: Instant) {
        self.network.start_netcheck(&mut self.sockets, now);
        self.drain_children(now);
    }

    // --- signalling servers ---

    /// A signalling server has welcomed us.
    pub fn handle_server_up(&mut self, server: ServerId, now: Instant) {
        // Peers that are online are announced by the watch; that is also when an offer can reach them. The user's come first.
        self.signalling.servers.add(server, self.peers.watched());
        self.handle_login(server, now);
    }

    /// This machine has logged in at a server: what waited for that goes out.
    pub(crate) fn handle_login(&mut self, server: ServerId, now: Instant) {
        let (signalling, mut around) = self.signalling();
        signalling.handle_login(server, &mut around, now);
        self.drain_children(now);
    }

    /// A signalling server is gone.
    pub fn handle_server_down(&mut self, server: ServerId, now: Instant) {
        self.signalling.remove_server(server, &mut self.peers, now);
        self.drain_children(now);
    }

    /// A frame has come from a server.
    pub fn handle_frame(&mut self, server: ServerId, frame: Frame, now: Instant) {
        let (signalling, mut around) = self.signalling();
        signalling.handle_frame(server, frame, &mut around, now);
        self.drain_children(now);
    }

    // --- the network ---

    /// A STUN message has come in on `socket`; `local` is the address it came to. Returns whether it was expected.
    pub fn handle_stun(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> bool {
        let Ok(message) = Message::parse(datagram) else {
            return false;
        };
        if self.network.is_inside(from.ip()) {
            return false;
        }
        let taken = match message.class {
            Class::Request => match message.username {
                Some(name) => self
                    .peers
                    .handle_request(name, socket, local, from, &message, now),
                None => self.network.handle_request(socket, &message),
            },
            Class::Success | Class::Error => {
                self.peers.handle_response(socket, from, &message, now)
                    || self.network.handle_response(socket, from, &message, now)
            }
            Class::Indication => false,
        };
        if taken {
            self.drain_children(now);
        }
        taken
    }

    /// A STUN message has come over a relay link. Returns whether it was expected.
    pub fn handle_link(&mut self, path: RelayPath, message: &[u8], now: Instant) -> bool {
        let owner = self.signalling.relays.owner(path);
        let connection = owner.and_then(|peer| self.peers.get_mut(peer));
        let (Some(connection), Ok(message)) = (connection, Message::parse(message)) else {
            return false;
        };
        let taken = connection.attempts.handle_link_message(path, &message, now);
        self.drain_children(now);
        taken
    }

    /// A packet of the peer's has come over a relay link, opened by its session's keys. This comes with every batch, and changes
    /// nothing but what the next check concludes.
    pub fn handle_link_heard(&mut self, path: RelayPath, now: Instant) {
        if let Some(peer) = self.signalling.relays.owner(path) {
            self.peers.handle_link_heard(peer, path, now);
        }
    }

    /// Packets of the tunnel with this peer flow: so many bytes by now.
    pub fn handle_traffic(&mut self, peer: PeerHandle, traffic: PeerTraffic, now: Instant) {
        self.peers.handle_traffic(peer, traffic, now);
    }

    // --- time, and what goes out ---

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.network.handle_timeout(&mut self.sockets, now);
        for peer in self.peers.handle_timeout(now) {
            self.offer(peer, Cause::Own, now);
        }
        let (signalling, mut around) = self.signalling();
        signalling.send_offers(&mut around, now);
        self.drain_children(now);
    }

    // --- the next process ---

    /// This process ends and another one goes on, within so many seconds: peers that wait are told, and others hear a goodbye.
    pub fn go_away(&mut self, seconds: u8) {
        for peer in self.peers.handles() {
            let away = self.peers.get_mut(peer);
            let away = away.and_then(|c| Some((c.id, farewell::seal_away(c, seconds)?)));
            let Some((to, notes)) = away else {
                self.close(peer);
                continue;
            };
            for note in notes {
                self.signalling.servers.send(to, &note);
            }
        }
        self.signalling.servers.finish();
    }

    /// Says goodbye to every peer: punchd stops.
    pub fn shut_down(&mut self) {
        for peer in self.peers.handles() {
            self.close(peer);
        }
        self.signalling.servers.finish();
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next frame for a signalling server.
    pub fn poll_signal(&mut self) -> Option<Signal> {
        self.signalling.servers.poll_signal()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<ConnectorEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.peers.poll_timeout(),
            self.network.poll_timeout(),
            self.signalling.poll_timeout(),
            self.searches.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- what is known ---

    /// What status shows of one peer's connection.
    pub fn link_status(&self, peer: PeerHandle, now: Instant) -> Option<LinkStatus> {
        let connection = self.peers.get(peer)?;
        let is_in_reach = self.signalling.is_in_reach(connection.id);
        let profile = self.network.profile();
        Some(status(
            connection,
            is_in_reach,
            profile,
            self.searches.budget,
            now,
        ))
    }

    /// The peer that a relay link leads to.
    pub fn link_owner(&self, path: RelayPath) -> Option<PeerHandle> {
        self.signalling.relays.owner(path)
    }

    /// The range of a peer's overlay IPv4 address, once it has said so.
    pub fn peer_range(&self, peer: PeerHandle) -> Option<Option<Ipv4Range>> {
        self.peers.get(peer)?.attempts.peer_range()
    }

    /// The round trip of a peer's path.
    pub fn round_trip(&self, peer: PeerHandle) -> Option<Duration> {
        self.peers.get(peer)?.attempts.round_trip()
    }

    /// The state of one peer's connection.
    pub fn link_state(&self, peer: PeerHandle) -> LinkState {
        let connection = self.peers.get(peer);
        connection.map_or(LinkState::Down, PeerConnection::state)
    }

    /// This machine's candidates.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.network.candidates()
    }

    /// STUN servers that have answered, and what they saw.
    pub fn reflexive(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.network.reflexive()
    }

    /// Envelopes that were not let through.
    pub fn dropped_envelopes(&self) -> DroppedEnvelopes {
        self.signalling.dropped()
    }

    /// Machines that have called and are no peers, the last one first.
    pub fn strangers(&self, now: Instant) -> Vec<Stranger> {
        self.signalling.strangers.list(now)
    }

    /// The wall clock as it was told last.
    pub fn wall_clock(&self) -> WallClock {
        self.signalling.envelopes.clock()
    }

    // --- inside ---

    /// The signalling, and what it concerns.
    fn signalling(&mut self) -> (&mut Signalling, Around<'_>) {
        let around = Around {
            peers: &mut self.peers,
            network: &self.network,
            events: &mut self.events,
        };
        (&mut self.signalling, around)
    }

    fn offer(&mut self, peer: PeerHandle, cause: Cause, now: Instant) {
        let (signalling, mut around) = self.signalling();
        signalling.offer(peer, cause, &mut around, now);
    }

    fn news(&mut self, news: News) {
        self.events.push_back(ConnectorEvent::News(news));
    }

    fn session(&mut self, event: SessionEvent) {
        self.events.push_back(ConnectorEvent::Session(event));
    }

    fn close_socket(&mut self, socket: SocketId) {
        self.sockets.forget(socket);
        self.events
            .push_back(ConnectorEvent::Socket(SocketOrder::Close { socket }));
    }

    pub(crate) fn hang_up(&mut self, path: TcpPath) {
        self.connections.remove(path.connection);
        let order = TcpOrder::Close(path.connection);
        self.events.push_back(ConnectorEvent::Tcp(order));
    }

    /// A socket that was asked for is open on a port, or could not be opened.
    fn handle_opened(&mut self, socket: SocketId, port: Option<u16>, now: Instant) {
        if self.network.handle_socket(socket, port, now) {
            return;
        }
        let taken = self.sockets.owner(socket).is_some_and(|(peer, attempt)| {
            let open = port.map(|_| socket);
            let connection = self.peers.get_mut(peer);
            connection
                .is_some_and(|connection| connection.attempts.handle_socket(attempt, open, now))
        });
        if port.is_none() {
            self.sockets.forget(socket);
        } else if !taken {
            self.close_socket(socket);
        }
    }

    fn close(&mut self, peer: PeerHandle) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let to = connection.id;
        for goodbye in connection.close() {
            self.signalling.servers.send(to, &goodbye);
        }
        self.session(SessionEvent::Closed { peer });
    }

    /// Carries away what the children have to send and to say; of the connections, those that something has happened to.
    pub(crate) fn drain_children(&mut self, now: Instant) {
        if self.network.poll_changed(now) {
            // Peers with whom checks are under way hear of new candidates (RFC 8838).
            let candidates = self.network.candidates();
            for (to, note) in self.peers.seal_candidates(&candidates) {
                self.signalling.servers.send(to, &note);
            }
            let compact = &mut self.signalling.compact;
            compact.handle_candidates(&self.peers, &candidates, now);
        }
        if let Some(lifetime) = self.network.take_lifetime() {
            self.peers.set_lifetime(lifetime, now);
        }
        let (transmits, events) = (&mut self.transmits, &mut self.events);
        let held = self.searches.held(now);
        if let Some(mappings) = self.network.drain(transmits, events, held, now) {
            self.searches.book_netcheck(mappings, now);
            // Offers and answers may have said too little of the NAT.
            self.peers.touch_all();
        }
        self.drain_peers(now);
        self.begin_search(now);
        self.drain_peers(now);
        self.signalling.servers.advance(now);
    }

    fn drain_peers(&mut self, now: Instant) {
        while let Some(peer) = self.peers.pop_dirty() {
            if self.drain_peer(peer, now) {
                self.offer(peer, Cause::Own, now);
            }
            let (connection, servers) = (self.peers.get(peer), &self.signalling.servers);
            if let Some(server) = connection.and_then(|c| servers.barred(peer, c)) {
                self.signalling.remove_server(server, &mut self.peers, now);
                self.signalling.servers.give_up(server);
            }
        }
    }

    /// Carries away what one connection has to send and to say; returns whether a new offer is due at once.
    fn drain_peer(&mut self, peer: PeerHandle, now: Instant) -> bool {
        let Some((connection, transactions, course)) = self.peers.get_drained(peer) else {
            return false;
        };
        let queues = (&mut self.transmits, &mut self.events);
        let sockets = &mut self.sockets;
        let tables = (&mut self.connections, transactions, course);
        let mut out = Outputs::new(peer, &self.network, queues, sockets, tables);
        let again = connection.drain(&mut out, now);
        let (envelopes, cost) = (out.envelopes, (out.mappings, out.used_up));
        let relayed = out.relay;
        if let Some(address) = out.found_at {
            self.searches.charges.refund(address);
        }
        self.searches.settle(cost, &mut self.network, now);
        for envelope in envelopes {
            self.signalling.servers.send(connection.id, &envelope);
        }
        self.signalling.servers.update_watch(connection);
        self.signalling.handle_relayed(peer, relayed);
        self.peers.reindex(peer, &mut self.searches);
        again
    }

    /// Lets the next search begin, if none is under way.
    fn begin_search(&mut self, now: Instant) {
        let Some(peer) = self.searches.next(now) else {
            return;
        };
        let left = self.searches.left(self.network.profile().as_ref(), now);
        let connection = self.peers.get_mut(peer);
        let step = connection.and_then(|c| searching::begin(c, &mut self.searches, left, now));
        if let Some((step, chance)) = step {
            self.news(News::Searching { peer, step, chance });
        }
    }
}
