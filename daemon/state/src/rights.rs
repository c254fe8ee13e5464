//! Changes that only take rights away: they are in force at once, whatever becomes of saving them.

use crate::model::{Forward, Peer, State};

/// Whether peers or servers may do anything in `after` that they may not do in `before`.
pub fn gives(before: &State, after: &State) -> bool {
    let peers = after.peers.iter().any(|(name, now)| {
        before
            .peers
            .get(name)
            .is_none_or(|then| peer_gains(then, now))
    });
    let forwards = after.forwards.iter().any(|now| {
        let mut before = before.forwards.iter();
        !before.any(|then| is_within(now, then))
    });
    let mut servers = after.servers.iter();
    peers || forwards || servers.any(|server| !before.servers.contains(server))
}

fn peer_gains(then: &Peer, now: &Peer) -> bool {
    let Peer {
        key,
        up,
        blocked,
        host,
        relay,
        direct_only,
    } = now;
    *key != then.key
        || (*up && !then.up)
        || (!blocked && then.blocked)
        || (*host && !then.host)
        || (*relay && !then.relay)
        || (!direct_only && then.direct_only)
}

/// Whether everybody who may use `now` reaches the same by `then`.
fn is_within(now: &Forward, then: &Forward) -> bool {
    let (ports, wider) = (now.key.ports, then.key.ports);
    let peers = then.peers.is_empty()
        || !now.peers.is_empty() && now.peers.iter().all(|peer| then.peers.contains(peer));
    peers
        && now.key.protocol == then.key.protocol
        && wider.contains(ports.first())
        && wider.contains(ports.last())
        && then.target.offset(ports.first() - wider.first()).as_ref() == Some(&now.target)
}
