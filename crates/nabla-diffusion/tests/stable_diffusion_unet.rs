//! The UNet of Stable Diffusion 1.5, 2.1 and XL against `diffusers`, on models of the same
//! architecture and random weights.

use crate::tiny_models::{Reference, distance, folder, path};
use crate::tiny_single_file::copy_folder;
use burn::tensor::{Device, Tensor};
use nabla_diffusion::block_skipping::BlockSet;
use nabla_diffusion::stable_diffusion::attention::Context;
use nabla_diffusion::stable_diffusion::latent_diffusion_names::LatentDiffusionNames;
use nabla_diffusion::stable_diffusion::lora::{Lora, LoraTarget};
use nabla_diffusion::stable_diffusion::model_folder::ModelFolder;
use nabla_diffusion::stable_diffusion::unet2d_condition::{
    AddedCondition, Inputs, UNet2DCondition, UNet2DConditionConfig,
};
use nabla_diffusion::stable_diffusion::weights::Precision;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// The differences at each timestep, for a wide and for an odd size, relative to the largest output.
fn differences(name: &str, precision: Precision) -> Vec<f32> {
    let device = Device::flex();
    let part = folder(name)
        .part("unet", &["UNet2DConditionModel"])
        .unwrap();
    let (unet, config) = UNet2DCondition::load(&part, &device, precision).unwrap();
    let reference = Reference::of(name);
    let dtype = precision.dtype();
    let embeds = reference.tensor::<3>("text.embeds").cast(dtype);
    // SDXL has nothing for a text that is not there.
    let empty = match config.pooled_text_channels() {
        Some(_) => embeds.zeros_like(),
        None => reference.tensor::<3>("text.embeds_empty").cast(dtype),
    };
    let added = |batch: usize| {
        config.pooled_text_channels().map(|_| AddedCondition {
            text: reference
                .tensor("unet.text_embeds")
                .slice_dim(0, 2 - batch..2)
                .cast(dtype),
            size: reference
                .tensor("unet.time_ids")
                .slice_dim(0, 2 - batch..2)
                .cast(dtype),
        })
    };
    let run = |sample: &str, timestep: f32| {
        let x = reference.tensor::<4>(sample).cast(dtype);
        let batch = x.dims()[0];
        let text = match batch {
            1 => embeds.clone(),
            _ => Tensor::cat(vec![empty.clone(), embeds.clone()], 0),
        };
        let t = Tensor::<1>::full([batch], timestep, &device);
        unet.forward(x, t, &text, added(batch).as_ref())
    };
    [
        ("unet.sample", 1.0, "unet.out_t1"),
        ("unet.sample", 500.0, "unet.out_t500"),
        ("unet.sample", 999.0, "unet.out_t999"),
        ("unet.sample_wide", 500.0, "unet.out_wide_t500"),
        ("unet.sample_odd", 500.0, "unet.out_odd_t500"),
    ]
    .map(|(sample, timestep, expected)| {
        let found = run(sample, timestep);
        assert_eq!(found.dtype(), dtype);
        let expected = reference.tensor::<4>(expected);
        let largest = expected.clone().abs().max().into_scalar::<f32>();
        assert!(largest > 0.1, "{largest}");
        distance(found, expected) / largest.max(1.0)
    })
    .to_vec()
}

#[test]
fn predictions_are_those_of_diffusers() {
    for name in ["sd15", "sd21", "sdxl"] {
        for difference in differences(name, Precision::F32) {
            assert!(difference < 1e-4, "{name}: {difference}");
        }
    }
}

/// PyTorch's own results in these precisions differ by up to 0.008, 0.004, 0.23 (f16) and 0.12, 0.06, 0.15
/// (bf16); where a group norm sees twelve numbers, chance decides between half and twice as much.
#[test]
fn half_precision_is_near() {
    for (name, f16, bf16) in [
        ("sd15", 0.02, 0.25),
        ("sd21", 0.02, 0.12),
        ("sdxl", 0.45, 0.3),
    ] {
        for (precision, tolerance) in [(Precision::F16, f16), (Precision::Bf16, bf16)] {
            let found = differences(name, precision);
            println!("{name} {precision:?}: {found:?}");
            for difference in found {
                assert!(difference < tolerance, "{name} {precision:?}: {difference}");
            }
        }
    }
}

