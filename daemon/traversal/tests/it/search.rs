//! Searches for ports: what they cost, how they end, and what is left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Budget, Candidate};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use punch_traversal::{
    Agent, AgentConfig, AgentEvent, Allocation, Caps, Filtering, MAX_PROBES, Mapping, NatSummary,
    Outcome, Part, Plan, Prediction, Role, SocketId, StepKind, StepReport, Transmit,
};

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
            tells: addr("192.0.2.5:50000"),
            predicts: true,
            told: None,
            allowance: caps.mappings,
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
            let fits = self.opened.len() < self.can_open;
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
        let bytes = if transmit.to == addr(SAMPLER) && self.server {
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
            .priority(99)
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
        .map(|(name, mine, theirs, role, kind)| (name, ends(mine, theirs, role), kind))
        .collect()
}

// --- the budget ---

#[test]
fn no_search_ever_exceeds_its_budget_and_nothing_is_left_of_it() {
    for budget in BUDGETS {
        for (name, config, kind) in every_search(budget) {
            let caps = Caps::of(budget);
            let mine = config.mine.clone().unwrap();
            let mut machine = Machine::new(config);

            machine.run(secs(90));

            let label = format!("{name}, {budget:?}");
            let report = machine.report();
            let searched = machine.searched();
            assert_eq!(report.kind, kind, "{label}");
            assert_eq!(report.outcome, Outcome::Exhausted, "{label}");
            assert_eq!(report.packets as usize, searched.len(), "{label}");
            let most = peak(searched.iter().map(|(at, _)| *at));
            assert!(most <= caps.rate as usize, "{label}: {most} in a second");
            let mut per_ip: BTreeMap<IpAddr, u32> = BTreeMap::new();
            for (_, transmit) in &searched {
                *per_ip.entry(transmit.to.ip()).or_default() += 1;
            }
            assert!(
                per_ip.values().all(|count| *count <= caps.packets()),
                "{label}"
            );
            assert!(searched.len() <= caps.packets() as usize, "{label}");

            let made = mappings(&mine, &searched);
            assert!(made <= caps.mappings as usize, "{label}: {made} mappings");
            assert!(
                made <= report.mappings as usize,
                "{label}: {made} made, {} reported",
                report.mappings
            );

            // The ordinary checks beside it keep to their own limit.
            let checks = machine.sent.len() - searched.len();
            let pairs = machine.agent.status(machine.now).pairs.len().max(8);
            assert!(checks <= pairs * MAX_PROBES as usize, "{label}: {checks}");

            assert_eq!(machine.count(&AgentEvent::Failed), 1, "{label}");
            let over = AgentEvent::SearchOver {
                mappings: report.mappings,
                found: false,
            };
            assert_eq!(machine.count(&over), 1);
            assert!(machine.is_clean(), "{label}: sockets stay open");
            assert_eq!(machine.agent.sockets().count(), 0, "{label}");
            assert_eq!(machine.agent.poll_timeout(), None, "{label}");
            assert!(
                report.took <= caps.duration + secs(2),
                "{label}: {:?}",
                report.took
            );
        }
    }
}

#[test]
fn a_search_makes_no_more_mappings_than_it_is_allowed_to() {
    for (name, config, _) in every_search(Budget::Normal) {
        let translated = config.mine.as_ref().unwrap().mapping;
        if translated != Some(Mapping::AddressAndPortDependent) {
            continue;
        }
        let mut machine = Machine::new(config);
        machine.allowance = 100;

        machine.run(secs(60));

        let made = mappings(&hard(FULL, Budget::Normal), &machine.searched());
        assert!(made <= 100, "{name}: {made}");
        assert!(machine.is_clean(), "{name}");
    }
}

#[test]
fn a_question_where_the_sequence_stands_makes_a_mapping_that_counts_too() {
    for role in [Role::Controlling, Role::Controlled] {
        let nat = |step| hard(sequence(step), Budget::Gentle);
        let mut machine = Machine::new(ends(nat(1), nat(-1), role));

        machine.run(secs(60));

        let searched = machine.searched();
        let made: BTreeSet<_> = searched.iter().map(|(_, t)| (t.socket, t.to)).collect();
        assert!(made.len() <= 256, "{}", made.len());
    }
}

#[test]
fn where_every_address_takes_a_mapping_every_address_is_counted() {
    let per_address = |nat| NatSummary {
        mapping: Some(Mapping::AddressDependent),
        ..nat
    };
    let many = |nat| NatSummary {
        addresses: (1..=8).map(|n| [203, 0, 113, n].into()).collect(),
        ..nat
    };
    let budget = Budget::Gentle;
    for (mine, theirs) in [
        (per_address(hard(FULL, budget)), many(easy(budget))),
        (
            per_address(hard(FULL, budget)),
            many(per_address(hard(FULL, budget))),
        ),
    ] {
        let mut machine = Machine::between(mine.clone(), theirs);

        machine.run(secs(60));

        let made = mappings(&mine, &machine.searched());
        let told = machine.report().mappings as usize;
        assert!(made <= told, "{made} made, {told} reported");
        assert!(made <= Caps::of(budget).mappings as usize, "{made}");
    }
}

