//! The host's packets on their way into the tunnels: fair between peers, fair between the conversations with a peer, who sends
//! little goes first, and no queue stands (FQ-CoDel, RFC 8290, in two layers).

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::codel::{Codel, TARGET};
use crate::segment::drop_first;
use crate::{Offload, Packet};

/// Queues for peers, and for the conversations with each. Two share one, and its turns, only where all that may be had are taken.
const PEERS: usize = 64;
const FLOWS: usize = 16;
/// How many queues are looked at to find one for a key.
const WAYS: usize = 8;
/// What one queue may send before the next has its turn, in bytes; who sends less each time goes before who sends more.
const QUANTUM: i64 = 16 * 1024;
/// Packets wait here up to so much memory and so many, and beyond that where they come from.
const MAX_MEMORY: usize = 6 * 1024 * 1024;
const MAX_PACKETS: usize = 512;
/// Memory of up to this size is kept for others of that size.
const SMALL: usize = 2048;
/// Longer packets stay in the memory that they were read into; for shorter ones it would be a waste.
const LARGE: usize = 16 * 1024;
/// How many pieces of that memory are kept for long; more go one by one.
const KEPT: usize = 32;

/// A packet as it was read, and what is to be done to it.
#[derive(Debug)]
pub struct Queued {
    memory: Vec<u8>,
    range: Range<usize>,
    /// What is still to be done to it.
    pub offload: Offload,
    at: Instant,
}

impl Queued {
    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }
}

/// Whose turn it is among queues (deficit round robin; RFC 8290 §4.2): those that have just got something before those that
/// always have something.
#[derive(Debug, Default)]
struct Rounds {
    fresh: VecDeque<usize>,
    old: VecDeque<usize>,
    /// What each queue may still send, while it takes part.
    credit: Vec<Option<i64>>,
    /// The key that the queue belongs to, while it takes part.
    keys: Vec<u64>,
}

impl Rounds {
    fn new(queues: usize) -> Self {
        Self {
            credit: vec![None; queues],
            keys: vec![0; queues],
            ..Self::default()
        }
    }

    /// The queue for what comes next under this key; it takes part from now on.
    fn join(&mut self, key: u64) -> usize {
        let queue = self.place(key);
        if self.credit[queue].is_none() {
            self.credit[queue] = Some(QUANTUM);
            self.keys[queue] = key;
            self.fresh.push_back(queue);
        }
        queue
    }

    /// The key's own queue, else a free one, else another key's.
    fn place(&self, key: u64) -> usize {
        let queues = self.credit.len();
        let first = usize::try_from(key % queues as u64).unwrap_or(0);
        let mut free = None;
        for queue in (0..WAYS).map(|step| (first + step) % queues) {
            match self.credit[queue] {
                Some(_) if self.keys[queue] == key => return queue,
                None if free.is_none() => free = Some(queue),
                _ => {}
            }
        }
        free.unwrap_or(first)
    }

    /// The queue whose turn it is.
    fn current(&mut self) -> Option<usize> {
        loop {
            let fresh = self.fresh.front().copied();
            let queue = fresh.or_else(|| self.old.front().copied())?;
            let credit = self.credit[queue].get_or_insert(QUANTUM);
            if *credit > 0 {
                return Some(queue);
            }
            *credit += QUANTUM;
            self.leave();
            self.old.push_back(queue);
        }
    }

    /// The current queue has sent so much.
    fn charge(&mut self, queue: usize, length: usize) {
        if let Some(credit) = &mut self.credit[queue] {
            *credit -= i64::try_from(length).unwrap_or(i64::MAX);
        }
    }

    /// The current queue has nothing. A fresh one waits for a round all the same, or it would always come first.
    fn retire(&mut self, queue: usize) {
        if self.leave() {
            self.old.push_back(queue);
        } else {
            self.credit[queue] = None;
        }
    }

    /// Takes the current queue out of its list; whether that was the list of fresh ones.
    fn leave(&mut self) -> bool {
        let fresh = self.fresh.pop_front().is_some();
        if !fresh {
            self.old.pop_front();
        }
        fresh
    }
}

#[derive(Debug, Default)]
struct Flow {
    items: VecDeque<Queued>,
    codel: Codel,
}

#[derive(Debug)]
struct Peer {
    rounds: Rounds,
    flows: Vec<Flow>,
}

