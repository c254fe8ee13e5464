//! What one guess of a code costs.
#![allow(clippy::unwrap_used, reason = "it is a benchmark")]

use divan::Bencher;
use punch_signal_protocol::pairing::Words;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 10)]
fn a_guess(bencher: Bencher<'_, '_>) {
    let words = Words::choose(&[7; 9]);
    bencher.bench(|| words.stretch().unwrap());
}
