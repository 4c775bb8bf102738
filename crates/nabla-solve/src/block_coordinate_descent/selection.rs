//! The rule that selects the next block.

use faer::{Mat, Side};
use nabla_base::vector;
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::BlockDescentError;
use super::message_passing::greedy_forest;
use super::partition::{Blocks, check_size, falling, neighbours, row_sums};
use super::problem::{Curvature, Penalty, SmoothProblem, largest_eigenvalue, solve_positive};

/// The diagonal matrix of [`Selection::GaussSouthwellDiagonal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiagonalBound {
    /// `D_i = L_i`, up to a factor of the block size, which does not affect the choice.
    #[default]
    Coordinate,
    /// `D_i = Σ_j |H_ij|`, which is an upper bound of `H` without a factor.
    RowSum,
}

/// The rule that selects the next block. `∇` is the gradient or, with a penalty, the smallest subgradient,
/// which makes each rule the GS-s rule of the proximal problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// One block after the other. With variable blocks, the coordinates in a random order, which is drawn
    /// again for every round.
    Cyclic,
    /// Each with the same probability.
    Random,
    /// With a probability proportional to `L_b`; with variable blocks the coordinates one by one,
    /// without replacement, proportional to `L_i`.
    Lipschitz,
    /// Gauss-Southwell, GS: the largest `‖∇_b‖`.
    GaussSouthwell,
    /// GSL: the largest `‖∇_b‖/√L_b`. With variable blocks of more than one coordinate, where the maximum
    /// cannot be searched, it becomes [`GaussSouthwellDiagonal`](Self::GaussSouthwellDiagonal) with the row
    /// sums, as in the paper's figures; with forests, it uses `|∇_i|/√L_i`.
    GaussSouthwellLipschitz,
    /// GSD: the largest `Σ ∇_i²/D_i`.
    GaussSouthwellDiagonal(DiagonalBound),
    /// GSQ: the largest `∇_bᵀ H_b⁻¹ ∇_b`. With variable blocks, this is approximated by iterative hard
    /// thresholding, ten steps of `d ← ` the largest entries of `d − (∇ + H d)/λ_max(H)`.
    GaussSouthwellQuadratic,
    /// GSQ for variable blocks by orthogonal matching pursuit: one coordinate after the other, each time the
    /// one that lowers the quadratic model most, with the previous ones at their joint minimum.
    OrthogonalMatchingPursuit,
    /// GS-r: the longest proximal step, with `L_b`, or `L_i` with variable blocks.
    ProximalLength,
    /// GS-q: the largest decrease of the model with `L_b`, or `L_i` with variable blocks, plus `g`.
    ProximalDecrease,
    /// MI, maximum improvement: the block whose update lowers the objective most. It tries all blocks;
    /// variable blocks must have one coordinate.
    MaximumImprovement,
}

nabla_base::choices! {
    Selection: "rule of selection" {
        "cyclic" => Self::Cyclic, "One block after the other";
        "random" => Self::Random, "At random";
        "lipschitz" => Self::Lipschitz, "At random, in proportion to the Lipschitz constants";
        "gs" => Self::GaussSouthwell, "The largest gradient";
        "gsl" => Self::GaussSouthwellLipschitz, "The largest gradient divided by the square root of the Lipschitz constant";
        "gsd" => Self::GaussSouthwellDiagonal(DiagonalBound::Coordinate), "The largest sum of squared gradients divided by Lipschitz constants";
        "gsd-row-sum" => Self::GaussSouthwellDiagonal(DiagonalBound::RowSum), "The same with row sums of the bound of the second derivatives";
        "gsq" => Self::GaussSouthwellQuadratic, "The largest decrease of the quadratic model";
        "omp" => Self::OrthogonalMatchingPursuit, "The same, searched weight by weight";
        "gs-r" => Self::ProximalLength, "The longest proximal step";
        "gs-q" => Self::ProximalDecrease, "The largest decrease of the proximal model";
        "mi" => Self::MaximumImprovement, "The largest decrease of the objective";
    }
}

