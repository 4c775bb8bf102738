//! LoRA: a small change of a network, added to its weights when they are loaded.
//!
//! ```text
//! W ← W + s (α/r) B A,   A: r x input,   B: output x r
//! ```
//!
//! with the rank `r` and the file's `α`, and a strength `s` that the user chooses. `α` is a tensor of the
//! file, or part of the metadata that `diffusers` writes into the header (`lora_adapter_metadata`, with
//! `lora_alpha`, `alpha_pattern` and `use_rslora`, which makes the scale `α/√r`). If neither has it, the
//! scale is 1, and [`Lora::assumes_scale`] returns true: older versions of `diffusers` left `α` out of the
//! file, whatever its value. For a convolution `A` has its kernel and `B` a kernel of 1; with a third matrix
//! between them (`lora_mid`), `A` and `B` have kernels of 1.
//!
//! Two families of names are read: those of `diffusers` and PEFT (`unet.….to_q.lora_A.weight`, and the older
//! `….to_q.lora.down.weight`, `….processor.to_q_lora.down.weight`, `….lora_linear_layer.down.weight`), and
//! those of Kohya's scripts (`lora_unet_…_to_q.lora_down.weight`, `lora_te_…`, `lora_te1_…`, `lora_te2_…`),
//! which have an underscore for every dot. The latter may name the UNet's layers as `diffusers` does or as
//! the original code does (`lora_unet_input_blocks_4_1_…`), which is common for SDXL. Other kinds of changes
//! (DoRA, LoHa, LoKr) are refused.
//!
//! Source: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021, arXiv 2106.09685;
//! for convolutions, Kohya's `sd-scripts` and LyCORIS.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};

use super::latent_diffusion_names::LatentDiffusionNames;
use super::weights::{Precision, WeightChanges, Weights, WeightsError, file_metadata};

/// The reason why a LoRA cannot be read or merged.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// The file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The file has no LoRA.
    #[error("{} holds no LoRA: none of its tensors has a LoRA's name", .0.display())]
    None(PathBuf),
    /// The file has another kind of change.
    #[error("{} holds the tensor {name}, which is {kind}: only LoRA is implemented", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What it belongs to.
        kind: &'static str,
    },
    /// A part of a change is missing.
    #[error("{} changes {module}, but holds no {missing} for it", path.display())]
    Half {
        /// The file.
        path: PathBuf,
        /// What is changed.
        module: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The strength is not finite.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// The network to which a change applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoraTarget {
    /// The UNet.
    UNet,
    /// The text encoder, or the first of two.
    TextEncoder,
    /// The second text encoder.
    TextEncoder2,
}

/// The low-rank change of one layer.
#[derive(Clone, Debug, Default)]
struct Update {
    /// `A`.
    down: Option<Values>,
    /// `B`.
    up: Option<Values>,
    middle: Option<Values>,
    alpha: Option<f64>,
    /// Whether the scale is `α/√r`.
    by_root: bool,
}

/// Numbers and their shape.
type Values = (Vec<f32>, Vec<usize>);

/// A file of changes; see the [module](self).
#[derive(Clone, Debug)]
pub struct Lora {
    path: PathBuf,
    strength: f64,
    /// The updates by network, and by the layer's name in the file without the part that names the network.
    updates: BTreeMap<(LoraTarget, String), Update>,
}

/// The metadata that `diffusers` writes about an adapter.
#[derive(Default)]
struct Adapter(serde_json::Map<String, serde_json::Value>);

impl Adapter {
    fn read(path: &Path) -> Result<Self, LoraError> {
        let text = file_metadata(path)?.remove("lora_adapter_metadata");
        // The other entries do not matter.
        let members = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(Self(members.unwrap_or_default()))
    }

