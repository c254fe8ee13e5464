//! What punchctl and punchd say to each other: the texts of the values, the words of the refusals, the JSON that stays.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod hostile;
mod json;

mod openapi;
mod refusal;
mod schema;
mod values;

use punch_api::PeerId;
use punch_signal_protocol::Identity;

/// The identity whose seed is 32 times 1, and its text.
const KEY: &str = "punch132yw8ht5p8cetl2jmvknewjawt9xwzdlrk2pyxlnwjyqrdq0dawqxjt27s";

fn id() -> PeerId {
    Identity::from_seed(&[1; 32]).id()
}
