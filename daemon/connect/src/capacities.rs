//! How many mappings the networks have in which this machine has come to their end. What was learned is forgotten after a while:
//! others may have held most of the ports just then, and carriers change their limits.

use std::time::{Duration, Instant};

/// Networks that are remembered; those that were learned of least lately go.
const MAX_NETWORKS: usize = 8;
/// What was learned holds for so long.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Capacities {
    /// Network, mappings, and until when that holds; the latest last.
    known: Vec<(u64, u32, Instant)>,
}

impl Capacities {
    /// A network turns out to have so many mappings.
    pub(crate) fn learn(&mut self, network: u64, capacity: u32, now: Instant) {
        self.known.retain(|(known, _, _)| *known != network);
        self.known.push((network, capacity, now + LIFETIME));
        let excess = self.known.len().saturating_sub(MAX_NETWORKS);
        self.known.drain(..excess);
    }

    /// A netcheck alone has held `shown` mappings in a network and could have had more: fewer than that cannot be all.
    pub(crate) fn refute(&mut self, network: Option<u64>, shown: u32) {
        self.known
            .retain(|(known, capacity, _)| Some(*known) != network || *capacity >= shown);
    }

    /// How many mappings a network has, if that was learned and still holds.
    pub(crate) fn of(&self, network: Option<u64>, now: Instant) -> Option<u32> {
        let mut known = self.known.iter();
        let found = known.find(|(known, _, until)| Some(*known) == network && *until > now);
        found.map(|(_, capacity, _)| *capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    #[test]
    fn what_was_learned_last_holds_for_a_week_and_of_the_latest_networks() {
        let (now, mut known) = (start(), Capacities::default());
        for network in 0..10 {
            known.learn(network, 400, now);
        }
        known.learn(5, 300, now);
        let known_now: Vec<_> = (0..10)
            .filter(|n| known.of(Some(*n), now).is_some())
            .collect();
        assert_eq!(known_now, [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(known.of(Some(5), now), Some(300));
        assert_eq!(known.of(None, now), None);
        assert_eq!(known.of(Some(5), now + LIFETIME), None);
    }

    #[test]
    fn what_a_netcheck_could_hold_alone_refutes_a_smaller_capacity_of_its_own_network() {
        let (now, mut known) = (start(), Capacities::default());
        for (network, capacity) in [(1, 60), (2, 79), (3, 80)] {
            known.learn(network, capacity, now);
        }
        for network in [Some(2), Some(3), None] {
            known.refute(network, 80);
        }
        let left = [1, 2, 3].map(|network| known.of(Some(network), now));
        assert_eq!(left, [Some(60), None, Some(80)]);
    }
}
