//! The offer to one peer that is out, and how many of the peer's envelopes are opened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use punch_signal_protocol::Description;
use punch_signal_protocol::seal::{Exchange, PendingOffer};

use super::description::SentDescription;
use super::retry::RETRY_MIN;
use crate::ServerId;

/// Offers and answers of one peer that are opened, by the server that brings them: each costs half a millisecond.
const ENVELOPE_INTERVAL: Duration = Duration::from_millis(100);
const ENVELOPE_BURST: u32 = 10;

/// An offer that is out and was not answered.
pub(super) struct OutstandingOffer {
    /// `None` after an answer that was authentic and useless: the next retry makes a new offer.
    pending: Option<PendingOffer>,
    sent: SentDescription,
    sent_at: Instant,
}

impl OutstandingOffer {
    pub(super) fn new(pending: PendingOffer, sent: SentDescription, now: Instant) -> Self {
        Self {
            pending: Some(pending),
            sent,
            sent_at: now,
        }
    }

    pub(super) fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// Whether the offer went out so lately that its answer may still come.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.sent_at) < RETRY_MIN
    }

    /// Whether an answer could still be opened.
    pub(super) fn awaits_answer(&self) -> bool {
        self.pending.is_some()
    }

    /// Opens an answer: the exchange, the peer's description, and what the offer has told the peer.
    pub(super) fn open(
        &mut self,
        envelope: &[u8],
        now: Instant,
    ) -> Option<(Exchange, Description, SentDescription)> {
        match self.pending.take()?.open_answer(envelope) {
            Ok((exchange, theirs)) => Some((exchange, theirs, self.sent.clone())),
            Err((Some(pending), _)) => {
                self.pending = Some(*pending);
                None
            }
            Err((None, _)) => {
                self.sent_at = now;
                None
            }
        }
    }
}

/// What servers say about the peer.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// No server knows the peer.
    pub(super) is_offline: bool,
    /// Servers have been asked to tell when the peer logs in.
    pub(super) is_watched: bool,
    /// Servers that did not deliver the newest offer.
    undelivered: BTreeSet<ServerId>,
}

impl Presence {
    /// An offer goes out over all servers.
    pub(super) fn handle_offered(&mut self) {
        self.undelivered.clear();
    }

    /// The newest offer may not have come through this server.
    pub(super) fn handle_server_lost(&mut self, server: ServerId) {
        self.undelivered.insert(server);
    }

    /// A server could not deliver an envelope, because the peer is `offline` or for another reason.
    pub(super) fn handle_unreachable(
        &mut self,
        server: ServerId,
        offline: bool,
        online: &BTreeSet<ServerId>,
    ) {
        if offline {
            self.undelivered.insert(server);
        }
        self.is_offline = online.is_subset(&self.undelivered);
    }

    /// Whether the newest offer may have come through every server.
    pub(super) fn is_delivered(&self) -> bool {
        self.undelivered.is_empty()
    }
}

/// Limits how many envelopes of one peer are opened. Each server has its own: one that makes envelopes up bars those of no other.
#[derive(Debug, Default)]
pub(super) struct EnvelopeLimits(BTreeMap<ServerId, TokenBucket>);

impl EnvelopeLimits {
    /// Whether one more envelope that came over `server` may be opened now.
    pub(super) fn admit(&mut self, server: ServerId, now: Instant) -> bool {
        self.0.entry(server).or_default().take(now)
    }
}

#[derive(Debug)]
struct TokenBucket {
    tokens: u32,
    since: Option<Instant>,
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self {
            tokens: ENVELOPE_BURST,
            since: None,
        }
    }
}

impl TokenBucket {
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since).as_millis();
        let gained = elapsed / ENVELOPE_INTERVAL.as_millis();
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(ENVELOPE_BURST);
            self.tokens = ENVELOPE_BURST.min(self.tokens.saturating_add(gained));
            self.since = Some(now);
        }
        let admitted = self.tokens > 0;
        self.tokens -= u32::from(admitted);
        admitted
    }
}
