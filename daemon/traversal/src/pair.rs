//! One candidate pair: a local socket, a remote address, and what checks have shown about it (RFC 8445 §6.1.2).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind};
use punch_stun_protocol::TransactionId;

use crate::loss::{Loss, LossCount};
use crate::socket::DirectPath;

/// An address that has not yet answered is probed at most this often in one attempt: a peer that names a third party's
/// address cannot make a flood of us.
pub const MAX_PROBES: u32 = 20;
/// Intervals between probes of an address that has not answered, in milliseconds; the last one repeats.
const PROBE_INTERVALS: [u64; 7] = [50, 100, 150, 250, 400, 700, 1000];
/// Between two checks of a pair of which the peer's checks set off the second (RFC 8445 §14.2's default).
const TRIGGER_INTERVAL: Duration = Duration::from_millis(50);
/// A check on a proven path that goes unanswered is repeated after these, in milliseconds, and then the path is dead:
/// with a check every 3 s while traffic flows, and 0.7 s after it flows one way only, a dead path is left within 3 to 6 s.
const REPEAT_INTERVALS: [u64; 4] = [250, 450, 700, 900];
/// After so many checks without an answer a pair takes no other's place.
const DOUBTFUL: u32 = 2;
/// Checks of a pair whose answers are recognized: on a path around the world a dozen probes and triggered checks are under way
/// before the first answer comes.
const REMEMBERED_CHECKS: usize = 32;

/// What a pair's checks have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The address has not answered yet, to so many probes.
    Probing { sent: u32 },
    /// The address answers; so many checks since the last answer are open.
    Valid { unanswered: u32 },
    /// The pair was given up.
    Failed,
}

/// A check that may still be answered.
#[derive(Debug, Clone, Copy)]
struct Sent {
    id: TransactionId,
    at: Instant,
    /// Whether the address was known to answer.
    counts: bool,
}

/// A candidate pair.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) path: DirectPath,
    pub(crate) kind: CandidateKind,
    pub(crate) priority: u32,
    pub(crate) state: State,
    /// Smoothed round trip.
    pub(crate) rtt: Option<Duration>,
    pub(crate) next_check: Option<Instant>,
    /// When the peer last asked for this pair.
    pub(crate) nominated: Option<Instant>,
    /// When a check of the peer's last set off one of ours.
    triggered: Option<Instant>,
    /// How often the peer's checks have set off ours since the last answer: the pauses grow with it.
    triggers: u32,
    checks: VecDeque<Sent>,
    loss: LossCount,
    /// Whether a search for ports has found the pair.
    pub(crate) by_search: bool,
    /// Whether it was checked once more than [`REPEAT_INTERVALS`] says, since the last answer.
    reprieved: bool,
}

/// A pair as status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairStatus {
    /// The peer's address.
    pub remote: SocketAddr,
    /// The kind of the peer's candidate.
    pub kind: CandidateKind,
    /// Whether the path lies inside another tunnel of one of the two machines, and a better one is looked for.
    pub last_resort: bool,
    /// Whether the address answers.
    pub valid: bool,
    /// The smoothed round trip.
    pub rtt: Option<Duration>,
}

impl Pair {
    pub(crate) fn new(
        path: DirectPath,
        kind: CandidateKind,
        priority: u32,
        first_check: Instant,
    ) -> Self {
        Self {
            path,
            kind,
            priority,
            state: State::Probing { sent: 0 },
            rtt: None,
            next_check: Some(first_check),
            nominated: None,
            triggered: None,
            triggers: 0,
            checks: VecDeque::new(),
            loss: LossCount::default(),
            by_search: false,
            reprieved: false,
        }
    }

    /// Whether the path would lie inside another tunnel, at either end: it serves only while nothing else does.
    pub(crate) fn is_last_resort(&self) -> bool {
        self.priority <= Candidate::LOWEST_KIND
    }

