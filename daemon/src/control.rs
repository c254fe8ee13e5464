//! The control API over a Unix socket.

mod caller;
mod calls;
mod events;
pub(crate) mod http;
pub(crate) mod socket;
mod succession;
