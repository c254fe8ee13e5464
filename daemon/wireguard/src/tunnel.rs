//! The WireGuard sessions with one peer: the one in use, the one that a new exchange has brought (new preshared key, so a
//! new session), and the one that is being left. A packet is never lost to the change: the old one receives until the new
//! one carries data.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use punch_packet::Buffer;

use crate::session::Session;

/// The session that was left still opens what is under way.
const LINGER: Duration = Duration::from_secs(10);
/// So many sessions are left at a time: exchanges may follow each other faster than packets arrive.
const MAX_LEFT: usize = 2;
/// A first handshake that goes unanswered is repeated after this, or three round trips if that is longer. (WireGuard's own
/// repetition comes after 5 s; before there is a tunnel at all, that is long.)
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Tunnel<R> {
    current: Option<Session<R>>,
    next: Option<Next<R>>,
    /// Those that are being left, the last one first, and until when.
    left: VecDeque<(Session<R>, Instant)>,
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
    retry_at: Option<Instant>,
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
            retry_at: None,
        });
        match replaced {
            Some(next) if next.session.has_keys() => self.leave(next.session, now),
            Some(next) => vec![next.session.number()],
            None => Vec::new(),
        }
    }

    /// This session is no longer in use, and opens what is under way; returns the numbers of those that do so no longer.
    fn leave(&mut self, session: Session<R>, now: Instant) -> Vec<u32> {
        self.left.push_front((session, now + LINGER));
        let over = self.left.drain(MAX_LEFT.min(self.left.len())..);
        over.map(|(session, _)| session.number()).collect()
    }

    /// The new exchange came to nothing. Returns the numbers that are no longer in use.
    pub fn abandon(&mut self) -> Vec<u32> {
        let next = self.next.take_if(|_| self.current.is_some());
        next.map(|next| next.session.number()).into_iter().collect()
    }

    /// The new exchange has a path: the initiator starts the handshake. The responder waits for it, but not for ever: what
    /// confirms the new session is a single datagram, and if that is lost the responder begins a handshake of its own.
    pub fn start(&mut self, now: Instant) {
        match &mut self.next {
            Some(next) if !next.initiator => {
                next.retry_at.get_or_insert(now + 2 * RETRY);
            }
            Some(next) if !next.session.is_established() => {
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
        self.left.iter_mut().map(|(session, _)| session)
    }

    /// The number of the session in use, while the handshake of the one that shall replace it is under way: it begins none of its own
    /// then. The peer would answer with both sessions, since an initiation does not say which one it is for, and the new one would
    /// forget the keys that it has just agreed on for those that this end cannot use.
    pub fn resting(&self) -> Option<u32> {
        let is_begun = |next: &&Next<R>| next.retry_at.is_some();
        self.next.as_ref().filter(is_begun)?;
        self.current.as_ref().map(Session::number)
    }

    /// Whether a session may have a step of a handshake to be done.
    pub fn wants_job(&mut self, now: Instant) -> bool {
        self.sessions().any(|session| session.wants_job(now))
    }

    /// All sessions.
    pub fn sessions(&mut self) -> impl Iterator<Item = &mut Session<R>> {
        let left = self.left.iter_mut().map(|(session, _)| session);
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

    /// Moves on to the new session once it is ready. Returns whether it moved, and the numbers that went out of use.
    pub fn promote(&mut self, now: Instant) -> (bool, Vec<u32>) {
        let Some(mut next) = self.next.take_if(|next| next.is_ready()) else {
            return (false, Vec::new());
        };
        if let Some(current) = &mut self.current {
            next.session.take_waiting(current);
        }
        let gone = match self.current.replace(next.session) {
            Some(left) => self.leave(left, now),
            None => Vec::new(),
        };
        (true, gone)
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
                next.retry_at = Some(now + RETRY.max(rtt.unwrap_or_default() * 3));
                next.session.initiate(now);
            }
            send(&mut |out| next.session.handle_timeout(now, out));
        }
        let left = self.left.iter();
        let stay = left.take_while(|(_, until)| *until > now).count();
        let over = self.left.drain(stay..);
        over.map(|(session, _)| session.number()).collect()
    }

    /// Whether there is a session that has been up. Idle keys expire after three minutes, and the next packet renews them:
    /// that is no loss of the connection.
    pub fn is_ready(&self) -> bool {
        self.current.is_some()
    }

    /// Whether packets can be sealed right now.
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
        let left = self.left.iter().map(|(session, _)| session);
        [self.current.as_ref(), next]
            .into_iter()
            .flatten()
            .chain(left)
            .map(Session::number)
            .collect()
    }
}
