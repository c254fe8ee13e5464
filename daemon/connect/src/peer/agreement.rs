//! When the session of an exchange is announced: once the peer has shown that it holds the exchange's keys, and both have agreed on the
//! preshared key. Behind compact envelopes the ML-KEM exchange is made for that first, over the path that was found: until then the attempt
//! has no path for anybody else.

use std::time::{Duration, Instant};

use punch_signal_protocol::note_datagram;
use punch_traversal::{DirectPath, Transmit, is_patient, their_fragment};

use super::attempt::Attempt;
use super::attempts::Attempts;
use super::{Outputs, PeerConnection};
use crate::path::Path;
use crate::{ConnectorEvent, SessionEvent};

/// An attempt is not disturbed by an offer that takes its time for so long.
const UNDER_WAY: Duration = Duration::from_secs(15);

/// Whether an attempt has its preshared key: before that, no packet takes a path of it.
pub(super) fn is_agreed(attempts: &mut Attempts, index: usize) -> bool {
    let attempt = attempts.get_mut(index);
    attempt.is_some_and(|attempt| attempt.preshared_key().is_some())
}

/// Whether the newest attempt is one that its peer may not know of yet, or so young that its peer may be about to prove it.
pub(super) fn is_under_way(attempts: &Attempts, now: Instant) -> bool {
    let newest = attempts.newest_first().next();
    newest.is_some_and(|attempt| is_patient(&attempt.agent))
        || attempts.are_younger_than(UNDER_WAY, now)
}

/// A note has come over a path, for the attempt of this fragment; returns whether it was one of the ML-KEM exchange.
pub(crate) fn handle_datagram(attempts: &mut Attempts, fragment: [u8; 8], note: &[u8]) -> bool {
    for index in 0..attempts.alive() {
        if let Some(attempt) = attempts.get_mut(index)
            && attempt.agent.fragment() == fragment
        {
            return attempt.handle_kem(note);
        }
    }
    false
}

/// The peer has shown that it holds the keys of this exchange: a session may begin, if there is a preshared key. This is said once of an
/// attempt.
pub(super) fn prove(
    connection: &mut PeerConnection,
    index: usize,
    out: &mut Outputs<'_>,
    now: Instant,
) {
    let has_path = connection.serving().is_some();
    let Some(attempt) = connection.attempts.get_mut(index) else {
        return;
    };
    attempt.proof.show();
    let Some(preshared) = attempt.preshared_key().cloned() else {
        return;
    };
    if !attempt.proof.announce() {
        return;
    }
    let (peer, initiator) = (out.peer, attempt.offered);
    if !initiator {
        connection.demand.handle_call(has_path, now);
    }
    out.session(SessionEvent::Proven {
        peer,
        preshared,
        initiator,
    });
}

/// Goes on with the ML-KEM exchange of an attempt whose envelopes were compact. As long as it is not done, the path that was `selected` is
/// held back; once it is, the session is announced, and the path that there is then. Returns whether the attempt has ended because it
/// has come to nothing.
pub(super) fn advance(
    connection: &mut PeerConnection,
    index: usize,
    selected: &mut Option<DirectPath>,
    out: &mut Outputs<'_>,
    now: Instant,
) -> bool {
    let Some(attempt) = connection.attempts.get_mut(index) else {
        return false;
    };
    if !attempt.proof.is_compact() {
        return false;
    }
    let agreed = attempt.preshared_key().is_some();
    if let Some(path) = attempt.found()
        && attempt.proof.take_due(attempt.offered, agreed, now)
    {
        send(attempt, path, out);
    }
    if attempt.proof.take_agreed() {
        *selected = attempt.agent.path();
        prove(connection, index, out, now);
        return false;
    }
    if agreed {
        return false;
    }
    *selected = None;
    let in_vain = attempt.proof.is_in_vain(now);
    if in_vain {
        connection.attempts.retire(index..index + 1);
        if index == 0 {
            out.session(SessionEvent::Lost { peer: out.peer });
            connection.demand.handle_lost(now);
        }
        connection.calls.retry.handle_lost();
    }
    in_vain
}

/// Sends what this end has to say, over the path.
fn send(attempt: &mut Attempt, path: Path, out: &mut Outputs<'_>) {
    let note = attempt.exchange.kem_note();
    let Some(sealed) = note.and_then(|note| attempt.exchange.seal(&note).ok()) else {
        return;
    };
    let bytes = note_datagram(their_fragment(&attempt.agent), &sealed);
    match path {
        Path::Direct(DirectPath { socket, remote }) => {
            out.transmits
                .push_back(Transmit::new(socket, remote, bytes));
        }
        Path::Relayed(_) | Path::Tcp(_) => {
            let message = bytes;
            out.events.push_back(ConnectorEvent::Link { path, message });
        }
    }
}
