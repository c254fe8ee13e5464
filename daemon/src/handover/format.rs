//! The state that one process leaves to the next, as bytes in memory. They have secrets, and are never written to a disk.
//!
//! A page is a header (magic, version, generation, length, CRC-32 of the body) and a body. Memory has up to two pages: whoever
//! is killed while it writes the one has left the other. Everything is read with bounds; numbers are big-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use punch_engine::{
    Bequest, DirectPath, Family, Flow, FlowBequest, Heritage, MAX_FLOWS_LEFT, Nat64, PathBequest,
    PlainBequest, Protocol, ProvenPath, Role, SocketId,
};
use punch_platform::handover::MAX_MEMORY;
use punch_signal_protocol::seal::{ExchangeKeys, PresharedKey};
use punch_signal_protocol::{CandidateKind, Credentials, Ipv4Range, PeerId, RelayToken};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"punch-ho";
/// Grows with every change of the body: another version's is not read.
const VERSION: u16 = 2;
const HEADER: usize = 8 + 2 + 8 + 4 + 4;
/// Where the second page begins.
pub(super) const PAGE: usize = MAX_MEMORY as usize / 2;
/// Peers of each kind, and sockets; more than any machine has.
const MAX_ENTRIES: usize = 16_384;

/// The state: what the engine leaves, and which of the sockets that are left is which.
#[derive(Clone, Default)]
pub(crate) struct State {
    /// The identity that all of it belongs to.
    pub(crate) identity: [u8; 32],
    pub(crate) heritage: Heritage,
    /// The prefix of the translator that is used, if one is.
    pub(crate) nat64: Option<Nat64>,
    /// The sockets of paths beside the main ones.
    pub(crate) sockets: Vec<PathSocket>,
}

/// The socket of a path: the kernel tells its family and port, too, by which it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathSocket {
    pub(crate) id: SocketId,
    pub(crate) family: Family,
    pub(crate) port: u16,
}

/// Why there is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoState {
    #[error("no punchd has written it")]
    Foreign,
    #[error("it is of version {0}, and this punchd reads {VERSION}")]
    Version(u16),
    #[error("it is damaged")]
    Damaged,
}

/// One page of memory.
pub(super) fn page(state: &State, generation: u64) -> Zeroizing<Vec<u8>> {
    let mut body = Writer::default();
    body.state(state, true);
    if HEADER + body.0.len() > PAGE {
        // What is left out costs conversations in which this host is silent; the tunnels go on.
        body = Writer::default();
        body.state(state, false);
    }
    let mut page = Writer(Zeroizing::new(Vec::with_capacity(HEADER + body.0.len())));
    page.bytes(MAGIC);
    page.bytes(&VERSION.to_be_bytes());
    page.u64(generation);
    page.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    page.u32(crc32fast::hash(&body.0));
    page.bytes(&body.0);
    page.0
}

/// The newest state in memory, and its generation.
pub(super) fn newest(memory: &[u8]) -> Result<(State, u64), NoState> {
    let second = memory.get(PAGE..).unwrap_or_default();
    let first = memory.get(..PAGE).unwrap_or(memory);
    let mut found = [first, second].map(read);
    // The newest that can be read; else what is wrong with the one that is there.
    found.sort_by_key(|page| match page {
        Ok((_, generation)) => (2, *generation),
        Err(NoState::Foreign) => (0, 0),
        Err(_) => (1, 0),
    });
    let [_, best] = found;
    best
}

fn read(page: &[u8]) -> Result<(State, u64), NoState> {
    let mut header = Reader(page);
    if header.array().ok_or(NoState::Foreign)? != *MAGIC {
        return Err(NoState::Foreign);
    }
    let version = header.u16().ok_or(NoState::Damaged)?;
    if version != VERSION {
        return Err(NoState::Version(version));
    }
    let mut rest = || {
        let generation = header.u64()?;
        let (length, sum) = (header.u32()?, header.u32()?);
        let body = header.take(usize::try_from(length).ok()?)?;
        (crc32fast::hash(body) == sum).then_some(())?;
        let mut body = Reader(body);
        let state = body.state()?;
        body.0.is_empty().then_some((state, generation))
    };
    rest().ok_or(NoState::Damaged)
}

