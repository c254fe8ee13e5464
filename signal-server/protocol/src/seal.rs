//! The end-to-end seal: Noise `IK_25519_AESGCM_SHA256` with an ML-KEM-768 exchange inside.
//!
//! An offer is Noise message 1 and carries the initiator's encapsulation key; an answer is message 2 and carries the
//! ciphertext; a refusal is message 2, too, and ends the offer. Later notes are transport messages with an explicit nonce,
//! so that they survive loss, reordering and several servers. Both ends derive the WireGuard preshared key from the two keys
//! that Noise ends with, the ML-KEM secret and the handshake hash.

use std::fmt;

use hkdf::Hkdf;
use ml_kem::kem::{Decapsulate, Key, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768, Seed};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use sha2::Sha256;
use snow::params::{CipherChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::Cipher;
use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, Zeroizing};

use crate::Credentials;

use crate::noise::SeededResolver;
use crate::{DecodeError, Description, Identity, Note, OfferRefusal, PeerId, RelayToken};

const PATTERN: &str = "Noise_IK_25519_AESGCM_SHA256";
const PROLOGUE: &[u8] = b"punch envelope v1";
const TAG: usize = 16;
/// The longest message of Noise (§3).
const MAX_MESSAGE: usize = 65_535;
/// How far back a note may come late, in nonces.
const WINDOW: u64 = 64;

/// A WireGuard preshared key; wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    /// A key that an earlier process of this machine had.
    pub fn inherited(key: Zeroizing<[u8; 32]>) -> Self {
        Self(key)
    }

    /// The key itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

/// Why an envelope was not opened or not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not an envelope, or of the wrong kind for where it came.
    #[error("not an envelope of this kind")]
    Malformed,
    /// Not sealed for us by the one who is said to have sent it, or changed on the way.
    #[error("the envelope does not open: wrong sender, wrong receiver or changed on the way")]
    NotAuthentic,
    /// A nonce that was seen before or is too old.
    #[error("the envelope was seen before")]
    Replayed,
    /// The ML-KEM part has the wrong length or value.
    #[error("the envelope's key encapsulation is invalid")]
    BadKem,
    /// Opened, but the contents make no sense.
    #[error("the envelope's contents are invalid: {0}")]
    Contents(#[from] DecodeError),
    /// Our own side could not build the message.
    #[error("the envelope could not be made")]
    Internal,
}

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
}

impl Kind {
    /// Reads the first byte.
    pub fn of(envelope: &[u8]) -> Option<Self> {
        match envelope.first()? {
            1 => Some(Self::Offer),
            2 => Some(Self::Answer),
            3 => Some(Self::Note),
            4 => Some(Self::Refusal),
            _ => None,
        }
    }

    /// The first byte of an envelope of this kind.
    fn number(self) -> u8 {
        match self {
            Self::Offer => 1,
            Self::Answer => 2,
            Self::Note => 3,
            Self::Refusal => 4,
        }
    }
}

/// Why an answer or a refusal was not opened, and the offer if it is still pending.
pub type AnswerRefused = (Option<Box<PendingOffer>>, SealError);

/// An offer that we sent and whose answer is awaited.
pub struct PendingOffer {
    noise: HandshakeState,
    kem: DecapsulationKey768,
}

impl PendingOffer {
    /// Seals `description` for `to`; its `kem` field is filled in here. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError::Internal`] when the description is too large to seal.
    pub fn seal(
        identity: &Identity,
        to: &PeerId,
        mut description: Description,
        seed: [u8; 32],
    ) -> Result<(Self, Vec<u8>), SealError> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut kem_seed = Zeroizing::new([0; 64]);
        rng.fill_bytes(&mut *kem_seed);
        let kem = DecapsulationKey768::from_seed(Seed::from(*kem_seed));
        description.kem = kem.encapsulation_key().to_bytes().to_vec();

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
        Ok((Self { noise, kem }, envelope))
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
        let Some(mut shared) =
            ml_kem::kem::Ciphertext::<ml_kem::MlKem768>::try_from(description.kem.as_slice())
                .ok()
                .map(|ciphertext| self.kem.decapsulate(&ciphertext))
        else {
            return Err((None, SealError::BadKem));
        };
        let exchange = Exchange::new(self.noise, shared.as_slice());
        shared.as_mut_slice().zeroize();
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

