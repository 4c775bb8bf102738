//! M-FAC as a surgeon and as an optimizer.
//!
//! * **Pruning.** A network of 64, 64 and 32 hidden units is trained on the handwritten digits, and its
//!   matrices are pruned to 80, 90 and 95% of zeros, without further training; biases stay. M-FAC estimates
//!   the Fisher matrix of the remaining weights from the gradients of 256 examples, again for each of 16
//!   stages of the pruning. It is compared with blocks of 128 weights and with the diagonal of the same Fisher
//!   matrix (no weight compensates for another), both with as many stages and gradients; with M-FAC and the
//!   diagonal in a single stage; and with the magnitude of the weights, for which the number of stages makes
//!   no difference.
//! * **Training.** The network and the pictures of the other optimizers' claims, with learning rates found by
//!   a search, for M-FAC with a window of 32 and of 128 gradients, SGD with momentum and Adam. The search, which
//!   has not seen the test pictures, also chooses the window that is judged.
//! * **Cost.** The bytes that the optimizer keeps between two steps, and the time of one M-FAC step (a new
//!   gradient and a product), by the number of weights.

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::rate_fit::power_rate;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Series, Stage, Table, Task,
    Variant,
};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::per_example::per_example_gradients;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_optim::m_fac::{
    BlockFisher, InverseFisher, MFacConfig, SlidingFisher, StaticFisher, gradual_density,
    optimal_brain_surgeon,
};
use nabla_train::classification::{TrainingConfig, evaluate};
use nabla_train::classifier::Classifier;
use nabla_train::data_set::{DataConfig, DataSet};
use nabla_train::examples::Examples;
use nabla_train::initialization::he_normal;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::optimizer::Method;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::training_contest::{self, ACCURACY, Contest, LOSS, entrant};

const SURGEON: Variant = Variant::method("M-FAC");
const AT_ONCE: Variant = Variant::ablation("M-FAC, one part");
const BLOCKS: Variant = Variant::ablation("M-FAC, blocks of 128");
const DIAGONAL: Variant = Variant::baseline("diagonal Fisher");
const DIAGONAL_AT_ONCE: Variant = Variant::baseline("diagonal Fisher, one part");
const MAGNITUDE: Variant = Variant::baseline("magnitude");

const WINDOW_32: Variant = Variant::method("M-FAC optimizer, m = 32");
const WINDOW_128: Variant = Variant::method("M-FAC optimizer, m = 128");
const MOMENTUM: Variant = Variant::baseline("SGD with momentum");
const ADAM: Variant = Variant::baseline("Adam");

const TRAINING: Task = Task::named("Fashion-MNIST, searched rates");

const SPARSITIES: [(f64, Task); 3] = [
    (0.80, Task::named("digits, 80% pruned")),
    (0.90, Task::named("digits, 90% pruned")),
    (0.95, Task::named("digits, 95% pruned")),
];

const DAMPING: f64 = 1e-5;

/// How the weights to prune are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pruner {
    Surgeon,
    AtOnce,
    Blocks,
    Diagonal,
    DiagonalAtOnce,
    Magnitude,
}

impl Pruner {
    const ALL: [Self; 6] = [
        Self::Surgeon,
        Self::AtOnce,
        Self::Blocks,
        Self::Diagonal,
        Self::DiagonalAtOnce,
        Self::Magnitude,
    ];

    fn variant(self) -> Variant {
        match self {
            Self::Surgeon => SURGEON,
            Self::AtOnce => AT_ONCE,
            Self::Blocks => BLOCKS,
            Self::Diagonal => DIAGONAL,
            Self::DiagonalAtOnce => DIAGONAL_AT_ONCE,
            Self::Magnitude => MAGNITUDE,
        }
    }
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct MFacClaim;

/// The size of the experiment.
#[derive(Clone, Copy, Debug)]
struct Size {
    epochs: usize,
    gradients: usize,
    parts: usize,
    sparsities: usize,
    contest_epochs: usize,
    /// Numbers of weights whose steps are timed, and whose memory is counted.
    dimensions: &'static [usize],
}

impl Claim for MFacClaim {
    fn slug(&self) -> &str {
        "m-fac"
    }

