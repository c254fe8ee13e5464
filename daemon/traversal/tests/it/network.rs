//! Two agents and the wires between them. A wire joins an address of one with an address of the other; it may be cut, be
//! slow, and lose packets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::Candidate;
use punch_stun_protocol::{Class, Message};
use punch_traversal::{Agent, AgentEvent, Family, Role, SocketId, Traffic, receiver_of};

use crate::{addr, config, credentials, ms, origin};

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) ends: [SocketAddr; 2],
    pub(crate) delay: Duration,
    pub(crate) up: bool,
    /// Every so manyth packet is lost; 0 is none.
    pub(crate) loses_every: u64,
    /// A firewall lets checks through and swallows the answers to them.
    pub(crate) loses_answers: bool,
    /// Datagrams with a longer payload vanish.
    pub(crate) longest: usize,
    carried: u64,
}

impl Wire {
    pub(crate) fn new(a: &str, b: &str, delay_ms: u64) -> Self {
        Self {
            ends: [addr(a), addr(b)],
            delay: ms(delay_ms),
            up: true,
            loses_every: 0,
            loses_answers: false,
            longest: usize::MAX,
            carried: 0,
        }
    }
}

#[derive(Debug)]
struct Arrival {
    side: usize,
    local: SocketAddr,
    from: SocketAddr,
    bytes: Vec<u8>,
}

/// One check that left an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Duration,
    pub(crate) side: usize,
    pub(crate) to: SocketAddr,
    pub(crate) class: Class,
    pub(crate) nominated: bool,
    pub(crate) whole: bool,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Network {
    pub(crate) now: Instant,
    pub(crate) agents: [Agent; 2],
    pub(crate) wires: Vec<Wire>,
    pub(crate) events: [Vec<(Duration, AgentEvent)>; 2],
    pub(crate) sent: Vec<Sent>,
    /// Whether tunnel packets flow all the time.
    pub(crate) traffic: bool,
    pub(crate) counts: [Traffic; 2],
    under_way: BTreeMap<(Instant, u64), Arrival>,
    next: u64,
}

impl Network {
    /// A is controlling. Each knows the candidates of the other that are given: first those of B, which A tries.
    pub(crate) fn new(wires: &[Wire], of_b: Vec<Candidate>, of_a: Vec<Candidate>) -> Self {
        Self::seeded(wires, of_b, of_a, 1)
    }

