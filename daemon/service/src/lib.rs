//! What every daemon of Punch owes to the machine it runs on: logs for the journal or a terminal, readiness and a watchdog for
//! systemd, metrics for Prometheus. Everything works without systemd too, where it does nothing.

mod journal;
pub mod log;
pub mod manager;
pub mod prometheus;
mod repeats;

pub use repeats::Repeats;

use std::fmt;
use std::process::ExitCode;

/// The end of a program that failed: the service manager and standard error hear why.
pub fn fail(program: &str, error: &impl fmt::Display, status: ExitCode) -> ExitCode {
    // With what lies behind it, where the error keeps that (anyhow).
    let message = format!("{error:#}");
    manager::status(&message);
    log::last_word(program, &message);
    status
}
