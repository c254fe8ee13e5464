//! The clients that are online, whom each may reach, and how fast. Pure: frames, time and nonces come in, frames go out.

mod limits;
pub mod relay;
mod said;
mod watchers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_signal_protocol::{
    Capabilities, Frame, PeerId, Refusal, RelayLink, RelayToken, Unreachable,
};

use limits::{Admission, Tokens};
pub use limits::{Limits, WatchLimits, subnet};
use relay::{ByteRate, Joined, Joiner, LinkEnd, Links};
pub use said::Said;
pub use watchers::QUIET;
use watchers::Watchers;

/// One connection; numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What the hub wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a frame.
    Send(ConnectionId, Frame),
    /// Send [`Frame::Refused`] and close.
    Close(ConnectionId, Refusal),
    /// From now on relay frames pass between these two ends of a link; comes before either end is told.
    Link(LinkEnd, LinkEnd),
    /// The link between these two ends has ended; one of them may be gone.
    Unlink(LinkEnd, LinkEnd),
}

/// What the hub has seen, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections proven since the start.
    pub logins: u64,
    /// Envelopes passed on.
    pub delivered: u64,
    /// Envelopes that had no receiver.
    pub unreachable: u64,
    /// Connections refused or closed for what they did.
    pub refused: u64,
    /// Links that a client wanted to leave and that were not there.
    pub unknown_links: u64,
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    nonce: [u8; 32],
    id: Option<PeerId>,
    opened: Instant,
    heard: Instant,
    tokens: Tokens,
    watches: BTreeSet<PeerId>,
    capabilities: Capabilities,
}

