//! The WireGuard sessions with one peer: the one in use, the one that a new exchange has brought (new preshared key, so a
//! new session), and up to two that are being left. A packet is never lost to the change: the old one receives until the new
//! one carries data.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use punch_packet::Buffer;

use crate::session::Session;

/// A session that was left still opens what is under way, for so long.
const LINGER: Duration = Duration::from_secs(10);
/// So many sessions are left at a time: exchanges may follow each other faster than packets arrive.
const MAX_LEFT: usize = 2;
/// A first handshake that goes unanswered is repeated after this, or three round trips if that is longer. (WireGuard's own repetition
/// comes after 5 s; before there is a tunnel at all, that is long.)
const RETRY: Duration = Duration::from_secs(1);
/// The time between repetitions that come after [`REST`] is doubled each time, and so often.
const MAX_DOUBLINGS: u32 = 7;
/// The session in use begins no handshakes for so long after that of its successor could have begun. What takes longer may never come
/// about, and the session in use must not lose its keys over that.
const REST: Duration = Duration::from_secs(10);

/// See the module.
pub struct Tunnel<R> {
    current: Option<Session<R>>,
    next: Option<Next<R>>,
    /// Those that are being left, the last one first.
    left: VecDeque<Left<R>>,
}

impl<R> Default for Tunnel<R> {
    fn default() -> Self {
        Self {
            current: None,
            next: None,
            left: VecDeque::new(),
        }
    }
}

struct Next<R> {
    session: Session<R>,
    initiator: bool,
    /// When its handshake could begin.
    started: Option<Instant>,
    retry_at: Option<Instant>,
    doublings: u32,
    /// It has been left for a newer one that came to nothing.
    restored: bool,
}

struct Left<R> {
    session: Session<R>,
    until: Instant,
    /// It is newer than the session in use and was left before it could be used here, while the peer may use it already.
    unused: bool,
}

impl<R: Copy> Next<R> {
    /// Whether it is sure that the peer has this session too: the initiator knows when the handshake is complete, the
    /// responder when something has come through it.
    fn is_ready(&self) -> bool {
        self.session.has_received() || (self.initiator && self.session.is_established())
    }
}

impl<R: Copy> Tunnel<R> {
    /// A session that stays: a plain WireGuard peer's.
    pub fn fixed(session: Session<R>) -> Self {
        Self {
            current: Some(session),
            ..Self::default()
        }
    }

    /// A new exchange has been proven. Returns the numbers that are no longer in use. The session of the one before it stays for a while
    /// if the peer may use it already, which this end learns by the first packet.
    pub fn prepare(&mut self, session: Session<R>, initiator: bool, now: Instant) -> Vec<u32> {
        let replaced = self.next.replace(Next {
            session,
            initiator,
            started: None,
            retry_at: None,
            doublings: 0,
            restored: false,
        });
        let Some(mut replaced) = replaced else {
            return Vec::new();
        };
        if let (None, Some(next)) = (&self.current, &mut self.next) {
            next.session.take_waiting(&mut replaced.session);
        }
        if replaced.session.has_keys() {
            self.leave(replaced.session, true, now)
        } else {
            vec![replaced.session.number()]
        }
    }

    /// This session is no longer in use, and opens what is under way; returns the numbers of those that do so no longer.
    fn leave(&mut self, session: Session<R>, unused: bool, now: Instant) -> Vec<u32> {
        self.left.push_front(Left {
            session,
            until: now + LINGER,
            unused,
        });
        let over = self.left.drain(MAX_LEFT.min(self.left.len())..);
        over.map(|left| left.session.number()).collect()
    }

    /// The new exchange came to nothing. Returns the numbers that are no longer in use. The peer may use the session of the exchange
    /// before that one by now, if this end has left it unused: it is the next one again, and this end begins a handshake in it, for the
    /// preshared key of the session in use may be gone at the peer.
    pub fn abandon(&mut self, now: Instant) -> Vec<u32> {
        let in_use = self.current.is_some();
        let given_up = self.next.take_if(|next| in_use && !next.restored);
        let Some(given_up) = given_up else {
            return Vec::new();
        };
        let at = self.left.iter().position(|left| left.unused);
        self.next = at.and_then(|at| self.left.remove(at)).map(|left| Next {
            session: left.session,
            initiator: false,
            started: Some(now),
            retry_at: Some(now + RETRY),
            doublings: 0,
            restored: true,
        });
        vec![given_up.session.number()]
    }

    /// The new exchange has a path: the initiator starts the handshake. The responder waits for it, but not for ever: what
    /// confirms the new session is a single datagram, and if that is lost the responder begins a handshake of its own.
    pub fn start(&mut self, now: Instant) {
        match &mut self.next {
            Some(next) if !next.initiator => {
                next.started.get_or_insert(now);
                next.retry_at.get_or_insert(now + 2 * RETRY);
            }
            Some(next) if !next.session.is_established() => {
                next.started.get_or_insert(now);
                next.doublings = 0;
                next.retry_at = Some(now + RETRY);
                next.session.initiate(now);
            }
            _ => {}
        }
    }

    /// The session that seals.
    pub fn sealer(&mut self) -> Option<&mut Session<R>> {
        match (&mut self.current, &mut self.next) {
            (Some(current), _) => Some(current),
            (None, Some(next)) => Some(&mut next.session),
            (None, None) => None,
        }
    }