impl Selection {
    /// Whether the whole gradient is read in every step.
    pub(super) fn reads_gradient(self) -> bool {
        !matches!(
            self,
            Self::Cyclic | Self::Random | Self::Lipschitz | Self::MaximumImprovement
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cyclic => "cyclic",
            Self::Random => "random",
            Self::Lipschitz => "lipschitz",
            Self::GaussSouthwell => "gauss-southwell",
            Self::GaussSouthwellLipschitz => "gauss-southwell-lipschitz",
            Self::GaussSouthwellDiagonal(_) => "gauss-southwell-diagonal",
            Self::GaussSouthwellQuadratic => "gauss-southwell-quadratic",
            Self::OrthogonalMatchingPursuit => "orthogonal-matching-pursuit",
            Self::ProximalLength => "proximal-length",
            Self::ProximalDecrease => "proximal-decrease",
            Self::MaximumImprovement => "maximum-improvement",
        }
    }
}

/// How the scores of the coordinates of a fixed block are combined to the score of the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockNorm {
    /// The root of the sum of squares, as in the paper.
    #[default]
    Euclidean,
    /// The sum, as in the authors' code.
    Sum,
}

impl BlockNorm {
    fn of(self, scores: impl Iterator<Item = f64>) -> f64 {
        match self {
            Self::Euclidean => scores.map(|s| s * s).sum::<f64>().sqrt(),
            Self::Sum => scores.map(f64::abs).sum(),
        }
    }
}

/// Steps of iterative hard thresholding.
const THRESHOLDING_STEPS: usize = 10;

/// The data that a rule has about the current point.
pub(super) struct View<'a, P: SmoothProblem> {
    pub problem: &'a P,
    pub state: &'a P::State,
    pub penalty: &'a Penalty,
    pub x: &'a [f64],
    /// `L_i`, or backtracking's estimates of them.
    pub lipschitz: &'a [f64],
    /// `∇f(x)`; empty for the rules that do not read it.
    pub gradient: &'a [f64],
}

/// A rule with precomputed values of the problem.
pub(super) struct Selector {
    rule: Selection,
    norm: BlockNorm,
    /// The blocks of a partition; `None` if they are chosen in every step.
    fixed: Option<Vec<Vec<usize>>>,
    /// Coordinates of a variable block; 0 for forests.
    size: usize,
    /// `L_b` of the fixed blocks, if they are needed.
    block_lipschitz: Vec<f64>,
    /// `D_i`, if they are the row sums.
    diagonal: Vec<f64>,
    /// `H_b⁻¹` of the fixed blocks.
    inverses: Vec<Mat<f64>>,
    /// `1/λ_max(H)`.
    thresholding_step: f64,
    /// The graph of the second derivatives, if blocks are forests.
    graph: Vec<Vec<usize>>,
    /// The coordinates of the round; those from `next` on are still to come.
    round: Vec<usize>,
    next: usize,
}

