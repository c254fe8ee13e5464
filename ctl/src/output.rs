//! Standard output and standard error: lines, tables, colours and progress, as far as a terminal is there for them.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use punch_api::ApiError;
use punch_api::error::ErrorBody;
use serde_json::Value;

/// Standard output. A terminal gets tables and colours; anything else gets rows without a header, their cells separated by tabs.
pub(crate) struct Output {
    pub(crate) json: bool,
    terminal: bool,
    colours: bool,
}

/// A colour of a terminal (ECMA-48, SGR).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
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
}

/// A cell of a table.
pub(crate) struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    /// A cell that tells a state, in the colour of that state.
    pub(crate) fn coloured(text: impl Into<String>, colour: Option<Colour>) -> Self {
        let text = text.into();
        Self { text, colour }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::coloured(text, None)
    }
}

/// Whether to use colours, for an output that is a terminal or not (https://no-color.org).
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

    /// Prints a line. Where the reader has gone away (`| head`), the program ends quietly.
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

    /// Says that there is nothing to show, and what to do. Without a terminal the text goes to standard error, so that no program
    /// takes it for a row.
    pub(crate) fn nothing(&self, text: &str) {
        if self.terminal {
            self.line(text);
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Prints JSON.
    pub(crate) fn value(&self, value: &Value) {
        self.line(serde_json::to_string_pretty(value).unwrap_or_default());
    }

    /// Waits for `work`. A terminal shows `text` and the time that has passed, once a second has passed.
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

    /// Prints rows: a terminal gets aligned columns below a header, anything else cells separated by tabs.
    pub(crate) fn table(&self, header: &[&str], rows: &[Vec<Cell>]) {
        if !self.terminal {
            for row in rows {
                let cells: Vec<_> = row.iter().map(|cell| cell.text.as_str()).collect();
                self.line(cells.join("\t"));
            }
            return;
        }
        for line in align(header, rows, self.colours) {
            self.line(line);
        }
    }
}

/// A line on a terminal that shows what is under way; `drop` erases the line.
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

fn align(header: &[&str], rows: &[Vec<Cell>], colours: bool) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.text.chars().count()).max();
        widest.unwrap_or(0).max(header[column].len())
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: &[Cell]| {
        let mut line = String::new();
        for (Cell { text, colour }, width) in cells.iter().zip(&widths) {
            let gap = " ".repeat(width.saturating_sub(text.chars().count()) + 2);
            match colour.filter(|_| colours && !text.is_empty()) {
                Some(colour) => line.push_str(&colour.paint(text)),
                None => line.push_str(text),
            }
            line.push_str(&gap);
        }
        line.trim_end().to_owned()
    };
    let bold = |title: &&str| Cell::coloured(*title, Some(Colour::Bold));
    let header: Vec<_> = header.iter().map(bold).collect();
    let mut lines = vec![line(&header)];
    lines.extend(rows.iter().map(|row| line(row)));
    lines
}

/// Prints an error on standard error.
pub(crate) fn complain(message: &str) {
    let name = if wants_colours(std::io::stderr().is_terminal()) {
        Colour::Red.paint("punchctl:")
    } else {
        "punchctl:".to_owned()
    };
    let _ = writeln!(std::io::stderr(), "{name} {message}");
}

/// Prints an error of punchd on standard error, as the API says it.
pub(crate) fn complain_in_json(error: ApiError) {
    let text = serde_json::to_string_pretty(&ErrorBody { error });
    let _ = writeln!(std::io::stderr(), "{}", text.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_states_coloured_without_moving_them() {
        let connected = Cell::coloured("connected", Some(Colour::Green));
        let rows = [
            vec!["db".into(), connected, "x".into()],
            vec!["büro".into(), "down".into(), "y".into()],
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
