//! Changes of servers.

use punch_api::{AddServer, ServerAddress};

use crate::model::{MAX_SERVERS, Machine, State};
use crate::refusal::Refusal;

/// Adds a server, unless it is in use already; also tells its address in the normal form.
///
/// # Errors
/// A text that is no address, and one too many.
pub fn add(
    state: &State,
    machine: &Machine,
    ask: &AddServer,
) -> Result<(State, ServerAddress), Refusal> {
    let address = ServerAddress::parse(ask.kind, &ask.address)?;
    if machine.servers.contains(&address) || state.servers.contains(&address) {
        return Ok((state.clone(), address));
    }
    if all(state, machine).count() >= MAX_SERVERS {
        return Err(Refusal::TooManyServers);
    }
    let mut state = state.clone();
    if address == ServerAddress::Public {
        state.refuses_public = false;
    }
    state.servers.push(address.clone());
    Ok((state, address))
}

/// Removes a server that a user has added. What is public can also be refused before anybody has added it.
///
/// # Errors
/// A text that is no address, a server that is not there, and one that punchd.toml names.
pub fn remove(state: &State, machine: &Machine, ask: &AddServer) -> Result<State, Refusal> {
    let address = ServerAddress::parse(ask.kind, &ask.address)?;
    if machine.servers.contains(&address) {
        return Err(Refusal::ServerFixed(address));
    }
    let mut state = state.clone();
    if address == ServerAddress::Public {
        state.refuses_public = true;
    } else if !state.servers.contains(&address) {
        return Err(Refusal::ServerNotInUse(address));
    }
    state.servers.retain(|known| *known != address);
    Ok(state)
}

/// All servers in use: those of punchd.toml, then those that users have added.
pub fn all<'a>(state: &'a State, machine: &'a Machine) -> impl Iterator<Item = &'a ServerAddress> {
    let added = state.servers.iter();
    machine
        .servers
        .iter()
        .chain(added.filter(|address| !machine.servers.contains(address)))
}