    pub(crate) fn seeded(
        wires: &[Wire],
        of_b: Vec<Candidate>,
        of_a: Vec<Candidate>,
        seed: u64,
    ) -> Self {
        let now = origin();
        let (a, b) = (credentials(1), credentials(2));
        let agents = [
            Agent::new(
                config(Role::Controlling, a.clone(), b.clone(), of_b, seed),
                now,
            ),
            Agent::new(config(Role::Controlled, b, a, of_a, seed + 1), now),
        ];
        Self {
            now,
            agents,
            wires: wires.to_vec(),
            events: [Vec::new(), Vec::new()],
            sent: Vec::new(),
            traffic: false,
            counts: [Traffic::default(); 2],
            under_way: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - origin()
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        let mut next_traffic = self.now;
        for turn in 0.. {
            assert!(
                turn < 200_000,
                "the agents are in a busy loop at {:?}",
                self.elapsed()
            );
            if self.traffic && next_traffic <= self.now {
                next_traffic = self.now + ms(100);
                self.exchange();
            }
            self.collect();
            let due = [
                self.under_way.first_key_value().map(|((at, _), _)| *at),
                self.agents[A].poll_timeout(),
                self.agents[B].poll_timeout(),
                self.traffic.then_some(next_traffic),
            ];
            let next = due.into_iter().flatten().min().unwrap_or(end);
            if next >= end {
                break;
            }
            self.now = self.now.max(next);
            self.deliver();
            for agent in &mut self.agents {
                if agent.poll_timeout().is_some_and(|at| at <= self.now) {
                    agent.handle_timeout(self.now);
                }
            }
        }
        self.now = end;
    }

    /// A packet of the tunnel leaves each side, and arrives if its wire carries it.
    fn exchange(&mut self) {
        for side in [A, B] {
            self.counts[side].sent += 100;
            if self.selected(side).is_some_and(|wire| self.wires[wire].up) {
                self.counts[1 - side].received += 100;
            }
        }
        for side in [A, B] {
            self.agents[side].handle_traffic(self.counts[side], self.now);
        }
    }

    pub(crate) fn cut(&mut self, wire: usize) {
        self.wires[wire].up = false;
    }

    /// The wire that an agent has selected.
    pub(crate) fn selected(&self, side: usize) -> Option<usize> {
        let remote = self.agents[side].path()?.remote;
        self.wires
            .iter()
            .position(|wire| wire.ends[1 - side] == remote)
    }

    pub(crate) fn has_event(&self, side: usize, event: &AgentEvent) -> bool {
        self.events[side].iter().any(|(_, seen)| seen == event)
    }

    pub(crate) fn selections(&self, side: usize) -> usize {
        let selected =
            |(_, event): &&(Duration, AgentEvent)| matches!(event, AgentEvent::Selected(_));
        self.events[side].iter().filter(selected).count()
    }

    /// When checks left `side` for its end of `wire`.
    pub(crate) fn checks(&self, side: usize, wire: usize) -> Vec<Duration> {
        let to = self.wires[wire].ends[1 - side];
        self.sent
            .iter()
            .filter(|sent| sent.side == side && sent.to == to && sent.class == Class::Request)
            .map(|sent| sent.at)
            .collect()
    }

    fn collect(&mut self) {
        for side in [A, B] {
            while let Some(event) = self.agents[side].poll_event() {
                self.events[side].push((self.elapsed(), event));
            }
            while let Some(transmit) = self.agents[side].poll_transmit() {
                assert_eq!(
                    transmit.socket,
                    SocketId::main(Family::of(transmit.to.ip()))
                );
                let message = Message::parse(&transmit.bytes).unwrap();
                self.sent.push(Sent {
                    at: self.elapsed(),
                    side,
                    to: transmit.to,
                    class: message.class,
                    nominated: message.nominated,
                    whole: transmit.whole,
                    bytes: transmit.bytes.clone(),
                });
                self.send(side, transmit.to, transmit.bytes);
            }
        }
    }

    fn send(&mut self, side: usize, to: SocketAddr, bytes: Vec<u8>) {
        let Some(wire) = self.wires.iter_mut().find(|wire| wire.ends[1 - side] == to) else {
            return;
        };
        wire.carried += 1;
        let lost = wire.loses_every > 0 && wire.carried.is_multiple_of(wire.loses_every);
        let swallowed =
            wire.loses_answers && Message::parse(&bytes).unwrap().class == Class::Success;
        if !wire.up || lost || swallowed || bytes.len() > wire.longest {
            return;
        }
        self.next += 1;
        let arrival = Arrival {
            side: 1 - side,
            local: to,
            from: wire.ends[side],
            bytes,
        };
        self.under_way
            .insert((self.now + wire.delay, self.next), arrival);
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let arrival = entry.remove();
            let agent = &mut self.agents[arrival.side];
            let message = Message::parse(&arrival.bytes).unwrap();
            let socket = SocketId::main(Family::of(arrival.local.ip()));
            let local = Some(arrival.local.ip());
            if message.class == Class::Request {
                let name = message.username.unwrap();
                assert!(agent.is_addressed(name));
                assert_eq!(receiver_of(name), Some(agent.fragment()));
                agent.handle_request(socket, local, arrival.from, &message, self.now);
            } else {
                agent.handle_response(socket, arrival.from, &message, self.now);
            }
        }
    }
}
