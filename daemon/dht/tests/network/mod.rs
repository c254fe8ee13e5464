//! A DHT in virtual time: nodes that answer, nodes that are dead, nodes that lie; and machines with the channel, some of which may
//! have a wrong clock.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "each test uses a part of it; it needs some moment to begin"
)]

use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use punch_dht::krpc::{Answer, Body, Query, failure};
use punch_dht::{Attached, Item, Moment, Node, NodeId, Rendezvous, Scope, Told};
use punch_signal_protocol::{Frame, Identity, PeerId};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// Noon of some day.
pub const NOON: u64 = 20_000 * 86_400_000 + 43_200_000;

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Honest,
    Dead,
    /// Answers with values of its own, and signatures that are none.
    Forges,
    /// Keeps the first value of a place for ever.
    Old,
    /// Takes everything and keeps nothing.
    Forgets,
    /// Tells of nodes that are all itself, nearest to whatever is asked for.
    Itself,
    /// Tells of nodes where nobody is.
    Victims,
    /// Answers under another number, or with bytes that mean nothing.
    Babbles,
}

pub const LIARS: [Kind; 6] = [
    Kind::Forges,
    Kind::Old,
    Kind::Forgets,
    Kind::Itself,
    Kind::Victims,
    Kind::Babbles,
];

struct Server {
    id: NodeId,
    kind: Kind,
    knows: Vec<Node>,
    items: BTreeMap<NodeId, (Item, Instant)>,
}

pub struct Machine {
    pub identity: Identity,
    pub channel: Rendezvous,
    pub attached: Attached,
    pub address: SocketAddrV4,
    /// How wrong its clock is, in milliseconds.
    pub skew: i64,
    pub got: Vec<(Instant, Frame)>,
    pub told: Vec<Told>,
    /// Packets both ways, by minute.
    pub minutes: BTreeMap<u64, u32>,
    pub online: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    /// The sooner, the greater.
    at: std::cmp::Reverse<(Instant, u64)>,
    from: SocketAddrV4,
    to: SocketAddrV4,
    bytes: Vec<u8>,
}

pub struct Network {
    pub start: Instant,
    pub now: Instant,
    pub wall_ms: u64,
    pub machines: Vec<Machine>,
    servers: BTreeMap<SocketAddrV4, Server>,
    flying: BinaryHeap<Flying>,
    number: u64,
    pub rng: ChaCha8Rng,
    pub round_trip: Duration,
    /// Every item that was put, as the nodes see it, and from where.
    pub puts: Vec<(Instant, SocketAddrV4, Item)>,
    /// All that machines have sent.
    pub sent: Vec<(SocketAddrV4, Vec<u8>)>,
    pub keeps_sent: bool,
}

impl Network {
    /// So many nodes, of which a part is dead and a part lies (of a hundred).
    pub fn new(seed: u64, count: usize, dead: u32, liars: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut all = Vec::new();
        let mut servers = BTreeMap::new();
        while all.len() < count {
            let ip = Ipv4Addr::from(rng.next_u32() & 0x00ff_ffff | 0x1700_0000);
            let id = NodeId::of(ip, &mut rng);
            let address = SocketAddrV4::new(ip, 6881);
            let dice = rng.next_u32() % 100;
            let kind = match dice {
                _ if dice < dead => Kind::Dead,
                _ if dice < dead + liars => LIARS[rng.next_u32() as usize % LIARS.len()],
                _ => Kind::Honest,
            };
            let server = Server {
                id,
                kind,
                knows: Vec::new(),
                items: BTreeMap::new(),
            };
            if servers.insert(address, server).is_none() {
                all.push(Node { id, address });
            }
        }
        // Everybody knows up to eight nodes at each distance, as the real ones do.
        for server in servers.values_mut() {
            let mut buckets = BTreeMap::<usize, usize>::new();
            let first = rng.next_u32() as usize % all.len();
            for node in all.iter().cycle().skip(first).take(all.len()) {
                let bucket = buckets.entry(server.id.common_bits(&node.id)).or_default();
                if *bucket < 8 && node.id != server.id {
                    *bucket += 1;
                    server.knows.push(*node);
                }
            }
        }
        let now = Instant::now();
        Self {
            start: now,
            now,
            wall_ms: NOON,
            machines: Vec::new(),
            servers,
            flying: BinaryHeap::new(),
            number: 0,
            rng,
            round_trip: Duration::from_millis(300),
            puts: Vec::new(),
            sent: Vec::new(),
            keeps_sent: false,
        }
    }

    pub fn moment(&self, machine: usize) -> Moment {
        Moment {
            now: self.now,
            wall_ms: self.wall_ms.strict_add_signed(self.machines[machine].skew),
        }
    }

