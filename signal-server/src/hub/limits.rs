//! What bounds a hub, and the counts that the bounds are held against.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

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

impl Limits {
    /// Whether a client that dialled `server` may log in here.
    pub(super) fn allow_name(&self, server: &str) -> bool {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let name = self.name.as_deref();
        name.is_none_or(|name| server == name || host == name)
    }
}

/// How many connections each source holds.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// Connections that have not proven an identity.
    unproven: BTreeMap<IpAddr, usize>,
    /// Connections, proven or not.
    sources: BTreeMap<IpAddr, usize>,
}

impl Admission {
    /// Counts one more connection of `source`, or returns false if the source holds as many as it may.
    pub(super) fn admit(&mut self, source: IpAddr, limits: &Limits) -> bool {
        let held = |counts: &BTreeMap<IpAddr, usize>| counts.get(&source).copied().unwrap_or(0);
        if held(&self.unproven) >= limits.unproven_per_address
            || held(&self.sources) >= limits.per_address
        {
            return false;
        }
        *self.unproven.entry(source).or_default() += 1;
        *self.sources.entry(source).or_default() += 1;
        true
    }

    /// A connection of `source` has proven its identity.
    pub(super) fn prove(&mut self, source: IpAddr) {
        decrement(&mut self.unproven, source);
    }

    /// A connection of `source` is gone.
    pub(super) fn release(&mut self, source: IpAddr, proven: bool) {
        decrement(&mut self.sources, source);
        if !proven {
            decrement(&mut self.unproven, source);
        }
    }
}

fn decrement(counts: &mut BTreeMap<IpAddr, usize>, source: IpAddr) {
    if let Some(count) = counts.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&source);
        }
    }
}

/// A client's token bucket: each frame costs one token.
#[derive(Debug)]
pub(super) struct Tokens {
    left: f64,
    refilled: Instant,
}

impl Tokens {
    /// A full bucket.
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            left: f64::from(limits.burst),
            refilled: now,
        }
    }

    /// Takes a token, or returns false if there is none.
    pub(super) fn spend(&mut self, limits: &Limits, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.left = (self.left + gained * f64::from(limits.rate)).min(f64::from(limits.burst));
        let admitted = self.left >= 1.0;
        if admitted {
            self.left -= 1.0;
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
