//! What was relayed for one client, over all its connections.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since they were made.
#[derive(Debug, Default)]
pub struct Counts {
    from: AtomicU64,
    to: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    /// Bytes of relay frames that the client has sent and that were passed on.
    pub fn from(&self) -> u64 {
        self.from.load(Ordering::Relaxed)
    }

    /// Bytes of relay frames that the client was given.
    pub fn to(&self) -> u64 {
        self.to.load(Ordering::Relaxed)
    }

    /// Packets of the client that were not passed on: it sent more than it may, or to nobody.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn pass_from(&self, bytes: usize) {
        self.from.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn pass_to(&self, bytes: usize) {
        self.to.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, packets: u32) {
        self.refused
            .fetch_add(u64::from(packets), Ordering::Relaxed);
    }
}