/// The connections of one server, and what they want to hear of each other.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    next: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    online: BTreeMap<PeerId, ConnectionId>,
    watchers: Watchers,
    links: Links,
    admission: Admission,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Hub {
    /// A hub without connections.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            connections: BTreeMap::new(),
            online: BTreeMap::new(),
            watchers: Watchers::default(),
            links: Links::default(),
            admission: Admission::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Whether a connection from `address` is worth accepting now; asked before TLS and HTTP, because they are the dearest part.
    pub fn may_open(&mut self, address: IpAddr, now: Instant) -> bool {
        let admitted = self.admission.may_open(subnet(address), &self.limits, now);
        self.counters.refused += u64::from(!admitted);
        admitted
    }

    /// A message of a client has come and was not read yet; how long to wait before it is, so that its source keeps to
    /// [`Limits::source_rate`].
    pub fn pace(&mut self, connection: ConnectionId, now: Instant) -> Duration {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return Duration::ZERO;
        };
        entry.heard = now;
        self.admission.pace(entry.address, &self.limits, now)
    }

    /// A client has connected; `nonce` must be fresh randomness.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub fn handle_connect(
        &mut self,
        address: IpAddr,
        nonce: [u8; 32],
        now: Instant,
    ) -> Result<ConnectionId, Refusal> {
        let address = subnet(address);
        if self.connections.len() >= self.limits.connections
            || !self.admission.admit(address, &self.limits, now)
        {
            self.counters.refused += 1;
            return Err(Refusal::Full);
        }
        let connection = ConnectionId(self.next);
        self.next += 1;
        self.connections.insert(
            connection,
            Connection {
                address,
                nonce,
                id: None,
                opened: now,
                heard: now,
                tokens: Tokens::new(self.limits.burst, now),
                watches: BTreeSet::new(),
                capabilities: Capabilities::NONE,
            },
        );
        let challenge = Frame::Challenge(nonce);
        self.outputs.push_back(Output::Send(connection, challenge));
        Ok(connection)
    }

    /// Something was heard that is no frame, such as a WebSocket ping.
    pub fn handle_alive(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.heard = now;
        }
    }

    /// A message has come: [`Said::read`] and [`Self::handle_said`] in one.
    pub fn handle_message(&mut self, connection: ConnectionId, bytes: &[u8], now: Instant) {
        if let Some(entry) = self.connections.get(&connection) {
            let said = Said::read(bytes, &entry.nonce);
            self.handle_said(connection, said, now);
        }
    }

    /// A client has said something.
    pub fn handle_said(&mut self, connection: ConnectionId, said: Said, now: Instant) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        entry.heard = now;
        let (rate, burst) = (self.limits.rate, self.limits.burst);
        if !entry.tokens.spend(rate, burst, now) {
            self.refuse(connection, Refusal::TooFast);
            return;
        }
        let relays = self.limits.relay.is_some();
        match (entry.id, said) {
            (
                None,
                Said::Proof {
                    id,
                    server,
                    genuine,
                },
            ) => {
                if !self.limits.allow_name(&server) {
                    self.refuse(connection, Refusal::WrongServer);
                } else if !genuine {
                    self.refuse(connection, Refusal::BadProof);
                } else {
                    self.log_in(connection, id, now);
                }
            }
            (Some(from), Said::Send { to, envelope }) => {
                self.handle_send(connection, from, to, envelope);
            }
            (Some(_), Said::Watch(id)) => self.handle_watch(connection, id),
            (Some(_), Said::Unwatch(id)) => self.unwatch(connection, id),
            (Some(_), Said::Capabilities(set)) => entry.capabilities = set,
            (Some(id), Said::Join(token)) if relays => {
                self.handle_join(connection, id, token, now);
            }
            (Some(_), Said::Leave(link)) if relays => self.handle_leave(connection, link),
            (None, _)
            | (Some(_), Said::Proof { .. } | Said::Join(_) | Said::Leave(_) | Said::Nonsense) => {
                self.refuse(connection, Refusal::BadFrame);
            }
        }
    }

    /// A connection is gone.
    pub fn handle_disconnect(&mut self, connection: ConnectionId) {
        let Some(entry) = self.connections.remove(&connection) else {
            return;
        };
        let ended = entry.watches.len();
        self.admission.release_watches(entry.address, ended);
        self.admission.release(entry.address, entry.id.is_some());
        if let Some(id) = entry.id
            && self.online.get(&id) == Some(&connection)
        {
            self.online.remove(&id);
        }
        for id in entry.watches {
            self.watchers.remove(id, connection);
        }
        for (link, other) in self.links.disconnect(connection) {
            self.end_link(LinkEnd { connection, link }, other);
        }
    }

    /// A frame for a client was dropped because its queue is full: if it was an envelope, its sender hears of it.
    pub fn handle_overflow(&mut self, connection: ConnectionId, frame: &Frame) {
        let to = self.connections.get(&connection).and_then(|c| c.id);
        if let (Some(to), Frame::Deliver { from, .. }) = (to, frame)
            && let Some(sender) = self.online.get(from).copied()
        {
            let frame = Frame::Unreachable {
                to,
                why: Unreachable::Full,
            };
            self.outputs.push_back(Output::Send(sender, frame));
        }
    }

    /// Closes what has taken too long, and announces who has logged in again meanwhile.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, entry)| {
                let silent = now.saturating_duration_since(entry.heard) >= self.limits.silence;
                let waited = now.saturating_duration_since(entry.opened) >= self.limits.login;
                silent || (entry.id.is_none() && waited)
            })
            .map(|(connection, _)| *connection)
            .collect();
        for connection in late {
            self.refuse(connection, Refusal::TimedOut);
        }
        self.admission.handle_timeout(&self.limits, now);
        self.links.handle_timeout(now);
        for id in self.watchers.due(now) {
            if self.online.contains_key(&id) {
                self.announce(id);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Clients online now.
    pub fn online(&self) -> usize {
        self.online.len()
    }

    /// Connections now, with those that have not proven an identity yet.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What the client of a connection has told that it can do beyond version 1 of the protocol.
    pub fn capabilities(&self, connection: ConnectionId) -> Capabilities {
        let entry = self.connections.get(&connection);
        entry.map_or(Capabilities::NONE, |entry| entry.capabilities)
    }

    /// Whether the client of a connection has proven an identity.
    pub fn is_proven(&self, connection: ConnectionId) -> bool {
        let entry = self.connections.get(&connection);
        entry.is_some_and(|entry| entry.id.is_some())
    }

    /// Links of the relay now.
    pub fn relay_links(&self) -> usize {
        self.links.count()
    }

    /// Joins that wait for the other end's.
    pub fn relay_joins(&self) -> usize {
        self.links.waiting()
    }

    /// What all clients of this one's source may send over the relay; none where nothing is relayed.
    pub fn relay_rate(&self, connection: ConnectionId) -> Option<Arc<ByteRate>> {
        let entry = self.connections.get(&connection)?;
        self.admission.relay_rate(entry.address)
    }

    /// Watches of all clients.
    pub fn watches(&self) -> usize {
        self.admission.watches()
    }

    /// Sources that are remembered: those with connections, and for some seconds those that had some.
    pub fn sources(&self) -> usize {
        self.admission.sources()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn log_in(&mut self, connection: ConnectionId, id: PeerId, now: Instant) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        entry.id = Some(id);
        self.admission.prove(entry.address);
        self.counters.logins += 1;
        // The newest connection of an identity counts: the older one is most likely dead and only does not know it.
        if let Some(older) = self.online.insert(id, connection) {
            self.outputs
                .push_back(Output::Close(older, Refusal::Replaced));
            self.handle_disconnect(older);
        }
        self.outputs
            .push_back(Output::Send(connection, Frame::Welcome));
        let capabilities = Frame::ServerCapabilities(self.capabilities_of_server());
        self.outputs
            .push_back(Output::Send(connection, capabilities));
        if self.watchers.appear(id, now) {
            self.announce(id);
        }
    }

    /// What this server can do beyond version 1 of the protocol.
    fn capabilities_of_server(&self) -> Capabilities {
        if self.limits.relay.is_some() {
            Capabilities::RELAYING
        } else {
            Capabilities::NONE
        }
    }

    /// Tells all who watch `id` that it is online.
    fn announce(&mut self, id: PeerId) {
        for watcher in self.watchers.of(id) {
            self.outputs
                .push_back(Output::Send(watcher, Frame::Appeared(id)));
        }
    }

    fn handle_send(
        &mut self,
        connection: ConnectionId,
        from: PeerId,
        to: PeerId,
        envelope: Vec<u8>,
    ) {
        let output = match self.online.get(&to) {
            Some(receiver) => {
                self.counters.delivered += 1;
                Output::Send(*receiver, Frame::Deliver { from, envelope })
            }
            None => {
                self.counters.unreachable += 1;
                let why = Unreachable::Offline;
                Output::Send(connection, Frame::Unreachable { to, why })
            }
        };
        self.outputs.push_back(output);
    }

    fn handle_watch(&mut self, connection: ConnectionId, id: PeerId) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        // One watch too many is passed over: its peer is still reached by offers.
        if !entry.watches.contains(&id) {
            if entry.watches.len() >= self.limits.watches.per_client
                || !self.admission.admit_watch(entry.address, &self.limits)
            {
                return;
            }
            entry.watches.insert(id);
            self.watchers.insert(id, connection);
        }
        if self.online.contains_key(&id) {
            self.outputs
                .push_back(Output::Send(connection, Frame::Appeared(id)));
        }
    }

    fn unwatch(&mut self, connection: ConnectionId, id: PeerId) {
        if let Some(entry) = self.connections.get_mut(&connection)
            && entry.watches.remove(&id)
        {
            self.admission.release_watches(entry.address, 1);
            self.watchers.remove(id, connection);
        }
    }

    /// A join is answered when the other end has joined, too. One that cannot be taken is passed over: its client asks again.
    fn handle_join(
        &mut self,
        connection: ConnectionId,
        id: PeerId,
        token: RelayToken,
        now: Instant,
    ) {
        let (Some(limits), Some(entry)) = (&self.limits.relay, self.connections.get(&connection))
        else {
            return;
        };
        let joiner = Joiner {
            connection,
            id,
            source: entry.address,
        };
        if let Joined::Linked(one, two) = self.links.join(joiner, token, limits, now) {
            // Both ways are open before either end hears of it.
            self.outputs.push_back(Output::Link(one, two));
            for LinkEnd { connection, link } in [one, two] {
                let frame = Frame::RelayReady { token, link };
                self.outputs.push_back(Output::Send(connection, frame));
            }
        }
    }

    /// A link that is not there may have ended just now, without the client knowing it yet.
    fn handle_leave(&mut self, connection: ConnectionId, link: RelayLink) {
        match self.links.leave(connection, link) {
            Some(other) => self.end_link(LinkEnd { connection, link }, other),
            None => self.counters.unknown_links += 1,
        }
    }

    fn end_link(&mut self, end: LinkEnd, other: LinkEnd) {
        self.outputs.push_back(Output::Unlink(end, other));
        let frame = Frame::RelayGone(other.link);
        self.outputs
            .push_back(Output::Send(other.connection, frame));
    }

    fn refuse(&mut self, connection: ConnectionId, why: Refusal) {
        self.counters.refused += 1;
        self.outputs.push_back(Output::Close(connection, why));
        self.handle_disconnect(connection);
    }
}
