//! The network, the servers, the machines, and the time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_connect::ServerId;
use punch_engine::{SocketId, TableSizes};
use punch_signal_protocol::seal::Kind;
use punch_signal_protocol::{Frame, PeerId, RelayToken, Unreachable};
use punch_stun_protocol::{Endpoint, respond};

use super::Outcome;
use super::cast::{
    ALICE, BOB, EVIL, GOOD, HANDLES, MALLORY, STUN_IPS, STUN_PORT, TRAFFIC_PORT, WALL, shares,
};
use super::mallory::{MALLORY as HAND, Mallory, stranger};
use super::packets::udp;
use super::program::{BEGIN, Mail, Move, Stun};
use super::tally::Tally;
use crate::machine::{Machine, Turn};
use crate::network::{Datagram, Delivery, HostId, Network};

const SAMPLE_PORTS: (u16, u16) = (40_000, 40_031);
const SIGNAL_DELAY: Duration = Duration::from_millis(10);
/// Between two packets of the honest tunnel, in each direction.
const TRAFFIC: Duration = Duration::from_millis(50);
/// Envelopes and datagrams to the victim that are kept, to be played back.
const KEPT: usize = 64;
/// More happens at no moment: something has begun to turn in a circle.
const MOST_AT_ONCE: u32 = 20_000;

/// Something that is due at a time.
pub(super) enum Due {
    /// A frame comes to a machine.
    Frame(usize, ServerId, Frame),
    /// A datagram leaves a host.
    Send(HostId, Datagram),
    /// The adversary's next move.
    Move(Move),
    /// The next packets of the honest tunnel.
    Traffic(u64),
    /// Tables are looked at.
    Look,
}

/// What the servers do at the moment.
pub(super) struct Servers {
    pub(super) mail: Mail,
    pub(super) stun: Stun,
    stun_hosts: [HostId; 2],
}

/// What was sent to the victim.
#[derive(Default)]
pub(super) struct Recorded {
    pub(super) envelopes: Vec<(PeerId, Vec<u8>)>,
    pub(super) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// Tokens with which the victim has asked the malicious server for relay links, and how many links there were.
    pub(super) tokens: Vec<RelayToken>,
    pub(super) links: u32,
    /// An initiation of somebody whom nobody knows.
    pub(super) initiation: Option<Vec<u8>>,
}

/// See the module.
pub(super) struct Arena {
    pub(super) now: Instant,
    start: Instant,
    network: Network,
    pub(super) machines: [Machine; 3],
    pub(super) mallory: Mallory,
    pub(super) servers: Servers,
    pub(super) recorded: Recorded,
    pub(super) tally: Tally,
    due: BTreeMap<(Instant, u64), Due>,
    sequence: u64,
    at_once: u32,
    sizes: TableSizes,
    tunnel: bool,
}

impl Arena {
    /// All machines reach both signalling servers.
    pub(super) fn new(
        network: Network,
        stun_hosts: [HostId; 2],
        machines: [Machine; 3],
        mallory: Mallory,
        start: Instant,
    ) -> Self {
        let mut arena = Self {
            now: start,
            start,
            network,
            machines,
            mallory,
            servers: Servers {
                mail: Mail::Honest,
                stun: Stun::Honest,
                stun_hosts,
            },
            recorded: Recorded::default(),
            tally: Tally::default(),
            due: BTreeMap::new(),
            sequence: 0,
            at_once: 0,
            sizes: TableSizes::default(),
            tunnel: false,
        };
        for index in [ALICE, BOB, MALLORY] {
            for server in [GOOD, EVIL] {
                let engine = &mut arena.machines[index].engine;
                engine.handle_server(server, true, start);
            }
            arena.drain(index);
        }
        arena.schedule(BEGIN, Due::Traffic(0));
        arena.schedule(Duration::ZERO, Due::Look);
        arena
    }

    /// Does these things when they are due.
    pub(super) fn plan(&mut self, moves: &[Move]) {
        for one in moves {
            self.schedule(one.at, Due::Move(*one));
        }
    }

