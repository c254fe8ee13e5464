//! What NATs are like, and why a path is as it is, for people.

mod netcheck;
mod why;

pub(crate) use netcheck::netcheck;
pub(crate) use why::why;