impl Selector {
    /// - `estimated`: whether Lipschitz constants are estimated by backtracking
    pub(super) fn new<P: SmoothProblem>(
        rule: Selection,
        norm: BlockNorm,
        blocks: &Blocks,
        view: &View<'_, P>,
        estimated: bool,
        noise: &mut SeededNoise,
    ) -> Result<Self, BlockDescentError> {
        let View {
            problem,
            state,
            penalty,
            lipschitz,
            ..
        } = *view;
        let n = problem.dimension();
        let refused = |why| {
            Err(BlockDescentError::Selection {
                rule: rule.name(),
                why,
            })
        };
        let mut selector = Self {
            rule,
            norm,
            fixed: None,
            size: 0,
            block_lipschitz: Vec::new(),
            diagonal: Vec::new(),
            inverses: Vec::new(),
            thresholding_step: 0.0,
            graph: Vec::new(),
            round: Vec::new(),
            next: 0,
        };
        use Selection as S;
        let smooth = *penalty == Penalty::None;
        if !smooth
            && matches!(
                rule,
                S::GaussSouthwellQuadratic | S::OrthogonalMatchingPursuit
            )
        {
            return refused("has no form for a penalty: take proximal-decrease");
        }
        match blocks {
            Blocks::Fixed(partition) => {
                if rule == S::OrthogonalMatchingPursuit {
                    return refused("chooses the coordinates itself: take variable blocks");
                }
                let fixed = partition.blocks(problem, state, lipschitz, noise)?;
                if let Penalty::GroupL1 { groups, .. } = penalty {
                    check_groups(&fixed, groups, n)?;
                }
                let needs = matches!(
                    rule,
                    S::Lipschitz
                        | S::GaussSouthwellLipschitz
                        | S::ProximalLength
                        | S::ProximalDecrease
                );
                if needs && !estimated {
                    for block in &fixed {
                        let constant = problem.block_lipschitz(state, block)?;
                        selector.block_lipschitz.push(constant);
                    }
                }
                if rule == S::GaussSouthwellQuadratic {
                    for block in &fixed {
                        let h = problem.curvature_block(state, Curvature::Bound, block);
                        selector.inverses.push(inverse(&h)?);
                    }
                }
                selector.fixed = Some(fixed);
            }
            Blocks::Variable { size } => {
                check_size(*size, n)?;
                if matches!(penalty, Penalty::GroupL1 { .. }) {
                    return Err(BlockDescentError::Groups);
                }
                if rule == S::MaximumImprovement && *size > 1 {
                    return refused("cannot try all variable blocks of more than one coordinate");
                }
                if rule == S::GaussSouthwellQuadratic {
                    selector.thresholding_step = 1.0 / largest_of_bound(problem, state)?;
                }
                selector.size = *size;
                if rule == S::MaximumImprovement {
                    selector.fixed = Some((0..n).map(|i| vec![i]).collect());
                }
            }
            Blocks::Forest => {
                if !smooth {
                    return refused("cannot choose forests with a penalty");
                }
                if !matches!(
                    rule,
                    S::Random
                        | S::GaussSouthwell
                        | S::GaussSouthwellLipschitz
                        | S::GaussSouthwellDiagonal(_)
                ) {
                    return refused(
                        "cannot choose forests: take random, gauss-southwell, \
                         gauss-southwell-lipschitz or gauss-southwell-diagonal",
                    );
                }
                selector.graph = neighbours(problem, state);
            }
        }
        let sums = match rule {
            S::GaussSouthwellDiagonal(DiagonalBound::RowSum) => true,
            S::GaussSouthwellLipschitz => selector.fixed.is_none() && selector.size > 1,
            _ => false,
        };
        if sums {
            selector.diagonal = row_sums(problem, state);
        }
        Ok(selector)
    }

    /// The blocks of a partition, or single coordinates if the rule tries all of them.
    pub(super) fn fixed(&self) -> Option<&[Vec<usize>]> {
        self.fixed.as_deref()
    }

    /// The next block, sorted.
    pub(super) fn select<P: SmoothProblem>(
        &mut self,
        view: &View<'_, P>,
        noise: &mut SeededNoise,
    ) -> Result<Vec<usize>, BlockDescentError> {
        match &self.fixed {
            Some(_) => self.select_fixed(view, noise),
            None => self.select_variable(view, noise),
        }
    }

