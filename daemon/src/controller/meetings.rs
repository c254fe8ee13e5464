//! The meeting places of peers that have invited this machine: a client of each while the tunnel to the peer stands, and no other peer
//! relays that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use punch_api::PeerId;
use punch_engine::{PeerHandle, ServerId};
use punch_signal_protocol::meeting_url;
use tokio::sync::Notify;

use super::announcer::Said;
use crate::signalling::server::{self, Access, Goal, Inviter, Report};
use crate::tasks::{Spawner, Task};
use crate::views::facts::MeetingFacts;

/// The connection to a peer's meeting place.
struct Client {
    server: ServerId,
    connected: bool,
    /// Where it leads, once it has stood.
    reached: Option<SocketAddr>,
    again: Arc<Notify>,
    /// Whether the peer has said so once more since the client was started or last connected.
    invited_again: bool,
    _task: Task,
}

/// What a peer that has invited this machine is known to be.
struct Place {
    id: PeerId,
    client: Option<Client>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Meetings {
    places: BTreeMap<PeerHandle, Place>,
    /// The peers whose tunnels stand.
    connected: BTreeSet<PeerHandle>,
    /// The peers whose packets another peer relays.
    relayed: BTreeSet<PeerHandle>,
}

/// What a client is started with.
pub(super) struct Start<'a> {
    pub(super) access: &'a Access,
    pub(super) spawner: &'a Spawner,
    /// The number of the newest server.
    pub(super) last: &'a mut u32,
}

impl Meetings {
    /// A peer invites this machine.
    pub(super) fn invite(&mut self, peer: PeerHandle, id: PeerId, start: Start<'_>) {
        let place = self.places.entry(peer);
        let place = place.or_insert(Place { id, client: None });
        match &mut place.client {
            Some(client) => {
                client.invited_again = true;
                client.again.notify_one();
            }
            None => self.follow(peer, start),
        }
    }

    /// The tunnel to a peer stands, or does not; returns the server that is gone with it.
    pub(super) fn set_connected(
        &mut self,
        peer: PeerHandle,
        connected: bool,
        start: Start<'_>,
    ) -> Option<ServerId> {
        if connected {
            self.connected.insert(peer);
        } else {
            self.connected.remove(&peer);
            self.relayed.remove(&peer);
        }
        self.settle(peer, start)
    }

    /// The packets to a peer are relayed by another peer, or not; returns the server that is gone with it.
    pub(super) fn set_relayed(
        &mut self,
        peer: PeerHandle,
        relayed: bool,
        start: Start<'_>,
    ) -> Option<ServerId> {
        if relayed {
            self.relayed.insert(peer);
        } else {
            self.relayed.remove(&peer);
        }
        self.settle(peer, start)
    }

    /// A peer is gone; returns the server that is gone with it.
    pub(super) fn remove(&mut self, peer: PeerHandle) -> Option<ServerId> {
        self.connected.remove(&peer);
        self.relayed.remove(&peer);
        Some(self.places.remove(&peer)?.client?.server)
    }

    fn settle(&mut self, peer: PeerHandle, start: Start<'_>) -> Option<ServerId> {
        if self.is_usable(peer) {
            self.follow(peer, start);
            return None;
        }
        Some(self.places.get_mut(&peer)?.client.take()?.server)
    }

    fn is_usable(&self, peer: PeerHandle) -> bool {
        self.connected.contains(&peer) && !self.relayed.contains(&peer)
    }

    fn follow(&mut self, peer: PeerHandle, start: Start<'_>) {
        let usable = self.is_usable(peer);
        let Some(place) = self.places.get_mut(&peer) else {
            return;
        };
        if !usable || place.client.is_some() {
            return;
        }
        *start.last += 1;
        let server = ServerId(*start.last);
        let again = Arc::new(Notify::new());
        let goal = Goal {
            server,
            url: meeting_url(&place.id),
            host: Some(Inviter {
                peer,
                again: again.clone(),
            }),
        };
        let client = server::stay_connected(goal, start.access.clone());
        place.client = Some(Client {
            server,
            connected: false,
            reached: None,
            again,
            invited_again: false,
            _task: start.spawner.spawn("meeting", client),
        });
    }

    /// A client has something to say; `None` if it is none of these.
    pub(super) fn handle_report(
        &mut self,
        report: &Report,
        start: Start<'_>,
    ) -> Option<Option<Said>> {
        let mut places = self.places.iter_mut();
        let (peer, client) = places.find_map(|(peer, place)| {
            let client = place.client.as_mut()?;
            (client.server == report.server).then_some((*peer, client))
        })?;
        let changed = std::mem::replace(&mut client.connected, report.connected);
        let changed = changed != report.connected;
        client.reached = report.address.or(client.reached);
        let said = changed.then(|| Said::Meeting {
            peer,
            connected: report.connected,
            trouble: report.trouble.clone(),
        });
        if report.connected {
            client.invited_again = false;
        }
        if report.refused && client.invited_again {
            // The invitation may have come while the refusal of before was on its way, and is not repeated.
            self.places.get_mut(&peer)?.client = None;
            self.follow(peer, start);
        } else if report.refused {
            // Until it invites this machine again.
            self.places.remove(&peer);
        }
        Some(said)
    }

    /// The peer whose meeting place a server is.
    pub(super) fn host(&self, server: ServerId) -> Option<PeerHandle> {
        let mut places = self.places.iter();
        places.find_map(|(peer, place)| {
            let client = place.client.as_ref()?;
            (client.server == server).then_some(*peer)
        })
    }

    /// What views show of the places.
    pub(super) fn facts(&self) -> Vec<MeetingFacts> {
        let clients = self.places.iter();
        let clients = clients.filter_map(|(peer, place)| Some((*peer, place.client.as_ref()?)));
        clients
            .map(|(peer, client)| MeetingFacts {
                peer,
                id: client.server,
                connected: client.connected,
                reached: client.reached,
            })
            .collect()
    }
}
