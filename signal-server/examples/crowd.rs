//! Clients of a signalling server, many at once, for `scripts/bench signal`:
//!
//! * `crowd honest ADDRESS CLIENTS SECONDS` logs in so many clients, each from an address of its own in 127.1.0.0/16, which send each
//!   other a message a second, and prints how long the messages took.
//! * `crowd worst ADDRESS SECONDS` is one source that does the worst it can: as many connections as it gets, each with as many
//!   frames as are allowed and a watch for every identity, logins that are announced to all of them, false proofs, and connections that
//!   are dropped at once.
//! * `crowd idle ADDRESS CLIENTS SECONDS` logs in so many clients, which then only answer pings, says `ready`, and goes after so long.
#![allow(clippy::print_stdout, reason = "it prints figures")]

mod client;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::SinkExt;
use punch_signal_protocol::{Frame, Identity, PeerId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use client::{Socket, dial, greet, identity, log_in, message, next, source};

/// Bytes of a message: what an offer has, about.
const ENVELOPE: usize = 1600;
/// The source that does its worst.
const WORST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

fn main() -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match arguments[..] {
        ["honest", server, clients, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            runtime.block_on(honest(server.parse()?, clients.parse()?, seconds))
        }
        ["worst", server, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            runtime.block_on(worst(server.parse()?, seconds))
        }
        ["idle", server, clients, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            runtime.block_on(idle(server.parse()?, clients.parse()?, seconds))
        }
        _ => bail!(
            "usage: crowd honest|idle ADDRESS:PORT CLIENTS SECONDS | crowd worst ADDRESS:PORT SECONDS"
        ),
    }
}

// --- honest clients ---

async fn honest(server: SocketAddr, clients: u32, length: Duration) -> Result<()> {
    let began = Instant::now();
    let (times, mut taken) = mpsc::unbounded_channel();
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let socket = log_in(source(1, number), server, &identity(1, number)).await?;
        let partner = identity(1, number ^ 1).id();
        tasks.spawn(chat(
            socket,
            partner,
            number,
            began,
            length,
            times.clone(),
            sent.clone(),
        ));
    }
    drop(times);
    let mut all = Vec::new();
    while let Some(time) = taken.recv().await {
        all.push(time);
    }
    while let Some(end) = tasks.join_next().await {
        end??;
    }
    all.sort();
    let at = |share: f64| {
        let index = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
        all.get(index)
            .map_or(0.0, |time: &Duration| time.as_secs_f64() * 1e3)
    };
    println!(
        "{{\"sent\": {}, \"arrived\": {}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \"longest_ms\": {:.3}}}",
        sent.load(Ordering::Relaxed),
        all.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

/// Sends a message a second to the partner, and tells how long those of the partner took.
async fn chat(
    mut socket: Socket,
    partner: PeerId,
    number: u32,
    began: Instant,
    length: Duration,
    times: mpsc::UnboundedSender<Duration>,
    sent: Arc<AtomicU64>,
) -> Result<()> {
    let first = Duration::from_millis(u64::from(number) * 997 % 1000);
    let start = tokio::time::Instant::now() + first;
    let mut ticks = tokio::time::interval_at(start, Duration::from_secs(1));
    let end = tokio::time::sleep(length);
    tokio::pin!(end);
    loop {
        tokio::select! {
            frame = next(&mut socket) => if let Frame::Deliver { envelope, .. } = frame? {
                let at = envelope.first_chunk().map_or(0, |at| u64::from_be_bytes(*at));
                let _ = times.send(began.elapsed().saturating_sub(Duration::from_nanos(at)));
            },
            _ = ticks.tick() => {
                let mut envelope = vec![0; ENVELOPE];
                let at = u64::try_from(began.elapsed().as_nanos())?;
                envelope[..8].copy_from_slice(&at.to_be_bytes());
                sent.fetch_add(1, Ordering::Relaxed);
                socket.send(message(&Frame::Send { to: partner, envelope })).await?;
            }
            () = &mut end => return Ok(()),
        }
    }
}

// --- idle clients ---

async fn idle(server: SocketAddr, clients: u32, length: Duration) -> Result<()> {
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let mut socket = log_in(source(1, number), server, &identity(1, number)).await?;
        // Reading answers the server's pings.
        tasks.spawn(async move { while next(&mut socket).await.is_ok() {} });
    }
    println!("ready");
    tokio::time::sleep(length).await;
    Ok(())
}

// --- one source that does its worst ---

#[derive(Default)]
struct Done {
    frames: AtomicU64,
    logins: AtomicU64,
    false_proofs: AtomicU64,
    dropped: AtomicU64,
}

async fn worst(server: SocketAddr, length: Duration) -> Result<()> {
    let done = Arc::new(Done::default());
    let mut tasks = JoinSet::new();
    for number in 0..1900 {
        tasks.spawn(repeat(
            length,
            move |done| chatter(server, number, done),
            done.clone(),
        ));
    }
    for _ in 0..20 {
        tasks.spawn(repeat(
            length,
            move |done| appear(server, done),
            done.clone(),
        ));
        tasks.spawn(repeat(length, move |done| lie(server, done), done.clone()));
        tasks.spawn(repeat(
            length,
            move |done| vanish(server, done),
            done.clone(),
        ));
    }
    while tasks.join_next().await.is_some() {}
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{{\"frames\": {}, \"logins\": {}, \"false_proofs\": {}, \"dropped\": {}}}",
        count(&done.frames),
        count(&done.logins),
        count(&done.false_proofs),
        count(&done.dropped)
    );
    Ok(())
}

/// Does it again and again until the time is over, whatever comes of it.
async fn repeat<F: Future<Output = Result<()>>>(
    length: Duration,
    deed: impl Fn(Arc<Done>) -> F,
    done: Arc<Done>,
) {
    let all = async {
        loop {
            if deed(done.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let _ = tokio::time::timeout(length, all).await;
}

/// The identity whose logins all the others watch.
fn star() -> Identity {
    identity(3, 0)
}

/// A client that watches as many as it may, and sends as many frames as it may.
async fn chatter(server: SocketAddr, number: u32, done: Arc<Done>) -> Result<()> {
    let mut socket = log_in(WORST, server, &identity(2, number)).await?;
    done.logins.fetch_add(1, Ordering::Relaxed);
    socket.send(message(&Frame::Watch(star().id()))).await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(21));
    for other in 0_u32.. {
        tokio::select! {
            frame = next(&mut socket) => { frame?; }
            _ = ticks.tick() => {
                let id = identity(4, other % 64).id();
                let frame = match other % 3 {
                    0 => Frame::Watch(id),
                    1 => Frame::Unwatch(id),
                    _ => Frame::Send { to: identity(2, number ^ 1).id(), envelope: vec![0; ENVELOPE] },
                };
                socket.send(message(&frame)).await?;
                done.frames.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// A login that replaces the one before, and is announced.
async fn appear(server: SocketAddr, done: Arc<Done>) -> Result<()> {
    log_in(WORST, server, &star()).await?;
    done.logins.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// A proof that is not genuine: a signature to verify for nothing.
async fn lie(server: SocketAddr, done: Arc<Done>) -> Result<()> {
    let (mut socket, _) = greet(WORST, server).await?;
    let proof = Frame::proof(&star(), &[0; 32], &server.to_string());
    socket.send(message(&proof)).await?;
    done.false_proofs.fetch_add(1, Ordering::Relaxed);
    next(&mut socket).await?;
    Ok(())
}

/// A connection that is dropped at once.
async fn vanish(server: SocketAddr, done: Arc<Done>) -> Result<()> {
    drop(dial(WORST, server).await?);
    done.dropped.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