    /// A machine that knows five nodes, dead ones perhaps; at least one lives.
    pub fn add_machine(&mut self, identity: Identity, skew: i64) -> usize {
        let number = self.machines.len();
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let mut channel = Rendezvous::new(seed, Scope::Internet);
        let attached = channel.attach(identity.clone()).unwrap();
        let last = u8::try_from(number).unwrap();
        self.machines.push(Machine {
            identity,
            channel,
            attached,
            address: SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, last + 1), 4000),
            skew,
            got: Vec::new(),
            told: Vec::new(),
            minutes: BTreeMap::new(),
            online: true,
        });
        let all: Vec<_> = self.servers.keys().copied().collect();
        let mut known = Vec::new();
        while known.len() < 5 || !known.iter().any(|at| self.servers[at].kind == Kind::Honest) {
            known.push(all[self.rng.next_u32() as usize % all.len()]);
        }
        let at = self.moment(number);
        self.machines[number].channel.bootstrap(&known, at);
        self.pump(number);
        number
    }

    pub fn frame(&mut self, machine: usize, frame: Frame) {
        let at = self.moment(machine);
        let one = &mut self.machines[machine];
        one.channel.handle_frame(one.attached, frame, at);
        self.pump(machine);
    }

    pub fn set_peers(&mut self, machine: usize, peers: &[PeerId]) {
        let at = self.moment(machine);
        let one = &mut self.machines[machine];
        one.channel.set_peers(one.attached, peers, at);
        self.pump(machine);
    }

    fn minute(&self) -> u64 {
        self.now.duration_since(self.start).as_secs() / 60
    }

    /// What a machine has to say goes on its way.
    pub fn pump(&mut self, number: usize) {
        let (minute, now) = (self.minute(), self.now);
        let machine = &mut self.machines[number];
        let mut out = Vec::new();
        while let Some(transmit) = machine.channel.poll_transmit() {
            *machine.minutes.entry(minute).or_default() += 1;
            out.push((machine.address, transmit.to, transmit.bytes));
        }
        while let Some((_, frame)) = machine.channel.poll_frame() {
            machine.got.push((now, frame));
        }
        while let Some(told) = machine.channel.poll_event() {
            machine.told.push(told);
        }
        let online = machine.online;
        for (from, to, bytes) in out {
            if self.keeps_sent {
                self.sent.push((to, bytes.clone()));
            }
            if online {
                self.fly(from, to, bytes);
            }
        }
    }

    fn fly(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: Vec<u8>) {
        let half = self.round_trip / 2;
        let spread = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        let at = self.now + half.mul_f64(0.7 + 0.6 * spread);
        self.number += 1;
        self.flying.push(Flying {
            at: std::cmp::Reverse((at, self.number)),
            from,
            to,
            bytes,
        });
    }

    /// When something happens next.
    fn next(&self) -> Option<Instant> {
        let flying = self.flying.peek().map(|flying| flying.at.0.0);
        let machines = self.machines.iter();
        let timeouts = machines.filter_map(|machine| machine.channel.poll_timeout());
        flying.into_iter().chain(timeouts).min()
    }

    /// Lets time pass until then, or until a frame has come.
    pub fn run_until(&mut self, until: Instant) -> bool {
        let frames = |network: &Self| network.machines.iter().map(|m| m.got.len()).sum::<usize>();
        let before = frames(self);
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.advance_to(at.max(self.now));
            while self
                .flying
                .peek()
                .is_some_and(|flying| flying.at.0.0 <= self.now)
            {
                let flying = self.flying.pop().unwrap();
                self.arrive(flying);
            }
            for number in 0..self.machines.len() {
                let due = self.machines[number].channel.poll_timeout();
                if due.is_some_and(|due| due <= self.now) {
                    let at = self.moment(number);
                    self.machines[number].channel.handle_timeout(at);
                    let again = self.machines[number].channel.poll_timeout();
                    assert!(again.is_none_or(|again| again > self.now), "it spins");
                    self.pump(number);
                }
            }
            if frames(self) != before {
                return true;
            }
        }
        self.advance_to(until);
        false
    }

    fn advance_to(&mut self, at: Instant) {
        let passed = at.duration_since(self.now);
        self.now = at;
        // Fractions of a millisecond do not add up to anything here.
        let total = at.duration_since(self.start).as_millis();
        let before = (at - passed).duration_since(self.start).as_millis();
        self.wall_ms += u64::try_from(total - before).unwrap();
    }

    fn arrive(&mut self, flying: Flying) {
        let mut machines = self.machines.iter();
        if let Some(number) = machines.position(|machine| machine.address == flying.to) {
            let (at, minute) = (self.moment(number), self.minute());
            let machine = &mut self.machines[number];
            if machine.online {
                *machine.minutes.entry(minute).or_default() += 1;
                let from = SocketAddr::V4(flying.from);
                machine.channel.handle_datagram(from, &flying.bytes, at);
                self.pump(number);
            }
            return;
        }
        let Some(answer) = self.serve(&flying) else {
            return;
        };
        self.fly(flying.to, flying.from, answer);
    }

    /// What a node answers, and as what it does.
    fn serve(&mut self, flying: &Flying) -> Option<Vec<u8>> {
        let (query, transaction, _) = Query::decode(&flying.bytes).ok()?;
        let target = match &query {
            Query::Get(target) | Query::FindNode(target) => Some(*target),
            Query::Ping | Query::Put { .. } => None,
        };
        if let Query::Put { item, .. } = &query {
            self.puts.push((self.now, flying.from, item.clone()));
        }
        let server = self.servers.get_mut(&flying.to)?;
        let kind = server.kind;
        let mut body = server.honestly(query, flying.from, self.now);
        if let Some(target) = target {
            let seq = i64::try_from(self.wall_ms).unwrap() + 1_000_000;
            lie(kind, &mut body, target, (*flying.to.ip(), seq));
        }
        let mut answer = Answer {
            transaction,
            seen: Some(flying.from),
            body,
        };
        match kind {
            Kind::Dead => None,
            Kind::Babbles if self.rng.next_u32().is_multiple_of(2) => Some(vec![0xff; 30]),
            Kind::Babbles => {
                answer.transaction = vec![1, 2, 3, 4];
                Some(answer.encode())
            }
            _ => Some(answer.encode()),
        }
    }
}

