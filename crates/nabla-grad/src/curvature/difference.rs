//! Directional derivatives by central differences, with the step chosen by the error observed.
//!
//! Along the unit vector `u`, a field `f` (a gradient, or outputs) is known at `θ` and, for two evaluations
//! per step `t`, at `θ ± t u`. Its odd and even parts there are
//!
//! ```text
//! D(t) = (f(θ + tu) − f(θ − tu)) / 2t        =  f′ + t²/6 f‴ + …  + rounding / t
//! E(t) =  f(θ + tu) + f(θ − tu) − 2 f(θ)     =  t² f″ + t⁴/12 f⁗ + …
//! R(t) = (4 D(t) − D(2t)) / 3                =  f′ + O(t⁴)                     (Richardson)
//! ```
//!
//! A kink between the two sides (a ReLU whose argument changes its sign) adds a jump `Δ` of `f` to `E` and `±
//! Δ/2t` to `D`. The second grows as the step shrinks, until the step ends before the kink. The error of
//! `D(t)` therefore has three parts, and their sum is the stated error:
//!
//! ```text
//! ‖D(2t) − D(t)‖                truncation: three times that of D(t), where it dominates
//! 2 σ/(√2 t)                    rounding: σ is the norm of the rounding of one f
//! ‖E(2t) − 4 E(t)‖ / 4t         kinks: 0 to the order t³ where f is smooth, 3/2 of a kink's Δ/2t
//! ```
//!
//! At fourth order `R(t)` replaces `D(t)`, and the first line is `‖R(2t) − R(t)‖`.
//!
//! **The step.** `σ` is measured once, from second differences over steps of a few units in the last place
//! (Moré, Wild, *Estimating Computational Noise*, 2011). The step is first halved as long as the even parts
//! of two steps disagree by more than rounding, since kinks then lie between the sides. It is then halved as
//! long as truncation dominates the error, and doubled if rounding does. The search ends when the stated
//! error is at most the share [`accuracy`](DifferenceConfig::accuracy) of the derivative's norm, or no longer
//! falls, or after [`MOST_STEPS`] steps. If all steps cross kinks (`θ` lies on one, or so near that no step
//! of this precision ends before it), the stated error uses the largest contribution of the kinks. The same
//! arguments give the same steps.

use std::collections::VecDeque;

use burn::config::Config;
use burn::tensor::{DType, Device, Tensor};

use nabla_base::range;

use super::{CurvatureError, Product, add_scaled, expect_dim, norm, on_device, values};
use crate::seeded_noise::SeededNoise;
use crate::trace::Probe;

/// The largest number of steps that one derivative tries; each takes two evaluations.
pub const MOST_STEPS: usize = 16;

/// The step `r` of a central difference.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Step {
    /// Chosen for each product by the error observed; see [`crate::curvature`].
    Automatic,
    /// This multiple of `v`, whatever the length of `v`.
    Fixed(f64),
}

/// The order `p` of a central difference: how its error falls with the step.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Order {
    /// `D(r)`: two evaluations, error `r²`.
    Second,
    /// `R(r)`, from the steps `r` and `2r`: four evaluations, error `r⁴`.
    Fourth,
}

impl Order {
    fn exponent(self) -> i32 {
        match self {
            Self::Second => 2,
            Self::Fourth => 4,
        }
    }

    /// The number of neighbouring steps needed for a value and its error.
    fn window(self) -> usize {
        match self {
            Self::Second => 2,
            Self::Fourth => 3,
        }
    }
}

/// How a directional derivative is computed.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DifferenceConfig {
    /// Default [`Step::Automatic`].
    #[config(default = "Step::Automatic")]
    pub step: Step,
    /// Default [`Order::Second`].
    #[config(default = "Order::Second")]
    pub order: Order,
    /// The stated error at which an automatic step is good enough, as a share of the product's norm.
    /// With 0 every product is as exact as it can be. Default 3e-4.
    #[config(default = 3e-4)]
    pub accuracy: f64,
}

/// A directional derivative with its error.
#[derive(Clone, Debug)]
pub struct Difference<const D: usize> {
    /// The derivative with the step `r`.
    pub value: Tensor<D>,
    /// Richardson's extrapolation of `value`, two orders higher. With [`Order::Second`] it equals
    /// the difference of fourth order.
    pub extrapolated: Tensor<D>,
    /// A bound of `‖value − exact‖₂`: truncation, rounding and kinks, as observed.
    pub error: f64,
    /// The step `r`, as a multiple of `v`.
    pub step: f64,
}

