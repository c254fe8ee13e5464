//! An envelope as a value in the DHT: signed with a key and encrypted with another, both of one pair, day and author. All values are
//! of one length and look like noise; nobody but the pair can tell which belong together.

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use ed25519_dalek::SigningKey;
use punch_signal_protocol::rendezvous::{Author, PairSecret};
use zeroize::Zeroizing;

use crate::item::{Item, VALUE_LENGTH};

const NONCE: usize = 24;
const TAG: usize = 16;
const LENGTH: usize = 2;
/// The longest envelope that a value holds, in bytes.
pub const MAX_ENVELOPE: usize = VALUE_LENGTH - NONCE - TAG - LENGTH;

/// The two keys of what one machine of a pair writes on one day.
pub struct Keys {
    signing: SigningKey,
    cipher: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Those of a day, counted from 1970.
    pub fn new(secret: &PairSecret, day: u64, author: Author) -> Self {
        Self {
            signing: SigningKey::from_bytes(&secret.derive("dht sign v1", day, author)),
            cipher: secret.derive("dht seal v1", day, author),
        }
    }

    /// The public key, whose hash is the item's place.
    pub fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// The item with this envelope; `None` if that is too long. `nonce` must be fresh randomness.
    pub fn seal(&self, envelope: &[u8], seq: i64, nonce: [u8; NONCE]) -> Option<Item> {
        if envelope.len() > MAX_ENVELOPE {
            return None;
        }
        let length = u16::try_from(envelope.len()).ok()?;
        let mut text = length.to_be_bytes().to_vec();
        text.extend_from_slice(envelope);
        text.resize(LENGTH + MAX_ENVELOPE, 0);
        let tag = self.cipher().encrypt_in_place_detached(
            XNonce::from_slice(&nonce),
            &seq.to_be_bytes(),
            &mut text,
        );
        let value = [&nonce[..], &text, &tag.ok()?].concat();
        Some(Item::sign(&self.signing, seq, value))
    }

    /// The envelope of an item of this key.
    pub fn open(&self, item: &Item) -> Option<Vec<u8>> {
        let (nonce, rest) = item.value.split_at_checked(NONCE)?;
        let (text, tag) = rest.split_at_checked(LENGTH + MAX_ENVELOPE)?;
        let tag: [u8; TAG] = tag.try_into().ok()?;
        let mut text = text.to_vec();
        let opened = self.cipher().decrypt_in_place_detached(
            XNonce::from_slice(nonce),
            &item.seq.to_be_bytes(),
            &mut text,
            Tag::from_slice(&tag),
        );
        opened.ok()?;
        let (length, text) = text.split_at_checked(LENGTH)?;
        let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
        Some(text.get(..length)?.to_vec())
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(&*self.cipher))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use punch_signal_protocol::Identity;

    use super::*;

    fn keys(day: u64, author: Author) -> Keys {
        let [a, b] = [1, 2].map(|seed| Identity::from_seed(&[seed; 32]));
        let secret = match author {
            Author::Us => PairSecret::new(&a, &b.id()),
            Author::Them => PairSecret::new(&b, &a.id()),
        };
        Keys::new(&secret.unwrap(), day, author)
    }

    #[test]
    fn the_other_machine_opens_it_and_no_other_key_does() {
        let (ours, theirs) = (keys(7, Author::Us), keys(7, Author::Them));
        assert_eq!(ours.public(), theirs.public());
        for length in [0, 1, 500, MAX_ENVELOPE] {
            let envelope = vec![1; length];
            let item = ours.seal(&envelope, 5, [9; 24]).unwrap();
            assert_eq!(item.value.len(), VALUE_LENGTH);
            assert!(item.is_authentic());
            assert_eq!(theirs.open(&item), Some(envelope));
            assert_eq!(keys(8, Author::Us).open(&item), None);
        }
        assert!(ours.seal(&[0; MAX_ENVELOPE + 1], 5, [9; 24]).is_none());
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let keys = keys(7, Author::Us);
        let item = keys.seal(b"envelope", 5, [9; 24]).unwrap();
        for at in [0, 30, VALUE_LENGTH - 1] {
            let mut changed = item.clone();
            changed.value[at] ^= 1;
            assert_eq!(keys.open(&changed), None);
        }
        for length in [0, 23, 39, 500, 995, 997] {
            let mut changed = item.clone();
            changed.value.resize(length, 0);
            assert_eq!(keys.open(&changed), None);
        }
        let mut changed = item;
        changed.seq += 1;
        assert_eq!(keys.open(&changed), None);
    }

    /// These bytes are on the wire for ever: both ends must derive the same.
    #[test]
    fn the_keys_of_a_pair_stay_as_they_are() {
        let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(
            hex(keys(20_000, Author::Us).public()),
            "bf4d4a1195c05337e8309c736b66767b8253eb107e747ea23ecd83569d4dbd95"
        );
    }
}
