//! Relayed packets on their way from one client's task to another's, past the hub and its lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_signal_protocol::{DecodeError, RelayFrame, turn_relay_frame};

use super::post::Post;
use crate::hub::relay::{ByteRate, DropReason, RelayCounters, RelayLimits, RelayQueue};

/// A client's frames are read at so many times the rate at which they are passed on: more of them only cost time.
const EXCESS: u32 = 2;
/// A client is heard again after this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

struct Shared {
    total: ByteRate,
    counters: Arc<RelayCounters>,
}

/// What all clients that relay share.
pub(crate) struct Relay {
    limits: RelayLimits,
    shared: Arc<Shared>,
}

impl Relay {
    pub(crate) fn new(limits: RelayLimits, now: Instant) -> Self {
        let shared = Arc::new(Shared {
            total: ByteRate::new(limits.total_rate, now),
            counters: Arc::default(),
        });
        Self { limits, shared }
    }

    /// A queue for one more client.
    pub(crate) fn queue(&self) -> RelayQueue {
        RelayQueue::new(&self.limits, self.shared.counters.clone())
    }

    /// What was counted.
    #[cfg(feature = "net")]
    pub(crate) fn counters(&self) -> &RelayCounters {
        &self.shared.counters
    }
}

/// What one client sends its packets by.
pub(crate) struct Sender {
    shared: Arc<Shared>,
    own: ByteRate,
    /// What is read of the client, be it passed on or dropped.
    offered: ByteRate,
    source: Arc<ByteRate>,
    post: Arc<Post>,
}

impl Sender {
    /// Made when a client logs in; `source` is what it shares with the others of its address.
    pub(crate) fn new(relay: &Relay, source: Arc<ByteRate>, post: Arc<Post>, now: Instant) -> Self {
        Self {
            shared: relay.shared.clone(),
            own: ByteRate::new(relay.limits.rate, now),
            offered: ByteRate::new(relay.limits.rate.saturating_mul(EXCESS), now),
            source,
            post,
        }
    }

    /// How long nothing more is to be read of this client, after a frame of this length.
    pub(crate) fn pause(&self, length: usize, now: Instant) -> Duration {
        self.offered.charge(length, now).min(LONGEST_PAUSE)
    }

    /// Passes a frame on, or drops it if that would be more than may be sent.
    ///
    /// # Errors
    /// When it is no relay frame to the server.
    pub(crate) fn pass(&self, message: &[u8], now: Instant) -> Result<(), DecodeError> {
        let frame = RelayFrame::read_at_server(message)?;
        let counters = &self.shared.counters;
        let packets = frame.packet_count();
        let own = &self.post.counts;
        if !self.own.take(message.len(), now) {
            own.refuse(packets);
            counters.drop_packets(DropReason::RateClient, packets);
            return Ok(());
        }
        // What leads nowhere takes nothing from others.
        let Some((to, link)) = self.post.route(frame.link).filter(|_| packets > 0) else {
            own.refuse(packets);
            counters.drop_packets(DropReason::UnknownLink, packets);
            return Ok(());
        };
        if let Some(why) = self.excess(message.len(), now) {
            own.refuse(packets);
            counters.drop_packets(why, packets);
            return Ok(());
        }
        own.pass_from(message.len());
        // In memory of its own, because what it came in is the client's whole read buffer.
        let mut turned = message.to_vec();
        turn_relay_frame(&mut turned, link);
        to.relay(link, turned, packets, now);
        Ok(())
    }

    /// Whether it is more than this source, or all, may send. Of what is left there, whoever uses most of its own leaves half to those
    /// who do not: else many short frames take all room as it comes, and a long one never finds enough.
    fn excess(&self, length: usize, now: Instant) -> Option<DropReason> {
        let is_busy = self.own.is_busy(now);
        if !self.source.take_of(length, is_busy, now) {
            return Some(DropReason::RateSource);
        }
        let is_busy = is_busy || self.source.is_busy(now);
        let taken = self.shared.total.take_of(length, is_busy, now);
        (!taken).then_some(DropReason::RateTotal)
    }
}
