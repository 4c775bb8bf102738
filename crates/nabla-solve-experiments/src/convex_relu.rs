//! Two-layer ReLU networks by convex programs against back-propagation.
//!
//! The data are the built-in handwritten digits, 3 against 8, in their first principal
//! components, scaled to at most 1, with a bias. Three things are measured:
//!
//! * *global optimality*: 10 examples in 2 components, with all activation patterns: the objective of
//!   ADMM's network, of the sampled convex program (SCP) and of networks by back-propagation, for the
//!   squared, the hinge and the cross-entropy loss. Back-propagation has the best of three learning
//!   rates and two widths, by the objective itself;
//! * *the first iterations*: 100 examples in 8 components, 40 sampled patterns, the cross-entropy loss:
//!   the test accuracy of ADMM's network after 10 iterations and at the end;
//! * *robustness*: 60 examples in 5 components, the hinge loss, perturbations of each component by up to `ε =
//!   0.15`: the accuracy on test examples, both unchanged and after an attack by projected gradients (PGD),
//!   of the robust convex program, the plain convex program, and back-propagation with and without PGD in
//!   training, again with the best of three learning rates (by the objective, or by the loss under attack, of
//!   the training examples).
//!
//! A seed draws the examples, the patterns, the first layer of SCP and the start of back-propagation. There are
//! ten seeds, since with three the accuracies under attack differ by less than they vary.

use std::ops::ControlFlow;

use faer::Mat;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    TableError, Task, Variant,
};
use nabla_data::{LabelledPictures, digits};
use nabla_solve::convex_relu::{
    ActivationPatterns, Admm, Attack, BackPropagation, ConvexReluError, ConvexReluProblem,
    DenseExamples, Form, InteriorPoint, Loss, PatternSampling, SampledProgram, TwoLayerRelu,
};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

const OBJECTIVE: Metric = Metric::lower("objective", "");
const ACCURACY: Metric = Metric::higher("test accuracy", "");
const ATTACKED: Metric = Metric::higher("test accuracy under PGD", "");

const ADMM: Variant = Variant::method("ADMM");
const ADMM_EARLY: Variant = Variant::ablation("ADMM, 10 iterations");
const SCP: Variant = Variant::ablation("SCP");
const ROBUST: Variant = Variant::method("robust convex program");
const PLAIN: Variant = Variant::ablation("convex program");
const BACK: Variant = Variant::baseline("back-propagation");
const BACK_PGD: Variant = Variant::baseline("back-propagation on PGD examples");

const FIRST: Task = Task::named("first iterations, cross-entropy");
const ROBUSTNESS: Task = Task::named("robustness, hinge");

const LOSSES: [(Loss, Task); 3] = [
    (Loss::Squared, Task::named("all patterns, squared")),
    (Loss::Hinge, Task::named("all patterns, hinge")),
    (
        Loss::BinaryCrossEntropy,
        Task::named("all patterns, cross-entropy"),
    ),
];

const RATES: [f64; 3] = [0.003, 0.01, 0.03];
const BETA: f64 = 0.05;
const EPSILON: f64 = 0.15;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvexReluClaim;

/// The size of the experiment.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// The number of iterations of back-propagation.
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

    fn seeds(&self) -> Vec<u64> {
        (0..10).collect()
    }

    fn statement(&self) -> &str {
        "Two-layer ReLU networks can be trained to the global optimum by convex programs: ADMM \
         converges to it and has a high accuracy after its first iterations, a sampled program (SCP) \
         comes near it, and robust programs give networks that withstand attacks. In detail: better \
         than adversarial back-propagation."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds. With all patterns and each loss, ADMM's network has an objective no \
         more than 0.1% above that of back-propagation, and SCP's has one no more than 5% above \
         ADMM's. ADMM's network of the first 10 iterations has a test accuracy at most 2 points below \
         its final one, and at most 2 points below that of back-propagation. Under PGD the robust \
         program's network has a higher test accuracy than the plain program's, with every seed or by \
         more than the spread of the difference; and a higher one than that of back-propagation on \
         PGD examples."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() {
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
            bench.seeds(),
            [OBJECTIVE, ACCURACY, ATTACKED],
            [ADMM, ROBUST, ADMM_EARLY, SCP, PLAIN, BACK, BACK_PGD],
            losses
                .iter()
                .map(|(_, task)| task.clone())
                .chain([FIRST, ROBUSTNESS]),
        )?;
        let pictures = digits().map_err(ClaimError::experiment)?;
        all_losses(bench, &pictures, size, losses, &mut table)?;
        let curves = first(bench, &pictures, &mut table)?;
        robust(bench, &pictures, size, &mut table)?;
        let checks = checks(&table, losses)?;
        Ok(Measurement::new(table, checks)
            .with_plot(plot(&curves))
            .with_note(
                "The objective counts the loss of all examples and the weights (β = 0.05). With sampled \
                 patterns instead of all, the convex program's optimum is above that of training, and \
                 back-propagation can be lower: in the second group its objective stands beside ADMM's.",
            )
            .with_note(
                "Not measured: that ADMM converges at a linear rate, and that the time of one of its \
                 iterations on sampled patterns is quadratic.",
            ))
    }
}

