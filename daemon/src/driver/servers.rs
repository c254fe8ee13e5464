//! The ways to the signalling servers that are reached, for frames and for packets that they relay.

use std::collections::HashMap;
use std::time::Instant;

use punch_engine::{Engine, RelayPath, ServerId, Signal, Train};
use punch_signal_protocol::{RelayBuilder, RelayFrame};

use super::command::ToServer;

/// See the module.
#[derive(Default)]
pub(super) struct Servers(HashMap<ServerId, ToServer>);

impl Servers {
    /// A signalling connection stands.
    pub(super) fn insert(&mut self, server: ServerId, ways: ToServer) {
        self.0.insert(server, ways);
    }

    /// A signalling connection has ended.
    pub(super) fn remove(&mut self, server: ServerId) {
        self.0.remove(&server);
    }

    /// Gives a frame to its server.
    pub(super) fn send(&self, signal: Signal) {
        if let Some(server) = self.0.get(&signal.server) {
            // A connection whose queue is full is stuck; what is lost is repeated by the next offer.
            let _ = server.frames.try_send(signal.frame);
        }
    }

    /// Hands packets for a relay link to its server; returns how many were lost: the server does not keep up, is gone, or
    /// takes no packets that long.
    pub(super) fn relay(&self, path: RelayPath, train: &Train) -> u64 {
        let packets = train.bytes.chunks(train.segment.max(1));
        let Some(server) = self.0.get(&path.server) else {
            return packets.count() as u64;
        };
        let mut lost = 0;
        let mut send = |frame: RelayBuilder, count: u64| {
            if count > 0 && server.relayed.try_send(frame.finish()).is_err() {
                lost += count;
            }
        };
        let empty = || RelayBuilder::to_server(path.link);
        let (mut frame, mut count, mut too_long) = (empty(), 0, 0);
        for packet in packets {
            if !frame.push(packet) {
                send(std::mem::replace(&mut frame, empty()), count);
                count = 0;
                if !frame.push(packet) {
                    too_long += 1;
                    continue;
                }
            }
            count += 1;
        }
        send(frame, count);
        lost + too_long
    }
}

/// Gives the engine the packets of a relay frame that has come over this server.
pub(super) fn take(engine: &mut Engine, server: ServerId, message: &[u8], now: Instant) {
    match RelayFrame::read_at_client(message) {
        Ok(frame) => {
            let link = frame.link;
            engine.handle_relayed(RelayPath { server, link }, frame.packets(), now);
        }
        Err(error) => tracing::debug!(%error, "a relay frame was passed over"),
    }
}
