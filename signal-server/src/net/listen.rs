//! Accepting connections, plain or TLS, and bounding those that are not WebSockets yet.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::certificate::Certificate;
use super::line::Line;
use super::proxy::Source;
use crate::hub::subnet;
use crate::serve::server::Server;

/// A connection has this long for its TLS handshake, and as long again for its HTTP request.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once that are not WebSockets yet.
const MAX_OPENING: usize = 512;
/// Connections at once of one source that are not WebSockets yet.
const MAX_OPENING_PER_SOURCE: usize = 64;
/// Where clients are expected unless told otherwise.
const DEFAULT_PORT: u16 = 8080;

/// Listens on `address`, or on [`DEFAULT_PORT`] of all addresses.
pub(super) async fn bind(address: Option<SocketAddr>) -> Result<TcpListener> {
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

/// Accepts connections; until one is a WebSocket it is bounded in time and number, so that idlers keep nobody out.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Certificate>>,
    server: Server,
    router: Router,
    proxies: Arc<[IpAddr]>,
) {
    let places = Arc::new(Semaphore::new(MAX_OPENING));
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
        let slot = if is_proxy {
            None
        } else {
            let Some(slot) = OpeningSlot::begin(&sources, source) else {
                continue;
            };
            if !server.with(|hub| hub.may_open(source, Instant::now())) {
                continue;
            }
            Some(slot)
        };
        let source = Source::new(source, &proxies);
        let router = router.clone().layer(Extension(source));
        let tls = tls.as_ref().map(|certificate| certificate.acceptor());
        tokio::spawn(async move {
            let stream = Line::new(stream);
            match tls {
                None => serve(stream, router).await,
                Some(tls) => {
                    let handshake = tokio::time::timeout(OPENING_TIMEOUT, tls.accept(stream));
                    if let Ok(Ok(stream)) = handshake.await {
                        serve(stream, router).await;
                    }
                }
            }
            drop((place, slot));
        });
    }
}

/// Serves requests for a short time; a WebSocket goes on in a task of its own.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let _ = tokio::time::timeout(2 * OPENING_TIMEOUT, connection).await;
}

/// One of the connections of a source that are not WebSockets yet.
struct OpeningSlot {
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    source: IpAddr,
}

impl OpeningSlot {
    fn begin(sources: &Arc<Mutex<HashMap<IpAddr, usize>>>, source: IpAddr) -> Option<Self> {
        let source = subnet(source);
        let mut counts = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        (*count < MAX_OPENING_PER_SOURCE).then(|| {
            *count += 1;
            Self {
                sources: sources.clone(),
                source,
            }
        })
    }
}

impl Drop for OpeningSlot {
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