    /// `α` of a layer, and whether the scale is `α/√r`.
    fn alpha(&self, target: LoraTarget, layer: &str) -> (Option<f64>, bool) {
        let network = match target {
            LoraTarget::UNet => "unet",
            LoraTarget::TextEncoder => "text_encoder",
            LoraTarget::TextEncoder2 => "text_encoder_2",
        };
        let value = |key: &str| self.0.get(&format!("{network}.{key}"));
        // A pattern is a layer's name, or the end of several layers' names.
        let pattern = value("alpha_pattern").and_then(serde_json::Value::as_object);
        let own = pattern.and_then(|pattern| {
            let mut pattern = pattern.iter();
            let named = pattern.find(|(name, _)| {
                layer
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            });
            named?.1.as_f64()
        });
        let all = || value("lora_alpha").and_then(serde_json::Value::as_f64);
        let by_root = value("use_rslora").and_then(serde_json::Value::as_bool);
        (own.or_else(all), by_root.unwrap_or(false))
    }
}

/// The part of an update that a tensor is.
enum Role {
    Down,
    Up,
    Middle,
    Alpha,
}

impl Lora {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or contains no LoRA or another kind of change.
    pub fn read(path: &Path, strength: f64) -> Result<Self, LoraError> {
        range::finite(format!("strength of the LoRA {}", path.display()), strength)?;
        let weights = Weights::open(&[path.to_owned()], &Device::flex(), Precision::F32)?;
        let root = weights.root();
        let mut updates: BTreeMap<(LoraTarget, String), Update> = BTreeMap::new();
        for name in weights.names_below("") {
            for (part, kind) in [
                ("dora_scale", "of a DoRA"),
                ("lora_magnitude_vector", "of a DoRA"),
                ("hada_w", "of a LoHa"),
                ("lokr_w", "of a LoKr"),
            ] {
                if name.contains(part) {
                    return Err(LoraError::Kind {
                        path: path.to_owned(),
                        name: name.to_owned(),
                        kind,
                    });
                }
            }
            let Some((module, role)) = role(name) else {
                continue;
            };
            let Some((target, module)) = target(&module) else {
                continue;
            };
            let update = updates.entry((target, module)).or_default();
            let values = root.values(name)?;
            match role {
                Role::Down => update.down = Some(values),
                Role::Up => update.up = Some(values),
                Role::Middle => update.middle = Some(values),
                Role::Alpha => update.alpha = values.0.first().map(|&a| f64::from(a)),
            }
        }
        if updates.is_empty() {
            return Err(LoraError::None(path.to_owned()));
        }
        let adapter = Adapter::read(path)?;
        for ((target, module), update) in &mut updates {
            if update.alpha.is_none() {
                (update.alpha, update.by_root) = adapter.alpha(*target, module);
            }
            for (missing, there) in [("down", &update.down), ("up", &update.up)] {
                if there.is_none() {
                    return Err(LoraError::Half {
                        path: path.to_owned(),
                        module: module.clone(),
                        missing,
                    });
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            strength,
            updates,
        })
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether, for some layer, neither a tensor nor the header gives `α`, so that its scale is assumed to be
    /// 1.
    pub fn assumes_scale(&self) -> bool {
        self.updates.values().any(|update| update.alpha.is_none())
    }

    /// Whether it changes this network.
    pub fn changes(&self, target: LoraTarget) -> bool {
        self.updates.keys().any(|(t, _)| *t == target)
    }

    /// Adds the changes of a network to its weights. If a change does not fit its layer, loading the layer
    /// fails; if the network does not have the layer, [`Weights::finish`] fails.
    ///
    /// - `names`: the original code's names of the UNet's layers
    pub fn merge(
        &self,
        target: LoraTarget,
        names: &LatentDiffusionNames,
        weights: Weights,
    ) -> Weights {
        let updates = self.updates.iter().filter(|((t, _), _)| *t == target);
        weights.with_changes(LoraChanges {
            file: self.path.display().to_string(),
            strength: self.strength,
            updates: updates
                .map(|((_, module), update)| (joined(module), (module.clone(), update.clone())))
                .collect(),
            names: (target == LoraTarget::UNet).then(|| names.clone()),
        })
    }
}

/// A layer's name in Kohya's form, which does not distinguish dots from underscores.
fn joined(layer: &str) -> String {
    layer.replace('.', "_")
}

/// The layer of a tensor, and its role in the change.
fn role(name: &str) -> Option<(String, Role)> {
    // The older names have the layer's name inside the processor's.
    if let Some((attention, rest)) = name.split_once(".processor.") {
        let (layer, part) = rest.split_once("_lora.")?;
        let layer = match layer {
            "to_out" => "to_out.0",
            layer => layer,
        };
        let role = match part {
            "down.weight" => Role::Down,
            "up.weight" => Role::Up,
            _ => return None,
        };
        return Some((format!("{attention}.{layer}"), role));
    }
    let endings = [
        (".lora_A.weight", Role::Down),
        (".lora_B.weight", Role::Up),
        (".lora_A.default.weight", Role::Down),
        (".lora_B.default.weight", Role::Up),
        (".lora.down.weight", Role::Down),
        (".lora.up.weight", Role::Up),
        (".lora_linear_layer.down.weight", Role::Down),
        (".lora_linear_layer.up.weight", Role::Up),
        (".lora_down.weight", Role::Down),
        (".lora_up.weight", Role::Up),
        (".lora_mid.weight", Role::Middle),
        (".alpha", Role::Alpha),
    ];
    endings
        .into_iter()
        .find_map(|(ending, role)| Some((name.strip_suffix(ending)?.to_owned(), role)))
}

/// The network of a layer, and the layer's name in it.
fn target(module: &str) -> Option<(LoraTarget, String)> {
    let prefixes = [
        ("unet.", LoraTarget::UNet),
        ("text_encoder.", LoraTarget::TextEncoder),
        ("text_encoder_2.", LoraTarget::TextEncoder2),
        ("lora_unet_", LoraTarget::UNet),
        ("lora_te_", LoraTarget::TextEncoder),
        ("lora_te1_", LoraTarget::TextEncoder),
        ("lora_te2_", LoraTarget::TextEncoder2),
        ("base_model.model.", LoraTarget::UNet),
    ];
    let found = prefixes
        .into_iter()
        .find_map(|(prefix, target)| Some((target, module.strip_prefix(prefix)?.to_owned())));
    // Files that contain only attention processors do not name the network.
    found.or_else(|| {
        let bare = ["down_blocks.", "mid_block.", "up_blocks."];
        let unet = bare.iter().any(|prefix| module.starts_with(prefix));
        unet.then(|| (LoraTarget::UNet, module.to_owned()))
    })
}

/// The changes of one network.
#[derive(Debug)]
struct LoraChanges {
    file: String,
    strength: f64,
    /// The name in the file and the change, by the layer's name in Kohya's form.
    updates: BTreeMap<String, (String, Update)>,
    /// The names of the UNet's layers.
    names: Option<LatentDiffusionNames>,
}

impl LoraChanges {
    /// The names that files may use for the layer of a tensor, in Kohya's form.
    fn aliases(&self, tensor: &str) -> Vec<String> {
        let Some(layer) = tensor.strip_suffix(".weight") else {
            return Vec::new();
        };
        let mut aliases = vec![joined(layer)];
        match &self.names {
            Some(names) => {
                let original = names.find_in_unet(tensor);
                let layer = original.name().strip_suffix(".weight");
                aliases.extend(layer.map(joined));
            }
            // Some files of text encoders leave the outermost name out.
            None => aliases.extend(layer.strip_prefix("text_model.").map(joined)),
        }
        aliases
    }
}

impl WeightChanges for LoraChanges {
    fn name(&self) -> String {
        format!("the LoRA {}", self.file)
    }

    fn delta(&self, tensor: &str, shape: &[usize]) -> Option<Result<Vec<f32>, String>> {
        let aliases = self.aliases(tensor);
        let (_, update) = aliases.iter().find_map(|alias| self.updates.get(alias))?;
        Some(update.delta(self.strength, shape))
    }

    fn left(&self, taken: &BTreeSet<String>) -> Option<String> {
        let known: BTreeSet<String> = taken.iter().flat_map(|t| self.aliases(t)).collect();
        let mut updates = self.updates.iter();
        let (_, (module, _)) = updates.find(|(layer, _)| !known.contains(*layer))?;
        Some(module.clone())
    }
}

impl Update {
    /// `s (α/r) B A` for a tensor of `shape`.
    fn delta(&self, strength: f64, shape: &[usize]) -> Result<Vec<f32>, String> {
        let (Some((down, down_shape)), Some((up, up_shape))) = (&self.down, &self.up) else {
            return Err("of which a half is missing".to_owned());
        };
        let wrong = || {
            format!("which has the shape {shape:?}, by matrices of {down_shape:?} and {up_shape:?}")
        };
        let matrix = |values: &[f32], size: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), size), &Device::flex())
        };
        let (Some(&rank), Some(&output)) = (down_shape.first(), up_shape.first()) else {
            return Err(wrong());
        };
        if rank == 0 || output == 0 || up.len() != output * rank {
            return Err(wrong());
        }
        let columns = down.len() / rank;
        let (b, a) = (matrix(up, [output, rank]), matrix(down, [rank, columns]));
        let product = match &self.middle {
            None => b.matmul(a), // [output, columns]
            Some((middle, _)) => {
                // B M A with a kernel in M: [output, r] x [r, r', k] x [r', columns]
                let kernel = middle.len() / (rank * rank);
                if kernel == 0 || middle.len() != rank * rank * kernel {
                    return Err(wrong());
                }
                b.matmul(matrix(middle, [rank, rank * kernel]))
                    .reshape([output, rank, kernel])
                    .swap_dims(1, 2)
                    .reshape([output * kernel, rank])
                    .matmul(a)
                    .reshape([output, kernel, columns])
                    .swap_dims(1, 2)
                    .reshape([output, columns * kernel])
            }
        };
        if shape.first() != Some(&output)
            || shape.iter().product::<usize>() != product.shape().num_elements()
        {
            return Err(wrong());
        }
        let scale = match (self.alpha, self.by_root) {
            (None, _) => 1.0,
            (Some(alpha), true) => alpha / (rank as f64).sqrt(),
            (Some(alpha), false) => alpha / rank as f64,
        };
        let delta = (product * (strength * scale)).into_data();
        delta
            .try_to_vec()
            .map_err(|e| format!("which failed: {e:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_between_the_two_has_the_kernel() {
        // r = 2, kernel 1 x 2: Δ[o, i, k] = Σ B[o, r] M[r, s, k] A[s, i]
        let (b, a) = (vec![1.0, 2.0], vec![3.0, 5.0]); // [1, 2] and [2, 1]
        let middle = vec![1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0]; // [2, 2, 1, 2]
        let update = Update {
            down: Some((a, vec![2, 1, 1, 1])),
            up: Some((b, vec![1, 2, 1, 1])),
            middle: Some((middle, vec![2, 2, 1, 2])),
            alpha: Some(1.0),
            by_root: false,
        };
        // k = 0: [1 0; 2 0] A = [3, 6] -> 3 + 12; k = 1: [0 1; 0 3] A = [5, 15] -> 5 + 30
        assert_eq!(update.delta(2.0, &[1, 1, 1, 2]).unwrap(), [15.0, 35.0]);
        assert!(
            update
                .delta(2.0, &[1, 1, 1, 3])
                .unwrap_err()
                .contains("[1, 1, 1, 3]")
        );
    }

    /// As `save_lora_weights` of diffusers 0.42 writes the header, with and without the adapter's data: there
    /// an adapter of scale 2 comes back with scale 1.
    #[test]
    fn the_scale_is_that_of_the_header_or_said_to_be_assumed() {
        use safetensors::tensor::{Dtype, TensorView};
        use std::collections::HashMap;

        let folder = tempfile::tempdir().unwrap();
        let delta = |adapter: Option<&str>, alpha: Option<f32>| {
            let bytes = |values: &[f32]| -> Vec<u8> {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            };
            // Rank 4: A is of ones, B of halves.
            let (a, b) = (bytes(&[1.0; 4]), bytes(&[0.5; 4]));
            let view = |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data);
            let layer = "unet.mid_block.attentions.0.proj_in";
            let mut tensors = vec![
                (format!("{layer}.lora_A.weight"), view(&[4, 1], &a).unwrap()),
                (format!("{layer}.lora_B.weight"), view(&[1, 4], &b).unwrap()),
            ];
            let alpha = alpha.map(|alpha| bytes(&[alpha]));
            if let Some(alpha) = &alpha {
                tensors.push((format!("{layer}.alpha"), view(&[], alpha).unwrap()));
            }
            let mut header = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            header.extend(adapter.map(|a| ("lora_adapter_metadata".to_owned(), a.to_owned())));
            let path = folder.path().join("lora.safetensors");
            std::fs::write(
                &path,
                safetensors::serialize(tensors, Some(header)).unwrap(),
            )
            .unwrap();
            let lora = Lora::read(&path, 1.0).unwrap();
            let update = lora.updates.values().next().unwrap();
            (update.delta(1.0, &[1, 1]).unwrap()[0], lora.assumes_scale())
        };
        // B A = 2, times α/r.
        assert_eq!(delta(None, None), (2.0, true));
        assert_eq!(delta(Some("no JSON"), None), (2.0, true));
        assert_eq!(
            delta(Some(r#"{"text_encoder.lora_alpha": 8}"#), None),
            (2.0, true)
        );
        let eight = r#"{"unet.lora_alpha": 8, "unet.r": 4, "unet.alpha_pattern": {}}"#;
        assert_eq!(delta(Some(eight), None), (4.0, false));
        let own = r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"proj_in": 2, "n": 1}}"#;
        assert_eq!(delta(Some(own), None), (1.0, false));
        let root = r#"{"unet.lora_alpha": 8, "unet.use_rslora": true}"#;
        assert_eq!(delta(Some(root), None), (8.0, false));
        // The tensor says it for its layer.
        assert_eq!(delta(Some(eight), Some(1.0)), (0.5, false));
    }

    #[test]
    fn names_of_every_kind_are_understood() {
        for (name, layer) in [
            (
                "unet.mid_block.attentions.0.proj_in.lora_A.weight",
                "mid_block.attentions.0.proj_in",
            ),
            ("unet.a.attn1.to_out.0.lora.up.weight", "a.attn1.to_out.0"),
            (
                "unet.a.attn1.processor.to_out_lora.down.weight",
                "a.attn1.to_out.0",
            ),
            (
                "mid_block.attn1.processor.to_q_lora.up.weight",
                "mid_block.attn1.to_q",
            ),
            ("lora_unet_a_attn1_to_q.alpha", "a_attn1_to_q"),
        ] {
            let (module, _) = role(name).unwrap();
            assert_eq!(
                target(&module),
                Some((LoraTarget::UNet, layer.to_owned())),
                "{name}"
            );
        }
        for (name, network) in [
            (
                "text_encoder.q_proj.lora_linear_layer.up.weight",
                LoraTarget::TextEncoder,
            ),
            ("lora_te1_q_proj.lora_up.weight", LoraTarget::TextEncoder),
            ("lora_te2_q_proj.lora_mid.weight", LoraTarget::TextEncoder2),
        ] {
            let (module, _) = role(name).unwrap();
            assert_eq!(
                target(&module).unwrap(),
                (network, "q_proj".to_owned()),
                "{name}"
            );
        }
        assert!(role("unet.conv_in.weight").is_none());
    }
}