#[derive(Default)]
struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        // A vector that grows leaves its old memory as it was.
        if self.0.capacity() - self.0.len() < bytes.len() {
            let room = (2 * self.0.capacity())
                .max(self.0.len() + bytes.len())
                .max(4096);
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn millis(&mut self, duration: Duration) {
        self.u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }

    fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => {
                self.u8(4);
                self.bytes(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6);
                self.bytes(&ip.octets());
            }
        }
        self.u16(address.port());
    }

    fn credentials(&mut self, credentials: &Credentials) {
        self.bytes(&credentials.fragment);
        self.bytes(&credentials.password);
    }

    fn state(&mut self, state: &State, with_flows: bool) {
        let State {
            identity,
            heritage,
            nat64,
            sockets,
        } = state;
        self.bytes(identity);
        let (prefix, length) = nat64.map_or((Ipv6Addr::UNSPECIFIED, 0), Nat64::parts);
        self.bytes(&prefix.octets());
        self.u8(length);
        self.count(sockets.len().min(MAX_ENTRIES));
        for socket in sockets.iter().take(MAX_ENTRIES) {
            self.u32(socket.id.0);
            self.u8(family(socket.family));
            self.u16(socket.port);
        }
        self.count(heritage.peers.len().min(MAX_ENTRIES));
        for peer in heritage.peers.iter().take(MAX_ENTRIES) {
            self.bytes(peer.id.as_bytes());
            self.u64(peer.stamps.0);
            self.u64(peer.stamps.1);
            self.u8(peer.path.is_some().into());
            if let Some(path) = &peer.path {
                self.path(path);
            }
        }
        self.count(heritage.plain.len().min(MAX_ENTRIES));
        for plain in heritage.plain.iter().take(MAX_ENTRIES) {
            self.bytes(&plain.public);
            self.address(plain.endpoint);
        }
        let flows = if with_flows { &heritage.flows[..] } else { &[] };
        self.count(flows.len().min(MAX_FLOWS_LEFT));
        for flow in flows.iter().take(MAX_FLOWS_LEFT) {
            self.bytes(&flow.public);
            self.u8(if flow.flow.protocol == Protocol::Tcp {
                6
            } else {
                17
            });
            self.address(flow.flow.source);
            self.address(flow.flow.destination);
            self.millis(flow.since);
            self.millis(flow.used);
        }
    }

    fn path(&mut self, path: &PathBequest) {
        let proven = &path.proven;
        self.u8((proven.role == Role::Controlling).into());
        self.credentials(&proven.local);
        self.credentials(&proven.remote);
        self.u32(proven.path.socket.0);
        self.address(proven.path.remote);
        self.u8(proven.kind as u8);
        self.u32(proven.priority);
        self.u8(proven.rtt.is_some().into());
        self.u64(proven.rtt.unwrap_or_default().as_micros() as u64);
        self.millis(proven.keepalive);
        let keys = &path.exchange;
        self.bytes(keys.preshared.as_bytes());
        self.bytes(&keys.relay.0);
        for credentials in &keys.links {
            self.credentials(credentials);
        }
        for key in &keys.notes {
            self.bytes(&**key);
        }
        self.u64(keys.next);
        self.u8(keys.highest.is_some().into());
        self.u64(keys.highest.unwrap_or_default());
        self.u64(keys.seen);
        self.u8(path.relay.into());
        self.u8(path.waits.into());
        self.u8(path.whole.into());
        self.u8(path.peer_range.map_or(0, |range| range.prefix()));
        let network = path.peer_range.map(|range| range.network());
        self.bytes(&network.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    }
}

