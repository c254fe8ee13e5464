//! Standard output and standard error: lines, tables, colours and progress, as far as a terminal is there for them.

mod layout;

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use punch_api::ApiError;
use punch_api::error::ErrorBody;
use serde_json::Value;

pub(crate) use layout::Table;
use layout::{paint, wrap_hanging};

use crate::interrupt::Interrupts;
use crate::qr;

const SECOND: Duration = Duration::from_secs(1);
/// The columns of a terminal that does not tell its size.
const USUAL_WIDTH: usize = 80;

/// Standard output. A terminal gets tables and colours; anything else gets rows without a header, their cells separated by tabs.
pub(crate) struct Output {
    pub(crate) json: bool,
    terminal: bool,
    /// The columns of the terminal, if they are known.
    width: Option<usize>,
    colours: bool,
}

/// A colour of a terminal (ECMA-48, SGR).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
    Bold,
    Green,
    Yellow,
    Red,
    /// White on black, as a QR code's light parts.
    Paper,
}

impl Colour {
    fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Bold => "1",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Paper => "97;40",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A cell of a table.
pub(crate) struct Cell {
    text: String,
    /// What it says where there is little room.
    brief: Option<String>,
    colour: Option<Colour>,
}

impl Cell {
    /// A cell that tells a state, in the colour of that state.
    pub(crate) fn coloured(text: impl Into<String>, colour: Option<Colour>) -> Self {
        Self {
            text: text.into(),
            brief: None,
            colour,
        }
    }

    /// The same cell, which says only this where there is little room.
    pub(crate) fn or_briefly(self, brief: impl Into<String>) -> Self {
        let brief = Some(brief.into());
        Self { brief, ..self }
    }

    fn say(&self, briefly: bool) -> &str {
        let brief = self.brief.as_ref().filter(|_| briefly);
        brief.unwrap_or(&self.text)
    }

    fn paint(&self, colours: bool) -> String {
        paint(&self.text, self.colour.filter(|_| colours))
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
            width: terminal.then(|| width(&std::io::stdout())),
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
            self.sentences(text, 2);
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Whether a person reads it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints JSON.
    pub(crate) fn value(&self, value: &Value) {
        self.line(serde_json::to_string_pretty(value).unwrap_or_default());
    }

    /// Prints JSON on one line.
    pub(crate) fn value_line(&self, value: &Value) {
        self.line(value);
    }

    /// Whether a person is there who can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Asks a person, who answers yes by Enter alone; `None` when nobody is there to answer, or the input ends. What is neither yes nor no
    /// is asked again.
    pub(crate) async fn ask(&self, question: &str) -> Option<bool> {
        if !self.can_ask() {
            return None;
        }
        let mut question = format!("{question} [Y/n]");
        let mut interrupts = Interrupts::new().ok()?;
        loop {
            let lines = wrap_to(&question, width(&std::io::stderr()), 0);
            let _ = write!(std::io::stderr(), "{} ", lines.join("\n"));
            let _ = std::io::stderr().flush();
            let reading = tokio::task::spawn_blocking(|| {
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).map(|_| line)
            });
            let line = tokio::select! {
                line = reading => line.ok()?.ok()?,
                () = interrupts.next() => {
                    let _ = writeln!(std::io::stderr());
                    complain("stopped at the question; it was not answered");
                    // What reads cannot be ended otherwise.
                    std::process::exit(1);
                }
            };
            match line.trim().to_ascii_lowercase().as_str() {
                "" if line.is_empty() => {
                    let _ = writeln!(std::io::stderr());
                    return None;
                }
                "" | "y" | "yes" => return Some(true),
                "n" | "no" => return Some(false),
                _ => "Please answer y for yes or n for no.".clone_into(&mut question),
            }
            question.push_str(" [Y/n]");
        }
    }

    /// Prints a QR code of a text, if there is a terminal that is wide enough; returns whether there is.
    pub(crate) fn qr(&self, text: &str) -> bool {
        let Some(width) = self.width else {
            return false;
        };
        let lines = qr::lines(text).unwrap_or_default();
        let fits = lines.iter().all(|line| line.chars().count() <= width);
        for line in lines.iter().filter(|_| fits) {
            self.line(paint(line, Some(Colour::Paper).filter(|_| self.colours)));
        }
        fits && !lines.is_empty()
    }

