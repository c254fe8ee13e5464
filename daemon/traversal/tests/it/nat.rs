//! A NAT as RFC 4787 describes it, and STUN servers as RFC 5780 does, for one machine that runs a netcheck.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_stun_protocol::{Class, Endpoint, ErrorCode, Message, Writer, respond};
use punch_traversal::{Family, NatProfile, Netcheck, SocketId, Transmit};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::{addr, ms, origin, secs};

/// On what a mapping, or the right to come in, depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depends {
    Nothing,
    Address,
    AddressAndPort,
}

pub(crate) const ALL: [Depends; 3] = [Depends::Nothing, Depends::Address, Depends::AddressAndPort];

/// The port for a new mapping of this local port, made so long after the beginning.
type Allocator = Box<dyn FnMut(u16, Duration) -> u16>;

pub(crate) struct Nat {
    mapping: Depends,
    filtering: Depends,
    /// New mappings take one after the other.
    pub(crate) public: Vec<IpAddr>,
    /// At this hop: an opening packet must live for one more.
    pub(crate) hop: u8,
    pub(crate) hairpins: bool,
    /// So many mappings there are.
    pub(crate) capacity: Option<usize>,
    allocator: Allocator,
    mappings: BTreeMap<(SocketAddr, IpAddr, u16), SocketAddr>,
    /// Whose socket a public endpoint leads to: mappings for different destinations may share one, as at a Linux NAT.
    taken: BTreeMap<(SocketAddr, IpAddr, u16), SocketAddr>,
    contacts: BTreeSet<(SocketAddr, SocketAddr)>,
}

impl Nat {
    pub(crate) fn new(mapping: Depends, filtering: Depends) -> Self {
        let mut next = 40_000;
        Self {
            mapping,
            filtering,
            public: vec!["203.0.113.5".parse().unwrap()],
            hop: 1,
            hairpins: false,
            capacity: None,
            allocator: Box::new(move |_, _| {
                next += 7;
                next
            }),
            mappings: BTreeMap::new(),
            taken: BTreeMap::new(),
            contacts: BTreeSet::new(),
        }
    }

    pub(crate) fn preserving(self) -> Self {
        // What is taken already is followed by the next free one.
        self.allotting(|local, _| local)
    }

    pub(crate) fn allotting(
        mut self,
        allocator: impl FnMut(u16, Duration) -> u16 + 'static,
    ) -> Self {
        self.allocator = Box::new(allocator);
        self
    }

    fn key(&self, local: SocketAddr, to: SocketAddr) -> (SocketAddr, IpAddr, u16) {
        let any = IpAddr::from([0, 0, 0, 0]);
        match self.mapping {
            Depends::Nothing => (local, any, 0),
            Depends::Address => (local, to.ip(), 0),
            Depends::AddressAndPort => (local, to.ip(), to.port()),
        }
    }

    /// Whether there is a mapping for a packet, or room for one.
    pub(crate) fn has_room(&self, local: SocketAddr, to: SocketAddr) -> bool {
        let full = self
            .capacity
            .is_some_and(|most| self.mappings.len() >= most);
        !full || self.mappings.contains_key(&self.key(local, to))
    }

    pub(crate) fn out(&mut self, local: SocketAddr, to: SocketAddr, now: Duration) -> SocketAddr {
        let key = self.key(local, to);
        let mapped = match self.mappings.get(&key) {
            Some(mapped) => *mapped,
            None => {
                let ip = self.public[self.mappings.len() % self.public.len()];
                let wanted = (self.allocator)(local.port(), now);
                let mut mapped = SocketAddr::new(ip, wanted);
                while self.taken.contains_key(&(mapped, key.1, key.2)) {
                    mapped.set_port(mapped.port().wrapping_add(1).max(1024));
                }
                self.mappings.insert(key, mapped);
                self.taken.insert((mapped, key.1, key.2), local);
                mapped
            }
        };
        self.contacts.insert((mapped, to));
        mapped
    }

