//! How far calling one peer has come: what servers say of it, and what it has answered.

use std::time::{Duration, Instant};

use super::PeerConnection;
use crate::Contact;

/// An offer that a server takes is answered within two round trips; a peer whose answer takes longer is silent.
const ANSWER_EXPECTED: Duration = Duration::from_secs(1);

/// How far calling a peer has come; `is_in_reach` says whether any signalling server is.
pub(super) fn contact(connection: &PeerConnection, is_in_reach: bool, now: Instant) -> Contact {
    if !connection.attempts.is_empty() {
        return Contact::Answered;
    }
    if !connection.is_wanted() {
        return Contact::Unwanted;
    }
    if !is_in_reach {
        return Contact::NoServer;
    }
    if connection.presence.said_goodbye {
        return Contact::Goodbye;
    }
    match &connection.offer {
        Some(offer) if !connection.presence.is_offline => {
            let waited = now.saturating_duration_since(offer.sent_at());
            let silent = waited >= ANSWER_EXPECTED || connection.retry.unanswered() > 1;
            if silent && offer.awaits_answer() {
                let has_met = connection.stamps.seen > 0 || connection.history.has_met();
                Contact::Silent { has_met }
            } else {
                Contact::Called
            }
        }
        _ => Contact::Offline,
    }
}
