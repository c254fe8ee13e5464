//! What data and handshakes cost: the sealing and opening of one packet, and each step of a handshake.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a benchmark"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::BytesCount;
use punch_packet::{Batch, Buffer, PeerHandle};
use punch_wireguard::{
    Asker, Checked, CookieChecker, HandshakeJob, JobResult, LocalKeys, Outcome, Session, SessionId,
};

const MTU: usize = 1420;
const FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn main() {
    divan::main();
}

struct End {
    session: Session<()>,
    checker: CookieChecker,
}

impl End {
    fn pair() -> [Self; 2] {
        [(1, 2), (2, 1)].map(|(own, peer)| {
            let keys = LocalKeys::new([own; 32]);
            let peer = LocalKeys::new([peer; 32]).public();
            let id = SessionId {
                peer: PeerHandle(1),
                number: own.into(),
            };
            Self {
                session: Session::new(&keys, id, &peer, Some([7; 32]), None, MTU),
                checker: CookieChecker::new(keys),
            }
        })
    }

    fn connected(now: Instant) -> [Self; 2] {
        let [mut a, mut b] = Self::pair();
        let initiation = a.initiation(now);
        let asker = b.identify(&initiation, now);
        assert!(b.session.handle_asker(&asker));
        let response = sent(b.step(now));
        assert!(a.session.handle_answer(&response, ()));
        let Outcome::Established { confirmation, .. } = a.step(now) else {
            panic!("the response was not taken");
        };
        b.session.open(&confirmation, now, &mut Batch::default());
        [a, b]
    }

    fn job(&mut self, now: Instant) -> HandshakeJob<()> {
        self.session
            .poll_job(true, Duration::from_secs(1_700_000_000), now)
            .unwrap()
    }

    fn step(&mut self, now: Instant) -> Outcome<()> {
        let JobResult::Step(step) = self.job(now).perform() else {
            panic!("a session's job is a step");
        };
        self.session.handle_step(step, now)
    }

    fn initiation(&mut self, now: Instant) -> Vec<u8> {
        self.session.initiate(now);
        sent(self.step(now))
    }

    fn identify(&mut self, initiation: &[u8], now: Instant) -> Asker<()> {
        let Checked::Initiation(message) = self.checker.check(FROM, true, initiation, now) else {
            panic!("the initiation was refused");
        };
        let JobResult::Identified(Some(asker)) = self.checker.identify(message, ()).perform()
        else {
            panic!("the initiation does not open");
        };
        asker
    }
}

fn sent(outcome: Outcome<()>) -> Vec<u8> {
    match outcome {
        Outcome::Send { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

fn packet(length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    packet
}

#[divan::bench(args = [64, 1420])]
fn seal(bencher: Bencher<'_, '_>, length: usize) {
    let now = Instant::now();
    let [mut a, _] = End::connected(now);
    let (packet, mut out) = (packet(length), Buffer::default());
    bencher.counter(BytesCount::new(length)).bench_local(|| {
        out.clear();
        a.session.seal(&packet, now, &mut out)
    });
}

#[divan::bench(args = [64, 1420])]
fn open(bencher: Bencher<'_, '_>, length: usize) {
    let now = Instant::now();
    let [mut a, mut b] = End::connected(now);
    let (packet, mut out) = (packet(length), Batch::default());
    bencher
        .counter(BytesCount::new(length))
        .with_inputs(|| {
            let mut sealed = Buffer::default();
            a.session.seal(&packet, now, &mut sealed);
            sealed
        })
        .bench_local_values(|datagram| {
            out.clear();
            b.session.open(&datagram, now, &mut out)
        });
}

#[divan::bench]
fn begin(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let [mut a, _] = End::connected(now);
    bencher.bench_local(|| a.initiation(now));
}

#[divan::bench]
fn identify(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let [mut a, mut b] = End::connected(now);
    let initiation = a.initiation(now);
    let Checked::Initiation(message) = b.checker.check(FROM, true, &initiation, now) else {
        panic!("the initiation was refused");
    };
    bencher
        .with_inputs(|| b.checker.identify(message.clone(), ()))
        .bench_local_values(HandshakeJob::perform);
}

#[divan::bench]
fn answer(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let [mut a, mut b] = End::connected(now);
    // The first answer after a change of tunnels reads the initiation before it, too; the others do not.
    bencher.bench_local(|| {
        let initiation = a.initiation(now);
        let JobResult::Identified(Some(asker)) = b
            .checker
            .identify(Box::new(initiation.try_into().unwrap()), ())
            .perform()
        else {
            panic!("the initiation does not open");
        };
        assert!(b.session.handle_asker(&asker));
        sent(b.step(now))
    });
}
