//! punch-stun: tells a client how its NAT behaves (RFC 8489, RFC 5780).

mod limit;
mod net;
mod stream;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use punch_service::{fail, log};
use punch_stun_arguments::Arguments;

const PROGRAM: &str = "punch-stun";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log::start(PROGRAM, arguments.log.clone());
    match check(&arguments).and_then(|()| {
        net::run(&net::Config {
            listen: arguments.listen,
            alternate: arguments.alternate,
            sample_ports: arguments.sample_ports,
            rate: arguments.rate,
            tcp: !arguments.no_tcp,
        })
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(PROGRAM, &error, ExitCode::FAILURE),
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
