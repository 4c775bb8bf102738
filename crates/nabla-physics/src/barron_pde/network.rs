//! Two-layer networks drawn from Fourier coefficients, as Barron's theorem has them.

use std::f64::consts::FRAC_PI_2;

use burn::module::{Module, Param};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor, TensorData};
use faer::Mat;
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::BarronError;
use super::sparse_fourier::SparseFourier;
use super::spectral::Spectral;

/// What a unit does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Unit {
    /// `cos`: the error is at most `Σ |û_ω| / √units`.
    Cosine,
    /// 1 above 0, 0 below, as in Barron's theorem: the error is at most `Σ |û_ω| ‖ω‖₁ / √units`.
    Step,
    /// `1 / (1 + exp(−steepness · z))`, which for great steepness is a step.
    Sigmoid {
        /// Above 0.
        steepness: f64,
    },
    /// `max(0, z)`: the error is at most `Σ |û_ω| ‖ω‖₁² / √(units − 2)`.
    Relu,
}

impl Unit {
    /// The power of `‖ω‖₁` by which frequencies are drawn.
    fn power(self) -> i32 {
        match self {
            Self::Cosine => 0,
            Self::Step | Self::Sigmoid { .. } => 1,
            Self::Relu => 2,
        }
    }

    /// Units that are not drawn: an affine function.
    fn fixed(self) -> usize {
        match self {
            Self::Relu => 2,
            _ => 0,
        }
    }
}

/// `x ↦ c + Σ_i a_i σ(⟨w_i, x⟩ + b_i)`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_physics::barron_pde::{Domain, SparseFourier, TwoLayerNetwork, Unit};
///
/// let u = SparseFourier::cosine(Domain::periodic(2), &[1, 0], 1.0, 0.0)?;
/// let device = Device::flex();
/// let network = TwoLayerNetwork::largest(&u, 1, &device)?;
/// let x = Tensor::<2>::from_floats([[0.5, 0.3]], &device);
/// assert!((network.forward(x).into_scalar::<f32>() + 1.0).abs() < 1e-6);
/// # Ok::<(), nabla_physics::barron_pde::BarronError>(())
/// ```
#[derive(Module, Debug)]
pub struct TwoLayerNetwork {
    /// `w_i`, `[units, d]`.
    pub inner: Param<Tensor<2>>,
    /// `b_i`, `[units]`.
    pub offsets: Param<Tensor<1>>,
    /// `a_i`, `[units]`.
    pub outer: Param<Tensor<1>>,
    /// `c`, `[1]`.
    pub constant: Param<Tensor<1>>,
    #[module(skip)]
    unit: Unit,
}

/// The rows and weights of a network to be made.
#[derive(Default)]
struct Rows {
    inner: Vec<f64>,
    offsets: Vec<f64>,
    outer: Vec<f64>,
    constant: f64,
}

/// One of each pair of waves: `amplitude · cos(ω·x + phase)`.
struct Wave {
    frequency: Vec<f64>,
    amplitude: f64,
    phase: f64,
}

impl Wave {
    /// The least and the greatest `ω·x` in `[0, 1]^d`.
    fn range(&self) -> (f64, f64) {
        let low = self.frequency.iter().map(|w| w.min(0.0)).sum();
        let high = self.frequency.iter().map(|w| w.max(0.0)).sum();
        (low, high)
    }

    /// `‖ω‖₁`.
    fn length(&self) -> f64 {
        self.frequency.iter().map(|w| w.abs()).sum()
    }
}

/// The mean, and the waves.
fn waves(u: &SparseFourier) -> (f64, Vec<Wave>) {
    let unit = u.domain().unit_frequency();
    let mut mean = 0.0;
    let mut waves = Vec::new();
    for (k, coefficient, count) in u.pairs() {
        if count == 1.0 {
            mean = coefficient.re;
        } else {
            waves.push(Wave {
                frequency: k.iter().map(|&k| unit * f64::from(k)).collect(),
                amplitude: 2.0 * coefficient.norm(),
                phase: coefficient.arg(),
            });
        }
    }
    (mean, waves)
}

