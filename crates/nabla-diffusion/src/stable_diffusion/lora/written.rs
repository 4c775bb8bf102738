//! New files, under the names of Kohya's scripts and LyCORIS, which AUTOMATIC1111 and ComfyUI read; `diffusers` reads
//! those of low rank (`tests/reference/style_lora.py`).

use burn::tensor::Tensor;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::LoraError;
use super::layer_names::joined;

/// The change of a linear layer: `ΔW = B A`, a LoRA with `α = r`, or any `ΔW`.
#[derive(Clone, Debug)]
pub struct WrittenChange {
    /// `A`, `[r, input]`. `None` if `B` is `ΔW` itself: the "full" kind of LyCORIS, which `diffusers` does not read.
    pub down: Option<Tensor<2>>,
    /// `B`, `[output, r]`, or `ΔW`, `[output, input]`.
    pub up: Tensor<2>,
}

impl WrittenChange {
    /// `ΔW`, `[output, input]`.
    pub fn delta(&self) -> Tensor<2> {
        match &self.down {
            Some(down) => self.up.clone().matmul(down.clone()),
            None => self.up.clone(),
        }
    }
}

/// The bytes of a file that changes the UNet.
///
/// - `changes`: the name that `diffusers` gives the layer, such as
///   `mid_block.attentions.0.transformer_blocks.0.attn2.to_k`, and its change
///
/// # Errors
/// If the numbers cannot be read from the device.
pub fn lora_file(changes: &[(String, WrittenChange)]) -> Result<Vec<u8>, LoraError> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, values: Vec<f32>| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((name, shape, bytes));
    };
    let read = |matrix: &Tensor<2>| {
        let values = matrix.clone().try_into_vec_as::<f32>();
        values.map_err(|error| LoraError::Write(error.to_string()))
    };
    for (layer, change) in changes {
        let name = |part: &str| format!("lora_unet_{}.{part}", joined(layer));
        let up = (change.up.dims().to_vec(), read(&change.up)?);
        match &change.down {
            Some(down) => {
                let [rank, _] = down.dims();
                add(name("alpha"), vec![], vec![rank as f32]);
                add(name("lora_down.weight"), down.dims().to_vec(), read(down)?);
                add(name("lora_up.weight"), up.0, up.1);
            }
            None => add(name("diff"), up.0, up.1),
        }
    }
    let failed = |error: safetensors::SafeTensorError| LoraError::Write(error.to_string());
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, LoraError>>()?;
    safetensors::serialize(views, None).map_err(failed)
}
