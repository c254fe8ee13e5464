//! What the engine counts.

use std::fmt;
use std::time::Instant;

use punch_connect::{ConnectorSizes, DroppedEnvelopes, Path, PathReason};

/// Why a packet was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// From outside: neither STUN nor WireGuard, or not authentic.
    NotForUs,
    /// From outside: a handshake while too many come.
    UnderLoad,
    /// From a peer: not an IP packet.
    Malformed,
    /// From a peer: the source is not the peer's own address.
    WrongSource,
    /// From a peer: the destination is not this machine's overlay address.
    WrongDestination,
    /// From a peer: no forward, no flow of ours, no grant.
    Refused,
    /// From a peer: a segment of a connection from before the restart, which our side may still continue.
    Unknown,
    /// From a peer: too many connections, flows or fragments.
    Full,
    /// From this machine: no peer has that address.
    NoPeer,
    /// From this machine: the peer is not connected.
    NoPath,
    /// From this machine: it does not fit on the path to the peer, and its sender, who was told, has forbidden fragments.
    TooLong,
    /// From this machine: a queue of packets for a peer stood for too long.
    QueueOut,
    /// From outside: the queue of a socket stood for too long.
    QueueIn,
    /// From a peer: the kernel did not take it.
    HostRefused,
    /// An envelope from somebody who is no peer.
    Stranger,
    /// An envelope that does not open, is replayed or stale.
    BadEnvelope,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::NotForUs,
        Self::UnderLoad,
        Self::Malformed,
        Self::WrongSource,
        Self::WrongDestination,
        Self::Refused,
        Self::Unknown,
        Self::Full,
        Self::NoPeer,
        Self::NoPath,
        Self::TooLong,
        Self::QueueOut,
        Self::QueueIn,
        Self::HostRefused,
        Self::Stranger,
        Self::BadEnvelope,
    ];
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotForUs => "not_for_us",
            Self::UnderLoad => "under_load",
            Self::Malformed => "malformed",
            Self::WrongSource => "wrong_source",
            Self::WrongDestination => "wrong_destination",
            Self::Refused => "refused",
            Self::Unknown => "unknown_connection",
            Self::Full => "full",
            Self::NoPeer => "no_peer",
            Self::NoPath => "no_path",
            Self::TooLong => "too_long",
            Self::QueueOut => "queue_out",
            Self::QueueIn => "queue_in",
            Self::HostRefused => "host_refused",
            Self::Stranger => "stranger",
            Self::BadEnvelope => "bad_envelope",
        })
    }
}

/// A counter for each [`DropReason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one more.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several more.
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.0[reason as usize] += packets;
    }

    /// How many there were.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All of them, together with those of envelopes.
    pub(crate) fn list(&self, envelopes: DroppedEnvelopes) -> Vec<(DropReason, u64)> {
        let count = |reason| match reason {
            DropReason::Stranger => envelopes.strangers,
            DropReason::BadEnvelope => envelopes.unusable,
            packets => self.get(packets),
        };
        let all = DropReason::ALL.into_iter();
        all.map(|reason| (reason, count(reason))).collect()
    }
}

/// What the engine knows of a peer's tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    /// The path that the peer's packets take.
    pub path: Option<Path>,
    /// When packets began to take it, and why.
    pub since: Option<(Instant, PathReason)>,
    /// The longest packet inside the tunnel that fits on the path, in bytes, where that is known; of IPv6 one of 1,280 bytes passes always.
    pub mtu: Option<u16>,
    /// Whether keys are established.
    pub established: bool,
    /// When the keys in use were agreed on.
    pub last_handshake: Option<Instant>,
    /// Bytes received inside the tunnel.
    pub received: u64,
    /// Bytes sent inside the tunnel.
    pub sent: u64,
}

/// How much the engine's tables hold that others can make grow; threat-model.md, part 5, has their bounds. What is counted for each
/// peer is that of the peer that has most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableSizes {
    /// The connector's tables.
    pub connector: ConnectorSizes,
    /// Numbers of WireGuard sessions of all peers.
    pub sessions: usize,
    /// Flows with a peer that this host began.
    pub flows: usize,
    /// Flows with a peer that a grant lets in.
    pub granted_flows: usize,
    /// Packets of a peer that are being put together.
    pub fragmented: usize,
    /// Data messages of a peer that wait for a step of a handshake.
    pub held: usize,
    /// Steps of handshakes that wait to be handed out.
    pub jobs: usize,
    /// Datagrams' trains that wait to be sent.
    pub trains: usize,
    /// Events that wait to be told.
    pub events: usize,
}