#[test]
fn checks_and_search_together_keep_to_the_gentle_rate() {
    let mut config = ends(
        hard(FULL, Budget::Gentle),
        hard(FULL, Budget::Gentle),
        Role::Controlling,
    );
    config.candidates = (1..=32)
        .map(|n| host(&format!("192.168.7.{n}:4000")))
        .chain([reflexive(PEER)])
        .collect();
    let mut machine = Machine::new(config);

    machine.run(secs(60));

    let most = peak(machine.sent.iter().map(|(at, _)| *at));
    assert!(most <= 100, "{most} packets in a second");
}

#[test]
fn a_search_for_which_there_is_time_spends_what_it_planned() {
    for budget in BUDGETS {
        for (name, config, _) in every_search(budget) {
            let (mine, theirs) = (config.mine.clone(), config.theirs.clone());
            let plan = Plan::new(config.role, mine.as_ref(), theirs.as_ref());
            let step = plan.search.unwrap();
            let random = matches!(step.part, Part::Probe { .. } | Part::Birthday { .. })
                && !matches!(
                    theirs.unwrap().allocation,
                    Some(Allocation::Sequential { .. })
                );
            if !random {
                continue;
            }
            let mut machine = Machine::new(config);

            machine.run(secs(60));

            let (planned, spent) = (step.packets, machine.report().packets);
            assert!(spent <= planned, "{name}, {budget:?}: {spent} of {planned}");
            assert!(
                f64::from(spent) >= 0.9 * f64::from(planned),
                "{name}, {budget:?}: {spent} of {planned}"
            );
        }
    }
}

#[test]
fn the_chance_of_a_meeting_with_a_random_side_is_what_its_packets_make_it() {
    for budget in BUDGETS {
        let mine = hard(FULL, budget);
        let theirs = hard(sequence(1), budget);
        let step = Plan::new(Role::Controlling, Some(&mine), Some(&theirs)).search;
        let mut machine = Machine::between(mine, theirs);
        machine.predicts = false;

        // The mover tells anew where its sequence stands, more often than it does in truth.
        for round in 0..120 {
            machine.tell(round);
            machine.run(ms(500));
        }

        let made = f64::from(machine.report().mappings);
        let possible = 1.0 - (-made / 64_512.0).exp();
        let promised = step.unwrap().chance;
        assert!(
            promised <= possible + 0.01,
            "{budget:?}: {promised:.3} of {possible:.3}"
        );
    }
}

#[test]
fn a_peer_that_names_the_addresses_of_others_makes_no_flood_of_us() {
    for budget in BUDGETS {
        for mine in [easy(budget), hard(FULL, budget), hard(sequence(1), budget)] {
            for allocation in [FULL, block(1024), sequence(1)] {
                let victims: Vec<_> = (1..=8).map(|n| [198, 18, 0, n].into()).collect();
                let liar = NatSummary {
                    addresses: victims.clone(),
                    ..hard(allocation, Budget::Aggressive)
                };
                let mut config = ends(mine.clone(), liar, Role::Controlled);
                config.candidates = (1..=32)
                    .map(|port| reflexive(&format!("198.18.0.1:{port}")))
                    .collect();
                let mut machine = Machine::new(config);

                machine.run(secs(60));

                let searched = machine.searched();
                let mut per_ip: BTreeMap<IpAddr, u32> = BTreeMap::new();
                for (_, transmit) in &searched {
                    *per_ip.entry(transmit.to.ip()).or_default() += 1;
                }
                let cap = Caps::of(budget).packets();
                assert!(per_ip.values().sum::<u32>() <= cap, "{budget:?} {per_ip:?}");
                let searched: BTreeSet<_> = searched.iter().map(|(_, t)| t.bytes.clone()).collect();
                let mut checks: BTreeMap<SocketAddr, u32> = BTreeMap::new();
                for (_, transmit) in &machine.sent {
                    if !searched.contains(&transmit.bytes) {
                        *checks.entry(transmit.to).or_default() += 1;
                    }
                }
                assert!(
                    checks.values().all(|count| *count <= MAX_PROBES),
                    "{checks:?}"
                );
            }
        }
    }
}

