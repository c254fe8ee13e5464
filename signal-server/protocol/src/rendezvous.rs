//! What two machines that know each other derive for places where strangers look on (the LAN, the DHT): tags and keys that only the two
//! can compute, that tell nobody who they are, and of which no two periods have one in common.

use hkdf::Hkdf;
use sha2::Sha256;
use x25519_dalek::PublicKey;
use zeroize::Zeroizing;

use crate::{Identity, PeerId};

const SALT: &[u8] = b"punch rendezvous v1";

/// Who has written something that only the two machines find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Author {
    /// This machine.
    Us,
    /// The other one.
    Them,
}

/// The secret of two machines' static keys; wiped when dropped.
#[derive(Clone)]
pub struct PairSecret {
    extracted: Zeroizing<[u8; 32]>,
    us: PeerId,
    them: PeerId,
}

impl PairSecret {
    /// The secret that `identity` shares with `peer`: HKDF-SHA256 (RFC 5869) over X25519 of their static keys (RFC 7748 §6.1). `None`
    /// for a peer whose key gives everybody the same secret.
    pub fn new(identity: &Identity, peer: &PeerId) -> Option<Self> {
        let shared = identity
            .x25519_secret()
            .diffie_hellman(&PublicKey::from(peer.x25519()));
        if !shared.was_contributory() {
            return None;
        }
        let (extracted, _) = Hkdf::<Sha256>::extract(Some(SALT), shared.as_bytes());
        Some(Self {
            extracted: Zeroizing::new(extracted.into()),
            us: identity.id(),
            them: *peer,
        })
    }

    /// A secret of 32 bytes for one purpose, one period (a minute, a day: any number that both know), and what `author` writes then.
    pub fn derive(&self, purpose: &str, period: u64, author: Author) -> Zeroizing<[u8; 32]> {
        let (author, reader) = match author {
            Author::Us => (&self.us, &self.them),
            Author::Them => (&self.them, &self.us),
        };
        let mut secret = Zeroizing::new([0; 32]);
        let length = [u8::try_from(purpose.len()).unwrap_or(u8::MAX)];
        let period = period.to_be_bytes();
        let info: [&[u8]; 5] = [
            &length,
            purpose.as_bytes(),
            &period,
            author.as_bytes(),
            reader.as_bytes(),
        ];
        if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(&*self.extracted) {
            // Fails for more than 8,160 bytes only (RFC 5869 §2.3).
            let _ = hkdf.expand_multi_info(&info, &mut *secret);
        }
        secret
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    fn pair(a: u8, b: u8) -> PairSecret {
        let [a, b] = [a, b].map(|seed| Identity::from_seed(&[seed; 32]));
        PairSecret::new(&a, &b.id()).unwrap()
    }

    #[test]
    fn both_derive_the_same_and_nothing_else_does() {
        let (ours, theirs) = (pair(1, 2), pair(2, 1));
        let right = ours.derive("lan", 7, Author::Us);
        assert_eq!(right, theirs.derive("lan", 7, Author::Them));
        for other in [
            ours.derive("lan", 7, Author::Them),
            ours.derive("lan", 8, Author::Us),
            ours.derive("dht", 7, Author::Us),
            pair(1, 3).derive("lan", 7, Author::Us),
            Zeroizing::new([0; 32]),
        ] {
            assert_ne!(right, other);
        }
    }

    #[test]
    fn a_pair_of_which_everybody_has_the_secret_has_none() {
        let identity = Identity::from_seed(&[1; 32]);
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let peer = PeerId::from_bytes(&neutral).ok();
        let secret = peer.and_then(|peer| PairSecret::new(&identity, &peer));
        assert!(secret.is_none(), "no such peer, or no secret with it");
    }
}
