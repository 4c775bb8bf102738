//! Losses of linear predictions, `f(x) = Σ_r φ_r(X_r x) + λ/2 ‖x‖²`: least squares, logistic and
//! multi-class logistic regression over the sparse rows of a LIBSVM file.
//!
//! The predictions and the slopes of the losses are updated incrementally: moving a block costs as much as
//! the entries of its columns and, if a greedy rule needs the whole gradient, as the entries of the rows that
//! these columns touch.

mod loss;

use std::collections::BTreeMap;

use faer::Mat;
use nabla_base::range;
use nabla_base::vector;
use nabla_data::LabelledRows;

use super::BlockDescentError;
use super::problem::{Curvature, Penalty, SmoothProblem};

pub use loss::{LogisticLoss, PredictionLoss, SoftmaxLoss, SquaredLoss};

/// `f(x) = Σ_r φ_r(X_r x) + λ/2 ‖x‖²`, with `k` outputs and `d` features. Coordinate `j k + c` is the
/// weight of feature `j` for output `c`.
///
/// The losses are summed, not averaged, as in the paper.
#[derive(Clone, Debug)]
pub struct LinearModel<L> {
    loss: L,
    l2: f64,
    examples: usize,
    features: usize,
    rows: Sparse,
    columns: Sparse,
}

/// Sparse vectors one after the other.
#[derive(Clone, Debug)]
struct Sparse {
    starts: Vec<usize>,
    indices: Vec<usize>,
    values: Vec<f64>,
}

impl Sparse {
    fn get(&self, i: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let range = self.starts[i]..self.starts[i + 1];
        self.indices[range.clone()]
            .iter()
            .copied()
            .zip(self.values[range].iter().copied())
    }

    fn of_rows(rows: &LabelledRows) -> Self {
        let mut out = Self {
            starts: vec![0],
            indices: Vec::new(),
            values: Vec::new(),
        };
        for i in 0..rows.len() {
            for (column, value) in rows.row(i) {
                out.indices.push(column);
                out.values.push(value);
            }
            out.starts.push(out.indices.len());
        }
        out
    }

    fn transposed(&self, columns: usize) -> Self {
        let mut starts = vec![0; columns + 1];
        for &column in &self.indices {
            starts[column + 1] += 1;
        }
        for i in 0..columns {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut indices = vec![0; self.indices.len()];
        let mut values = vec![0.0; self.indices.len()];
        for row in 0..self.starts.len() - 1 {
            for (column, value) in self.get(row) {
                indices[next[column]] = row;
                values[next[column]] = value;
                next[column] += 1;
            }
        }
        Self {
            starts,
            indices,
            values,
        }
    }
}

/// The state of a [`LinearModel`], which is updated incrementally.
#[derive(Clone, Debug)]
pub struct LinearState {
    /// `X x`, `[examples, k]`.
    predictions: Vec<f64>,
    /// `∇φ_r`, `[examples, k]`.
    slopes: Vec<f64>,
    /// `∇f`, `[features, k]`, if it is updated incrementally.
    gradient: Option<Vec<f64>>,
    /// Scratch: `X U_b δ`, 0 between the calls.
    moved: Vec<f64>,
    /// Scratch: whether an example is touched.
    marked: Vec<bool>,
    /// Scratch: the examples that a step touches.
    touched: Vec<usize>,
}

impl LinearModel<SquaredLoss> {
    /// Least squares, `½ ‖X x − y‖² + λ/2 ‖x‖²`.
    ///
    /// # Errors
    /// If there are no examples or features, or `l2` is negative or not finite.
    pub fn least_squares(rows: &LabelledRows, l2: f64) -> Result<Self, BlockDescentError> {
        let labels = rows.labels().to_vec();
        Self::new(rows, SquaredLoss { labels }, l2)
    }
}

impl LinearModel<LogisticLoss> {
    /// Logistic regression of labels −1 and 1, `Σ log(1 + exp(−y_r X_r x)) + λ/2 ‖x‖²`.
    ///
    /// # Errors
    /// As [`LinearModel::least_squares`], or if a label is neither −1 nor 1.
    pub fn logistic(rows: &LabelledRows, l2: f64) -> Result<Self, BlockDescentError> {
        let labels = rows.labels().to_vec();
        match labels.iter().position(|&y| y != 1.0 && y != -1.0) {
            Some(example) => Err(BlockDescentError::Label {
                example,
                label: labels[example],
            }),
            None => Self::new(rows, LogisticLoss { labels }, l2),
        }
    }
}

impl LinearModel<SoftmaxLoss> {
    /// Multi-class logistic regression (softmax); the classes are the distinct labels in ascending order.
    ///
    /// # Errors
    /// As [`LinearModel::least_squares`], or if there are fewer than two classes.
    pub fn softmax(rows: &LabelledRows, l2: f64) -> Result<Self, BlockDescentError> {
        let mut labels = rows.labels().to_vec();
        labels.sort_by(f64::total_cmp);
        labels.dedup();
        if !rows.is_empty() && labels.len() < 2 {
            return Err(BlockDescentError::Classes(labels.len()));
        }
        let classes = rows
            .labels()
            .iter()
            .map(|y| labels.partition_point(|l| l.total_cmp(y).is_lt()))
            .collect();
        Self::new(rows, SoftmaxLoss { classes, labels }, l2)
    }
}

impl<L: PredictionLoss> LinearModel<L> {
    /// A model with any loss over the rows; the loss knows the labels.
    ///
    /// # Errors
    /// If there are no examples, features or outputs, or `l2` is negative or not finite.
    pub fn new(rows: &LabelledRows, loss: L, l2: f64) -> Result<Self, BlockDescentError> {
        if rows.is_empty() {
            return Err(BlockDescentError::Empty("examples"));
        }
        if rows.features() == 0 {
            return Err(BlockDescentError::Empty("features"));
        }
        if loss.outputs() == 0 {
            return Err(BlockDescentError::Empty("outputs"));
        }
        range::not_negative("l2 weight", l2)?;
        let sparse = Sparse::of_rows(rows);
        Ok(Self {
            loss,
            l2,
            examples: rows.len(),
            features: rows.features(),
            columns: sparse.transposed(rows.features()),
            rows: sparse,
        })
    }

