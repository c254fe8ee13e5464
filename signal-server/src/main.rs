//! punch-signal: passes sealed envelopes between online peers, and relays sealed packets where they have no direct path.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use punch_service::{fail, log};
use punch_signal::arguments::Arguments;
use punch_signal::hub::Limits;
use punch_signal::net::{self, Config};

const PROGRAM: &str = "punch-signal";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let relay = arguments.relay();
    log::start(PROGRAM, arguments.log);
    if arguments.name.is_none() {
        tracing::warn!("without --name another server can pass its clients' logins on to this one");
    }
    let config = Config {
        listen: arguments.listen,
        proxies: arguments.proxy,
        tls: arguments.tls_cert.zip(arguments.tls_key),
        limits: Limits {
            connections: arguments.connections,
            per_address: arguments.per_address,
            rate: arguments.rate,
            burst: arguments.rate.saturating_mul(4),
            relay,
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
        Err(error) => fail(PROGRAM, &error, ExitCode::FAILURE),
    }
}
