//! Rößler's methods for diagonal noise, and SOSRI.
//!
//! ```text
//! χ_1 = (ΔW² − h) / (2 √h),   χ_2 = ∫ (W − W(t)) ds / h,   χ_3 = (ΔW³ − 3 h ΔW) / (6 h)
//! H⁰_i = u + h Σ_j A⁰_ij k_j + χ_2 Σ_j B⁰_ij g_j,   H¹_i = u + h Σ_j A¹_ij k_j + √h Σ_j B¹_ij g_j
//! k_i = f(H⁰_i, t + c⁰_i h),   g_i = g(H¹_i, t + c¹_i h)
//! E_n = χ_2 Σ_i β³_i g_i + χ_3 Σ_i β⁴_i g_i,   E_d = h Σ_i ± k_i
//! u⁺ = u + h Σ_i α_i k_i + ΔW Σ_i β¹_i g_i + χ_1 Σ_i β²_i g_i + E_n
//! ```

use burn::tensor::Tensor;

use super::step::{Equation, Noise, Stages, Stepped, plus, weighted};
use crate::field::Field;
use crate::solve_error::SolveError;

/// A method of strong order 3/2 for diagonal noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SriTableau {
    /// `c⁰`, of the drift.
    pub drift_nodes: &'static [f64],
    /// `c¹`, of the diffusion.
    pub noise_nodes: &'static [f64],
    /// `A⁰`, what is missing is 0.
    pub a0: &'static [&'static [f64]],
    /// `A¹`.
    pub a1: &'static [&'static [f64]],
    /// `B⁰`.
    pub b0: &'static [&'static [f64]],
    /// `B¹`.
    pub b1: &'static [&'static [f64]],
    /// `α`.
    pub alpha: &'static [f64],
    /// `β¹` to `β⁴`.
    pub beta: [&'static [f64]; 4],
    /// The signs of the slopes in `E_d`, which sum to 0.
    pub signs: &'static [f64],
}

/// The method.
pub const SOSRI: SriTableau = SriTableau {
    drift_nodes: &[
        0.0,
        -0.041_992_244_213_164_68,
        0.789_840_546_617_033_3,
        3.750_401_017_156_282_3,
    ],
    noise_nodes: &[
        0.0,
        0.262_042_820_913_304_66,
        0.058_798_752_320_017_66,
        0.758_661_169_101_175,
    ],
    a0: &[
        &[],
        &[-0.041_992_244_213_164_68],
        &[2.842_612_915_017_106, -2.052_772_368_400_072_7],
        &[
            4.338_237_071_435_815,
            -2.889_593_613_743_979_3,
            2.301_757_559_464_446_6,
        ],
    ],
    a1: &[
        &[],
        &[0.262_042_820_913_304_66],
        &[0.209_036_463_835_053_75, -0.150_237_711_515_036_1],
        &[
            0.058_365_953_127_469_99,
            0.614_944_039_633_237_3,
            0.085_351_176_340_467_72,
        ],
    ],
    b0: &[
        &[],
        &[-0.216_410_935_496_125_28],
        &[1.533_635_286_367_957_2, 0.260_662_234_926_470_56],
        &[
            -1.053_603_755_817_915_9,
            1.701_528_472_108_947_2,
            -0.207_256_857_841_800_17,
        ],
    ],
    b1: &[
        &[],
        &[-0.511_901_182_762_165_7],
        &[2.677_673_398_667_13, -4.939_503_132_225_099_5],
        &[
            0.155_809_562_382_992_15,
            3.236_155_100_662_467_4,
            -1.422_311_828_335_594_9,
        ],
    ],
    alpha: &[
        1.140_099_274_172_029,
        -0.640_133_425_574_345_6,
        0.473_629_653_277_255_9,
        0.026_404_498_125_060_714,
    ],
    beta: [
        &[
            -1.845_346_456_510_443_2,
            2.688_764_531_100_726,
            -0.252_386_650_107_132_3,
            0.408_968_575_516_849_56,
        ],
        &[
            0.496_965_814_158_947_8,
            -0.577_120_286_975_359_2,
            -0.129_197_024_703_222_17,
            0.209_351_497_519_633_6,
        ],
        &[
            2.845_346_456_510_442_5,
            -2.688_764_531_100_725,
            0.252_386_650_107_132_2,
            -0.408_968_575_516_849_45,
        ],
        &[
            0.115_226_638_754_434_33,
            -0.578_770_861_477_38,
            0.285_785_102_816_388_6,
            0.177_759_119_906_557_04,
        ],
    ],
    signs: &[1.0, -1.0, 1.0, -1.0],
};

pub(super) fn step<F: Field, G: Field>(
    tableau: &SriTableau,
    equation: &Equation<'_, F, G>,
    u: &Tensor<2>,
    time: f64,
    length: f64,
    noise: &Noise,
) -> Result<Stepped, SolveError> {
    let root = length.sqrt();
    let w = noise.increment.clone();
    let chi1 = (w.clone().square() - length) / (2.0 * root);
    let chi2 = noise.mean.clone();
    let chi3 = (w.clone().powi_scalar(3) - w.clone() * (3.0 * length)) / (6.0 * length);
    let mut stages = Stages::default();
    for i in 0..tableau.alpha.len() {
        let of_drift = stages.argument(u, tableau.a0[i], tableau.b0[i], length, &chi2);
        let of_noise = plus(
            u.clone(),
            [
                weighted(&stages.slopes, tableau.a1[i], length),
                weighted(&stages.noises, tableau.b1[i], root),
            ],
        );
        let slope = equation.drift(&of_drift, time + tableau.drift_nodes[i] * length)?;
        let noise = equation.diffusion(&of_noise, time + tableau.noise_nodes[i] * length)?;
        stages.push(of_drift, slope, noise);
    }
    let [first, second, third, fourth] =
        tableau.beta.map(|beta| weighted(&stages.noises, beta, 1.0));
    let noise_error = plus(
        u.zeros_like(),
        [third.map(|sum| sum * chi2), fourth.map(|sum| sum * chi3)],
    );
    let by_noise = [first.map(|sum| sum * w), second.map(|sum| sum * chi1)];
    let weights = [tableau.alpha, tableau.signs];
    Ok(stages.stepped(equation, u, weights, length, by_noise, noise_error))
}
