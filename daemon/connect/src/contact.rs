//! How far calling a peer has come, as this machine can know: its servers' words, and the peer's silence.

/// How far calling a peer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// Nobody wants a connection.
    Unwanted,
    /// No signalling server is reached.
    NoServer,
    /// No server that is reached has the peer online.
    Offline,
    /// The peer has said goodbye, and has not been called since.
    Goodbye,
    /// An offer is out whose answer may be on its way.
    Called,
    /// Servers take the offers, and the peer answers none. A machine that has not added this one is as silent as one that was told
    /// `down` or is of another version.
    Silent {
        /// Whether the peer has called or answered before, so that it knew this machine once.
        has_met: bool,
    },
    /// The peer has called or answered, and paths are tried or serve.
    Answered,
}
