//! What the other machine writes on one day, and when it is looked at.

use std::time::{Duration, Instant};

use punch_signal_protocol::rendezvous::{Author, PairSecret};

use super::Moment;
use crate::client::Urgency;
use crate::id::NodeId;
use crate::item::{self, Item};
use crate::sealed::Keys;

/// While something is going on.
const LIVELY: Duration = Duration::from_secs(5);
/// Else.
const QUIET: Duration = Duration::from_secs(60);
/// The days before and after today: a clock may be wrong.
const OTHER_LIVELY: Duration = Duration::from_secs(20);
const OTHER_QUIET: Duration = Duration::from_secs(15 * 60);
/// The longest pause while nobody answers.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// So near to midnight the day that is nearest counts like today.
const MIDNIGHT: Duration = Duration::from_secs(10 * 60);
/// A day on which something was found counts like today for so long.
const HOT: Duration = Duration::from_secs(30 * 60);

/// A day of the other machine's.
pub(super) struct Reading {
    pub(super) day: u64,
    keys: Keys,
    pub(super) key: [u8; 32],
    pub(super) place: NodeId,
    /// The newest sequence number that was found.
    seen: Option<i64>,
    hot_until: Option<Instant>,
    pub(super) due: Instant,
    under_way: bool,
    /// How often in a row nobody has answered.
    silent: u32,
}

impl Reading {
    pub(super) fn new(secret: &PairSecret, day: u64, due: Instant) -> Self {
        let keys = Keys::new(secret, day, Author::Them);
        let key = keys.public();
        Self {
            day,
            keys,
            key,
            place: item::place(&key),
            seen: None,
            hot_until: None,
            due,
            under_way: false,
            silent: 0,
        }
    }

    fn is_like_today(&self, at: Moment) -> bool {
        let is_hot = self.hot_until.is_some_and(|until| at.now < until);
        let is_near = at.to_midnight() < MIDNIGHT && {
            let is_morning = at.wall_ms % super::DAY_MS < super::DAY_MS / 2;
            self.day
                == if is_morning {
                    at.day().saturating_sub(1)
                } else {
                    at.day() + 1
                }
        };
        self.day == at.day() || is_hot || is_near
    }

    pub(super) fn urgency(&self, is_lively: bool, at: Moment) -> Urgency {
        match is_lively && self.is_like_today(at) {
            true => Urgency::Soon,
            false => Urgency::Idle,
        }
    }

    /// Whether it may be looked at; not while it is.
    pub(super) fn is_free(&self) -> bool {
        !self.under_way
    }

    pub(super) fn started(&mut self, is_lively: bool, spread: f64, at: Moment) {
        self.under_way = true;
        let pause = match (self.is_like_today(at), is_lively) {
            (true, true) => LIVELY,
            (true, false) => QUIET,
            (false, true) => OTHER_LIVELY,
            (false, false) => OTHER_QUIET,
        };
        let silence = LIVELY * 2_u32.saturating_pow(self.silent.min(10));
        let pause = match self.silent {
            0 => pause,
            _ => pause.max(silence.min(LONGEST)),
        };
        self.due = at.now + pause.mul_f64(0.75 + spread / 2.0);
    }

    /// Something goes on: it is looked at after the short pause at the latest.
    pub(super) fn hasten(&mut self, at: Moment) {
        let pause = match self.is_like_today(at) {
            true => LIVELY,
            false => OTHER_LIVELY,
        };
        self.due = self.due.min(at.now + pause);
    }

    /// Another day has begun, and this may be it.
    pub(super) fn turn_over(&mut self, at: Moment) {
        if self.day == at.day() {
            self.due = self.due.min(at.now + QUIET);
        }
    }

    pub(super) fn done(&mut self, answers: usize) {
        self.under_way = false;
        self.silent = match answers {
            0 => self.silent + 1,
            _ => 0,
        };
    }

    /// An item was found here; its envelope, if it is a new one.
    pub(super) fn found(&mut self, item: &Item, at: Moment) -> Option<Vec<u8>> {
        if self.seen.is_some_and(|seen| item.seq <= seen) {
            return None;
        }
        let envelope = self.keys.open(item)?;
        self.seen = Some(item.seq);
        if self.day != at.day() {
            self.hot_until = Some(at.now + HOT);
        }
        Some(envelope)
    }
}
