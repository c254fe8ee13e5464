//! How this machine's NAT behaves: the tests of RFC 5780 §4, run on a socket of their own so that no earlier packet has
//! opened the filter under test.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_stun_protocol::{ChangeRequest, Class, Message, Writer};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::gather::usable;
use crate::request::{Requests, transaction};
use crate::{Family, SocketId, Transmit};

/// Each probe is sent this often: 0, 250, 750 and 1,750 ms; without an answer it is over after 3.75 s.
const SENDS: u32 = 4;
/// Servers asked, per run.
const MAX_SERVERS: usize = 4;

/// RFC 4787 §4.1: on what a mapping depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// No NAT: the server sees the machine's own address.
    None,
    /// One mapping for all destinations (EIM).
    EndpointIndependent,
    /// One per destination address (ADM).
    AddressDependent,
    /// One per destination address and port (APDM, "symmetric").
    AddressAndPortDependent,
    /// One for every destination or pair of them; which could not be told with the servers at hand.
    Dependent,
}

/// RFC 4787 §5: from where packets may come in through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// From everywhere (EIF).
    EndpointIndependent,
    /// From addresses that were sent to (ADF).
    AddressDependent,
    /// From addresses and ports that were sent to (APDF).
    AddressAndPortDependent,
}

/// One question of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// A plain Binding request to the server's primary address.
    Primary,
    /// Answer me from your other address and port.
    ChangeBoth,
    /// Answer me from your other port.
    ChangePort,
    /// A plain request to the other address, same port.
    OtherAddress,
    /// A plain request to the other address and port.
    OtherBoth,
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The address that the server saw, and the time that it took.
    Mapped(SocketAddr, Duration),
    /// Nothing came back.
    Silence,
    /// The server refused.
    Refused,
}

/// The evidence from one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCheck {
    /// Its address.
    pub server: SocketAddr,
    /// The probes in the order of their outcomes.
    pub probes: Vec<(Probe, ProbeOutcome)>,
}

impl ServerCheck {
    fn mapped(&self, probe: Probe) -> Option<SocketAddr> {
        self.outcome(probe).and_then(|outcome| match outcome {
            ProbeOutcome::Mapped(address, _) => Some(address),
            _ => None,
        })
    }

    fn is_silent(&self) -> bool {
        self.probes
            .iter()
            .all(|(_, outcome)| *outcome == ProbeOutcome::Silence)
    }

    fn outcome(&self, probe: Probe) -> Option<ProbeOutcome> {
        let found = self.probes.iter().find(|(asked, _)| *asked == probe);
        found.map(|(_, outcome)| *outcome)
    }
}

/// What a run has found for one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatProfile {
    /// The family that was tested.
    pub family: Family,
    /// No server answered at all.
    pub udp_blocked: bool,
    /// The machine's address as servers see it.
    pub public: Option<SocketAddr>,
    /// On what mappings depend.
    pub mapping: Option<Mapping>,
    /// Who may send in; `None` when no server could test it.
    pub filtering: Option<Filtering>,
    /// Whether the public port equals the local one.
    pub preserves_port: Option<bool>,
    /// What every server said.
    pub evidence: Vec<ServerCheck>,
}

/// One run over one address family.
#[derive(Debug)]
pub struct Netcheck {
    family: Family,
    socket: SocketId,
    local_port: u16,
    local_addresses: Vec<std::net::IpAddr>,
    rng: ChaCha8Rng,
    requests: Requests<(usize, Probe)>,
    /// Per server, and the alternate address that it offered.
    servers: Vec<(ServerCheck, Option<SocketAddr>)>,
    transmits: VecDeque<Transmit>,
}

