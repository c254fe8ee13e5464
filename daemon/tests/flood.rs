//! Somebody floods a host's port with forged handshakes: what stands keeps standing, and new tunnels are made all the same. How
//! fast it was is printed, and is no verdict: a flood is as fast as this machine's punchd can just read it, because what does
//! not fit into the socket is dropped by the kernel, a peer's packets like all others, before punchd could tell them apart.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use harness::{
    Echo, Host, Lab, Namespace, PATIENCE, Server, fill, receive_hashed, send_hashed, wait_until,
};
use socket2::{Domain, Protocol, Socket, Type};

/// Different datagrams of each kind, sent round and round.
const DATAGRAMS: usize = 4096;
/// Addresses that they come from, each with a port of its own.
const SOURCES: u8 = 64;
/// A flood of one kind lasts so long, and longer where what happens meanwhile does.
const AT_LEAST: Duration = Duration::from_millis(2500);
/// How often a flood's speed is looked at.
const TURN: Duration = Duration::from_millis(20);
/// One in so many datagrams may find no room in the socket; beyond that a flood becomes slower.
const MAY_OVERFLOW: u64 = 50;
/// Each kind of flood goes on until punchd has refused so many of its datagrams.
const REFUSED: u64 = 1000;
/// What is transferred each way during each flood.
const LENGTH: u64 = 4 * 1024 * 1024;
/// Buffers that fill for the first time. A hundred bytes kept of each datagram would be more.
const MAY_GROW_KIB: u64 = 8 * 1024;

// --- handshake initiations ---

/// Type 1, the sender's index, an ephemeral key, a sealed key and timestamp, mac1, mac2.
const INITIATION: usize = 148;
const SEALED: std::ops::Range<usize> = 40..116;
const MAC1: std::ops::Range<usize> = 116..132;

type Initiation = [u8; INITIATION];

/// Makes initiations for one host, knowing no more than its public key.
struct Forger {
    responder: PublicKey,
    random: u64,
}

impl Forger {
    fn new(host: &Host) -> Self {
        let id = host.ctl_json(&["id"]);
        let key = STANDARD.decode(id["wireguard"].as_str().unwrap()).unwrap();
        Self {
            responder: PublicKey::from(<[u8; 32]>::try_from(key).unwrap()),
            random: 11,
        }
    }

    fn many(&mut self, mut one: impl FnMut(&mut Self) -> Initiation) -> Vec<Initiation> {
        (0..DATAGRAMS).map(|_| one(self)).collect()
    }

    /// The right type, and nothing else.
    fn noise(&mut self) -> Initiation {
        let mut datagram = [0; INITIATION];
        fill(&mut self.random, &mut datagram);
        datagram[..4].copy_from_slice(&1_u32.to_le_bytes());
        datagram
    }

    /// What passes the first check (mac1), and opens to nothing.
    fn garbage(&mut self) -> Initiation {
        let mut datagram = self.stranger();
        fill(&mut self.random, &mut datagram[SEALED]);
        let key = Blake2s256::new_with_prefix(b"mac1----")
            .chain_update(self.responder.as_bytes())
            .finalize();
        let mut mac1 = Blake2sMac::<U16>::new_from_slice(&key).unwrap();
        mac1.update(&datagram[..MAC1.start]);
        datagram[MAC1].copy_from_slice(&mac1.finalize_fixed());
        datagram
    }

    /// A perfect one, from a key that the host does not know.
    fn stranger(&mut self) -> Initiation {
        let mut secret = [0; 32];
        fill(&mut self.random, &mut secret);
        let secret = StaticSecret::from(secret);
        let mut tunn = Tunn::new(secret, self.responder, None, None, 1, None);
        let mut datagram = [0; INITIATION];
        match tunn.format_handshake_initiation(&mut datagram, true) {
            TunnResult::WriteToNetwork(bytes) => assert_eq!(bytes.len(), INITIATION),
            other => panic!("{other:?}"),
        }
        datagram
    }
}

