//! What a connection has to send and to say, on its way out.

use std::collections::VecDeque;

use punch_packet::PeerHandle;
use punch_traversal::{SocketId, Transmit};

use crate::sockets::Sockets;
use crate::transactions::Transactions;
use crate::{ConnectorEvent, News, SessionEvent, SocketOrder};

/// Where a connection puts its outputs.
pub(crate) struct Outputs<'a> {
    pub(crate) peer: PeerHandle,
    /// Stands for the network that this machine is in.
    pub(crate) network: Option<u64>,
    pub(crate) transmits: &'a mut VecDeque<Transmit>,
    pub(crate) events: &'a mut VecDeque<ConnectorEvent>,
    pub(crate) sockets: &'a mut Sockets,
    pub(crate) transactions: &'a mut Transactions,
    /// Notes for the peer.
    pub(crate) envelopes: Vec<Vec<u8>>,
    /// Mappings that searches have made.
    pub(crate) mappings: u32,
}

impl Outputs<'_> {
    pub(super) fn order(&mut self, order: SocketOrder) {
        self.events.push_back(ConnectorEvent::Socket(order));
    }

    pub(super) fn close(&mut self, socket: SocketId) {
        self.sockets.forget(socket);
        self.order(SocketOrder::Close { socket });
    }

    pub(super) fn session(&mut self, event: SessionEvent) {
        self.events.push_back(ConnectorEvent::Session(event));
    }

    pub(super) fn news(&mut self, news: News) {
        self.events.push_back(ConnectorEvent::News(news));
    }
}
