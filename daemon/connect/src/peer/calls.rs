//! Calling one peer: the offers that go out, what servers and the peer say to them, and when the next one is due.
//!
//! Whether anybody wants the peer, and which paths there are to it, is not known here: the connection says so where it matters.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use punch_packet::{Rate, TokenBucket};
use punch_signal_protocol::seal::Exchange;
use punch_signal_protocol::{Candidate, Description};
use rand_core::RngCore;

use super::description::{DescriptionParts, SentDescription};
use super::offer::{OutstandingOffer, Presence};
use super::refusals::Refusals;
use super::retry::{RETRY_MIN, Retry};
use super::slow::SlowOffers;
use super::stamps::Stamps;
use crate::copies::Copies;
use crate::medium::Channel;
use crate::offers::Cause;
use crate::pace::Buckets;
use crate::{Contact, PeerRefusal, ServerId};

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
    /// A fresh offer goes out then, since the one before is lost, unless the peer has called by then.
    Recall(Instant),
}

/// Offers, answers and refusals of one peer that are opened, of each server: each costs half a millisecond.
const ENVELOPES: Rate = Rate {
    burst: 10,
    interval: Duration::from_millis(100),
};
/// Offers to one peer.
const OFFERS: Rate = Rate {
    burst: 4,
    interval: RETRY_MIN,
};
/// Offers of one peer that are answered.
const EXCHANGES: Rate = Rate {
    burst: 8,
    interval: Duration::from_secs(1),
};
/// Offers that go out soon after others, because a server says that the peer has logged in anew.
const RECALLS: Rate = Rate {
    burst: 1,
    interval: Duration::from_secs(30),
};
/// A machine that has logged in anew makes an offer of its own within this time, if it wants to reach the peer.
const RECALL_AFTER: Duration = Duration::from_millis(250);
/// An offer that a server takes is answered within two round trips; a peer whose answer takes longer is silent.
const ANSWER_EXPECTED: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Calls {
    presence: Presence,
    pub(crate) stamps: Stamps,
    /// The offer that is out.
    offer: Option<OutstandingOffer>,
    /// One that counted as lost when an offer of the peer's was answered. If it was not, the peer has dropped its own for it.
    late: Option<OutstandingOffer>,
    /// Those over slow channels.
    pub(crate) slow: SlowOffers,
    pub(super) retry: Retry,
    pub(crate) refusals: Refusals,
    pub(crate) copies: Copies,
    /// The peer's envelopes that are opened, by the server that brings them.
    opened: Buckets<ServerId>,
    /// Offers to the peer, whatever for, and exchanges that begin with offers of the peer.
    offered: TokenBucket,
    exchanges: TokenBucket,
    recalls: TokenBucket,
    last_offer: Option<Instant>,
    /// When an offer to the peer was last put in the queue.
    queued_at: Option<Instant>,
}

impl Calls {
    /// A peer that was not called yet.
    pub(super) fn new(stamps: Stamps) -> Self {
        Self {
            presence: Presence::default(),
            stamps,
            offer: None,
            late: None,
            slow: SlowOffers::default(),
            retry: Retry::default(),
            refusals: Refusals::default(),
            copies: Copies::default(),
            opened: Buckets::new(ENVELOPES),
            offered: TokenBucket::new(OFFERS),
            exchanges: TokenBucket::new(EXCHANGES),
            recalls: TokenBucket::new(RECALLS),
            last_offer: None,
            queued_at: None,
        }
    }

    // --- what goes out ---

    /// Describes this machine with a stamp that is larger than any before.
    pub(crate) fn describe(
        &mut self,
        parts: DescriptionParts,
        rng: &mut impl RngCore,
    ) -> Description {
        let stamp = self.stamps.next(parts.wall_ms);
        parts.describe(stamp, rng)
    }

    /// When an offer may go out that is wanted now; `young` says whether an attempt began less than [`RETRY_MIN`] ago.
    pub(super) fn next_offer(&self, cause: Cause, young: bool, now: Instant) -> Instant {
        let at = self.offered.ready_at(0).map_or(now, |at| at.max(now));
        let Cause::Server(_) = cause else { return at };
        // An attempt that is younger by then began after the peer had logged in.
        let attempt = young.then(|| now + RETRY_MIN);
        let last = self.last_offer.map(|last| last + RETRY_MIN);
        [Some(at), attempt, last]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(at)
    }

    /// An offer to the peer waits for its turn.
    pub(crate) fn handle_queued(&mut self, now: Instant) {
        self.queued_at = Some(now);
    }

    /// When an offer to the peer was last put in the queue.
    pub(super) fn queued_at(&self) -> Option<Instant> {
        self.queued_at
    }

    /// An offer has gone out over all servers.
    pub(crate) fn handle_offered(
        &mut self,
        offer: OutstandingOffer,
        rng: &mut impl RngCore,
        now: Instant,
    ) {
        self.offer = Some(offer);
        self.late = None;
        self.offered.take(now);
        self.last_offer = Some(now);
        self.presence.handle_offered();
        self.retry.handle_offered(rng, now);
    }