    pub(crate) fn lets_in(&self, to: SocketAddr, from: SocketAddr) -> bool {
        let lowest = SocketAddr::new([0, 0, 0, 0].into(), 0);
        let contacts = self.contacts.range((to, lowest)..);
        let mut contacts = contacts.take_while(|(mapped, _)| *mapped == to);
        match self.filtering {
            Depends::Nothing => contacts.next().is_some(),
            Depends::Address => contacts.any(|(_, contact)| contact.ip() == from.ip()),
            Depends::AddressAndPort => self.contacts.contains(&(to, from)),
        }
    }

    pub(crate) fn inside(&self, public: SocketAddr, from: SocketAddr) -> Option<SocketAddr> {
        let exact = self.taken.get(&(public, from.ip(), from.port()));
        let lowest = (public, IpAddr::from([0, 0, 0, 0]), 0);
        let mut others = self.taken.range(lowest..);
        let other = others
            .next()
            .filter(|((endpoint, ..), _)| *endpoint == public);
        exact.or(other.map(|(_, local)| local)).copied()
    }
}

/// How a server deviates from the two RFCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quirk {
    None,
    /// Takes no notice of CHANGE-REQUEST, as servers of before RFC 5780 do.
    IgnoresChange,
    /// Names another address and answers nothing there.
    OtherIsDead,
    /// Names another address that nobody can reach.
    OtherIsUnusable,
    /// Says that the client is at 0.0.0.0.
    Lies,
    /// Says that the client is at the client's loopback address.
    SaysLoopback,
    /// Says that the client has an address of the other family.
    SaysOtherFamily,
    /// Says that the client is at an address that is somebody else's.
    SaysAnother,
    /// Says that the client is at port 0.
    SaysPortZero,
    /// Answers from an address that was not asked.
    AnswersFromElsewhere,
    /// Answers everything with an error.
    Refuses,
}

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) primary: SocketAddr,
    pub(crate) other: Option<SocketAddr>,
    pub(crate) quirk: Quirk,
    /// Further ports at which it answers.
    pub(crate) samples: Option<(u16, u16)>,
}

impl Server {
    pub(crate) fn with_two_addresses() -> Self {
        Self {
            primary: addr("198.51.100.1:3478"),
            other: Some(addr("198.51.100.2:3479")),
            quirk: Quirk::None,
            samples: None,
        }
    }

    pub(crate) fn with_one_address(text: &str) -> Self {
        Self {
            primary: addr(text),
            other: None,
            quirk: Quirk::None,
            samples: None,
        }
    }

    pub(crate) fn quirky(quirk: Quirk) -> Self {
        Self {
            quirk,
            ..Self::with_two_addresses()
        }
    }

    pub(crate) fn with_samples(mut self, first: u16, last: u16) -> Self {
        self.samples = Some((first, last));
        self
    }

    /// The server's socket at `to`, if it has one there.
    fn endpoint(&self, to: SocketAddr) -> Option<Endpoint> {
        let other = self.other.unwrap_or(self.primary);
        let sampled = self
            .samples
            .is_some_and(|(first, last)| (first..=last).contains(&to.port()));
        let ours = [self.primary.ip(), other.ip()].contains(&to.ip())
            && (sampled || [self.primary.port(), other.port()].contains(&to.port()));
        let flip = |ip: IpAddr| {
            if ip == self.primary.ip() {
                other.ip()
            } else {
                self.primary.ip()
            }
        };
        let flip_port = |port| {
            if port == self.primary.port() {
                other.port()
            } else {
                self.primary.port()
            }
        };
        ours.then(|| Endpoint {
            local: to,
            other: self
                .other
                .map(|_| SocketAddr::new(flip(to.ip()), flip_port(to.port()))),
            samples: self.samples,
        })
    }