    /// Version 2: the diagonal Fisher is estimated in as many stages as M-FAC's, and memory is counted.
    fn version(&self) -> u32 {
        2
    }

    fn statement(&self) -> &str {
        "Products with the inverse of the empirical Fisher matrix, at a cost that is linear in the number d \
         of weights and without a d x d matrix, give competitive results in pruning and in optimization, \
         with less computation than other second-order methods (of which none is measured here). In \
         detail: they prune better with more of the matrix."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds. At 80, 90 and 95% of zeros M-FAC's test accuracy is above that of magnitude \
         and of the diagonal Fisher, which is estimated as often and from as many gradients. With searched \
         rates, and with the one of two windows that the search chose, M-FAC's test accuracy is not below \
         that of SGD with momentum, nor of Adam, by more than the other's spread. What the optimizer keeps \
         between two steps grows as d to the power of 0.95 to 1.05. In detail: at 95% M-FAC is above its own \
         with one part and with blocks; at each sparsity M-FAC with one part is above the diagonal Fisher \
         with one part; the time of a step grows as d to the power of 0.8 to 1.2."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() {
            Size {
                epochs: 3,
                gradients: 16,
                parts: 2,
                sparsities: 1,
                contest_epochs: 1,
                dimensions: &[10_000, 40_000],
            }
        } else {
            Size {
                epochs: 15,
                gradients: 256,
                parts: 16,
                sparsities: SPARSITIES.len(),
                contest_epochs: 6,
                dimensions: &[100_000, 200_000, 400_000, 800_000],
            }
        };
        let sparsities = &SPARSITIES[..size.sparsities];
        let mut table = Table::new(
            bench.seeds(),
            training_contest::metrics(),
            [
                SURGEON,
                AT_ONCE,
                BLOCKS,
                DIAGONAL,
                DIAGONAL_AT_ONCE,
                MAGNITUDE,
                WINDOW_32,
                WINDOW_128,
                MOMENTUM,
                ADAM,
            ],
            sparsities
                .iter()
                .map(|(_, task)| task.clone())
                .chain([TRAINING]),
        )?;
        let mut notes = Vec::new();
        let whole = pruning(bench, size, sparsities, &mut table)?;
        notes.push(format!(
            "Pruning: the whole network has a mean test accuracy of {whole:.2}%; {} gradients of one \
             example each, damping 1e-5, {} parts (for the diagonal Fisher, too, and one part where it is \
             said), no training after it.",
            size.gradients, size.parts
        ));

        let named = |name: &str| Method::named(name).map_err(ClaimError::experiment);
        let window = |window: usize| {
            let method = named("m-fac")?.with("window", window);
            method.map_err(ClaimError::experiment)
        };
        let contest = Contest::new(
            bench.context(),
            size.contest_epochs,
            vec![
                entrant(WINDOW_32, window(32)?, 0.0).around(1e-2),
                entrant(WINDOW_128, window(128)?, 0.0).around(1e-2),
                entrant(MOMENTUM, named("momentum")?, 0.0),
                entrant(ADAM, named("adam")?, 0.0).around(3e-3),
            ],
        )?;
        notes.push(format!(
            "{} The rates are around 0.01 for M-FAC and 0.003 for Adam, since the best around the \
             customary 0.001 were the highest; around the customary 0.1 for SGD.",
            contest.describe()
        ));
        let found = contest.search(bench, &mut notes)?;
        // The search has not seen the test pictures, so it may choose the window as well as the rate.
        let windows = contest.entrants().iter().zip(&found);
        let windows = windows.filter(|(e, _)| [WINDOW_32, WINDOW_128].contains(&e.variant));
        let chosen = windows.max_by(|(_, a), (_, b)| {
            let accuracy = a.accuracy.total_cmp(&b.accuracy);
            accuracy.then(b.loss.total_cmp(&a.loss))
        });
        let Some((chosen, there)) = chosen else {
            return Err(ClaimError::experiment("no window of M-FAC takes part"));
        };
        let window = &chosen.variant;
        notes.push(format!(
            "The one of M-FAC's windows that is judged had the higher accuracy in the search of learning \
             rates: {window}, {:.1}%. With two windows M-FAC had twice as many trials as the others.",
            there.accuracy
        ));
        let rates: Vec<f64> = found.iter().map(|found| found.rate).collect();
        let curves = contest.hold_with(bench, &rates, &TRAINING, &mut table, &mut |_, _| {})?;

