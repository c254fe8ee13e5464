//! Two sessions, each behind its checker, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

mod both;
mod handshakes;
mod hostile;
mod load;
mod long;
mod oracle;
mod renewal;
mod sizes;
mod successors;
mod timers;
mod turns;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use punch_packet::{Batch, Buffer, PeerHandle};
use punch_wireguard::{
    Asker, Checked, CookieChecker, HandshakeJob, JobResult, LocalKeys, OVERHEAD, Opened, Outcome,
    Session, SessionId, data_index,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

const TICK: Duration = Duration::from_millis(250);
const MTU: usize = 1420;
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The wall clock at the start.
const WALL: Duration = Duration::from_secs(1_700_000_000);
const DATA: u8 = 4;
const COOKIE_REPLY: u8 = 3;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The public key of the end with this number.
fn public(own: u8) -> [u8; 32] {
    LocalKeys::new([own; 32]).public()
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

/// Writes the MAC that everybody can make who knows the receiver's public key, and no cookie.
fn sign(message: &mut [u8], receiver: &[u8; 32]) {
    let key = Blake2s256::new()
        .chain(b"mac1----")
        .chain(receiver)
        .finalize();
    let first = message.len() - 32;
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap();
    Update::update(&mut mac, &message[..first]);
    let mac: [u8; 16] = mac.finalize_fixed().into();
    message[first..first + 16].copy_from_slice(&mac);
    message[first + 16..].fill(0);
}

/// One machine with one peer.
struct End {
    session: Session<SocketAddr>,
    checker: CookieChecker,
    keys: Arc<LocalKeys>,
    peer: [u8; 32],
    address: SocketAddr,
    /// How far its wall clock has been set forward.
    ahead: Duration,
    /// The numbers of the packets that came out.
    inbox: Vec<u32>,
    /// When it has begun handshakes, and how many it has completed.
    begun: Vec<Instant>,
    finished: usize,
}

impl End {
    fn new(own: u8, peer: u8, preshared: Option<[u8; 32]>, keepalive: Option<Duration>) -> Self {
        let keys = LocalKeys::new([own; 32]);
        let peer = public(peer);
        Self {
            session: Self::session(&keys, own, &peer, preshared, keepalive),
            checker: CookieChecker::new(keys.clone()),
            keys,
            peer,
            address: address(own),
            ahead: Duration::ZERO,
            inbox: Vec::new(),
            begun: Vec::new(),
            finished: 0,
        }
    }

    fn session(
        keys: &Arc<LocalKeys>,
        own: u8,
        peer: &[u8; 32],
        preshared: Option<[u8; 32]>,
        keepalive: Option<Duration>,
    ) -> Session<SocketAddr> {
        let id = SessionId {
            peer: PeerHandle(1),
            number: 0x2A_BC00 + u32::from(own),
        };
        Session::new(keys, id, peer, preshared, keepalive, MTU)
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
        sealed.into_iter().chain(self.work(now)).collect()
    }

    fn wall(&self, now: Instant) -> Duration {
        WALL + self.ahead + now.saturating_duration_since(*START)
    }

    fn job(&mut self, now: Instant) -> Option<HandshakeJob<SocketAddr>> {
        self.session.poll_job(true, self.wall(now), now)
    }

    /// Does a job; returns what is to be sent for it.
    fn perform(&mut self, job: HandshakeJob<SocketAddr>, now: Instant) -> Vec<Vec<u8>> {
        let JobResult::Step(step) = job.perform() else {
            panic!("a session's job is a step");
        };
        match self.session.handle_step(step, now) {
            Outcome::Nothing | Outcome::Refused => Vec::new(),
            Outcome::Send { message, reply_to } => {
                if reply_to.is_none() {
                    self.begun.push(now);
                }
                vec![message]
            }
            Outcome::Established { confirmation, .. } => {
                self.finished += 1;
                vec![confirmation]
            }
        }
    }

    /// Does all that handshakes need; returns what is to be sent.
    fn work(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(job) = self.job(now) {
            sent.extend(self.perform(job, now));
        }
        sent
    }

    /// The initiation that is due.
    fn begin(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.session.wants_handshake(now);
        let sent = self.work(now);
        assert_eq!(sent.len(), usize::from(due));
        sent.into_iter().next()
    }

    /// A quarter of a second has passed: what goes out.
    fn tick(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Buffer::default();
        self.session.handle_timeout(now, &mut out);
        let sealed = (!out.is_empty()).then(|| out.to_vec());
        sealed.into_iter().chain(self.work(now)).collect()
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

    fn open(&mut self, datagram: &[u8], now: Instant) -> Opened {
        let mut out = Batch::default();
        let opened = self.session.open(datagram, now, &mut out);
        assert_eq!(out.len(), usize::from(opened == Opened::Packet));
        self.inbox.extend(out.iter().map(number));
        opened
    }

    fn check(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Checked {
        self.checker.check(from, false, datagram, now)
    }

    /// Whether the checker lets a message through.
    fn admits(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> bool {
        matches!(
            self.check(datagram, from, now),
            Checked::Initiation(_) | Checked::For(_)
        )
    }

    /// Gives the checker as many messages as it takes in a second before it asks for cookies.
    fn load(&mut self, message: &[u8], from: SocketAddr, now: Instant) {
        while !matches!(self.check(message, from, now), Checked::Cookie(_)) {}
    }

    /// A datagram of the peer: what goes out.
    fn receive(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Vec<Vec<u8>> {
        if data_index(datagram).is_some() {
            self.open(datagram, now);
            return self.drain(now).into_iter().chain(self.work(now)).collect();
        }
        match self.check(datagram, from, now) {
            Checked::Initiation(message) => self.answer(message, from, now),
            Checked::For(number) if number == self.session.number() => {
                self.session.handle_answer(datagram, from);
                let confirmation = self.work(now);
                confirmation.into_iter().chain(self.drain(now)).collect()
            }
            Checked::Cookie(reply) => vec![reply],
            Checked::For(_) | Checked::Overload | Checked::Refused => Vec::new(),
        }
    }

    fn identify(&mut self, message: Box<[u8; 148]>, from: SocketAddr) -> Option<Asker<SocketAddr>> {
        let JobResult::Identified(asker) = self.checker.identify(message, from).perform() else {
            panic!("it was an initiation that was to be read");
        };
        asker.filter(|asker| asker.public == self.peer)
    }

    fn answer(&mut self, message: Box<[u8; 148]>, from: SocketAddr, now: Instant) -> Vec<Vec<u8>> {
        let Some(asker) = self.identify(message, from) else {
            return Vec::new();
        };
        if !self.session.handle_asker(&asker) {
            return Vec::new();
        }
        self.work(now)
    }

    /// Whether a response has given new keys, or a cookie was taken.
    fn finish(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> bool {
        let before = self.finished;
        let taken = self.session.handle_answer(datagram, from);
        if datagram.len() == 64 {
            return taken;
        }
        while let Some(job) = self.session.poll_job(false, self.wall(now), now) {
            self.perform(job, now);
        }
        self.finished > before
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
        let now = *START;
        Self {
            now,
            start: now,
            ends: [
                End::new(1, 2, preshared[A], keepalive[A]),
                End::new(2, 1, preshared[B], keepalive[B]),
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
        assert!(self.ends.iter().all(|end| end.session.is_established()));
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
