//! M-FAC: products with the inverse of the empirical Fisher matrix, without the matrix, for pruning
//! and for optimization.
//!
//! With the gradients `g_1 … g_m ∈ R^d` as the rows of `G`, and a damping `λ > 0`,
//!
//! ```text
//! F = λ I + 1/m Σ g_i g_iᵀ
//! ```
//!
//! **Static algorithm** ([`StaticFisher`]). The Sherman-Morrison recursion
//! `v_i = F_{i−1}⁻¹ g_i`, `q_i = m + g_i·v_i` gives
//!
//! ```text
//! F⁻¹ x = x/λ − Σ (v_i·x / q_i) v_i        O(dm)
//! [F⁻¹]_ab = δ_ab/λ − Σ v_i[a] v_i[b] / q_i   O(m)
//! ```
//!
//! The recursion is the elimination of `A = G Gᵀ/λ + m I = L Q Lᵀ`: `V = L⁻¹ G/λ` and
//! `q = diag Q`. So `V` costs two matrix products and an elimination of `m x m`, `O(dm²)`.
//! [`BlockFisher`] does the same for each block of weights separately, as if `F` were block-diagonal.
//!
//! **Dynamic algorithm** ([`SlidingFisher`]). It keeps a window of the last `m` gradients. A new gradient
//! replaces the oldest one in its row, because the order of the rows does not matter:
//!
//! ```text
//! G[last] ← g,   t = G g,   row and column `last` of S = G Gᵀ ← t      O(dm)
//! S/λ + m I = L Q Lᵀ                                                   O(m³)
//! F⁻¹ x = x/λ − Gᵀ L⁻ᵀ Q⁻¹ L⁻¹ (G x/λ) / λ                             O(dm + m²)
//! ```
//!
//! `L⁻¹ (G x/λ)` is the paper's loop over `c`, and the substitution with `L⁻ᵀ` is the product with its
//! matrix `B`, which is `L⁻¹/λ`.
//!
//! **Optimizer** ([`MFac`]). All parameters as one vector `w`:
//!
//! ```text
//! g ← ∇L(w) + λ_w w;   push g;   u = F⁻¹ g;   v ← β v + (1 − β) u;   w ← w − η v    (v = u if β = 0)
//! ```
//!
//! The window contains `g` before the product, because outside its span `F⁻¹` multiplies by `1/λ`, which is
//! huge. Until the window is full, its other rows are zero, and the mean still divides by `m`.
//!
//! **Pruning** ([`optimal_brain_surgeon`]). The weights with the smallest `ρ_i = w_i² / (2 [F⁻¹]_ii)` are
//! pruned, and the others compensate: `w ← w + F⁻¹ t` with `t_i = −w_i / [F⁻¹]_ii` on the pruned ones.
//!
//! Matrices of `m x m` are in `f64`, matrices of `m x d` in the precision of the gradients.
//!
//! Source: Frantar, Kurtic, Alistarh, *M-FAC: Efficient Matrix-Free Approximations of Second-Order
//! Information*, NeurIPS 2021, arXiv 2107.03356.

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::prelude::Solve;
use faer::{Mat, Side};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::flat::FlatError;
use nabla_grad::long_rows::{combination, products};
use rayon::prelude::*;

use crate::checked_record::LoadError;

mod elimination;
mod optimizer;

use elimination::Elimination;

pub use optimizer::{MFac, MFacConfig};