    /// Seals the answer; its `kem` field is filled in here. `seed` must be fresh randomness.
    ///
    /// # Errors
    /// [`SealError::BadKem`] when the offer's encapsulation key is invalid (FIPS 203 §7.2).
    pub fn answer(
        mut self,
        mut description: Description,
        seed: [u8; 32],
    ) -> Result<(Exchange, Vec<u8>), SealError> {
        let key = Key::<EncapsulationKey768>::try_from(self.description.kem.as_slice())
            .map_err(|_| SealError::BadKem)?;
        let key = EncapsulationKey768::new(&key).map_err(|_| SealError::BadKem)?;
        // FIPS 203 §7.2 with the randomness `m` handed in: this crate has no random source of its own.
        let seed = Zeroizing::new(seed);
        let (ciphertext, mut shared) = key.encapsulate_deterministic(&(*seed).into());
        description.kem = ciphertext.to_vec();
        let plain = Zeroizing::new(description.encode());
        let envelope = write(&mut self.noise, Kind::Answer, &plain)?;
        let exchange = Exchange::new(self.noise, shared.as_slice());
        shared.as_mut_slice().zeroize();
        Ok((exchange?, envelope))
    }
}

/// Credentials of 40 random bytes.
fn credentials(bytes: &[u8]) -> Credentials {
    let mut credentials = Credentials {
        fragment: [0; 8],
        password: [0; 32],
    };
    let (fragment, password) = bytes.split_at(8);
    credentials.fragment.copy_from_slice(fragment);
    credentials.password.copy_from_slice(password);
    credentials
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

/// A finished exchange: the preshared key, and notes in both directions.
pub struct Exchange {
    keys: ExchangeKeys,
}

/// All that an exchange has agreed on, and where its notes stand: enough for another process of this machine to go on with it. Secret.
#[derive(Clone)]
pub struct ExchangeKeys {
    /// The preshared key of the WireGuard session.
    pub preshared: PresharedKey,
    /// What both ends join a relay link with.
    pub relay: RelayToken,
    /// This end's credentials for checks of links, and the other's.
    pub links: [Credentials; 2],
    /// The keys of notes from this end, and of those to it (Noise §5.2, Split).
    pub notes: [Zeroizing<[u8; 32]>; 2],
    /// The nonce of the next note from this end.
    pub next: u64,
    /// The highest nonce received, and which of the 64 before it.
    pub highest: Option<u64>,
    /// Bit n: the nonce that is n less than the highest was received.
    pub seen: u64,
}

/// An exchange that is gone on with leaves out so many nonces at least.
const LEAP: u64 = 1 << 32;
/// Nonces for each millisecond, of which one is chosen at random.
const LEAP_PER_MS: u64 = 1 << 12;
/// Milliseconds that are counted, 49 days: an exchange can be gone on with a million times before its nonces are used up.
const LEAP_TIME: u64 = 1 << 32;

impl Exchange {
    fn new(mut noise: HandshakeState, kem_secret: &[u8]) -> Result<Self, SealError> {
        let (mut one, mut two) = noise.dangerously_get_raw_split();
        let mut secrets = Zeroizing::new(Vec::with_capacity(96));
        secrets.extend_from_slice(&one);
        secrets.extend_from_slice(&two);
        secrets.extend_from_slice(kem_secret);
        let mut notes = [Zeroizing::new(one), Zeroizing::new(two)];
        one.zeroize();
        two.zeroize();
        if !noise.is_initiator() {
            notes.swap(0, 1);
        }
        let mut preshared = Zeroizing::new([0; 32]);
        let mut relay = RelayToken([0; 16]);
        let mut links = Zeroizing::new([0; 80]);
        let keys = Hkdf::<Sha256>::new(Some(noise.get_handshake_hash()), &secrets);
        keys.expand(b"punch wireguard preshared key v1", &mut *preshared)
            .and_then(|()| keys.expand(b"punch relay token v1", &mut relay.0))
            .and_then(|()| keys.expand(b"punch link credentials v1", &mut *links))
            .map_err(|_| SealError::Internal)?;
        let (offerer, answerer) = links.split_at(40);
        let mut links = [credentials(offerer), credentials(answerer)];
        if !noise.is_initiator() {
            links.reverse();
        }
        Ok(Self {
            keys: ExchangeKeys {
                preshared: PresharedKey(preshared),
                relay,
                links,
                notes,
                next: 0,
                highest: None,
                seen: 0,
            },
        })
    }

    /// What another process needs to go on with the exchange.
    pub fn bequeath(&self) -> ExchangeKeys {
        self.keys.clone()
    }

    /// Goes on with an exchange of an earlier process. What that one has left may be older than its last note, and may be gone on with
    /// twice: a nonce used twice would give the key of the notes away (NIST SP 800-38D §8), and one below the other's would not be
    /// taken. So the sequence leaps, the further the later it is, by milliseconds since 1970, of 49 days at the most, and by `random`.
    pub fn inherit(mut keys: ExchangeKeys, wall_ms: u64, random: u64) -> Self {
        let by_time = (wall_ms % LEAP_TIME) * LEAP_PER_MS;
        let leap = by_time.saturating_add(LEAP + random % LEAP_PER_MS);
        keys.next = keys.next.saturating_add(leap);
        Self { keys }
    }

    /// The preshared key of the WireGuard session that this exchange starts.
    pub fn preshared_key(&self) -> &PresharedKey {
        &self.keys.preshared
    }

    /// What both ends join a relay link with: the server that links them learns nothing else.
    pub fn relay_token(&self) -> RelayToken {
        self.keys.relay
    }

    /// What the two ends check links by that pass through others: this end's credentials and the other's. Those of the descriptions
    /// would let such a server pass a check on as one of a direct path.
    pub fn link_credentials(&self) -> [Credentials; 2] {
        self.keys.links.clone()
    }

    /// Seals a note.
    ///
    /// # Errors
    /// [`SealError::Internal`] when it is too large, or the nonces are used up.
    pub fn seal(&mut self, note: &Note) -> Result<Vec<u8>, SealError> {
        let nonce = self.keys.next;
        let plain = note.encode();
        // Noise §5.1 keeps the last nonce for itself, and bounds a message.
        if nonce == u64::MAX || plain.len() + TAG > MAX_MESSAGE {
            return Err(SealError::Internal);
        }
        let mut sealed = vec![0; plain.len() + TAG];
        cipher(&self.keys.notes[0])?.encrypt(nonce, &[], &plain, &mut sealed);
        let mut envelope = Vec::with_capacity(9 + sealed.len());
        envelope.push(Kind::Note.number());
        envelope.extend_from_slice(&nonce.to_be_bytes());
        envelope.append(&mut sealed);
        self.keys.next += 1;
        Ok(envelope)
    }

    /// Opens a note, each once.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&mut self, envelope: &[u8]) -> Result<Note, SealError> {
        let Some((&[3, ref nonce @ ..], sealed)) = envelope.split_first_chunk::<9>() else {
            return Err(SealError::Malformed);
        };
        let nonce = u64::from_be_bytes(*nonce);
        if self.was_seen(nonce) {
            return Err(SealError::Replayed);
        }
        if !(TAG..=MAX_MESSAGE).contains(&sealed.len()) {
            return Err(SealError::NotAuthentic);
        }
        let mut plain = vec![0; sealed.len()];
        let length = cipher(&self.keys.notes[1])?
            .decrypt(nonce, &[], sealed, &mut plain)
            .map_err(|_| SealError::NotAuthentic)?;
        self.mark_seen(nonce);
        let plain = plain.get(..length).ok_or(SealError::Internal)?;
        Ok(Note::decode(plain)?)
    }

    fn was_seen(&self, nonce: u64) -> bool {
        match self.keys.highest {
            None => false,
            Some(highest) if nonce > highest => false,
            Some(highest) => {
                let back = highest - nonce;
                back >= WINDOW || self.keys.seen & (1 << back) != 0
            }
        }
    }

    fn mark_seen(&mut self, nonce: u64) {
        let highest = self.keys.highest.unwrap_or(nonce);
        if nonce >= highest {
            let ahead = nonce - highest;
            self.keys.seen = if ahead >= WINDOW {
                0
            } else {
                self.keys.seen << ahead
            };
            self.keys.seen |= 1;
            self.keys.highest = Some(nonce);
        } else {
            self.keys.seen |= 1 << (highest - nonce);
        }
    }
}

/// The cipher of notes, as Noise's transport messages have it: AES-GCM, the nonce as 64 bits in big-endian order behind 32 zeros.
fn cipher(key: &[u8; 32]) -> Result<Box<dyn Cipher>, SealError> {
    let mut cipher = DefaultResolver
        .resolve_cipher(&CipherChoice::AESGCM)
        .ok_or(SealError::Internal)?;
    cipher.set(key);
    Ok(cipher)
}

fn write(noise: &mut HandshakeState, kind: Kind, plain: &[u8]) -> Result<Vec<u8>, SealError> {
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

fn read(
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

fn builder<'a>(rng: ChaCha20Rng) -> Result<Builder<'a>, SealError> {
    let params: NoiseParams = PATTERN.parse().map_err(|_| SealError::Internal)?;
    Ok(Builder::with_resolver(
        params,
        Box::new(SeededResolver(rng)),
    ))
}
