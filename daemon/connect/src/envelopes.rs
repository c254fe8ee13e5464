//! This machine as it writes to peers: offers and answers are described, sealed and opened here.

use std::time::Instant;

use punch_signal_protocol::{Description, Identity, Ipv4Range, PeerId, seal};
use punch_traversal::Budget;
use rand_core::RngCore;

use crate::ConnectorConfig;
use crate::clock::WallClock;
use crate::network::LocalNetwork;
use crate::peer::{AttemptConfig, DescriptionParts, PeerConnection, SentDescription, StampError};
use crate::secrets::Randomness;

/// See the module.
pub(crate) struct Envelopes {
    identity: Identity,
    ipv4_range: Option<Ipv4Range>,
    budget: Budget,
    clock: WallClock,
    randomness: Randomness,
}

/// Why an offer is not answered.
pub(crate) enum OfferError {
    /// It does not open, or was seen before.
    Unusable,
    /// The peer's clock differs from ours by this many seconds.
    Stale(i64),
    /// This machine's own offer is the one that counts.
    Ours,
}

impl Envelopes {
    /// The identity, clock and randomness that `config` gives.
    pub(crate) fn new(config: ConnectorConfig, randomness: Randomness, now: Instant) -> Self {
        Self {
            identity: config.identity,
            ipv4_range: config.ipv4_range,
            budget: config.budget,
            clock: WallClock::new(config.wall_ms, now),
            randomness,
        }
    }

    /// It is `ms` milliseconds after the beginning of 1970 now.
    pub(crate) fn set_clock(&mut self, ms: u64, now: Instant) {
        self.clock = WallClock::new(ms, now);
    }

    /// The wall clock as it was told last.
    pub(crate) fn clock(&self) -> WallClock {
        self.clock
    }

    /// A fresh offer; `None` if it cannot be sealed.
    pub(crate) fn offer(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let attempt = connection.history.failures;
        let description = self.describe(connection, network, attempt, now);
        let sent = SentDescription::of(&description);
        let seed = self.randomness.draw_secret();
        let (pending, envelope) =
            seal::PendingOffer::seal(&self.identity, &connection.id, description, seed).ok()?;
        connection.handle_offered(pending, sent, &mut self.randomness.open, now);
        Some(envelope)
    }

    /// Opens an offer that is to be answered.
    pub(crate) fn open_offer(
        &mut self,
        connection: &mut PeerConnection,
        from: PeerId,
        envelope: &[u8],
        now: Instant,
    ) -> Result<seal::OpenedOffer, OfferError> {
        let seed = self.randomness.draw_secret();
        let opened = seal::OpenedOffer::open(&self.identity, &from, envelope, seed)
            .map_err(|_| OfferError::Unusable)?;
        let stamp = opened.description.stamp;
        match connection.stamps.accept(stamp, self.clock.ms(now)) {
            Ok(()) => {}
            Err(StampError::Replayed) => return Err(OfferError::Unusable),
            Err(StampError::Stale(seconds)) => return Err(OfferError::Stale(seconds)),
        }
        // Both have offered at once: the larger key's offer counts.
        if connection.offer_is_fresh(now) && self.identity.id() > from {
            return Err(OfferError::Ours);
        }
        Ok(opened)
    }

    /// Answers an offer and begins its attempt; `None` if the answer cannot be sealed.
    pub(crate) fn answer(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        opened: seal::OpenedOffer,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let mut theirs = opened.description.clone();
        network.keep_outside(&mut theirs);
        // Both count the attempt as the one who offers does.
        let attempt = theirs.nat.as_ref().map_or(0, |nat| nat.attempt);
        let description = self.describe(connection, network, attempt, now);
        let sent = SentDescription::of(&description);
        let seed = self.randomness.draw_secret();
        let (exchange, answer) = opened.answer(description, seed).ok()?;
        let config = AttemptConfig {
            offered: false,
            sent,
            network: network.view(self.randomness.open.next_u64()),
        };
        connection.begin(exchange, config, theirs, now);
        Some(answer)
    }

    /// Opens an answer and begins its attempt; returns whether it was one.
    pub(crate) fn handle_answer(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        envelope: &[u8],
        now: Instant,
    ) -> bool {
        let view = network.view(self.randomness.open.next_u64());
        let Some((exchange, mut theirs, sent)) = connection.open_answer(envelope, now) else {
            return false;
        };
        network.keep_outside(&mut theirs);
        let config = AttemptConfig {
            offered: true,
            sent,
            network: view,
        };
        connection.begin(exchange, config, theirs, now);
        true
    }

    /// Describes this machine in its `attempt`th attempt with a peer.
    fn describe(
        &mut self,
        connection: &mut PeerConnection,
        network: &LocalNetwork,
        attempt: u8,
        now: Instant,
    ) -> Description {
        let profile = network.profile();
        let parts = DescriptionParts {
            wall_ms: self.clock.ms(now),
            candidates: network.candidates(),
            ipv4_range: self.ipv4_range,
            nat: profile.map(|profile| profile.summary(self.budget, attempt)),
            fresh_base: network.has_samplers(),
        };
        connection.describe(parts, &mut self.randomness.open)
    }
}