/// Why a Fisher matrix cannot be inverted, or a step not be taken.
#[derive(Debug, thiserror::Error)]
pub enum MFacError {
    /// A value of the configuration is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A vector of another length.
    #[error("the vector has {found} numbers, but the Fisher matrix has {expected} rows")]
    Length {
        /// Of the matrix.
        expected: usize,
        /// Of the vector.
        found: usize,
    },
    /// An entry outside the matrix.
    #[error("there is no entry ({row}, {column}) in a Fisher matrix of {dimension} rows")]
    Entry {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
        /// Rows of the matrix.
        dimension: usize,
    },
    /// A gradient with NaN or infinite numbers.
    #[error("the gradient is not finite: lower the learning rate")]
    NotFinite,
    /// The factorisation of `G Gᵀ/λ + m I` failed.
    #[error("the matrix of the gradients' inner products cannot be factored: {0}")]
    Factorization(String),
    /// No gradients.
    #[error("an empirical Fisher matrix needs at least one gradient of at least one number")]
    Empty,
    /// A share of pruned weights that cannot be reached by pruning more.
    #[error(
        "the sparsity to reach is {wanted}, but it must lie between that now, {present:.4}, and 1"
    )]
    Sparsity {
        /// The share asked for.
        wanted: f64,
        /// The share now.
        present: f64,
    },
    /// A record of another optimizer or model.
    #[error("the record is not of this optimizer: {0}")]
    Record(String),
    /// A value cannot be read back from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
    /// A record that cannot be read or written.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The parameters or gradients do not form one vector.
    #[error(transparent)]
    Flat(#[from] FlatError),
}

/// Products with the inverse of a Fisher matrix.
pub trait InverseFisher {
    /// The number `d` of rows.
    fn dimension(&self) -> usize;

    /// `F⁻¹ x`, `[d]`, of `x`, `[d]`.
    ///
    /// # Errors
    /// If `x` has another length or cannot be read.
    fn solve(&self, x: &Tensor<1>) -> Result<Tensor<1>, MFacError>;

    /// The diagonal of `F⁻¹`, `[d]`.
    ///
    /// # Errors
    /// If it cannot be read.
    fn inverse_diagonal(&self) -> Result<Tensor<1>, MFacError>;
}

/// The static algorithm; see the [module](self). It keeps `V`, `m·d` numbers.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_optim::m_fac::{StaticFisher, InverseFisher};
///
/// // F = 0.1 I + diag(4, 1)/2
/// let gradients = Tensor::<2>::from_floats([[2.0, 0.0], [0.0, 1.0]], &Device::flex());
/// let fisher = StaticFisher::new(gradients, 0.1)?;
/// assert!((fisher.inverse_entry(0, 0)? - 1.0 / 2.1).abs() < 1e-6);
/// let x = fisher.solve(&Tensor::from_floats([2.1, 0.6], &Device::flex()))?;
/// let x = x.into_data().try_to_vec::<f32>().unwrap();
/// assert!((x[0] - 1.0).abs() < 1e-5 && (x[1] - 1.0).abs() < 1e-5);
/// # Ok::<(), nabla_optim::m_fac::MFacError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StaticFisher {
    /// `V`, `[m, d]`.
    v: Tensor<2>,
    /// `q`, `[m]`.
    q: Vec<f64>,
    damping: f64,
}

impl StaticFisher {
    /// Of the gradients `[m, d]` and the damping `λ` (1e-5 in the paper).
    ///
    /// # Errors
    /// If there are no gradients, one is not finite, or the damping is not positive.
    pub fn new(gradients: Tensor<2>, damping: f64) -> Result<Self, MFacError> {
        let gradients = gradients.without_autodiff();
        let [m, d] = gradients.dims();
        check_damping(damping)?;
        if m == 0 || d == 0 {
            return Err(MFacError::Empty);
        }
        let gram = gradients.clone().matmul(gradients.clone().transpose()); // [m, m]
        let factor = Elimination::of(&to_mat(gram)?, damping)?;
        // V = L⁻¹ G/λ
        let b = factor.inverse_of_lower(1.0 / damping);
        let b = from_mat(&b, &gradients.device(), gradients.dtype()); // [m, m]
        Ok(Self {
            v: b.matmul(gradients),
            q: factor.q,
            damping,
        })
    }

