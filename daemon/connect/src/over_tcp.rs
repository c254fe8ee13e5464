//! What happens on TCP connections with peers, and where this machine takes them.

use std::net::SocketAddr;
use std::time::Instant;

use punch_traversal::Family;

use crate::Connector;
use crate::path::TcpPath;

/// This machine takes TCP connections of this family on this port.
pub fn handle_port(connector: &mut Connector, family: Family, port: u16) {
    connector.network.set_tcp_port(family, port);
}

/// Somebody has connected from `remote`, and this is the first message: the connection's number, if it is a peer's.
pub fn handle_call(
    connector: &mut Connector,
    remote: SocketAddr,
    message: &[u8],
    now: Instant,
) -> Option<TcpPath> {
    if connector.network.is_inside(remote.ip()) {
        return None;
    }
    let peers = &mut connector.peers;
    let path = peers.handle_tcp_call(&mut connector.connections, remote, message, now);
    connector.drain_children(now);
    path
}

/// A connection that was to be made ([`crate::TcpOrder::Dial`]) stands (`open`), could not be made, or has ended, as any other may.
pub fn handle_state(connector: &mut Connector, path: TcpPath, open: bool, now: Instant) {
    if !open {
        connector
            .peers
            .handle_tcp_closed(&mut connector.connections, path, now);
    } else if !connector
        .peers
        .handle_tcp_connected(&connector.connections, path, now)
    {
        connector.hang_up(path);
    }
    connector.drain_children(now);
}

/// A STUN message has come over a TCP connection. Returns whether it was expected.
pub fn handle_message(
    connector: &mut Connector,
    path: TcpPath,
    message: &[u8],
    now: Instant,
) -> bool {
    let peers = &mut connector.peers;
    let taken = peers.handle_tcp_message(&connector.connections, path, message, now);
    connector.drain_children(now);
    taken
}

/// A packet of the peer's has come over a TCP connection, opened by its session's keys.
pub fn handle_heard(connector: &mut Connector, path: TcpPath, now: Instant) {
    connector
        .peers
        .handle_tcp_heard(&connector.connections, path, now);
}

/// Whether the other end of a TCP connection has shown that it is the peer: before that, nothing but checks is taken from it.
pub fn is_authentic(connector: &Connector, path: TcpPath) -> bool {
    connector.peers.is_authentic(&connector.connections, path)
}
