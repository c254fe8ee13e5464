//! How this machine's NAT behaves: the tests of RFC 5780 §4 and samples of many mappings, on sockets of their own so that no
//! earlier packet has opened the filter under test.
//!
//! A run asks a server at four endpoints, and only where the answers differ at all others: some NATs have room for few
//! mappings. The mapping and the filter are known after two round trips and at most 290 ms, the allocation after three round
//! trips: [`Netcheck::is_settled`]. The run goes on for those who want to know all, and for answers that come late.

mod one_way;
mod settled;
mod shortage;
mod vantage;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Allocation, Filtering, Mapping};
use punch_stun_protocol::{ChangeRequest, Class, Message, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::address::{other_address, usable};
use crate::evidence::{Probe, ProbeOutcome, Sample, ServerCheck};
use crate::profile::{self, NatProfile};
use crate::request::{Requests, transaction};
use crate::socket::{Family, SocketId, Transmit};
use one_way::{Hairpins, Openings};
use settled::Presumed;
use shortage::Shortage;
use vantage::Vantage;

/// How often each probe is sent: at 0, 250 and 750 ms; without an answer it is over after 1.75 s.
const SENDS: u32 = 3;
/// A probe that a filter may stop, in milliseconds until the next send or the end: whether it is stopped shall be known soon.
const FILTER_WAITS: [u64; 3] = [90, 90, 1570];
/// Servers asked in one run.
const MAX_SERVERS: usize = 4;
/// Sample ports asked at each address of a server.
const MAX_SAMPLES: u16 = 32;
/// Samples that are taken after [`LATE_SAMPLE_DELAY`].
const LATE_SAMPLES: usize = 3;
/// How much later the last samples are taken: how far a sequence has come by then tells what others use.
const LATE_SAMPLE_DELAY: Duration = Duration::from_millis(600);
/// TTLs with which opening packets are tried.
const TTLS: [u8; 4] = [2, 3, 4, 5];
/// The TTL that gets a packet past the nearest router; a packet that needs more to open the filter has passed a second NAT.
const NEAREST_TTL: u8 = 2;
/// Time between an opening packet and the next, and then the question whether they have opened anything.
const OPENING_DELAY: Duration = Duration::from_millis(10);

/// A server of the run.
#[derive(Debug)]
struct Server {
    check: ServerCheck,
    other: Option<SocketAddr>,
    /// Endpoints that are asked if the mapping turns out to be a dependent one.
    rest: Vec<SocketAddr>,
}

impl Server {
    fn new(server: SocketAddr) -> Self {
        Self {
            check: ServerCheck {
                server,
                probes: Vec::new(),
            },
            other: None,
            rest: Vec::new(),
        }
    }
}

/// A question under way: the index of the server, the question, and the index of the socket that it left from.
type Tag = (usize, Probe, usize);

/// A socket of the run.
#[derive(Debug)]
struct Socket {
    id: SocketId,
    port: u16,
    mapped: Option<SocketAddr>,
}

/// The places in [`Netcheck`]'s list of sockets, by what the sockets are for.
const FILTERS: usize = 0;
const SAMPLES: usize = 1;
/// From here on, one socket for each of [`TTLS`].
const FIRST_TTL: usize = 2;
/// Endpoints of a server that are asked before it is known whether more are worth it.
const FIRST_SAMPLES: usize = 3;

/// One run over one address family.
#[derive(Debug)]
pub struct Netcheck {
    family: Family,
    sockets: Vec<Socket>,
    local_addresses: Vec<IpAddr>,
    rng: ChaCha8Rng,
    requests: Requests<Tag>,
    servers: Vec<Server>,
    samples: Vec<Sample>,
    sent: Vec<(TransactionId, Instant)>,
    /// Packets that leave later, the earliest first.
    planned: VecDeque<(Instant, Planned)>,
    openings: Openings,
    hairpins: Hairpins,
    shortage: Shortage,
    presumed: Presumed,
    vantage: Vantage,
    transmits: VecDeque<Transmit>,
}

#[derive(Debug)]
enum Planned {
    Opening(usize, SocketAddr, u8),
    Ask(Tag, SocketAddr),
    Hairpin,
}

impl Netcheck {
    /// How many sockets a run wants; with fewer, it finds out less.
    pub fn sockets_wanted(family: Family) -> usize {
        match family {
            Family::V4 => FIRST_TTL + TTLS.len(),
            // IPv6 is hardly ever translated: what filters is all that counts.
            Family::V6 => FIRST_TTL,
        }
    }

    /// Starts a run on `sockets`, freshly opened on the ports given; `local_addresses` are the machine's own.
    pub fn new(
        family: Family,
        sockets: Vec<(SocketId, u16)>,
        local_addresses: Vec<IpAddr>,
        servers: &[SocketAddr],
        seed: u64,
        now: Instant,
    ) -> Self {
        let socket = |(id, port)| Socket {
            id,
            port,
            mapped: None,
        };
        let mut run = Self {
            family,
            sockets: sockets.into_iter().map(socket).collect(),
            local_addresses,
            rng: ChaCha8Rng::seed_from_u64(seed),
            requests: Requests::new(),
            servers: Vec::new(),
            samples: Vec::new(),
            sent: Vec::new(),
            planned: VecDeque::new(),
            openings: Openings::default(),
            hairpins: Hairpins::default(),
            shortage: Shortage::default(),
            presumed: Presumed::default(),
            vantage: Vantage::default(),
            transmits: VecDeque::new(),
        };
        let asked = servers
            .iter()
            .filter(|server| Family::of(server.ip()) == family)
            .take(MAX_SERVERS);
        for server in asked {
            run.servers.push(Server::new(*server));
            let index = run.servers.len() - 1;
            run.ask((index, Probe::Primary, FILTERS), *server, now);
            run.ask((index, Probe::Sample(*server), SAMPLES), *server, now);
            if index == 0 {
                for socket in FIRST_TTL..run.sockets.len() {
                    run.ask((index, Probe::Another, socket), *server, now);
                }
            }
        }
        run
    }

    /// Nodes of the DHT tell as what they see a socket, too: asks up to eight. Call it right after [`Self::new`].
    pub fn ask_nodes(&mut self, nodes: &[SocketAddr], now: Instant) {
        vantage::ask(self, nodes, now);
    }

    /// The sockets of this run, to be closed when it is finished.
    pub fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.sockets.iter().map(|socket| socket.id)
    }

    /// A request has come on one of this run's sockets: perhaps one of our own, sent back by the NAT.
    pub fn handle_request(&mut self, message: &Message<'_>) {
        self.hairpins.handle_request(message.transaction);
    }

    /// A response has come on one of this run's sockets.
    pub fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) {
        if self.openings.handle_response(message.transaction) {
            return;
        }
        // A changed source is the very question of some probes; everything else must come from where it was asked.
        let elsewhere = |(_, probe, _): &Tag| probe.changes_source();
        let Some(((index, probe, at), rtt)) =
            self.requests
                .answered(message.transaction, socket, from, elsewhere, now)
        else {
            return;
        };
        let server = self.servers[index].check.server;
        let outcome = match (message.class, message.mapped) {
            // A server that answers a change request from where it was asked has not understood it.
            (Class::Success, _) if probe.changes_address() && from.ip() == server.ip() => {
                ProbeOutcome::Refused
            }
            (Class::Success, _) if probe == Probe::ChangePort && from == server => {
                ProbeOutcome::Refused
            }
            (Class::Success, Some(mapped))
                if mapped.port() != 0
                    && usable(mapped.ip())
                    && Family::of(mapped.ip()) == self.family =>
            {
                ProbeOutcome::Mapped(mapped, rtt)
            }
            _ => ProbeOutcome::Refused,
        };
        self.note(index, probe, outcome);
        if let ProbeOutcome::Mapped(mapped, rtt) = outcome {
            self.presumed.handle_answer(rtt);
            self.sample(index, probe, at, mapped, message.transaction);
            match probe {
                Probe::Primary => self.start_filters(index, message, now),
                Probe::Sample(to) if to == server => self.start_samples(index, message, now),
                Probe::Sample(_) if self.is_dependent() => self.continue_samples(index, now),
                Probe::Another => self.start_opening(index, at, message, now),
                _ => {}
            }
            vantage::ask_spare(self, now);
        }
        self.finish(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (again, lost) = self.requests.handle_timeout(now);
        self.transmits.extend(again);
        for (index, probe, _) in lost {
            self.note(index, probe, ProbeOutcome::Silence);
        }
        while let Some((at, planned)) = self.planned.pop_front() {
            if at > now {
                self.planned.push_front((at, planned));
                break;
            }
            match planned {
                Planned::Opening(socket, to, ttl) => self.open(socket, to, ttl),
                Planned::Ask(tag, to) => self.ask(tag, to, now),
                Planned::Hairpin => self.hairpin(now),
            }
        }
        self.hairpins.handle_timeout(now);
        self.presumed.handle_timeout(now);
        self.finish(now);
    }

    /// What seemed to be the end may be followed by more questions.
    fn finish(&mut self, now: Instant) {
        if self.poll_timeout().is_none() {
            shortage::look_again(self, now);
            shortage::ask_more(self, now);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` when the run is finished.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let planned = self.planned.front().map(|(at, _)| *at);
        [
            self.requests.next_timeout(),
            planned,
            self.hairpins.next_timeout(),
            self.presumed.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether what an attempt at a path must know is found, as far as the servers can tell it: how the NAT maps, filters and allots.
    /// What comes later refines it, or puts right what a lost or a late packet has made wrong.
    pub fn is_settled(&self) -> bool {
        settled::is_settled(self)
    }

    /// What was found so far; final once [`Self::poll_timeout`] is `None`.
    pub fn profile(&self) -> NatProfile {
        let samples = self.samples_in_order();
        let (mapping, allocation) = self.behaviour(&samples);
        let mut addresses: Vec<_> = samples.iter().map(|sample| sample.mapped.ip()).collect();
        addresses.sort();
        addresses.dedup();
        let public = samples.first().map(|sample| sample.mapped);
        let checks = || self.servers.iter().map(|server| &server.check);
        let mut servers = 0..self.servers.len();
        let filtering = servers.find_map(|index| self.filtering(index));
        NatProfile {
            family: self.family,
            udp_blocked: !self.servers.is_empty() && checks().all(ServerCheck::is_silent),
            public,
            addresses,
            mapping,
            filtering,
            preserves_port: samples.first().map(|s| s.mapped.port() == s.local),
            allocation,
            hairpinning: self.hairpinning(mapping, filtering),
            lifetime: None,
            opening_ttl: self.opening_ttl(),
            double_nat: self.opened().map(|ttl| ttl > NEAREST_TTL),
            evidence: checks().cloned().collect(),
            search: shortage::search_basis(self, samples.len()),
            samples,
        }
    }

    /// The samples that are believed, in the order in which they were asked for.
    fn samples_in_order(&self) -> Vec<Sample> {
        let mut samples = vantage::believed(self);
        samples.sort_by_key(|sample| sample.sent);
        samples
    }

    /// How the NAT maps and allots, by samples in the order in which they were asked for.
    fn behaviour(&self, samples: &[Sample]) -> (Option<Mapping>, Option<Allocation>) {
        let of_socket = |at: usize| {
            let port = self.sockets.get(at).map(|socket| socket.port);
            let own = samples.iter().filter(move |s| Some(s.local) == port);
            own.copied().collect::<Vec<_>>()
        };
        let by_one_socket = of_socket(SAMPLES);
        let by_one_socket = if by_one_socket.is_empty() {
            of_socket(FILTERS)
        } else {
            by_one_socket
        };
        let mapping = profile::mapping(&by_one_socket, &self.local_addresses);
        let allocation = match mapping {
            Some(Mapping::None) => Some(Allocation::Preserving),
            // Of a mapping that is reused, every socket shows one or two.
            Some(Mapping::EndpointIndependent | Mapping::AddressDependent) | None => {
                profile::allocation(samples, self.own())
            }
            // Mappings of several sockets at once would hide a sequence that each has for itself.
            Some(_) => profile::allocation(&by_one_socket, self.own()),
        };
        (mapping, allocation)
    }

    /// Mappings that this run has made beside those of the samples; they must not be taken for those of others behind the NAT.
    fn own(&self) -> usize {
        // Every opening packet and every hairpin leaves twice.
        self.openings.count() / 2 + self.hairpins.count() / 2
    }

    fn note(&mut self, index: usize, probe: Probe, outcome: ProbeOutcome) {
        self.presumed.forget(index, probe);
        self.servers[index].check.probes.push((probe, outcome));
    }

    /// What came of a probe, or what is presumed to come of it.
    fn outcome(&self, index: usize, probe: Probe) -> Option<ProbeOutcome> {
        let known = self.servers.get(index)?.check.outcome(probe);
        let silent = || self.presumed.is_silent(index, probe);
        known.or_else(|| silent().then_some(ProbeOutcome::Silence))
    }

    fn sample(
        &mut self,
        index: usize,
        probe: Probe,
        at: usize,
        mapped: SocketAddr,
        transaction: TransactionId,
    ) {
        let server = self.servers[index].check.server;
        let to = match probe {
            Probe::Sample(to) => to,
            Probe::Primary | Probe::Another => server,
            // Their requests went where one had gone before.
            Probe::ChangeBoth | Probe::ChangePort | Probe::Opened(_) => return,
        };
        let sent = self.sent.iter().find(|(id, _)| *id == transaction);
        let (Some(socket), Some((_, sent))) = (self.sockets.get_mut(at), sent) else {
            return;
        };
        socket.mapped.get_or_insert(mapped);
        self.samples.push(Sample {
            sent: *sent,
            local: socket.port,
            to,
            mapped,
        });
    }

    /// The server's other address may be contacted only from other sockets: contact opens the filter.
    fn start_filters(&mut self, index: usize, message: &Message<'_>, now: Instant) {
        let server = self.servers[index].check.server;
        let other = other_address(server, message);
        self.servers[index].other = other;
        if other.is_some() {
            self.ask((index, Probe::ChangeBoth, FILTERS), server, now);
            self.ask((index, Probe::ChangePort, FILTERS), server, now);
        }
    }

    /// Asks at every endpoint that the server has, in one burst, and at a few more later.
    fn start_samples(&mut self, index: usize, message: &Message<'_>, now: Instant) {
        let server = self.servers[index].check.server;
        let other = other_address(server, message);
        let mut places = Vec::new();
        if let Some(other) = other {
            places.push(SocketAddr::new(other.ip(), server.port()));
            places.push(other);
            places.push(SocketAddr::new(server.ip(), other.port()));
        }
        if let Some((first, last)) = message.sample_ports {
            let ports = first..=last.min(first.saturating_add(MAX_SAMPLES - 1));
            for port in ports {
                places.push(SocketAddr::new(server.ip(), port));
                if let Some(other) = other {
                    places.push(SocketAddr::new(other.ip(), port));
                }
            }
            places.retain(|place| *place != server);
        }
        let rest = places.split_off(FIRST_SAMPLES.min(places.len()));
        for place in places {
            self.ask((index, Probe::Sample(place), SAMPLES), place, now);
        }
        self.servers[index].rest = rest;
        if index == 0 {
            self.plan(now + LATE_SAMPLE_DELAY / 2, Planned::Hairpin);
        }
    }

    /// The mapping depends on the destination: asks at all the other endpoints, at a few of them later.
    fn continue_samples(&mut self, index: usize, now: Instant) {
        let mut early = std::mem::take(&mut self.servers[index].rest);
        let late = early.split_off(early.len().saturating_sub(LATE_SAMPLES));
        for place in early {
            self.ask((index, Probe::Sample(place), SAMPLES), place, now);
        }
        for place in late {
            let tag = (index, Probe::Sample(place), SAMPLES);
            self.plan(now + LATE_SAMPLE_DELAY, Planned::Ask(tag, place));
        }
    }

    /// Whether the socket of the samples has been seen at two endpoints.
    fn is_dependent(&self) -> bool {
        let port = self.sockets.get(SAMPLES).map(|socket| socket.port);
        let mut own = self.samples.iter().filter(|s| Some(s.local) == port);
        let first = own.next();
        first.is_some_and(|first| own.any(|sample| sample.mapped != first.mapped))
    }

    /// Sends a packet that shall die on its way to the server's other endpoint, and asks whether an answer from there gets in.
    fn start_opening(&mut self, index: usize, at: usize, message: &Message<'_>, now: Instant) {
        let server = self.servers[index].check.server;
        let ttl = TTLS.get(at.wrapping_sub(FIRST_TTL)).copied();
        let (Some(ttl), Some(other)) = (ttl, other_address(server, message)) else {
            return;
        };
        self.open(at, other, ttl);
        self.plan(now + OPENING_DELAY, Planned::Opening(at, other, ttl));
        let tag = (index, Probe::Opened(ttl), at);
        self.plan(now + 2 * OPENING_DELAY, Planned::Ask(tag, server));
    }

    fn open(&mut self, at: usize, to: SocketAddr, ttl: u8) {
        if let Some(socket) = self.sockets.get(at) {
            let packet = self.openings.packet(socket.id, to, ttl, &mut self.rng);
            self.transmits.push_back(packet);
        }
    }

    /// Two sockets send to each other's public endpoint: each opens its filter for the other.
    fn hairpin(&mut self, now: Instant) {
        let (Some(one), Some(two)) = (self.sockets.get(SAMPLES), self.sockets.get(FIRST_TTL))
        else {
            return;
        };
        let (Some(mapped_one), Some(mapped_two)) = (one.mapped, two.mapped) else {
            return;
        };
        let ways = [(one.id, mapped_two), (two.id, mapped_one)];
        for (socket, to) in ways.into_iter().chain(ways) {
            let packet = self.hairpins.packet(socket, to, &mut self.rng);
            self.transmits.push_back(packet);
        }
        self.hairpins.wait_until(now + LATE_SAMPLE_DELAY);
    }

    fn plan(&mut self, at: Instant, planned: Planned) {
        let index = self.planned.partition_point(|(other, _)| *other <= at);
        self.planned.insert(index, (at, planned));
    }

    fn ask(&mut self, (index, probe, at): Tag, to: SocketAddr, now: Instant) {
        let Some(socket) = self.sockets.get(at) else {
            return;
        };
        let id = transaction(&mut self.rng);
        let writer = Writer::new(Class::Request, id);
        let writer = if probe.changes_source() {
            writer.change(ChangeRequest {
                ip: probe.changes_address(),
                port: true,
            })
        } else {
            writer
        };
        let transmit = Transmit::new(socket.id, to, writer.finish());
        self.sent.push((id, now));
        let tag = (index, probe, at);
        let first = if probe.changes_source() {
            let waits = FILTER_WAITS.into_iter().map(Duration::from_millis);
            self.requests.start_after(id, transmit, tag, waits, now)
        } else {
            self.requests.start(id, transmit, tag, SENDS, now)
        };
        self.transmits.push_back(first);
        let rtt = self.servers[index].check.round_trip();
        self.presumed.expect(index, probe, rtt, now);
    }

    fn filtering(&self, index: usize) -> Option<Filtering> {
        let Server { check, other, .. } = &self.servers[index];
        let other = (*other)?;
        let found = match (
            self.outcome(index, Probe::ChangeBoth)?,
            self.outcome(index, Probe::ChangePort)?,
        ) {
            (ProbeOutcome::Mapped(..), _) => Filtering::EndpointIndependent,
            (ProbeOutcome::Silence, ProbeOutcome::Mapped(..)) => Filtering::AddressDependent,
            (ProbeOutcome::Silence, ProbeOutcome::Silence) => Filtering::AddressAndPortDependent,
            (ProbeOutcome::Refused, _) | (_, ProbeOutcome::Refused) => return None,
        };
        // A request to another server at one of these addresses has opened the filter towards it.
        let opened = self.servers.iter().any(|Server { check: asked, .. }| {
            asked.server != check.server
                && [check.server.ip(), other.ip()].contains(&asked.server.ip())
        });
        (!opened || found == Filtering::AddressAndPortDependent).then_some(found)
    }

    /// Where each destination has a mapping of its own and the filter is strict, packets that do not come back say nothing.
    fn hairpinning(&self, mapping: Option<Mapping>, filtering: Option<Filtering>) -> Option<bool> {
        let tested = self.hairpins.count() > 0 && mapping.is_some_and(|m| m != Mapping::None);
        let telling = self.hairpins.came_back()
            || mapping == Some(Mapping::EndpointIndependent)
            || filtering == Some(Filtering::EndpointIndependent);
        (tested && telling).then_some(self.hairpins.came_back())
    }

    /// The smallest TTL that has opened the filter, where there is one to open.
    fn opened(&self) -> Option<u8> {
        let silent = |probe| self.outcome(0, probe) == Some(ProbeOutcome::Silence);
        let opened = |ttl: &u8| {
            matches!(
                self.outcome(0, Probe::Opened(*ttl)),
                Some(ProbeOutcome::Mapped(..))
            )
        };
        silent(Probe::ChangeBoth)
            .then(|| TTLS.into_iter().find(opened))
            .flatten()
    }

    /// Behind a NAT that makes another mapping for every destination, the answer comes to another mapping than the one that was
    /// opened, and nothing is learned. What is known is that a peer is hardly nearer than the server.
    fn opening_ttl(&self) -> Option<u8> {
        let short = |arrived: u8| (arrived > TTLS[0]).then(|| arrived - 1);
        self.opened()
            .or_else(|| self.openings.arrived().and_then(short))
    }
}
