//! Gradients averaged so that directions which serve few examples don't count: the remedies of coherent gradients.
//!
//! * **Winsorised** ([`RobustGradient::Winsorized`]): for each weight, the gradients of the batch's examples are clipped
//!   to the `k`-th smallest and the `k`-th largest of them, `k = round((B − 1) c / 100)`, and then averaged. This is not
//!   the clipping of a gradient's norm: order statistics weight by weight remove rare *directions*.
//! * **Median of means** ([`RobustGradient::MedianOfMeans`], "M3" of the papers with three groups): the batch is divided
//!   into groups, and each weight moves by the median of the groups' mean gradients.
//! * **Rolling median** ([`RobustGradient::RollingMedian`], "RM3"): the median of the gradients of the last three steps,
//!   each at its own weights, at the cost of plain SGD. The first two steps leave the weights as they are.
//!
//! The median of a skewed distribution is shorter than its mean, so steps are shorter, too: compare trainings at the same
//! training accuracy, not only at the same step. Weight decay stays with the optimizer.
//!
//! ```text
//! winsorised       g = mean_i clip(g_i, lo, hi)            lo, hi: k-th smallest and largest, per weight
//! median of means  g = median(ḡ_1, …, ḡ_G)                  ḡ_j: mean of the j-th group, at the same weights
//! rolling median   g = median(ḡ_t, ḡ_{t−1}, ḡ_{t−2})         = sum − min − max
//! ```
//!
//! Sources: Chatterjee, Zielinski, *On the Generalization Mystery in Deep Learning*, 2022, arXiv 2203.10036; Chatterjee,
//! *Coherent Gradients*, 2020, arXiv 2002.10657 (winsorised SGD); Zielinski, Krishnan, Chatterjee, *Weak and Strong
//! Gradient Directions*, 2020, arXiv 2003.07422 (M3, RM3).

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::per_example::{PerExampleError, Reduction};
use nabla_grad::training_mode::batch_norm_in_training;
use nabla_kernels::per_example::backward;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::gradient_source::{
    Answers, GradientSource, GradientSources, Plan, TrainingExamples,
};
use nabla_train::learner::Learner;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The reason why gradients are not averaged robustly.
#[derive(Debug, thiserror::Error)]
pub enum RobustGradientError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The gradients of the examples.
    #[error(transparent)]
    PerExample(#[from] PerExampleError),
    /// The model normalises by the batch.
    #[error(
        "{layer} normalises by the batch, so that no example has a gradient of its own to winsorise: use group \
         normalisation (`--normalization group`, or `normalization = \"group\"` of the model in the experiment)"
    )]
    BatchNorm {
        /// The layer.
        layer: String,
    },
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
    /// A stored state is no state of this kind.
    #[error(
        "the state of the gradients has {found} bytes, but three gradients of {expected} bytes at most are expected"
    )]
    State {
        /// Its length.
        found: usize,
        /// Of a gradient.
        expected: usize,
    },
}

impl From<RobustGradientError> for TrainingError {
    fn from(error: RobustGradientError) -> Self {
        Self::task(error)
    }
}

/// How the gradients of a batch are averaged; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RobustGradient {
    /// Each weight's gradients are clipped to their order statistics.
    Winsorized {
        /// `c`, in percent, from 0 to below 50.
        percent: f64,
    },
    /// The median of the means of groups.
    MedianOfMeans {
        /// Groups of a batch.
        groups: usize,
    },
    /// The median of the last three steps' gradients.
    RollingMedian {},
}

nabla_base::choices! {
    RobustGradient: "robust gradient" {
        "winsorized" => Self::Winsorized { percent: 10.0 }, "Each weight's gradients clipped to their order statistics";
        "median-of-means" => Self::MedianOfMeans { groups: 3 }, "The median of the means of three parts of the batch";
        "rolling-median" => Self::RollingMedian {}, "The median of the last three steps' gradients";
    }
}

impl RobustGradient {
    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        match *self {
            Self::Winsorized { percent } => {
                let fits = (0.0..50.0).contains(&percent);
                range::check(
                    fits,
                    "percentage of winsorised gradients",
                    percent,
                    "at least 0 and less than 50",
                )
            }
            Self::MedianOfMeans { groups } => {
                let fits = groups >= 3 && groups % 2 == 1;
                range::check(
                    fits,
                    "number of groups of the median of means",
                    groups,
                    "odd and at least 3",
                )
            }
            Self::RollingMedian {} => Ok(()),
        }
    }
}

