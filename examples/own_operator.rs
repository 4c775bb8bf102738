//! Your own measurement, and your own method of restoration.
//!
//! Of rows of 16 numbers only running sums of 4 are known. The operator needs two shapes and two maps; every method then
//! restores from it. The method at the end replaces the data consistency of DDS by a single gradient step.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use nabla::diffusion::asking::Step;
use nabla::diffusion::denoiser::GaussianDenoiser;
use nabla::diffusion::restore::{
    LinearOperator, OperatorError, Parts, Problem, Restoration, RestoreError, Restorer, restorers,
};
use nabla::prelude::*;

/// Sums of 4 neighbours: `[batch, 16]` to `[batch, 4]`.
#[derive(Debug)]
struct Sums;

impl LinearOperator<2> for Sums {
    fn name(&self) -> &'static str {
        "sums of four"
    }

    fn domain(&self) -> Vec<usize> {
        vec![16]
    }

    fn range(&self) -> Vec<usize> {
        vec![4]
    }

    fn apply(&self, x: Tensor<2>) -> Result<Tensor<2>, OperatorError> {
        let [batch, _] = x.dims();
        Ok(x.reshape([batch, 4, 4]).sum_dim(2).reshape([batch, 4]))
    }

    fn adjoint(&self, y: Tensor<2>) -> Result<Tensor<2>, OperatorError> {
        let [batch, _] = y.dims();
        let each = y.reshape([batch, 4, 1]).repeat_dim(2, 4);
        Ok(each.reshape([batch, 16]))
    }
}

/// One gradient step on every estimate.
#[derive(Debug)]
struct OneStep {
    length: f64,
}

impl Restorer<2> for OneStep {
    fn parts(&self, problem: &Problem<2>, _levels: &Levels) -> Result<Parts<2>, RestoreError> {
        let (problem, length) = (problem.clone(), self.length);
        let correct =
            move |_: &Step<'_, 2>, d: Denoised<2>| -> Result<Denoised<2>, OperatorError> {
                let residual = problem.residual(d.sample.clone())?;
                let step = problem.operator().adjoint(residual)? * length;
                let sample = d.sample.clone() + step;
                Ok(d.with_sample(sample))
            };
        Ok(Parts {
            solver: samplers()
                .get("ddim")
                .map_err(nabla::diffusion::sampler_error::SamplerError::from)?,
            guidance: None,
            correction: Some(Box::new(correct)),
            pull: None,
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    Sums.check_adjoint(1e-5, &device, DType::F32)?;

    // Numbers around 1, the even ones more certain.
    let certain = std::array::from_fn::<f32, 16, _>(|i| if i % 2 == 0 { 0.01 } else { 0.3 });
    let variance = Tensor::<1>::from_floats(certain, &device).unsqueeze::<2>();
    let model = GaussianDenoiser::new(variance.ones_like(), variance, Prediction::Epsilon);
    let y = Tensor::<2>::from_floats([[4.0, 6.0, 2.0, 5.0]], &device);
    let problem = Problem::new(Arc::new(Sums), y, 0.0)?;
    let schedule = NoiseScheduleConfig::new().init()?;
    let levels = schedule.respace(Spacing::Trailing, 50)?.into();

    let dds = restorers().get("dds")?;
    let own = OneStep { length: 0.25 };
    let methods: [(&str, &dyn Restorer<2>); 2] = [("dds", &dds), ("one step", &own)];
    for (name, method) in methods {
        let found = Restoration::new(method, &problem, &levels).run(&model, 42)?;
        let off = problem.relative_residual(found.sample)?;
        let evaluations = found.evaluations.total();
        println!("{name}: {evaluations} evaluations, the sums are off by {off:.1e}");
        assert!(off < 1e-3);
    }
    Ok(())
}
