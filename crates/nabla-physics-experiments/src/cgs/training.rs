//! Trainings of graph networks, and what they come to.

use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use nabla_claims::ClaimError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;
use nabla_physics::cgs::{Cgs, CgsConfig, GraphModel, StackedMessagePassing};
use nabla_physics::contracting_map::{Bound, ContractingMapConfig, Normalizer};
use nabla_physics::fixed_point::{Direction, EdgeMap, FixedPointSolver, most_steps};
use nabla_physics::graph_example::{GraphBatch, GraphExample};
use nabla_physics::ignn::IgnnConfig;
use nabla_physics::message_passing::Aggregator;
use nabla_physics::sse::SseConfig;
use nabla_train::schedule::{Decay, Schedule};
use serde::{Deserialize, Serialize};

use super::problems::{Problem, Range};
use crate::training::number;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Network {
    Cgs {
        gamma: f64,
        direction: Direction,
        normalizer: Normalizer,
        bound: Bound,
    },
    Stacked,
    Ignn,
    Sse,
}

impl Network {
    pub(super) fn cgs(gamma: f64) -> Self {
        Self::Cgs {
            gamma,
            direction: Direction::In,
            normalizer: Normalizer::Degree,
            bound: Bound::Clip,
        }
    }
}

/// Sizes of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Size {
    pub(super) layers: usize,
    pub(super) updates: usize,
    /// Graphs of a batch.
    pub(super) graphs: usize,
    /// Updates with one batch, which is the period of the learning rate; 1: it falls over the whole training.
    pub(super) redraw: usize,
    /// Graphs of each test.
    pub(super) tests: usize,
}

/// What a training has come to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// `R²`, or accuracy in percent: for graphs of the sizes of the training, and for larger ones.
    pub(super) quality: [f64; 2],
    pub(super) seconds: f64,
    pub(super) parameters: usize,
    /// Updates and quality for graphs of the sizes of the training.
    pub(super) curve: Vec<[f64; 2]>,
    /// Of convergent graph solvers.
    pub(super) steps: Option<Steps>,
}

/// The steps of inner iterations.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Steps {
    /// The most, of an untrained network, of the trained one, and for larger graphs.
    pub(super) most: [usize; 3],
    /// The share of graphs, of both sizes, for which steps don't come to an end without clip and normalisation.
    pub(super) diverging: f64,
}

const HEADS: usize = 16;
const POINTS_OF_CURVE: usize = 12;
const UNBOUNDED_STEPS: usize = 2000;

fn config(problem: Problem, layers: usize, map: ContractingMapConfig) -> CgsConfig {
    let config = CgsConfig::new(problem.features(), 1)
        .with_heads(HEADS)
        .with_hidden_layers(layers - 1)
        .with_of_graphs(problem.of_graphs())
        .with_map(map);
    match problem {
        Problem::Percolation => CgsConfig {
            activation: Activation::Silu,
            aggregator: Aggregator::Mean,
            ..config
        },
        _ => config,
    }
}

/// Mean and standard deviation of targets.
#[derive(Clone, Copy, Debug)]
struct Scale {
    mean: f64,
    deviation: f64,
}

fn drawn(
    problem: Problem,
    range: Range,
    count: usize,
    noise: &mut SeededNoise,
) -> Result<Vec<GraphExample>, ClaimError> {
    (0..count).map(|_| problem.draw(range, noise)).collect()
}

struct Setup {
    problem: Problem,
    size: Size,
    seed: u64,
    scale: Scale,
    /// Of both ranges.
    tests: [GraphBatch; 2],
    /// Each graph of the tests alone.
    alone: Vec<GraphBatch>,
}

