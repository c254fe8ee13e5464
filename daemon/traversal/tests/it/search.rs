//! Searches for ports: what they cost, how they end, and what is left of them.

mod beside;
mod budget;
mod canary;
mod fresh;
mod predictions;
mod success;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Budget, Candidate};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use punch_traversal::{
    Agent, AgentConfig, AgentEvent, Allocation, Caps, Filtering, MAX_PROBES, Mapping, NatSummary,
    Outcome, Part, Plan, Prediction, Role, SearchFacts, SocketId, StepKind, StepReport, Transmit,
};
use punch_traversal::{is_searching, was_refused};

use crate::plan::{FULL, block, easy, hard, sequence};
use crate::{addr, config, credentials, host, ms, origin, reflexive, secs};

const PEER: &str = "203.0.113.9:4000";
const SAMPLER: &str = "198.51.100.1:3478";
const BUDGETS: [Budget; 3] = [Budget::Gentle, Budget::Normal, Budget::Aggressive];

/// An agent and its machine: sockets that open, a STUN server that answers, a peer that may answer.
struct Machine {
    now: Instant,
    agent: Agent,
    /// So many sockets can be opened.
    can_open: usize,
    next_socket: u32,
    opened: BTreeSet<SocketId>,
    closed: Vec<SocketId>,
    /// Whether the STUN server answers.
    server: bool,
    /// Whether it answers new flows, too; the NAT has no ports left for them otherwise.
    new_flows: bool,
    /// So many of the next questions of new flows are lost.
    loses: usize,
    /// What it says.
    tells: SocketAddr,
    /// Whether the peer tells its predictions: when it hears of this side's, and another one twice a second.
    predicts: bool,
    told: Option<(Instant, u8)>,
    /// What the machine's budget has left.
    allowance: u32,
    may_search: bool,
    /// The peer answers a check that comes from this socket (if one is named) to this address.
    answers_at: Option<(Option<SocketId>, SocketAddr)>,
    sent: Vec<(Duration, Transmit)>,
    events: Vec<(Duration, AgentEvent)>,
}

impl Machine {
    fn new(config: AgentConfig) -> Self {
        let caps = Caps::of(
            config
                .mine
                .as_ref()
                .map(|nat| nat.budget)
                .unwrap_or_default(),
        );
        Self {
            now: origin(),
            agent: Agent::new(config, origin()),
            can_open: usize::MAX,
            next_socket: 10,
            opened: BTreeSet::new(),
            closed: Vec::new(),
            server: true,
            new_flows: true,
            loses: 0,
            tells: addr("192.0.2.5:50000"),
            predicts: true,
            told: None,
            allowance: caps.mappings.max(caps.destinations),
            may_search: true,
            answers_at: None,
            sent: Vec::new(),
            events: Vec::new(),
        }
    }

    fn between(mine: NatSummary, theirs: NatSummary) -> Self {
        Self::new(ends(mine, theirs, Role::Controlling))
    }

