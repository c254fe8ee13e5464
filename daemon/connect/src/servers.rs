//! The signalling servers that are reached, what goes to them, and whose logins they are asked to tell of.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Frame, PeerId};

use crate::peer::PeerConnection;
use crate::{ServerId, Signal};

/// Watches that are sent at once: a server allows 50 frames a second.
const MAX_WATCHES_AT_ONCE: usize = 16;
/// The pause between two such sets of watches.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// What goes to the signalling servers.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    online: BTreeSet<ServerId>,
    /// Watches that wait for their turn.
    waiting: VecDeque<(ServerId, PeerId)>,
    next_watches: Option<Instant>,
    signals: VecDeque<Signal>,
}

impl Servers {
    /// A server has welcomed this machine, and is asked to tell of these peers.
    pub(crate) fn add(&mut self, server: ServerId, peers: Vec<PeerId>, now: Instant) {
        self.online.insert(server);
        self.waiting
            .extend(peers.into_iter().map(|id| (server, id)));
        self.send_watches(now);
    }

    /// The connection to a server is lost.
    pub(crate) fn remove(&mut self, server: ServerId) {
        self.online.remove(&server);
        self.waiting.retain(|(waiting, _)| *waiting != server);
    }

    /// The servers that are reached.
    pub(crate) fn online(&self) -> &BTreeSet<ServerId> {
        &self.online
    }

    /// Sends an envelope to a peer over every server.
    pub(crate) fn send(&mut self, to: PeerId, envelope: Vec<u8>) {
        self.send_all(&Frame::Send { to, envelope });
    }

    /// Sends an envelope to a peer over one server.
    pub(crate) fn send_over(&mut self, server: ServerId, to: PeerId, envelope: Vec<u8>) {
        let frame = Frame::Send { to, envelope };
        self.signals.push_back(Signal { server, frame });
    }

    /// Asks every server to tell when a peer logs in, or no longer to, if that is another thing than before.
    pub(crate) fn update_watch(&mut self, connection: &mut PeerConnection, now: Instant) {
        let wanted = connection.wants_watch();
        match (connection.set_watched(wanted), wanted) {
            (false, _) => {}
            (true, true) => self.watch(connection.id, now),
            (true, false) => self.unwatch(connection.id),
        }
    }

    fn watch(&mut self, id: PeerId, now: Instant) {
        self.waiting
            .extend(self.online.iter().map(|server| (*server, id)));
        if self.next_watches.is_none() {
            self.send_watches(now);
        }
    }

    /// No server need tell of a peer any more.
    pub(crate) fn unwatch(&mut self, id: PeerId) {
        self.waiting.retain(|(_, waiting)| *waiting != id);
        self.send_all(&Frame::Unwatch(id));
    }

    /// Sends the watches that are due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.next_watches.is_some_and(|at| at <= now) {
            self.send_watches(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_watches
    }

    /// The next frame for a server.
    pub(crate) fn poll_signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    /// Frames that nobody has taken yet, and watches that wait.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.signals.len(), self.waiting.len())
    }

    fn send_watches(&mut self, now: Instant) {
        let count = self.waiting.len().min(MAX_WATCHES_AT_ONCE);
        for (server, id) in self.waiting.drain(..count) {
            let frame = Frame::Watch(id);
            self.signals.push_back(Signal { server, frame });
        }
        self.next_watches = (!self.waiting.is_empty()).then_some(now + WATCH_INTERVAL);
    }

    fn send_all(&mut self, frame: &Frame) {
        for server in &self.online {
            self.signals.push_back(Signal {
                server: *server,
                frame: frame.clone(),
            });
        }
    }
}
