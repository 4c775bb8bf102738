//! LinearAG: predictions without the condition that are computed from earlier ones.
//!
//! In the first half of a run, Adaptive Guidance still pays for two evaluations. Many predictions without the
//! condition follow from those that are already known:
//!
//! ```text
//! ε̂(x_t, ∅) = Σ_{i ≥ t} b^c_{t,i} ε(x_i, c) + Σ_{i > t} b^∅_{t,i} ε(x_i, ∅)
//! ```
//!
//! with scalar coefficients, one set for each step, the same for every value of every sample. They are fitted by
//! least squares over recorded runs of classifier-free guidance ([`TrajectoryRecorder`],
//! [`LinearCoefficients::fit`]). Estimates stand in for predictions that were themselves estimated.
//!
//! The paper's plan ([`LinearStep::alternating`]) alternates guided and estimated steps in the first half, and does
//! without guidance in the second one: in 20 steps 25 evaluations instead of 40. It saves more than
//! [`Adaptive`](super::Adaptive), and draws another picture.
//!
//! # The fit
//! In the order `ε_c(T), ε_∅(T), ε_c(T−1), ε_∅(T−1), …` the unknowns of a step belong to all columns before its
//! own `ε_∅`. So a single triangular factor of all columns holds the fits of all steps. It is built trajectory
//! after trajectory by Householder's method in 64 bits, because the columns of neighbouring steps are nearly
//! equal; a ridge of 10⁻⁶ of the columns' size keeps the coefficients small where that is not enough.
//!
//! Source: Castillo et al., *Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models*,
//! 2023, arXiv 2312.12487, section 5.

use burn::tensor::Tensor;
use faer::Mat;
use faer::linalg::solvers::SolveLstsq;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use super::{ClassifierFree, Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised, Prediction};
use crate::sampler_error::{OwnError, SamplerError};

/// The ridge, relative to the root mean square of the columns' norms.
const RIDGE: f64 = 1e-6;

/// What classifier-free guidance saw in a run: the predictions of the noise in each step.
#[derive(Clone, Debug, Default)]
pub struct CfgTrajectory<const D: usize = 4> {
    /// The time of each step, the noisiest first.
    pub times: Vec<f64>,
    /// `ε(x_t, c)`, each `[batch, …]`.
    pub with: Vec<Tensor<D>>,
    /// `ε(x_t, ∅)`, each `[batch, …]`.
    pub without: Vec<Tensor<D>>,
}

/// Classifier-free guidance that records its predictions, for [`LinearCoefficients::fit`].
///
/// It needs a sampler that calls the model once in each step.
#[derive(Clone, Debug)]
pub struct TrajectoryRecorder<const D: usize = 4> {
    guidance: ClassifierFree,
    trajectory: CfgTrajectory<D>,
}

impl<const D: usize> TrajectoryRecorder<D> {
    /// Nothing recorded yet.
    pub fn new(guidance: ClassifierFree) -> Self {
        Self {
            guidance,
            trajectory: CfgTrajectory::default(),
        }
    }

    /// What the latest run saw.
    pub fn trajectory(&self) -> &CfgTrajectory<D> {
        &self.trajectory
    }
}

impl<const D: usize> Guidance<D> for TrajectoryRecorder<D> {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        *self = Self::new(self.guidance);
        Ok(self.guidance.check()?)
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        once("recording a trajectory", step, self.trajectory.times.len())?;
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        self.trajectory.times.push(step.level.time());
        self.trajectory.with.push(model.read(with.clone())?.epsilon);
        self.trajectory
            .without
            .push(model.read(without.clone())?.epsilon);
        Ok(model.read(self.guidance.guided(without, with))?)
    }
}

/// Checks that the steps come one after the other, with one call in each.
///
/// - `seen`: the number of calls before this one
fn once<const D: usize>(
    guidance: &'static str,
    step: &Step<'_, D>,
    seen: usize,
) -> Result<(), SamplerError> {
    match step.done() == seen {
        true => Ok(()),
        false => Err(SamplerError::SeveralCalls {
            guidance,
            step: step.done() + 1,
        }),
    }
}

