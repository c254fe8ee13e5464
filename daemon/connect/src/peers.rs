//! All connections, and the tables that find one of them without asking the others: by identity, by the fragment of a STUN user
//! name, by transaction, by deadline, and those that have something to say.
//!
//! Whoever changes a connection gets it by [`Peers::get_mut`], which puts it into the set of those to be drained; draining ends
//! with [`Peers::reindex`], which brings the tables up to date.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_packet::PeerHandle;
use punch_signal_protocol::{Candidate, PeerId};
use punch_stun_protocol::Message;
use punch_traversal::{SocketId, receiver_of};

use crate::course::Course;
use crate::path::{RelayPath, TcpPath};
use crate::peer::{PeerConnection, agreement};
use crate::schedule::Schedule;
use crate::searches::Searches;
use crate::tcp::Connections;
use crate::traffic::PeerTraffic;
use crate::transactions::Transactions;
use crate::{ServerId, UserWish};

/// The part of a STUN user name that tells the receiver: eight bytes, in hexadecimal digits before the colon.
type Fragment = [u8; 8];

struct Entry {
    connection: PeerConnection,
    /// The path that serves, as it was told, and what there is to say of the next one.
    course: Course,
    /// The fragments under which the connection is found.
    fragments: Vec<Fragment>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Peers {
    entries: BTreeMap<PeerHandle, Entry>,
    by_id: HashMap<PeerId, PeerHandle>,
    by_fragment: HashMap<Fragment, PeerHandle>,
    /// The peers whose checks STUN responses answer, by transaction.
    pub(crate) transactions: Transactions,
    deadlines: Schedule,
    /// Connections that may have something to say.
    dirty: BTreeSet<PeerHandle>,
}

impl Peers {
    /// Adds a peer, unless it is there.
    pub(crate) fn add(&mut self, peer: PeerHandle, id: PeerId, stamps: (u64, u64)) {
        self.by_id.insert(id, peer);
        self.entries.entry(peer).or_insert_with(|| Entry {
            connection: PeerConnection::new(id, stamps),
            course: Course::default(),
            fragments: Vec::new(),
        });
    }

    /// Removes a peer from all tables.
    pub(crate) fn remove(
        &mut self,
        peer: PeerHandle,
        searches: &mut Searches,
    ) -> Option<PeerConnection> {
        let entry = self.entries.remove(&peer)?;
        self.by_id.remove(&entry.connection.id);
        for fragment in &entry.fragments {
            self.by_fragment.remove(fragment);
        }
        self.deadlines.set(peer, None);
        self.dirty.remove(&peer);
        searches.note(peer, false, None);
        Some(entry.connection)
    }

    /// A connection, to look at.
    pub(crate) fn get(&self, peer: PeerHandle) -> Option<&PeerConnection> {
        self.entries.get(&peer).map(|entry| &entry.connection)
    }

    /// A connection, to change it: it will be drained.
    pub(crate) fn get_mut(&mut self, peer: PeerHandle) -> Option<&mut PeerConnection> {
        let entry = self.entries.get_mut(&peer)?;
        self.dirty.insert(peer);
        Some(&mut entry.connection)
    }

    /// The connection that is drained, with the transactions of what it sends, and the path that has served so far.
    pub(crate) fn get_drained(
        &mut self,
        peer: PeerHandle,
    ) -> Option<(&mut PeerConnection, &mut Transactions, &mut Course)> {
        let entry = self.entries.get_mut(&peer)?;
        let (connection, course) = (&mut entry.connection, &mut entry.course);
        Some((connection, &mut self.transactions, course))
    }