        let costs = costs(bench, size.dimensions)?;
        notes.push(
            "Not measured: other second-order methods, such as K-FAC, so that the lower overhead is untested; \
             the paper's own networks and data. Of the cost, memory is counted to the byte; operations are \
             not, since nothing here can count those that are made, and a formula for them could not fail. \
             The clock, by which the time is a detail, also sees that large windows do not fit into the \
             caches."
                .to_owned(),
        );
        let checks = checks(&table, sparsities, &costs, window)?;
        let times = costs.iter().map(|c| [c.weights as f64, c.seconds]);
        let mut measurement = Measurement::new(table, checks).with_plot(curves).with_plot(
            LinePlot::new(
                "One M-FAC step, window of 64",
                "weights d",
                "seconds per step",
            )
            .log_x()
            .log_y()
            .with_series(Series::new("new gradient and product", times)),
        );
        measurement.notes = notes;
        Ok(measurement)
    }
}

/// Test accuracy, in [0, 1], and test loss.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Quality {
    accuracy: f64,
    loss: f64,
}

/// Prunes the networks of all seeds; returns the mean accuracy of the unpruned networks in percent.
fn pruning(
    bench: &Bench<'_>,
    size: Size,
    sparsities: &[(f64, Task)],
    table: &mut Table,
) -> Result<f64, ClaimError> {
    let data = DataConfig::default()
        .open()
        .map_err(ClaimError::experiment)?;
    // A network is trained for the first of its cells that is not stored.
    let mut trained: Option<(u64, Network<'_>)> = None;
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        points.push((seed, None));
        for (sparsity, task) in sparsities {
            points.extend(Pruner::ALL.map(|pruner| (seed, Some((*sparsity, task, pruner)))));
        }
    }
    let found = bench.measure(
        &Stage::new("pruning", &size),
        &points,
        |(seed, pruned)| match pruned {
            None => Cell::whole().part("the whole network").seed(*seed),
            Some((_, task, pruner)) => {
                let cell = Cell::of(task).variant(&pruner.variant());
                cell.seed(*seed)
            }
        },
        |&(seed, pruned)| {
            let network = match trained.take() {
                Some((of, network)) if of == seed => network,
                _ => Network::train(&data, size.epochs, seed, &bench.context().device)?,
            };
            let (_, network) = trained.insert((seed, network));
            match pruned {
                None => network.quality(),
                Some((sparsity, _, pruner)) => {
                    network.prune(pruner, sparsity, size, seed)?.quality()
                }
            }
        },
    )?;
    let mut whole = 0.0;
    for (&(seed, pruned), quality) in points.iter().zip(found) {
        let percent = 100.0 * quality.accuracy;
        match pruned {
            None => whole += percent / bench.seeds().len() as f64,
            Some((_, task, pruner)) => {
                let variant = pruner.variant();
                table.record(task, &variant, &ACCURACY, seed, percent)?;
                table.record(task, &variant, &LOSS, seed, quality.loss)?;
            }
        }
    }
    Ok(whole)
}

/// A trained network and its data.
struct Network<'a> {
    model: Mlp,
    data: &'a DataSet,
    layout: ParameterLayout,
    device: Device,
}

