//! States at times within a step, from its dense output.

use burn::tensor::Tensor;
use nabla_kernels::row_combination::{Term, row_combination};

use super::Save;
use crate::method::{Attempt, Method};

/// Whether some save lies within its step, where dense output is needed.
pub(crate) fn has_inside(saves: &[Save]) -> bool {
    let mut shares = saves.iter().flat_map(|save| &save.shares);
    shares.any(|&share| share < 1.0)
}

/// The weights of the stages at a share of a step.
fn weights_at(method: &Method, share: f64) -> Vec<f64> {
    match share == 1.0 {
        true => method.weights().to_vec(),
        false => method.dense_weights(share),
    }
}

/// With what the state before, and each stage, are multiplied at a save, for each trajectory: 0 for those that pass its
/// time in another step.
pub(crate) fn factors_at(
    method: &Method,
    attempt: &Attempt,
    shares: &[f64],
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let scales = method.scales(&attempt.lengths);
    let base = shares
        .iter()
        .map(|share| f64::from(u8::from(!share.is_nan())));
    let mut stages = vec![vec![0.0; shares.len()]; attempt.stages.len()];
    for (group, &share) in shares.iter().enumerate() {
        if !share.is_nan() {
            let weights = weights_at(method, share);
            for (stage, weight) in stages.iter_mut().zip(weights) {
                stage[group] = weight * scales[group];
            }
        }
    }
    (base.collect(), stages)
}

/// The state at a save.
pub(crate) fn value_at(method: &Method, attempt: &Attempt, save: &Save) -> Tensor<2> {
    if save.shares == [1.0] {
        return attempt.after.clone();
    }
    let (base, stages) = factors_at(method, attempt, &save.shares);
    let mut terms = vec![Term {
        factors: &base,
        matrix: &attempt.before,
    }];
    let each = stages.iter().zip(&attempt.stages);
    let each = each.filter(|(factors, _)| factors.iter().any(|&factor| factor != 0.0));
    terms.extend(each.map(|(factors, stage)| Term {
        factors,
        matrix: &stage.slope,
    }));
    row_combination(&terms)
}
