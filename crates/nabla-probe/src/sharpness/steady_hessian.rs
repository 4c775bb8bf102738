//! Products with a Hessian whose step is found once.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::vector::norm;
use nabla_grad::curvature::{
    CurvatureError, CurvatureOperator, Difference, DifferenceConfig, GradientField, Hessian,
    Product,
};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;

use super::SharpnessError;

/// A Hessian whose products take two gradients each, but for a few.
///
/// The step of the central difference is searched along a random direction, and along the direction into which the Hessian
/// turns that one, which is a sharp one: the sharper a direction, the shorter a step it allows. Where a product is longer than
/// every one before it, by more than [`SHARPER`](Self::SHARPER), its step is searched again, and kept if it is shorter.
///
/// A search takes as many gradients as several products, so it is made with the gradient `P` of fewer examples, if
/// [there is one](Self::like).
#[derive(Debug)]
pub struct SteadyHessian<G, P = G> {
    hessian: Hessian<G>,
    /// Of the function whose steps are searched, if it is another.
    searched: Option<Hessian<P>>,
    steady: Mutex<Steady>,
}

/// What is known of the step.
#[derive(Clone, Copy, Debug)]
struct Steady {
    /// For a vector of the length 1.
    step: f64,
    /// The longest product of such a vector along which it was searched.
    length: f64,
    /// The largest error of those, as a share of the product.
    error: f64,
}

impl Steady {
    fn with(self, found: &Difference<1>) -> Result<Self, CurvatureError> {
        let length = norm(&on_host(found.value.clone())?);
        let error = if length > 0.0 {
            found.error / length
        } else {
            0.0
        };
        Ok(Self {
            step: self.step.min(found.step),
            length: self.length.max(length),
            error: self.error.max(error),
        })
    }
}

impl<G: GradientField> SteadyHessian<G> {
    /// The Hessian at the parameters `at`, `[parameters]`.
    ///
    /// # Errors
    /// As [`Hessian::new`].
    pub fn new(
        gradient: G,
        at: Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Self, SharpnessError> {
        let hessian = Hessian::new(gradient, at, DifferenceConfig::new())?;
        let dim = hessian.dim();
        let direction = TensorData::new(Probe::Rademacher.draw(dim, noise), [dim]);
        let mut direction = Tensor::from_data(direction, (&hessian.device(), hessian.dtype()));
        let mut steady = Steady {
            step: f64::INFINITY,
            length: 0.0,
            error: 0.0,
        };
        for _ in 0..2 {
            let length = norm(&on_host(direction.clone())?);
            if length == 0.0 {
                break;
            }
            let found = hessian.product(&(direction * (1.0 / length)))?;
            steady = steady.with(&found)?;
            direction = found.value;
        }
        Ok(Self {
            hessian,
            searched: None,
            steady: Mutex::new(steady),
        })
    }

    /// The Hessian of a similar function, such as the loss of more examples, with the step of this one, which also serves all
    /// further searches.
    ///
    /// # Errors
    /// As [`Hessian::like`].
    pub fn like<H: GradientField>(
        self,
        gradient: H,
        at: Tensor<1>,
    ) -> Result<SteadyHessian<H, G>, SharpnessError> {
        Ok(SteadyHessian {
            hessian: self.hessian.like(gradient, at)?,
            steady: self.steady,
            searched: Some(self.hessian),
        })
    }
}

impl<G: GradientField, P: GradientField> SteadyHessian<G, P> {
    /// By how much longer a product must be than those before it so that its step is searched again.
    pub const SHARPER: f64 = 2.0;

    /// By how much products are off, as a share of their norm: at most, of those whose step was searched.
    pub fn relative_error(&self) -> f64 {
        self.steady().error
    }

    fn steady(&self) -> Steady {
        // A number is whole even if a thread that held it has panicked.
        *self.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The product with a vector of the length 1.
    fn of_unit(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let before = self.steady();
        let mut found = self.hessian.product_with(v, before.step)?;
        let length = norm(&on_host(found.clone())?);
        if length <= Self::SHARPER * before.length {
            return Ok(found);
        }
        let mut steady;
        match &self.searched {
            None => {
                let search = self.hessian.product_from(v, before.step)?;
                steady = before.with(&search)?;
                found = search.value;
            }
            Some(searched) => {
                steady = before.with(&searched.product_from(v, before.step)?)?;
                if steady.step < before.step {
                    found = self.hessian.product_with(v, steady.step)?;
                }
                steady.length = steady.length.max(norm(&on_host(found.clone())?));
            }
        }
        *self.steady.lock().unwrap_or_else(PoisonError::into_inner) = steady;
        Ok(found)
    }
}

pub(super) fn on_host(vector: Tensor<1>) -> Result<Vec<f64>, CurvatureError> {
    let values = vector.try_into_vec_as::<f64>();
    values.map_err(|error| CurvatureError::Device(error.to_string()))
}

impl<G: GradientField, P: GradientField> CurvatureOperator for SteadyHessian<G, P> {
    fn dim(&self) -> usize {
        self.hessian.dim()
    }

    fn device(&self) -> Device {
        self.hessian.device()
    }

    fn dtype(&self) -> DType {
        self.hessian.dtype()
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        // The step is that of a vector of the length 1.
        let length = norm(&on_host(v.clone())?);
        if length == 0.0 {
            return Ok(v.zeros_like());
        }
        Ok(self.of_unit(&(v.clone() * (1.0 / length)))? * length)
    }

    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        let values = self.apply_values(v)?;
        let error = self.relative_error() * norm(&values);
        Ok(Product { values, error })
    }
}
