//! What is known of an agent's path by whoever has another way meanwhile, and the other way round.

use std::time::Instant;

use super::Agent;
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
