//! A folder of `reference/tiny` as a single file, in the names that `reference/single_file.py` recorded.

#![allow(dead_code)] // each file of tests uses a part

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A tensor: kind of numbers, shape, bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// Tensors by their names.
pub type Tensors = BTreeMap<String, Stored>;

/// The rules of all models.
const NAMES: &str = include_str!("../reference/tiny/single_file_names.json");

/// What a single file calls the tensors of the model `name`, by our names with the part before them.
pub struct SingleFileNames(BTreeMap<String, String>);

impl SingleFileNames {
    pub fn of(name: &str) -> Self {
        let mut all: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_str(NAMES).unwrap();
        Self(all.remove(name).unwrap())
    }

    /// By the longest rule; see `reference/single_file.py`.
    pub fn find(&self, ours: &str) -> String {
        let rule = self
            .0
            .iter()
            .filter(|(left, _)| {
                let rest = ours.strip_prefix(left.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
            .max_by_key(|(left, _)| left.len());
        match rule {
            Some((left, right)) => format!("{right}{}", &ours[left.len()..]),
            None => panic!("no rule for {ours}"),
        }
    }
}

/// The tensors of a folder's networks in the names of a single file.
///
/// - `folder`: of the model `name`, which has the same rules
pub fn tensors(folder: &Path, name: &str) -> Tensors {
    let names = SingleFileNames::of(name);
    let mut found = Tensors::new();
    let mut thirds: BTreeMap<String, [Option<Stored>; 3]> = BTreeMap::new();
    for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        for (ours, (dtype, shape, bytes)) in part_tensors(&folder.join(part)) {
            let theirs = names.find(&format!("{part}.{ours}"));
            if let Some(theirs) = theirs.strip_suffix("^T") {
                let size = bytes.len() / (shape[0] * shape[1]);
                let turned = (0..shape[1])
                    .flat_map(|column| (0..shape[0]).map(move |row| (row, column)))
                    .flat_map(|(row, column)| {
                        let at = (row * shape[1] + column) * size;
                        bytes[at..at + size].to_vec()
                    })
                    .collect();
                found.insert(theirs.to_owned(), (dtype, vec![shape[1], shape[0]], turned));
            } else if let Some((theirs, third)) = theirs.split_once('[') {
                let third: usize = third.trim_end_matches(']').parse().unwrap();
                let all = thirds.entry(theirs.to_owned()).or_default();
                all[third] = Some((dtype, shape, bytes));
            } else {
                found.insert(theirs, (dtype, shape, bytes));
            }
        }
    }
    for (name, parts) in thirds {
        let parts = parts.map(Option::unwrap);
        let (dtype, mut shape, _) = parts[0].clone();
        shape[0] *= 3;
        let bytes = parts.iter().flat_map(|(_, _, bytes)| bytes.clone());
        found.insert(name, (dtype, shape, bytes.collect()));
    }
    found
}

/// Of a part's folder, in today's names of diffusers.
pub fn part_tensors(folder: &Path) -> Tensors {
    let mut found = Tensors::new();
    let Ok(files) = fs::read_dir(folder) else {
        return found;
    };
    for path in files.map(|file| file.unwrap().path()) {
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            if name.ends_with("position_ids") {
                continue;
            }
            let mut name = name.to_owned();
            for (first, today) in [
                ("query", "to_q"),
                ("key", "to_k"),
                ("value", "to_v"),
                ("proj_attn", "to_out.0"),
            ] {
                name = name.replace(
                    &format!(".attentions.0.{first}."),
                    &format!(".attentions.0.{today}."),
                );
            }
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            found.insert(name, tensor);
        }
    }
    found
}

/// Writes a file.
pub fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name, view)
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Copies a folder, with its weights or without.
pub fn copy_folder(from: &Path, to: &Path, with_weights: bool) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target, with_weights);
        } else if with_weights || path.extension().is_some_and(|e| e != "safetensors") {
            fs::copy(&path, &target).unwrap();
        }
    }
}
