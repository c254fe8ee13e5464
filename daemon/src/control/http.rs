//! HTTP/1.1 with JSON: which path and method is which call.

use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};
use axum::{Router, middleware};
use punch_api::{ApiError, Event};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc};

use super::caller::{self, Caller};
use super::calls::{
    Control, add_forward, add_peer, add_server, allow_host, allow_relay, answer, ask, deny_host,
    deny_relay, down, metrics, offer, peer, ping, remove_forward, remove_peer, remove_server,
    rename_peer, why,
};
use super::events::{listen, up};
use super::pairings::{end_pairing, invite, join, pairing, pairings};
use super::succession::take_over;
use crate::controller::request::Request;
use crate::handover::takeover::Asked;
use crate::refusal::refuse;

/// The longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Serves the socket.
pub(crate) async fn serve(
    listener: UnixListener,
    controller: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    successors: mpsc::Sender<Asked>,
) {
    let router = Router::new()
        .route("/v1/id", get(|c| ask(c, Request::Id)))
        .route("/v1/key", get(|c| ask(c, Request::Key)))
        .route("/v1/status", get(|c| ask(c, Request::Status)))
        .route("/v1/peers", get(|c| ask(c, Request::Peers)).post(add_peer))
        .route("/v1/peers/{name}", get(peer).delete(remove_peer))
        .route("/v1/peers/{name}/rename", post(rename_peer))
        .route("/v1/peers/{name}/up", post(up))
        .route("/v1/peers/{name}/down", post(down))
        .route("/v1/peers/{name}/host", put(allow_host).delete(deny_host))
        .route(
            "/v1/peers/{name}/relay",
            put(allow_relay).delete(deny_relay),
        )
        .route("/v1/peers/{name}/ping", post(ping))
        .route("/v1/peers/{name}/offer", post(offer))
        .route("/v1/peers/{name}/why", get(why))
        .route("/v1/answer", post(answer))
        .route(
            "/v1/forwards",
            get(|c| ask(c, Request::Forwards)).post(add_forward),
        )
        .route("/v1/forwards/{protocol}/{ports}", delete(remove_forward))
        .route(
            "/v1/servers",
            get(|c| ask(c, Request::Servers))
                .post(add_server)
                .delete(remove_server),
        )
        .route("/v1/invitations", post(invite))
        .route("/v1/joins", post(join))
        .route("/v1/pairings", get(pairings))
        .route("/v1/pairings/{number}", get(pairing).delete(end_pairing))
        .route("/v1/netcheck", post(|c| ask(c, Request::Netcheck)))
        .route("/v1/events", get(listen))
        .route("/v1/take-over", post(take_over))
        .route("/metrics", get(metrics))
        .fallback(|| async { refuse(ApiError::not_found("no such call")) })
        .method_not_allowed_fallback(|| async {
            refuse(ApiError::not_found("no such call with this method"))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(caller::note))
        .with_state(Control {
            controller,
            events,
            successors,
        })
        .into_make_service_with_connect_info::<Caller>();
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the control socket broke");
    }
}
