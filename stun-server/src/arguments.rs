//! punch-stun's command line, as a value: for the program and for its manual page.

use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use clap::builder::FalseyValueParser;
use punch_service::log::parse_filter;
use tracing_subscriber::filter::Targets;

/// On which further ports to answer.
#[derive(Debug, Clone, Copy)]
pub enum SamplePorts {
    /// On those behind the main ones, as far as they are free.
    Nearby,
    /// On these.
    Range(u16, u16),
    /// On none.
    None,
}

/// A STUN server: answers Binding requests (RFC 8489) and, with two addresses, NAT behaviour discovery (RFC 5780).
#[derive(Debug, Parser)]
#[command(
    name = "punch-stun",
    version,
    after_help = "Examples:\n  punch-stun\n  punch-stun --listen 203.0.113.1:3478\n  punch-stun --listen 203.0.113.1:3478 --alternate 203.0.113.2 --sample-ports 20000-20063\n  punch-stun --listen 203.0.113.1:3478 --listen '[2001:db8::1]:3478'\n\nExit status: 0 told to end, 1 failed, 2 wrong usage."
)]
pub struct Arguments {
    /// Where to listen; once for each address. Without this option: port 3478 of all addresses, as the system routes answers,
    /// which is right for a machine with one address of each family
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "PUNCH_STUN_LISTEN",
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,
    /// A second address of this machine, for RFC 5780; its second port is the first one plus 1. Once for each family
    #[arg(
        long,
        value_name = "ADDR",
        env = "PUNCH_STUN_ALTERNATE",
        value_delimiter = ','
    )]
    pub alternate: Vec<IpAddr>,
    /// Further ports to answer on, so that a client can sample many mappings at once: `nearby`, FROM-TO, or `none`.
    ///
    /// `nearby` is the 64 ports from the --listen port plus 2 on, 3480-3543 for 3478; of these the longest run that is free is
    /// taken, so that other programs' ports never stop the start. A range that is written out must be free. Answers tell
    /// clients which ports they are; a firewall must let them in.
    #[arg(long, value_name = "PORTS", default_value = "nearby", env = "PUNCH_STUN_SAMPLE_PORTS", value_parser = parse_ports)]
    pub sample_ports: SamplePorts,
    /// Answers per second to one source address (an IPv6 /64 counts as one), twice as many after a quiet moment. A client
    /// that looks closely at its NAT asks about 300 times within a second
    #[arg(long, value_name = "N", default_value_t = 400, env = "PUNCH_STUN_RATE")]
    pub rate: u32,
    /// Do not answer over TCP. By default connections are taken on the TCP ports with the numbers of the --listen addresses (RFC 8489,
    /// section 6.2.2), so that machines that no UDP leaves learn their public address, too
    #[arg(long, env = "PUNCH_STUN_NO_TCP", value_parser = FalseyValueParser::new())]
    pub no_tcp: bool,
    /// What to log: off, error, warn, info, debug or trace; also MODULE=LEVEL, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PUNCH_LOG", value_parser = parse_filter)]
    pub log: Targets,
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
