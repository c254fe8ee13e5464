//! What carries envelopes: what the driver tells the connector of it.

use std::net::SocketAddr;
use std::time::Instant;

use punch_connect::{Channel, ServerId, channel, meeting};

use crate::Engine;

/// A channel can carry envelopes from now on: a server has welcomed this machine, for example. [`Engine::handle_server`] ends it.
pub fn handle_up(engine: &mut Engine, server: ServerId, channel: Channel, now: Instant) {
    channel::handle_up(&mut engine.roster.connector, server, channel, now);
    engine.flush(now);
}

/// The nodes of the DHT that can stand in for STUN servers, where those are too few, are now these: the driver turns what goes there.
pub fn set_nodes(engine: &mut Engine, nodes: Vec<SocketAddr>, now: Instant) {
    engine.roster.connector.set_nodes(nodes, now);
    engine.flush(now);
}

/// The next meeting place that takes no frame any more although its connection stands, which is to be ended.
pub fn poll_given_up(engine: &mut Engine) -> Option<ServerId> {
    meeting::poll_given_up(&mut engine.roster.connector)
}
