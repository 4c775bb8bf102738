//! How far the gradient of a guess is from an observed gradient, and how this changes with the guess.
//!
//! An attacker who sees `g* = ∇_w ℓ(w; x*)` looks for an `x` with the same gradient, by descent along
//!
//! ```text
//! ∇_x D(A g(x), g*) = J(x)ᵀ v,      g(x) = ∇_w ℓ(w; x),  J = ∂g/∂x,  v = Aᵀ ∂D/∂(Ag)
//! ```
//!
//! where `A` is what a [defence](crate::leakage::defence) did to the gradient, as far as the attacker can repeat it. The
//! Jacobian `J` has second derivatives of the loss, and Burn has no double backward pass. Since `∂²ℓ/∂x∂w` is symmetric,
//! it is also how the gradient by the *input* changes with the weights, along the one direction that counts:
//!
//! ```text
//! J(x)ᵀ v = d/dε ∇_x ℓ(w + εv; x) |₀ ≈ (∇_x ℓ(w + εv; x) − ∇_x ℓ(w − εv; x))/2ε,      ε = ε₀ ‖w‖/‖v‖
//! ```
//!
//! so a step costs three ordinary backward passes, for any model. For networks with smooth activations, the central
//! difference is exact to 1e-3 of the result or better with `ε₀ = 10⁻²` in single precision, and to 1e-6 or better with
//! `10⁻⁴` in double precision. Those with kinks add an error where a unit changes its state between the two weights.
//!
//! "Pictures" are rows of any unknowns on which the loss depends: pixels, or pixels and labels together. The model must
//! be one whose loss is a function of weights and input alone: batch normalisation by running statistics, no dropout.
//!
//! Sources: Zhu, Liu, Han, *Deep Leakage from Gradients*, 2019, arXiv 1906.08935 (squared error); Geiping, Bauermeister,
//! Dröge, Moeller, *Inverting Gradients*, 2020, arXiv 2003.14053 (cosine). The difference by weights: Pearlmutter,
//! *Fast Exact Multiplication by the Hessian*, 1994, for mixed derivatives.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use nabla_base::range;
use nabla_grad::flat::ParameterLayout;

use super::defence::Observed;
use super::error::LeakageError;

/// How the distance of two gradients is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// `1 − ⟨g, g*⟩/(‖g‖‖g*‖)`, over all numbers together.
    Cosine,
    /// `‖g − g*‖²`.
    SquaredError,
}

impl Distance {
    /// The distance `D` and its derivative by `g`.
    ///
    /// - `found`: `g`, `[m]`; `observed`: `g*`, `[m]`
    ///
    /// # Errors
    /// If a cosine is asked of zeros, or the distance is not finite.
    pub fn of(
        self,
        found: &Tensor<1>,
        observed: &Tensor<1>,
    ) -> Result<(f64, Tensor<1>), LeakageError> {
        match self {
            Self::Cosine => {
                let [g, o] = [norm(found)?, norm(observed)?];
                if o == 0.0 {
                    return Err(LeakageError::Zero("the observed gradient"));
                }
                if g == 0.0 {
                    return Err(LeakageError::Zero("the gradient of the guess"));
                }
                let (found, observed) = (found.clone() / g, observed.clone() / o);
                let cosine = number((found.clone() * observed.clone()).sum())?;
                let slope = (found * cosine - observed) / g;
                Ok((1.0 - cosine, slope))
            }
            Self::SquaredError => {
                let difference = found.clone() - observed.clone();
                let square = norm(&difference)?.powi(2);
                Ok((square, difference * 2.0))
            }
        }
    }
}

/// A number on the host.
pub(crate) fn number(x: Tensor<1>) -> Result<f64, LeakageError> {
    let values = x
        .try_to_vec_as::<f64>()
        .map_err(|e| LeakageError::Device(e.to_string()))?;
    match values.as_slice() {
        [value] if value.is_finite() => Ok(*value),
        _ => Err(LeakageError::NotFinite("a cost")),
    }
}

pub(crate) fn norm(x: &Tensor<1>) -> Result<f64, LeakageError> {
    // The squares of small gradients would underflow in single precision.
    let highest = number(x.clone().abs().max())?;
    if highest == 0.0 {
        return Ok(0.0);
    }
    Ok(highest * number((x.clone() / highest).square().sum())?.sqrt())
}

