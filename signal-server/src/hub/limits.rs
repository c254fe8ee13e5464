//! What bounds a hub, and the counts that the bounds are held against.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::relay::{ByteRate, RelayLimits};

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
    /// How long nothing may be heard of a connection before it is closed.
    pub silence: Duration,
    /// Frames per second of one client, on average.
    pub rate: u32,
    /// Frames of one client at once.
    pub burst: u32,
    /// Frames per second of all connections of one source together, on average; what comes faster waits, since those who share an
    /// address shall not be closed for each other's haste.
    pub source_rate: u32,
    /// Frames of one source at once.
    pub source_burst: u32,
    /// New connections per second of one source, on average. Frames do not count here: a busy client must not keep those who share
    /// its address from logging in.
    pub connection_rate: u32,
    /// New connections of one source at once.
    pub connection_burst: u32,
    /// How much may be watched.
    pub watches: WatchLimits,
    /// What bounds the relay; without it nothing is relayed.
    pub relay: Option<RelayLimits>,
    /// The name that clients must have dialled, when set: `HOST` or `HOST:PORT`.
    pub name: Option<String>,
}

/// What bounds the watches.
#[derive(Debug, Clone)]
pub struct WatchLimits {
    /// Peers that one client may watch.
    pub per_client: usize,
    /// Watches of all clients of one source together.
    pub per_address: usize,
    /// Watches of all clients.
    pub in_all: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            per_client: 1024,
            per_address: 16_384,
            in_all: 1_000_000,
        }
    }
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
            source_rate: 1000,
            source_burst: 4000,
            connection_rate: 100,
            connection_burst: 400,
            watches: WatchLimits::default(),
            relay: Some(RelayLimits::default()),
            name: None,
        }
    }
}

impl Limits {
    /// Whether a client that dialled `server` may log in here.
    pub(super) fn allow_name(&self, server: &str) -> bool {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let name = self.name.as_deref();
        name.is_none_or(|name| server == name || host == name)
    }
}

/// Sources without connections that are remembered because their buckets are not full again.
const MAX_ABSENT: usize = 4096;

/// What one source holds, and what it may still send.
#[derive(Debug)]
struct Held {
    /// Connections, proven or not.
    connections: usize,
    /// Connections that have not proven an identity.
    unproven: usize,
    /// Watches of all its connections.
    watches: usize,
    /// For frames.
    frames: Tokens,
    /// For new connections.
    openings: Tokens,
    /// For what its clients send over the relay.
    relay: Option<Arc<ByteRate>>,
    /// Whether it stands among those that have gone.
    is_noted: bool,
}

impl Held {
    /// Whether nothing is to be remembered of what it has sent.
    fn is_full(&mut self, limits: &Limits, now: Instant) -> bool {
        let (frames, openings) = (&mut self.frames, &mut self.openings);
        frames.is_full(limits.source_rate, limits.source_burst, now)
            && openings.is_full(limits.connection_rate, limits.connection_burst, now)
            && self.relay.as_ref().is_none_or(|rate| rate.is_full(now))
    }
}

/// What each source holds; none can empty its buckets, go, and come back with full ones.
#[derive(Debug, Default)]
pub(super) struct Admission {
    sources: BTreeMap<IpAddr, Held>,
    /// Sources that have gone, oldest first.
    absent: VecDeque<IpAddr>,
    /// Watches of all sources.
    watches: usize,
}

impl Admission {
    fn entry(&mut self, source: IpAddr, limits: &Limits, now: Instant) -> &mut Held {
        self.sources.entry(source).or_insert_with(|| Held {
            connections: 0,
            unproven: 0,
            watches: 0,
            frames: Tokens::new(limits.source_burst, now),
            openings: Tokens::new(limits.connection_burst, now),
            relay: limits
                .relay
                .as_ref()
                .map(|relay| Arc::new(ByteRate::new(relay.source_rate, now))),
            is_noted: false,
        })
    }

    /// Whether `source` may open one more connection now.
    pub(super) fn may_open(&mut self, source: IpAddr, limits: &Limits, now: Instant) -> bool {
        let held = self.entry(source, limits, now);
        let admitted = held
            .openings
            .spend(limits.connection_rate, limits.connection_burst, now);
        if held.connections == 0 {
            self.note_absent(source);
        }
        admitted
    }

    /// How long `source` must wait before its next frame is read.
    pub(super) fn pace(&mut self, source: IpAddr, limits: &Limits, now: Instant) -> Duration {
        let held = self.entry(source, limits, now);
        held.frames
            .reserve(limits.source_rate, limits.source_burst, now)
    }

