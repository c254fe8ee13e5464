//! What carries envelopes. A channel is called by a [`ServerId`] and speaks the frames of punch-signal, whatever it is made of: it takes
//! `Watch`, `Unwatch` and `Send`, and brings `Deliver`, `Appeared` and `Unreachable`. All that stand are tried side by side, and the first
//! answer counts. A channel can lose, delay and repeat; it can read and forge nothing.

use std::time::Instant;

use punch_packet::PeerHandle;

use crate::path::ServerId;
use crate::{Connector, meeting};

/// The kind of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A signalling server.
    Server,
    /// The meeting place of a peer, inside its tunnel.
    Meeting(PeerHandle),
    /// The networks that this machine is attached to.
    Lan,
}

/// A channel can carry envelopes from now on; [`Connector::handle_server_down`] ends it.
pub fn handle_up(connector: &mut Connector, server: ServerId, channel: Channel, now: Instant) {
    match channel {
        Channel::Server | Channel::Lan => connector.handle_server_up(server, now),
        Channel::Meeting(peer) => meeting::handle_up(connector, server, peer, now),
    }
}
