//! Two machines that run the daemon's own connector, a STUN server and a signalling hub, in one simulated network.

mod machine;
pub mod slow;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_connect::{Connector, ConnectorConfig, LinkState, LinkStatus, Path, ServerId, UserWish};
use punch_packet::PeerHandle;
use punch_signal::hub::{Hub, Limits, Output};
use punch_signal_protocol::{Frame, Identity, PeerId};
use punch_stun_protocol::{Endpoint, respond};
use punch_traversal::{Budget, NatOverrides, NatProfile, Outcome, SocketId, StepKind};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::fresh::FreshFlows;
use crate::network::{Datagram, HostId, Network};
use machine::Machine;
use slow::{SLOW, SlowChannel};

/// The one peer that each machine has.
const PEER: PeerHandle = PeerHandle(1);
const SERVER: ServerId = ServerId(1);
const NAME: &str = "signal.test:443";
/// 2026-01-01, in milliseconds.
const WALL: u64 = 1_767_225_600_000;
const HOPS: u8 = 64;

/// A machine of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The one that says `up`.
    A,
    /// The one that is found.
    B,
}

/// A frame between a machine and the hub; signalling runs over TCP, so nothing is lost and nothing overtakes.
struct InFlight {
    at: Instant,
    side: Side,
    up: bool,
    bytes: Vec<u8>,
}

/// The network, the machines in it, and the time.
pub struct World {
    now: Instant,
    start: Instant,
    network: Network,
    stun: HostId,
    stun_addresses: Vec<IpAddr>,
    hub: Hub,
    hub_up: bool,
    signal_delay: Duration,
    wire: VecDeque<InFlight>,
    slow: Option<SlowChannel>,
    machines: [Machine; 2],
    /// Other programs, one on each machine.
    flows: Option<[FreshFlows; 2]>,
    /// What the STUN server says that everybody's public endpoint is.
    lie: Option<SocketAddr>,
    trace: u64,
    datagrams: u64,
}

/// The STUN server's port; RFC 5780's second one is the next.
pub const STUN_PORT: u16 = 3478;
/// Further ports on which it answers.
pub const SAMPLE_PORTS: (u16, u16) = (40_000, 40_063);

impl World {
    /// Puts the machines on `a` and `b`, and a STUN server on `stun`, whose addresses come in pairs of a family.
    pub fn new(
        network: Network,
        [a, b, stun]: [HostId; 3],
        signal_delay: Duration,
        budget: Budget,
        seed: u64,
        start: Instant,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let stun_addresses: Vec<_> = network.addresses(stun).iter().map(|(_, ip)| *ip).collect();
        let mut machine = |host| {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            let identity = Identity::from_seed(&bytes);
            rng.fill_bytes(&mut bytes);
            let config = ConnectorConfig {
                // Direct paths are the subject.
                relay: false,
                mtu: 1420,
                tcp: false,
                identity: identity.clone(),
                ipv4_range: None,
                seed: bytes,
                wall_ms: WALL,
                budget,
                nat: NatOverrides::default(),
            };
            let connector = Connector::new(config, start);
            Machine::new(connector, identity, host)
        };
        let machines = [machine(a), machine(b)];
        let mut world = Self {
            now: start,
            start,
            network,
            stun,
            stun_addresses,
            hub: Hub::new(Limits::default()),
            hub_up: true,
            signal_delay,
            wire: VecDeque::new(),
            slow: None,
            machines,
            flows: None,
            lie: None,
            trace: 0xcbf2_9ce4_8422_2325,
            datagrams: 0,
        };
        let ids = [Side::B, Side::A].map(|side| world.machine(side).identity.id());
        for (side, other) in [Side::A, Side::B].into_iter().zip(ids) {
            world.boot(side, other);
        }
        world
    }

    fn boot(&mut self, side: Side, other: PeerId) {
        let now = self.now;
        let servers: Vec<_> = self
            .stun_addresses
            .iter()
            .step_by(2)
            .map(|ip| SocketAddr::new(*ip, STUN_PORT))
            .collect();
        let addresses: Vec<_> = self
            .network
            .addresses(self.machine(side).host)
            .iter()
            .map(|(_, ip)| (*ip).into())
            .collect();
        let machine = self.machine_mut(side);
        machine.connector.add_peer(PEER, other, (0, 0));
        for (socket, port) in [(SocketId::MAIN_V4, 40_004), (SocketId::MAIN_V6, 40_006)] {
            machine.open(socket, port);
            machine.connector.handle_socket(socket, port, now);
        }
        machine.connector.handle_addresses(addresses, now);
        machine.connector.set_stun_servers(servers, now);
        self.dial(side);
    }

