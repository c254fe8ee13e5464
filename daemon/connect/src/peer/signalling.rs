//! What a connection makes of its offers, and of what servers and the peer say to them.

use std::collections::BTreeSet;
use std::time::Instant;

use punch_signal_protocol::Description;
use punch_signal_protocol::seal::Exchange;
use rand_core::RngCore;

use super::offer::OutstandingOffer;
use super::retry::RETRY_MIN;
use super::{DescriptionParts, PeerConnection, SentDescription};
use crate::offers::Cause;
use crate::{PeerRefusal, ServerId};

/// What is to be done when a peer has logged in at a server.
pub(crate) enum Appeared {
    /// Nothing but what the connection does by itself.
    Nothing,
    /// The offer goes to that server once more, and if nothing comes of it, a fresh one to all.
    Repeat {
        /// The offer as it was.
        envelope: Vec<u8>,
        /// When the fresh one is due.
        next: Instant,
    },
    /// A fresh offer goes out when it is the peer's turn.
    Offer,
}

impl PeerConnection {
    /// Describes this machine with a stamp that is larger than any before.
    pub(crate) fn describe(
        &mut self,
        parts: DescriptionParts,
        rng: &mut impl RngCore,
    ) -> Description {
        let stamp = self.stamps.next(parts.wall_ms);
        parts.describe(stamp, rng)
    }

    /// When an offer may go out that is wanted now.
    pub(crate) fn next_offer(&self, cause: Cause, now: Instant) -> Instant {
        let at = self.offered.ready_at(0).map_or(now, |at| at.max(now));
        let Cause::Server(_) = cause else { return at };
        // An attempt that is younger by then began after the peer had logged in.
        let young = self.attempts.are_younger_than(RETRY_MIN, now);
        let attempt = young.then(|| now + RETRY_MIN);
        let last = self.last_offer.map(|last| last + RETRY_MIN);
        [Some(at), attempt, last]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(at)
    }

    /// Whether an offer whose turn has come is still to go out.
    pub(crate) fn needs_offer(&self, cause: Cause, now: Instant) -> bool {
        match cause {
            Cause::User | Cause::Own => self.is_wanted(),
            Cause::Server(_) => {
                self.is_wanted()
                    && self.path().is_none()
                    && !self.offer_is_fresh(now)
                    && !self.attempts.are_younger_than(RETRY_MIN, now)
            }
        }
    }

    /// An offer has gone out over all servers.
    pub(crate) fn handle_offered(
        &mut self,
        offer: OutstandingOffer,
        rng: &mut impl RngCore,
        now: Instant,
    ) {
        self.offer = Some(offer);
        self.offered.take(now);
        self.last_offer = Some(now);
        self.presence.handle_offered();
        self.retry.handle_offered(rng, now);
    }

    /// No server is reached; the next one that is brings the watch, and the watch the offer.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.presence.is_offline = true;
        self.retry.postpone(now);
    }

    /// Whether an offer went out so lately that its answer may still come.
    pub(crate) fn offer_is_fresh(&self, now: Instant) -> bool {
        let fresh = self.offer.as_ref().is_some_and(|offer| offer.is_fresh(now));
        fresh && self.presence.is_delivered()
    }

    /// The next offer goes out as soon as the one that is out can be called lost.
    pub(crate) fn hurry(&mut self) {
        if let Some(offer) = &self.offer {
            self.retry.hurry(offer.sent_at());
        }
    }

    /// The user wants an offer now: returns whether it is to go out, and hurries the next one if not.
    pub(crate) fn handle_retry(&mut self, now: Instant) -> bool {
        let idle = self.path().is_none() && !self.attempts.has_search();
        let due = self.is_wanted() && idle && !self.offer_is_fresh(now);
        if !due {
            self.hurry();
        }
        due
    }

    /// A server says that the peer has logged in.
    pub(crate) fn handle_appeared(&mut self, server: ServerId, now: Instant) -> Appeared {
        let is_timely = self.presence.handle_appeared(server, now);
        if is_timely {
            self.handle_found();
        }
        if !self.is_wanted() {
            return Appeared::Nothing;
        }
        if self.path().is_some() {
            // It may have restarted and know nothing of the path.
            if is_timely {
                self.verify_path(now);
            }
            return Appeared::Nothing;
        }
        let offer = self.offer.as_ref();
        if let Some(envelope) = offer.and_then(|offer| offer.to_repeat(now))
            && self.presence.repeat(server, now)
        {
            let next = now + 2 * RETRY_MIN;
            return Appeared::Repeat { envelope, next };
        }
        // A search takes longer than a retry, and a new offer would cut it short.
        let young = self.attempts.are_younger_than(RETRY_MIN, now);
        if young && self.attempts.has_search() {
            return Appeared::Nothing;
        }
        // It may have restarted since, and know nothing of the offer or of the attempt.
        Appeared::Offer
    }

    /// A server could not deliver an envelope, because the peer is `offline` or for another reason.
    pub(crate) fn handle_unreachable(
        &mut self,
        server: ServerId,
        offline: bool,
        online: &BTreeSet<ServerId>,
    ) {
        self.presence.handle_unreachable(server, offline, online);
    }

    /// The connection to a server is lost: an offer that went out over it may be, too. `online` are those that are left.
    pub(crate) fn handle_server_down(&mut self, server: ServerId, online: &BTreeSet<ServerId>) {
        if self.offer.is_some() {
            self.presence.handle_undelivered(server, online);
        }
    }

    /// Whether one more envelope of this peer that came over `server` may be opened now.
    pub(crate) fn admits_envelope(&mut self, server: ServerId, now: Instant) -> bool {
        self.opened.take(server, now)
    }

    /// Whether one more offer of the peer may be answered now.
    pub(crate) fn admits_exchange(&mut self, now: Instant) -> bool {
        self.exchanges.take(now)
    }

    /// Whether an offer is out whose answer has not come.
    pub(crate) fn awaits_answer(&self) -> bool {
        let offer = self.offer.as_ref();
        offer.is_some_and(OutstandingOffer::awaits_answer)
    }

    /// Whether the peer is wanted and has not answered, or has refused because of the clocks.
    pub(crate) fn may_want_another_clock(&self) -> bool {
        self.is_wanted()
            && self.path().is_none()
            && (self.awaits_answer() || self.refusals.is_about_clocks())
    }

    /// Opens an answer to the offer that is out: the exchange, the peer's description, and what the offer has told.
    pub(crate) fn open_answer(
        &mut self,
        envelope: &[u8],
        now: Instant,
    ) -> Option<(Exchange, Description, SentDescription)> {
        self.offer.as_mut()?.open(envelope, now)
    }

    /// Opens a refusal of the offer that is out; `wall_ms` is this machine's clock. Returns what the peer says, and whether that
    /// is another thing than before.
    pub(crate) fn open_refusal(
        &mut self,
        envelope: &[u8],
        wall_ms: u64,
        now: Instant,
    ) -> Option<(PeerRefusal, bool)> {
        let refused = self.offer.as_mut()?.open_refusal(envelope)?;
        let refusal = PeerRefusal::read(&refused, wall_ms);
        if let PeerRefusal::Clock { .. } = refusal {
            self.stamps.handle_refused(refused.seen);
        }
        self.presence.is_offline = false;
        self.presence.said_goodbye = false;
        self.retry.handle_refused(refusal.pause(), now);
        Some((refusal, self.refusals.handle(refusal, now)))
    }

    pub(super) fn handle_found(&mut self) {
        self.presence.is_offline = false;
        self.presence.said_goodbye = false;
        self.retry.handle_found();
    }
}
