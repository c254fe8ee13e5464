//! All state of the VPN in one steppable value: peers, routes, sessions, the inbound decision.
//!
//! [`Engine`] is what the daemon's driver owns. Inside it, [`Connector`] decides how peers are reached (signalling,
//! candidates, checks); the lab runs it alone in virtual time.

mod config;
mod connect;
mod engine;
mod flows;
mod inbound;
mod outbox;
mod report;
mod seed;
mod session;
mod tunnel;

pub use config::{Configuration, EngineConfig, PeerConfig, PeerKind};
pub use connect::{
    Connector, ConnectorConfig, ConnectorEvent, LinkState, LinkStatus, MAX_STALE, ServerId, Signal,
};
pub use engine::{Engine, EngineEvent};
pub use inbound::{Refusal, Verdict};
pub use outbox::Burst;
pub use punch_forward::{Access, Order, PeerHandle, Rule, Rules, StreamId, TargetEvent};
pub use punch_packet::{Batch, Codel, FairQueue, Offload};
pub use punch_traversal::{
    AgentStatus, Allocation, Budget, Caps, Family, Filtering, Mapping, NatOverrides, NatProfile,
    NatSummary, Outcome, PairStatus, Path, Probe, ProbeOutcome, Sample, SocketId, StepKind,
    StepReport, is_hard,
};
pub use report::{DropReason, Drops, PeerReport};
pub use session::{Work, WorkDone};
