//! A connection to one signalling server, kept for as long as the server is configured: WebSocket, a signed challenge, then
//! frames both ways. A lost connection comes back by itself, after growing, jittered pauses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{Sink, SinkExt, StreamExt};
use punch_engine::ServerId;
use punch_platform::clock;
use punch_signal_protocol::{Capabilities, Frame, Identity, MAX_RELAY_FRAME, is_relay_frame};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::trouble;
use crate::dial::{self, look_up};
use crate::driver::command::{Command, ToServer};

/// The pause before the first attempt to connect again; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Looking up the server's name may take this long, and proving who this machine is as long again.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Connection, TLS, upgrade and the server's challenge may take this long at each address of the server.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that has taken the WebSocket has this long to send its challenge: shorter, so that the trouble is told as what it is.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(8);
/// Addresses of a server's name that are tried in one attempt; with one every 250 ms and [`ADDRESS_TIMEOUT`] for the last, an attempt
/// ends within 12 s.
const MAX_ADDRESSES: usize = 8;
/// A connection on which nothing is heard for so long, in spite of pings, is dead.
const SILENCE: Duration = Duration::from_secs(40);
/// Pings follow each other after this.
const PING: Duration = Duration::from_secs(15);
/// What a frame brings is awaited, so a ping follows each frame unless one is under way; a server that does not answer the ping
/// within this time is dead, too.
const ANSWER: Duration = Duration::from_secs(5);
/// Frames that may wait for a slow server.
const QUEUE: usize = 64;
/// Bytes of a server that are read at once; the WebSocket layer keeps a buffer of this size for each connection.
const READ_BUFFER: usize = 16 * 1024;
/// Relay frames that may wait for a slow server, each of up to [`MAX_RELAY_FRAME`] bytes.
const RELAY_QUEUE: usize = 32;
/// Relay frames that leave together.
const RELAY_BATCH: usize = 16;

/// How the connection to a server is, for status and events.
pub(crate) struct Report {
    pub(crate) server: ServerId,
    pub(crate) connected: bool,
    /// Where the server is reached, if it is.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) trouble: Option<String>,
}