    /// The sessions that answer a handshake initiation. It does not say which preshared key it is for, so each that may be
    /// meant answers, and the initiator takes the answer that opens.
    pub fn responders(&mut self) -> impl Iterator<Item = &mut Session<R>> {
        let next = self.next.as_mut().map(|next| &mut next.session);
        next.into_iter().chain(self.current.as_mut())
    }

    /// The sessions that are being left.
    pub fn left(&mut self) -> impl Iterator<Item = &mut Session<R>> {
        self.left.iter_mut().map(|left| &mut left.session)
    }

    /// The number of the session in use, while the handshake of the one that shall replace it is under way: it begins none of its own
    /// then, though no longer than for 10 s. The peer would answer with both sessions, since an initiation does not say which one it
    /// is for, and the new one would forget the keys that it has just agreed on for those that this end cannot use.
    pub fn resting(&self, now: Instant) -> Option<u32> {
        let started = self.next.as_ref()?.started?;
        if started + REST <= now {
            return None;
        }
        self.current.as_ref().map(Session::number)
    }

    /// Whether a session may have a step of a handshake to be done.
    pub fn wants_job(&mut self, now: Instant) -> bool {
        self.sessions().any(|session| session.wants_job(now))
    }

    /// All sessions.
    pub fn sessions(&mut self) -> impl Iterator<Item = &mut Session<R>> {
        let left = self.left.iter_mut().map(|left| &mut left.session);
        let next = self.next.as_mut().map(|next| &mut next.session);
        [self.current.as_mut(), next]
            .into_iter()
            .flatten()
            .chain(left)
    }

    /// The session with this number.
    pub fn by_number(&mut self, number: u32) -> Option<&mut Session<R>> {
        self.sessions().find(|session| session.number() == number)
    }

    /// Moves on to the new session once it is ready, or to one that was left unused once the peer uses it. Returns whether it moved, and
    /// the numbers that went out of use.
    pub fn promote(&mut self, now: Instant) -> (bool, Vec<u32>) {
        let Some(mut session) = self.take_ready() else {
            return (false, Vec::new());
        };
        if let Some(current) = &mut self.current {
            session.take_waiting(current);
        }
        let gone = match self.current.replace(session) {
            Some(left) => self.leave(left, false, now),
            None => Vec::new(),
        };
        (true, gone)
    }

    /// The newest session that the peer has too and that is newer than the one in use.
    fn take_ready(&mut self) -> Option<Session<R>> {
        let (older, session) = if let Some(next) = self.next.take_if(|next| next.is_ready()) {
            (0, next.session)
        } else {
            let used = |left: &Left<R>| left.unused && left.session.has_received();
            let at = self.left.iter().position(used)?;
            (at, self.left.remove(at)?.session)
        };
        let overtaken = self.left.range_mut(older..);
        overtaken.for_each(|left| left.unused = false);
        Some(session)
    }

    /// Timers of all sessions; `rtt` is the path's. Returns the numbers that went out of use.
    pub fn handle_timeout(
        &mut self,
        rtt: Option<Duration>,
        now: Instant,
        mut send: impl FnMut(&mut dyn FnMut(&mut Buffer) -> usize),
    ) -> Vec<u32> {
        if let Some(current) = &mut self.current {
            send(&mut |out| current.handle_timeout(now, out));
        }
        if let Some(next) = &mut self.next {
            if next.retry_at.is_some_and(|at| at <= now) && !next.is_ready() {
                next.initiator = true;
                if next.started.is_some_and(|at| at + REST <= now) {
                    next.doublings = MAX_DOUBLINGS.min(next.doublings + 1);
                }
                let wait = RETRY.max(rtt.unwrap_or_default() * 3);
                next.retry_at = Some(now + wait * (1 << next.doublings));
                next.session.initiate(now);
            }
            send(&mut |out| next.session.handle_timeout(now, out));
        }
        // A session that was left unused may become the next one again, as long as it is not clear what the next one comes to.
        let is_open = self.next.is_some();
        let stays = |left: &Left<R>| left.until > now || (left.unused && is_open);
        let over = self.left.iter().filter(|left| !stays(left));
        let gone = over.map(|left| left.session.number()).collect();
        self.left.retain(stays);
        gone
    }

    /// Whether there is a session that has been up. Keys that nothing is sent with expire after three minutes, and the next packet brings
    /// new ones: that is no loss of the connection.
    pub fn is_ready(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the session in use has keys that have not expired. (In their last 5 s they open and do not seal: packets wait then.)
    pub fn is_established(&self) -> bool {
        self.current.as_ref().is_some_and(Session::is_established)
    }

    /// When the session in use got its keys.
    pub fn last_handshake(&self) -> Option<Instant> {
        self.current.as_ref().and_then(Session::last_handshake)
    }

    /// The numbers of all sessions.
    pub fn numbers(&self) -> Vec<u32> {
        let next = self.next.as_ref().map(|next| &next.session);
        let left = self.left.iter().map(|left| &left.session);
        [self.current.as_ref(), next]
            .into_iter()
            .flatten()
            .chain(left)
            .map(Session::number)
            .collect()
    }
}
