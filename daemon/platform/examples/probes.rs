//! What probing costs: datagrams from 4 sockets, to other destination ports each, one system call for each. (By sendmmsg it was
//! 0.97 to 1.11 times as fast over loopback and veth: the call itself is little of it.)
//!
//! `probes` sends to a sink of its own on loopback. `probes sink ADDR` and `probes ADDR` do it between two hosts, or two network
//! namespaces: the sink prints what has come whenever it is quiet for a second. CPU is that of the sending thread.
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use punch_platform::{Manner, Udp};

const SOCKETS: usize = 4;
/// Each socket walks all of these: 12,000 mappings, as behind a NAT, though the sink needs but 3,000 sockets.
const PORTS: u16 = 3_000;
const FIRST: u16 = 20_000;
const PER_SECOND: usize = 12_000;
const LENGTH: usize = 110;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(65_536)?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => with_own_sink(),
        [word, ip] if word == "sink" => {
            let sink = Sink::open(ip.parse()?)?;
            println!("ready");
            loop {
                let count = sink.count_until_quiet(Duration::from_secs(1));
                if count > 0 {
                    println!("received {count}");
                }
            }
        }
        [ip] => measure(ip.parse()?, || None),
        _ => Err("probes | probes ADDR | probes sink ADDR".into()),
    }
}

fn with_own_sink() -> Result<(), Box<dyn Error>> {
    let ip = Ipv4Addr::LOCALHOST.into();
    let sink = Sink::open(ip)?;
    let received = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let count = sink.count_until_quiet(Duration::ZERO);
                received.fetch_add(count, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let result = measure(ip, || {
            std::thread::sleep(Duration::from_millis(200));
            Some(received.swap(0, Ordering::SeqCst))
        });
        stop.store(true, Ordering::SeqCst);
        result
    })
}

struct Sink(Vec<UdpSocket>);

impl Sink {
    fn open(ip: IpAddr) -> std::io::Result<Self> {
        let sockets = (FIRST..FIRST + PORTS).map(|port| {
            let socket = UdpSocket::bind((ip, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Ok(Self(sockets.collect::<std::io::Result<_>>()?))
    }

    fn count_until_quiet(&self, quiet: Duration) -> usize {
        let mut buffer = [0; 2048];
        let mut count = 0;
        let mut last = Instant::now();
        loop {
            let mut any = false;
            for socket in &self.0 {
                while socket.recv(&mut buffer).is_ok() {
                    count += 1;
                    any = true;
                }
            }
            if any {
                last = Instant::now();
            } else if last.elapsed() >= quiet {
                return count;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sends rounds and prints them; `received` may tell what has come of each.
fn measure(ip: IpAddr, mut received: impl FnMut() -> Option<usize>) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let sockets: std::io::Result<Vec<_>> = (0..SOCKETS)
            .map(|_| Udp::open_probe(ip.is_ipv6(), 0))
            .collect();
        let sockets = sockets?;
        println!(
            "{SOCKETS} sockets, {PER_SECOND} datagrams of {LENGTH} bytes in a second, {ROUNDS} rounds"
        );
        for (tick, ttl) in [(1, None), (5, None), (20, None), (5, Some(9))] {
            let (mut cpu, mut wall) = (Duration::ZERO, Duration::ZERO);
            let (mut taken, mut arrived) = (0, Some(0));
            for _ in 0..ROUNDS {
                let round = round(&sockets, ip, Duration::from_millis(tick), ttl).await?;
                cpu += round.cpu;
                wall += round.wall;
                taken += round.taken;
                arrived = arrived.zip(received()).map(|(all, more)| all + more);
            }
            println!(
                "every {tick:>2} ms, TTL {}: {:.0} probes/s, {:.4} CPU seconds per {PER_SECOND}, {taken} of {} taken, received {}",
                ttl.map_or("default".to_owned(), |ttl| ttl.to_string()),
                taken as f64 / wall.as_secs_f64(),
                cpu.as_secs_f64() / ROUNDS as f64,
                PER_SECOND * ROUNDS,
                arrived.map_or("see the sink".to_owned(), |count| count.to_string()),
            );
        }
        Ok(())
    })
}

struct Round {
    cpu: Duration,
    wall: Duration,
    taken: usize,
}

/// All mappings once, at the pace of 12,000 a second, in portions of one tick.
async fn round(
    sockets: &[Udp],
    ip: IpAddr,
    tick: Duration,
    ttl: Option<u8>,
) -> Result<Round, Box<dyn Error>> {
    let payload = [0x5A; LENGTH];
    let manner = Manner {
        ttl,
        ..Manner::default()
    };
    let portion = PER_SECOND / SOCKETS * tick.as_millis() as usize / 1000;
    let (began, cpu) = (Instant::now(), thread_cpu()?);
    let ports: Vec<u16> = (FIRST..FIRST + PORTS).collect();
    let mut taken = 0;
    for (ports, turn) in ports.chunks(portion).zip(1_u32..) {
        for port in ports {
            for socket in sockets {
                let to = SocketAddr::new(ip, *port);
                let sent = socket.send(to, None, LENGTH, &payload, manner).await;
                taken += usize::from(sent.is_ok());
            }
        }
        tokio::time::sleep_until((began + tick * turn).into()).await;
    }
    Ok(Round {
        cpu: thread_cpu()? - cpu,
        wall: began.elapsed(),
        taken,
    })
}

/// This thread's time on a processor, in the kernel and out of it.
fn thread_cpu() -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}
