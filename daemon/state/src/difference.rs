//! What differs between two states, for those who act on it: a change costs what it changes.

use punch_api::{PeerName, ServerAddress};

use crate::model::State;

/// What differs between two states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Peers that have another name now: the old one and the new one.
    pub renamed: Vec<(PeerName, PeerName)>,
    /// Peers that are no longer there.
    pub gone: Vec<PeerName>,
    /// Peers that are new, and peers of which something but the name is different.
    pub changed: Vec<PeerName>,
    /// Whether any forward, or who may meet here, is different.
    pub forwards: bool,
    /// Servers that are no longer there.
    pub servers_gone: Vec<ServerAddress>,
    /// Servers that are new.
    pub servers_added: Vec<ServerAddress>,
}

impl Difference {
    /// Tells what is different in `after`. A name with another machine behind it is one peer that is gone and one that is new.
    pub fn between(before: &State, after: &State) -> Self {
        let mut difference = Self {
            forwards: before.forwards != after.forwards || !before.guests().eq(after.guests()),
            servers_gone: missing(&before.servers, &after.servers),
            servers_added: missing(&after.servers, &before.servers),
            ..Self::default()
        };
        let mut added: Vec<_> = after
            .peers
            .iter()
            .filter(|(name, _)| !before.peers.contains_key(*name))
            .collect();
        for (name, peer) in &before.peers {
            match after.peers.get(name) {
                Some(now) if now == peer => {}
                Some(now) => {
                    if !now.is_same_machine(peer) {
                        difference.gone.push(name.clone());
                    }
                    difference.changed.push(name.clone());
                }
                None => match added.iter().position(|(_, now)| *now == peer) {
                    Some(at) => {
                        let (to, _) = added.swap_remove(at);
                        difference.renamed.push((name.clone(), to.clone()));
                    }
                    None => difference.gone.push(name.clone()),
                },
            }
        }
        let added = added.into_iter().map(|(name, _)| name.clone());
        difference.changed.extend(added);
        difference
    }
}

fn missing(from: &[ServerAddress], others: &[ServerAddress]) -> Vec<ServerAddress> {
    let missing = from.iter().filter(|address| !others.contains(address));
    missing.cloned().collect()
}
