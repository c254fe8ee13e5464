//! The demand for a connection with one peer: the user's, or that of the peer itself.

use std::time::{Duration, Instant};

use crate::UserWish;

/// A peer that has called this machine and is gone is looked for this long.
const CALLER_RETRY_PERIOD: Duration = Duration::from_secs(600);

/// The end that wants the connection, if there is one. What the user has said comes before a call of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Demand {
    /// Nobody does; an offer of the peer is answered.
    #[default]
    Nobody,
    /// The user has said `up`.
    User,
    /// The peer has called this machine.
    Caller(Caller),
    /// The user has said `down`: the peer's offers are refused.
    Blocked,
}

/// How it stands with a peer that has called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// There is no path yet; it is looked for until then.
    Arriving { until: Instant },
    /// There is a path.
    Served,
    /// The path is lost; the peer is looked for until then.
    Lost { until: Instant },
}

impl Demand {
    /// What the user has said last.
    pub(super) fn wish(self) -> UserWish {
        match self {
            Self::Nobody | Self::Caller(_) => UserWish::Unsaid,
            Self::User => UserWish::Up,
            Self::Blocked => UserWish::Down,
        }
    }

    /// The user says something else than before.
    pub(super) fn set_wish(&mut self, wish: UserWish) {
        *self = match wish {
            UserWish::Unsaid => Self::Nobody,
            UserWish::Up => Self::User,
            UserWish::Down => Self::Blocked,
        };
    }

    /// Whether anybody wants the connection.
    pub(super) fn is_wanted(self) -> bool {
        matches!(self, Self::User | Self::Caller(_))
    }

    /// Whether servers are to tell when the peer logs in. A caller calls again by itself; a path that is lost both ends look for.
    pub(super) fn wants_watch(self) -> bool {
        matches!(self, Self::User | Self::Caller(Caller::Lost { .. }))
    }

    /// The peer has proven an exchange that it began.
    pub(super) fn handle_call(&mut self, has_path: bool, now: Instant) {
        if *self == Self::Nobody {
            *self = Self::Caller(if has_path {
                Caller::Served
            } else {
                Caller::arriving(now)
            });
        }
    }

    /// A path is selected.
    pub(super) fn handle_path(&mut self) {
        if let Self::Caller(caller) = self {
            *caller = Caller::Served;
        }
    }

    /// The path that served is dead.
    pub(super) fn handle_lost(&mut self, now: Instant) {
        if let Self::Caller(caller) = self {
            *caller = Caller::Lost {
                until: now + CALLER_RETRY_PERIOD,
            };
        }
    }

    /// The attempt with the path has ended in another way than by loss.
    pub(super) fn handle_no_path(&mut self, now: Instant) {
        if *self == Self::Caller(Caller::Served) {
            *self = Self::Caller(Caller::arriving(now));
        }
    }

    /// One of the two ends has said goodbye.
    pub(super) fn hang_up(&mut self) {
        if let Self::Caller(_) = self {
            *self = Self::Nobody;
        }
    }

    /// Gives up a caller that was looked for long enough; returns whether that is so now.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let expired = self.is_expired(now);
        if expired {
            *self = Self::Nobody;
        }
        expired
    }

    /// Whether a caller was looked for long enough.
    pub(super) fn is_expired(self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|until| until <= now)
    }

    /// When [`Self::expire`] wants to be called.
    pub(super) fn poll_timeout(self) -> Option<Instant> {
        match self {
            Self::Caller(Caller::Arriving { until } | Caller::Lost { until }) => Some(until),
            _ => None,
        }
    }
}

impl Caller {
    fn arriving(now: Instant) -> Self {
        Self::Arriving {
            until: now + CALLER_RETRY_PERIOD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    #[test]
    fn a_caller_is_watched_for_only_while_its_path_is_lost() {
        let now = start();
        let mut demand = Demand::default();
        demand.handle_call(false, now);
        assert!(demand.is_wanted() && !demand.wants_watch());
        demand.handle_path();
        assert!(demand.is_wanted() && !demand.wants_watch());
        demand.handle_lost(now);
        assert!(demand.is_wanted() && demand.wants_watch());
        demand.handle_path();
        assert!(!demand.wants_watch());
    }

    #[test]
    fn a_caller_is_given_up_after_its_time_and_a_path_that_ends_gives_it_a_new_one() {
        let now = start();
        let later = now + CALLER_RETRY_PERIOD;
        let mut demand = Demand::default();
        demand.handle_call(true, now);
        assert!(!demand.expire(later));
        demand.handle_no_path(later);
        assert!(!demand.expire(later));
        assert!(demand.expire(later + CALLER_RETRY_PERIOD));
        assert_eq!(demand, Demand::Nobody);
    }

    #[test]
    fn what_the_user_has_said_outlasts_calls_and_goodbyes() {
        let now = start();
        for wish in [UserWish::Up, UserWish::Down] {
            let mut demand = Demand::default();
            demand.set_wish(wish);
            demand.handle_call(false, now);
            demand.handle_lost(now);
            demand.hang_up();
            assert_eq!(demand.wish(), wish);
            assert_eq!(demand.poll_timeout(), None);
        }
    }
}
