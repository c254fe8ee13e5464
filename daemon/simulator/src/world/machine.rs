//! One machine: its connector, the sockets that it has, and what the connector has said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use punch_connect::{Connector, ConnectorEvent, News, Path, SessionEvent, SocketOrder, notes};
use punch_signal::hub::ConnectionId;
use punch_signal_protocol::Identity;
use punch_signal_protocol::seal::PresharedKey;
use punch_traversal::{NatProfile, SocketId, StepKind};

use crate::network::HostId;

/// The first port of sockets that are opened for a purpose.
const FIRST_PORT: u16 = 41_000;

/// A machine of the pair, with its connector and what that has asked for.
pub(super) struct Machine {
    pub(super) connector: Connector,
    pub(super) identity: Identity,
    pub(super) host: HostId,
    pub(super) sockets: BTreeMap<SocketId, u16>,
    pub(super) by_port: BTreeMap<u16, SocketId>,
    pub(super) next_port: u16,
    pub(super) connection: Option<ConnectionId>,
    pub(super) path: Option<Path>,
    /// The preshared key of the newest session.
    pub(super) preshared: Option<PresharedKey>,
    pub(super) profiles: Option<Vec<NatProfile>>,
    pub(super) worked: Vec<(u64, StepKind)>,
    pub(super) refuses_sockets: bool,
    pub(super) opened: u64,
    pub(super) closed: u64,
}

impl Machine {
    /// A machine that has no sockets yet.
    pub(super) fn new(connector: Connector, identity: Identity, host: HostId) -> Self {
        Self {
            connector,
            identity,
            host,
            sockets: BTreeMap::new(),
            by_port: BTreeMap::new(),
            next_port: FIRST_PORT,
            connection: None,
            path: None,
            preshared: None,
            profiles: None,
            worked: Vec::new(),
            refuses_sockets: false,
            opened: 0,
            closed: 0,
        }
    }

    /// A datagram of the network.
    pub(super) fn receive(
        &mut self,
        to: SocketAddr,
        from: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) {
        let Some(socket) = self.by_port.get(&to.port()).copied() else {
            return;
        };
        let connector = &mut self.connector;
        if notes::is_note(payload) {
            let path = Path::direct(socket, from);
            notes::handle_datagram(connector, path, payload, now);
        } else {
            connector.handle_stun(socket, Some(to.ip()), from, payload, now);
        }
    }

    pub(super) fn open(&mut self, socket: SocketId, port: u16) {
        self.sockets.insert(socket, port);
        self.by_port.insert(port, socket);
    }

    pub(super) fn handle_event(&mut self, event: ConnectorEvent, now: Instant) {
        match event {
            ConnectorEvent::Socket(SocketOrder::Open { socket, .. }) if self.refuses_sockets => {
                self.connector.handle_socket_failed(socket, now);
            }
            ConnectorEvent::Socket(SocketOrder::Open { socket, .. }) => {
                self.opened += 1;
                // A fresh port each time, as kernels give them.
                let port = self.next_port;
                self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
                self.open(socket, port);
                self.connector.handle_socket(socket, port, now);
            }
            ConnectorEvent::Socket(SocketOrder::Close { socket }) => {
                if let Some(port) = self.sockets.remove(&socket) {
                    self.closed += 1;
                    self.by_port.remove(&port);
                }
            }
            ConnectorEvent::Session(SessionEvent::Lost { .. } | SessionEvent::Closed { .. }) => {
                self.path = None;
            }
            ConnectorEvent::Session(SessionEvent::Proven { preshared, .. }) => {
                self.preshared = Some(preshared);
            }
            ConnectorEvent::Session(SessionEvent::Abandoned { .. }) => {}
            // There is no relay in the simulated internet.
            ConnectorEvent::Tcp(_) | ConnectorEvent::Link { .. } => {}
            ConnectorEvent::News(News::Selected { path, .. }) => self.path = Some(path),
            ConnectorEvent::News(News::Netcheck(profiles)) => self.profiles = Some(profiles),
            ConnectorEvent::News(News::Worked { network, step, .. }) => {
                self.worked.push((network, step));
            }
            ConnectorEvent::News(
                News::Mtu { .. }
                | News::Stamps { .. }
                | News::Stale { .. }
                | News::Refused { .. }
                | News::Stranger { .. }
                | News::Searching { .. }
                | News::Capacity { .. }
                | News::NetworkChanged,
            ) => {}
        }
    }
}
