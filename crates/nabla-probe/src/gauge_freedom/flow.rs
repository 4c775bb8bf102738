//! The sampling flow of a field: its points, its densities, and the singular values of its Jacobian.
//!
//! With `l = ln σ`, the probability flow of the variance-exploding process is `dx/dl = −σ² s(x, σ)`, solved by the
//! classical method of Runge and Kutta with even steps in `l`.

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::squared_norm;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;

use super::GaugeError;
use super::graded::{Graded, orthonormalised};
use super::vector_field::{VectorField, jacobians, points_of};

/// The noise levels of a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowGrid {
    /// The highest level. Default 10; at least five times the radius of the data.
    pub sigma_max: f64,
    /// The lowest level. Default 0.01; for a field that was trained on points, not below their distances
    /// ([`median_neighbour_distance`](super::median_neighbour_distance)).
    pub sigma_min: f64,
    /// Steps between them. Default 600.
    pub steps: usize,
}

impl Default for FlowGrid {
    fn default() -> Self {
        Self {
            sigma_max: 10.0,
            sigma_min: 0.01,
            steps: 600,
        }
    }
}

impl FlowGrid {
    /// # Errors
    /// If there is no step, or not `0 < σ_min < σ_max`.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("number of steps of the flow", self.steps, 1)?;
        range::positive("highest noise level", self.sigma_max)?;
        range::between("lowest noise level", self.sigma_min, 0.0, self.sigma_max)
    }

    /// The level after `step` steps from the highest.
    fn level(&self, step: f64) -> f64 {
        let (high, low) = (self.sigma_max.ln(), self.sigma_min.ln());
        (high + (low - high) * step / self.steps as f64).exp()
    }
}

/// What a step of the flow moves.
type Slope<'a> = dyn Fn(&[f64], f64) -> Result<Vec<f64>, GaugeError> + 'a;

/// One step from `from` to `to` of `d state / d ln σ = slope(state, σ)`.
fn runge_kutta(
    slope: &Slope<'_>,
    state: &mut [f64],
    [from, to]: [f64; 2],
) -> Result<(), GaugeError> {
    let length = (to / from).ln();
    let middle = (from * to).sqrt();
    let moved = |k: &[f64], share: f64| -> Vec<f64> {
        let each = state.iter().zip(k);
        each.map(|(x, k)| x + share * length * k).collect()
    };
    let k1 = slope(state, from)?;
    let k2 = slope(&moved(&k1, 0.5), middle)?;
    let k3 = slope(&moved(&k2, 0.5), middle)?;
    let k4 = slope(&moved(&k3, 1.0), to)?;
    for (i, x) in state.iter_mut().enumerate() {
        *x += length / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]);
    }
    match state.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(GaugeError::NotFinite { sigma: to }),
    }
}

/// `−σ² s`.
fn velocity<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    sigma: f64,
) -> Result<Vec<f64>, GaugeError> {
    let mut velocity = field.eval(x, sigma)?;
    velocity.iter_mut().for_each(|v| *v *= -sigma * sigma);
    Ok(velocity)
}

/// The points at the lowest level to which the flow takes `starts` from the highest, both `[points, dimension]`.
///
/// # Errors
/// If the grid is out of range, or the field fails or is not finite.
///
/// ```
/// use nabla_probe::gauge_freedom::{FlowGrid, GaussianMixtureScore, MixtureComponent, flow_samples};
///
/// let score = GaussianMixtureScore::new(vec![MixtureComponent::isotropic(1.0, vec![0.0], 1.0)])?;
/// let found = flow_samples(&score, &[5.0], &FlowGrid::default())?;
/// // √((1 + σ²)/(1 + σ_max²))
/// assert!((found[0] - 5.0 * (1.0001_f64 / 101.0).sqrt()).abs() < 1e-8);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn flow_samples<F: VectorField + ?Sized>(
    field: &F,
    starts: &[f64],
    grid: &FlowGrid,
) -> Result<Vec<f64>, GaugeError> {
    grid.validate()?;
    points_of(field.dimension(), starts)?;
    let mut x = starts.to_vec();
    for step in 0..grid.steps {
        let levels = [step, step + 1].map(|step| grid.level(step as f64));
        runge_kutta(&|x, sigma| velocity(field, x, sigma), &mut x, levels)?;
    }
    Ok(x)
}

/// How a divergence is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// From the whole Jacobian.
    Exact,
    /// As the mean of `vᵀ J v` over random signs (Hutchinson), which are the same along a flow.
    Hutchinson {
        /// How many products, at least 1.
        probes: usize,
        /// The seed of the signs.
        seed: u64,
    },
}

impl Divergence {
    /// The directions for `points` points, `[points, directions, dimension]`, and the factor of the sum.
    fn directions(self, points: usize, d: usize) -> Result<(Vec<f64>, f64), OutOfRange> {
        match self {
            Self::Exact => {
                let units = (0..points * d * d).map(|i| f64::from(u8::from((i / d) % d == i % d)));
                Ok((units.collect(), 1.0))
            }
            Self::Hutchinson { probes, seed } => {
                range::at_least("number of probes", probes, 1)?;
                let mut noise = SeededNoise::new(seed, 0);
                let signs = Probe::Rademacher.draw(points * probes * d, &mut noise);
                Ok((signs, 1.0 / probes as f64))
            }
        }
    }