impl TwoLayerNetwork {
    /// `units` units drawn from the coefficients of `u`, so that the mean over all draws is `u` on `[0, 1]^d`, and the mean
    /// square error at most the square of [`Self::error_bound`].
    ///
    /// With `z = ω·x` between `l` and `h`, a wave is one of cosines, of steps, or of ramps:
    ///
    /// ```text
    /// cos(z + θ) = cos(l + θ) − ∫_l^h sin(s + θ) 1[z > s] ds
    ///            = cos(l + θ) − sin(l + θ) (z − l) − ∫_l^h cos(s + θ) max(0, z − s) ds
    /// ```
    ///
    /// Frequencies are drawn by `|û_ω| ‖ω‖₁^p` for `p` = 0, 1 and 2, and `s` evenly.
    ///
    /// # Errors
    /// If there are no units, or fewer than 3 rectified ones; the function is constant; or the steepness is not positive.
    pub fn sampled(
        u: &SparseFourier,
        units: usize,
        unit: Unit,
        seed: u64,
        device: &Device,
    ) -> Result<Self, BarronError> {
        range::at_least("number of units", units, 1 + unit.fixed())?;
        if let Unit::Sigmoid { steepness } = unit {
            range::positive("steepness", steepness)?;
        }
        let (mean, waves) = waves(u);
        let drawn = units - unit.fixed();
        // Where each wave begins on the line of all weights.
        let mut starts = Vec::with_capacity(waves.len());
        let mut total = 0.0;
        for wave in &waves {
            starts.push(total);
            total += wave.amplitude * wave.length().powi(unit.power());
        }
        if waves.is_empty() {
            return Err(BarronError::Constant);
        }
        let mut rows = Rows {
            constant: mean,
            ..Rows::default()
        };
        // What the integrals leave: a constant, and for ramps an affine function.
        let mut slope = vec![0.0; u.domain().dims];
        for wave in &waves {
            let (low, _) = wave.range();
            let at_low = low + wave.phase;
            if unit != Unit::Cosine {
                rows.constant += wave.amplitude * at_low.cos();
            }
            if unit == Unit::Relu {
                let steepness = -wave.amplitude * at_low.sin();
                rows.constant -= steepness * low;
                nabla_base::vector::add_scaled(&mut slope, steepness, &wave.frequency);
            }
        }
        if unit == Unit::Relu {
            for sign in [1.0, -1.0] {
                rows.inner.extend(slope.iter().map(|w| sign * w));
                rows.offsets.push(0.0);
                rows.outer.push(sign);
            }
        }
        let mut noise = SeededNoise::new(seed, 0);
        for _ in 0..drawn {
            let at = noise.random::<f64>() * total;
            let wave = &waves[starts.partition_point(|&start| start <= at).max(1) - 1];
            if unit == Unit::Cosine {
                rows.inner.extend_from_slice(&wave.frequency);
                rows.offsets.push(wave.phase);
                rows.outer.push(total / drawn as f64);
                continue;
            }
            let (low, high) = wave.range();
            let s = low + (high - low) * noise.random::<f64>();
            // Units of one steepness for all frequencies.
            let length = wave.length();
            rows.inner.extend(wave.frequency.iter().map(|w| w / length));
            rows.offsets.push(-s / length);
            let turn = match unit {
                Unit::Relu => s + wave.phase + FRAC_PI_2,
                _ => s + wave.phase,
            };
            rows.outer.push(-turn.sin() * total / drawn as f64);
        }
        Ok(Self::of(rows, unit, device))
    }

    /// The `units` waves with the largest coefficients: of all networks of so many cosines of the frequencies of `u`, the one
    /// nearest to it.
    ///
    /// # Errors
    /// If there are no units.
    pub fn largest(u: &SparseFourier, units: usize, device: &Device) -> Result<Self, BarronError> {
        range::at_least("number of units", units, 1)?;
        let (mean, mut waves) = waves(u);
        if waves.is_empty() {
            return Err(BarronError::Constant);
        }
        waves.sort_by(|a, b| b.amplitude.total_cmp(&a.amplitude));
        let mut rows = Rows {
            constant: mean,
            ..Rows::default()
        };
        for wave in waves.into_iter().take(units) {
            rows.inner.extend(wave.frequency);
            rows.offsets.push(wave.phase);
            rows.outer.push(wave.amplitude);
        }
        Ok(Self::of(rows, Unit::Cosine, device))
    }

