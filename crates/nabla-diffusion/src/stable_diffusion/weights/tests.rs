use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Tensor, Tolerance};
use safetensors::tensor::{Dtype, TensorView};

use super::*;

/// Numbers 0, 1, 2 … in each tensor.
fn file(folder: &Path, name: &str, tensors: &[(&str, &[usize])]) -> PathBuf {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            (0..shape.iter().product())
                .flat_map(|i: usize| half::f16::from_f32(i as f32).to_le_bytes())
                .collect()
        })
        .collect();
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| {
            let view = TensorView::new(Dtype::F16, shape.to_vec(), bytes).unwrap();
            (*name, view)
        })
        .collect();
    let path = folder.join(name);
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

fn open(paths: &[PathBuf]) -> Result<Weights, WeightsError> {
    Weights::open(paths, &Device::flex(), Precision::F32)
}

#[test]
fn layers_are_taken_from_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        file(
            folder.path(),
            "a",
            &[("net.fc.weight", &[3, 2]), ("net.fc.bias", &[3])],
        ),
        file(
            folder.path(),
            "b",
            &[("net.conv.weight", &[2, 4, 1, 1]), ("net.conv.bias", &[2])],
        ),
    ];
    let weights = open(&paths).unwrap();
    let net = weights.root().at("net");
    let linear = net.at("fc").linear(2, 3).unwrap();
    let x = Tensor::<2>::from_floats([[1.0, 10.0]], &Device::flex());
    // W = [[0, 1], [2, 3], [4, 5]], b = [0, 1, 2]
    let expected = TensorData::from([[10.0, 33.0, 56.0f32]]);
    linear
        .forward(x)
        .into_data()
        .assert_approx_eq::<f32>(&expected, Tolerance::default());
    assert!(weights.finish(|_| false).is_err());
    // A convolution of kernel 1 is a linear layer.
    let conv = net.at("conv").linear(4, 2).unwrap();
    assert_eq!(conv.weight.dims(), [4, 2]);
    weights.finish(|_| false).unwrap();
}

#[derive(Debug)]
struct Counting(&'static str, usize);

impl WeightChanges for Counting {
    fn name(&self) -> String {
        "a test".to_owned()
    }

    fn changes(&self, tensor: &str) -> bool {
        tensor == self.0
    }

    fn delta(&self, _: &str, _: &[usize], _: &[f32]) -> Result<Vec<f32>, String> {
        Ok((0..self.1).map(|i| i as f32).collect())
    }

    fn left(&self, taken: &BTreeSet<String>) -> Option<String> {
        (!taken.contains(self.0)).then(|| self.0.to_owned())
    }
}

#[test]
fn names_and_changes_are_those_of_diffusers() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a", &[("first.w", &[4])]);
    let weights = open(std::slice::from_ref(&path))
        .unwrap()
        .with_names(|name| name.replace("one", "first"))
        .with_changes(Counting("one.w", 4));
    let values = weights.root().at("one").tensor("w", [4]).unwrap();
    let expected = TensorData::from([0.0, 2.0, 4.0, 6.0f32]);
    values.into_data().assert_eq(&expected, true);
    weights.finish(|_| false).unwrap();

    let weights = open(std::slice::from_ref(&path)).unwrap();
    let weights = weights.with_changes(Counting("other.w", 4));
    weights.root().tensor("first.w", [4]).unwrap();
    let error = weights.finish(|_| false).unwrap_err().to_string();
    assert!(
        error.contains("a test changes the tensor other.w"),
        "{error}"
    );

    let weights = open(&[path]).unwrap().with_changes(Counting("first.w", 3));
    let error = weights
        .root()
        .tensor("first.w", [4])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a test changes the tensor first.w"),
        "{error}"
    );
}

