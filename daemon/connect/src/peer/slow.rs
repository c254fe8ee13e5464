//! The compact offers to one peer that are out over slow channels, and which of two that cross counts.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use punch_signal_protocol::seal::Exchange;
use punch_signal_protocol::{Candidate, Description, OfferRefusal};

use super::description::SentDescription;
use super::offer::OutstandingOffer;
use super::stamps::horizon;
use crate::medium::Channel;

/// An offer is made anew no earlier than this, unless this machine's addresses have changed.
pub(crate) const RENEWAL: Duration = Duration::from_secs(60);
/// The pauses grow with the peer's silence up to this one, so that a peer that is off for days costs little. What lies there is never so old
/// that the peer would pass it over for its stamp, even if a clock is minutes wrong.
const LATE_RENEWAL: Duration = Duration::from_secs(300);
/// Between two offers that tell of changed addresses.
const CHANGE_PAUSE: Duration = Duration::from_secs(5);
/// An answer to an older offer does not count: its stamp would be too old for the peer, too.
const LIFETIME: Duration = Duration::from_secs(600);
/// Offers over one channel whose answers are awaited.
const KEPT: usize = 2;
/// A peer that has not answered over a slow channel for so long is silent.
const ANSWER_EXPECTED: Duration = Duration::from_secs(180);

/// Offers over one channel.
#[derive(Default)]
struct Open {
    offers: VecDeque<OutstandingOffer>,
    /// When the last one went out, and what it told.
    last: Option<(Instant, Vec<Candidate>)>,
    /// When an offer of the peer's was first passed over because of one of these.
    crossed: Option<Instant>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct SlowOffers {
    open: BTreeMap<Channel, Open>,
    /// The newest stamp of the peer's, in an offer or an answer, that has begun an exchange.
    newest: u64,
    /// When the first of the offers went out that nobody has answered.
    since: Option<Instant>,
}

impl SlowOffers {
    /// When an offer may go out over a channel; `None` if it may at once. A person gets one, however long it takes.
    pub(crate) fn due_at(&self, channel: Channel, candidates: &[Candidate]) -> Option<Instant> {
        let (at, told) = self.open.get(&channel)?.last.as_ref()?;
        let silence = self.since.map(|since| at.saturating_duration_since(since));
        let renewal = silence.unwrap_or_default().clamp(RENEWAL, LATE_RENEWAL);
        let pause = match channel {
            Channel::Dht if told == candidates => renewal,
            Channel::Dht => CHANGE_PAUSE,
            _ => LIFETIME,
        };
        Some(*at + pause)
    }

    /// When an offer that tells of other addresses than these may be replaced, if there is one.
    pub(crate) fn changed_at(&self, candidates: &[Candidate]) -> Option<Instant> {
        let (at, told) = self.open.get(&Channel::Dht)?.last.as_ref()?;
        (told != candidates).then(|| *at + CHANGE_PAUSE)
    }

    /// The next offer over a channel goes out at once.
    pub(crate) fn renew(&mut self, channel: Channel) {
        if let Some(open) = self.open.get_mut(&channel) {
            open.last = None;
        }
    }

    /// An offer has gone out.
    pub(super) fn handle_offered(
        &mut self,
        channel: Channel,
        offer: OutstandingOffer,
        candidates: Vec<Candidate>,
        now: Instant,
    ) {
        self.since.get_or_insert(now);
        let open = self.open.entry(channel).or_default();
        open.last = Some((now, candidates));
        open.offers.push_back(offer);
        let excess = open.offers.len().saturating_sub(KEPT);
        open.offers.drain(..excess);
        self.expire(now);
    }

    fn expire(&mut self, now: Instant) {
        for open in self.open.values_mut() {
            open.offers.retain(|offer| {
                let age = now.saturating_duration_since(offer.sent_at());
                offer.awaits_answer() && age < LIFETIME
            });
        }
    }

    /// Whether an answer to an offer over this channel could be opened.
    pub(crate) fn awaits_answer(&self, channel: Channel) -> bool {
        let open = self.open.get(&channel);
        open.is_some_and(|open| !open.offers.is_empty())
    }