impl Server {
    /// What is right to answer, but for what becomes of items.
    fn honestly(&mut self, query: Query, from: SocketAddrV4, now: Instant) -> Body {
        let token = from.ip().octets().to_vec();
        let lives = Duration::from_secs(7200);
        match query {
            Query::Ping => done(self.id, Vec::new(), None),
            Query::FindNode(target) => done(self.id, closest(&self.knows, target), None),
            Query::Get(target) => {
                self.items
                    .retain(|_, (_, since)| now.duration_since(*since) < lives);
                Body::Done {
                    id: self.id,
                    nodes: closest(&self.knows, target),
                    token: Some(token),
                    item: self.items.get(&target).map(|(item, _)| item.clone()),
                }
            }
            Query::Put { item, token: shown } => {
                let known = self.items.get(&item.place());
                let is_older = known.is_some_and(|(known, _)| known.seq > item.seq);
                if shown != token || !item.is_authentic() {
                    return Body::Failed(failure::PROTOCOL);
                }
                match self.kind {
                    Kind::Forgets => {}
                    Kind::Old => drop(self.items.entry(item.place()).or_insert((item, now))),
                    _ if is_older => return Body::Failed(failure::OLDER),
                    _ => drop(self.items.insert(item.place(), (item, now))),
                }
                done(self.id, Vec::new(), None)
            }
        }
    }
}

/// What nodes of some kinds say in the place of the truth.
fn lie(kind: Kind, body: &mut Body, target: NodeId, (own, seq): (Ipv4Addr, i64)) {
    let Body::Done { nodes, item, .. } = body else {
        return;
    };
    let near = |number: u8| {
        let mut id = target;
        id.0[19] ^= number;
        id
    };
    match kind {
        Kind::Forges => {
            let forged = item.get_or_insert(Item {
                key: [9; 32],
                seq,
                value: Vec::new(),
                signature: [5; 64],
            });
            forged.seq = seq;
            forged.value = vec![7; punch_dht::VALUE_LENGTH];
        }
        Kind::Itself | Kind::Victims => {
            let lies = (1..20).map(|number| {
                let (ip, port) = match kind {
                    Kind::Itself => (own, 7000 + u16::from(number)),
                    _ => (Ipv4Addr::new(203, 0, 113, number), 6881),
                };
                Node {
                    id: near(number),
                    address: SocketAddrV4::new(ip, port),
                }
            });
            *nodes = lies.collect();
        }
        _ => {}
    }
}

fn done(id: NodeId, nodes: Vec<Node>, item: Option<Item>) -> Body {
    Body::Done {
        id,
        nodes,
        token: None,
        item,
    }
}

fn closest(nodes: &[Node], target: NodeId) -> Vec<Node> {
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|node| target.distance(&node.id));
    nodes.truncate(8);
    nodes
}
