//! Sockets around the hub: HTTP with one WebSocket per client, plain or TLS.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use punch_service::manager;
use punch_service::prometheus::{self, Exposition};
use punch_signal_protocol::{Frame, MAX_FRAME, Refusal};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::hub::{ConnectionId, Hub, Limits, Output, subnet};

/// Frames that wait for one client; with frames of at most 4.2 KB that is 270 KB a client at the very worst.
const QUEUE: usize = 64;
/// A client that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
const PING: Duration = Duration::from_secs(30);
/// A connection has this long for its TLS handshake, and as long again for its HTTP request.
const OPENING: Duration = Duration::from_secs(10);
/// Connections at once that are not WebSockets yet, in all and from one source.
const OPENING_AT_ONCE: usize = 512;
const OPENING_PER_SOURCE: usize = 64;

/// Where clients are expected unless told otherwise.
const DEFAULT_PORT: u16 = 8080;

/// How the server is run.
pub struct Config {
    /// Where to listen; port 8080 of all addresses unless set.
    pub listen: Option<SocketAddr>,
    /// Proxies in front: what they say of a client's address is believed.
    pub proxies: Vec<IpAddr>,
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
    let listener = listen(config.listen).await?;
    let server = Server(Arc::new(Mutex::new(Shared {
        hub: Hub::new(config.limits),
        clients: HashMap::new(),
    })));
    let router = Router::new()
        .route("/", get(upgrade))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .fallback(get(upgrade))
        .with_state(server.clone());
    // Every client is a descriptor; the soft limit is often 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    tracing::info!(address = %listener.local_addr()?, tls = tls.is_some(), "ready");
    manager::ready("started");
    let proxies = config.proxies.iter().map(IpAddr::to_canonical).collect();
    let serving = accept(listener, tls, router, proxies);
    let ticking = tick(&server);
    tokio::select! {
        () = serving => {}
        () = ticking => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    manager::stopping();
    Ok(())
}

/// Lets the hub see the time, and the service manager that the hub is alive.
async fn tick(server: &Server) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let (mut said, mut alive) = (None, Instant::now());
    loop {
        ticks.tick().await;
        let online = server.with(|hub| {
            hub.handle_timeout(Instant::now());
            hub.online()
        });
        if said != Some(online) {
            manager::status(&format!("{online} clients online"));
            said = Some(online);
        }
        if manager::watchdog().is_some_and(|interval| alive.elapsed() >= interval) {
            manager::alive();
            alive = Instant::now();
        }
    }
}

async fn listen(address: Option<SocketAddr>) -> Result<TcpListener> {
    let everywhere = SocketAddr::from(([0u16; 8], DEFAULT_PORT));
    let first = address.unwrap_or(everywhere);
    let listener = match TcpListener::bind(first).await {
        // A machine without IPv6.
        Err(error) if address.is_none() && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from(([0; 4], DEFAULT_PORT))).await
        }
        result => result,
    };
    listener.with_context(|| format!("cannot listen on {first}"))
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate {}", certificate.display()))?;
    if chain.is_empty() {
        bail!(
            "no certificate is in {}: it must be PEM",
            certificate.display()
        );
    }
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
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let source = source.client(&headers);
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

/// Counters in Prometheus' text format: numbers only, no identities.
async fn metrics(State(server): State<Server>) -> impl IntoResponse {
    let (online, connections, counters) =
        server.with(|hub| (hub.online(), hub.connections(), hub.counters()));
    let mut metrics = Exposition::default();
    metrics
        .gauge(
            "punch_signal_build_info",
            "The version that runs; always 1.",
        )
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    for (name, help, value) in [
        ("punch_signal_online", "Clients online.", online),
        (
            "punch_signal_connections",
            "Connections, also those that have not proven an identity yet.",
            connections,
        ),
    ] {
        metrics.gauge(name, help).value(value as f64);
    }
    for (name, help, value) in [
        (
            "punch_signal_logins_total",
            "Clients that proved an identity.",
            counters.logins,
        ),
        (
            "punch_signal_delivered_total",
            "Envelopes passed on.",
            counters.delivered,
        ),
        (
            "punch_signal_unreachable_total",
            "Envelopes without receiver.",
            counters.unreachable,
        ),
        (
            "punch_signal_refused_total",
            "Connections refused or closed.",
            counters.refused,
        ),
    ] {
        metrics.counter(name, help).value(value as f64);
    }
    (
        [(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)],
        metrics.finish(),
    )
}

