//! The operating system's ends of streams.

pub(crate) mod target;
