//! Who is online, who may reach whom, and how fast. Pure: frames, time and nonces come in, frames go out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Frame, PeerId, Refusal, Unreachable, login_message};

/// What bounds a hub.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, proven or not.
    pub connections: usize,
    /// Connections at once from one source (an IPv6 /64 is one) that have not proven an identity.
    pub unproven_per_address: usize,
    /// Connections from one address in all: identities cost nothing, and one source must not take every place.
    pub per_address: usize,
    /// How long a connection may take to prove its identity.
    pub login: Duration,
    /// A connection that is not heard for so long is closed.
    pub silence: Duration,
    /// Frames per second of one client, on average.
    pub rate: u32,
    /// Frames of one client at once.
    pub burst: u32,
    /// Peers that one client may watch.
    pub watches: usize,
    /// The name that clients must have dialled, when set: `HOST` or `HOST:PORT`.
    pub name: Option<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            unproven_per_address: 64,
            per_address: 2000,
            login: Duration::from_secs(10),
            silence: Duration::from_secs(75),
            rate: 50,
            burst: 200,
            watches: 1024,
            name: None,
        }
    }
}

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
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    nonce: [u8; 32],
    id: Option<PeerId>,
    opened: Instant,
    heard: Instant,
    tokens: f64,
    refilled: Instant,
    watches: BTreeSet<PeerId>,
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    next: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    online: BTreeMap<PeerId, ConnectionId>,
    watchers: BTreeMap<PeerId, BTreeSet<ConnectionId>>,
    unproven: BTreeMap<IpAddr, usize>,
    /// Connections of each address, proven or not.
    sources: BTreeMap<IpAddr, usize>,
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
            watchers: BTreeMap::new(),
            unproven: BTreeMap::new(),
            sources: BTreeMap::new(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
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
        let unproven = self.unproven.get(&address).copied().unwrap_or(0);
        if self.connections.len() >= self.limits.connections
            || unproven >= self.limits.unproven_per_address
            || self.sources.get(&address).copied().unwrap_or(0) >= self.limits.per_address
        {
            self.counters.refused += 1;
            return Err(Refusal::Full);
        }
        let connection = ConnectionId(self.next);
        self.next += 1;
        *self.unproven.entry(address).or_default() += 1;
        *self.sources.entry(address).or_default() += 1;
        self.connections.insert(
            connection,
            Connection {
                address,
                nonce,
                id: None,
                opened: now,
                heard: now,
                tokens: f64::from(self.limits.burst),
                refilled: now,
                watches: BTreeSet::new(),
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

    /// A message has come.
    pub fn handle_message(&mut self, connection: ConnectionId, bytes: &[u8], now: Instant) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        entry.heard = now;
        if !entry.spend(&self.limits, now) {
            self.refuse(connection, Refusal::TooFast);
            return;
        }
        let Ok(frame) = Frame::decode(bytes) else {
            self.refuse(connection, Refusal::BadFrame);
            return;
        };
        match (self.connections.get(&connection).and_then(|c| c.id), frame) {
            (
                None,
                Frame::Proof {
                    id,
                    signature,
                    server,
                },
            ) => self.handle_proof(connection, id, &signature, &server),
            (Some(from), Frame::Send { to, envelope }) => {
                self.handle_send(connection, from, to, envelope);
            }
            (Some(_), Frame::Watch(id)) => self.handle_watch(connection, id),
            (Some(_), Frame::Unwatch(id)) => self.unwatch(connection, id),
            _ => self.refuse(connection, Refusal::BadFrame),
        }
    }

    /// A connection is gone.
    pub fn handle_disconnect(&mut self, connection: ConnectionId) {
        let Some(entry) = self.connections.remove(&connection) else {
            return;
        };
        release(&mut self.sources, entry.address);
        match entry.id {
            None => release(&mut self.unproven, entry.address),
            Some(id) => {
                if self.online.get(&id) == Some(&connection) {
                    self.online.remove(&id);
                }
            }
        }
        for id in entry.watches {
            if let Some(watchers) = self.watchers.get_mut(&id) {
                watchers.remove(&connection);
                if watchers.is_empty() {
                    self.watchers.remove(&id);
                }
            }
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

    /// Closes what has taken too long.
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

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn handle_proof(
        &mut self,
        connection: ConnectionId,
        id: PeerId,
        signature: &[u8; 64],
        server: &str,
    ) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        if let Some(name) = &self.limits.name {
            let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
            if server != name && host != name {
                self.refuse(connection, Refusal::WrongServer);
                return;
            }
        }
        if !id.verify(&login_message(&entry.nonce, server), signature) {
            self.refuse(connection, Refusal::BadProof);
            return;
        }
        entry.id = Some(id);
        let address = entry.address;
        release(&mut self.unproven, address);
        self.counters.logins += 1;
        // The newest connection of an identity counts: the older one is most likely dead and only does not know it.
        if let Some(older) = self.online.insert(id, connection) {
            self.outputs
                .push_back(Output::Close(older, Refusal::Replaced));
            self.handle_disconnect(older);
        }
        self.outputs
            .push_back(Output::Send(connection, Frame::Welcome));
        for watcher in self.watchers.get(&id).into_iter().flatten() {
            self.outputs
                .push_back(Output::Send(*watcher, Frame::Appeared(id)));
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
        if entry.watches.len() >= self.limits.watches && !entry.watches.contains(&id) {
            return;
        }
        entry.watches.insert(id);
        self.watchers.entry(id).or_default().insert(connection);
        if self.online.contains_key(&id) {
            self.outputs
                .push_back(Output::Send(connection, Frame::Appeared(id)));
        }
    }

    fn unwatch(&mut self, connection: ConnectionId, id: PeerId) {
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.watches.remove(&id);
        }
        if let Some(watchers) = self.watchers.get_mut(&id) {
            watchers.remove(&connection);
            if watchers.is_empty() {
                self.watchers.remove(&id);
            }
        }
    }

    fn refuse(&mut self, connection: ConnectionId, why: Refusal) {
        self.counters.refused += 1;
        self.outputs.push_back(Output::Close(connection, why));
        self.handle_disconnect(connection);
    }
}

impl Connection {
    /// Takes one token, if there is one.
    fn spend(&mut self, limits: &Limits, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.tokens = (self.tokens + gained * f64::from(limits.rate)).min(f64::from(limits.burst));
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose its address from.
pub fn subnet(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// One less of this address.
fn release(counts: &mut BTreeMap<IpAddr, usize>, address: IpAddr) {
    if let Some(count) = counts.get_mut(&address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
        }
    }
}
