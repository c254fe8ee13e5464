//! A connection that outlives the process: what it leaves to the next one, and how that one goes on with it.

use std::time::Instant;

use punch_signal_protocol::seal::{Exchange, ExchangeKeys, stream_credentials};
use punch_signal_protocol::{Capabilities, Capability, Ipv4Range, PeerId};
use punch_traversal::{ProvenPath, bequeath, inherit};

use super::PeerConnection;
use super::attempt::NewAttempt;
use super::relayed::RelayedConfig;
use super::tcp::TcpConfig;
use crate::UserWish;

/// What one process leaves to the next of the connection with one peer. It has secrets.
#[derive(Clone)]
pub struct Bequest {
    /// The peer.
    pub id: PeerId,
    /// The newest stamps sent and seen, in milliseconds since 1970.
    pub stamps: (u64, u64),
    /// The path that serves, if there is one.
    pub path: Option<PathBequest>,
}

/// A direct path that serves, and what the exchange behind it has agreed on.
#[derive(Clone)]
pub struct PathBequest {
    /// The path, and the credentials of its checks.
    pub proven: ProvenPath,
    /// The exchange behind it.
    pub exchange: ExchangeKeys,
    /// Whether both have agreed to be reached over relays.
    pub relay: bool,
    /// Whether the peer waits for who is away.
    pub waits: bool,
    /// Whether the peer gets packets whole over IPv4.
    pub whole: bool,
    /// The range of the peer's overlay IPv4 address.
    pub peer_range: Option<Ipv4Range>,
}

/// What the connection leaves.
pub(crate) fn bequest(connection: &PeerConnection) -> Bequest {
    let stamps = connection.calls.stamps;
    let path = connection.attempts.first().and_then(|attempt| {
        Some(PathBequest {
            proven: bequeath(&attempt.agent)?,
            exchange: attempt.bequeath()?,
            relay: attempt.links.relayed.is_agreed(),
            waits: attempt.waits,
            whole: attempt.whole,
            peer_range: attempt.peer_range(),
        })
    });
    Bequest {
        id: connection.id,
        stamps: (stamps.sent, stamps.seen),
        path,
    }
}

/// Goes on with the path of an earlier process, unless the user has said `down` since or there is an attempt already. Whoever
/// wanted the connection then wants it still. `mtu` is the tunnel's, `tcp` whether TCP connections are made. The `seed` of the agent, and the clock and the random number for the notes must be fresh. Returns whether it goes on.
pub(crate) fn go_on(
    connection: &mut PeerConnection,
    path: PathBequest,
    (mtu, tcp, seed): (u16, bool, u64),
    (wall_ms, random): (u64, u64),
    now: Instant,
) -> bool {
    if connection.is_blocked() || !connection.attempts.is_empty() {
        return false;
    }
    if connection.wish() == UserWish::Unsaid {
        connection.demand.handle_call(true, now);
    }
    connection.history.handle_met();
    let relayed = RelayedConfig {
        token: path.exchange.relay,
        agreed: path.relay,
        credentials: path.exchange.links.clone(),
        seed: seed.rotate_left(32),
    };
    let tcp = TcpConfig {
        // Whoever waits is new enough to pass over kinds of candidates.
        enabled: tcp && path.waits,
        offered: true,
        heard: Vec::new(),
        udp_blocked: false,
        credentials: [&path.proven.local, &path.proven.remote].map(stream_credentials),
        seed: seed.rotate_left(16),
    };
    let new = NewAttempt {
        // This end makes the session anew.
        offered: true,
        exchange: Exchange::inherit(path.exchange, wall_ms, random),
        agent: inherit(path.proven, mtu, seed, now),
        peer_range: path.peer_range,
        sent_candidates: Vec::new(),
        unmeasured: false,
        relayed,
        tcp,
        capabilities: capabilities(path.waits, path.whole),
    };
    connection.attempts.begin(new, now);
    true
}

/// What the peer has said of itself that an attempt goes by.
fn capabilities(waits: bool, whole: bool) -> Capabilities {
    let said = [
        (waits, Capability::WaitsForReturn),
        (whole, Capability::WantsWhole),
    ];
    let said = said.into_iter().filter(|(is_said, _)| *is_said);
    said.fold(Capabilities::NONE, |all, (_, said)| all.with(said))
}