/// The cost of a guess, and its derivative.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The distance `D`.
    pub cost: f64,
    /// `∇_x D`, `[batch, unknowns]`, without a graph.
    pub slope: Tensor<2>,
}

/// What an attack minimises: the cost of pictures, `[batch, unknowns]`.
pub type Objective<'a> = dyn Fn(&Tensor<2>) -> Result<Matched, LeakageError> + 'a;

/// The gradients of a model; see the [module documentation](self).
///
/// - `L`: the loss of the model for pictures, `[batch, unknowns]` to `[1]`
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor};
/// use nabla_private::leakage::{Distance, GradientOracle, Observed};
///
/// let device = Device::flex().autodiff();
/// let model: Linear = LinearConfig::new(3, 2).init(&device);
/// let loss = |model: &Linear, x: Tensor<2>| model.forward(x).exp().sum();
/// let oracle = GradientOracle::new(model, loss)?;
///
/// let secret = Tensor::<2>::from_floats([[0.1, 0.9, 0.4]], &device);
/// let observed = Observed::whole(oracle.gradient(&secret)?);
/// let guess = Tensor::<2>::from_floats([[0.3, 0.3, 0.3]], &device);
/// assert!(oracle.matched(&guess, &observed, Distance::Cosine)?.cost > 1e-3);
/// assert!(oracle.matched(&secret, &observed, Distance::Cosine)?.cost < 1e-6);
/// # Ok::<(), nabla_private::leakage::LeakageError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GradientOracle<M, L> {
    model: M,
    loss: L,
    layout: ParameterLayout,
    /// `w`, `[d]`.
    weights: Tensor<1>,
    /// `‖w‖`.
    length: f64,
    /// `ε₀`.
    step: f64,
}

impl<M: Module, L: Fn(&M, Tensor<2>) -> Tensor<1>> GradientOracle<M, L> {
    /// Creates the oracle of a model on an autodiff device, with the `ε₀` of its precision.
    ///
    /// # Errors
    /// If the model has no parameters that require a gradient, or all of them are zero.
    pub fn new(model: M, loss: L) -> Result<Self, LeakageError> {
        let layout = ParameterLayout::trainable(&model)?;
        let weights = layout.flatten_parameters(&model)?;
        let length = norm(&weights)?;
        if length == 0.0 {
            return Err(LeakageError::Zero("the vector of the model's weights"));
        }
        let step = match weights.dtype() {
            DType::F64 => 1e-4,
            _ => 1e-2,
        };
        Ok(Self {
            model,
            loss,
            layout,
            weights,
            length,
            step,
        })
    }

    /// With another `ε₀`.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn with_step(mut self, step: f64) -> Result<Self, LeakageError> {
        range::positive("step of the difference", step)?;
        self.step = step;
        Ok(self)
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Where each parameter is in the gradient.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// `g(x) = ∇_w ℓ(w; x)`, `[d]`.
    ///
    /// - `pictures`: `[batch, unknowns]`
    ///
    /// # Errors
    /// If the gradients are not those of the layout.
    pub fn gradient(&self, pictures: &Tensor<2>) -> Result<Tensor<1>, LeakageError> {
        let pictures = pictures.clone().without_autodiff().autodiff();
        let gradients = (self.loss)(&self.model, pictures).backward();
        let gradients = GradientsParams::from_grads(gradients, &self.model);
        Ok(self.layout.flatten_gradients_or_zeros(&gradients)?)
    }

    /// `∇_x ℓ(w'; x)` at other weights, `[batch, unknowns]`.
    fn by_input(
        &self,
        weights: Tensor<1>,
        pictures: &Tensor<2>,
    ) -> Result<Tensor<2>, LeakageError> {
        let model = self.layout.with_parameters(self.model.clone(), weights)?;
        let leaf = leaf(pictures);
        let mut gradients = (self.loss)(&model, leaf.clone()).backward();
        leaf.grad_remove(&mut gradients)
            .ok_or(LeakageError::NoGradient)
    }