#[test]
fn a_peer_that_names_addresses_that_nobody_can_send_to_has_none_of_them_searched() {
    for mine in [easy(Budget::Normal), hard(FULL, Budget::Normal)] {
        let liar = NatSummary {
            addresses: [
                [127, 0, 0, 1],
                [0, 0, 0, 0],
                [224, 0, 0, 1],
                [255, 255, 255, 255],
                [169, 254, 0, 1],
            ]
            .map(Into::into)
            .to_vec(),
            ..hard(FULL, Budget::Normal)
        };
        let mut machine = Machine::between(mine, liar);

        machine.run(secs(60));

        let peer = addr(PEER).ip();
        let to_others = |(_, t): &&(Duration, Transmit)| t.to.ip() != peer;
        assert_eq!(machine.sent.iter().filter(to_others).count(), 0);
    }
}

#[test]
fn a_birthday_walk_never_takes_a_socket_and_a_port_twice() {
    for allocation in [FULL, block(1024), block(1000), block(1)] {
        for addresses in [1, 3, 8] {
            let theirs = NatSummary {
                addresses: (1..=addresses).map(|n| [203, 0, 113, n].into()).collect(),
                ..hard(allocation, Budget::Normal)
            };
            let mut config = ends(hard(FULL, Budget::Normal), theirs, Role::Controlling);
            config.candidates = vec![reflexive("203.0.113.1:4000")];
            let mut machine = Machine::new(config);

            machine.run(secs(60));

            let searched = machine.searched();
            let pairs: BTreeSet<_> = searched.iter().map(|(_, t)| (t.socket, t.to)).collect();
            assert_eq!(pairs.len(), searched.len());
            assert!(!pairs.is_empty());
        }
    }
}

#[test]
fn a_birthday_walk_over_a_block_leaves_no_port_of_any_address_out() {
    let theirs = NatSummary {
        addresses: vec![[203, 0, 113, 9].into(), [203, 0, 113, 10].into()],
        ..hard(block(256), Budget::Normal)
    };
    let mut machine = Machine::between(hard(FULL, Budget::Normal), theirs);

    machine.run(secs(60));

    let searched = machine.searched();
    let pairs: BTreeSet<_> = searched.iter().map(|(_, t)| (t.socket, t.to)).collect();
    assert_eq!(pairs.len(), 4 * 2 * 256);
}

#[test]
fn who_holds_sends_packets_that_do_not_reach_the_peer() {
    for (measured, expected) in [(None, 5), (Some(3), 3)] {
        let mut config = ends(
            hard(FULL, Budget::Normal),
            easy(Budget::Normal),
            Role::Controlling,
        );
        config.opening_ttl = measured;
        let mut machine = Machine::new(config);
        machine.run(secs(5));
        let searched = machine.searched();
        assert!(searched.iter().all(|(_, t)| t.ttl == Some(expected)));
        assert!(searched.len() >= 256);
    }
}

#[test]
fn who_probes_sends_packets_that_reach_the_peer() {
    let mut machine = Machine::between(easy(Budget::Normal), hard(FULL, Budget::Normal));
    machine.run(secs(5));
    assert!(machine.searched().iter().all(|(_, t)| t.ttl.is_none()));
}

// --- what goes wrong ---

#[test]
fn with_fewer_sockets_than_it_asked_for_a_search_makes_do() {
    for (name, config, kind) in every_search(Budget::Normal) {
        let mut machine = Machine::new(config);
        machine.can_open = 1;

        machine.run(secs(60));

        let report = machine.report();
        assert_eq!(
            (report.kind, report.outcome),
            (kind, Outcome::Exhausted),
            "{name}"
        );
        assert!(report.packets > 0, "{name}");
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
        assert!(machine.is_clean(), "{name}");
    }
}

#[test]
fn without_any_socket_a_search_that_needs_some_says_so() {
    for (name, config, _) in every_search(Budget::Normal) {
        let mut machine = Machine::new(config);
        machine.can_open = 0;

        machine.run(secs(60));

        let report = machine.report();
        if name.starts_with("probes") {
            assert_eq!(report.outcome, Outcome::Exhausted, "{name}");
        } else {
            assert_eq!(report.outcome, Outcome::NoSockets, "{name}");
            assert!(report.refused_sockets > 0, "{name}");
            assert_eq!((report.packets, report.mappings), (0, 0), "{name}");
        }
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
    }
}

#[test]
fn a_search_whose_sockets_never_come_ends_all_the_same() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), hard(FULL, Budget::Normal));
    machine.may_search = false;
    machine.run(secs(1));
    let now = machine.now;
    machine.agent.start_search(4096, now);
    while machine.agent.poll_event().is_some() {}

    machine.run(secs(60));

    assert_eq!(machine.report().outcome, Outcome::Exhausted);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    // One that comes at last is closed at once.
    machine.opened.insert(SocketId(99));
    let now = machine.now;
    machine.agent.handle_socket(Some(SocketId(99)), now);
    machine.run(ms(1));
    assert_eq!(machine.closed, [SocketId(99)]);
}

