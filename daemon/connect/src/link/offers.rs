//! Offers to one peer: made, repeated, in doubt; and how many of its envelopes are opened.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::seal::PendingOffer;
use punch_signal_protocol::{
    Candidate, CandidateKind, Capabilities, Credentials, Description, Ipv4Range, MAX_CANDIDATES,
    NatSummary,
};
use punch_traversal::takes_fresh_base;
use rand_core::RngCore;

use super::{Link, RETRY_MAX, RETRY_MIN, Surroundings, Terms, tidy};
use crate::{MAX_STALE, ServerId};

/// Offers and answers of one peer that are opened, by the server that brings them: each costs half a millisecond.
const INTERVAL: Duration = Duration::from_millis(100);
const BURST: u32 = 10;

/// An offer that is out.
pub(crate) struct Offered {
    pending: Option<PendingOffer>,
    local: Credentials,
    nat: Option<NatSummary>,
}

impl Offered {
    pub(crate) fn new(pending: PendingOffer, local: Credentials, nat: Option<NatSummary>) -> Self {
        Self {
            pending: Some(pending),
            local,
            nat,
        }
    }
}

/// A bucket of tokens.
pub(super) struct Admission {
    tokens: u32,
    since: Option<Instant>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            tokens: BURST,
            since: None,
        }
    }
}

impl Admission {
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let gained = now.saturating_duration_since(since).as_millis() / INTERVAL.as_millis();
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(BURST);
            self.tokens = BURST.min(self.tokens.saturating_add(gained));
            self.since = Some(now);
        }
        let admitted = self.tokens > 0;
        self.tokens -= u32::from(admitted);
        admitted
    }
}

impl Link {
    /// Describes this machine with fresh credentials and a stamp that is larger than any before.
    pub(crate) fn describe(
        &mut self,
        wall_ms: u64,
        mut candidates: Vec<Candidate>,
        ipv4_range: Option<Ipv4Range>,
        nat: Option<NatSummary>,
        fresh_base: bool,
        rng: &mut impl RngCore,
    ) -> Description {
        // A repeated attempt checks from a fresh socket: what is known of the old one would only keep a mapping alive that did
        // not serve.
        let again = fresh_base && nat.as_ref().is_some_and(takes_fresh_base);
        candidates.retain(|candidate| {
            !again
                || candidate.kind != CandidateKind::ServerReflexive
                || candidate.address.is_ipv6()
        });
        candidates.truncate(MAX_CANDIDATES);
        // A stamp from a time when our clock was far ahead was refused by every peer whose clock was right, and may be forgotten.
        let horizon = wall_ms + 2 * MAX_STALE.as_millis() as u64;
        let last = self.stamps.0;
        self.stamps.0 = if last > horizon {
            wall_ms
        } else {
            wall_ms.max(last + 1)
        };
        self.described.clone_from(&candidates);
        self.described_nat.clone_from(&nat);
        let mut credentials = Credentials {
            fragment: [0; 8],
            password: [0; 32],
        };
        rng.fill_bytes(&mut credentials.fragment);
        rng.fill_bytes(&mut credentials.password);
        Description {
            stamp: self.stamps.0,
            credentials,
            candidates,
            kem: Vec::new(),
            ipv4_range,
            nat,
            capabilities: Capabilities::OURS,
        }
    }

    pub(crate) fn offered(&mut self, offered: Offered, rng: &mut impl RngCore, now: Instant) {
        self.offer = Some((offered, now));
        self.unreachable_at.clear();
        let interval = RETRY_MIN
            .saturating_mul(1 << self.retries.min(5))
            .min(RETRY_MAX);
        let jitter = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        self.retry_at = Some(now + interval.mul_f64(0.75 + 0.5 * jitter));
        self.unhurried = None;
        self.retries += 1;
        self.unanswered += 1;
    }

    /// The peer is there: offers that went out while it was not say nothing about the paths to it.
    pub(crate) fn found(&mut self) {
        self.offline = false;
        self.retries = self
            .retries
            .saturating_sub(std::mem::take(&mut self.unanswered));
    }

    /// No server is at hand; the next one that comes brings the watch, and that the offer.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.offline = true;
        self.retry_at = Some(now + RETRY_MAX);
    }

    /// Whether an offer went out so lately that its answer may still come.
    pub(crate) fn offer_is_fresh(&self, now: Instant) -> bool {
        self.offer.as_ref().is_some_and(|(_, sent)| {
            now.saturating_duration_since(*sent) < RETRY_MIN && self.unreachable_at.is_empty()
        })
    }

    /// Whether checks have begun so lately that a path may still come of them.
    pub(crate) fn attempt_is_fresh(&self, now: Instant) -> bool {
        self.attempts
            .back()
            .is_some_and(|attempt| now.saturating_duration_since(attempt.began) < RETRY_MIN)
    }

    /// Unless a path is found by then, the next offer goes out soon, however many there were before.
    pub(crate) fn reconsider(&mut self, now: Instant) {
        // A search takes longer than that, and a new offer would cut it short.
        if self.has_search() {
            return;
        }
        let soon = now + RETRY_MIN;
        self.retry_at = Some(self.retry_at.map_or(soon, |at| at.min(soon)));
    }

    pub(crate) fn handle_unreachable(
        &mut self,
        server: ServerId,
        offline: bool,
        servers: &BTreeSet<ServerId>,
    ) {
        if offline {
            self.unreachable_at.insert(server);
        }
        self.offline = servers
            .iter()
            .all(|server| self.unreachable_at.contains(server));
    }

    /// Whether one more envelope of this peer that came over `server` may be opened now. A server that makes them up bars
    /// those of no other.
    pub(crate) fn admits(&mut self, server: ServerId, now: Instant) -> bool {
        self.admitted.entry(server).or_default().take(now)
    }

    /// Whether an offer is out whose answer has not come.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.offer
            .as_ref()
            .is_some_and(|(offered, _)| offered.pending.is_some())
    }

    pub(crate) fn handle_answer(
        &mut self,
        envelope: &[u8],
        overlay: &HashSet<IpAddr>,
        surroundings: Surroundings,
        now: Instant,
    ) -> bool {
        let Some((offered, sent)) = &mut self.offer else {
            return false;
        };
        let Some(pending) = offered.pending.take() else {
            return false;
        };
        let (local, nat) = (offered.local.clone(), offered.nat.clone());
        match pending.open_answer(envelope) {
            Ok((exchange, mut theirs)) => {
                tidy(&mut theirs, overlay);
                let terms = Terms {
                    offers: true,
                    local,
                    nat,
                    surroundings,
                };
                self.begin(exchange, terms, theirs, now);
                true
            }
            Err((Some(pending), _)) => {
                offered.pending = Some(*pending);
                false
            }
            Err((None, _)) => {
                // Authentic but unusable: ask again at the next retry.
                *sent = now;
                false
            }
        }
    }

    /// The server over which an offer may have gone out is lost.
    pub(crate) fn doubt_offer(&mut self, server: ServerId) {
        if self.offer.is_some() {
            self.unreachable_at.insert(server);
        }
    }

    /// The next retry comes as soon as the offer that is out can be called lost.
    pub(crate) fn hurry(&mut self) {
        if let (Some((_, sent)), Some(retry)) = (&self.offer, &mut self.retry_at) {
            self.unhurried.get_or_insert(*retry);
            *retry = (*retry).min(*sent + RETRY_MIN);
        }
    }
}
