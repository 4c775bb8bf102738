//! Algebraic multigrid by smoothed aggregation.

use faer::sparse::linalg::matmul::sparse_sparse_matmul;
use faer::sparse::{SparseRowMat, SymbolicSparseRowMat};
use faer::{Mat, Par, Side};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;

use super::deflation::largest_eigenvalue;
use super::jacobi;
use super::sparse::{diagonal, entries, multiply};
use super::{Kernel, LinearError, Preconditioner, SparseMatrix, SpdOperator};

/// How the hierarchy is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultigridConfig {
    /// Unknowns `i` and `j` belong together if `|a_ij| ≥ θ √(a_ii a_jj)`. Default 0.
    pub strength: f64,
    /// `ω`: prolongations are smoothed by `I − ω/ρ(D⁻¹A) D⁻¹A`. Default 4/3.
    pub damping: f64,
    /// Matrices with at most so many rows are solved directly. Default 100.
    pub coarsest: usize,
    /// The most levels. Default 20.
    pub levels: usize,
}

impl Default for MultigridConfig {
    fn default() -> Self {
        Self {
            strength: 0.0,
            damping: 4.0 / 3.0,
            coarsest: 100,
            levels: 20,
        }
    }
}

impl MultigridConfig {
    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let strength = self.strength;
        let fits = (0.0..1.0).contains(&strength);
        range::check(
            fits,
            "strength of a link",
            strength,
            "at least 0 and less than 1",
        )?;
        range::positive("damping of a prolongation", self.damping)?;
        range::at_least("rows of the coarsest matrix", self.coarsest, 1)?;
        range::at_least("number of levels", self.levels, 1)
    }
}

/// One V-cycle as a preconditioner.
///
/// ```text
/// aggregates: each unknown with those that are linked to it;  T: constants on aggregates
/// P = (I − ω/ρ D⁻¹A) T,   A_coarse = Pᵀ A P
/// cycle: a sweep of Gauss-Seidel forward;  x ← x + P cycle(Pᵀ (r − A x));  a sweep backward
/// ```
///
/// The numbers of iterations hardly grow with a grid.
#[derive(Clone, Debug)]
pub struct Multigrid {
    levels: Vec<Level>,
    /// The pseudo-inverse of the last matrix.
    coarsest: Mat<f64>,
}

#[derive(Clone, Debug)]
struct Level {
    a: SparseRowMat<u32, f64>,
    /// `1/a_ii`, 0 in rows that are zero.
    inverse: Vec<f64>,
    /// `P`.
    prolongation: SparseRowMat<u32, f64>,
    /// `Pᵀ`.
    restriction: SparseRowMat<u32, f64>,
}

/// Steps of the Lanczos iteration for `ρ`.
const STEPS: usize = 15;
/// Eigenvalues of the coarsest matrix below this part of the largest one are 0.
const RANK: f64 = 1e-12;
/// More than this would not be a coarsest matrix.
const MOST_DENSE: usize = 4000;

impl Multigrid {
    /// # Errors
    /// If the configuration is out of range, a diagonal entry is not positive, or the matrix cannot be made coarser.
    pub fn new(a: &SparseMatrix, config: &MultigridConfig) -> Result<Self, LinearError> {
        config.validate()?;
        let mut levels = Vec::new();
        let mut a = a.rows().clone();
        // What the coarse spaces must hold: constants at first.
        let mut candidate = vec![1.0; a.nrows()];
        while a.nrows() > config.coarsest && levels.len() + 1 < config.levels {
            let inverse = jacobi::inverse(diagonal(&a))?;
            let (aggregates, count) = aggregates(&a, &inverse, config.strength);
            if count == 0 || count == a.nrows() {
                break;
            }
            let (tentative, coarse_candidate) = tentative(&aggregates, count, &candidate);
            let prolongation = smoothed(&a, &inverse, &tentative, config.damping)?;
            let restriction = transposed(&prolongation)?;
            let coarse = product(&restriction, &product(&a, &prolongation)?)?;
            levels.push(Level {
                a,
                inverse,
                prolongation,
                restriction,
            });
            (a, candidate) = (coarse, coarse_candidate);
        }
        if a.nrows() > MOST_DENSE {
            return Err(LinearError::Matrix(format!(
                "its coarsest form has {} rows, which is too many to solve directly: lower the strength of links",
                a.nrows()
            )));
        }
        let coarsest = pseudo_inverse(&a)?;
        Ok(Self { levels, coarsest })
    }