/// The first initiation that passes on the internet for this address, as whoever listens there has it.
fn overhear(lab: &Lab, to: SocketAddr) -> JoinHandle<Initiation> {
    // All that is IPv4, from its header on; as `socket` wants it, in network byte order.
    let ipv4 = Protocol::from(i32::from(0x0800_u16.to_be()));
    let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(ipv4)).unwrap();
    let mut socket = lab.namespace("inet").inside(open);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let IpAddr::V4(ip) = to.ip() else {
        panic!("{to}");
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            let length = socket.read(&mut buffer).expect("somebody shakes hands");
            let packet = &buffer[..length];
            // Without options the IP header has 20 bytes, that of UDP 8.
            let Some(payload) = packet.get(28..) else {
                continue;
            };
            if packet[9] == 17
                && packet[16..20] == ip.octets()
                && packet[22..24] == to.port().to_be_bytes()
                && payload.starts_with(&[1, 0, 0, 0])
                && let Ok(initiation) = payload.try_into()
            {
                return initiation;
            }
        }
    })
}

// --- the flood ---

/// A machine with many addresses.
struct Flooder {
    net: Namespace,
    target: SocketAddr,
    overflow: Overflow,
}

/// Where the kernel counts the datagrams that found no room in a host's socket.
#[derive(Debug, Clone)]
struct Overflow {
    table: String,
    /// As the table writes it.
    port: String,
}

impl Overflow {
    fn of(host: &Host, port: u16) -> Self {
        Self {
            table: format!("/proc/{}/net/udp", host.punchd.pid()),
            port: format!(":{port:04X}"),
        }
    }

    fn datagrams(&self) -> u64 {
        let table = std::fs::read_to_string(&self.table).unwrap();
        let mut sockets = table.lines().map(|line| line.split_whitespace());
        let socket = sockets.find(|line| line.clone().nth(1).unwrap().ends_with(&self.port));
        socket.unwrap().last().unwrap().parse().unwrap()
    }
}

/// How much a flood sends in a turn: more and more, until the victim's socket overflows.
struct Pace {
    datagrams: u64,
    overflow: Overflow,
    overflowed: u64,
}

impl Pace {
    fn new(overflow: &Overflow) -> Self {
        Self {
            datagrams: 2000,
            overflowed: overflow.datagrams(),
            overflow: overflow.clone(),
        }
    }

    /// After a turn in which so many were sent.
    fn adapt(&mut self, sent: u64) {
        let now = self.overflow.datagrams();
        let lost = now - std::mem::replace(&mut self.overflowed, now);
        self.datagrams = match lost * MAY_OVERFLOW > sent {
            true => (self.datagrams / 2).max(100),
            false => self.datagrams.min(2 * sent) + 100,
        };
    }
}

impl Flooder {
    /// The lab's server gets so many addresses more.
    fn new(lab: &Lab, target: SocketAddr, overflow: Overflow) -> Self {
        let net = lab.server.clone();
        net.exec_ok(&["ip", "route", "add", "local", "198.18.0.0/24", "dev", "lo"]);
        let inet = lab.namespace("inet");
        let via = lab.env("SERVER_IPV4");
        let route = ["ip", "route", "add", "198.18.0.0/24", "via", via];
        inet.exec_ok(&[&route[..], &["dev", "server", "onlink"]].concat());
        Self {
            net,
            target,
            overflow,
        }
    }

    fn sockets(&self) -> Vec<UdpSocket> {
        self.net.inside(|| {
            let sources = (1..=SOURCES).map(|last| SocketAddr::from(([198, 18, 0, last], 0)));
            sources
                .map(|source| {
                    let socket = UdpSocket::bind(source).unwrap();
                    socket.connect(self.target).unwrap();
                    socket
                })
                .collect()
        })
    }

    /// Sends them over and over, as fast as one thread can and the victim reads.
    fn begin(&self, datagrams: &[Initiation]) -> Flood {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let thread = std::thread::spawn({
            let (sockets, datagrams) = (self.sockets(), datagrams.to_vec());
            let (stop, sent) = (stop.clone(), sent.clone());
            let mut pace = Pace::new(&self.overflow);
            move || {
                let mut pairs = sockets.iter().cycle().zip(datagrams.iter().cycle());
                while !stop.load(Ordering::Relaxed) {
                    let (began, mut passed) = (Instant::now(), 0);
                    while passed < pace.datagrams && began.elapsed() < TURN {
                        let some = pairs.by_ref().take(100);
                        let some = some.filter(|(socket, datagram)| socket.send(*datagram).is_ok());
                        passed += some.count() as u64;
                    }
                    sent.fetch_add(passed, Ordering::Relaxed);
                    std::thread::sleep(TURN.saturating_sub(began.elapsed()));
                    pace.adapt(passed);
                }
            }
        });
        Flood {
            stop,
            sent,
            began: Instant::now(),
            thread: Some(thread),
        }
    }
}