/// Trains a network, and tests it.
pub(super) fn measured(
    network: Network,
    problem: Problem,
    size: Size,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let device = Device::flex();
    let mut noise = SeededNoise::new(seed, 0);
    let mut draw = |range| drawn(problem, range, size.tests, &mut noise);
    let (tests, larger) = (draw(Range::Trained)?, draw(Range::Larger)?);
    let targets: Vec<f64> = draw(Range::Trained)?
        .iter()
        .flat_map(|example| example.targets().collect::<Vec<f64>>())
        .collect();
    let mean = targets.iter().sum::<f64>() / targets.len() as f64;
    let squares = targets.iter().map(|x| (x - mean).powi(2));
    let scale = Scale {
        mean,
        deviation: (squares.sum::<f64>() / targets.len() as f64).sqrt(),
    };
    let batch = |examples: &[GraphExample]| {
        GraphBatch::new(examples, &device).map_err(ClaimError::experiment)
    };
    let alone = tests.iter().chain(&larger);
    let setup = Setup {
        problem,
        size,
        seed,
        scale,
        tests: [batch(&tests)?, batch(&larger)?],
        alone: alone
            .map(|example| batch(std::slice::from_ref(example)))
            .collect::<Result<_, _>>()?,
    };
    let tracked = device.clone().autodiff();
    let mut weights = SeededNoise::new(seed, 1);
    let plain = config(problem, size.layers, ContractingMapConfig::new(0.5));
    match network {
        Network::Cgs {
            gamma,
            direction,
            normalizer,
            bound,
        } => {
            let map = ContractingMapConfig::new(gamma)
                .with_direction(direction)
                .with_normalizer(normalizer)
                .with_bound(bound);
            let config = config(problem, size.layers, map);
            let model = config.init(&tracked, &mut weights);
            let model = model.map_err(ClaimError::experiment)?;
            if problem.of_graphs() {
                return Ok(setup.train(model, Ok)?.1);
            }
            let untrained = setup.most_steps(&model.valid(), 0)?;
            let (model, mut outcome) = setup.train(model, Ok)?;
            let model = model.valid();
            outcome.steps = Some(Steps {
                most: [
                    untrained,
                    setup.most_steps(&model, 0)?,
                    setup.most_steps(&model, 1)?,
                ],
                diverging: setup.diverging(&model, gamma, direction)?,
            });
            Ok(outcome)
        }
        Network::Stacked => {
            let model = StackedMessagePassing::new(&plain, &tracked, &mut weights);
            Ok(setup.train(model.map_err(ClaimError::experiment)?, Ok)?.1)
        }
        Network::Ignn => {
            let model = IgnnConfig::new(plain).init(&tracked, &mut weights);
            let model = model.map_err(ClaimError::experiment)?;
            let projected = |model: nabla_physics::ignn::Ignn| {
                model.projected().map_err(ClaimError::experiment)
            };
            Ok(setup.train(model, projected)?.1)
        }
        Network::Sse => {
            let model = SseConfig::new(plain).init(&tracked, &mut weights);
            Ok(setup.train(model.map_err(ClaimError::experiment)?, Ok)?.1)
        }
    }
}

impl Setup {
    fn train<M: Module + GraphModel>(
        &self,
        mut model: M,
        after: impl Fn(M) -> Result<M, ClaimError>,
    ) -> Result<(M, Outcome), ClaimError> {
        let device = Device::flex().autodiff();
        let mut data = SeededNoise::new(self.seed, 2);
        let mut optimizer = AdamConfig::new().init();
        let Size {
            updates,
            graphs,
            redraw,
            ..
        } = self.size;
        let schedule = Schedule {
            decay: match redraw {
                1 => Decay::Cosine { floor: 0.0 },
                period => Decay::CosineRestarts { period, floor: 0.0 },
            },
            ..Schedule::default()
        };
        let mut batch = None;
        let mut curve = Vec::new();
        let mut seconds = 0.0;
        for update in 0..updates {
            let begun = Instant::now();
            if update % redraw == 0 {
                let examples = drawn(self.problem, Range::Trained, graphs, &mut data)?;
                let made = GraphBatch::new(&examples, &device);
                batch = Some(made.map_err(ClaimError::experiment)?);
            }
            let Some(batch) = &batch else { continue };
            let found = model
                .predict(&batch.graph, batch.nodes.clone(), batch.edges.clone())
                .map_err(ClaimError::experiment)?;
            let loss = self.loss(found, batch.targets.clone());
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            let rate = 1e-3 * schedule.share(update, updates);
            model = after(optimizer.step(rate, model, gradients))?;
            seconds += begun.elapsed().as_secs_f64();
            let every = (updates / POINTS_OF_CURVE).max(1);
            if (update + 1) % every == 0 {
                curve.push([(update + 1) as f64, self.quality(&model.valid(), 0)?]);
            }
        }
        let tested = model.valid();
        let outcome = Outcome {
            quality: [self.quality(&tested, 0)?, self.quality(&tested, 1)?],
            seconds,
            parameters: model.num_params(),
            curve,
            steps: None,
        };
        Ok((model, outcome))
    }

    /// The mean squared error of standardised targets, or the cross-entropy.
    fn loss(&self, found: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        if self.problem.of_graphs() {
            let signs = targets * -2.0 + 1.0;
            return Activation::Softplus.forward(found * signs).mean();
        }
        let targets = (targets - self.scale.mean) / self.scale.deviation;
        (found - targets).square().mean()
    }

