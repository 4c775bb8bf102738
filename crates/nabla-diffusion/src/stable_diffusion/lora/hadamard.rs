//! LoHa: the elementwise product of two changes of low rank, whose rank is up to the square of theirs.
//!
//! ```text
//! ΔW = (B₁ A₁) ⊙ (B₂ A₂)
//! ΔW = (B₁ᵀ M₁ A₁) ⊙ (B₂ᵀ M₂ A₂)        of a convolution whose kernel is in M (Tucker)
//! ```
//!
//! In the files, `B` is `hada_w_a`, `A` is `hada_w_b` and `M` is `hada_t`.
//!
//! Source: Hyeon-Woo, Ye-Bin, Oh, *FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
//! Learning*, 2021, arXiv 2108.06098; the layout is that of LyCORIS (Yeh et al., 2023, arXiv 2309.14859).

use burn::tensor::Tensor;

use super::matrices::{Values, core_product, flat, numbers, product};

/// One of the two factors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor<'a> {
    /// `B`, `[output, r]`; with `M` `[r, output]`.
    pub(super) b: &'a Values,
    /// `A`, `[r, input …]`.
    pub(super) a: &'a Values,
    /// `M`, `[r, r, kernel …]`.
    pub(super) core: Option<&'a Values>,
}

impl Factor<'_> {
    fn product(&self) -> Option<Tensor<2>> {
        let (b, a) = (flat(self.b)?, flat(self.a)?);
        match self.core {
            None => product(b, a),
            Some(core) => core_product(b.transpose(), core, a),
        }
    }
}

/// A change of two factors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hadamard<'a>(pub(super) [Factor<'a>; 2]);

impl Hadamard<'_> {
    pub(super) fn rank(&self) -> usize {
        self.0[0].a.1.first().copied().unwrap_or(0)
    }

    /// `factor · ΔW` for a tensor of `shape`.
    pub(super) fn delta(&self, shape: &[usize], factor: f64) -> Result<Vec<f32>, String> {
        let found = || {
            let [first, second] = self.0.map(|factor| factor.product());
            let (first, second) = (first?, second?);
            let fits = first.dims() == second.dims();
            numbers(fits.then(|| first * second * factor)?, shape)
        };
        found().ok_or_else(|| {
            let [first, second] = self.0.map(|f| format!("{:?} and {:?}", f.b.1, f.a.1));
            format!("which has the shape {shape:?}, by a LoHa of {first}, {second}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_products_are_multiplied() {
        let [b, a] = [(vec![1.0, 2.0], vec![2, 1]), (vec![3.0, 4.0], vec![1, 2])];
        let [d, c] = [(vec![5.0, 0.5], vec![2, 1]), (vec![1.0, 2.0], vec![1, 2])];
        let factor = |b, a| Factor { b, a, core: None };
        let change = Hadamard([factor(&b, &a), factor(&d, &c)]);
        assert_eq!(change.rank(), 1);
        // [[3, 4], [6, 8]] ⊙ [[5, 10], [0.5, 1]]
        assert_eq!(change.delta(&[2, 2], 2.0).unwrap(), [30.0, 80.0, 6.0, 16.0]);
        assert!(
            change
                .delta(&[2, 3], 2.0)
                .unwrap_err()
                .contains("LoHa of [2, 1]")
        );
        let change = Hadamard([factor(&b, &a), factor(&b, &b)]);
        assert!(change.delta(&[2, 2], 2.0).is_err());
    }
}