    /// The rows of the matrices, from the finest to the coarsest.
    pub fn rows(&self) -> Vec<usize> {
        let levels = self.levels.iter().map(|level| level.a.nrows());
        levels.chain([self.coarsest.nrows()]).collect()
    }

    fn cycle(&self, depth: usize, r: &[f64], x: &mut [f64]) {
        let Some(level) = self.levels.get(depth) else {
            for (i, x) in x.iter_mut().enumerate() {
                *x = r
                    .iter()
                    .enumerate()
                    .map(|(j, r)| self.coarsest[(i, j)] * r)
                    .sum();
            }
            return;
        };
        x.fill(0.0);
        level.sweep(0..r.len(), r, x);
        let mut left = vec![0.0; r.len()];
        multiply(&level.a, x, &mut left);
        left.iter_mut()
            .zip(r)
            .for_each(|(left, r)| *left = r - *left);
        let coarse = level.restriction.nrows();
        let (mut coarse_r, mut coarse_x) = (vec![0.0; coarse], vec![0.0; coarse]);
        multiply(&level.restriction, &left, &mut coarse_r);
        self.cycle(depth + 1, &coarse_r, &mut coarse_x);
        multiply(&level.prolongation, &coarse_x, &mut left);
        x.iter_mut().zip(&left).for_each(|(x, more)| *x += more);
        level.sweep((0..r.len()).rev(), r, x);
    }
}

impl Level {
    /// Gauss-Seidel in an order.
    fn sweep(&self, order: impl Iterator<Item = usize>, r: &[f64], x: &mut [f64]) {
        let starts = self.a.symbolic().row_ptr();
        let (columns, values) = (self.a.symbolic().col_idx(), self.a.val());
        for row in order {
            let range = starts[row] as usize..starts[row + 1] as usize;
            let mut sum = r[row];
            for (&column, &value) in columns[range.clone()].iter().zip(&values[range]) {
                sum -= value * x[column as usize];
            }
            // The sum has a_ii x_i in it.
            x[row] += sum * self.inverse[row];
        }
    }
}

impl Preconditioner for Multigrid {
    fn apply(&self, r: &[f64], z: &mut [f64]) {
        self.cycle(0, r, z);
    }
}

const NONE: u32 = u32::MAX;

/// The aggregate of each unknown, none for those that are linked to no other, and how many aggregates there are: first all whose
/// neighbours are free, with these; then what is left beside these; then what is left.
fn aggregates(a: &SparseRowMat<u32, f64>, inverse: &[f64], strength: f64) -> (Vec<u32>, usize) {
    let n = a.nrows();
    let strong = |row: usize| {
        entries(a, row).filter_map(move |(column, value)| {
            let scale = value * value * inverse[row] * inverse[column];
            let linked = column != row && value != 0.0 && scale >= strength * strength;
            linked.then_some(column)
        })
    };
    let mut aggregate = vec![NONE; n];
    let mut count = 0_u32;
    for row in 0..n {
        let mut linked = strong(row).peekable();
        if aggregate[row] != NONE || linked.peek().is_none() {
            continue;
        }
        if linked.all(|other| aggregate[other] == NONE) {
            aggregate[row] = count;
            strong(row).for_each(|other| aggregate[other] = count);
            count += 1;
        }
    }
    let first = aggregate.clone();
    for (row, aggregate) in aggregate.iter_mut().enumerate() {
        if *aggregate == NONE
            && let Some(other) = strong(row).find(|&other| first[other] != NONE)
        {
            *aggregate = first[other];
        }
    }
    for row in 0..n {
        if aggregate[row] != NONE || strong(row).next().is_none() {
            continue;
        }
        aggregate[row] = count;
        for other in strong(row) {
            if aggregate[other] == NONE {
                aggregate[other] = count;
            }
        }
        count += 1;
    }
    (aggregate, count as usize)
}

