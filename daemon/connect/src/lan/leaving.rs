//! Peers that were removed a moment ago. The goodbye to them is on its way through the connector while the network has already heard that
//! they are no peers any more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::PeerId;
use punch_signal_protocol::lan::Keys;

/// A goodbye comes within so long; the connector makes it when it removes the peer.
const KEPT: Duration = Duration::from_secs(2);
/// So many are kept; of more at once, the others notice by silence.
const MAX: usize = 64;

struct Gone {
    id: PeerId,
    keys: Keys,
    places: Vec<SocketAddr>,
    since: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct Leaving(Vec<Gone>);

impl Leaving {
    /// A peer was removed that takes datagrams at these places, the newest last.
    pub(super) fn add(&mut self, id: PeerId, keys: Keys, places: Vec<SocketAddr>, now: Instant) {
        self.0
            .retain(|gone| now.saturating_duration_since(gone.since) <= KEPT);
        if !places.is_empty() && self.0.len() < MAX {
            let since = now;
            self.0.push(Gone {
                id,
                keys,
                places,
                since,
            });
        }
    }

    /// It is a peer again.
    pub(super) fn forget(&mut self, id: PeerId) {
        self.0.retain(|gone| gone.id != id);
    }

    /// Only places that satisfy this hold.
    pub(super) fn keep(&mut self, holds: impl Fn(&SocketAddr) -> bool) {
        for gone in &mut self.0 {
            gone.places.retain(&holds);
        }
    }

    /// The places of a peer, the newest first; none once its time is over.
    pub(super) fn places(&self, id: PeerId, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let is_it =
            move |gone: &&Gone| gone.id == id && now.saturating_duration_since(gone.since) <= KEPT;
        let gone = self.0.iter().find(is_it).into_iter();
        gone.flat_map(|gone| gone.places.iter().rev().copied())
    }

    /// What makes datagrams for a peer.
    pub(super) fn keys(&self, id: PeerId) -> Option<&Keys> {
        let gone = self.0.iter().find(|gone| gone.id == id)?;
        Some(&gone.keys)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
