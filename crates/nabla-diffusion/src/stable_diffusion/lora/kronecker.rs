//! LoKr: the Kronecker product of a small matrix and a larger one.
//!
//! ```text
//! ΔW = C ⊗ D,   C: a x c,   D: b x d …,   W: a b x c d …
//! ΔW[o b + p, i d + q, k] = C[o, i] D[p, q, k]
//! ```
//!
//! `C` (`lokr_w1`) and `D` (`lokr_w2`) are whole, or products of thin matrices (`…_a`, `…_b`); `D` may have
//! its kernel in a third one (`lokr_t2`, Tucker). The rank is that of the thin matrices; if both are whole,
//! there is none, and `α` has no effect.
//!
//! Source: Edalati et al., *KronA: Parameter Efficient Tuning with Kronecker Adapter*, 2022, arXiv 2212.10650;
//! the layout is that of LyCORIS (Yeh et al., 2023, arXiv 2309.14859).

use burn::tensor::Tensor;

use super::matrices::{Values, core_product, flat, product};

/// `C` or `D`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Factor<'a> {
    /// The matrix itself.
    Whole(&'a Values),
    /// A product.
    Product {
        /// `[rows, r]`; with a core `[r, rows]`.
        a: &'a Values,
        /// `[r, columns …]`
        b: &'a Values,
        /// `[r, r, kernel …]`
        core: Option<&'a Values>,
    },
}

impl Factor<'_> {
    fn matrix(&self) -> Option<Tensor<2>> {
        match self {
            Self::Whole(values) => flat(values),
            Self::Product { a, b, core: None } => product(flat(a)?, flat(b)?),
            Self::Product {
                a,
                b,
                core: Some(core),
            } => core_product(flat(a)?.transpose(), core, flat(b)?),
        }
    }

    fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Product { b, .. } => b.1.first().copied(),
        }
    }

    fn shapes(&self) -> String {
        match self {
            Self::Whole(values) => format!("{:?}", values.1),
            Self::Product { a, b, .. } => format!("{:?} and {:?}", a.1, b.1),
        }
    }
}

/// A change of two factors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kronecker<'a> {
    /// `C`.
    pub(super) left: Factor<'a>,
    /// `D`.
    pub(super) right: Factor<'a>,
}

impl Kronecker<'_> {
    pub(super) fn rank(&self) -> Option<usize> {
        self.left.rank().or(self.right.rank())
    }

    /// `factor · ΔW` for a tensor of `shape`.
    pub(super) fn delta(&self, shape: &[usize], factor: f64) -> Result<Vec<f32>, String> {
        self.product(shape, factor).ok_or_else(|| {
            let (left, right) = (self.left.shapes(), self.right.shapes());
            format!("which has the shape {shape:?}, by a LoKr of {left}, {right}")
        })
    }

    fn product(&self, shape: &[usize], factor: f64) -> Option<Vec<f32>> {
        let (left, right) = (self.left.matrix()?, self.right.matrix()? * factor);
        let ([a, c], [b, columns]) = (left.dims(), right.dims());
        let (&output, rest) = shape.split_first()?;
        let input = rest.first().copied().unwrap_or(1);
        let kernel: usize = rest.iter().skip(1).product();
        if output != a * b || !input.is_multiple_of(c) || columns != input / c * kernel {
            return None;
        }
        let left: Vec<f32> = left.into_data().try_to_vec().ok()?;
        let right: Vec<f32> = right.into_data().try_to_vec().ok()?;
        let mut values = Vec::with_capacity(output * input * kernel);
        for of_left in left.chunks_exact(c) {
            for of_right in right.chunks_exact(columns) {
                for &scale in of_left {
                    values.extend(of_right.iter().map(|value| scale * value));
                }
            }
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_belongs_to_the_right_factor() {
        let left = (vec![1.0, 2.0], vec![2, 1]);
        let right = (vec![1.0, 2.0, 3.0, 4.0], vec![1, 2, 2]);
        let change = Kronecker {
            left: Factor::Whole(&left),
            right: Factor::Whole(&right),
        };
        assert_eq!(change.rank(), None);
        let expected = [1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 6.0, 8.0];
        assert_eq!(change.delta(&[2, 2, 2], 1.0).unwrap(), expected);
        let refused = change.delta(&[3, 2, 2], 1.0).unwrap_err();
        assert!(refused.contains("LoKr of [2, 1], [1, 2, 2]"), "{refused}");
        // Columns are interleaved: [1 2] ⊗ [3; 4] and [1 2] ⊗ [3 4].
        let left = (vec![1.0, 2.0], vec![1, 2]);
        for (shape, expected) in [
            (vec![2, 1], vec![3.0, 6.0, 4.0, 8.0]),
            (vec![1, 2], vec![3.0, 4.0, 6.0, 8.0]),
        ] {
            let right = (vec![3.0, 4.0], shape.clone());
            let change = Kronecker {
                left: Factor::Whole(&left),
                right: Factor::Whole(&right),
            };
            let whole = [shape[0], 2 * shape[1]];
            assert_eq!(change.delta(&whole, 1.0).unwrap(), expected);
        }
    }
}
