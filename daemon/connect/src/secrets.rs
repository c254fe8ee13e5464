//! Seeds for secrets, out of one generator.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

/// A seed for secrets, and another generator behind it: who reads our memory later cannot go back from it (forward secrecy).
pub fn draw(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let (mut seed, mut next) = ([0; 32], Zeroizing::new([0; 32]));
    rng.fill_bytes(&mut seed);
    rng.fill_bytes(&mut *next);
    *rng = ChaCha20Rng::from_seed(*next);
    seed
}