/// Packets that wait, in fair queues.
#[derive(Debug)]
pub struct FairQueue {
    rounds: Rounds,
    peers: Vec<Peer>,
    /// How much memory the waiting packets take.
    held: usize,
    packets: usize,
    dropped: u64,
    seed: u64,
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl FairQueue {
    /// An empty queue. The `seed` shall be random: who knows it can choose with whom to share a queue.
    pub fn new(seed: u64) -> Self {
        let peer = || Peer {
            rounds: Rounds::new(FLOWS),
            flows: (0..FLOWS).map(|_| Flow::default()).collect(),
        };
        Self {
            rounds: Rounds::new(PEERS),
            peers: (0..PEERS).map(|_| peer()).collect(),
            held: 0,
            packets: 0,
            dropped: 0,
            seed,
            small: Vec::new(),
            large: Vec::new(),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Whether no more packets shall be added.
    pub fn is_full(&self) -> bool {
        self.held >= MAX_MEMORY || self.packets >= MAX_PACKETS
    }

    /// How many packets, or segments of one, were dropped so that the queue does not stand.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Memory of `size` bytes to read a packet into.
    pub fn memory(&mut self, size: usize) -> Vec<u8> {
        let memory = self.large.pop().filter(|memory| memory.len() >= size);
        memory.unwrap_or_else(|| vec![0; size])
    }

    /// Takes back memory that is not needed.
    pub fn give_back(&mut self, memory: Vec<u8>) {
        self.large.push(memory);
    }

    /// Adds the packet at `range` of `memory`.
    pub fn push(&mut self, memory: Vec<u8>, range: Range<usize>, offload: Offload, now: Instant) {
        let Some(bytes) = memory.get(range.clone()) else {
            return;
        };
        let (peer, flow) = self.keys(bytes);
        let (memory, range) = if bytes.len() < LARGE {
            let small = bytes.len() <= SMALL;
            let kept = if small { self.small.pop() } else { None };
            let mut own = kept.unwrap_or_default();
            own.clear();
            own.extend_from_slice(bytes);
            self.give_back(memory);
            let range = 0..own.len();
            (own, range)
        } else {
            (memory, range)
        };
        self.held += memory.len();
        let item = Queued {
            memory,
            range,
            offload,
            at: now,
        };
        self.packets += 1;
        let peer = &mut self.peers[self.rounds.join(peer)];
        let flow = peer.rounds.join(flow);
        peer.flows[flow].items.push_back(item);
    }

    /// The next packet; give it back with [`Self::recycle`].
    pub fn pop(&mut self, now: Instant) -> Option<Queued> {
        // What waits behind a full queue is not seen; it waits no less.
        let least = if self.is_full() {
            TARGET
        } else {
            Duration::ZERO
        };
        loop {
            let peer = self.rounds.current()?;
            let Some(flow) = self.peers[peer].rounds.current() else {
                self.rounds.retire(peer);
                continue;
            };
            let Peer { rounds, flows } = &mut self.peers[peer];
            let Flow { items, codel } = &mut flows[flow];
            let Some(mut item) = items.pop_front() else {
                rounds.retire(flow);
                continue;
            };
            let length = item.range.len();
            rounds.charge(flow, length);
            self.rounds.charge(peer, length);
            self.held -= item.memory.len();
            self.packets -= 1;
            let wait = now.saturating_duration_since(item.at).max(least);
            if codel.drops(wait, items.is_empty(), now) {
                self.dropped += 1;
                let range = item.range.clone();
                match drop_first(&mut item.memory[range], item.offload) {
                    Some(dropped) => item.range.start += dropped,
                    None => {
                        self.recycle(item);
                        continue;
                    }
                }
            }
            return Some(item);
        }
    }

    /// Takes back a packet for its memory.
    pub fn recycle(&mut self, packet: Queued) {
        match packet.memory.len() {
            // What a load has made more of goes with it.
            LARGE.. if self.large.len() >= KEPT && self.is_empty() => self.large.truncate(KEPT),
            LARGE.. => self.large.push(packet.memory),
            0..=SMALL if self.small.len() < MAX_PACKETS => self.small.push(packet.memory),
            _ => {}
        }
    }

    /// What tells peers from each other, and conversations.
    fn keys(&self, bytes: &[u8]) -> (u64, u64) {
        let Ok(packet) = Packet::parse(bytes) else {
            return (0, 0);
        };
        (self.key(packet.destination()), self.key(packet.flow()))
    }

    fn key(&self, of: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, of).hash(&mut hasher);
        hasher.finish()
    }
}
