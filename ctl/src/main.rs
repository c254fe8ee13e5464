//! punchctl: arguments in, request out, answer rendered.

mod arguments;
mod client;
mod commands;
mod explain;
mod render;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::client::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(arguments)),
        Err(error) => Err(Failure::Other(error.to_string())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            render::complain(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}
