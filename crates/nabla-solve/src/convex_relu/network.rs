//! Two-layer networks, into which a solution is converted.

use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};

use super::error::ConvexReluError;
use super::patterns::ActivationPatterns;
use super::problem::{
    ConvexReluProblem, ConvexReluSolution, DenseExamples, Form, column_norm, with_bias,
};

/// `f(x) = Σ_j (x·u_j)_+ α_j`, where `x` ends with a 1 if there is a bias.
///
/// It can be saved and loaded with serde; loading checks it.
///
/// ```
/// use nabla_solve::convex_relu::TwoLayerRelu;
///
/// // |x|
/// let network = TwoLayerRelu::new(vec![vec![1.0], vec![-1.0]], vec![1.0, 1.0], false)?;
/// let saved = serde_json::to_string(&network).unwrap();
/// let loaded: TwoLayerRelu = serde_json::from_str(&saved).unwrap();
/// assert_eq!(loaded.predict(&[[-3.0], [2.0]])?, [3.0, 2.0]);
/// # Ok::<(), nabla_solve::convex_relu::ConvexReluError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Layers", into = "Layers")]
pub struct TwoLayerRelu {
    /// `u_1 … u_m`, `[d, m]`.
    hidden: Mat<f64>,
    /// `α`, `[m]`.
    output: Vec<f64>,
    bias: bool,
}

/// The serialised form of a network.
#[derive(Clone, Serialize, Deserialize)]
struct Layers {
    /// Weights of each hidden unit, with the bias last if there is one, `[m][d]`.
    hidden: Vec<Vec<f64>>,
    /// Weight of each hidden unit in the output, `[m]`.
    output: Vec<f64>,
    /// Whether there is a bias.
    bias: bool,
    /// The number of features, needed if there are no hidden units.
    features: usize,
}

impl TryFrom<Layers> for TwoLayerRelu {
    type Error = ConvexReluError;

    fn try_from(layers: Layers) -> Result<Self, ConvexReluError> {
        let d = layers.features + usize::from(layers.bias);
        Self::checked(layers.hidden, layers.output, layers.bias, d)
    }
}

impl From<TwoLayerRelu> for Layers {
    fn from(network: TwoLayerRelu) -> Self {
        Self {
            hidden: (0..network.units()).map(|j| network.unit(j)).collect(),
            features: network.features(),
            output: network.output,
            bias: network.bias,
        }
    }
}

impl TwoLayerRelu {
    /// Creates a network from the weights of each hidden unit, `[m][d]`, with the bias last if there is one,
    /// and the weights of the output, `[m]`.
    ///
    /// # Errors
    /// If there are no units, their numbers differ, or a weight is not finite.
    pub fn new(
        hidden: Vec<Vec<f64>>,
        output: Vec<f64>,
        bias: bool,
    ) -> Result<Self, ConvexReluError> {
        let d = hidden.first().map_or(0, Vec::len);
        Self::checked(hidden, output, bias, d)
    }

    fn checked(
        hidden: Vec<Vec<f64>>,
        output: Vec<f64>,
        bias: bool,
        d: usize,
    ) -> Result<Self, ConvexReluError> {
        let wrong = |reason: String| Err(ConvexReluError::Network(reason));
        if d <= usize::from(bias) {
            return wrong("its hidden layer takes no features".into());
        }
        if hidden.len() != output.len() {
            return wrong(format!(
                "it has {} hidden units, but {} weights in the output",
                hidden.len(),
                output.len()
            ));
        }
        if let Some(j) = hidden.iter().position(|unit| unit.len() != d) {
            return wrong(format!(
                "hidden unit {j} has {} weights, but {d} are expected",
                hidden[j].len()
            ));
        }
        if hidden
            .iter()
            .flatten()
            .chain(&output)
            .any(|w| !w.is_finite())
        {
            return wrong("a weight is not finite".into());
        }
        Ok(Self {
            hidden: Mat::from_fn(d, hidden.len(), |i, j| hidden[j][i]),
            output,
            bias,
        })
    }

    pub(super) fn from_parts(hidden: Mat<f64>, output: Vec<f64>, bias: bool) -> Self {
        Self {
            hidden,
            output,
            bias,
        }
    }

    /// The number `m` of hidden units.
    pub fn units(&self) -> usize {
        self.output.len()
    }

    /// The number of features, without the bias.
    pub fn features(&self) -> usize {
        self.hidden.nrows() - usize::from(self.bias)
    }

