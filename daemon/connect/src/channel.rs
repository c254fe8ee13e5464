//! What carries envelopes. A channel is called by a [`ServerId`] and speaks the frames of punch-signal, whatever it is made of: it takes
//! `Watch`, `Unwatch` and `Send`, and brings `Deliver`, `Appeared` and `Unreachable`. All that stand are tried side by side, and the first
//! answer counts. A channel can lose, delay and repeat; it can read and forge nothing.
//!
//! Slow channels carry compact offers and answers, and refusals, of [`punch_signal_protocol::seal::MAX_COMPACT`] bytes at the most, and nothing else; quick
//! ones carry everything but compact envelopes.

use std::time::Instant;

use punch_packet::PeerHandle;

use crate::path::ServerId;
use crate::{Connector, meeting, peer};

pub use crate::medium::Channel;

/// Over which channel the exchange with a peer was made that serves.
pub fn met_over(connector: &Connector, peer: PeerHandle) -> Option<ServerId> {
    peer::met_over(connector.peers.get(peer)?)
}

/// A channel can carry envelopes from now on; [`Connector::handle_server_down`] ends it.
pub fn handle_up(connector: &mut Connector, server: ServerId, channel: Channel, now: Instant) {
    match channel {
        Channel::Server => connector.handle_server_up(server, now),
        Channel::Lan => {
            let peers = connector.peers.watched();
            connector.signalling.servers.add_network(server, peers);
            connector.drain_children(now);
        }
        Channel::Meeting(peer) => meeting::handle_up(connector, server, peer, now),
        Channel::Dht | Channel::Paste(_) => handle_slow_up(connector, server, channel, now),
    }
}

/// A slow channel can carry envelopes: peers that are wanted and have no path hear of this machine over it.
fn handle_slow_up(connector: &mut Connector, server: ServerId, channel: Channel, now: Instant) {
    let (peers, signalling) = (&mut connector.peers, &mut connector.signalling);
    let only = match channel {
        Channel::Paste(peer) => {
            let Some(connection) = peers.get_mut(peer) else {
                return;
            };
            // Whoever carries envelopes by hand asks for a new one.
            connection.calls.slow.renew(channel);
            Some((peer, connection.id))
        }
        _ => None,
    };
    let watched = match only {
        Some(_) => Vec::new(),
        None => peers.watched(),
    };
    let servers = &mut signalling.servers;
    servers.add_slow(server, channel, only.map(|(_, id)| id), watched);
    let offered = only.map_or_else(|| peers.handles(), |(peer, _)| vec![peer]);
    for peer in offered {
        signalling.compact.add(peer, now);
    }
    connector.handle_timeout(now);
}
