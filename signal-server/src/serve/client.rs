//! One client: a WebSocket on the one side, the hub and the relay on the other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use punch_signal_protocol::{Frame, MAX_FRAME, MAX_RELAY_FRAME, PeerId, Refusal, is_relay_frame};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use super::Counts;
use super::post::Post;
use super::relay::Sender;
use super::server::Server;
use crate::hub::{ConnectionId, Said};

/// How long a client may take nothing before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two WebSocket pings to a client.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two pings to a client whose line is watched otherwise: as good as never.
const NO_PING: Duration = Duration::from_secs(365 * 86_400);
/// What is read at once. Each client has that much for as long as it is connected, so most of what an idle one costs is this.
const READ_BUFFER: usize = 4096;
/// So many bytes are taken to be sent at once, so that small frames share a call.
const BATCH: usize = 32 * 1024;
/// The same while the client's line is slow: what was taken waits behind nothing but itself, and grows old unseen.
const SLOW_BATCH: usize = 4 * 1024;
/// A batch that took longer than this had to wait for the line.
const PROMPT: Duration = Duration::from_millis(1);
/// What may wait to be written, in bytes: a batch with the longest frame at its end, and answers to pings.
const MAX_WRITE_BUFFER: usize = BATCH + 2 * MAX_RELAY_FRAME;

/// A client, as far as it is known before it says a word.
pub(crate) struct Caller {
    /// Where it comes from.
    pub(crate) source: IpAddr,
    /// The only identity that it can have, where the line itself has proven one; such a line is watched by others, too.
    pub(crate) only: Option<PeerId>,
    /// Where what is relayed for it is counted.
    pub(crate) counts: Arc<Counts>,
}

/// What bounds a client's WebSocket.
pub(crate) fn config(server: &Server) -> WebSocketConfig {
    let longest = match server.relay() {
        Some(_) => MAX_RELAY_FRAME,
        None => MAX_FRAME,
    };
    WebSocketConfig::default()
        .max_message_size(Some(longest))
        .max_frame_size(Some(longest))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(BATCH)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
}

/// Serves the client at the other end of a WebSocket, which was made by [`config`], until it is gone.
pub(crate) async fn converse<E>(
    server: Server,
    caller: Caller,
    socket: impl Stream<Item = Result<Message, E>> + Sink<Message>,
) {
    let mut nonce = [0; 32];
    if getrandom::fill(&mut nonce).is_err() {
        return;
    }
    let Caller {
        source,
        only,
        counts,
    } = caller;
    let (mut sink, stream) = socket.split();
    let (connection, post) = match server.open(source, nonce, counts) {
        Ok(opened) => opened,
        Err(why) => return close(&mut sink, why).await,
    };
    let pings = only.is_none();
    let mut reader = Reader {
        server: &server,
        connection,
        nonce,
        only,
        post: &post,
        sender: None,
    };
    // A client that takes nothing is heard all the same, and one that says much does not hold up what it is told.
    // Neither comes first always: whoever has much to do would leave the other one nothing of the task's time.
    tokio::select! {
        () = write(&post, sink, pings) => {}
        () = reader.read(stream) => {}
    }
    server.shut(connection);
}

/// Sends what waits for the client, until it takes nothing more or is to go; a client whose line is watched otherwise gets no pings.
async fn write(post: &Post, mut sink: impl Sink<Message> + Unpin, pings: bool) {
    let mut ping_at = match pings {
        true => Instant::now(),
        false => Instant::now() + NO_PING,
    };
    let mut most = BATCH;
    loop {
        let now = Instant::now();
        let mut batch = post.take(most, now);
        if now >= ping_at {
            ping_at = now + PING_INTERVAL;
            let ping = Message::Ping(Vec::new().into());
            batch.messages.push(ping);
        }
        if !batch.messages.is_empty() {
            if !send(&mut sink, batch.messages).await {
                return;
            }
            let is_prompt = now.elapsed() < PROMPT;
            most = if is_prompt { BATCH } else { SLOW_BATCH };
        } else if batch.end.is_none() {
            post.news(ping_at.saturating_duration_since(now)).await;
        }
        if let Some(why) = batch.end {
            return close(&mut sink, why).await;
        }
    }
}

/// Sends all of these, by as few calls as they fit in.
async fn send(sink: &mut (impl Sink<Message> + Unpin), messages: Vec<Message>) -> bool {
    let all = async {
        for message in messages {
            sink.feed(message).await?;
        }
        sink.flush().await
    };
    matches!(tokio::time::timeout(SEND_TIMEOUT, all).await, Ok(Ok(())))
}

async fn close(sink: &mut (impl Sink<Message> + Unpin), why: Refusal) {
    let refused = Message::Binary(Frame::Refused(why).encode().into());
    let reason = Message::Close(Some(CloseFrame {
        code: CloseCode::Policy,
        reason: why.to_string().into(),
    }));
    send(sink, vec![refused, reason]).await;
}

struct Reader<'a> {
    server: &'a Server,
    connection: ConnectionId,
    nonce: [u8; 32],
    /// The only identity that the client can have, where its line has proven one.
    only: Option<PeerId>,
    post: &'a Arc<Post>,
    /// For relay frames, once the client is logged in.
    sender: Option<Sender>,
}

impl Reader<'_> {
    /// Hears the client, until it says no more.
    async fn read<E>(&mut self, mut stream: impl Stream<Item = Result<Message, E>> + Unpin) {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) if is_relay_frame(&bytes) && self.sender.is_some() => {
                    self.handle_packets(&bytes).await;
                }
                Message::Binary(bytes) => self.handle_frame(&bytes).await,
                Message::Ping(_) | Message::Pong(_) => {
                    let (connection, now) = (self.connection, Instant::now());
                    self.server.with(|hub| hub.handle_alive(connection, now));
                }
                // Not this protocol.
                Message::Text(_) => self.handle_said(Said::Nonsense),
                // A raw frame is never read.
                Message::Close(_) | Message::Frame(_) => return,
            }
        }
    }

    async fn handle_packets(&mut self, bytes: &[u8]) {
        let (Some(sender), now) = (&self.sender, Instant::now()) else {
            return;
        };
        let passed = sender.pass(bytes, now);
        let pause = sender.pause(bytes.len(), now);
        if passed.is_err() {
            self.handle_said(Said::Nonsense);
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    async fn handle_frame(&mut self, bytes: &[u8]) {
        let (connection, now) = (self.connection, Instant::now());
        // Until then nothing more of this client is read, so it waits, too.
        let wait = self.server.with(|hub| hub.pace(connection, now));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        // Decoding and the signature take the longest: before the lock, so that clients do not wait for each other.
        let mut said = Said::read(bytes, &self.nonce);
        if let Said::Proof { id, genuine, .. } = &mut said {
            *genuine &= self.only.is_none_or(|only| only == *id);
        }
        self.handle_said(said);
    }

    fn handle_said(&mut self, said: Said) {
        let connection = self.connection;
        let is_proven = self.server.with(|hub| {
            hub.handle_said(connection, said, Instant::now());
            hub.is_proven(connection)
        });
        if is_proven && self.sender.is_none() {
            self.sender = self.server.sender(connection, self.post);
        }
    }
}