    /// `[F⁻¹]_ab`, from `2m` numbers.
    ///
    /// # Errors
    /// If there is no such entry, or it cannot be read.
    pub fn inverse_entry(&self, row: usize, column: usize) -> Result<f64, MFacError> {
        let dimension = self.dimension();
        if row >= dimension || column >= dimension {
            return Err(MFacError::Entry {
                row,
                column,
                dimension,
            });
        }
        let part = |i: usize| numbers(self.v.clone().slice_dim(1, i..i + 1).squeeze_dim(1));
        let (a, b) = (part(row)?, part(column)?);
        let sum: f64 = a
            .iter()
            .zip(&b)
            .zip(&self.q)
            .map(|((a, b), q)| a * b / q)
            .sum();
        Ok(if row == column {
            1.0 / self.damping
        } else {
            0.0
        } - sum)
    }
}

impl InverseFisher for StaticFisher {
    fn dimension(&self) -> usize {
        self.v.dims()[1]
    }

    fn solve(&self, x: &Tensor<1>) -> Result<Tensor<1>, MFacError> {
        check_length(self.dimension(), x)?;
        let weights: Vec<f64> = products(&self.v, x)
            .iter()
            .zip(&self.q)
            .map(|(c, q)| -c / q)
            .collect();
        Ok(combination(&self.v, &weights, x, 1.0 / self.damping))
    }

    fn inverse_diagonal(&self) -> Result<Tensor<1>, MFacError> {
        let weights: Vec<f64> = self.q.iter().map(|q| 1.0 / q).collect();
        let weights = vector(&weights, &self.v.device(), self.v.dtype()).unsqueeze_dim(0); // [1, m]
        let sum: Tensor<1> = weights.matmul(self.v.clone().square()).squeeze_dim(0); // [d]
        Ok(-sum + 1.0 / self.damping)
    }
}

/// The static algorithm for each block of `b` weights on its own, the last one shorter: `F` without
/// what is outside the blocks on its diagonal. 128 in the paper.
///
/// It keeps `d · min(m, b)` numbers, on the host.
#[derive(Clone, Debug)]
pub struct BlockFisher {
    blocks: Vec<Block>,
    block_size: usize,
    dimension: usize,
    device: Device,
    dtype: DType,
}

/// The inverse of one block.
#[derive(Clone, Debug)]
enum Block {
    /// Fewer gradients than weights: `V`, `[m, b]`, and `q`.
    Factored {
        v: Mat<f64>,
        q: Vec<f64>,
        damping: f64,
    },
    /// The inverse itself, `[b, b]`.
    Inverse(Mat<f64>),
}

impl Block {
    fn new(gradients: &Mat<f64>, damping: f64) -> Result<Self, MFacError> {
        let (m, b) = (gradients.nrows(), gradients.ncols());
        if m < b {
            let factor = Elimination::of(&(gradients * gradients.transpose()), damping)?;
            return Ok(Self::Factored {
                v: factor.inverse_of_lower(1.0 / damping) * gradients,
                q: factor.q,
                damping,
            });
        }
        let gram = gradients.transpose() * gradients;
        let fisher = Mat::from_fn(b, b, |i, j| {
            gram[(i, j)] / m as f64 + if i == j { damping } else { 0.0 }
        });
        let factor = fisher
            .llt(Side::Lower)
            .map_err(|e| MFacError::Factorization(format!("{e:?}")))?;
        Ok(Self::Inverse(factor.solve(Mat::identity(b, b))))
    }

    fn diagonal(&self) -> Vec<f64> {
        match self {
            Self::Inverse(inverse) => (0..inverse.nrows()).map(|i| inverse[(i, i)]).collect(),
            Self::Factored { v, q, damping } => (0..v.ncols())
                .map(|a| {
                    let sum: f64 = (0..v.nrows()).map(|i| v[(i, a)].powi(2) / q[i]).sum();
                    1.0 / damping - sum
                })
                .collect(),
        }
    }

