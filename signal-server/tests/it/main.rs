//! What the hub promises, seen from outside: frames, time and nonces in, frames out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

mod deliver;
mod hub_harness;
mod limit;
mod login;
mod random;
mod relay_links;
mod relay_queue;
mod relay_rate;
mod watch;
