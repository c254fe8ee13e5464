//! The arithmetic of WireGuard's handshake (paper §5.4.2, §5.4.3; Noise IKpsk2 by snow). Each step takes an eighth to a quarter of a
//! millisecond, so it is put into a [`Work`] that can be done elsewhere while packets go on.

use std::net::IpAddr;
use std::sync::Arc;

use punch_packet::PeerHandle;
use punch_signal_protocol::noise::SeededResolver;
use punch_traversal::DirectPath;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::gate::{INITIATION_LENGTH, Labels, MACS, Mac, Own, RESPONSE_LENGTH};
use super::keys::{self, Secrets};
use super::{INITIATION, RESPONSE};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// TAI64N.
pub(super) const TIMESTAMP: usize = 12;
const INITIATION_HEADER: usize = 8;
const RESPONSE_HEADER: usize = 12;

pub(super) type Preshared = Zeroizing<[u8; 32]>;
pub(super) type Seed = [u8; 32];

/// Whose handshake it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) peer: PeerHandle,
    /// The session's index.
    pub(crate) session: u32,
}

/// Where a message came from, and which of our addresses it came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) path: DirectPath,
    pub(crate) local: Option<IpAddr>,
}

/// A step of a handshake, to be done by [`Self::perform`] on any thread.
pub struct Work {
    own: Arc<Own>,
    seed: Seed,
    task: Task,
}

pub(super) enum Task {
    /// Write an initiation.
    Begin {
        owner: Owner,
        remote: [u8; 32],
        labels: Arc<Labels>,
        preshared: Preshared,
        local: u32,
        timestamp: [u8; TIMESTAMP],
        cookie: Option<Mac>,
    },
    /// Read an initiation: who sends it?
    Identify {
        origin: Origin,
        message: Box<[u8; INITIATION_LENGTH]>,
    },
    /// Answer one that has been read.
    Answer {
        owner: Owner,
        asked: Asked,
        labels: Arc<Labels>,
        preshared: Preshared,
        local: u32,
        cookie: Option<Mac>,
    },
    /// Read the answer.
    Finish {
        owner: Owner,
        origin: Origin,
        begun: Begun,
        message: [u8; RESPONSE_LENGTH],
    },
}

/// An initiation that has been sent.
pub(super) struct Begun {
    state: Box<HandshakeState>,
    pub(super) local: u32,
    /// Its first MAC; a cookie reply names it.
    pub(super) mac1: Mac,
}

/// An initiation that has been read.
pub(crate) struct Asked {
    /// `None` in a copy, which is read once more.
    state: Option<Box<HandshakeState>>,
    pub(crate) origin: Origin,
    /// The sender's static key.
    pub(crate) public: [u8; 32],
    pub(super) timestamp: [u8; TIMESTAMP],
    remote: u32,
    message: Box<[u8; INITIATION_LENGTH]>,
}

/// What came of a [`Work`].
pub struct WorkDone(pub(crate) Done);

pub(crate) enum Done {
    Begun {
        owner: Owner,
        begun: Option<HandshakeBegun>,
    },
    /// `None` for what does not authenticate.
    Identified(Option<Asked>),
    Answered {
        owner: Owner,
        origin: Origin,
        answer: Option<Answer>,
    },
    Finished {
        owner: Owner,
        origin: Origin,
        /// Where it does not authenticate, the state for the answer that does.
        result: Result<Secrets, HandshakeBegun>,
    },
}

/// An initiation to be sent, or one that has been.
pub(crate) struct HandshakeBegun {
    pub(super) begun: Begun,
    pub(crate) message: Option<Box<[u8; INITIATION_LENGTH]>>,
}

/// A response to be sent, and the keys that it makes.
pub(crate) struct Answer {
    pub(crate) message: [u8; RESPONSE_LENGTH],
    pub(super) mac1: Mac,
    pub(super) secrets: Secrets,
}

impl Work {
    pub(super) fn new(own: &Arc<Own>, seed: Seed, task: Task) -> Self {
        Self {
            own: own.clone(),
            seed,
            task,
        }
    }

    /// Does it.
    pub fn perform(self) -> WorkDone {
        let Self { own, seed, task } = self;
        WorkDone(match task {
            Task::Begin {
                owner,
                remote,
                labels,
                preshared,
                local,
                timestamp,
                cookie,
            } => {
                let state = builder(&own, seed)
                    .and_then(|builder| builder.remote_public_key(&remote))
                    .and_then(|builder| builder.psk(2, &preshared))
                    .and_then(Builder::build_initiator);
                let begun = state.and_then(|state| begin(state, &labels, local, timestamp, cookie));
                Done::Begun {
                    owner,
                    begun: begun.ok(),
                }
            }
            Task::Identify { origin, message } => {
                Done::Identified(identify(&own, seed, origin, message))
            }
            Task::Answer {
                owner,
                asked,
                labels,
                preshared,
                local,
                cookie,
            } => Done::Answered {
                owner,
                origin: asked.origin,
                answer: if asked.state.is_some() {
                    Some(asked)
                } else {
                    identify(&own, seed, asked.origin, asked.message)
                }
                .and_then(|asked| answer(asked, &labels, &preshared, local, cookie)),
            },
            Task::Finish {
                owner,
                origin,
                begun,
                message,
            } => Done::Finished {
                owner,
                origin,
                result: finish(begun, &message),
            },
        })
    }
}

