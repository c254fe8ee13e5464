//! When the next offer to one peer goes out: the one place that knows retry times.

use std::time::{Duration, Instant};

use rand_core::RngCore;

/// An unanswered offer is made anew after this, then at doubled intervals up to [`RETRY_MAX`].
pub(super) const RETRY_MIN: Duration = Duration::from_secs(3);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A path that is in doubt gets this long to answer before a new offer goes out beside it.
const PATH_CHECK_TIMEOUT: Duration = Duration::from_millis(600);
/// An exchange that is younger when a path comes into doubt is none from before this machine slept, which it notices within a second.
pub(super) const JUST_BEGUN: Duration = Duration::from_secs(1);
/// While a path inside another tunnel serves, a new offer looks for a better one this often.
const BETTER_PATH_INTERVAL: Duration = Duration::from_secs(600);
/// An attempt with a search may take so long before a new offer goes out.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(60);

/// The next offer: when it is due, and what has lengthened the wait for it.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    /// When a better path is looked for, while one of last resort serves. Neither a doubt about that path nor an offer that does not
    /// lead to another one changes it.
    better_at: Option<Instant>,
    /// The retry time before [`Self::hurry`] moved it.
    original: Option<Instant>,
    /// Offers since there was a path.
    offers: u32,
    /// Those of them that nobody has answered.
    unanswered: u32,
}

impl Retry {
    /// There is a path, or the connection is closed: nothing is due, and the next wait is short.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// There is a path, but one of last resort: a better one is looked for now and then.
    pub(super) fn handle_last_resort(&mut self, now: Instant) {
        self.better_at = Some(now + BETTER_PATH_INTERVAL);
    }

    /// An offer has gone out.
    pub(super) fn handle_offered(&mut self, rng: &mut impl RngCore, now: Instant) {
        let jitter = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        self.at = Some(now + self.interval().mul_f64(0.75 + 0.5 * jitter));
        self.original = None;
        self.offers += 1;
        self.unanswered += 1;
    }