    fn dial(&mut self, side: Side) {
        let nonce = [side as u8; 32];
        let from = IpAddr::from([192, 0, 2, side as u8 + 1]);
        let opened = self.hub.handle_connect(from, nonce, self.now);
        self.machine_mut(side).connection = opened.ok();
        self.drain();
    }

    // --- what the user and the outside do ---

    /// `punchctl up`, on one side.
    pub fn up(&mut self, side: Side) {
        let now = self.now;
        self.machine_mut(side)
            .connector
            .set_wish(PEER, UserWish::Up, now);
        self.drain();
    }

    /// `punchctl down`, on one side.
    pub fn down(&mut self, side: Side) {
        let now = self.now;
        self.machine_mut(side)
            .connector
            .set_wish(PEER, UserWish::Unsaid, now);
        self.drain();
    }

    /// From now on a machine's kernel gives it no more sockets, or it does again.
    pub fn refuse_sockets(&mut self, side: Side, refuses: bool) {
        self.machine_mut(side).refuses_sockets = refuses;
    }

    /// From now on the STUN server tells everybody that this is their public endpoint, or the truth again.
    pub fn set_lie(&mut self, lie: Option<SocketAddr>) {
        self.lie = lie;
    }

    /// Gives a machine what an earlier run had to remember (see [`World::worked`]).
    pub fn remember(&mut self, side: Side, memory: Vec<(u64, StepKind)>) {
        self.machine_mut(side).connector.remember(PEER, memory);
    }

    /// `punchctl netcheck`, on one side.
    pub fn netcheck(&mut self, side: Side) {
        let now = self.now;
        self.machine_mut(side).connector.start_netcheck(now);
        self.drain();
    }

    /// The signalling server goes away, or comes back; machines dial again at once.
    pub fn set_hub(&mut self, up: bool) {
        self.hub_up = up;
        self.wire.clear();
        self.hub = Hub::new(Limits::default());
        let now = self.now;
        for side in [Side::A, Side::B] {
            let machine = self.machine_mut(side);
            if machine.connection.take().is_some() {
                machine.connector.handle_server_down(SERVER, now);
            }
            if up {
                self.dial(side);
            }
        }
    }

    /// From now on another program on each machine opens a fresh flow each time that so much has passed, while either
    /// machine searches and [`FreshFlows::AFTERWARDS`], or `always`.
    pub fn open_fresh_flows(&mut self, every: Duration, always: bool) {
        let flows = FreshFlows::new(every, always, self.now);
        self.flows = Some([flows.clone(), flows]);
    }

    /// The network, to change it; tell the machines with [`World::readdress`] if their addresses are others now.
    pub fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// A machine notices its addresses.
    pub fn readdress(&mut self, side: Side) {
        let now = self.now;
        let host = self.machine(side).host;
        let addresses = self
            .network
            .addresses(host)
            .iter()
            .map(|(_, ip)| (*ip).into());
        let addresses = addresses.collect();
        self.machine_mut(side)
            .connector
            .handle_addresses(addresses, now);
        self.drain();
    }

    // --- time ---

    /// Lets virtual time pass until `done`, for at most `limit`; returns how long it took.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now;
        loop {
            if done(self) {
                return Some(self.now - began);
            }
            let next = self.next_event().filter(|at| *at <= began + limit);
            let Some(next) = next else {
                self.now = began + limit;
                return None;
            };
            self.now = self.now.max(next);
            self.step();
        }
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn next_event(&self) -> Option<Instant> {
        let machines = &self.machines;
        let timers = machines
            .iter()
            .filter_map(|machine| machine.connector.poll_timeout());
        timers
            .chain(self.network.next_event())
            .chain(self.flows.iter().flatten().map(FreshFlows::poll_timeout))
            .chain(self.wire.iter().map(|frame| frame.at).min())
            .chain(self.slow.as_ref().and_then(SlowChannel::next))
            .min()
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(index) = self.wire.iter().position(|frame| frame.at <= now) {
            if let Some(frame) = self.wire.remove(index) {
                self.arrive(&frame);
                self.drain();
            }
        }
        slow::deliver(self);
        while let Some(delivery) = self.network.poll_delivery(now) {
            self.note(&delivery.payload, delivery.to);
            if delivery.host == self.stun {
                self.answer(delivery.from, delivery.to, &delivery.payload);
            } else {
                for side in [Side::A, Side::B] {
                    if self.machine(side).host != delivery.host {
                        continue;
                    }
                    if let Some(flows) = &mut self.flows {
                        flows[side as usize].handle(delivery.to.port(), &delivery.payload, now);
                    }
                    let machine = self.machine_mut(side);
                    let to = delivery.to;
                    machine.receive(to, delivery.from, &delivery.payload, now);
                }
            }
            self.drain();
        }
        self.open_due_flows();
        for side in [Side::A, Side::B] {
            let connector = &mut self.machine_mut(side).connector;
            if connector.poll_timeout().is_some_and(|at| at <= now) {
                connector.handle_timeout(now);
            }
        }
        self.drain();
    }

