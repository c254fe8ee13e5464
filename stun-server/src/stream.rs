//! STUN over TCP (RFC 8489 §6.2.2): for machines that no UDP leaves, which look for the public address of a TCP port. Messages follow
//! one another on a connection without anything between them; each tells its own length.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use punch_stun_protocol::{Endpoint, respond};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::limit::{Limiter, subnet};

/// Connections in all, over all sockets, and of one source.
const MAX_CONNECTIONS: usize = 512;
const MAX_OF_SOURCE: usize = 16;
/// A connection has this long in all: a NAT keeps the mapping that its owner has asked about for as long as it stands.
const LIFETIME: Duration = Duration::from_secs(30);
/// Requests on one connection.
const MAX_REQUESTS: usize = 8;
/// Longer requests are none.
const MAX_REQUEST: usize = 548;
const HEADER: usize = 20;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 64;
/// After an error of the kernel's, such as that there are too many open files.
const BREATH: Duration = Duration::from_millis(100);

/// How many connections there are, over all sockets, by source.
pub(crate) type Sources = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A place among the connections, given up when it is dropped.
struct Place {
    sources: Sources,
    source: IpAddr,
}

impl Place {
    fn take(sources: &Sources, source: IpAddr) -> Option<Self> {
        let source = subnet(source);
        let mut counts = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.values().sum();
        let of_source = counts.get(&source).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS || of_source >= MAX_OF_SOURCE {
            return None;
        }
        counts.insert(source, of_source + 1);
        let sources = sources.clone();
        Some(Self { sources, source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
        }
        counts.retain(|_, count| *count > 0);
    }
}

/// Listens on this address.
///
/// # Errors
/// The port is taken, or the address is not this machine's.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers on all connections that come to this address.
pub(crate) async fn serve(
    listener: TcpListener,
    local: SocketAddr,
    sources: Sources,
    limiter: Arc<Mutex<Limiter>>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a TCP connection was not taken");
                sleep(BREATH).await;
                continue;
            }
        };
        // Whoever comes while there is no place is closed at once.
        let Some(place) = Place::take(&sources, source.ip()) else {
            continue;
        };
        let limiter = limiter.clone();
        connections.spawn(async move {
            let _place = place;
            let _ = timeout(LIFETIME, converse(stream, source, local, &limiter)).await;
        });
    }
}

/// Answers requests until one is none, is too fast, or is one too many.
async fn converse(
    mut stream: TcpStream,
    source: SocketAddr,
    local: SocketAddr,
    limiter: &Mutex<Limiter>,
) -> io::Result<()> {
    let endpoint = Endpoint {
        local,
        other: None,
        samples: None,
    };
    for _ in 0..MAX_REQUESTS {
        let mut request = vec![0; HEADER];
        stream.read_exact(&mut request).await?;
        let length = HEADER + usize::from(u16::from_be_bytes([request[2], request[3]]));
        // The cookie tells at once who speaks something else.
        if length > MAX_REQUEST || request[4..8] != [0x21, 0x12, 0xA4, 0x42] {
            return Ok(());
        }
        request.resize(length, 0);
        stream.read_exact(&mut request[HEADER..]).await?;
        let admitted = limiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admits(source.ip(), Instant::now());
        // On a connection an answer goes nowhere but back.
        let answer = respond(&request, source, endpoint);
        match answer.filter(|answer| admitted && answer.to == source) {
            Some(answer) => stream.write_all(&answer.bytes).await?,
            None => return Ok(()),
        }
    }
    Ok(())
}
