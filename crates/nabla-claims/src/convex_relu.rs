//! Two-layer ReLU networks by convex programs against back-propagation.
//!
//! The data are handwritten digits that the program carries, 3 against 8, in their first principal
//! components, scaled to at most 1, with a bias. Three things are measured:
//!
//! * *global optimality*: 10 examples in 2 components, with all activation patterns: the objective of
//!   ADMM's network, of the sampled convex program (SCP) and of networks by back-propagation, for the
//!   squared, the hinge and the cross-entropy loss. Back-propagation has the best of three learning
//!   rates and two widths, by the objective itself;
//! * *the first iterations*: 100 examples in 8 components, 40 sampled patterns, the cross-entropy loss:
//!   the test accuracy of ADMM's network after 10 iterations and at the end;
//! * *robustness*: 60 examples in 5 components, the hinge loss, perturbations of each component by up to
//!   `ε = 0.15`: the accuracy on test examples as they are and after an attack by projected gradients
//!   (PGD), of the robust convex program, the plain one, and back-propagation with and without PGD in
//!   training, again with the best of three learning rates (by the objective, or by the loss under
//!   attack, of the training examples).
//!
//! A seed draws the examples, the patterns, the first layer of SCP and the start of back-propagation.

use std::ops::ControlFlow;

use faer::Mat;
use nabla_data::{LabelledPictures, digits};
use nabla_solve::convex_relu::{
    ActivationPatterns, Admm, Attack, BackPropagation, ConvexReluError, ConvexReluProblem,
    DenseExamples, Form, InteriorPoint, Loss, PatternSampling, SampledProgram, TwoLayerRelu,
};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Check, Measurement, Metric, Table, Variant};
use crate::plot::{LinePlot, Series};

const OBJECTIVE: &str = "objective";
const ACCURACY: &str = "test accuracy";
const ATTACKED: &str = "test accuracy under PGD";

const ADMM: &str = "ADMM";
const ADMM_EARLY: &str = "ADMM, 10 iterations";
const SCP: &str = "SCP";
const ROBUST: &str = "robust convex program";
const PLAIN: &str = "convex program";
const BACK: &str = "back-propagation";
const BACK_PGD: &str = "back-propagation on PGD examples";

const FIRST: &str = "first iterations, cross-entropy";
const ROBUSTNESS: &str = "robustness, hinge";

const LOSSES: [(Loss, &str); 3] = [
    (Loss::Squared, "all patterns, squared"),
    (Loss::Hinge, "all patterns, hinge"),
    (Loss::BinaryCrossEntropy, "all patterns, cross-entropy"),
];

const RATES: [f64; 3] = [0.003, 0.01, 0.03];
const BETA: f64 = 0.05;
const EPSILON: f64 = 0.15;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvexReluClaim;

/// How much is run.
#[derive(Clone, Copy)]
struct Size {
    /// Iterations of back-propagation.
    back: usize,
    /// Units of SCP.
    units: usize,
    /// Examples and components of the robust program, and its patterns.
    robust: [usize; 3],
    losses: usize,
}

