//! Handshakes: what comes in that carries no data, which handshakes this end begins, and what becomes of their steps, which other
//! threads compute.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use punch_connect::WallClock;
use punch_packet::PeerHandle;
use punch_wireguard::{
    Asker, Checked, CookieChecker, HandshakeJob, JobResult, LocalKeys, Outcome, Step,
};

use crate::peers::{PeerTable, Session};
use crate::reply_to::ReplyTo;
use crate::report::DropReason;

/// Initiations of others that are being identified at once; beyond that they are lost, and come again.
const MAX_IDENTIFYING: usize = 8;

/// A step of a handshake, for any thread to perform.
pub struct Job {
    step: HandshakeJob<ReplyTo>,
    place: Option<Place>,
}

/// A step that has been performed.
pub struct JobDone {
    result: JobResult<ReplyTo>,
    /// Given up once the step is handled.
    _place: Option<Place>,
}

/// One of the initiations that are being identified: there are as many of these as copies of the one that [`Handshakes`] has. It goes
/// with the step, so a step that gets lost, in whatever way, gives its place back.
#[derive(Clone)]
struct Place(Arc<()>);

impl Job {
    /// Does it. Takes up to half a millisecond.
    pub fn perform(self) -> JobDone {
        JobDone {
            result: self.step.perform(),
            _place: self.place,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

impl fmt::Debug for JobDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobDone").finish_non_exhaustive()
    }
}

/// See the module.
pub(crate) struct Handshakes {
    own: Arc<LocalKeys>,
    checker: CookieChecker,
    jobs: VecDeque<Job>,
    /// Counts the initiations that are being identified.
    places: Place,
    messages: VecDeque<(ReplyTo, Vec<u8>)>,
}

/// What came of a job that was performed.
#[derive(Debug, Default)]
pub(crate) struct Performed {
    /// The peer whose session it was a step of: its tunnel is back, and there may be new keys.
    pub(crate) peer: Option<PeerHandle>,
    /// Why the message came to nothing, if it did.
    pub(crate) dropped: Option<DropReason>,
}

impl Handshakes {
    pub(crate) fn new(own: Arc<LocalKeys>) -> Self {
        Self {
            checker: CookieChecker::new(own.clone()),
            own,
            jobs: VecDeque::new(),
            places: Place(Arc::new(())),
            messages: VecDeque::new(),
        }
    }

    /// The initiations that are being identified.
    fn identifying(&self) -> usize {
        Arc::strong_count(&self.places.0) - 1
    }

    pub(crate) fn own(&self) -> &Arc<LocalKeys> {
        &self.own
    }

    /// The next step to be performed. There are never more than 8 of strangers and three for each session under way.
    pub(crate) fn poll_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// How many steps wait to be handed out.
    pub(crate) fn waiting(&self) -> usize {
        self.jobs.len()
    }

    /// The next message to be sent.
    pub(crate) fn poll_message(&mut self) -> Option<(ReplyTo, Vec<u8>)> {
        self.messages.pop_front()
    }

    /// A datagram that is neither data nor STUN; returns why it comes to nothing, if it does.
    pub(crate) fn handle_datagram(
        &mut self,
        peers: &mut PeerTable,
        from: ReplyTo,
        datagram: &[u8],
        clock: WallClock,
        now: Instant,
    ) -> Result<(), DropReason> {
        let origin = from.path.origin();
        let known = peers.is_known(origin);
        match self.checker.check(origin, known, datagram, now) {
            Checked::Overload => Err(DropReason::UnderLoad),
            Checked::Initiation(_) if self.identifying() >= MAX_IDENTIFYING => {
                Err(DropReason::UnderLoad)
            }
            Checked::Initiation(message) => {
                self.jobs.push_back(Job {
                    step: self.checker.identify(message, from),
                    place: Some(self.places.clone()),
                });
                Ok(())
            }
            Checked::For(number) => {
                // The keys that come of it settle a path, which is to be this peer's own.
                let taken = from.lets_in(peers.by_session(number))
                    && peers
                        .session(number)
                        .is_some_and(|session| session.handle_answer(datagram, from));
                if !taken {
                    return Err(DropReason::NotForUs);
                }
                if let Some(handle) = peers.by_session(number) {
                    self.work(peers, handle, clock, now);
                }
                Ok(())
            }
            Checked::Cookie(reply) => {
                self.reply(from, reply);
                Err(DropReason::UnderLoad)
            }
            Checked::Refused => Err(DropReason::NotForUs),
        }
    }

