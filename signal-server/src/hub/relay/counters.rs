//! What the relay has passed on and what it has not, counted by all clients' tasks at once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Why packets were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// Their sender had sent as much as one client may.
    RateClient,
    /// Their sender's source had sent as much as one may.
    RateSource,
    /// The relay had passed on as much as it may.
    RateTotal,
    /// As much waited for the receiver as may.
    Queue,
    /// They waited for too long (RFC 8289).
    Codel,
    /// Their link had ended, or never was.
    UnknownLink,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RateClient,
        Self::RateSource,
        Self::RateTotal,
        Self::Queue,
        Self::Codel,
        Self::UnknownLink,
    ];

    /// The name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateClient => "rate_client",
            Self::RateSource => "rate_source",
            Self::RateTotal => "rate_total",
            Self::Queue => "queue",
            Self::Codel => "codel",
            Self::UnknownLink => "unknown_link",
        }
    }
}

/// Counts since the start, and what waits now.
#[derive(Debug, Default)]
pub struct RelayCounters {
    waiting: AtomicUsize,
    bytes: AtomicU64,
    packets: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl RelayCounters {
    /// Bytes that wait for all clients, with what each frame counts beside its own.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes of frames passed on.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Packets passed on.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Packets dropped.
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.dropped[why as usize].load(Ordering::Relaxed)
    }

    /// So many packets were dropped.
    pub fn drop_packets(&self, why: DropReason, count: u32) {
        self.dropped[why as usize].fetch_add(u64::from(count), Ordering::Relaxed);
    }

    /// So many bytes more wait.
    pub(super) fn queue(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes wait no longer.
    pub(super) fn release(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn pass(&self, bytes: usize, packets: u32) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.packets
            .fetch_add(u64::from(packets), Ordering::Relaxed);
    }
}
