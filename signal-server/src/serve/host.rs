//! A hub for clients whose identity the line itself has proven: each may log in as that one and nobody else.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_signal_protocol::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::accept_async_with_config;

use super::Counts;
use super::client::{self, Caller};
use super::server::Server;
use crate::hub::Limits;

/// A stream has this long to become a WebSocket.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// A client whose identity is known.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The only identity that it can log in as.
    pub id: PeerId,
    /// Stands for where it comes from: what the limits call one source.
    pub source: IpAddr,
    /// Where what is relayed for it is counted.
    pub counts: Arc<Counts>,
}

/// See the module; a copy of it is the same hub.
#[derive(Clone)]
pub struct Host {
    server: Server,
}

impl Host {
    /// A hub without clients.
    pub fn new(limits: Limits) -> Self {
        let server = Server::new(limits);
        Self { server }
    }

    /// Serves a client until it is gone, which is when `stream` is, or when it takes nothing for a while; it gets no pings.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, guest: Guest) {
        let config = client::config(&self.server);
        let opening = accept_async_with_config(stream, Some(config));
        let Ok(Ok(socket)) = timeout(OPENING_TIMEOUT, opening).await else {
            return;
        };
        let caller = Caller {
            source: guest.source,
            only: Some(guest.id),
            counts: guest.counts,
        };
        client::converse(self.server.clone(), caller, socket).await;
    }

    /// Lets the hub see the time, once a second while there is anybody; returns whether there is.
    pub fn tick(&self, now: Instant) -> bool {
        self.server.with(|hub| {
            hub.handle_timeout(now);
            hub.connections() > 0
        })
    }
}
