//! punchd: opens WireGuard tunnels to peers behind any NAT, and lets each reach exactly what this machine shares.

mod config;
mod control;
mod desk;
mod driver;
mod portmap;
mod run;
mod signalling;
mod snapshot;
mod store;
mod targets;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Config;

/// The Punch daemon: owns the TUN device, the tunnels and the forwards, and serves the control socket.
#[derive(Debug, Parser)]
#[command(
    name = "punchd",
    version,
    after_help = "punchd runs in the foreground and logs to standard error. It needs CAP_NET_ADMIN and /dev/net/tun.\nControl it with punchctl."
)]
struct Arguments {
    /// The configuration file; without this option /etc/punch/punchd.toml, if it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where identity, peers, servers and forwards are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/punch")]
    state_dir: PathBuf,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = punch_api::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// What to log: off, error, warn, info, debug or trace; also MODULE=LEVEL, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PUNCH_LOG", value_parser = parse_log)]
    log: Targets,
}

/// A word without a level would be taken for a module, and silence all others.
fn parse_log(text: &str) -> Result<Targets, String> {
    let mut bare = text.split(',').filter(|part| !part.contains('='));
    let is_level = |part: &&str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    if let Some(word) = bare.find(|part| !is_level(part)) {
        return Err(format!(
            "'{word}' is no level: give off, error, warn, info, debug, trace or MODULE=LEVEL"
        ));
    }
    text.parse().map_err(|error| format!("{error}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish()
        .with(arguments.log)
        .init();
    let places = run::Places {
        state_dir: arguments.state_dir,
        socket: arguments.socket,
    };
    let result =
        Config::load(arguments.config.as_deref()).and_then(|config| run::run(config, places));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last word, also when logs are filtered"
            )]
            {
                eprintln!("punchd: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_and_does_not_silence_the_log() {
        for good in ["info", "off", "debug,punch_engine=trace", "tokio=warn"] {
            assert!(parse_log(good).is_ok(), "{good}");
        }
        for bad in ["debgu", "info,loud", "punch_engine=loud", ""] {
            assert!(parse_log(bad).is_err(), "{bad}");
        }
    }
}