#[test]
fn a_matrix_may_stand_transposed_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a", &[("m", &[2, 3]), ("cube", &[1, 2, 3])]);
    let weights = open(&[path]).unwrap().with_names(|name: &str| match name {
        "turned" => Stored::transposed("m"),
        _ => Stored::transposed("cube"),
    });
    let root = weights.root();
    assert_eq!(root.shape("turned"), Some(vec![3, 2]));
    let values = root.tensor("turned", [3, 2]).unwrap().into_data();
    let expected = TensorData::from([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0f32]]);
    values.assert_eq(&expected, true);
    let error = root.tensor("turned", [4, 2]).unwrap_err().to_string();
    assert!(
        error.contains("[2, 3]") && error.contains("[2, 4]"),
        "{error}"
    );
    assert!(root.tensor("other", [3, 2, 1]).is_err());
}

#[test]
fn only_some_tensors_are_another_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a", &[("one.w", &[2]), ("two.w", &[3])]);
    let all = open(&[path]).unwrap();
    let one = all.only(|name| name.starts_with("one."), Precision::F16);
    assert_eq!(one.names_below("").collect::<Vec<_>>(), ["one.w"]);
    assert_eq!(one.root().tensor("one.w", [2]).unwrap().dtype(), DType::F16);
    one.finish(|_| false).unwrap();
    assert!(all.finish(|_| false).is_err());
}

#[test]
fn parts_of_a_tensor_are_cut_by_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a", &[("fused", &[12, 1]), ("odd", &[5])]);
    let weights = open(&[path]).unwrap().with_names(|name: &str| {
        let rows = match name {
            "k" => Rows::part(1, 3),
            "k of heads" => Rows::part(1, 3).of_each_block(2),
            "of odd" => return Stored::rows("odd", Rows::part(0, 2)),
            _ => return Stored::from(name.to_owned()),
        };
        Stored::rows("fused", rows)
    });
    let root = weights.root();
    for (name, expected) in [
        ("k", [4.0, 5.0, 6.0, 7.0f32]),
        ("k of heads", [2.0, 3.0, 8.0, 9.0]),
    ] {
        assert_eq!(root.shape(name), Some(vec![4, 1]));
        let values = root.tensor(name, [4]).unwrap().into_data();
        values.assert_eq(&TensorData::from(expected), true);
    }
    let error = root.tensor("k", [3]).unwrap_err().to_string();
    assert!(
        error.contains("[12, 1]") && error.contains("[9]"),
        "{error}"
    );
    assert!(root.tensor("of odd", [2]).is_err());
    let error = weights.finish(|_| false).unwrap_err().to_string();
    assert!(error.contains("tensor odd"), "{error}");
}

/// The program in this pickle makes a file.
#[test]
fn what_a_pickle_holds_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let (path, made) = (folder.path().join("a.ckpt"), folder.path().join("made"));
    let command = format!("touch {}", made.display());
    let mut pickle = b"\x80\x02cposix\nsystem\nX".to_vec();
    pickle.extend((command.len() as u32).to_le_bytes());
    pickle.extend(command.as_bytes());
    pickle.extend(b"\x85R.");
    fs::write(&path, pickle).unwrap();
    let opened = open(&[path]);
    assert!(!made.exists());
    assert!(matches!(opened, Err(WeightsError::Format { .. })));
}

#[test]
fn what_is_wrong_is_told_with_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a", &[("w", &[2, 3]), ("spare", &[1])]);
    let weights = open(std::slice::from_ref(&path)).unwrap();
    let root = weights.root();
    let told = |error: WeightsError| error.to_string();
    let error = told(root.tensor("w", [3, 2]).unwrap_err());
    assert!(
        error.contains("tensor w in") && error.contains("[2, 3]"),
        "{error}"
    );
    let error = told(root.tensor("v", [3, 2]).unwrap_err());
    assert!(error.contains("holds no tensor v"), "{error}");
    root.tensor("w", [2, 3]).unwrap();
    let error = told(weights.finish(|_| false).unwrap_err());
    assert!(error.contains("the tensor spare"), "{error}");
    weights.finish(|name| name == "spare").unwrap();

    let bytes = fs::read(&path).unwrap();
    for (cut, told) in [(4, "4 bytes"), (40, "header"), (bytes.len() - 1, "cut off")] {
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = open(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert!(matches!(
        open(&[folder.path().join("none")]),
        Err(WeightsError::Io { .. })
    ));
}
