//! Ways for envelopes between this machine and its peers.

pub(crate) mod dht;
pub(crate) mod lan;
pub(crate) mod pairing;
mod pauses;
pub(crate) mod server;
mod trouble;
mod tunnel;