/// The coefficients of LinearAG for a schedule; a file with them is what serde writes.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::ddim::Ddim;
/// use nabla_diffusion::denoiser::{GaussianMixture, MixturePart};
/// use nabla_diffusion::guidance::{
///     ClassifierFree, Evaluations, LinearAdaptive, LinearCoefficients, LinearStep,
///     TrajectoryRecorder,
/// };
/// use nabla_diffusion::sampler::{Sampler, Sampling};
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place; 2], deviation: 0.3 };
/// let model = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0)])?;
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?;
/// let sampler = Sampler::new(Ddim::new(), schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
///
/// let mut recorder = TrajectoryRecorder::new(ClassifierFree::new().with_scale(2.0));
/// let start = noise.normal([100, 2], &Device::flex());
/// Sampling::of(&model).guided_by(&mut recorder).run(&sampler, start, &mut noise)?;
/// let coefficients = LinearCoefficients::fit(&[recorder.trajectory().clone()])?;
/// let text = serde_json::to_string(&coefficients)?;
///
/// let usual = ClassifierFree::new().with_scale(2.0);
/// let mut guidance = LinearAdaptive::new(
///     serde_json::from_str(&text)?,
///     usual,
///     LinearStep::alternating(20),
/// )?;
/// let mut evaluations = Evaluations::new();
/// let start = noise.normal([1, 2], &Device::flex());
/// let sampling = Sampling::of(&model).guided_by(&mut guidance).counted_in(&mut evaluations);
/// sampling.run(&sampler, start, &mut noise)?;
/// assert_eq!(evaluations.total(), 25);
/// # Ok::<(), nabla_diffusion::sampler_error::OwnError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearCoefficients {
    /// The time of each step, the noisiest first.
    times: Vec<f64>,
    /// For each step, the coefficients of `ε_c(T), ε_∅(T), …, ε_c(t)`.
    coefficients: Vec<Vec<f64>>,
}

impl LinearCoefficients {
    /// Fits the coefficients to recorded runs.
    ///
    /// # Errors
    /// If there is no trajectory, they have other times, or a value is not finite.
    pub fn fit<const D: usize>(trajectories: &[CfgTrajectory<D>]) -> Result<Self, OwnError> {
        let times = match trajectories.first() {
            Some(first) if !first.times.is_empty() => first.times.clone(),
            _ => return Err(OutOfRange::new("number of trajectories", 0, "at least 1").into()),
        };
        let columns = 2 * times.len();
        // R of all rows so far.
        let mut factor = Mat::<f64>::zeros(0, columns);
        for trajectory in trajectories {
            check_times(&times, &trajectory.times)?;
            factor = below(factor.as_ref(), &table(trajectory)?);
        }
        let size = factor.as_ref().squared_norm_l2() / columns as f64;
        let ridge = RIDGE * size.sqrt();
        let mut coefficients = Vec::with_capacity(times.len());
        for step in 0..times.len() {
            let unknowns = 2 * step + 1;
            let rows = factor.nrows();
            let design = Mat::from_fn(rows + unknowns, unknowns, |i, j| {
                match i.checked_sub(rows) {
                    None => factor[(i, j)],
                    Some(k) if k == j => ridge,
                    Some(_) => 0.0,
                }
            });
            let right = Mat::from_fn(rows + unknowns, 1, |i, _| match i < rows {
                true => factor[(i, unknowns)],
                false => 0.0,
            });
            let solution = design.qr().solve_lstsq(&right);
            let each: Vec<f64> = (0..unknowns).map(|j| solution[(j, 0)]).collect();
            if each.iter().any(|b| !b.is_finite()) {
                return Err("the recorded predictions are not finite".into());
            }
            coefficients.push(each);
        }
        Ok(Self {
            times,
            coefficients,
        })
    }

    /// The time of each step, the noisiest first.
    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// The coefficients of a step, from 0: of `ε_c(T), ε_∅(T), …, ε_c(t)`.
    pub fn of_step(&self, step: usize) -> Option<&[f64]> {
        self.coefficients.get(step).map(Vec::as_slice)
    }

