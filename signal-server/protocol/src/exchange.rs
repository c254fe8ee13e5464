//! A finished exchange: the keys that the two ends have agreed on, and the notes that they seal with them.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use snow::HandshakeState;
use snow::params::CipherChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::Cipher;
use zeroize::{Zeroize, Zeroizing};

use crate::kem::{NOTE, Share};
use crate::{Credentials, DecodeError, Note, RelayToken};

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

/// A finished exchange: the preshared key, and notes in both directions. After compact envelopes the key comes later.
pub struct Exchange {
    preshared: Option<PresharedKey>,
    /// `None` where the envelopes had the ML-KEM exchange.
    following: Option<Following>,
    relay: RelayToken,
    links: [Credentials; 2],
    notes: [Zeroizing<[u8; 32]>; 2],
    next: u64,
    highest: Option<u64>,
    seen: u64,
}

/// Both keys of Noise's Split, the offerer's sending key first.
type Split = Zeroizing<[u8; 64]>;

/// The exchange behind compact envelopes, and what its key will be made from beside the secret: those of Noise. Wiped when dropped.
struct Following {
    share: Share,
    hash: [u8; 32],
    split: Split,
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
    /// The exchange of a handshake that is complete, and of which ML-KEM has given this secret.
    pub(crate) fn new(noise: HandshakeState, kem_secret: &[u8; 32]) -> Result<Self, SealError> {
        let (exchange, split, hash) = Self::begin(noise, kem_secret)?;
        let preshared = Some(preshared_key(&hash, &split, kem_secret)?);
        Ok(Self {
            preshared,
            ..exchange
        })
    }

    /// An exchange whose envelopes were compact: what is not for WireGuard comes from Noise alone, and the key for that comes later.
    pub(crate) fn compact(noise: HandshakeState, share: Share) -> Result<Self, SealError> {
        let (exchange, split, hash) = Self::begin(noise, &[])?;
        let following = Some(Following { share, hash, split });
        Ok(Self {
            following,
            ..exchange
        })
    }

    /// An exchange that has no preshared key yet, both keys of Noise's Split, and its handshake hash.
    fn begin(
        mut noise: HandshakeState,
        kem_secret: &[u8],
    ) -> Result<(Self, Split, [u8; 32]), SealError> {
        let (mut one, mut two) = noise.dangerously_get_raw_split();
        let mut split = Zeroizing::new([0; 64]);
        let (first, second) = split.split_at_mut(32);
        first.copy_from_slice(&one);
        second.copy_from_slice(&two);
        let mut notes = [Zeroizing::new(one), Zeroizing::new(two)];
        one.zeroize();
        two.zeroize();
        let hash: [u8; 32] = noise
            .get_handshake_hash()
            .try_into()
            .map_err(|_| SealError::Internal)?;
        let mut relay = RelayToken([0; 16]);
        let mut links = Zeroizing::new([0; 80]);
        let keys = keys(&hash, &split, kem_secret);
        keys.expand(b"punch relay token v1", &mut relay.0)
            .and_then(|()| keys.expand(b"punch link credentials v1", &mut *links))
            .map_err(|_| SealError::Internal)?;
        let (offerer, answerer) = links.split_at(40);
        let mut links = [credentials(offerer), credentials(answerer)];
        if !noise.is_initiator() {
            notes.swap(0, 1);
            links.reverse();
        }
        let exchange = Self {
            preshared: None,
            following: None,
            relay,
            links,
            notes,
            next: 0,
            highest: None,
            seen: 0,
        };
        Ok((exchange, split, hash))
    }

    /// What another process needs to go on with the exchange; `None` as long as there is no preshared key.
    pub fn bequeath(&self) -> Option<ExchangeKeys> {
        Some(ExchangeKeys {
            preshared: self.preshared.clone()?,
            relay: self.relay,
            links: self.links.clone(),
            notes: self.notes.clone(),
            next: self.next,
            highest: self.highest,
            seen: self.seen,
        })
    }

    /// Goes on with an exchange of an earlier process. What that one has left may be older than its last note, and may be gone on with
    /// twice: a nonce used twice would give the key of the notes away (NIST SP 800-38D §8), and one below the other's would not be
    /// taken. So the sequence leaps, the further the later it is, by milliseconds since 1970, of 49 days at the most, and by `random`.
    pub fn inherit(keys: ExchangeKeys, wall_ms: u64, random: u64) -> Self {
        let by_time = (wall_ms % LEAP_TIME) * LEAP_PER_MS;
        let leap = by_time.saturating_add(LEAP + random % LEAP_PER_MS);
        Self {
            preshared: Some(keys.preshared),
            following: None,
            relay: keys.relay,
            links: keys.links,
            notes: keys.notes,
            next: keys.next.saturating_add(leap),
            highest: keys.highest,
            seen: keys.seen,
        }
    }

    /// The preshared key of the WireGuard session that this exchange starts; `None` as long as the ML-KEM exchange behind compact
    /// envelopes is not done.
    pub fn preshared_key(&self) -> Option<&PresharedKey> {
        self.preshared.as_ref()
    }

