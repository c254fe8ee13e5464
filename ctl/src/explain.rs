//! Answers that take more than a table: netcheck and why.

mod netcheck;
mod why;

pub(crate) use netcheck::netcheck;
pub(crate) use why::why;
