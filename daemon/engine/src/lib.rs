//! All state of the VPN in one steppable value: peers, routes, sessions, the inbound decision.
//!
//! [`Engine`] is what the daemon's driver owns. It holds a [`Connector`] (the crate punch-connect), which decides how peers
//! are reached.

pub mod channel;
mod config;
mod engine;
mod event;
mod flows;
mod handshakes;
mod heritage;
mod host;
mod inbound;
mod invitations;
mod lane;
mod mtu;
mod outbox;
mod peers;
mod pings;
mod reception;
mod reply_to;
mod report;
mod roster;
#[cfg(test)]
#[path = "../../connect/tests/support/start.rs"]
mod start;
mod way;

pub use config::{Change, EngineConfig, PeerConfig, PeerKind};
pub use engine::Engine;
pub use event::EngineEvent;
pub use handshakes::{Job, JobDone};
pub use heritage::{FlowBequest, Heritage, MAX_FLOWS_LEFT, PlainBequest, Renumbered};
pub use inbound::{Refusal, Verdict};
pub use outbox::Train;
pub use pings::Pong;
pub use punch_connect::{
    Bequest, Channel, Connector, ConnectorConfig, ConnectorEvent, ConnectorSizes, Contact,
    LinkState, LinkStatus, MAX_STALE, News, Path, PathBequest, PathReason, PeerRefusal, RelayPath,
    ServerId, Signal, SocketOrder, Stranger, TcpId, TcpOrder, TcpPath, lan,
};
pub use punch_forward::{
    Access, Crowded, ForwardCounts, MEETING, Order, Rule, Rules, StreamId, TargetEvent, Trouble,
    meeting_target,
};
pub use punch_packet::{
    Batch, Codel, FairQueue, Flow, Offload, PeerHandle, Protocol, Rate, TokenBucket,
};
pub use punch_traversal::{
    AddressRank, AgentStatus, Allocation, BEHIND_NAT64, Budget, Caps, DirectPath, Family,
    Filtering, LOSS_WINDOW, Loss, MAX_STREAM_DATAGRAM, Mapping, Nat64, NatOverrides, NatProfile,
    NatSummary, NoDatagram, Outcome, OwnAddress, PairStatus, Probe, ProbeOutcome, ProvenPath, Role,
    STREAM_PREFIX, Sample, SocketId, StepKind, StepReport, is_hard, is_private, is_translatable,
    put_stream_datagram, stream_datagrams, stream_length, whole_datagrams,
};
pub use report::{DropReason, Drops, PeerReport, TableSizes};
