//! Over which channel two machines have met.

use punch_api::{ChannelKind, MetView, PeerName, ServerAddress};
use punch_engine::{PeerHandle, ServerId};

use super::facts::{Facts, OtherChannels};

/// What is pasted is numbered from here downwards, as a channel; servers are numbered upwards from 1.
pub(crate) const FIRST_PASTE: u32 = u32::MAX;

/// The channel under this number; `None` if it is gone.
pub(crate) fn view<'a>(
    server: ServerId,
    others: &OtherChannels,
    mut servers: impl Iterator<Item = (ServerId, &'a ServerAddress)>,
    name_of: impl Fn(PeerHandle) -> Option<&'a PeerName>,
) -> Option<MetView> {
    let (channel, name) = if let Some(place) = others.meetings.iter().find(|it| it.id == server) {
        (ChannelKind::Peer, Some(name_of(place.peer)?.to_string()))
    } else if others.lan.as_ref().is_some_and(|(id, _)| *id == server) {
        (ChannelKind::Lan, None)
    } else if others.dht == Some(server) {
        (ChannelKind::Dht, None)
    } else if server.0 > FIRST_PASTE / 2 {
        (ChannelKind::Paste, None)
    } else {
        let (_, address) = servers.find(|(id, _)| *id == server)?;
        (ChannelKind::Server, Some(address.to_string()))
    };
    Some(MetView {
        channel: channel.into(),
        name,
    })
}

/// The channel under this number, if there is one, as the facts have it.
pub(super) fn of(facts: &Facts<'_>, server: Option<ServerId>) -> Option<MetView> {
    let servers = facts.servers.iter();
    let servers = servers.map(|server| (server.id, server.address));
    view(server?, &facts.others, servers, |peer| facts.name_of(peer))
}
