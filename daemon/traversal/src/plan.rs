//! What to try, cheapest first (DESIGN.md §7). Today's plans have one step; a step that needs the peer's NAT profile joins
//! here as a variant, and [`crate::Agent`] runs the steps in order.

use punch_signal_protocol::Candidate;

/// One way of finding a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Connectivity checks to the addresses that the peer has named (RFC 8445 §6.1.4).
    Checks(Vec<Candidate>),
}

/// Steps, cheapest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    steps: std::collections::VecDeque<Step>,
}

impl Plan {
    /// The plan for a peer that has named `candidates`.
    pub fn new(mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority()));
        Self {
            steps: [Step::Checks(candidates)].into(),
        }
    }

    /// Takes the next step.
    pub fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }
}
