//! One Ed25519 key per machine is its whole identity.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use bech32::primitives::decode::{CheckedHrpstring, UncheckedHrpstring};
use bech32::{Bech32m, Hrp};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::Ipv4Range;

const PREFIX: Hrp = Hrp::parse_unchecked("punch");
const CHARSET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// `punch1`, 52 characters of data, 6 of checksum.
const TEXT_LENGTH: usize = 64;

/// A machine's secret: the Ed25519 key from which its WireGuard and signalling keys are derived.
#[derive(Clone)]
pub struct Identity {
    signing: SigningKey,
}

impl Identity {
    /// The identity with this Ed25519 seed (RFC 8032 §5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            signing: SigningKey::from_bytes(seed),
        }
    }

    /// The seed, to be stored with mode 0600 and nowhere else.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_bytes())
    }

    /// The public half.
    pub fn id(&self) -> PeerId {
        PeerId {
            ed25519: self.signing.verifying_key().to_bytes(),
        }
    }

    /// The same key as X25519 secret, for WireGuard and for Noise (RFC 7748 clamping happens at use).
    pub fn x25519_secret(&self) -> StaticSecret {
        let scalar = Zeroizing::new(self.signing.to_scalar_bytes());
        StaticSecret::from(*scalar)
    }

    /// Signs `message` (RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.id()).finish()
    }
}

/// A machine's public identity: a valid Ed25519 public key that is not of small order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    ed25519: [u8; 32],
}

/// Why a text or 32 bytes are not a [`PeerId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdError {
    /// The text does not look like a key at all.
    #[error("a key starts with `punch1` and has {TEXT_LENGTH} characters")]
    NotAKey,
    /// The text is too long or too short.
    #[error("a key has {TEXT_LENGTH} characters, this one has {0}: was it cut or joined?")]
    Length(usize),
    /// A character that no key contains.
    #[error("character {position} of the key, `{found}`, cannot stand in a key")]
    Character {
        /// The position of the character, counted from 1.
        position: usize,
        /// The character that stands there.
        found: char,
    },
    /// The checksum is wrong, and exactly one changed character explains it.
    #[error("character {position} of the key is wrong: it says `{found}`, probably `{expected}`")]
    Typo {
        /// The position of the character, counted from 1.
        position: usize,
        /// The character that stands there.
        found: char,
        /// The character that makes the checksum right.
        expected: char,
    },
    /// The checksum is wrong, and exactly one exchange of neighbours explains it.
    #[error("characters {position} and {} of the key are probably exchanged", position + 1)]
    Exchanged {
        /// The position of the first of the two, counted from 1.
        position: usize,
    },
    /// The checksum is wrong in more than one place.
    #[error("the key has several wrong characters: copy it again")]
    Checksum,
    /// The checksum fits, but no such public key exists.
    #[error("the key is well-formed but is not a usable Ed25519 public key")]
    NotAPoint,
}

