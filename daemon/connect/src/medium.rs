//! The kinds of what carries envelopes, and how long they take.

use std::time::Duration;

use punch_packet::PeerHandle;

/// The kind of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A signalling server.
    Server,
    /// The meeting place of a peer, inside its tunnel.
    Meeting(PeerHandle),
    /// The networks that this machine is attached to.
    Lan,
    /// A distributed hash table: each end looks now and then what the other has left there.
    Dht,
    /// A person who carries envelopes between this machine and this peer.
    Paste(PeerHandle),
}

impl Channel {
    /// Whether envelopes take seconds or minutes, and must be short.
    pub fn is_slow(self) -> bool {
        self.patience().is_some()
    }

    /// How long an answer over a slow channel may be under way.
    pub fn patience(self) -> Option<Duration> {
        match self {
            Self::Server | Self::Meeting(_) | Self::Lan => None,
            Self::Dht => Some(Duration::from_secs(90)),
            Self::Paste(_) => Some(Duration::from_secs(600)),
        }
    }
}
