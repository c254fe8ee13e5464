//! punch-signal's command line, as a value: for the program and for its manual page.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use punch_service::log::parse_filter;
use tracing_subscriber::filter::Targets;

use crate::hub::Limits;

/// The signalling server: passes sealed envelopes between online peers. It keeps no accounts and no data, and learns only
/// identities, sizes and times.
#[derive(Debug, Parser)]
#[command(
    name = "punch-signal",
    version,
    after_help = "Examples:\n  punch-signal                                         plain, on port 8080 of all addresses\n  punch-signal --listen 127.0.0.1:8080                 behind a proxy that speaks TLS\n  punch-signal --listen [::]:443 --tls-cert chain.pem --tls-key key.pem\n\nThe certificate is read again when its files change (they are looked at once a minute), and on SIGHUP.\nGET /healthz answers ok, GET /metrics counts for Prometheus.\nExit status: 0 told to end, 1 failed, 2 wrong usage."
)]
pub struct Arguments {
    /// Where to listen; without this option port 8080 of all addresses
    #[arg(long, value_name = "ADDR:PORT", env = "PUNCH_SIGNAL_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Addresses of proxies in front, separated by commas: from these, X-Forwarded-For tells who the client is
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1,::1",
        env = "PUNCH_SIGNAL_PROXY",
        value_delimiter = ','
    )]
    pub proxy: Vec<IpAddr>,
    /// The certificate chain, as a PEM file; with it the server speaks TLS by itself
    #[arg(
        long,
        value_name = "FILE",
        env = "PUNCH_SIGNAL_TLS_CERT",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, as a PEM file
    #[arg(
        long,
        value_name = "FILE",
        env = "PUNCH_SIGNAL_TLS_KEY",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// The name by which clients know this server, HOST or HOST:PORT; logins meant for another name are refused
    #[arg(long, value_name = "NAME", env = "PUNCH_SIGNAL_NAME")]
    pub name: Option<String>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, env = "PUNCH_SIGNAL_CONNECTIONS")]
    pub connections: usize,
    /// Connections at once from one address (an IPv6 /64 counts as one)
    #[arg(long, value_name = "N", default_value_t = Limits::default().per_address, env = "PUNCH_SIGNAL_PER_ADDRESS")]
    pub per_address: usize,
    /// Messages per second of one client, on average
    #[arg(long, value_name = "N", default_value_t = Limits::default().rate, env = "PUNCH_SIGNAL_RATE")]
    pub rate: u32,
    /// What to log: off, error, warn, info, debug or trace; also MODULE=LEVEL, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PUNCH_LOG", value_parser = parse_filter)]
    pub log: Targets,
}