/// What every signalling client needs.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) identity: Identity,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) driver: mpsc::Sender<Command>,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// TLS as the system trusts it (SSL_CERT_FILE and SSL_CERT_DIR count).
pub(crate) fn tls() -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The connection to a server, in the clear or by TLS.
type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Stays connected to `url` until it is dropped.
pub(crate) async fn stay_connected(server: ServerId, url: String, access: Access) {
    let mut pause = FIRST_PAUSE;
    // An earlier client of this server may have left its connection registered.
    let _ = access.driver.send(Command::ServerDown(server)).await;
    loop {
        let began = Instant::now();
        let end = converse(server, &url, &access).await;
        let _ = access.driver.send(Command::ServerDown(server)).await;
        let trouble = match end {
            Ok(()) => "the server closed the connection".to_owned(),
            Err(error) => trouble::explain(&error, &url),
        };
        let report = Report {
            server,
            connected: false,
            address: None,
            trouble: Some(trouble),
        };
        let _ = access.reports.send(report).await;
        // A connection that held for a while was good: start over with short pauses.
        if began.elapsed() > 2 * LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn jittered(pause: Duration) -> Duration {
    let random = punch_platform::random::<1>().map_or(128, |[byte]| byte);
    pause.mul_f64(0.5 + f64::from(random) / 255.0)
}

/// A connection that the server has greeted with its challenge.
struct Greeted {
    socket: Socket,
    challenge: [u8; 32],
}

/// Connects to a server and proves to it who this machine is.
///
/// Of the addresses that the server's name has, the first that brings the server's challenge is used (RFC 8305): only then it is
/// known that packets of every size pass there. No address hears this machine's proof but that one, since a second login would
/// end the first.
async fn log_in(url: &str, access: &Access) -> Result<(SocketAddr, Socket)> {
    let request = url
        .into_client_request()
        .context("the address is not usable")?;
    let uri = request.uri();
    let authority = uri.authority().context("the address has no host")?;
    let authority = authority.to_string();
    let host = uri.host().context("the address has no host")?;
    let default = if uri.scheme_str() == Some("wss") {
        443
    } else {
        80
    };
    let port = uri.port_u16().unwrap_or(default);
    // An IPv6 address stands in brackets in a URL, and only there.
    let host = host.trim_start_matches('[').trim_end_matches(']');

    let deadline = Instant::now() + LOGIN_TIMEOUT;
    let addresses = tokio::time::timeout_at(deadline, look_up((host, port), MAX_ADDRESSES))
        .await
        .context("its name is not found: no answer")?
        .context("its name is not found")?;
    let connect = |address| connect(address, request.clone(), access.tls.clone());
    let (address, greeted) = dial::race(&addresses, ADDRESS_TIMEOUT, connect).await?;
    tracing::debug!(%url, %address, "the signalling server answers");

    let Greeted {
        mut socket,
        challenge,
    } = greeted;
    let proof = Frame::proof(&access.identity, &challenge, &authority);
    let deadline = Instant::now() + LOGIN_TIMEOUT;
    let bytes = Message::Binary(proof.encode().into());
    tokio::time::timeout_at(deadline, socket.send(bytes)).await??;
    match next_frame(&mut socket, deadline).await? {
        Frame::Welcome => Ok((address, socket)),
        Frame::Refused(why) => bail!("{why}"),
        _ => bail!("the server does not speak this protocol"),
    }
}

/// Connects to one of the server's addresses and waits for the challenge there.
async fn connect(
    address: SocketAddr,
    request: Request,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Greeted> {
    let stream = TcpStream::connect(address)
        .await
        .context("cannot connect")?;
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(MAX_RELAY_FRAME))
        .max_frame_size(Some(MAX_RELAY_FRAME));
    let connector = Some(Connector::Rustls(tls));
    let (mut socket, _) = client_async_tls_with_config(request, stream, Some(config), connector)
        .await
        .context("cannot connect")?;
    match next_frame(&mut socket, Instant::now() + CHALLENGE_TIMEOUT).await? {
        Frame::Challenge(challenge) => Ok(Greeted { socket, challenge }),
        Frame::Refused(why) => bail!("{why}"),
        _ => bail!("the server does not speak this protocol"),
    }
}

/// The next frame of a login.
async fn next_frame(socket: &mut Socket, deadline: Instant) -> Result<Frame> {
    loop {
        let message = tokio::time::timeout_at(deadline, socket.next())
            .await
            .context("the server does not finish the login")?;
        match message {
            Some(Ok(Message::Binary(bytes))) => return Ok(Frame::decode(&bytes)?),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) => bail!("the server does not speak this protocol"),
            Some(Err(error)) => return Err(error).context("cannot log in"),
            None => bail!("the server closed the connection during the login"),
        }
    }
}

/// Logs in, and passes frames in both directions until the connection ends.
async fn converse(server: ServerId, url: &str, access: &Access) -> Result<()> {
    let (address, socket) = log_in(url, access).await?;
    let (frames, frames_out) = mpsc::channel(QUEUE);
    let (relayed, relayed_out) = mpsc::channel(RELAY_QUEUE);
    let ways = ToServer { frames, relayed };
    access
        .driver
        .send(Command::ServerUp(server, ways))
        .await
        .context("punchd is stopping")?;
    let report = Report {
        server,
        connected: true,
        address: Some(address),
        trouble: None,
    };
    let _ = access.reports.send(report).await;
    let conversation = Conversation {
        server,
        driver: &access.driver,
        socket,
        frames: frames_out,
        relayed: relayed_out,
        overdue: None,
        has_told: false,
    };
    conversation.run().await
}

/// A connection to a server that has welcomed this machine.
struct Conversation<'a> {
    server: ServerId,
    driver: &'a mpsc::Sender<Command>,
    socket: Socket,
    frames: mpsc::Receiver<Frame>,
    relayed: mpsc::Receiver<Vec<u8>>,
    /// When the server must have answered a ping that followed a frame.
    overdue: Option<Instant>,
    /// Whether the server was told what this client can do.
    has_told: bool,
}

