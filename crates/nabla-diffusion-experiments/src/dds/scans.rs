//! The scans, their network, and how one restoration is measured.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use nabla_claims::{ClaimContext, ClaimError};
use nabla_data::{NpyArray, NpyValues};
use nabla_diffusion::class_denoiser::ClassDenoiser;
use nabla_diffusion::denoiser::{Condition, RowConditions};
use nabla_diffusion::restore::{
    CoilMaps, ConjugateGradient, Consistency, Dds, Dps, LinearOperator, MultiCoilMri,
    OperatorError, Problem, Radon, Renoising, Restoration, Restorer, SamplingPattern, radon_views,
};
use serde::{Deserialize, Serialize};

use super::total_variation;
use crate::mean_psnr::mean_psnr;

/// What is scanned; also the class of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ct,
    Mr,
}

/// Patients: those that the network was trained on, on which numbers are tuned, and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patients {
    Known,
    Others,
}

/// A way to restore, with its tuned numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method {
    Dds {
        eta: f64,
        iterations: usize,
        /// `None` for what Bayes' rule gives.
        gamma: Option<f64>,
    },
    /// DDS with the noise of the published code.
    DdsShares,
    /// One iteration of conjugate gradients: a gradient step of the best length.
    OneStep,
    /// What was measured replaces the estimate's.
    Projection,
    Dps {
        scale: f64,
    },
    LeastSquares {
        iterations: usize,
    },
    TotalVariation {
        weight: f64,
    },
}

/// How one restoration went.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The mean over the slices, in dB.
    pub(super) psnr: f64,
    /// Of the whole restoration.
    pub(super) seconds: f64,
}

impl Method {
    /// DDS with its default options.
    pub(super) fn dds() -> Self {
        let Dds {
            eta,
            cg_iterations,
            gamma,
            ..
        } = Dds::new();
        Self::Dds {
            eta,
            iterations: cg_iterations,
            gamma,
        }
    }

    /// DDS with all of these options. Without noise, as in CT here, there is no `γ`.
    pub(super) fn every_dds(
        kind: Kind,
        etas: &[f64],
        iterations: &[usize],
        gammas: &[Option<f64>],
    ) -> Vec<Self> {
        let gammas = match kind {
            Kind::Ct => &gammas[..1],
            Kind::Mr => gammas,
        };
        let mut all = Vec::new();
        for &eta in etas {
            for &iterations in iterations {
                all.extend(gammas.iter().map(|&gamma| Self::Dds {
                    eta,
                    iterations,
                    gamma,
                }));
            }
        }
        all
    }
}

/// The noise of k-space, for slices with values in `[−1, 1]`.
const MR_NOISE: f64 = 0.01;

/// The network, and the slices `[slices, 1, height, width]` of each kind of scan.
pub(super) struct Scans {
    network: ClassDenoiser,
    known: [Tensor<4>; 2],
    others: [Tensor<4>; 2],
}

impl Scans {
    pub(super) fn open(context: &ClaimContext<'_>) -> Result<Self, ClaimError> {
        let folder = context.assets.join("scans");
        let read = |name: &str| -> Result<Tensor<4>, ClaimError> {
            let path = folder.join(name);
            let array = NpyArray::read(&path).map_err(|e| ClaimError::asset(&path, e))?;
            match (array.shape.as_slice(), array.values) {
                (&[slices, height, width], NpyValues::Real(values)) => {
                    // From 0 … 255 to −1 … 1.
                    let values = values.iter().map(|v| (v / 127.5 - 1.0) as f32);
                    let values: Vec<f32> = values.collect();
                    let data = TensorData::new(values, [slices, 1, height, width]);
                    Ok(Tensor::from_data(data, &context.device))
                }
                (shape, _) => {
                    let reason =
                        format!("its shape is {shape:?}, but [slices, height, width] is expected");
                    Err(ClaimError::asset(&path, reason))
                }
            }
        };
        let network = ClassDenoiser::load(&folder.join("denoiser"), &context.device);
        Ok(Self {
            network: network.map_err(|e| ClaimError::asset(&folder, e))?,
            known: [read("ct_known.npy")?, read("mr_known.npy")?],
            others: [read("ct.npy")?, read("mr.npy")?],
        })
    }

    /// `count` slices that the seed chooses, no slice for two successive seeds.
    fn slices(&self, kind: Kind, patients: Patients, seed: u64, count: usize) -> Tensor<4> {
        let all = match patients {
            Patients::Known => &self.known,
            Patients::Others => &self.others,
        };
        let all = &all[kind as usize];
        let available = all.dims()[0];
        // Spread over the scan: neighbouring slices are alike.
        let chosen = (0..count).map(|i| {
            let place = (seed as usize + i * available / count) % available;
            all.clone().slice_dim(0, place..place + 1)
        });
        Tensor::cat(chosen.collect(), 0)
    }

