//! The objectives to minimise: functions, and a classifier by preference.

use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::vector::norm;
use nabla_claims::ClaimError;
use nabla_data::LabelledPictures;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_solve::ranking_oracle::{
    FunctionOracle, ModuleOracle, NoisyFunctionOracle, Ranking, RankingOracle, RankingQuestion,
    ValueNoise,
};
use rand::RngExt;

use super::{CLASSES, DIMENSION, Objective, SIDE, Size};

/// Something to be minimised.
pub(super) enum Problem {
    Function {
        value: fn(&[f64]) -> f64,
        gradient: fn(&[f64]) -> Vec<f64>,
        start: Vec<f64>,
    },
    Classifier(Box<Classifier>),
}

pub(super) fn quadratic(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

pub(super) fn rosenbrock(x: &[f64]) -> f64 {
    let term = |w: &[f64]| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2);
    x.windows(2).map(term).sum()
}

fn quadratic_gradient(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| 2.0 * x).collect()
}

fn rosenbrock_gradient(x: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; x.len()];
    for (i, w) in x.windows(2).enumerate() {
        let off = w[1] - w[0] * w[0];
        gradient[i] += -400.0 * w[0] * off - 2.0 * (1.0 - w[0]);
        gradient[i + 1] += 200.0 * off;
    }
    gradient
}

impl Problem {
    pub(super) fn new(
        objective: Objective,
        seed: u64,
        size: &Size,
        digits: &LabelledPictures,
        device: &Device,
    ) -> Result<Self, ClaimError> {
        let function = |value: fn(&[f64]) -> f64, gradient: fn(&[f64]) -> Vec<f64>| {
            let start = SeededNoise::new(seed, u64::MAX).normal_values(DIMENSION);
            Self::Function {
                value,
                gradient,
                start: start.into_iter().map(f64::from).collect(),
            }
        };
        Ok(match objective {
            Objective::Quadratic => function(quadratic, quadratic_gradient),
            Objective::Rosenbrock => function(rosenbrock, rosenbrock_gradient),
            Objective::Classifier => Self::Classifier(Box::new(Classifier::new(
                seed,
                size.pictures,
                digits,
                device,
            ))),
        })
    }

    pub(super) fn start(&self) -> Vec<f64> {
        match self {
            Self::Function { start, .. } => start.clone(),
            // A classifier that guesses.
            Self::Classifier(_) => vec![0.0; (SIDE * SIDE + 1) * CLASSES],
        }
    }

    /// The norm of the true gradient, which no method sees.
    pub(super) fn slope(&self, x: &[f64]) -> Result<f64, ClaimError> {
        match self {
            Self::Function { gradient, .. } => Ok(norm(&gradient(x))),
            Self::Classifier(classifier) => {
                let module = classifier.oracle()?.module(x);
                Ok(classifier.slope(&module.map_err(ClaimError::experiment)?))
            }
        }
    }

    /// The judge, who sees the values but returns only their ranking.
    pub(super) fn judge(
        &self,
        noise: Option<ValueNoise>,
        seed: u64,
    ) -> Result<Box<dyn RankingOracle<Error = ClaimError> + '_>, ClaimError> {
        Ok(match (self, noise) {
            (Self::Function { value, .. }, None) => Box::new(Judge(FunctionOracle::new(value))),
            (Self::Function { value, .. }, Some(noise)) => {
                let oracle = NoisyFunctionOracle::new(value, noise, seed);
                Box::new(Judge(oracle.map_err(ClaimError::experiment)?))
            }
            (Self::Classifier(classifier), _) => Box::new(Judge(classifier.oracle()?)),
        })
    }
}

/// Any oracle, with its error converted to that of an experiment.
pub(super) struct Judge<O>(O);

impl<O> RankingOracle for Judge<O>
where
    O: RankingOracle,
    O::Error: Send + Sync + 'static,
{
    type Error = ClaimError;

    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, ClaimError> {
        self.0.rank(question).map_err(ClaimError::experiment)
    }
}

/// A linear classifier and its pictures.
pub(super) struct Classifier {
    module: Linear,
    /// The pictures that the judge sees, `[pictures, SIDE²]`, and their classes.
    seen: (Tensor<2>, Vec<u8>),
    /// The held-out pictures and their classes.
    held_out: (Tensor<2>, Vec<u8>),
    /// 1 for the class of each picture that the judge sees, `[pictures, CLASSES]`.
    wanted: Tensor<2>,
}

impl Classifier {
    pub(super) fn new(
        seed: u64,
        pictures: usize,
        digits: &LabelledPictures,
        device: &Device,
    ) -> Self {
        let mut noise = SeededNoise::new(seed, u64::MAX - 1);
        let mut order: Vec<usize> = (0..digits.len()).collect();
        for i in 0..order.len() {
            let j = noise.random_range(i..order.len());
            order.swap(i, j);
        }
        let batch = |which: &[usize]| {
            let pixels: Vec<f32> = which.iter().flat_map(|&i| small(digits, i)).collect();
            let labels = which
                .iter()
                .map(|&i| digits.labels()[i])
                .collect::<Vec<_>>();
            let data = TensorData::new(pixels, [which.len(), SIDE * SIDE]);
            (Tensor::from_data(data, device), labels)
        };
        let (seen, rest) = order.split_at(pictures.min(order.len()));
        let (seen, held_out) = (batch(seen), batch(&rest[..(2 * pictures).min(rest.len())]));
        let one_hot: Vec<f32> = seen
            .1
            .iter()
            .flat_map(|&label| {
                (0..CLASSES).map(move |c| f32::from(u8::from(c == usize::from(label))))
            })
            .collect();
        let wanted = TensorData::new(one_hot, [seen.1.len(), CLASSES]);
        Self {
            module: LinearConfig::new(SIDE * SIDE, CLASSES).init(device),
            seen,
            held_out,
            wanted: Tensor::from_data(wanted, device),
        }
    }

