//! Views: the configuration and a snapshot of the engine, put together for the control API. All are pure functions.

mod advice;
mod budget;
mod change;
pub(crate) mod events;
pub(crate) mod facts;
pub(crate) mod met;
mod nat;
pub(crate) mod netcheck;
mod obstacle;
mod plain;
mod reach;
mod refused;
pub(crate) mod status;
pub(crate) mod why;
