//! TCP connections with peers, for where UDP does not pass: datagrams, each with its length before it. Whose a connection is, and what
//! goes over it, the engine knows.

pub(crate) mod connection;
pub(crate) mod listener;
pub(crate) mod seen;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use punch_engine::{Family, TcpPath};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::descriptors::Descriptor;

/// How often the port on which connections are taken is tried before another one, and the pause after each time.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// What connections tell the driver.
pub(crate) enum FromTcp {
    /// Somebody has connected.
    Call(Call),
    /// A connection that was ordered stands.
    Connected(TcpPath),
    /// A connection has ended, or could not be made.
    Closed(TcpPath),
    /// Whole datagrams with their lengths have come.
    Received(TcpPath, Bytes),
    /// A STUN server says as what it sees the port on which connections are taken.
    Seen {
        server: SocketAddr,
        mapped: SocketAddr,
    },
}

impl FromTcp {
    /// Bytes that the engine has to look at.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Call(call) => call.first.len(),
            Self::Received(_, bytes) => bytes.len(),
            Self::Connected(_) | Self::Closed(_) | Self::Seen { .. } => 0,
        }
    }
}

/// A connection of somebody's who may be a peer.
pub(crate) struct Call {
    pub(crate) remote: SocketAddr,
    /// The only datagram that was read.
    pub(crate) first: Vec<u8>,
    pub(crate) line: Line,
    /// Takes the line back if it is no peer's, or not yet.
    pub(crate) back: oneshot::Sender<Line>,
}

/// A connection, and the place it takes among the open files.
pub(crate) struct Line {
    pub(crate) stream: TcpStream,
    pub(crate) descriptor: Descriptor,
}

/// Datagrams with their lengths, on their way out.
pub(crate) struct Chunk {
    pub(crate) since: Instant,
    /// Whether it is dropped when it has waited for long. Checks are not: without them a line that is full would count as dead.
    pub(crate) ages: bool,
    pub(crate) bytes: Vec<u8>,
}

/// A socket on this port of all addresses of a family; 0 is any port. Others may share it: connections are taken there, and made from
/// there, so that two firewalls that let nobody in let the two ends of one connection out to each other (RFC 9293 §3.5, simultaneous
/// open), and a NAT that has a mapping for the port keeps it.
fn bound(family: Family, port: u16) -> io::Result<Socket> {
    bound_as(family, port, true)
}

/// A socket on this port, that others of this user's may share, or not.
fn bound_as(family: Family, port: u16, shared: bool) -> io::Result<Socket> {
    let (domain, any) = match family {
        Family::V4 => (Domain::IPV4, IpAddr::from([0; 4])),
        Family::V6 => (Domain::IPV6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket)
}

/// Lets the connection end with a reset: an end that waits out its last segments (RFC 9293 §3.6.1, TIME-WAIT) could not connect between the
/// same two ports for a minute, and firewalls are passed between these alone. What is lost by it are packets that a tunnel sends again.
fn leave_no_trace(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "the port is not free at once when the connection ends");
    }
}

/// Connects from the port on which connections are taken.
async fn connect_from(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(Family::of(to.ip()), port)?;
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// Connects from the port on which connections are taken, or from another one if there is a connection between the two.
async fn connect(port: Option<u16>, to: SocketAddr) -> io::Result<TcpStream> {
    let Some(port) = port else {
        return TcpStream::connect(to).await;
    };
    match connect_again(port, to).await {
        Err(error) if is_used(&error) => TcpStream::connect(to).await,
        result => result,
    }
}

/// Connects from the port on which connections are taken; if there is a connection between the two that is about to end, after that.
async fn connect_again(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    for _ in 1..TRIES {
        match connect_from(port, to).await {
            Err(error) if is_used(&error) => sleep(PAUSE).await,
            result => return result,
        }
    }
    connect_from(port, to).await
}

/// Whether the two ends have a connection already, or had one just before.
fn is_used(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}