#[test]
fn where_a_search_fails_before_it_begins_the_agent_still_says_that_it_failed() {
    // The ordinary checks are over when the machine's budget lets the search begin, and then there are no sockets.
    let mut machine = Machine::between(hard(FULL, Budget::Normal), hard(FULL, Budget::Normal));
    machine.may_search = false;
    machine.run(secs(60));
    assert_eq!(machine.count(&AgentEvent::Failed), 0, "it still waits");

    machine.may_search = true;
    machine.can_open = 0;
    machine.run(secs(60));

    assert_eq!(machine.report().outcome, Outcome::NoSockets);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn a_search_that_is_refused_leads_to_failure() {
    for (name, config, _) in every_search(Budget::Normal) {
        let mut machine = Machine::new(config);
        machine.may_search = false;
        machine.run(ms(500));
        assert!(machine.agent.wants_search(machine.now), "{name}");

        let now = machine.now;
        machine.agent.refuse_search(now);
        machine.may_search = true;
        machine.run(secs(60));

        assert!(machine.agent.was_refused(), "{name}");
        assert_eq!(machine.report().outcome, Outcome::OverBudget, "{name}");
        assert_eq!(machine.searched().len(), 0, "{name}");
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
        assert!(!machine.agent.has_search() && machine.is_clean(), "{name}");
    }
}

#[test]
fn a_search_that_is_refused_when_all_checks_are_over_leads_to_failure() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), hard(FULL, Budget::Normal));
    machine.may_search = false;
    machine.run(secs(60));

    let now = machine.now;
    machine.agent.refuse_search(now);
    machine.run(secs(60));

    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn a_search_for_which_the_peer_has_named_no_target_does_not_keep_the_agent_from_failing() {
    let nowhere = NatSummary {
        addresses: Vec::new(),
        ..easy(Budget::Normal)
    };
    let mut config = ends(hard(FULL, Budget::Normal), nowhere, Role::Controlling);
    config.candidates = vec![host("192.168.7.7:4000")];
    let mut machine = Machine::new(config);

    machine.run(secs(120));

    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn a_target_that_is_named_later_lets_the_search_begin() {
    let nowhere = NatSummary {
        addresses: Vec::new(),
        ..easy(Budget::Normal)
    };
    let mut config = ends(hard(FULL, Budget::Normal), nowhere, Role::Controlling);
    config.candidates = vec![host("192.168.7.7:4000")];
    let mut machine = Machine::new(config);
    machine.run(secs(2));
    assert_eq!(machine.report().outcome, Outcome::Waiting);

    let now = machine.now;
    machine.agent.handle_candidates(vec![reflexive(PEER)], now);
    machine.run(secs(1));

    assert_eq!(machine.report().outcome, Outcome::Running);
    assert!(machine.searched().len() >= 256);
}

// --- predictions ---

#[test]
fn a_prediction_that_never_comes_ends_the_search() {
    for (name, config, _) in every_search(Budget::Normal) {
        let needs = matches!(
            config.theirs.as_ref().unwrap().allocation,
            Some(Allocation::Sequential { .. })
        );
        let mut machine = Machine::new(config);
        machine.predicts = false;

        machine.run(secs(60));

        let expected = if needs {
            Outcome::NoPrediction
        } else {
            Outcome::Exhausted
        };
        assert_eq!(machine.report().outcome, expected, "{name}");
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
        assert!(machine.is_clean(), "{name}");
    }
}

#[test]
fn a_sequence_of_which_no_server_tells_ends_the_search() {
    for mine in [
        hard(sequence(1), Budget::Normal),
        hard(sequence(-3), Budget::Normal),
    ] {
        for theirs in [easy(Budget::Normal), hard(sequence(2), Budget::Normal)] {
            for samplers in [vec![], vec![addr(SAMPLER)]] {
                let mut config = ends(mine.clone(), theirs.clone(), Role::Controlling);
                config.samplers = samplers;
                let mut machine = Machine::new(config);
                machine.server = false;

                machine.run(secs(60));

                assert_eq!(machine.report().outcome, Outcome::NoPrediction);
                assert!(machine.searched().len() <= 8);
                assert_eq!(machine.count(&AgentEvent::Failed), 1);
                assert!(machine.is_clean());
            }
        }
    }
}

#[test]
fn the_sequence_is_told_to_the_peer() {
    let mut machine = Machine::between(hard(sequence(1), Budget::Normal), easy(Budget::Normal));
    machine.run(secs(3));
    let expected = AgentEvent::Predicted(Prediction {
        round: 0,
        port: 50_000,
    });
    assert_eq!(machine.count(&expected), 1);
}

#[test]
fn a_prediction_that_comes_before_the_search_is_kept_for_it() {
    let mut machine = Machine::between(easy(Budget::Normal), hard(sequence(1), Budget::Normal));
    machine.predicts = false;
    let now = machine.now;
    let prediction = Prediction {
        round: 0,
        port: 30_000,
    };
    machine.agent.handle_prediction(prediction, now);

    machine.run(secs(60));

    let ports: Vec<_> = machine
        .searched()
        .iter()
        .map(|(_, t)| t.to.port())
        .collect();
    // The middle of what 16 mappings in a row may have comes first.
    assert_eq!(ports[..3], [30_008, 30_007, 30_009]);
    assert_eq!(machine.report().outcome, Outcome::Exhausted);
}

#[test]
fn a_prediction_that_comes_twice_counts_once() {
    let run = |times: usize| {
        let mut machine = Machine::between(easy(Budget::Normal), hard(sequence(1), Budget::Normal));
        for _ in 0..times {
            machine.tell(0);
        }
        machine.predicts = false;
        machine.run(ms(200));
        for _ in 1..times {
            machine.tell(0);
        }
        machine.run(secs(60));
        machine.sent
    };
    assert_eq!(run(1), run(5));
}

#[test]
fn absurd_predictions_and_steps_cost_no_more_than_good_ones() {
    for budget in [Budget::Gentle, Budget::Normal] {
        for step in [-1, i16::MAX, i16::MIN] {
            for others in [0, u16::MAX] {
                for port in [0, 1023, 65_535] {
                    for round in [0, 5, 255] {
                        let theirs = hard(Allocation::Sequential { step, others }, budget);
                        let mine = match round {
                            255 => hard(FULL, budget),
                            5 => hard(sequence(1), budget),
                            _ => easy(budget),
                        };
                        let mut machine = Machine::between(mine, theirs);
                        machine.predicts = false;
                        let prediction = Prediction { round, port };
                        machine.agent.handle_prediction(prediction, origin());

                        machine.run(secs(1));

                        let now = machine.now;
                        for round in 0..=255 {
                            let prediction = Prediction { round, port };
                            machine.agent.handle_prediction(prediction, now);
                        }
                        machine.run(secs(60));

                        let caps = Caps::of(budget);
                        let searched = machine.searched();
                        assert!(searched.len() <= caps.packets() as usize);
                        let most = peak(searched.iter().map(|(at, _)| *at));
                        assert!(most <= caps.rate as usize, "{most}");
                        assert!(searched.iter().all(|(_, t)| t.to.port() >= 1024));
                        assert_eq!(machine.count(&AgentEvent::Failed), 1);
                        assert!(machine.is_clean());
                    }
                }
            }
        }
    }
}

// --- success ---

#[test]
fn a_search_that_finds_a_path_stops_at_once_and_keeps_only_the_path_s_socket() {
    let target = addr("203.0.113.9:32800");
    let theirs = hard(block(1024), Budget::Normal);
    let mut machine = Machine::between(hard(FULL, Budget::Normal), theirs);
    machine.answers_at = Some((Some(SocketId(12)), target));

    machine.run(secs(30));

    let path = machine.agent.path().unwrap();
    assert_eq!((path.socket, path.remote), (SocketId(12), target));
    assert_eq!(machine.report().outcome, Outcome::Found);
    let found = machine
        .events
        .iter()
        .find(|(_, event)| matches!(event, AgentEvent::Selected(_)))
        .unwrap()
        .0;
    assert!(machine.searched().iter().all(|(at, _)| *at <= found));
    let closes: Vec<_> = machine
        .events
        .iter()
        .filter(|(_, event)| matches!(event, AgentEvent::CloseSocket(_)))
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(closes.len(), machine.opened.len() - 1);
    assert!(
        closes
            .iter()
            .all(|at| *at >= found + secs(1) && *at <= found + ms(1100))
    );
    assert!(!machine.closed.contains(&path.socket));
    assert_eq!(machine.agent.sockets().collect::<Vec<_>>(), [path.socket]);
    assert_eq!(machine.count(&AgentEvent::Failed), 0);
}

#[test]
fn a_path_that_the_peer_s_check_finds_ends_the_search_too() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), easy(Budget::Normal));
    machine.run(secs(2));
    assert!(machine.agent.is_searching());
    let socket = SocketId(20);
    assert!(machine.opened.contains(&socket));

    machine.answers_at = Some((Some(socket), addr(PEER)));
    machine.ask(socket, addr(PEER));
    machine.run(secs(20));

    let path = machine.agent.path().unwrap();
    assert_eq!((path.socket, path.remote), (socket, addr(PEER)));
    assert_eq!(machine.report().outcome, Outcome::Found);
    assert!(!machine.closed.contains(&socket));
    assert_eq!(machine.closed.len(), machine.opened.len() - 1);
}