    /// The loss.
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// Number of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// `X_r x` of the coordinates `x`, `[examples, k]`.
    pub fn predictions(&self, x: &[f64]) -> Vec<f64> {
        let k = self.loss.outputs();
        let mut out = vec![0.0; self.examples * k];
        for (r, z) in out.chunks_mut(k).enumerate() {
            for (j, value) in self.rows.get(r) {
                for (z, x) in z.iter_mut().zip(&x[j * k..(j + 1) * k]) {
                    *z += value * x;
                }
            }
        }
        out
    }

    fn slopes(&self, predictions: &[f64]) -> Vec<f64> {
        let k = self.loss.outputs();
        let mut slopes = vec![0.0; predictions.len()];
        for (r, (slope, z)) in slopes.chunks_mut(k).zip(predictions.chunks(k)).enumerate() {
            self.loss.slope(r, z, slope);
        }
        slopes
    }

    /// `Xᵀ s`, `[features, k]`.
    fn pulled_back(&self, s: &[f64]) -> Vec<f64> {
        let k = self.loss.outputs();
        let mut out = vec![0.0; self.features * k];
        for (r, s) in s.chunks(k).enumerate() {
            for (j, value) in self.rows.get(r) {
                for (g, s) in out[j * k..(j + 1) * k].iter_mut().zip(s) {
                    *g += value * s;
                }
            }
        }
        out
    }

    /// Computes `X U_b δ` in the scratch space of the state.
    fn touch(&self, state: &mut LinearState, block: &[usize], delta: &[f64]) {
        let k = self.loss.outputs();
        for (&i, &d) in block.iter().zip(delta) {
            if d == 0.0 {
                continue;
            }
            for (r, value) in self.columns.get(i / k) {
                if !state.marked[r] {
                    state.marked[r] = true;
                    state.touched.push(r);
                }
                state.moved[r * k + i % k] += value * d;
            }
        }
        state.touched.sort_unstable();
    }

    fn untouch(&self, state: &mut LinearState) {
        let k = self.loss.outputs();
        for &r in &state.touched {
            state.marked[r] = false;
            state.moved[r * k..(r + 1) * k].fill(0.0);
        }
        state.touched.clear();
    }

    fn l2_change(&self, x: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        if self.l2 == 0.0 {
            return 0.0;
        }
        let moved = block.iter().zip(delta);
        self.l2 * moved.map(|(&i, d)| d * (x[i] + 0.5 * d)).sum::<f64>()
    }

    /// The second derivative of the loss of an example, or its bound over `distinct` outputs.
    fn second(
        &self,
        state: &LinearState,
        kind: Curvature,
        distinct: usize,
        r: usize,
        [c, e]: [usize; 2],
    ) -> f64 {
        let k = self.loss.outputs();
        match kind {
            Curvature::Bound => self.loss.bound(distinct, c, e),
            Curvature::Here => {
                let range = r * k..(r + 1) * k;
                let (z, slope) = (&state.predictions[range.clone()], &state.slopes[range]);
                self.loss.second(r, z, slope, c, e)
            }
        }
    }
}

impl<L: PredictionLoss> SmoothProblem for LinearModel<L> {
    type State = LinearState;

    fn dimension(&self) -> usize {
        self.features * self.loss.outputs()
    }

