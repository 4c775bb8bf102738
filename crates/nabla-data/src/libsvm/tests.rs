use super::*;
use proptest::prelude::*;

fn told(text: &str) -> String {
    LabelledRows::parse(text, None).unwrap_err().to_string()
}

#[test]
fn a_wrong_line_is_named() {
    assert_eq!(told(""), "the text contains no LIBSVM examples");
    assert_eq!(
        told("# nothing\n\n"),
        "the text contains no LIBSVM examples"
    );
    let begin = |text: &str| told(text).replace("is not a LIBSVM example, at ", "");
    assert_eq!(
        begin("1 1:2\nx 1:1"),
        "line 2 column 1: \"x\" is not a number"
    );
    assert_eq!(
        begin("\n1 1:2 2"),
        "line 2 column 7: \"2\" is not index:value"
    );
    assert!(told("1 -1:2").contains("column 3: the index \"-1\" is not a whole number from 0"));
    // The column counts characters, and repeated indices need not be neighbours.
    assert_eq!(
        begin("1\t2:1  2:1"),
        "line 1 column 8: the index 2 occurs twice"
    );
    assert_eq!(
        begin("1 2:1 3:1 2:4"),
        "line 1 column 11: the index 2 occurs twice"
    );
    assert_eq!(
        begin("1 3:1 2:4"),
        "line 1 column 7: the index 2 does not rise above 3"
    );
    assert_eq!(begin("1 2:é"), "line 1 column 5: \"é\" is not a number");
    assert!(told("1 qid:x 1:1").contains("column 7: the qid \"x\" is not a whole number"));
    assert!(told("1 1:1 qid:3").contains("column 7: qid comes right after the label"));
    assert!(told("1 1:nan").contains("not a finite number"));
    assert!(told("inf 1:1").contains("not a finite number"));
    assert!(told("1 1:").contains("\"\" is not a number"));
    assert!(told("1 99999999999999999999:1").contains("whole number"));
    let error = LabelledRows::parse("1 5:1", Some(4)).unwrap_err();
    assert!(error.to_string().contains("have 5 features, but 4"));
}

#[test]
fn files_say_which_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let error = LabelledRows::read(&path, None).unwrap_err().to_string();
    assert!(error.starts_with("cannot read"), "{error}");
    fs::write(&path, "one").unwrap();
    let error = LabelledRows::read(&path, None).unwrap_err().to_string();
    assert!(error.contains("a.txt: line 1"), "{error}");
    let rows: LabelledRows = "3 qid:7 1:1e-3 4:-2\n".parse().unwrap();
    rows.write(&path).unwrap();
    assert_eq!(LabelledRows::read(&path, None).unwrap(), rows);
}

/// The rule and the widths of scikit-learn 1.9's `load_svmlight_file(zero_based="auto")`: see
/// `tests/reference/svmlight.py`, which made the files.
#[test]
fn files_of_scikit_learn_are_read_as_it_reads_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/svmlight");
    let expected: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let files = expected.as_object().unwrap();
    assert!(files.len() >= 6);
    for (name, expected) in files {
        let text = LibsvmText::read(&folder.join(name));
        if expected["refused"] == true {
            assert!(text.is_err(), "{name}");
            continue;
        }
        let text = text.unwrap();
        let queries = text.queries();
        let base = text.index_base();
        let rows = text.into_rows(base, None).unwrap();
        assert_eq!(rows.features() as u64, expected["features"], "{name}");
        assert_eq!(
            serde_json::json!(rows.labels()),
            expected["labels"],
            "{name}"
        );
        let dense: Vec<Vec<f64>> = (0..rows.len())
            .map(|i| {
                let mut row = vec![0.0; rows.features()];
                rows.row(i).for_each(|(column, value)| row[column] = value);
                row
            })
            .collect();
        assert_eq!(serde_json::json!(dense), expected["rows"], "{name}");
        match expected.get("queries") {
            Some(expected) => assert_eq!(&serde_json::json!(queries.unwrap()), expected),
            None => assert!(queries.unwrap_err().to_string().contains("has no qid")),
        }
    }
}

