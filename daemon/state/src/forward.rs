//! Changes of forwards.

use std::collections::BTreeSet;

use punch_api::{AddForward, ForwardKey, Target, ValueError};

use crate::model::{Forward, MAX_FORWARDS, State, is_meeting};
use crate::peer;
use crate::refusal::Refusal;

/// Adds a forward; without a target it leads to the same ports of 127.0.0.1. One that is there just like this stays as it is.
///
/// # Errors
/// Ports that are forwarded already, or at which peers meet, more forwards than [`MAX_FORWARDS`], peers that do not exist, and a target
/// whose ports would run past the last one.
pub fn add(state: &State, ask: AddForward) -> Result<State, Refusal> {
    let key = key_of(&ask);
    let peers: BTreeSet<_> = ask.peers.into_iter().collect();
    let target = ask
        .target
        .unwrap_or_else(|| Target::local(key.ports.first()));
    let forward = Forward {
        key,
        target,
        peers: peers.into_iter().collect(),
    };
    let shares_port = |known: &&Forward| {
        known.key.protocol == key.protocol && known.key.ports.overlaps(key.ports)
    };
    match state.forwards.iter().find(shares_port) {
        Some(known) if *known == forward => return Ok(state.clone()),
        Some(known) => {
            return Err(Refusal::Forwarded {
                key: known.key,
                target: known.target.clone(),
            });
        }
        None if state.forwards.len() >= MAX_FORWARDS => return Err(Refusal::TooManyForwards),
        None => {}
    }
    if is_meeting(key) && state.peers.values().any(|peer| peer.relay) {
        return Err(Refusal::Meeting(key));
    }
    for name in &forward.peers {
        peer::find(state, name)?;
    }
    forward
        .target
        .offset(key.ports.last() - key.ports.first())
        .ok_or(ValueError::TargetPastEnd)?;
    let mut state = state.clone();
    let at = state.forwards.partition_point(|known| known.key < key);
    state.forwards.insert(at, forward);
    Ok(state)
}

/// What names the forward that is asked for.
pub fn key_of(ask: &AddForward) -> ForwardKey {
    ForwardKey {
        protocol: ask.protocol,
        ports: ask.ports,
    }
}

/// Ends a forward.
///
/// # Errors
/// There is no forward of exactly these ports.
pub fn remove(state: &State, key: ForwardKey) -> Result<State, Refusal> {
    let mut state = state.clone();
    let before = state.forwards.len();
    state.forwards.retain(|forward| forward.key != key);
    if state.forwards.len() == before {
        let known = state.forwards.iter().map(|forward| forward.key).collect();
        return Err(Refusal::NotForwarded { key, known });
    }
    Ok(state)
}
