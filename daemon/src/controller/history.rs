//! What punchd knows of each peer from before: the stamps of its offers, and what has found a path to it.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::Result;
use punch_api::{PeerId, PeerKey};
use punch_engine::StepKind;

use crate::store::{Changes, Memory, Nodes, Seen, Stamps, Store};

/// What has changed is written after this: several changes come together.
const WRITE_DELAY: Duration = Duration::from_millis(500);
/// Stamps that were only sent may wait for longer: they matter when the clock goes back, and nobody is let in by one that is lost.
const SENT_DELAY: Duration = Duration::from_secs(30);
/// For each peer, the paths to it from so many networks are remembered.
const MAX_NETWORKS: usize = 8;

/// Tells the log that this network's NAT gave out no more ports when so many mappings were held; there is no event of it.
pub(super) fn tell_capacity<T>(mappings: u32) -> Option<T> {
    tracing::warn!(
        mappings,
        "the NAT of this network gave out no more ports; searches stay below that from now on"
    );
    None
}

/// Some of the files that the history is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Which {
    pub(super) stamps: bool,
    pub(super) memory: bool,
    pub(super) seen: bool,
    pub(super) nodes: bool,
}

impl Which {
    /// Those that these changes are written to.
    pub(super) fn of(changes: &Changes) -> Self {
        Self {
            stamps: changes.stamps.is_some(),
            memory: changes.memory.is_some(),
            seen: changes.seen.is_some(),
            nodes: changes.nodes.is_some(),
        }
    }
}

/// See the module.
pub(super) struct History {
    stamps: Stamps,
    memory: Memory,
    /// Where plain WireGuard peers were last seen.
    seen: Seen,
    /// Nodes of the public DHT that have answered.
    nodes: Nodes,
    changed: Which,
    /// When what has changed is written.
    due: Option<Instant>,
}

impl History {
    /// Reads what was known before the last restart.
    pub(super) fn read(store: &Store) -> Result<Self> {
        Ok(Self {
            stamps: store.load_stamps()?,
            memory: store.load_memory(),
            seen: store.load_seen(),
            nodes: store.load_nodes(),
            changed: Which::default(),
            due: None,
        })
    }

    /// The newest stamps of offers sent to and seen from a peer.
    pub(super) fn stamps(&self, id: &PeerId) -> (u64, u64) {
        self.stamps.get(id).copied().unwrap_or_default()
    }

    /// What has found a path to a peer, from which network; the latest last.
    pub(super) fn memory(&self, id: &PeerId) -> Vec<(u64, StepKind)> {
        let entries = self.memory.get(id).into_iter().flatten();
        entries
            .map(|(network, worked)| (*network, (*worked).into()))
            .collect()
    }

    /// Takes note of the stamps of an offer, sent and seen.
    pub(super) fn record_stamps(&mut self, id: PeerId, stamps: (u64, u64), now: Instant) {
        let before = self.stamps.insert(id, stamps).unwrap_or_default();
        if before == stamps {
            return;
        }
        self.changed.stamps = true;
        let is_seen = before.1 != stamps.1;
        self.write_within(if is_seen { WRITE_DELAY } else { SENT_DELAY }, now);
    }

    /// Takes note of what has found a path.
    pub(super) fn remember(&mut self, id: PeerId, network: u64, step: StepKind, now: Instant) {
        let entries = self.memory.entry(id).or_default();
        if entries.last() == Some(&(network, step.into())) {
            return;
        }
        self.changed.memory = true;
        entries.retain(|(known, _)| *known != network);
        entries.push((network, step.into()));
        let excess = entries.len().saturating_sub(MAX_NETWORKS);
        entries.drain(..excess);
        self.write_within(WRITE_DELAY, now);
    }

