//! A client, a link, the stack under test, and the targets behind it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_forward::{Order, Presence, Refused, Rules, Stack, StreamId, TargetEvent};
use punch_packet::{Packet, Unreachable, refuse, tcp_reset};
use smoltcp::socket::tcp::State;

use crate::client::Client;
use crate::{PEER, Random, ms, origin, rules};

pub(crate) const MTU: usize = 1280;
pub(crate) const SERVER_V4: &str = "100.64.0.1";
pub(crate) const SERVER_V6: &str = "fd70:756e:6368::1";

/// How the program behind a forward behaves, and what it has seen.
#[derive(Debug, Default)]
pub(crate) struct Target {
    pub(crate) received: Vec<u8>,
    /// `Finish` has come.
    pub(crate) finished: bool,
    pub(crate) reset: bool,
    pub(crate) closed: bool,
    to_send: VecDeque<u8>,
    finish_when_sent: bool,
    told_finished: bool,
    waits_for_room: bool,
}

/// What the targets do by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Nothing: the test reports everything.
    Manual,
    /// They connect, and read at once what comes.
    Eager,
    /// They connect and do not read.
    Deaf,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) stack: Stack,
    pub(crate) rules: Rules,
    pub(crate) client: Client,
    pub(crate) manner: Manner,
    pub(crate) delay: Duration,
    /// One in so many packets is lost, doubled, or late, at random.
    pub(crate) rough: u64,
    /// Exactly every so manyth packet is lost.
    pub(crate) loses_every: u64,
    /// Nothing gets through.
    pub(crate) cut: bool,
    /// What the engine knows of the client's machine.
    pub(crate) presence: Presence,
    pub(crate) orders: Vec<Order>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) to_client: Vec<Vec<u8>>,
    pub(crate) targets: BTreeMap<StreamId, Target>,
    random: Random,
    carried: u64,
    under_way: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
}

impl World {
    pub(crate) fn new(manner: Manner) -> Self {
        Self::seeded(manner, 1)
    }

    pub(crate) fn seeded(manner: Manner, seed: u64) -> Self {
        Self {
            now: origin(),
            stack: Stack::new(MTU, seed),
            rules: rules(),
            client: Client::new(MTU, seed),
            manner,
            delay: ms(5),
            rough: 0,
            loses_every: 0,
            cut: false,
            presence: Presence::Here,
            orders: Vec::new(),
            refused: Vec::new(),
            to_client: Vec::new(),
            targets: BTreeMap::new(),
            random: Random(seed),
            carried: 0,
            under_way: BTreeMap::new(),
        }
    }

    /// A program of the client's opens a connection and has it.
    pub(crate) fn connected(&mut self, from_port: u16, port: u16) -> (usize, StreamId) {
        let program = self.connect(from_port, port);
        self.run(ms(100));
        assert_eq!(self.client.state(program), State::Established);
        (program, self.last_stream())
    }

    pub(crate) fn connect(&mut self, from_port: u16, port: u16) -> usize {
        let server: IpAddr = SERVER_V4.parse().unwrap();
        self.client.connect(from_port, server, port)
    }

    pub(crate) fn last_stream(&self) -> StreamId {
        let connect = |order: &Order| match order {
            Order::Connect { stream, .. } => Some(*stream),
            _ => None,
        };
        self.orders
            .iter()
            .rev()
            .find_map(connect)
            .expect("a Connect order")
    }

    pub(crate) fn connects(&self) -> usize {
        let connects = |order: &&Order| matches!(order, Order::Connect { .. });
        self.orders.iter().filter(connects).count()
    }

    pub(crate) fn target(&mut self, stream: StreamId) -> &mut Target {
        self.targets.entry(stream).or_default()
    }

    /// The target sends these bytes as fast as it is let.
    pub(crate) fn target_sends(&mut self, stream: StreamId, bytes: &[u8]) {
        self.target(stream).to_send.extend(bytes);
        self.write(stream);
    }

    pub(crate) fn target_unsent(&mut self, stream: StreamId) -> usize {
        self.target(stream).to_send.len()
    }

    /// The target closes its writing half behind what it still sends.
    pub(crate) fn target_finishes(&mut self, stream: StreamId) {
        self.target(stream).finish_when_sent = true;
        self.write(stream);
    }

    pub(crate) fn report(&mut self, stream: StreamId, event: TargetEvent) {
        self.stack.handle_target(stream, event, self.now);
    }

    pub(crate) fn target_reads(&mut self, stream: StreamId, max: usize) -> usize {
        let bytes = self.stack.read(stream, max);
        self.target(stream).received.extend_from_slice(&bytes);
        bytes.len()
    }

    /// Puts a packet in front of the stack as if it had just come from the client.
    pub(crate) fn inject(&mut self, packet: &[u8]) -> Result<(), Refused> {
        let packet = Packet::parse(packet).unwrap();
        let result = self
            .stack
            .handle_packet(PEER, &packet, &self.rules, self.now);
        self.stack.flush(self.now);
        result
    }

