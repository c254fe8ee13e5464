//! Peers as signalling servers: the meeting places that they serve inside their tunnels.
//!
//! A meeting place is a server like any other, but for one thing: it is reached through a tunnel. If that tunnel went over another peer's
//! meeting place, the two could carry each other in a circle. So a peer's meeting place counts only while its own path is not relayed by a
//! peer, and what concerns the peer itself never goes over it.

use std::time::Instant;

use punch_packet::PeerHandle;

use crate::Connector;
use crate::path::ServerId;
use crate::servers::Host;

/// This machine has been welcomed at the meeting place of a peer, which is called `server` from now on;
/// [`Connector::handle_server_down`] ends it. It is given up at once if the peer's path is relayed by another one.
pub(crate) fn handle_up(
    connector: &mut Connector,
    server: ServerId,
    peer: PeerHandle,
    now: Instant,
) {
    let servers = &mut connector.signalling.servers;
    let connection = connector.peers.get(peer);
    let Some(connection) = connection.filter(|connection| !servers.is_by_a_peer(connection)) else {
        return servers.give_up(server);
    };
    let id = connection.id;
    servers.add_meeting(server, Host { peer, id }, connector.peers.watched());
    connector.handle_login(server, now);
}

/// The next meeting place that is not used any more although this machine is connected to it, and that takes no frame: the connection is
/// to be ended, and a later one is welcome.
pub fn poll_given_up(connector: &mut Connector) -> Option<ServerId> {
    connector.signalling.servers.poll_given_up()
}
