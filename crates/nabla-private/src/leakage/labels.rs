//! The classes of a batch's pictures, from the gradient of the last layer.
//!
//! Softmax cross-entropy has the gradient `(p_c − 1[c = y]) a` by the row `c` of the last matrix, where `a` is the
//! layer's input. If `a` is not negative (after rectified units or a sigmoid), an example's row has a negative sum for
//! its own class alone. Of a batch of `B` examples with different labels, the classes of the `B` smallest are taken, by
//! one of two [rules](LabelRule):
//!
//! ```text
//! sums     Σ_f ∂ℓ/∂W_{f,c}        minima     min_f ∂ℓ/∂W_{f,c}
//! ```
//!
//! A sum has the whole row, so that noise averages out; a minimum stays where other examples' positive parts would cancel
//! a class in the sum.
//!
//! A linear sketch `S g` keeps sums on average: `Σ_f ∂ℓ/∂W_{f,c} = ⟨u_c, g⟩` with ones at the row's numbers, and
//! `⟨S u_c, S g⟩` estimates it without bias, with a variance of at most `v (‖u_c‖²‖g‖² + ⟨u_c, g⟩²)`, of which `v` is
//! [`LinearSketch::variance`]. From a short sketch these estimates are noise, so the labels count as
//! found only if the classes taken are two standard errors away from those left out. Minima cannot be seen in a sketch.
//!
//! Sources: Zhao, Mopuri, Bilen, *iDLG*, 2020, arXiv 2001.02610; Li, Zhang, Liu, Liu, *Auditing Privacy Defenses in
//! Federated Learning via Generative Gradient Leakage*, CVPR 2022, arXiv 2203.15696 (sums); Yin et al., *See through
//! Gradients*, CVPR 2021, arXiv 2104.07586, eq. 8 (minima). Through a sketch: ours.

use burn::tensor::Tensor;
use nabla_grad::sketch::LinearSketch;

use super::error::LeakageError;

/// What of a class's row counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelRule {
    /// Its sum.
    #[default]
    Sums,
    /// Its smallest number.
    Minima,
}

/// The labels of `batch` pictures, in ascending order.
///
/// - `gradient`: by the last layer's matrix, `[features, classes]`
///
/// # Errors
/// If there are fewer classes than pictures.
pub fn infer_labels(
    gradient: &Tensor<2>,
    batch: usize,
    rule: LabelRule,
) -> Result<Vec<usize>, LeakageError> {
    let rows = match rule {
        LabelRule::Sums => gradient.clone().sum_dim(0),
        LabelRule::Minima => gradient.clone().min_dim(0),
    };
    let values: Vec<f64> = rows.into_data().iter().collect();
    let (mut taken, _) = smallest(&values, batch)?;
    taken.sort_unstable();
    Ok(taken)
}

/// The classes of the `batch` smallest values, and the others, each in ascending order of the values.
fn smallest(values: &[f64], batch: usize) -> Result<(Vec<usize>, Vec<usize>), LeakageError> {
    let classes = values.len();
    if batch > classes {
        return Err(LeakageError::Labels { batch, classes });
    }
    let mut order: Vec<usize> = (0..classes).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let others = order.split_off(batch);
    Ok((order, others))
}

