//! Envelopes of one peer that were taken lately: a peer sends each over every server, and the copies mean nothing, good or bad.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::ServerId;

/// So many are remembered: an offer, an answer and notes of the exchanges that live.
const REMEMBERED: usize = 16;
/// A copy comes this much later at the most, over a slow channel; then an offer is refused for its stamp anyway.
const LATEST: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
struct Taken {
    digest: u64,
    server: ServerId,
    at: Instant,
}

/// See the module. An envelope that collides with one that was taken is passed over, as is one that the server does not deliver.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    taken: [Option<Taken>; REMEMBERED],
    next: usize,
}

impl Copies {
    /// Whether an envelope like this was taken from another server just now. A server that brings one twice has repeated it.
    pub(crate) fn has(&self, server: ServerId, envelope: &[u8], now: Instant) -> bool {
        let digest = digest(envelope);
        self.taken.iter().flatten().any(|taken| {
            let is_late = now.saturating_duration_since(taken.at) > LATEST;
            taken.digest == digest && taken.server != server && !is_late
        })
    }

    /// This envelope was taken.
    pub(crate) fn add(&mut self, server: ServerId, envelope: &[u8], now: Instant) {
        if let Some(place) = self.taken.get_mut(self.next) {
            let (digest, at) = (digest(envelope), now);
            *place = Some(Taken { digest, server, at });
        }
        self.next = (self.next + 1) % REMEMBERED;
    }
}

fn digest(envelope: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    envelope.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    #[test]
    fn the_newest_few_are_known_again_when_another_server_brings_them_soon() {
        let (now, mut copies) = (start(), Copies::default());
        let [one, other] = [ServerId(1), ServerId(2)];
        assert!(!copies.has(other, &[0], now));
        (0..20_u8).for_each(|n| copies.add(one, &[n], now));
        let known = (0..20_u8).filter(|n| copies.has(other, &[*n], now));
        assert_eq!(known.collect::<Vec<_>>(), (4..20).collect::<Vec<_>>());
        assert!(!copies.has(one, &[19], now));
        assert!(!copies.has(other, &[19], now + LATEST * 2));
    }
}
