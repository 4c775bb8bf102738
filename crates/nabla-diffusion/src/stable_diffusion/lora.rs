//! LoRA and its relatives: a small change of a network, added to its weights when they are loaded.
//!
//! ```text
//! W ← W + s ΔW                                      ΔW by the kind of change
//! W ← W + s (m (W + ΔW)/‖W + ΔW‖ − W)               with magnitudes m (DoRA)
//! ```
//!
//! with a strength `s` that the user chooses.
//!
//! | kind | `ΔW` | file |
//! |---|---|---|
//! | LoRA, LoCon | `(α/r) B A` | `lora/low_rank.rs` |
//! | LoHa | `(α/r) (B₁ A₁) ⊙ (B₂ A₂)` | `lora/hadamard.rs` |
//! | LoKr | `(α/r) C ⊗ D` | `lora/kronecker.rs` |
//! | full, norms | the tensor itself | `lora/difference.rs` |
//! | IA³ | `W` times a number for each channel | `lora/channel_scale.rs` |
//! | DoRA | of any of these, with magnitudes | `lora/magnitude.rs` |
//!
//! `α` is a tensor of the file, or part of the metadata that `diffusers` writes into the header
//! (`lora_adapter_metadata`, with `lora_alpha`, `alpha_pattern` and `use_rslora`, which makes the scale
//! `α/√r`). If neither has it, the scale is 1, and [`Lora::assumes_scale`] returns true: older versions of
//! `diffusers` left `α` out of the file, whatever its value.
//!
//! Two families of names are read: those of `diffusers` and PEFT (`unet.….to_q.lora_A.weight`, and the older
//! `….to_q.lora.down.weight`, `….processor.to_q_lora.down.weight`, `….lora_linear_layer.down.weight`), and
//! those of Kohya's scripts and LyCORIS (`lora_unet_…_to_q.lora_down.weight`, `lora_te_…`, `lora_te1_…`,
//! `lora_te2_…`), which have an underscore for every dot. The latter may name the UNet's layers as
//! `diffusers` does or as the original code does (`lora_unet_input_blocks_4_1_…`), which is common for SDXL.
//! Other kinds of changes (OFT, BOFT, GLoRA) are refused.
//!
//! Sources: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021, arXiv 2106.09685; Yeh et
//! al., *Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation*, 2023, arXiv
//! 2309.14859; Liu et al., *DoRA: Weight-Decomposed Low-Rank Adaptation*, 2024, arXiv 2402.09353; Liu et al.,
//! *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning*, 2022, arXiv
//! 2205.05638 (IA³).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nabla_base::range::{self, OutOfRange};

use super::latent_diffusion_names::LatentDiffusionNames;
use super::weights::{Precision, WeightChanges, Weights, WeightsError, file_metadata};
use layer_names::{joined, other_kind, part_of, target_of};
use update::Update;
pub use written::{WrittenChange, lora_file};

mod channel_scale;
mod difference;
mod hadamard;
mod kronecker;
mod layer_names;
mod low_rank;
mod magnitude;
mod matrices;
mod update;
mod written;

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
    #[error(
        "{} holds the tensor {name}, which is {kind}: only LoRA, LoHa, LoKr, DoRA, IA³ and full differences \
         are implemented",
        path.display()
    )]
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
    /// The tensors of a new file.
    #[error("the LoRA cannot be written: {0}")]
    Write(String),
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
            if let Some(kind) = other_kind(name) {
                return Err(LoraError::Kind {
                    path: path.to_owned(),
                    name: name.to_owned(),
                    kind,
                });
            }
            let Some((module, part)) = part_of(name) else {
                continue;
            };
            let Some((target, module)) = target_of(&module) else {
                continue;
            };
            let update = updates.entry((target, module)).or_default();
            update.read(part, &root, name)?;
        }
        if updates.is_empty() {
            return Err(LoraError::None(path.to_owned()));
        }
        let adapter = Adapter::read(path)?;
        for ((target, module), update) in &mut updates {
            if update.alpha.is_none() {
                (update.alpha, update.by_root) = adapter.alpha(*target, module);
            }
            update.complete().map_err(|missing| LoraError::Half {
                path: path.to_owned(),
                module: module.clone(),
                missing,
            })?;
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
        self.updates.values().any(Update::assumes_scale)
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
        let of_layer = |name: &str| {
            let layer = name.strip_suffix(".weight").or(name.strip_suffix(".bias"));
            layer.map(str::to_owned)
        };
        let Some(layer) = of_layer(tensor) else {
            return Vec::new();
        };
        let mut aliases = vec![joined(&layer)];
        match &self.names {
            Some(names) => {
                let original = of_layer(names.find_in_unet(tensor).name());
                aliases.extend(original.as_deref().map(joined));
            }
            // Some files of text encoders leave the outermost name out.
            None => aliases.extend(layer.strip_prefix("text_model.").map(joined)),
        }
        aliases
    }

    /// The change of a tensor's layer, if it changes the tensor.
    fn find(&self, tensor: &str) -> Option<&Update> {
        let aliases = self.aliases(tensor);
        let (_, update) = aliases.iter().find_map(|alias| self.updates.get(alias))?;
        let changed = match tensor.ends_with(".bias") {
            true => update.changes_bias(),
            false => update.changes_weight(),
        };
        changed.then_some(update)
    }
}

impl WeightChanges for LoraChanges {
    fn name(&self) -> String {
        format!("the LoRA {}", self.file)
    }

    fn changes(&self, tensor: &str) -> bool {
        self.find(tensor).is_some()
    }

    fn delta(&self, tensor: &str, shape: &[usize], weight: &[f32]) -> Result<Vec<f32>, String> {
        match self.find(tensor) {
            Some(update) if tensor.ends_with(".bias") => update.delta_of_bias(self.strength),
            Some(update) => update.delta(self.strength, shape, weight),
            None => Ok(vec![0.0; weight.len()]),
        }
    }

    fn left(&self, taken: &BTreeSet<String>) -> Option<String> {
        let known: BTreeSet<String> = taken.iter().flat_map(|t| self.aliases(t)).collect();
        let mut updates = self.updates.iter();
        let (_, (module, _)) = updates.find(|(layer, _)| !known.contains(*layer))?;
        Some(module.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (
                update.delta(1.0, &[1, 1], &[0.0]).unwrap()[0],
                lora.assumes_scale(),
            )
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
}
