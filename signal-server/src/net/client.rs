//! One client: a WebSocket on the one side, the hub on the other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use punch_signal_protocol::{Frame, MAX_FRAME, Refusal};
use tokio::sync::mpsc;

use super::proxy::Source;
use crate::hub::{ConnectionId, Hub, Limits, Output, Said};

/// Frames that wait for one client; with frames of at most 4.2 KB that is 270 KB a client at the very worst.
const QUEUE: usize = 64;
/// How long a client may take nothing before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two WebSocket pings to a client.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What a client's task is told to do.
enum ToClient {
    Frame(Frame),
    Close(Refusal),
}

struct Shared {
    hub: Hub,
    clients: HashMap<ConnectionId, mpsc::Sender<ToClient>>,
}

/// The hub and the ways to its clients; a copy of it is the same server.
#[derive(Clone)]
pub(super) struct Server(Arc<Mutex<Shared>>);

impl Server {
    /// A server without clients.
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            hub: Hub::new(limits),
            clients: HashMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the hub work, and hands out what it wants sent.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Hub) -> T) -> T {
        let mut shared = self.lock();
        let Shared { hub, clients } = &mut *shared;
        let result = work(hub);
        while let Some(output) = hub.poll_output() {
            match output {
                Output::Send(connection, frame) => {
                    let Some(client) = clients.get(&connection) else {
                        continue;
                    };
                    if let Err(error) = client.try_send(ToClient::Frame(frame))
                        && let ToClient::Frame(frame) = error.into_inner()
                    {
                        hub.handle_overflow(connection, &frame);
                    }
                }
                Output::Close(connection, why) => {
                    if let Some(client) = clients.remove(&connection) {
                        // With a full queue the channel's end alone must do.
                        let _ = client.try_send(ToClient::Close(why));
                    }
                }
            }
        }
        result
    }
}

/// Answers a WebSocket request; what it becomes is a client.
pub(super) async fn upgrade(
    State(server): State<Server>,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let client = source.client(&headers);
    // Those behind a proxy were not bounded when the proxy's connection was accepted.
    if source.is_proxy() && !server.with(|hub| hub.may_open(client, Instant::now())) {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .on_upgrade(move |socket| converse(server, client, socket))
}

async fn converse(server: Server, source: IpAddr, mut socket: WebSocket) {
    let mut nonce = [0; 32];
    if getrandom::fill(&mut nonce).is_err() {
        return;
    }
    let (sender, mut queue) = mpsc::channel(QUEUE);
    let connection = {
        let mut shared = server.lock();
        let opened = shared.hub.handle_connect(source, nonce, Instant::now());
        if let Ok(connection) = opened {
            shared.clients.insert(connection, sender);
        }
        opened
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(why) => return close(&mut socket, why).await,
    };
    server.with(|_| ());
    let mut pings = tokio::time::interval(PING_INTERVAL);
    loop {
        tokio::select! {
            order = queue.recv() => {
                let message = match order {
                    Some(ToClient::Frame(frame)) => Message::Binary(frame.encode().into()),
                    Some(ToClient::Close(why)) => {
                        close(&mut socket, why).await;
                        break;
                    }
                    None => {
                        close(&mut socket, Refusal::TooSlow).await;
                        break;
                    }
                };
                if !send(&mut socket, message).await {
                    break;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    // Until then nothing more of this client is read, so it waits, too.
                    let wait = server.with(|hub| hub.pace(connection, Instant::now()));
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                    // Decoding and the signature take the longest: before the lock, so that clients do not wait for each other.
                    let said = Said::read(&bytes, &nonce);
                    server.with(|hub| hub.handle_said(connection, said, Instant::now()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                    server.with(|hub| hub.handle_alive(connection, Instant::now()));
                }
                Some(Ok(Message::Text(_))) => {
                    // Not this protocol.
                    server.with(|hub| hub.handle_said(connection, Said::Nonsense, Instant::now()));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
            },
            _ = pings.tick() => {
                if !send(&mut socket, Message::Ping(Vec::new().into())).await {
                    break;
                }
            }
        }
    }
    server.with(|hub| hub.handle_disconnect(connection));
    server.lock().clients.remove(&connection);
}

async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(
        tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await,
        Ok(Ok(()))
    )
}

async fn close(socket: &mut WebSocket, why: Refusal) {
    let frame = Message::Binary(Frame::Refused(why).encode().into());
    if send(socket, frame).await {
        let reason = CloseFrame {
            code: axum::extract::ws::close_code::POLICY,
            reason: why.to_string().into(),
        };
        send(socket, Message::Close(Some(reason))).await;
    }
}
