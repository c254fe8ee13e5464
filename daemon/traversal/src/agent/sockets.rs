//! The sockets that were opened for one agent beside the long-lived ones.

use std::time::{Duration, Instant};

use crate::socket::SocketId;

/// How long sockets that the path does not need are kept once it is found: the two ends may have found different ones.
const SOCKET_CLOSE_DELAY: Duration = Duration::from_secs(1);

/// The sockets that were opened for one agent.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Vec<SocketId>,
    close_at: Option<Instant>,
}

impl Sockets {
    pub(super) fn iter(&self) -> impl Iterator<Item = SocketId> {
        self.open.iter().copied()
    }

    pub(super) fn add(&mut self, socket: SocketId) {
        self.open.push(socket);
    }

    pub(super) fn remove(&mut self, socket: SocketId) {
        self.open.retain(|open| *open != socket);
    }

    /// Keeps those that are to be kept; returns the others.
    pub(super) fn keep(&mut self, keep: impl Fn(SocketId) -> bool) -> Vec<SocketId> {
        let (kept, gone) = self.open.iter().partition(|socket| keep(**socket));
        self.open = kept;
        gone
    }

    /// Closes what is not needed after a while, if there is anything to close.
    pub(super) fn close_later(&mut self, now: Instant) {
        if !self.open.is_empty() {
            self.close_at = Some(now + SOCKET_CLOSE_DELAY);
        }
    }

    /// Whether the time has come to close what is not needed; once.
    pub(super) fn take_close(&mut self, now: Instant) -> bool {
        let due = self.close_at.is_some_and(|at| at <= now);
        if due {
            self.close_at = None;
        }
        due
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.close_at
    }
}