    fn write_within(&mut self, delay: Duration, now: Instant) {
        let at = now + delay;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Where a plain WireGuard peer was last seen.
    pub(super) fn seen(&self, key: &PeerKey) -> Option<SocketAddr> {
        match key {
            PeerKey::Wireguard { key, .. } => self.seen.get(key).copied(),
            PeerKey::Punch { .. } => None,
        }
    }

    /// Takes note of where a plain WireGuard peer is.
    pub(super) fn record_seen(&mut self, key: &PeerKey, at: SocketAddr, now: Instant) {
        if let PeerKey::Wireguard { key, .. } = key
            && self.seen.insert(key.clone(), at) != Some(at)
        {
            self.changed.seen = true;
            self.write_within(WRITE_DELAY, now);
        }
    }

    /// Nodes of the public DHT that have answered before.
    pub(super) fn nodes(&self) -> &[SocketAddrV4] {
        &self.nodes
    }

    /// Takes note of nodes that have answered; they save a little time at the next start, and are written with what else there is.
    pub(super) fn record_nodes(&mut self, nodes: Nodes, now: Instant) {
        self.nodes = nodes;
        self.changed.nodes = true;
        self.write_within(SENT_DELAY, now);
    }

    /// When [`History::take`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be written because it has changed.
    pub(super) fn take(&mut self) -> Changes {
        self.due = None;
        let Which {
            stamps,
            memory,
            seen,
            nodes,
        } = std::mem::take(&mut self.changed);
        Changes {
            stamps: stamps.then(|| self.stamps.clone()),
            memory: memory.then(|| self.memory.clone()),
            seen: seen.then(|| self.seen.clone()),
            nodes: nodes.then(|| self.nodes.clone()),
        }
    }

    /// What was taken could not be written.
    pub(super) fn put_back(&mut self, which: Which, now: Instant) {
        self.changed.stamps |= which.stamps;
        self.changed.memory |= which.memory;
        self.changed.seen |= which.seen;
        self.changed.nodes |= which.nodes;
        if self.changed != Which::default() {
            self.due.get_or_insert(now + WRITE_DELAY);
        }
    }
}

#[cfg(test)]
mod tests {
    use punch_signal_protocol::Identity;

    use super::*;

    fn empty() -> History {
        History {
            stamps: Stamps::new(),
            memory: Memory::new(),
            seen: Seen::new(),
            nodes: Nodes::new(),
            changed: Which::default(),
            due: None,
        }
    }

    #[test]
    fn offers_that_only_go_out_do_not_keep_the_disk_busy_and_what_was_seen_is_written_soon() {
        let start = Instant::now();
        let id = Identity::from_seed(&[1; 32]).id();
        let mut history = empty();
        history.record_stamps(id, (5, 0), start);
        assert_eq!(history.due(), Some(start + SENT_DELAY));
        for n in 1..20 {
            let now = start + n * Duration::from_secs(1);
            history.record_stamps(id, (5 + u64::from(n), 0), now);
        }
        assert_eq!(history.due(), Some(start + SENT_DELAY), "one write for all");
        let now = start + Duration::from_secs(20);
        history.record_stamps(id, (30, 7), now);
        assert_eq!(history.due(), Some(now + WRITE_DELAY));
        history.due = None;
        history.record_stamps(id, (30, 7), now);
        assert_eq!(history.due(), None, "nothing is new");
        assert_eq!(history.stamps(&id), (30, 7));
    }

    #[test]
    fn of_each_peer_the_latest_networks_are_remembered() {
        let now = Instant::now();
        let id = Identity::from_seed(&[1; 32]).id();
        let mut history = empty();
        for network in 0..10 {
            history.remember(id, network, StepKind::Checks, now);
        }
        history.remember(id, 5, StepKind::Meet, now + WRITE_DELAY / 2);

        let networks: Vec<_> = history
            .memory(&id)
            .iter()
            .map(|(network, _)| *network)
            .collect();
        assert_eq!(networks, [2, 3, 4, 6, 7, 8, 9, 5]);
        assert_eq!(history.memory(&id).last(), Some(&(5, StepKind::Meet)));
        assert_eq!(
            history.due(),
            Some(now + WRITE_DELAY),
            "the first change counts"
        );
    }

    #[test]
    fn only_what_has_changed_is_written_and_what_failed_is_written_again() {
        let now = Instant::now();
        let id = Identity::from_seed(&[1; 32]).id();
        let mut history = History {
            stamps: Stamps::new(),
            memory: Memory::new(),
            seen: Seen::new(),
            nodes: Nodes::new(),
            changed: Which::default(),
            due: None,
        };
        history.record_stamps(id, (1, 2), now);
        let stamps = Some(Stamps::from([(id, (1, 2))]));
        let changes = Changes {
            stamps,
            ..Changes::default()
        };
        assert_eq!(history.take(), changes, "no path has changed");
        assert_eq!(history.due(), None);
        history.record_stamps(id, (1, 2), now);
        assert_eq!(history.due(), None, "it is written already");

        history.remember(id, 7, StepKind::Checks, now);
        let changes = history.take();
        let memory = Which {
            memory: true,
            ..Which::default()
        };
        assert_eq!(Which::of(&changes), memory);
        history.put_back(memory, now);
        assert_eq!(history.due(), Some(now + WRITE_DELAY));
        assert_eq!(history.take(), changes);
        history.remember(id, 7, StepKind::Checks, now);
        assert_eq!(history.due(), None, "the same path again is nothing new");
    }
}