    /// The fresh flows of both machines that are due.
    fn open_due_flows(&mut self) {
        let now = self.now;
        let is_due = |flows: &FreshFlows| flows.poll_timeout() <= now;
        if !self.flows.iter().flatten().any(is_due) {
            return;
        }
        let is_searching = self.is_searching();
        for side in [Side::A, Side::B] {
            let request = self
                .flows
                .as_mut()
                .and_then(|flows| flows[side as usize].poll(is_searching, now));
            let host = self.machine(side).host;
            let Some((port, payload)) = request else {
                continue;
            };
            let own = self.network.addresses(host).first().map(|(_, ip)| *ip);
            let server = own.and_then(|own| {
                let mut servers = self.stun_addresses.iter();
                servers.find(|ip| ip.is_ipv4() == own.is_ipv4())
            });
            if let (Some(own), Some(server)) = (own, server) {
                let datagram = Datagram {
                    src: SocketAddr::new(own, port),
                    dst: SocketAddr::new(*server, STUN_PORT),
                    ttl: HOPS,
                    payload,
                };
                self.network.send(now, host, datagram);
            }
        }
    }

    fn arrive(&mut self, frame: &InFlight) {
        let now = self.now;
        let side = frame.side;
        if frame.up {
            if let Some(connection) = self.machine(side).connection {
                self.hub.handle_message(connection, &frame.bytes, now);
            }
            return;
        }
        match Frame::decode(&frame.bytes) {
            Ok(Frame::Challenge(nonce)) => {
                let proof = Frame::proof(&self.machine(side).identity, &nonce, NAME);
                self.post(side, true, &proof);
            }
            Ok(Frame::Welcome) => {
                let connector = &mut self.machine_mut(side).connector;
                connector.handle_server_up(SERVER, now);
            }
            Ok(frame) => {
                let connector = &mut self.machine_mut(side).connector;
                connector.handle_frame(SERVER, frame, now);
            }
            Err(_) => {}
        }
    }

    fn answer(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let other = self
            .stun_addresses
            .iter()
            .find(|ip| ip.is_ipv4() == to.is_ipv4() && **ip != to.ip());
        let other = other.map(|ip| {
            let port = if to.port() == STUN_PORT + 1 {
                STUN_PORT
            } else {
                STUN_PORT + 1
            };
            SocketAddr::new(*ip, port)
        });
        let endpoint = Endpoint {
            local: to,
            other,
            samples: Some(SAMPLE_PORTS),
        };
        let (first, last) = SAMPLE_PORTS;
        let main = to.port() == STUN_PORT || to.port() == STUN_PORT + 1;
        let known = main || (first..=last).contains(&to.port());
        let seen = self.lie.unwrap_or(from);
        if let Some(answer) = respond(payload, seen, endpoint).filter(|_| known) {
            // RESPONSE-PORT may ask for another one.
            let asked = answer.to != seen;
            let to = SocketAddr::new(from.ip(), answer.to.port());
            let datagram = Datagram {
                src: answer.from,
                dst: if asked { to } else { from },
                ttl: HOPS,
                payload: answer.bytes,
            };
            self.network.send(self.now, self.stun, datagram);
        }
    }

    fn post(&mut self, side: Side, up: bool, frame: &Frame) {
        if self.hub_up {
            self.wire.push_back(InFlight {
                at: self.now + self.signal_delay,
                side,
                up,
                bytes: frame.encode(),
            });
        }
    }

