//! Soteria: the features of the last hidden layer that tell most about the picture are not shared.
//!
//! With the features `r ∈ Rᶠ`, the input of the last layer, and one example `x`, the rows of the last layer's matrix
//! whose
//!
//! ```text
//! ‖∂r_i/∂x‖ / |r_i|
//! ```
//!
//! is smallest are left out of the gradient: those numbers carry much of the picture, and move it little. For several
//! examples, their mean ratio counts. A feature of 0 has an infinite ratio and stays, since nothing is to be seen in it.
//!
//! Source: Sun, Li, Wang, Yang, Li, Chen, *Provable Defense against Privacy Leakage in Federated Learning from
//! Representation Perspective*, CVPR 2021, arXiv 2012.06043.

use burn::tensor::Tensor;
use nabla_base::range;

use super::error::LeakageError;
use super::gradient_oracle::leaf;

/// The features that are hidden, in ascending order.
///
/// - `pictures`: `[batch, unknowns]`; `features`: `[batch, unknowns]` to `[batch, features]`
/// - `share`: of the features. 0.1 in the paper
///
/// # Errors
/// If the share is not in `[0, 1]`, or the features do not depend on the pictures.
pub fn hidden_features(
    pictures: &Tensor<2>,
    features: &dyn Fn(Tensor<2>) -> Tensor<2>,
    share: f64,
) -> Result<Vec<usize>, LeakageError> {
    range::within("share of the hidden features", share, 0.0..=1.0)?;
    let leaf = leaf(pictures);
    let seen = features(leaf.clone()); // [batch, features]
    let [batch, count] = seen.dims();
    let values: Vec<f64> = seen.clone().without_autodiff().into_data().iter().collect();
    let mut ratios = Vec::with_capacity(count);
    for feature in 0..count {
        // Rows do not mix: the sum's gradient has one row for each example.
        let mut gradients = features(leaf.clone())
            .narrow(1, feature, 1)
            .sum()
            .backward();
        let gradient = leaf
            .grad_remove(&mut gradients)
            .ok_or(LeakageError::NoGradient)?;
        let squares = gradient.square().sum_dim(1); // [batch, 1]
        let norms = squares
            .into_data()
            .iter::<f64>()
            .map(f64::sqrt)
            .collect::<Vec<_>>();
        let ratio = norms.iter().enumerate().map(|(example, norm)| {
            let value = values[example * count + feature].abs();
            if value > 0.0 {
                norm / value
            } else {
                f64::INFINITY
            }
        });
        ratios.push((ratio.sum::<f64>() / batch as f64, feature));
    }
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    ratios.truncate((share * count as f64).round() as usize);
    let mut hidden: Vec<usize> = ratios.into_iter().map(|(_, feature)| feature).collect();
    hidden.sort_unstable();
    Ok(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// Features (x₁, 3x₂, 0): at (2, 1) the ratios are 1/2, 3/3 and infinite.
    #[test]
    fn the_smallest_ratio_is_hidden_first() {
        let device = Device::flex();
        let x = Tensor::<2>::from_floats([[2.0, 1.0]], &device);
        let features = |x: Tensor<2>| {
            let scale = Tensor::<2>::from_floats([[1.0, 3.0]], &device).autodiff();
            let scaled = x.clone() * scale;
            Tensor::cat(vec![scaled, x.narrow(1, 0, 1) * 0.0], 1)
        };
        let hidden = |share| hidden_features(&x, &features, share).unwrap();
        assert!(hidden(0.0).is_empty());
        assert_eq!(hidden(0.34), [0]);
        assert_eq!(hidden(0.67), [0, 1]);
        assert!(hidden_features(&x, &features, 1.1).is_err());
    }
}
