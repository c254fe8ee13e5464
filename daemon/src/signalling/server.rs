//! A connection to one signalling server, kept for as long as the server is configured: WebSocket, a signed challenge, then
//! frames both ways. A lost connection comes back by itself, after growing, jittered pauses.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use punch_engine::{Channel, Nat64, PeerHandle, ServerId};
use punch_platform::clock;
use punch_signal_protocol::{
    Capabilities, Frame, Identity, MAX_RELAY_FRAME, Refusal, is_relay_frame,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::pauses::Pauses;
use super::{trouble, tunnel};
use crate::dial::{self, look_up};
use crate::driver::command::{Command, ToServer};
use crate::proxy::{Proxies, Proxy};

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
/// Bytes that may wait in the kernel unsent before a connection takes more.
const UNSENT: u32 = 16 * 1024;
/// Bytes of a server that are read at once; the WebSocket layer keeps a buffer of this size for each connection.
const READ_BUFFER: usize = 16 * 1024;
/// Relay frames that may wait for a slow server, each of up to [`MAX_RELAY_FRAME`] bytes.
const RELAY_QUEUE: usize = 32;

/// A server, and how it is reached.
pub(crate) struct Goal {
    pub(crate) server: ServerId,
    pub(crate) url: String,
    /// The peer whose meeting place it is, inside the tunnel.
    pub(crate) host: Option<Inviter>,
}

/// A peer that has invited this machine.
pub(crate) struct Inviter {
    pub(crate) peer: PeerHandle,
    /// The peer has said so once more: it may be another process, which knows of no connection.
    pub(crate) again: Arc<Notify>,
}

impl Goal {
    fn channel(&self) -> Channel {
        let host = self.host.as_ref();
        host.map_or(Channel::Server, |host| Channel::Meeting(host.peer))
    }

    /// The proxy that leads to the server, if one does: there is none inside a tunnel.
    fn proxy<'a>(&self, proxies: &'a Proxies) -> Result<Option<&'a Proxy>, String> {
        match self.host {
            None => proxies.of(&self.url),
            Some(_) => Ok(None),
        }
    }

    /// Waits until somebody doubts the connection: the host of a meeting place, by a new invitation. That with a server is only pinged.
    async fn is_doubted(&self) {
        match &self.host {
            Some(host) => host.again.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// How the connection to a server is, for status and events.
pub(crate) struct Report {
    pub(crate) server: ServerId,
    pub(crate) connected: bool,
    /// Where the server is reached, if it is.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) trouble: Option<String>,
    /// Whether the peer serves this machine no longer.
    pub(crate) refused: bool,
}

/// What every signalling client needs.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) identity: Identity,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) driver: mpsc::Sender<Command>,
    pub(crate) reports: mpsc::Sender<Report>,
    /// Below this prefix IPv4 is reached where there is none.
    pub(crate) nat64: watch::Receiver<Option<Nat64>>,
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

/// Stays connected to a server until it is dropped, or until a peer that has invited this machine refuses it.
pub(crate) async fn stay_connected(goal: Goal, access: Access) {
    let server = goal.server;
    let mut pauses = Pauses::default();
    // An earlier client of this server may have left its connection registered.
    let _ = access.driver.send(Command::ServerDown(server)).await;
    loop {
        let mut welcomed = None;
        let end = converse(&goal, &access, &mut welcomed).await;
        let _ = access.driver.send(Command::ServerDown(server)).await;
        let refused = goal.host.is_some() && end.as_ref().is_err_and(trouble::is_refusal);
        let lost = end.as_ref().is_err_and(|error| !error.is::<Refusal>());
        let trouble = match end {
            Ok(()) => "the server closed the connection".to_owned(),
            Err(error) => trouble::explain(&error, &goal.url, goal.proxy(&access.proxies)),
        };
        let report = Report {
            server,
            connected: false,
            address: None,
            trouble: Some(trouble),
            refused,
        };
        let _ = access.reports.send(report).await;
        if refused {
            return;
        }
        let stood = welcomed.map(|at| at.elapsed());
        let pause = pauses.after(stood, lost, clock::now());
        tokio::time::sleep(jittered(pause)).await;
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
///
/// Where a proxy leads to the server, the addresses are the proxy's, and it is the proxy who looks up the server's name.
async fn log_in(goal: &Goal, access: &Access) -> Result<(SocketAddr, Socket)> {
    let url = goal.url.as_str();
    let proxy = goal.proxy(&access.proxies).map_err(Error::msg)?;
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
    let addresses = match proxy {
        None => tokio::time::timeout_at(deadline, look_up((host, port), MAX_ADDRESSES))
            .await
            .context("its name is not found: no answer")?
            .context("its name is not found")?,
        Some(proxy) => tokio::time::timeout_at(deadline, look_up(proxy.place(), MAX_ADDRESSES))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| tunnel::not_found(proxy, error))?,
    };
    // A peer that serves is inside the tunnel, where nobody translates.
    let nat64 = access.nat64.borrow().filter(|_| goal.host.is_none());
    let addresses = dial::through(addresses, nat64);
    // While the interface is gone, what is meant for the tunnel would go out into the network.
    let from = goal.host.as_ref().map(|_| access.identity.id());
    let from = from.map(|own| own.overlay_ipv6());
    let connect = |address| {
        let way = Way {
            address,
            proxy,
            from,
        };
        connect(way, request.clone(), access.tls.clone())
    };
    let (address, greeted) = dial::race(&addresses, ADDRESS_TIMEOUT, connect).await?;
    tracing::debug!(%url, %address, "the signalling server answers");
    let shown = nat64.and_then(|prefix| prefix.inwards(address));
    let address = shown.unwrap_or(address);

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

/// Where a connection to a server begins: at an address of the server, or of the proxy that leads there.
struct Way<'a> {
    address: SocketAddr,
    proxy: Option<&'a Proxy>,
    /// Where it has to begin, if it leads through a tunnel.
    from: Option<Ipv6Addr>,
}

/// Connects to an address; from this one only, if there is one.
async fn open(to: SocketAddr, from: Option<Ipv6Addr>) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(to).await;
    };
    let socket = TcpSocket::new_v6()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Connects to the server at one address and waits for its challenge.
async fn connect(
    way: Way<'_>,
    request: Request,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Greeted> {
    let stream = match way.proxy {
        None => open(way.address, way.from)
            .await
            .context("cannot connect")?,
        Some(proxy) => {
            // It stands in every address of a server, with the port.
            let target = request.uri().authority();
            let target = target.context("the address has no host")?.as_str();
            tunnel::connect(way.address, proxy, target).await?
        }
    };
    stream.set_nodelay(true)?;
    // What is relayed waits where packets are lost in time, and not in the kernel.
    let unsent = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
    if let Err(error) = unsent {
        tracing::debug!(%error, "the kernel may keep much for the server");
    }
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
async fn converse(goal: &Goal, access: &Access, welcomed: &mut Option<Instant>) -> Result<()> {
    let server = goal.server;
    let (address, socket) = log_in(goal, access).await?;
    *welcomed = Some(Instant::now());
    let (frames, frames_out) = mpsc::channel(QUEUE);
    let (relayed, relayed_out) = mpsc::channel(RELAY_QUEUE);
    let ways = ToServer { frames, relayed };
    access
        .driver
        .send(Command::ServerUp(server, goal.channel(), ways))
        .await
        .context("punchd is stopping")?;
    let report = Report {
        server,
        connected: true,
        address: Some(address),
        trouble: None,
        refused: false,
    };
    let _ = access.reports.send(report).await;
    let (sink, stream) = socket.split();
    let (tell, told) = mpsc::channel(1);
    let heard = Mutex::new(Heard {
        at: Instant::now(),
        overdue: None,
    });
    let reader = Reader {
        server,
        driver: &access.driver,
        heard: &heard,
        tell,
    };
    let writer = Writer {
        goal,
        sink,
        frames: frames_out,
        relayed: relayed_out,
        told,
        heard: &heard,
    };
    // What goes out may wait for a slow line, and holds up nothing of what comes in.
    tokio::select! {
        ended = reader.run(stream) => ended,
        ended = writer.run() => ended,
    }
}

/// When the server was heard last, and when it must have answered a ping that followed a frame.
struct Heard {
    at: Instant,
    overdue: Option<Instant>,
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What comes from a server that has welcomed this machine.
struct Reader<'a> {
    server: ServerId,
    driver: &'a mpsc::Sender<Command>,
    heard: &'a Mutex<Heard>,
    /// What this client can do, for the server: said once, and only to one that has told its own.
    tell: mpsc::Sender<Frame>,
}

impl Reader<'_> {
    async fn run(self, mut stream: SplitStream<Socket>) -> Result<()> {
        while let Some(message) = stream.next().await {
            *lock(self.heard) = Heard {
                at: Instant::now(),
                overdue: None,
            };
            let message = match message.context("the connection broke")? {
                Message::Close(_) => break,
                Message::Binary(bytes) => bytes,
                _ => continue,
            };
            if let Some(command) = self.read(message)? {
                let passed = self.driver.send(command).await;
                passed.context("punchd is stopping")?;
            }
        }
        Ok(())
    }

    fn read(&self, message: Bytes) -> Result<Option<Command>> {
        if is_relay_frame(&message) {
            return Ok(Some(Command::Relayed(self.server, message)));
        }
        match Frame::decode(&message) {
            Ok(Frame::Refused(why)) => Err(why.into()),
            Ok(frame) => {
                if matches!(frame, Frame::ServerCapabilities(_)) {
                    // Of several that say it, the first was answered.
                    let _ = self
                        .tell
                        .try_send(Frame::ClientCapabilities(Capabilities::OURS));
                }
                Ok(Some(Command::Frame(self.server, frame)))
            }
            // A newer server may say things that this version does not know.
            Err(error) => {
                tracing::debug!(%error, "a frame was passed over");
                Ok(None)
            }
        }
    }
}

/// What goes to a server that has welcomed this machine.
struct Writer<'a> {
    goal: &'a Goal,
    sink: SplitSink<Socket, Message>,
    frames: mpsc::Receiver<Frame>,
    relayed: mpsc::Receiver<Vec<u8>>,
    told: mpsc::Receiver<Frame>,
    heard: &'a Mutex<Heard>,
}

impl Writer<'_> {
    async fn run(mut self) -> Result<()> {
        let mut pings = tokio::time::interval_at(Instant::now() + PING, PING);
        let mut has_told = false;
        loop {
            let overdue = lock(self.heard).overdue;
            tokio::select! {
                // Frames go before what is relayed.
                biased;
                Some(frame) = self.told.recv(), if !has_told => {
                    has_told = true;
                    self.send(Message::Binary(Bytes::from(frame.encode()))).await?;
                }
                frame = self.frames.recv() => {
                    // The driver lets go of the senders only when it forgets the server.
                    let Some(frame) = frame else { return Ok(()) };
                    self.send_frame(frame).await?;
                }
                () = tokio::time::sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    if lock(self.heard).overdue.is_some_and(|at| at <= Instant::now()) {
                        bail!("the server has not answered for {} s", ANSWER.as_secs());
                    }
                }
                () = self.goal.is_doubted() => self.ask().await?,
                // The tunnel to a peer knows by itself whether the peer is there: an idle one costs nothing.
                _ = pings.tick(), if self.goal.host.is_none() => {
                    if lock(self.heard).at.elapsed() > SILENCE {
                        bail!("nothing heard from the server for {} s", SILENCE.as_secs());
                    }
                    self.send(ping()).await?;
                }
                first = self.relayed.recv() => {
                    let Some(first) = first else { return Ok(()) };
                    self.send(Message::Binary(Bytes::from(first))).await?;
                }
            }
        }
    }

    /// Sends a frame; an answer shows that the server is there.
    async fn send_frame(&mut self, frame: Frame) -> Result<()> {
        self.send(Message::Binary(Bytes::from(frame.encode())))
            .await?;
        self.ask().await
    }

    /// Asks the server for a sign of life, unless one is awaited.
    async fn ask(&mut self) -> Result<()> {
        let is_awaited = {
            let mut heard = lock(self.heard);
            let is_awaited = heard.overdue.is_some();
            heard.overdue.get_or_insert(Instant::now() + ANSWER);
            is_awaited
        };
        match is_awaited {
            true => Ok(()),
            false => self.send(ping()).await,
        }
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        timeout(SILENCE, self.sink.send(message))
            .await
            .context("the server takes nothing any more")?
            .context("the connection broke")
    }
}

fn ping() -> Message {
    Message::Ping(clock::wall_ms().to_be_bytes().to_vec().into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The address may lead to somebody in the network around a machine whose interface is gone.
    #[tokio::test]
    async fn what_is_meant_for_a_tunnel_goes_nowhere_without_the_interface() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        open(to, None).await.unwrap();
        let own = Identity::from_seed(&[1; 32]).id().overlay_ipv6();
        let error = open(to, Some(own)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