impl Claim for ConvexReluClaim {
    fn slug(&self) -> &str {
        "convex-relu"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "Efficient Global Optimization of Two-layer ReLU Networks: Quadratic-time Algorithms and Adversarial Training",
            "Bai, Gautam, Sojoudi",
            2022,
            "2201.01965",
        )
    }

    fn statement(&self) -> &str {
        "Two-layer ReLU networks can be trained to the global optimum by convex programs: ADMM \
         converges to it and has a high accuracy after its first iterations, a sampled program comes \
         near it, and robust programs give networks that withstand attacks better than adversarial \
         back-propagation."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds. With all patterns and each loss, ADMM's network has an objective no \
         more than 0.1% above that of back-propagation and of SCP. Its network of the first 10 \
         iterations has a test accuracy at most 2 points below the final one. Under PGD the robust \
         program's network has a higher test accuracy than the plain program's and than that of \
         back-propagation on PGD examples."
    }

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let size = if context.quick {
            Size {
                back: 500,
                units: 200,
                robust: [16, 3, 5],
                losses: 1,
            }
        } else {
            Size {
                back: 10_000,
                units: 2_000,
                robust: [60, 5, 20],
                losses: 3,
            }
        };
        let losses = &LOSSES[..size.losses];
        let mut table = Table::new(
            &context.seeds,
            [
                Metric::lower(OBJECTIVE, ""),
                Metric::higher(ACCURACY, ""),
                Metric::higher(ATTACKED, ""),
            ],
            [
                Variant::method(ADMM),
                Variant::method(ROBUST),
                Variant::ablation(ADMM_EARLY),
                Variant::ablation(SCP),
                Variant::ablation(PLAIN),
                Variant::baseline(BACK),
                Variant::baseline(BACK_PGD),
            ],
            losses
                .iter()
                .map(|(_, name)| *name)
                .chain([FIRST, ROBUSTNESS]),
        )?;
        let pictures = digits().map_err(ClaimError::experiment)?;
        let stages = (losses.len() + 2) as u64;
        context
            .progress
            .begin("convex ReLU", stages * context.seeds.len() as u64);
        let mut accuracies = Vec::new();
        for &seed in &context.seeds {
            let [examples, _] = components(&pictures, 10, 2, seed)?;
            for &(loss, group) in losses {
                for (variant, objective) in all_patterns(&examples, loss, size, seed)? {
                    table.record(group, variant, OBJECTIVE, seed, objective)?;
                }
                context.progress.advance(1);
            }
            let curve = first_iterations(&pictures, seed, context.quick, &mut table)?;
            accuracies.push(Series::new(format!("seed {seed}"), curve));
            context.progress.advance(1);
            robustness(&pictures, size, seed, &mut table)?;
            context.progress.advance(1);
        }
        let checks = checks(&table, losses)?;
        let mut plot = LinePlot::new(
            "Test accuracy of ADMM's network",
            "iteration",
            "test accuracy",
        )
        .log_x();
        for curve in accuracies {
            plot = plot.with_series(curve);
        }
        Ok(Measurement::new(table, checks).with_plot(plot).with_note(
            "The objective counts the loss of all examples and the weights (β = 0.05). With sampled \
             patterns instead of all, the convex program's optimum is above that of training, and \
             back-propagation can be lower: in the second group its objective stands beside ADMM's.",
        ))
    }
}

/// Digits 3 and 8 in their first principal components: some to train on, and the others.
fn components(
    pictures: &LabelledPictures,
    count: usize,
    components: usize,
    seed: u64,
) -> Result<[DenseExamples; 2], ClaimError> {
    let classes = [3u8, 8];
    let mut chosen: Vec<usize> = (0..pictures.len())
        .filter(|&i| classes.contains(&pictures.labels()[i]))
        .collect();
    chosen.shuffle(&mut StdRng::seed_from_u64(seed));
    let pixels: usize = pictures.shape().iter().product();
    let value = |k: usize, j: usize| f64::from(pictures.pixels(chosen[k])[j]);
    let means: Vec<f64> = (0..pixels)
        .map(|j| (0..count).map(|k| value(k, j)).sum::<f64>() / count as f64)
        .collect();
    // Mean and components are those of the examples to train on.
    let centred = Mat::from_fn(chosen.len(), pixels, |k, j| value(k, j) - means[j]);
    let svd = centred
        .subrows(0, count)
        .thin_svd()
        .map_err(|error| ClaimError::experiment(format!("{error:?}")))?;
    let scores = centred.as_ref() * svd.V().subcols(0, components);
    let largest = scores.subrows(0, count).norm_max();
    let label = |k: usize| {
        if pictures.labels()[chosen[k]] == classes[1] {
            1.0
        } else {
            -1.0
        }
    };
    let part = |from: usize, to: usize| {
        let features = Mat::from_fn(to - from, components, |k, j| {
            scores[(from + k, j)] / largest
        });
        DenseExamples::from_matrix(features, (from..to).map(label).collect())
            .map_err(ClaimError::experiment)
    };
    Ok([part(0, count)?, part(count, chosen.len())?])
}