    /// `∇·s` at each point.
    ///
    /// # Errors
    /// If the field fails, the shapes don't fit, or there is no probe.
    pub fn of<F: VectorField + ?Sized>(
        self,
        field: &F,
        x: &[f64],
        sigma: f64,
    ) -> Result<Vec<f64>, GaugeError> {
        let points = points_of(field.dimension(), x)?;
        let (directions, factor) = self.directions(points, field.dimension())?;
        divergence_along(field, x, &directions, factor, sigma)
    }
}

fn divergence_along<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    directions: &[f64],
    factor: f64,
    sigma: f64,
) -> Result<Vec<f64>, GaugeError> {
    let points = points_of(field.dimension(), x)?;
    let products = field.products(x, directions, sigma)?;
    let width = directions.len() / points;
    let each = products.chunks(width).zip(directions.chunks(width));
    Ok(each
        .map(|(p, v)| factor * nabla_base::vector::dot(p, v))
        .collect())
}

/// `ln p` of each point at the lowest level, in nats: with the divergence of the whole field, gauge part included,
/// along its own flow.
///
/// ```text
/// ln p_min(x) = ln p_max(x_max) − ∫ σ² ∇·s d ln σ
/// ```
///
/// - `x`: `[points, dimension]`
/// - `prior`: `ln p` at the highest level, such as [`normal_log_density`]
///
/// # Errors
/// If the grid is out of range, there is no probe, or the field fails or is not finite.
///
/// ```
/// use nabla_probe::gauge_freedom::{
///     Divergence, FlowGrid, GaussianMixtureScore, MixtureComponent, log_density, normal_log_density,
/// };
///
/// let score = GaussianMixtureScore::new(vec![MixtureComponent::isotropic(1.0, vec![0.0; 2], 1.0)])?;
/// let grid = FlowGrid::default();
/// let prior = |x: &[f64]| normal_log_density(x, 1.0 + grid.sigma_max.powi(2));
/// let found = log_density(&score, &[0.3, -1.0], &grid, Divergence::Exact, &prior)?;
/// assert!((found[0] - normal_log_density(&[0.3, -1.0], 1.0001)).abs() < 1e-7);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn log_density<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    grid: &FlowGrid,
    divergence: Divergence,
    prior: &dyn Fn(&[f64]) -> f64,
) -> Result<Vec<f64>, GaugeError> {
    grid.validate()?;
    let d = field.dimension();
    let points = points_of(d, x)?;
    let (directions, factor) = divergence.directions(points, d)?;
    let slope = |state: &[f64], sigma: f64| {
        let x = &state[..points * d];
        let mut slope = velocity(field, x, sigma)?;
        let each = divergence_along(field, x, &directions, factor, sigma)?;
        slope.extend(each.iter().map(|div| -sigma * sigma * div));
        Ok(slope)
    };
    let mut state = x.to_vec();
    state.resize(points * (d + 1), 0.0);
    for step in (0..grid.steps).rev() {
        let levels = [step + 1, step].map(|step| grid.level(step as f64));
        runge_kutta(&slope, &mut state, levels)?;
    }
    let (ends, sums) = state.split_at(points * d);
    let each = ends.chunks(d).zip(sums);
    Ok(each.map(|(x, sum)| prior(x) + sum).collect())
}

/// `ln N(x; 0, variance I)`.
pub fn normal_log_density(x: &[f64], variance: f64) -> f64 {
    let constant = (std::f64::consts::TAU * variance).ln();
    -0.5 * (x.len() as f64 * constant + squared_norm(x) / variance)
}

/// The directions in which the flow's Jacobian is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    /// All of them.
    All,
    /// A random subspace, for points of many numbers: the singular values of `Y Ω` with orthonormal columns `Ω`
    /// interlace those of `Y`, so dimensions below `count` are still read off.
    Random {
        /// The dimension of the subspace.
        count: usize,
        /// The seed.
        seed: u64,
    },
}

/// How a flow's singular values are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowJacobian {
    /// The levels.
    pub grid: FlowGrid,
    /// Steps between two sets of singular values. Default 10.
    pub every: usize,
    /// The condition number above which `Y` is split into `Q R`, and only `Q` goes on. Default 1e6.
    pub condition: f64,
    /// Default all.
    pub directions: Directions,
}

impl Default for FlowJacobian {
    fn default() -> Self {
        Self {
            grid: FlowGrid::default(),
            every: 10,
            condition: 1e6,
            directions: Directions::All,
        }
    }
}

impl FlowJacobian {
    /// # Errors
    /// If a number is out of range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        self.grid.validate()?;
        range::at_least("number of steps between two sets", self.every, 1)?;
        range::check(
            self.condition > 1.0,
            "condition number",
            self.condition,
            "greater than 1",
        )
    }
}

