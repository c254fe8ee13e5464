//! The calls: what a path, a method and a body say, passed on to the controller.

use axum::Json;
use axum::extract::{self, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use punch_api::{ApiError, Event, ForwardKey, PeerName};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, mpsc};

use crate::controller::request::{self, Answer, Grant, Request};
use crate::handover::takeover::Asked;
use crate::metrics;
use crate::refusal::refuse;

/// What every call needs.
#[derive(Clone)]
pub(super) struct Control {
    pub(super) controller: mpsc::Sender<Request>,
    pub(super) events: broadcast::Sender<Event>,
    /// Where processes that are to take over from this one are led.
    pub(super) successors: mpsc::Sender<Asked>,
}

/// A body of at most 64 KiB; a longer one is refused like everything else, in JSON.
pub(super) struct Body(pub(super) Vec<u8>);

impl<S: Send + Sync> extract::FromRequest<S> for Body {
    type Rejection = Response;

    async fn from_request(request: extract::Request, state: &S) -> Result<Self, Response> {
        let bytes = <axum::body::Bytes as extract::FromRequest<S>>::from_request(request, state);
        match bytes.await {
            Ok(bytes) => Ok(Self(bytes.into())),
            Err(error) => Err(refuse(ApiError::invalid(error.body_text()))),
        }
    }
}

/// What a path says in place of its `{…}`; text that is not UTF-8 is refused like everything else, in JSON.
pub(super) struct InPath<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> extract::FromRequestParts<S> for InPath<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let path = extract::Path::<T>::from_request_parts(parts, state).await;
        match path {
            Ok(extract::Path(values)) => Ok(Self(values)),
            Err(error) => Err(refuse(ApiError::invalid(error.body_text()))),
        }
    }
}

pub(super) type Name = InPath<String>;

pub(super) async fn add_peer(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::AddPeer).await
}

pub(super) async fn peer(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::Peer).await
}

pub(super) async fn remove_peer(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::RemovePeer).await
}

pub(super) async fn rename_peer(context: State<Control>, name: Name, Body(body): Body) -> Response {
    match decode(&body) {
        Ok(to) => {
            ask_peer(context, name, |name, answer| {
                Request::RenamePeer(name, to, answer)
            })
            .await
        }
        Err(error) => refuse(error),
    }
}

pub(super) async fn down(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, |name, answer| {
        Request::SetUp(name, false, None, answer)
    })
    .await
}

pub(super) async fn allow_host(context: State<Control>, name: Name) -> Response {
    grant(context, name, Grant::Host, true).await
}

pub(super) async fn deny_host(context: State<Control>, name: Name) -> Response {
    grant(context, name, Grant::Host, false).await
}

pub(super) async fn allow_relay(context: State<Control>, name: Name) -> Response {
    grant(context, name, Grant::Relay, true).await
}

pub(super) async fn deny_relay(context: State<Control>, name: Name) -> Response {
    grant(context, name, Grant::Relay, false).await
}

async fn grant(context: State<Control>, name: Name, grant: Grant, allowed: bool) -> Response {
    ask_peer(context, name, |name, answer| {
        Request::SetGrant(name, grant, allowed, answer)
    })
    .await
}

pub(super) async fn ping(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::Ping).await
}

pub(super) async fn offer(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::Offer).await
}

pub(super) async fn answer(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::Answer).await
}

pub(super) async fn why(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::Why).await
}

pub(super) async fn add_forward(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::AddForward).await
}

pub(super) async fn remove_forward(
    context: State<Control>,
    InPath((protocol, ports)): InPath<(String, String)>,
) -> Response {
    let key = protocol.parse().and_then(|protocol| {
        Ok(ForwardKey {
            protocol,
            ports: ports.parse()?,
        })
    });
    match key {
        Ok(key) => ask(context, |answer| Request::RemoveForward(key, answer)).await,
        Err(error) => refuse(ApiError::invalid(error)),
    }
}

pub(super) async fn add_server(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::AddServer).await
}

pub(super) async fn remove_server(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::RemoveServer).await
}

pub(super) async fn metrics(State(context): State<Control>) -> Response {
    metrics::answer(&context.controller).await
}

pub(super) async fn ask<T: serde::Serialize>(
    context: State<Control>,
    request: impl FnOnce(Answer<T>) -> Request,
) -> Response {
    respond(call(&context, request).await)
}

pub(super) async fn ask_with<B: DeserializeOwned, T: serde::Serialize>(
    context: State<Control>,
    body: &[u8],
    request: impl FnOnce(B, Answer<T>) -> Request,
) -> Response {
    match decode(body) {
        Ok(body) => ask(context, |answer| request(body, answer)).await,
        Err(error) => refuse(error),
    }
}

async fn ask_peer<T: serde::Serialize>(
    context: State<Control>,
    name: Name,
    request: impl FnOnce(PeerName, Answer<T>) -> Request,
) -> Response {
    match parse_name(&name.0) {
        Ok(name) => ask(context, |answer| request(name, answer)).await,
        Err(error) => refuse(error),
    }
}

pub(super) async fn call<T>(
    context: &Control,
    request: impl FnOnce(Answer<T>) -> Request,
) -> Result<T, ApiError> {
    request::call(&context.controller, request).await
}

pub(super) fn parse_name(name: &str) -> Result<PeerName, ApiError> {
    name.parse().map_err(ApiError::invalid)
}

pub(super) fn decode<B: DeserializeOwned>(body: &[u8]) -> Result<B, ApiError> {
    serde_json::from_slice(body).map_err(ApiError::invalid)
}

pub(super) fn respond<T: serde::Serialize>(result: Result<T, ApiError>) -> Response {
    match result {
        Ok(view) => Json(view).into_response(),
        Err(error) => refuse(error),
    }
}
