//! This machine as it writes to peers: offers and answers are described, sealed and opened here.

use std::time::{Duration, Instant};

use punch_packet::Rate;
use punch_signal_protocol::{
    Allocation, Capability, DecodeError, Description, Identity, Ipv4Range, NatSummary,
    OfferRefusal, PeerId, RefusalReason, seal,
};
use punch_traversal::Budget;
use rand_core::RngCore;

use crate::clock::WallClock;
use crate::medium::Channel;
use crate::network::LocalNetwork;
use crate::pace::Buckets;
use crate::peer::{
    AttemptConfig, DescriptionParts, MAX_STALE, OutstandingOffer, PeerConnection, SentDescription,
    StampError,
};
use crate::secrets::Randomness;
use crate::{ConnectorConfig, ServerId};

/// See the module.
pub(crate) struct Envelopes {
    identity: Identity,
    ipv4_range: Option<Ipv4Range>,
    budget: Budget,
    /// Whether this machine may be reached over relays.
    relay: bool,
    clock: WallClock,
    randomness: Randomness,
    refusals: Buckets<ServerId>,
    /// The envelopes of all peers that are opened.
    opened: Buckets<ServerId>,
}

/// Why an offer is not answered.
pub(crate) enum OfferError {
    /// It does not open, was seen before, or comes too soon after others.
    Unusable,
    /// The peer is told why.
    Refused {
        /// The refusal, if the peer's version reads it.
        refusal: Option<Vec<u8>>,
        /// For an offer that is certainly new: the peer's clock minus ours, in seconds.
        clock_s: Option<i64>,
    },
    /// This machine's own offer is the one that counts.
    Ours,
}

/// A clock that differs so much from what it should say was set; the time of a sleep counts, too.
const CLOCK_STEP: Duration = Duration::from_secs(10);
/// Offers, answers and refusals of all peers that are opened, of each server.
const ENVELOPES: Rate = Rate {
    burst: 100,
    interval: Duration::from_millis(20),
};
/// Refusals to all peers over one server.
const REFUSALS: Rate = Rate {
    burst: 8,
    interval: Duration::from_millis(500),
};

impl Envelopes {
    /// The identity, clock and randomness that `config` gives.
    pub(crate) fn new(config: ConnectorConfig, randomness: Randomness, now: Instant) -> Self {
        Self {
            identity: config.identity,
            ipv4_range: config.ipv4_range,
            budget: config.budget,
            relay: config.relay,
            clock: WallClock::new(config.wall_ms, now),
            randomness,
            refusals: Buckets::new(REFUSALS),
            opened: Buckets::new(ENVELOPES),
        }
    }

    /// The seed of an attempt.
    pub(crate) fn seed(&mut self) -> u64 {
        self.randomness.open.next_u64()
    }

    /// It is `ms` milliseconds after the beginning of 1970 now; returns whether the clock was set, by more than it may drift.
    pub(crate) fn set_clock(&mut self, ms: u64, now: Instant) -> bool {
        let expected = self.clock.ms(now);
        self.clock = WallClock::new(ms, now);
        ms.abs_diff(expected) > CLOCK_STEP.as_millis() as u64
    }

    /// Milliseconds since the beginning of 1970.
    pub(crate) fn wall_ms(&self, now: Instant) -> u64 {
        self.clock.ms(now)
    }

    /// The wall clock as it was told last.
    pub(crate) fn clock(&self) -> WallClock {
        self.clock
    }

    /// Whether one more envelope of a peer that came over `server` may be opened now.
    pub(crate) fn admit(
        &mut self,
        connection: &mut PeerConnection,
        server: ServerId,
        now: Instant,
    ) -> bool {
        connection.calls.admits_envelope(server, now) && self.opened.take(server, now)
    }

    /// A fresh offer; `None` if it cannot be sealed.
    pub(crate) fn offer(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let attempt = connection.history.failures;
        let description = self.describe(connection, network, Some(attempt), now);
        let sent = SentDescription::of(&description);
        let seed = self.randomness.draw_secret();
        let (pending, envelope) =
            seal::PendingOffer::seal(&self.identity, &connection.id, description, seed).ok()?;
        let offer = OutstandingOffer::new(pending, sent, envelope.clone(), now);
        connection
            .calls
            .handle_offered(offer, &mut self.randomness.open, now);
        Some(envelope)
    }

