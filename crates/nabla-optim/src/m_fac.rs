//! M-FAC: products with the inverse of the empirical Fisher matrix, without the matrix, for pruning
//! and for optimization.
//!
//! With the gradients `g_1 … g_m ∈ R^d` as the rows of `G`, and a damping `λ > 0`,
//!
//! ```text
//! F = λ I + 1/m Σ g_i g_iᵀ
//! ```
//!
//! **Static algorithm** ([`EmpiricalFisher`]). The Sherman-Morrison recursion
//! `v_i = F_{i−1}⁻¹ g_i`, `q_i = m + g_i·v_i` gives
//!
//! ```text
//! F⁻¹ x = x/λ − Σ (v_i·x / q_i) v_i        O(dm)
//! [F⁻¹]_ab = δ_ab/λ − Σ v_i[a] v_i[b] / q_i   O(m)
//! ```
//!
//! The recursion is the elimination of `A = G Gᵀ/λ + m I = L Q Lᵀ`: `V = L⁻¹ G/λ` and
//! `q = diag Q`. So `V` costs two matrix products and an elimination of `m x m`, `O(dm²)`.
//! [`BlockFisher`] does the same for each block of weights on its own, as if `F` were
//! block-diagonal.
//!
//! **Dynamic algorithm** ([`SlidingFisher`]). A window of the last `m` gradients; a new one replaces
//! the oldest, in whatever row that stands, as the order of the rows does not matter:
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
//! The window holds `g` before the product: outside its span `F⁻¹` multiplies by `1/λ`, which is huge.
//! Until the window is full its other rows are zero, and the mean still divides by `m`.
//!
//! **Pruning** ([`optimal_brain_surgeon`]). The weights with the least `ρ_i = w_i² / (2 [F⁻¹]_ii)` go,
//! and the others make up for it: `w ← w + F⁻¹ t` with `t_i = −w_i / [F⁻¹]_ii` on the pruned ones.
//!
//! What is `m x m` is computed in `f64`, what is `m x d` in the precision of the gradients.
//!
//! Source: Frantar, Kurtic, Alistarh, *M-FAC: Efficient Matrix-Free Approximations of Second-Order
//! Information*, NeurIPS 2021, arXiv 2107.03356.

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::prelude::Solve;
use faer::{Mat, Side};
use nabla_grad::flat::FlatError;
use nabla_grad::long_rows::{combination, products};
use rayon::prelude::*;

use crate::checked_record::LoadError;
use crate::optimizer_config::OptimizerConfigError;

mod optimizer;

pub use optimizer::{MFac, MFacConfig};