    /// `J(x)ᵀ v`, `[batch, unknowns]`, by the central difference; zeros if `v` is zero.
    ///
    /// - `pictures`: `x`, `[batch, unknowns]`; `direction`: `v`, `[d]`
    ///
    /// # Errors
    /// If `v` is not finite, or not as long as the gradient.
    pub fn pull_back(
        &self,
        pictures: &Tensor<2>,
        direction: &Tensor<1>,
    ) -> Result<Tensor<2>, LeakageError> {
        let length = norm(direction)?;
        if length == 0.0 {
            return Ok(pictures.clone().without_autodiff().zeros_like());
        }
        // ε v, without ε alone, which may be beyond single precision.
        let moved = direction.clone() / length * (self.step * self.length);
        let ahead = self.by_input(self.weights.clone() + moved.clone(), pictures)?;
        let behind = self.by_input(self.weights.clone() - moved, pictures)?;
        Ok((ahead - behind) * (length / (2.0 * self.step * self.length)))
    }

    /// The distance of the gradient of `pictures` from what was observed, and how it changes.
    ///
    /// # Errors
    /// If the observation is of another model, or something is not finite.
    pub fn matched(
        &self,
        pictures: &Tensor<2>,
        observed: &Observed,
        distance: Distance,
    ) -> Result<Matched, LeakageError> {
        self.matched_by(pictures, observed, |found, observed| {
            distance.of(found, observed)
        })
    }

    /// As [`matched`](Self::matched), by any distance.
    ///
    /// - `distance`: of `[m]` and what was observed, `[m]`, with its derivative by the former
    ///
    /// # Errors
    /// As [`matched`](Self::matched), and those of the distance.
    pub fn matched_by(
        &self,
        pictures: &Tensor<2>,
        observed: &Observed,
        distance: impl FnOnce(&Tensor<1>, &Tensor<1>) -> Result<(f64, Tensor<1>), LeakageError>,
    ) -> Result<Matched, LeakageError> {
        let repeated = observed.repeat(self.gradient(pictures)?)?;
        let (cost, slope) = distance(&repeated.values, &observed.values)?;
        let direction = repeated.adjoint(slope)?;
        let slope = self.pull_back(pictures, &direction)?;
        Ok(Matched { cost, slope })
    }

    /// The distance alone, by one backward pass, for attacks that follow no slope.
    ///
    /// # Errors
    /// As [`matched`](Self::matched).
    pub fn cost(
        &self,
        pictures: &Tensor<2>,
        observed: &Observed,
        distance: Distance,
    ) -> Result<f64, LeakageError> {
        let repeated = observed.repeat(self.gradient(pictures)?)?;
        Ok(distance.of(&repeated.values, &observed.values)?.0)
    }
}