fn go<T>(_: T) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The least of `score` over the learning rates and widths; a rate that diverges is no candidate.
fn best_of(
    problem: &ConvexReluProblem,
    widths: &[usize],
    base: impl Fn(usize, f64) -> BackPropagation,
    score: impl Fn(&TwoLayerRelu) -> Result<f64, ConvexReluError>,
) -> Result<(TwoLayerRelu, f64), ClaimError> {
    let mut best: Option<(TwoLayerRelu, f64)> = None;
    for &width in widths {
        for rate in RATES {
            let network = match base(width, rate).train(problem, go) {
                Ok(network) => network,
                Err(ConvexReluError::Diverged(_)) => continue,
                Err(error) => return Err(ClaimError::experiment(error)),
            };
            let found = score(&network).map_err(ClaimError::experiment)?;
            if best.as_ref().is_none_or(|(_, least)| found < *least) {
                best = Some((network, found));
            }
        }
    }
    best.ok_or_else(|| ClaimError::experiment("back-propagation diverged at every learning rate"))
}

/// The objectives with all activation patterns, by variant.
fn all_patterns(
    examples: &DenseExamples,
    loss: Loss,
    size: Size,
    seed: u64,
) -> Result<[(&'static str, f64); 3], ClaimError> {
    let problem =
        ConvexReluProblem::new(examples, loss, BETA, true).map_err(ClaimError::experiment)?;
    let patterns =
        ActivationPatterns::enumerate(&problem, 1_000).map_err(ClaimError::experiment)?;
    let objective = |network: &TwoLayerRelu| network.objective(&problem);
    let convex = || -> Result<[f64; 2], ConvexReluError> {
        let admm = Admm::new().solve(&problem, &patterns, Form::Relu, go)?;
        let scp = SampledProgram::new(size.units)
            .with_seed(seed)
            .solve(&problem, go)?;
        Ok([objective(&admm.network())?, objective(&scp.network())?])
    };
    let [admm, scp] = convex().map_err(ClaimError::experiment)?;
    let (_, back) = best_of(
        &problem,
        &[5, 50],
        |width, rate| BackPropagation::new(width, rate, size.back).with_seed(seed),
        objective,
    )?;
    Ok([(ADMM, admm), (SCP, scp), (BACK, back)])
}

/// The accuracy of ADMM's network over its iterations.
fn first_iterations(
    pictures: &LabelledPictures,
    seed: u64,
    quick: bool,
    table: &mut Table,
) -> Result<Vec<[f64; 2]>, ClaimError> {
    let (count, number, most) = if quick {
        (40, 10, 100)
    } else {
        (100, 40, 1_000)
    };
    let [examples, test] = components(pictures, count, 8, seed)?;
    let problem = ConvexReluProblem::new(&examples, Loss::BinaryCrossEntropy, BETA, true)
        .map_err(ClaimError::experiment)?;
    let patterns =
        ActivationPatterns::sample(&problem, PatternSampling::new(number).with_seed(seed))
            .map_err(ClaimError::experiment)?;
    let after = |iterations: usize| -> Result<[f64; 2], ConvexReluError> {
        let network = Admm::new()
            .with_max_iterations(iterations)
            .solve(&problem, &patterns, Form::Relu, go)?
            .network();
        Ok([network.accuracy(&test)?, network.objective(&problem)?])
    };
    let mut curve = Vec::new();
    for iterations in [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000] {
        if iterations > most {
            break;
        }
        let [accuracy, objective] = after(iterations).map_err(ClaimError::experiment)?;
        curve.push([iterations as f64, accuracy]);
        let variant = match iterations {
            10 => ADMM_EARLY,
            i if i == most => ADMM,
            _ => continue,
        };
        table.record(FIRST, variant, ACCURACY, seed, accuracy)?;
        table.record(FIRST, variant, OBJECTIVE, seed, objective)?;
    }
    let (network, objective) = best_of(
        &problem,
        &[50],
        |width, rate| BackPropagation::new(width, rate, most).with_seed(seed),
        |network| network.objective(&problem),
    )?;
    let accuracy = network.accuracy(&test).map_err(ClaimError::experiment)?;
    table.record(FIRST, BACK, ACCURACY, seed, accuracy)?;
    table.record(FIRST, BACK, OBJECTIVE, seed, objective)?;
    Ok(curve)
}

/// Accuracies under attack.
fn robustness(
    pictures: &LabelledPictures,
    size: Size,
    seed: u64,
    table: &mut Table,
) -> Result<(), ClaimError> {
    let [count, number, patterns] = size.robust;
    let [examples, test] = components(pictures, count, number, seed)?;
    let loss = Loss::Hinge;
    let problem =
        ConvexReluProblem::new(&examples, loss, BETA, true).map_err(ClaimError::experiment)?;
    let attack = Attack::pgd(EPSILON);
    let programs = || -> Result<[TwoLayerRelu; 2], ConvexReluError> {
        let sampling = PatternSampling::new(patterns).with_seed(seed);
        let perturbed = ActivationPatterns::sample_perturbed(&problem, sampling, EPSILON, 4)?;
        let robust =
            InteriorPoint::new()
                .with_epsilon(EPSILON)
                .solve(&problem, &perturbed, Form::Relu)?;
        let sampled = ActivationPatterns::sample(&problem, sampling)?;
        let plain = InteriorPoint::new().solve(&problem, &sampled, Form::Relu)?;
        Ok([robust.network(), plain.network()])
    };
    let [robust, plain] = programs().map_err(ClaimError::experiment)?;
    let back =
        |width: usize, rate: f64| BackPropagation::new(width, rate, size.back / 10).with_seed(seed);
    let (clean, _) = best_of(&problem, &[50], back, |network| network.objective(&problem))?;
    let (hardened, _) = best_of(
        &problem,
        &[50],
        |width, rate| back(width, rate).with_attack(attack),
        |network| {
            let moved = attack.perturb(network, &examples, loss)?;
            Ok(loss.sum(&network.outputs(moved.features())?, moved.labels()))
        },
    )?;
    for (variant, network) in [
        (ROBUST, robust),
        (PLAIN, plain),
        (BACK, clean),
        (BACK_PGD, hardened),
    ] {
        let accuracies = || -> Result<[f64; 2], ConvexReluError> {
            let moved = attack.perturb(&network, &test, loss)?;
            Ok([network.accuracy(&test)?, network.accuracy(&moved)?])
        };
        let [accuracy, attacked] = accuracies().map_err(ClaimError::experiment)?;
        table.record(ROBUSTNESS, variant, ACCURACY, seed, accuracy)?;
        table.record(ROBUSTNESS, variant, ATTACKED, seed, attacked)?;
    }
    Ok(())
}

fn checks(table: &Table, losses: &[(Loss, &str)]) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for &(_, group) in losses {
        let admm = table.mean(group, ADMM, OBJECTIVE)?;
        for other in [BACK, SCP] {
            let objective = table.mean(group, other, OBJECTIVE)?;
            checks.push(Check::new(
                format!("{group}: ADMM's objective is not above that of {other} by more than 0.1%"),
                admm <= 1.001 * objective,
                format!("{admm:.5} against {objective:.5}"),
            ));
        }
    }
    let [early, last] = [ADMM_EARLY, ADMM].map(|v| table.mean(FIRST, v, ACCURACY));
    let (early, last) = (early?, last?);
    checks.push(Check::new(
        "ADMM's test accuracy after 10 iterations is at most 2 points below the final one",
        early >= last - 0.02,
        format!("{early:.3} against {last:.3}"),
    ));
    for other in [PLAIN, BACK_PGD] {
        checks.push(table.compare(ROBUSTNESS, ATTACKED, ROBUST, other)?);
    }
    Ok(checks)
}
