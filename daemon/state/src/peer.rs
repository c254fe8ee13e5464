//! Changes of peers.

use std::net::IpAddr;

use punch_api::{AddPeer, Endpoint, PeerKey, PeerName};
use punch_signal_protocol::is_contributory;

use crate::model::{Machine, Peer, State, is_meeting, key_bytes};
use crate::refusal::{Holder, Refusal};

/// Up to so many names are listed when a peer is not found.
const LISTED: usize = 10;

/// Adds a peer. Nobody has asked for a connection to it yet, unless it is one that must call itself; it may reach nothing but forwards. One
/// that is there by this name and with this key stays as it is.
///
/// # Errors
/// A name, a machine or an address that is taken, and keys and addresses that no peer can have.
pub fn add(state: &State, machine: &Machine, ask: AddPeer) -> Result<State, Refusal> {
    let AddPeer { name, key } = ask;
    match state.peers.get(&name) {
        Some(known) if known.key == key => return Ok(state.clone()),
        Some(_) => return Err(Refusal::PeerExists(name)),
        None => {}
    }
    check_key(machine, &key)?;
    let mut peer = Peer::new(key);
    // There is nothing to call; it is waited for from now on.
    peer.up = matches!(&peer.key, PeerKey::Wireguard { endpoint: None, .. });
    check_unique(state, machine, &name, &peer)?;
    let mut state = state.clone();
    state.peers.insert(name, peer);
    Ok(state)
}

/// Checks what a plain WireGuard peer is described by; the identity of a Punch peer is valid by construction.
fn check_key(machine: &Machine, key: &PeerKey) -> Result<(), Refusal> {
    let PeerKey::Wireguard {
        key,
        endpoint,
        address,
        preshared,
    } = key
    else {
        return Ok(());
    };
    let bytes = key_bytes(key).ok_or(Refusal::NotAKey)?;
    if !is_contributory(&bytes) {
        return Err(Refusal::SmallOrder);
    }
    if preshared
        .as_ref()
        .is_some_and(|key| key_bytes(key.expose()).is_none())
    {
        return Err(Refusal::NotAPresharedKey);
    }
    if !may_be_inside(*address) {
        return Err(Refusal::NotInside(*address));
    }
    let literal = endpoint.as_ref().and_then(Endpoint::literal);
    if literal.is_some_and(|endpoint| endpoint.ip() == *address) {
        return Err(Refusal::IntoItself(*address));
    }
    if address.is_ipv4() && machine.ipv4.is_none() {
        return Err(Refusal::Ipv4Off);
    }
    Ok(())
}

/// Whether a machine inside the tunnel can have that address.
fn may_be_inside(address: IpAddr) -> bool {
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return false;
    }
    match address {
        // "This network" (RFC 1122 §3.2.1.3), link-local (RFC 3927), reserved and broadcast (RFC 1112 §4).
        IpAddr::V4(ip) => ip.octets()[0] != 0 && !ip.is_link_local() && ip.octets()[0] < 240,
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && ip.to_ipv4_mapped().is_none(),
    }
}

/// Checks that neither this machine nor another peer has the key or an address of the new one.
fn check_unique(
    state: &State,
    machine: &Machine,
    name: &PeerName,
    peer: &Peer,
) -> Result<(), Refusal> {
    let public = peer.public().ok_or(Refusal::NotAKey)?;
    if public == machine.id.x25519() {
        return Err(Refusal::OwnKey);
    }
    let addresses = peer.addresses(machine.ipv4);
    let clash = |theirs: Vec<IpAddr>| addresses.iter().copied().find(|ip| theirs.contains(ip));
    for (other, known) in &state.peers {
        if known.is_same_machine(peer) {
            return Err(Refusal::SameMachine {
                other: other.clone(),
                name: name.clone(),
            });
        }
        if let Some(ip) = clash(known.addresses(machine.ipv4)) {
            let holder = Holder::Peer(other.clone());
            return Err(Refusal::AddressTaken { ip, holder });
        }
    }
    match clash(machine.addresses()) {
        Some(ip) => Err(Refusal::AddressTaken {
            ip,
            holder: Holder::ThisMachine,
        }),
        None => Ok(()),
    }
}

