//! What servers have said about this machine's NAT.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One question of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// A plain Binding request to the server's primary address.
    Primary,
    /// Answer me from your other address and port.
    ChangeBoth,
    /// Answer me from your other port.
    ChangePort,
    /// A plain request to one of the server's other endpoints, from the socket of the samples.
    Sample(SocketAddr),
    /// A plain request from one more socket.
    Another,
    /// Answer me from your other address and port, to which a packet with this TTL has gone.
    Opened(u8),
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The server answered: the address that it saw, and the round trip.
    Mapped(SocketAddr, Duration),
    /// Nothing came back.
    Silence,
    /// The server refused, or has not understood the question.
    Refused,
}

/// The evidence from one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCheck {
    /// The address of the server.
    pub server: SocketAddr,
    /// The probes in the order of their outcomes.
    pub probes: Vec<(Probe, ProbeOutcome)>,
}

impl ServerCheck {
    /// Whether the server has answered none of the probes that are over.
    pub(crate) fn is_silent(&self) -> bool {
        let silent = |(_, outcome): &(Probe, ProbeOutcome)| *outcome == ProbeOutcome::Silence;
        // While no probe is over, the server may still answer.
        !self.probes.is_empty() && self.probes.iter().all(silent)
    }

    /// The longest round trip of the plain questions that it has answered.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let answered = self
            .probes
            .iter()
            .filter_map(|(probe, outcome)| match outcome {
                ProbeOutcome::Mapped(_, rtt) if !probe.changes_source() => Some(*rtt),
                _ => None,
            });
        answered.max()
    }

    /// What came of a probe, once that is known.
    pub(crate) fn outcome(&self, probe: Probe) -> Option<ProbeOutcome> {
        let found = self.probes.iter().find(|(asked, _)| *asked == probe);
        found.map(|(_, outcome)| *outcome)
    }
}

impl Probe {
    /// Whether the answer shall come from elsewhere than where it was asked.
    pub(crate) fn changes_source(self) -> bool {
        self.changes_address() || self == Self::ChangePort
    }

    /// Whether the answer shall come from the other address of the server.
    pub(crate) fn changes_address(self) -> bool {
        matches!(self, Self::ChangeBoth | Self::Opened(_))
    }
}

/// One mapping, as a server saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When the request left.
    pub sent: Instant,
    /// The local port that the request left from.
    pub local: u16,
    /// The server that was asked.
    pub to: SocketAddr,
    /// The public endpoint that the server saw.
    pub mapped: SocketAddr,
}
