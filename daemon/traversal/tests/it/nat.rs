//! A NAT as RFC 4787 describes it, and STUN servers as RFC 5780 does, for one machine that runs a netcheck.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_stun_protocol::{Class, Endpoint, ErrorCode, Message, Writer, respond};
use punch_traversal::{Family, NatProfile, Netcheck, SocketId};

use crate::{addr, ms, origin};

/// On what a mapping, or the right to come in, depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depends {
    Nothing,
    Address,
    AddressAndPort,
}

pub(crate) const ALL: [Depends; 3] = [Depends::Nothing, Depends::Address, Depends::AddressAndPort];

#[derive(Debug)]
pub(crate) struct Nat {
    mapping: Depends,
    filtering: Depends,
    public: IpAddr,
    preserves_port: bool,
    next_port: u16,
    mappings: BTreeMap<(IpAddr, u16), u16>,
    contacts: BTreeSet<(u16, SocketAddr)>,
}

impl Nat {
    pub(crate) fn new(mapping: Depends, filtering: Depends) -> Self {
        Self {
            mapping,
            filtering,
            public: "203.0.113.5".parse().unwrap(),
            preserves_port: false,
            next_port: 40_000,
            mappings: BTreeMap::new(),
            contacts: BTreeSet::new(),
        }
    }

    pub(crate) fn preserving(mut self) -> Self {
        self.preserves_port = true;
        self
    }

    fn out(&mut self, local: SocketAddr, to: SocketAddr) -> SocketAddr {
        let any = IpAddr::from([0, 0, 0, 0]);
        let key = match self.mapping {
            Depends::Nothing => (any, 0),
            Depends::Address => (to.ip(), 0),
            Depends::AddressAndPort => (to.ip(), to.port()),
        };
        let (preserves, next) = (
            self.preserves_port && self.mappings.is_empty(),
            &mut self.next_port,
        );
        let port = *self.mappings.entry(key).or_insert_with(|| {
            *next += 7;
            if preserves { local.port() } else { *next }
        });
        self.contacts.insert((port, to));
        SocketAddr::new(self.public, port)
    }

    fn lets_in(&self, to: SocketAddr, from: SocketAddr) -> bool {
        let mut contacts = self.contacts.iter().filter(|(port, _)| *port == to.port());
        match self.filtering {
            Depends::Nothing => contacts.next().is_some(),
            Depends::Address => contacts.any(|(_, contact)| contact.ip() == from.ip()),
            Depends::AddressAndPort => contacts.any(|(_, contact)| *contact == from),
        }
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
    /// Says that the client is at port 0.
    SaysPortZero,
    /// Answers everything with an error.
    Refuses,
}

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) primary: SocketAddr,
    pub(crate) other: Option<SocketAddr>,
    pub(crate) quirk: Quirk,
}

impl Server {
    pub(crate) fn with_two_addresses() -> Self {
        Self {
            primary: addr("198.51.100.1:3478"),
            other: Some(addr("198.51.100.2:3479")),
            quirk: Quirk::None,
        }
    }

    pub(crate) fn with_one_address(text: &str) -> Self {
        Self {
            primary: addr(text),
            other: None,
            quirk: Quirk::None,
        }
    }

    pub(crate) fn quirky(quirk: Quirk) -> Self {
        Self {
            quirk,
            ..Self::with_two_addresses()
        }
    }

    /// The server's socket at `to`, if it has one there.
    fn endpoint(&self, to: SocketAddr) -> Option<Endpoint> {
        let Some(other) = self.other else {
            return (to == self.primary).then_some(Endpoint {
                local: to,
                other: None,
                samples: None,
            });
        };
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
        let ours = [self.primary.ip(), other.ip()].contains(&to.ip())
            && [self.primary.port(), other.port()].contains(&to.port());
        ours.then(|| Endpoint {
            local: to,
            other: Some(SocketAddr::new(flip(to.ip()), flip_port(to.port()))),
            samples: None,
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

/// A machine at 192.168.1.2:5000, its NAT if any, and servers.
pub(crate) struct World {
    pub(crate) nat: Option<Nat>,
    pub(crate) servers: Vec<Server>,
    /// The first so many sends of every request are lost.
    pub(crate) loses_first: usize,
    pub(crate) udp_blocked: bool,
}

pub(crate) struct Outcome {
    pub(crate) profile: NatProfile,
    pub(crate) took: Duration,
    /// Where packets went, in order.
    pub(crate) sent: Vec<SocketAddr>,
}

impl World {
    pub(crate) fn new(nat: Option<Nat>, servers: Vec<Server>) -> Self {
        Self {
            nat,
            servers,
            loses_first: 0,
            udp_blocked: false,
        }
    }

    pub(crate) fn check(self) -> Outcome {
        let servers: Vec<_> = self.servers.iter().map(|server| server.primary).collect();
        self.check_with(&servers)
    }

    /// Runs a netcheck that asks `servers` to its end; the answer to everything takes 40 ms.
    pub(crate) fn check_with(mut self, servers: &[SocketAddr]) -> Outcome {
        let local = addr("192.168.1.2:5000");
        let mut run = Netcheck::new(
            Family::V4,
            SocketId(7),
            local.port(),
            vec![local.ip()],
            servers,
            9,
            origin(),
        );
        assert_eq!(run.socket(), SocketId(7));
        let mut now = origin();
        let (mut under_way, mut sends) = (BTreeMap::<(Instant, usize), _>::new(), BTreeMap::new());
        let mut sent = Vec::new();
        for turn in 0.. {
            assert!(turn < 10_000, "the netcheck is in a busy loop");
            while let Some(transmit) = run.poll_transmit() {
                assert_eq!(transmit.socket, SocketId(7));
                sent.push(transmit.to);
                let count: &mut usize = sends.entry(transmit.bytes.clone()).or_default();
                *count += 1;
                let seen = self
                    .nat
                    .as_mut()
                    .map_or(local, |nat| nat.out(local, transmit.to));
                if self.udp_blocked || *count <= self.loses_first {
                    continue;
                }
                let answers = self.servers.iter();
                let mut answers =
                    answers.filter_map(|server| server.answer(transmit.to, seen, &transmit.bytes));
                if let Some((from, bytes)) = answers.next() {
                    under_way.insert((now + ms(40), sent.len()), (from, seen, bytes));
                }
            }
            let next = under_way.keys().next().map(|(at, _)| *at);
            let Some(next) = next.into_iter().chain(run.poll_timeout()).min() else {
                break;
            };
            now = now.max(next);
            while let Some(entry) = under_way.first_entry().filter(|entry| entry.key().0 <= now) {
                let (from, to, bytes) = entry.remove();
                if self.nat.as_ref().is_none_or(|nat| nat.lets_in(to, from)) {
                    run.handle_response(from, &Message::parse(&bytes).unwrap(), now);
                }
            }
            run.handle_timeout(now);
        }
        Outcome {
            profile: run.profile(),
            took: now - origin(),
            sent,
        }
    }
}
