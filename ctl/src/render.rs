//! Answers for people: plain lines and tables; a progress line only on a terminal.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use punch_api::{
    Event, ForwardView, IdView, KeyView, PathKind, PathView, PeerName, PeerState, PeerView,
    PingView, ServerState, ServerView, Status,
};
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
    fn nothing(&self, text: &str) {
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

pub(crate) fn id(out: &Output, view: &IdView) {
    out.line(view.id);
    out.line(format!("overlay IPv6   {}", view.ipv6));
    match view.ipv4 {
        Some(ipv4) => out.line(format!("overlay IPv4   {ipv4}")),
        None => out.line("overlay IPv4   off"),
    }
    out.line(format!("WireGuard key  {}", view.wireguard));
}

pub(crate) fn key(out: &Output, view: &KeyView) {
    out.line(format!("identity       {}", view.id));
    out.line(format!("WireGuard key  {}", view.wireguard));
    out.line(format!("secret         in {}", view.file));
}

pub(crate) fn status(out: &Output, view: &Status) {
    out.line(format!(
        "punchd {}, up for {}, interface {}",
        view.version,
        duration(view.uptime_s),
        view.interface
    ));
    id(out, &view.id);
    let ports = [
        ("IPv4", view.network.port_v4),
        ("IPv6", view.network.port_v6),
    ];
    let ports = ports
        .iter()
        .filter_map(|(family, port)| Some(format!("{} ({family})", (*port)?)));
    out.line(format!(
        "UDP ports      {}",
        ports.collect::<Vec<_>>().join(", ")
    ));
    for candidate in &view.network.candidates {
        out.line(format!(
            "reachable at   {} ({})",
            candidate.address,
            kind(candidate.kind)
        ));
    }
    out.line("");
    servers(out, &view.servers);
    out.line("");
    peers(out, &view.peers);
    out.line("");
    forwards(out, &view.forwards);
    let dropped: Vec<_> = view
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{} {count}", reason.replace('_', " ")))
        .collect();
    if !dropped.is_empty() {
        out.line("");
        out.line(format!("not let through: {}", dropped.join(", ")));
    }
}

pub(crate) fn servers(out: &Output, views: &[ServerView]) {
    if views.is_empty() {
        out.nothing("no servers; add one with: punchctl server add signal wss://HOST");
        return;
    }
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            let state = match (view.state, &view.trouble) {
                (ServerState::Connected, _) => "connected".to_owned(),
                (ServerState::Connecting, Some(trouble)) => format!("not connected: {trouble}"),
                (ServerState::Connecting, None) => "connecting".to_owned(),
            };
            vec![view.kind.to_string(), view.address.clone(), state]
        })
        .collect();
    out.table(&["SERVER", "ADDRESS", "STATE"], &rows);
}

pub(crate) fn peers(out: &Output, views: &[PeerView]) {
    if views.is_empty() {
        out.nothing("no peers; add one with: punchctl peer add NAME KEY");
        return;
    }
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            let address = match (view.ipv4, view.ipv6) {
                (Some(ipv4), _) => ipv4.to_string(),
                (None, Some(ipv6)) => ipv6.to_string(),
                (None, None) => "-".to_owned(),
            };
            let mut extra = Vec::new();
            if view.host {
                extra.push("may reach this host".to_owned());
            }
            extra.extend(view.note.clone());
            vec![
                view.name.to_string(),
                state(view.state).to_owned(),
                address,
                view.path.as_ref().map_or("-".to_owned(), path),
                bytes(view.received_bytes),
                bytes(view.sent_bytes),
                extra.join("; "),
            ]
        })
        .collect();
    let header = ["PEER", "STATE", "ADDRESS", "PATH", "RECEIVED", "SENT", ""];
    out.table(&header, &rows);
}

pub(crate) fn forwards(out: &Output, views: &[ForwardView]) {
    if views.is_empty() {
        out.nothing("nothing is shared; share a port with: punchctl forward tcp PORT");
        return;
    }
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            vec![
                format!("{} {}", view.protocol, view.ports),
                view.target.to_string(),
                allowed(view),
                view.open.to_string(),
                view.total.to_string(),
            ]
        })
        .collect();
    out.table(&["FORWARD", "TARGET", "FOR", "OPEN", "IN ALL"], &rows);
}

pub(crate) fn forward(out: &Output, view: &ForwardView) {
    out.line(format!(
        "{} {} leads to {}, for {}",
        view.protocol,
        view.ports,
        view.target,
        allowed(view)
    ));
}

pub(crate) fn up(out: &Output, view: &PeerView) {
    if view.state != PeerState::Connected {
        return;
    }
    let addresses = [
        view.ipv4.map(|ip| ip.to_string()),
        view.ipv6.map(|ip| ip.to_string()),
    ];
    let addresses: Vec<_> = addresses.into_iter().flatten().collect();
    out.line(format!(
        "connected to {} at {}{}",
        view.name,
        addresses.join(" and "),
        view.path
            .as_ref()
            .map_or(String::new(), |view| format!(", by {}", path(view)))
    ));
}

pub(crate) fn ping(out: &Output, peer: &PeerName, view: &PingView) {
    out.line(format!(
        "{peer} ({}) answers in {:.2} ms{}",
        view.address,
        view.rtt_ms,
        view.path
            .as_ref()
            .map_or(String::new(), |view| format!(", by {}", view.remote))
    ));
}

pub(crate) fn event(out: &Output, data: &str) {
    if out.json {
        out.line(data);
        return;
    }
    match serde_json::from_str::<Event>(data) {
        Ok(event) => {
            let seconds = event.at_ms / 1000 % 86_400;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            out.line(format!(
                "{hours:02}:{minutes:02}:{:02} UTC  {}",
                seconds % 60,
                event.message
            ));
        }
        Err(_) => out.line(data),
    }
}

fn allowed(view: &ForwardView) -> String {
    if view.peers.is_empty() {
        return "all peers".to_owned();
    }
    let names: Vec<_> = view.peers.iter().map(PeerName::as_str).collect();
    names.join(", ")
}

pub(crate) fn path(view: &PathView) -> String {
    match view.rtt_ms {
        Some(rtt) => format!("{} ({}, {rtt:.1} ms)", view.remote, kind(view.kind)),
        None => format!("{} ({})", view.remote, kind(view.kind)),
    }
}

fn kind(kind: PathKind) -> &'static str {
    match kind {
        PathKind::Host => "host",
        PathKind::ServerReflexive => "server-reflexive",
        PathKind::PeerReflexive => "peer-reflexive",
        PathKind::PortMapped => "port mapped",
        PathKind::Fixed => "fixed",
    }
}

pub(crate) fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Down => "down",
        PeerState::Waiting => "waiting",
        PeerState::Connecting => "connecting",
        PeerState::Connected => "connected",
    }
}

fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KB", "MB", "GB"] {
        if value < 1000.0 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
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