    fn state(&self, x: &[f64], greedy: bool) -> LinearState {
        let predictions = self.predictions(x);
        let slopes = self.slopes(&predictions);
        let gradient = greedy.then(|| {
            let mut gradient = self.pulled_back(&slopes);
            for (g, x) in gradient.iter_mut().zip(x) {
                *g += self.l2 * x;
            }
            gradient
        });
        LinearState {
            gradient,
            moved: vec![0.0; predictions.len()],
            marked: vec![false; self.examples],
            touched: Vec::new(),
            predictions,
            slopes,
        }
    }

    fn value(&self, state: &LinearState, x: &[f64]) -> f64 {
        let k = self.loss.outputs();
        let losses = state.predictions.chunks(k).enumerate();
        let sum: f64 = losses.map(|(r, z)| self.loss.value(r, z)).sum();
        sum + 0.5 * self.l2 * vector::squared_norm(x)
    }

    fn gradient(&self, state: &LinearState, x: &[f64], block: &[usize]) -> Vec<f64> {
        if let Some(gradient) = &state.gradient {
            return block.iter().map(|&i| gradient[i]).collect();
        }
        let k = self.loss.outputs();
        block
            .iter()
            .map(|&i| {
                let column = self.columns.get(i / k);
                let sum: f64 = column.map(|(r, v)| v * state.slopes[r * k + i % k]).sum();
                sum + self.l2 * x[i]
            })
            .collect()
    }

    fn full_gradient(&self, state: &LinearState, x: &[f64]) -> Vec<f64> {
        match &state.gradient {
            Some(gradient) => gradient.clone(),
            None => {
                let mut gradient = self.pulled_back(&state.slopes);
                for (g, x) in gradient.iter_mut().zip(x) {
                    *g += self.l2 * x;
                }
                gradient
            }
        }
    }

    fn curvature_row(&self, state: &LinearState, kind: Curvature, i: usize) -> Vec<(usize, f64)> {
        let k = self.loss.outputs();
        let c = i % k;
        let mut row: BTreeMap<usize, f64> = BTreeMap::from([(i, self.l2)]);
        for (r, v) in self.columns.get(i / k) {
            for e in 0..k {
                let scale = v * self.second(state, kind, k, r, [c, e]);
                for (j, w) in self.rows.get(r) {
                    *row.entry(j * k + e).or_default() += scale * w;
                }
            }
        }
        row.into_iter().collect()
    }

    fn curvature_block(&self, state: &LinearState, kind: Curvature, block: &[usize]) -> Mat<f64> {
        let k = self.loss.outputs();
        let distinct = if k == 1 {
            1
        } else {
            let mut outputs: Vec<usize> = block.iter().map(|i| i % k).collect();
            outputs.sort_unstable();
            outputs.dedup();
            outputs.len()
        };
        let mut dense = vec![0.0; self.examples];
        let mut out = Mat::zeros(block.len(), block.len());
        for (a, &i) in block.iter().enumerate() {
            for (r, v) in self.columns.get(i / k) {
                dense[r] = v;
            }
            for (b, &j) in block.iter().enumerate().skip(a) {
                let outputs = [i % k, j % k];
                let mut sum = 0.0;
                for (r, w) in self.columns.get(j / k) {
                    if dense[r] != 0.0 {
                        sum += dense[r] * w * self.second(state, kind, distinct, r, outputs);
                    }
                }
                if a == b {
                    sum += self.l2;
                }
                out[(a, b)] = sum;
                out[(b, a)] = sum;
            }
            for (r, _) in self.columns.get(i / k) {
                dense[r] = 0.0;
            }
        }
        out
    }

    fn coordinate_lipschitz(&self, _: &LinearState) -> Vec<f64> {
        let k = self.loss.outputs();
        (0..self.dimension())
            .map(|i| {
                let squares: f64 = self.columns.get(i / k).map(|(_, v)| v * v).sum();
                self.loss.bound(1, i % k, i % k) * squares + self.l2
            })
            .collect()
    }

    fn bound_product(&self, _: &LinearState, v: &[f64]) -> Vec<f64> {
        let k = self.loss.outputs();
        let mut outer = self.predictions(v);
        for z in outer.chunks_mut(k) {
            let inner = z.to_vec();
            for (c, z) in z.iter_mut().enumerate() {
                let terms = inner.iter().enumerate();
                *z = terms.map(|(e, i)| self.loss.bound(k, c, e) * i).sum();
            }
        }
        let mut out = self.pulled_back(&outer);
        for (o, v) in out.iter_mut().zip(v) {
            *o += self.l2 * v;
        }
        out
    }

