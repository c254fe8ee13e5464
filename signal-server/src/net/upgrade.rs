//! WebSocket requests over the network: whose they are, and whether there may be one more.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::proxy::Source;
use crate::serve::client::{self, Caller};
use crate::serve::server::Server;

/// Answers a WebSocket request; what it becomes is a client.
pub(super) async fn upgrade(
    State(server): State<Server>,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let address = source.client(&headers);
    // Those behind a proxy were not bounded when the proxy's connection was accepted.
    if source.is_proxy() && !server.with(|hub| hub.may_open(address, Instant::now())) {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    let caller = Caller {
        source: address,
        only: None,
        counts: Arc::default(),
    };
    client::accept(server, caller, upgrade)
}
