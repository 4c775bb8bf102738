//! LoRA: the product of two thin matrices.
//!
//! ```text
//! ΔW = B A,   A: r x input,   B: output x r
//! ```
//!
//! with the rank `r`. For a convolution `A` has its kernel and `B` a kernel of 1 (LoCon); with a third matrix
//! `M` between them (`lora_mid`), `A` and `B` have kernels of 1.
//!
//! Source: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021, arXiv 2106.09685; for
//! convolutions, Kohya's `sd-scripts` and LyCORIS.

use super::matrices::{Values, core_product, flat, numbers, product};

/// A change of low rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct LowRank<'a> {
    /// `A`.
    pub(super) down: &'a Values,
    /// `B`.
    pub(super) up: &'a Values,
    /// `M`.
    pub(super) middle: Option<&'a Values>,
}

impl LowRank<'_> {
    pub(super) fn rank(&self) -> usize {
        self.down.1.first().copied().unwrap_or(0)
    }

    /// `factor · ΔW` for a tensor of `shape`.
    pub(super) fn delta(&self, shape: &[usize], factor: f64) -> Result<Vec<f32>, String> {
        let found = || {
            let (b, a) = (flat(self.up)?, flat(self.down)?);
            let product = match self.middle {
                None => product(b, a)?,
                Some(middle) => core_product(b, middle, a)?,
            };
            numbers(product * factor, shape)
        };
        found().ok_or_else(|| {
            let (down, up) = (&self.down.1, &self.up.1);
            format!("which has the shape {shape:?}, by matrices of {down:?} and {up:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_between_the_two_has_the_kernel() {
        // r = 2, kernel 1 x 2: Δ[o, i, k] = Σ B[o, r] M[r, s, k] A[s, i]
        let (b, a) = (vec![1.0, 2.0], vec![3.0, 5.0]); // [1, 2] and [2, 1]
        let middle = vec![1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0]; // [2, 2, 1, 2]
        let change = LowRank {
            down: &(a, vec![2, 1, 1, 1]),
            up: &(b, vec![1, 2, 1, 1]),
            middle: Some(&(middle, vec![2, 2, 1, 2])),
        };
        assert_eq!(change.rank(), 2);
        // k = 0: [1 0; 2 0] A = [3, 6] -> 3 + 12; k = 1: [0 1; 0 3] A = [5, 15] -> 5 + 30
        assert_eq!(change.delta(&[1, 1, 1, 2], 1.0).unwrap(), [15.0, 35.0]);
        let refused = change.delta(&[1, 1, 1, 3], 1.0).unwrap_err();
        assert!(refused.contains("[1, 1, 1, 3]"), "{refused}");
    }
}
