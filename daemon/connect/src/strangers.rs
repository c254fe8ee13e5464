//! Machines that have called this one and are no peers: a short list, for the user who may have meant to add one of them.
//!
//! Nothing that a stranger says is used. Its offer is opened only to prove that the machine itself has made it and lately: the
//! sender that a server names could be made up, and an old offer repeated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use punch_packet::{Rate, TokenBucket};
use punch_signal_protocol::{PeerId, seal};

use crate::envelopes::Envelopes;
use crate::pace::Buckets;
use crate::{News, ServerId};

/// So many are remembered; the one that has been silent for the longest makes room.
const MAX_STRANGERS: usize = 8;
/// Offers of strangers that are opened, by the server that brings them: each costs half a millisecond.
const OPENED: Rate = Rate {
    burst: 4,
    interval: Duration::from_secs(1),
};
/// A machine that is on the list is heard again after this; it repeats its offer after 3 s at the earliest.
const PAUSE: Duration = Duration::from_secs(2);
/// New ones that are announced.
const ANNOUNCED: Rate = Rate {
    burst: 8,
    interval: Duration::from_secs(600),
};

/// A machine that is no peer and has called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stranger {
    /// Its identity, proven.
    pub id: PeerId,
    /// How many offers were counted since it is on the list.
    pub asked: u32,
    /// The time since the last one.
    pub ago: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Strangers {
    /// The one that has called last stands last.
    list: VecDeque<Entry>,
    opened: Buckets<ServerId>,
    announced: TokenBucket,
}

#[derive(Debug)]
struct Entry {
    id: PeerId,
    asked: u32,
    last: Instant,
    /// The stamp of the newest offer.
    stamp: u64,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            list: VecDeque::new(),
            opened: Buckets::new(OPENED),
            announced: TokenBucket::new(ANNOUNCED),
        }
    }
}

impl Strangers {
    /// A server has brought an envelope of a machine that is no peer. It is never answered; what is returned is for the user.
    pub(crate) fn handle(
        &mut self,
        (server, from, envelope): (ServerId, PeerId, &[u8]),
        envelopes: &mut Envelopes,
        now: Instant,
    ) -> Option<News> {
        let is_offer = seal::Kind::of(envelope) == Some(seal::Kind::Offer);
        if !is_offer || !self.admit(server, from, now) {
            return None;
        }
        let stamp = envelopes.open_stranger(from, envelope, now)?;
        self.note(from, stamp, now)
            .then_some(News::Stranger { id: from })
    }

    /// Whether an offer that this server has brought from this stranger is to be opened.
    fn admit(&mut self, server: ServerId, from: PeerId, now: Instant) -> bool {
        let known = self.list.iter().find(|entry| entry.id == from);
        if known.is_some_and(|entry| now.saturating_duration_since(entry.last) < PAUSE) {
            return false;
        }
        self.opened.take(server, now)
    }

    /// A stranger's offer with this stamp was opened; returns whether that is to be announced.
    fn note(&mut self, id: PeerId, stamp: u64, now: Instant) -> bool {
        let known = self.list.iter().position(|entry| entry.id == id);
        let before = known.map_or((0, 0), |at| (self.list[at].asked, self.list[at].stamp));
        // The same offer comes over each server that both machines use, and a server may repeat it.
        if stamp <= before.1 {
            return false;
        }
        self.list.retain(|entry| entry.id != id);
        self.list.push_back(Entry {
            id,
            asked: before.0.saturating_add(1),
            last: now,
            stamp,
        });
        if self.list.len() > MAX_STRANGERS {
            self.list.pop_front();
        }
        known.is_none() && self.announced.take(now)
    }

    /// A machine is a peer now.
    pub(crate) fn forget(&mut self, id: PeerId) {
        self.list.retain(|entry| entry.id != id);
    }

    /// All of them, the last one first.
    pub(crate) fn list(&self, now: Instant) -> Vec<Stranger> {
        let entries = self.list.iter().rev();
        let view = entries.map(|entry| Stranger {
            id: entry.id,
            asked: entry.asked,
            ago: now.saturating_duration_since(entry.last),
        });
        view.collect()
    }
}
