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

/// The connector's two generators: one for what is seen outside, one for what must stay secret later, too.
pub(crate) struct Randomness {
    /// For credentials, jitter, and the seeds of agents.
    pub(crate) open: ChaCha20Rng,
    secret: ChaCha20Rng,
}

impl Randomness {
    /// The same seed gives the same randomness.
    pub(crate) fn new(open: ChaCha20Rng) -> Self {
        let mut secrets = open.clone();
        secrets.set_stream(1);
        Self {
            open,
            secret: ChaCha20Rng::from_seed(draw(&mut secrets)),
        }
    }

    /// A seed for one envelope.
    pub(crate) fn draw_secret(&mut self) -> [u8; 32] {
        draw(&mut self.secret)
    }
}