    fn change(&self, state: &mut LinearState, x: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        let k = self.loss.outputs();
        self.touch(state, block, delta);
        let mut change = 0.0;
        for &r in &state.touched {
            let range = r * k..(r + 1) * k;
            change += self.loss.change(
                r,
                &state.predictions[range.clone()],
                &state.slopes[range.clone()],
                &state.moved[range],
            );
        }
        self.untouch(state);
        change + self.l2_change(x, block, delta)
    }

    fn advance(&self, state: &mut LinearState, x: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        let k = self.loss.outputs();
        self.touch(state, block, delta);
        let mut change = 0.0;
        let mut old_slope = vec![0.0; k];
        for &r in &state.touched {
            let range = r * k..(r + 1) * k;
            let z = &mut state.predictions[range.clone()];
            let moved = &state.moved[range.clone()];
            let slope = &mut state.slopes[range];
            change += self.loss.change(r, z, slope, moved);
            for (z, m) in z.iter_mut().zip(moved) {
                *z += m;
            }
            old_slope.copy_from_slice(slope);
            self.loss.slope(r, z, slope);
            if let Some(gradient) = &mut state.gradient {
                for (old, new) in old_slope.iter_mut().zip(slope.iter()) {
                    *old = new - *old;
                }
                for (j, value) in self.rows.get(r) {
                    for (g, d) in gradient[j * k..(j + 1) * k].iter_mut().zip(&old_slope) {
                        *g += value * d;
                    }
                }
            }
        }
        if let Some(gradient) = &mut state.gradient {
            for (&i, d) in block.iter().zip(delta) {
                gradient[i] += self.l2 * d;
            }
        }
        self.untouch(state);
        change + self.l2_change(x, block, delta)
    }

    fn is_quadratic(&self) -> bool {
        self.loss.is_quadratic()
    }

    /// By Fenchel's duality with the dual point `θ = −s ∇φ(X x)`: the gap is
    /// `Σ_r φ_r + φ_r*(−θ_r)` plus `h(x) + h*(Xᵀ θ)` with `h = g + λ/2 ‖·‖²`. With `λ > 0` the scale
    /// `s` is 1, otherwise the largest of at most 1 that makes `h*` finite.
    fn duality_gap(&self, state: &LinearState, x: &[f64], penalty: &Penalty) -> Option<f64> {
        let k = self.loss.outputs();
        let pulled: Vec<f64> = self.pulled_back(&state.slopes).iter().map(|g| -g).collect();
        let mut scale: f64 = 1.0;
        if self.l2 == 0.0 {
            // The largest of the gauge of dom h* at Xᵀ θ.
            let (limit, size) = match penalty {
                Penalty::L1(w) => (*w, pulled.iter().fold(0.0, |m: f64, v| m.max(v.abs()))),
                Penalty::NonNegativeL1(w) => (*w, pulled.iter().fold(0.0, |m: f64, v| m.max(*v))),
                Penalty::GroupL1 { weight, groups } => {
                    let norm = |g: &Vec<usize>| g.iter().map(|&i| pulled[i].powi(2)).sum::<f64>();
                    let size = groups.iter().map(norm).fold(0.0, f64::max).sqrt();
                    (*weight, size)
                }
                // A bounded box: h* is finite everywhere.
                Penalty::Box { low, high } if low.is_finite() && high.is_finite() => (1.0, 0.0),
                _ => return None,
            };
            if size > limit {
                scale = limit / size;
            }
        }
        let mut gap = self.value(state, x) + penalty.value(x);
        let mut u = vec![0.0; k];
        for (r, slope) in state.slopes.chunks(k).enumerate() {
            for (u, s) in u.iter_mut().zip(slope) {
                *u = scale * s;
            }
            gap += self.loss.conjugate(r, &u);
        }
        let v: Vec<f64> = pulled.iter().map(|v| scale * v).collect();
        gap += self.penalty_conjugate(penalty, &v);
        gap.is_finite().then_some(gap)
    }
}

impl<L: PredictionLoss> LinearModel<L> {
    /// `sup_x v·x − g(x) − λ/2 ‖x‖²`, for a `v` where it is finite.
    fn penalty_conjugate(&self, penalty: &Penalty, v: &[f64]) -> f64 {
        if self.l2 > 0.0 {
            // The maximiser is prox_{g/λ}(v/λ).
            let all: Vec<usize> = (0..v.len()).collect();
            let at: Vec<f64> = v.iter().map(|v| v / self.l2).collect();
            let x = penalty.block_prox(&all, &at, 1.0 / self.l2);
            let products = v.iter().zip(&x);
            let sum: f64 = products.map(|(v, x)| x * (v - 0.5 * self.l2 * x)).sum();
            return sum - penalty.value(&x);
        }
        match penalty {
            Penalty::Box { low, high } => v.iter().map(|v| (v * low).max(v * high)).sum(),
            _ => 0.0,
        }
    }
}