    fn select_fixed<P: SmoothProblem>(
        &mut self,
        view: &View<'_, P>,
        noise: &mut SeededNoise,
    ) -> Result<Vec<usize>, BlockDescentError> {
        let blocks = self.fixed.as_deref().unwrap_or_default();
        let constant = |i: usize| match self.block_lipschitz.get(i) {
            Some(&constant) => constant,
            // The estimates of backtracking.
            None => largest_of(view.lipschitz, &blocks[i]),
        };
        let chosen = match self.rule {
            Selection::Cyclic => {
                let i = self.next % blocks.len();
                self.next = i + 1;
                i
            }
            Selection::Random => noise.random_range(0..blocks.len()),
            Selection::Lipschitz => {
                let weights: Vec<f64> = (0..blocks.len()).map(constant).collect();
                draw(&weights, noise)
            }
            Selection::ProximalLength | Selection::ProximalDecrease => {
                best((0..blocks.len()).map(|i| {
                    let block = &blocks[i];
                    let l = constant(i).max(f64::MIN_POSITIVE);
                    let from: Vec<f64> = block.iter().map(|&i| view.x[i]).collect();
                    let g: Vec<f64> = block.iter().map(|&i| view.gradient[i]).collect();
                    let to: Vec<f64> = from.iter().zip(&g).map(|(x, g)| x - g / l).collect();
                    let to = view.penalty.block_prox(block, &to, 1.0 / l);
                    let d: Vec<f64> = to.iter().zip(&from).map(|(t, x)| t - x).collect();
                    let squares = vector::squared_norm(&d);
                    if self.rule == Selection::ProximalLength {
                        return squares;
                    }
                    let along = vector::dot(&d, &g);
                    -(along + 0.5 * l * squares + view.penalty.change(view.x, block, &d))
                }))
            }
            Selection::GaussSouthwellQuadratic => {
                best(blocks.iter().zip(&self.inverses).map(|(block, inverse)| {
                    let g = Mat::from_fn(block.len(), 1, |a, _| view.gradient[block[a]]);
                    (g.transpose() * (inverse * &g))[(0, 0)]
                }))
            }
            _ => {
                let scores = self.scores(view);
                best(blocks.iter().enumerate().map(|(i, block)| {
                    let score = self.norm.of(block.iter().map(|&i| scores[i]));
                    if self.rule == Selection::GaussSouthwellLipschitz {
                        score / constant(i).max(f64::MIN_POSITIVE).sqrt()
                    } else {
                        score
                    }
                }))
            }
        };
        Ok(blocks[chosen].clone())
    }

    fn select_variable<P: SmoothProblem>(
        &mut self,
        view: &View<'_, P>,
        noise: &mut SeededNoise,
    ) -> Result<Vec<usize>, BlockDescentError> {
        let n = view.x.len();
        let shuffled = |noise: &mut SeededNoise| {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(noise);
            order
        };
        let order = match self.rule {
            Selection::Random => shuffled(noise),
            Selection::Cyclic => {
                if self.next >= self.round.len() {
                    self.round = shuffled(noise);
                    self.next = 0;
                }
                let end = (self.next + self.size).min(n);
                let block = self.round[self.next..end].to_vec();
                self.next = end;
                block
            }
            Selection::Lipschitz => {
                // The order of exponential variables with the rates L_i is that of draws without
                // replacement (Efraimidis and Spirakis 2006).
                let keys: Vec<f64> = view
                    .lipschitz
                    .iter()
                    .map(|l| {
                        let u: f64 = noise.random();
                        (1.0 - u).ln() / l.max(f64::MIN_POSITIVE)
                    })
                    .collect();
                falling(&keys)
            }
            Selection::GaussSouthwellQuadratic => self.thresholded(view),
            Selection::OrthogonalMatchingPursuit => self.pursued(view)?,
            _ => falling(
                &self
                    .scores(view)
                    .iter()
                    .map(|s| s.abs())
                    .collect::<Vec<_>>(),
            ),
        };
        if self.size == 0 {
            return Ok(greedy_forest(&self.graph, &order));
        }
        let mut block = order;
        block.truncate(self.size);
        block.sort_unstable();
        Ok(block)
    }

