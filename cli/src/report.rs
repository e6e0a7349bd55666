//! Text for people: sizes, names from files that nobody vouches for, tables.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// A name from a file without the bytes that could drive a terminal.
pub fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// 1234567 → "1.23 MB".
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit < 4 {
        value /= 1000.0;
        unit += 1;
    }
    let name = ["B", "kB", "MB", "GB", "TB"][unit];
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.995 => format!("{value:.2} {name}"),
        _ if value < 99.95 => format!("{value:.1} {name}"),
        _ => format!("{value:.0} {name}"),
    }
}

pub fn shape(shape: &[usize]) -> String {
    format!("{shape:?}")
}

/// "encoder.layer.11.output.bias" → "encoder.layer.*.output.bias": layers that differ in their number make one line.
pub fn folded(name: &str) -> String {
    let parts: Vec<&str> =
        name.split('.').map(|p| if p.bytes().all(|b| b.is_ascii_digit()) { "*" } else { p }).collect();
    parts.join(".")
}

/// Lines that are equal after folding, in their first order, with how many there were.
pub fn count<T: Eq + std::hash::Hash + Clone>(items: impl Iterator<Item = T>) -> Vec<(T, usize)> {
    let mut order: Vec<(T, usize)> = Vec::new();
    let mut places: HashMap<T, usize> = HashMap::new();
    for item in items {
        let at = *places.entry(item.clone()).or_insert_with(|| {
            order.push((item, 0));
            order.len() - 1
        });
        order[at].1 += 1;
    }
    order
}

/// Columns two spaces apart; those named in `right` are aligned to the right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let w = widths[c];
            let gap = if c == 0 { "" } else { "  " };
            let _ = if right.contains(&c) {
                write!(line, "{gap}{cell:>w$}")
            } else {
                write!(line, "{gap}{cell:<w$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// To stdout; a reader that went away (`| head`) is no failure.
pub fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_995, "10.0 kB"),
            (999_600, "1.00 MB"),
            (90_868_376, "90.9 MB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn folds_layer_numbers_only() {
        assert_eq!(folded("encoder.layer.11.q2.bias"), "encoder.layer.*.q2.bias");
        assert_eq!(shown("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    }
}
