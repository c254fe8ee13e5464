//! What is told of a connection.

use std::time::{Duration, Instant};

use punch_traversal::{Budget, Loss, NatProfile, loss, round_trip, was_refused};

use super::PeerConnection;
use super::attempts::Attempts;
use crate::path::Path;
use crate::{Contact, LinkStatus, ServerId};

/// The exchange of the newest attempt was made over this channel.
pub(crate) fn handle_met(connection: &mut PeerConnection, server: ServerId) {
    let newest = connection.attempts.newest_first().next();
    if let Some(number) = newest.map(|attempt| attempt.number) {
        connection.history.note_met(number, server);
    }
}

/// Over which channel the exchange was made that serves, or else the newest one.
pub(crate) fn met_over(connection: &PeerConnection) -> Option<ServerId> {
    let first = connection.attempts.first()?;
    connection.history.met_over(first.number)
}

/// What status shows of the connection; `is_in_reach` is as for [`contact`].
pub(crate) fn status(
    connection: &PeerConnection,
    is_in_reach: (bool, bool),
    mine: Option<NatProfile>,
    budget: Budget,
    now: Instant,
) -> LinkStatus {
    let (last_steps, last_theirs) = connection.history.last();
    let newest = connection
        .attempts
        .newest_first()
        .find(|attempt| !was_refused(&attempt.agent) || last_steps.is_empty())
        .map(|attempt| attempt.agent.status(now));
    let (steps, theirs) = match newest {
        Some(status) => (status.steps, status.theirs),
        None => (last_steps.to_vec(), last_theirs.cloned()),
    };
    let retry_at = connection
        .calls
        .retry
        .at()
        .filter(|_| connection.is_wanted());
    let (round_trip, loss) = measured(&connection.attempts, now);
    LinkStatus {
        state: connection.state(),
        refused: connection.calls.refusals.received(now),
        contact: contact(connection, is_in_reach, now),
        agent: connection.attempts.first().map(|a| a.agent.status(now)),
        round_trip,
        loss,
        peer_range: connection.attempts.peer_range(),
        mine,
        theirs,
        steps,
        failures: connection.history.failures,
        retry_in: retry_at.map(|at| at.saturating_duration_since(now)),
        budget,
        met_over: met_over(connection),
    }
}

/// How far calling the peer has come. `is_in_reach` says whether any signalling server is, or a slow channel that may lead to the peer; and
/// whether a network of this machine is, in which the peer may be or not.
fn contact(
    connection: &PeerConnection,
    (by_server, by_network): (bool, bool),
    now: Instant,
) -> Contact {
    let is_over = connection.attempts.are_over();
    if !is_over || connection.serving().is_some() || by_server && !connection.attempts.is_empty() {
        Contact::Answered
    } else if !connection.is_wanted() {
        Contact::Unwanted
    } else if !by_server && !by_network {
        Contact::NoServer
    } else {
        let contact = connection.calls.contact(connection.history.has_met(), now);
        // No server has said that the peer is not there.
        match contact {
            Contact::Offline if !by_server => Contact::NoServer,
            contact => contact,
        }
    }
}

/// The smoothed round trip of the path that carries the packets, and its loss.
fn measured(attempts: &Attempts, now: Instant) -> (Option<Duration>, Option<Loss>) {
    let Some(first) = attempts.first() else {
        return (None, None);
    };
    let (agent, links) = (&first.agent, &first.links);
    let link = match agent.path() {
        Some(_) => links.stands_in,
        None => links.path(),
    };
    match link {
        None => (round_trip(agent), loss(agent, now)),
        Some(Path::Tcp(_)) => (links.tcp.round_trip(), None),
        Some(_) => (links.relayed.round_trip(), links.relayed.loss(now)),
    }
}
