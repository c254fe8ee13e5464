//! What carries envelopes: what the driver tells the connector of it.

use std::time::Instant;

use punch_connect::{Channel, ServerId, channel, meeting};

use crate::Engine;

/// A channel can carry envelopes from now on: a server has welcomed this machine, for example. [`Engine::handle_server`] ends it.
pub fn handle_up(engine: &mut Engine, server: ServerId, channel: Channel, now: Instant) {
    channel::handle_up(&mut engine.roster.connector, server, channel, now);
    engine.flush(now);
}

/// The next meeting place that takes no frame any more although its connection stands, which is to be ended.
pub fn poll_given_up(engine: &mut Engine) -> Option<ServerId> {
    meeting::poll_given_up(&mut engine.roster.connector)
}