    /// One score per coordinate; the rule takes the largest.
    fn scores<P: SmoothProblem>(&self, view: &View<'_, P>) -> Vec<f64> {
        let least = || view.penalty.least_subgradient(view.x, view.gradient);
        let over_root = |scale: &[f64]| -> Vec<f64> {
            let pairs = least().into_iter().zip(scale);
            pairs
                .map(|(s, l)| s / l.max(f64::MIN_POSITIVE).sqrt())
                .collect()
        };
        let fixed = self.fixed.is_some();
        match self.rule {
            Selection::GaussSouthwellDiagonal(DiagonalBound::RowSum) => over_root(&self.diagonal),
            Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate) => {
                over_root(view.lipschitz)
            }
            Selection::GaussSouthwellLipschitz if !fixed && self.size > 1 => {
                over_root(&self.diagonal)
            }
            Selection::GaussSouthwellLipschitz if !fixed => over_root(view.lipschitz),
            Selection::ProximalLength | Selection::ProximalDecrease => (0..view.x.len())
                .map(|i| {
                    let (x, g) = (view.x[i], view.gradient[i]);
                    let l = view.lipschitz[i].max(f64::MIN_POSITIVE);
                    let new = view.penalty.coordinate_prox(x - g / l, 1.0 / l);
                    let d = new - x;
                    if self.rule == Selection::ProximalLength {
                        d
                    } else {
                        let g_change = view.penalty.coordinate_change(x, d);
                        (-(g * d + 0.5 * l * d * d + g_change)).max(0.0)
                    }
                })
                .collect(),
            _ => least(),
        }
    }

    /// Iterative hard thresholding from the step of [`DiagonalBound::Coordinate`].
    fn thresholded<P: SmoothProblem>(&self, view: &View<'_, P>) -> Vec<usize> {
        let gradient = view.gradient;
        let scores: Vec<f64> = gradient
            .iter()
            .zip(view.lipschitz)
            .map(|(g, l)| g.abs() / l.max(f64::MIN_POSITIVE).sqrt())
            .collect();
        let mut order = falling(&scores);
        let mut d = vec![0.0; gradient.len()];
        for &i in &order[..self.size] {
            d[i] = -gradient[i] / view.lipschitz[i].max(f64::MIN_POSITIVE);
        }
        for _ in 0..THRESHOLDING_STEPS {
            let product = view.problem.bound_product(view.state, &d);
            let mut next: Vec<f64> = (0..d.len())
                .map(|i| d[i] - self.thresholding_step * (gradient[i] + product[i]))
                .collect();
            order = falling(&next.iter().map(|d| d.abs()).collect::<Vec<_>>());
            for &i in &order[self.size..] {
                next[i] = 0.0;
            }
            let change: f64 = next.iter().zip(&d).map(|(a, b)| (a - b).powi(2)).sum();
            d = next;
            if change.sqrt() < 1e-10 {
                break;
            }
        }
        order
    }

    fn pursued<P: SmoothProblem>(
        &self,
        view: &View<'_, P>,
    ) -> Result<Vec<usize>, BlockDescentError> {
        let mut block: Vec<usize> = Vec::with_capacity(self.size);
        let mut slope = view.gradient.to_vec();
        for _ in 0..self.size {
            let scores = slope
                .iter()
                .zip(view.lipschitz)
                .enumerate()
                .map(|(i, (s, l))| {
                    if block.binary_search(&i).is_ok() {
                        -1.0
                    } else {
                        s * s / l.max(f64::MIN_POSITIVE)
                    }
                });
            let chosen = best(scores);
            let place = block.partition_point(|&i| i < chosen);
            block.insert(place, chosen);
            let h = view
                .problem
                .curvature_block(view.state, Curvature::Bound, &block);
            let g: Vec<f64> = block.iter().map(|&i| view.gradient[i]).collect();
            let mut d = vec![0.0; slope.len()];
            for (&i, step) in block.iter().zip(solve_positive(&h, &g)?) {
                d[i] = -step;
            }
            let product = view.problem.bound_product(view.state, &d);
            for ((s, g), p) in slope.iter_mut().zip(view.gradient).zip(product) {
                *s = g + p;
            }
        }
        Ok(block)
    }
}

