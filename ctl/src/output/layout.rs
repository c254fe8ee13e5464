//! Tables and sentences that fit the width of a terminal.

use super::{Cell, Colour};

/// The narrowest last column whose text is wrapped; below that, other columns give way.
const NARROWEST: usize = 24;

/// A table: what stands in it, and what gives way where the terminal is narrow.
pub(crate) struct Table<'a> {
    /// The titles of the columns. The text of the last column is wrapped between words.
    pub(crate) header: &'a [&'a str],
    /// The columns that are left out on narrow terminals, in this order.
    pub(crate) dispensable: &'a [usize],
    /// The columns that are left out besides, in this order, where the terminal is too narrow even for cells that say less.
    pub(crate) last: &'a [usize],
    /// The rows.
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// A way to show a table: which columns, and whether cells say less.
struct Style {
    hidden: Vec<usize>,
    brief: bool,
}

impl Table<'_> {
    /// The lines for a terminal that is so many columns wide, or of any width; and whether they say less than there is.
    pub(super) fn lines(&self, width: Option<usize>, colours: bool) -> (Vec<String>, bool) {
        let width = width.unwrap_or(usize::MAX);
        let full = (0..=self.dispensable.len()).map(|hidden| Style {
            hidden: self.dispensable[..hidden].to_vec(),
            brief: false,
        });
        let brief = (0..=self.last.len()).map(|hidden| Style {
            hidden: [self.dispensable, &self.last[..hidden]].concat(),
            brief: true,
        });
        let aligned = full.chain(brief).find_map(|style| {
            let less = style.brief || !style.hidden.is_empty();
            Some((self.align(&style, width, colours)?, less))
        });
        aligned.unwrap_or_else(|| (self.blocks(width, colours), false))
    }

    /// The rows below a header, in columns; `None` if they are wider than the terminal.
    fn align(&self, style: &Style, width: usize, colours: bool) -> Option<Vec<String>> {
        let is_shown = |column: &usize| {
            let filled = self.rows.iter().any(|row| !row[*column].text.is_empty());
            filled && !style.hidden.contains(column)
        };
        let columns: Vec<_> = (0..self.header.len()).filter(is_shown).collect();
        let widths: Vec<_> = columns
            .iter()
            .map(|column| {
                let cells = self
                    .rows
                    .iter()
                    .map(|row| length(row[*column].say(style.brief)));
                cells.max().unwrap_or(0).max(length(self.header[*column]))
            })
            .collect();
        let (last, before) = widths.split_last()?;
        let before: usize = before.iter().map(|width| width + 2).sum();
        let room = width.saturating_sub(before);
        let wraps = columns.last() == Some(&(self.header.len() - 1)) && room >= NARROWEST;
        if room < *last && !wraps {
            return None;
        }

        let titles = columns.iter().map(|column| self.header[*column]);
        let bold = titles.map(|title| (title, Some(Colour::Bold)));
        let mut lines = vec![line(&bold.collect::<Vec<_>>(), &widths, colours)];
        for row in &self.rows {
            let mut cells: Vec<_> = columns
                .iter()
                .map(|column| (row[*column].say(style.brief), row[*column].colour))
                .collect();
            let Some((text, colour)) = cells.pop() else {
                continue;
            };
            let parts = wrap(text, room);
            let mut parts = parts.iter();
            cells.push((parts.next().map_or("", String::as_str), colour));
            lines.push(line(&cells, &widths, colours));
            lines.extend(parts.map(|part| format!("{}{part}", " ".repeat(before))));
        }
        Some(lines)
    }

    /// A block for each row: its first two cells, and below them the others that are not empty, each with its title.
    fn blocks(&self, width: usize, colours: bool) -> Vec<String> {
        let title_width = self.header.iter().map(|title| length(title)).max();
        let indent = title_width.unwrap_or(0) + 4;
        let mut lines = Vec::new();
        for row in &self.rows {
            let head: Vec<_> = row.iter().take(2).map(|cell| cell.paint(colours)).collect();
            lines.push(head.join("  "));
            for (cell, title) in row.iter().zip(self.header).skip(2) {
                if cell.text.is_empty() {
                    continue;
                }
                let title = format!("  {:<1$}", title.to_lowercase(), indent - 2);
                let parts = wrap(&cell.text, width.saturating_sub(indent).max(NARROWEST));
                for (index, part) in parts.iter().enumerate() {
                    let before = if index == 0 {
                        title.clone()
                    } else {
                        " ".repeat(indent)
                    };
                    lines.push(format!("{before}{part}"));
                }
            }
        }
        lines
    }
}

fn line(cells: &[(&str, Option<Colour>)], widths: &[usize], colours: bool) -> String {
    let mut line = String::new();
    for ((text, colour), width) in cells.iter().zip(widths) {
        line.push_str(&paint(text, colour.filter(|_| colours)));
        line.push_str(&" ".repeat(width.saturating_sub(length(text)) + 2));
    }
    line.trim_end().to_owned()
}