    /// What this end has to say in the ML-KEM exchange behind compact envelopes now: the key, until it is answered, or the ciphertext, once
    /// there was a key. Each time it is the same.
    pub fn kem_note(&self) -> Option<Note> {
        self.following.as_ref()?.share.note()
    }

    /// The peer's note of the ML-KEM exchange; returns whether there is a preshared key now that was not there before. The first valid note
    /// counts.
    ///
    /// # Errors
    /// [`SealError::Internal`].
    pub fn handle_kem(&mut self, note: &Note) -> Result<bool, SealError> {
        let Some(following) = &mut self.following else {
            return Ok(false);
        };
        let Some(secret) = following.share.handle(note) else {
            return Ok(false);
        };
        let preshared = preshared_key(&following.hash, &following.split, &secret)?;
        following.split.zeroize();
        self.preshared = Some(preshared);
        Ok(true)
    }

    /// What both ends join a relay link with: the server that links them learns nothing else.
    pub fn relay_token(&self) -> RelayToken {
        self.relay
    }

    /// What the two ends check links by that pass through others: this end's credentials and the other's. Those of the descriptions
    /// would let such a server pass a check on as one of a direct path.
    pub fn link_credentials(&self) -> [Credentials; 2] {
        self.links.clone()
    }

    /// Seals a note.
    ///
    /// # Errors
    /// [`SealError::Internal`] when it is too large, or the nonces are used up.
    pub fn seal(&mut self, note: &Note) -> Result<Vec<u8>, SealError> {
        let nonce = self.next;
        let plain = note.encode();
        // Noise §5.1 keeps the last nonce for itself, and bounds a message.
        if nonce == u64::MAX || plain.len() + TAG > MAX_MESSAGE {
            return Err(SealError::Internal);
        }
        let mut sealed = vec![0; plain.len() + TAG];
        cipher(&self.notes[0])?.encrypt(nonce, &[], &plain, &mut sealed);
        let mut envelope = Vec::with_capacity(9 + sealed.len());
        envelope.push(NOTE);
        envelope.extend_from_slice(&nonce.to_be_bytes());
        envelope.append(&mut sealed);
        self.next += 1;
        Ok(envelope)
    }

    /// Opens a note, each once.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&mut self, envelope: &[u8]) -> Result<Note, SealError> {
        let Some((&[NOTE, ref nonce @ ..], sealed)) = envelope.split_first_chunk::<9>() else {
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
        let length = cipher(&self.notes[1])?
            .decrypt(nonce, &[], sealed, &mut plain)
            .map_err(|_| SealError::NotAuthentic)?;
        self.mark_seen(nonce);
        let plain = plain.get(..length).ok_or(SealError::Internal)?;
        Ok(Note::decode(plain)?)
    }

    fn was_seen(&self, nonce: u64) -> bool {
        match self.highest {
            None => false,
            Some(highest) if nonce > highest => false,
            Some(highest) => {
                let back = highest - nonce;
                back >= WINDOW || self.seen & (1 << back) != 0
            }
        }
    }

    fn mark_seen(&mut self, nonce: u64) {
        let highest = self.highest.unwrap_or(nonce);
        if nonce >= highest {
            let ahead = nonce - highest;
            self.seen = if ahead >= WINDOW {
                0
            } else {
                self.seen << ahead
            };
            self.seen |= 1;
            self.highest = Some(nonce);
        } else {
            self.seen |= 1 << (highest - nonce);
        }
    }
}

/// All keys of an exchange: HKDF-SHA-256 over both keys of Noise's Split and ML-KEM's secret, if that is there already.
fn keys(hash: &[u8; 32], split: &[u8; 64], kem_secret: &[u8]) -> Hkdf<Sha256> {
    let mut secrets = Zeroizing::new(Vec::with_capacity(96));
    secrets.extend_from_slice(split);
    secrets.extend_from_slice(kem_secret);
    Hkdf::new(Some(hash), &secrets)
}

/// The preshared key of WireGuard. There is none without ML-KEM's secret.
fn preshared_key(
    hash: &[u8; 32],
    split: &[u8; 64],
    kem_secret: &[u8; 32],
) -> Result<PresharedKey, SealError> {
    let mut preshared = Zeroizing::new([0; 32]);
    keys(hash, split, kem_secret)
        .expand(b"punch wireguard preshared key v1", &mut *preshared)
        .map_err(|_| SealError::Internal)?;
    Ok(PresharedKey(preshared))
}

/// The cipher of notes, as Noise's transport messages have it: AES-GCM, the nonce as 64 bits in big-endian order behind 32 zeros.
fn cipher(key: &[u8; 32]) -> Result<Box<dyn Cipher>, SealError> {
    let mut cipher = DefaultResolver
        .resolve_cipher(&CipherChoice::AESGCM)
        .ok_or(SealError::Internal)?;
    cipher.set(key);
    Ok(cipher)
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