impl Asked {
    /// The same, for another session that may be meant.
    pub(crate) fn copy(&self) -> Self {
        Self {
            state: None,
            message: self.message.clone(),
            ..*self
        }
    }
}

fn builder(own: &Own, seed: Seed) -> Result<Builder<'_>, snow::Error> {
    let params: NoiseParams = PATTERN.parse()?;
    let resolver = SeededResolver(ChaCha20Rng::from_seed(seed));
    Builder::with_resolver(params, Box::new(resolver))
        .local_private_key(&*own.secret)?
        .prologue(PROLOGUE)
}

fn begin(
    mut state: HandshakeState,
    labels: &Labels,
    local: u32,
    timestamp: [u8; TIMESTAMP],
    cookie: Option<Mac>,
) -> Result<HandshakeBegun, snow::Error> {
    let mut message = Box::new([0; INITIATION_LENGTH]);
    message[0] = INITIATION;
    message[4..INITIATION_HEADER].copy_from_slice(&local.to_le_bytes());
    let body = &mut message[INITIATION_HEADER..INITIATION_LENGTH - MACS];
    state.write_message(&timestamp, body)?;
    let mac1 = labels.sign(&mut *message, cookie.as_ref());
    Ok(HandshakeBegun {
        begun: Begun {
            state: Box::new(state),
            local,
            mac1,
        },
        message: Some(message),
    })
}

fn identify(
    own: &Own,
    seed: Seed,
    origin: Origin,
    message: Box<[u8; INITIATION_LENGTH]>,
) -> Option<Asked> {
    let mut state = builder(own, seed).and_then(Builder::build_responder).ok()?;
    let mut timestamp = [0; TIMESTAMP];
    let body = &message[INITIATION_HEADER..INITIATION_LENGTH - MACS];
    state.read_message(body, &mut timestamp).ok()?;
    let public = state.get_remote_static()?.try_into().ok()?;
    let remote = u32::from_le_bytes(*message[4..].first_chunk()?);
    Some(Asked {
        state: Some(Box::new(state)),
        origin,
        public,
        timestamp,
        remote,
        message,
    })
}

fn answer(
    asked: Asked,
    labels: &Labels,
    preshared: &Preshared,
    local: u32,
    cookie: Option<Mac>,
) -> Option<Answer> {
    let remote = asked.remote;
    let mut state = asked.state?;
    state.set_psk(2, &**preshared).ok()?;
    let mut message = [0; RESPONSE_LENGTH];
    message[0] = RESPONSE;
    message[4..8].copy_from_slice(&local.to_le_bytes());
    message[8..RESPONSE_HEADER].copy_from_slice(&remote.to_le_bytes());
    let body = &mut message[RESPONSE_HEADER..RESPONSE_LENGTH - MACS];
    state.write_message(&[], body).ok()?;
    let mac1 = labels.sign(&mut message, cookie.as_ref());
    Some(Answer {
        message,
        mac1,
        secrets: split(&mut state, local, remote)?,
    })
}

fn finish(begun: Begun, message: &[u8; RESPONSE_LENGTH]) -> Result<Secrets, HandshakeBegun> {
    let Begun {
        mut state,
        local,
        mac1,
    } = begun;
    let [_, _, _, _, a, b, c, d, ..] = *message;
    let remote = u32::from_le_bytes([a, b, c, d]);
    let body = &message[RESPONSE_HEADER..RESPONSE_LENGTH - MACS];
    // snow rolls its state back when a message does not authenticate.
    let read = state.read_message(body, &mut []).ok();
    read.and_then(|_| split(&mut state, local, remote))
        .ok_or(HandshakeBegun {
            begun: Begun { state, local, mac1 },
            message: None,
        })
}

fn split(state: &mut HandshakeState, local: u32, remote: u32) -> Option<Secrets> {
    if !state.is_handshake_finished() {
        return None;
    }
    let (first, second) = state.dangerously_get_raw_split();
    let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
    let initiator = state.is_initiator();
    let (seal, open) = if initiator {
        (first, second)
    } else {
        (second, first)
    };
    Some(Secrets {
        local,
        remote,
        initiator,
        seal: keys::key(&seal)?,
        open: keys::key(&open)?,
    })
}
