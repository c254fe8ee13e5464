//! What an agent's path is asked and told by those who know more than its checks do.

use std::time::{Duration, Instant};

use super::Agent;
use super::checklist::Choice;
use crate::loss::Loss;
use crate::pair::Pair;

/// Whether the last checks of the path were not answered: it may be dead.
pub fn is_doubtful(agent: &Agent) -> bool {
    agent.checklist.selected().is_some_and(Pair::is_doubtful)
}

/// The longest packet inside the tunnel that fits on the path, in bytes, if that was found out.
pub fn known_mtu(agent: &Agent) -> Option<u16> {
    agent.mtu.known()
}

/// The peer's packets come over something else than a path of the agent's.
pub fn handle_detour(agent: &mut Agent, now: Instant) {
    agent.checklist.handle_detour(now);
}

/// An unused mapping lives for so long in the network that the machine is in now, if that is known: keepalives follow.
pub fn set_lifetime(agent: &mut Agent, lifetime: Option<Duration>, now: Instant) {
    agent.checklist.set_lifetime(lifetime, now);
}

/// What has brought the selected path to be selected.
pub fn chosen(agent: &Agent) -> Choice {
    agent.checklist.choice()
}

/// The loss on the selected path, once enough checks have left on it.
pub fn loss(agent: &Agent, now: Instant) -> Option<Loss> {
    agent.checklist.selected()?.loss(now)
}