#[test]
fn the_base_is_found_said_and_kept() {
    let zero = LibsvmText::parse("1 0:1 2:3\n-1 1:2\n").unwrap();
    assert_eq!(zero.index_base(), IndexBase::Zero);
    assert_eq!(zero.features(IndexBase::Zero), 3);
    let refused = zero.clone().into_rows(IndexBase::One, None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "line 1 has an index 0, but indices must start at 1"
    );
    let rows = zero.into_rows(IndexBase::Zero, Some(5)).unwrap();
    assert_eq!(
        (rows.features(), rows.row(0).collect::<Vec<_>>()),
        (5, vec![(0, 1.), (2, 3.)])
    );
    let said = |base: &str| format!("# Column indices are {base}-based\n1 1:4\n");
    let said = |base| LibsvmText::parse(&said(base)).unwrap().shown_base();
    assert_eq!(said("zero"), Some(IndexBase::Zero));
    assert_eq!(said("one"), Some(IndexBase::One));
    assert_eq!(said("two"), None);
    assert_eq!(
        IndexBase::of([
            &LibsvmText::parse("1 1:4").unwrap(),
            &LibsvmText::parse("1 0:4").unwrap()
        ]),
        IndexBase::Zero
    );
    // Nothing shows that this text counts from 0 too: the base must be given.
    let test = LibsvmText::parse("1 1:4 2:5 # no first feature\n").unwrap();
    assert_eq!(test.index_base(), IndexBase::One);
    let as_said = test.clone().into_rows(IndexBase::Zero, Some(5)).unwrap();
    assert_eq!(as_said.row(0).collect::<Vec<_>>(), [(1, 4.0), (2, 5.0)]);
    let alone = test.into_rows(IndexBase::One, None).unwrap();
    assert_eq!((alone.features(), alone.row(0).next()), (2, Some((0, 4.0))));
    // The index of a zero value shows it too, and counts for the width.
    let explicit = LibsvmText::parse("1 0:0 7:0\n").unwrap();
    assert_eq!(explicit.index_base(), IndexBase::Zero);
    assert_eq!(explicit.features(IndexBase::Zero), 8);
    // The highest index possible.
    let last = format!("1 {}:1", LibsvmText::MAX_INDEX);
    let last = LibsvmText::parse(&last).unwrap();
    assert_eq!(last.features(IndexBase::Zero), LabelledRows::MAX_FEATURES);
    assert!(told("1 4294967295:1").contains("whole number"));
    // No features at all.
    let none = LibsvmText::parse("1\n2\n").unwrap();
    assert_eq!(none.into_rows(IndexBase::One, None).unwrap().features(), 0);
}

#[test]
fn a_wrong_row_leaves_the_table_as_it_was() {
    let mut rows = LabelledRows::new(3);
    rows.push(1.0, [(0, 1.0), (1, 0.0), (2, 3.0)]).unwrap();
    let before = rows.clone();
    assert!(rows.push(1.0, [(0, 1.0), (3, 1.0)]).is_err());
    assert!(rows.push(1.0, [(1, 1.0), (0, 1.0)]).is_err());
    assert!(rows.push(f64::NAN, []).is_err());
    assert_eq!(rows, before);
    assert_eq!(rows.row(0).count(), 2);
    assert_eq!(rows.row(1).count(), 0);
    assert_eq!(rows.dot(0, &[2.0, 5.0, -1.0]), -1.0);
    let biased = rows.with_bias();
    assert_eq!(biased.features(), 4);
    assert_eq!(biased.dot(0, &[0.0, 0.0, 0.0, 7.0]), 7.0);
}

proptest! {
    #[test]
    fn any_text_gives_a_table_or_an_error(text in "[-0-9.:eE #a-z\\n+]{0,200}") {
        if let Ok(rows) = LabelledRows::parse(&text, None) {
            let again: LabelledRows = rows.to_string().parse().unwrap();
            prop_assert_eq!(again.labels(), rows.labels());
        }
    }

    #[test]
    fn a_table_written_and_read_is_the_same(
        rows in proptest::collection::vec(
            (-1e9f64..1e9, proptest::collection::btree_map(0usize..50, -1e-3f64..1e6, 0..8)), 1..20)
    ) {
        let mut table = LabelledRows::new(50);
        for (label, row) in rows {
            table.push(label, row).unwrap();
        }
        for base in [IndexBase::Zero, IndexBase::One] {
            let text = LibsvmText::parse(&table.to_text(base)).unwrap();
            prop_assert_eq!(text.index_base(), base);
            prop_assert_eq!(text.into_rows(base, Some(50)).unwrap(), table.clone());
        }
    }
}