    /// No server is reached; the next one that is brings the watch, and the watch the offer.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.presence.is_offline = true;
        self.presence.is_postponed = true;
        self.retry.postpone(now);
    }

    /// The next offer goes out as soon as the one that is out can be called lost.
    pub(crate) fn hurry(&mut self) {
        if let Some(offer) = &self.offer {
            self.retry.hurry(offer.sent_at());
        }
    }

    /// This machine has logged in at a server: the offer that is out, if it went to a connection before that.
    pub(crate) fn resend(&mut self, server: ServerId, now: Instant) -> Option<Vec<u8>> {
        let offer = self.offer.as_mut()?;
        let envelope = offer.to_repeat(now)?;
        if !self.presence.redeliver(server) {
            return None;
        }
        offer.handle_repeated(now);
        Some(envelope)
    }

    /// Whether an offer was wanted while no server was reached; asked once.
    pub(crate) fn take_postponed(&mut self) -> bool {
        std::mem::take(&mut self.presence.is_postponed)
    }

    /// When the offer that a login of the peer's has made useless is followed by another one, if it is.
    pub(super) fn recall(&mut self, now: Instant) -> Option<Instant> {
        let lost = self.offer.is_some() && self.presence.is_renewed();
        let due = lost && self.recalls.take(now);
        due.then(|| {
            self.offered
                .ready_at(0)
                .unwrap_or(now)
                .max(now + RECALL_AFTER)
        })
    }

    /// The offer that is out, if `server` is to get it once more.
    pub(super) fn repeat(&mut self, server: ServerId, now: Instant) -> Option<Vec<u8>> {
        let offer = self.offer.as_mut()?;
        let envelope = offer.to_repeat(now)?;
        if !self.presence.repeat(server, now) {
            return None;
        }
        offer.handle_repeated(now);
        Some(envelope)
    }

    // --- what is known ---

    /// Whether an offer is out, be it of any use or not.
    pub(super) fn has_offer(&self) -> bool {
        self.offer.is_some()
    }

    /// Whether an offer is out to a peer that a server knows, or over a slow channel.
    pub(super) fn is_calling(&self) -> bool {
        self.has_offer() && !self.presence.is_offline || self.slow.is_calling()
    }

    /// Whether an offer went out so lately that its answer may still come.
    pub(crate) fn offer_is_fresh(&self, now: Instant) -> bool {
        let fresh = self.offer.as_ref().is_some_and(|offer| offer.is_fresh(now));
        fresh && self.presence.is_delivered()
    }

    /// Whether an offer of the peer's that comes now may have crossed one that it has got.
    pub(crate) fn may_cross(&self, now: Instant) -> bool {
        let offer = self.offer.as_ref();
        offer.is_some_and(|offer| offer.may_cross(now)) && self.presence.is_delivered()
    }

    /// Whether an answer could be opened, be it a late one.
    pub(crate) fn takes_answers(&self) -> bool {
        self.awaits_answer() || self.late.is_some()
    }

    /// Whether an offer is out whose answer has not come.
    pub(crate) fn awaits_answer(&self) -> bool {
        let offer = self.offer.as_ref();
        offer.is_some_and(OutstandingOffer::awaits_answer)
    }

    /// Whether the peer has not answered, or has refused because of the clocks.
    pub(super) fn may_want_another_clock(&self) -> bool {
        self.awaits_answer() || self.refusals.is_about_clocks()
    }

    /// How far calling a peer has come that is wanted and has no attempt; `has_met` says whether it has ever called or answered.
    pub(super) fn contact(&self, has_met: bool, now: Instant) -> Contact {
        if self.presence.said_goodbye {
            return Contact::Goodbye;
        }
        match &self.offer {
            Some(offer) if !self.presence.is_offline => {
                let waited = now.saturating_duration_since(offer.sent_at());
                let silent = waited >= ANSWER_EXPECTED || self.retry.unanswered() > 1;
                if silent && offer.awaits_answer() {
                    let has_met = has_met || self.stamps.seen > 0;
                    Contact::Silent { has_met }
                } else {
                    Contact::Called
                }
            }
            _ => match self.slow.called(now) {
                Some(silence) if SlowOffers::is_silent(silence) => {
                    let has_met = has_met || self.stamps.seen > 0;
                    Contact::Silent { has_met }
                }
                Some(_) => Contact::Called,
                None => Contact::Offline,
            },
        }
    }

    // --- what servers say ---

    /// Whether servers have been asked to tell when the peer logs in.
    pub(crate) fn is_watched(&self) -> bool {
        self.presence.is_watched
    }

    /// Takes note of what servers are asked; returns whether that is another thing than before.
    pub(crate) fn set_watched(&mut self, watched: bool) -> bool {
        if !watched {
            self.presence.handle_unwatched();
        }
        std::mem::replace(&mut self.presence.is_watched, watched) != watched
    }

    /// A server says that the peer has logged in; returns whether that may be acted on at once.
    pub(super) fn handle_appeared(&mut self, server: ServerId, now: Instant) -> bool {
        let is_timely = self.presence.handle_appeared(server, now);
        if is_timely {
            self.presence.handle_heard();
            self.retry.handle_found();
        }
        is_timely
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
        self.presence.handle_server_down(server);
        if self.offer.is_some() {
            self.presence.handle_undelivered(server, online);
        }
    }

    // --- what the peer says ---

    /// Whether one more envelope of this peer that came over `server` may be opened now.
    pub(crate) fn admits_envelope(&mut self, server: ServerId, now: Instant) -> bool {
        self.opened.take(server, now)
    }

    /// Whether one more offer of the peer may be answered now.
    pub(crate) fn admits_exchange(&mut self, now: Instant) -> bool {
        self.exchanges.take(now)
    }

    /// Opens an answer to an offer that is out, over this slow channel or over quick ones: the exchange, the peer's description, and what
    /// the offer has told.
    pub(crate) fn open_answer(
        &mut self,
        channel: Option<Channel>,
        envelope: &[u8],
        now: Instant,
    ) -> Option<(Exchange, Description, SentDescription)> {
        if let Some(channel) = channel {
            return self.slow.open_answer(channel, envelope, now);
        }
        let answered = self.offer.as_mut().and_then(|it| it.open(envelope, now));
        answered.or_else(|| {
            let late = self.late.as_mut().filter(|it| it.to_repeat(now).is_some());
            late?.open(envelope, now)
        })
    }

    /// Takes out the offer that is out and unanswered, while one of the peer's is answered.
    pub(crate) fn take_offer(&mut self) -> Option<OutstandingOffer> {
        self.offer.take_if(|offer| offer.awaits_answer())
    }

    /// An answer to this offer would still be taken, in the place of the exchange that has just begun.
    pub(crate) fn keep_late(&mut self, offer: Option<OutstandingOffer>) {
        self.late = offer;
    }

    /// Whether an answer over this slow channel, or over quick ones, could be opened.
    pub(crate) fn awaits_answer_over(&self, channel: Option<Channel>) -> bool {
        match channel {
            Some(channel) => self.slow.awaits_answer(channel),
            None => self.takes_answers(),
        }
    }

    /// A compact offer has gone out over a slow channel.
    pub(crate) fn handle_compact(
        &mut self,
        channel: Channel,
        offer: OutstandingOffer,
        candidates: Vec<Candidate>,
        now: Instant,
    ) {
        self.slow.handle_offered(channel, offer, candidates, now);
        self.presence.said_goodbye = false;
    }

    /// Whether an offer of this machine stands against the peer's, which has come over this slow channel or over a quick one.
    pub(crate) fn crosses(&mut self, channel: Option<Channel>, now: Instant) -> bool {
        match channel {
            Some(channel) => self.slow.crosses(channel, now),
            None => self.may_cross(now),
        }
    }

    /// Opens a refusal of an offer that is out, over this slow channel or over quick ones; `wall_ms` is this machine's clock. Returns what the peer says, and whether that
    /// is another thing than before.
    pub(crate) fn open_refusal(
        &mut self,
        channel: Option<Channel>,
        envelope: &[u8],
        wall_ms: u64,
        now: Instant,
    ) -> Option<(PeerRefusal, bool)> {
        let refused = match channel {
            Some(channel) => self.slow.open_refusal(channel, envelope, now)?,
            None => self.offer.as_mut()?.open_refusal(envelope)?,
        };
        let refusal = PeerRefusal::read(&refused, wall_ms);
        if let PeerRefusal::Clock { .. } = refusal {
            self.stamps.handle_refused(refused.seen);
        }
        self.presence.handle_heard();
        self.retry.handle_refused(refusal.pause(), now);
        Some((refusal, self.refusals.handle(refusal, now)))
    }

    /// An exchange is complete. `ours` says that it began with an offer of this machine, `searches` that it plans a search; the stamp is
    /// the peer's. One that has come about over a slow channel leaves the offer that is out over quick ones alone.
    pub(super) fn handle_exchange(
        &mut self,
        (ours, is_slow): (bool, bool),
        searches: bool,
        stamp: u64,
        now: Instant,
    ) {
        self.slow.handle_exchange(stamp);
        if !is_slow {
            (self.offer, self.late) = (None, None);
        }
        self.refusals.clear();
        self.presence.handle_heard();
        self.retry.handle_exchange(ours, searches, now);
    }

    /// The peer has said goodbye; `wanted` says whether the user still wants to reach it.
    pub(super) fn handle_bye(&mut self, wanted: bool, now: Instant) {
        (self.offer, self.late) = (None, None);
        self.slow.clear();
        // What this offer was to bring about has come and gone, as no server could feign: whoever starts again is called at once.
        self.last_offer = None;
        self.presence.said_goodbye = true;
        self.retry.handle_bye(wanted, now);
    }

    /// This machine hangs up.
    pub(super) fn close(&mut self) {
        (self.offer, self.late) = (None, None);
        self.slow.clear();
        self.refusals.clear();
        self.retry.reset();
    }
}