/// Ends when dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    began: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Ends it, not before its time; returns how many datagrams it had, and how long it took.
    fn end(self) -> (u64, Duration) {
        std::thread::sleep(AT_LEAST.saturating_sub(self.began.elapsed()));
        (self.sent.load(Ordering::Relaxed), self.began.elapsed())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (sent, took) = (self.sent.load(Ordering::Relaxed), self.began.elapsed());
            eprintln!("in a flood of {sent} datagrams in {} s", took.as_secs());
        }
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// --- what it costs the host ---

#[derive(Debug, Clone, Copy)]
struct Cost {
    resident_kib: u64,
    /// Hundredths of a second.
    cpu: u64,
    /// Datagrams for which there was no room in the socket.
    overflowed: u64,
    not_for_us: u64,
    under_load: u64,
    /// Bulk data that was dropped because the socket's queue stood.
    queue_in: u64,
    log_lines: u64,
}

impl Cost {
    fn of(host: &Host, port: u16) -> Self {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", host.punchd.pid());
            std::fs::read_to_string(path).unwrap()
        };
        let number = |text: Option<&str>| text.unwrap().parse::<u64>().unwrap();
        let status = read("status");
        let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
        // After the name in brackets, which may be anything: the 14th and 15th of all.
        let stat = read("stat");
        let (_, stat) = stat.rsplit_once(')').unwrap();
        let cpu = stat.split_whitespace().skip(11).take(2);
        Self {
            resident_kib: number(resident.unwrap().split_whitespace().nth(1)),
            cpu: cpu.map(|ticks| number(Some(ticks))).sum(),
            overflowed: Overflow::of(host, port).datagrams(),
            not_for_us: host.dropped("not_for_us"),
            under_load: host.dropped("under_load"),
            queue_in: host.dropped("queue_in"),
            log_lines: host.punchd.log_text().lines().count() as u64,
        }
    }

    /// Says what came of a flood, and how long what had to work meanwhile took.
    fn tell(&self, kind: &str, since: Self, (sent, took): (u64, Duration), work: Duration) {
        let per_second = |now: u64, then: u64| (now - then) as f64 / took.as_secs_f64();
        eprintln!(
            "{kind}, for {:.1} s: {:.0} datagrams/s sent, {:.0} not_for_us, {:.0} under_load, {:.0} overflowed",
            took.as_secs_f64(),
            per_second(sent, 0),
            per_second(self.not_for_us, since.not_for_us),
            per_second(self.under_load, since.under_load),
            per_second(self.overflowed, since.overflowed),
        );
        eprintln!(
            "    punchd: {:.2} s of CPU, {} KiB ({:+}), {} queue_in, {} log lines; all else took {:.1} s",
            (self.cpu - since.cpu) as f64 / 100.0,
            self.resident_kib,
            self.resident_kib.cast_signed() - since.resident_kib.cast_signed(),
            self.queue_in - since.queue_in,
            self.log_lines - since.log_lines,
            work.as_secs_f64(),
        );
    }
}

// --- what must work meanwhile ---

/// TCP from one host's kernel to the other's, checked.
fn transfer(from: &Host, to: &Host) {
    let (sender, receiver) = mpsc::channel();
    let listen = SocketAddr::new(to.ipv4(), 7000);
    let _server = Server::start(to, &listen.to_string(), move |mut stream| {
        let _ = sender.send(receive_hashed(&mut stream));
    });
    let mut stream = from.connect_tcp(listen).unwrap();
    let sent = send_hashed(&mut stream, LENGTH, 5).unwrap();
    let received = receiver.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(received, (LENGTH, sent), "from {}", from.name);
}

/// A connection through the tunnel that was made before the flood.
fn say(stream: &mut TcpStream) {
    stream.write_all(b"still there?").unwrap();
    let mut back = [0; 12];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there?");
}

