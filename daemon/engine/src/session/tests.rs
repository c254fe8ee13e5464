//! Two sessions, each behind its gate, in virtual time.

mod both;
mod handshakes;
mod hostile;
mod load;
mod long;
mod oracle;
mod renewal;
mod timers;

use std::net::SocketAddr;

use punch_signal_protocol::Identity;
use punch_traversal::{DirectPath, SocketId};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;

const TICK: Duration = Duration::from_millis(250);
const WALL: Duration = Duration::from_secs(1_700_000_000);
const MTU: usize = 1420;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::new([192, 0, 2, last].into(), 51_820)
}

/// An IPv4 packet that carries a number.
fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![0; 64];
    packet[0] = 0x45;
    packet[3] = 64;
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(*packet[20..].first_chunk().unwrap())
}

fn is_data(datagram: &[u8]) -> bool {
    datagram[0] == DATA
}

/// One machine with one peer.
struct End {
    session: Session,
    gate: Gate,
    rng: ChaCha20Rng,
    peer: [u8; 32],
    address: SocketAddr,
    /// The wall clock at `start`.
    start: Instant,
    wall: Duration,
    /// The numbers of the packets that came out.
    inbox: Vec<u32>,
    /// When it has begun handshakes, and how many it has completed.
    begun: Vec<Instant>,
    finished: usize,
}

impl End {
    fn new(
        own: u8,
        peer: u8,
        preshared: Option<[u8; 32]>,
        keepalive: Option<Duration>,
        start: Instant,
    ) -> Self {
        let gate = Gate::new(&identity(own));
        let peer = *identity(peer).id().x25519();
        Self {
            session: Self::session(&gate, own, &peer, preshared, keepalive),
            gate,
            rng: ChaCha20Rng::from_seed([own; 32]),
            peer,
            address: address(own),
            start,
            wall: WALL,
            inbox: Vec::new(),
            begun: Vec::new(),
            finished: 0,
        }
    }

    fn session(
        gate: &Gate,
        own: u8,
        peer: &[u8; 32],
        preshared: Option<[u8; 32]>,
        keepalive: Option<Duration>,
    ) -> Session {
        let owner = Owner {
            peer: PeerHandle(1),
            session: 0x00AB_CD00 + u32::from(own),
        };
        Session::new(gate, owner, peer, preshared, keepalive, MTU)
    }

