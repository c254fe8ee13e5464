//! Signals that end a program which has something to take back first.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::Failure;

/// Ctrl-C, the end of the terminal, and a polite request to end. From its making on none of them ends the program by itself.
pub(crate) struct Interrupts([Signal; 3]);

impl Interrupts {
    /// Waits for them from now on.
    pub(crate) fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::Other(format!("cannot wait for signals: {error}"));
        let listen = |kind| signal(kind).map_err(failed);
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
            listen(SignalKind::terminate())?,
        ]))
    }

    /// The next of them, also one that has come since the making.
    pub(crate) async fn next(&mut self) {
        let [interrupt, hangup, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
