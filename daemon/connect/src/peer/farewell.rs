//! How a connection ends because one of the two ends says so, and how one waits for an end that is away for a moment.

use std::time::{Duration, Instant};

use punch_signal_protocol::Note;

use super::PeerConnection;
use super::demand::Demand;

/// So long before a peer that is away has to be back it is asked whether it is.
const ASK_BEFORE: Duration = Duration::from_secs(2);

/// The process that has said that it goes answers for so long at the most: what comes later comes from the next one.
const LEAVING: Duration = Duration::from_secs(3);

/// A peer that has said that it is away for a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    /// Whatever comes from then on shows that it is back.
    from: Instant,
    until: Instant,
    asked: bool,
}

impl Away {
    /// It is back after `seconds`, or it has said goodbye.
    pub(super) fn new(seconds: u8, now: Instant) -> Self {
        let time = Duration::from_secs(seconds.into());
        Self {
            from: now + LEAVING.min(time / 2),
            until: now + time,
            asked: false,
        }
    }

    /// Whether the path is to be checked now: whoever is back answers. Once.
    pub(super) fn take_ask(&mut self, now: Instant) -> bool {
        let due = !self.asked && now + ASK_BEFORE >= self.until;
        self.asked |= due;
        due
    }

    /// Whether it is back, by when it has last been heard. A check that is still open at the deadline says nothing against it.
    pub(super) fn is_back(&self, heard: Option<Instant>) -> bool {
        heard.is_some_and(|at| at >= self.from)
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        match self.asked {
            true => self.until,
            false => self.until.checked_sub(ASK_BEFORE).unwrap_or(self.until),
        }
    }
}

/// The peer has said goodbye, to this attempt and those before it. Returns whether nothing is left; then, if the user
/// wants the peer, it is looked for again.
pub(crate) fn bye(connection: &mut PeerConnection, attempt: usize, now: Instant) -> bool {
    if connection.path().is_none()
        && let Some(newest) = connection.attempts.newest_first().next()
    {
        connection.history.handle_over(newest.agent.status(now));
    }
    connection.attempts.retire_until(attempt + 1);
    if !connection.attempts.is_empty() {
        return false;
    }
    connection.demand.hang_up();
    let wanted = connection.demand == Demand::User;
    connection.calls.handle_bye(wanted, now);
    true
}

/// A peer that was away is not back in time: that was its goodbye. Returns whether nothing is left.
pub(super) fn expire(connection: &mut PeerConnection, now: Instant) -> bool {
    match connection.attempts.take_gone(now) {
        Some(attempt) => bye(connection, attempt, now),
        None => false,
    }
}

/// This end will be away for so many seconds: a note for the peer under every exchange, if there is a direct path and the peer waits.
/// `None` where goodbye is to be said instead: nothing of the connection goes on then.
pub(crate) fn seal_away(connection: &mut PeerConnection, seconds: u8) -> Option<Vec<Vec<u8>>> {
    let waits = connection
        .attempts
        .first()
        .is_some_and(|attempt| attempt.waits);
    let stays = waits && connection.path().is_some();
    stays.then(|| connection.attempts.seal_all(&Note::Away { seconds }))
}