impl<'a> Network<'a> {
    fn train(
        data: &'a DataSet,
        epochs: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ClaimError> {
        let device = device.clone().autodiff();
        let hidden = vec![64, 64, 32];
        let model = MlpConfig { hidden }
            .init(data.shape.features(), data.classes.len(), &device)
            .map_err(ClaimError::experiment)?;
        let model = he_normal(model, seed).map_err(ClaimError::experiment)?;
        let config = TrainingConfig {
            epochs,
            seed,
            ..TrainingConfig::default()
        };
        let mut trainer = config
            .trainer(&data.training, &data.test, data.shape, model)
            .map_err(ClaimError::experiment)?;
        while trainer.step() < trainer.steps() {
            trainer.train_step().map_err(ClaimError::experiment)?;
        }
        let model = trainer.model().clone();
        Ok(Self {
            layout: ParameterLayout::trainable(&model).map_err(ClaimError::experiment)?,
            model,
            data,
            device,
        })
    }

    fn quality(&self) -> Result<Quality, ClaimError> {
        let (loss, accuracy) = evaluate(&self.model, &self.data.test, self.data.shape)
            .map_err(ClaimError::experiment)?;
        Ok(Quality { accuracy, loss })
    }

    /// The parameters of the matrices, `[…, d]`, from a vector of all parameters, `[…, all]`.
    fn matrices<const D: usize>(&self, all: Tensor<D>) -> Tensor<D> {
        let parts = self.layout.entries().iter().filter(|e| e.shape().len() > 1);
        Tensor::cat(
            parts
                .map(|e| all.clone().slice_dim(D - 1, e.range()))
                .collect(),
            D - 1,
        )
    }

    /// The network with other matrices, `[d]`.
    fn with_matrices(&self, weights: &Tensor<1>) -> Result<Self, ClaimError> {
        let all = self
            .layout
            .flatten_parameters(&self.model)
            .map_err(ClaimError::experiment)?;
        let mut taken = 0;
        let parts = self.layout.entries().iter().map(|entry| {
            if entry.shape().len() > 1 {
                let from = taken;
                taken += entry.num_elements();
                weights.clone().slice_dim(0, from..taken)
            } else {
                all.clone().slice_dim(0, entry.range())
            }
        });
        let vector = Tensor::cat(parts.collect(), 0);
        Ok(Self {
            model: self
                .layout
                .with_parameters(self.model.clone(), vector)
                .map_err(ClaimError::experiment)?,
            layout: self.layout.clone(),
            data: self.data,
            device: self.device.clone(),
        })
    }

    /// The gradients of the matrices at single training examples, `[count, d]`, different examples for each
    /// stage of a pruning.
    fn gradients(&self, count: usize, seed: u64, part: usize) -> Result<Tensor<2>, ClaimError> {
        let Examples { features, labels } = &self.data.training;
        let width = self.data.shape.features();
        let mut noise = SeededNoise::new(seed, part as u64);
        let chosen: Vec<usize> = (0..count)
            .map(|_| noise.random_range(0..labels.len()))
            .collect();
        let loss = CrossEntropyLossConfig::new().init(&self.device);
        let gradients =
            per_example_gradients(&self.model, &self.layout, count, |model: &Mlp, i| {
                let example = chosen[i];
                let row = features[example * width..(example + 1) * width].to_vec();
                let x = Tensor::<2>::from_data(TensorData::new(row, [1, width]), &self.device);
                let label = TensorData::new(vec![labels[example] as i32], [1]);
                let target = Tensor::<1, Int>::from_data(label, &self.device);
                loss.forward(model.logits(x), target)
            })
            .map_err(ClaimError::experiment)?;
        Ok(self.matrices(gradients))
    }

    /// Returns the network pruned to a share of zeros in its matrices.
    fn prune(
        &self,
        pruner: Pruner,
        sparsity: f64,
        size: Size,
        seed: u64,
    ) -> Result<Self, ClaimError> {
        let present = self
            .layout
            .flatten_parameters(&self.model)
            .map_err(ClaimError::experiment)?;
        let mut weights = self.matrices(present); // [d]
        let [d] = weights.dims();
        let mut mask = vec![true; d];
        let parts = match pruner {
            Pruner::Surgeon | Pruner::Blocks | Pruner::Diagonal => size.parts,
            // The smallest weights are the same in every stage.
            Pruner::AtOnce | Pruner::DiagonalAtOnce | Pruner::Magnitude => 1,
        };
        let mut network = self.with_matrices(&weights)?;
        for part in 1..=parts {
            let goal = 1.0 - gradual_density(1.0, 1.0 - sparsity, part, parts);
            let there: Vec<f32> = mask.iter().map(|&m| f32::from(u8::from(m))).collect();
            let there = Tensor::<1>::from_data(TensorData::new(there, [d]), &weights.device());
            if pruner == Pruner::Magnitude {
                let score = values(&weights)?;
                (weights, mask) = drop_least(&weights, &score, goal)?;
            } else {
                // Pruned weights neither move nor make others move.
                let gradients =
                    network.gradients(size.gradients, seed, part)? * there.unsqueeze::<2>();
                if matches!(pruner, Pruner::Diagonal | Pruner::DiagonalAtOnce) {
                    let fisher = values(&gradients.square().mean_dim(0).squeeze_dim::<1>(0))?;
                    let w = values(&weights)?;
                    let score: Vec<f32> = w
                        .iter()
                        .zip(fisher)
                        .map(|(w, f)| w * w * (f + DAMPING as f32))
                        .collect();
                    (weights, mask) = drop_least(&weights, &score, goal)?;
                } else if pruner == Pruner::Blocks {
                    let fisher = BlockFisher::new(gradients, DAMPING, 128)
                        .map_err(ClaimError::experiment)?;
                    (weights, mask) = operate(&weights, &mask, &fisher, goal)?;
                } else {
                    let fisher =
                        StaticFisher::new(gradients, DAMPING).map_err(ClaimError::experiment)?;
                    (weights, mask) = operate(&weights, &mask, &fisher, goal)?;
                }
            }
            network = self.with_matrices(&weights)?;
        }
        Ok(network)
    }
}

fn values(tensor: &Tensor<1>) -> Result<Vec<f32>, ClaimError> {
    tensor
        .clone()
        .into_data()
        .try_to_vec::<f32>()
        .map_err(|error| ClaimError::experiment(format!("{error:?}")))
}

/// The surgeon's weights and which of them remain.
fn operate(
    weights: &Tensor<1>,
    mask: &[bool],
    fisher: &impl InverseFisher,
    sparsity: f64,
) -> Result<(Tensor<1>, Vec<bool>), ClaimError> {
    let pruned =
        optimal_brain_surgeon(weights, mask, fisher, sparsity).map_err(ClaimError::experiment)?;
    Ok((pruned.weights, pruned.mask))
}

/// The weights without those of the least score, in absolute value.
fn drop_least(
    weights: &Tensor<1>,
    score: &[f32],
    sparsity: f64,
) -> Result<(Tensor<1>, Vec<bool>), ClaimError> {
    let mut order: Vec<usize> = (0..score.len()).collect();
    order.sort_by(|&a, &b| score[a].abs().total_cmp(&score[b].abs()).then(a.cmp(&b)));
    let mut mask = vec![true; score.len()];
    for &i in &order[..(sparsity * score.len() as f64).round() as usize] {
        mask[i] = false;
    }
    let kept: Vec<f32> = values(weights)?
        .into_iter()
        .zip(&mask)
        .map(|(w, &there)| if there { w } else { 0.0 })
        .collect();
    let kept = TensorData::new(kept, [score.len()]);
    Ok((Tensor::from_data(kept, &weights.device()), mask))
}

/// The cost of M-FAC with this number of weights.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Cost {
    weights: usize,
    /// The time of a new gradient and a product; the least of several runs.
    seconds: f64,
    /// The size of the state, as written, from which the optimizer resumes bit for bit after a step.
    bytes: usize,
}

