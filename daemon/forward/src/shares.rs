//! How the room for streams is shared among peers.
//!
//! A peer may use what others do not need. When there is no room, a newcomer takes it from the peer that holds most, if that one
//! still holds more afterwards; so peers that keep their streams busy cannot keep another out for ever. Nothing here looks at
//! more than a few entries, however many there are.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use punch_packet::{PeerHandle, Rate, TokenBucket};

use crate::counts::Crowded;
use crate::order::StreamId;

/// How exactly the order of last use is kept: a busy stream moves in it only so often.
const RESOLUTION: Duration = Duration::from_secs(1);
/// New streams of one peer. A server that comes back sees thousands of clients at once; after that a thousand a second is some
/// 5 % of a core for tasks and sockets. What comes faster is dropped, and a client's next SYN follows a second later.
const NEW: Rate = Rate {
    burst: 4096,
    interval: Duration::from_millis(1),
};
/// That there is no room is told so often for a peer.
const TELL: Duration = Duration::from_secs(60);

/// How many streams there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) all: usize,
    pub(crate) per_peer: usize,
    /// What was not used for so long may be ended to make room, whoever has it.
    pub(crate) idle: Duration,
}

/// What a newcomer finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Free,
    /// In the place of this one, which is over.
    Close(StreamId),
    /// In the place of this one, which is to be ended.
    End(StreamId),
    Full,
}

/// One peer's streams.
struct Share {
    /// By last use, to [`RESOLUTION`].
    by_use: BTreeSet<(Instant, StreamId)>,
    /// Those that only wait for late packets: nobody misses them.
    over: BTreeSet<StreamId>,
    new: TokenBucket,
    refused: u64,
    ended: u64,
    told: Option<Instant>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            by_use: BTreeSet::new(),
            over: BTreeSet::new(),
            new: TokenBucket::new(NEW),
            refused: 0,
            ended: 0,
            told: None,
        }
    }
}

/// A stream's place in the order of last use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    listed: Instant,
    last: Instant,
}

/// All streams of one protocol, by peer.
pub(crate) struct Shares {
    limits: Limits,
    all: usize,
    peers: HashMap<PeerHandle, Share>,
    by_size: BTreeSet<(usize, PeerHandle)>,
}

impl Shares {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: 0,
            peers: HashMap::new(),
            by_size: BTreeSet::new(),
        }
    }

    pub(crate) fn all(&self) -> usize {
        self.all
    }

    pub(crate) fn of_peer(&self, peer: PeerHandle) -> usize {
        self.peers.get(&peer).map_or(0, |share| share.by_use.len())
    }

    /// Whether the peer may open one more stream so soon.
    pub(crate) fn may_open(&mut self, peer: PeerHandle, now: Instant) -> bool {
        self.peers.entry(peer).or_default().new.take(now)
    }

    /// Where one more stream of this peer fits. `last_use` knows when a stream was used.
    pub(crate) fn room(
        &self,
        peer: PeerHandle,
        now: Instant,
        last_use: impl Fn(StreamId) -> Option<Instant>,
    ) -> Room {
        let mine = self.of_peer(peer);
        if mine < self.limits.per_peer && self.all < self.limits.all {
            return Room::Free;
        }
        // A peer that has all it may have makes room by itself.
        let biggest = self.by_size.last();
        let biggest = biggest.filter(|_| mine < self.limits.per_peer);
        let mut takes = biggest.is_some_and(|(most, _)| mine + 1 < *most);
        let from = [biggest.map(|(_, biggest)| *biggest), Some(peer)];
        let shares = || {
            from.iter()
                .flatten()
                .filter_map(|peer| self.peers.get(peer))
        };
        if let Some(id) = shares().find_map(|share| share.over.first()) {
            return Room::Close(*id);
        }
        let idle = |id| {
            let used = last_use(id).unwrap_or(now);
            now.saturating_duration_since(used) >= self.limits.idle
        };
        shares()
            .filter_map(|share| share.by_use.first())
            .find(|(_, id)| std::mem::take(&mut takes) || idle(*id))
            .map_or(Room::Full, |(_, id)| Room::End(*id))
    }

    pub(crate) fn insert(&mut self, peer: PeerHandle, id: StreamId, now: Instant) -> Use {
        let share = self.peers.entry(peer).or_default();
        let before = share.by_use.len();
        share.by_use.insert((now, id));
        self.all += 1;
        self.resize(peer, before, before + 1);
        Use {
            listed: now,
            last: now,
        }
    }

    pub(crate) fn remove(&mut self, peer: PeerHandle, id: StreamId, used: Use) {
        let Some(share) = self.peers.get_mut(&peer) else {
            return;
        };
        share.over.remove(&id);
        if share.by_use.remove(&(used.listed, id)) {
            let left = share.by_use.len();
            self.all -= 1;
            self.resize(peer, left + 1, left);
        }
    }

    fn resize(&mut self, peer: PeerHandle, before: usize, after: usize) {
        self.by_size.remove(&(before, peer));
        if after > 0 {
            self.by_size.insert((after, peer));
        }
    }

    /// The stream is used.
    pub(crate) fn touch(&mut self, peer: PeerHandle, id: StreamId, used: &mut Use, now: Instant) {
        used.last = now;
        if now.saturating_duration_since(used.listed) < RESOLUTION {
            return;
        }
        if let Some(share) = self.peers.get_mut(&peer) {
            share.by_use.remove(&(used.listed, id));
            share.by_use.insert((now, id));
            used.listed = now;
        }
    }

    /// Whether the stream only waits for late packets.
    pub(crate) fn set_over(&mut self, peer: PeerHandle, id: StreamId, over: bool) {
        if let Some(share) = self.peers.get_mut(&peer) {
            if over {
                share.over.insert(id);
            } else {
                share.over.remove(&id);
            }
        }
    }

    /// A new stream of this peer was refused, or with `ended` one was ended for another peer; now and then that is to be told.
    pub(crate) fn crowded(
        &mut self,
        peer: PeerHandle,
        ended: bool,
        now: Instant,
    ) -> Option<Crowded> {
        let share = self.peers.entry(peer).or_default();
        share.refused += u64::from(!ended);
        share.ended += u64::from(ended);
        if share.told.is_some_and(|told| now < told + TELL) {
            return None;
        }
        share.told = Some(now);
        Some(Crowded {
            peer,
            refused: std::mem::take(&mut share.refused),
            ended: std::mem::take(&mut share.ended),
            open: share.by_use.len(),
        })
    }

    /// Forgets peers that have no stream and are gone.
    pub(crate) fn retain_peers(&mut self, is_peer: impl Fn(PeerHandle) -> bool) {
        self.peers
            .retain(|peer, share| !share.by_use.is_empty() || is_peer(*peer));
    }
}

impl Use {
    pub(crate) fn last(self) -> Instant {
        self.last
    }
}