    /// Counts one more connection of `source`, or returns false if the source holds as many as it may.
    pub(super) fn admit(&mut self, source: IpAddr, limits: &Limits, now: Instant) -> bool {
        let held = self.entry(source, limits, now);
        if held.unproven >= limits.unproven_per_address || held.connections >= limits.per_address {
            return false;
        }
        held.unproven += 1;
        held.connections += 1;
        true
    }

    /// A connection of `source` has proven its identity.
    pub(super) fn prove(&mut self, source: IpAddr) {
        if let Some(held) = self.sources.get_mut(&source) {
            held.unproven = held.unproven.saturating_sub(1);
        }
    }

    /// Counts one more watch of `source`, or returns false if there are as many as there may be.
    pub(super) fn admit_watch(&mut self, source: IpAddr, limits: &Limits) -> bool {
        let Some(held) = self.sources.get_mut(&source) else {
            return false;
        };
        let limits = &limits.watches;
        if held.watches >= limits.per_address || self.watches >= limits.in_all {
            return false;
        }
        held.watches += 1;
        self.watches += 1;
        true
    }

    /// So many watches of `source` have ended.
    pub(super) fn release_watches(&mut self, source: IpAddr, count: usize) {
        if let Some(held) = self.sources.get_mut(&source) {
            held.watches = held.watches.saturating_sub(count);
            self.watches = self.watches.saturating_sub(count);
        }
    }

    /// A connection of `source` is gone.
    pub(super) fn release(&mut self, source: IpAddr, proven: bool) {
        let Some(held) = self.sources.get_mut(&source) else {
            return;
        };
        held.connections = held.connections.saturating_sub(1);
        if !proven {
            held.unproven = held.unproven.saturating_sub(1);
        }
        if held.connections == 0 {
            self.note_absent(source);
        }
    }

    /// What all connections of `source` may send over the relay.
    pub(super) fn relay_rate(&self, source: IpAddr) -> Option<Arc<ByteRate>> {
        self.sources.get(&source)?.relay.clone()
    }

    /// Watches of all sources.
    pub(super) fn watches(&self) -> usize {
        self.watches
    }

    /// Sources that are remembered, with and without connections.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    fn note_absent(&mut self, source: IpAddr) {
        match self.sources.get_mut(&source) {
            Some(held) if !held.is_noted => held.is_noted = true,
            _ => return,
        }
        self.absent.push_back(source);
        if self.absent.len() > MAX_ABSENT
            && let Some(oldest) = self.absent.pop_front()
            && let Some(held) = self.sources.get_mut(&oldest)
        {
            held.is_noted = false;
            if held.connections == 0 {
                self.sources.remove(&oldest);
            }
        }
    }

    /// Forgets the sources that have gone and whose buckets are full again.
    pub(super) fn handle_timeout(&mut self, limits: &Limits, now: Instant) {
        for _ in 0..self.absent.len() {
            let Some(source) = self.absent.pop_front() else {
                break;
            };
            let Some(held) = self.sources.get_mut(&source) else {
                continue;
            };
            let full = held.is_full(limits, now);
            match (held.connections, full) {
                (0, false) => self.absent.push_back(source),
                (0, true) => {
                    self.sources.remove(&source);
                }
                // It has come back; when it goes again it is noted again.
                _ => held.is_noted = false,
            }
        }
    }
}

/// A token bucket: each frame, or connection, costs one token.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Below zero where tokens were reserved.
    left: f64,
    refilled: Instant,
}

impl Tokens {
    /// A full bucket.
    pub(super) fn new(burst: u32, now: Instant) -> Self {
        Self {
            left: f64::from(burst),
            refilled: now,
        }
    }

    fn refill(&mut self, rate: u32, burst: u32, now: Instant) {
        let gained = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.left = (self.left + gained * f64::from(rate)).min(f64::from(burst));
    }

    /// Takes a token, or returns false if there is none.
    pub(super) fn spend(&mut self, rate: u32, burst: u32, now: Instant) -> bool {
        self.refill(rate, burst, now);
        let admitted = self.left >= 1.0;
        if admitted {
            self.left -= 1.0;
        }
        admitted
    }

    /// Takes a token in any case; how long it takes until that token is there.
    fn reserve(&mut self, rate: u32, burst: u32, now: Instant) -> Duration {
        self.refill(rate, burst, now);
        self.left -= 1.0;
        Duration::from_secs_f64((-self.left).max(0.0) / f64::from(rate.max(1)))
    }

    fn is_full(&mut self, rate: u32, burst: u32, now: Instant) -> bool {
        self.refill(rate, burst, now);
        self.left >= f64::from(burst)
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
