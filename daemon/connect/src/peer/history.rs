//! What earlier attempts with one peer have shown.

use std::time::{Duration, Instant};

use punch_signal_protocol::NatSummary;
use punch_traversal::{AgentStatus, Outcome, StepKind, StepReport};

/// Networks for which it is remembered what has worked with a peer.
const MAX_NETWORKS: usize = 8;
/// Minimum time between the starts of two searches for one peer, whatever the last one has come to; shorter after a first one and
/// after one that has found. However often the peer makes offers, answers, and goes away again, it gets no search sooner.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_SEARCH_INTERVAL: Duration = Duration::from_secs(30);

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
    /// The peer has called or answered.
    has_met: bool,
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

    /// An attempt has tried all that it could.
    pub(super) fn handle_failed(&mut self, status: AgentStatus) {
        (self.last_steps, self.last_theirs) = (status.steps, status.theirs);
        self.failures = self.failures.saturating_add(1);
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
    pub(super) fn handle_search(&mut self, now: Instant) {
        let interval = if self.failed_searches == 0 {
            FIRST_SEARCH_INTERVAL
        } else {
            SEARCH_INTERVAL
        };
        self.failed_searches = self.failed_searches.saturating_add(1);
        self.next_search = Some(now + interval);
    }

    /// A search has found the path. The pause stays: a peer that names the addresses of others and answers in the end would get
    /// the next search at once.
    pub(super) fn handle_search_found(&mut self) {
        self.failed_searches = 0;
    }

    /// When the next search may begin, if there was one.
    pub(super) fn next_search(&self) -> Option<Instant> {
        self.next_search
    }
}
