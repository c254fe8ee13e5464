//! Sockets around the hub: HTTP with one WebSocket per client, plain or TLS.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::get;
use axum::serve::IncomingStream;
use punch_signal_protocol::{Frame, MAX_FRAME, Refusal};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::hub::{ConnectionId, Hub, Limits, Output};

/// Frames that wait for one client; with frames of at most 4.2 KB that is 270 KB a client at the very worst.
const QUEUE: usize = 64;
/// A client that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
const PING: Duration = Duration::from_secs(30);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS handshakes at once: each costs a millisecond of CPU.
const TLS_AT_ONCE: usize = 64;

/// How the server is run.
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Certificate chain and key, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// What bounds the hub.
    pub limits: Limits,
}

enum ToClient {
    Frame(Frame),
    Close(Refusal),
}

struct Shared {
    hub: Hub,
    clients: HashMap<ConnectionId, mpsc::Sender<ToClient>>,
}

#[derive(Clone)]
struct Server(Arc<Mutex<Shared>>);

/// Serves until it is told to stop.
///
/// # Errors
/// When it cannot listen or the certificate is not usable.
pub async fn run(config: Config) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let tls = match &config.tls {
        Some((certificate, key)) => Some(acceptor(certificate, key)?),
        None => None,
    };
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let server = Server(Arc::new(Mutex::new(Shared {
        hub: Hub::new(config.limits),
        clients: HashMap::new(),
    })));
    let router = Router::new()
        .route("/", get(upgrade))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(get(upgrade))
        .with_state(server.clone());
    tracing::info!(address = %listener.local_addr()?, tls = tls.is_some(), "ready");
    let service = router.into_make_service_with_connect_info::<Source>();
    let serving = async {
        match tls {
            Some(tls) => axum::serve(TlsListener::new(listener, tls), service).await,
            None => axum::serve(listener, service).await,
        }
    };
    let ticking = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            server.with(|hub| hub.handle_timeout(Instant::now()));
        }
    };
    tokio::select! {
        result = serving => result.context("cannot serve any longer")?,
        () = ticking => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    Ok(())
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the key do not fit together")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the hub work, and hands out what it wants sent.
    fn with<T>(&self, work: impl FnOnce(&mut Hub) -> T) -> T {
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

async fn upgrade(
    State(server): State<Server>,
    ConnectInfo(Source(source)): ConnectInfo<Source>,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .on_upgrade(move |socket| converse(server, source, socket))
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
    let mut pings = tokio::time::interval(PING);
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
                    server.with(|hub| hub.handle_message(connection, &bytes, Instant::now()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                    server.with(|hub| hub.handle_alive(connection, Instant::now()));
                }
                Some(Ok(Message::Text(_))) => {
                    // Not this protocol: an empty message is refused as such.
                    server.with(|hub| hub.handle_message(connection, &[], Instant::now()));
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

/// The address that a connection came from.
#[derive(Clone)]
struct Source(IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Source {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.remote_addr().ip())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Source {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(stream.remote_addr().ip())
    }
}

/// Accepts TCP and hands out connections whose TLS handshake is done; a slow one keeps nobody waiting.
struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    accepting: tokio::task::JoinHandle<()>,
}

impl TlsListener {
    fn new(listener: TcpListener, tls: TlsAcceptor) -> Self {
        let address = listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let (sender, ready) = mpsc::channel(TLS_AT_ONCE);
        let accepting = tokio::spawn(accept(listener, tls, sender));
        Self {
            address,
            ready,
            accepting,
        }
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(TLS_AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(TLS_TIMEOUT, tls.accept(stream));
            if let Ok(Ok(stream)) = handshake.await {
                let _ = ready.send((stream, source)).await;
            }
            drop(place);
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The accepting task ends only with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