/// A text in a colour; nothing is painted where there is nothing.
pub(super) fn paint(text: &str, colour: Option<Colour>) -> String {
    match colour {
        Some(colour) if !text.is_empty() => colour.paint(text),
        _ => text.to_owned(),
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// The lines of a text that is broken between words; a word that is longer than a line has one of its own.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    wrap_hanging(text, width, width)
}

/// The same, where the first line may be of another width than the others.
pub(super) fn wrap_hanging(text: &str, first: usize, others: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let width = if lines.is_empty() { first } else { others };
        if !line.is_empty() && length(&line) + 1 + length(word) > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(colours: bool, width: usize) -> Vec<String> {
        let path =
            |remote: &str, kind: &str| Cell::from(format!("{remote} ({kind})")).or_briefly(remote);
        let connected = Cell::coloured("connected", Some(Colour::Green));
        let note = "IPv6 only: the peer takes its IPv4 address from another range";
        let row = |cells: [Cell; 7]| Vec::from(cells);
        let table = Table {
            header: &[
                "PEER", "STATE", "ADDRESS", "PATH", "RECEIVED", "SENT", "NOTE",
            ],
            dispensable: &[5, 4],
            last: &[],
            rows: vec![
                row([
                    "db".into(),
                    connected,
                    "100.104.246.93".into(),
                    path("203.0.113.20:48084", "server-reflexive, 12.5 ms"),
                    "1.5 MB".into(),
                    "20.0 KB".into(),
                    "".into(),
                ]),
                row([
                    "büro".into(),
                    "down".into(),
                    "fd70:756e:6368::1".into(),
                    "-".into(),
                    "0 B".into(),
                    "0 B".into(),
                    note.into(),
                ]),
            ],
        };
        table.lines(Some(width), colours).0
    }

    #[test]
    fn a_wide_terminal_shows_all() {
        assert_eq!(
            peers(false, 200),
            [
                "PEER  STATE      ADDRESS            PATH                                            RECEIVED  SENT     NOTE",
                "db    connected  100.104.246.93     203.0.113.20:48084 (server-reflexive, 12.5 ms)  1.5 MB    20.0 KB",
                "büro  down       fd70:756e:6368::1  -                                               0 B       0 B      IPv6 only: the peer takes its IPv4 address from another range",
            ]
        );
    }

    #[test]
    fn what_is_sent_and_received_gives_way_first_then_the_kind_of_the_path() {
        assert_eq!(
            peers(false, 110),
            [
                "PEER  STATE      ADDRESS            PATH                                            NOTE",
                "db    connected  100.104.246.93     203.0.113.20:48084 (server-reflexive, 12.5 ms)",
                "büro  down       fd70:756e:6368::1  -                                               IPv6 only: the peer takes",
                "                                                                                    its IPv4 address from",
                "                                                                                    another range",
            ]
        );
        assert_eq!(
            peers(false, 100),
            [
                "PEER  STATE      ADDRESS            PATH                NOTE",
                "db    connected  100.104.246.93     203.0.113.20:48084",
                "büro  down       fd70:756e:6368::1  -                   IPv6 only: the peer takes its IPv4 address",
                "                                                        from another range",
            ]
        );
        assert_eq!(
            peers(false, 80),
            [
                "PEER  STATE      ADDRESS            PATH                NOTE",
                "db    connected  100.104.246.93     203.0.113.20:48084",
                "büro  down       fd70:756e:6368::1  -                   IPv6 only: the peer",
                "                                                        takes its IPv4 address",
                "                                                        from another range",
            ]
        );
    }

    #[test]
    fn on_a_narrow_terminal_every_row_is_a_block() {
        assert_eq!(
            peers(false, 60),
            [
                "db  connected",
                "  address   100.104.246.93",
                "  path      203.0.113.20:48084 (server-reflexive, 12.5 ms)",
                "  received  1.5 MB",
                "  sent      20.0 KB",
                "büro  down",
                "  address   fd70:756e:6368::1",
                "  path      -",
                "  received  0 B",
                "  sent      0 B",
                "  note      IPv6 only: the peer takes its IPv4 address from",
                "            another range",
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_colours_move_nothing() {
        for width in [60, 80, 100, 110, 150, 200] {
            let plain = peers(false, width);
            for line in &plain {
                assert!(length(line) <= width, "{width}: {line}");
            }
            let stripped: Vec<_> = peers(true, width)
                .iter()
                .map(|line| {
                    let line = line.replace("\x1b[0m", "").replace("\x1b[1m", "");
                    line.replace("\x1b[32m", "").trim_end().to_owned()
                })
                .collect();
            assert_eq!(stripped, plain, "{width}");
        }
        assert!(peers(true, 80)[1].contains("\x1b[32mconnected\x1b[0m"));
    }

    #[test]
    fn sentences_break_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one", 7), ["one"]);
        assert_eq!(wrap("", 7), [""]);
        assert_eq!(wrap("a punch1longkey b", 6), ["a", "punch1longkey", "b"]);
    }
}
