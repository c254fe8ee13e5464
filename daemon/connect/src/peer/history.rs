//! What earlier attempts with one peer have shown.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use punch_signal_protocol::NatSummary;
use punch_traversal::{AgentStatus, Outcome, StepKind, StepReport};

use crate::ServerId;

/// Networks for which it is remembered what has worked with a peer.
const MAX_NETWORKS: usize = 8;
/// Minimum time between the starts of two searches for one peer, whatever the last one has come to; shorter after a first one and
/// after one that has found. However often the peer makes offers, answers, and goes away again, it gets no search sooner.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_SEARCH_INTERVAL: Duration = Duration::from_secs(30);

/// Attempts of which it is remembered by which channel they came about: the one that serves, and later ones.
const MAX_MET: usize = 4;

/// What earlier attempts have shown.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Attempts that have failed since there was a path.
    pub(crate) failures: u8,
    /// What has worked, by network; the latest last.
    worked: Vec<(u64, StepKind)>,
    /// What the last attempt that is over has tried.
    last_steps: Vec<StepReport>,
    /// What the peer said of its NAT in that attempt.
    last_theirs: Option<NatSummary>,
    /// Searches in vain since there was a path.
    failed_searches: u32,
    /// When the next search may begin.
    next_search: Option<Instant>,
    /// When the last search began, and the one before it.
    began: [Option<Instant>; 2],
    /// The addresses that the last search has sent to.
    searched: Vec<Ipv4Addr>,
    /// The peer has called or answered.
    has_met: bool,
    /// Over which channel the exchanges of the latest attempts were made, by the attempt's number.
    met: VecDeque<(u64, ServerId)>,
}

impl History {
    /// What has worked with the peer before a restart, by network.
    pub(crate) fn set_worked(&mut self, worked: Vec<(u64, StepKind)>) {
        self.worked = worked;
    }

    /// What has worked last from this network.
    pub(super) fn worked_from(&self, network: Option<u64>) -> Option<StepKind> {
        let mut worked = self.worked.iter().rev();
        worked
            .find(|(known, _)| Some(*known) == network)
            .map(|(_, step)| *step)
    }

    /// Remembers which step has found the path; returns it if that was not known.
    pub(super) fn learn(
        &mut self,
        steps: &[StepReport],
        network: Option<u64>,
    ) -> Option<(u64, StepKind)> {
        let found = steps.iter().find(|step| step.outcome == Outcome::Found)?;
        let worked = (network?, found.kind);
        if self.worked.last() == Some(&worked) {
            return None;
        }
        self.worked.retain(|(known, _)| *known != worked.0);
        self.worked.push(worked);
        let excess = self.worked.len().saturating_sub(MAX_NETWORKS);
        self.worked.drain(..excess);
        Some(worked)
    }

    /// The exchange of an attempt was made over this channel.
    pub(super) fn note_met(&mut self, attempt: u64, server: ServerId) {
        if self.met.len() >= MAX_MET {
            self.met.pop_front();
        }
        self.met.push_back((attempt, server));
    }

    /// Over which channel the exchange of an attempt was made; `None` where that was in an earlier process.
    pub(super) fn met_over(&self, attempt: u64) -> Option<ServerId> {
        let mut met = self.met.iter();
        met.find_map(|(number, server)| (*number == attempt).then_some(*server))
    }

    /// An attempt has tried all that it could.
    pub(super) fn handle_failed(&mut self, status: AgentStatus) {
        self.handle_over(status);
        self.failures = self.failures.saturating_add(1);
    }

    /// An attempt is over that has found no path: it was not to go on.
    pub(super) fn handle_over(&mut self, status: AgentStatus) {
        (self.last_steps, self.last_theirs) = (status.steps, status.theirs);
    }

    /// What the last attempt that is over has tried, and what the peer said of its NAT.
    pub(super) fn last(&self) -> (&[StepReport], Option<&NatSummary>) {
        (&self.last_steps, self.last_theirs.as_ref())
    }

    /// The peer has called or answered.
    pub(super) fn handle_met(&mut self) {
        self.has_met = true;
    }

    /// Whether the peer has called or answered since the start, or there was a path to it before.
    pub(super) fn has_met(&self) -> bool {
        self.has_met || !self.worked.is_empty()
    }

    /// A search begins. The interval counts from here, or a peer that cuts a search short by a new offer would get the next one
    /// at once.
    pub(super) fn handle_search(&mut self, targets: &[Ipv4Addr], now: Instant) {
        self.began = [Some(now), self.began[0]];
        self.searched = targets.to_vec();
        let interval = if self.failed_searches == 0 {
            FIRST_SEARCH_INTERVAL
        } else {
            SEARCH_INTERVAL
        };
        self.failed_searches = self.failed_searches.saturating_add(1);
        self.next_search = Some(now + interval);
    }

    /// A search has found the path, at this address; returns whether the search has sent to it. The pause stays where it has
    /// sent to others, too: a peer that names strangers and answers in the end would get the next search at once. Where all
    /// was for the peer itself, it need not wait to be found again, after a crash for instance, but twice in a minute is the most.
    pub(super) fn handle_search_found(&mut self, at: Ipv4Addr) -> bool {
        self.failed_searches = 0;
        if self.searched == [at] {
            self.next_search = self.began[1].map(|began| began + SEARCH_INTERVAL);
        }
        self.searched.contains(&at)
    }

    /// When the next search may begin, if there was one.
    pub(super) fn next_search(&self) -> Option<Instant> {
        self.next_search
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
    const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

    #[test]
    fn whoever_was_found_at_the_only_address_that_was_searched_may_be_searched_for_again_twice_a_minute()
     {
        let (mut history, began) = (History::default(), start());
        history.handle_search(&[OWN], began);
        assert!(history.handle_search_found(OWN));
        assert_eq!(history.next_search(), None, "it may have crashed");
        let again = began + Duration::from_secs(5);
        history.handle_search(&[OWN], again);
        assert!(history.handle_search_found(OWN));
        assert_eq!(history.next_search(), Some(began + SEARCH_INTERVAL));
    }

    #[test]
    fn a_peer_that_has_named_strangers_waits_also_if_it_was_found() {
        let (mut history, began) = (History::default(), start());
        history.handle_search(&[STRANGER, OWN], began);
        assert!(history.handle_search_found(OWN));
        assert_eq!(history.next_search(), Some(began + FIRST_SEARCH_INTERVAL));
        // What the peer's own check has found may be elsewhere.
        history.handle_search(&[STRANGER], began + FIRST_SEARCH_INTERVAL);
        assert!(!history.handle_search_found(OWN));
        assert!(history.next_search() > Some(began + FIRST_SEARCH_INTERVAL));
    }
}
