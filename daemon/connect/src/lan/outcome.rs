//! What datagrams come to.

/// What has become of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its tag is nobody's: a stranger's, or this machine's own.
    Stranger,
    /// There were too many, and it was not looked at.
    TooMany,
    /// It was not made by the peer, or not for where it came from.
    Forged,
    /// It has come before.
    Repeated,
    /// It was taken.
    Taken,
}
