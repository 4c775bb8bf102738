//! Initial weights: He's normal distribution, drawn on the host, the same on every device.
//!
//! A weight in a layer with `n` inputs is drawn from `N(0, 2/n)`, which preserves the variance of activations
//! through layers of rectified units; `n` is `d_input` of a `[d_input, d_output]` matrix and `channels_in ·
//! height · width` of a kernel `[channels_out, channels_in, height, width]`. Vectors (biases 0, gains of
//! normalisation 1) stay as the layers initialise them.
//!
//! Source: He, Zhang, Ren, Sun, *Delving Deep into Rectifiers*, 2015, arXiv 1502.01852, eq. 10.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_grad::seeded_noise::SeededNoise;

/// The stream of the seed for the initial weights.
const WEIGHTS_STREAM: u64 = 0;

/// `module` with matrices and kernels drawn from `seed`, in the order of its parameters.
///
/// # Errors
/// If the module has no parameters.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::Device;
/// use nabla_train::initialization::he_normal;
///
/// let layer: Linear = LinearConfig::new(400, 50).init(&Device::flex().autodiff());
/// let layer = he_normal(layer, 7)?;
/// let spread: f32 = layer.weight.val().var(0).mean().into_scalar();
/// assert!((spread - 2.0 / 400.0).abs() < 5e-4);
/// # Ok::<(), nabla_grad::flat::FlatError>(())
/// ```
pub fn he_normal<M: Module>(module: M, seed: u64) -> Result<M, FlatError> {
    let layout = ParameterLayout::trainable(&module)?;
    let present = layout.flatten_parameters(&module)?;
    let dtype = present.dtype();
    let mut values: Vec<f32> = present.into_data().iter::<f32>().collect();
    let mut noise = SeededNoise::new(seed, WEIGHTS_STREAM);
    for entry in layout.entries() {
        let inputs: usize = match entry.shape() {
            [_] => continue,
            [inputs, _] => *inputs,
            shape => shape.iter().skip(1).product(),
        };
        let deviation = (2.0 / inputs.max(1) as f64).sqrt() as f32;
        let drawn = noise.normal_values(entry.num_elements());
        for (value, z) in values[entry.range()].iter_mut().zip(drawn) {
            *value = deviation * z;
        }
    }
    let data = TensorData::new(values, [layout.total_length()]);
    let vector = Tensor::<1>::from_data(data, (layout.device(), dtype));
    layout.with_parameters(module, vector)
}
