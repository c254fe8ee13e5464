//! WebSocket requests over the network: whose they are, and whether there may be one more.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{self, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt, future};
use punch_signal_protocol::MAX_FRAME;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

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
    let config = client::config(&server);
    let longest = config.max_message_size.unwrap_or(MAX_FRAME);
    upgrade
        .max_message_size(longest)
        .max_frame_size(longest)
        .read_buffer_size(config.read_buffer_size)
        .write_buffer_size(config.write_buffer_size)
        .max_write_buffer_size(config.max_write_buffer_size)
        .on_upgrade(move |socket| {
            let socket = socket.map(|message| message.map(heard));
            let socket = socket.with(|message| future::ready(Ok::<_, axum::Error>(said(message))));
            client::converse(server, caller, socket)
        })
}

/// The messages of axum as those of the WebSocket below it.
fn heard(message: ws::Message) -> Message {
    match message {
        ws::Message::Text(text) => Message::Text(text.as_str().into()),
        ws::Message::Binary(bytes) => Message::Binary(bytes),
        ws::Message::Ping(bytes) => Message::Ping(bytes),
        ws::Message::Pong(bytes) => Message::Pong(bytes),
        ws::Message::Close(_) => Message::Close(None),
    }
}

fn said(message: Message) -> ws::Message {
    match message {
        Message::Text(text) => ws::Message::Text(text.as_str().into()),
        Message::Binary(bytes) => ws::Message::Binary(bytes),
        Message::Ping(bytes) => ws::Message::Ping(bytes),
        Message::Pong(bytes) => ws::Message::Pong(bytes),
        Message::Close(why) => ws::Message::Close(why.map(|why: CloseFrame| ws::CloseFrame {
            code: why.code.into(),
            reason: why.reason.as_str().into(),
        })),
        // Nobody sends a raw one.
        Message::Frame(frame) => ws::Message::Binary(frame.into_payload()),
    }
}
