//! punch-stun: tells a client how its NAT behaves (RFC 8489, RFC 5780).

mod limit;
mod net;

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use crate::net::SamplePorts;

/// A STUN server: answers Binding requests (RFC 8489) and, with two addresses, NAT behaviour discovery (RFC 5780).
#[derive(Debug, Parser)]
#[command(
    name = "punch-stun",
    version,
    after_help = "Examples:\n  punch-stun --listen 203.0.113.1:3478\n  punch-stun --listen 203.0.113.1:3478 --alternate 203.0.113.2 --sample-ports 20000-20063\n  punch-stun --listen 203.0.113.1:3478 --listen '[2001:db8::1]:3478'"
)]
struct Arguments {
    /// Where to listen; once for each address
    #[arg(
        long,
        value_name = "ADDR:PORT",
        required = true,
        env = "PUNCH_STUN_LISTEN",
        value_delimiter = ','
    )]
    listen: Vec<SocketAddr>,
    /// A second address of this machine, for RFC 5780; its second port is the first one plus 1. Once for each family
    #[arg(
        long,
        value_name = "ADDR",
        env = "PUNCH_STUN_ALTERNATE",
        value_delimiter = ','
    )]
    alternate: Vec<IpAddr>,
    /// Further ports to answer on, so that a client can sample many mappings at once: `nearby`, FROM-TO, or `none`.
    ///
    /// `nearby` is the 64 ports from the --listen port plus 2 on, 3480-3543 for 3478; of these the longest run that is free is
    /// taken, so that other programs' ports never stop the start. A range that is written out must be free. Answers tell
    /// clients which ports they are; a firewall must let them in.
    #[arg(long, value_name = "PORTS", default_value = "nearby", env = "PUNCH_STUN_SAMPLE_PORTS", value_parser = parse_ports)]
    sample_ports: SamplePorts,
    /// Answers per second to one source address (an IPv6 /64 counts as one), twice as many after a quiet moment. A client
    /// that looks closely at its NAT asks about 300 times within a second
    #[arg(long, value_name = "N", default_value_t = 400, env = "PUNCH_STUN_RATE")]
    rate: u32,
    /// What to log: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "PUNCH_LOG")]
    log: LevelFilter,
}

/// Ports beyond this number are a mistake.
const MAX_SAMPLE_PORTS: u16 = 1024;

fn parse_ports(text: &str) -> Result<SamplePorts, String> {
    match text {
        "nearby" => return Ok(SamplePorts::Nearby),
        "none" => return Ok(SamplePorts::None),
        _ => {}
    }
    let wrong = || "write FROM-TO, for instance 20000-20063, or nearby, or none".to_owned();
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let from: u16 = from.parse().map_err(|_| wrong())?;
    let to: u16 = to.parse().map_err(|_| wrong())?;
    if from == 0 || to < from {
        return Err(wrong());
    }
    if to - from >= MAX_SAMPLE_PORTS {
        return Err(format!("{MAX_SAMPLE_PORTS} ports are the most"));
    }
    Ok(SamplePorts::Range(from, to))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_max_level(arguments.log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match check(&arguments).and_then(|()| {
        net::run(&net::Config {
            listen: arguments.listen,
            alternate: arguments.alternate,
            sample_ports: arguments.sample_ports,
            rate: arguments.rate,
        })
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last word, also when logs are filtered"
            )]
            {
                eprintln!("punch-stun: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn check(arguments: &Arguments) -> Result<()> {
    for alternate in &arguments.alternate {
        let primaries = || {
            arguments
                .listen
                .iter()
                .filter(|address| address.is_ipv4() == alternate.is_ipv4())
        };
        if primaries().count() != 1 {
            bail!("--alternate {alternate} needs exactly one --listen address of its family");
        }
        if primaries().any(|address| address.ip() == *alternate) {
            bail!("--alternate {alternate} is the --listen address itself; it must be another one");
        }
        if primaries().any(|address| address.ip().is_unspecified()) {
            bail!("with --alternate, --listen must name one address, not all of them");
        }
        if primaries().any(|address| address.port() == u16::MAX) {
            bail!("with --alternate, the port after the --listen port is needed too");
        }
    }
    Ok(())
}