    /// A fresh compact offer for a slow channel; `None` if it cannot be sealed.
    pub(crate) fn compact_offer(
        &mut self,
        connection: &mut PeerConnection,
        channel: Channel,
        network: &LocalNetwork,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let description = self.describe(connection, network, None, now);
        let sent = SentDescription::of(&description);
        let seed = self.randomness.draw_secret();
        let (pending, envelope) =
            seal::PendingOffer::seal_compact(&self.identity, &connection.id, description, seed)
                .ok()?;
        let offer = OutstandingOffer::new(pending, sent, Vec::new(), now);
        let candidates = network.candidates();
        connection
            .calls
            .handle_compact(channel, offer, candidates, now);
        Some(envelope)
    }

    /// Opens an offer that `server` has brought, a slow channel or a quick one, and decides whether it is to be answered.
    pub(crate) fn open_offer(
        &mut self,
        connection: &mut PeerConnection,
        (server, channel): (ServerId, Option<Channel>),
        envelope: &[u8],
        now: Instant,
    ) -> Result<seal::OpenedOffer, OfferError> {
        let (seed, from) = (self.randomness.draw_secret(), connection.id);
        let unread = seal::UnreadOffer::open(&self.identity, &from, envelope, seed)
            .map_err(|_| OfferError::Unusable)?;
        let opened = unread.read().map_err(|(unread, error)| match error {
            // A version that this one does not read is newer, and so reads refusals.
            DecodeError::Version(_) => {
                let reason = RefusalReason::Version;
                match self.refusal(connection, server, reason, now) {
                    Some(refusal) => OfferError::Refused {
                        refusal: unread.refuse(&refusal).ok(),
                        clock_s: None,
                    },
                    None => OfferError::Unusable,
                }
            }
            _ => OfferError::Unusable,
        })?;
        let (stamp, wall_ms) = (opened.description.stamp, self.clock.ms(now));
        // Where there is room for all of it an offer has all of it: nobody is led to do without.
        if opened.description.is_compact() != channel.is_some() {
            return Err(OfferError::Unusable);
        }
        // What lies about somewhere may be old, and says nothing of the peer's clock.
        let is_late = stamp.saturating_add(MAX_STALE.as_millis() as u64) < wall_ms;
        if channel.is_some() && (is_late || !connection.calls.slow.is_news(stamp, wall_ms)) {
            return Err(OfferError::Unusable);
        }
        let (reason, clock_s) = match connection.calls.stamps.accept(stamp, wall_ms) {
            Ok(()) if connection.is_blocked() => (RefusalReason::NotWanted, None),
            // Both have offered at once: the larger key's offer counts.
            Ok(()) if self.identity.id() > from && connection.calls.crosses(channel, now) => {
                return Err(OfferError::Ours);
            }
            Ok(()) if connection.calls.admits_exchange(now) => return Ok(opened),
            Ok(()) => return Err(OfferError::Unusable),
            Err(StampError::Replayed) => return Err(OfferError::Unusable),
            Err(StampError::Stale { seconds, is_new }) => {
                (RefusalReason::Clock, is_new.then_some(seconds))
            }
        };
        let Some(refusal) = self.refusal(connection, server, reason, now) else {
            return Err(OfferError::Unusable);
        };
        let capabilities = opened.description.capabilities;
        let readable = capabilities.contains(Capability::ReadsRefusals);
        let refusal = if readable {
            opened.refuse(&refusal).ok()
        } else {
            None
        };
        Err(OfferError::Refused { refusal, clock_s })
    }

    /// What a refusal says, if one more may go out over this server.
    fn refusal(
        &mut self,
        connection: &mut PeerConnection,
        server: ServerId,
        reason: RefusalReason,
        now: Instant,
    ) -> Option<OfferRefusal> {
        let admitted = connection
            .calls
            .refusals
            .admit(server, &mut self.refusals, now);
        admitted.then(|| OfferRefusal {
            reason,
            clock_ms: self.clock.ms(now),
            seen: connection.calls.stamps.seen,
        })
    }