/// Global optimality, with a cell for each loss and seed, since the three networks solve one problem.
fn all_losses(
    bench: &Bench<'_>,
    pictures: &LabelledPictures,
    size: Size,
    losses: &[(Loss, Task)],
    table: &mut Table,
) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        points.extend(losses.iter().map(|(loss, task)| (seed, *loss, task)));
    }
    let found = bench.measure(
        &Stage::new("convex ReLU, all patterns", &size),
        &points,
        |(seed, _, task)| Cell::of(task).seed(*seed),
        |&(seed, loss, _)| {
            let [examples, _] = components(pictures, 10, 2, seed)?;
            all_patterns(&examples, loss, size, seed)
        },
    )?;
    for (&(seed, _, task), [admm, scp, back]) in points.iter().zip(found) {
        for (variant, objective) in [(ADMM, admm), (SCP, scp), (BACK, back)] {
            table.record(task, &variant, &OBJECTIVE, seed, objective)?;
        }
    }
    Ok(())
}

/// Test accuracy and objective.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Quality {
    accuracy: f64,
    objective: f64,
}

/// ADMM's network over its iterations, and that of back-propagation.
#[derive(Serialize, Deserialize)]
struct Iterations {
    early: Quality,
    last: Quality,
    back: Quality,
    curve: Curve,
}

/// Pairs of an iteration and its test accuracy.
type Curve = Vec<[f64; 2]>;

