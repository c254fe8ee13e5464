//! Standard output and standard error: lines, tables, colours and progress, as far as a terminal is there for them.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

/// Standard output. Tables and colours are for terminals; elsewhere rows come without header, their cells separated by tabs.
pub(crate) struct Output {
    pub(crate) json: bool,
    terminal: bool,
    colours: bool,
}

/// A colour of a terminal (ECMA-48, SGR).
#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Green,
    Yellow,
    Red,
}

impl Colour {
    fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Bold => 1,
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The colour of a state or a result, by its first word.
    fn of(cell: &str) -> Option<Self> {
        match cell.split([' ', ':']).next()? {
            "connected" | "found" if cell != "found none" => Some(Self::Green),
            "connecting" | "waiting" | "running" => Some(Self::Yellow),
            "not" if cell.starts_with("not connected") => Some(Self::Red),
            _ => None,
        }
    }
}

/// Whether colours are wanted there (https://no-color.org).
fn wants_colours(terminal: bool) -> bool {
    let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    terminal && unset("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            json,
            terminal,
            colours: wants_colours(terminal),
        }
    }

    /// Prints a line; a reader that has gone away (`| head`) ends the program quietly.
    pub(crate) fn line(&self, text: impl Display) {
        match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => {
                complain(&format!("cannot write the answer: {error}"));
                std::process::exit(1);
            }
        }
    }

    /// Says that there is nothing, and what to do; to whom it could be a row it is not said on standard output.
    pub(crate) fn nothing(&self, text: &str) {
        if self.terminal {
            self.line(text);
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    pub(crate) fn value(&self, value: &Value) {
        self.line(serde_json::to_string_pretty(value).unwrap_or_default());
    }

    /// Waits for something; where that takes more than a second, a terminal shows what is under way and for how long.
    pub(crate) async fn during<T>(&self, text: &str, work: impl Future<Output = T>) -> T {
        if self.json || !std::io::stderr().is_terminal() {
            return work.await;
        }
        let mut work = std::pin::pin!(work);
        let mut line = ProgressLine { seconds: 0 };
        loop {
            match tokio::time::timeout(Duration::from_secs(1), work.as_mut()).await {
                Ok(result) => return result,
                Err(_) => line.advance(text),
            }
        }
    }

    /// Prints rows: their columns aligned on a terminal, and separated by tabs elsewhere.
    pub(crate) fn table(&self, header: &[&str], rows: &[Vec<String>]) {
        if !self.terminal {
            for row in rows {
                self.line(row.join("\t"));
            }
            return;
        }
        for line in align(header, rows, self.colours) {
            self.line(line);
        }
    }
}

/// A line on a terminal that goes when this does, also when the waiting is given up.
struct ProgressLine {
    seconds: u32,
}

impl ProgressLine {
    fn advance(&mut self, text: &str) {
        self.seconds += 1;
        let _ = write!(std::io::stderr(), "\r\x1b[K{text} … {} s", self.seconds);
        let _ = std::io::stderr().flush();
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.seconds > 0 {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn align(header: &[&str], rows: &[Vec<String>], colours: bool) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(header[column].len())
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = (&str, Option<Colour>)>| {
        let mut line = String::new();
        for ((cell, colour), width) in cells.zip(&widths) {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()) + 2);
            match colour.filter(|_| colours && !cell.is_empty()) {
                Some(colour) => line.push_str(&colour.paint(cell)),
                None => line.push_str(cell),
            }
            line.push_str(&gap);
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(
        &mut header.iter().map(|cell| (*cell, Some(Colour::Bold))),
    )];
    for row in rows {
        let cells = row.iter().zip(header).map(|(cell, header)| {
            let tells = matches!(*header, "STATE" | "RESULT");
            (cell.as_str(), tells.then(|| Colour::of(cell)).flatten())
        });
        lines.push(line(&mut { cells }));
    }
    lines
}

/// Prints an error.
pub(crate) fn complain(message: &str) {
    let name = if wants_colours(std::io::stderr().is_terminal()) {
        Colour::Red.paint("punchctl:")
    } else {
        "punchctl:".to_owned()
    };
    let _ = writeln!(std::io::stderr(), "{name} {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_states_coloured_without_moving_them() {
        let rows = [
            vec!["db".to_owned(), "connected".to_owned(), "x".to_owned()],
            vec!["büro".to_owned(), "down".to_owned(), "y".to_owned()],
        ];
        let header = ["PEER", "STATE", ""];
        assert_eq!(
            align(&header, &rows, false),
            ["PEER  STATE", "db    connected  x", "büro  down       y"]
        );
        let coloured = align(&header, &rows, true);
        assert_eq!(coloured[1], "db    \x1b[32mconnected\x1b[0m  x");
        let plain: Vec<_> = coloured
            .iter()
            .map(|line| {
                let line = line.replace("\x1b[0m", "");
                line.replace("\x1b[1m", "").replace("\x1b[32m", "")
            })
            .collect();
        let trimmed: Vec<_> = plain.iter().map(|line| line.trim_end()).collect();
        assert_eq!(trimmed, align(&header, &rows, false));
    }
}
