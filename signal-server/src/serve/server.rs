//! The hub and the ways to its clients.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use punch_signal_protocol::Refusal;

use super::Counts;
use super::post::Post;
use super::relay::{Relay, Sender};
use crate::hub::relay::LinkEnd;
use crate::hub::{ConnectionId, Hub, Limits, Output};

struct Shared {
    hub: Hub,
    clients: HashMap<ConnectionId, Arc<Post>>,
}

impl Shared {
    /// Hands out what the hub wants done.
    fn drain(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Send(connection, frame) => {
                    let Some(client) = self.clients.get(&connection) else {
                        continue;
                    };
                    if let Err(frame) = client.send(frame) {
                        self.hub.handle_overflow(connection, &frame);
                    }
                }
                Output::Close(connection, why) => {
                    if let Some(client) = self.clients.remove(&connection) {
                        client.close(why);
                    }
                }
                Output::Link(one, two) => {
                    if let (Some(first), Some(second)) = (self.client(one), self.client(two)) {
                        first.link(one.link, second, two.link);
                        second.link(two.link, first, one.link);
                    }
                }
                Output::Unlink(one, two) => {
                    for end in [one, two] {
                        if let Some(client) = self.client(end) {
                            client.unlink(end.link);
                        }
                    }
                }
            }
        }
    }

    fn client(&self, end: LinkEnd) -> Option<&Arc<Post>> {
        self.clients.get(&end.connection)
    }
}

struct Inner {
    shared: Mutex<Shared>,
    relay: Option<Relay>,
}

/// The hub and the ways to its clients; a copy of it is the same server.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

impl Server {
    /// A server without clients.
    pub(crate) fn new(limits: Limits) -> Self {
        let relay = limits.relay.clone();
        let relay = relay.map(|limits| Relay::new(limits, Instant::now()));
        let shared = Mutex::new(Shared {
            hub: Hub::new(limits),
            clients: HashMap::new(),
        });
        Self(Arc::new(Inner { shared, relay }))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        let shared = self.0.shared.lock();
        shared.unwrap_or_else(PoisonError::into_inner)
    }

    /// What relays, unless this server does not.
    pub(crate) fn relay(&self) -> Option<&Relay> {
        self.0.relay.as_ref()
    }

    /// Lets the hub work, and hands out what it wants sent.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Hub) -> T) -> T {
        let mut shared = self.lock();
        let result = work(&mut shared.hub);
        shared.drain();
        result
    }

    /// A client has connected from `source`: its number, and what it is sent.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub(crate) fn open(
        &self,
        source: IpAddr,
        nonce: [u8; 32],
        counts: Arc<Counts>,
    ) -> Result<(ConnectionId, Arc<Post>), Refusal> {
        let post = Arc::new(Post::new(self.relay().map(Relay::queue), counts));
        let mut shared = self.lock();
        let connection = shared.hub.handle_connect(source, nonce, Instant::now())?;
        shared.clients.insert(connection, post.clone());
        shared.drain();
        Ok((connection, post))
    }

    /// What a client sends its packets by, unless this server relays none.
    pub(crate) fn sender(&self, connection: ConnectionId, post: &Arc<Post>) -> Option<Sender> {
        let relay = self.relay()?;
        let source = self.lock().hub.relay_rate(connection)?;
        Some(Sender::new(relay, source, post.clone(), Instant::now()))
    }

    /// The client has gone.
    pub(crate) fn shut(&self, connection: ConnectionId) {
        self.with(|hub| hub.handle_disconnect(connection));
        self.lock().clients.remove(&connection);
    }
}