    fn solve(&self, x: &[f64]) -> Vec<f64> {
        let x = Mat::from_fn(x.len(), 1, |i, _| x[i]);
        let out = match self {
            Self::Inverse(inverse) => inverse * &x,
            Self::Factored { v, q, damping } => {
                let mut c = v * &x;
                for (i, q) in q.iter().enumerate() {
                    c[(i, 0)] /= q;
                }
                let correction = v.transpose() * c;
                Mat::from_fn(x.nrows(), 1, |i, _| {
                    x[(i, 0)] / damping - correction[(i, 0)]
                })
            }
        };
        (0..out.nrows()).map(|i| out[(i, 0)]).collect()
    }
}

impl BlockFisher {
    /// Of the gradients `[m, d]`, the damping `λ` and blocks of `block_size` weights.
    ///
    /// # Errors
    /// If there are no gradients, one is not finite, the damping is not positive or the block size
    /// is 0.
    pub fn new(gradients: Tensor<2>, damping: f64, block_size: usize) -> Result<Self, MFacError> {
        let gradients = gradients.without_autodiff();
        let [m, d] = gradients.dims();
        check_damping(damping)?;
        check_count("block size", block_size)?;
        if m == 0 || d == 0 {
            return Err(MFacError::Empty);
        }
        let (device, dtype) = (gradients.device(), gradients.dtype());
        let values = numbers(gradients.reshape([m * d]))?;
        let blocks = (0..d)
            .step_by(block_size)
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|start| {
                let width = block_size.min(d - start);
                let part = Mat::from_fn(m, width, |i, j| values[i * d + start + j]);
                Block::new(&part, damping)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            blocks,
            block_size,
            dimension: d,
            device,
            dtype,
        })
    }
}

impl InverseFisher for BlockFisher {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn solve(&self, x: &Tensor<1>) -> Result<Tensor<1>, MFacError> {
        check_length(self.dimension, x)?;
        let values = numbers(x.clone())?;
        let parts: Vec<Vec<f64>> = values
            .par_chunks(self.block_size)
            .zip(&self.blocks)
            .map(|(x, block)| block.solve(x))
            .collect();
        Ok(vector(&parts.concat(), &x.device(), x.dtype()))
    }

    fn inverse_diagonal(&self) -> Result<Tensor<1>, MFacError> {
        let parts: Vec<Vec<f64>> = self.blocks.par_iter().map(Block::diagonal).collect();
        Ok(vector(&parts.concat(), &self.device, self.dtype))
    }
}

/// The dynamic algorithm: the inverse Fisher matrix of the last `m` gradients; see the
/// [module](self). It keeps `m·d` numbers.
#[derive(Clone, Debug)]
pub struct SlidingFisher {
    /// `G`, `[m, d]`; the row `next` is the oldest. Taken out only while it is changed.
    gradients: Option<Tensor<2>>,
    /// `S = G Gᵀ`, `[m, m]`.
    gram: Mat<f64>,
    factor: Elimination,
    next: usize,
    dimension: usize,
    damping: f64,
}

impl SlidingFisher {
    /// A window of `window` gradients (`m`; 1024 in the paper's code) of `dimension` numbers, all 0 at
    /// first.
    ///
    /// # Errors
    /// If a size is 0 or the damping is not positive.
    pub fn new(
        dimension: usize,
        window: usize,
        damping: f64,
        device: &Device,
    ) -> Result<Self, MFacError> {
        check_count("dimension", dimension)?;
        check_count("window", window)?;
        check_damping(damping)?;
        let gram = Mat::zeros(window, window);
        Ok(Self {
            gradients: Some(Tensor::zeros([window, dimension], device)),
            factor: Elimination::of(&gram, damping)?,
            gram,
            next: 0,
            dimension,
            damping,
        })
    }

    /// The number `m` of gradients.
    pub fn window(&self) -> usize {
        self.gram.nrows()
    }