/// A derivative on the host.
#[derive(Clone, Debug)]
pub(crate) struct Estimate {
    pub value: Vec<f64>,
    pub extrapolated: Vec<f64>,
    pub error: f64,
    pub step: f64,
}

/// The function to differentiate: from the parameters to any number of values.
pub(crate) type Field<'a> = dyn Fn(&[f64]) -> Result<Vec<f64>, CurvatureError> + 'a;

/// The derivative along a vector of a field at fixed parameters.
#[derive(Clone, Debug)]
pub(crate) struct DirectionalDerivative {
    /// `θ`.
    at: Vec<f64>,
    device: Device,
    dtype: DType,
    epsilon: f64,
    config: DifferenceConfig,
    /// `f(θ)`.
    centre: Vec<f64>,
    /// `σ`: the norm of the rounding of one `f`.
    noise: f64,
    /// The first step for a vector of norm 1.
    start: f64,
}

/// The field on both sides of `θ`.
struct Sides {
    t: f64,
    /// `D(t)`.
    odd: Vec<f64>,
    /// `E(t)`.
    even: Vec<f64>,
    /// `σ`, or the rounding of the values themselves where they are larger than at `θ`.
    noise: f64,
}

/// The errors observed in a window of steps.
struct Reading {
    t: f64,
    truncation: f64,
    rounding: f64,
    kinks: f64,
    /// Whether the even parts differ by more than rounding.
    kinked: bool,
    length: f64,
}

impl Reading {
    fn error(&self) -> f64 {
        let error = self.truncation + self.rounding + self.kinks;
        if error.is_finite() {
            error
        } else {
            f64::INFINITY
        }
    }
}

impl DirectionalDerivative {
    /// Checks and keeps what every product needs: `f(θ)` (evaluated twice, since both values must agree), its
    /// rounding (six evaluations), and a first step (the cost of one product). `size` is the scale for
    /// comparing these two values where `f(θ)` itself is 0.
    pub fn new(
        field: &Field,
        at: &Tensor<1>,
        config: DifferenceConfig,
        what: &'static str,
        size: Option<f64>,
    ) -> Result<Self, CurvatureError> {
        if let Step::Fixed(step) = config.step {
            range::positive("finite-difference step", step)?;
        }
        range::not_negative("accuracy of the difference", config.accuracy)?;
        let (device, dtype) = (at.device().without_autodiff(), at.dtype());
        let Some(info) = dtype.finfo() else {
            return Err(CurvatureError::NotFloat(dtype));
        };
        let at = values(at)?;
        if !norm(&at).is_finite() {
            return Err(CurvatureError::NotFinite {
                what: "norm of the parameters",
            });
        }
        let centre = field(&at)?;
        let length = norm(&centre);
        if !length.is_finite() {
            return Err(CurvatureError::NotFinite { what });
        }
        let again = field(&at)?;
        expect_dim(what, centre.len(), again.len())?;
        let change = distance(&centre, &again);
        let size = size.unwrap_or(0.0).max(length).max(norm(&again));
        if change.is_nan() || change > info.epsilon.sqrt() * size {
            return Err(CurvatureError::Random {
                what,
                change: change / size,
            });
        }
        let mut derivative = Self {
            at,
            device,
            dtype,
            epsilon: info.epsilon,
            config,
            noise: (info.epsilon / 4.0 * length).max(change),
            centre,
            start: 0.0,
        };
        derivative.noise = derivative.noise.max(derivative.measured_noise(field)?);
        derivative.start = derivative.first_step(field)?;
        Ok(derivative)
    }

    /// Of another field of as many parameters, in which rounding is the same share of the values. This evaluates it once.
    pub fn like(
        &self,
        field: &Field,
        at: &Tensor<1>,
        what: &'static str,
    ) -> Result<Self, CurvatureError> {
        let at = values(at)?;
        expect_dim("vector of parameters", self.dim(), at.len())?;
        let centre = field(&at)?;
        let (length, other) = (norm(&centre), norm(&self.centre));
        if !length.is_finite() {
            return Err(CurvatureError::NotFinite { what });
        }
        let share = if other > 0.0 { self.noise / other } else { 0.0 };
        Ok(Self {
            at,
            device: self.device.clone(),
            noise: length * share.max(self.epsilon / 4.0),
            centre,
            ..*self
        })
    }