/// `T`, with columns of norm 1, and what `Tᵀ` makes of the candidate.
fn tentative(
    aggregates: &[u32],
    count: usize,
    candidate: &[f64],
) -> (SparseRowMat<u32, f64>, Vec<f64>) {
    let mut norms = vec![0.0; count];
    for (&aggregate, value) in aggregates.iter().zip(candidate) {
        if aggregate != NONE {
            norms[aggregate as usize] += value * value;
        }
    }
    norms.iter_mut().for_each(|norm| *norm = norm.sqrt());
    let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for (&aggregate, value) in aggregates.iter().zip(candidate) {
        if aggregate != NONE {
            columns.push(aggregate);
            values.push(value / norms[aggregate as usize]);
        }
        starts.push(columns.len() as u32);
    }
    let rows = aggregates.len();
    let symbolic = SymbolicSparseRowMat::new_checked(rows, count, starts, None, columns);
    (SparseRowMat::new(symbolic, values), norms)
}

/// `P = (I − ω/ρ D⁻¹A) T`.
fn smoothed(
    a: &SparseRowMat<u32, f64>,
    inverse: &[f64],
    tentative: &SparseRowMat<u32, f64>,
    damping: f64,
) -> Result<SparseRowMat<u32, f64>, LinearError> {
    let scaled = Scaled {
        a,
        roots: inverse.iter().map(|inverse| inverse.sqrt()).collect(),
        kernel: Kernel::default(),
    };
    let start = SeededNoise::new(0, 0).normal_values(a.nrows());
    let start: Vec<f64> = start.into_iter().map(f64::from).collect();
    let radius = largest_eigenvalue(&scaled, &start, STEPS)?;
    let mut smoother = a.clone();
    let starts: Vec<usize> = (0..=a.nrows())
        .map(|row| a.symbolic().row_ptr()[row] as usize)
        .collect();
    let columns = a.symbolic().col_idx();
    let values = smoother.val_mut();
    for row in 0..a.nrows() {
        for place in starts[row]..starts[row + 1] {
            let own = f64::from(columns[place] as usize == row);
            values[place] = own - damping / radius * inverse[row] * values[place];
        }
    }
    product(&smoother, tentative)
}

/// `D^(−1/2) A D^(−1/2)`.
struct Scaled<'a> {
    a: &'a SparseRowMat<u32, f64>,
    roots: Vec<f64>,
    kernel: Kernel,
}

impl SpdOperator for Scaled<'_> {
    fn dim(&self) -> usize {
        self.a.nrows()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        let x: Vec<f64> = x
            .iter()
            .zip(&self.roots)
            .map(|(x, root)| x * root)
            .collect();
        multiply(self.a, &x, y);
        y.iter_mut()
            .zip(&self.roots)
            .for_each(|(y, root)| *y *= root);
    }

    fn diagonal(&self) -> Vec<f64> {
        self.roots
            .iter()
            .map(|root| f64::from(*root > 0.0))
            .collect()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }
}

/// `A B`. The transpose of rows is columns, in which `faer` multiplies.
fn product(
    a: &SparseRowMat<u32, f64>,
    b: &SparseRowMat<u32, f64>,
) -> Result<SparseRowMat<u32, f64>, LinearError> {
    let found = sparse_sparse_matmul(b.transpose(), a.transpose(), 1.0, Par::Seq);
    let found = found.map_err(|error| LinearError::Matrix(format!("{error:?}")))?;
    Ok(found.into_transpose())
}

fn transposed(a: &SparseRowMat<u32, f64>) -> Result<SparseRowMat<u32, f64>, LinearError> {
    let columns = a.to_col_major();
    let columns = columns.map_err(|error| LinearError::Matrix(format!("{error:?}")))?;
    Ok(columns.into_transpose())
}

fn pseudo_inverse(a: &SparseRowMat<u32, f64>) -> Result<Mat<f64>, LinearError> {
    let n = a.nrows();
    let found = a.to_dense().self_adjoint_eigen(Side::Lower);
    let found = found.map_err(|error| LinearError::Matrix(format!("{error:?}")))?;
    let (values, vectors) = (found.S(), found.U());
    let largest = (0..n).map(|i| values[i]).fold(0.0, f64::max);
    let mut scaled = vectors.to_owned();
    for column in 0..n {
        let value = values[column];
        let inverse = if value > RANK * largest {
            1.0 / value
        } else {
            0.0
        };
        for row in 0..n {
            scaled[(row, column)] *= inverse;
        }
    }
    Ok(scaled * vectors.transpose())
}
