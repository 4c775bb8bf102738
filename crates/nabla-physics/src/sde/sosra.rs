//! Rößler's methods for additive noise, `g` of the time alone, and SOSRA.
//!
//! ```text
//! H_i = u + h Σ_j A⁰_ij k_j + χ_2 Σ_j B⁰_ij g_j,   χ_2 = ∫ (W − W(t)) ds / h
//! k_i = f(H_i, t + c⁰_i h),   g_i = g(t + c¹_i h)
//! E_n = χ_2 Σ_i β²_i g_i,   E_d = h Σ_i ± k_i
//! u⁺ = u + h Σ_i α_i k_i + ΔW Σ_i β¹_i g_i + E_n
//! ```

use burn::tensor::Tensor;

use super::step::{Equation, Noise, Stages, Stepped, plus, weighted};
use crate::field::Field;
use crate::solve_error::SolveError;

/// A method for additive noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SraTableau {
    /// `c⁰`, of the drift.
    pub drift_nodes: &'static [f64],
    /// `c¹`, of the diffusion.
    pub noise_nodes: &'static [f64],
    /// `A⁰`, what is missing is 0.
    pub a0: &'static [&'static [f64]],
    /// `B⁰`.
    pub b0: &'static [&'static [f64]],
    /// `α`.
    pub alpha: &'static [f64],
    /// `β¹` and `β²`.
    pub beta: [&'static [f64]; 2],
    /// The signs of the slopes in `E_d`, which sum to 0.
    pub signs: &'static [f64],
}

/// The method.
pub const SOSRA: SraTableau = SraTableau {
    drift_nodes: &[0.0, 0.692_396_237_615_950_7, 1.0],
    noise_nodes: &[0.0, 0.041_248_171_110_700_504, 1.0],
    a0: &[
        &[],
        &[0.692_396_237_615_950_7],
        &[-3.160_914_225_282_839_5, 4.160_914_225_282_839_5],
    ],
    b0: &[
        &[],
        &[1.337_163_270_439_976_3],
        &[1.442_371_048_468_624, 1.863_274_150_113_922_5],
    ],
    alpha: &[
        0.288_987_496_689_288_5,
        0.685_988_044_083_993_7,
        0.025_024_459_226_717_772,
    ],
    beta: [
        &[
            -16.792_534_242_221_663,
            17.514_995_785_380_226,
            0.277_538_456_841_438_35,
        ],
        &[
            0.423_753_576_906_927_4,
            0.601_038_147_442_853_9,
            -1.024_791_724_349_781_3,
        ],
    ],
    signs: &[1.0, -1.0, 0.0],
};

pub(super) fn step<F: Field, G: Field>(
    tableau: &SraTableau,
    equation: &Equation<'_, F, G>,
    u: &Tensor<2>,
    time: f64,
    length: f64,
    noise: &Noise,
) -> Result<Stepped, SolveError> {
    let chi2 = noise.mean.clone();
    let mut stages = Stages::default();
    for i in 0..tableau.alpha.len() {
        let argument = stages.argument(u, tableau.a0[i], tableau.b0[i], length, &chi2);
        let slope = equation.drift(&argument, time + tableau.drift_nodes[i] * length)?;
        let noise = equation.diffusion(&argument, time + tableau.noise_nodes[i] * length)?;
        stages.push(argument, slope, noise);
    }
    let [first, second] = tableau.beta.map(|beta| weighted(&stages.noises, beta, 1.0));
    let noise_error = plus(u.zeros_like(), [second.map(|sum| sum * chi2)]);
    let by_noise = [first.map(|sum| sum * noise.increment.clone())];
    let weights = [tableau.alpha, tableau.signs];
    Ok(stages.stepped(equation, u, weights, length, by_noise, noise_error))
}