    fn of(rows: Rows, unit: Unit, device: &Device) -> Self {
        let units = rows.outer.len();
        let dims = rows.inner.len() / units;
        let vector = |values: Vec<f64>| {
            let count = values.len();
            Param::from_tensor(Tensor::<1>::from_data(
                TensorData::new(values, [count]),
                device,
            ))
        };
        let inner = Tensor::<2>::from_data(TensorData::new(rows.inner, [units, dims]), device);
        Self {
            inner: Param::from_tensor(inner),
            offsets: vector(rows.offsets),
            outer: vector(rows.outer),
            constant: vector(vec![rows.constant]),
            unit,
        }
    }

    /// What a unit does.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// `σ(⟨w_i, x⟩ + b_i)`, `[batch, units]`, for `x` `[batch, d]`.
    pub fn activations(&self, x: Tensor<2>) -> Tensor<2> {
        let z = x.matmul(self.inner.val().transpose()) + self.offsets.val().unsqueeze();
        match self.unit {
            Unit::Cosine => z.cos(),
            Unit::Step => z.greater_elem(0.0).float(),
            Unit::Sigmoid { steepness } => sigmoid(z * steepness),
            Unit::Relu => relu(z),
        }
    }

    /// `[batch]`, for `x` `[batch, d]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<1> {
        let [batch, _] = x.dims();
        let outer = self.outer.val().unsqueeze_dim(1); // [units, 1]
        let sum: Tensor<1> = self.activations(x).matmul(outer).reshape([batch]);
        sum + self.constant.val()
    }

    /// The same units with the outer weights and the constant that fit `values` at `x` best.
    ///
    /// - `x`: `[points, d]`, more than there are units
    /// - `values`: one for each point
    ///
    /// # Errors
    /// If there are too few points, or not a value for each.
    pub fn refitted(mut self, x: Tensor<2>, values: &[f64]) -> Result<Self, BarronError> {
        let [points, _] = x.dims();
        let units = self.outer.dims()[0];
        range::at_least("number of points", points, units + 1)?;
        range::within("number of values", values.len(), points..=points)?;
        let found = self.activations(x).into_data().convert::<f64>();
        let found = found
            .try_to_vec::<f64>()
            .map_err(|error| BarronError::Device(error.to_string()))?;
        let matrix = Mat::from_fn(points, units + 1, |i, j| match j {
            0 => 1.0,
            _ => found[i * units + j - 1],
        });
        let right = Mat::from_fn(points, 1, |i, _| values[i]);
        // Units drawn twice make equal columns, which pivoting leaves to the one.
        let weights = matrix
            .svd()
            .map_err(|_| BarronError::Fit("no decomposition"))?;
        let least = weights.S().column_vector()[0] * 1e-10;
        let turned = weights.U().transpose() * &right;
        let mut fitted = vec![0.0; units + 1];
        for j in 0..=units {
            let size = weights.S().column_vector()[j];
            if size > least {
                for (i, fitted) in fitted.iter_mut().enumerate() {
                    *fitted += weights.V()[(i, j)] * turned[(j, 0)] / size;
                }
            }
        }
        let device = self.outer.val().device();
        let vector = |values: &[f64]| {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            Param::from_tensor(Tensor::<1>::from_data(data, &device))
        };
        self.constant = vector(&fitted[..1]);
        self.outer = vector(&fitted[1..]);
        Ok(self)
    }

    /// What theory says of the root of the mean square error of [`Self::sampled`], over draws and over `[0, 1]^d`. For sigmoids
    /// it is that of steps.
    ///
    /// # Errors
    /// If there are too few units.
    pub fn error_bound(u: &SparseFourier, units: usize, unit: Unit) -> Result<f64, BarronError> {
        range::at_least("number of units", units, 1 + unit.fixed())?;
        let (_, waves) = waves(u);
        let sum: f64 = waves
            .iter()
            .map(|wave| wave.amplitude * wave.length().powi(unit.power()))
            .sum();
        Ok(sum / ((units - unit.fixed()) as f64).sqrt())
    }
}

/// The bound of Barron's theorem for sigmoids on a ball, `2 r C / √units` with `C = Σ ‖ω‖₁ |û_ω|`.
///
/// # Errors
/// If the radius is not positive, or there are no units.
pub fn barron_bound(u: &SparseFourier, radius: f64, units: usize) -> Result<f64, BarronError> {
    range::positive("radius", radius)?;
    Ok(2.0 * radius * TwoLayerNetwork::error_bound(u, units, Unit::Step)?)
}