/// Everything between two hosts that have a tunnel.
fn works(lab: &Lab, standing: &mut TcpStream) {
    say(standing);
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        transfer(from, to);
        wait_until(PATIENCE, &format!("{} answers", to.name), || {
            from.ctl(&["ping", &to.name, "-c", "1"]).success()
        });
        assert_eq!(from.peer_state(&to.name), "connected");
    }
    say(standing);
}

/// The tunnel goes, and a new one comes.
fn renew(from: &Host, to: &Host) {
    from.ctl_ok(&["down", &to.name]);
    wait_until(PATIENCE, &format!("{} hears of it", to.name), || {
        to.peer_state(&from.name) != "connected"
    });
    from.ctl_ok(&["up", &to.name, "--timeout", "60"]);
    to.wait_for_peer_state(&from.name, "connected");
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// Each kind of flood, and all of them, while everything goes on.
#[test]
fn alone_a_flood_of_forged_handshakes_does_not_stop_an_established_tunnel() {
    need_lab!();
    let mut lab = Lab::exposed("floo");
    lab.add_servers();
    let port = lab.b.ctl_json(&["status"])["network"]["port_v4"].clone();
    let port = u16::try_from(port.as_u64().unwrap()).unwrap();
    let target = SocketAddr::new(lab.env("B_PUBLIC_IPV4").parse().unwrap(), port);
    let overheard = overhear(&lab, target);
    lab.connect();
    // Each wants the other, so that each can take the tunnel down.
    lab.b.ctl_ok(&["up", "a", "--timeout", "60"]);
    lab.a.ctl_ok(&["allow", "b", "--host"]);
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    let _echo = Echo::start(&lab.b, "[::]:7100");
    let there = SocketAddr::new(lab.b.ipv4(), 7100);
    let mut standing = lab.a.connect_tcp(there).unwrap();
    let mut forger = Forger::new(&lab.b);
    let kinds = [
        ("noise", forger.many(Forger::noise)),
        ("a right mac1", forger.many(Forger::garbage)),
        ("strangers", forger.many(Forger::stranger)),
        ("a replay", vec![overheard.join().unwrap()]),
    ];
    let flooder = Flooder::new(&lab, target, Overflow::of(&lab.b, port));
    works(&lab, &mut standing);
    let first = Cost::of(&lab.b, port);

    for (kind, datagrams) in &kinds {
        let before = Cost::of(&lab.b, port);
        let flood = flooder.begin(datagrams);
        let work = timed(|| works(&lab, &mut standing));
        let counted = |cost: Cost| match *kind {
            "noise" => cost.not_for_us,
            _ => cost.under_load,
        };
        wait_until(PATIENCE, &format!("{kind} is refused"), || {
            counted(Cost::of(&lab.b, port)) > counted(before) + REFUSED
        });
        let flooded = flood.end();
        let after = Cost::of(&lab.b, port);
        after.tell(kind, before, flooded, work);
    }

    // All of them, and the handshakes of new tunnels among them: they get through with cookies.
    let a = lab.env("A_PUBLIC_IPV4");
    let cookie = format!("ip daddr {a} udp length 72 @th,64,32 0x03000000");
    let cookies = lab.b.count("output", &cookie);
    let all: Vec<_> = (0..DATAGRAMS)
        .flat_map(|at| kinds.each_ref().map(|(_, some)| some[at % some.len()]))
        .collect();
    let before = Cost::of(&lab.b, port);
    let flood = flooder.begin(&all);
    let work = timed(|| {
        for _ in 0..2 {
            renew(&lab.a, &lab.b);
            renew(&lab.b, &lab.a);
        }
    });
    let mut renewed = lab.a.connect_tcp(there).unwrap();
    works(&lab, &mut renewed);
    let flooded = flood.end();
    let last = Cost::of(&lab.b, port);
    last.tell("all, and four new tunnels", before, flooded, work);
    eprintln!("    {} cookies for the peer", cookies.packets());
    assert!(cookies.packets() > 0);

    works(&lab, &mut renewed);
    assert!(lab.a.punchd.is_running() && lab.b.punchd.is_running());
    let most = first.resident_kib + MAY_GROW_KIB;
    assert!(last.resident_kib < most, "{first:?} {last:?}");
    let lines = last.log_lines - first.log_lines;
    assert!(lines < 100, "{lines} lines in the log");
}
