use std::fs;

use nabla_data::{BitDepth, WriteOptions};
use serde_json::Value;

use super::*;

fn picture(path: &Path, value: f32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let raster = Raster::new(3, 4, 5, vec![value; 60]).unwrap();
    Picture::new(raster, BitDepth::Eight)
        .write(path, &WriteOptions::default())
        .unwrap();
}

fn told(folder: &Path) -> String {
    let read = DomainFolder::open(folder).and_then(|found| found.read(2));
    read.unwrap_err().to_string()
}

#[test]
fn a_folder_of_domains_is_read_in_the_order_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (i, domain) in ["photo", "art", "sketch"].iter().enumerate() {
        for (j, class) in ["horse", "dog"].iter().enumerate() {
            for (k, format) in ["png", "jpg", "webp"].iter().enumerate() {
                let path = root.join(format!("{domain}/{class}/{k}.{format}"));
                picture(&path, (i * 6 + j * 3 + k) as f32 / 20.0);
            }
        }
    }
    fs::write(root.join("art/dog/Thumbs.db"), "x").unwrap();
    fs::write(root.join(".DS_Store"), "x").unwrap();
    let found = DomainFolder::open(root).unwrap();
    assert_eq!(found.classes(), ["dog", "horse"]);
    assert_eq!(found.domains()[0].files.len(), 6);
    let domains = found.read(2).unwrap();
    assert_eq!(domains.names(), ["art", "photo", "sketch"]);
    let art = &domains.examples()[0];
    assert_eq!(art.labels, [0, 0, 0, 1, 1, 1]);
    assert_eq!(domains.shape(), InputShape::Picture([3, 2, 2]));
    // The second domain, its second class, JPEG.
    let expected = [9, 10, 11, 6, 7, 8].map(|x| x as f32 / 20.0);
    for (row, expected) in art.features.chunks_exact(12).zip(expected) {
        assert!(
            row.iter().all(|x| (x - expected).abs() < 0.02),
            "{row:?} for {expected}"
        );
    }
}

#[test]
fn wrong_folders_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(told(&root.join("absent")).starts_with("cannot read the folder"));
    picture(&root.join("art/dog/1.png"), 0.1);
    picture(&root.join("art/cat/1.png"), 0.1);
    assert!(told(root).contains("holds 1 folders of domains"));
    fs::create_dir(root.join("photo")).unwrap();
    assert!(told(root).contains("photo holds no folder of a class"));
    picture(&root.join("photo/dog/1.png"), 0.1);
    let missing = told(root);
    assert!(
        missing.contains("\"photo\" has not the class \"cat\", and the domain \"art\" has it"),
        "{missing}"
    );
    fs::create_dir(root.join("photo/cat")).unwrap();
    assert!(told(root).contains("cat holds no picture"));
    fs::write(root.join("photo/cat/1.png"), "no picture").unwrap();
    let none = told(root);
    assert!(none.contains("1.png"), "{none}");
    picture(&root.join("photo/cat/1.png"), 0.1);
    assert!(DomainFolder::open(root).unwrap().read(2).is_ok());
    assert!(
        DomainFolder::open(root)
            .unwrap()
            .read(0)
            .unwrap_err()
            .to_string()
            .contains("side")
    );
    picture(&root.join("photo/cow/1.png"), 0.1);
    let extra = told(root);
    assert!(
        extra.contains("has the class \"cow\", and the domain \"art\" has not"),
        "{extra}"
    );
    fs::remove_dir_all(root.join("photo/cow")).unwrap();
    fs::create_dir(root.join("photo/cat/more")).unwrap();
    assert!(told(root).contains("is a folder, but a picture is expected"));
    fs::remove_dir(root.join("photo/cat/more")).unwrap();
    fs::write(root.join("notes.txt"), "x").unwrap();
    assert!(told(root).contains("is a file, but a folder of a domain is expected"));
    fs::remove_file(root.join("notes.txt")).unwrap();
    for domain in ["art", "photo"] {
        fs::remove_dir_all(root.join(domain).join("cat")).unwrap();
    }
    assert!(told(root).contains("class \"dog\" alone"));
}

/// Values from torchvision's `Resize` of a PIL image, which rounds between both directions;
/// `tests/reference/shrunk.py`.
#[test]
fn pictures_are_brought_to_a_size_as_in_domainbed() {
    let reference: Value =
        serde_json::from_str(include_str!("../../tests/reference/shrunk.json")).unwrap();
    let floats = |value: &Value| -> Vec<f32> {
        let values = value.as_array().unwrap().iter();
        values.map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let raster = Raster::new(3, 7, 11, floats(&reference["pixels"])).unwrap();
    for size in reference["sizes"].as_array().unwrap() {
        let side = size["side"].as_u64().unwrap() as usize;
        let found = of_size(&raster, side);
        for (found, expected) in found.iter().zip(floats(&size["pixels"])) {
            assert!(
                (found - expected).abs() <= 1.01,
                "{side}: {found} for {expected}"
            );
        }
    }
}
