//! The standard output of a job: text for people or JSON for programs.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::errors::Failure;

/// Writes a text that ends with a line break. A closed pipe (`nabla list | head`) is not a failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::run_because("cannot write the result", e))
        }
        _ => Ok(()),
    }
}

/// A value as indented JSON that ends with a line break.
pub fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::run_because("cannot write the result as JSON", e))?;
    Ok(text + "\n")
}

/// Rows of cells as lines, the first column aligned left and the others right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let text = table(&[row("", "dB"), row("ours", "31.20"), row("b", "9.10")]);
        assert_eq!(text, "         dB\nours  31.20\nb      9.10\n");
    }
}
