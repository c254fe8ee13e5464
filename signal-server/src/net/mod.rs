//! Sockets around the hub: HTTP with one WebSocket per client, plain or TLS.
//!
//! [`certificate`] follows the files of the certificate, [`listen`] accepts connections and bounds those that are not WebSockets yet,
//! [`proxy`] finds out whose they are, [`upgrade`] makes clients of them, which [`crate::serve`] serves, [`line`] is a client's connection,
//! [`metrics`] shows counters.

mod certificate;
mod line;
mod listen;
mod metrics;
mod proxy;
mod upgrade;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::Router;
use axum::routing::get;
use punch_service::manager;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::hub::Limits;
use crate::serve::server::Server;
use certificate::Certificate;

/// How the server is run.
pub struct Config {
    /// Where to listen; port 8080 of all addresses unless set.
    pub listen: Option<SocketAddr>,
    /// Addresses of proxies in front, whose word on a client's address is believed.
    pub proxies: Vec<IpAddr>,
    /// Certificate chain and key, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// What bounds the hub.
    pub limits: Limits,
}

/// Serves until it is told to stop.
///
/// # Errors
/// When it cannot listen or the certificate is not usable.
pub async fn run(config: Config) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Without a certificate there is nothing to be read again, which is no reason to end.
    let hangup = signal(SignalKind::hangup())?;
    let tls = match config.tls {
        Some((chain, key)) => Some(Arc::new(Certificate::read(chain, key)?)),
        None => None,
    };
    let listener = listen::bind(config.listen).await?;
    let server = Server::new(config.limits);
    let router = Router::new()
        .route("/", get(upgrade::upgrade))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics::show))
        .fallback(get(upgrade::upgrade))
        .with_state(server.clone());
    // Every client is a descriptor; the soft limit is often 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    tracing::info!(address = %listener.local_addr()?, tls = tls.is_some(), "ready");
    manager::ready("started");
    let proxies = config.proxies.iter().map(IpAddr::to_canonical).collect();
    let following = follow(tls.clone(), hangup);
    let serving = listen::accept(listener, tls, server.clone(), router, proxies);
    let ticking = tick(&server);
    tokio::select! {
        () = serving => {}
        () = ticking => {}
        () = following => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    manager::stopping();
    Ok(())
}

/// Keeps the certificate the newest, if there is one.
async fn follow(certificate: Option<Arc<Certificate>>, hangup: Signal) {
    match certificate {
        Some(certificate) => certificate.follow(hangup).await,
        None => std::future::pending().await,
    }
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