    /// Whether an offer is out, and for how long nobody has answered any.
    pub(super) fn called(&self, now: Instant) -> Option<Duration> {
        let since = self.since.filter(|_| self.is_calling())?;
        Some(now.saturating_duration_since(since))
    }

    /// Whether an offer is out.
    pub(super) fn is_calling(&self) -> bool {
        self.open.values().any(|open| !open.offers.is_empty())
    }

    /// Whether the peer has been silent for so long that its silence says something.
    pub(super) fn is_silent(silence: Duration) -> bool {
        silence >= ANSWER_EXPECTED
    }

    /// Whether an offer of this machine over a channel stands against one of the peer's: for as long as an answer may take since that was
    /// said first. If none comes it may be that the peer cannot read this machine's.
    pub(super) fn crosses(&mut self, channel: Channel, now: Instant) -> bool {
        self.expire(now);
        let (Some(open), Some(window)) = (self.open.get_mut(&channel), channel.patience()) else {
            return false;
        };
        // A person carries whatever there is, and is not told to wait.
        if open.offers.is_empty() || channel != Channel::Dht {
            return false;
        }
        let since = *open.crossed.get_or_insert(now);
        now.saturating_duration_since(since) < window
    }

    /// Offers over this channel are not awaited any more: the peer's counts.
    pub(crate) fn give_way(&mut self, channel: Channel) {
        if let Some(open) = self.open.get_mut(&channel) {
            open.offers.clear();
        }
    }

    /// Whether what the peer says with this stamp is newer than the last exchange; `wall_ms` is this machine's clock. A stamp of a clock
    /// that was far ahead says nothing.
    pub(crate) fn is_news(&self, stamp: u64, wall_ms: u64) -> bool {
        stamp > self.newest || self.newest > horizon(wall_ms)
    }

    /// An exchange has begun with what the peer has said with this stamp.
    pub(super) fn handle_exchange(&mut self, stamp: u64) {
        self.newest = stamp;
        self.since = None;
        self.open.values_mut().for_each(|open| open.crossed = None);
    }

    /// Opens an answer to any of the offers over a channel.
    pub(super) fn open_answer(
        &mut self,
        channel: Channel,
        envelope: &[u8],
        now: Instant,
    ) -> Option<(Exchange, Description, SentDescription)> {
        self.expire(now);
        let mut offers = self.open.get_mut(&channel)?.offers.iter_mut().rev();
        offers.find_map(|offer| offer.open(envelope, now))
    }

    /// Opens a refusal of any of the offers over a channel.
    pub(super) fn open_refusal(
        &mut self,
        channel: Channel,
        envelope: &[u8],
        now: Instant,
    ) -> Option<OfferRefusal> {
        self.expire(now);
        let mut offers = self.open.get_mut(&channel)?.offers.iter_mut().rev();
        offers.find_map(|offer| offer.open_refusal(envelope))
    }

    /// Nobody is called any more.
    pub(super) fn clear(&mut self) {
        self.open.clear();
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    /// Every offer goes out as soon as it may, and nobody answers.
    #[test]
    fn a_silent_peer_gets_offers_less_and_less_often_until_it_is_heard() {
        let (start, mut offers) = (start(), SlowOffers::default());
        let pauses = |offers: &mut SlowOffers, mut now: Instant| {
            std::array::from_fn::<_, 6, _>(|_| {
                offers.since.get_or_insert(now);
                let open = offers.open.entry(Channel::Dht).or_default();
                open.last = Some((now, Vec::new()));
                let due = offers.due_at(Channel::Dht, &[]).unwrap_or(now);
                let pause = due.duration_since(now).as_secs();
                now = due;
                pause
            })
        };
        assert_eq!(pauses(&mut offers, start), [60, 60, 120, 240, 300, 300]);
        offers.handle_exchange(1);
        assert_eq!(pauses(&mut offers, start)[..3], [60, 60, 120]);
    }
}
