//! Descent of an attack by Adam on one tensor: pixels, a latent vector, or a feature of a generator.

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::Tensor;

use super::error::LeakageError;
use super::gradient_oracle::leaf;

/// What is searched, `[batch, unknowns]`.
#[derive(Module, Debug)]
pub(crate) struct Point {
    pub(crate) value: Param<Tensor<2>>,
}

impl Point {
    /// A leaf of the graph.
    pub(crate) fn new(start: Tensor<2>) -> Self {
        Self {
            value: Param::from_tensor(leaf(&start)),
        }
    }

    /// The value without a graph.
    pub(crate) fn plain(&self) -> Tensor<2> {
        self.value.val().without_autodiff()
    }

    /// The slope, `[batch, unknowns]`, as the gradient of this module.
    pub(crate) fn gradients(&self, slope: Tensor<2>) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        gradients.register::<2>(self.value.id, slope);
        gradients
    }
}

/// A stage of an attack.
pub(crate) struct Descent<'a> {
    pub(crate) steps: usize,
    /// The learning rate at a share of the steps, from 0 to less than 1.
    pub(crate) rate: &'a dyn Fn(f64) -> f64,
    /// The slope of what is minimised, `[batch, unknowns]`.
    pub(crate) slope: &'a mut dyn FnMut(&Tensor<2>) -> Result<Tensor<2>, LeakageError>,
    /// What is done to the point after a step of a learning rate.
    pub(crate) then: &'a mut dyn FnMut(Tensor<2>, f64) -> Result<Tensor<2>, LeakageError>,
}

impl Descent<'_> {
    /// Runs it with a fresh Adam.
    ///
    /// # Errors
    /// Those of the slope and of what is done after a step.
    pub(crate) fn run(self, start: Tensor<2>) -> Result<Tensor<2>, LeakageError> {
        let mut point = Point::new(start);
        let mut adam = AdamConfig::new().with_epsilon(1e-8).init();
        for step in 0..self.steps {
            let slope = (self.slope)(&point.plain())?;
            let rate = (self.rate)(step as f64 / self.steps as f64);
            let gradients = point.gradients(slope);
            point = adam.step(rate, point, gradients);
            let next = (self.then)(point.plain(), rate)?;
            point.value = point.value.map(|_| leaf(&next));
        }
        Ok(point.plain())
    }
}

/// Divided by ten after 3/8, 5/8 and 7/8 of the steps.
pub(crate) fn three_drops(share: f64) -> f64 {
    let drops = [0.375, 0.625, 0.875].iter().filter(|&&at| share >= at);
    0.1_f64.powi(drops.count() as i32)
}
