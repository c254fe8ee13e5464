//! punchctl as a library, from which its manual pages are made; the program only calls [`run`].

pub mod arguments;
mod channels;
mod client;
mod commands;
mod complete;
mod explain;
mod input;
mod interrupt;
mod output;
mod paths;
mod qr;
mod render;
mod units;

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::CompleteEnv;

use crate::arguments::Arguments;
use crate::client::Failure;

/// Runs punchctl with the arguments of this process; for a shell that completes a command line, it prints what the shell may offer instead.
pub fn run() -> ExitCode {
    CompleteEnv::with_factory(Arguments::command)
        .bin("punchctl")
        .completer("punchctl")
        .complete();
    let arguments = match Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let json = arguments.json;
    let done = runtime().and_then(|runtime| runtime.block_on(commands::run(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match failure {
                Failure::Api(error) if json => output::complain_in_json(error),
                failure => output::complain(&failure.to_string()),
            }
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(format!("cannot start: {error}")))
}