    /// What this end's address is worth to a peer that sees a check come from it and has not heard of it.
    pub(crate) fn worth(&self) -> Candidate {
        if self.is_last_resort() {
            Candidate::in_tunnel(self.path.remote)
        } else {
            Candidate::new(CandidateKind::PeerReflexive, self.path.remote)
        }
    }

    /// The pair as status shows it.
    pub(crate) fn status(&self) -> PairStatus {
        PairStatus {
            remote: self.path.remote,
            kind: self.kind,
            last_resort: self.is_last_resort(),
            valid: self.is_valid(),
            rtt: self.rtt,
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        matches!(self.state, State::Valid { .. })
    }

    /// Whether its last checks were not answered: it may be dead.
    pub(crate) fn is_doubtful(&self) -> bool {
        matches!(self.state, State::Valid { unanswered } if unanswered >= DOUBTFUL)
    }

    /// Notes that a check leaves now and plans the next one. `jitter` is 0 to 1.
    pub(crate) fn sent(&mut self, id: TransactionId, now: Instant, jitter: f64) {
        if self.checks.len() == REMEMBERED_CHECKS {
            self.checks.pop_front();
        }
        let (at, counts) = (now, self.is_valid());
        self.checks.push_back(Sent { id, at, counts });
        let interval = match &mut self.state {
            State::Probing { sent } => {
                let index = (*sent as usize).min(PROBE_INTERVALS.len() - 1);
                *sent += 1;
                PROBE_INTERVALS[index]
            }
            State::Valid { unanswered } => {
                let index = (*unanswered as usize).min(REPEAT_INTERVALS.len() - 1);
                *unanswered += 1;
                // On a long path an answer may simply still be under way.
                let rtt = self.rtt.map_or(0, |rtt| 2 * rtt.as_millis() as u64);
                REPEAT_INTERVALS[index].max(rtt.min(2000))
            }
            State::Failed => return,
        };
        let interval = Duration::from_millis(interval);
        self.next_check = Some(now + interval + interval.mul_f64(0.1 * jitter));
    }

    /// Whether the check that is due now would be one too many.
    pub(crate) fn exhausted(&self) -> bool {
        match self.state {
            State::Probing { sent } => sent >= MAX_PROBES,
            State::Valid { unanswered } => unanswered as usize >= REPEAT_INTERVALS.len(),
            State::Failed => true,
        }
    }

    /// Packets of the peer come in while the last check is out: the path may have been dead for as long as it was checked, and no
    /// longer. It is checked once more.
    pub(crate) fn reprieve(&mut self, now: Instant) {
        if let State::Valid { unanswered } = &mut self.state
            && *unanswered as usize >= REPEAT_INTERVALS.len()
            && !std::mem::replace(&mut self.reprieved, true)
        {
            *unanswered -= 1;
            self.next_check = Some(now);
        }
    }

    /// Whether it has been probed for as long as an answer takes around the world.
    pub(crate) fn had_its_time(&self) -> bool {
        match self.state {
            State::Probing { sent } => sent as usize >= PROBE_INTERVALS.len(),
            State::Valid { .. } => false,
            State::Failed => true,
        }
    }

    /// The peer is heard on a pair that was given up.
    pub(crate) fn start_over(&mut self, now: Instant) {
        self.state = State::Probing { sent: 0 };
        self.next_check = Some(now);
    }

    /// Whether the peer's check may set off one of ours now; if not, ours follows soon. Without this pause the two ends
    /// would set each other off at once, again and again, where checks pass and answers are lost.
    pub(crate) fn is_triggered(&mut self, now: Instant) -> bool {
        let pause = TRIGGER_INTERVAL * (1 << self.triggers.min(5));
        let next = self.triggered.map(|last| last + pause);
        match next.filter(|next| *next > now) {
            Some(next) => {
                self.next_check = self.next_check.map(|at| at.min(next));
                false
            }
            None => {
                self.triggered = Some(now);
                self.triggers += 1;
                true
            }
        }
    }

    pub(crate) fn give_up(&mut self) {
        self.state = State::Failed;
        self.next_check = None;
    }

    /// Whether `id` is one of this pair's checks.
    pub(crate) fn owns(&self, id: TransactionId) -> bool {
        self.checks.iter().any(|check| check.id == id)
    }

    /// A check was answered; returns whether the pair was not valid before.
    pub(crate) fn answered(&mut self, id: TransactionId, now: Instant) -> bool {
        let Some(index) = self.checks.iter().position(|check| check.id == id) else {
            return false;
        };
        let answered = self.checks[index];
        let counting = self.checks.drain(..=index).filter(|check| check.counts);
        let lost = counting.count().saturating_sub(1);
        if answered.counts {
            self.loss.count(lost, now);
        }
        let sample = now.saturating_duration_since(answered.at);
        // RFC 6298 §2.3's smoothing.
        self.rtt = Some(match self.rtt {
            Some(rtt) => (rtt * 7 + sample) / 8,
            None => sample,
        });
        let fresh = !self.is_valid();
        self.state = State::Valid { unanswered: 0 };
        self.triggers = 0;
        self.reprieved = false;
        fresh
    }

    /// How many of the latest checks were not answered, once there were enough.
    pub(crate) fn loss(&self, now: Instant) -> Option<Loss> {
        self.loss.report(now)
    }

    /// A search for ports has found the pair: it answers, and how fast will be seen.
    pub(crate) fn found(&mut self, now: Instant) {
        self.state = State::Valid { unanswered: 0 };
        self.triggers = 0;
        self.next_check = Some(now);
    }

    /// RFC 8445 prefers by priority; but a pair of higher priority that is clearly slower is not the better one.
    pub(crate) fn is_clearly_slower_than(&self, fastest: Option<Duration>) -> bool {
        match (self.rtt, fastest) {
            (Some(rtt), Some(fastest)) => rtt > fastest.mul_f64(1.5) + Duration::from_millis(10),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::SocketId;
    use crate::start::start;

    fn id(number: u8) -> TransactionId {
        TransactionId([number; 12])
    }

    #[test]
    fn only_checks_of_a_pair_that_answers_say_something_of_its_loss() {
        let remote = ([192, 0, 2, 7], 51_820).into();
        let path = DirectPath {
            socket: SocketId::MAIN_V4,
            remote,
        };
        let now = start();
        let mut pair = Pair::new(path, CandidateKind::Host, 1, now);
        // Probes before the NATs are open are not lost on the path.
        for number in 0..20 {
            pair.sent(id(number), now, 0.0);
        }
        pair.answered(id(19), now);
        for number in 100..109 {
            pair.sent(id(number), now, 0.0);
            pair.answered(id(number), now);
        }
        assert_eq!(pair.loss(now), None, "nine are too few");
        // One whose answer comes after a repeated one has left is not lost.
        pair.sent(id(110), now, 0.0);
        pair.sent(id(111), now, 0.0);
        pair.answered(id(110), now);
        pair.answered(id(111), now);
        let none = Loss {
            lost: 0,
            samples: 11,
        };
        assert_eq!(pair.loss(now), Some(none));
        for number in 120..123 {
            pair.sent(id(number), now, 0.0);
        }
        assert_eq!(pair.loss(now), Some(none), "they may still be answered");
        pair.answered(id(122), now);
        let two = Loss {
            lost: 2,
            samples: 14,
        };
        assert_eq!(pair.loss(now), Some(two));
        // A later answer to what counts as lost changes nothing.
        pair.answered(id(120), now);
        assert_eq!(pair.loss(now), Some(two));
        // The pair that is given up and found again is the same path.
        pair.give_up();
        pair.start_over(now);
        pair.sent(id(130), now, 0.0);
        pair.answered(id(130), now);
        assert_eq!(pair.loss(now), Some(two));
    }
}