/// Why a Fisher matrix cannot be inverted, or a step not be taken.
#[derive(Debug, thiserror::Error)]
pub enum MFacError {
    /// A value of the configuration.
    #[error("M-FAC's {field} is {value}, but it must be {expected}")]
    Config {
        /// Which one.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        expected: &'static str,
    },
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
    /// A value of the configuration that other optimizers have, too.
    #[error(transparent)]
    Optimizer(#[from] OptimizerConfigError),
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
/// use nabla_optim::m_fac::{EmpiricalFisher, InverseFisher};
///
/// // F = 0.1 I + diag(4, 1)/2
/// let gradients = Tensor::<2>::from_floats([[2.0, 0.0], [0.0, 1.0]], &Device::flex());
/// let fisher = EmpiricalFisher::new(gradients, 0.1)?;
/// assert!((fisher.inverse_entry(0, 0)? - 1.0 / 2.1).abs() < 1e-6);
/// let x = fisher.solve(&Tensor::from_floats([2.1, 0.6], &Device::flex()))?;
/// let x = x.into_data().try_to_vec::<f32>().unwrap();
/// assert!((x[0] - 1.0).abs() < 1e-5 && (x[1] - 1.0).abs() < 1e-5);
/// # Ok::<(), nabla_optim::m_fac::MFacError>(())
/// ```
#[derive(Clone, Debug)]
pub struct EmpiricalFisher {
    /// `V`, `[m, d]`.
    v: Tensor<2>,
    /// `q`, `[m]`.
    q: Vec<f64>,
    damping: f64,
}

impl EmpiricalFisher {
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

impl InverseFisher for EmpiricalFisher {
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
        EmpiricalFisher {
            v,
            q: self.factor.q.clone(),
            damping: self.damping,
        }
        .inverse_diagonal()
    }
}

/// `G Gᵀ/λ + m I = L Q Lᵀ` with a unit lower `L`.
#[derive(Clone, Debug)]
struct Elimination {
    /// Below the diagonal.
    lower: Mat<f64>,
    q: Vec<f64>,
}

impl Elimination {
    fn of(gram: &Mat<f64>, damping: f64) -> Result<Self, MFacError> {
        let m = gram.nrows();
        if (0..m).any(|i| !gram[(i, i)].is_finite()) {
            return Err(MFacError::NotFinite);
        }
        let a = Mat::from_fn(m, m, |i, j| {
            gram[(i, j)] / damping + if i == j { m as f64 } else { 0.0 }
        });
        // Positive definite: no pivots. Its Cholesky factor C gives L = C diag(C)⁻¹, Q = diag(C)².
        let factor = a
            .llt(Side::Lower)
            .map_err(|e| MFacError::Factorization(format!("{e:?}")))?;
        let c = factor.L();
        Ok(Self {
            lower: Mat::from_fn(m, m, |i, j| match i.cmp(&j) {
                std::cmp::Ordering::Less => 0.0,
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => c[(i, j)] / c[(j, j)],
            }),
            q: (0..m).map(|i| c[(i, i)].powi(2)).collect(),
        })
    }

    /// `c ← L⁻ᵀ Q⁻¹ L⁻¹ c`.
    fn solve(&self, c: &mut [f64]) {
        let m = c.len();
        for j in 0..m {
            for i in j + 1..m {
                c[i] -= self.lower[(i, j)] * c[j];
            }
        }
        for (c, q) in c.iter_mut().zip(&self.q) {
            *c /= q;
        }
        for j in (0..m).rev() {
            for i in j + 1..m {
                c[j] -= self.lower[(i, j)] * c[i];
            }
        }
    }

    /// `scale · L⁻¹`.
    fn inverse_of_lower(&self, scale: f64) -> Mat<f64> {
        let m = self.lower.nrows();
        let mut out = Mat::from_fn(m, m, |i, j| if i == j { scale } else { 0.0 });
        self.lower
            .as_ref()
            .solve_unit_lower_triangular_in_place(out.as_mut());
        out
    }
}

/// What pruning left.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The weights, `[d]`, 0 where they are pruned.
    pub weights: Tensor<1>,
    /// Which weights are there, `[d]`: 1 or 0.
    pub mask: Vec<bool>,
}

/// Prunes to the share `sparsity` of weights that are 0, by the saliency of the optimal brain
/// surgeon, and changes the others to make up for it; see the [module](self). The pruned weights are
/// treated as if each were the only one.
///
/// - `weights`: `[d]`
/// - `mask`: which of them are there; pruned ones stay so
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
    // Equal ones go in the order of the weights.
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

/// The share of weights that are there after part `step` of `steps` of a gradual pruning from the
/// density `from` to `to`, with a Fisher matrix of the model as it is then for each: `a (b/a)^{j/R}`.
///
/// ```
/// use nabla_optim::m_fac::gradual_density;
/// assert_eq!(gradual_density(1.0, 0.25, 1, 2), 0.5);
/// ```
pub fn gradual_density(from: f64, to: f64, step: usize, steps: usize) -> f64 {
    from * (to / from).powf(step as f64 / steps.max(1) as f64)
}

fn check_damping(damping: f64) -> Result<(), MFacError> {
    if damping > 0.0 && damping.is_finite() {
        Ok(())
    } else {
        Err(MFacError::Config {
            field: "damping",
            value: damping,
            expected: "positive and finite",
        })
    }
}

fn check_count(field: &'static str, value: usize) -> Result<(), MFacError> {
    if value > 0 {
        Ok(())
    } else {
        Err(MFacError::Config {
            field,
            value: 0.0,
            expected: "at least 1",
        })
    }
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
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::GradientsParams;
    use nabla_grad::flat::ParameterLayout;
    use nabla_grad::seeded_noise::SeededNoise;

    const D: usize = 60;
    const M: usize = 12;

    fn gradients(rows: usize, seed: u64) -> Mat<f64> {
        let values = SeededNoise::new(seed, 0).normal_values(rows * D);
        Mat::from_fn(rows, D, |i, j| f64::from(values[i * D + j]))
    }

    fn tensor(x: &Mat<f64>, dtype: DType) -> Tensor<2> {
        from_mat(x, &Device::flex(), dtype)
    }

    /// `(λ I + GᵀG/m)⁻¹`, dense.
    fn dense(g: &Mat<f64>, m: usize, damping: f64) -> Mat<f64> {
        let gram = g.transpose() * g;
        let d = g.ncols();
        let fisher = Mat::from_fn(d, d, |i, j| {
            gram[(i, j)] / m as f64 + if i == j { damping } else { 0.0 }
        });
        fisher.llt(Side::Lower).unwrap().solve(Mat::identity(d, d))
    }

    fn apply(inverse: &Mat<f64>, x: &[f64]) -> Vec<f64> {
        let x = Mat::from_fn(x.len(), 1, |i, _| x[i]);
        let y = inverse * x;
        (0..y.nrows()).map(|i| y[(i, 0)]).collect()
    }

    fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        let scale = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= tolerance * scale, "{a} against {b}");
        }
    }

    fn row(g: &Mat<f64>, i: usize) -> Vec<f64> {
        (0..g.ncols()).map(|j| g[(i, j)]).collect()
    }

    #[test]
    fn static_products_are_those_of_the_dense_inverse() {
        for (dtype, damping, tolerance) in [
            (DType::F64, 1e-5, 1e-9),
            (DType::F64, 0.1, 1e-11),
            (DType::F32, 1e-2, 1e-3),
        ] {
            let g = gradients(M, 1);
            let inverse = dense(&g, M, damping);
            let fisher = EmpiricalFisher::new(tensor(&g, dtype), damping).unwrap();
            let x = row(&gradients(1, 2), 0);
            let y = fisher.solve(&vector(&x, &Device::flex(), dtype)).unwrap();
            assert_close(&numbers(y).unwrap(), &apply(&inverse, &x), tolerance);
            let diagonal: Vec<f64> = (0..D).map(|i| inverse[(i, i)]).collect();
            let ours = numbers(fisher.inverse_diagonal().unwrap()).unwrap();
            assert_close(&ours, &diagonal, tolerance);
            for (a, b) in [(0, 0), (3, 41), (59, 2)] {
                let entry = fisher.inverse_entry(a, b).unwrap();
                assert!((entry - inverse[(a, b)]).abs() < tolerance * diagonal[0].abs());
            }
        }
    }

    /// The recursion of the paper, vector by vector.
    #[test]
    fn the_factors_are_those_of_the_papers_recursion() {
        let (g, damping) = (gradients(M, 3), 0.05);
        let fisher = EmpiricalFisher::new(tensor(&g, DType::F64), damping).unwrap();
        let ours = to_mat(fisher.v.clone()).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (mut v, mut q) = (Vec::<Vec<f64>>::new(), Vec::<f64>::new());
        for i in 0..M {
            let g_i = row(&g, i);
            let mut v_i: Vec<f64> = g_i.iter().map(|g| g / damping).collect();
            for (v_j, q_j) in v.iter().zip(&q) {
                let c = dot(v_j, &g_i) / q_j;
                for (a, b) in v_i.iter_mut().zip(v_j) {
                    *a -= c * b;
                }
            }
            q.push(M as f64 + dot(&g_i, &v_i));
            assert_close(&row(&ours, i), &v_i, 1e-10);
            v.push(v_i);
        }
        assert_close(&fisher.q, &q, 1e-12);
    }

    #[test]
    fn blocks_are_inverted_on_their_own() {
        let (g, damping) = (gradients(M, 4), 0.01);
        // More weights than gradients in a block, and fewer; the last block is shorter.
        for size in [25, 8] {
            let fisher = BlockFisher::new(tensor(&g, DType::F64), damping, size).unwrap();
            let x = row(&gradients(1, 5), 0);
            let y = fisher
                .solve(&vector(&x, &Device::flex(), DType::F64))
                .unwrap();
            let (mut expected, mut diagonal) = (Vec::new(), Vec::new());
            for start in (0..D).step_by(size) {
                let width = size.min(D - start);
                let part = Mat::from_fn(M, width, |i, j| g[(i, start + j)]);
                let inverse = dense(&part, M, damping);
                expected.extend(apply(&inverse, &x[start..start + width]));
                diagonal.extend((0..width).map(|i| inverse[(i, i)]));
            }
            assert_close(&numbers(y).unwrap(), &expected, 1e-10);
            let ours = numbers(fisher.inverse_diagonal().unwrap()).unwrap();
            assert_close(&ours, &diagonal, 1e-10);
        }
        // One block of everything is the whole matrix.
        let whole = BlockFisher::new(tensor(&g, DType::F64), damping, D).unwrap();
        let ours = numbers(whole.inverse_diagonal().unwrap()).unwrap();
        let full = EmpiricalFisher::new(tensor(&g, DType::F64), damping).unwrap();
        assert_close(
            &ours,
            &numbers(full.inverse_diagonal().unwrap()).unwrap(),
            1e-10,
        );
    }

    #[test]
    fn the_window_slides() {
        let damping = 1e-3;
        let all = gradients(2 * M + 5, 6);
        let device = Device::flex();
        let mut fisher = SlidingFisher::new(D, M, damping, &device).unwrap();
        let x = row(&gradients(1, 7), 0);
        for i in 0..all.nrows() {
            let g = vector(&row(&all, i), &device, DType::F32);
            let mut before = fisher.clone();
            fisher.push(&g).unwrap();
            // The last M, or fewer at first; the mean divides by M all the same.
            let first = (i + 1).saturating_sub(M);
            let window = Mat::from_fn(i + 1 - first, D, |r, j| all[(first + r, j)]);
            let inverse = dense(&window, M, damping);
            let y = fisher.solve(&vector(&x, &device, DType::F32)).unwrap();
            assert_close(&numbers(y).unwrap(), &apply(&inverse, &x), 1e-3);
            // In one call it is the same to the bit.
            let own = fisher.solve(&g).unwrap().into_data();
            assert_eq!(before.push_solve(&g).unwrap().into_data(), own);
        }
        let inverse = dense(
            &Mat::from_fn(M, D, |r, j| all[(all.nrows() - M + r, j)]),
            M,
            damping,
        );
        let diagonal: Vec<f64> = (0..D).map(|i| inverse[(i, i)]).collect();
        let ours = numbers(fisher.inverse_diagonal().unwrap()).unwrap();
        assert_close(&ours, &diagonal, 1e-3);
    }

    fn model_and_gradients(device: &Device) -> (Linear, Tensor<2>) {
        let model: Linear = LinearConfig::new(5, 3).init(device);
        let values = SeededNoise::new(8, 0).normal_values(7 * 5);
        let x = Tensor::from_data(TensorData::new(values, [7, 5]), device);
        (model, x)
    }

    fn backward(model: &Linear, x: &Tensor<2>) -> GradientsParams {
        let loss = (model.forward(x.clone()) - 1.0).square().mean();
        GradientsParams::from_grads(loss.backward(), model)
    }

    #[test]
    fn a_step_is_the_inverse_fisher_times_the_gradient() {
        let device = Device::flex().autodiff();
        let (model, x) = model_and_gradients(&device);
        let config = MFacConfig::new()
            .with_window(4)
            .with_damping(1e-2)
            .with_momentum(0.9)
            .with_weight_decay(0.1);
        let mut optimizer = config.init().unwrap();
        let layout = ParameterLayout::of(&model).unwrap();
        let (mut model, mut velocity) = (model, vec![0.0; 18]);
        let mut window: Vec<Vec<f64>> = Vec::new();
        for _ in 0..6 {
            let gradients = backward(&model, &x);
            let w = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
            let g = numbers(layout.flatten_gradients(&gradients).unwrap()).unwrap();
            let g: Vec<f64> = g.iter().zip(&w).map(|(g, w)| g + 0.1 * w).collect();
            window.push(g.clone());
            let last = &window[window.len().saturating_sub(4)..];
            let rows = Mat::from_fn(last.len(), 18, |i, j| last[i][j]);
            let u = apply(&dense(&rows, 4, 1e-2), &g);
            for (v, u) in velocity.iter_mut().zip(&u) {
                *v = 0.9 * *v + (1.0 - 0.9) * u;
            }
            let expected: Vec<f64> = w.iter().zip(&velocity).map(|(w, v)| w - 0.05 * v).collect();
            model = optimizer.step(0.05, model, gradients).unwrap();
            let found = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
            assert_close(&found, &expected, 1e-4);
        }
    }

    #[test]
    fn a_record_goes_on_to_the_bit() {
        let device = Device::flex().autodiff();
        let (model, x) = model_and_gradients(&device);
        let config = MFacConfig::new()
            .with_window(3)
            .with_momentum(0.5)
            .with_sparse(true);
        let mut optimizer = config.init().unwrap();
        let mut model = model;
        for _ in 0..4 {
            let gradients = backward(&model, &x);
            model = optimizer.step(1e-3, model, gradients).unwrap();
        }
        let bytes = optimizer.into_bytes().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m-fac.bpk");
        optimizer.save(&file).unwrap();
        let fresh = || config.init().unwrap();
        // A record that was not yet stepped with is the same record.
        let loaded = fresh().from_bytes(bytes.clone()).unwrap();
        assert_eq!(loaded.into_bytes().unwrap().to_vec(), bytes.to_vec());
        let from_record = fresh().load_record(optimizer.to_record().unwrap()).unwrap();
        let from_file = fresh().load(&file).unwrap();
        let ways = [loaded, from_record, from_file];
        let mut ways = ways.map(|resumed| (resumed, model.clone()));
        for _ in 0..4 {
            let gradients = backward(&model, &x);
            model = optimizer.step(1e-3, model, gradients).unwrap();
            for (resumed, copy) in &mut ways {
                let gradients = backward(copy, &x);
                *copy = resumed.step(1e-3, copy.clone(), gradients).unwrap();
                assert_eq!(
                    model.weight.val().into_data(),
                    copy.weight.val().into_data()
                );
            }
        }
        // Nothing so far is a record, too.
        let empty = fresh().into_bytes().unwrap();
        fresh().from_bytes(empty).unwrap().prepared(&model).unwrap();

        let other = config.clone().with_window(4).init().unwrap();
        let told = other.from_bytes(bytes.clone()).unwrap_err();
        assert!(told.to_string().contains("the window is 4"), "{told}");
        let larger: Linear = LinearConfig::new(6, 3).init(&device);
        let told = fresh().from_bytes(bytes).unwrap().prepared(&larger);
        let told = told.unwrap_err().to_string();
        assert!(told.contains("the model has 21 parameters"), "{told}");
        let adam = burn::optim::AdamConfig::new().init();
        let mut adam = adam;
        let gradients = backward(&model, &x);
        adam.step(1e-3, model, gradients);
        let told = fresh().from_bytes(adam.into_bytes().unwrap()).unwrap_err();
        assert!(
            told.to_string().contains("it has no m_fac.gradients"),
            "{told}"
        );
        for damaged in [vec![], vec![1, 2, 3], vec![0xff; 64]] {
            let damaged = burn::tensor::Bytes::from_bytes_vec(damaged);
            assert!(matches!(
                fresh().from_bytes(damaged),
                Err(MFacError::Load(_))
            ));
        }
    }

    #[test]
    fn gradients_are_clipped_parameter_by_parameter() {
        use burn::grad_clipping::GradientClippingConfig;
        let device = Device::flex().autodiff();
        let (model, x) = model_and_gradients(&device);
        let clip = GradientClippingConfig::Norm(1e-3);
        let config = MFacConfig::new().with_window(2).with_damping(1e-2);
        let clipping = config.clone().with_grad_clipping(Some(clip.clone()));
        let clipped = clipping.init().unwrap();
        let mut clipped = clipped.prepared(&model).unwrap();
        let found = clipped
            .step(0.1, model.clone(), backward(&model, &x))
            .unwrap();
        // As if the gradients had come clipped.
        let (gradients, clip) = (backward(&model, &x), clip.init());
        let mut short = GradientsParams::new();
        let weight = gradients.get::<2>(model.weight.id).unwrap();
        short.register::<2>(model.weight.id, clip.clip_gradient(weight));
        let bias = model.bias.as_ref().unwrap().id;
        let own = gradients.get::<1>(bias).unwrap();
        short.register::<1>(bias, clip.clip_gradient(own));
        let expected = config.init().unwrap().step(0.1, model, short).unwrap();
        let numbers = |m: &Linear| m.weight.val().into_data().try_to_vec::<f32>().unwrap();
        for (a, b) in numbers(&found).iter().zip(numbers(&expected)) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn pruned_weights_stay_away() {
        let device = Device::flex().autodiff();
        let (model, x) = model_and_gradients(&device);
        let layout = ParameterLayout::of(&model).unwrap();
        let w = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
        let sparse: Vec<f64> = w
            .iter()
            .enumerate()
            .map(|(i, w)| if i % 3 == 0 { 0.0 } else { *w })
            .collect();
        let mut model = layout
            .with_parameters(model, vector(&sparse, layout.device(), DType::F32))
            .unwrap();
        let config = MFacConfig::new().with_window(4).with_sparse(true);
        let mut optimizer = config.init().unwrap();
        for _ in 0..3 {
            let gradients = backward(&model, &x);
            model = optimizer.step(1e-2, model, gradients).unwrap();
        }
        let after = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
        for (i, (before, after)) in sparse.iter().zip(&after).enumerate() {
            assert_eq!(i % 3 == 0, *after == 0.0, "{before} {after}");
        }
    }

    /// On a quadratic whose Hessian is F, removing one weight and moving the others costs what its
    /// saliency says, and less than removing it alone.
    #[test]
    fn the_surgeon_makes_up_for_what_it_removes() {
        let (g, damping) = (gradients(M, 9), 0.5);
        let device = Device::flex();
        let fisher = EmpiricalFisher::new(tensor(&g, DType::F64), damping).unwrap();
        let w = row(&gradients(1, 10), 0);
        let weights = vector(&w, &device, DType::F64);
        let there = vec![true; D];
        let pruned = optimal_brain_surgeon(&weights, &there, &fisher, 1.0 / D as f64).unwrap();
        assert_eq!(pruned.mask.iter().filter(|m| !**m).count(), 1);
        let after = numbers(pruned.weights.clone()).unwrap();
        let inverse = dense(&g, M, damping);
        let hessian = inverse.llt(Side::Lower).unwrap().solve(Mat::identity(D, D));
        let cost = |change: &[f64]| {
            let product = apply(&hessian, change);
            0.5 * change.iter().zip(&product).map(|(a, b)| a * b).sum::<f64>()
        };
        let q = pruned.mask.iter().position(|m| !m).unwrap();
        let moved: Vec<f64> = after.iter().zip(&w).map(|(a, b)| a - b).collect();
        let alone: Vec<f64> = (0..D).map(|i| if i == q { -w[q] } else { 0.0 }).collect();
        let saliency = w[q] * w[q] / (2.0 * inverse[(q, q)]);
        assert!((cost(&moved) - saliency).abs() < 1e-9 * saliency.max(1e-9));
        assert!(cost(&moved) < cost(&alone));
        for i in 0..D {
            assert!(saliency <= w[i] * w[i] / (2.0 * inverse[(i, i)]) + 1e-12);
        }
        // Further on: what is gone stays gone.
        let half = optimal_brain_surgeon(&pruned.weights, &pruned.mask, &fisher, 0.5).unwrap();
        assert_eq!(half.mask.iter().filter(|m| !**m).count(), D / 2);
        assert!(!half.mask[q]);
        assert!(optimal_brain_surgeon(&half.weights, &half.mask, &fisher, 0.3).is_err());
        assert!(optimal_brain_surgeon(&half.weights, &half.mask, &fisher, 1.0).is_err());
        assert!(optimal_brain_surgeon(&half.weights, &[true], &fisher, 0.9).is_err());
        assert_eq!(gradual_density(1.0, 0.1, 16, 16), 0.1);
    }

    #[test]
    fn wrong_input_is_told() {
        let device = Device::flex();
        let g = || tensor(&gradients(2, 1), DType::F32);
        assert!(EmpiricalFisher::new(g(), 0.0).is_err());
        assert!(BlockFisher::new(g(), 0.1, 0).is_err());
        assert!(SlidingFisher::new(4, 0, 0.1, &device).is_err());
        assert!(EmpiricalFisher::new(Tensor::zeros([0, 3], &device), 0.1).is_err());
        let bad = g() * f32::NAN;
        assert!(matches!(
            EmpiricalFisher::new(bad, 0.1),
            Err(MFacError::NotFinite)
        ));
        let fisher = EmpiricalFisher::new(g(), 0.1).unwrap();
        let told = fisher.solve(&Tensor::zeros([3], &device)).unwrap_err();
        assert_eq!(
            told.to_string(),
            "the vector has 3 numbers, but the Fisher matrix has 60 rows"
        );
        assert!(fisher.inverse_entry(0, D).is_err());
        let mut sliding = SlidingFisher::new(D, 3, 0.1, &device).unwrap();
        let infinite = Tensor::<1>::full([D], f32::INFINITY, &device);
        assert!(matches!(sliding.push(&infinite), Err(MFacError::NotFinite)));
        // The window is as before.
        sliding.push(&Tensor::ones([D], &device)).unwrap();
        assert!(
            numbers(sliding.solve(&Tensor::ones([D], &device)).unwrap())
                .unwrap()
                .iter()
                .all(|v| v.is_finite())
        );
        assert!(MFacConfig::new().with_momentum(1.0).init().is_err());
        assert!(MFacConfig::new().with_weight_decay(-1.0).init().is_err());
        assert!(MFacConfig::new().with_window(0).init().is_err());
        assert!(MFacConfig::new().with_damping(0.0).init().is_err());
    }
}
