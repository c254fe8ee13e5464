//! Calls that follow events: the stream of events itself, and `up`, which waits for one.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;
use punch_api::{ApiError, Event, EventKind, PeerState, PeerView, Up};
use tokio::sync::broadcast;

use super::calls::{Body, Control, Name, call, decode, parse_name, respond};
use crate::controller::request::Request;
use crate::refusal::refuse;

/// The longest time for which `up` waits for the connection: as long as an offer over a slow channel may be answered.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// Connects, and waits for the connection if asked to.
pub(super) async fn up(context: State<Control>, name: Name, body: Body) -> Response {
    let ask: Up = match body.0.is_empty() {
        true => Up::default(),
        false => match decode(&body.0) {
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
        Request::SetUp(name.clone(), true, ask.direct_only, answer)
    })
    .await;
    let wait = Duration::from_millis(ask.wait_ms).min(MAX_WAIT);
    let connected = |result: Result<&PeerView, &ApiError>| {
        result.map_or(true, |view| view.state == PeerState::Connected)
    };
    if !wait.is_zero()
        && !connected(result.as_ref().map(|changed| &changed.view))
        && let Ok(changed) = result
    {
        let until = async {
            loop {
                match events.recv().await {
                    Ok(Event {
                        kind: EventKind::Peer { peer, state, .. },
                        ..
                    }) if peer == name && state == PeerState::Connected => break,
                    Err(broadcast::error::RecvError::Closed) => break,
                    // After a gap the state itself tells.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        let view = call(&context, |answer| Request::Peer(name.clone(), answer));
                        if connected(view.await.as_ref()) {
                            break;
                        }
                    }
                    Ok(_) => {}
                }
            }
        };
        let _ = tokio::time::timeout(wait, until).await;
        let view = call(&context, |answer| Request::Peer(name, answer)).await;
        result = view.map(|view| changed.with(view));
    }
    respond(result)
}

pub(super) async fn listen(
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