fn family(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn secret(&mut self) -> Option<Zeroizing<[u8; 32]>> {
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(self.take(32)?);
        Some(secret)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn millis(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_millis)
    }

    fn family(&mut self) -> Option<Family> {
        match self.u8()? {
            4 => Some(Family::V4),
            6 => Some(Family::V6),
            _ => None,
        }
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.family()? {
            Family::V4 => IpAddr::from(Ipv4Addr::from(self.array::<4>()?)),
            Family::V6 => IpAddr::from(Ipv6Addr::from(self.array::<16>()?)),
        };
        Some(SocketAddr::new(ip, self.u16()?))
    }

    fn credentials(&mut self) -> Option<Credentials> {
        Some(Credentials {
            fragment: self.array()?,
            password: *self.secret()?,
        })
    }

    /// So many of what `each` reads, if that is no more than there can be.
    fn list<T>(
        &mut self,
        most: usize,
        mut each: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = usize::try_from(self.u32()?).ok()?;
        if count > most {
            return None;
        }
        (0..count).map(|_| each(self)).collect()
    }

    fn state(&mut self) -> Option<State> {
        let identity = self.array()?;
        let prefix = Ipv6Addr::from(self.array::<16>()?);
        let nat64 = match self.u8()? {
            0 => None,
            length => Some(Nat64::new(prefix, length)?),
        };
        let sockets = self.list(MAX_ENTRIES, |reader| {
            Some(PathSocket {
                id: SocketId(reader.u32()?),
                family: reader.family()?,
                port: reader.u16()?,
            })
        })?;
        let peers = self.list(MAX_ENTRIES, |reader| {
            let id = PeerId::from_bytes(&reader.array()?).ok()?;
            let stamps = (reader.u64()?, reader.u64()?);
            let path = match reader.flag()? {
                true => Some(reader.path()?),
                false => None,
            };
            Some(Bequest { id, stamps, path })
        })?;
        let plain = self.list(MAX_ENTRIES, |reader| {
            Some(PlainBequest {
                public: reader.array()?,
                endpoint: reader.address()?,
            })
        })?;
        let flows = self.list(MAX_FLOWS_LEFT, Self::flow)?;
        Some(State {
            identity,
            heritage: Heritage {
                peers,
                plain,
                flows,
            },
            nat64,
            sockets,
        })
    }

    fn flow(&mut self) -> Option<FlowBequest> {
        Some(FlowBequest {
            public: self.array()?,
            flow: Flow {
                protocol: match self.u8()? {
                    6 => Protocol::Tcp,
                    17 => Protocol::Udp,
                    _ => return None,
                },
                source: self.address()?,
                destination: self.address()?,
            },
            since: self.millis()?,
            used: self.millis()?,
        })
    }

    fn path(&mut self) -> Option<PathBequest> {
        let proven = ProvenPath {
            role: match self.flag()? {
                true => Role::Controlling,
                false => Role::Controlled,
            },
            local: self.credentials()?,
            remote: self.credentials()?,
            path: DirectPath {
                socket: SocketId(self.u32()?),
                remote: self.address()?,
            },
            kind: match self.u8()? {
                1 => CandidateKind::Host,
                2 => CandidateKind::ServerReflexive,
                3 => CandidateKind::PeerReflexive,
                4 => CandidateKind::PortMapped,
                _ => return None,
            },
            priority: self.u32()?,
            rtt: {
                let known = self.flag()?;
                let rtt = Duration::from_micros(self.u64()?);
                known.then_some(rtt)
            },
            keepalive: self.millis()?,
        };
        Some(PathBequest {
            proven,
            exchange: ExchangeKeys {
                preshared: PresharedKey::inherited(self.secret()?),
                relay: RelayToken(self.array()?),
                links: [self.credentials()?, self.credentials()?],
                notes: [self.secret()?, self.secret()?],
                next: self.u64()?,
                highest: {
                    let any = self.flag()?;
                    let highest = self.u64()?;
                    any.then_some(highest)
                },
                seen: self.u64()?,
            },
            relay: self.flag()?,
            waits: self.flag()?,
            whole: self.flag()?,
            peer_range: {
                let (prefix, network) = (self.u8()?, Ipv4Addr::from(self.array::<4>()?));
                match prefix {
                    0 => None,
                    prefix => Some(Ipv4Range::new(network, prefix).ok()?),
                }
            },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
