//! punchd: opens WireGuard tunnels to peers behind any NAT, and lets each reach exactly what this machine shares.

mod config;
mod control;
mod controller;
mod descriptors;
mod dial;
mod driver;
mod handover;
mod interface;
mod meeting;
mod metrics;
mod overlay;
mod portmap;
mod proxy;
mod refusal;
mod resolver;
mod run;
mod services;
mod signalling;
mod snapshot;
mod startup;
mod store;
mod streams;
mod tasks;
mod tcp;
mod views;
mod watchdog;

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use punch_platform::TunDevice;
use punch_service::{fail, log};
use punchd_arguments::{Arguments, REFUSED};

use crate::config::Config;
use crate::handover::Inheritance;
use crate::startup::Places;
use crate::store::Store;

const PROGRAM: &str = "punchd";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.store_tun {
        return match store_tun() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(PROGRAM, &error, ExitCode::FAILURE),
        };
    }
    let checked = check(&arguments);
    if arguments.check {
        return match checked {
            Ok((_, found)) => {
                #[expect(clippy::print_stdout, reason = "it was asked for")]
                {
                    println!("{found}");
                }
                ExitCode::SUCCESS
            }
            Err(error) => fail(PROGRAM, &error, refusal(&error)),
        };
    }
    log::start(PROGRAM, arguments.log);
    let config = match checked {
        Ok((config, _)) => config,
        Err(error) => return fail(PROGRAM, &error, refusal(&error)),
    };
    let places = Places {
        state_dir: arguments.state_dir,
        socket: arguments.socket,
    };
    run::raise_file_limit();
    let inheritance = if arguments.take_over {
        handover::takeover::ask(&places.socket, &places.state_dir)
            .map(|(inheritance, predecessor)| (inheritance, Some(predecessor)))
    } else {
        Ok((Inheritance::from_manager(), None))
    };
    let (inheritance, predecessor) = match inheritance {
        Ok(found) => found,
        Err(error) => return fail(PROGRAM, &error, ExitCode::FAILURE),
    };
    match run::run(config, places, inheritance, predecessor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(PROGRAM, &error, ExitCode::FAILURE),
    }
}

/// What the unit has root do, since user punch may not where the device's mode is 0600.
fn store_tun() -> Result<()> {
    let device = TunDevice::open()?;
    device
        .store()
        .context("cannot leave /dev/net/tun with the service manager")
}

/// What can be refused before anything is touched: the configuration, and a state that this version cannot read.
fn check(arguments: &Arguments) -> Result<(Config, String)> {
    let (config, file) = Config::load(arguments.config.as_deref())?;
    let state = Store::inspect(&arguments.state_dir, &config)?;
    Ok((config, format!("{file}\n{state}")))
}

/// The exit status for what cannot be read. What a disk or a full table has prevented may go well a second later.
fn refusal(error: &anyhow::Error) -> ExitCode {
    let lasting = [
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::InvalidData,
        ErrorKind::NotADirectory,
        ErrorKind::IsADirectory,
    ];
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    if causes.all(|cause| lasting.contains(&cause.kind())) {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::FAILURE
    }
}
