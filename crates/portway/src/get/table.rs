//! Text in columns.

use std::fmt::Write as _;

/// Rows under headings, each column as wide as its widest cell, three spaces apart, as kubectl has it.
pub(crate) fn render(headings: &[String], rows: &[Vec<String>]) -> String {
    let width = |nth: usize| {
        let cells = rows.iter().filter_map(|row| row.get(nth));
        cells.chain(headings.get(nth)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    for row in std::iter::once(headings).chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}   ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = super::render(&row(["NAME", "AGE"]), &[row(["a-long-name", "1d"]), row(["b", ""])]);
        assert_eq!(text, "NAME          AGE\na-long-name   1d\nb\n");
    }
}
