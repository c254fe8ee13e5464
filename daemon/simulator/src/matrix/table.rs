//! The matrix as text.

use std::fmt::Write;

use super::Cell;

const HEADINGS: [&str; 8] = [
    "one", "other", "runs", "success", "p50", "p95", "mappings", "packets",
];
const FIRST_REPLY: [&str; 3] = ["first reply", "p50", "p95"];

/// All cells, one in a line, in aligned columns; then one line about them all. Where first replies were measured, they have columns of
/// their own.
pub fn table(cells: &[Cell]) -> String {
    let has_first = cells.iter().any(|cell| cell.first_reply.is_some());
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    rows.extend(cells.iter().map(|cell| row(cell).to_vec()));
    if has_first {
        rows[0].extend(FIRST_REPLY.map(str::to_owned));
        for (row, cell) in rows[1..].iter_mut().zip(cells) {
            row.extend(first_reply(cell));
        }
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| {
            let lengths = rows.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (field, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 | 1 => write!(line, "{field:<width$}  "),
                _ => write!(line, "{field:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let always = cells
        .iter()
        .filter(|cell| cell.success == cell.runs)
        .count();
    let never = cells.iter().filter(|cell| cell.success == 0).count();
    let _ = writeln!(
        text,
        "{} pairs: {always} connect in every run, {never} in none",
        cells.len()
    );
    text
}

fn time(ms: Option<u64>) -> String {
    ms.map_or("-".to_owned(), |ms| format!("{ms} ms"))
}

fn first_reply(cell: &Cell) -> [String; 3] {
    match &cell.first_reply {
        None => ["-"; 3].map(str::to_owned),
        Some(first) => {
            let percent = 100 * first.runs / cell.runs.max(1);
            [
                format!("{percent} %"),
                time(first.p50_ms),
                time(first.p95_ms),
            ]
        }
    }
}

fn row(cell: &Cell) -> [String; 8] {
    [
        cell.a.clone(),
        cell.b.clone(),
        cell.runs.to_string(),
        // Never more than was measured: 99.9 % is not 100 %.
        format!("{:.0} %", cell.percent().floor()),
        time(cell.p50_ms),
        time(cell.p95_ms),
        cell.mappings_p50.to_string(),
        cell.packets_p50.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::FirstReply;
    use super::super::tests::cell;
    use super::*;

    #[test]
    fn first_replies_have_columns_where_they_were_measured() {
        let mut cells = [cell("open", "udp-blocked", 0), cell("open", "open", 20)];
        cells[0].first_reply = Some(FirstReply {
            runs: 19,
            p50_ms: Some(230),
            p95_ms: Some(410),
        });
        let text = table(&cells);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "one   other        runs  success      p50      p95  mappings  packets  first reply     p50     p95",
                "open  udp-blocked    20      0 %        -        -         7     1010         95 %  230 ms  410 ms",
                "open  open           20    100 %  1000 ms  1900 ms         7     1010            -       -       -",
            ]
        );
    }

    #[test]
    fn columns_are_aligned_and_every_cell_has_a_line() {
        let cells = [cell("open", "symmetric", 20), cell("symmetric", "open", 0)];
        let text = table(&cells);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "one        other      runs  success      p50      p95  mappings  packets",
                "open       symmetric    20    100 %  1000 ms  1900 ms         7     1010",
                "symmetric  open         20      0 %        -        -         7     1010",
                "2 pairs: 1 connect in every run, 1 in none",
            ]
        );
    }
}
