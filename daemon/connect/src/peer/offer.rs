//! The offer to one peer that is out, and what servers say about the peer.

use std::collections::BTreeSet;
use std::time::Instant;

use punch_signal_protocol::seal::{Exchange, PendingOffer};
use punch_signal_protocol::{Description, OfferRefusal};

use super::description::SentDescription;
use super::retry::RETRY_MIN;
use crate::ServerId;

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

    /// Opens a refusal, which ends the offer.
    pub(super) fn open_refusal(&mut self, envelope: &[u8]) -> Option<OfferRefusal> {
        match self.pending.take()?.open_refusal(envelope) {
            Ok(refusal) => Some(refusal),
            Err((pending, _)) => {
                self.pending = pending.map(|pending| *pending);
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
