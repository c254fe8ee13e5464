//! STUN over TCP (RFC 8489 §6.2.2): for machines that no UDP leaves, which look for the public address of a TCP port. Messages follow
//! one another on a connection without anything between them; each tells its own length.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use punch_stun_protocol::{Endpoint, HEADER, respond, stream_length};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::limit::{Limiter, subnet};

/// Connections of one family, over all sockets: whoever has many addresses of IPv6 takes no place from IPv4.
const MAX_CONNECTIONS: usize = 512;
/// Connections of one source, and of one network: a /48 of IPv6, which one customer may have with all its 65,536 sources, or a /24 of IPv4.
const MAX_OF_SOURCE: usize = 16;
const MAX_OF_NETWORK: usize = 64;
/// A connection has this long in all: a NAT keeps the mapping that its owner has asked about for as long as it stands.
const LIFETIME: Duration = Duration::from_secs(30);
/// The first request is there within this: whoever says nothing, or says it byte by byte, takes a place away from others.
const FIRST: Duration = Duration::from_secs(5);
/// Requests on one connection.
const MAX_REQUESTS: usize = 8;
/// Longer requests are none.
const MAX_REQUEST: usize = 548;
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
        let of_source = counts.get(&source).copied().unwrap_or(0);
        let of = |is_of: &dyn Fn(IpAddr) -> bool| -> usize {
            let counts = counts.iter().filter(|(ip, _)| is_of(**ip));
            counts.map(|(_, count)| count).sum()
        };
        let of_network = of(&|ip| network(ip) == network(source));
        let of_family = of(&|ip| ip.is_ipv4() == source.is_ipv4());
        if of_family >= MAX_CONNECTIONS
            || of_network >= MAX_OF_NETWORK
            || of_source >= MAX_OF_SOURCE
        {
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

/// The network that a source belongs to.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> 48)).into(),
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

/// Reads a request; `None` if what comes is none.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let length = stream_length(&header).filter(|length| *length <= MAX_REQUEST);
    let Some(length) = length else {
        return Ok(None);
    };
    let mut request = header.to_vec();
    request.resize(length, 0);
    stream.read_exact(&mut request[HEADER..]).await?;
    Ok(Some(request))
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
    for number in 0..MAX_REQUESTS {
        let within = if number == 0 { FIRST } else { LIFETIME };
        let Some(request) = timeout(within, read(&mut stream)).await?? else {
            return Ok(());
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many connections from these addresses find a place, beside those that have one.
    fn take(sources: &Sources, held: &mut Vec<Place>, from: impl Iterator<Item = IpAddr>) -> usize {
        let places: Vec<_> = from.filter_map(|ip| Place::take(sources, ip)).collect();
        let count = places.len();
        held.extend(places);
        count
    }

    #[test]
    fn who_has_many_addresses_takes_no_place_from_others() {
        let (sources, mut held) = (Sources::default(), Vec::new());
        let v6 = |network: u128, source: u128| {
            IpAddr::from(Ipv6Addr::from_bits(
                (0x2001_0db8 << 96) | network << 80 | source << 64 | 7,
            ))
        };
        // One source, all of one customer's, and those of many customers.
        let one = (0..100).map(|_| v6(1, 1));
        assert_eq!(take(&sources, &mut held, one), MAX_OF_SOURCE);
        let customer = (0..5000).map(|n| v6(1, n));
        let left = MAX_OF_NETWORK - MAX_OF_SOURCE;
        assert_eq!(take(&sources, &mut held, customer), left);
        let all = (0..5000).map(|n| v6(n, 9));
        let left = MAX_CONNECTIONS - MAX_OF_NETWORK;
        assert_eq!(take(&sources, &mut held, all), left);
        let v4 = (0..100).map(|host| IpAddr::from([192, 0, 2, host]));
        assert_eq!(take(&sources, &mut held, v4), MAX_OF_NETWORK);
        drop(held);
        assert!(sources.lock().is_ok_and(|counts| counts.is_empty()));
    }
}
