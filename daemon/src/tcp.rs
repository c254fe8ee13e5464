//! TCP connections with peers, for where UDP does not pass: datagrams, each with its length before it. Whose a connection is, and what
//! goes over it, the engine knows.

pub(crate) mod connection;
pub(crate) mod listener;

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use punch_engine::TcpPath;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::descriptors::Descriptor;

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
}

impl FromTcp {
    /// Bytes that the engine has to look at.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Call(call) => call.first.len(),
            Self::Received(_, bytes) => bytes.len(),
            Self::Connected(_) | Self::Closed(_) => 0,
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