    /// Measures slices, restores them, and compares.
    ///
    /// - `calls`: of the network; methods without one ignore it
    pub(super) fn restored(
        &self,
        kind: Kind,
        patients: Patients,
        method: Method,
        calls: usize,
        [seed, count]: [u64; 2],
    ) -> Result<Outcome, ClaimError> {
        let truth = self.slices(kind, patients, seed, count as usize);
        let problem = measured(kind, &truth, seed)?;
        let begun = Instant::now();
        let found = match method {
            Method::LeastSquares { iterations } => {
                least_squares(&problem, iterations).map_err(ClaimError::experiment)?
            }
            Method::TotalVariation { weight } => {
                total_variation::restored(&problem, weight).map_err(ClaimError::experiment)?
            }
            _ => self.diffused(kind, method, &problem, calls, seed)?,
        };
        // Grey, where a step size was too long for a number.
        let lost = found.clone().is_nan();
        // Reading the numbers waits for them.
        let psnr = mean_psnr(found.mask_fill(lost, 0.0), &truth)?;
        Ok(Outcome {
            psnr,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    fn diffused(
        &self,
        kind: Kind,
        method: Method,
        problem: &Problem,
        calls: usize,
        seed: u64,
    ) -> Result<Tensor<4>, ClaimError> {
        // The range of the pictures is known to all.
        let dds = Dds::new().with_clip(Some(1.0));
        let restorer: Box<dyn Restorer> = match method {
            Method::Dps { scale } => Box::new(Dps::new().with_scale(scale).with_clip(Some(1.0))),
            Method::Dds {
                eta,
                iterations,
                gamma,
            } => Box::new(
                dds.with_eta(eta)
                    .with_cg_iterations(iterations)
                    .with_gamma(gamma),
            ),
            Method::DdsShares => Box::new(dds.with_renoising(Renoising::Shares)),
            Method::OneStep => Box::new(dds.with_cg_iterations(1)),
            Method::Projection => Box::new(dds.with_consistency(Consistency::Projection)),
            _ => Box::new(dds),
        };
        let slices = problem.measurement().dims()[0];
        let rows = vec![Condition::Given(kind as usize); slices];
        let model = RowConditions::new(&self.network, rows);
        let levels = self.network.levels(calls).map_err(ClaimError::experiment)?;
        let run = Restoration::new(restorer.as_ref(), problem, &levels).run(&model, seed);
        let restored = run.map_err(ClaimError::experiment)?;
        match restored.evaluations.calls() == calls {
            true => Ok(restored.sample),
            false => Err(ClaimError::experiment(format!(
                "{method:?} took {} calls of the network instead of {calls}",
                restored.evaluations.calls()
            ))),
        }
    }
}

/// Simulated measurements of slices.
fn measured(kind: Kind, truth: &Tensor<4>, seed: u64) -> Result<Problem, ClaimError> {
    let [_, channels, height, width] = truth.dims();
    let failed = |error: OperatorError| ClaimError::experiment(error);
    let (operator, noise): (Arc<dyn LinearOperator>, f64) = match kind {
        Kind::Ct => {
            let views = radon_views(super::VIEWS, 0.0, 180.0);
            let radon = Radon::parallel([channels, height, width], views).map_err(failed)?;
            (Arc::new(radon), 0.0)
        }
        Kind::Mr => {
            let sides = [height, width];
            let maps = CoilMaps::simulated(super::COILS, sides).map_err(failed)?;
            let pattern = SamplingPattern::Gaussian1d;
            let mask = pattern.mask(sides, super::ACCELERATION, 0.12, seed);
            let mri = MultiCoilMri::new(1, maps, mask.map_err(failed)?).map_err(failed)?;
            (Arc::new(mri), MR_NOISE)
        }
    };
    Problem::simulated(operator, truth.clone(), noise, seed).map_err(ClaimError::experiment)
}

/// Conjugate gradients for `AᵀA x = Aᵀ y` from 0: with few iterations, what little is certain.
fn least_squares(problem: &Problem, iterations: usize) -> Result<Tensor<4>, OperatorError> {
    let operator = problem.operator();
    let solver = ConjugateGradient {
        iterations,
        tolerance: 1e-7,
    };
    let projected = operator.adjoint(problem.measurement().clone())?;
    let start = projected.zeros_like();
    Ok(solver.solve(|x| operator.normal(x), projected, start)?.x)
}
