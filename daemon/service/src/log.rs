//! Logs: structured fields for the journal where standard error leads there, lines for people elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::journal::Journal;

/// Reads a filter: a level, or MODULE=LEVEL, separated by commas.
///
/// # Errors
/// For a word that is neither; without a level it would be taken for a module, and silence all others.
pub fn parse_filter(text: &str) -> Result<Targets, String> {
    let mut bare = text.split(',').filter(|part| !part.contains('='));
    let is_level = |part: &&str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    if let Some(word) = bare.find(|part| !is_level(part)) {
        return Err(format!(
            "'{word}' is no level: give off, error, warn, info, debug, trace or MODULE=LEVEL"
        ));
    }
    text.parse().map_err(|error| format!("{error}"))
}

/// Sends what `program` logs to where it belongs, from now on.
pub fn start(program: &'static str, filter: Targets) {
    if let Some(journal) = Journal::connect(program) {
        tracing_subscriber::registry()
            .with(journal)
            .with(filter)
            .init();
        return;
    }
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish()
        .with(filter)
        .init();
}

/// The last word of a program that fails; it is said also when logs are filtered.
pub(crate) fn last_word(program: &str, message: &str) {
    // What journald makes an error of (sd-daemon(3)).
    let priority = if Journal::is_stderr() { "<3>" } else { "" };
    let message = message.trim_end().replace('\n', &format!("\n{priority}"));
    #[expect(clippy::print_stderr, reason = "this is where it is said")]
    {
        eprintln!("{priority}{program}: {message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_and_does_not_silence_the_log() {
        for good in ["info", "off", "debug,punch_engine=trace", "tokio=warn"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["debgu", "info,loud", "punch_engine=loud", ""] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