    /// Carries away all that connectors and hub have to send and to say.
    fn drain(&mut self) {
        let now = self.now;
        while let Some(output) = self.hub.poll_output() {
            if let Output::Send(connection, frame) = output {
                let side = [Side::A, Side::B]
                    .into_iter()
                    .find(|side| self.machine(*side).connection == Some(connection));
                if let Some(side) = side {
                    self.post(side, false, &frame);
                }
            }
        }
        for side in [Side::A, Side::B] {
            loop {
                let machine = self.machine_mut(side);
                if let Some(event) = machine.connector.poll_event() {
                    machine.handle_event(event, now);
                } else if let Some(transmit) = machine.connector.poll_transmit() {
                    let Some(port) = machine.sockets.get(&transmit.socket).copied() else {
                        continue;
                    };
                    let any = if transmit.to.is_ipv4() {
                        IpAddr::from([0, 0, 0, 0])
                    } else {
                        IpAddr::from([0; 16])
                    };
                    let host = machine.host;
                    let datagram = Datagram {
                        src: SocketAddr::new(transmit.source.unwrap_or(any), port),
                        dst: transmit.to,
                        ttl: transmit.ttl.unwrap_or(HOPS),
                        payload: transmit.bytes,
                    };
                    self.datagrams += 1;
                    self.network.send(now, host, datagram);
                } else if let Some(signal) = machine.connector.poll_signal() {
                    match signal.server {
                        SLOW => slow::post(self, side, signal.frame),
                        _ => self.post(side, true, &signal.frame),
                    }
                } else {
                    break;
                }
            }
        }
    }

    /// FNV-1a over everything that arrives, with its time: two runs are the same when their traces are.
    fn note(&mut self, payload: &[u8], to: SocketAddr) {
        let at = (self.now - self.start).as_nanos() as u64;
        let bytes = at.to_be_bytes().into_iter().chain(to.port().to_be_bytes());
        for byte in bytes.chain(payload.iter().copied()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    // --- what the tests look at ---

    /// A hash over everything that has arrived anywhere, with its time.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Datagrams that the machines have sent.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A machine's host.
    pub fn host(&self, side: Side) -> HostId {
        self.machine(side).host
    }

    /// Where a machine's packets go.
    pub fn path(&self, side: Side) -> Option<Path> {
        self.machine(side).path
    }

    /// Whether both machines have a path.
    pub fn connected(&self) -> bool {
        self.machines.iter().all(|machine| machine.path.is_some())
    }

    /// The state of a machine's connection.
    pub fn state(&self, side: Side) -> LinkState {
        self.machine(side).connector.link_state(PEER)
    }

    /// Everything about a machine's connection.
    pub fn link_status(&self, side: Side) -> Option<LinkStatus> {
        self.machine(side).connector.link_status(PEER, self.now)
    }

    /// How many sockets a machine was asked to open for a purpose, and to close.
    pub fn opened_and_closed(&self, side: Side) -> (u64, u64) {
        (self.machine(side).opened, self.machine(side).closed)
    }

    /// What a machine had to remember about what worked, by network.
    pub fn worked(&self, side: Side) -> &[(u64, StepKind)] {
        &self.machine(side).worked
    }

    /// Whether either machine searches for ports, which ordinary checks are not.
    pub fn is_searching(&self) -> bool {
        let running = |status: LinkStatus| {
            let mut steps = status.steps.iter();
            steps.any(|step| step.kind != StepKind::Checks && step.outcome == Outcome::Running)
        };
        [Side::A, Side::B]
            .into_iter()
            .any(|side| self.link_status(side).is_some_and(running))
    }

    /// Whether the latest search of a machine has come to the end of what its NAT gives.
    pub fn has_used_up(&self, side: Side) -> bool {
        let status = self.link_status(side);
        let mut steps = status.iter().flat_map(|status| &status.steps);
        steps.any(|step| step.outcome == Outcome::PortsUsedUp)
    }

    /// The fresh flows of both machines, when there are any.
    pub fn fresh_flows(&self) -> Option<&[FreshFlows; 2]> {
        self.flows.as_ref()
    }

    /// The time that it is.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many sockets a machine has open.
    pub fn sockets(&self, side: Side) -> usize {
        self.machine(side).sockets.len()
    }

    /// The result of a netcheck.
    pub fn profiles(&self, side: Side) -> Option<&[NatProfile]> {
        self.machine(side).profiles.as_deref()
    }

    fn machine(&self, side: Side) -> &Machine {
        &self.machines[side as usize]
    }

    fn machine_mut(&mut self, side: Side) -> &mut Machine {
        &mut self.machines[side as usize]
    }
}
