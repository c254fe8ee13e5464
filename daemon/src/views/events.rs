//! Events of the engine and of the controller, as the control API tells them: the kind with its values, and a sentence for
//! people. No other file words an event.

use std::net::{IpAddr, SocketAddr};

use punch_api::{EventKind, MetView, PeerId, PeerName};
use punch_engine::{LinkState, Path, PathReason, PeerRefusal, StepKind};

use super::advice::in_words;
use super::status::peer_state;
use super::{change, refused};
use crate::overlay::Why;

/// The state of a peer's connection has changed; `met_over` is the channel by which the two have met.
pub(crate) fn state(
    peer: PeerName,
    state: LinkState,
    met_over: Option<MetView>,
) -> (EventKind, String) {
    let message = match state {
        LinkState::Down => format!("{peer} is down"),
        LinkState::Waiting => format!("waiting for {peer} to come online"),
        LinkState::Connecting => format!("connecting to {peer}"),
        LinkState::Connected => match &met_over {
            Some(met) => format!("connected to {peer}, met {met}"),
            None => format!("connected to {peer}"),
        },
    };
    let state = peer_state(state).into();
    let kind = EventKind::Peer {
        peer,
        state,
        met_over,
    };
    (kind, message)
}

/// Packets to a peer take another path; `server` is the server or the peer that relays, if one does.
pub(crate) fn path(
    peer: PeerName,
    (path, why): (Path, PathReason),
    server: Option<String>,
) -> Option<(EventKind, String)> {
    match path {
        Path::Direct(direct) => Some(to(peer, "to", direct.remote, why)),
        Path::Tcp(tcp) => Some(to(peer, "directly over TCP, with", tcp.remote, why)),
        Path::Relayed(_) => Some(relayed(peer, server?, why)),
    }
}

/// A plain WireGuard peer is at another address.
pub(crate) fn roamed(peer: PeerName, remote: SocketAddr) -> (EventKind, String) {
    to(peer, "to", remote, PathReason::PeerMoved)
}

/// Packets to a peer go to another address, in this way.
fn to(peer: PeerName, way: &str, remote: SocketAddr, why: PathReason) -> (EventKind, String) {
    let clause = change::clause(&peer, why);
    let message = format!("packets to {peer} go {way} {remote}: {clause}");
    let reason = Some(change::reason(why).into());
    let kind = EventKind::Path {
        peer,
        remote,
        reason,
    };
    (kind, message)
}

/// Packets to a peer go through a signalling server.
fn relayed(peer: PeerName, server: String, why: PathReason) -> (EventKind, String) {
    let clause = change::clause(&peer, why);
    let message = format!("packets to {peer} are relayed by {server}: {clause}");
    let reason = Some(change::reason(why).into());
    let kind = EventKind::Relayed {
        peer,
        server,
        reason,
    };
    (kind, message)
}

/// Longer packets fit on the path to a peer than `before`, or only shorter ones; none if nothing was known before.
pub(crate) fn resized(
    peer: PeerName,
    mtu: usize,
    before: Option<usize>,
) -> Option<(EventKind, String)> {
    let before = before?;
    let message = format!(
        "packets of up to {mtu} bytes fit on the path to {peer} now; it was {before} before"
    );
    let bytes = |mtu| u16::try_from(mtu).unwrap_or(u16::MAX);
    let kind = EventKind::Mtu {
        peer,
        mtu: bytes(mtu),
        before: Some(bytes(before)),
    };
    Some((kind, message))
}

/// A search for a path begins, by this step and with this chance.
pub(crate) fn searching(peer: PeerName, step: StepKind, chance: f64) -> (EventKind, String) {
    let percent = 100.0 * chance;
    let message = format!(
        "ordinary checks are not enough for {peer}: searching by {}, chance {percent:.1} %",
        in_words(step)
    );
    (EventKind::Search { peer, chance }, message)
}

/// An offer was refused, because the clock of the peer is so many seconds ahead of this machine's; behind it if negative.
pub(crate) fn stale(peer: PeerName, seconds: i64) -> (EventKind, String) {
    let off = seconds.unsigned_abs();
    let which = if seconds < 0 { "behind" } else { "ahead of" };
    let message = format!(
        "an offer of {peer} was refused: its clock is {off} s {which} this machine's; set the clocks (NTP)"
    );
    (EventKind::OfferRefused { peer }, message)
}

/// An overlay address of a peer, or this machine's own, is not used any more, or is again.
pub(crate) fn overlay(
    peer: Option<PeerName>,
    address: IpAddr,
    why: Option<&Why>,
) -> (EventKind, String) {
    let whose = match &peer {
        Some(peer) => format!("the overlay address {address} of {peer}"),
        None => format!("this machine's overlay address {address}"),
    };
    let message = match why {
        Some(why) => format!("{whose} is not used: {why}"),
        None => format!("{whose} is used again"),
    };
    let used = why.is_none();
    let kind = EventKind::Overlay {
        peer,
        address,
        used,
    };
    (kind, message)
}

/// A peer refuses this machine's offers, and has told why.
pub(crate) fn refused(peer: PeerName, refusal: PeerRefusal) -> (EventKind, String) {
    let message = refused::sentence(&peer, refusal);
    let (reason, clock_ahead_s) = refused::reason(refusal);
    let kind = EventKind::Refused {
        peer,
        reason: reason.into(),
        clock_ahead_s,
    };
    (kind, message)
}

/// A machine that is no peer has called.
pub(crate) fn stranger(id: PeerId) -> (EventKind, String) {
    let message = format!(
        "a machine that is no peer here has called; if it is yours, add it with: punchctl peer add NAME {id}"
    );
    (EventKind::Stranger { id }, message)
}

/// The addresses of this machine have changed.
pub(crate) fn network_changed() -> (EventKind, String) {
    let message = "the addresses of this machine changed".to_owned();
    (EventKind::Network, message)
}

/// The connection to a signalling server was made, or was lost.
pub(crate) fn server(
    address: String,
    connected: bool,
    trouble: Option<&str>,
) -> (EventKind, String) {
    let message = if connected {
        format!("connected to {address}")
    } else {
        let why = trouble.unwrap_or("no reason given");
        format!("lost {address}: {why}")
    };
    (EventKind::Server { address, connected }, message)
}

/// This machine has come to the meeting place of a peer, or has left it.
pub(crate) fn meeting(
    peer: PeerName,
    connected: bool,
    trouble: Option<&str>,
) -> (EventKind, String) {
    let message = if connected {
        format!("peers are met at {peer}, which relays for them")
    } else {
        let why = trouble.unwrap_or("no reason given");
        format!("peers are no longer met at {peer}: {why}")
    };
    (EventKind::Meeting { peer, connected }, message)
}

/// The user has changed the configuration.
pub(crate) fn configuration() -> (EventKind, String) {
    let message = "the configuration changed".to_owned();
    (EventKind::Configuration, message)
}
