//! Two agents behind two NATs: whether what is planned is what happens.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Budget, Prediction};
use punch_stun_protocol::{Class, Message, Writer};
use punch_traversal::{
    Agent, AgentConfig, AgentEvent, Allocation, Caps, DirectPath, Filtering, Mapping, NatSummary,
    Role, SocketId, Transmit,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::nat::{Depends, Nat};
use crate::network::{A, B};
use crate::{addr, config, credentials, host, ms, origin, reflexive, secs};

const SERVER: &str = "198.51.100.1:3478";
/// One way, between the two, to the server, and for notes.
const DELAY: Duration = Duration::from_millis(20);

/// What one side's NAT does.
#[derive(Debug, Clone, Copy)]
struct Kind {
    mapping: Depends,
    filtering: Depends,
    allocation: Allocation,
    /// Public addresses, of which each new mapping takes the next.
    pool: u8,
}

const EASY: Kind = Kind {
    mapping: Depends::Nothing,
    filtering: Depends::AddressAndPort,
    allocation: Allocation::Preserving,
    pool: 1,
};

fn hard(allocation: Allocation) -> Kind {
    Kind {
        mapping: Depends::AddressAndPort,
        filtering: Depends::AddressAndPort,
        allocation,
        pool: 1,
    }
}

fn sequence(step: i16) -> Allocation {
    Allocation::Sequential { step, others: 0 }
}

fn block(low: u16, size: u16) -> Allocation {
    Allocation::Block {
        low,
        high: low + (size - 1),
    }
}

impl Kind {
    fn public(self, side: usize) -> Vec<Ipv4Addr> {
        let address = |n| Ipv4Addr::new(203, 0, 113 + side as u8, n);
        (1..=self.pool).map(address).collect()
    }

    fn nat(self, side: usize, seed: u64) -> Nat {
        let mut rng = ChaCha8Rng::seed_from_u64(seed + 1000 * side as u64);
        let mut last = 1024 + (rng.next_u32() % 60_000) as i32;
        let (allocation, mut by_others) = (self.allocation, 0);
        let mut nat = Nat::new(self.mapping, self.filtering).allotting(move |local, now| {
            let any = |low: u16, high: u16, rng: &mut ChaCha8Rng| {
                low + (rng.next_u32() % (u32::from(high - low) + 1)) as u16
            };
            match allocation {
                Allocation::Preserving => local,
                Allocation::Sequential { step, others } => {
                    let made = (now.as_secs_f64() * f64::from(others)) as i32;
                    let taken = 1 + made - std::mem::replace(&mut by_others, made);
                    last = 1024 + (last - 1024 + i32::from(step) * taken).rem_euclid(64_512);
                    last as u16
                }
                Allocation::Block { low, high } => any(low, high, &mut rng),
                Allocation::Random => any(1024, u16::MAX, &mut rng),
            }
        });
        nat.public = self.public(side).into_iter().map(Into::into).collect();
        nat
    }

    fn summary(self, side: usize, budget: Budget) -> NatSummary {
        NatSummary {
            mapping: Some(match self.mapping {
                Depends::Nothing => Mapping::EndpointIndependent,
                Depends::Address => Mapping::AddressDependent,
                Depends::AddressAndPort => Mapping::AddressAndPortDependent,
            }),
            filtering: Some(match self.filtering {
                Depends::Nothing => Filtering::EndpointIndependent,
                Depends::Address => Filtering::AddressDependent,
                Depends::AddressAndPort => Filtering::AddressAndPortDependent,
            }),
            allocation: Some(self.allocation),
            addresses: self.public(side),
            budget,
            attempt: 0,
            search: None,
        }
    }
}

fn local(side: usize, socket: SocketId) -> SocketAddr {
    SocketAddr::new([10, side as u8, 0, 2].into(), 2000 + socket.0 as u16)
}

#[derive(Debug)]
enum Arrival {
    Packet {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Note(usize, Prediction),
    Candidate(usize, SocketAddr),
}

struct Duel {
    now: Instant,
    agents: [Agent; 2],
    nats: [Nat; 2],
    budget: Budget,
    next_socket: u32,
    under_way: BTreeMap<(Instant, u64), Arrival>,
    sent: u64,
    failed: [bool; 2],
    /// Of 100 packets between the two, so many are lost.
    loss: u32,
    /// One way to the server, of each side.
    to_server: [Duration; 2],
    /// When a side has named its fresh socket.
    named: [Option<Duration>; 2],
    /// Packets that came to a side's NAT before it was open for them.
    unasked: [u32; 2],
    rng: ChaCha8Rng,
}

impl Duel {
    fn new(kinds: [Kind; 2], budget: Budget, seed: u64) -> Self {
        Self::again(kinds, budget, 0, seed)
    }

    /// The attempt after so many that have failed. In a repeated one neither has named an address when it begins.
    fn again(kinds: [Kind; 2], budget: Budget, attempt: u8, seed: u64) -> Self {
        let mut nats = [kinds[A].nat(A, seed), kinds[B].nat(B, seed)];
        let endpoints = [A, B].map(|side| {
            let main = local(side, SocketId::MAIN_V4);
            nats[side].out(main, addr(SERVER), Duration::ZERO)
        });
        let agent = |side: usize| {
            let role = [Role::Controlling, Role::Controlled][side];
            // Behind another NAT, an address of the peer's own network leads nowhere.
            let named = match attempt {
                0 => reflexive(&endpoints[1 - side].to_string()),
                _ => host("10.9.9.9:2000"),
            };
            let summary = |side: usize| NatSummary {
                attempt,
                ..kinds[side].summary(side, budget)
            };
            let (mine, theirs) = (1 + side as u8, 2 - side as u8);
            let config = AgentConfig {
                mine: Some(summary(side)),
                theirs: Some(summary(1 - side)),
                answers: side == B && attempt > 0,
                samplers: vec![addr(SERVER)],
                ..config(
                    role,
                    credentials(mine),
                    credentials(theirs),
                    vec![named],
                    seed + side as u64,
                )
            };
            Agent::new(config, origin())
        };
        Self {
            now: origin(),
            agents: [agent(A), agent(B)],
            nats,
            budget,
            next_socket: 10,
            under_way: BTreeMap::new(),
            sent: 0,
            failed: [false; 2],
            loss: 0,
            to_server: [DELAY; 2],
            named: [None; 2],
            unasked: [0; 2],
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Until both have a path or nothing is left to do; returns the time.
    fn run(&mut self) -> Option<Duration> {
        let mut both = None;
        loop {
            for side in [A, B] {
                self.settle(side);
            }
            if both.is_none() && self.agents.iter().all(|agent| agent.path().is_some()) {
                both = Some(self.now);
            }
            // A little longer, so that both agree and close what they do not need.
            if both.is_some_and(|at| self.now >= at + secs(3)) {
                break;
            }
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let agents = self.agents.iter();
            let due = agents.flat_map(|agent| [agent.poll_timeout(), agent.search_at()]);
            let next = due.flatten().chain(arrival).min();
            let Some(next) = next.filter(|at| *at < origin() + secs(60)) else {
                break;
            };
            self.now = self.now.max(next);
            self.deliver();
            for agent in &mut self.agents {
                if agent.poll_timeout().is_some_and(|at| at <= self.now) {
                    agent.handle_timeout(self.now);
                }
            }
        }
        both.map(|at| at - origin())
    }

    fn settle(&mut self, side: usize) {
        loop {
            if self.agents[side].wants_search(self.now) {
                let cap = Caps::of(self.budget).destinations;
                self.agents[side].start_search(cap, self.now);
            }
            if let Some(event) = self.agents[side].poll_event() {
                match event {
                    AgentEvent::OpenSockets(count) => {
                        for _ in 0..count {
                            self.next_socket += 1;
                            let socket = SocketId(self.next_socket);
                            self.agents[side].handle_socket(Some(socket), self.now);
                        }
                    }
                    AgentEvent::Predicted(prediction) => {
                        let note = Arrival::Note(1 - side, prediction);
                        self.arrive(2 * DELAY, note);
                    }
                    AgentEvent::Reflexive(address) => {
                        self.named[side] = Some(self.now - origin());
                        self.arrive(2 * DELAY, Arrival::Candidate(1 - side, address));
                    }
                    AgentEvent::Failed => self.failed[side] = true,
                    _ => {}
                }
            } else if let Some(transmit) = self.agents[side].poll_transmit() {
                self.send(side, transmit);
            } else {
                break;
            }
        }
    }

    fn arrive(&mut self, delay: Duration, arrival: Arrival) {
        self.sent += 1;
        self.under_way
            .insert((self.now + delay, self.sent), arrival);
    }

    fn send(&mut self, side: usize, transmit: Transmit) {
        let elapsed = self.now - origin();
        let from = self.nats[side].out(local(side, transmit.socket), transmit.to, elapsed);
        let lost = self.rng.next_u32() % 100 < self.loss;
        if transmit.ttl.is_some() || lost {
            return;
        }
        let (to, bytes) = (transmit.to, transmit.bytes);
        if to == addr(SERVER) {
            let id = Message::parse(&bytes).unwrap().transaction;
            let bytes = Writer::new(Class::Success, id).xor_mapped(from).finish();
            let (to, from) = (from, to);
            let there_and_back = 2 * self.to_server[side];
            self.arrive(there_and_back, Arrival::Packet { to, from, bytes });
        } else {
            self.arrive(DELAY, Arrival::Packet { to, from, bytes });
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, from, bytes) = match entry.remove() {
                Arrival::Packet { to, from, bytes } => (to, from, bytes),
                Arrival::Note(side, prediction) => {
                    self.agents[side].handle_prediction(prediction, self.now);
                    continue;
                }
                Arrival::Candidate(side, address) => {
                    let candidates = vec![reflexive(&address.to_string())];
                    self.agents[side].handle_candidates(candidates, self.now);
                    continue;
                }
            };
            let found = [A, B]
                .into_iter()
                .find(|side| self.nats[*side].public.contains(&to.ip()));
            let Some(side) = found else { continue };
            if !self.nats[side].lets_in(to, from) {
                self.unasked[side] += 1;
                continue;
            }
            let inside = self.nats[side].inside(to, from).unwrap();
            let socket = SocketId(u32::from(inside.port() - 2000));
            let message = Message::parse(&bytes).unwrap();
            let agent = &mut self.agents[side];
            if message.class == Class::Request {
                if agent.is_addressed(message.username.unwrap_or_default()) {
                    agent.handle_request(socket, None, from, &message, self.now);
                }
            } else {
                agent.handle_response(socket, from, &message, self.now);
            }
        }
    }

    /// Whether the paths of both ends are one path.
    fn agree(&mut self) -> bool {
        let [Some(a), Some(b)] = [A, B].map(|side| self.agents[side].path()) else {
            return false;
        };
        let mut seen = |side: usize, path: DirectPath| {
            self.nats[side].out(local(side, path.socket), path.remote, secs(100))
        };
        seen(A, a) == b.remote && seen(B, b) == a.remote
    }
}

/// Of so many duels, how many end with one path for both, and the median time.
fn fight(kinds: [Kind; 2], budget: Budget, seeds: u64, loss: u32) -> (u64, Duration) {
    let mut times = Vec::new();
    for seed in 0..seeds {
        let mut duel = Duel::new(kinds, budget, 100 * seed);
        duel.loss = loss;
        if let Some(took) = duel.run().filter(|_| duel.agree()) {
            times.push(took);
            assert_eq!(duel.failed, [false; 2], "{kinds:?}");
        }
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (times.len() as u64, median)
}

fn either_way(one: Kind, two: Kind) -> [[Kind; 2]; 2] {
    [[one, two], [two, one]]
}

/// A router that keeps a state for what comes unasked then gives the port to that.
#[test]
fn in_a_repeated_attempt_nothing_comes_to_a_nat_before_it_is_open() {
    for to_server in [[20, 20], [20, 300], [300, 20], [5, 400], [400, 5]] {
        for seed in 0..10 {
            let mut duel = Duel::again([EASY, EASY], Budget::Normal, 1, seed);
            duel.to_server = to_server.map(ms);
            let took = duel.run();
            assert!(
                took.is_some_and(|took| took < ms(1100)),
                "{to_server:?} {seed}: {took:?}"
            );
            assert!(duel.agree());
            assert_eq!(duel.unasked, [0, 0], "{to_server:?}");
        }
    }
}

#[test]
fn whoever_answers_and_hears_of_no_fresh_socket_names_its_own_after_a_second() {
    let mut duel = Duel::again([EASY, EASY], Budget::Normal, 1, 7);
    // The server does not answer the other end.
    duel.to_server = [secs(100), ms(20)];
    duel.run();
    assert_eq!(duel.named, [None, Some(ms(1040))]);
}

#[test]
fn two_easy_nats_find_a_path_in_two_round_trips() {
    let (found, median) = fight([EASY, EASY], Budget::Gentle, 10, 0);
    assert_eq!(found, 10);
    assert!(median <= ms(400), "{median:?}");
}

#[test]
fn a_hard_nat_and_an_easy_one_find_a_path_whatever_ports_the_hard_one_gives() {
    for allocation in [
        Allocation::Random,
        block(32_768, 1024),
        sequence(1),
        sequence(-1),
        sequence(4),
    ] {
        for kinds in either_way(hard(allocation), EASY) {
            let (found, median) = fight(kinds, Budget::Normal, 6, 0);
            assert_eq!(found, 6, "{kinds:?}");
            assert!(median <= secs(5), "{kinds:?} {median:?}");
        }
    }
}

#[test]
fn two_sequences_meet() {
    for (one, two) in [(1, 1), (1, -1), (2, 1), (-4, 3), (8, -8)] {
        let kinds = [hard(sequence(one)), hard(sequence(two))];
        let (found, median) = fight(kinds, Budget::Normal, 30, 0);
        assert!(found >= 29, "{one} {two}: {found} of 30");
        assert!(median <= secs(2), "{one} {two}: {median:?}");
    }
}

#[test]
fn a_sequence_and_a_block_meet_every_other_time() {
    for kinds in either_way(hard(sequence(1)), hard(block(40_960, 1024))) {
        // 50 % by the plan: three quarters of the block's ports.
        let (found, median) = fight(kinds, Budget::Normal, 40, 0);
        assert!(
            (10..=32).contains(&found),
            "{kinds:?}: {found} of 40, {median:?}"
        );
    }
}

#[test]
fn two_blocks_of_1024_ports_have_a_birthday() {
    let kinds = [hard(block(32_768, 1024)), hard(block(50_000, 1024))];
    // 43 % by the plan.
    let (found, median) = fight(kinds, Budget::Normal, 50, 0);
    assert!((12..=33).contains(&found), "{found} of 50, {median:?}");
    assert!(median <= secs(5), "{median:?}");
}

#[test]
fn of_two_hard_nats_one_that_filters_by_address_is_enough() {
    let lenient = Kind {
        mapping: Depends::Address,
        filtering: Depends::Address,
        ..hard(block(32_768, 1024))
    };
    for kinds in either_way(lenient, hard(Allocation::Random)) {
        let (found, median) = fight(kinds, Budget::Normal, 6, 0);
        assert_eq!(found, 6, "{kinds:?}, {median:?}");
    }
}

#[test]
fn where_one_in_ten_packets_is_lost_paths_are_found_all_the_same() {
    for kinds in [
        [EASY, EASY],
        [hard(block(32_768, 1024)), EASY],
        [hard(sequence(1)), EASY],
        [hard(sequence(1)), hard(sequence(-2))],
    ] {
        let (found, median) = fight(kinds, Budget::Normal, 10, 10);
        assert!(found >= 9, "{kinds:?}: {found} of 10, {median:?}");
    }
}

#[test]
fn two_full_ranges_fail_with_the_normal_budget_and_both_ends_say_so() {
    let kinds = [hard(Allocation::Random), hard(Allocation::Random)];
    let mut duel = Duel::new(kinds, Budget::Normal, 1);
    assert_eq!(duel.run(), None);
    assert_eq!(duel.failed, [true; 2]);
    for agent in &duel.agents {
        assert_eq!(agent.sockets().count(), 0);
    }
}

#[test]
fn sequences_meet_although_others_take_ports_all_the_time() {
    let busy = |step, others| hard(Allocation::Sequential { step, others });
    for others in [10, 50] {
        for kinds in [
            [busy(1, others), busy(2, others)],
            [busy(1, others), busy(-1, 0)],
            [busy(1, others), EASY],
            [EASY, busy(-2, others)],
        ] {
            let (found, median) = fight(kinds, Budget::Normal, 20, 0);
            assert!(found >= 18, "{kinds:?}: {found} of 20, {median:?}");
        }
    }
}

#[test]
fn pools_of_public_addresses_are_searched_whole() {
    let pooled = |allocation, pool| Kind {
        pool,
        ..hard(allocation)
    };
    for (one, two, least) in [
        // 86 % by the plan: 248 held of 129,024 places.
        (pooled(Allocation::Random, 2), EASY, 12),
        (pooled(block(32_768, 1024), 4), EASY, 18),
        // 25 %: three quarters of 512 ports, at one of two addresses.
        (
            pooled(block(32_768, 512), 2),
            pooled(block(32_768, 1024), 1),
            1,
        ),
    ] {
        for kinds in either_way(one, two) {
            let (found, median) = fight(kinds, Budget::Normal, 20, 0);
            assert!(found >= least, "{kinds:?}: {found} of 20, {median:?}");
        }
    }
}

#[test]
fn the_gentle_budget_is_enough_for_sequences_and_for_small_blocks() {
    for kinds in [
        [hard(sequence(1)), EASY],
        [hard(sequence(1)), hard(sequence(-1))],
        [hard(block(32_768, 512)), EASY],
        [EASY, hard(block(32_768, 1024))],
    ] {
        let (found, median) = fight(kinds, Budget::Gentle, 10, 0);
        assert!(found >= 9, "{kinds:?}: {found} of 10, {median:?}");
    }
}

#[test]
fn two_full_ranges_find_a_path_with_the_aggressive_budget() {
    let kinds = [hard(Allocation::Random), hard(Allocation::Random)];
    let (found, median) = fight(kinds, Budget::Aggressive, 4, 0);
    assert!(found >= 3, "{found} of 4, {median:?}");
}