    fn answer(
        &self,
        to: SocketAddr,
        source: SocketAddr,
        bytes: &[u8],
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let endpoint = self.endpoint(to)?;
        let id = Message::parse(bytes).unwrap().transaction;
        let success = |mapped| Writer::new(Class::Success, id).xor_mapped(mapped);
        match self.quirk {
            Quirk::None => {
                respond(bytes, source, endpoint).map(|answer| (answer.from, answer.bytes))
            }
            Quirk::IgnoresChange => Some((
                to,
                success(source).origin(to).other(endpoint.other?).finish(),
            )),
            Quirk::OtherIsDead if to == self.primary => {
                let answer = respond(bytes, source, endpoint)?;
                (answer.from == self.primary).then_some((answer.from, answer.bytes))
            }
            Quirk::OtherIsDead => None,
            Quirk::OtherIsUnusable => {
                Some((to, success(source).other(addr("127.0.0.1:3479")).finish()))
            }
            Quirk::Lies => Some((to, success(addr("0.0.0.0:0")).finish())),
            Quirk::SaysLoopback => Some((to, success(addr("127.0.0.1:4000")).finish())),
            Quirk::SaysAnother => Some((to, success(addr("192.0.2.66:4242")).finish())),
            Quirk::SaysOtherFamily => Some((to, success(addr("[2001:db8::7]:4000")).finish())),
            Quirk::AnswersFromElsewhere => {
                Some((addr("198.51.100.99:3478"), success(source).finish()))
            }
            Quirk::SaysPortZero => Some((to, success(SocketAddr::new(source.ip(), 0)).finish())),
            Quirk::Refuses => Some((
                to,
                Writer::new(Class::Error, id)
                    .error(ErrorCode::BAD_REQUEST)
                    .finish(),
            )),
        }
    }
}

/// A machine at 192.168.1.2, its NAT if any, and servers. Its socket n is on port 5000 + n.
pub(crate) struct World {
    pub(crate) nat: Option<Nat>,
    pub(crate) servers: Vec<Server>,
    /// Those of the servers that are nodes of the DHT.
    pub(crate) nodes: Vec<SocketAddr>,
    /// The first so many sends of every request are lost.
    pub(crate) loses_first: usize,
    /// So many of 100 packets are lost, in either direction.
    pub(crate) loss: u32,
    pub(crate) udp_blocked: bool,
    /// How much longer an answer takes that comes from elsewhere than where it was asked.
    pub(crate) changed_source_takes: Duration,
    /// How many sockets the netcheck has.
    pub(crate) sockets: usize,
    pub(crate) seed: u64,
}

pub(crate) struct Outcome {
    pub(crate) profile: NatProfile,
    pub(crate) took: Duration,
    /// When enough was known, and what that was.
    pub(crate) settled: Option<(Duration, NatProfile)>,
    /// What left, in order.
    pub(crate) sent: Vec<Transmit>,
}

impl Outcome {
    /// Where the packets of one socket went, in order.
    pub(crate) fn sent_by(&self, socket: u32) -> Vec<SocketAddr> {
        let own = self.sent.iter().filter(|t| t.socket == SocketId(socket));
        own.map(|transmit| transmit.to).collect()
    }
}

/// Hops between the machine and everybody else.
const HOPS: u8 = 9;

fn local(socket: SocketId) -> SocketAddr {
    SocketAddr::new([192, 168, 1, 2].into(), 5000 + socket.0 as u16)
}

impl World {
    pub(crate) fn new(nat: Option<Nat>, servers: Vec<Server>) -> Self {
        Self {
            nat,
            servers,
            nodes: Vec::new(),
            loses_first: 0,
            loss: 0,
            udp_blocked: false,
            changed_source_takes: Duration::ZERO,
            sockets: Netcheck::sockets_wanted(Family::V4),
            seed: 9,
        }
    }

    pub(crate) fn check(self) -> Outcome {
        let servers = self.servers.iter().map(|server| server.primary);
        let servers: Vec<_> = servers
            .filter(|server| !self.nodes.contains(server))
            .collect();
        self.check_with(&servers)
    }

