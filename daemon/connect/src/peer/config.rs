//! What an attempt begins with, and the agent that is made from it.

use std::time::{Duration, Instant};

use punch_signal_protocol::seal::{Exchange, stream_credentials};
use punch_signal_protocol::{Capability, Description};
use punch_traversal::{Agent, AgentConfig, Role, StepKind};

use super::description::SentDescription;
use super::relayed::RelayedConfig;
use super::tcp::{TcpConfig, take_tcp};
use crate::network::NetworkView;

/// What this machine brings to an attempt.
pub(crate) struct AttemptConfig {
    /// Whether the offer was this machine's. Who offers picks the path of an attempt's first try; the other one does in the next.
    pub(crate) offered: bool,
    /// How long the peer may take to hear of the attempt, if that is longer than a moment; the exchange was compact then.
    pub(crate) patience: Option<Duration>,
    pub(crate) sent: SentDescription,
    pub(crate) network: NetworkView,
}

impl AttemptConfig {
    /// The relay links to the peer which described itself as `theirs`.
    pub(super) fn relayed(&self, theirs: &Description, exchange: &Exchange) -> RelayedConfig {
        let agreed = self.sent.relay && theirs.capabilities.contains(Capability::Relays);
        RelayedConfig {
            token: exchange.relay_token(),
            agreed,
            credentials: exchange.link_credentials(),
            // Another one than the agent's.
            seed: self.network.seed.rotate_left(32),
        }
    }

    /// The TCP connections to the peer which described itself as `theirs`; what it has said of TCP is taken out.
    pub(super) fn tcp(&self, theirs: &mut Description) -> TcpConfig {
        let profile = self.network.profile.as_ref();
        TcpConfig {
            // Older versions would refuse a note with a kind of candidate that they do not know.
            enabled: self.network.tcp && theirs.capabilities.contains(Capability::PassesOver),
            offered: self.offered,
            heard: take_tcp(&mut theirs.candidates),
            udp_blocked: profile.is_some_and(|profile| profile.udp_blocked),
            credentials: [&self.sent.credentials, &theirs.credentials].map(stream_credentials),
            seed: self.network.seed.rotate_left(16),
        }
    }

    /// The agent that checks the paths to the peer which described itself as `theirs`. `remembered` has worked before.
    pub(super) fn into_agent(
        self,
        theirs: Description,
        remembered: Option<StepKind>,
        now: Instant,
    ) -> Agent {
        let (sent, network) = (self.sent, self.network);
        // Both must come to the same: where one tells nothing of its NAT, there is nothing to take turns by.
        let attempt = match (&sent.nat, &theirs.nat) {
            (Some(mine), Some(_)) => mine.attempt,
            _ => 0,
        };
        // The one who offers picks the path; in a repeated attempt the other one does.
        let role = if self.offered == attempt.is_multiple_of(2) {
            Role::Controlling
        } else {
            Role::Controlled
        };
        let config = AgentConfig {
            role,
            answers: !self.offered,
            local: sent.credentials,
            remote: theirs.credentials,
            candidates: theirs.candidates,
            mine: sent.nat,
            theirs: theirs.nat,
            opening_ttl: network.profile.and_then(|profile| profile.opening_ttl),
            lifetime: network.lifetime,
            samplers: network.samplers,
            remembered,
            patience: self.patience,
            mtu: network.mtu,
            seed: network.seed,
        };
        Agent::new(config, now)
    }
}
