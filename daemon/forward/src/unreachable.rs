//! Targets that there was no way to a moment ago, so that not each packet looks for one.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use punch_api::ForwardKey;

/// How long it is remembered.
const MEMORY: Duration = Duration::from_secs(3);
/// So many are remembered at once; of more the oldest are forgotten.
const MAX: usize = 1024;

/// The port behind a forward.
type Place = (ForwardKey, u16);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unreachables {
    until: HashMap<Place, Instant>,
    /// In the order in which they end.
    order: VecDeque<(Instant, Place)>,
}

impl Unreachables {
    pub(crate) fn insert(&mut self, forward: ForwardKey, port: u16, now: Instant) {
        let (place, until) = ((forward, port), now + MEMORY);
        self.until.insert(place, until);
        self.order.push_back((until, place));
        while let Some((at, place)) = self.order.front().copied()
            && (at <= now || self.order.len() > MAX)
        {
            self.order.pop_front();
            if self.until.get(&place) == Some(&at) {
                self.until.remove(&place);
            }
        }
    }

    pub(crate) fn contains(&self, forward: ForwardKey, port: u16, now: Instant) -> bool {
        let until = self.until.get(&(forward, port));
        until.is_some_and(|until| now < *until)
    }

    /// The way may be there again.
    pub(crate) fn clear(&mut self) {
        self.until.clear();
        self.order.clear();
    }
}
