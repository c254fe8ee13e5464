//! What every daemon of Punch owes to the machine it runs on: logs for the journal or a terminal, readiness and a watchdog for
//! systemd, metrics for Prometheus. Everything works without systemd too, where it does nothing.

pub mod exposition;
mod journal;
pub mod log;
pub mod manager;