impl Conversation<'_> {
    async fn run(mut self) -> Result<()> {
        let mut heard = Instant::now();
        let mut pings = tokio::time::interval_at(heard + PING, PING);
        loop {
            let overdue = self.overdue;
            tokio::select! {
                // What has come is read before it counts as missing.
                biased;
                message = self.socket.next() => {
                    heard = Instant::now();
                    self.overdue = None;
                    match message {
                        Some(Ok(Message::Close(_))) | None => return Ok(()),
                        Some(Ok(message)) => self.handle_message(message).await?,
                        Some(Err(error)) => return Err(error).context("the connection broke"),
                    }
                    // However much comes, what goes out has its turn.
                    if let Ok(frame) = self.frames.try_recv() {
                        self.send_frame(frame).await?;
                    }
                    if let Ok(first) = self.relayed.try_recv() {
                        self.relay(first).await?;
                    }
                }
                frame = self.frames.recv() => {
                    // The driver lets go of the senders only when it forgets the server.
                    let Some(frame) = frame else { return Ok(()) };
                    self.send_frame(frame).await?;
                }
                first = self.relayed.recv() => {
                    let Some(first) = first else { return Ok(()) };
                    self.relay(first).await?;
                }
                () = tokio::time::sleep_until(overdue.unwrap_or(heard)), if overdue.is_some() => {
                    bail!("the server has not answered for {} s", ANSWER.as_secs());
                }
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE {
                        bail!("nothing heard from the server for {} s", SILENCE.as_secs());
                    }
                    send(&mut self.socket, ping()).await?;
                }
            }
        }
    }

    async fn handle_message(&mut self, message: Message) -> Result<()> {
        let Message::Binary(bytes) = message else {
            return Ok(());
        };
        let command = if is_relay_frame(&bytes) {
            Command::Relayed(self.server, bytes)
        } else {
            match Frame::decode(&bytes) {
                Ok(Frame::Refused(why)) => bail!("{why}"),
                Ok(frame) => {
                    // Only a server that tells its own takes them.
                    let tells = matches!(frame, Frame::ServerCapabilities(_));
                    if tells && !std::mem::replace(&mut self.has_told, true) {
                        let ours = Frame::ClientCapabilities(Capabilities::OURS).encode();
                        send(&mut self.socket, Message::Binary(Bytes::from(ours))).await?;
                    }
                    Command::Frame(self.server, frame)
                }
                // A newer server may say things that this version does not know.
                Err(error) => {
                    tracing::debug!(%error, "a frame was passed over");
                    return Ok(());
                }
            }
        };
        let passed = self.driver.send(command).await;
        passed.context("punchd is stopping")
    }

    /// Sends a frame; an answer shows that the server is there.
    async fn send_frame(&mut self, frame: Frame) -> Result<()> {
        send(
            &mut self.socket,
            Message::Binary(Bytes::from(frame.encode())),
        )
        .await?;
        if self.overdue.is_none() {
            self.overdue = Some(Instant::now() + ANSWER);
            send(&mut self.socket, ping()).await?;
        }
        Ok(())
    }

    /// Sends relay frames, those that wait with few system calls.
    async fn relay(&mut self, first: Vec<u8>) -> Result<()> {
        let sending = async {
            self.socket
                .feed(Message::Binary(Bytes::from(first)))
                .await?;
            for _ in 1..RELAY_BATCH {
                let Ok(next) = self.relayed.try_recv() else {
                    break;
                };
                self.socket.feed(Message::Binary(Bytes::from(next))).await?;
            }
            self.socket.flush().await
        };
        timeout(SILENCE, sending)
            .await
            .context("the server takes nothing any more")?
            .context("the connection broke")
    }
}

fn ping() -> Message {
    Message::Ping(clock::wall_ms().to_be_bytes().to_vec().into())
}

async fn send(
    socket: &mut (impl Sink<Message, Error = Error> + Unpin),
    message: Message,
) -> Result<()> {
    timeout(SILENCE, socket.send(message))
        .await
        .context("the server takes nothing any more")?
        .context("the connection broke")
}
