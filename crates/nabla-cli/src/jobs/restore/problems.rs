//! What was measured: from the file, or simulated; and how close a result is to the truth.

use std::sync::Arc;

use burn::tensor::Tensor;
use nabla::diffusion::restore::{Given, LinearOperator, MultiCoilMri, Problem};
use nabla::panorama::metrics::{psnr, ssim};

use super::samples::{Origin, Samples};
use super::{MRI, Work};
use crate::errors::Failure;

impl Work<'_> {
    /// What was measured, or is simulated, in the unit of the file: one problem for all slices, or one for each slice.
    pub(super) fn problems(
        &self,
        picture: [usize; 3],
    ) -> Result<(Vec<Problem>, Option<&'static str>), Failure> {
        let arguments = self.arguments;
        let build = |given: &Given| -> Result<Arc<dyn LinearOperator>, Failure> {
            self.recipe.build(picture, given).map_err(Failure::input)
        };
        let mri = arguments.operator == MRI;
        let values = self.input.tensor(&self.device);
        if arguments.simulate {
            let noise = arguments.noise;
            let problem =
                Problem::simulated(build(&self.given)?, values, noise, arguments.seed.value())?;
            if arguments.estimate_coils {
                let plane = problem.measured().map_err(Failure::input)?;
                let plane = plane.slice_dim(1, 0..1).try_into_vec_as::<f64>();
                let mask = plane.map_err(Failure::run)?;
                let mask = mask.into_iter().map(|v| v > 0.5).collect();
                let measured = problem.measurement().clone();
                return Ok((self.estimated(picture, measured, mask)?, Some("estimated")));
            }
            let maps = match self.given.coil_maps {
                Some(_) => "given",
                None => "simulated",
            };
            return Ok((vec![problem], mri.then_some(maps)));
        }
        if !mri {
            let problem = Problem::new(build(&self.given)?, values, arguments.noise)?;
            return Ok((vec![problem], None));
        }
        let mut given = self.given.clone();
        let mask = given
            .mask
            .get_or_insert_with(|| self.measured_frequencies());
        if given.coil_maps.is_some() {
            let problem = Problem::new(build(&given)?, values, arguments.noise)?;
            return Ok((vec![problem], Some("given")));
        }
        if mask.0 != self.input.sides() {
            return Err(Failure::input(format!(
                "the mask has {} x {} values, but the k-space has {} x {}",
                mask.0[1], mask.0[0], self.input.shape[3], self.input.shape[2]
            )));
        }
        let mask = mask.1.iter().map(|value| *value > 0.5).collect();
        Ok((self.estimated(picture, values, mask)?, Some("estimated")))
    }

    /// The frequencies that are not 0 in all coils and slices.
    fn measured_frequencies(&self) -> ([usize; 2], Vec<f64>) {
        let sides = self.input.sides();
        let pixels = sides[0] * sides[1];
        let mut mask = vec![0.0; pixels];
        for (value, i) in self.input.values.iter().zip((0..pixels).cycle()) {
            if *value != 0.0 {
                mask[i] = 1.0;
            }
        }
        (sides, mask)
    }

    /// A problem for each slice, with coil maps of its own.
    fn estimated(
        &self,
        [channels, ..]: [usize; 3],
        kspace: Tensor<4>,
        mask: Vec<bool>,
    ) -> Result<Vec<Problem>, Failure> {
        let slices = kspace.dims()[0];
        let of_slice = |slice: usize| {
            let kspace = kspace.clone().slice_dim(0, slice..slice + 1);
            let mri = MultiCoilMri::estimated(channels, kspace.clone(), mask.clone());
            let mri = Arc::new(mri.map_err(Failure::input)?);
            Ok(Problem::new(mri, kspace, self.arguments.noise)?)
        };
        (0..slices).map(of_slice).collect()
    }

    /// PSNR and SSIM in the range.
    pub(super) fn compared(
        &self,
        found: &Samples,
        truth: &Samples,
        [low, high]: [f64; 2],
    ) -> Result<(Option<f64>, Option<f64>), Failure> {
        let rasters = [found, truth].map(|samples| match self.complex {
            true => samples.magnitude().raster([0.0, high]),
            false => samples.raster([low, high]),
        });
        let [found, truth] = rasters;
        let (found, truth) = (found?, truth?);
        let psnr = psnr(&found, &truth)?;
        let ssim = match found.height().min(found.width()) < 11 {
            true => None,
            false => Some(ssim(&found, &truth)?),
        };
        Ok((psnr.is_finite().then_some(psnr), ssim))
    }

    pub(super) fn without_model(
        &self,
        problems: &[Problem],
        truth: &Samples,
        range: [f64; 2],
    ) -> Result<Option<f64>, Failure> {
        let mut all = Vec::with_capacity(problems.len());
        for problem in problems {
            let y = problem.measurement().clone();
            all.push(
                problem
                    .operator()
                    .pseudo_inverse(y)
                    .map_err(Failure::input)?,
            );
        }
        let found = Samples::of(&Tensor::cat(all, 0), Origin::Npy)?;
        Ok(self.compared(&found, truth, range)?.0)
    }
}