/// The labels of `batch` pictures, in ascending order, from a sketch of the gradient; none if it is too short to tell.
///
/// - `observed`: `S g`, `[m]`
/// - `offset`, `shape`: where the last layer's matrix, `[features, classes]`, is in the gradient
///
/// # Errors
/// If there are fewer classes than pictures, or the sketch is of other vectors.
pub fn infer_labels_from_sketch(
    sketch: &dyn LinearSketch,
    observed: &[f64],
    offset: usize,
    [features, classes]: [usize; 2],
    batch: usize,
) -> Result<Option<Vec<usize>>, LeakageError> {
    let squared: f64 = observed.iter().map(|y| y * y).sum();
    let mut estimates = Vec::with_capacity(classes);
    for class in 0..classes {
        let mut ones = vec![0.0; sketch.dimension()];
        for feature in 0..features {
            let at = offset + feature * classes + class;
            *ones.get_mut(at).ok_or(LeakageError::Length {
                expected: offset + features * classes,
                found: sketch.dimension(),
            })? = 1.0;
        }
        let seen = sketch.apply_values(&ones)?; // [m]
        let products = seen.iter().zip(observed).map(|(u, y)| u * y);
        estimates.push(products.sum::<f64>());
    }
    let (mut taken, others) = smallest(&estimates, batch)?;
    if let (Some(&last), Some(&next)) = (taken.last(), others.first()) {
        let variance = |class: usize| {
            sketch.variance() * (features as f64 * squared + estimates[class].powi(2))
        };
        let error = (variance(last) + variance(next)).sqrt();
        if estimates[next] - estimates[last] < 2.0 * error {
            return Ok(None);
        }
    }
    taken.sort_unstable();
    Ok(Some(taken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use nabla_grad::seeded_noise::SeededNoise;
    use nabla_grad::sketch::SketchFamily;

    /// `Σ_examples a ⊗ (p − e_y)` by hand, with `features` numbers in `a` and a `p` of 1/5.
    fn values(labels: &[usize], features: usize) -> Vec<f64> {
        let mut values = vec![0.0; features * 5];
        for (example, &label) in labels.iter().enumerate() {
            for i in 0..features {
                let a = 0.2 + 0.3 * ((i * (example + 2)) % 4) as f64;
                for c in 0..5 {
                    values[5 * i + c] += a * (0.2 - f64::from(u8::from(c == label)));
                }
            }
        }
        values
    }

    fn gradient(labels: &[usize]) -> Tensor<2> {
        let data = TensorData::new(values(labels, 3), [3, 5]);
        Tensor::<2>::from_data(data, &Device::flex())
    }

    #[test]
    fn different_labels_of_positive_features_are_found() {
        for rule in [LabelRule::Sums, LabelRule::Minima] {
            let found = |labels: &[usize]| infer_labels(&gradient(labels), labels.len(), rule);
            for label in 0..5 {
                assert_eq!(found(&[label]).unwrap(), [label]);
            }
            assert_eq!(found(&[4, 1, 2]).unwrap(), [1, 2, 4]);
            let all = infer_labels(&gradient(&[0]), 6, rule);
            assert!(matches!(all, Err(LeakageError::Labels { .. })));
        }
    }

    /// Class 0 has one feature that says −1 and others that cancel it: the sum is blind, the minimum is not.
    #[test]
    fn a_minimum_sees_what_a_sum_cancels() {
        let rows = [[-1.0, 0.2, 0.3], [0.9, -0.1, 0.2], [0.9, -0.1, 0.2]];
        let gradient = Tensor::<2>::from_floats(rows, &Device::flex());
        let found = |rule| infer_labels(&gradient, 1, rule).unwrap();
        assert_eq!(found(LabelRule::Minima), [0]);
        assert_eq!(found(LabelRule::Sums), [1]);
    }

    #[test]
    fn a_long_sketch_tells_the_labels_and_a_short_one_says_that_it_does_not() {
        let (features, offset) = (40, 100);
        let mut gradient: Vec<f32> = SeededNoise::new(1, 0).normal_values(offset);
        gradient.iter_mut().for_each(|g| *g *= 0.3);
        gradient.extend(values(&[3, 1], features).into_iter().map(|v| v as f32));
        let gradient: Vec<f64> = gradient.into_iter().map(f64::from).collect();
        let found = |family: SketchFamily, rows| {
            let mut noise = SeededNoise::new(2, 0);
            let sketch = family.draw(rows, gradient.len(), &mut noise).unwrap();
            let observed = sketch.apply_values(&gradient).unwrap();
            infer_labels_from_sketch(&*sketch, &observed, offset, [features, 5], 2).unwrap()
        };
        for family in [
            SketchFamily::Gaussian,
            SketchFamily::Count,
            SketchFamily::Srht,
        ] {
            assert_eq!(found(family, 250), Some(vec![1, 3]), "{family:?}");
            assert_eq!(found(family, 4), None, "{family:?}");
        }
        assert_eq!(
            found(SketchFamily::Identity, gradient.len()),
            Some(vec![1, 3])
        );
        let sketch = SketchFamily::Identity.draw(9, 9, &mut SeededNoise::new(0, 0));
        let short = infer_labels_from_sketch(&*sketch.unwrap(), &[0.0; 9], 3, [2, 5], 1);
        assert!(matches!(short, Err(LeakageError::Length { .. })));
    }
}
