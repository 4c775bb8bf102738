//! The two networks whose activations are looked at, with their inputs.

use std::io::Read as _;
use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use faer::Mat;
use flate2::read::GzDecoder;
use nabla_claims::ClaimError;
use nabla_language::language_model::Network;
use nabla_language::llama::{Llama, LlamaConfig};
use nabla_probe::feature_effect::{EffectError, HookedModel};
use nabla_probe::language_features::{HookedLanguageModel, Passages};
use nabla_train::classification::TrainingConfig;
use nabla_train::data_set::of_pictures;
use nabla_train::error::TrainingError;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::initialization::he_normal;
use nabla_train::learner::Learner;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::trainer::{Trainer, TrainerConfig};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};

use super::{Sizes, device, wrong};

/// A network of digits with what its second layer does not see.
pub(super) struct BlindDigits {
    network: Mlp,
    /// Orthonormal, `[64, 32]`.
    invisible: Vec<[f64; 64]>,
}

/// An example: pixels, what is added to its activation, and its digit.
#[derive(Clone)]
pub(super) struct Digits {
    pub(super) pixels: Vec<f32>,
    pub(super) added: Vec<f64>,
    pub(super) labels: Vec<u32>,
}

impl BlindDigits {
    fn train(examples: &Examples, epochs: usize, seed: u64) -> Result<Self, ClaimError> {
        let shape = InputShape::Row(64);
        let model = MlpConfig {
            hidden: vec![64; 3],
        };
        let model = model.init(64, 10, &device()).map_err(wrong)?;
        let config = TrainingConfig {
            epochs,
            seed,
            ..TrainingConfig::default()
        };
        let network = he_normal(model, seed).map_err(wrong)?;
        let mut trainer = config
            .trainer(examples, examples, shape, network)
            .map_err(wrong)?;
        trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .map_err(wrong)?;
        let mut network = trainer.model().clone();
        // Singular vectors of the second layer, `[inputs, outputs]`.
        let second = &mut network.hidden[1];
        let weight = second.weight.val().without_autodiff();
        let values = weight.try_into_vec_as::<f64>().map_err(wrong)?;
        let matrix = Mat::from_fn(64, 64, |i, j| values[64 * i + j]);
        let svd = matrix
            .thin_svd()
            .map_err(|error| ClaimError::experiment(format!("{error:?}")))?;
        let invisible: Vec<[f64; 64]> = (32..64)
            .map(|column| std::array::from_fn(|row| svd.U()[(row, column)]))
            .collect();
        let seen = Mat::from_fn(64, 64, |i, j| {
            let blind: f64 = invisible
                .iter()
                .map(|u| u[i] * (0..64).map(|k| u[k] * matrix[(k, j)]).sum::<f64>())
                .sum();
            matrix[(i, j)] - blind
        });
        let values: Vec<f64> = (0..64 * 64).map(|at| seen[(at / 64, at % 64)]).collect();
        let new = Tensor::<2>::from_data(TensorData::new(values, [64, 64]), &device());
        second.weight = burn::module::Param::from_tensor(new);
        Ok(Self {
            network: burn::module::Module::no_grad(network),
            invisible,
        })
    }