/// Merged by hand, and by `diffusers` where it can.
#[test]
fn loras_are_merged() {
    let device = Device::flex();
    let reference = Reference::of("sd15");
    let part = folder("sd15")
        .part("unet", &["UNet2DConditionModel"])
        .unwrap();
    let config = UNet2DConditionConfig::read(&part).unwrap();
    let (embeds, empty) = ("text.embeds", "text.embeds_empty");
    let text = Tensor::cat(vec![reference.tensor(empty), reference.tensor(embeds)], 0);
    for kind in ["peft", "kohya"] {
        let file = path("sd15")
            .join("lora")
            .join(format!("{kind}.safetensors"));
        let lora = Lora::read(&file, 0.8).unwrap();
        assert!(lora.changes(LoraTarget::TextEncoder) && !lora.changes(LoraTarget::TextEncoder2));
        let weights = part
            .weights("diffusion_pytorch_model", &device, Precision::F32)
            .unwrap();
        let names = LatentDiffusionNames::new(&config, 4);
        let weights = lora.merge(LoraTarget::UNet, &names, weights);
        let unet = UNet2DCondition::from_weights(&config, &weights).unwrap();
        let t = Tensor::<1>::full([2], 500.0, &device);
        let found = unet.forward(reference.tensor("unet.sample"), t, &text, None);
        let expected = reference.tensor::<4>(&format!("lora_{kind}.unet_out_t500"));
        let without = distance(expected.clone(), reference.tensor("unet.out_t500"));
        assert!(without > 1e-2, "{kind}: {without}");
        let difference = distance(found, expected);
        assert!(difference < 1e-4, "{kind}: {difference}");
    }
}

#[test]
fn a_lora_for_another_model_is_refused() {
    let file = path("sd15").join("lora/kohya.safetensors");
    let lora = Lora::read(&file, 1.0).unwrap();
    let part = folder("sdxl")
        .part("unet", &["UNet2DConditionModel"])
        .unwrap();
    let weights = part
        .weights("diffusion_pytorch_model", &Device::flex(), Precision::F32)
        .unwrap();
    let config = UNet2DConditionConfig::read(&part).unwrap();
    let names = LatentDiffusionNames::new(&config, 4);
    let weights = lora.merge(LoraTarget::UNet, &names, weights);
    let told = UNet2DCondition::from_weights(&config, &weights)
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("kohya.safetensors") && told.contains("changes"),
        "{told}"
    );
    let weights = path("sd15").join("unet/diffusion_pytorch_model.safetensors");
    let told = Lora::read(&weights, 1.0).unwrap_err().to_string();
    assert!(told.contains("holds no LoRA"), "{told}");
}

/// The network is one of Burn's: gradients flow to its weights and to the latent.
#[test]
fn gradients_reach_the_latent() {
    let device = Device::flex().autodiff();
    let part = folder("sd15")
        .part("unet", &["UNet2DConditionModel"])
        .unwrap();
    let (unet, _) = UNet2DCondition::load(&part, &device, Precision::F32).unwrap();
    let reference = Reference::of("sd15");
    let text = reference.tensor::<3>("text.embeds").autodiff();
    let at = |x: Tensor<4>| {
        let t = Tensor::<1>::full([1], 500.0, &device);
        unet.forward(x, t, &text, None).powi_scalar(2).sum()
    };
    let start = reference.tensor::<4>("unet.sample_wide").autodiff();
    let x = start.clone().require_grad();
    let gradient = x.grad(&at(x.clone()).backward()).unwrap();
    let step = 3e-4;
    let direction = gradient.clone().sign().autodiff() * step;
    let difference = (at(start.clone() + direction.clone()) - at(start - direction))
        .into_scalar::<f32>()
        / (2.0 * step as f32);
    let expected = gradient.abs().sum().into_scalar::<f32>();
    assert!(
        (difference - expected).abs() < 0.03 * expected,
        "{difference} {expected}"
    );
}

