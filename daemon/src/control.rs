//! The control API over a Unix socket.

mod caller;
mod calls;
mod events;
pub(crate) mod http;
mod pairings;
pub(crate) mod socket;
mod succession;
