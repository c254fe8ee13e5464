//! Sockets around the rule that answers one datagram.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use punch_service::manager;
use punch_stun_arguments::SamplePorts;
use punch_stun_protocol::{Endpoint, respond};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::limit::Limiter;
use crate::stream;

/// Longer requests are none.
const MAX_REQUEST: usize = 1280;

/// Where to listen unless told otherwise.
const DEFAULT_PORT: u16 = 3478;

pub(crate) struct Config {
    /// All addresses when empty.
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) alternate: Vec<IpAddr>,
    pub(crate) sample_ports: SamplePorts,
    pub(crate) rate: u32,
    pub(crate) tcp: bool,
}

/// How many ports `nearby` is.
const NEARBY: u16 = 64;

struct Bound {
    socket: Arc<UdpSocket>,
    endpoint: Endpoint,
}

impl Bound {
    fn new(socket: UdpSocket, local: SocketAddr, other: Option<SocketAddr>) -> Self {
        Self {
            socket: Arc::new(socket),
            endpoint: Endpoint {
                local,
                other,
                samples: None,
            },
        }
    }
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
    let listen = match config.listen.as_slice() {
        [] => everywhere()?,
        listen => listen.to_vec(),
    };
    let bound = bind(config, &listen)?;
    let by_address: HashMap<SocketAddr, Arc<UdpSocket>> = bound
        .iter()
        .map(|(local, bound)| (*local, bound.socket.clone()))
        .collect();
    let by_address = Arc::new(by_address);
    let limiter = Arc::new(Mutex::new(Limiter::new(config.rate)));
    let mut tasks = JoinSet::new();
    let sockets = bound.len();
    for bound in bound.into_values() {
        tasks.spawn(answer(bound, by_address.clone(), limiter.clone()));
    }
    let sources = stream::Sources::default();
    for address in listen.iter().filter(|_| config.tcp) {
        match stream::listen(*address) {
            Ok(listener) => {
                let (sources, limiter) = (sources.clone(), limiter.clone());
                tasks.spawn(stream::serve(listener, *address, sources, limiter));
            }
            // Most clients do without.
            Err(error) => tracing::warn!(%address, %error, "nobody is answered over TCP there"),
        }
    }
    for address in &listen {
        tracing::info!(%address, sockets, rfc5780 = !config.alternate.is_empty(), "ready");
    }
    manager::ready(&format!("answers on {sockets} sockets"));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = beat() => {}
        // They never end by themselves.
        Some(_) = tasks.join_next() => bail!("a socket is no longer served"),
    }
    tracing::info!("stopping");
    manager::stopping();
    Ok(())
}

/// Says for ever that the one thread, on which everything is answered, has time for it.
async fn beat() {
    let Some(interval) = manager::watchdog() else {
        return std::future::pending().await;
    };
    loop {
        manager::alive();
        tokio::time::sleep(interval).await;
    }
}