/// The address that a connection came from.
#[derive(Clone)]
struct Source {
    source: IpAddr,
    /// All proxies that are believed, if this is one of them.
    proxies: Option<Arc<[IpAddr]>>,
}

impl Source {
    /// Whose request it is. Each proxy appends the address that it has seen: from the end on, what proxies say is believed, and
    /// the first that is none of them is the client.
    fn client(&self, headers: &HeaderMap) -> IpAddr {
        let Some(proxies) = &self.proxies else {
            return self.source;
        };
        let mut client = self.source;
        let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        let told = values
            .iter()
            .rev()
            .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        for text in told {
            let Some(ip) = parse_client(text.trim()) else {
                break;
            };
            client = ip;
            if !proxies.contains(&client) {
                break;
            }
        }
        client
    }
}

/// An address as proxies write it, some with a port.
fn parse_client(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok();
    ip.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
        .map(|ip| ip.to_canonical())
}

/// Accepts connections; until one is a WebSocket it is bounded in time and number, so that idlers keep nobody out.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    proxies: Arc<[IpAddr]>,
) {
    let places = Arc::new(Semaphore::new(OPENING_AT_ONCE));
    let sources = Arc::new(Mutex::new(HashMap::<IpAddr, usize>::new()));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (stream, source) = match listener.accept().await {
            Ok((stream, source)) => (stream, source.ip().to_canonical()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // A proxy's connections are many clients'; what it may open at once is the proxy's to bound.
        let is_proxy = proxies.contains(&source);
        let visit = if is_proxy {
            None
        } else {
            let Some(visit) = Visit::begin(&sources, source) else {
                continue;
            };
            Some(visit)
        };
        let source = Source {
            source,
            proxies: is_proxy.then(|| proxies.clone()),
        };
        let router = router.clone().layer(Extension(source));
        let tls = tls.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(stream, router).await,
                Some(tls) => {
                    let handshake = tokio::time::timeout(OPENING, tls.accept(stream));
                    if let Ok(Ok(stream)) = handshake.await {
                        serve(stream, router).await;
                    }
                }
            }
            drop((place, visit));
        });
    }
}

/// Serves requests for a short time; a WebSocket goes on in a task of its own.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let _ = tokio::time::timeout(2 * OPENING, connection).await;
}

/// One of the connections of a source that are not WebSockets yet.
struct Visit {
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    source: IpAddr,
}

impl Visit {
    fn begin(sources: &Arc<Mutex<HashMap<IpAddr, usize>>>, source: IpAddr) -> Option<Self> {
        let source = subnet(source);
        let mut counts = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        (*count < OPENING_PER_SOURCE).then(|| {
            *count += 1;
            Self {
                sources: sources.clone(),
                source,
            }
        })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut counts = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The client of a request that came from there; 127.0.0.1, ::1 and 192.0.2.80 are proxies.
    fn client(source: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let proxies = ["127.0.0.1", "::1", "192.0.2.80"];
        let proxies: Arc<[IpAddr]> = proxies.iter().map(|ip| ip.parse().unwrap()).collect();
        let source: IpAddr = source.parse().unwrap();
        let source = Source {
            source,
            proxies: proxies.contains(&source).then_some(proxies),
        };
        source.client(&headers).to_string()
    }

    #[test]
    fn only_a_proxy_is_believed_and_only_its_own_word() {
        let told = ["10.0.0.1, 198.51.100.7", "203.0.113.9, 2001:db8::5"];
        assert_eq!(client("127.0.0.1", &told), "2001:db8::5");
        assert_eq!(client("192.0.2.1", &told), "192.0.2.1");
        let mapped = ["::ffff:198.51.100.7"];
        assert_eq!(client("127.0.0.1", &mapped), "198.51.100.7");
    }

    #[test]
    fn behind_two_proxies_the_client_is_whom_the_outer_one_has_seen() {
        let told = ["1.1.1.1, 198.51.100.7, 192.0.2.80"];
        assert_eq!(client("127.0.0.1", &told), "198.51.100.7");
        let with_ports = ["198.51.100.7:4711", "192.0.2.80:80"];
        assert_eq!(client("::1", &with_ports), "198.51.100.7");
        assert_eq!(client("::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
    }

    #[test]
    fn a_proxy_that_says_nothing_sensible_is_the_client_itself() {
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("::1", &["unknown"]), "::1");
    }
}
