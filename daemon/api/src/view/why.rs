//! Why the path to a peer is as it is.

use std::net::{IpAddr, SocketAddr};

use punch_signal_protocol::{Budget, Filtering, Mapping};
use serde::{Deserialize, Serialize};

use super::path::PathView;
use super::peer::PeerState;
use super::refused::RefusedView;
use crate::nat::AllocationView;
use crate::open_enum::OpenEnum;
use crate::values::PeerName;

/// The answer of `GET /v1/peers/NAME/why`: why the path to a peer is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    /// The peer in question.
    pub peer: PeerName,
    /// The state of the connection.
    pub state: OpenEnum<PeerState>,
    /// The path that packets take.
    pub path: Option<PathView>,
    /// The answer in one sentence.
    pub summary: String,
    /// The refusal of the peer, if it has told why it does not answer.
    pub refused: Option<RefusedView>,
    /// What keeps a call from reaching the peer or from being answered; `null` where nothing of that kind is known.
    pub obstacle: Option<OpenEnum<Obstacle>>,
    /// How it stands with a plain WireGuard peer; `null` for a Punch peer.
    pub plain: Option<PlainView>,
    /// The NAT of this machine; `null` before it was measured.
    pub mine: Option<NatView>,
    /// The NAT of the peer, as the peer describes it; `null` before the peer has answered.
    pub theirs: Option<NatView>,
    /// The steps of the attempt that is under way, or of the last one.
    pub steps: Vec<StepView>,
    /// The number of attempts that have failed since there was a path.
    pub failures: u8,
    /// Seconds until the next attempt, when one is planned.
    pub retry_in_s: Option<f64>,
    /// The budget of this side for one attempt.
    pub budget: BudgetView,
    /// What would improve the result, for people.
    pub advice: Vec<String>,
}

/// What keeps a call from reaching a peer or from being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// This machine was told `punchctl down`.
    Refused,
    /// This machine has no signalling server.
    NoServer,
    /// This machine has signalling servers, and is connected to none.
    ServersUnreachable,
    /// No signalling server that this machine reaches has the peer online.
    Offline,
    /// The peer has said goodbye.
    Goodbye,
    /// The peer refuses this machine's offers, and has told why.
    RefusedByPeer,
    /// The peer is online, and does not answer.
    Silent,
}

/// How it stands with a plain WireGuard peer, and what its own configuration must say of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainView {
    /// The underlay address that packets go to; `null` while it is not known.
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the last handshake; `null` when there was none.
    pub last_handshake_s: Option<u64>,
    /// Bytes received inside the tunnel.
    pub received_bytes: u64,
    /// Bytes sent inside the tunnel.
    pub sent_bytes: u64,
    /// `PublicKey` of this machine in the configuration of the peer, base64.
    pub public_key: String,
    /// `AllowedIPs` of this machine in the configuration of the peer.
    pub allowed_ips: Vec<String>,
}

/// The NAT of one end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NatView {
    /// The NAT in words, for people.
    pub summary: String,
    /// As in [`NetcheckView`].
    pub mapping: Option<OpenEnum<Mapping>>,
    /// As in [`NetcheckView`].
    pub filtering: Option<OpenEnum<Filtering>>,
    /// As in [`NetcheckView`].
    pub allocation: Option<AllocationView>,
    /// The public addresses of the NAT.
    pub addresses: Vec<IpAddr>,
}

/// A step of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// What was tried.
    pub step: OpenEnum<Step>,
    /// The chance that was computed beforehand, from 0 to 1.
    pub chance: f64,
    /// The median time of a success, in seconds.
    pub typical_s: f64,
    /// The average time until an attempt succeeds, in seconds; `null` when the first attempt should succeed, or none can.
    pub expected_s: Option<f64>,
    /// The result of the step.
    pub outcome: OpenEnum<StepOutcome>,
    /// The NAT mappings that the step has made on this side.
    pub mappings: u32,
    /// The packets that the step has sent.
    pub packets: u32,
    /// The most packets that the step has sent within one second.
    pub peak_rate: u32,
    /// The sockets that the step wanted and could not open.
    pub refused_sockets: u32,
    /// The time that the step has taken, in seconds.
    pub took_s: f64,
}

/// What is tried to find a path, the cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Connectivity checks (RFC 8445 §2.2).
    Checks,
    /// One side holds ports open, the other one probes for them.
    HoldAndProbe,
    /// Both sides send to predicted ports.
    Meet,
    /// Both sides search over random ports.
    Birthday,
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// The step has not begun.
    Waiting,
    /// The step is under way.
    Running,
    /// The step has found a path.
    Found,
    /// Another step found a path first.
    NotNeeded,
    /// The step has spent all that it may, and found no path.
    Exhausted,
    /// Mappings of earlier attempts are still alive, and nothing is left of the budget.
    OverBudget,
    /// No socket could be opened.
    NoSockets,
    /// The peer or a STUN server did not tell the last port of a sequence.
    NoPrediction,
    /// One of the two NATs is not known well enough to search.
    Unmeasured,
    /// The chance was too small to be worth the mappings: the search was not made.
    TooUnlikely,
    /// The NAT gave out no more ports: the search has stopped for the sake of everybody else behind it.
    PortsUsedUp,
    /// No STUN server answered any more, so that nobody could have seen whether the search harms others.
    Unwatched,
}

/// What an attempt may demand of the routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// The name of the budget, as in punchd.toml.
    pub name: OpenEnum<Budget>,
    /// The most NAT mappings that are alive at once.
    pub mappings: u32,
    /// The most packets per second.
    pub packets_per_s: u32,
    /// The most packets to an address that a peer has named, in one attempt.
    pub packets_per_address: u32,
    /// The time that a search lasts at most, in seconds.
    pub duration_s: u64,
}
