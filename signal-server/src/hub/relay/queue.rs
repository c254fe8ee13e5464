//! What waits for one client: fair between its links, whoever sends little goes first, and no queue stands (FQ-CoDel, RFC 8290, with
//! a link for a flow).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use punch_signal_protocol::{MAX_RELAY_FRAME, RelayLink};

use super::codel::Codel;
use super::{DropReason, FRAME_OVERHEAD, RelayCounters, RelayLimits};

/// What a link may send before the next has its turn, in bytes.
const QUANTUM: i64 = MAX_RELAY_FRAME as i64;
/// The part of the room left for all clients that one of them may have. So the more of them read nothing, the less each one holds, and
/// there is always some left for those who do read.
const SHARE: usize = 64;
/// Yet so much, or long frames would not pass at all.
const LEAST: usize = 2 * MAX_RELAY_FRAME;

#[derive(Debug)]
struct Waiting {
    frame: Vec<u8>,
    packets: u32,
    since: Instant,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.frame.len() + FRAME_OVERHEAD
    }
}

#[derive(Debug, Default)]
struct Flow {
    frames: VecDeque<Waiting>,
    bytes: usize,
    credit: i64,
    /// Whether it stands in one of the two lists.
    takes_turns: bool,
    codel: Codel,
}

impl Flow {
    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.frames.pop_front()?;
        self.bytes -= waiting.cost();
        Some(waiting)
    }
}

/// Relay frames for one client, bounded in bytes and in time.
#[derive(Debug)]
pub struct RelayQueue {
    limit: usize,
    limit_in_all: usize,
    counters: Arc<RelayCounters>,
    bytes: usize,
    flows: BTreeMap<RelayLink, Flow>,
    /// How many bytes wait of each link that has any: a client may have a thousand, and the one that has most is asked for with each
    /// frame that finds no room.
    sizes: BTreeSet<(usize, RelayLink)>,
    /// Links that had nothing until just now: before those that always have something.
    fresh: VecDeque<RelayLink>,
    old: VecDeque<RelayLink>,
}

impl RelayQueue {
    /// An empty queue; all queues of a server have the same counters.
    pub fn new(limits: &RelayLimits, counters: Arc<RelayCounters>) -> Self {
        Self {
            limit: limits.queue,
            limit_in_all: limits.queue_in_all,
            counters,
            bytes: 0,
            flows: BTreeMap::new(),
            sizes: BTreeSet::new(),
            fresh: VecDeque::new(),
            old: VecDeque::new(),
        }
    }

    /// From now on frames of this link of the client are taken.
    pub fn open(&mut self, link: RelayLink) {
        self.flows.entry(link).or_default();
    }

    /// The link has ended; what waits of it is dropped.
    pub fn close(&mut self, link: RelayLink) {
        let Some(flow) = self.flows.remove(&link) else {
            return;
        };
        self.resize(link, flow.bytes, 0);
        for waiting in flow.frames {
            self.counters
                .drop_packets(DropReason::UnknownLink, waiting.packets);
        }
        if flow.takes_turns {
            self.fresh.retain(|other| *other != link);
            self.old.retain(|other| *other != link);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes that wait, with what each frame counts beside its own.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a frame as it is to be sent, with so many packets. When too much waits, the oldest of the link that has the most goes.
    pub fn push(&mut self, link: RelayLink, frame: Vec<u8>, packets: u32, now: Instant) {
        let Some(flow) = self.flows.get_mut(&link) else {
            self.counters.drop_packets(DropReason::UnknownLink, packets);
            return;
        };
        let waiting = Waiting {
            frame,
            packets,
            since: now,
        };
        let before = flow.bytes;
        flow.bytes += waiting.cost();
        let after = flow.bytes;
        flow.frames.push_back(waiting);
        if !flow.takes_turns {
            flow.takes_turns = true;
            flow.credit = QUANTUM;
            self.fresh.push_back(link);
        }
        self.resize(link, before, after);
        let left = self.limit_in_all.saturating_sub(self.counters.waiting());
        let limit = self.limit.min(LEAST.max(left / SHARE));
        while self.bytes > limit {
            self.shorten();
        }
    }

    /// The next frame to send.
    pub fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let turns = if is_fresh { &self.fresh } else { &self.old };
            let link = *turns.front()?;
            let flow = self.flows.get_mut(&link)?;
            if flow.credit <= 0 {
                flow.credit += QUANTUM;
                self.end_turn(is_fresh);
                self.old.push_back(link);
                continue;
            }
            let before = flow.bytes;
            let taken = next(flow, now, &self.counters);
            let after = flow.bytes;
            if let Some(waiting) = &taken {
                flow.credit -= i64::try_from(waiting.cost()).unwrap_or(QUANTUM);
            } else if !is_fresh {
                // A fresh one waits for a round all the same, or it would always come first.
                flow.takes_turns = false;
                flow.frames = VecDeque::new();
            }
            self.resize(link, before, after);
            if let Some(Waiting { frame, packets, .. }) = taken {
                self.counters.pass(frame.len(), packets);
                return Some(frame);
            }
            self.end_turn(is_fresh);
            if is_fresh {
                self.old.push_back(link);
            }
        }
    }

    /// Of this link so many bytes wait now, after so many before.
    fn resize(&mut self, link: RelayLink, before: usize, after: usize) {
        self.sizes.remove(&(before, link));
        if after > 0 {
            self.sizes.insert((after, link));
        }
        self.bytes = self.bytes + after - before;
        if after > before {
            self.counters.queue(after - before);
        } else {
            self.counters.release(before - after);
        }
    }

    fn end_turn(&mut self, is_fresh: bool) {
        if is_fresh {
            self.fresh.pop_front();
        } else {
            self.old.pop_front();
        }
    }

    /// Drops the oldest frame of the link that has the most.
    fn shorten(&mut self) {
        let Some((before, link)) = self.sizes.last().copied() else {
            return;
        };
        let flow = self.flows.get_mut(&link);
        let (taken, after) = flow.map_or((None, 0), |flow| (flow.pop(), flow.bytes));
        self.resize(link, before, after);
        if let Some(waiting) = taken {
            self.counters
                .drop_packets(DropReason::Queue, waiting.packets);
        }
    }
}

impl Drop for RelayQueue {
    fn drop(&mut self) {
        self.counters.release(self.bytes);
    }
}

/// The flow's next frame that is not dropped for having waited too long.
fn next(flow: &mut Flow, now: Instant, counters: &RelayCounters) -> Option<Waiting> {
    while let Some(waiting) = flow.pop() {
        let wait = now.saturating_duration_since(waiting.since);
        if !flow.codel.drops(wait, flow.frames.is_empty(), now) {
            return Some(waiting);
        }
        counters.drop_packets(DropReason::Codel, waiting.packets);
    }
    None
}
