//! Queries that wait for an answer, which counts only from where the query went and with its number.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use crate::id::NodeId;

/// After this a node counts as slow, and others are asked meanwhile.
const SLOW: Duration = Duration::from_millis(500);
/// After this it counts as silent.
const SILENT: Duration = Duration::from_secs(1);
/// Queries that wait; there are fewer, by far, as each operation has three.
const MAX_WAITING: usize = 512;

/// What a query was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Look,
    Store,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) to: SocketAddrV4,
    /// The operation that it belongs to.
    pub(crate) place: NodeId,
    pub(crate) purpose: Purpose,
    sent: Instant,
    slow: bool,
}

/// What has become of a query without an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Late {
    Slow(Waiting),
    Silent(Waiting),
}

#[derive(Debug, Default)]
pub(crate) struct Queries {
    waiting: BTreeMap<[u8; 4], Waiting>,
}

impl Queries {
    /// A query goes out: its number, which nobody can guess. `None` when too many wait.
    pub(crate) fn begin(
        &mut self,
        to: SocketAddrV4,
        (place, purpose): (NodeId, Purpose),
        rng: &mut impl RngCore,
        now: Instant,
    ) -> Option<[u8; 4]> {
        let number = rng.next_u32().to_be_bytes();
        if self.waiting.len() >= MAX_WAITING || self.waiting.contains_key(&number) {
            return None;
        }
        let waiting = Waiting {
            to,
            place,
            purpose,
            sent: now,
            slow: false,
        };
        self.waiting.insert(number, waiting);
        Some(number)
    }

    /// An answer has come; the query that it answers, if it does.
    pub(crate) fn end(&mut self, number: &[u8], from: SocketAddrV4) -> Option<Waiting> {
        let number: [u8; 4] = number.try_into().ok()?;
        let waiting = self.waiting.get(&number)?;
        (waiting.to == from).then(|| self.waiting.remove(&number))?
    }

    /// The queries that have become late.
    pub(crate) fn late(&mut self, now: Instant) -> Vec<Late> {
        let mut late = Vec::new();
        self.waiting.retain(|_, waiting| {
            let age = now.duration_since(waiting.sent);
            if age >= SILENT {
                late.push(Late::Silent(*waiting));
                return false;
            }
            if age >= SLOW && !waiting.slow {
                waiting.slow = true;
                late.push(Late::Slow(*waiting));
            }
            true
        });
        late
    }

    /// When [`Self::late`] has something to tell.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.waiting.values().map(|waiting| match waiting.slow {
            true => waiting.sent + SILENT,
            false => waiting.sent + SLOW,
        });
        due.min()
    }
}
