//! The names of changes in files: the layer, its network, and the part of the change.

use super::LoraTarget;
use super::update::Part;

/// A layer's name in Kohya's form, which does not distinguish dots from underscores.
pub(super) fn joined(layer: &str) -> String {
    layer.replace('.', "_")
}

/// The layer of a tensor, and the part of its change that the tensor is.
pub(super) fn part_of(name: &str) -> Option<(String, Part)> {
    // The older names have the layer's name inside the processor's.
    if let Some((attention, rest)) = name.split_once(".processor.") {
        let (layer, part) = rest.split_once("_lora.")?;
        let layer = match layer {
            "to_out" => "to_out.0",
            layer => layer,
        };
        let part = match part {
            "down.weight" => Part::Down,
            "up.weight" => Part::Up,
            _ => return None,
        };
        return Some((format!("{attention}.{layer}"), part));
    }
    let endings = [
        (".lora_A.weight", Part::Down),
        (".lora_B.weight", Part::Up),
        (".lora_A.default.weight", Part::Down),
        (".lora_B.default.weight", Part::Up),
        (".lora.down.weight", Part::Down),
        (".lora.up.weight", Part::Up),
        (".lora_linear_layer.down.weight", Part::Down),
        (".lora_linear_layer.up.weight", Part::Up),
        (".lora_down.weight", Part::Down),
        (".lora_up.weight", Part::Up),
        (".lora_mid.weight", Part::Middle),
        (".hada_w1_a", Part::HadamardA1),
        (".hada_w1_b", Part::HadamardB1),
        (".hada_w2_a", Part::HadamardA2),
        (".hada_w2_b", Part::HadamardB2),
        (".hada_t1", Part::HadamardCore1),
        (".hada_t2", Part::HadamardCore2),
        (".lokr_w1", Part::KroneckerLeft),
        (".lokr_w1_a", Part::KroneckerLeftA),
        (".lokr_w1_b", Part::KroneckerLeftB),
        (".lokr_w2", Part::KroneckerRight),
        (".lokr_w2_a", Part::KroneckerRightA),
        (".lokr_w2_b", Part::KroneckerRightB),
        (".lokr_t2", Part::KroneckerCore),
        (".diff", Part::Difference),
        (".diff_b", Part::DifferenceOfBias),
        (".w_norm", Part::Difference),
        (".b_norm", Part::DifferenceOfBias),
        (".on_input", Part::OnInput),
        (".dora_scale", Part::Magnitude),
        (".lora_magnitude_vector", Part::MagnitudeOfOutputs),
        (".lora_magnitude_vector.weight", Part::MagnitudeOfOutputs),
        (".lora_magnitude_vector.default", Part::MagnitudeOfOutputs),
        (
            ".lora_magnitude_vector.default.weight",
            Part::MagnitudeOfOutputs,
        ),
        (".alpha", Part::Alpha),
    ];
    endings
        .into_iter()
        .find_map(|(ending, part)| Some((name.strip_suffix(ending)?.to_owned(), part)))
}

/// The network of a layer, and the layer's name in it.
pub(super) fn target_of(module: &str) -> Option<(LoraTarget, String)> {
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

/// The kind of change that a tensor belongs to, if it is one that is not implemented.
pub(super) fn other_kind(name: &str) -> Option<&'static str> {
    let kinds = [
        (".oft_", "of an OFT or BOFT"),
        (".boft_", "of a BOFT"),
        (".a1.weight", "of a GLoRA"),
        (".a2.weight", "of a GLoRA"),
        (".b1.weight", "of a GLoRA"),
        (".b2.weight", "of a GLoRA"),
        (".lora_B.bias", "the bias of a LoRA"),
        (".lora_up.bias", "the bias of a LoRA"),
        (".vera_", "of a VeRA"),
    ];
    let mut kinds = kinds.into_iter();
    kinds.find_map(|(part, kind)| name.contains(part).then_some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let (module, _) = part_of(name).unwrap();
            assert_eq!(
                target_of(&module),
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
            let (module, _) = part_of(name).unwrap();
            assert_eq!(
                target_of(&module).unwrap(),
                (network, "q_proj".to_owned()),
                "{name}"
            );
        }
        assert!(part_of("unet.conv_in.weight").is_none());
    }
}