/// All addresses of the families that this machine has.
fn everywhere() -> Result<Vec<SocketAddr>> {
    let v4 = SocketAddr::from(([0; 4], DEFAULT_PORT));
    let v6 = SocketAddr::from(([0u16; 8], DEFAULT_PORT));
    match (open(v4), open(v6)) {
        (Ok(_), Ok(_)) => Ok(vec![v4, v6]),
        (Ok(_), Err(error)) if !is_taken(&error) => Ok(vec![v4]),
        (Err(error), Ok(_)) if !is_taken(&error) => Ok(vec![v6]),
        (Err(error), _) | (_, Err(error)) => {
            Err(error).with_context(|| format!("cannot listen on port {DEFAULT_PORT}"))
        }
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Opens every socket: each address on its port and, for RFC 5780, on the one after it; the alternates likewise; then the
/// sample ports on every address.
fn bind(config: &Config, listen: &[SocketAddr]) -> Result<HashMap<SocketAddr, Bound>> {
    let mut bound = HashMap::new();
    let servers: Vec<_> = listen
        .iter()
        .map(|primary| main_places(*primary, &config.alternate))
        .collect();
    for (local, other) in servers.iter().flatten() {
        bind_one(&mut bound, *local, *other)?;
    }
    for places in &servers {
        let mut ips: Vec<_> = places.iter().map(|(local, _)| local.ip()).collect();
        ips.dedup();
        let samples = match config.sample_ports {
            SamplePorts::None => None,
            SamplePorts::Nearby => bind_nearby(&mut bound, places[0].0.port(), &ips),
            SamplePorts::Range(from, to) => {
                for place in ips.iter().flat_map(|ip| sockets_of(*ip, from, to)) {
                    // A main port may be among them.
                    if !bound.contains_key(&place) {
                        bind_one(&mut bound, place, None)?;
                    }
                }
                Some((from, to))
            }
        };
        for (local, _) in places {
            if let Some(bound) = bound.get_mut(local) {
                bound.endpoint.samples = samples;
            }
        }
    }
    Ok(bound)
}

/// Where a server listens for itself, the `--listen` address first, and the other address of each of its sockets.
fn main_places(
    primary: SocketAddr,
    alternates: &[IpAddr],
) -> Vec<(SocketAddr, Option<SocketAddr>)> {
    let alternate = alternates
        .iter()
        .find(|ip| ip.is_ipv4() == primary.is_ipv4());
    let Some(alternate) = alternate else {
        return vec![(primary, None)];
    };
    let mut places = Vec::new();
    let (one, two) = (primary.ip(), *alternate);
    let (first, second) = (primary.port(), primary.port() + 1);
    for (ip, other_ip) in [(one, two), (two, one)] {
        for (port, other_port) in [(first, second), (second, first)] {
            let other = SocketAddr::new(other_ip, other_port);
            places.push((SocketAddr::new(ip, port), Some(other)));
        }
    }
    places
}

fn sockets_of(ip: IpAddr, from: u16, to: u16) -> impl Iterator<Item = SocketAddr> {
    (from..=to).map(move |port| SocketAddr::new(ip, port))
}

fn bind_one(
    bound: &mut HashMap<SocketAddr, Bound>,
    local: SocketAddr,
    other: Option<SocketAddr>,
) -> Result<()> {
    let socket = open(local).with_context(|| format!("cannot listen on {local}"))?;
    bound.insert(local, Bound::new(socket, local, other));
    Ok(())
}

/// Takes the longest run of the ports behind the main ones that are free on all of these addresses; returns its ends.
fn bind_nearby(
    bound: &mut HashMap<SocketAddr, Bound>,
    main: u16,
    ips: &[IpAddr],
) -> Option<(u16, u16)> {
    // A port that the system has chosen has no neighbours to speak of.
    let first = main.checked_add(2).filter(|_| main > 0)?;
    let last = first.saturating_add(NEARBY - 1);
    let (mut best, mut run) = (Vec::new(), Vec::new());
    for port in first..=last {
        let sockets: Result<Vec<_>> = ips
            .iter()
            .map(|ip| open(SocketAddr::new(*ip, port)))
            .collect();
        match sockets {
            Ok(sockets) => run.push((port, sockets)),
            Err(error) => {
                tracing::info!(port, %error, "this sample port is skipped");
                if run.len() > best.len() {
                    best = run;
                }
                run = Vec::new();
            }
        }
    }
    if run.len() > best.len() {
        best = run;
    }
    let samples = (best.first()?.0, best.last()?.0);
    for (port, sockets) in best {
        for (ip, socket) in ips.iter().zip(sockets) {
            let local = SocketAddr::new(*ip, port);
            bound.insert(local, Bound::new(socket, local, None));
        }
    }
    Some(samples)
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
            let _ = socket.try_send_to(&answer.bytes, answer.to);
        }
    }
}
