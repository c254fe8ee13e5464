//! Why a peer's packets take another path than before, as the control API tells it: the reason, and a clause for people.

use punch_api::{PathReason, PeerName};
use punch_engine::PathReason as Reason;

/// The reason in the API's terms.
pub(super) fn reason(why: Reason) -> PathReason {
    match why {
        Reason::First => PathReason::First,
        Reason::Promoted => PathReason::Promoted,
        Reason::Better => PathReason::Better,
        Reason::ChosenByPeer => PathReason::ChosenByPeer,
        Reason::Silent => PathReason::Silent,
        Reason::Recovered => PathReason::Recovered,
        Reason::RelayLost => PathReason::RelayLost,
        Reason::Closed => PathReason::Closed,
        Reason::RelayForbidden => PathReason::RelayForbidden,
        Reason::NetworkChanged => PathReason::NetworkChanged,
        Reason::PeerMoved => PathReason::PeerMoved,
        Reason::Renewed => PathReason::Renewed,
        Reason::TakenOver => PathReason::TakenOver,
        Reason::Configured => PathReason::Configured,
    }
}

/// The reason as a clause, to stand behind what has changed and a colon.
pub(super) fn clause(peer: &PeerName, why: Reason) -> String {
    let clause = match why {
        Reason::First => "the first path that was found",
        Reason::Promoted => "a more direct path was found",
        Reason::Better => "it is better than the path before",
        Reason::ChosenByPeer => return format!("{peer} has chosen it"),
        Reason::Silent => "the path before did not answer any more",
        Reason::Recovered => "it answers again",
        Reason::RelayLost => "the relay before was lost",
        Reason::Closed => "the TCP connection before was closed",
        Reason::RelayForbidden => "no relay may be used any more",
        Reason::NetworkChanged => "this machine's network changed, or it has slept",
        Reason::PeerMoved => return format!("{peer} is at another address now"),
        Reason::Renewed => return format!("this machine or {peer} has called anew"),
        Reason::TakenOver => "punchd was restarted and goes on with it",
        Reason::Configured => "it is configured",
    };
    clause.to_owned()
}