    /// `u_1 … u_m`, `[d, m]`, with the bias as the last row if there is one.
    pub fn hidden(&self) -> MatRef<'_, f64> {
        self.hidden.as_ref()
    }

    /// `α`, `[m]`.
    pub fn output(&self) -> &[f64] {
        &self.output
    }

    /// Whether the hidden units have a bias.
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    fn unit(&self, j: usize) -> Vec<f64> {
        (0..self.hidden.nrows())
            .map(|i| self.hidden[(i, j)])
            .collect()
    }

    /// `f` of every row, `[n]` from `[n][features]`.
    ///
    /// # Errors
    /// If a row has the wrong number of features.
    pub fn predict(&self, rows: &[impl AsRef<[f64]>]) -> Result<Vec<f64>, ConvexReluError> {
        for row in rows {
            self.check_features(row.as_ref().len())?;
        }
        let x = Mat::from_fn(rows.len(), self.features(), |k, j| rows[k].as_ref()[j]);
        self.outputs(x.as_ref())
    }

    /// `f` of every row of `x`, `[n]` from `[n, features]`.
    ///
    /// # Errors
    /// If the number of features is wrong.
    pub fn outputs(&self, x: MatRef<'_, f64>) -> Result<Vec<f64>, ConvexReluError> {
        self.check_features(x.ncols())?;
        Ok(self.outputs_of_design(with_bias(x, self.bias).as_ref()))
    }

    pub(super) fn check_features(&self, found: usize) -> Result<(), ConvexReluError> {
        let expected = self.features();
        if found == expected {
            Ok(())
        } else {
            Err(ConvexReluError::Features { found, expected })
        }
    }

    pub(super) fn outputs_of_design(&self, x: MatRef<'_, f64>) -> Vec<f64> {
        let heights = x * &self.hidden; // [n, m]
        (0..x.nrows())
            .map(|k| {
                let unit = |(j, a): (usize, &f64)| a * heights[(k, j)].max(0.0);
                self.output.iter().enumerate().map(unit).sum()
            })
            .collect()
    }

    /// `∇_x f` of every row of `x`, `[n, features]` from `[n, features]`; a unit at its kink counts
    /// as off.
    ///
    /// # Errors
    /// If the number of features is wrong.
    pub fn input_gradient(&self, x: MatRef<'_, f64>) -> Result<Mat<f64>, ConvexReluError> {
        self.check_features(x.ncols())?;
        let heights = with_bias(x, self.bias) * &self.hidden;
        let through = Mat::from_fn(x.nrows(), self.units(), |k, j| {
            if heights[(k, j)] > 0.0 {
                self.output[j]
            } else {
                0.0
            }
        });
        Ok(through * self.hidden.subrows(0, self.features()).transpose())
    }

    /// `ℓ(f(X), y) + β/2 Σ (‖u_j‖² + α_j²)`, the non-convex objective.
    ///
    /// # Errors
    /// If the problem has a different number of features.
    pub fn objective(&self, problem: &ConvexReluProblem) -> Result<f64, ConvexReluError> {
        self.check_features(problem.features())?;
        let x = problem.design().subcols(0, problem.features());
        let loss = problem.loss().sum(&self.outputs(x)?, problem.labels());
        let weights: f64 = (0..self.units())
            .map(|j| column_norm(self.hidden(), j).powi(2) + self.output[j].powi(2))
            .sum();
        Ok(loss + 0.5 * problem.beta() * weights)
    }

    /// The share of the examples whose label has the sign of `f`; an output of 0 is wrong.
    ///
    /// # Errors
    /// If the number of features is wrong.
    pub fn accuracy(&self, examples: &DenseExamples) -> Result<f64, ConvexReluError> {
        let outputs = self.outputs(examples.features())?;
        let right = outputs
            .iter()
            .zip(examples.labels())
            .filter(|(output, label)| *output * *label > 0.0)
            .count();
        Ok(right as f64 / examples.len() as f64)
    }
}

/// A `v_i` or `w_i` shorter than this share of the longest does not become a unit of the network.
const NO_UNIT: f64 = 1e-12;

impl ConvexReluSolution {
    /// Converts this point to a ReLU network: `u = v_i/√‖v_i‖, α = √‖v_i‖` for every `v_i ≠ 0`, and
    /// `u = w_i/√‖w_i‖, α = −√‖w_i‖` for every `w_i ≠ 0`.
    ///
    /// If no constraint is violated, its [objective](TwoLayerRelu::objective) is that of the convex program.
    /// For a solution of the gated form, it is not the same function as the gated network.
    pub fn network(&self) -> TwoLayerRelu {
        let blocks = |u: &Mat<f64>| (0..u.ncols()).map(|i| column_norm(u.as_ref(), i)).collect();
        let lengths: [Vec<f64>; 2] = [blocks(&self.v), blocks(&self.w)];
        let longest = lengths.iter().flatten().copied().fold(0.0, f64::max);
        let mut units = Vec::new();
        let mut output = Vec::new();
        for ((u, lengths), sign) in [&self.v, &self.w]
            .into_iter()
            .zip(&lengths)
            .zip([1.0, -1.0])
        {
            for (i, &length) in lengths.iter().enumerate() {
                if length > NO_UNIT * longest {
                    let root = length.sqrt();
                    units.push((u, i, root));
                    output.push(sign * root);
                }
            }
        }
        let hidden = Mat::from_fn(self.v.nrows(), units.len(), |row, j| {
            let (u, i, root) = units[j];
            u[(row, i)] / root
        });
        TwoLayerRelu::from_parts(hidden, output, self.bias)
    }

