use proptest::prelude::*;

use super::*;

fn read(text: &str) -> MatrixMarket {
    MatrixMarket::parse(text.as_bytes()).unwrap()
}

fn told(text: &str) -> String {
    MatrixMarket::parse(text.as_bytes())
        .unwrap_err()
        .to_string()
}

fn all(matrix: &MatrixMarket) -> Vec<(usize, usize, f64)> {
    matrix.all_entries().collect()
}

const COORDINATES: &str = "%%MatrixMarket matrix coordinate real general\n";

/// The example of the format's page.
#[test]
fn coordinates_are_read() {
    let text = "%%MatrixMarket matrix coordinate real general\n%====\n%\n% 5x5\n  5  5  8\n    1     1   1.000e+00\n\
                2     2   1.050e+01\n    3     3   1.500e-02\n    1     4   6.000e+00\n    4     2   2.505e+02\n\
                4     4  -2.800e+02\n    4     5   3.332e+01\n    5     5   1.200e+01\n";
    let matrix = read(text);
    assert_eq!((matrix.rows, matrix.columns, matrix.stored()), (5, 5, 8));
    assert_eq!(
        all(&matrix)[3..6],
        [(0, 3, 6.0), (3, 1, 250.5), (3, 3, -280.0)]
    );
    assert!(matrix.notes.is_empty());
    assert_eq!([matrix.line_of(0), matrix.line_of(7)], [6, 13]);
    assert_eq!(matrix.line_of_place(3, 4), Some(12));
    assert_eq!(matrix.line_of_place(4, 3), None);
}

#[test]
fn other_triangles_and_layouts_are_filled_in() {
    let skew = read("%%MatrixMarket matrix coordinate integer skew-symmetric\n2 2 1\n2 1 3\n");
    assert_eq!(all(&skew), [(1, 0, 3.0), (0, 1, -3.0)]);
    let pattern = read("%%MatrixMarket matrix coordinate pattern symmetric\n2 2 2\n1 1\n2 1\n");
    assert_eq!(all(&pattern), [(0, 0, 1.0), (1, 0, 1.0), (0, 1, 1.0)]);
    let dense = read("%%MatrixMarket matrix array real general\n2 3\n1\n2\n3 4\n5\n6\n");
    assert_eq!(all(&dense)[1..3], [(1, 0, 2.0), (0, 1, 3.0)]);
    assert_eq!(all(&dense).len(), 6);
    let dense = read("%%MatrixMarket matrix array real symmetric\n2 2\n1\n2\n3\n");
    assert_eq!(
        all(&dense),
        [(0, 0, 1.0), (1, 0, 2.0), (0, 1, 2.0), (1, 1, 3.0)]
    );
    let dense = read("%%MatrixMarket matrix array real skew-symmetric\n3 3\n1\n2\n3\n");
    let below: Vec<_> = all(&dense).into_iter().filter(|e| e.0 > e.1).collect();
    assert_eq!(below, [(1, 0, 1.0), (2, 0, 2.0), (2, 1, 3.0)]);
    let vector = read(&format!("{COORDINATES}4 1 2\n2 1 5\n4 1 -1\n"));
    assert_eq!(vector.vector().unwrap(), [0.0, 5.0, 0.0, -1.0]);
}

