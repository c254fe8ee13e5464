//! What an agent wants sent, and has to say.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use punch_signal_protocol::{NatSummary, Prediction};

use crate::pace::Pace;
use crate::pair::PairStatus;
use crate::report::StepReport;
use crate::socket::{DirectPath, SocketId, Transmit};

/// Packets of each second that are left for canaries, which cannot wait.
const CANARIES: u32 = 6;

/// What an agent has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The peer has proven, for the first time, that it holds this exchange's credentials.
    Proven,
    /// Packets take this path from now on.
    Selected(DirectPath),
    /// It was found out that the selected path carries packets inside the tunnel of up to so many bytes. Until this is said of a path,
    /// [`crate::first_mtu`] is assumed; a smaller number than before says that longer packets vanish there now.
    Mtu(u16),
    /// The path died and no other answers.
    Lost,
    /// Nothing that could be tried has answered.
    Failed,
    /// So many sockets are needed: each is answered with [`crate::Agent::handle_socket`].
    OpenSockets(usize),
    /// This socket is no longer needed.
    CloseSocket(SocketId),
    /// A fresh socket has this public address: the peer must hear of it.
    Reflexive(SocketAddr),
    /// The peer must hear where this side's sequence of ports stands.
    Predicted(Prediction),
    /// A search is over.
    SearchOver {
        /// Mappings that the search has made.
        mappings: u32,
        /// Whether the search has found the path.
        found: bool,
        /// If the NAT gave out no more ports: the mappings of the search beside which others still got theirs.
        used_up: Option<u32>,
    },
}

/// What status shows of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentStatus {
    /// The selected path and its kind and round trip.
    pub selected: Option<PairStatus>,
    /// All candidate pairs.
    pub pairs: Vec<PairStatus>,
    /// What was and is tried, in order.
    pub steps: Vec<StepReport>,
    /// What the peer has told of its NAT.
    pub theirs: Option<NatSummary>,
}

/// The queues of one agent, and the pace at which its packets may leave.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) pace: Pace,
    events: VecDeque<AgentEvent>,
    checks: u32,
}

impl Outputs {
    /// Empty queues; `rate` packets a second may leave.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self {
            transmits: VecDeque::new(),
            pace: Pace::new(rate.saturating_sub(CANARIES), now),
            events: VecDeque::new(),
            checks: 0,
        }
    }

    /// Sends a check, which counts towards the pace.
    pub(super) fn check(&mut self, transmit: Transmit, now: Instant) {
        self.checks += 1;
        self.pace.count(now);
        self.transmits.push_back(transmit);
    }

    /// How many checks were sent.
    pub(super) fn checks(&self) -> u32 {
        self.checks
    }

    /// Closes a socket; what was to leave from it does not.
    pub(super) fn close(&mut self, socket: SocketId) {
        self.transmits.retain(|transmit| transmit.socket != socket);
        self.say(AgentEvent::CloseSocket(socket));
    }

    pub(super) fn say(&mut self, event: impl Into<Option<AgentEvent>>) {
        self.events.extend(event.into());
    }

    pub(super) fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }
}
