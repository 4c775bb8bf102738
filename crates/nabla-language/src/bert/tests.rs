use serde_json::Value;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny_bert")
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap()).collect()
}

fn near<const D: usize>(found: Tensor<D>, expected: &Value) {
    let (found, expected): (Vec<f64>, _) =
        (found.into_data().iter::<f64>().collect(), numbers(expected));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}

#[test]
fn activations_are_those_of_transformers() {
    let text = include_str!("../../tests/reference/tiny_bert.json");
    let reference: Value = serde_json::from_str(text).unwrap();
    let device = Device::flex();
    let model = Bert::load(&folder(), &device).unwrap();
    let ids: Vec<i32> = numbers(&reference["ids"])
        .iter()
        .map(|&i| i as i32)
        .collect();
    let ids: Tensor<2, Int> = Tensor::<1, Int>::from_ints(&ids[..], &device).unsqueeze();
    for block in 0..=2 {
        let x = model.lower(ids.clone(), block);
        near(x.clone(), &reference["hidden"][block]);
        let last = model.upper(x, block);
        near(last.clone(), &reference["hidden"][2]);
        near(sentence_embedding(last), &reference["embedding"]);
    }
}

#[test]
fn what_is_missing_is_told() {
    let told = |change: fn(&Path)| {
        let copy = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(folder().join(file), copy.path().join(file)).unwrap();
        }
        change(copy.path());
        Bert::load(copy.path(), &Device::flex())
            .unwrap_err()
            .to_string()
    };
    assert!(
        told(|f| std::fs::remove_file(f.join("model.safetensors")).unwrap())
            .contains("cannot read")
    );
    assert!(
        told(|f| std::fs::write(f.join("model.safetensors"), "x").unwrap())
            .contains("no safetensors file")
    );
    let wider = told(|f| replace(f, "\"hidden_size\": 16", "\"hidden_size\": 8"));
    assert!(
        wider.contains("[19, 16], where [19, 8] was expected"),
        "{wider}"
    );
    let deeper = told(|f| replace(f, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"));
    assert!(deeper.contains("no tensor \"encoder.layer.2."), "{deeper}");
    let other = told(|f| replace(f, "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"relu\""));
    assert!(other.contains("bert with relu"), "{other}");
    let heads = told(|f| {
        replace(
            f,
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 5",
        )
    });
    assert!(heads.contains("a multiple of its heads"), "{heads}");
}

fn replace(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replace(from, to)).unwrap();
}