    pub(crate) fn drain(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.stack.poll_packet().map(|(_, packet)| packet)).collect()
    }

    pub(crate) fn new_orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.stack.poll_order()).collect()
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        for turn in 0.. {
            assert!(turn < 100_000, "a busy loop at {:?}", self.now - origin());
            self.exchange();
            let due = [
                self.under_way.keys().next().map(|(at, _)| *at),
                self.stack.poll_timeout(),
                self.client.poll_timeout(self.now),
            ];
            let Some(next) = due.into_iter().flatten().min().filter(|at| *at < end) else {
                break;
            };
            self.now = self.now.max(next);
            self.deliver();
            if self.stack.poll_timeout().is_some_and(|at| at <= self.now) {
                let presence = self.presence;
                self.stack.handle_timeout(|_| presence, self.now);
                let next = self.stack.poll_timeout();
                assert!(
                    next.is_none_or(|at| at > self.now),
                    "the stack did not do what was due"
                );
            }
        }
        self.now = end;
    }

    /// Everything that can happen at this instant.
    fn exchange(&mut self) {
        self.client.poll(self.now);
        while let Some(packet) = self.client.wire.outgoing.pop_front() {
            self.carry(false, packet);
        }
        loop {
            self.stack.flush(self.now);
            let orders = self.new_orders();
            if orders.is_empty() {
                break;
            }
            for order in orders {
                self.carry_out(order);
            }
        }
        while let Some((peer, packet)) = self.stack.poll_packet() {
            assert_eq!(peer, PEER);
            assert!(packet.len() <= MTU, "{}", packet.len());
            self.carry(true, packet);
        }
    }

    fn carry(&mut self, to_client: bool, packet: Vec<u8>) {
        self.carried += 1;
        let lost = self.cut
            || (self.loses_every > 0 && self.carried.is_multiple_of(self.loses_every))
            || self.random.one_in(self.rough);
        if lost {
            return;
        }
        if self.random.one_in(self.rough) {
            let late = self.now + self.delay * 3;
            self.under_way
                .insert((late, self.carried), (to_client, packet.clone()));
            self.carried += 1;
        }
        let late = if self.random.one_in(self.rough) {
            self.delay * 2
        } else {
            Duration::ZERO
        };
        self.under_way.insert(
            (self.now + self.delay + late, self.carried),
            (to_client, packet),
        );
    }

    fn deliver(&mut self) {
        while let Some(entry) = self
            .under_way
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let (to_client, bytes) = entry.remove();
            if to_client {
                self.to_client.push(bytes.clone());
                self.client.wire.incoming.push_back(bytes);
                continue;
            }
            let packet = Packet::parse(&bytes).unwrap();
            let Err(refused) = self
                .stack
                .handle_packet(PEER, &packet, &self.rules, self.now)
            else {
                continue;
            };
            // As the engine does.
            self.refused.push(refused);
            let answer = match refused {
                Refused::NoConnection => tcp_reset(&packet),
                Refused::NoForward => refuse(&packet, Unreachable::Port),
                Refused::Full | Refused::TooFast | Refused::Unreachable | Refused::Malformed => {
                    None
                }
            };
            if let Some(answer) = answer {
                self.carry(true, answer);
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        self.orders.push(order.clone());
        match order {
            Order::Connect { stream, .. } if self.manner != Manner::Manual => {
                self.report(stream, TargetEvent::Connected);
                self.write(stream);
            }
            Order::Connect { .. } => {}
            Order::Readable(stream) => {
                assert!(!self.target(stream).finished, "bytes behind the end");
                while self.manner == Manner::Eager && self.target_reads(stream, 10_000) > 0 {}
            }
            Order::Writable(stream) => {
                assert!(
                    self.target(stream).waits_for_room,
                    "Writable was not asked for"
                );
                self.target(stream).waits_for_room = false;
                self.write(stream);
            }
            Order::Datagram(..) => {}
            Order::Finish(stream) => {
                let target = self.target(stream);
                assert!(!target.finished, "Finish came twice");
                target.finished = true;
            }
            Order::Reset(stream) => self.target(stream).reset = true,
            Order::Close(stream) => self.target(stream).closed = true,
        }
    }

    fn write(&mut self, stream: StreamId) {
        let target = self.targets.entry(stream).or_default();
        while !target.to_send.is_empty() {
            let chunk = target.to_send.as_slices().0;
            let taken = self.stack.write(stream, chunk);
            let all = taken == chunk.len();
            target.to_send.drain(..taken);
            if !all {
                target.waits_for_room = true;
                return;
            }
        }
        if target.finish_when_sent && !target.told_finished {
            target.told_finished = true;
            self.stack
                .handle_target(stream, TargetEvent::Finished, self.now);
        }
    }
}
