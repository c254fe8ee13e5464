//! A hub for clients whose identity the line itself has proven: each may log in as that one and nobody else.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use punch_signal_protocol::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};

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
    router: Router,
}

impl Host {
    /// A hub without clients.
    pub fn new(limits: Limits) -> Self {
        let server = Server::new(limits);
        let router = Router::new()
            .fallback(get(upgrade))
            .with_state(server.clone());
        Self { server, router }
    }

    /// Serves a client until its request is answered. The client itself lives on in a task of its own for as long as `stream` does; it gets
    /// no pings.
    pub async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        guest: Guest,
    ) {
        let router = self.router.clone().layer(Extension(guest));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(OPENING_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
            .with_upgrades();
        let _ = tokio::time::timeout(OPENING_TIMEOUT, connection).await;
    }

    /// Lets the hub see the time, once a second while there is anybody; returns whether there is.
    pub fn tick(&self, now: Instant) -> bool {
        self.server.with(|hub| {
            hub.handle_timeout(now);
            hub.connections() > 0
        })
    }
}

async fn upgrade(
    State(server): State<Server>,
    Extension(guest): Extension<Guest>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let caller = Caller {
        source: guest.source,
        only: Some(guest.id),
        counts: guest.counts,
    };
    client::accept(server, caller, upgrade)
}