    /// `R²` or the accuracy, of the graphs of a test.
    fn quality(&self, model: &impl GraphModel, test: usize) -> Result<f64, ClaimError> {
        let batch = &self.tests[test];
        let found = model
            .predict(&batch.graph, batch.nodes.clone(), batch.edges.clone())
            .map_err(ClaimError::experiment)?;
        let targets = batch.targets.clone();
        if self.problem.of_graphs() {
            let right = found.greater_elem(0.0).equal(targets.greater_elem(0.5));
            return Ok(100.0 * number(right.float().mean()));
        }
        let found = found * self.scale.deviation + self.scale.mean;
        let around = targets.clone() - targets.clone().mean().unsqueeze();
        let errors = number((found - targets).square().mean());
        Ok(1.0 - errors / number(around.square().mean()))
    }

    /// The most steps of a graph of a test.
    fn most_steps(&self, model: &Cgs, test: usize) -> Result<usize, ClaimError> {
        let batch = &self.tests[test];
        let found = model.fixed_point(&batch.graph, batch.nodes.clone(), batch.edges.clone());
        Ok(found.map_err(ClaimError::experiment)?.iterations)
    }

    /// The share of graphs for which steps with the logits themselves don't come to an end.
    fn diverging(&self, model: &Cgs, gamma: f64, direction: Direction) -> Result<f64, ClaimError> {
        let mut count = 0;
        for batch in &self.alone {
            let (logits, offsets) = model
                .encode(&batch.graph, batch.nodes.clone(), batch.edges.clone())
                .map_err(ClaimError::experiment)?;
            let map = EdgeMap::new(batch.graph.clone(), direction, logits, offsets);
            let map = map.map_err(ClaimError::experiment)?.with_gamma(gamma);
            let solver = FixedPointSolver::Picard {
                tolerance: 1e-6,
                most: Some(UNBOUNDED_STEPS),
            };
            count += usize::from(map.solve(&solver).is_err());
        }
        Ok(count as f64 / self.alone.len() as f64)
    }
}

/// The largest difference of the implicit gradient from that through unrolled steps, as a share of the largest number: by
/// offsets and weights of the map of an untrained network, in doubles.
pub(super) fn gradient_difference(gamma: f64, seed: u64) -> Result<f64, ClaimError> {
    let device = Device::flex().autodiff();
    let mut noise = SeededNoise::new(seed, 0);
    let examples = drawn(Problem::Values, Range::Trained, 4, &mut noise)?;
    let batch = GraphBatch::new(&examples, &device).map_err(ClaimError::experiment)?;
    let config = config(Problem::Values, 2, ContractingMapConfig::new(gamma));
    let model = config
        .init(&device, &mut SeededNoise::new(seed, 1))
        .map_err(ClaimError::experiment)?;
    let model = nabla_grad::flat::with_float_type(model, burn::tensor::DType::F64);
    let cast = |x: Tensor<2>| x.inner().cast(burn::tensor::DType::F64).autodiff();
    let (logits, offsets) = model
        .encode(&batch.graph, cast(batch.nodes), cast(batch.edges))
        .map_err(ClaimError::experiment)?;
    let solver = FixedPointSolver::Picard {
        tolerance: 1e-13,
        most: None,
    };
    let steps = most_steps(gamma, 1e-13).map_err(ClaimError::experiment)?;
    // Burn follows a graph backwards once: each way has leaves and a map of its own.
    let gradients = |implicit: bool| {
        let leaf = |x: &Tensor<2>| x.clone().inner().autodiff().require_grad();
        let leaves = [leaf(&logits), leaf(&offsets)];
        let map = ContractingMapConfig::new(gamma)
            .map(&batch.graph, leaves[0].clone(), leaves[1].clone())
            .map_err(ClaimError::experiment)?;
        let z = match implicit {
            true => map.solve(&solver).map_err(ClaimError::experiment)?.z,
            false => {
                let mut z = leaves[1].zeros_like();
                for _ in 0..steps {
                    z = map.apply(z).map_err(ClaimError::experiment)?;
                }
                z
            }
        };
        let gradients = z.square().mean().backward();
        let found = leaves.map(|leaf| leaf.grad(&gradients));
        Ok::<_, ClaimError>(found)
    };
    let mut worst: f64 = 0.0;
    for (found, expected) in gradients(true)?.into_iter().zip(gradients(false)?) {
        let (Some(found), Some(expected)) = (found, expected) else {
            return Ok(f64::NAN);
        };
        let largest = number(expected.clone().abs().max());
        worst = worst.max(number((found - expected).abs().max()) / largest);
    }
    Ok(worst)
}