    fn seed(&mut self) -> Seed {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    /// What the session seals, without anything around it.
    fn seal(&mut self, number: u32, now: Instant) -> Option<Vec<u8>> {
        let mut out = Buffer::default();
        let length = self.session.seal(&packet(number), now, &mut out);
        assert_eq!(length, out.len());
        (length > 0).then(|| out.to_vec())
    }

    /// A packet of this machine: what goes out.
    fn send(&mut self, number: u32, now: Instant) -> Vec<Vec<u8>> {
        let sealed = self.seal(number, now);
        sealed.into_iter().chain(self.begin(now)).collect()
    }

    /// The initiation that is due.
    fn begin(&mut self, now: Instant) -> Option<Vec<u8>> {
        let seed = self.seed();
        let wall = self.wall + (now - self.start);
        let work = self.session.begin(wall, seed, now)?;
        let Done::Begun { begun, .. } = work.perform().0 else {
            panic!("it was an initiation that was to be made");
        };
        let message = begun.as_ref().unwrap().message.clone().unwrap();
        assert!(self.session.handle_begun(begun));
        self.begun.push(now);
        Some(message.to_vec())
    }

    /// A quarter of a second has passed: what goes out.
    fn tick(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Buffer::default();
        self.session.handle_timeout(now, &mut out);
        let sealed = (!out.is_empty()).then(|| out.to_vec());
        sealed.into_iter().chain(self.begin(now)).collect()
    }

    /// What has waited for keys.
    fn drain(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while self.session.has_waiting(now) {
            let mut out = Buffer::default();
            self.session.seal_waiting(now, &mut out);
            sent.push(out.to_vec());
        }
        sent
    }

    fn open(&mut self, datagram: &[u8], now: Instant) -> OpenedData {
        let mut out = Batch::default();
        let opened = self.session.open_data(datagram, now, &mut out);
        assert_eq!(out.len(), usize::from(opened == OpenedData::Packet));
        self.inbox.extend(out.iter().map(number));
        opened
    }

    fn origin(from: SocketAddr) -> Origin {
        let path = DirectPath {
            socket: SocketId::MAIN_V4,
            remote: from,
        };
        Origin { path, local: None }
    }

    fn admit(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Admission {
        self.gate.admit(from, false, datagram, &mut self.rng, now)
    }

    /// Whether the gate lets a message through.
    fn admits(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> bool {
        matches!(
            self.admit(datagram, from, now),
            Admission::Initiation(_) | Admission::For(_)
        )
    }

    /// Fills the gate with as many messages as it takes in a second before it asks for cookies.
    fn load(&mut self, message: &[u8], from: SocketAddr, now: Instant) {
        while !matches!(self.admit(message, from, now), Admission::Cookie(_)) {}
    }

    /// A datagram of the peer: what goes out.
    fn receive(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Vec<Vec<u8>> {
        if data_index(datagram).is_some() {
            self.open(datagram, now);
            return self.drain(now).into_iter().chain(self.begin(now)).collect();
        }
        match self.admit(datagram, from, now) {
            Admission::Initiation(message) => self.answer(message, from, now).into_iter().collect(),
            Admission::For(index) if index == self.session.index() => {
                self.finish(datagram, from, now);
                self.drain(now)
            }
            Admission::Cookie(reply) => vec![reply],
            Admission::For(_) | Admission::Overload | Admission::Refused => Vec::new(),
        }
    }

    fn identify(
        &mut self,
        message: Box<[u8; gate::INITIATION_LENGTH]>,
        from: SocketAddr,
    ) -> Option<Asked> {
        let seed = self.seed();
        let work = self.gate.identify(message, Self::origin(from), seed);
        let Done::Identified(asked) = work.perform().0 else {
            panic!("it was an initiation that was to be read");
        };
        asked.filter(|asked| asked.public == self.peer)
    }

    fn answer(
        &mut self,
        message: Box<[u8; gate::INITIATION_LENGTH]>,
        from: SocketAddr,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let asked = self.identify(message, from)?;
        let seed = self.seed();
        let work = self.session.answer(asked, seed, now)?;
        let Done::Answered { answer, .. } = work.perform().0 else {
            panic!("it was an answer that was to be made");
        };
        let answer = answer.unwrap();
        let message = answer.message.to_vec();
        self.session.handle_answered(answer, now);
        Some(message)
    }

    /// Whether a response or a cookie is taken.
    fn finish(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> bool {
        let seed = self.seed();
        let Some(work) = self.session.finish(datagram, Self::origin(from), seed) else {
            return self.session.handle_cookie(datagram, now);
        };
        let Done::Finished { result, .. } = work.perform().0 else {
            panic!("it was an answer that was to be read");
        };
        let finished = self.session.handle_finished(result, now);
        self.finished += usize::from(finished);
        finished
    }
}

/// Two machines and the way between them.
struct World {
    now: Instant,
    start: Instant,
    ends: [End; 2],
    latency: Duration,
    /// Of a thousand datagrams, so many are lost.
    loss: u32,
    rng: ChaCha20Rng,
    next_tick: Instant,
    /// When they arrive, to whom they go, and what they are; in order.
    wire: VecDeque<(Instant, usize, Vec<u8>)>,
    /// All that was sent: when, by whom, what.
    sent: Vec<(Instant, usize, Vec<u8>)>,
    keep: bool,
}

const A: usize = 0;
const B: usize = 1;

impl World {
    fn new() -> Self {
        Self::with([None, None], [None, None])
    }

    fn with(preshared: [Option<[u8; 32]>; 2], keepalive: [Option<Duration>; 2]) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            ends: [
                End::new(1, 2, preshared[A], keepalive[A], now),
                End::new(2, 1, preshared[B], keepalive[B], now),
            ],
            latency: Duration::ZERO,
            loss: 0,
            rng: ChaCha20Rng::from_seed([9; 32]),
            next_tick: now + TICK,
            wire: VecDeque::new(),
            sent: Vec::new(),
            keep: true,
        }
    }

    /// The same after A's first handshake, which took no time; nothing has been sent but what confirms it.
    fn connected() -> Self {
        let mut world = Self::new();
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.ends[A].session.initiate(self.now);
        let initiation = self.ends[A].begin(self.now).unwrap();
        self.transmit(A, vec![initiation]);
        self.settle();
        assert!(self.ends.iter().all(|end| end.session.established()));
        self.sent.clear();
    }

    fn transmit(&mut self, from: usize, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            if self.keep {
                self.sent.push((self.now, from, datagram.clone()));
            }
            if self.loss == 0 || self.rng.next_u32() % 1000 >= self.loss {
                self.wire
                    .push_back((self.now + self.latency, 1 - from, datagram));
            }
        }
    }

    fn send(&mut self, from: usize, number: u32) {
        let datagrams = self.ends[from].send(number, self.now);
        self.transmit(from, datagrams);
    }

    fn arrive(&mut self, to: usize, datagram: &[u8]) {
        let from = self.ends[1 - to].address;
        let answers = self.ends[to].receive(datagram, from, self.now);
        self.transmit(to, answers);
    }

    /// Lets everything arrive that is due now.
    fn settle(&mut self) {
        while self.wire.front().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, to, datagram) = self.wire.pop_front().unwrap();
            self.arrive(to, &datagram);
        }
    }

    /// Everything that happens until then.
    fn run_until(&mut self, until: Instant) {
        loop {
            let arrival = self.wire.front().map(|(at, ..)| *at);
            let next = arrival.map_or(self.next_tick, |at| at.min(self.next_tick));
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            if next == self.next_tick {
                self.next_tick += TICK;
                for end in [A, B] {
                    let datagrams = self.ends[end].tick(self.now);
                    self.transmit(end, datagrams);
                }
            }
            self.settle();
        }
        self.now = until;
    }

    fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Nothing happens, not even timers.
    fn skip_to(&mut self, since_start: Duration) {
        self.now = self.start + since_start;
        self.next_tick = self.now + TICK;
    }

    /// A packet each way, now.
    fn both_ways_work(&mut self) -> bool {
        for end in &mut self.ends {
            end.inbox.clear();
        }
        self.send(A, 1000);
        self.send(B, 2000);
        self.run(self.latency);
        self.ends[A].inbox == [2000] && self.ends[B].inbox == [1000]
    }

    /// When this end has sent what.
    fn sent_by(&self, end: usize) -> impl Iterator<Item = (Duration, &[u8])> {
        let of_end = move |(_, from, _): &&(Instant, usize, Vec<u8>)| *from == end;
        self.sent
            .iter()
            .filter(of_end)
            .map(|(at, _, datagram)| (*at - self.start, datagram.as_slice()))
    }
}
