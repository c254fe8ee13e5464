//! A netcheck over each address family, on sockets of their own.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use punch_stun_protocol::Message;
use punch_traversal::{Family, NatProfile, Netcheck, SocketId, Transmit};

use super::ConnectorEvent;

/// Sockets for netchecks are numbered from here on; the main ones are 0 and 1.
const FIRST_SOCKET: u32 = 16;

#[derive(Debug)]
pub(super) struct Netchecks {
    seed: u64,
    next_socket: u32,
    asked: Vec<(SocketId, Family)>,
    opening: Vec<(SocketId, Family)>,
    running: Vec<Netcheck>,
    closing: Vec<SocketId>,
    done: Vec<NatProfile>,
    active: bool,
}

impl Netchecks {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            next_socket: FIRST_SOCKET,
            asked: Vec::new(),
            opening: Vec::new(),
            running: Vec::new(),
            closing: Vec::new(),
            done: Vec::new(),
            active: false,
        }
    }

    /// Starts over these families, unless a run is under way.
    pub(super) fn start(&mut self, families: impl Iterator<Item = Family>) {
        if self.active {
            return;
        }
        self.active = true;
        self.done.clear();
        for family in families {
            let socket = SocketId(self.next_socket);
            self.next_socket = self.next_socket.wrapping_add(1).max(FIRST_SOCKET);
            self.opening.push((socket, family));
        }
        self.asked.clone_from(&self.opening);
    }

    pub(super) fn handle_socket(
        &mut self,
        socket: SocketId,
        port: u16,
        addresses: &[IpAddr],
        servers: &[SocketAddr],
        now: Instant,
    ) {
        let Some(family) = self.opened(socket) else {
            return;
        };
        self.seed = self.seed.wrapping_add(1);
        self.running.push(Netcheck::new(
            family,
            socket,
            port,
            addresses.to_vec(),
            servers,
            self.seed,
            now,
        ));
        self.finish();
    }

    pub(super) fn handle_socket_failed(&mut self, socket: SocketId) {
        self.opened(socket);
    }

    fn opened(&mut self, socket: SocketId) -> Option<Family> {
        let index = self.opening.iter().position(|(id, _)| *id == socket)?;
        Some(self.opening.remove(index).1)
    }

    pub(super) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let run = self.running.iter_mut().find(|run| run.socket() == socket);
        let found = run
            .map(|run| run.handle_response(from, message, now))
            .is_some();
        self.finish();
        found
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for run in &mut self.running {
            run.handle_timeout(now);
        }
        self.finish();
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.running.iter().filter_map(Netcheck::poll_timeout).min()
    }

    fn finish(&mut self) {
        let (closing, done) = (&mut self.closing, &mut self.done);
        self.running.retain(|run| {
            let over = run.poll_timeout().is_none();
            if over {
                closing.push(run.socket());
                done.push(run.profile());
            }
            !over
        });
    }

    pub(super) fn drain(
        &mut self,
        transmits: &mut VecDeque<Transmit>,
        events: &mut VecDeque<ConnectorEvent>,
    ) {
        for (socket, family) in self.asked.drain(..) {
            events.push_back(ConnectorEvent::OpenSocket { socket, family });
        }
        for run in &mut self.running {
            while let Some(transmit) = run.poll_transmit() {
                transmits.push_back(transmit);
            }
        }
        for socket in self.closing.drain(..) {
            events.push_back(ConnectorEvent::CloseSocket { socket });
        }
        if self.active && self.opening.is_empty() && self.running.is_empty() {
            self.active = false;
            self.done.sort_by_key(|profile| profile.family);
            let profiles = std::mem::take(&mut self.done);
            events.push_back(ConnectorEvent::Netcheck(profiles));
        }
    }
}
