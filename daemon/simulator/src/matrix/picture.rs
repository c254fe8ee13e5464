//! The matrix as an SVG heat map: kinds on both axes, colour for success, text for both figures.

use std::fmt::Write;

use super::Cell;
use crate::scenario::Kind;

const CELL: (usize, usize) = (50, 32);
/// About as wide as a letter is.
const LETTER: usize = 7;
/// Room for the title, and for the slanted name above the first column.
const TOP: usize = 150;
const MARGIN: usize = 16;
/// How far a slanted name reaches to the right of its column.
const OVERHANG: usize = 150;

/// Colour classes: from this many percent up, and what the legend says.
const BANDS: [(f64, &str, &str); 5] = [
    (99.0, "s4", "99 % and more"),
    (90.0, "s3", "90 to 98 %"),
    (50.0, "s2", "50 to 89 %"),
    (f64::MIN_POSITIVE, "s1", "up to 49 %"),
    (0.0, "s0", "never"),
];

/// Readable on white and on black paper; in order of lightness, for those who see no colours.
const STYLE: &str = "
.paper { fill: #ffffff } text { fill: #1f2328; font: 12px system-ui, sans-serif }
.title { font-size: 20px; font-weight: 600 } .small { font-size: 11px }
.s4 { fill: #0b5a4a } .s3 { fill: #2f9e80 } .s2 { fill: #a9dcc3 } .s1 { fill: #f6c667 } .s0 { fill: #d9622b }
.none { fill: none; stroke: #8c959f; stroke-dasharray: 3 3 }
text.on4 { fill: #ffffff } text.on3, text.on2, text.on1, text.on0 { fill: #10201a }
.figure { text-anchor: middle } .main { font-weight: 600 } .row { text-anchor: end }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } text { fill: #e6edf3 } .none { stroke: #6e7681 }
}
";

/// Draws all cells: one triangle for the pairs of kinds, and a row below for each other place.
/// A pair without a cell stays empty.
pub fn picture(title: &str, cells: &[Cell]) -> String {
    let kinds = axis(cells);
    let places: Vec<&Cell> = cells.iter().filter(|cell| cell.is_place()).collect();
    let rows = kinds.len() + places.len() + usize::from(!places.is_empty());
    let names = kinds.iter().map(|kind| kind.len());
    let names = names.chain(places.iter().map(|cell| label(cell).len()));
    let left = MARGIN + names.max().unwrap_or(0) * LETTER;
    let width = (left + kinds.len() * CELL.0 + OVERHANG + MARGIN).max(720);
    let height = TOP + rows.max(1) * CELL.1 + MARGIN;
    let mut svg = Svg(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n"
    ));
    let title = escape(title);
    svg.line(format_args!("<title>{title}</title>"));
    svg.line(format_args!("<style>{STYLE}</style>"));
    svg.line(format_args!(
        "<rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>"
    ));
    svg.text("title", (MARGIN, 34), &title);
    let about = "Upper figure: runs in which both machines connected directly. Lower: median time until then.";
    svg.text("small", (MARGIN, 56), about);
    svg.legend(width);
    for (row, one) in kinds.iter().enumerate() {
        svg.text("row", (left - 8, TOP + row * CELL.1 + 21), &escape(one));
        let (x, y) = (left + row * CELL.0 + CELL.0 / 2, TOP + row * CELL.1 - 6);
        svg.line(format_args!(
            "<text transform=\"translate({x} {y}) rotate(-30)\">{}</text>",
            escape(one)
        ));
        for (column, other) in kinds[..=row].iter().enumerate() {
            let at = (left + column * CELL.0, TOP + row * CELL.1);
            match cells.iter().find(|cell| cell.is_of(one, other)) {
                Some(cell) => svg.cell(at, cell),
                None => svg.empty(at),
            }
        }
    }
    for (row, cell) in places.into_iter().enumerate() {
        let y = TOP + (kinds.len() + 1 + row) * CELL.1;
        svg.text("row", (left - 8, y + 21), &escape(&label(cell)));
        svg.cell((left, y), cell);
    }
    svg.0.push_str("</svg>\n");
    svg.0
}

/// All kinds that occur: those of the simulator in its order, then others as they come.
fn axis(cells: &[Cell]) -> Vec<&str> {
    let apart = cells.iter().filter(|cell| !cell.is_place());
    let named: Vec<&str> = apart.flat_map(|cell| [&*cell.a, &*cell.b]).collect();
    let mut kinds: Vec<&str> = Kind::ALL.map(Kind::name).into();
    kinds.retain(|kind| named.contains(kind));
    for name in named {
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    kinds
}

fn label(place: &Cell) -> String {
    format!("{}, {}", place.a, place.b)
}

struct Svg(String);

impl Svg {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "{line}");
    }

    fn text(&mut self, class: &str, (x, y): (usize, usize), text: &str) {
        self.line(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
        ));
    }

    fn rect(&mut self, class: &str, (x, y): (usize, usize)) {
        let (width, height) = (CELL.0 - 2, CELL.1 - 2);
        self.line(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"3\"/>"
        ));
    }

    fn cell(&mut self, (x, y): (usize, usize), cell: &Cell) {
        let percent = cell.percent();
        let band = band(percent);
        let class = BANDS[band].1;
        let on = format!("figure on{}", BANDS.len() - 1 - band);
        let time = cell.p50_ms.map(seconds);
        let about = format!(
            "{} and {}: {} of {} runs; p50 {}, p95 {}; {} mappings, {} packets",
            cell.a,
            cell.b,
            cell.success,
            cell.runs,
            time.as_deref().unwrap_or("-"),
            cell.p95_ms.map_or("-".to_owned(), seconds),
            cell.mappings_p50,
            cell.packets_p50,
        );
        self.line(format_args!(
            "<g class=\"cell\"><title>{}</title>",
            escape(&about)
        ));
        self.rect(class, (x, y));
        let middle = x + CELL.0 / 2 - 1;
        // Never more than was measured: 99.9 % is not 100 %.
        let success = format!("{:.0} %", percent.floor());
        let line = if time.is_some() { 13 } else { 20 };
        self.text(&format!("{on} main"), (middle, y + line), &success);
        if let Some(time) = time {
            self.text(&format!("{on} small"), (middle, y + 26), &time);
        }
        self.line(format_args!("</g>"));
    }

    fn empty(&mut self, at: (usize, usize)) {
        self.line(format_args!("<g class=\"cell\"><title>not tried</title>"));
        self.rect("none", at);
        self.line(format_args!("</g>"));
    }

    fn legend(&mut self, width: usize) {
        let x = width - 170;
        for (index, (_, class, text)) in BANDS.iter().enumerate() {
            let y = 16 + index * 22;
            self.line(format_args!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"26\" height=\"16\" rx=\"3\"/>"
            ));
            self.text("small", (x + 34, y + 12), text);
        }
        let y = 16 + BANDS.len() * 22;
        self.line(format_args!(
            "<rect class=\"none\" x=\"{x}\" y=\"{y}\" width=\"26\" height=\"16\" rx=\"3\"/>"
        ));
        self.text("small", (x + 34, y + 12), "not tried");
    }
}

