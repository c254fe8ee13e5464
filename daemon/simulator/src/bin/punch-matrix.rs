//! Measures every pair of NAT kinds in the simulator, or draws what was measured elsewhere.

use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use punch_simulator::matrix::{
    Begin, Options, Pairs, flow_table, from_json, measure, measure_fresh_flows, merge, picture,
    table, to_json,
};
use punch_traversal::Budget;

/// Measures how often, how fast and at what cost every pair of NAT kinds connects.
#[derive(Debug, Parser)]
#[command(name = "punch-matrix")]
struct Arguments {
    /// Seeds per pair
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// What both machines may spend
    #[arg(long, value_enum, default_value_t = BudgetName::Normal)]
    budget: BudgetName,
    /// Datagrams lost one way, in percent
    #[arg(long, default_value = "0", value_parser = fraction)]
    loss: f64,
    /// How long a datagram takes one way, in milliseconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=10_000))]
    delay: u64,
    /// Only this pair of kinds, as A,B, or all pairs with one kind; may be given several times
    #[arg(long, value_parser = |text: &str| text.parse::<Pairs>())]
    pairs: Vec<Pairs>,
    /// What the machines know when the user says `up`
    #[arg(long, value_enum, default_value_t = BeginName::Measured)]
    begin: BeginName,
    /// How long they get to connect, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
    /// Instead, how flows of other programs fare that begin every 100 ms during the searches of 150 s
    #[arg(long, conflicts_with_all = ["limit", "input", "json", "svg", "title"])]
    fresh_flows: bool,
    /// Every so many milliseconds instead, also where few ports or a small table would not bear it
    #[arg(long, requires = "fresh_flows", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    every: Option<u64>,
    /// Runs at a time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Simulate nothing, but read cells that were measured before or elsewhere; of two for the same
    /// pair the later file's counts
    #[arg(long, num_args = 1.., conflicts_with_all = ["pairs"])]
    input: Vec<PathBuf>,
    /// Write all cells to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw them into this file
    #[arg(long)]
    svg: Option<PathBuf>,
    /// The picture's title
    #[arg(long, default_value = "Direct connections between all kinds of NAT")]
    title: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BudgetName {
    Gentle,
    Normal,
    Aggressive,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BeginName {
    /// Nothing: their daemons are started at that moment
    Cold,
    /// Their NATs
    Measured,
    /// Their NATs, and what has worked for this pair before
    Warm,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "punch-matrix: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let options = options(arguments);
    if arguments.fresh_flows {
        let cells = measure_fresh_flows(&options, start());
        // A reader that has seen enough is no trouble.
        let _ = stdout().write_all(flow_table(&cells).as_bytes());
        return Ok(());
    }
    let mut cells = Vec::new();
    for path in &arguments.input {
        let more = fs::read_to_string(path).map_err(|error| trouble("cannot read", path, error))?;
        let more = from_json(&more).map_err(|error| trouble("cannot use", path, error))?;
        merge(&mut cells, more);
    }
    if arguments.input.is_empty() {
        cells = measure(&options, start());
    }
    if let Some(path) = &arguments.json {
        let text = to_json(&cells).map_err(|error| trouble("cannot write", path, error))?;
        save(path, &(text + "\n"))?;
    }
    if let Some(path) = &arguments.svg {
        save(path, &picture(&arguments.title, &cells))?;
    }
    // A reader that has seen enough is no trouble.
    let _ = stdout().write_all(table(&cells).as_bytes());
    Ok(())
}

fn options(arguments: &Arguments) -> Options {
    Options {
        runs: arguments.runs,
        budget: match arguments.budget {
            BudgetName::Gentle => Budget::Gentle,
            BudgetName::Normal => Budget::Normal,
            BudgetName::Aggressive => Budget::Aggressive,
        },
        loss: arguments.loss,
        delay: Duration::from_millis(arguments.delay),
        pairs: arguments.pairs.clone(),
        threads: arguments.threads as usize,
        begin: match arguments.begin {
            BeginName::Cold => Begin::Cold,
            BeginName::Measured => Begin::Measured,
            BeginName::Warm => Begin::Warm,
        },
        limit: Duration::from_secs(arguments.limit),
        every: arguments.every.map(Duration::from_millis),
    }
}

/// Virtual time must begin somewhere; results do not depend on it.
#[allow(
    clippy::disallowed_methods,
    reason = "virtual time begins at some instant"
)]
fn start() -> Instant {
    Instant::now()
}

fn save(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| trouble("cannot write", path, error))
}

fn trouble(what: &str, path: &Path, error: impl std::fmt::Display) -> String {
    format!("{what} {}: {error}", path.display())
}

fn fraction(text: &str) -> Result<f64, String> {
    let percent: f64 = text
        .parse()
        .map_err(|_| "give a number of percent".to_owned())?;
    let is_possible = (0.0..=100.0).contains(&percent);
    let fraction = is_possible.then_some(percent / 100.0);
    fraction.ok_or_else(|| "give a percentage from 0 to 100".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn code(arguments: &[&str]) -> i32 {
        let all = ["punch-matrix"].iter().chain(arguments);
        Arguments::try_parse_from(all).map_or_else(|error| error.exit_code(), |_| 0)
    }

    #[test]
    fn bad_arguments_are_errors_of_their_own() {
        Arguments::command().debug_assert();
        for good in [
            &["--pairs", "symmetric,open", "--pairs", "open"][..],
            &["--input", "a.json", "b.json", "--svg", "c.svg"],
            &["--loss", "2.5", "--budget", "aggressive"],
            &["--begin", "cold", "--limit", "300"],
            &[
                "--fresh-flows",
                "--begin",
                "warm",
                "--pairs",
                "exclusive-256",
            ],
        ] {
            assert_eq!(code(good), 0, "{good:?}");
        }
        for bad in [
            &["--pairs", "cone,open"][..],
            &["--runs", "0"],
            &["--loss", "101"],
            &["--loss", "NaN"],
            &["--budget", "lavish"],
            &["--threads", "0"],
            &["--input", "a.json", "--pairs", "open"],
            &["--begin", "lukewarm"],
            &["--limit", "0"],
            &["--fresh-flows", "--json", "a.json"],
            &["--every", "100"],
        ] {
            assert_eq!(code(bad), 2, "{bad:?}");
        }
    }
}