/// Plots the accuracy over the iterations: the mean over the seeds, and their range.
fn plot(curves: &[Curve]) -> LinePlot {
    let over = |what: &dyn Fn(&[f64]) -> f64| -> Curve {
        let points = curves.first().map_or(0, Vec::len);
        let at = |k: usize| {
            let values: Vec<f64> = curves.iter().map(|curve| curve[k][1]).collect();
            [curves[0][k][0], what(&values)]
        };
        (0..points).map(at).collect()
    };
    let mean = over(&|values| values.iter().sum::<f64>() / values.len() as f64);
    let lowest = over(&|values| values.iter().copied().fold(f64::INFINITY, f64::min));
    let highest = over(&|values| values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    let title = "Test accuracy of ADMM's network";
    LinePlot::new(title, "iteration", "test accuracy")
        .log_x()
        .with_series(Series::new("mean of the seeds", mean))
        .with_series(Series::new("lowest", lowest))
        .with_series(Series::new("highest", highest))
}

/// The first iterations, with a cell for each seed.
fn first(
    bench: &Bench<'_>,
    pictures: &LabelledPictures,
    table: &mut Table,
) -> Result<Vec<Curve>, ClaimError> {
    let found = bench.measure(
        &Stage::new("convex ReLU, first iterations", &()),
        bench.seeds(),
        |&seed| Cell::of(&FIRST).seed(seed),
        |&seed| first_iterations(pictures, seed, bench.quick()),
    )?;
    let mut curves = Vec::new();
    for (&seed, iterations) in bench.seeds().iter().zip(found) {
        for (variant, quality) in [
            (ADMM_EARLY, iterations.early),
            (ADMM, iterations.last),
            (BACK, iterations.back),
        ] {
            table.record(&FIRST, &variant, &ACCURACY, seed, quality.accuracy)?;
            table.record(&FIRST, &variant, &OBJECTIVE, seed, quality.objective)?;
        }
        curves.push(iterations.curve);
    }
    Ok(curves)
}

/// Robustness, with a cell for each seed, since all four networks solve one problem.
fn robust(
    bench: &Bench<'_>,
    pictures: &LabelledPictures,
    size: Size,
    table: &mut Table,
) -> Result<(), ClaimError> {
    let found = bench.measure(
        &Stage::new("convex ReLU, robustness", &size),
        bench.seeds(),
        |&seed| Cell::of(&ROBUSTNESS).seed(seed),
        |&seed| robustness(pictures, size, seed),
    )?;
    for (&seed, networks) in bench.seeds().iter().zip(found) {
        let variants = [ROBUST, PLAIN, BACK, BACK_PGD];
        for (variant, [accuracy, attacked]) in variants.into_iter().zip(networks) {
            table.record(&ROBUSTNESS, &variant, &ACCURACY, seed, accuracy)?;
            table.record(&ROBUSTNESS, &variant, &ATTACKED, seed, attacked)?;
        }
    }
    Ok(())
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
    // Mean and components come from the training examples.
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

/// The objectives of ADMM, SCP and back-propagation, with all activation patterns.
fn all_patterns(
    examples: &DenseExamples,
    loss: Loss,
    size: Size,
    seed: u64,
) -> Result<[f64; 3], ClaimError> {
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
    Ok([admm, scp, back])
}

fn first_iterations(
    pictures: &LabelledPictures,
    seed: u64,
    quick: bool,
) -> Result<Iterations, ClaimError> {
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
    let quality = |network: &TwoLayerRelu| {
        Ok::<_, ConvexReluError>(Quality {
            accuracy: network.accuracy(&test)?,
            objective: network.objective(&problem)?,
        })
    };
    let after = |iterations: usize| -> Result<Quality, ConvexReluError> {
        let network = Admm::new()
            .with_max_iterations(iterations)
            .solve(&problem, &patterns, Form::Relu, go)?
            .network();
        quality(&network)
    };
    let mut curve = Vec::new();
    let (mut early, mut last) = (None, None);
    for iterations in [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000] {
        if iterations > most {
            break;
        }
        let found = after(iterations).map_err(ClaimError::experiment)?;
        curve.push([iterations as f64, found.accuracy]);
        if iterations == 10 {
            early = Some(found);
        }
        last = Some(found);
    }
    let (network, _) = best_of(
        &problem,
        &[50],
        |width, rate| BackPropagation::new(width, rate, most).with_seed(seed),
        |network| network.objective(&problem),
    )?;
    match (early, last) {
        (Some(early), Some(last)) => Ok(Iterations {
            early,
            last,
            back: quality(&network).map_err(ClaimError::experiment)?,
            curve,
        }),
        _ => Err(ClaimError::experiment("ADMM has had no iterations")),
    }
}

/// Test accuracies, without and under attack, of the robust and the plain convex program and of
/// back-propagation without and with attacks.
fn robustness(
    pictures: &LabelledPictures,
    size: Size,
    seed: u64,
) -> Result<Vec<[f64; 2]>, ClaimError> {
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
    let networks = [robust, plain, clean, hardened].into_iter();
    let accuracies = networks.map(|network| {
        let moved = attack.perturb(&network, &test, loss)?;
        Ok([network.accuracy(&test)?, network.accuracy(&moved)?])
    });
    accuracies
        .collect::<Result<_, ConvexReluError>>()
        .map_err(ClaimError::experiment)
}

/// The headlines test the abstract: the global optimum, reached by ADMM and nearly by SCP; a high accuracy after
/// the first iterations; and networks that withstand attacks.
fn checks(table: &Table, losses: &[(Loss, Task)]) -> Result<Vec<Check>, TableError> {
    let mut checks = Vec::new();
    for (_, task) in losses {
        for (own, other, percent) in [(ADMM, BACK, 0.1), (SCP, ADMM, 5.0)] {
            let objective = table.mean(task, &own, &OBJECTIVE)?;
            let limit = table.mean(task, &other, &OBJECTIVE)?;
            let check = Check::new(
                format!(
                    "{task}: {own}'s objective is not above that of {other} by more than {percent}%"
                ),
                objective <= (1.0 + percent / 100.0) * limit,
                format!("{objective:.5} against {limit:.5}"),
            );
            checks.push(check.headline());
        }
    }
    let early = table.mean(&FIRST, &ADMM_EARLY, &ACCURACY)?;
    // The first alone would also hold for an accuracy that stays low.
    for (other, name) in [
        (ADMM, "its final one"),
        (BACK, "that of back-propagation at its end"),
    ] {
        let last = table.mean(&FIRST, &other, &ACCURACY)?;
        let check = Check::new(
            format!("ADMM's test accuracy after 10 iterations is at most 2 points below {name}"),
            early >= last - 0.02,
            format!("{early:.3} against {last:.3}"),
        );
        checks.push(check.headline());
    }
    checks.push(withstands(table)?.headline());
    checks.push(table.compare(&ROBUSTNESS, &ATTACKED, &ROBUST, &BACK_PGD)?);
    Ok(checks)
}

/// The check that the robust program's network withstands attacks better than the plain one's, and not by chance:
/// for every seed, or by more than the spread of the differences.
fn withstands(table: &Table) -> Result<Check, TableError> {
    let values = |variant: &Variant| table.values(&ROBUSTNESS, variant, &ATTACKED);
    let (robust, plain) = (values(&ROBUST)?, values(&PLAIN)?);
    let pairs = robust.iter().zip(&plain);
    let above = pairs.filter(|(robust, plain)| robust > plain).count();
    let difference = table.difference(&ROBUSTNESS, &ATTACKED, &ROBUST, &PLAIN)?;
    let clear = difference.spread.is_some_and(|s| difference.mean > s);
    Ok(Check::new(
        format!(
            "{ROBUSTNESS}, {ATTACKED}: {ROBUST} is above {PLAIN}, with every seed or by more than the \
             spread of the difference"
        ),
        clear || above == robust.len(),
        format!(
            "a difference of {difference}, above with {above} of {} seeds",
            robust.len()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one task of each kind and the given accuracies under attack.
    fn table(scp: f64, early: f64, robust: &[f64], plain: &[f64]) -> Table {
        let seeds: Vec<u64> = (0..).take(robust.len()).collect();
        let mut table = Table::new(
            &seeds,
            [OBJECTIVE, ACCURACY, ATTACKED],
            [ADMM, ROBUST, ADMM_EARLY, SCP, PLAIN, BACK, BACK_PGD],
            [LOSSES[0].1.clone(), FIRST, ROBUSTNESS],
        )
        .unwrap();
        for (task, variant, metric, value) in [
            (&LOSSES[0].1, ADMM, OBJECTIVE, 1.0),
            (&LOSSES[0].1, SCP, OBJECTIVE, scp),
            (&LOSSES[0].1, BACK, OBJECTIVE, 1.0),
            (&FIRST, ADMM_EARLY, ACCURACY, early),
            (&FIRST, ADMM, ACCURACY, 0.5),
            (&FIRST, BACK, ACCURACY, 0.9),
            (&ROBUSTNESS, BACK_PGD, ATTACKED, 0.9),
        ] {
            table
                .record_for_every_seed(task, &variant, &metric, value)
                .unwrap();
        }
        for (variant, values) in [(ROBUST, robust), (PLAIN, plain)] {
            for (&seed, &value) in seeds.iter().zip(values) {
                table
                    .record(&ROBUSTNESS, &variant, &ATTACKED, seed, value)
                    .unwrap();
            }
        }
        table
    }

    #[test]
    fn every_part_of_the_criterion_can_fail() {
        let (low, high) = ([0.5, 0.6, 0.7], [0.6, 0.7, 0.8]);
        let held = |table: &Table| -> Vec<bool> {
            let checks = checks(table, &LOSSES[..1]).unwrap();
            let headlines: Vec<bool> = checks.iter().map(|check| check.headline).collect();
            assert_eq!(headlines, [true, true, true, true, true, false]);
            checks.iter().map(|check| check.holds).collect()
        };
        let good = table(1.04, 0.89, &high, &low);
        assert_eq!(held(&good), [true, true, true, true, true, false]);
        // An accuracy that stays low, a sampled program that is far off, and no gain under attack.
        let bad = table(1.06, 0.49, &low, &high);
        assert_eq!(held(&bad), [true, false, true, false, false, false]);
    }

    #[test]
    fn a_gain_under_attack_is_more_than_chance() {
        let holds = |robust: &[f64], plain: &[f64]| {
            let table = table(1.0, 0.9, robust, plain);
            withstands(&table).unwrap().holds
        };
        // The robust network is better for every seed, though the differences vary by more than their mean.
        assert!(holds(&[0.51, 0.51, 0.9], &[0.5, 0.5, 0.5]));
        // The differences are −0.1, 0.5 and 0.5: 0.3 on average, but not for every seed, nor by more than their spread.
        assert!(!holds(&[0.4, 1.0, 1.0], &[0.5, 0.5, 0.5]));
        // The differences are −0.01, 0.5 and 0.5: 0.33 ± 0.29.
        assert!(holds(&[0.49, 1.0, 1.0], &[0.5, 0.5, 0.5]));
        assert!(!holds(&[0.5, 0.5, 0.5], &[0.5, 0.5, 0.5]));
        // One seed has no spread.
        assert!(holds(&[0.6], &[0.5]) && !holds(&[0.4], &[0.5]));
    }
}
