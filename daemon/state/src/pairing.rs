//! What becomes of two machines that have met by a code.

use punch_api::{AddForward, AddPeer, ForwardKey, PeerId, PeerKey, PeerName, ServerAddress};

use crate::model::{MAX_SERVERS, Machine, State};
use crate::refusal::Refusal;
use crate::{forward, peer, server};

/// The longest name that is proposed, without a number behind it.
const MAX_PROPOSED: usize = 56;

/// What this machine gives to the other one, and takes from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// The name that the user has chosen for the other one.
    pub name: Option<PeerName>,
    /// What is shared with it.
    pub forwards: Vec<ForwardKey>,
    /// Whether it may reach this whole machine.
    pub host: bool,
    /// The servers that are used from then on.
    pub servers: Vec<ServerAddress>,
}

/// Looks whether these terms can be kept, before anybody is told a code.
///
/// # Errors
/// The name is taken; ports that are shared otherwise already, or cannot be.
pub fn check(state: &State, terms: &Terms) -> Result<(), Refusal> {
    if let Some(name) = &terms.name
        && state.peers.contains_key(name)
    {
        let free = free_name(state, name.as_str());
        return Err(Refusal::NameInUse {
            name: name.clone(),
            free,
        });
    }
    let mut state = state.clone();
    for key in &terms.forwards {
        state = share(state, *key, None)?;
    }
    Ok(())
}

/// Makes the other machine a peer that is wanted, on these terms, and tells its name here. One that is a peer already keeps its name.
///
/// # Errors
/// As with [`peer::add`]; ports that are shared otherwise by now.
pub fn pair(
    state: &State,
    machine: &Machine,
    (id, proposed): (PeerId, &str),
    terms: &Terms,
) -> Result<(State, PeerName), Refusal> {
    let known = state.peers.iter().find(|(_, peer)| peer.id() == Some(id));
    let (mut state, name) = match known {
        Some((name, _)) => (state.clone(), name.clone()),
        None => {
            let wanted = terms.name.as_ref().map_or(proposed, PeerName::as_str);
            let name = free_name(state, wanted);
            let key = PeerKey::Punch {
                key: id,
                ipv6_only: false,
            };
            let ask = AddPeer {
                name: name.clone(),
                key,
            };
            (peer::add(state, machine, ask)?, name)
        }
    };
    if let Some(peer) = state.peers.get_mut(&name) {
        peer.up = true;
        peer.blocked = false;
        peer.host |= terms.host;
    }
    for key in &terms.forwards {
        state = share(state, *key, Some(&name))?;
    }
    for address in &terms.servers {
        let count = server::all(&state, machine).count();
        let is_known = server::all(&state, machine).any(|known| known == address);
        if !is_known && count < MAX_SERVERS {
            state.servers.push(address.clone());
        }
    }
    Ok((state, name))
}

/// Shares ports with one peer: by the forward that is there for these ports, or by a new one. Without a name, it is only looked whether
/// that can be.
fn share(mut state: State, key: ForwardKey, with: Option<&PeerName>) -> Result<State, Refusal> {
    let overlaps =
        |known: &ForwardKey| known.protocol == key.protocol && known.ports.overlaps(key.ports);
    let Some(known) = state.forwards.iter_mut().find(|known| overlaps(&known.key)) else {
        let ask = AddForward {
            protocol: key.protocol,
            ports: key.ports,
            target: None,
            peers: with.cloned().into_iter().collect(),
        };
        return forward::add(&state, ask);
    };
    let holds =
        known.key.ports.contains(key.ports.first()) && known.key.ports.contains(key.ports.last());
    match known.peers.is_empty() {
        // It is shared with all.
        true if holds => {}
        false if holds && with.is_some_and(|name| known.peers.contains(name)) => {}
        false if known.key == key => {
            if let Some(name) = with
                && let Err(at) = known.peers.binary_search(name)
            {
                known.peers.insert(at, name.clone());
            }
        }
        true | false => {
            return Err(Refusal::Forwarded {
                key: known.key,
                target: known.target.clone(),
            });
        }
    }
    Ok(state)
}

/// A name like the one that is proposed that no peer has: `laptop`, `laptop-2`. What cannot stand in a name is left out of it.
pub fn free_name(state: &State, proposed: &str) -> PeerName {
    let label = proposed.split('.').next().unwrap_or_default();
    let kept = label.chars().map(|c| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '-',
    });
    let kept: String = kept.take(MAX_PROPOSED).collect();
    let base = match kept.trim_matches('-') {
        "" | "localhost" => "peer",
        name => name,
    };
    let mut number = 1_u64;
    loop {
        let name = match number {
            1 => base.to_owned(),
            _ => format!("{base}-{number}"),
        };
        if let Ok(name) = name.parse::<PeerName>()
            && !state.peers.contains_key(&name)
        {
            return name;
        }
        number += 1;
    }
}
