//! Introduction and welcome as sealed envelopes: Noise `IK_25519_AESGCM_SHA256` between the two temporary identities, with a prologue of
//! its own, and inside each a signature of the real identity.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::code::TemporaryPair;
use super::messages::{Introduction, Opened, Reply, put_signature};
use crate::seal::{self, Kind, SealError};
use crate::{DecodeError, Identity, PeerId};

const PROLOGUE: &[u8] = b"punch invite v1";
const INTRODUCTION: &[u8] = b"punch introduction v1";
const WELCOME: &[u8] = b"punch welcome v1";
/// The longest of both envelopes, in bytes: it fits into every channel.
pub const MAX_PAIRING_ENVELOPE: usize = seal::MAX_COMPACT;

/// Why an introduction or a welcome was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// It was not sealed with this code, or changed on the way.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It was, but says nothing that makes sense.
    #[error("its contents are invalid: {0}")]
    Contents(#[from] DecodeError),
    /// The identity that it names has not signed it.
    #[error("the machine that it names has not signed it")]
    Signature,
}

/// What is signed: for what, in which handshake, between which temporary identities, and the message.
fn signed(label: &[u8], hash: &[u8], pair: [&PeerId; 2], message: &[u8]) -> Vec<u8> {
    let [inviter, newcomer] = pair.map(|id| id.as_bytes().as_slice());
    [label, hash, inviter, newcomer, message].concat()
}

/// An introduction that was sent and whose reply is awaited.
pub struct PendingIntroduction {
    noise: HandshakeState,
    pair: [PeerId; 2],
}

impl PendingIntroduction {
    /// Seals an introduction of `identity`. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError::Internal`].
    pub fn seal(
        identity: &Identity,
        name: &str,
        pair: &TemporaryPair,
        seed: [u8; 32],
    ) -> Result<(Self, Vec<u8>), SealError> {
        let secret = pair.newcomer.x25519_secret();
        let ids = [pair.inviter.id(), pair.newcomer.id()];
        let mut noise = seal::builder(ChaCha20Rng::from_seed(seed))?
            .local_private_key(secret.as_bytes())
            .and_then(|b| {
                b.remote_public_key(&ids[0].x25519())
                    .and_then(|b| b.prologue(PROLOGUE))
                    .and_then(Builder::build_initiator)
            })
            .map_err(|_| SealError::Internal)?;
        let introduction = Introduction {
            id: identity.id(),
            name: name.to_owned(),
        };
        let mut plain = Zeroizing::new(introduction.encode());
        let hash = noise.get_handshake_hash();
        let over = signed(INTRODUCTION, hash, [&ids[0], &ids[1]], &plain);
        put_signature(&mut plain, &identity.sign(&over));
        let envelope = seal::write(&mut noise, Kind::Introduction, &plain)?;
        Ok((Self { noise, pair: ids }, envelope))
    }

    /// Opens the reply. One that does not authenticate leaves the introduction pending; whatever else is wrong with it is the true
    /// inviter's doing, and the introduction is spent.
    ///
    /// # Errors
    /// [`PairingError`].
    pub fn open(&mut self, envelope: &[u8]) -> Result<Reply, PairingError> {
        if envelope.len() > MAX_PAIRING_ENVELOPE || self.noise.is_handshake_finished() {
            return Err(SealError::Malformed.into());
        }
        // The hash changes with the reply.
        let hash = self.noise.get_handshake_hash().to_vec();
        let plain = seal::read(&mut self.noise, Kind::Welcome, envelope)?;
        match Reply::decode(&plain)? {
            Opened::TurnedAway(why) => Ok(Reply::TurnedAway(why)),
            Opened::Welcome(welcome, message) => {
                let [inviter, newcomer] = &self.pair;
                let over = signed(WELCOME, &hash, [inviter, newcomer], message);
                match welcome.message.id.verify(&over, &welcome.signature) {
                    true => Ok(Reply::Welcome(welcome.message)),
                    false => Err(PairingError::Signature),
                }
            }
        }
    }
}

/// An introduction that was opened, and can be answered.
pub struct OpenedIntroduction {
    noise: HandshakeState,
    pair: [PeerId; 2],
    /// What it says; its signature is good.
    pub introduction: Introduction,
}

impl OpenedIntroduction {
    /// Opens an introduction. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`PairingError`].
    pub fn open(
        pair: &TemporaryPair,
        envelope: &[u8],
        seed: [u8; 32],
    ) -> Result<Self, PairingError> {
        if envelope.len() > MAX_PAIRING_ENVELOPE {
            return Err(SealError::Malformed.into());
        }
        let secret = pair.inviter.x25519_secret();
        let ids = [pair.inviter.id(), pair.newcomer.id()];
        let mut noise = seal::builder(ChaCha20Rng::from_seed(seed))?
            .local_private_key(secret.as_bytes())
            .and_then(|b| b.prologue(PROLOGUE))
            .and_then(Builder::build_responder)
            .map_err(|_| SealError::Internal)?;
        let hash = noise.get_handshake_hash().to_vec();
        let plain = seal::read(&mut noise, Kind::Introduction, envelope)?;
        if noise.get_remote_static() != Some(&ids[1].x25519()) {
            return Err(SealError::NotAuthentic.into());
        }
        let (introduction, message) = Introduction::decode(&plain)?;
        let over = signed(INTRODUCTION, &hash, [&ids[0], &ids[1]], message);
        if !introduction
            .message
            .id
            .verify(&over, &introduction.signature)
        {
            return Err(PairingError::Signature);
        }
        Ok(Self {
            noise,
            pair: ids,
            introduction: introduction.message,
        })
    }

    /// Seals the reply of `identity`, the inviter's real one.
    ///
    /// # Errors
    /// [`SealError::Internal`].
    pub fn reply(mut self, identity: &Identity, reply: &Reply) -> Result<Vec<u8>, SealError> {
        let mut plain = Zeroizing::new(reply.encode());
        if matches!(reply, Reply::Welcome(_)) {
            let [inviter, newcomer] = &self.pair;
            let hash = self.noise.get_handshake_hash();
            let over = signed(WELCOME, hash, [inviter, newcomer], &plain);
            put_signature(&mut plain, &identity.sign(&over));
        }
        seal::write(&mut self.noise, Kind::Welcome, &plain)
    }
}