    fn elapsed(&self) -> Duration {
        self.now - origin()
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        for turn in 0.. {
            assert!(turn < 200_000, "a busy loop at {:?}", self.elapsed());
            self.settle();
            let timeout = self.agent.poll_timeout();
            let starts = self.agent.search_at().filter(|_| self.may_search);
            let tells = self.told.filter(|(_, round)| *round < 7);
            let tells = tells.map(|(at, round)| (at + ms(500), round + 1));
            let next = [timeout, starts, tells.map(|(at, _)| at)];
            let next = next.into_iter().flatten().min().unwrap_or(end);
            if next >= end {
                break;
            }
            self.now = self.now.max(next);
            if let Some((at, round)) = tells.filter(|(at, _)| *at <= self.now) {
                self.told = Some((at, round));
                self.tell(round);
            }
            self.agent.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Lets everything happen that happens now.
    fn settle(&mut self) {
        loop {
            if self.may_search && self.agent.wants_search(self.now) {
                self.agent.start_search(self.allowance, self.now);
                if self.predicts {
                    self.tell(0);
                    self.told = Some((self.now, 0));
                }
            }
            if let Some(event) = self.agent.poll_event() {
                self.events.push((self.elapsed(), event.clone()));
                match event {
                    AgentEvent::OpenSockets(count) => self.open(count),
                    AgentEvent::CloseSocket(socket) => {
                        assert!(self.opened.contains(&socket), "{socket:?} was never opened");
                        assert!(!self.closed.contains(&socket), "{socket:?} closes twice");
                        self.closed.push(socket);
                    }
                    AgentEvent::Predicted(prediction) if self.predicts => {
                        self.tell(prediction.round);
                    }
                    _ => {}
                }
            } else if let Some(transmit) = self.agent.poll_transmit() {
                let socket = transmit.socket;
                assert!(
                    socket == SocketId::MAIN_V4
                        || (self.opened.contains(&socket) && !self.closed.contains(&socket)),
                    "{socket:?} is not open"
                );
                self.sent.push((self.elapsed(), transmit.clone()));
                self.answer(&transmit);
            } else {
                break;
            }
        }
    }

    fn tell(&mut self, round: u8) {
        let port = 30_000 + 100 * u16::from(round);
        let prediction = Prediction { round, port };
        self.agent.handle_prediction(prediction, self.now);
    }

    fn open(&mut self, count: usize) {
        for _ in 0..count {
            let fits = self.opened.len() - self.closed.len() < self.can_open;
            let socket = fits.then_some(SocketId(self.next_socket));
            self.next_socket += 1;
            self.opened.extend(socket);
            self.agent.handle_socket(socket, self.now);
        }
    }

    fn answer(&mut self, transmit: &Transmit) {
        let request = Message::parse(&transmit.bytes).unwrap();
        if request.class != Class::Request {
            return;
        }
        let success = Writer::new(Class::Success, request.transaction);
        let new = transmit.to == addr(SAMPLER) && transmit.socket != SocketId::MAIN_V4;
        if new && self.loses > 0 {
            self.loses -= 1;
            return;
        }
        let bytes = if transmit.to == addr(SAMPLER) && self.server && (self.new_flows || !new) {
            success.xor_mapped(self.tells).finish()
        } else if self.answers_at.is_some_and(|(socket, to)| {
            to == transmit.to && socket.is_none_or(|socket| socket == transmit.socket)
        }) && transmit.ttl.is_none()
        {
            success
                .xor_mapped(addr("192.0.2.5:50000"))
                .finish_with_integrity(&credentials(2).password)
        } else {
            return;
        };
        let message = Message::parse(&bytes).unwrap();
        self.agent
            .handle_response(transmit.socket, transmit.to, &message, self.now);
    }

    /// The peer's check arrives.
    fn ask(&mut self, socket: SocketId, from: SocketAddr) {
        let hex = |bytes: [u8; 8]| bytes.map(|byte| format!("{byte:02x}")).concat();
        let name = format!("{}:{}", hex([1; 8]), hex([2; 8]));
        let bytes = Writer::new(Class::Request, TransactionId([3; 12]))
            .username(name.as_bytes())
            .priority(0x6E7F_FFFF)
            .finish_with_integrity(&credentials(1).password);
        let message = Message::parse(&bytes).unwrap();
        self.agent
            .handle_request(socket, None, from, &message, self.now);
    }

    fn count(&self, event: &AgentEvent) -> usize {
        self.events.iter().filter(|(_, seen)| seen == event).count()
    }

    fn report(&self) -> StepReport {
        let steps = self.agent.status(self.now).steps;
        assert_eq!(steps.len(), 2, "checks and a search: {steps:?}");
        steps[1].clone()
    }

    /// The packets of the search: one request serves it all. Those to STUN servers are among them.
    fn searched(&self) -> Vec<&(Duration, Transmit)> {
        let mut by_bytes: BTreeMap<&[u8], usize> = BTreeMap::new();
        for (_, transmit) in &self.sent {
            *by_bytes.entry(&transmit.bytes).or_default() += 1;
        }
        let of_peer = |bytes: &[u8]| Message::parse(bytes).unwrap().username.is_some();
        let request = by_bytes
            .iter()
            .filter(|(bytes, count)| of_peer(bytes) && **count > 2)
            .map(|(bytes, _)| *bytes)
            .collect::<Vec<_>>();
        assert!(request.len() <= 1, "one search has one request");
        let ours = |(_, t): &&(Duration, Transmit)| {
            t.to == addr(SAMPLER) || request.first().is_some_and(|bytes| *bytes == t.bytes)
        };
        self.sent.iter().filter(ours).collect()
    }

    fn is_clean(&self) -> bool {
        self.closed.len() == self.opened.len()
    }
}

fn ends(mine: NatSummary, theirs: NatSummary, role: Role) -> AgentConfig {
    AgentConfig {
        mine: Some(mine),
        theirs: Some(theirs),
        samplers: vec![addr(SAMPLER)],
        ..config(
            role,
            credentials(1),
            credentials(2),
            vec![reflexive(PEER)],
            7,
        )
    }
}

/// Mappings that these packets to the peer make at a NAT like this.
fn mappings(nat: &NatSummary, packets: &[&(Duration, Transmit)]) -> usize {
    let to_peer = packets.iter().filter(|(_, t)| t.to != addr(SAMPLER));
    let key = |(_, t): &&&(Duration, Transmit)| match nat.mapping {
        Some(Mapping::AddressAndPortDependent) => (t.socket, Some(t.to.ip()), t.to.port()),
        Some(Mapping::AddressDependent) => (t.socket, Some(t.to.ip()), 0),
        _ => (t.socket, None, 0),
    };
    let made: BTreeSet<_> = to_peer.map(|packet| key(&packet)).collect();
    // The long-lived socket's own mapping was there before.
    made.iter()
        .filter(|(socket, ip, _)| ip.is_some() || *socket != SocketId::MAIN_V4)
        .count()
}

/// The most packets in any second, wherever it begins.
fn peak(times: impl Iterator<Item = Duration>) -> usize {
    let times: Vec<_> = times.collect();
    let mut first = 0;
    let mut most = 0;
    for (last, at) in times.iter().enumerate() {
        while *at - times[first] >= secs(1) {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

fn by_address(filtering: Filtering, nat: NatSummary) -> NatSummary {
    NatSummary {
        filtering: Some(filtering),
        ..nat
    }
}

/// One agent of every kind of search, with a name for the reader.
#[expect(clippy::too_many_lines, reason = "one entry for each kind of search")]
fn every_search(budget: Budget) -> Vec<(&'static str, AgentConfig, StepKind)> {
    let nat = |allocation| hard(allocation, budget);
    let easy = easy(budget);
    let many = |nat: NatSummary| NatSummary {
        addresses: (1..=8).map(|n| [203, 0, 113, n].into()).collect(),
        ..nat
    };
    let per_address = |nat| NatSummary {
        mapping: Some(Mapping::AddressDependent),
        ..nat
    };
    let lenient = by_address(Filtering::AddressDependent, nat(FULL));
    let one = Role::Controlling;
    let two = Role::Controlled;
    let hold = StepKind::HoldAndProbe;
    let (meet, birthday) = (StepKind::Meet, StepKind::Birthday);
    let nats = [
        ("holds", nat(FULL), easy.clone(), one, hold),
        ("holds for many", nat(FULL), many(easy.clone()), one, hold),
        (
            "holds in a block",
            nat(block(1024)),
            easy.clone(),
            one,
            hold,
        ),
        (
            "holds a sequence",
            nat(sequence(-2)),
            easy.clone(),
            one,
            hold,
        ),
        (
            "holds, both hard",
            per_address(lenient.clone()),
            nat(FULL),
            one,
            hold,
        ),
        (
            "holds, ADM",
            per_address(nat(FULL)),
            easy.clone(),
            one,
            hold,
        ),
        ("probes all", easy.clone(), nat(FULL), two, hold),
        ("probes many", easy.clone(), many(nat(FULL)), two, hold),
        ("probes a block", easy.clone(), nat(block(1024)), two, hold),
        (
            "probes a sequence",
            easy.clone(),
            nat(sequence(3)),
            two,
            hold,
        ),
        (
            "probes, both hard",
            nat(FULL),
            per_address(lenient),
            two,
            hold,
        ),
        (
            "meets, anchor",
            nat(sequence(1)),
            nat(sequence(-1)),
            one,
            meet,
        ),
        (
            "meets, passes",
            nat(sequence(1)),
            nat(sequence(-1)),
            two,
            meet,
        ),
        ("meets, stays", nat(FULL), nat(sequence(1)), one, meet),
        (
            "meets, moves",
            nat(sequence(1)),
            many(nat(block(1024))),
            one,
            meet,
        ),
        ("birthday", nat(FULL), nat(FULL), one, birthday),
        ("birthday, many", nat(FULL), many(nat(FULL)), two, birthday),
        (
            "birthday, blocks",
            nat(block(1024)),
            nat(block(1024)),
            two,
            birthday,
        ),
        (
            "birthday, a block",
            nat(FULL),
            nat(block(64)),
            two,
            birthday,
        ),
    ];
    nats.into_iter()
        .filter(|(_, mine, theirs, role, _)| {
            // The others are not worth it with this budget.
            Plan::new(*role, Some(mine), Some(theirs)).search.is_some()
        })
        .map(|(name, mine, theirs, role, kind)| (name, ends(mine, theirs, role), kind))
        .collect()
}

fn again(candidates: Vec<Candidate>) -> Machine {
    let mine = NatSummary {
        attempt: 1,
        ..easy(Budget::Normal)
    };
    let mut config = ends(mine, easy(Budget::Normal), Role::Controlling);
    config.candidates = candidates;
    Machine::new(config)
}
