//! Clients around the hub, whatever they come over.
//!
//! [`client`] carries frames between one WebSocket and the [`server`]'s hub, [`post`] holds what waits for it, [`relay`] passes packets from one
//! client's task to another's, [`host`] serves those who are known before they say a word.

pub(crate) mod client;
mod counts;
mod host;
pub(crate) mod post;
pub(crate) mod relay;
pub(crate) mod server;

pub use counts::Counts;
pub use host::{Guest, Host};