    /// Sparse sums of 64 random invisible directions for so many examples, `[examples, 64]`.
    fn noise(&self, examples: usize, draw: &mut ChaCha8Rng, same: u64) -> Vec<f64> {
        /// Of the directions in a sum, and their size.
        const SHARE: f64 = 0.06;
        const SIZE: f64 = 3.0;
        let mut fixed = ChaCha8Rng::seed_from_u64(same);
        let directions: Vec<[f64; 64]> = (0..64)
            .map(|_| {
                let parts: [f64; 32] = std::array::from_fn(|_| StandardNormal.sample(&mut fixed));
                let length = parts.iter().map(|p| p * p).sum::<f64>().sqrt();
                std::array::from_fn(|i| {
                    let along = self.invisible.iter().zip(&parts);
                    along.map(|(u, part)| u[i] * part / length).sum()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(64 * examples);
        for _ in 0..examples {
            let mut sum = [0.0; 64];
            for direction in &directions {
                if draw.random::<f64>() < SHARE {
                    let size: f64 = Exp1.sample(draw);
                    for (sum, v) in sum.iter_mut().zip(direction) {
                        *sum += SIZE * size * v;
                    }
                }
            }
            all.extend(sum);
        }
        all
    }
}

impl HookedModel for BlindDigits {
    type Input = Digits;

    fn device(&self) -> Device {
        device()
    }

    fn lower(&self, input: &Digits) -> Result<Tensor<2>, EffectError> {
        let rows = input.labels.len();
        let x = TensorData::new(input.pixels.clone(), [rows, 64]);
        let x = Tensor::<2>::from_data(x, &device());
        let x = burn::tensor::activation::relu(self.network.hidden[0].forward(x));
        let added = TensorData::new(input.added.clone(), [rows, 64]);
        Ok(x + Tensor::from_data(added, &device()))
    }

    fn upper(&self, _: &Digits, activation: Tensor<2>) -> Result<Tensor<2>, EffectError> {
        let mut x = activation;
        for layer in &self.network.hidden[1..] {
            x = burn::tensor::activation::relu(layer.forward(x));
        }
        Ok(self.network.output.forward(x))
    }

    fn labels(&self, input: &Digits) -> Vec<u32> {
        input.labels.clone()
    }
}

/// Inputs to train on and to measure with.
pub(super) struct Parts<M: HookedModel> {
    pub(super) model: M,
    pub(super) training: Vec<M::Input>,
    pub(super) measured: Vec<M::Input>,
}

pub(super) fn digits(sizes: &Sizes, seed: u64) -> Result<Parts<BlindDigits>, ClaimError> {
    const TRAINED_ON: usize = 1400;
    let pictures = nabla_data::digits().map_err(wrong)?;
    let mut draw = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..pictures.len()).collect();
    order.shuffle(&mut draw);
    let (training, test) = order.split_at(TRAINED_ON);
    let all = of_pictures(&pictures);
    let [training, test] = [training, test].map(|chosen| all.chosen(chosen, 64));
    let model = BlindDigits::train(&training, sizes.network_epochs, seed)?;
    let mut input = |examples: &Examples| Digits {
        pixels: examples.features.clone(),
        added: model.noise(examples.labels.len(), &mut draw, 1000 + seed),
        labels: examples.labels.clone(),
    };
    let (training, measured) = (vec![input(&training)], vec![input(&test)]);
    Ok(Parts {
        model,
        training,
        measured,
    })
}

/// 42 chapters of Moby Dick; see `assets/README.md`.
const MOBY_DICK: &[u8] = include_bytes!("../../assets/moby-dick.txt.gz");

/// Letters of a window.
const WINDOW: usize = 64;

/// The chapters as numbers of letters, and how many letters there are.
pub(super) fn letters() -> Result<(Vec<u32>, usize), ClaimError> {
    let mut text = Vec::new();
    GzDecoder::new(MOBY_DICK)
        .read_to_end(&mut text)
        .map_err(wrong)?;
    let known: std::collections::BTreeSet<u8> = text.iter().copied().collect();
    let known: Vec<u8> = known.into_iter().collect();
    let ids = text
        .iter()
        .filter_map(|letter| known.binary_search(letter).ok());
    Ok((ids.map(|id| id as u32).collect(), known.len()))
}

/// Learns the next letter.
struct NextLetter {
    text: Vec<u32>,
    batch: usize,
    seed: u64,
}

impl nabla_train::task::Task for NextLetter {
    type Model = Llama;
    type Batch = Tensor<2, Int>;
    type Report = ();

    fn batch(&mut self, learner: &Learner<Llama>) -> Result<Tensor<2, Int>, TrainingError> {
        // A generator of its own for each step.
        let mut draw = ChaCha8Rng::seed_from_u64(self.seed);
        draw.set_stream(learner.step() as u64);
        let mut ids = Vec::with_capacity(self.batch * (WINDOW + 1));
        for _ in 0..self.batch {
            let begin = draw.random_range(0..self.text.len() - WINDOW);
            let window = &self.text[begin..=begin + WINDOW];
            ids.extend(window.iter().map(|&id| id as i32));
        }
        let data = TensorData::new(ids, [self.batch, WINDOW + 1]);
        Ok(Tensor::from_data(data, learner.device()))
    }

    fn loss(&mut self, model: &Llama, ids: Tensor<2, Int>) -> Result<Tensor<1>, TrainingError> {
        let [batch, _] = ids.dims();
        let logits = model.forward(ids.clone().narrow(1, 0, WINDOW));
        let [_, _, letters] = logits.dims();
        let next = ids.narrow(1, 1, WINDOW).reshape([batch * WINDOW]);
        let loss = burn::nn::loss::CrossEntropyLossConfig::new().init(&logits.device());
        let logits = logits.reshape([batch * WINDOW, letters]);
        Ok(nabla_kernels::cross_entropy::cross_entropy(
            &loss, logits, next,
        ))
    }
}

pub(super) fn text(sizes: &Sizes, seed: u64) -> Result<Parts<HookedLanguageModel>, ClaimError> {
    let (ids, letters) = letters()?;
    // The last tenth is only measured on, and what comes before it only recorded.
    let (seen, unseen) = ids.split_at(ids.len() / 10 * 9);
    let config = LlamaConfig {
        vocabulary: letters,
        width: 64,
        hidden: 192,
        blocks: 2,
        heads: 4,
        key_heads: 4,
        context: WINDOW,
        epsilon: 1e-5,
        rope_base: 10_000.0,
    };
    let model = config.init(seed, &device()).map_err(wrong)?;
    let task = NextLetter {
        text: seen.to_vec(),
        batch: 32,
        seed,
    };
    let mut training = TrainerConfig {
        steps: sizes.language_steps,
        ..TrainerConfig::default()
    };
    training.schedule.warmup = 0.05;
    training.optimizer.learning_rate = Some(3e-3);
    let mut trainer = Trainer::new(training, task, model).map_err(wrong)?;
    trainer
        .run(None, &mut |_| ControlFlow::Continue(()))
        .map_err(wrong)?;
    let model = burn::module::Module::no_grad(trainer.model().clone());
    let model = HookedLanguageModel::new(Network::Llama(model), 1, device()).map_err(wrong)?;
    let windows = |text: &[u32], count: usize| -> Vec<Passages> {
        let step = (text.len() - WINDOW) / count;
        let starts = (0..count).map(|i| i * step);
        starts
            .map(|start| Passages::Text(text[start..start + WINDOW].to_vec()))
            .collect()
    };
    Ok(Parts {
        training: windows(seen, sizes.windows),
        measured: windows(unseen, sizes.measured),
        model,
    })
}