    /// Opens the offer of a machine that is no peer, and returns its stamp; `None` if it does not open or is of another time.
    pub(crate) fn open_stranger(
        &mut self,
        from: PeerId,
        envelope: &[u8],
        now: Instant,
    ) -> Option<u64> {
        let seed = self.randomness.draw_secret();
        let opened = seal::OpenedOffer::open(&self.identity, &from, envelope, seed).ok()?;
        let stamp = opened.description.stamp;
        let off = stamp.abs_diff(self.clock.ms(now));
        (off <= MAX_STALE.as_millis() as u64).then_some(stamp)
    }

    /// Answers an offer and begins its attempt; `None` if the answer cannot be sealed.
    pub(crate) fn answer(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        (opened, channel): (seal::OpenedOffer, Option<Channel>),
        now: Instant,
    ) -> Option<Vec<u8>> {
        let mut theirs = opened.description.clone();
        network.keep_outside(&mut theirs);
        // Both count the attempt as the one who offers does.
        let attempt = theirs.nat.as_ref().map_or(0, |nat| nat.attempt);
        let told = channel.is_none().then_some(attempt);
        let description = self.describe(connection, network, told, now);
        let sent = SentDescription::of(&description);
        let seed = self.randomness.draw_secret();
        if let Some(channel) = channel.filter(|_| self.identity.id() < connection.id) {
            connection.calls.slow.give_way(channel);
        }
        let (exchange, answer) = opened.answer(description, seed).ok()?;
        // The peer, which has the smaller key, answers whatever offer of this machine comes, and has dropped its own then.
        let is_quick = channel.is_none();
        let late = is_quick.then(|| connection.calls.take_offer()).flatten();
        let late = late.filter(|_| self.identity.id() > connection.id);
        let config = AttemptConfig {
            offered: false,
            patience: channel.and_then(Channel::patience),
            sent,
            network: network.view(self.seed()),
        };
        connection.begin(exchange, config, theirs, now);
        if is_quick {
            connection.calls.keep_late(late);
        }
        Some(answer)
    }

    /// Opens an answer and begins its attempt; returns whether it was one.
    pub(crate) fn handle_answer(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        (envelope, channel): (&[u8], Option<Channel>),
        now: Instant,
    ) -> bool {
        let (view, wall_ms) = (network.view(self.seed()), self.clock.ms(now));
        let calls = &mut connection.calls;
        let Some((exchange, mut theirs, sent)) = calls.open_answer(channel, envelope, now) else {
            return false;
        };
        // It was under way while the two have agreed on something newer.
        if channel.is_some() && !calls.slow.is_news(theirs.stamp, wall_ms) {
            return false;
        }
        network.keep_outside(&mut theirs);
        let config = AttemptConfig {
            offered: true,
            patience: channel.and(Channel::Dht.patience()),
            sent,
            network: view,
        };
        connection.begin(exchange, config, theirs, now);
        true
    }

    /// Describes this machine in its `attempt`th attempt with a peer; `None` where no notes follow, so that everything must be said at once.
    fn describe(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        attempt: Option<u8>,
        now: Instant,
    ) -> Description {
        let profile = network.told_profile(now);
        let summary = profile.map(|profile| profile.summary(self.budget, attempt.unwrap_or(0)));
        let parts = DescriptionParts {
            wall_ms: self.clock.ms(now),
            candidates: network.candidates(),
            ipv4_range: self.ipv4_range,
            nat: match attempt {
                Some(_) => summary,
                None => summary.map(without_notes),
            },
            fresh_base: network.has_samplers(),
            relay: self.relay && !connection.attempts.is_direct_only(),
            translated: network.is_translated(),
        };
        connection.calls.describe(parts, &mut self.randomness.open)
    }
}

/// What is said of a NAT where no notes follow: where its sequence of ports stands could not be told, so nobody is to count on it.
fn without_notes(mut nat: NatSummary) -> NatSummary {
    if let Some(Allocation::Sequential { .. }) = nat.allocation {
        nat.allocation = Some(Allocation::Random);
    }
    nat
}
