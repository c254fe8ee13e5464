//! punch-signal: passes sealed envelopes between online peers.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use punch_signal::hub::Limits;
use punch_signal::net::{self, Config};
use tracing_subscriber::filter::LevelFilter;

/// The signalling server: passes sealed envelopes between online peers. It keeps no accounts and no data, and learns only
/// identities, sizes and times.
#[derive(Debug, Parser)]
#[command(
    name = "punch-signal",
    version,
    after_help = "Examples:\n  punch-signal --listen 127.0.0.1:8080                 behind a proxy that speaks TLS\n  punch-signal --listen [::]:443 --tls-cert chain.pem --tls-key key.pem"
)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", env = "PUNCH_SIGNAL_LISTEN")]
    listen: SocketAddr,
    /// The certificate chain, as a PEM file; with it the server speaks TLS by itself
    #[arg(
        long,
        value_name = "FILE",
        env = "PUNCH_SIGNAL_TLS_CERT",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, as a PEM file
    #[arg(
        long,
        value_name = "FILE",
        env = "PUNCH_SIGNAL_TLS_KEY",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// The name by which clients know this server, HOST or HOST:PORT; logins meant for another name are refused
    #[arg(long, value_name = "NAME", env = "PUNCH_SIGNAL_NAME")]
    name: Option<String>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, env = "PUNCH_SIGNAL_CONNECTIONS")]
    connections: usize,
    /// Messages per second of one client, on average
    #[arg(long, value_name = "N", default_value_t = Limits::default().rate, env = "PUNCH_SIGNAL_RATE")]
    rate: u32,
    /// What to log: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "PUNCH_LOG")]
    log: LevelFilter,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_max_level(arguments.log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    if arguments.name.is_none() {
        tracing::warn!("without --name another server can pass its clients' logins on to this one");
    }
    let config = Config {
        listen: arguments.listen,
        tls: arguments.tls_cert.zip(arguments.tls_key),
        limits: Limits {
            connections: arguments.connections,
            rate: arguments.rate,
            burst: arguments.rate.saturating_mul(4),
            name: arguments.name,
            ..Limits::default()
        },
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(net::run(config)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last word, also when logs are filtered"
            )]
            {
                eprintln!("punch-signal: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