    /// Ranks parameters by the cross-entropy of their outputs for the pictures.
    pub(super) fn oracle(
        &self,
    ) -> Result<ModuleOracle<Linear, impl FnMut(&Linear) -> f64>, ClaimError> {
        ModuleOracle::new(self.module.clone(), |module: &Linear| self.loss(module))
            .map_err(ClaimError::experiment)
    }

    pub(super) fn loss(&self, module: &Linear) -> f64 {
        let logits = module.forward(self.seen.0.clone());
        let chosen = log_softmax(logits, 1) * self.wanted.clone();
        -f64::from(chosen.sum().into_scalar::<f32>()) / self.seen.1.len() as f64
    }

    /// The norm of the gradient of the loss with respect to the weights and the biases.
    fn slope(&self, module: &Linear) -> f64 {
        let (pictures, labels) = &self.seen;
        // The gradient with respect to the outputs, before division by the number of pictures: [pictures, CLASSES].
        let errors = softmax(module.forward(pictures.clone()), 1) - self.wanted.clone();
        let squares = |gradient: Tensor<2>| -> f64 {
            f64::from(gradient.square().sum().into_scalar::<f32>())
        };
        let weights = pictures.clone().transpose().matmul(errors.clone());
        let biases = errors.sum_dim(0);
        (squares(weights) + squares(biases)).sqrt() / labels.len() as f64
    }

    /// Share of the held-out pictures whose class has the highest output.
    pub(super) fn accuracy(&self, module: &Linear) -> Result<f64, ClaimError> {
        let (pictures, labels) = &self.held_out;
        let logits = module.forward(pictures.clone());
        let logits: Vec<f32> = logits.try_into_vec_as().map_err(ClaimError::experiment)?;
        let right = |(row, label): &(&[f32], &u8)| {
            let own = row[usize::from(**label)];
            row.iter().filter(|output| **output >= own).count() == 1
        };
        let rows = logits.chunks_exact(CLASSES).zip(labels);
        Ok(rows.filter(right).count() as f64 / labels.len() as f64)
    }
}

/// The means of 2 x 2 pixels of a digit, in `[0, 1]`.
pub(super) fn small(digits: &LabelledPictures, i: usize) -> Vec<f32> {
    let mut sums = vec![0.0; SIDE * SIDE];
    for (at, &pixel) in digits.pixels(i).iter().enumerate() {
        let (row, column) = (at / (2 * SIDE) / 2, at % (2 * SIDE) / 2);
        sums[row * SIDE + column] += f32::from(pixel) / (4.0 * f32::from(digits.white()));
    }
    sums
}

/// The noise added to the values that ZO-SGD sees.
pub(super) struct Noise {
    noise: Option<ValueNoise>,
    draw: SeededNoise,
}

impl Noise {
    pub(super) fn new(noise: Option<ValueNoise>, seed: u64) -> Self {
        Self {
            noise,
            draw: SeededNoise::new(seed, u64::MAX - 2),
        }
    }

    pub(super) fn next(&mut self) -> f64 {
        match self.noise {
            None => 0.0,
            Some(ValueNoise::Gaussian(deviation)) => {
                deviation * f64::from(self.draw.normal_values(1)[0])
            }
            Some(ValueNoise::PlackettLuce(scale)) => {
                let uniform: f64 = self.draw.random();
                scale * (-uniform.max(f64::MIN_POSITIVE).ln()).ln()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_differences() {
        let digits = nabla_data::digits().unwrap();
        let (size, device) = (Size::quick(), Device::flex());
        for (objective, step, tolerance) in [
            (Objective::Quadratic, 1e-4, 1e-6),
            (Objective::Rosenbrock, 1e-4, 1e-6),
            // This one is in single precision.
            (Objective::Classifier, 0.03, 2e-3),
        ] {
            let problem = Problem::new(objective, 3, &size, &digits, &device).unwrap();
            let value = |x: &[f64]| match &problem {
                Problem::Function { value, .. } => value(x),
                Problem::Classifier(classifier) => {
                    let module = classifier.oracle().unwrap().module(x).unwrap();
                    classifier.loss(&module)
                }
            };
            let start = problem.start();
            let slope = |i: usize| {
                let moved = |by: f64| {
                    let mut x = start.clone();
                    x[i] += by;
                    value(&x)
                };
                (moved(step) - moved(-step)) / (2.0 * step)
            };
            let norm = (0..start.len())
                .map(|i| slope(i).powi(2))
                .sum::<f64>()
                .sqrt();
            let found = problem.slope(&start).unwrap();
            assert!(
                (found / norm - 1.0).abs() < tolerance,
                "{objective:?}: {found} is not {norm}"
            );
        }
    }
}
