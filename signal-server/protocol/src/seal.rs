//! The end-to-end seal: Noise `IK_25519_AESGCM_SHA256` with an ML-KEM-768 exchange inside.
//!
//! An offer is Noise message 1 and carries the initiator's encapsulation key; an answer is message 2 and carries the
//! ciphertext; a refusal is message 2, too, and ends the offer. Later notes are transport messages with an explicit nonce,
//! so that they survive loss, reordering and several servers. Both ends derive the WireGuard preshared key from the two keys
//! that Noise ends with, the ML-KEM secret and the handshake hash.
//!
//! A compact offer and its answer have no part of the ML-KEM exchange, which follows in two notes: until then the exchange has no
//! preshared key.

use hkdf::Hkdf;
use ml_kem::kem::KeyExport;
use ml_kem::{DecapsulationKey768, Seed};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use sha2::Sha256;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::Credentials;
pub use crate::exchange::{Exchange, ExchangeKeys, PresharedKey, SealError};
use crate::kem::{NOTE, Share, decapsulate, encapsulate};
use crate::noise::SeededResolver;
use crate::{DecodeError, Description, Identity, OfferRefusal, PeerId};

const PATTERN: &str = "Noise_IK_25519_AESGCM_SHA256";
const PROLOGUE: &[u8] = b"punch envelope v1";
const TAG: usize = 16;
/// The longest compact envelope, in bytes.
pub const MAX_COMPACT: usize = 911;
/// What the envelope of an offer has beside the description: its kind, the ephemeral key, the static key and two tags.
const OFFER_OVERHEAD: usize = 1 + 32 + 32 + TAG + TAG;

/// What kind of envelope some bytes claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Starts an exchange.
    Offer,
    /// Answers an offer.
    Answer,
    /// Follows both.
    Note,
    /// Refuses an offer, in the place of an answer.
    Refusal,
    /// Introduces a newcomer to the machine that has invited it.
    Introduction,
    /// Answers an introduction.
    Welcome,
}

impl Kind {
    /// Reads the first byte.
    pub fn of(envelope: &[u8]) -> Option<Self> {
        match *envelope.first()? {
            1 => Some(Self::Offer),
            2 => Some(Self::Answer),
            NOTE => Some(Self::Note),
            4 => Some(Self::Refusal),
            5 => Some(Self::Introduction),
            6 => Some(Self::Welcome),
            _ => None,
        }
    }

    /// The first byte of an envelope of this kind.
    fn number(self) -> u8 {
        match self {
            Self::Offer => 1,
            Self::Answer => 2,
            Self::Note => NOTE,
            Self::Refusal => 4,
            Self::Introduction => 5,
            Self::Welcome => 6,
        }
    }
}

/// Why an answer or a refusal was not opened, and the offer if it is still pending.
pub type AnswerRefused = (Option<Box<PendingOffer>>, SealError);

/// An offer that we sent and whose answer is awaited.
pub struct PendingOffer {
    noise: HandshakeState,
    kem: Box<DecapsulationKey768>,
    /// Whether the offer was compact, as its answer must be then.
    is_compact: bool,
}

impl PendingOffer {
    /// Seals `description` for `to`; its `kem` field is filled in here. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError::Internal`] when the description is too large to seal.
    pub fn seal(
        identity: &Identity,
        to: &PeerId,
        description: Description,
        seed: [u8; 32],
    ) -> Result<(Self, Vec<u8>), SealError> {
        Self::seal_either(identity, to, (description, false), seed)
    }

    /// Seals `description` for `to` without the part of the ML-KEM exchange, in [`MAX_COMPACT`] bytes at the most: candidates that do not
    /// fit are left out, those of the lowest priority first. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError::Internal`] when the rest of the description is too large.
    pub fn seal_compact(
        identity: &Identity,
        to: &PeerId,
        description: Description,
        seed: [u8; 32],
    ) -> Result<(Self, Vec<u8>), SealError> {
        Self::seal_either(identity, to, (compact(description)?, true), seed)
    }

    fn seal_either(
        identity: &Identity,
        to: &PeerId,
        (mut description, is_compact): (Description, bool),
        seed: [u8; 32],
    ) -> Result<(Self, Vec<u8>), SealError> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut kem_seed = Zeroizing::new([0; 64]);
        rng.fill_bytes(&mut *kem_seed);
        let kem = DecapsulationKey768::from_seed(Seed::from(*kem_seed));
        if !is_compact {
            description.kem = kem.encapsulation_key().to_bytes().to_vec();
        }