fn costs(bench: &Bench<'_>, dimensions: &[usize]) -> Result<Vec<Cost>, ClaimError> {
    const WINDOW: usize = 64;
    let device = &bench.context().device;
    bench.measure(
        &Stage::new("cost of a step", &WINDOW),
        dimensions,
        |d| Cell::whole().part(format!("{d} weights")),
        |&d| {
            let mut noise = SeededNoise::new(0, 0);
            let mut gradient =
                || Tensor::<1>::from_data(TensorData::new(noise.normal_values(d), [d]), device);
            let mut fisher =
                SlidingFisher::new(d, WINDOW, DAMPING, device).map_err(ClaimError::experiment)?;
            let mut seconds = f64::INFINITY;
            for _ in 0..8 {
                let gradient = gradient();
                let begun = Instant::now();
                fisher.push(&gradient).map_err(ClaimError::experiment)?;
                let product = fisher.solve(&gradient).map_err(ClaimError::experiment)?;
                // Reading a number waits until it is computed.
                let _ = values(&product.slice_dim(0, 0..1))?;
                seconds = seconds.min(begun.elapsed().as_secs_f64());
            }
            drop(fisher);
            let config = MFacConfig::new().with_window(WINDOW).with_damping(DAMPING);
            let mut optimizer = config.init().map_err(ClaimError::experiment)?;
            let weights = Tensor::<1>::zeros([d], device);
            optimizer
                .step_vector(1e-3, weights, gradient())
                .map_err(ClaimError::experiment)?;
            let record = optimizer.into_bytes().map_err(ClaimError::experiment)?;
            Ok(Cost {
                weights: d,
                seconds,
                bytes: record.len(),
            })
        },
    )
}