#[test]
fn what_is_unusual_is_read_with_a_note() {
    let text = "%%MatrixMarket MATRIX Coordinate REAL Symmetric\r\n\r\n2 2 3\r\n1 1 2.0D+00\r\n% between\r\n1 2 -1d0\r\n\
                2 2 2\r\n% after\r\n";
    let matrix = read(text);
    assert_eq!(all(&matrix)[0], (0, 0, 2.0));
    let notes = [
        MarketNote::Comments { line: 5 },
        MarketNote::Upper { line: 6 },
    ];
    assert_eq!(matrix.notes, notes);
    let twice = read(&format!("{COORDINATES}2 2 4\n1 1 1\n2 2 5\n1 1 2\n1 1 3\n"));
    assert_eq!(twice.notes, [MarketNote::Duplicates { count: 2, line: 5 }]);
    assert_eq!(
        twice.notes[0].to_string(),
        "2 entries are (the first in line 5) added to an earlier one of the same place"
    );
    // Without a line break at the end, and without entries.
    assert_eq!(read(&format!("{COORDINATES}1 1 1\n1 1 7")).stored(), 1);
    assert_eq!(read(&format!("{COORDINATES}3 3 0\n")).stored(), 0);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, expected) in [
        ("", "it begins with \"\""),
        (
            "%MatrixMarket matrix coordinate real general\n",
            "line 1 is no banner",
        ),
        (
            "%%MatrixMarket matrix coordinate real\n",
            "it has 3 words, but 4",
        ),
        (
            "%%MatrixMarket matrix coordinate complex general\n",
            "the field \"complex\" is not real",
        ),
        (
            "%%MatrixMarket matrix coordinate real hermitian\n",
            "the symmetry \"hermitian\"",
        ),
        (
            "%%MatrixMarket matrix array pattern general\n",
            "the field \"pattern\"",
        ),
        (
            "%%MatrixMarket matrix coordinate real general\n% a\n\n",
            "ends after line 3 without",
        ),
    ] {
        assert!(told(text).contains(expected), "{text:?}: {}", told(text));
    }
    for (rest, expected) in [
        ("2 2\n", "line 2: the size has 2 words, but 3"),
        (
            "2 x 1\n",
            "line 2: the number of columns \"x\" is not a whole number",
        ),
        ("2 2 2\n1 1 1\n", "ends after line 3 with 1 of 2 entries"),
        (
            "2 2 1\n1 1 1\n2 2 1\n",
            "line 4: there are more entries than the 1 of the size in line 2",
        ),
        (
            "2 2 1\n1 1\n",
            "line 3: an entry is a row, a column and a number, but the line has 2 of 3",
        ),
        (
            "2 2 1\n1 3 1\n",
            "line 3: the column 3 is not between 1 and 2",
        ),
        ("2 2 1\n0 1 1\n", "line 3: the row 0 is not between 1 and 2"),
        ("2 2 1\n1 1 nan\n", "line 3: \"nan\" is not a finite number"),
        (
            "2 2 1\n1 1 1e999\n",
            "line 3: \"1e999\" is not a finite number",
        ),
        ("2 2 1\n1 1 one\n", "line 3: \"one\" is not a number"),
        ("99999999999 1 1\n", "line 2: 99999999999 x 1 is too large"),
    ] {
        let text = format!("{COORDINATES}{rest}");
        assert!(told(&text).contains(expected), "{text:?}: {}", told(&text));
    }
    let both = "%%MatrixMarket matrix coordinate real symmetric\n2 2 3\n2 1 1\n1 1 1\n1 2 1\n";
    assert_eq!(
        told(both),
        "line 5 has the entry (1, 2), whose mirror image is in line 3: a file that says it is symmetric holds one triangle"
    );
    let skew = "%%MatrixMarket matrix coordinate real skew-symmetric\n2 2 1\n2 2 1\n";
    assert!(told(skew).contains("line 3: a skew-symmetric matrix has nothing on its diagonal"));
    let wide = "%%MatrixMarket matrix coordinate real symmetric\n2 3 0\n";
    assert!(told(wide).contains("line 2: a symmetric matrix is square"));
    let wide = read(&format!("{COORDINATES}2 3 0\n")).vector().unwrap_err();
    assert!(
        wide.to_string()
            .contains("2 x 3, but a vector has one column")
    );
}

#[test]
fn what_is_written_is_read_with_the_same_bits() {
    let values = [1.0, -0.1, 1e-310, f64::MAX, 0.0];
    let text = vector_text(&values);
    assert_eq!(read(&text).vector().unwrap(), values);
    let entries = [(0, 0, 0.3), (1, 0, -1.0 / 3.0)];
    let text = matrix_text([2, 2], Symmetry::Symmetric, entries.into_iter());
    assert_eq!(all(&read(&text))[..2], entries);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mtx");
    write_vector(&path, &values).unwrap();
    assert_eq!(MatrixMarket::read(&path).unwrap().vector().unwrap(), values);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_give_a_matrix_or_an_error(
        banner in "%%MatrixMarket matrix (coordinate|array) (real|integer|pattern) (general|symmetric|skew-symmetric)\n",
        size in "[0-4] [0-4] ?[0-4]?\n",
        rest in "([0-5 .\n%eEdD-]|nan){0,60}",
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let _ = MatrixMarket::parse(&bytes);
        let _ = MatrixMarket::parse(&[banner.as_bytes(), &bytes].concat());
        if let Ok(matrix) = MatrixMarket::parse(format!("{banner}{size}{rest}").as_bytes()) {
            prop_assert!(matrix.all_entries().all(|(i, j, _)| i < matrix.rows && j < matrix.columns));
        }
    }
}