    /// Relays may not be used for a peer any more.
    pub(crate) fn handle_forbidden(&mut self, peer: PeerHandle) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.course.handle_forbidden();
        }
    }

    /// The peer with this identity.
    pub(crate) fn by_id(&self, id: PeerId) -> Option<PeerHandle> {
        self.by_id.get(&id).copied()
    }

    /// The connection with the peer of this identity, to change it.
    pub(crate) fn by_id_mut(&mut self, id: PeerId) -> Option<(PeerHandle, &mut PeerConnection)> {
        let peer = self.by_id(id)?;
        Some((peer, self.get_mut(peer)?))
    }

    /// All peers.
    pub(crate) fn handles(&self) -> Vec<PeerHandle> {
        self.entries.keys().copied().collect()
    }

    // --- what concerns all of them, and costs accordingly ---

    /// How many exchanges live with the peer that has most.
    pub(crate) fn most_exchanges(&self) -> usize {
        let counts = self.entries.values();
        let counts = counts.map(|entry| entry.connection.attempts.alive());
        counts.max().unwrap_or(0)
    }

    /// The peers whose logins servers are to tell of; the user's come first.
    pub(crate) fn watched(&self) -> Vec<PeerId> {
        let connections = || self.entries.values().map(|entry| &entry.connection);
        let by_user = |connection: &&PeerConnection| connection.wish() == UserWish::Up;
        let callers = connections().filter(|connection| !by_user(connection));
        let watched = connections().filter(by_user).chain(callers);
        watched
            .filter(|connection| connection.wants_watch())
            .map(|connection| connection.id)
            .collect()
    }

    /// The connection to a server is lost.
    pub(crate) fn handle_server_down(
        &mut self,
        server: ServerId,
        online: &BTreeSet<ServerId>,
        now: Instant,
    ) {
        for connection in self.all_mut() {
            connection.calls.handle_server_down(server, online);
            let of_server = |path: RelayPath| path.server == server;
            connection.attempts.handle_relay_gone(of_server, now);
        }
    }

    /// The machine has slept: every path is doubtful.
    pub(crate) fn verify_paths(&mut self, now: Instant) {
        self.handle_moved(now);
        for connection in self.all_mut() {
            connection.verify_path(now);
        }
    }

    /// The wall clock was set; returns the peers whose answer may have been missing for that.
    pub(crate) fn handle_clock_step(&mut self) -> Vec<PeerHandle> {
        let connections = self.entries.iter();
        connections
            .filter(|(_, entry)| entry.connection.may_want_another_clock())
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// The network is another one, and what has failed says nothing about it; returns the peers that are wanted.
    pub(crate) fn handle_new_network(&mut self, now: Instant) -> Vec<PeerHandle> {
        self.handle_moved(now);
        for connection in self.all_mut() {
            connection.history.failures = 0;
            connection.attempts.verify_paths(now);
        }
        let wanted = self.entries.iter();
        wanted
            .filter(|(_, entry)| entry.connection.is_wanted())
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// An unused mapping lives for so long in this network, if that is known.
    pub(crate) fn set_lifetime(&mut self, lifetime: Option<Duration>, now: Instant) {
        self.all_mut()
            .for_each(|connection| connection.attempts.set_lifetime(lifetime, now));
    }

    /// Notes about candidates, each for a peer that has not heard of them.
    pub(crate) fn seal_candidates(&mut self, candidates: &[Candidate]) -> Vec<(PeerId, Vec<u8>)> {
        let connections = self.all_mut();
        connections
            .filter_map(|connection| {
                let note = connection.attempts.seal_candidates(candidates)?;
                Some((connection.id, note))
            })
            .collect()
    }

    /// All connections may have something to say.
    pub(crate) fn touch_all(&mut self) {
        self.dirty.extend(self.entries.keys());
    }

    /// This machine is in another network, or has slept: paths that take the place of others soon do so because of that.
    fn handle_moved(&mut self, now: Instant) {
        let entries = self.entries.values_mut();
        entries.for_each(|entry| entry.course.handle_moved(now));
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut PeerConnection> {
        self.dirty.extend(self.entries.keys());
        self.entries.values_mut().map(|entry| &mut entry.connection)
    }

    // --- the network ---

    /// The connection that is addressed by this user name, to change it.
    pub(crate) fn by_username(&mut self, name: &[u8]) -> Option<(PeerHandle, &mut PeerConnection)> {
        let peer = *self.by_fragment.get(&receiver_of(name)?)?;
        Some((peer, self.get_mut(peer)?))
    }

    /// A check request with this user name; returns whether it is for one of the connections.
    pub(crate) fn handle_request(
        &mut self,
        name: &[u8],
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let Some((_, connection)) = self.by_username(name) else {
            return false;
        };
        connection
            .attempts
            .handle_request(name, socket, local, from, message, now)
    }

    /// A STUN response; returns whether it answers a check.
    pub(crate) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let sender = self.transactions.sender(message.transaction);
        let Some(connection) = sender.and_then(|peer| self.get_mut(peer)) else {
            return false;
        };
        connection
            .attempts
            .handle_response(socket, from, message, now)
    }

    /// The peer with an attempt of this fragment.
    pub(crate) fn by_fragment(&self, fragment: Fragment) -> Option<PeerHandle> {
        self.by_fragment.get(&fragment).copied()
    }

    /// A note has come over a path of this peer's, for its attempt with this fragment. Returns whether it was of use.
    pub(crate) fn handle_note(
        &mut self,
        peer: PeerHandle,
        fragment: Fragment,
        note: &[u8],
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&peer) else {
            return false;
        };
        let taken = agreement::handle_datagram(&mut entry.connection.attempts, fragment, note);
        // What does not open has changed nothing.
        if taken {
            self.dirty.insert(peer);
        }
        taken
    }

    /// Packets of the tunnel with this peer flow: this comes with every batch, and changes nothing but a deadline.
    pub(crate) fn handle_traffic(&mut self, peer: PeerHandle, traffic: PeerTraffic, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.connection.attempts.handle_traffic(&traffic, now);
            self.deadlines.set(peer, entry.connection.poll_timeout());
        }
    }

    /// A packet of the peer's has come over a relay link.
    pub(crate) fn handle_link_heard(&mut self, peer: PeerHandle, path: RelayPath, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.connection.attempts.handle_link_heard(path, now);
        }
    }

    // --- TCP ---

    /// Somebody has connected from `remote`, and this is the first message: the connection's number, if it is a peer's.
    pub(crate) fn handle_tcp_call(
        &mut self,
        connections: &mut Connections,
        remote: SocketAddr,
        message: &[u8],
        now: Instant,
    ) -> Option<TcpPath> {
        let message = Message::parse(message).ok()?;
        let name = message.username?;
        let (peer, connection) = self.by_username(name)?;
        let path = connections.number(remote);
        let attempts = &mut connection.attempts;
        let attempt = attempts.handle_call(path, name, &message, now)?;
        connections.add(path.connection, (peer, attempt));
        Some(path)
    }

    /// There is one more address at which this machine takes TCP connections: peers hear of it who need one and have been told of others.
    pub(crate) fn tell_tcp_again(&mut self, now: Instant) {
        for connection in self.all_mut() {
            let attempts = connection.attempts.tcp();
            attempts.for_each(|tcp| tcp.tell_again(now));
        }
    }

    /// A connection that was to be made stands; returns whether it is still wanted.
    pub(crate) fn handle_tcp_connected(
        &mut self,
        connections: &Connections,
        path: TcpPath,
        now: Instant,
    ) -> bool {
        let owner = connections.owner(path.connection);
        owner.is_some_and(|(peer, attempt)| {
            let connection = self.get_mut(peer);
            connection.is_some_and(|c| c.attempts.handle_connected(attempt, path, now))
        })
    }

    /// A connection has ended, or could not be made.
    pub(crate) fn handle_tcp_closed(
        &mut self,
        connections: &mut Connections,
        path: TcpPath,
        now: Instant,
    ) {
        if let Some((peer, attempt)) = connections.remove(path.connection)
            && let Some(connection) = self.get_mut(peer)
        {
            connection.attempts.handle_closed(attempt, path, now);
        }
    }

    /// A STUN message has come over a TCP connection. Returns whether it was expected.
    pub(crate) fn handle_tcp_message(
        &mut self,
        connections: &Connections,
        path: TcpPath,
        message: &[u8],
        now: Instant,
    ) -> bool {
        let (Some((peer, _)), Ok(message)) =
            (connections.owner(path.connection), Message::parse(message))
        else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&peer) else {
            return false;
        };
        let attempts = &mut entry.connection.attempts;
        let taken = attempts.handle_tcp_message(path, &message, now);
        // What is not the peer's has changed nothing.
        if taken {
            self.dirty.insert(peer);
        }
        taken
    }

    /// A packet of the peer's has come over a TCP connection, opened by its session's keys. This comes with every batch, and changes
    /// nothing but what the next check concludes.
    pub(crate) fn handle_tcp_heard(
        &mut self,
        connections: &Connections,
        path: TcpPath,
        now: Instant,
    ) {
        if let Some((peer, _)) = connections.owner(path.connection)
            && let Some(entry) = self.entries.get_mut(&peer)
        {
            entry.connection.attempts.handle_tcp_heard(path, now);
        }
    }

    /// Whether the other end of a TCP connection has shown that it is the peer.
    pub(crate) fn is_authentic(&self, connections: &Connections, path: TcpPath) -> bool {
        let owner = connections.owner(path.connection);
        let connection = owner.and_then(|(peer, _)| self.get(peer));
        connection.is_some_and(|connection| connection.attempts.is_authentic(path))
    }

    // --- time and draining ---

    /// Does what is due; returns the peers to whom a new offer is.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<PeerHandle> {
        let mut due = self.deadlines.due(now);
        due.retain(|peer| {
            let connection = self.get_mut(*peer);
            connection.is_some_and(|connection| connection.handle_timeout(now))
        });
        due
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| at)
    }

    /// Whether any connection may have something to say.
    pub(crate) fn is_any_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The next connection that may have something to say.
    pub(crate) fn pop_dirty(&mut self) -> Option<PeerHandle> {
        self.dirty.pop_first()
    }

    /// Brings the tables up to date after a connection was drained.
    pub(crate) fn reindex(&mut self, peer: PeerHandle, searches: &mut Searches) {
        let Some(entry) = self.entries.get_mut(&peer) else {
            return;
        };
        let connection = &entry.connection;
        let attempts = &connection.attempts;
        let serves = connection.serving().is_some();
        entry.course.settle(serves, attempts.alive() > 0);
        self.deadlines.set(peer, connection.poll_timeout());
        searches.note(peer, attempts.is_searching(), attempts.search_at());
        if attempts.fragments().eq(entry.fragments.iter().copied()) {
            return;
        }
        for fragment in entry.fragments.drain(..) {
            self.by_fragment.remove(&fragment);
        }
        entry
            .fragments
            .extend(entry.connection.attempts.fragments());
        for fragment in &entry.fragments {
            self.by_fragment.insert(*fragment, peer);
        }
    }
}
