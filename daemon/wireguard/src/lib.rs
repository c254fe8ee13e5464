//! WireGuard with one peer, by boringtun: sessions, their keys and timers, and handshakes as jobs for other threads.
//!
//! The protocol (handshakes, keys, data messages, MACs, the replay window) is boringtun's. This crate decides when: which keys
//! seal, when new ones are due, what waits for them, and on which thread the arithmetic happens. A step of a handshake takes an
//! eighth to a quarter of a millisecond, so no step is computed where packets pass: [`Session::poll_job`] hands out a
//! [`HandshakeJob`], any thread performs it, and [`Session::handle_step`] takes what came of it.
//!
//! Time comes in as an argument; boringtun alone reads the machine's clock (for the timestamp of an initiation, which must only
//! increase) and its random source (for ephemeral keys and cookies).

mod checker;
mod job;
mod keys;
mod message;
mod session;
mod slots;
mod timers;
mod tunnel;

pub use checker::{Checked, CookieChecker};
pub use job::{Asker, HandshakeJob, JobResult, Step};
pub use keys::LocalKeys;
pub use message::{
    COOKIE_REPLY_LENGTH, INITIATION_LENGTH, OVERHEAD, RESPONSE_LENGTH, SESSION_BITS, SessionId,
    data_index,
};
pub use session::{Opened, Outcome, Session};
pub use tunnel::Tunnel;