#[test]
fn when_a_path_of_a_search_dies_its_socket_closes() {
    let target = addr("203.0.113.9:32800");
    let theirs = hard(block(1024), Budget::Normal);
    let mut machine = Machine::between(hard(FULL, Budget::Normal), theirs);
    machine.answers_at = Some((Some(SocketId(12)), target));
    machine.run(secs(30));
    assert!(machine.agent.path().is_some());

    machine.answers_at = None;
    machine.run(secs(60));

    assert_eq!(machine.count(&AgentEvent::Lost), 1);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    assert!(machine.is_clean());
}

#[test]
fn where_checks_find_a_path_first_no_search_is_made() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), easy(Budget::Normal));
    machine.answers_at = Some((Some(SocketId::MAIN_V4), addr(PEER)));
    machine.may_search = false;
    machine.run(secs(5));

    assert_eq!(machine.agent.path().unwrap().socket, SocketId::MAIN_V4);
    assert_eq!(machine.report().outcome, Outcome::NotNeeded);
    assert!(!machine.agent.wants_search(machine.now) && !machine.agent.has_search());
    assert_eq!(machine.opened.len(), 0);
}

#[test]
fn a_socket_that_comes_after_the_path_was_found_is_closed_at_once() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), hard(FULL, Budget::Normal));
    machine.may_search = false;
    machine.run(secs(1));
    let now = machine.now;
    machine.agent.start_search(4096, now);
    while machine.agent.poll_event().is_some() {}
    machine.answers_at = Some((None, addr(PEER)));
    machine.run(secs(3));
    assert!(machine.agent.path().is_some());

    machine.opened.insert(SocketId(50));
    let now = machine.now;
    machine.agent.handle_socket(Some(SocketId(50)), now);
    machine.run(ms(1));

    assert_eq!(machine.closed, [SocketId(50)]);
}

