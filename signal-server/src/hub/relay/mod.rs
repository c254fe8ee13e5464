//! The relay: sealed packets from one client to another, for those that have no direct path.
//!
//! The hub knows which links there are ([`Links`]), and nothing else of them. The packets never come near it: each client's task has a
//! table of its own, and hands a frame straight to the [`RelayQueue`] of the client at the other end.

mod codel;
mod counters;
mod links;
mod queue;
mod rate;

use std::time::Duration;

use punch_signal_protocol::RelayLink;

pub use counters::{DropReason, RelayCounters};
pub(super) use links::{Joined, Joiner, Links};
pub use queue::RelayQueue;
pub use rate::ByteRate;

use super::ConnectionId;

/// What a frame counts beside its own bytes, in queues and rates: many small ones cost more than few large ones.
pub const FRAME_OVERHEAD: usize = 64;

/// What bounds the relay.
#[derive(Debug, Clone)]
pub struct RelayLimits {
    /// How long a join waits for the other end's.
    pub wait: Duration,
    /// Joins of one client that wait at once; one more takes the place of the oldest.
    pub joins: usize,
    /// Joins of all clients of one source that wait.
    pub joins_per_address: usize,
    /// Joins of all clients that wait.
    pub joins_in_all: usize,
    /// Links of one client.
    pub links: usize,
    /// Ends of links of all clients of one source.
    pub links_per_address: usize,
    /// Links of all clients.
    pub links_in_all: usize,
    /// Bytes that wait for one client.
    pub queue: usize,
    /// Bytes that wait for all clients, but for two of the longest frames of each.
    pub queue_in_all: usize,
    /// What one client may send, in Mbit/s.
    pub rate: u32,
    /// What all clients of one source may send, in Mbit/s.
    pub source_rate: u32,
    /// What all clients may send, in Mbit/s.
    pub total_rate: u32,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self::with_rates(100, 1000)
    }
}

impl RelayLimits {
    /// A source may send as much as so many of its clients.
    const SHARE: u32 = 4;

    /// The usual bounds, and these rates of one client and of all, in Mbit/s; no client may send more than all.
    pub fn with_rates(rate: u32, total: u32) -> Self {
        let rate = rate.min(total);
        Self {
            wait: Duration::from_secs(30),
            joins: 64,
            joins_per_address: 4096,
            joins_in_all: 65_536,
            links: 1024,
            links_per_address: 16_384,
            links_in_all: 100_000,
            queue: 256 * 1024,
            queue_in_all: 256 * 1024 * 1024,
            rate,
            source_rate: rate.saturating_mul(Self::SHARE).min(total),
            total_rate: total,
        }
    }
}

/// One end of a link, as the other end must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkEnd {
    /// The client at this end.
    pub connection: ConnectionId,
    /// The number that it has for the link.
    pub link: RelayLink,
}