        let secret = identity.x25519_secret();
        let public = to.x25519();
        let mut noise = builder(rng)?
            .local_private_key(secret.as_bytes())
            .and_then(|b| b.remote_public_key(&public))
            .and_then(|b| b.prologue(PROLOGUE))
            .and_then(Builder::build_initiator)
            .map_err(|_| SealError::Internal)?;
        let plain = Zeroizing::new(description.encode());
        let envelope = write(&mut noise, Kind::Offer, &plain)?;
        let kem = Box::new(kem);
        let pending = Self {
            noise,
            kem,
            is_compact,
        };
        Ok((pending, envelope))
    }

    /// Opens the answer. A wrong one leaves the offer pending, so that a forged answer costs nothing: the caller gets
    /// itself back.
    ///
    /// # Errors
    /// [`SealError`], with the still pending offer; with `None` when the true peer's answer is itself invalid.
    pub fn open_answer(
        mut self,
        envelope: &[u8],
    ) -> Result<(Exchange, Description), AnswerRefused> {
        // snow rolls its state back when a message does not authenticate, so the offer stays usable.
        let plain = match read(&mut self.noise, Kind::Answer, envelope) {
            Ok(plain) => plain,
            Err(error) => return Err((Some(Box::new(self)), error)),
        };
        // The handshake was complete before the contents are read: no second answer could open.
        let description = Description::decode(&plain).map_err(|error| (None, error.into()))?;
        if description.is_compact() != self.is_compact {
            return Err((None, SealError::BadKem));
        }
        if self.is_compact {
            let exchange = Exchange::compact(self.noise, Share::Offered(self.kem));
            return exchange
                .map(|exchange| (exchange, description))
                .map_err(|error| (None, error));
        }
        let Some(secret) = decapsulate(&self.kem, &description.kem) else {
            return Err((None, SealError::BadKem));
        };
        let exchange = Exchange::new(self.noise, &secret);
        exchange
            .map(|exchange| (exchange, description))
            .map_err(|error| (None, error))
    }

    /// Opens a refusal of this offer, which ends it. A wrong one leaves the offer pending, as with [`Self::open_answer`].
    ///
    /// # Errors
    /// [`SealError`], with the still pending offer; with `None` when the true peer's refusal is itself invalid.
    pub fn open_refusal(mut self, envelope: &[u8]) -> Result<OfferRefusal, AnswerRefused> {
        let plain = match read(&mut self.noise, Kind::Refusal, envelope) {
            Ok(plain) => plain,
            Err(error) => return Err((Some(Box::new(self)), error)),
        };
        OfferRefusal::decode(&plain).map_err(|error| (None, error.into()))
    }
}

/// An offer that opens, so it is its sender's, and whose contents were not read yet.
pub struct UnreadOffer {
    noise: HandshakeState,
    plain: Zeroizing<Vec<u8>>,
}

impl UnreadOffer {
    /// Opens an offer that `from` is said to have sent. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError`]; [`SealError::NotAuthentic`] also when it comes from somebody else than `from`.
    pub fn open(
        identity: &Identity,
        from: &PeerId,
        envelope: &[u8],
        seed: [u8; 32],
    ) -> Result<Self, SealError> {
        let secret = identity.x25519_secret();
        let mut noise = builder(ChaCha20Rng::from_seed(seed))?
            .local_private_key(secret.as_bytes())
            .and_then(|b| b.prologue(PROLOGUE))
            .and_then(Builder::build_responder)
            .map_err(|_| SealError::Internal)?;
        let plain = read(&mut noise, Kind::Offer, envelope)?;
        if noise.get_remote_static() != Some(&from.x25519()) {
            return Err(SealError::NotAuthentic);
        }
        Ok(Self { noise, plain })
    }

    /// Reads what the offer says.
    ///
    /// # Errors
    /// [`DecodeError`], with the offer, which can still be refused.
    pub fn read(self) -> Result<OpenedOffer, (Box<Self>, DecodeError)> {
        match Description::decode(&self.plain) {
            Ok(description) => Ok(OpenedOffer {
                noise: self.noise,
                description,
            }),
            Err(error) => Err((Box::new(self), error)),
        }
    }

    /// Seals the refusal of the offer.
    ///
    /// # Errors
    /// [`SealError::Internal`].
    pub fn refuse(mut self, refusal: &OfferRefusal) -> Result<Vec<u8>, SealError> {
        write(&mut self.noise, Kind::Refusal, &refusal.encode())
    }
}

