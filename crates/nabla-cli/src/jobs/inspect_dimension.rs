//! `nabla inspect dimension`: how many directions the data of a denoiser have at a place, and how much of its field is no
//! gradient.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::range;
use nabla::claims::plot::{LinePlot, Series};
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::denoiser::{Condition, Denoised, Denoiser};
use nabla::diffusion::level::Level;
use nabla::grad::SeededNoise;
use nabla::probe::gauge_freedom::{
    GaugeError, VectorField, along, jacobian_asymmetry, jacobian_singular_values, jacobians,
    linear_decomposition, two_nn,
};
use nabla::train::order::permutation;
use serde::Serialize;

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::plot_file;
use crate::jobs::train_denoiser::denoiser_pictures;
use crate::output::table;
use crate::seeds::SeedFlag;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of `nabla train denoiser`
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Pictures of its kind: `digits` or `fashion` (built in), or a folder
    #[arg(long, value_name = "SOURCE")]
    data: String,
    /// Pictures at which the field is looked at, drawn at random
    #[arg(long, value_name = "N", default_value_t = 8)]
    pictures: usize,
    /// Levels of noise, as standard deviations of pixels between -1 and 1
    #[arg(long, value_name = "SIGMA,..", value_delimiter = ',', default_values_t = [0.05, 0.1, 0.2, 0.5])]
    sigmas: Vec<f64>,
    /// The singular values of the field's Jacobian as a plot, an SVG file
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
}

/// What was found at a level of noise.
#[derive(Serialize)]
struct AtLevel {
    sigma: f64,
    /// The directions along which the field doesn't pull back, of each picture.
    dimensions: Vec<usize>,
    mean_dimension: f64,
    /// `‖J − Jᵀ‖/‖J‖`, the mean over pictures.
    asymmetry: f64,
    /// The share of the field's linear part that is no gradient.
    gauge_share: f64,
    /// The mean singular values of `σ² J`, in descending order.
    singular_values: Vec<f64>,
}

#[derive(Serialize)]
struct Found {
    model: PathBuf,
    data: String,
    numbers: usize,
    pictures: usize,
    /// From the distances of the pictures to their neighbours, without the model.
    two_nn: f64,
    levels: Vec<AtLevel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plot: Option<PathBuf>,
}

/// The score that a denoiser says, without a class.
struct DenoiserField<'a> {
    model: &'a ClassDenoiser,
    device: Device,
    shape: [usize; 3],
}

/// Pictures that the network sees at once.
const BATCH: usize = 128;

impl VectorField for DenoiserField<'_> {
    fn dimension(&self) -> usize {
        self.shape.iter().product()
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        let numbers = self.dimension();
        let [channels, height, width] = self.shape;
        // In this form the network finds its own time, that of the same noise.
        let level = Level::variance_exploding(0.0, sigma);
        let own = |error: String| GaugeError::Device(error);
        let mut field = Vec::with_capacity(x.len());
        for part in x.chunks(BATCH * numbers) {
            let rows = part.len() / numbers;
            let data = TensorData::new(part.to_vec(), [rows, channels, height, width]);
            let x: Tensor<4> = Tensor::from_data(data, &self.device);
            let outputs = self
                .model
                .predict(x.clone(), level, &[Condition::Without])
                .map_err(|error| own(error.to_string()))?;
            for output in outputs {
                let denoised = Denoised::from_output(output, &x, level, self.model.prediction())
                    .map_err(|error| own(error.to_string()))?;
                let values = (denoised.epsilon * (-1.0 / sigma)).try_into_vec_as::<f64>();
                field.extend(values.map_err(|error| own(error.to_string()))?);
            }
        }
        Ok(field)
    }

    /// The network computes in single precision.
    fn difference_step(&self) -> f64 {
        1e-2
    }
}

/// Pictures between −1 and 1, and the shape of one.
fn pictures(source: &str) -> Result<(Vec<f64>, [usize; 3]), Failure> {
    let (data, shape) = denoiser_pictures(source)?;
    let values = data.training.features.iter();
    Ok((values.map(|&v| 2.0 * f64::from(v) - 1.0).collect(), shape))
}

/// The covariance of rows, `[numbers, numbers]`.
fn covariance(rows: &[f64], numbers: usize) -> Vec<f64> {
    let count = (rows.len() / numbers) as f64;
    let data = TensorData::new(rows.to_vec(), [rows.len() / numbers, numbers]);
    let options = (&Device::flex(), burn::tensor::DType::F64);
    let rows = Tensor::<2>::from_data(data, options);
    let centred = rows.clone() - rows.mean_dim(0);
    let product = centred.clone().transpose().matmul(centred) * (1.0 / count);
    product.into_data().iter().collect()
}

impl Arguments {
    fn check(&self) -> Result<(), Failure> {
        if let Some(path) = &self.out {
            plot_file::check(path)?;
        }
        range::at_least("number of pictures", self.pictures, 1).map_err(Failure::input)?;
        range::at_least("number of noise levels", self.sigmas.len(), 1).map_err(Failure::input)?;
        for &sigma in &self.sigmas {
            range::positive("level of noise", sigma).map_err(Failure::input)?;
        }
        Ok(())
    }