    /// Something happens after so long.
    pub(super) fn schedule(&mut self, after: Duration, due: Due) {
        self.sequence += 1;
        self.due.insert((self.now + after, self.sequence), due);
    }

    /// Milliseconds since 1970.
    pub(super) fn wall(&self) -> u64 {
        WALL + self.millis()
    }

    fn millis(&self) -> u64 {
        u64::try_from((self.now - self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// Seconds since the start.
    pub(super) fn second(&self) -> u64 {
        self.millis() / 1000
    }

    pub(super) fn id(&self, index: usize) -> PeerId {
        self.machines[index].identity.id()
    }

    // --- time ---

    /// Lets time pass until the adversary's next move, or the end.
    pub(super) fn run(&mut self, end: Duration) -> Option<Move> {
        let end = self.start + end;
        loop {
            let timers = self.machines.iter();
            let timers = timers.filter_map(|machine| machine.engine.poll_timeout());
            let next = timers
                .chain(self.network.next_event())
                .chain(self.due.keys().next().map(|(at, _)| *at))
                .min();
            let next = next.filter(|at| *at <= end)?;
            self.at_once = if next > self.now { 0 } else { self.at_once + 1 };
            assert!(self.at_once < MOST_AT_ONCE, "time stands still");
            self.now = self.now.max(next);
            if let Some(one) = self.step() {
                return Some(one);
            }
        }
    }

    fn step(&mut self) -> Option<Move> {
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= self.now
        {
            match entry.remove() {
                Due::Frame(to, server, frame) => self.deliver(to, server, frame),
                Due::Send(host, datagram) => self.network.send(self.now, host, datagram),
                Due::Move(one) => return Some(one),
                Due::Traffic(number) => self.converse(number),
                Due::Look => self.look(),
            }
        }
        while let Some(delivery) = self.network.poll_delivery(self.now) {
            self.arrive(delivery);
        }
        for index in [ALICE, BOB, MALLORY] {
            let engine = &mut self.machines[index].engine;
            if engine.poll_timeout().is_some_and(|at| at <= self.now) {
                engine.handle_timeout(self.now);
                self.drain(index);
            }
        }
        None
    }

    /// A packet of the honest tunnel in each direction.
    fn converse(&mut self, number: u64) {
        for (from, to) in [(ALICE, BOB), (BOB, ALICE)] {
            let [source, destination] = [from, to]
                .map(|index| SocketAddr::new(self.machines[index].overlay(), TRAFFIC_PORT));
            let packet = udp(source, destination, &number.to_be_bytes());
            self.machines[from].send(&packet, self.now);
            self.drain(from);
        }
        self.schedule(TRAFFIC, Due::Traffic(number + 1));
    }

    fn look(&mut self) {
        let engine = &self.machines[ALICE].engine;
        let sizes = engine.table_sizes();
        let status = [BOB, MALLORY].map(|peer| engine.link_status(HANDLES[peer], self.now));
        let agents = status.into_iter().flatten().filter_map(|link| link.agent);
        let pairs = agents.map(|agent| agent.pairs.len()).max().unwrap_or(0);
        let streams = shares().map(|key| key.map_or(0, |key| engine.forward_counts(key).open));
        self.tally.sizes(&sizes, pairs, streams);
        let report = engine.peer_report(HANDLES[MALLORY]);
        self.tunnel |= report.is_some_and(|report| report.established);
        let connector = &mut self.sizes.connector;
        connector.transactions = connector.transactions.max(sizes.connector.transactions);
        connector.sockets = connector.sockets.max(sizes.connector.sockets);
        self.sizes.fragmented = self.sizes.fragmented.max(sizes.fragmented);
        self.sizes.sessions = self.sizes.sessions.max(sizes.sessions);
        self.schedule(Duration::from_secs(1), Due::Look);
    }

    // --- the network ---

    /// Ends a machine's turn: sends what it has to send.
    pub(super) fn drain(&mut self, index: usize) {
        let Turn {
            datagrams,
            signals,
            dials,
            ..
        } = self.machines[index].drain(self.now);
        for to in dials.into_iter().filter(|_| index == ALICE) {
            let second = self.second();
            self.tally.dial(to.ip(), second);
        }
        for datagram in datagrams {
            if index == ALICE {
                self.note(&datagram);
            }
            let host = self.machines[index].host;
            self.network.send(self.now, host, datagram);
        }
        for signal in signals {
            self.serve(index, signal.server, signal.frame);
        }
    }

    /// Counts what the victim sends to those with whom it has nothing to do.
    fn note(&mut self, datagram: &Datagram) {
        let to = datagram.dst.ip();
        let hosts = [ALICE, BOB].map(|index| self.machines[index].host);
        let is_known = STUN_IPS.iter().any(|ip| to == IpAddr::from(*ip))
            || hosts.iter().any(|host| {
                let own = self.network.addresses(*host).iter();
                own.clone().any(|(zone, ip)| {
                    *ip == to || self.network.gate(*zone).spec().public.contains(&to)
                })
            });
        if !is_known && to != HAND.ip() {
            self.tally.datagram(to, self.second());
        }
    }

    fn arrive(&mut self, delivery: Delivery) {
        let Delivery {
            host,
            from,
            to,
            payload,
        } = delivery;
        if let Some(server) = self
            .servers
            .stun_hosts
            .iter()
            .position(|stun| *stun == host)
        {
            self.answer_stun(server, from, to, &payload);
            return;
        }
        let found = self
            .machines
            .iter()
            .position(|machine| machine.host == host);
        let Some(index) = found else { return };
        if index == MALLORY && self.machines[MALLORY].socket_at(to.port()).is_none() {
            let answer = self.mallory.handle_check(from, to, &payload, self.now);
            if let Some(answer) = answer {
                self.send_by_hand(to, from, answer);
            }
            return;
        }
        if index == ALICE && self.recorded.datagrams.len() < KEPT {
            self.recorded.datagrams.push((from, payload.clone()));
        }
        if let Some(socket) = self.machines[index].socket_at(to.port()) {
            self.machines[index].receive(socket, Some(to.ip()), from, &payload, self.now);
            self.drain(index);
        }
    }

    /// A datagram from a port of the malicious peer that its engine does not have.
    fn send_by_hand(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        let datagram = Datagram {
            src: from,
            dst: to,
            ttl: 64,
            payload,
        };
        let host = self.machines[MALLORY].host;
        self.network.send(self.now, host, datagram);
    }

    /// A datagram at the victim's main socket, from wherever the adversary says, past every NAT.
    pub(super) fn inject(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.machines[ALICE].receive(SocketId::MAIN_V4, None, from, bytes, self.now);
        self.drain(ALICE);
    }

    fn answer_stun(&mut self, server: usize, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mode = match server {
            0 => Stun::Honest,
            _ => self.servers.stun,
        };
        let random = self.mallory.dice.below(u32::MAX);
        let seen = match mode {
            Stun::Silent => return,
            Stun::Honest | Stun::Late | Stun::Junk => from,
            Stun::Stranger => stranger(9, 9999),
            Stun::Random => {
                let [a, b, ..] = random.to_be_bytes();
                stranger(random, u16::from_be_bytes([a, b]).max(1))
            }
            Stun::Private => SocketAddr::new(IpAddr::from([10, 1, 10, 77]), 4000),
        };
        let [first, second] = [STUN_IPS[2 * server], STUN_IPS[2 * server + 1]].map(IpAddr::from);
        let other = if to.ip() == first { second } else { first };
        let port = if to.port() == STUN_PORT {
            STUN_PORT + 1
        } else {
            STUN_PORT
        };
        let endpoint = Endpoint {
            local: to,
            other: Some(SocketAddr::new(other, port)),
            samples: Some(SAMPLE_PORTS),
        };
        let Some(answer) = respond(payload, seen, endpoint) else {
            return;
        };
        // RESPONSE-PORT may ask for another port than the request's.
        let asked = answer.to != seen;
        let dst = SocketAddr::new(from.ip(), answer.to.port());
        let mut datagram = Datagram {
            src: answer.from,
            dst: if asked { dst } else { from },
            ttl: 64,
            payload: answer.bytes,
        };
        if mode == Stun::Junk {
            let at = random as usize % datagram.payload.len();
            datagram.payload[at] ^= 0x55;
        }
        let host = self.servers.stun_hosts[server];
        if mode == Stun::Late {
            let late = Duration::from_millis(u64::from(random % 3000));
            self.schedule(late, Due::Send(host, datagram.clone()));
        }
        self.network.send(self.now, host, datagram);
    }

    // --- signalling ---

    /// A frame comes to a server.
    fn serve(&mut self, from: usize, server: ServerId, frame: Frame) {
        // A malicious one may well get as much as it asks for.
        if from == ALICE && server == GOOD {
            self.tally.frame(self.second());
        }
        match frame {
            Frame::Send { to, envelope } => self.pass_on(from, server, to, envelope),
            Frame::Watch(id) => {
                let answer = Due::Frame(from, server, Frame::Appeared(id));
                self.schedule(2 * SIGNAL_DELAY, answer);
            }
            Frame::RelayJoin(token) if from == ALICE && self.recorded.tokens.len() < KEPT => {
                self.recorded.tokens.push(token);
            }
            _ => {}
        }
    }

    /// An envelope is to be passed on.
    pub(super) fn pass_on(&mut self, from: usize, server: ServerId, to: PeerId, envelope: Vec<u8>) {
        let receiver = [ALICE, BOB, MALLORY]
            .into_iter()
            .find(|index| self.id(*index) == to);
        let Some(receiver) = receiver else {
            let why = Unreachable::Offline;
            let answer = Due::Frame(from, server, Frame::Unreachable { to, why });
            self.schedule(2 * SIGNAL_DELAY, answer);
            return;
        };
        if from == ALICE && Kind::of(&envelope) == Some(Kind::Offer) {
            self.tally.offer(server, to, self.millis());
        }
        let mut from = self.id(from);
        if receiver == ALICE && self.recorded.envelopes.len() < KEPT {
            self.recorded.envelopes.push((from, envelope.clone()));
        }
        if server == EVIL {
            match self.servers.mail {
                Mail::Honest => {}
                Mail::Lost => return,
                Mail::Twice => {
                    let again = envelope.clone();
                    let again = Frame::Deliver {
                        from,
                        envelope: again,
                    };
                    let late = Due::Frame(receiver, server, again);
                    self.schedule(Duration::from_secs(2), late);
                }
                Mail::Misnamed => from = self.id(BOB),
            }
        }
        let frame = Frame::Deliver { from, envelope };
        self.schedule(2 * SIGNAL_DELAY, Due::Frame(receiver, server, frame));
    }

    fn deliver(&mut self, to: usize, server: ServerId, frame: Frame) {
        if to == MALLORY
            && let Frame::Deliver { from, envelope } = &frame
        {
            let (wall, from) = (self.wall(), *from);
            let hands = &mut self.mallory;
            let (answer, taken) = hands.handle_envelope(from, envelope, wall, self.now);
            if let Some(answer) = answer {
                self.pass_on(MALLORY, server, from, answer);
            }
            if taken {
                return;
            }
        }
        let engine = &mut self.machines[to].engine;
        engine.handle_frame(server, frame, self.now);
        self.drain(to);
    }

    // --- the end ---

    /// What came of it.
    pub(super) fn finish(mut self) -> Outcome {
        let most = self.machines[ALICE].most;
        self.tally.turns(most);
        Outcome {
            heard: [ALICE, BOB].map(|index| self.machines[index].heard.len()),
            most,
            sizes: self.sizes,
            stranger: self.tally.most_within(60),
            searches: self.machines[ALICE].searches_in_a_minute(),
            frames: self.tally.frames_in_a_second(),
            offers_beyond: self.tally.offers_beyond(),
            dialled: self.tally.has_dialled(),
            tunnel: self.tunnel,
            offenses: self.tally.finish(),
        }
    }
}
