//! Where virtual time begins.

use std::time::Instant;

/// The start of a test's virtual time. An `Instant` can be had from the clock alone; nothing else asks it here.
#[allow(
    clippy::disallowed_methods,
    reason = "virtual time begins at some instant"
)]
pub(crate) fn start() -> Instant {
    Instant::now()
}
