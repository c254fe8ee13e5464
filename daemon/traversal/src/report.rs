//! What was tried for a path, and what became of it.

use std::time::Duration;

use crate::plan::{Step, StepKind, Withheld};

/// How long ordinary checks take in the median, if they succeed.
const TYPICAL_CHECKS: Duration = Duration::from_millis(100);

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The step has not begun.
    Waiting,
    /// The step is under way.
    Running,
    /// The step has found a path.
    Found,
    /// Another step found a path first.
    NotNeeded,
    /// The step has spent what it may, and found no path.
    Exhausted,
    /// Mappings of earlier attempts are still alive: there is nothing left of the budget.
    OverBudget,
    /// No socket could be opened.
    NoSockets,
    /// The peer has not told where its sequence stands, or no STUN server did.
    NoPrediction,
    /// One of the two NATs is not known well enough to search.
    Unmeasured,
    /// Its chance was too small to be worth the mappings.
    TooUnlikely,
    /// The NAT gave out no more ports: the step has stopped for the sake of everybody else behind it.
    PortsUsedUp,
    /// No STUN server answered any more, so that nobody could have seen whether the step harms others.
    Unwatched,
}

impl Outcome {
    /// The outcome of ordinary checks, where a path was found, or was found by a search instead, or all have failed.
    pub(crate) fn of_checks(found: bool, search: Option<&StepReport>, failed: bool) -> Self {
        let by_search = search.is_some_and(|search| search.outcome == Self::Found);
        match (found, failed) {
            (true, _) if by_search => Self::Exhausted,
            (true, _) => Self::Found,
            (false, true) => Self::Exhausted,
            (false, false) => Self::Running,
        }
    }
}

impl From<Withheld> for Outcome {
    fn from(why: Withheld) -> Self {
        match why {
            Withheld::Unmeasured => Self::Unmeasured,
            Withheld::TooUnlikely => Self::TooUnlikely,
        }
    }
}

/// A step and what it cost; for `punchctl why`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// What was tried.
    pub kind: StepKind,
    /// The chance of a path that was computed beforehand.
    pub chance: f64,
    /// How long the step takes in the median, if it succeeds.
    pub typical: Duration,
    /// What became of the step.
    pub outcome: Outcome,
    /// NAT mappings that the step has made on this side.
    pub mappings: u32,
    /// Packets that the step has sent.
    pub packets: u32,
    /// The most packets that left within one second, checks included.
    pub peak_rate: u32,
    /// Sockets that the step wanted and did not get.
    pub refused_sockets: u32,
    /// How long the step has taken.
    pub took: Duration,
}

impl StepReport {
    /// The report of a step that has cost nothing yet.
    pub(crate) fn new(step: &Step, outcome: Outcome) -> Self {
        Self {
            kind: step.kind,
            chance: step.chance,
            typical: step.typical,
            outcome,
            mappings: 0,
            packets: 0,
            peak_rate: 0,
            refused_sockets: 0,
            took: Duration::ZERO,
        }
    }

    /// The report of ordinary checks: of so many pairs, with so many packets.
    pub(crate) fn of_checks(
        chance: f64,
        outcome: Outcome,
        pairs: usize,
        packets: u32,
        took: Duration,
    ) -> Self {
        Self {
            kind: StepKind::Checks,
            chance,
            typical: TYPICAL_CHECKS,
            outcome,
            mappings: u32::try_from(pairs).unwrap_or(u32::MAX),
            packets,
            peak_rate: 0,
            refused_sockets: 0,
            took,
        }
    }
}