/// The singular values of a flow's Jacobian `Y = ∂x_σ/∂x_max` on the way down.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowSpectrum {
    /// The levels, falling.
    pub sigmas: Vec<f64>,
    /// At each level and for each start, in descending order: `[levels][starts][directions]`.
    pub values: Vec<Vec<Vec<f64>>>,
    /// The points at the lowest level, `[starts, dimension]`.
    pub ends: Vec<f64>,
}

/// The singular values of the Jacobian of the sampling flow, from the highest level on.
///
/// ```text
/// dx/dl = −σ² s,   dY/dl = −σ² J_s Y,   Y = I at the start,   l = ln σ
/// ```
///
/// - `starts`: at the highest level, `[starts, dimension]`
///
/// # Errors
/// If a number is out of range, or the field fails or is not finite.
///
/// ```
/// use nabla_probe::gauge_freedom::{
///     FlowJacobian, GaussianMixtureScore, MixtureComponent, flow_singular_values,
/// };
///
/// // A line in the plane: Y = diag(√((1 + σ²)/(1 + σ_max²)), σ/σ_max).
/// let line = MixtureComponent { weight: 1.0, mean: vec![0.0; 2], covariance: vec![1.0, 0.0, 0.0, 0.0] };
/// let score = GaussianMixtureScore::new(vec![line])?;
/// let found = flow_singular_values(&score, &[3.0, -8.0], &FlowJacobian::default())?;
/// let last = &found.values.last().unwrap()[0];
/// assert!((last[0] - (1.0001_f64 / 101.0).sqrt()).abs() < 1e-8 && (last[1] - 1e-3).abs() < 1e-8);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn flow_singular_values<F: VectorField + ?Sized>(
    field: &F,
    starts: &[f64],
    config: &FlowJacobian,
) -> Result<FlowSpectrum, GaugeError> {
    config.validate()?;
    let d = field.dimension();
    let points = points_of(d, starts)?;
    let first = first_directions(config.directions, d)?;
    let wide = first.len(); // the columns of Y, one after the other
    let slope = |state: &[f64], sigma: f64| {
        let (x, y) = state.split_at(points * d);
        let mut slope = velocity(field, x, sigma)?;
        let products = field.products(x, y, sigma)?;
        slope.extend(products.iter().map(|p| -sigma * sigma * p));
        Ok(slope)
    };
    let mut state = starts.to_vec();
    (0..points).for_each(|_| state.extend(&first));
    // Of each start, what was split off: Y is the columns in `state` times this.
    let mut split = vec![Graded::identity(wide / d); points];
    let mut found = FlowSpectrum {
        sigmas: Vec::new(),
        values: Vec::new(),
        ends: Vec::new(),
    };
    for step in 0..config.grid.steps {
        let levels = [step, step + 1].map(|step| config.grid.level(step as f64));
        runge_kutta(&slope, &mut state, levels)?;
        let done = step + 1;
        if done % config.every != 0 && done != config.grid.steps {
            continue;
        }
        let columns = state[points * d..].chunks_mut(wide);
        let mut values = Vec::with_capacity(points);
        for (y, split) in columns.zip(&mut split) {
            let (q, r) = orthonormalised(y, d);
            let whole = r.times(split);
            values.push(whole.singular_values());
            if r.condition() > config.condition {
                y.copy_from_slice(&q);
                *split = whole;
            }
        }
        found.sigmas.push(levels[1]);
        found.values.push(values);
    }
    state.truncate(points * d);
    found.ends = state;
    Ok(found)
}

/// Orthonormal columns, one after the other.
fn first_directions(directions: Directions, d: usize) -> Result<Vec<f64>, OutOfRange> {
    match directions {
        Directions::All => Ok((0..d * d)
            .map(|i| f64::from(u8::from(i.is_multiple_of(d + 1))))
            .collect()),
        Directions::Random { count, seed } => {
            range::within("number of directions", count, 1..=d)?;
            let drawn = Probe::Gaussian.draw(count * d, &mut SeededNoise::new(seed, 0));
            Ok(orthonormalised(&drawn, d).0)
        }
    }
}

/// The singular values of `σ² J_s` at each point, in descending order, `[points][dimension]`: about 1 across the
/// manifold, and about 0 along it.
///
/// # Errors
/// If the field fails, or the shapes don't fit.
pub fn score_singular_values<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    sigma: f64,
) -> Result<Vec<Vec<f64>>, GaugeError> {
    jacobian_singular_values(&jacobians(field, x, sigma)?, field.dimension(), sigma)
}

/// [`score_singular_values`] of Jacobians that are known, `[points, dimension, dimension]`.
///
/// # Errors
/// If a number is not finite.
pub fn jacobian_singular_values(
    jacobians: &[f64],
    dimension: usize,
    sigma: f64,
) -> Result<Vec<Vec<f64>>, GaugeError> {
    let d = dimension;
    let each = jacobians.chunks(d * d).map(|jacobian| {
        if let Some(_wrong) = jacobian.iter().find(|x| !x.is_finite()) {
            return Err(GaugeError::NotFinite { sigma });
        }
        let values = Graded::of_rows(jacobian, d).singular_values();
        Ok(values.into_iter().map(|v| v * sigma * sigma).collect())
    });
    each.collect()
}