    /// Replaces the oldest gradient by `gradient`, `[d]`.
    ///
    /// # Errors
    /// If it has another length or is not finite; the window is then as before.
    pub fn push(&mut self, gradient: &Tensor<1>) -> Result<(), MFacError> {
        self.replace_oldest(gradient).map(drop)
    }

    /// [`push`](Self::push), then `F⁻¹ g` of the same gradient, `[d]`: the products of the rows with it
    /// are taken once.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_solve(&mut self, gradient: &Tensor<1>) -> Result<Tensor<1>, MFacError> {
        let products = self.replace_oldest(gradient)?;
        self.solve_from(gradient, products)
    }

    /// Returns the products of the rows with `gradient`, `[m]`.
    fn replace_oldest(&mut self, gradient: &Tensor<1>) -> Result<Vec<f64>, MFacError> {
        check_length(self.dimension, gradient)?;
        let gradient = gradient.clone().without_autodiff();
        let itself = gradient.clone().unsqueeze_dim::<2>(0); // [1, d]
        if !products(&itself, &gradient)[0].is_finite() {
            return Err(MFacError::NotFinite);
        }
        let (window, row) = (self.window(), self.next);
        let Some(rows) = self.gradients.take() else {
            return Err(MFacError::Device("the window of gradients is lost".into()));
        };
        let gradient = gradient.cast(rows.dtype()).to_device(&rows.device());
        let rows = rows.slice_assign(
            [row..row + 1, 0..self.dimension],
            gradient.clone().unsqueeze_dim(0),
        );
        let products = products(&rows, &gradient);
        self.gradients = Some(rows);
        for (i, &product) in products.iter().enumerate() {
            self.gram[(row, i)] = product;
            self.gram[(i, row)] = product;
        }
        self.factor = Elimination::of(&self.gram, self.damping)?;
        self.next = (row + 1) % window;
        Ok(products)
    }

    /// `F⁻¹ x`, given the products of the rows with `x`, `[m]`.
    fn solve_from(&self, x: &Tensor<1>, products: Vec<f64>) -> Result<Tensor<1>, MFacError> {
        let rows = self.rows()?;
        let mut c: Vec<f64> = products.iter().map(|c| c / self.damping).collect();
        self.factor.solve(&mut c);
        for c in &mut c {
            *c /= -self.damping;
        }
        Ok(combination(rows, &c, x, 1.0 / self.damping))
    }

    /// `G`.
    fn rows(&self) -> Result<&Tensor<2>, MFacError> {
        self.gradients
            .as_ref()
            .ok_or_else(|| MFacError::Device("the window of gradients is lost".into()))
    }
}

impl InverseFisher for SlidingFisher {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn solve(&self, x: &Tensor<1>) -> Result<Tensor<1>, MFacError> {
        check_length(self.dimension, x)?;
        self.solve_from(x, products(self.rows()?, x))
    }

    fn inverse_diagonal(&self) -> Result<Tensor<1>, MFacError> {
        let rows = self.rows()?;
        let b = self.factor.inverse_of_lower(1.0 / self.damping);
        let v = from_mat(&b, &rows.device(), rows.dtype()).matmul(rows.clone()); // [m, d]
        StaticFisher {
            v,
            q: self.factor.q.clone(),
            damping: self.damping,
        }
        .inverse_diagonal()
    }
}

/// The result of pruning.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The weights, `[d]`, 0 where they are pruned.
    pub weights: Tensor<1>,
    /// Which weights are not pruned, `[d]`: 1 or 0.
    pub mask: Vec<bool>,
}

