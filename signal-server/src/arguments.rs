//! punch-signal's command line, as a value: for the program and for its manual page.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use clap::builder::FalseyValueParser;
use punch_service::log::parse_filter;
use tracing_subscriber::filter::Targets;

use crate::hub::Limits;
use crate::hub::relay::RelayLimits;

/// The signalling server: passes sealed envelopes between online peers, and relays sealed packets between those that have no direct
/// path. It keeps no accounts and no data, and learns only identities, addresses, sizes and times.
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
    /// Relay nothing: clients that find no direct path to each other then need another server for it
    #[arg(long, env = "PUNCH_SIGNAL_NO_RELAY", value_parser = FalseyValueParser::new())]
    pub no_relay: bool,
    /// What one client may send over the relay, in Mbit/s on average; all clients of one address four times as much. The rest is
    /// dropped. Never more than --relay-total
    #[arg(long, value_name = "MBIT", default_value_t = RelayLimits::default().rate, env = "PUNCH_SIGNAL_RELAY_RATE", value_parser = parse_rate)]
    pub relay_rate: u32,
    /// What all clients together may send over the relay, in Mbit/s on average. The machine receives and sends that much
    #[arg(long, value_name = "MBIT", default_value_t = RelayLimits::default().total_rate, env = "PUNCH_SIGNAL_RELAY_TOTAL", value_parser = parse_rate)]
    pub relay_total: u32,
    /// What to log: off, error, warn, info, debug or trace; also MODULE=LEVEL, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PUNCH_LOG", value_parser = parse_filter)]
    pub log: Targets,
}

/// More than that is a mistake: bits for megabits, for instance.
const MAX_RATE: u32 = 1_000_000;

fn parse_rate(text: &str) -> Result<u32, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate| (1..=MAX_RATE).contains(rate));
    rate.ok_or_else(|| {
        format!("write the Mbit/s as a whole number from 1 to {MAX_RATE}; --no-relay turns the relay off")
    })
}

impl Arguments {
    /// What bounds the relay, unless there is none.
    pub fn relay(&self) -> Option<RelayLimits> {
        (!self.no_relay).then(|| RelayLimits::with_rates(self.relay_rate, self.relay_total))
    }
}