/// The mean of rows whose columns are clipped to their order statistics.
///
/// - `rows`: `[examples, width]`, row by row
/// - `percent`: `c`
///
/// # Errors
/// If the percentage is out of range, or there are no rows.
///
/// ```
/// use nabla_probe::robust_gradients::winsorized_mean;
///
/// let squares: Vec<f32> = (1..=10).map(|i| (i * i) as f32).collect();
/// // Clipped to 4 and 81.
/// assert_eq!(winsorized_mean(&squares, 1, 10.0)?, [36.9]);
/// # Ok::<(), nabla_base::range::OutOfRange>(())
/// ```
pub fn winsorized_mean(rows: &[f32], width: usize, percent: f64) -> Result<Vec<f32>, OutOfRange> {
    RobustGradient::Winsorized { percent }.validate()?;
    let examples = rows.len() / width.max(1);
    range::at_least("number of examples", examples, 1)?;
    let k = ((examples - 1) as f64 * percent / 100.0).round_ties_even() as usize;
    let mut means = vec![0.0; width];
    // A block of columns is copied, so that rows are read from one end to the other.
    means
        .par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, means)| {
            let first = block * BLOCK;
            let mut columns = vec![0.0_f32; means.len() * examples];
            for (i, row) in rows.chunks_exact(width).enumerate() {
                for (j, value) in row[first..first + means.len()].iter().enumerate() {
                    columns[j * examples + i] = *value;
                }
            }
            for (mean, column) in means.iter_mut().zip(columns.chunks_exact_mut(examples)) {
                column.sort_unstable_by(f32::total_cmp);
                let (low, high) = (column[k], column[examples - 1 - k]);
                if low.is_nan() || high.is_nan() {
                    *mean = f32::NAN;
                    continue;
                }
                let sum: f64 = column.iter().map(|&x| f64::from(x.clamp(low, high))).sum();
                *mean = (sum / examples as f64) as f32;
            }
        });
    Ok(means)
}

/// Columns that are sorted together.
const BLOCK: usize = 64;

/// The median of vectors of one length, number by number; of an odd number of them.
fn median(vectors: &[Vec<f32>]) -> Vec<f32> {
    let width = vectors.first().map_or(0, Vec::len);
    let middle = |i: usize| {
        let mut values: Vec<f32> = vectors.iter().map(|vector| vector[i]).collect();
        let at = values.len() / 2;
        *values.select_nth_unstable_by(at, f32::total_cmp).1
    };
    (0..width).into_par_iter().map(middle).collect()
}

impl GradientSources for RobustGradient {
    fn source<M: Classifier + 'static>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        self.validate().map_err(RobustGradientError::Range)?;
        match *self {
            Self::Winsorized { .. } => {
                range::at_least("batch of winsorised gradients", plan.batch, 2)
                    .map_err(RobustGradientError::Range)?;
                if let Some(layer) = batch_norm_in_training(model) {
                    return Err(RobustGradientError::BatchNorm {
                        layer: layer.to_string(),
                    }
                    .into());
                }
            }
            Self::MedianOfMeans { groups } => {
                range::at_least("batch of a median of means", plan.batch, groups)
                    .map_err(RobustGradientError::Range)?;
            }
            Self::RollingMedian {} => {}
        }
        Ok(Some(Box::new(RobustGradients {
            method: *self,
            last: Vec::new(),
        })))
    }
}

/// The gradients of a training.
struct RobustGradients {
    method: RobustGradient,
    /// Of the last two steps, for the rolling median.
    last: Vec<Vec<f32>>,
}

/// The mean gradient, the loss and the right answers of examples.
fn mean_gradient<M: Classifier>(
    indices: &[usize],
    examples: &TrainingExamples<'_>,
    learner: &Learner<M>,
    layout: &ParameterLayout,
) -> Result<(Vec<f32>, f32, usize), TrainingError> {
    let batch = examples.chosen(indices, learner.step(), learner.device());
    let (loss, right) = examples.mean_loss(learner.model(), batch);
    let value = number(loss.clone())?;
    let gradients = GradientsParams::from_grads(loss.backward(), learner.model());
    let gradient = read(layout.flatten_gradients_or_zeros(&gradients)?)?;
    Ok((gradient, value, right))
}

fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, RobustGradientError> {
    let values = tensor.try_into_vec_as::<f32>();
    values.map_err(|error| RobustGradientError::Device(error.to_string()))
}

fn number(loss: Tensor<1>) -> Result<f32, RobustGradientError> {
    Ok(read(loss.without_autodiff())?.iter().sum())
}

impl<M: Classifier> GradientSource<M> for RobustGradients {
    fn name(&self) -> &str {
        match self.method {
            RobustGradient::Winsorized { .. } => "winsorized",
            RobustGradient::MedianOfMeans { .. } => "median-of-means",
            RobustGradient::RollingMedian {} => "rolling-median",
        }
    }

    fn gradient(
        &mut self,
        examples: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError> {
        let indices = examples.of_step(learner.step());
        let layout = ParameterLayout::trainable(learner.model())?;
        let count = indices.len();
        let (gradient, loss, right) = match self.method {
            RobustGradient::Winsorized { percent } => {
                let batch = examples.chosen(&indices, learner.step(), learner.device());
                let (loss, right) = examples.mean_loss(learner.model(), batch);
                let value = number(loss.clone())?;
                let gradients = backward(loss, count, Reduction::Mean)
                    .map_err(RobustGradientError::PerExample)?;
                let rows = gradients
                    .rows(learner.model(), &layout)
                    .map_err(RobustGradientError::PerExample)?;
                let mean = winsorized_mean(&read(rows)?, layout.total_length(), percent);
                (mean.map_err(RobustGradientError::Range)?, value, right)
            }
            RobustGradient::MedianOfMeans { groups } => {
                let mut means = Vec::with_capacity(groups);
                let (mut total, mut right) = (0.0, 0);
                // The last batch of an epoch may be too small for all groups: it has one example each, an odd number.
                let parts = groups.min(count - (count + 1) % 2);
                let mut rest = indices.as_slice();
                for part in 0..parts {
                    let (own, others) = rest.split_at(rest.len() / (parts - part));
                    rest = others;
                    let (mean, loss, answers) = mean_gradient(own, examples, learner, &layout)?;
                    means.push(mean);
                    total += loss * own.len() as f32;
                    right += answers;
                }
                (median(&means), total / count as f32, right)
            }
            RobustGradient::RollingMedian {} => {
                let (mean, loss, right) = mean_gradient(&indices, examples, learner, &layout)?;
                self.last.push(mean);
                let gradient = match self.last.len() {
                    3 => {
                        let gradient = median(&self.last);
                        self.last.remove(0);
                        gradient
                    }
                    _ => vec![0.0; layout.total_length()],
                };
                (gradient, loss, right)
            }
        };
        let data = TensorData::new(gradient, [layout.total_length()]);
        let gradient = Tensor::<1>::from_data(data, layout.device());
        learner.contribute(layout.to_gradients(gradient)?, Some(loss))?;
        Ok(Answers {
            right,
            examples: count,
        })
    }

    fn settings(&self) -> Value {
        serde_json::to_value(self.method).unwrap_or_default()
    }

    /// The gradients of the last steps, one after the other.
    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let count = [self.last.len() as u8].into_iter();
        let numbers = self.last.iter().flatten().flat_map(|x| x.to_le_bytes());
        Ok(count.chain(numbers).collect())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let (count, numbers) = state.split_first().unwrap_or((&0, &[]));
        let count = usize::from(*count);
        let wrong = || RobustGradientError::State {
            found: state.len(),
            expected: numbers.len(),
        };
        if count > 2
            || numbers.len() % (4 * count.max(1)) != 0
            || (count == 0 && !numbers.is_empty())
        {
            return Err(wrong().into());
        }
        let values: Vec<f32> = numbers
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        self.last = match count {
            0 => Vec::new(),
            _ => values
                .chunks(values.len() / count)
                .map(<[f32]>::to_vec)
                .collect(),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