/// The numbers of `x` as a variable of a graph of their own.
pub(crate) fn leaf(x: &Tensor<2>) -> Tensor<2> {
    x.clone().without_autodiff().autodiff().require_grad()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leakage::Defence;
    use crate::leakage::defence::Hidden;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Device, TensorData};
    use nabla_grad::flat::with_float_type;
    use nabla_grad::seeded_noise::SeededNoise;
    use nabla_grad::sketch::SketchFamily;

    #[derive(Module, Debug)]
    struct Net {
        first: Linear,
        last: Linear,
    }

    fn loss(net: &Net, x: Tensor<2>) -> Tensor<1> {
        let scores = net.last.forward(net.first.forward(x).tanh());
        -log_softmax(scores, 1).narrow(1, 1, 1).mean()
    }

    fn net(dtype: DType) -> Net {
        let device = Device::flex().autodiff();
        let net = Net {
            first: LinearConfig::new(6, 5).init(&device),
            last: LinearConfig::new(5, 3).init(&device),
        };
        let layout = ParameterLayout::trainable(&net).unwrap();
        let values = SeededNoise::new(1, 0).normal([layout.total_length()], layout.device());
        let net = layout.with_parameters(net, values * 0.5).unwrap();
        with_float_type(net, dtype)
    }

    fn pictures(seed: u64, dtype: DType) -> Tensor<2> {
        let device = Device::flex();
        SeededNoise::new(seed, 1)
            .normal([2, 6], &device)
            .cast(dtype)
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    /// Every defence's slope is that of the cost itself, by differences in double precision.
    #[test]
    fn slopes_are_differences_of_the_cost() {
        let oracle = GradientOracle::new(net(DType::F64), loss).unwrap();
        let secret = pictures(2, DType::F64);
        let guess = pictures(3, DType::F64);
        let gradient = oracle.gradient(&secret).unwrap();
        for defence in [
            Defence::None,
            Defence::Noise { deviation: 0.01 },
            Defence::Sketch {
                share: 0.5,
                family: SketchFamily::Srht,
            },
        ] {
            let observed = defence
                .protect(
                    std::slice::from_ref(&gradient),
                    oracle.layout(),
                    &Hidden::default(),
                    5,
                )
                .unwrap();
            for distance in [Distance::Cosine, Distance::SquaredError] {
                let slope = values(oracle.matched(&guess, &observed, distance).unwrap().slope);
                let largest = slope.iter().fold(0.0, |m: f64, s| m.max(s.abs()));
                for (i, slope) in slope.into_iter().enumerate() {
                    let at = |h: f64| {
                        let mut moved = values(guess.clone());
                        moved[i] += h;
                        let data = TensorData::new(moved, [2, 6]);
                        let moved = Tensor::from_data(data, (&Device::flex(), DType::F64));
                        oracle.matched(&moved, &observed, distance).unwrap().cost
                    };
                    let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                    assert!(
                        (slope - difference).abs() < 1e-6 * largest,
                        "{defence:?} {distance:?}: {slope} {difference}"
                    );
                }
            }
        }
    }

    #[test]
    fn single_precision_is_close_to_double_precision() {
        let slope = |dtype, step| {
            let oracle = GradientOracle::new(net(dtype), loss).unwrap();
            let oracle = oracle.with_step(step).unwrap();
            let observed = Observed::whole(oracle.gradient(&pictures(2, dtype)).unwrap());
            let guess = pictures(3, dtype);
            let matched = oracle.matched(&guess, &observed, Distance::Cosine);
            values(matched.unwrap().slope)
        };
        let exact = slope(DType::F64, 1e-4);
        let error = |found: &[f64], of: &[f64]| {
            nabla_base::vector::distance(found, of) / nabla_base::vector::norm(of)
        };
        let single = slope(DType::F32, 1e-2);
        // Rounding alone, and with what the longer step leaves out.
        let rounding = error(&single, &slope(DType::F64, 1e-2));
        assert!(rounding < 1e-4, "{rounding}");
        let whole = error(&single, &exact);
        assert!(whole < 1e-3, "{whole}");
    }

    /// Of a linear layer with a bias, a row of the weights' gradient over the bias's entry is the input itself.
    #[test]
    fn a_linear_layer_gives_its_input_away_in_closed_form() {
        let oracle = GradientOracle::new(net(DType::F64), loss).unwrap();
        let secret = pictures(2, DType::F64).narrow(0, 0, 1);
        let gradient = oracle.gradient(&secret).unwrap();
        let layout = oracle.layout();
        // [inputs, outputs] and [outputs]
        let weight: Tensor<2> = layout.slice_shaped("first.weight", &gradient).unwrap();
        let bias = layout.slice("first.bias", &gradient).unwrap();
        let found = values(weight.narrow(1, 0, 1).flatten::<1>(0, 1) / bias.narrow(0, 0, 1));
        for (found, secret) in found.into_iter().zip(values(secret)) {
            assert!((found - secret).abs() < 1e-10);
        }
    }

    #[test]
    fn the_slope_of_a_cosine_is_orthogonal_and_zero_at_the_secret() {
        let oracle = GradientOracle::new(net(DType::F64), loss).unwrap();
        let [secret, guess] =
            [2, 3].map(|seed| oracle.gradient(&pictures(seed, DType::F64)).unwrap());
        let (cost, slope) = Distance::Cosine.of(&guess, &secret).unwrap();
        assert!(cost > 0.0);
        assert!(number((slope * guess).sum()).unwrap().abs() < 1e-12);
        let (cost, slope) = Distance::Cosine.of(&secret, &secret).unwrap();
        assert!(cost.abs() < 1e-12 && norm(&slope).unwrap() < 1e-10);
    }

    #[test]
    fn zeros_have_no_direction() {
        let zeros = Tensor::<1>::zeros([3], &Device::flex());
        let found = Distance::Cosine.of(&zeros, &zeros);
        assert!(matches!(found, Err(LeakageError::Zero(_))));
        assert!(Distance::SquaredError.of(&zeros, &zeros).is_ok());
    }
}