/// Removes a peer, and the forwards that were for it alone: they must not become forwards for all.
///
/// # Errors
/// No peer has that name.
pub fn remove(state: &State, name: &PeerName) -> Result<State, Refusal> {
    find(state, name)?;
    let mut state = state.clone();
    state.peers.remove(name);
    state.forwards.retain_mut(|forward| {
        let named = forward.peers.contains(name);
        forward.peers.retain(|peer| peer != name);
        !named || !forward.peers.is_empty()
    });
    Ok(state)
}

/// Gives a peer another name, also where forwards name it.
///
/// # Errors
/// No peer has the old name, or another one the new one.
pub fn rename(state: &State, name: &PeerName, to: &PeerName) -> Result<State, Refusal> {
    find(state, name)?;
    if name == to {
        return Ok(state.clone());
    }
    if state.peers.contains_key(to) {
        return Err(Refusal::NameTaken(to.clone()));
    }
    let mut state = state.clone();
    if let Some(peer) = state.peers.remove(name) {
        state.peers.insert(to.clone(), peer);
    }
    for forward in &mut state.forwards {
        for peer in forward.peers.iter_mut().filter(|peer| *peer == name) {
            *peer = to.clone();
        }
    }
    Ok(state)
}

/// Asks for a connection to a peer, or ends it and refuses the peer's own offers from then on. Whether it may be relayed stays as it
/// is unless something is said of it.
///
/// # Errors
/// No peer has that name.
pub fn set_up(
    state: &State,
    name: &PeerName,
    up: bool,
    direct_only: Option<bool>,
) -> Result<State, Refusal> {
    change(state, name, |peer| {
        peer.up = up;
        peer.blocked = !up;
        peer.direct_only = direct_only.unwrap_or(peer.direct_only);
    })
}

/// Lets a peer reach this whole machine, or forwards alone.
///
/// # Errors
/// No peer has that name.
pub fn set_host(state: &State, name: &PeerName, host: bool) -> Result<State, Refusal> {
    change(state, name, |peer| peer.host = host)
}

/// Lets a peer meet others at this machine, which relays between them, or no longer.
///
/// # Errors
/// No peer has that name; it is a plain WireGuard peer, which knows of no such thing; or the port inside the tunnel is forwarded.
pub fn set_relay(state: &State, name: &PeerName, relay: bool) -> Result<State, Refusal> {
    if relay {
        if find(state, name)?.id().is_none() {
            return Err(Refusal::NoGuest(name.clone()));
        }
        if let Some(known) = state.forwards.iter().find(|known| is_meeting(known.key)) {
            return Err(Refusal::MeetingForwarded(known.key));
        }
    }
    change(state, name, |peer| peer.relay = relay)
}

fn change(
    state: &State,
    name: &PeerName,
    change: impl FnOnce(&mut Peer),
) -> Result<State, Refusal> {
    find(state, name)?;
    let mut state = state.clone();
    if let Some(peer) = state.peers.get_mut(name) {
        change(peer);
    }
    Ok(state)
}

/// The peer of this name.
///
/// # Errors
/// No peer has that name; the text names those that were probably meant.
pub fn find<'a>(state: &'a State, name: &PeerName) -> Result<&'a Peer, Refusal> {
    state.peers.get(name).ok_or_else(|| {
        let known: Vec<_> = state.peers.keys().map(PeerName::as_str).collect();
        let hint = match (closest(name.as_str(), &known), known.len()) {
            (Some(meant), _) => format!("did you mean {meant}?"),
            (None, 0) => format!("add one with: punchctl peer add {name} KEY"),
            (None, 1..=LISTED) => format!("there is {}", known.join(", ")),
            (None, _) => "punchctl peers shows those there are".to_owned(),
        };
        let name = name.clone();
        Refusal::NoSuchPeer { name, hint }
    })
}

/// The name that was probably meant: two letters of it are missing, added, wrong or exchanged, or one of a short name.
fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let best = known.iter().min_by_key(|other| distance(other))?;
    let near = if name.chars().count() < 6 { 1 } else { 2 };
    (distance(best) <= near).then_some(*best)
}