    /// Takes a step of this multiple of a vector from now on.
    pub fn fix_step(&mut self, step: f64) -> Result<(), CurvatureError> {
        range::positive("finite-difference step", step)?;
        self.config.step = Step::Fixed(step);
        Ok(())
    }

    pub fn dim(&self) -> usize {
        self.at.len()
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `f(θ)`.
    pub fn centre(&self) -> &[f64] {
        &self.centre
    }

    /// A vector on the device, in the parameters' type.
    pub fn tensor(&self, values: &[f64]) -> Tensor<1> {
        on_device(values, &self.device, self.dtype)
    }

    /// The unit in the last place of 1.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// The median of three second differences over a few units in the last place, each over `√6`.
    fn measured_noise(&self, field: &Field) -> Result<f64, CurvatureError> {
        let usual = norm(&self.at) / (self.dim() as f64).sqrt();
        let usual = if usual > 0.0 { usual } else { 1.0 };
        let mut found = [0.0; 3];
        for (stream, found) in (0..).zip(&mut found) {
            let signs = Probe::Rademacher.draw(self.dim(), &mut SeededNoise::new(0x6e6f, stream));
            let w: Vec<f64> = signs
                .iter()
                .zip(&self.at)
                .map(|(sign, x)| sign * (x.abs() + usual))
                .collect();
            let even = self.sides(field, &w, 16.0 * self.epsilon)?.even;
            *found = norm(&even) / 6.0_f64.sqrt();
        }
        found.sort_by(f64::total_cmp);
        if found[1].is_finite() {
            Ok(found[1])
        } else {
            Err(CurvatureError::NotFinite {
                what: "field beside the parameters",
            })
        }
    }

    /// The step that a search along the field itself (which knows the sharp directions of a loss),
    /// or along a random vector if it is 0, ends with.
    fn first_step(&self, field: &Field) -> Result<f64, CurvatureError> {
        let length = norm(&self.at);
        let scale = if length > 0.0 { length } else { 1.0 };
        let size = norm(&self.centre);
        let share = if size > 0.0 {
            self.noise / size
        } else {
            self.epsilon
        };
        let power = 1.0 / f64::from(self.config.order.exponent() + 1);
        let start = share.clamp(self.epsilon, 1.0).powf(power) * scale;
        if !matches!(self.config.step, Step::Automatic) {
            return Ok(start);
        }
        let mut u = if self.centre.len() == self.dim() && size > 0.0 {
            self.centre.clone()
        } else {
            Probe::Gaussian.draw(self.dim(), &mut SeededNoise::new(0x6e6f, 3))
        };
        let length = norm(&u);
        if length == 0.0 {
            return Ok(start);
        }
        u.iter_mut().for_each(|x| *x /= length);
        // One step too many costs little here, and only once.
        let found = self.search(field, &u, start, self.config.accuracy / 4.0)?;
        Ok(found.step)
    }

    /// The derivative along `v`, `[dim]`; `None` if `v = 0`.
    pub fn along(&self, field: &Field, v: &[f64]) -> Result<Option<Estimate>, CurvatureError> {
        self.along_from(field, v, None)
    }

    /// [`along`](Self::along), but a search begins with this multiple of `v`.
    pub fn along_from(
        &self,
        field: &Field,
        v: &[f64],
        step: Option<f64>,
    ) -> Result<Option<Estimate>, CurvatureError> {
        let Some((u, length)) = self.unit(v)? else {
            return Ok(None);
        };
        let start = step.map_or(self.start, |step| step * length);
        let mut found = match self.config.step {
            Step::Automatic => self.search(field, &u, start, self.config.accuracy)?,
            Step::Fixed(r) => self.fixed(field, &u, r * length)?,
        };
        found.value.iter_mut().for_each(|x| *x *= length);
        found.extrapolated.iter_mut().for_each(|x| *x *= length);
        found.error *= length;
        found.step /= length;
        Ok(Some(found))
    }

    /// The derivative along `v` without its error, which with a fixed step takes two evaluations fewer.
    fn value_along(&self, field: &Field, v: &[f64]) -> Result<Option<Vec<f64>>, CurvatureError> {
        match self.config.step {
            Step::Automatic => Ok(self.along(field, v)?.map(|found| found.value)),
            Step::Fixed(step) => self.value_with(field, v, step),
        }
    }

    /// The derivative along `v` by this multiple of `v`, without its error.
    pub fn value_with(
        &self,
        field: &Field,
        v: &[f64],
        step: f64,
    ) -> Result<Option<Vec<f64>>, CurvatureError> {
        let Some((u, length)) = self.unit(v)? else {
            return Ok(None);
        };
        let mut value = self.sides(field, &u, step * length)?.odd;
        if self.config.order == Order::Fourth {
            let wide = self.sides(field, &u, 2.0 * step * length)?.odd;
            value = extrapolated(&value, &wide, 4.0);
        }
        value.iter_mut().for_each(|x| *x *= length);
        Ok(Some(value))
    }

    /// [`CurvatureOperator::apply`](super::CurvatureOperator::apply) of the derivative.
    pub fn apply(&self, field: &Field, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let product = self.apply_values(field, &values(v)?)?;
        Ok(self.tensor(&product))
    }

    /// [`CurvatureOperator::apply_values`](super::CurvatureOperator::apply_values) of the derivative.
    pub fn apply_values(&self, field: &Field, v: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let product = self.value_along(field, v)?;
        Ok(product.unwrap_or_else(|| vec![0.0; v.len()]))
    }

    /// [`CurvatureOperator::apply_with_error`](super::CurvatureOperator::apply_with_error) of the
    /// derivative.
    pub fn apply_with_error(&self, field: &Field, v: &[f64]) -> Result<Product, CurvatureError> {
        Ok(match self.along(field, v)? {
            Some(found) => Product {
                values: found.value,
                error: found.error,
            },
            None => Product::exact(vec![0.0; v.len()]),
        })
    }

    /// `v / ‖v‖` and `‖v‖`.
    fn unit(&self, v: &[f64]) -> Result<Option<(Vec<f64>, f64)>, CurvatureError> {
        expect_dim("vector", self.dim(), v.len())?;
        let length = norm(v);
        if !length.is_finite() {
            return Err(CurvatureError::NotFinite {
                what: "norm of the vector",
            });
        }
        if length == 0.0 {
            return Ok(None);
        }
        Ok(Some((v.iter().map(|x| x / length).collect(), length)))
    }

    fn sides(&self, field: &Field, u: &[f64], t: f64) -> Result<Sides, CurvatureError> {
        let side = |sign: f64| -> Result<Vec<f64>, CurvatureError> {
            let mut at = self.at.clone();
            add_scaled(&mut at, sign * t, u);
            let values = field(&at)?;
            expect_dim("field", self.centre.len(), values.len())?;
            Ok(values)
        };
        let (ahead, behind) = (side(1.0)?, side(-1.0)?);
        let size = norm(&ahead).max(norm(&behind));
        let noise = self.noise.max(self.epsilon / 4.0 * size);
        let mut odd = ahead.clone();
        add_scaled(&mut odd, -1.0, &behind);
        odd.iter_mut().for_each(|x| *x /= 2.0 * t);
        let mut even = ahead;
        add_scaled(&mut even, 1.0, &behind);
        add_scaled(&mut even, -2.0, &self.centre);
        Ok(Sides {
            t,
            odd,
            even,
            noise,
        })
    }

    /// `window` contains neighbouring steps, the longest first; only the last ones are read.
    fn read(&self, window: &VecDeque<Sides>, last: usize) -> Reading {
        let (near, far) = (&window[last], &window[last - 1]);
        let truncation = match self.config.order {
            Order::Second => distance(&far.odd, &near.odd),
            Order::Fourth => distance(
                &extrapolated(&far.odd, &window[last - 2].odd, 4.0),
                &extrapolated(&near.odd, &far.odd, 4.0),
            ),
        };
        // The factor of rounding in (4 D(t) − D(2t)) / 3.
        let gain = match self.config.order {
            Order::Second => 1.0,
            Order::Fourth => 65.0_f64.sqrt() / 6.0,
        };
        let noise = near.noise.max(far.noise);
        let mut jump = far.even.clone();
        add_scaled(&mut jump, -4.0, &near.even);
        let jump = norm(&jump);
        Reading {
            t: near.t,
            truncation,
            rounding: 2.0 * gain * noise / (2.0_f64.sqrt() * near.t),
            kinks: gain * jump / (4.0 * near.t),
            // Rounding alone makes it √70 σ: 2 + 2 · 4² + 6².
            kinked: jump.is_nan() || jump > 3.0 * 70.0_f64.sqrt() * noise,
            length: norm(&near.odd),
        }
    }

    fn estimate(&self, window: &VecDeque<Sides>, last: usize, error: f64) -> Estimate {
        let (near, far) = (&window[last], &window[last - 1]);
        let higher = extrapolated(&near.odd, &far.odd, 4.0);
        let (value, extrapolated) = match self.config.order {
            Order::Second => (near.odd.clone(), higher),
            Order::Fourth => {
                let before = extrapolated(&far.odd, &window[last - 2].odd, 4.0);
                let highest = extrapolated(&higher, &before, 16.0);
                (higher, highest)
            }
        };
        Estimate {
            value,
            extrapolated,
            error,
            step: near.t,
        }
    }

    fn fixed(&self, field: &Field, u: &[f64], t: f64) -> Result<Estimate, CurvatureError> {
        let steps = self.config.order.window();
        let mut window = VecDeque::with_capacity(steps);
        for k in (0..steps).rev() {
            window.push_back(self.sides(field, u, t * f64::from(1 << k))?);
        }
        let reading = self.read(&window, steps - 1);
        finite(self.estimate(&window, steps - 1, reading.error()))
    }

    fn search(
        &self,
        field: &Field,
        u: &[f64],
        start: f64,
        accuracy: f64,
    ) -> Result<Estimate, CurvatureError> {
        let steps = self.config.order.window();
        let mut window = VecDeque::with_capacity(steps + 1);
        for k in (0..steps).rev() {
            window.push_back(self.sides(field, u, start * f64::from(1 << k))?);
        }
        let mut tried = steps;
        let mut reading = self.read(&window, steps - 1);
        // The best of the steps that visibly cross no kinks, and the best of all.
        let mut best: Option<Estimate> = None;
        let mut crossing: Option<Estimate> = None;
        let mut kinks = 0.0_f64;
        let mut growing = false;
        loop {
            let error = reading.error();
            let good = error <= accuracy * reading.length;
            let place = if reading.kinked {
                kinks = kinks.max(reading.kinks);
                &mut crossing
            } else {
                &mut best
            };
            let improves = place.as_ref().is_none_or(|place| error < place.error);
            if improves {
                *place = Some(self.estimate(&window, steps - 1, error));
            }
            let truncated = reading.truncation > reading.rounding;
            let done = if growing {
                reading.kinked || !improves || truncated
            } else {
                !reading.kinked && (!improves || (!truncated && tried > steps))
            };
            if (good && !reading.kinked) || done || tried == MOST_STEPS {
                break;
            }
            // A smaller step would vanish in the rounding of the parameters.
            if !growing && reading.t < 4.0 * self.epsilon * norm(&self.at) {
                break;
            }
            growing = growing || (!reading.kinked && !truncated);
            if growing {
                window.push_front(self.sides(field, u, 2.0 * window[0].t)?);
                window.pop_back();
            } else {
                window.push_back(self.sides(field, u, 0.5 * reading.t)?);
                window.pop_front();
            }
            tried += 1;
            reading = self.read(&window, steps - 1);
        }
        match (best, crossing) {
            (Some(best), _) => finite(best),
            // Every step crosses kinks. A longer step crosses more of them, and the shortest shows the effect
            // of one best.
            (None, Some(mut crossing)) => {
                crossing.error = crossing.error.max(kinks);
                finite(crossing)
            }
            (None, None) => Err(CurvatureError::NotFinite { what: "product" }),
        }
    }
}

/// `near + (near − far) / (gain − 1)`: without the part of the error that a step twice as long
/// multiplies by `gain`.
fn extrapolated(near: &[f64], far: &[f64], gain: f64) -> Vec<f64> {
    let share = 1.0 / (gain - 1.0);
    near.iter()
        .zip(far)
        .map(|(near, far)| near + share * (near - far))
        .collect()
}

fn finite(estimate: Estimate) -> Result<Estimate, CurvatureError> {
    if estimate.value.iter().all(|x| x.is_finite()) {
        Ok(estimate)
    } else {
        Err(CurvatureError::NotFinite { what: "product" })
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let mut change = a.to_vec();
    add_scaled(&mut change, -1.0, b);
    norm(&change)
}