impl PeerId {
    /// Accepts the 32 bytes of an Ed25519 public key.
    ///
    /// # Errors
    /// [`PeerIdError::NotAPoint`] when they are not a point of the curve or one of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, PeerIdError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| PeerIdError::NotAPoint)?;
        if key.is_weak() {
            return Err(PeerIdError::NotAPoint);
        }
        Ok(Self { ed25519: *bytes })
    }

    /// The Ed25519 public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.ed25519
    }

    /// The same key as X25519 public key: the peer's WireGuard and Noise static key. Computed anew each time, some
    /// microseconds: a server, which decodes identities all day, never needs it.
    pub fn x25519(&self) -> [u8; 32] {
        let key = VerifyingKey::from_bytes(&self.ed25519);
        // The bytes were found to be a key when this value was made.
        key.map_or([0; 32], |key| key.to_montgomery().to_bytes())
    }

    /// Whether `other` has the same [`Self::x25519`]: an identity and its negative do, which differ in the sign of the point
    /// alone, the last bit (RFC 8032 §5.1.2, RFC 7748 §4.1).
    pub fn has_same_x25519(&self, other: &Self) -> bool {
        let unsigned = |mut bytes: [u8; 32]| {
            bytes[31] &= 0x7f;
            bytes
        };
        unsigned(self.ed25519) == unsigned(other.ed25519)
    }

    /// Whether `signature` is this machine's over `message` (strict verification).
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.ed25519)
            .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
            .is_ok()
    }

    /// `fd70:756e:6368::/48` and 80 bits of the key's SHA-256.
    pub fn overlay_ipv6(&self) -> Ipv6Addr {
        let hash = self.hash();
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&[0xfd, 0x70, 0x75, 0x6e, 0x63, 0x68]);
        octets[6..].copy_from_slice(&hash[..10]);
        Ipv6Addr::from(octets)
    }

    /// The bits 80 to 111 of the key's SHA-256 (22 of them for a /10), inside `range`.
    pub fn overlay_ipv4(&self, range: Ipv4Range) -> Ipv4Addr {
        let hash = self.hash();
        range.address(u32::from_be_bytes([hash[10], hash[11], hash[12], hash[13]]))
    }

    /// The first characters of the text form, for logs and tables.
    pub fn short(&self) -> String {
        self.to_string().chars().take(14).collect()
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.ed25519).into()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32m, _>(f, PREFIX, &self.ed25519).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let lower = if text.bytes().any(|b| b.is_ascii_lowercase()) {
            text.to_owned()
        } else {
            text.to_ascii_lowercase()
        };
        if !lower.starts_with("punch1") {
            return Err(PeerIdError::NotAKey);
        }
        // One character too many or too few is a slip of the hand; more is a key that was cut or pasted twice.
        let characters = lower.chars().count();
        if characters.abs_diff(TEXT_LENGTH) > 1 {
            return Err(PeerIdError::Length(characters));
        }
        if let Some((index, found)) = lower
            .chars()
            .enumerate()
            .skip(6)
            .find(|(_, c)| !c.is_ascii() || !CHARSET.contains(&(*c as u8)))
        {
            return Err(PeerIdError::Character {
                position: index + 1,
                found,
            });
        }
        if lower.len() != TEXT_LENGTH {
            return Err(PeerIdError::Length(lower.len()));
        }
        let checked = CheckedHrpstring::new::<Bech32m>(&lower).map_err(|_| locate_typo(&lower))?;
        // The four bits behind the key are zero (BIP 173), so that a key has one text only.
        checked
            .validate_segwit_padding()
            .map_err(|_| PeerIdError::NotAPoint)?;
        let mut bytes = [0; 32];
        let mut data = checked.byte_iter();
        for byte in &mut bytes {
            *byte = data.next().ok_or(PeerIdError::NotAKey)?;
        }
        Self::from_bytes(&bytes)
    }
}

/// Tries every single substitution and every exchange of neighbours: 58 x 31 + 57 checksums, under a millisecond.
fn locate_typo(text: &str) -> PeerIdError {
    let valid = |candidate: &[u8]| {
        std::str::from_utf8(candidate)
            .ok()
            .and_then(|text| UncheckedHrpstring::new(text).ok())
            .is_some_and(|unchecked| unchecked.has_valid_checksum::<Bech32m>())
    };
    let original = text.as_bytes();
    let mut found = Vec::new();
    let mut candidate = original.to_vec();
    let put = |candidate: &mut [u8], index: usize, symbol: u8| {
        if let Some(place) = candidate.get_mut(index) {
            *place = symbol;
        }
    };
    for (index, &written) in original.iter().enumerate().skip(6) {
        for &symbol in CHARSET {
            put(&mut candidate, index, symbol);
            if symbol != written && valid(&candidate) {
                found.push(PeerIdError::Typo {
                    position: index + 1,
                    found: char::from(written),
                    expected: char::from(symbol),
                });
            }
        }
        put(&mut candidate, index, written);
    }
    for index in 6..original.len() - 1 {
        candidate.swap(index, index + 1);
        if candidate != original && valid(&candidate) {
            found.push(PeerIdError::Exchanged {
                position: index + 1,
            });
        }
        candidate.swap(index, index + 1);
    }
    match found.pop() {
        Some(only) if found.is_empty() => only,
        _ => PeerIdError::Checksum,
    }
}

impl Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether an exchange with this X25519 key depends on both secrets. One of small order gives the same to everybody
/// (RFC 7748 §6.1).
pub fn is_contributory(key: &[u8; 32]) -> bool {
    // Whatever the secret is, clamping makes it a multiple of every small order.
    let anybody = StaticSecret::from([1; 32]);
    anybody
        .diffie_hellman(&PublicKey::from(*key))
        .was_contributory()
}