impl Netcheck {
    /// Starts a run on `socket`, freshly opened on `local_port`; `local_addresses` are the machine's own.
    pub fn new(
        family: Family,
        socket: SocketId,
        local_port: u16,
        local_addresses: Vec<std::net::IpAddr>,
        servers: &[SocketAddr],
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut run = Self {
            family,
            socket,
            local_port,
            local_addresses,
            rng: ChaCha8Rng::seed_from_u64(seed),
            requests: Requests::new(),
            servers: Vec::new(),
            transmits: VecDeque::new(),
        };
        let asked = servers
            .iter()
            .filter(|server| Family::of(server.ip()) == family)
            .take(MAX_SERVERS);
        for (index, server) in asked.enumerate() {
            let check = ServerCheck {
                server: *server,
                probes: Vec::new(),
            };
            run.servers.push((check, None));
            run.ask(index, Probe::Primary, *server, now);
        }
        run
    }

    /// The socket of this run, to be closed when it is finished.
    pub fn socket(&self) -> SocketId {
        self.socket
    }

    /// A response has come on this run's socket.
    pub fn handle_response(&mut self, from: SocketAddr, message: &Message<'_>, now: Instant) {
        // A changed source is the very question of two probes; everything else must come from where it was asked.
        let elsewhere =
            |(_, probe): &(usize, Probe)| matches!(probe, Probe::ChangeBoth | Probe::ChangePort);
        let Some(((index, probe), rtt)) =
            self.requests
                .answered(message.transaction, self.socket, from, elsewhere, now)
        else {
            return;
        };
        let (check, other) = &mut self.servers[index];
        let server = check.server;
        let moved = from.ip() != server.ip();
        let outcome = match (message.class, message.mapped) {
            // A server that answers a change request from where it was asked has not understood it.
            (Class::Success, _) if probe == Probe::ChangeBoth && !moved => ProbeOutcome::Refused,
            (Class::Success, _) if probe == Probe::ChangePort && from == server => {
                ProbeOutcome::Refused
            }
            (Class::Success, Some(mapped)) if mapped.port() != 0 && usable(mapped.ip()) => {
                ProbeOutcome::Mapped(mapped, rtt)
            }
            _ => ProbeOutcome::Refused,
        };
        check.probes.push((probe, outcome));
        if probe == Probe::Primary && matches!(outcome, ProbeOutcome::Mapped(..)) {
            // RFC 5780 §6: both differ; with the same port the two kinds of dependence would look alike.
            let offered = message.other.filter(|other| {
                let differs = other.ip() != server.ip() && other.port() != server.port();
                other.is_ipv4() == server.is_ipv4()
                    && differs
                    && other.port() != 0
                    && usable(other.ip())
            });
            *other = offered;
            if offered.is_some() {
                self.ask(index, Probe::ChangeBoth, server, now);
                self.ask(index, Probe::ChangePort, server, now);
            }
        }
        self.proceed(index, now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (again, lost) = self.requests.handle_timeout(now);
        self.transmits.extend(again);
        for (index, probe) in lost {
            self.servers[index]
                .0
                .probes
                .push((probe, ProbeOutcome::Silence));
            self.proceed(index, now);
        }
    }

    /// The next datagram to send, all from [`Self::socket`].
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` when the run is finished.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.requests.next_timeout()
    }

    /// What was found so far; final once [`Self::poll_timeout`] is `None`.
    pub fn profile(&self) -> NatProfile {
        let public = self
            .servers
            .iter()
            .find_map(|(check, _)| check.mapped(Probe::Primary));
        NatProfile {
            family: self.family,
            udp_blocked: !self.servers.is_empty()
                && self.servers.iter().all(|(check, _)| check.is_silent()),
            public,
            mapping: public.and_then(|public| self.mapping(public)),
            filtering: self
                .servers
                .iter()
                .find_map(|(check, other)| self.filtering(check, (*other)?)),
            preserves_port: public.map(|public| public.port() == self.local_port),
            evidence: self
                .servers
                .iter()
                .map(|(check, _)| check.clone())
                .collect(),
        }
    }

    /// The other address is contacted only when the filter tests are over: contact opens the filter.
    fn proceed(&mut self, index: usize, now: Instant) {
        let (check, other) = &self.servers[index];
        let Some(other) = *other else { return };
        let server = check.server;
        let filters_done = [Probe::ChangeBoth, Probe::ChangePort]
            .iter()
            .all(|probe| check.outcome(*probe).is_some());
        let started = check.outcome(Probe::OtherAddress).is_some()
            || self.requests.tags().any(|tag| {
                *tag == (index, Probe::OtherAddress) || *tag == (index, Probe::OtherBoth)
            });
        if filters_done && !started && check.outcome(Probe::OtherBoth).is_none() {
            let same_port = SocketAddr::new(other.ip(), server.port());
            self.ask(index, Probe::OtherAddress, same_port, now);
            self.ask(index, Probe::OtherBoth, other, now);
        }
    }

    fn ask(&mut self, index: usize, probe: Probe, to: SocketAddr, now: Instant) {
        let id = transaction(&mut self.rng);
        let writer = Writer::new(Class::Request, id);
        let writer = match probe {
            Probe::ChangeBoth => writer.change(ChangeRequest {
                ip: true,
                port: true,
            }),
            Probe::ChangePort => writer.change(ChangeRequest {
                ip: false,
                port: true,
            }),
            Probe::Primary | Probe::OtherAddress | Probe::OtherBoth => writer,
        };
        let transmit = Transmit {
            socket: self.socket,
            to,
            source: None,
            ttl: None,
            bytes: writer.finish(),
        };
        let first = self
            .requests
            .start(id, transmit, (index, probe), SENDS, now);
        self.transmits.push_back(first);
    }

    fn filtering(&self, check: &ServerCheck, other: SocketAddr) -> Option<Filtering> {
        let found = filtering(check)?;
        // A request to another server at one of these addresses has opened the filter towards it.
        let opened = self.servers.iter().any(|(asked, _)| {
            asked.server != check.server
                && [check.server.ip(), other.ip()].contains(&asked.server.ip())
        });
        (!opened || found == Filtering::AddressAndPortDependent).then_some(found)
    }

    fn mapping(&self, public: SocketAddr) -> Option<Mapping> {
        if self.local_addresses.contains(&public.ip()) && public.port() == self.local_port {
            return Some(Mapping::None);
        }
        let by_one_server = self.servers.iter().find_map(|(check, _)| {
            let primary = check.mapped(Probe::Primary)?;
            let other_address = check.mapped(Probe::OtherAddress)?;
            let other_both = check.mapped(Probe::OtherBoth)?;
            Some(if primary == other_address && primary == other_both {
                Mapping::EndpointIndependent
            } else if other_address == other_both {
                Mapping::AddressDependent
            } else {
                Mapping::AddressAndPortDependent
            })
        });
        // Without a server that has two addresses: two servers tell whether the mapping depends on the destination.
        by_one_server.or_else(|| {
            let seen: Vec<_> = self
                .servers
                .iter()
                .filter_map(|(check, _)| Some((check.server.ip(), check.mapped(Probe::Primary)?)))
                .collect();
            let (first_ip, first) = *seen.first()?;
            let mut others = seen.iter().filter(|(ip, _)| *ip != first_ip).peekable();
            others.peek()?;
            Some(if others.all(|(_, mapped)| *mapped == first) {
                Mapping::EndpointIndependent
            } else {
                Mapping::Dependent
            })
        })
    }
}

fn filtering(check: &ServerCheck) -> Option<Filtering> {
    match (
        check.outcome(Probe::ChangeBoth)?,
        check.outcome(Probe::ChangePort)?,
    ) {
        (ProbeOutcome::Mapped(..), _) => Some(Filtering::EndpointIndependent),
        (ProbeOutcome::Silence, ProbeOutcome::Mapped(..)) => Some(Filtering::AddressDependent),
        (ProbeOutcome::Silence, ProbeOutcome::Silence) => Some(Filtering::AddressAndPortDependent),
        (ProbeOutcome::Refused, _) | (_, ProbeOutcome::Refused) => None,
    }
}