    fn at(
        &self,
        field: &DenoiserField<'_>,
        chosen: &[f64],
        covariance: &[f64],
        sigma: f64,
        noise: &mut SeededNoise,
        context: &Context,
    ) -> Result<AtLevel, Failure> {
        let d = field.dimension();
        let progress = context.progress();
        let count = (chosen.len() / d) as f64;
        let (mut dimensions, mut asymmetry) = (Vec::new(), 0.0);
        let (mut singular_values, mut mean) = (vec![0.0; d], vec![0.0; d * d]);
        for picture in chosen.chunks(d) {
            context.check()?;
            let noisy: Vec<f64> = picture
                .iter()
                .zip(noise.normal_values(d))
                .map(|(&x, e)| x + sigma * f64::from(e))
                .collect();
            let jacobian = jacobians(field, &noisy, sigma).map_err(Failure::run)?;
            asymmetry += jacobian_asymmetry(&jacobian, d) / count;
            for (mean, value) in mean.iter_mut().zip(&jacobian) {
                *mean += value / count;
            }
            let values = jacobian_singular_values(&jacobian, d, sigma).map_err(Failure::run)?;
            for values in values {
                dimensions.push(along(&values));
                for (sum, value) in singular_values.iter_mut().zip(values) {
                    *sum += value / count;
                }
            }
            progress.advance(1);
        }
        let mut noisy = covariance.to_vec();
        for i in 0..d {
            noisy[i * d + i] += sigma * sigma;
        }
        let (_, gauge) = linear_decomposition(&mean, &noisy).map_err(Failure::run)?;
        let mean_dimension = dimensions.iter().sum::<usize>() as f64 / count;
        Ok(AtLevel {
            sigma,
            dimensions,
            mean_dimension,
            asymmetry,
            gauge_share: energy(&gauge, &noisy) / energy(&mean, &noisy),
            singular_values,
        })
    }
}

/// `tr(A Σ Aᵀ)`.
fn energy(matrix: &[f64], covariance: &[f64]) -> f64 {
    let d = covariance.len().isqrt();
    let tensor = |values: &[f64]| {
        let data = TensorData::new(values.to_vec(), [d, d]);
        Tensor::<2>::from_data(data, (&Device::flex(), burn::tensor::DType::F64))
    };
    let a = tensor(matrix);
    let sum = (a.clone().matmul(tensor(covariance)) * a).sum();
    sum.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        /// Pictures from which the covariance and the neighbours are known.
        const MEASURED: usize = 2000;
        self.check()?;
        let device = self.device.open()?;
        let model = ClassDenoiser::load(&self.model, &device).map_err(Failure::input)?;
        let (all, shape) = pictures(&self.data)?;
        if model.config().shape != shape {
            return Err(Failure::input(format!(
                "{} is of pictures of {:?} (channels, height, width), but {} has {shape:?}",
                self.model.display(),
                model.config().shape,
                self.data
            )));
        }
        let field = DenoiserField {
            model: &model,
            device: device.clone(),
            shape,
        };
        let d = field.dimension();
        let mut noise = SeededNoise::new(self.seed.value(), 0);
        let rows = all.len() / d;
        let order = permutation(rows, &mut noise);
        let drawn = order.iter().take(self.pictures);
        let chosen: Vec<f64> = drawn
            .flat_map(|&row| &all[row * d..(row + 1) * d])
            .copied()
            .collect();
        let measured = &all[..all.len().min(MEASURED * d)];
        let covariance = covariance(measured, d);
        let two_nn = two_nn(d, measured).map_err(Failure::run)?;
        let progress = context.progress();
        let steps = self.pictures * self.sigmas.len();
        progress.begin("Jacobians of the field", steps as u64);
        let mut levels = Vec::new();
        for &sigma in &self.sigmas {
            let found = self.at(&field, &chosen, &covariance, sigma, &mut noise, context);
            levels.push(found?);
        }
        if let Some(path) = &self.out {
            plot_file::write(path, &plot(&levels))?;
        }
        let found = Found {
            model: self.model.clone(),
            data: self.data.clone(),
            numbers: d,
            pictures: self.pictures,
            two_nn,
            levels,
            plot: self.out.clone(),
        };
        context.report(&found, || told(&found))
    }
}

fn plot(levels: &[AtLevel]) -> LinePlot {
    let mut plot = LinePlot::new(
        "Pull of the field across and along the data",
        "singular value, the largest first",
        "σ² times it",
    );
    for level in levels {
        let points = level.singular_values.iter().enumerate();
        let points = points.map(|(i, &value)| [(i + 1) as f64, value]);
        plot = plot.with_series(Series::new(format!("σ = {}", level.sigma), points));
    }
    plot
}

fn told(found: &Found) -> String {
    let mut told = format!(
        "{} at {} pictures of {}, each {} numbers; {:.1} dimensions by the distances of neighbours\n",
        found.model.display(),
        found.pictures,
        found.data,
        found.numbers,
        found.two_nn
    );
    let mut rows = vec![
        [
            "noise",
            "dimension",
            "from",
            "to",
            "asymmetry",
            "no gradient",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for level in &found.levels {
        let ends = [level.dimensions.iter().min(), level.dimensions.iter().max()];
        let [least, most] = ends.map(|end| end.map_or(String::new(), usize::to_string));
        rows.push(vec![
            level.sigma.to_string(),
            format!("{:.1}", level.mean_dimension),
            least,
            most,
            format!("{:.3}", level.asymmetry),
            format!("{:.2} %", 100.0 * level.gauge_share),
        ]);
    }
    told += &table(&rows);
    if let Some(plot) = &found.plot {
        told += &format!("{}: the singular values\n", plot.display());
    }
    told
}
