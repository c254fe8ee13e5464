//! The connector from outside, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

mod compact;
mod peers;
mod refusals;
mod servers;
#[path = "../support/mod.rs"]
mod support;
