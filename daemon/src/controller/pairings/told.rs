//! What two machines tell each other when they pair, between the bytes of a code's envelopes and what this machine knows and shows.

use punch_api::{ForwardKey, PeerId, PeerName, Protocol, ServerAddress, ServerKind};
use punch_signal_protocol::pairing::{OfferedServer, Reply, Share, TurnedAway, Welcome};
use punch_state::State;
use punch_state::pairing::Terms;

/// What an inviter with the identity `own`, which uses these servers, tells a newcomer that it has added on these terms.
pub(super) fn welcome<'a>(
    own: PeerId,
    servers: impl Iterator<Item = &'a ServerAddress>,
    terms: &Terms,
) -> Welcome {
    Welcome {
        id: own,
        name: own_name(),
        servers: servers.filter_map(offered).collect(),
        shares: terms.forwards.iter().map(|key| share(*key)).collect(),
        host: terms.host,
    }
}

/// The name that this machine proposes for itself.
pub(super) fn own_name() -> String {
    let name = punch_platform::hostname().unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// What a newcomer is told once more: a peer that was removed since is not welcome by the code that has made it one.
pub(super) fn again(reply: Reply, id: PeerId, state: &State) -> Reply {
    let is_peer = state.peers.values().any(|peer| peer.id() == Some(id));
    match reply {
        Reply::Welcome(_) if !is_peer => Reply::TurnedAway(TurnedAway::Expired),
        reply => reply,
    }
}

/// Why an inviter has turned this machine away, and what to do.
pub(super) fn turned_away(why: TurnedAway) -> &'static str {
    match why {
        TurnedAway::Used => {
            "another machine has used this code; make a new one there with: punchctl invite"
        }
        TurnedAway::Expired => "this code has expired; make a new one there with: punchctl invite",
        TurnedAway::Oneself => {
            "the machine that has made this code has the same key as this one: two machines must not share one state directory"
        }
        TurnedAway::NotAdded => {
            "the machine that has made this code could not add this one; why, it says there"
        }
        TurnedAway::Unknown(_) => {
            "the machine that has made this code has refused this one, for a reason that only a newer version knows"
        }
    }
}

/// A server as the newcomer is told of it.
fn offered(address: &ServerAddress) -> Option<OfferedServer> {
    let is_stun = match address {
        ServerAddress::Signal(_) => false,
        ServerAddress::Stun(_) => true,
        // Each machine's user agrees to the public ones, and nodes of one's own are in punchd.toml.
        ServerAddress::Dht(_) | ServerAddress::Public => return None,
    };
    Some(OfferedServer {
        is_stun,
        address: address.as_str().to_owned(),
    })
}

fn share(key: ForwardKey) -> Share {
    Share {
        is_udp: key.protocol == Protocol::Udp,
        first: key.ports.first(),
        last: key.ports.last(),
    }
}

/// What has been learned of the other machine.
#[derive(Default)]
pub(super) struct Found {
    pub(super) peer: Option<PeerName>,
    pub(super) id: Option<PeerId>,
    pub(super) forwards: Vec<ForwardKey>,
    pub(super) host: bool,
    pub(super) servers: Vec<ServerAddress>,
}

impl Found {
    /// What a welcome tells, as far as it makes sense.
    pub(super) fn of(welcome: &Welcome) -> Self {
        let servers = welcome.servers.iter().filter_map(|server| {
            let kind = match server.is_stun {
                true => ServerKind::Stun,
                false => ServerKind::Signal,
            };
            ServerAddress::parse(kind, &server.address).ok()
        });
        let forwards = welcome.shares.iter().filter_map(|share| {
            let ports = match share.first == share.last {
                true => share.first.to_string(),
                false => format!("{}-{}", share.first, share.last),
            };
            Some(ForwardKey {
                protocol: match share.is_udp {
                    true => Protocol::Udp,
                    false => Protocol::Tcp,
                },
                ports: ports.parse().ok()?,
            })
        });
        Self {
            peer: None,
            id: None,
            forwards: forwards.collect(),
            host: welcome.host,
            servers: servers.collect(),
        }
    }
}
