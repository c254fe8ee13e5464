//! The control socket: HTTP/1.1 with JSON, each call passed on to the desk.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::extract::{self, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use futures_util::Stream;
use punch_api::error::ErrorBody;
use punch_api::{ApiError, Event, EventKind, ForwardKey, PeerName, PeerState, PeerView, Up};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, mpsc};

use crate::desk::{Answer, Request};
use crate::metrics;

/// The longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Users of the socket.
const GROUP: &str = "punch";
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Opens the socket with mode 0660 for the group `punch`, if there is one.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let place = || format!("cannot open the control socket {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            bail!(
                "{} is not a socket: remove it, or choose another place (--socket)",
                path.display()
            );
        }
        Ok(_) => {
            if UnixStream::connect(path).is_ok() {
                bail!(
                    "another punchd answers on {}: stop it first",
                    path.display()
                );
            }
            fs::remove_file(path).with_context(place)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(place),
    }
    let listener = UnixListener::bind(path).with_context(place)?;
    listener.set_nonblocking(true).with_context(place)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(place)?;
    let is = fs::metadata(path).with_context(place)?;
    let group = group_id(GROUP).filter(|group| *group != is.gid());
    // The service has the right group from the start, and may be forbidden to try.
    if group.is_some()
        && let Err(error) = chown(path, None, group)
    {
        tracing::warn!(%error, "the control socket is not for the group {GROUP}");
    }
    Ok(listener)
}

fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[derive(Clone)]
struct Control {
    desk: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
}

/// Serves the socket.
pub(crate) async fn serve(
    listener: tokio::net::UnixListener,
    desk: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
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
        .route("/v1/peers/{name}/ping", post(ping))
        .route("/v1/peers/{name}/why", get(why))
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
        .route("/v1/netcheck", post(|c| ask(c, Request::Netcheck)))
        .route("/v1/events", get(listen))
        .route("/metrics", get(metrics))
        .fallback(|| async { refuse(ApiError::not_found("no such call")) })
        .method_not_allowed_fallback(|| async {
            refuse(ApiError::not_found("no such call with this method"))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Control { desk, events });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the control socket broke");
    }
}

/// A body of at most [`MAX_BODY`] bytes; a longer one is refused like everything else, in JSON.
struct Body(Vec<u8>);

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
struct InPath<T>(T);

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

type Name = InPath<String>;

async fn add_peer(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::AddPeer).await
}

async fn peer(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::Peer).await
}

async fn remove_peer(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::RemovePeer).await
}

async fn rename_peer(context: State<Control>, name: Name, Body(body): Body) -> Response {
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

async fn down(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, |name, answer| {
        Request::SetUp(name, false, answer)
    })
    .await
}

async fn allow_host(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, |name, answer| {
        Request::SetHost(name, true, answer)
    })
    .await
}

async fn deny_host(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, |name, answer| {
        Request::SetHost(name, false, answer)
    })
    .await
}

async fn ping(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::Ping).await
}

async fn why(context: State<Control>, name: Name) -> Response {
    ask_peer(context, name, Request::Why).await
}

async fn add_forward(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::AddForward).await
}

async fn remove_forward(
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

async fn add_server(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::AddServer).await
}

async fn remove_server(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, Request::RemoveServer).await
}

async fn metrics(State(context): State<Control>) -> Response {
    metrics::answer(&context.desk).await
}

/// Connects, and waits for the connection if asked to.
async fn up(context: State<Control>, name: Name, Body(body): Body) -> Response {
    let ask: Up = match body.is_empty() {
        true => Up::default(),
        false => match decode(&body) {
            Ok(ask) => ask,
            Err(error) => return refuse(error),
        },
    };
    let name = match parse_name(&name.0) {
        Ok(name) => name,
        Err(error) => return refuse(error),
    };
    // Listening begins before anything can happen.
    let mut events = context.events.subscribe();
    let mut result = call(&context, |answer| {
        Request::SetUp(name.clone(), true, answer)
    })
    .await;
    let wait = Duration::from_millis(ask.wait_ms).min(MAX_WAIT);
    let connected = |result: &Result<PeerView, ApiError>| {
        result
            .as_ref()
            .map_or(true, |view| view.state == PeerState::Connected)
    };
    if !wait.is_zero() && !connected(&result) {
        let until = async {
            loop {
                match events.recv().await {
                    Ok(Event {
                        kind: EventKind::Peer { peer, state },
                        ..
                    }) if peer == name && state == PeerState::Connected => break,
                    Err(broadcast::error::RecvError::Closed) => break,
                    // After a gap the state itself tells.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        let view = call(&context, |answer| Request::Peer(name.clone(), answer));
                        if connected(&view.await) {
                            break;
                        }
                    }
                    Ok(_) => {}
                }
            }
        };
        let _ = tokio::time::timeout(wait, until).await;
        result = call(&context, |answer| Request::Peer(name, answer)).await;
    }
    respond(result)
}

async fn listen(
    State(context): State<Control>,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let events = context.events.subscribe();
    let stream = futures_util::stream::unfold(events, |mut events| async {
        match events.recv().await {
            Ok(event) => {
                let text = serde_json::to_string(&event).unwrap_or_default();
                Some((Ok(sse::Event::default().data(text)), events))
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let comment = sse::Event::default().comment(format!("{missed} events missed"));
                Some((Ok(comment), events))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

async fn ask<T: serde::Serialize>(
    context: State<Control>,
    request: impl FnOnce(Answer<T>) -> Request,
) -> Response {
    respond(call(&context, request).await)
}

async fn ask_with<B: DeserializeOwned, T: serde::Serialize>(
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

async fn call<T>(
    context: &Control,
    request: impl FnOnce(Answer<T>) -> Request,
) -> Result<T, ApiError> {
    crate::desk::call(&context.desk, request).await
}

fn parse_name(name: &str) -> Result<PeerName, ApiError> {
    name.parse().map_err(ApiError::invalid)
}

fn decode<B: DeserializeOwned>(body: &[u8]) -> Result<B, ApiError> {
    serde_json::from_slice(body).map_err(ApiError::invalid)
}

fn respond<T: serde::Serialize>(result: Result<T, ApiError>) -> Response {
    match result {
        Ok(view) => Json(view).into_response(),
        Err(error) => refuse(error),
    }
}

pub(crate) fn refuse(error: ApiError) -> Response {
    let status =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(ErrorBody { error })).into_response()
}
