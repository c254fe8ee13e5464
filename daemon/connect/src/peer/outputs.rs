//! What a connection has to send and to say, on its way out.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_traversal::{SocketId, Transmit};

use crate::course::{Cause, Course};
use crate::network::LocalNetwork;
use crate::path::{Path, TcpPath};
use crate::relays::RelayOrders;
use crate::sockets::Sockets;
use crate::tcp::Connections;
use crate::transactions::Transactions;
use crate::{ConnectorEvent, News, SessionEvent, SocketOrder, TcpOrder};

/// Where a connection puts its outputs.
pub(crate) struct Outputs<'a> {
    pub(crate) peer: PeerHandle,
    /// Stands for the network that this machine is in.
    pub(crate) network: Option<u64>,
    /// This machine's end of every path.
    pub(crate) local: &'a LocalNetwork,
    pub(crate) transmits: &'a mut VecDeque<Transmit>,
    pub(crate) events: &'a mut VecDeque<ConnectorEvent>,
    pub(crate) sockets: &'a mut Sockets,
    pub(crate) connections: &'a mut Connections,
    pub(crate) transactions: &'a mut Transactions,
    /// The path that serves, as it was told, and why.
    pub(crate) course: &'a mut Course,
    /// Notes for the peer.
    pub(crate) envelopes: Vec<Vec<u8>>,
    pub(crate) relay: RelayOrders,
    /// Mappings that searches have made.
    pub(crate) mappings: u32,
    /// If the NAT gave a search no more ports: its mappings beside which others still got theirs.
    pub(crate) used_up: Option<u32>,
    /// Where a search has found the peer.
    pub(crate) found_at: Option<Ipv4Addr>,
    /// Whether this side's NAT is known.
    pub(crate) measured: bool,
}

impl<'a> Outputs<'a> {
    /// The outputs of one connection, which is in this network.
    pub(crate) fn new(
        peer: PeerHandle,
        network: &'a LocalNetwork,
        (transmits, events): (&'a mut VecDeque<Transmit>, &'a mut VecDeque<ConnectorEvent>),
        sockets: &'a mut Sockets,
        (connections, transactions, course): (
            &'a mut Connections,
            &'a mut Transactions,
            &'a mut Course,
        ),
    ) -> Self {
        Self {
            peer,
            network: network.fingerprint(),
            local: network,
            transmits,
            events,
            sockets,
            connections,
            transactions,
            course,
            envelopes: Vec::new(),
            relay: RelayOrders::default(),
            mappings: 0,
            used_up: None,
            found_at: None,
            measured: network.is_measured(),
        }
    }

    pub(super) fn order(&mut self, order: SocketOrder) {
        self.events.push_back(ConnectorEvent::Socket(order));
    }

    pub(super) fn close(&mut self, socket: SocketId) {
        self.sockets.forget(socket);
        self.order(SocketOrder::Close { socket });
    }

    /// Closes a TCP connection, or stops making it.
    pub(super) fn hang_up(&mut self, path: TcpPath) {
        self.connections.remove(path.connection);
        let order = TcpOrder::Close(path.connection);
        self.events.push_back(ConnectorEvent::Tcp(order));
    }

    pub(super) fn session(&mut self, event: SessionEvent) {
        self.events.push_back(ConnectorEvent::Session(event));
    }

    /// Packets take this path from now on.
    pub(super) fn turn(&mut self, path: Path, cause: Cause, now: Instant) {
        let (peer, why) = (self.peer, self.course.turn(path, cause, now));
        self.news(News::Selected { peer, path, why });
    }

    pub(super) fn news(&mut self, news: News) {
        self.events.push_back(ConnectorEvent::News(news));
    }
}