/// The headlines test the abstract: linear cost, competitive pruning, competitive optimization.
fn checks(
    table: &Table,
    sparsities: &[(f64, Task)],
    costs: &[Cost],
    window: &Variant,
) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for (sparsity, task) in sparsities {
        for other in [MAGNITUDE, DIAGONAL] {
            let check = table.compare(task, &ACCURACY, &SURGEON, &other)?;
            checks.push(check.headline());
        }
        checks.push(table.compare(task, &ACCURACY, &AT_ONCE, &DIAGONAL_AT_ONCE)?);
        if *sparsity == 0.95 {
            for other in [AT_ONCE, BLOCKS] {
                checks.push(table.compare(task, &ACCURACY, &SURGEON, &other)?);
            }
        }
    }
    for other in [MOMENTUM, ADAM] {
        let check = table.not_worse(&TRAINING, &ACCURACY, window, &other)?;
        // The chosen window is one of the numbers.
        let text = format!(
            "{TRAINING}, {ACCURACY}: M-FAC with the window that the search chose is not below {other} by \
             more than the spread of the latter"
        );
        let check = Check::new(text, check.holds, format!("{window}: {}", check.detail));
        checks.push(check.headline());
    }
    let power = |cost: fn(&Cost) -> f64| {
        let points = costs.iter().map(|c| (c.weights as f64, cost(c)));
        power_rate(points).map_or(f64::NAN, |fit| fit.rate)
    };
    let memory = power(|c| c.bytes as f64);
    let sizes: Vec<String> = costs
        .iter()
        .map(|c| format!("{} of {} weights", c.bytes, c.weights))
        .collect();
    let check = Check::new(
        "what the optimizer keeps between two steps grows as d to the power of 0.95 to 1.05",
        (0.95..=1.05).contains(&memory),
        format!("power {memory:.4}; bytes: {}", sizes.join(", ")),
    );
    checks.push(check.headline());
    let time = power(|c| c.seconds);
    checks.push(Check::new(
        "the time of a step grows as d to the power of 0.8 to 1.2",
        (0.8..=1.2).contains(&time),
        format!("power {time:.3}"),
    ));
    Ok(checks)
}