    /// For each step, the share `R²` of the mean square of `ε(x_t, ∅)` that the estimates from true predictions
    /// explain, over recorded runs.
    ///
    /// # Errors
    /// If there is no trajectory, or its times are other ones.
    pub fn explained<const D: usize>(
        &self,
        trajectories: &[CfgTrajectory<D>],
    ) -> Result<Vec<f64>, OwnError> {
        range::at_least("number of trajectories", trajectories.len(), 1)?;
        let (mut errors, mut squares) = (vec![0.0; self.times.len()], vec![0.0; self.times.len()]);
        for trajectory in trajectories {
            check_times(&self.times, &trajectory.times)?;
            let table = table(trajectory)?;
            for (step, weights) in self.coefficients.iter().enumerate() {
                for row in table.rows() {
                    let estimate: f64 = row.iter().zip(weights).map(|(x, b)| x * b).sum();
                    let value = row[weights.len()];
                    errors[step] += (estimate - value).powi(2);
                    squares[step] += value * value;
                }
            }
        }
        let shares = errors.iter().zip(&squares);
        Ok(shares.map(|(error, square)| 1.0 - error / square).collect())
    }

    fn check(&self) -> Result<(), OutOfRange> {
        let steps = self.times.len();
        range::at_least("number of steps of the coefficients", steps, 1)?;
        let (found, told) = (
            self.coefficients.len(),
            format!("{steps}, as there are times"),
        );
        range::check(
            found == steps,
            "number of sets of coefficients",
            found,
            told,
        )?;
        for (step, each) in self.coefficients.iter().enumerate() {
            let (found, expected) = (each.len(), 2 * step + 1);
            let name = format!("number of coefficients of step {}", step + 1);
            range::check(found == expected, name, found, expected.to_string())?;
        }
        Ok(())
    }
}

/// The values of a trajectory: a row for each of them, a column for each prediction.
struct Table {
    values: Vec<f64>,
    columns: usize,
}

impl Table {
    fn rows(&self) -> std::slice::Chunks<'_, f64> {
        self.values.chunks(self.columns)
    }
}

fn table<const D: usize>(trajectory: &CfgTrajectory<D>) -> Result<Table, OwnError> {
    let (with, without) = (&trajectory.with, &trajectory.without);
    let steps = trajectory.times.len();
    for found in [with.len(), without.len()] {
        let told = format!("{steps}, as there are times");
        range::check(
            found == steps,
            "number of recorded predictions",
            found,
            told,
        )?;
    }
    let mut each: Vec<Vec<f64>> = Vec::with_capacity(2 * steps);
    for tensor in with.iter().zip(without).flat_map(|(c, n)| [c, n]) {
        each.push(tensor.clone().without_autodiff().try_into_vec_as()?);
    }
    let count = each.first().map_or(0, Vec::len);
    if each.iter().any(|column| column.len() != count) {
        return Err("the recorded predictions have different shapes".into());
    }
    let columns = 2 * steps;
    let values = (0..count * columns)
        .map(|i| each[i % columns][i / columns])
        .collect();
    Ok(Table { values, columns })
}

/// The triangular factor of the rows whose factor is `factor`, and those of a table.
fn below(factor: faer::MatRef<'_, f64>, table: &Table) -> Mat<f64> {
    let (known, columns) = (factor.nrows(), table.columns);
    let rows = table.values.len() / columns;
    let stacked = Mat::from_fn(known + rows, columns, |i, j| match i.checked_sub(known) {
        None => factor[(i, j)],
        Some(row) => table.values[row * columns + j],
    });
    stacked.qr().thin_R().to_owned()
}

fn check_times(expected: &[f64], found: &[f64]) -> Result<(), OwnError> {
    let same = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * a.abs().max(1.0);
    match expected.len() == found.len() && expected.iter().zip(found).all(same) {
        true => Ok(()),
        false => Err(format!(
            "the coefficients of LinearAG are for the times {expected:?}, but the run has {found:?}"
        )
        .into()),
    }
}

/// What happens in a step of LinearAG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinearStep {
    /// Classifier-free guidance: two evaluations.
    Guided,
    /// Guidance with an estimated prediction without the condition: one evaluation.
    Estimated,
    /// No guidance: one evaluation.
    Conditional,
}

