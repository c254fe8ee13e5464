//! Whether a connection's search may begin.

use std::time::Instant;

use punch_traversal::StepKind;

use super::PeerConnection;
use crate::searches::Searches;

/// Lets the waiting search begin, if the budget has enough `left` and the addresses have not got too much lately.
/// Returns the step that has begun, and its chance.
pub(crate) fn begin(
    connection: &mut PeerConnection,
    searches: &mut Searches,
    left: u32,
    now: Instant,
) -> Option<(StepKind, f64)> {
    let (agent, step) = connection.attempts.waiting_search(now)?;
    let targets = agent.search_targets();
    let budget = searches.budget;
    let packets = step.packets;
    let too_many = searches.charges.free_at(&targets, packets, budget, now);
    let too_early = connection.history.next_search().filter(|at| *at > now);
    // With less than a quarter of what it would cost it is not worth the packets.
    let too_dear = left < (step.entries / 4).max(1);
    if too_early.is_none() && too_many.is_none() && !too_dear {
        connection.history.handle_search(&targets, now);
        searches.charges.charge(&targets, packets, now);
        agent.start_search(left, now);
        return Some((step.kind, step.chance));
    }
    agent.refuse_search(now);
    agent.handle_timeout(now);
    if connection.is_wanted() {
        let later = too_early.max(too_many);
        connection
            .calls
            .retry
            .not_before(later.or(searches.clear_at()));
    }
    None
}
