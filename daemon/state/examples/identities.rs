//! Prints as many identities as it is asked for, one a line: peers for measurements, which nobody has the keys of.

use punch_signal_protocol::Identity;

#[expect(clippy::print_stdout, reason = "it was asked for")]
fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    for number in 1..=count.unwrap_or(1_u64) {
        let mut seed = [0xa5; 32];
        for (byte, digit) in seed.iter_mut().zip(number.to_be_bytes()) {
            *byte ^= digit;
        }
        println!("{}", Identity::from_seed(&seed).id());
    }
}