#[test]
fn what_a_search_hears_from_where_it_has_sent_nothing_or_without_a_password_is_not_believed() {
    let mut machine = Machine::between(
        hard(FULL, Budget::Normal),
        hard(block(1024), Budget::Normal),
    );
    machine.run(secs(1));
    let (_, probe) = (*machine.searched().last().unwrap()).clone();
    let id = Message::parse(&probe.bytes).unwrap().transaction;
    let success = || Writer::new(Class::Success, id).xor_mapped(addr("192.0.2.5:1"));
    let good = success().finish_with_integrity(&credentials(2).password);
    let now = machine.now;
    for (socket, from, bytes) in [
        (probe.socket, probe.to, success().finish()),
        (
            probe.socket,
            probe.to,
            success().finish_with_integrity(&credentials(1).password),
        ),
        (probe.socket, addr("203.0.113.77:40000"), good.clone()),
        (SocketId(77), probe.to, good.clone()),
        (SocketId::MAIN_V4, probe.to, good.clone()),
    ] {
        let message = Message::parse(&bytes).unwrap();
        assert!(machine.agent.owns(&message));
        machine.agent.handle_response(socket, from, &message, now);
        assert_eq!(machine.agent.path(), None, "{socket:?} {from}");
    }
    let message = Message::parse(&good).unwrap();
    machine
        .agent
        .handle_response(probe.socket, probe.to, &message, now);
    assert_eq!(machine.agent.path().unwrap().remote, probe.to);
}

#[test]
fn what_worked_last_time_is_tried_at_once() {
    let begins = |remembered| {
        let mut config = ends(
            hard(FULL, Budget::Normal),
            easy(Budget::Normal),
            Role::Controlling,
        );
        config.remembered = remembered;
        Machine::new(config).agent.search_at().unwrap() - origin()
    };
    assert_eq!(begins(Some(StepKind::HoldAndProbe)), ms(0));
    assert!(begins(None) > ms(0));
    assert!(begins(Some(StepKind::Birthday)) > ms(0));
}

