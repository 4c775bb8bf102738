//! The tables of all methods.

use std::fmt::Write;

use nabla_base::methods::{METHODS, Method, Paper, State};

use super::{ReportError, ResultsFolder, cell_text, md_cell, md_paper};

/// The verdict on a method's claim in words, or a dash.
fn claim_words(folder: &ResultsFolder, method: &Method) -> &'static str {
    folder
        .result(method.slug)
        .map_or("–", |result| result.verdict.words())
}

/// All methods as a Markdown table: method, crate, paper, state, and the result of the claim.
pub fn method_table_markdown(folder: &ResultsFolder) -> String {
    let done = METHODS.iter().filter(|m| m.state == State::Done).count();
    let all = METHODS.len();
    let mut out = format!("{done} of {all} methods are done.\n\n");
    out.push_str("| Method | Slug | Crate | Paper | State | Claim |\n|---|---|---|---|---|---|\n");
    for method in METHODS.iter() {
        let _ = writeln!(
            out,
            "| {} | `{}` | `{}` | {} | {} | {} |",
            md_cell(method.name),
            method.slug,
            method.crate_name,
            cell_text(&md_paper(&method.paper)),
            method.state.word(),
            claim_words(folder, method),
        );
    }
    out
}

/// All methods as aligned text, as `nabla list` prints it: slug, state, claim, and the paper
/// (authors, year, title, arXiv number).
pub fn method_table_text(folder: &ResultsFolder) -> String {
    let header = ["METHOD", "STATE", "CLAIM", "CRATE", "PAPER"].map(str::to_owned);
    let rows = METHODS.iter().map(|method| {
        let Paper {
            title,
            authors,
            year,
            arxiv,
        } = &method.paper;
        let arxiv = arxiv.as_ref().map(|id| format!(", arXiv {id}"));
        let arxiv = arxiv.unwrap_or_default();
        let paper = format!("{authors} {year}, {title}{arxiv}");
        [
            method.slug.to_owned(),
            method.state.word().to_owned(),
            claim_words(folder, method).to_owned(),
            method.crate_name.to_owned(),
            paper,
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The line before the method table in a document.
pub const TABLE_BEGIN: &str = "<!-- methods:begin -->";
/// The line after the method table in a document.
pub const TABLE_END: &str = "<!-- methods:end -->";

/// Replaces the text between the two marker lines of a document by the method table.
///
/// # Errors
/// [`ReportError::NoMarker`] if a marker is missing or the two are in the wrong order.
pub fn insert_method_table(document: &str, folder: &ResultsFolder) -> Result<String, ReportError> {
    let begin = document
        .find(TABLE_BEGIN)
        .ok_or(ReportError::NoMarker(TABLE_BEGIN))?;
    let begin = begin + TABLE_BEGIN.len();
    let end = document[begin..]
        .find(TABLE_END)
        .ok_or(ReportError::NoMarker(TABLE_END))?
        + begin;
    let table = method_table_markdown(folder);
    Ok(format!(
        "{}\n\n{table}\n{}",
        &document[..begin],
        &document[end..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_table_replaces_what_is_between_its_markers() {
        let folder = ResultsFolder::default();
        let document = format!("before\n{TABLE_BEGIN}\na stale row\n{TABLE_END}\nafter\n");
        let once = insert_method_table(&document, &folder).unwrap();
        assert!(once.starts_with("before\n") && once.ends_with("\nafter\n"));
        assert!(once.contains("| OmniSSR | `omnissr` |") && !once.contains("stale row"));
        assert_eq!(insert_method_table(&once, &folder).unwrap(), once);
        let error = insert_method_table("nothing", &folder).unwrap_err();
        assert!(error.to_string().contains(TABLE_BEGIN));
    }

    /// `nabla claims report --readme README.md` has nothing to change.
    #[test]
    fn the_readme_and_the_report_agree_with_the_methods_and_the_results() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        let folder = crate::read_results(&root.join("results")).unwrap();
        let readme = read("README.md");
        let table = insert_method_table(&readme, &folder).unwrap();
        let differs = readme.lines().zip(table.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None);
        assert_eq!(readme.len(), table.len());
        assert!(read("RESULTS.md") == crate::report::render_markdown(&folder));
    }

    #[test]
    fn the_text_table_is_aligned() {
        let text = method_table_text(&ResultsFolder::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + METHODS.len());
        let column = lines[0].find("STATE").unwrap();
        for line in &lines[1..] {
            assert!(line[column..].starts_with("done") || line[column..].starts_with("planned"));
            assert_eq!(line.as_bytes()[column - 1], b' ');
        }
    }
}