/// Prunes until the share `sparsity` of the weights is 0, by the saliency of the optimal brain surgeon, and
/// adjusts the others to compensate; see the [module](self). The pruned weights are treated as if each were
/// the only one.
///
/// - `weights`: `[d]`
/// - `mask`: which weights are not pruned; pruned weights stay pruned
///
/// # Errors
/// If the lengths differ, or `sparsity` is not between that of `mask` and 1.
pub fn optimal_brain_surgeon(
    weights: &Tensor<1>,
    mask: &[bool],
    fisher: &impl InverseFisher,
    sparsity: f64,
) -> Result<Pruned, MFacError> {
    let d = fisher.dimension();
    check_length(d, weights)?;
    if mask.len() != d {
        return Err(MFacError::Length {
            expected: d,
            found: mask.len(),
        });
    }
    let gone = mask.iter().filter(|&&there| !there).count();
    let present = gone as f64 / d as f64;
    if !(sparsity >= present && sparsity < 1.0) {
        return Err(MFacError::Sparsity {
            wanted: sparsity,
            present,
        });
    }
    let goal = (sparsity * d as f64).round() as usize;
    let w = numbers(weights.clone())?;
    let h = numbers(fisher.inverse_diagonal()?)?;
    let saliency = |i: usize| w[i] * w[i] / (2.0 * h[i]);
    let mut there: Vec<usize> = (0..d).filter(|&i| mask[i]).collect();
    // Weights with equal saliency are pruned in their order.
    there.sort_by(|&a, &b| saliency(a).total_cmp(&saliency(b)).then(a.cmp(&b)));
    let mut mask = mask.to_vec();
    let mut t = vec![0.0; d];
    for &i in &there[..goal.saturating_sub(gone)] {
        mask[i] = false;
        t[i] = -w[i] / h[i];
    }
    let (device, dtype) = (weights.device(), weights.dtype());
    let change = fisher.solve(&vector(&t, &device, dtype))?;
    let keep: Vec<f64> = mask.iter().map(|&m| f64::from(u8::from(m))).collect();
    Ok(Pruned {
        weights: (weights.clone() + change) * vector(&keep, &device, dtype),
        mask,
    })
}

/// The share of remaining weights after part `step` of `steps` of a gradual pruning from the density `from`
/// to `to`, with a new Fisher matrix for each part: `a (b/a)^{j/R}`.
///
/// ```
/// use nabla_optim::m_fac::gradual_density;
/// assert_eq!(gradual_density(1.0, 0.25, 1, 2), 0.5);
/// ```
pub fn gradual_density(from: f64, to: f64, step: usize, steps: usize) -> f64 {
    from * (to / from).powf(step as f64 / steps.max(1) as f64)
}

fn check_damping(damping: f64) -> Result<(), OutOfRange> {
    range::positive("damping of M-FAC", damping)
}

fn check_count(field: &'static str, value: usize) -> Result<(), OutOfRange> {
    range::at_least(format!("{field} of M-FAC"), value, 1)
}

fn check_length(expected: usize, x: &Tensor<1>) -> Result<(), MFacError> {
    let [found] = x.dims();
    if found == expected {
        Ok(())
    } else {
        Err(MFacError::Length { expected, found })
    }
}

fn numbers(x: Tensor<1>) -> Result<Vec<f64>, MFacError> {
    x.into_data()
        .convert::<f64>()
        .try_to_vec::<f64>()
        .map_err(|e| MFacError::Device(format!("{e:?}")))
}

fn vector(x: &[f64], device: &Device, dtype: DType) -> Tensor<1> {
    Tensor::from_data(TensorData::new(x.to_vec(), [x.len()]), (device, dtype))
}

fn to_mat(x: Tensor<2>) -> Result<Mat<f64>, MFacError> {
    let [rows, columns] = x.dims();
    let values = numbers(x.reshape([rows * columns]))?;
    Ok(Mat::from_fn(rows, columns, |i, j| values[i * columns + j]))
}

fn from_mat(x: &Mat<f64>, device: &Device, dtype: DType) -> Tensor<2> {
    let (rows, columns) = (x.nrows(), x.ncols());
    let values: Vec<f64> = (0..rows * columns)
        .map(|i| x[(i / columns, i % columns)])
        .collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), (device, dtype))
}

#[cfg(test)]
mod tests;