/// The index of the largest number, the first of equal ones; NaN never wins.
fn best(scores: impl Iterator<Item = f64>) -> usize {
    let mut found = (0, f64::NEG_INFINITY);
    for (i, score) in scores.enumerate() {
        if score > found.1 {
            found = (i, score);
        }
    }
    found.0
}

/// Draws an index with a probability proportional to its weight.
fn draw(weights: &[f64], noise: &mut SeededNoise) -> usize {
    let total: f64 = weights.iter().sum();
    let u: f64 = noise.random();
    let mut left = u * total;
    for (i, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return i;
        }
    }
    // All weights are 0, or rounding lost the last one.
    weights.iter().rposition(|&w| w > 0.0).unwrap_or(0)
}

/// The largest of `values` over a block.
pub(super) fn largest_of(values: &[f64], block: &[usize]) -> f64 {
    block.iter().map(|&i| values[i]).fold(0.0, f64::max)
}

/// `H⁻¹`, or the pseudo-inverse.
fn inverse(h: &Mat<f64>) -> Result<Mat<f64>, BlockDescentError> {
    let n = h.nrows();
    let mut out = Mat::zeros(n, n);
    for j in 0..n {
        let unit: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i == j))).collect();
        for (i, value) in solve_positive(h, &unit)?.into_iter().enumerate() {
            out[(i, j)] = value;
        }
    }
    Ok(out)
}

/// Up to this size, the bound of all coordinates is made dense to compute its eigenvalues.
const DENSE: usize = 256;

/// `λ_max(H)` of the bound of all coordinates, never too low except for rounding.
pub(super) fn largest_of_bound<P: SmoothProblem>(
    problem: &P,
    state: &P::State,
) -> Result<f64, BlockDescentError> {
    let n = problem.dimension();
    if n <= DENSE {
        let all: Vec<usize> = (0..n).collect();
        let h = problem.curvature_block(state, Curvature::Bound, &all);
        let eigenvalues = h.self_adjoint_eigenvalues(Side::Lower);
        return match eigenvalues {
            Ok(_) => largest_eigenvalue(&h).map(|l| l.max(f64::MIN_POSITIVE)),
            Err(_) => Err(BlockDescentError::Diverged),
        };
    }
    let mut v: Vec<f64> = SeededNoise::new(0, 1)
        .normal_values(n)
        .into_iter()
        .map(f64::from)
        .collect();
    let mut value = 0.0;
    for _ in 0..1000 {
        let length = vector::norm(&v);
        if length == 0.0 {
            break;
        }
        for v in &mut v {
            *v /= length;
        }
        let next = problem.bound_product(state, &v);
        let new = vector::dot(&next, &v);
        v = next;
        let settled = (new - value).abs() <= 1e-9 * new.abs();
        value = new;
        if settled {
            break;
        }
    }
    // A Rayleigh quotient lies below the eigenvalue.
    Ok((value * (1.0 + 1e-6)).max(f64::MIN_POSITIVE))
}

/// Checks that every group lies in one block.
fn check_groups(
    blocks: &[Vec<usize>],
    groups: &[Vec<usize>],
    dimension: usize,
) -> Result<(), BlockDescentError> {
    let mut block_of = vec![0; dimension];
    for (at, block) in blocks.iter().enumerate() {
        for &i in block {
            block_of[i] = at;
        }
    }
    let torn = |group: &Vec<usize>| group.iter().any(|&i| block_of[i] != block_of[group[0]]);
    if groups.iter().any(torn) {
        return Err(BlockDescentError::Groups);
    }
    Ok(())
}
