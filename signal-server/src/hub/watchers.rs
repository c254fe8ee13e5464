//! Clients that want to be told when another appears, and how often each appearance is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use punch_signal_protocol::PeerId;

use super::ConnectionId;

/// An identity that logs in again and again is announced to those who watch it once in this time: the first login at once,
/// all later ones together when the time has passed. Otherwise one client's logins would make thousands of frames each.
pub const QUIET: Duration = Duration::from_secs(2);

/// Connections by the identity that they watch.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    watches: BTreeSet<(PeerId, ConnectionId)>,
    /// Identities announced within [`QUIET`]: until when, and whether they have logged in again since.
    told: BTreeMap<PeerId, (Instant, bool)>,
}

impl Watchers {
    pub(super) fn insert(&mut self, id: PeerId, watcher: ConnectionId) {
        self.watches.insert((id, watcher));
    }

    pub(super) fn remove(&mut self, id: PeerId, watcher: ConnectionId) {
        self.watches.remove(&(id, watcher));
    }

    /// The connections that watch `id`.
    pub(super) fn of(&self, id: PeerId) -> impl Iterator<Item = ConnectionId> {
        let all = (id, ConnectionId(0))..=(id, ConnectionId(u64::MAX));
        self.watches.range(all).map(|(_, watcher)| *watcher)
    }

    /// `id` has logged in; returns whether that is to be announced now.
    pub(super) fn appear(&mut self, id: PeerId, now: Instant) -> bool {
        if self.of(id).next().is_none() {
            return false;
        }
        match self.told.get_mut(&id) {
            Some((until, again)) if *until > now => {
                *again = true;
                false
            }
            _ => {
                self.told.insert(id, (now + QUIET, false));
                true
            }
        }
    }

    /// The identities that have logged in again and are to be announced now, if they are still online.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PeerId> {
        let over = self.told.extract_if(.., |_, (until, _)| *until <= now);
        let due: Vec<_> = over
            .filter(|(_, (_, again))| *again)
            .map(|(id, _)| id)
            .collect();
        for id in &due {
            self.told.insert(*id, (now + QUIET, false));
        }
        due
    }
}
