//! The arithmetic of handshakes, as jobs that any thread can perform.

use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};

use crate::keys::LocalKeys;
use crate::message::{
    INITIATION_LENGTH, Initiation, OVERHEAD, RESPONSE_LENGTH, Response, SessionId, index_at,
};
use crate::slots::Loan;

/// What confirms new keys to the peer: an empty data message.
pub(crate) type Confirmation = [u8; OVERHEAD];

/// A step of a handshake, to be done by [`Self::perform`] on any thread. `R` says where an answer goes.
pub struct HandshakeJob<R>(Job<R>);

enum Job<R> {
    /// Find out whose static key an initiation names.
    Identify {
        own: Arc<LocalKeys>,
        message: Box<Initiation>,
        reply_to: R,
    },
    /// A step of one session.
    Step {
        session: SessionId,
        loan: Loan,
        task: Task<R>,
    },
}

pub(crate) enum Task<R> {
    /// Write an initiation.
    Begin,
    /// Answer one. `newest` is the last one of the peer that another tunnel has answered: those that are not newer get nothing.
    Answer {
        message: Box<Initiation>,
        newest: Option<Box<Initiation>>,
        reply_to: R,
    },
    /// Read the response to one.
    Finish { message: Box<Response>, reply_to: R },
    /// Forget keys that are no longer used.
    Wipe,
}

/// What came of a [`HandshakeJob`].
pub enum JobResult<R> {
    /// An initiation was read; `None` if it does not authenticate.
    Identified(Option<Asker<R>>),
    /// For [`crate::Session::handle_step`] of the session that it names.
    Step(Step<R>),
}

/// Somebody who asks for new keys and has named a static key; whether the message is theirs is known once it is answered.
#[derive(Debug)]
pub struct Asker<R> {
    /// The static key.
    pub public: [u8; 32],
    pub(crate) message: Box<Initiation>,
    pub(crate) reply_to: R,
}

impl<R> Asker<R> {
    /// Where the message came from.
    pub fn reply_to(&self) -> &R {
        &self.reply_to
    }
}

/// A step that has been done.
pub struct Step<R> {
    pub(crate) session: SessionId,
    pub(crate) loan: Loan,
    pub(crate) done: Done<R>,
}

impl<R> Step<R> {
    /// The session that the step belongs to.
    pub fn session(&self) -> SessionId {
        self.session
    }
}

pub(crate) enum Done<R> {
    Begun(Option<Box<Initiation>>),
    /// `None` if the initiation does not authenticate or is not new.
    Answered {
        response: Option<Box<Response>>,
        message: Box<Initiation>,
        reply_to: R,
    },
    /// `None` if the response does not authenticate.
    Finished {
        local: u32,
        confirmation: Option<Confirmation>,
        reply_to: R,
    },
    Wiped,
}

impl<R> HandshakeJob<R> {
    pub(crate) fn identify(own: Arc<LocalKeys>, message: Box<Initiation>, reply_to: R) -> Self {
        Self(Job::Identify {
            own,
            message,
            reply_to,
        })
    }

    pub(crate) fn step(session: SessionId, loan: Loan, task: Task<R>) -> Self {
        Self(Job::Step {
            session,
            loan,
            task,
        })
    }

    /// Does it. Takes up to half a millisecond.
    pub fn perform(self) -> JobResult<R> {
        match self.0 {
            Job::Identify {
                own,
                message,
                reply_to,
            } => JobResult::Identified(identify(&own, &message).map(|public| Asker {
                public,
                message,
                reply_to,
            })),
            Job::Step {
                session,
                mut loan,
                task,
            } => {
                let done = task.perform(loan.open());
                JobResult::Step(Step {
                    session,
                    loan,
                    done,
                })
            }
        }
    }
}

impl<R> Task<R> {
    fn perform(self, tunnel: Option<&mut Tunn>) -> Done<R> {
        match self {
            Self::Begin => Done::Begun(tunnel.and_then(begin)),
            Self::Answer {
                message,
                newest,
                reply_to,
            } => Done::Answered {
                response: tunnel.and_then(|tunnel| {
                    if let Some(newest) = newest {
                        // Only for its timestamp: the session that it makes is never used.
                        let _ = answer(tunnel, &newest);
                    }
                    answer(tunnel, &message)
                }),
                message,
                reply_to,
            },
            Self::Finish { message, reply_to } => Done::Finished {
                local: index_at(&*message, 8),
                confirmation: tunnel.and_then(|tunnel| finish(tunnel, &message)),
                reply_to,
            },
            Self::Wipe => Done::Wiped,
        }
    }
}

fn identify(own: &LocalKeys, message: &Initiation) -> Option<[u8; 32]> {
    let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(message) else {
        return None;
    };
    let half = parse_handshake_anon(&own.secret, &own.public, &initiation).ok()?;
    Some(half.peer_static_public)
}

fn begin(tunnel: &mut Tunn) -> Option<Box<Initiation>> {
    let mut message = Box::new([0; INITIATION_LENGTH]);
    match tunnel.format_handshake_initiation(&mut *message, true) {
        TunnResult::WriteToNetwork(_) => Some(message),
        _ => None,
    }
}

fn answer(tunnel: &mut Tunn, message: &Initiation) -> Option<Box<Response>> {
    let mut room = [0; INITIATION_LENGTH];
    match tunnel.decapsulate(None, message, &mut room) {
        TunnResult::WriteToNetwork(response) => (&*response).try_into().ok().map(Box::new),
        _ => None,
    }
}

fn finish(tunnel: &mut Tunn, message: &Response) -> Option<Confirmation> {
    let mut room = [0; RESPONSE_LENGTH];
    match tunnel.decapsulate(None, message, &mut room) {
        TunnResult::WriteToNetwork(confirmation) => (&*confirmation).try_into().ok(),
        _ => None,
    }
}
