//! The ML-KEM-768 exchange (FIPS 203): inside the envelopes, or behind compact ones, as two notes over the path that was found.

use ml_kem::kem::{Decapsulate, Key, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768};
use zeroize::{Zeroize, Zeroizing};

use crate::Note;

/// The first byte of a datagram that carries a note over a path. STUN messages of the method Binding begin with 0 or 1 (RFC 8489 §5),
/// WireGuard's with 1 to 4.
const DATAGRAM: u8 = 5;
/// The first byte of an envelope that is a note.
pub(crate) const NOTE: u8 = 3;
/// The longest datagram that carries a note: with the headers of IPv6 and UDP it has 1,280 bytes (RFC 8200 §5).
pub const MAX_NOTE_DATAGRAM: usize = 1_232;

/// A sealed note as a datagram, for the end whose credentials have this fragment.
pub fn note_datagram(fragment: [u8; 8], note: &[u8]) -> Vec<u8> {
    [&[DATAGRAM], fragment.as_slice(), note].concat()
}

/// The fragment of the receiver's credentials, and the sealed note; `None` for any other datagram.
pub fn open_note_datagram(datagram: &[u8]) -> Option<([u8; 8], &[u8])> {
    if datagram.len() > MAX_NOTE_DATAGRAM {
        return None;
    }
    let (&kind, rest) = datagram.split_first()?;
    let (fragment, note) = rest.split_first_chunk::<8>()?;
    (kind == DATAGRAM && note.first() == Some(&NOTE)).then_some((*fragment, note))
}

/// The ciphertext for an encapsulation key, and the secret; `seed` is FIPS 203's m, fresh randomness. `None` for a key that fails the
/// check of §7.2.
pub(crate) fn encapsulate(
    key: &[u8],
    seed: &Zeroizing<[u8; 32]>,
) -> Option<(Vec<u8>, Zeroizing<[u8; 32]>)> {
    let key = Key::<EncapsulationKey768>::try_from(key).ok()?;
    let key = EncapsulationKey768::new(&key).ok()?;
    let (ciphertext, mut shared) = key.encapsulate_deterministic(&(**seed).into());
    let secret = Zeroizing::new(shared.into());
    shared.as_mut_slice().zeroize();
    Some((ciphertext.to_vec(), secret))
}

/// The secret in a ciphertext; `None` if it has another length.
pub(crate) fn decapsulate(
    kem: &DecapsulationKey768,
    ciphertext: &[u8],
) -> Option<Zeroizing<[u8; 32]>> {
    let ciphertext = ml_kem::kem::Ciphertext::<ml_kem::MlKem768>::try_from(ciphertext).ok()?;
    let mut shared = kem.decapsulate(&ciphertext);
    let secret = Zeroizing::new(shared.into());
    shared.as_mut_slice().zeroize();
    Some(secret)
}

/// What one end brings to the exchange that follows compact envelopes, and what is left of it.
pub(crate) enum Share {
    /// The offerer's key; the ciphertext is awaited.
    Offered(Box<DecapsulationKey768>),
    /// The answerer's randomness; the key is awaited.
    Answered(Zeroizing<[u8; 32]>),
    /// The answerer's ciphertext, for an offerer that asks once more.
    Encapsulated(Vec<u8>),
    /// The offerer has the secret.
    Over,
}

impl Share {
    /// What this end has to say now, if anything.
    pub(crate) fn note(&self) -> Option<Note> {
        match self {
            Self::Offered(kem) => {
                let key = kem.encapsulation_key().to_bytes().to_vec();
                Some(Note::KemKey(key))
            }
            Self::Encapsulated(ciphertext) => Some(Note::KemCiphertext(ciphertext.clone())),
            Self::Answered(_) | Self::Over => None,
        }
    }

    /// The peer's note: the secret, if it is agreed now. `None` otherwise: the first key counts, and what is invalid changes nothing.
    pub(crate) fn handle(&mut self, note: &Note) -> Option<Zeroizing<[u8; 32]>> {
        let (secret, next) = match (&*self, note) {
            (Self::Offered(kem), Note::KemCiphertext(ciphertext)) => {
                (decapsulate(kem, ciphertext)?, Self::Over)
            }
            (Self::Answered(seed), Note::KemKey(key)) => {
                let (ciphertext, secret) = encapsulate(key, seed)?;
                (secret, Self::Encapsulated(ciphertext))
            }
            _ => return None,
        };
        *self = next;
        Some(secret)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "it is a test")]
mod tests {
    use super::*;

    #[test]
    fn only_notes_of_a_bounded_length_are_datagrams_of_this_kind() {
        let datagram = note_datagram([7; 8], &[3, 1, 2]);
        assert_eq!(
            open_note_datagram(&datagram),
            Some(([7; 8], [3, 1, 2].as_slice()))
        );
        for length in 0..10 {
            assert_eq!(
                open_note_datagram(&datagram[..length]).is_some(),
                length > 9
            );
        }
        let long = note_datagram([7; 8], &[3; MAX_NOTE_DATAGRAM]);
        assert_eq!(open_note_datagram(&long), None);
        let mut other = datagram;
        other[0] = 4;
        assert_eq!(open_note_datagram(&other), None);
    }
}
