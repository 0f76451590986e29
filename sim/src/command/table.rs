//! Tables for a terminal, and numbers as people read them.

use std::time::Duration;

/// Rows of cells. The first column is text and stands left, the others are numbers and stand
/// right, but for a last one without a title: a remark, left again.
pub struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(titles: &[&'static str]) -> Table {
        Table { titles: titles.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.titles.len(), "a cell for each column");
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each with its end.
    pub fn text(&self) -> String {
        let titles: Vec<String> = self.titles.iter().map(|title| (*title).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> =
            (0..titles.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for line in &lines {
            let mut cells = Vec::new();
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                cells.push(match column == 0 || self.titles[column].is_empty() {
                    true => format!("{cell:<width$}"),
                    false => format!("{cell:>width$}"),
                });
            }
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with its word: `1 seed`, `2 seeds`.
pub fn count(number: usize, word: &str) -> String {
    let number = number as u64;
    format!("{} {word}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..100 => format!("{whole} s"),
        100..6_000 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", grouped(whole / 3_600), whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["fault", "times", "seeds", ""]);
        table.row(vec!["kill".into(), "1,234".into(), "9".into(), String::new()]);
        table.row(vec!["short read".into(), "0".into(), "0".into(), "never".into()]);
        let lines = [
            "fault       times  seeds",
            "kill        1,234      9",
            "short read      0      0  never",
        ];
        assert_eq!(table.text(), lines.join("\n") + "\n");
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(count(1, "seed"), "1 seed");
        assert_eq!(count(2_000, "seed"), "2,000 seeds");
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (millis, text) in [
            (0, "0.0 s"),
            (9_940, "9.9 s"),
            (9_960, "10 s"),
            (99_400, "99 s"),
            (100_000, "1 min 40 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }
}