    /// Runs a netcheck that asks `servers` to its end; the answer to everything takes 40 ms.
    pub(crate) fn check_with(mut self, servers: &[SocketAddr]) -> Outcome {
        let ids: Vec<_> = (0..self.sockets as u32).map(SocketId).collect();
        let sockets = ids.iter().map(|id| (*id, local(*id).port())).collect();
        let own = vec![local(SocketId(0)).ip()];
        let mut run = Netcheck::new(Family::V4, sockets, own, servers, self.seed, origin());
        run.ask_nodes(&self.nodes, origin());
        assert_eq!(run.sockets().collect::<Vec<_>>(), ids);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut now = origin();
        let mut under_way = BTreeMap::<(Instant, usize), (SocketAddr, SocketAddr, Vec<u8>)>::new();
        let mut sends = BTreeMap::new();
        let (mut sent, mut settled) = (Vec::new(), None);
        for turn in 0.. {
            assert!(turn < 10_000, "the netcheck is in a busy loop");
            while let Some(transmit) = run.poll_transmit() {
                assert!(ids.contains(&transmit.socket));
                sent.push(transmit.clone());
                let count: &mut usize = sends.entry(transmit.bytes.clone()).or_default();
                *count += 1;
                let lost = rng.next_u32() % 100 < self.loss || *count <= self.loses_first;
                let Some(seen) = self.leave(&transmit, now).filter(|_| !self.udp_blocked) else {
                    continue;
                };
                if lost || rng.next_u32() % 100 < self.loss {
                    continue;
                }
                let at = (now + ms(40), sent.len());
                let public = self.nat.as_ref().map(|nat| &nat.public);
                if public.is_some_and(|public| public.contains(&transmit.to.ip())) {
                    under_way.insert(at, (seen, transmit.to, transmit.bytes));
                    continue;
                }
                let answers = self.servers.iter();
                let mut answers =
                    answers.filter_map(|server| server.answer(transmit.to, seen, &transmit.bytes));
                if let Some((from, bytes)) = answers.next() {
                    let changed = from != transmit.to;
                    let later = changed.then_some(self.changed_source_takes);
                    let at = (at.0 + later.unwrap_or_default(), at.1);
                    under_way.insert(at, (from, seen, bytes));
                }
            }
            let next = under_way.keys().next().map(|(at, _)| *at);
            let Some(next) = next.into_iter().chain(run.poll_timeout()).min() else {
                break;
            };
            now = now.max(next);
            while let Some(entry) = under_way.first_entry().filter(|entry| entry.key().0 <= now) {
                let (from, to, bytes) = entry.remove();
                let message = Message::parse(&bytes).unwrap();
                if let Some(socket) = self.arrive(from, to, message.class) {
                    if message.class == Class::Request {
                        run.handle_request(&message);
                    } else {
                        run.handle_response(socket, from, &message, now);
                    }
                }
            }
            run.handle_timeout(now);
            if settled.is_none() && run.is_settled() {
                settled = Some((now - origin(), run.profile()));
            }
            assert!(now < origin() + secs(20), "the netcheck does not end");
        }
        Outcome {
            profile: run.profile(),
            took: now - origin(),
            settled,
            sent,
        }
    }

    /// How everybody outside sees a packet, if it lives so long.
    fn leave(&mut self, transmit: &Transmit, now: Instant) -> Option<SocketAddr> {
        let ttl = transmit.ttl.unwrap_or(64);
        let local = local(transmit.socket);
        let seen = match &mut self.nat {
            None => Some(local),
            Some(nat) => (ttl > nat.hop && nat.has_room(local, transmit.to))
                .then(|| nat.out(local, transmit.to, now - origin())),
        };
        seen.filter(|_| ttl > HOPS)
    }

    fn arrive(&self, from: SocketAddr, to: SocketAddr, class: Class) -> Option<SocketId> {
        let inside = match &self.nat {
            None => to,
            Some(nat) if class == Class::Request && !nat.hairpins => return None,
            Some(nat) => nat
                .lets_in(to, from)
                .then(|| nat.inside(to, from))
                .flatten()?,
        };
        Some(SocketId(u32::from(inside.port() - 5000)))
    }
}
