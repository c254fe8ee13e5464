//! The offer to one peer that is out, and what servers say about the peer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use punch_packet::Rate;
use punch_signal_protocol::seal::{Exchange, PendingOffer};
use punch_signal_protocol::{Description, OfferRefusal};

use super::description::SentDescription;
use super::retry::RETRY_MIN;
use crate::ServerId;
use crate::pace::Buckets;

/// Logins of one peer at one server.
const LOGINS: Rate = Rate {
    burst: 2,
    interval: RETRY_MIN,
};
/// Offers to one peer that go to one server once more.
const REPEATS: Rate = Rate {
    burst: 1,
    interval: RETRY_MIN,
};
/// A server may get an offer once more until it has this age; then a new one, with fresh addresses, is better.
const MAX_REPEATED: Duration = Duration::from_secs(30);

/// Of two offers that cross, one counts so long: each goes out before the other arrives, and an answer takes two ways.
const CROSSING: Duration = Duration::from_secs(1);

/// An offer that is out and was not answered.
pub(crate) struct OutstandingOffer {
    /// `None` after an answer that was authentic and useless: the next retry makes a new offer.
    pending: Option<PendingOffer>,
    sent: SentDescription,
    /// As it has gone out.
    envelope: Vec<u8>,
    sent_at: Instant,
    /// When it went out last, to any server.
    repeated_at: Instant,
}

impl OutstandingOffer {
    pub(crate) fn new(
        pending: PendingOffer,
        sent: SentDescription,
        envelope: Vec<u8>,
        now: Instant,
    ) -> Self {
        Self {
            pending: Some(pending),
            sent,
            envelope,
            sent_at: now,
            repeated_at: now,
        }
    }

    pub(super) fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// Whether the offer went out so lately that its answer may still come.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.repeated_at) < RETRY_MIN
    }

    /// Whether an offer of the peer's that comes now may have crossed this one.
    pub(super) fn may_cross(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.repeated_at) < CROSSING
    }

    /// It goes out once more.
    pub(super) fn handle_repeated(&mut self, now: Instant) {
        self.repeated_at = now;
    }

    /// The offer, if it can be sent once more: a server that could not deliver it may be able to now.
    pub(super) fn to_repeat(&self, now: Instant) -> Option<Vec<u8>> {
        let age = now.saturating_duration_since(self.sent_at);
        let usable = self.awaits_answer() && age < MAX_REPEATED;
        usable.then(|| self.envelope.clone())
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
                (self.sent_at, self.repeated_at) = (now, now);
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
#[derive(Debug)]
pub(super) struct Presence {
    /// No server knows the peer.
    pub(super) is_offline: bool,
    /// The peer has said goodbye, and was neither called nor heard of since.
    pub(super) said_goodbye: bool,
    /// Servers have been asked to tell when the peer logs in.
    pub(super) is_watched: bool,
    /// Servers that did not deliver the newest offer. The doubt counts for each of them alone.
    undelivered: BTreeSet<ServerId>,
    /// None of the servers that are reached has delivered it.
    is_lost: bool,
    /// Servers that have said that the peer is there, since this machine asked them to tell.
    present: BTreeSet<ServerId>,
    /// The peer has logged in anew since the newest offer, which a server may have given to a connection that was dead.
    is_renewed: bool,
    /// An offer was wanted while no server was reached.
    pub(super) is_postponed: bool,
    /// Logins of the peer that are acted on at once, of each server.
    appeared: Buckets<ServerId>,
    /// Offers that are sent once more, to each server.
    repeated: Buckets<ServerId>,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            is_offline: false,
            is_watched: false,
            undelivered: BTreeSet::new(),
            said_goodbye: false,
            is_lost: false,
            present: BTreeSet::new(),
            is_renewed: false,
            is_postponed: false,
            appeared: Buckets::new(LOGINS),
            repeated: Buckets::new(REPEATS),
        }
    }
}

impl Presence {
    /// An offer goes out over all servers.
    pub(super) fn handle_offered(&mut self) {
        self.undelivered.clear();
        self.is_lost = false;
        self.is_renewed = false;
        self.is_postponed = false;
        self.said_goodbye = false;
    }

    /// The newest offer may not have come through this server; `online` are those that are reached.
    pub(super) fn handle_undelivered(&mut self, server: ServerId, online: &BTreeSet<ServerId>) {
        self.undelivered.insert(server);
        self.is_lost = online.is_subset(&self.undelivered);
    }

    /// A server could not deliver an envelope, because the peer is `offline` or for another reason.
    pub(super) fn handle_unreachable(
        &mut self,
        server: ServerId,
        offline: bool,
        online: &BTreeSet<ServerId>,
    ) {
        if offline {
            self.present.remove(&server);
            self.handle_undelivered(server, online);
        }
        self.is_offline = online.is_subset(&self.undelivered);
    }

    /// Whether the newest offer may have come through a server that is reached.
    pub(super) fn is_delivered(&self) -> bool {
        !self.is_lost && !self.is_renewed
    }

    /// The connection to a server is lost: what it has said of the peer says nothing of the next one.
    pub(super) fn handle_server_down(&mut self, server: ServerId) {
        self.present.remove(&server);
    }

    /// No server is asked to tell of the peer any more.
    pub(super) fn handle_unwatched(&mut self) {
        self.present.clear();
    }

    /// The peer is there: a server or the peer itself says so.
    pub(super) fn handle_heard(&mut self) {
        self.is_offline = false;
        self.said_goodbye = false;
    }

    /// A server says that the peer has logged in: returns whether it may be acted on at once. A server that says so for the second
    /// time has seen another login.
    pub(super) fn handle_appeared(&mut self, server: ServerId, now: Instant) -> bool {
        let is_timely = self.appeared.take(server, now);
        let is_anew = !self.present.insert(server);
        self.is_renewed |= is_timely && is_anew;
        is_timely
    }

    /// Whether the newest offer may have gone to a connection of the peer that was dead.
    pub(super) fn is_renewed(&self) -> bool {
        self.is_renewed
    }

    /// Whether a server that has not delivered the newest offer gets it once more; then it counts as delivered.
    pub(super) fn repeat(&mut self, server: ServerId, now: Instant) -> bool {
        let repeats = self.undelivered.contains(&server) && self.repeated.take(server, now);
        repeats && self.redeliver(server)
    }

    /// A server that has not delivered the newest offer gets it once more, because this machine has logged in there; returns whether
    /// that is so.
    pub(super) fn redeliver(&mut self, server: ServerId) -> bool {
        let repeats = self.undelivered.remove(&server);
        if repeats {
            self.is_lost = false;
            self.is_renewed = false;
        }
        repeats
    }
}
