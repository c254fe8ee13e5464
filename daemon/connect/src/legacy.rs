//! What one process leaves to the next of its connections, and how that one goes on with them.

use std::time::Instant;

use punch_packet::PeerHandle;
use punch_traversal::SocketId;

use crate::Connector;
use crate::peer::{Bequest, PathBequest, inherited};

/// A path of an earlier process is not gone on with: the peer is not known, not wanted, or has been reached anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotInherited;

/// What the next process needs to go on with the connections.
pub fn bequeath(connector: &Connector) -> Vec<Bequest> {
    let connections = connector.peers.handles().into_iter();
    connections
        .filter_map(|peer| connector.peers.get(peer).map(inherited::bequest))
        .collect()
}

/// Stamps that an earlier process has exchanged with a peer: what is older is no news, and what is sent will be newer.
pub fn inherit_stamps(connector: &mut Connector, peer: PeerHandle, (sent, seen): (u64, u64)) {
    if let Some(connection) = connector.peers.get_mut(peer) {
        let stamps = &mut connection.calls.stamps;
        stamps.sent = stamps.sent.max(sent);
        stamps.seen = stamps.seen.max(seen);
    }
}

/// Goes on with the path of an earlier process. A path from another socket than the main ones gets a new number for it, which is
/// returned: the socket must be there before the next datagram leaves.
///
/// # Errors
/// [`NotInherited`], and nothing has changed.
pub fn inherit(
    connector: &mut Connector,
    peer: PeerHandle,
    mut path: PathBequest,
    now: Instant,
) -> Result<SocketId, NotInherited> {
    let connection = connector.peers.get_mut(peer).ok_or(NotInherited)?;
    if !path.proven.path.socket.is_main() {
        let attempt = connection.attempts.next_number();
        path.proven.path.socket = connector.sockets.number_for(peer, attempt);
    }
    let socket = path.proven.path.socket;
    let envelopes = &mut connector.signalling.envelopes;
    let fresh = (envelopes.wall_ms(now), envelopes.seed());
    let agent = (
        connector.network.mtu(),
        connector.network.has_tcp(),
        envelopes.seed(),
    );
    let goes_on = inherited::go_on(connection, path, agent, fresh, now);
    if !goes_on {
        connector.sockets.forget(socket);
        return Err(NotInherited);
    }
    connector.drain_children(now);
    Ok(socket)
}
