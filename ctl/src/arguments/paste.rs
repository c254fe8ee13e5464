//! The commands for lines that a person carries.

use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use punch_api::PeerName;

use crate::complete;

/// What `punchctl offer` is given.
#[derive(Debug, Args)]
pub struct OfferArguments {
    /// The peer that the line is for
    #[arg(add = ArgValueCandidates::new(complete::peers))]
    pub peer: PeerName,
    /// Write the line to this file, to be carried there
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// How the line is shown and kept.
    #[command(flatten)]
    pub show: ShowArguments,
}

/// What `punchctl answer` is given.
#[derive(Debug, Args)]
pub struct AnswerArguments {
    /// The line, whole or in pieces; `-` reads it from standard input
    #[arg(value_name = "LINE", required_unless_present = "file")]
    pub line: Vec<String>,
    /// Read the line from this file
    #[arg(long, value_name = "PATH", conflicts_with = "line")]
    pub file: Option<PathBuf>,
    /// Write the answer to this file, to be carried back
    #[arg(long, value_name = "PATH")]
    pub write: Option<PathBuf>,
    /// Seconds to wait for the connection once nothing is carried any more, 1 to 600
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// How the line is shown and kept.
    #[command(flatten)]
    pub show: ShowArguments,
}

/// How a line is shown and kept.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Show the line as a QR code, too
    #[arg(long)]
    pub qr: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub overwrite: bool,
}
