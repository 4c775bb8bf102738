//! Total variation, the prior without a network.
//!
//! ```text
//! min_x ½‖y − A x‖² + λ ‖D x‖₁,   D: the differences of neighbouring pixels, across and down
//! x = CG(AᵀA + ρ DᵀD, Aᵀy + ρ Dᵀ(z − u)),   z = soft(D x + u, λ/ρ),   u = u + D x − z
//! ```

use burn::tensor::Tensor;
use nabla_diffusion::restore::{ConjugateGradient, OperatorError, Problem};

const ITERATIONS: usize = 100;

/// `λ/ρ`, in units of the pictures' range of 2.
const THRESHOLD: f64 = 0.1;

const SOLVER: ConjugateGradient = ConjugateGradient {
    iterations: 10,
    tolerance: 1e-6,
};

/// The pictures of least total variation that fit, `[batch, channels, height, width]`.
pub(super) fn restored(problem: &Problem, weight: f64) -> Result<Tensor<4>, OperatorError> {
    let operator = problem.operator();
    let penalty = weight / THRESHOLD;
    let projected = operator.adjoint(problem.measurement().clone())?;
    let mut x = projected.zeros_like();
    let mut z = differences(&x);
    let mut u = z.clone();
    for _ in 0..ITERATIONS {
        let [across, down] = [0, 1].map(|i| z[i].clone() - u[i].clone());
        let right = projected.clone() + adjoint([across, down]) * penalty;
        let apply =
            |x: Tensor<4>| Ok(operator.normal(x.clone())? + adjoint(differences(&x)) * penalty);
        x = SOLVER.solve(apply, right, x)?.x;
        let moved = differences(&x);
        for i in 0..2 {
            let sum = moved[i].clone() + u[i].clone();
            z[i] = sum.clone().sign() * (sum.clone().abs() - THRESHOLD).clamp_min(0.0);
            u[i] = sum - z[i].clone();
        }
    }
    Ok(x)
}

/// `D x`: across and down, each of the shape of the picture, 0 at the last pixel.
fn differences(x: &Tensor<4>) -> [Tensor<4>; 2] {
    [3, 2].map(|axis| {
        let count = x.dims()[axis];
        let after = x.clone().slice_dim(axis, 1..count);
        let before = x.clone().slice_dim(axis, 0..count - 1);
        let none = x.clone().slice_dim(axis, 0..1).zeros_like();
        Tensor::cat(vec![after - before, none], axis)
    })
}

/// `Dᵀ d`.
fn adjoint(d: [Tensor<4>; 2]) -> Tensor<4> {
    let [across, down] = d;
    let along = |d: Tensor<4>, axis: usize| {
        let count = d.dims()[axis];
        let inner = d.clone().slice_dim(axis, 0..count - 1);
        let none = d.slice_dim(axis, 0..1).zeros_like();
        let second = Tensor::cat(vec![none.clone(), inner.clone()], axis);
        second - Tensor::cat(vec![inner, none], axis)
    };
    along(across, 3) + along(down, 2)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;
    use nabla_diffusion::restore::Inpainting;
    use nabla_grad::seeded_noise::SeededNoise;

    use super::*;

    #[test]
    fn the_adjoint_of_the_differences_is_theirs() {
        let device = Device::flex();
        let mut draw = SeededNoise::new(3, 0);
        let mut drawn = || draw.normal::<4>([2, 1, 4, 5], &device);
        let (x, d) = (drawn(), [drawn(), drawn()]);
        let [across, down] = differences(&x);
        let forward = (across * d[0].clone() + down * d[1].clone()).sum();
        let backward = (x * adjoint(d)).sum();
        let difference = (forward - backward).abs().into_scalar::<f32>();
        assert!(difference < 1e-4, "{difference}");
    }

    /// Two flat halves, of which every third pixel is known, come back.
    #[test]
    fn a_flat_picture_with_an_edge_is_found() {
        let device = Device::flex();
        let half = Tensor::<4>::ones([1, 1, 6, 3], &device) * 0.5;
        let truth = Tensor::cat(vec![half.clone().neg(), half], 3);
        let known = Inpainting::new([1, 6, 6], (0..36).map(|i| i % 3 != 1).collect()).unwrap();
        let problem = Problem::simulated(Arc::new(known), truth.clone(), 0.0, 0).unwrap();
        let found = restored(&problem, 1e-3).unwrap();
        let error = (found - truth).abs().max().into_scalar::<f32>();
        assert!(error < 0.02, "{error}");
    }
}