#[test]
fn the_same_seed_gives_the_same_search_and_another_one_another() {
    let run = |seed| {
        let mut config = ends(
            hard(FULL, Budget::Gentle),
            hard(FULL, Budget::Gentle),
            Role::Controlling,
        );
        config.seed = seed;
        let mut machine = Machine::new(config);
        machine.run(secs(3));
        machine.sent
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

// --- a fresh socket for another attempt ---

fn again(candidates: Vec<Candidate>) -> Machine {
    let mine = NatSummary {
        attempt: 1,
        ..easy(Budget::Normal)
    };
    let mut config = ends(mine, easy(Budget::Normal), Role::Controlling);
    config.candidates = candidates;
    Machine::new(config)
}

#[test]
fn another_attempt_checks_public_addresses_from_a_fresh_socket_and_tells_its_own() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);

    machine.run(secs(60));

    for (_, transmit) in &machine.sent {
        let local = transmit.to == addr("192.168.7.7:4000");
        assert_eq!(transmit.socket == SocketId::MAIN_V4, local, "{transmit:?}");
    }
    let probes = machine.sent.iter().filter(|(_, t)| t.to == addr(PEER));
    assert_eq!(probes.count(), MAX_PROBES as usize);
    let told = AgentEvent::Reflexive(addr("192.0.2.5:50000"));
    assert_eq!(machine.count(&told), 1);
    assert_eq!(machine.count(&AgentEvent::OpenSockets(1)), 1);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    assert!(machine.is_clean());
}

#[test]
fn nothing_goes_to_a_public_address_before_the_fresh_socket_is_there() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);
    machine.can_open = 0;
    while machine.agent.poll_event().is_some() {}
    machine.run(secs(5));
    assert!(machine.sent.iter().all(|(_, t)| t.to != addr(PEER)));
    assert_eq!(machine.count(&AgentEvent::Failed), 0, "it still waits");

    // It cannot be opened: the long-lived one must do.
    let now = machine.now;
    machine.agent.handle_socket(None, now);
    machine.run(secs(60));

    let probes = machine.sent.iter().filter(|(_, t)| t.to == addr(PEER));
    assert!(probes.clone().all(|(_, t)| t.socket == SocketId::MAIN_V4));
    assert_eq!(probes.count(), MAX_PROBES as usize);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
}

#[test]
fn where_no_server_tells_the_fresh_socket_s_address_it_is_used_all_the_same() {
    let mut machine = again(vec![reflexive(PEER)]);
    machine.server = false;
    machine.answers_at = None;
    machine.run(secs(3));
    machine.answers_at = Some((Some(SocketId(10)), addr(PEER)));
    machine.run(secs(10));

    assert_eq!(machine.agent.path().unwrap().socket, SocketId(10));
    let tells = |(_, event): &&(Duration, AgentEvent)| matches!(event, AgentEvent::Reflexive(_));
    assert_eq!(machine.events.iter().filter(tells).count(), 0);
    let asked = machine.sent.iter().filter(|(_, t)| t.to == addr(SAMPLER));
    assert_eq!(asked.count(), 3);
}

#[test]
fn a_probing_search_of_another_attempt_leaves_from_the_fresh_socket() {
    for server in [true, false] {
        let mine = NatSummary {
            attempt: 2,
            ..easy(Budget::Normal)
        };
        let mut machine = Machine::between(mine, hard(FULL, Budget::Normal));
        machine.server = server;
        machine.run(secs(60));
        let searched = machine.searched();
        let to_peer = searched.iter().filter(|(_, t)| t.to != addr(SAMPLER));
        assert!(to_peer.clone().all(|(_, t)| t.socket == SocketId(10)));
        assert!(to_peer.count() > 1000);
        assert!(machine.is_clean());
    }
}

#[test]
fn behind_a_hard_nat_or_without_servers_another_attempt_needs_no_fresh_socket() {
    let attempt = |nat| NatSummary { attempt: 1, ..nat };
    let hard = attempt(hard(FULL, Budget::Normal));
    let machine = Machine::between(hard, easy(Budget::Normal));
    assert_eq!(machine.events, []);
    let mut config = ends(
        attempt(easy(Budget::Normal)),
        easy(Budget::Normal),
        Role::Controlling,
    );
    config.samplers = Vec::new();
    let mut machine = Machine::new(config);
    machine.run(secs(1));
    assert!(machine.opened.is_empty() && !machine.sent.is_empty());
}

#[test]
fn a_fresh_socket_that_comes_when_a_path_is_there_does_not_stay_for_ever() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);
    machine.answers_at = Some((None, addr("192.168.7.7:4000")));
    while machine.agent.poll_event().is_some() {}
    machine.run(secs(2));
    assert_eq!(machine.agent.path().unwrap().socket, SocketId::MAIN_V4);

    machine.opened.insert(SocketId(10));
    let now = machine.now;
    machine.agent.handle_socket(Some(SocketId(10)), now);
    machine.run(secs(60));

    assert_eq!(machine.closed, [SocketId(10)]);
}

