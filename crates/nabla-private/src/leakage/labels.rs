//! The classes of a batch's pictures, from the gradient of the last layer.
//!
//! Softmax cross-entropy has the gradient `(p_c − 1[c = y]) a` by the row `c` of the last matrix, where `a` is the
//! layer's input. If `a` is not negative (after rectified units or a sigmoid), an example's row has a negative sum for
//! its own class alone. Of a batch of `B` examples with different labels, the `B` smallest sums are taken.
//!
//! Sources: Zhao, Mopuri, Bilen, *iDLG*, 2020, arXiv 2001.02610; Yin et al., *See through Gradients*, 2021, arXiv
//! 2104.07586.

use burn::tensor::Tensor;

use super::error::LeakageError;

/// The labels of `batch` pictures, in ascending order.
///
/// - `gradient`: by the last layer's matrix, `[features, classes]`
///
/// # Errors
/// If there are fewer classes than pictures.
pub fn infer_labels(gradient: &Tensor<2>, batch: usize) -> Result<Vec<usize>, LeakageError> {
    let [_, classes] = gradient.dims();
    if batch > classes {
        return Err(LeakageError::Labels { batch, classes });
    }
    let sums: Vec<f64> = gradient.clone().sum_dim(0).into_data().iter().collect();
    let mut order: Vec<usize> = (0..classes).collect();
    order.sort_by(|&a, &b| sums[a].total_cmp(&sums[b]));
    order.truncate(batch);
    order.sort_unstable();
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// `Σ_examples a ⊗ (p − e_y)` by hand.
    #[test]
    fn different_labels_of_positive_features_are_found() {
        let gradient = |labels: &[usize]| {
            let mut values = vec![0.0; 3 * 5];
            for (example, &label) in labels.iter().enumerate() {
                for (i, a) in [0.2, 0.5, 1.0 + example as f64].into_iter().enumerate() {
                    for c in 0..5 {
                        values[5 * i + c] += a * (0.2 - f64::from(u8::from(c == label)));
                    }
                }
            }
            Tensor::<2>::from_data(TensorData::new(values, [3, 5]), &Device::flex())
        };
        for label in 0..5 {
            assert_eq!(infer_labels(&gradient(&[label]), 1).unwrap(), [label]);
        }
        assert_eq!(infer_labels(&gradient(&[4, 1, 2]), 3).unwrap(), [1, 2, 4]);
        let found = infer_labels(&gradient(&[0]), 6);
        assert!(matches!(found, Err(LeakageError::Labels { .. })));
    }
}
