//! What idle sockets cost: turns of waiting for and taking one datagram on the main socket, with 300 others open and without,
//! looking at each of them and with a [`SocketSet`], in turn.
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use punch_platform::{Datagrams, Manner, SocketSet, Udp};

const TURNS: u32 = 20_000;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(65_536)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for payload in [100, 1400] {
            let mut totals = [[Duration::ZERO; 2]; 2];
            for _ in 0..ROUNDS {
                for (which, idle) in [0, 300].into_iter().enumerate() {
                    totals[0][which] += each(idle, payload).await?;
                    totals[1][which] += set(idle, payload).await?;
                }
            }
            for (name, totals) in ["each socket", "SocketSet  "].into_iter().zip(totals) {
                let [without, with] =
                    totals.map(|total| total.as_secs_f64() * 1e6 / f64::from(TURNS) / ROUNDS as f64);
                println!(
                    "{payload:>4} bytes, {name}: {without:.2} us per turn alone, {with:.2} with 300 idle sockets, {:+.1} %",
                    (with / without - 1.0) * 100.0
                );
            }
        }
        Ok(())
    })
}

fn open(idle: usize) -> std::io::Result<(Udp, Vec<Udp>, Udp)> {
    let others: std::io::Result<Vec<_>> = (0..idle).map(|_| Udp::open_probe(false, 0)).collect();
    Ok((Udp::open(false, 0)?, others?, Udp::open(false, 0)?))
}

async fn send(sender: &Udp, port: u16, payload: usize) -> std::io::Result<()> {
    let to = ([127, 0, 0, 1], port).into();
    sender
        .send(to, None, payload, &vec![0; payload], Manner::default())
        .await
}

async fn each(idle: usize, payload: usize) -> std::io::Result<Duration> {
    let (main, mut sockets, sender) = open(idle)?;
    let port = main.port();
    sockets.insert(0, main);
    let mut datagrams = Datagrams::default();
    let began = Instant::now();
    for _ in 0..TURNS {
        send(&sender, port, payload).await?;
        let mut taken = 0;
        while taken == 0 {
            poll_fn(|context| {
                if sockets
                    .iter()
                    .any(|one| one.poll_readable(context).is_ready())
                {
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
            for socket in &sockets {
                if socket.receive(&mut datagrams) {
                    taken += datagrams.iter().count();
                }
            }
        }
    }
    Ok(began.elapsed())
}

async fn set(idle: usize, payload: usize) -> std::io::Result<Duration> {
    let (main, others, sender) = open(idle)?;
    let port = main.port();
    let mut sockets = SocketSet::default();
    for (socket, key) in std::iter::once(main).chain(others).zip(0_u32..) {
        sockets.insert(key, socket);
    }
    let mut datagrams = Datagrams::default();
    let began = Instant::now();
    for _ in 0..TURNS {
        send(&sender, port, payload).await?;
        let mut taken = 0;
        while taken == 0 {
            poll_fn(|context| sockets.poll_readable(context)).await;
            for _ in 0..sockets.ready() {
                if sockets.receive(&mut datagrams).is_some() {
                    taken += datagrams.iter().count();
                }
            }
        }
    }
    Ok(began.elapsed())
}
