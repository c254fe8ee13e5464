//! As what STUN servers see the port on which this machine takes TCP connections: NATs have mappings for TCP of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Servers that are asked.
const MAX_SERVERS: usize = 2;
/// Servers are not asked again within this: the connections with them stand for a second less, and what they said holds meanwhile.
const INTERVAL: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    asked: Option<Instant>,
    /// What each server that was asked has seen.
    answers: BTreeMap<SocketAddr, Option<SocketAddr>>,
}

impl Seen {
    /// Peers are to hear of all addresses at which this machine can be connected to: those of these servers that are to be asked now.
    pub(crate) fn ask(&mut self, servers: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        if servers.is_empty() || self.holds(now) {
            return Vec::new();
        }
        self.asked = Some(now);
        let asked = servers.iter().copied().take(MAX_SERVERS);
        self.answers = asked.map(|server| (server, None)).collect();
        self.answers.keys().copied().collect()
    }

    /// A server sees the port as `mapped`; returns whether that is news.
    pub(crate) fn handle_answer(&mut self, server: SocketAddr, mapped: SocketAddr) -> bool {
        let is_known = self.answers.values().any(|known| *known == Some(mapped));
        let Some(answer) = self.answers.get_mut(&server) else {
            return false;
        };
        *answer = Some(mapped);
        !is_known
    }

    /// The network is another one.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The addresses that were seen and still hold: those of long ago lead nowhere by now, or to somebody else.
    pub(crate) fn addresses(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let answers = self.answers.values().filter(move |_| self.holds(now));
        answers.flatten().copied()
    }

    fn holds(&self, now: Instant) -> bool {
        let lately = |asked: Instant| now.saturating_duration_since(asked) < INTERVAL;
        self.asked.is_some_and(lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    fn address(host: u8) -> SocketAddr {
        ([203, 0, 113, host], 3478).into()
    }

    #[test]
    fn two_servers_are_asked_and_not_again_within_twenty_seconds() {
        let (mut seen, start) = (Seen::default(), start());
        let servers = [1, 2, 3].map(address);
        assert_eq!(seen.ask(&[], start), []);
        assert_eq!(seen.ask(&servers, start), servers[..2]);
        assert!(seen.handle_answer(address(1), address(9)));
        assert!(!seen.handle_answer(address(2), address(9)), "it is known");
        assert!(
            !seen.handle_answer(address(3), address(8)),
            "nobody has asked"
        );
        let soon = start + Duration::from_secs(19);
        assert_eq!(seen.ask(&servers, soon), []);
        assert_eq!(seen.addresses(soon).next(), Some(address(9)));
        // The mapping may be another one by then.
        let later = start + Duration::from_secs(20);
        assert_eq!(seen.addresses(later).next(), None);
        assert_eq!(seen.ask(&servers, later), servers[..2]);
        assert_eq!(seen.addresses(later).next(), None);
        assert!(seen.handle_answer(address(1), address(9)));
        seen.forget();
        assert_eq!(seen.addresses(later).next(), None);
        assert!(!seen.handle_answer(address(1), address(9)));
    }
}
