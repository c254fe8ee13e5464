//! A mutable item: bytes that are signed by the key that is its place (BEP 44).

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha1::{Digest, Sha1};

use crate::bencode::Writer;
use crate::id::NodeId;

/// Every value has so many bytes: with the length before it, as it is bencoded, the most that nodes must take (BEP 44).
pub const VALUE_LENGTH: usize = 996;

/// A value that the holder of a key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The Ed25519 public key.
    pub key: [u8; 32],
    /// The sequence number: the higher one is the newer.
    pub seq: i64,
    /// The value's bytes, not bencoded.
    pub value: Vec<u8>,
    /// The signature over both.
    pub signature: [u8; 64],
}

impl Item {
    /// Signs a value.
    pub fn sign(key: &SigningKey, seq: i64, value: Vec<u8>) -> Self {
        let signature = key.sign(&signed(seq, &value)).to_bytes();
        Self {
            key: key.verifying_key().to_bytes(),
            seq,
            value,
            signature,
        }
    }

    /// Whether the key has signed it.
    pub fn is_authentic(&self) -> bool {
        let key = VerifyingKey::from_bytes(&self.key);
        let signature = Signature::from_bytes(&self.signature);
        key.and_then(|key| key.verify_strict(&signed(self.seq, &self.value), &signature))
            .is_ok()
    }

    /// Where it is.
    pub fn place(&self) -> NodeId {
        place(&self.key)
    }
}

/// Where the items of a key are.
pub fn place(key: &[u8; 32]) -> NodeId {
    NodeId(Sha1::digest(key).into())
}

/// What is signed: the two entries as they would stand in a dictionary, without salt.
fn signed(seq: i64, value: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.number("seq", seq);
    out.entry("v", value);
    out.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        assert_eq!(hex.len(), 2 * N);
        std::array::from_fn(byte)
    }

    fn example() -> Item {
        Item {
            key: bytes("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"),
            seq: 1,
            value: b"Hello World!".to_vec(),
            signature: bytes(
                "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
                 1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
            ),
        }
    }

    /// BEP 44, "Test vectors", test 1: mutable, without salt.
    #[test]
    fn the_example_of_bep_44_is_authentic_and_in_its_place() {
        let item = example();
        assert_eq!(signed(1, &item.value), b"3:seqi1e1:v12:Hello World!");
        assert!(item.is_authentic());
        let place = bytes("4a533d47ec9c7d95b1ad75f576cffc641853b750");
        assert_eq!(item.place(), NodeId(place));
    }

    #[test]
    fn nothing_else_is() {
        let mut item = example();
        item.seq = 2;
        assert!(!item.is_authentic());
        let mut item = example();
        item.value.push(0);
        assert!(!item.is_authentic());
        let mut item = example();
        item.key[0] ^= 1;
        assert!(!item.is_authentic());
    }

    #[test]
    fn what_is_signed_here_is_authentic() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let item = Item::sign(&key, 1_700_000_000_000, vec![9; VALUE_LENGTH]);
        assert!(item.is_authentic());
    }
}