    /// A job has been performed.
    pub(crate) fn handle_job(
        &mut self,
        peers: &mut PeerTable,
        done: JobDone,
        clock: WallClock,
        now: Instant,
    ) -> Performed {
        match done.result {
            JobResult::Identified(asker) => {
                let taken = asker
                    .ok_or(DropReason::NotForUs)
                    .and_then(|asker| self.handle_asker(peers, &asker, clock, now));
                Performed {
                    peer: None,
                    dropped: taken.err(),
                }
            }
            JobResult::Step(step) => self.handle_step(peers, step, clock, now),
        }
    }

    /// A peer asks for new keys. It does not say for which session.
    fn handle_asker(
        &mut self,
        peers: &mut PeerTable,
        asker: &Asker<ReplyTo>,
        clock: WallClock,
        now: Instant,
    ) -> Result<(), DropReason> {
        let handle = peers.by_key(&asker.public).ok_or(DropReason::NotForUs)?;
        // A peer that passes another one's messages on over its own link would stand between the two from then on.
        if !asker.reply_to().lets_in(Some(handle)) {
            return Err(DropReason::NotForUs);
        }
        let peer = peers.get_mut(handle).ok_or(DropReason::NotForUs)?;
        let mut taken = false;
        for session in peer.tunnel.responders() {
            taken |= session.handle_asker(asker);
        }
        self.work(peers, handle, clock, now);
        taken.then_some(()).ok_or(DropReason::NotForUs)
    }

    fn handle_step(
        &mut self,
        peers: &mut PeerTable,
        step: Step<ReplyTo>,
        clock: WallClock,
        now: Instant,
    ) -> Performed {
        let id = step.session();
        let mut performed = Performed {
            peer: Some(id.peer),
            dropped: None,
        };
        let Some(session) = peers.session(id.number) else {
            return performed;
        };
        let outcome = session.handle_step(step, now);
        let Some(peer) = peers.get_mut(id.peer) else {
            return performed;
        };
        match outcome {
            Outcome::Nothing => {}
            Outcome::Refused => performed.dropped = Some(DropReason::NotForUs),
            // A response moves no path: an initiation may be a copy of an old one, and the peer is where it uses the new keys.
            Outcome::Send { reply_to, message } => {
                let path = peer.path.map(ReplyTo::path);
                if let Some(to) = reply_to.or(path) {
                    self.reply(to, message);
                }
            }
            Outcome::Established {
                reply_to,
                confirmation,
            } => {
                peer.settle_path(reply_to.path, now);
                let path = peer.path.map(ReplyTo::path);
                self.reply(path.unwrap_or(reply_to), confirmation);
            }
        }
        self.work(peers, id.peer, clock, now);
        performed
    }

    /// Collects the steps that the sessions with a peer want to be done.
    pub(crate) fn work(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        clock: WallClock,
        now: Instant,
    ) {
        let Some(peer) = peers.get_mut(handle) else {
            return;
        };
        let can_begin = peer.path.is_some();
        let wall = clock.since_epoch(now);
        let mut jobs = |session: &mut Session, can_begin: bool| {
            while let Some(job) = session.poll_job(can_begin, wall, now) {
                self.jobs.push_back(Job {
                    step: job,
                    place: None,
                });
            }
        };
        let resting = peer.tunnel.resting(now);
        for session in peer.tunnel.responders() {
            jobs(session, can_begin && resting != Some(session.number()));
        }
        // Sessions that are being left begin no handshakes.
        peer.tunnel.left().for_each(|session| jobs(session, false));
    }

    fn reply(&mut self, to: ReplyTo, bytes: Vec<u8>) {
        self.messages.push_back((to, bytes));
    }
}
