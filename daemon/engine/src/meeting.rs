//! Peers as signalling servers: what the driver tells the connector of them.

use std::time::Instant;

use punch_connect::{ServerId, meeting};
use punch_packet::PeerHandle;

use crate::Engine;

/// This machine has been welcomed at the meeting place of a peer; [`Engine::handle_server`] ends it.
pub fn handle_up(engine: &mut Engine, server: ServerId, host: PeerHandle, now: Instant) {
    meeting::handle_up(&mut engine.roster.connector, server, host, now);
    engine.flush(now);
}

/// The next meeting place that takes no frame any more although its connection stands, which is to be ended.
pub fn poll_given_up(engine: &mut Engine) -> Option<ServerId> {
    meeting::poll_given_up(&mut engine.roster.connector)
}
