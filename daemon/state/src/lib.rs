//! What the user has configured, and each change of it as a pure function from one state to the next.
//!
//! [`peer`], [`forward`], [`server`] and [`pairing`] hold the changes. Each takes the state in force and returns the new one, or a
//! [`Refusal`] whose text tells the user what to type instead. [`difference`] tells what a change means for those who act on
//! it, and [`rights`] whether it gives anything or only takes away. Nothing here is saved or applied.

mod collision;
pub mod difference;
pub mod forward;
mod model;
pub mod pairing;
pub mod peer;
mod refusal;
pub mod rights;
pub mod server;

pub use collision::{Collision, collisions};
pub use difference::Difference;
pub use model::{Forward, MAX_FORWARDS, MAX_SERVERS, Machine, Peer, State, key_bytes};
pub use refusal::{Holder, Refusal};
