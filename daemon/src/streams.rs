//! The operating system's ends of streams.

mod datagrams;
mod names;
pub(crate) mod report;
pub(crate) mod target;