fn band(percent: f64) -> usize {
    let fits = |(least, ..): &(f64, &str, &str)| percent >= *least;
    BANDS.iter().position(fits).unwrap_or(BANDS.len() - 1)
}

fn seconds(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", ms as f64 / 1000.0),
    }
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::super::tests::cell;
    use super::*;

    /// Checks that every element is closed in order; answers with how often each occurs.
    fn elements(svg: &str) -> std::collections::BTreeMap<&str, usize> {
        let (mut open, mut counts) = (Vec::new(), std::collections::BTreeMap::new());
        for tag in svg.split('<').skip(1) {
            let tag = tag.split_once('>').unwrap().0;
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            let name = tag
                .trim_start_matches('/')
                .split([' ', '/'])
                .next()
                .unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else {
                *counts.entry(name).or_default() += 1;
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
        assert!(open.is_empty(), "{open:?}");
        counts
    }

    #[test]
    fn the_picture_is_well_formed_and_has_every_cell() {
        let cells = [
            cell("symmetric", "open", 20),
            cell("open", "open", 19),
            cell("same-lan", "open", 0),
            cell("linux <&> \"6.1\"", "open", 3),
        ];
        let svg = picture("All & sundry", &cells);
        let counts = elements(&svg);
        // Three kinds have six pairs; the one place is a seventh cell.
        assert_eq!(counts["g"], 7);
        assert_eq!(svg.matches("not tried</title>").count(), 3);
        for expected in [
            "open and open: 19 of 20 runs; p50 1.0 s, p95 1.9 s; 7 mappings, 1010 packets",
            "symmetric and open: 20 of 20 runs",
            "linux &lt;&amp;&gt; &quot;6.1&quot; and open: 3 of 20 runs; p50 200 ms",
            "same-lan, open</text>",
            "<title>All &amp; sundry</title>",
            "prefers-color-scheme: dark",
        ] {
            assert!(svg.contains(expected), "{expected}");
        }
        elements(&picture("", &[]));
    }

    #[test]
    fn simulated_kinds_come_first_and_in_their_order() {
        let cells = [cell("other", "symmetric", 1), cell("open", "same-old", 1)];
        assert_eq!(axis(&cells), ["open", "symmetric", "other", "same-old"]);
    }

    #[test]
    fn colours_follow_the_success() {
        let classes = [100.0, 99.0, 98.9, 90.0, 50.0, 49.9, 0.1, 0.0].map(|p| BANDS[band(p)].1);
        assert_eq!(classes, ["s4", "s4", "s3", "s3", "s2", "s1", "s1", "s0"]);
    }
}