/// A peer's offer, opened; from here one can look at it and answer, refuse it, or let it go.
pub struct OpenedOffer {
    noise: HandshakeState,
    /// What the offer says.
    pub description: Description,
}

impl OpenedOffer {
    /// Opens an offer that `from` is said to have sent, and reads it. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError`], as with [`UnreadOffer::open`].
    pub fn open(
        identity: &Identity,
        from: &PeerId,
        envelope: &[u8],
        seed: [u8; 32],
    ) -> Result<Self, SealError> {
        let unread = UnreadOffer::open(identity, from, envelope, seed)?;
        Ok(unread.read().map_err(|(_, error)| error)?)
    }

    /// Seals the refusal of the offer.
    ///
    /// # Errors
    /// [`SealError::Internal`].
    pub fn refuse(mut self, refusal: &OfferRefusal) -> Result<Vec<u8>, SealError> {
        write(&mut self.noise, Kind::Refusal, &refusal.encode())
    }

    /// Seals the answer, compact if the offer is; its `kem` field is filled in here. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError::BadKem`] when the offer's encapsulation key is invalid (FIPS 203 §7.2).
    pub fn answer(
        mut self,
        mut description: Description,
        seed: [u8; 32],
    ) -> Result<(Exchange, Vec<u8>), SealError> {
        let seed = Zeroizing::new(seed);
        if self.description.is_compact() {
            let plain = Zeroizing::new(compact(description)?.encode());
            let envelope = write(&mut self.noise, Kind::Answer, &plain)?;
            let exchange = Exchange::compact(self.noise, Share::Answered(seed))?;
            return Ok((exchange, envelope));
        }
        let (ciphertext, secret) =
            encapsulate(&self.description.kem, &seed).ok_or(SealError::BadKem)?;
        description.kem = ciphertext;
        let plain = Zeroizing::new(description.encode());
        let envelope = write(&mut self.noise, Kind::Answer, &plain)?;
        Ok((Exchange::new(self.noise, &secret)?, envelope))
    }
}

/// What is left of a description where there is little room.
fn compact(mut description: Description) -> Result<Description, SealError> {
    description.kem = Vec::new();
    while description.encode().len() + OFFER_OVERHEAD > MAX_COMPACT {
        let candidates = &mut description.candidates;
        let ranked = candidates.iter().enumerate();
        let worst = ranked.min_by_key(|(_, candidate)| candidate.priority());
        let (index, _) = worst.ok_or(SealError::Internal)?;
        candidates.remove(index);
    }
    Ok(description)
}

/// The credentials of checks over TCP that belong to those of a description: of the same name, and with a password that is made from
/// theirs (HKDF-SHA-256, RFC 5869). A check that somebody has seen go over UDP opens no connection, and one over TCP is no check of a
/// path over UDP.
pub fn stream_credentials(of: &Credentials) -> Credentials {
    let mut credentials = of.clone();
    let keys = Hkdf::<Sha256>::new(None, &of.password);
    // 32 bytes are never too many for SHA-256.
    let _ = keys.expand(b"punch stream credentials v1", &mut credentials.password);
    credentials
}

pub(crate) fn write(
    noise: &mut HandshakeState,
    kind: Kind,
    plain: &[u8],
) -> Result<Vec<u8>, SealError> {
    // Ephemeral key, encrypted static key and two tags at the most.
    let mut sealed = vec![0; 32 + 32 + TAG + plain.len() + TAG];
    let length = noise
        .write_message(plain, &mut sealed)
        .map_err(|_| SealError::Internal)?;
    sealed.truncate(length);
    let mut envelope = Vec::with_capacity(1 + length);
    envelope.push(kind.number());
    envelope.append(&mut sealed);
    Ok(envelope)
}

pub(crate) fn read(
    noise: &mut HandshakeState,
    kind: Kind,
    envelope: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let Some((_, sealed)) = envelope.split_first() else {
        return Err(SealError::Malformed);
    };
    if Kind::of(envelope) != Some(kind) {
        return Err(SealError::Malformed);
    }
    let mut plain = Zeroizing::new(vec![0; envelope.len()]);
    let length = noise
        .read_message(sealed, &mut plain)
        .map_err(|_| SealError::NotAuthentic)?;
    plain.truncate(length);
    Ok(plain)
}

pub(crate) fn builder<'a>(rng: ChaCha20Rng) -> Result<Builder<'a>, SealError> {
    let params: NoiseParams = PATTERN.parse().map_err(|_| SealError::Internal)?;
    Ok(Builder::with_resolver(
        params,
        Box::new(SeededResolver(rng)),
    ))
}
