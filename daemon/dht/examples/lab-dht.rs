//! A DHT of one's own for tests: nodes of `mainline` at addresses that follow each other, since none of them keeps more than one node
//! of an address. It runs until it is killed.
//!
//!     lab-dht FIRST-IP [COUNT] [PORT]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program on the real network, in real time"
)]

use std::net::Ipv4Addr;
use std::process::ExitCode;

use mainline::{Dht, DhtBuilder};

const USAGE: &str = "usage: lab-dht FIRST-IP [COUNT (30)] [PORT (6881)]";

/// Begins nodes, the first of which the others begin at.
fn nodes(first: Ipv4Addr, count: u16, port: u16) -> std::io::Result<Vec<Dht>> {
    let mut nodes: Vec<Dht> = Vec::new();
    for number in 0..count {
        let ip = Ipv4Addr::from(u32::from(first).wrapping_add(number.into()));
        let mut builder: DhtBuilder = Dht::builder();
        builder.server_mode().bind_address(ip).port(port);
        match number {
            0 => builder.no_bootstrap(),
            _ => builder.bootstrap(&[format!("{first}:{port}")]),
        };
        nodes.push(builder.build()?);
    }
    Ok(nodes)
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u16| match arguments.get(at) {
        Some(text) => text.parse().ok(),
        None => Some(default),
    };
    let ip = arguments.first().and_then(|text| text.parse().ok());
    let (Some(first), Some(count), Some(port)) = (ip, number(1, 30), number(2, 6881)) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let nodes = match nodes(first, count, port) {
        Ok(nodes) => nodes,
        Err(error) => {
            eprintln!("lab-dht: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{} nodes from {first}:{port} on", nodes.len());
    loop {
        std::thread::park();
    }
}
