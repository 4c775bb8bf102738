//! The error of pictures with values in `[−1, 1]`.

use burn::tensor::Tensor;
use nabla_claims::ClaimError;

/// The mean over pictures of the PSNR of grey values in `[0, 1]`, in dB.
pub(crate) fn mean_psnr(found: Tensor<4>, truth: &Tensor<4>) -> Result<f64, ClaimError> {
    let difference = (found.clamp(-1.0, 1.0) - truth.clone()) / 2.0;
    let [count, ..] = truth.dims();
    let errors = difference.square().reshape([count as i32, -1]).mean_dim(1);
    let errors: Vec<f32> = errors.try_into_vec_as().map_err(ClaimError::experiment)?;
    let decibels = errors
        .iter()
        .map(|&e| -10.0 * f64::from(e).max(1e-12).log10());
    Ok(decibels.sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn psnr_is_of_unit_range() {
        let device = Device::flex();
        let truth = Tensor::<4>::zeros([2, 1, 4, 4], &device);
        // A tenth of the range of grey values is 20 dB.
        let found = mean_psnr(truth.clone() + 0.2, &truth).unwrap();
        assert!((found - 20.0).abs() < 1e-4, "{found}");
    }
}