#[test]
fn after_a_failure_nothing_leaves_from_the_closed_fresh_socket() {
    let mut machine = again(vec![reflexive(PEER)]);
    machine.run(secs(60));
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    assert!(machine.is_clean());

    let now = machine.now;
    let more = vec![reflexive("203.0.113.10:5000")];
    machine.agent.handle_candidates(more, now);

    // The machine's own check tells when a packet leaves from a closed socket.
    machine.run(secs(60));
}

#[test]
fn after_a_path_on_another_socket_nothing_leaves_from_the_closed_fresh_socket() {
    let mut machine = again(vec![reflexive(PEER), host("192.168.7.7:4000")]);
    machine.answers_at = Some((None, addr("192.168.7.7:4000")));
    machine.run(secs(5));
    assert!(machine.is_clean() && machine.opened.len() == 1);

    let now = machine.now;
    let more = vec![reflexive("203.0.113.10:5000")];
    machine.agent.handle_candidates(more, now);

    machine.run(secs(60));
}

// --- what is found beside a search ---

#[test]
fn where_a_search_is_refused_or_cannot_begin_the_checks_still_have_their_time() {
    for refuse in [true, false] {
        let mut config = ends(
            hard(FULL, Budget::Normal),
            hard(FULL, Budget::Normal),
            Role::Controlling,
        );
        config.candidates.push(host("192.168.7.7:4000"));
        let mut machine = Machine::new(config);
        machine.can_open = 0;
        machine.may_search = !refuse;
        machine.run(ms(100));
        if refuse {
            let now = machine.now;
            machine.agent.refuse_search(now);
        }
        machine.run(ms(100));
        assert_eq!(machine.count(&AgentEvent::Failed), 0, "refused: {refuse}");

        // A path that takes a while to answer.
        machine.answers_at = Some((None, addr("192.168.7.7:4000")));
        machine.run(secs(5));
        assert!(machine.agent.path().is_some());
        assert_eq!(machine.count(&AgentEvent::Failed), 0);
    }
}

#[test]
fn a_candidate_that_comes_after_a_failed_search_has_its_time() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), hard(FULL, Budget::Normal));
    machine.run(secs(60));
    assert_eq!(machine.count(&AgentEvent::Failed), 1);

    let now = machine.now;
    let late = vec![host("192.168.7.7:4000")];
    machine.agent.handle_candidates(late, now);
    machine.run(secs(1));

    assert_eq!(machine.count(&AgentEvent::Failed), 1, "it has only begun");
    machine.answers_at = Some((None, addr("192.168.7.7:4000")));
    machine.run(secs(3));
    assert!(machine.agent.path().is_some());
}

#[test]
fn a_path_that_a_search_finds_has_room_although_the_peer_has_named_very_many_addresses() {
    let target = addr("203.0.113.1:32800");
    let theirs = NatSummary {
        addresses: (1..=8).map(|n| [203, 0, 113, n].into()).collect(),
        ..hard(block(64), Budget::Normal)
    };
    let mut config = ends(hard(FULL, Budget::Normal), theirs, Role::Controlling);
    config.candidates = (1..=28)
        .map(|n| host(&format!("192.168.7.{n}:4000")))
        .chain((1..=4).map(|n| reflexive(&format!("203.0.113.1:{n}"))))
        .collect();
    let mut machine = Machine::new(config);
    machine.answers_at = Some((Some(SocketId(11)), target));

    machine.run(secs(10));

    let path = machine.agent.path().map(|path| (path.socket, path.remote));
    assert_eq!(path, Some((SocketId(11), target)));
}

#[test]
fn a_lying_server_makes_no_candidate_and_no_prediction() {
    for lie in [
        "0.0.0.0:7",
        "127.0.0.1:7",
        "203.0.113.5:0",
        "[2001:db8::1]:7",
    ] {
        let mut machine = again(vec![reflexive(PEER)]);
        machine.tells = addr(lie);
        machine.run(secs(5));
        let told = AgentEvent::Reflexive(addr(lie));
        assert_eq!(machine.count(&told), 0, "{lie}");

        let mut machine = Machine::between(hard(sequence(1), Budget::Normal), easy(Budget::Normal));
        machine.tells = addr(lie);
        machine.run(secs(5));
        let predicted =
            |(_, event): &&(Duration, AgentEvent)| matches!(event, AgentEvent::Predicted(_));
        assert_eq!(machine.events.iter().filter(predicted).count(), 0, "{lie}");
    }
}

#[test]
fn a_search_that_is_started_twice_is_one_search() {
    let mut machine = Machine::between(hard(FULL, Budget::Normal), easy(Budget::Normal));
    machine.run(secs(1));
    let opened = machine.opened.len();
    assert!(!machine.agent.wants_search(machine.now));
    let now = machine.now;
    machine.agent.start_search(4096, now);
    machine.run(secs(1));
    assert_eq!(machine.opened.len(), opened);
}
