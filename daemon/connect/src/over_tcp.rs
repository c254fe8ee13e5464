//! What happens on TCP connections with peers, and where this machine takes them.

use std::net::SocketAddr;
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_traversal::{Family, usable};

use crate::Connector;
use crate::path::TcpPath;

/// This machine takes TCP connections of this family on this port.
pub fn handle_port(connector: &mut Connector, family: Family, port: u16) {
    connector.network.set_tcp_port(family, port);
}

/// A STUN server that was to be asked ([`crate::TcpOrder::Ask`]) sees the port on which this machine takes connections as `mapped`.
pub fn handle_seen(
    connector: &mut Connector,
    server: SocketAddr,
    mapped: SocketAddr,
    now: Instant,
) {
    let is_of_use = mapped.port() != 0 && usable(mapped.ip());
    if is_of_use
        && !connector.network.is_inside(mapped.ip())
        && connector.connections.seen.handle_answer(server, mapped)
    {
        connector.peers.tell_tcp_again(now);
        connector.drain_children(now);
    }
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

/// A STUN message has come over a TCP connection. Returns whether it was expected. [`finish`] does what follows, once for all that has
/// come together: whoever sends many messages must not make each of them cost as much as that.
pub fn handle_message(
    connector: &mut Connector,
    path: TcpPath,
    message: &[u8],
    now: Instant,
) -> bool {
    let peers = &mut connector.peers;
    peers.handle_tcp_message(&connector.connections, path, message, now)
}

/// What has come together over a connection was told.
pub fn finish(connector: &mut Connector, now: Instant) {
    if connector.peers.is_any_dirty() {
        connector.drain_children(now);
    }
}

/// The other end of a connection has said what no peer says: it is closed, unless it is already.
pub fn refuse(connector: &mut Connector, path: TcpPath, now: Instant) {
    if connector.connections.owner(path.connection).is_some() {
        let (peers, connections) = (&mut connector.peers, &mut connector.connections);
        peers.handle_tcp_closed(connections, path, now);
        connector.hang_up(path);
        connector.drain_children(now);
    }
}

/// A packet of the peer's has come over a TCP connection, opened by its session's keys.
pub fn handle_heard(connector: &mut Connector, path: TcpPath, now: Instant) {
    connector
        .peers
        .handle_tcp_heard(&connector.connections, path, now);
}

/// The peer that a TCP connection leads to, as far as is known.
pub fn owner(connector: &Connector, path: TcpPath) -> Option<PeerHandle> {
    let owner = connector.connections.owner(path.connection);
    owner.map(|(peer, _)| peer)
}

/// Whether the other end of a TCP connection has shown that it is the peer: before that, nothing but checks is taken from it.
pub fn is_authentic(connector: &Connector, path: TcpPath) -> bool {
    connector.peers.is_authentic(&connector.connections, path)
}
