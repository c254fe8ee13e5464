//! Whether a connection's search may begin.

use std::time::{Duration, Instant};

use punch_traversal::{StepKind, is_patient, postpone_search, search_targets};

use super::PeerConnection;
use crate::searches::Searches;

/// A search of so many packets may be made more than once for a peer that may not have read the answer yet. What all of them may send to one
/// address is bounded elsewhere.
const FEW_PACKETS: u32 = 1_000;
/// Until a search is thought of again that would have cost too much.
const PATIENT_PAUSE: Duration = Duration::from_secs(5);

/// Lets the waiting search begin, if the budget has enough `left` and the addresses have not got too much lately.
/// Returns the step that has begun, and its chance.
pub(crate) fn begin(
    connection: &mut PeerConnection,
    searches: &mut Searches,
    left: u32,
    now: Instant,
) -> Option<(StepKind, f64)> {
    let (agent, step) = connection.attempts.waiting_search(now)?;
    let targets = search_targets(agent);
    let budget = searches.budget;
    let packets = step.packets;
    let too_many = searches.charges.free_at(&targets, packets, budget, now);
    // Whoever waits for a peer that may read the answer at any time searches again and again, where that costs little.
    let patient = is_patient(agent);
    let repeats = patient && packets <= FEW_PACKETS;
    let next = connection.history.next_search().filter(|_| !repeats);
    let too_early = next.filter(|at| *at > now);
    // With less than a quarter of what it would cost it is not worth the packets.
    let too_dear = left < (step.entries / 4).max(1);
    if too_early.is_none() && too_many.is_none() && !too_dear {
        connection.history.handle_search(&targets, now);
        searches.charges.charge(&targets, packets, now);
        agent.start_search(left, now);
        return Some((step.kind, step.chance));
    }
    if patient {
        // The peer searches whenever it has read the answer, and is to be met then.
        let later = too_early.max(too_many).unwrap_or(now);
        postpone_search(agent, later.max(now + PATIENT_PAUSE));
        return None;
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