    /// Converts this point to a gated network.
    ///
    /// # Errors
    /// If the solution is for the ReLU form, or the patterns have no directions or the wrong number.
    pub fn gated_network(
        &self,
        patterns: &ActivationPatterns,
    ) -> Result<GatedRelu, ConvexReluError> {
        let gates = patterns.gates().ok_or(ConvexReluError::NoGates)?;
        if self.form != Form::Gated || gates.ncols() != self.v.ncols() {
            return Err(ConvexReluError::Network(format!(
                "a solution of {} blocks in the {:?} form was given {} gates, but the gated form \
                 needs one for each block",
                self.v.ncols() + self.w.ncols(),
                self.form,
                gates.ncols()
            )));
        }
        Ok(GatedRelu {
            gates: gates.to_owned(),
            weights: self.v.clone(),
            bias: self.bias,
        })
    }
}

/// `f(x) = Σ_i 1[x·h_i ≥ 0] x·v_i`, where `x` ends with a 1 if there is a bias.
///
/// It can be saved and loaded with serde; loading checks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "GatedLayer", into = "GatedLayer")]
pub struct GatedRelu {
    /// `h_1 … h_P`, `[d, P]`.
    gates: Mat<f64>,
    /// `v_1 … v_P`, `[d, P]`.
    weights: Mat<f64>,
    bias: bool,
}

/// The serialised form of a gated network.
#[derive(Serialize, Deserialize)]
struct GatedLayer {
    /// Direction of each gate, with the entry for the bias last if there is one, `[P][d]`.
    gates: Vec<Vec<f64>>,
    /// Weights after each gate, `[P][d]`.
    weights: Vec<Vec<f64>>,
    /// Whether there is a bias.
    bias: bool,
}

impl TryFrom<GatedLayer> for GatedRelu {
    type Error = ConvexReluError;

    fn try_from(layer: GatedLayer) -> Result<Self, ConvexReluError> {
        let wrong = |reason: String| Err(ConvexReluError::Network(reason));
        let d = layer.gates.first().map_or(0, Vec::len);
        if d <= usize::from(layer.bias) {
            return wrong("its gates take no features".into());
        }
        if layer.gates.len() != layer.weights.len() {
            return wrong(format!(
                "it has {} gates, but weights behind {}",
                layer.gates.len(),
                layer.weights.len()
            ));
        }
        let vectors = || layer.gates.iter().chain(&layer.weights);
        if let Some(vector) = vectors().find(|vector| vector.len() != d) {
            return wrong(format!(
                "one of its gates or weights has {} numbers, but {d} are expected",
                vector.len()
            ));
        }
        if let Some(number) = vectors().flatten().find(|number| !number.is_finite()) {
            return wrong(format!(
                "one of its numbers is {number}, but it must be finite"
            ));
        }
        let matrix = |columns: &[Vec<f64>]| Mat::from_fn(d, columns.len(), |i, j| columns[j][i]);
        Ok(Self {
            gates: matrix(&layer.gates),
            weights: matrix(&layer.weights),
            bias: layer.bias,
        })
    }
}

impl From<GatedRelu> for GatedLayer {
    fn from(network: GatedRelu) -> Self {
        let columns = |matrix: &Mat<f64>| {
            let column = |j| (0..matrix.nrows()).map(|i| matrix[(i, j)]).collect();
            (0..matrix.ncols()).map(column).collect()
        };
        Self {
            gates: columns(&network.gates),
            weights: columns(&network.weights),
            bias: network.bias,
        }
    }
}

impl GatedRelu {
    /// `f` of every row of `x`, `[n]` from `[n, features]`.
    ///
    /// # Errors
    /// If the number of features is wrong.
    pub fn outputs(&self, x: MatRef<'_, f64>) -> Result<Vec<f64>, ConvexReluError> {
        let expected = self.gates.nrows() - usize::from(self.bias);
        if x.ncols() != expected {
            return Err(ConvexReluError::Features {
                found: x.ncols(),
                expected,
            });
        }
        let x = with_bias(x, self.bias);
        let (open, values) = (&x * &self.gates, &x * &self.weights);
        Ok((0..x.nrows())
            .map(|k| {
                (0..open.ncols())
                    .filter(|&i| open[(k, i)] >= 0.0)
                    .map(|i| values[(k, i)])
                    .sum()
            })
            .collect())
    }
}