    /// Prints sentences, on a terminal broken between words to fit its width; further lines begin with `indent` spaces.
    pub(crate) fn sentences(&self, text: &str, indent: usize) {
        let Some(width) = self.width else {
            return self.line(text);
        };
        wrap_to(text, width, indent)
            .iter()
            .for_each(|line| self.line(line));
    }

    /// Tells a person something beside the answer, on standard error.
    #[allow(
        clippy::unused_self,
        reason = "what is said goes through the one who knows whom it is said to"
    )]
    pub(crate) fn note(&self, text: &str) {
        let stderr = std::io::stderr();
        let lines = match stderr.is_terminal() {
            true => wrap_to(text, width(&stderr), 2),
            false => vec![text.to_owned()],
        };
        for line in lines {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// Waits for `work`. A terminal shows `text` and the time that has passed, once a second has passed.
    pub(crate) async fn during<T>(&self, text: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut progress = self.progress();
        loop {
            match tokio::time::timeout(SECOND, work.as_mut()).await {
                Ok(result) => return result,
                Err(_) => progress.renew(text, SECOND),
            }
        }
    }

    /// A line about what is under way, if there is somebody to read it.
    pub(crate) fn progress(&self) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress {
            place: match (self.json, terminal) {
                (true, _) => Place::Nowhere,
                (false, true) => Place::Terminal(width(&std::io::stderr())),
                (false, false) => Place::Lines,
            },
            passed: Duration::ZERO,
            said: None,
            shown: String::new(),
        }
    }

    /// Prints rows: a terminal gets columns below a header that fit its width, anything else cells separated by tabs. Returns whether
    /// the terminal was too narrow for all.
    pub(crate) fn table(&self, table: &Table<'_>) -> bool {
        if self.terminal {
            let (lines, less) = table.lines(self.width, self.colours);
            lines.iter().for_each(|line| self.line(line));
            return less;
        }
        for row in &table.rows {
            let cells: Vec<_> = row.iter().map(|cell| cell.text.as_str()).collect();
            self.line(cells.join("\t"));
        }
        false
    }
}

/// What is under way: one line on a terminal that is written anew and erased at the end (`drop`); elsewhere a line for each change.
pub(crate) struct Progress {
    place: Place,
    passed: Duration,
    said: Option<String>,
    /// What stands on the terminal.
    shown: String,
}

enum Place {
    /// A terminal of so many columns.
    Terminal(usize),
    /// A file or a pipe.
    Lines,
    /// Nobody reads it.
    Nowhere,
}

impl Progress {
    /// So much more time has passed, and this is what is known by now.
    pub(crate) fn renew(&mut self, text: &str, more: Duration) {
        self.passed += more;
        match self.place {
            Place::Terminal(width) => {
                let time = format!(" … {} s", self.passed.as_secs());
                let room = width.saturating_sub(time.chars().count());
                let text: String = text.chars().take(room).collect();
                let line = text + &time;
                // A line that is written many times a second flickers.
                if line != self.shown {
                    let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
                    let _ = std::io::stderr().flush();
                    self.shown = line;
                }
            }
            Place::Lines | Place::Nowhere => {}
        }
    }

    /// As [`Progress::renew`]; besides, a file or a pipe gets a line if the text is another one than before.
    pub(crate) fn tell(&mut self, text: &str, more: Duration) {
        let is_new = self.said.as_deref() != Some(text);
        if let (Place::Lines, true) = (&self.place, is_new) {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        self.said = Some(text.to_owned());
        self.renew(text, more);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let (Place::Terminal(_), false) = (&self.place, self.passed.is_zero()) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The lines of a text for a terminal of so many columns; further ones begin with `indent` spaces.
fn wrap_to(text: &str, width: usize, indent: usize) -> Vec<String> {
    // A terminal that is narrower than this is not worth breaking words for.
    let room = width.saturating_sub(indent).max(20);
    let parts = wrap_hanging(text, width, room).into_iter().enumerate();
    let line = |(index, part): (usize, String)| match index {
        0 => part,
        _ => format!("{:indent$}{part}", ""),
    };
    parts.map(line).collect()
}

/// The columns of what is a terminal. One that does not tell its size, as over a serial line, has as many as COLUMNS says, or the usual
/// ones.
fn width(terminal: &impl std::os::fd::AsFd) -> usize {
    let told = terminal_size::terminal_size_of(terminal);
    let told = told.map(|(terminal_size::Width(columns), _)| usize::from(columns));
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = told.or_else(said).filter(|columns| *columns > 0);
    columns.unwrap_or(USUAL_WIDTH)
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