    /// No server is reached; when one is, the watch brings the offer.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.at = Some(now + RETRY_MAX);
    }

    /// The peer is there: offers that went out while it was not say nothing about the paths to it.
    pub(super) fn handle_found(&mut self) {
        let unanswered = std::mem::take(&mut self.unanswered);
        self.offers = self.offers.saturating_sub(unanswered);
    }

    /// An exchange is complete. `ours` says that it began with an offer of this machine, `searches` that it plans a search,
    /// which no new offer may cut short.
    pub(super) fn handle_exchange(&mut self, ours: bool, searches: bool, now: Instant) {
        self.unanswered = self.unanswered.saturating_sub(u32::from(ours));
        self.handle_found();
        if let Some(at) = self.original.take() {
            self.at = Some(at);
        }
        if searches {
            self.at = Some(now + SEARCH_TIMEOUT);
        }
    }

    /// The path is being checked: a new offer goes out unless it answers soon. An exchange that has just begun is what that offer would
    /// bring about, and the offer would end it at the peer, which may have found its path already: a path that is `followed` by one gets
    /// longer.
    pub(super) fn handle_doubt(&mut self, followed: bool, now: Instant) {
        let pause = if followed {
            RETRY_MIN
        } else {
            PATH_CHECK_TIMEOUT
        };
        self.at = Some(now + pause);
    }

    /// The path is lost: the next waits are short.
    pub(super) fn handle_lost(&mut self) {
        (self.offers, self.unanswered) = (0, 0);
        self.better_at = None;
    }

    /// An attempt has found nothing. No new one begins before `search_at`, when the peer may be searched for again; one whose
    /// search was `refused` does not bring the next offer forward.
    pub(super) fn handle_failed(
        &mut self,
        refused: bool,
        search_at: Option<Instant>,
        now: Instant,
    ) {
        let next = (now + self.interval()).max(search_at.unwrap_or(now));
        self.at = Some(match self.at {
            Some(at) if refused => at,
            // The wait that a search was given ends with the search.
            Some(at) => at.min(next),
            None => next,
        });
    }

    /// The peer has said goodbye: the user's wish to reach it remains, but is in no hurry.
    pub(super) fn handle_bye(&mut self, wanted: bool, now: Instant) {
        *self = Self {
            at: wanted.then(|| now + RETRY_MAX / 2),
            offers: 3,
            ..Self::default()
        };
    }

    /// The peer has refused the offer: the next one goes out after a `pause`.
    pub(super) fn handle_refused(&mut self, pause: Duration, now: Instant) {
        (self.at, self.original) = (Some(now + pause), None);
    }

    /// The next offer goes out no earlier than this.
    pub(super) fn not_before(&mut self, until: Option<Instant>) {
        self.at = self.at.max(until);
    }

    /// The next offer goes out as soon as the one that was `sent` can be called lost; an exchange that comes about before that
    /// restores the original time.
    pub(super) fn hurry(&mut self, sent: Instant) {
        if let Some(at) = &mut self.at {
            self.original.get_or_insert(*at);
            *at = (*at).min(sent + RETRY_MIN);
        }
    }

    /// Whether the next offer is due; asked once.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            (self.at, self.original) = (None, None);
        }
        due
    }

    /// Whether an offer that looks for a better path is due; the next one is then due an interval later.
    pub(super) fn take_better_due(&mut self, now: Instant) -> bool {
        let due = self.better_at.is_some_and(|at| at <= now);
        if due {
            self.handle_last_resort(now);
        }
        due
    }

    /// When the next offer is due.
    pub(super) fn at(&self) -> Option<Instant> {
        [self.at, self.better_at].into_iter().flatten().min()
    }

    /// Offers that nobody has answered, since the peer was heard of.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    fn interval(&self) -> Duration {
        let interval = RETRY_MIN.saturating_mul(1 << self.offers.min(5));
        interval.min(RETRY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::start::start;

    fn wait(retry: &Retry, now: Instant) -> Duration {
        retry.at().unwrap_or(now).saturating_duration_since(now)
    }

    #[test]
    fn waits_double_up_to_a_minute_and_a_peer_that_is_there_takes_back_those_in_vain() {
        let (now, mut rng) = (start(), ChaCha8Rng::seed_from_u64(1));
        let mut retry = Retry::default();
        for seconds in [3, 6, 12, 24, 48, 60, 60] {
            retry.handle_offered(&mut rng, now);
            let waited = wait(&retry, now).as_secs_f64() / f64::from(seconds);
            assert!((0.75..=1.25).contains(&waited), "{waited} of {seconds} s");
        }
        retry.handle_found();
        retry.handle_offered(&mut rng, now);
        assert!(wait(&retry, now) < Duration::from_secs(4));
    }

    #[test]
    fn an_exchange_puts_back_the_time_that_hurry_has_moved() {
        let (now, mut rng) = (start(), ChaCha8Rng::seed_from_u64(1));
        let mut retry = Retry::default();
        for _ in 0..4 {
            retry.handle_offered(&mut rng, now);
        }
        let original = retry.at();
        retry.hurry(now);
        retry.hurry(now);
        assert_eq!(wait(&retry, now), RETRY_MIN);
        retry.handle_exchange(false, false, now);
        assert_eq!(retry.at(), original);
    }

    #[test]
    fn a_refused_search_leaves_the_time_and_another_failure_brings_it_forward() {
        let now = start();
        let mut retry = Retry::default();
        retry.handle_exchange(false, true, now);
        retry.handle_failed(true, None, now);
        assert_eq!(wait(&retry, now), SEARCH_TIMEOUT);
        retry.handle_failed(false, None, now);
        assert_eq!(wait(&retry, now), RETRY_MIN);
        let search_at = now + Duration::from_secs(30);
        retry.reset();
        retry.handle_failed(false, Some(search_at), now);
        assert_eq!(retry.at(), Some(search_at));
    }
}
