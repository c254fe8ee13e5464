//! Sockets around the rule that answers one datagram.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use punch_stun_protocol::{Endpoint, respond};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::limit::Limiter;

/// Longer requests are none.
const MAX_REQUEST: usize = 1280;

pub(crate) struct Config {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) alternate: Vec<IpAddr>,
    pub(crate) sample_ports: Option<(u16, u16)>,
    pub(crate) rate: u32,
}

struct Bound {
    socket: Arc<UdpSocket>,
    endpoint: Endpoint,
}

/// Serves until it is told to stop.
pub(crate) fn run(config: &Config) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(serve(config))
}

async fn serve(config: &Config) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let bound = bind(config)?;
    let by_address: HashMap<SocketAddr, Arc<UdpSocket>> = bound
        .iter()
        .map(|bound| (bound.endpoint.local, bound.socket.clone()))
        .collect();
    let by_address = Arc::new(by_address);
    let limiter = Arc::new(Mutex::new(Limiter::new(config.rate)));
    let mut tasks = JoinSet::new();
    let sockets = bound.len();
    for bound in bound {
        tasks.spawn(answer(bound, by_address.clone(), limiter.clone()));
    }
    for address in &config.listen {
        tracing::info!(%address, sockets, rfc5780 = !config.alternate.is_empty(), "ready");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    Ok(())
}

/// Opens every socket: each address on its port and, for RFC 5780, on the one after it; the alternates likewise; then the
/// sample ports on every address.
fn bind(config: &Config) -> Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for primary in &config.listen {
        let alternate = config
            .alternate
            .iter()
            .find(|ip| ip.is_ipv4() == primary.is_ipv4());
        let mut places = Vec::new();
        if let Some(alternate) = alternate {
            let (one, two) = (primary.ip(), *alternate);
            let (first, second) = (primary.port(), primary.port() + 1);
            for (ip, other_ip) in [(one, two), (two, one)] {
                for (port, other_port) in [(first, second), (second, first)] {
                    let other = SocketAddr::new(other_ip, other_port);
                    places.push((SocketAddr::new(ip, port), Some(other)));
                }
            }
        } else {
            places.push((*primary, None));
        }
        if let Some((from, to)) = config.sample_ports {
            let mut ips = vec![primary.ip()];
            ips.extend(alternate);
            for ip in ips {
                for port in from..=to {
                    let place = SocketAddr::new(ip, port);
                    if !places.iter().any(|(known, _)| *known == place) {
                        places.push((place, None));
                    }
                }
            }
        }
        for (local, other) in places {
            let socket = open(local).with_context(|| format!("cannot listen on {local}"))?;
            bound.push(Bound {
                socket: Arc::new(socket),
                endpoint: Endpoint { local, other },
            });
        }
    }
    Ok(bound)
}

fn open(address: SocketAddr) -> Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

async fn answer(
    bound: Bound,
    by_address: Arc<HashMap<SocketAddr, Arc<UdpSocket>>>,
    limiter: Arc<Mutex<Limiter>>,
) {
    let mut buffer = vec![0; MAX_REQUEST];
    loop {
        // An error here is an ICMP answer to an earlier datagram of ours.
        let Ok((length, source)) = bound.socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(answer) = respond(&buffer[..length], source, bound.endpoint) else {
            continue;
        };
        let admitted = limiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admits(source.ip(), Instant::now());
        if !admitted {
            continue;
        }
        if let Some(socket) = by_address.get(&answer.from) {
            // A full send buffer loses the answer, and the client asks again.
            let _ = socket.try_send_to(&answer.bytes, source);
        }
    }
}
