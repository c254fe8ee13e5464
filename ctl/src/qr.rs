//! QR codes for a terminal: two modules in each character.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code (ISO/IEC 18004, "quiet zone").
const MARGIN: usize = 4;

/// The lines of the QR code of a text, light where characters are filled; `None` when the text is too long.
pub(crate) fn lines(text: &str) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let inner = code.width();
    let colours = code.to_colors();
    let is_light = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(MARGIN).filter(|at| *at < inner);
        match (inside(x), inside(y)) {
            (Some(x), Some(y)) => colours.get(y * inner + x) != Some(&Color::Dark),
            _ => true,
        }
    };
    let width = inner + 2 * MARGIN;
    let line = |y: usize| {
        let pair = |x| match (is_light(x, y), y + 1 < width && is_light(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        };
        (0..width).map(pair).collect()
    };
    Some((0..width).step_by(2).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_its_three_corners_and_its_margin() {
        let lines = lines("punchctl join abc").unwrap_or_default();
        let width = lines.first().map_or(0, |line| line.chars().count());
        assert!(width >= 21 + 2 * MARGIN && lines.len() == width.div_ceil(2));
        assert!(lines.iter().all(|line| line.chars().count() == width));
        // The first row of modules of a finder pattern: seven dark ones, then a light one.
        let row: String = lines[MARGIN / 2].chars().skip(MARGIN).take(8).collect();
        assert_eq!(row, " ▄▄▄▄▄ █");
        assert!(super::lines(&"a".repeat(4000)).is_none());
    }
}