/// The names of the layers with which the residual blocks and transformers end, in the order in which they are computed.
fn last_layers(config: &UNet2DConditionConfig) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |scope: String, blocks: usize, attends: bool| {
        for block in 0..blocks {
            names.push(format!("{scope}.resnets.{block}.conv2"));
            if attends {
                names.push(format!("{scope}.attentions.{block}.proj_out"));
            }
        }
    };
    for (i, kind) in config.down_block_types.iter().enumerate() {
        let attends = kind == "CrossAttnDownBlock2D";
        add(format!("down_blocks.{i}"), config.layers_per_block, attends);
    }
    add("mid_block".to_owned(), 1, true);
    add("mid_block".to_owned(), 2, false);
    for (i, kind) in config.up_block_types.iter().enumerate() {
        let attends = kind == "CrossAttnUpBlock2D";
        add(
            format!("up_blocks.{i}"),
            config.layers_per_block + 1,
            attends,
        );
    }
    // The middle: a residual block, the transformer, the second residual block.
    let repeated = names
        .iter()
        .rposition(|name| name == "mid_block.resnets.0.conv2");
    names.remove(repeated.unwrap());
    names
}

/// A network in which a block ends in zeros computes what the network without this block computes.
#[test]
fn skipped_blocks_are_those_that_add_nothing() {
    let device = Device::flex();
    for name in ["sd15", "sdxl"] {
        let load = |model: &ModelFolder| {
            let part = model.part("unet", &["UNet2DConditionModel"]).unwrap();
            UNet2DCondition::load(&part, &device, Precision::F32).unwrap()
        };
        let (unet, config) = load(&folder(name));
        let layers = last_layers(&config);
        assert_eq!(unet.blocks(), layers.len(), "{name}");
        let reference = Reference::of(name);
        let text = reference.tensor::<3>("text.embeds");
        let added = config.pooled_text_channels().map(|_| AddedCondition {
            text: reference.tensor("unet.text_embeds").slice_dim(0, 1..2),
            size: reference.tensor("unet.time_ids").slice_dim(0, 1..2),
        });
        let context = Context::text(&text);
        let out = |unet: &UNet2DCondition, skipped: &BlockSet| {
            let x = reference.tensor::<4>("unet.sample_odd").slice_dim(0, 0..1);
            let t = Tensor::<1>::full([1], 500.0, &device);
            let inputs = Inputs {
                added: added.as_ref(),
                skipped,
                ..Inputs::new(x, t, &context)
            };
            unet.forward_joined(inputs, &mut |_, h| h)
        };
        let whole = out(&unet, BlockSet::none());
        let all = layers.len();
        for blocks in [
            vec![0],
            vec![1, 4],
            vec![all / 2, all - 1],
            vec![3, 14, 15, 16, 20],
        ] {
            let changed = tempfile::tempdir().unwrap();
            copy_folder(&path(name), changed.path(), true);
            let file = changed
                .path()
                .join("unet/diffusion_pytorch_model.safetensors");
            let bytes = std::fs::read(&file).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let of_blocks: Vec<&str> = blocks.iter().map(|&b| layers[b].as_str()).collect();
            let views: Vec<_> = tensors.tensors();
            let zeroed = views.iter().map(|(name, view)| {
                let layer = name.trim_end_matches(".weight").trim_end_matches(".bias");
                let data = match of_blocks.contains(&layer) {
                    true => vec![0; view.data().len()],
                    false => view.data().to_vec(),
                };
                (name.clone(), view.dtype(), view.shape().to_vec(), data)
            });
            let zeroed: Vec<_> = zeroed.collect();
            let views = zeroed.iter().map(|(name, dtype, shape, data)| {
                let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
                (name.as_str(), view)
            });
            std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
            let (zeroed, _) = load(&ModelFolder::open(changed.path()).unwrap());
            let skipped = BlockSet::of(blocks);
            let found = out(&unet, &skipped);
            let difference = distance(found.clone(), out(&zeroed, BlockSet::none()));
            assert!(difference < 1e-4, "{name}, {skipped}: {difference}");
            assert!(distance(found, whole.clone()) > 1e-3, "{name}, {skipped}");
        }
    }
}
