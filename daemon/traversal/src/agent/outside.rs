//! What an agent's path is asked and told by those who know more than its checks do.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::Agent;
use super::checklist::Choice;
use crate::loss::Loss;
use crate::pair::Pair;
use crate::plan::Step;

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

/// The fragment by which this end's messages name the peer.
pub fn their_fragment(agent: &Agent) -> [u8; 8] {
    agent.messages.credentials().1.fragment
}

/// Whether the peer may not know of the attempt yet.
pub fn is_patient(agent: &Agent) -> bool {
    agent.patience.is_on()
}

/// Mappings of a search of which no [`super::AgentEvent::SearchOver`] has told.
pub fn untold_mappings(agent: &Agent) -> u32 {
    agent.search.mappings()
}

/// The search that the plan has, if it has one.
pub fn planned_search(agent: &Agent) -> Option<&Step> {
    agent.search.step()
}

/// The addresses to which the search would send.
pub fn search_targets(agent: &Agent) -> Vec<Ipv4Addr> {
    agent.search.targets(&agent.nats)
}

/// The search waits until then.
pub fn postpone_search(agent: &mut Agent, until: Instant) {
    agent.search.wait_until(until);
}

/// The smoothed round trip of the path.
pub fn round_trip(agent: &Agent) -> Option<Duration> {
    agent.checklist.selected().and_then(|pair| pair.rtt)
}

/// Whether a search was not made because the budget was spent.
pub fn was_refused(agent: &Agent) -> bool {
    agent.search.was_refused()
}

/// Whether a search is under way.
pub fn is_searching(agent: &Agent) -> bool {
    agent.search.is_active()
}
