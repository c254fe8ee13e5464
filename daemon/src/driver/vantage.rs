//! Nodes of the DHT that stand in for STUN servers: what goes to them as STUN leaves as a ping, and their answers come in as STUN. Nobody
//! but this room sees that.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Instant;

use punch_dht::NodeId;
use punch_dht::vantage::{Gateway, Inwards, Outwards};
use punch_engine::{DropReason, Engine, ServerId, SocketId, channel};
use punch_platform::Train;
use tokio::sync::mpsc;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Vantage(Option<Serving>);

#[derive(Debug)]
struct Serving {
    gateway: Gateway,
    /// The channel that has named the nodes.
    server: ServerId,
    /// Where it hears of those that do not answer.
    silent: mpsc::Sender<SocketAddrV4>,
}

impl Vantage {
    /// The channel names these nodes from now on, and wants to hear of those that do not answer.
    pub(super) fn set(
        &mut self,
        engine: &mut Engine,
        (server, nodes): (ServerId, &[SocketAddrV4]),
        silent: mpsc::Sender<SocketAddrV4>,
        now: Instant,
    ) {
        let before = self.0.take().filter(|serving| serving.server == server);
        let gateway = match before {
            Some(serving) => serving.gateway,
            None => match punch_platform::random() {
                Ok(own) => Gateway::new(NodeId(own)),
                Err(error) => {
                    tracing::warn!(%error, "the DHT's nodes are not asked as STUN servers are");
                    return channel::set_nodes(engine, Vec::new(), now);
                }
            },
        };
        let serving = self.0.insert(Serving {
            gateway,
            server,
            silent,
        });
        serving.gateway.set_nodes(nodes);
        let nodes = nodes.iter().map(|node| SocketAddr::V4(*node));
        channel::set_nodes(engine, nodes.collect(), now);
    }

    /// A channel is no longer there, and its nodes are not asked any more.
    pub(super) fn leave(&mut self, engine: &mut Engine, server: ServerId, now: Instant) {
        let gone = self.0.take_if(|serving| serving.server == server);
        if gone.is_some() {
            channel::set_nodes(engine, Vec::new(), now);
        }
    }

    /// What becomes of datagrams that are to be sent.
    pub(super) fn outwards(&mut self, to: Option<SocketAddr>, bytes: &[u8]) -> Outwards {
        match (&mut self.0, to) {
            (Some(serving), Some(to)) => serving.gateway.outwards(to, bytes),
            _ => Outwards::Unchanged,
        }
    }

    /// Takes datagrams that have come to a socket, if they may be of nodes.
    pub(super) fn take(
        &mut self,
        engine: &mut Engine,
        (socket, from): (SocketId, SocketAddr),
        train: &Train<'_>,
        now: Instant,
    ) -> bool {
        let Some(serving) = &mut self.0 else {
            return false;
        };
        if !serving.gateway.knows(from) {
            return false;
        }
        for datagram in train.bytes.chunks(train.stride.max(1)) {
            let turned = serving.gateway.inwards(from, datagram);
            let bytes = match &turned {
                Inwards::Unchanged => datagram,
                Inwards::Binding(bytes) => bytes,
                Inwards::Nothing => {
                    engine.count_drops(DropReason::NotForUs, 1);
                    continue;
                }
            };
            engine.handle_train(socket, train.local, from, bytes.len(), bytes, now);
        }
        while let Some(node) = serving.gateway.poll_silent() {
            tracing::debug!(%node, "a node of the DHT does not tell this machine's address");
            let _ = serving.silent.try_send(node);
        }
        true
    }
}