impl LinearStep {
    /// The paper's plan: guided and estimated steps alternate in the first half; the second is not guided.
    pub fn alternating(steps: usize) -> Vec<Self> {
        let of_step = |step: usize| match (step < steps.div_ceil(2), step % 2) {
            (true, 0) => Self::Guided,
            (true, _) => Self::Estimated,
            (false, _) => Self::Conditional,
        };
        (0..steps).map(of_step).collect()
    }
}

/// LinearAG: guidance whose predictions without the condition are estimated in some steps; see
/// [`LinearCoefficients`].
///
/// It needs a sampler that calls the model once in each step, over the schedule of the fit. Source: Castillo et
/// al., 2023, arXiv 2312.12487.
#[derive(Clone, Debug)]
pub struct LinearAdaptive<const D: usize = 4> {
    coefficients: LinearCoefficients,
    guidance: ClassifierFree,
    plan: Vec<LinearStep>,
    /// `ε_c(T), ε_∅(T), …`
    seen: Vec<Tensor<D>>,
    calls: usize,
}

impl<const D: usize> LinearAdaptive<D> {
    /// - `plan`: what happens in each step, the noisiest first
    ///
    /// # Errors
    /// If the plan has not as many steps as the coefficients, a step is estimated after one that was not
    /// guided, or the coefficients are incomplete.
    pub fn new(
        coefficients: LinearCoefficients,
        guidance: ClassifierFree,
        plan: Vec<LinearStep>,
    ) -> Result<Self, OutOfRange> {
        coefficients.check()?;
        let (found, expected) = (plan.len(), coefficients.times.len());
        let told = format!("{expected}, as the coefficients have");
        range::check(
            found == expected,
            "number of steps of the plan",
            found,
            told,
        )?;
        let free = plan
            .iter()
            .position(|&step| step == LinearStep::Conditional);
        let last = plan.iter().rposition(|&step| step == LinearStep::Estimated);
        if let (Some(free), Some(last)) = (free, last) {
            let told = format!("below {}, the first step without guidance", free + 1);
            range::check(last < free, "last estimated step", last + 1, told)?;
        }
        Ok(Self {
            coefficients,
            guidance,
            plan,
            seen: Vec::new(),
            calls: 0,
        })
    }
}

impl<const D: usize> Guidance<D> for LinearAdaptive<D> {
    fn begin(&mut self, steps: usize) -> Result<(), OwnError> {
        self.seen.clear();
        self.calls = 0;
        let expected = self.plan.len();
        let told = format!("{expected}, for which the coefficients of LinearAG are");
        range::check(steps == expected, "number of steps", steps, told)?;
        Ok(self.guidance.check()?)
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        once("LinearAG", step, self.calls)?;
        self.calls += 1;
        let number = step.done();
        check_times(
            &self.coefficients.times[number..=number],
            &[step.level.time()],
        )?;
        match self.plan[number] {
            LinearStep::Conditional => {
                let [with] = model.ask([Condition::FIRST])?;
                Ok(model.read(with)?)
            }
            LinearStep::Guided => {
                let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
                self.seen.push(model.read(with.clone())?.epsilon);
                self.seen.push(model.read(without.clone())?.epsilon);
                Ok(model.read(self.guidance.guided(without, with))?)
            }
            LinearStep::Estimated => {
                let [with] = model.ask([Condition::FIRST])?;
                self.seen.push(model.read(with.clone())?.epsilon);
                let weights = &self.coefficients.coefficients[number];
                let zero = step.x.zeros_like();
                let terms = self.seen.iter().zip(weights);
                let estimate = terms.fold(zero, |sum, (seen, &b)| sum + seen.clone() * b);
                self.seen.push(estimate.clone());
                let (kind, x) = (Prediction::Epsilon, step.x.clone());
                let own = model.prediction();
                let without = kind.convert(own, estimate, x, step.level);
                // Without a learned variance, which cannot be estimated.
                let with = match with.dims() == step.x.dims() {
                    true => with,
                    false => with.slice_dim(1, 0..step.x.dims()[1]),
                };
                Ok(model.read(self.guidance.guided(without, with))?)
            }
        }
    }
}
