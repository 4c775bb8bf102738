//! Convex training against optima by CVXPY, the authors' code, the theory and back-propagation.
//!
//! `reference/convex_relu.py` made the values.

use std::collections::HashMap;
use std::ops::ControlFlow;

use nabla_solve::convex_relu::{
    ActivationPatterns, Admm, AdmmStep, Attack, BackPropagation, ConvexReluError,
    ConvexReluProblem, ConvexReluSolution, DenseExamples, Form, GatedRelu, InteriorPoint, Loss,
    PatternSampling, Penalty, PrimalStep, SampledProgram, TwoLayerRelu,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    x: Vec<Vec<f64>>,
    y: Vec<f64>,
    beta: f64,
    epsilon: f64,
    gates: Vec<Vec<f64>>,
    optima: HashMap<String, Optima>,
    authors: HashMap<String, Authors>,
    patterns_found: usize,
}

#[derive(Deserialize)]
struct Optima {
    relu: f64,
    gated: f64,
    robust: f64,
}

#[derive(Deserialize)]
struct Authors {
    masks: Vec<String>,
    optimum: f64,
    network_output: Vec<f64>,
}

const LOSSES: [Loss; 3] = [Loss::Squared, Loss::Hinge, Loss::BinaryCrossEntropy];

fn key(loss: Loss) -> &'static str {
    match loss {
        Loss::Squared => "squared",
        Loss::Hinge => "hinge",
        Loss::BinaryCrossEntropy => "binary-cross-entropy",
    }
}

impl Reference {
    fn read() -> Self {
        serde_json::from_str(include_str!("reference/convex_relu.json")).unwrap()
    }

    fn examples(&self) -> DenseExamples {
        DenseExamples::new(&self.x, &self.y).unwrap()
    }

    fn problem(&self, loss: Loss) -> ConvexReluProblem {
        ConvexReluProblem::new(&self.examples(), loss, self.beta, true).unwrap()
    }
}

fn go<T>(_: T) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn admm(
    problem: &ConvexReluProblem,
    patterns: &ActivationPatterns,
    form: Form,
) -> ConvexReluSolution {
    let solution = Admm::new().solve(problem, patterns, form, go).unwrap();
    assert!(solution.converged, "{} iterations", solution.iterations);
    solution
}

#[test]
fn the_optima_of_cvxpy_are_found_by_both_solvers() {
    let reference = Reference::read();
    for loss in LOSSES {
        let problem = reference.problem(loss);
        let patterns = ActivationPatterns::from_gates(&problem, &reference.gates).unwrap();
        assert_eq!(patterns.len(), reference.gates.len());
        let expected = &reference.optima[key(loss)];
        for (form, optimum) in [(Form::Relu, expected.relu), (Form::Gated, expected.gated)] {
            let inner = InteriorPoint::new()
                .solve(&problem, &patterns, form)
                .unwrap();
            let outer = admm(&problem, &patterns, form);
            println!(
                "{loss:?} {form:?}: {optimum:.7}, interior point {:.7}, ADMM {:.7} > {:.7} in {}",
                inner.objective, outer.objective, outer.lower_bound, outer.iterations
            );
            assert!((inner.objective - optimum).abs() < 1e-6);
            assert!((inner.lower_bound - optimum).abs() < 1e-6);
            assert!(inner.violation < 1e-7);
            assert!((outer.objective - optimum).abs() < 1e-4);
            assert!(outer.violation < 1e-4);
            // The certificate is a bound, and tight.
            assert!(outer.lower_bound <= optimum + 1e-6);
            assert!(outer.lower_bound > optimum - 1e-3);
        }
        assert!(expected.gated < expected.relu);
        let robust = InteriorPoint::new()
            .with_epsilon(reference.epsilon)
            .solve(&problem, &patterns, Form::Relu)
            .unwrap();
        println!("{loss:?} robust: {} {}", expected.robust, robust.objective);
        assert!((robust.objective - expected.robust).abs() < 1e-5);
    }
}

#[test]
fn the_authors_code_finds_the_same_optimum_and_network() {
    let reference = Reference::read();
    for loss in [Loss::Squared, Loss::BinaryCrossEntropy] {
        let problem = reference.problem(loss);
        let authors = &reference.authors[key(loss)];
        let masks: Vec<Vec<bool>> = authors
            .masks
            .iter()
            .map(|mask| mask.chars().map(|c| c == '1').collect())
            .collect();
        let patterns = ActivationPatterns::from_masks(&problem, &masks).unwrap();
        let solution = InteriorPoint::new()
            .solve(&problem, &patterns, Form::Relu)
            .unwrap();
        assert!((solution.objective - authors.optimum).abs() < 1e-5);
        let network = solution.network();
        let outputs = network.predict(&reference.x).unwrap();
        for (ours, theirs) in outputs.iter().zip(&authors.network_output) {
            assert!((ours - theirs).abs() < 1e-3, "{ours} {theirs}");
        }
    }
}

#[test]
fn the_network_has_the_objective_of_the_program() {
    let reference = Reference::read();
    for loss in LOSSES {
        let problem = reference.problem(loss);
        let patterns = ActivationPatterns::from_gates(&problem, &reference.gates).unwrap();
        let exact = InteriorPoint::new()
            .solve(&problem, &patterns, Form::Relu)
            .unwrap();
        let objective = exact.network().objective(&problem).unwrap();
        assert!((objective - exact.objective).abs() < 1e-5, "{loss:?}");
        let iterated = admm(&problem, &patterns, Form::Relu);
        let objective = iterated.network().objective(&problem).unwrap();
        assert!((objective - iterated.objective).abs() < 1e-3, "{loss:?}");

        // The gated network is the gated program's function.
        let gated = InteriorPoint::new()
            .solve(&problem, &patterns, Form::Gated)
            .unwrap();
        let network = gated.gated_network(&patterns).unwrap();
        let outputs = network.outputs(reference.examples().features()).unwrap();
        let loss: f64 = outputs
            .iter()
            .zip(&reference.y)
            .map(|(&output, &label)| loss.value(output, label))
            .sum();
        let lengths: f64 = (0..gated.v.ncols())
            .map(|i| gated.v.as_ref().col(i).norm_l2())
            .sum();
        assert!((loss + reference.beta * lengths - gated.objective).abs() < 1e-9);
        // It is what it was after saving, and a damaged file is refused.
        let text = serde_json::to_string(&network).unwrap();
        assert_eq!(serde_json::from_str::<GatedRelu>(&text).unwrap(), network);
        let mut damaged = serde_json::to_value(&network).unwrap();
        damaged["weights"][0] = serde_json::json!([1.0]);
        let told = serde_json::from_value::<GatedRelu>(damaged).unwrap_err();
        assert!(told.to_string().contains("has 1 numbers"), "{told}");
    }
}

#[test]
fn no_back_propagation_is_better_than_the_program_of_all_patterns() {
    let reference = Reference::read();
    let n = 10;
    let examples = DenseExamples::new(&reference.x[..n], &reference.y[..n]).unwrap();
    for loss in LOSSES {
        let problem = ConvexReluProblem::new(&examples, loss, reference.beta, true).unwrap();
        let patterns = ActivationPatterns::enumerate(&problem, 1000).unwrap();
        assert_eq!(patterns.len(), 92);
        let solution = InteriorPoint::new()
            .solve(&problem, &patterns, Form::Relu)
            .unwrap();
        let optimum = solution.network().objective(&problem).unwrap();
        assert!((optimum - solution.objective).abs() < 1e-5);
        let iterated = admm(&problem, &patterns, Form::Relu);
        assert!((iterated.objective - optimum).abs() < 1e-3);
        let mut found = Vec::new();
        for units in [4, 50] {
            for seed in 0..3 {
                let network = BackPropagation::new(units, 0.01, 10_000)
                    .with_seed(seed)
                    .train(&problem, go)
                    .unwrap();
                found.push(network.objective(&problem).unwrap());
            }
        }
        println!("{loss:?}: {optimum:.6}, back-propagation {found:.6?}");
        for &objective in &found {
            assert!(objective > optimum - 1e-6);
            assert!(objective > solution.lower_bound);
        }
        // It is near, so that the bound is not idle.
        let best = found.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(best < optimum + 0.1 * optimum);
        // Nor is a sampled first layer, which comes near from above.
        let mut last = f64::INFINITY;
        for units in [30, 300, 3000] {
            let sampled = SampledProgram::new(units).solve(&problem, go).unwrap();
            let gap = sampled.objective - sampled.lower_bound;
            assert!(
                (0.0..0.02 * optimum).contains(&gap),
                "{loss:?} {units}: {gap}"
            );
            assert!(sampled.objective > optimum - 1e-6);
            let network = sampled.network().objective(&problem).unwrap();
            assert!((network - sampled.objective).abs() < 1e-9);
            // The draws of the smaller program are the first ones of the larger.
            assert!(sampled.objective < last + gap);
            last = sampled.objective;
            println!("  sampled {units}: {last:.6}");
        }
        assert!(last < 1.05 * optimum);
    }
}

#[test]
fn more_patterns_never_raise_the_optimum_and_all_of_them_cover_what_sampling_finds() {
    let reference = Reference::read();
    let problem = reference.problem(Loss::Squared);
    let all = ActivationPatterns::enumerate(&problem, 1000).unwrap();
    assert!(all.len() >= reference.patterns_found);
    assert_eq!(all.len(), 554);
    let sampled = ActivationPatterns::sample(&problem, PatternSampling::new(60)).unwrap();
    let mut last = f64::INFINITY;
    for count in [5, 15, 30, 60] {
        let solution = InteriorPoint::new()
            .solve(&problem, &sampled.truncated(count), Form::Relu)
            .unwrap();
        assert!(solution.objective < last + 1e-7);
        last = solution.objective;
    }
}

#[test]
fn admm_converges_linearly_and_alike_by_every_primal_step() {
    let reference = Reference::read();
    let problem = reference.problem(Loss::Squared);
    let patterns = ActivationPatterns::from_gates(&problem, &reference.gates).unwrap();
    let optimum = reference.optima["squared"].relu;
    for (rho, dual_step) in [(0.1, 1.0), (0.1, 0.5), (0.05, 1.6)] {
        let mut errors = Vec::new();
        let solution = Admm::new()
            .with_penalty(Penalty::Fixed(rho))
            .with_dual_step(dual_step)
            .with_tolerance(1e-13)
            .with_max_iterations(6000)
            .solve(&problem, &patterns, Form::Relu, |step: AdmmStep| {
                errors.push((step.iteration as f64, step.primal_residual));
                ControlFlow::Continue(())
            })
            .unwrap();
        // Above the rounding floor.
        let late = errors
            .iter()
            .copied()
            .filter(|&(t, e)| t > 200.0 && e > 1e-11);
        let fit = nabla_base::rate_fit::exponential_rate(late).unwrap();
        println!(
            "rho {rho}, step {dual_step}: {fit:?}, {} iterations",
            solution.iterations
        );
        assert!(fit.rate < -1e-3 && fit.explained > 0.8, "{fit:?}");
        assert!((solution.objective - optimum).abs() < 1e-6);
    }
}

#[test]
fn block_descent_reaches_what_the_factored_step_reaches() {
    let reference = Reference::read();
    let descent = PrimalStep::BlockDescent {
        tolerance: 1e-6,
        max_sweeps: 60,
        seed: 1,
    };
    for loss in [Loss::Squared, Loss::BinaryCrossEntropy] {
        let problem = reference.problem(loss);
        let patterns = ActivationPatterns::from_gates(&problem, &reference.gates).unwrap();
        for (form, optimum) in [
            (Form::Relu, reference.optima[key(loss)].relu),
            (Form::Gated, reference.optima[key(loss)].gated),
        ] {
            let solve = || {
                Admm::new()
                    .with_primal_step(descent)
                    .with_tolerance(1e-5)
                    .with_max_iterations(2000)
                    .solve(&problem, &patterns, form, go)
                    .unwrap()
            };
            let solution = solve();
            println!("{loss:?} {form:?} {} {optimum}", solution.objective);
            assert!((solution.objective - optimum).abs() < 5e-3);
            assert!(solution.lower_bound <= optimum + 1e-6);
            if loss == Loss::Squared && form == Form::Gated {
                assert_eq!(solution, solve());
            }
        }
    }
    let hinge = reference.problem(Loss::Hinge);
    let patterns = ActivationPatterns::from_gates(&hinge, &reference.gates).unwrap();
    let refused = Admm::new()
        .with_primal_step(descent)
        .solve(&hinge, &patterns, Form::Relu, go);
    assert_eq!(refused, Err(ConvexReluError::NotDifferentiable));
}

fn loss_of(network: &TwoLayerRelu, examples: &DenseExamples, loss: Loss) -> f64 {
    network
        .outputs(examples.features())
        .unwrap()
        .iter()
        .zip(examples.labels())
        .map(|(&output, &label)| loss.value(output, label))
        .sum()
}

#[test]
fn the_robust_program_certifies_the_worst_loss() {
    let reference = Reference::read();
    let examples = reference.examples();
    let epsilon = reference.epsilon;
    for loss in LOSSES {
        let problem = reference.problem(loss);
        let sampling = PatternSampling::new(20);
        let patterns =
            ActivationPatterns::sample_perturbed(&problem, sampling, epsilon, 3).unwrap();
        let solve = |epsilon: f64| {
            InteriorPoint::new()
                .with_epsilon(epsilon)
                .solve(&problem, &patterns, Form::Relu)
                .unwrap()
        };
        let (plain, robust) = (solve(0.0), solve(epsilon));
        assert!(robust.objective > plain.objective);
        let network = robust.network();
        let weights = network.objective(&problem).unwrap() - loss_of(&network, &examples, loss);
        let certified = robust.objective - weights;
        let attacks = [
            Attack::fgsm(epsilon),
            Attack::pgd(epsilon),
            Attack::pgd(epsilon).with_random_start(3),
        ];
        let mut worst: f64 = 0.0;
        for attack in attacks {
            let moved = attack.perturb(&network, &examples, loss).unwrap();
            for k in 0..examples.len() {
                for j in 0..2 {
                    let by = (moved.features()[(k, j)] - examples.features()[(k, j)]).abs();
                    assert!(by <= epsilon + 1e-15);
                }
            }
            worst = worst.max(loss_of(&network, &moved, loss));
        }
        let moved = Attack::pgd(epsilon)
            .perturb(&plain.network(), &examples, loss)
            .unwrap();
        let attacked = loss_of(&plain.network(), &moved, loss);
        println!("{loss:?}: certified {certified:.5}, attacks {worst:.5}, plain {attacked:.5}");
        // No attack beats the certificate, and on a network that is linear in each box FGSM reaches it.
        assert!(worst <= certified + 1e-5);
        assert!(worst >= certified - 1e-3 * certified.max(1.0));
        assert!(worst < attacked);
    }
}

#[test]
fn attacks_raise_the_loss_of_any_network() {
    let reference = Reference::read();
    let examples = reference.examples();
    for loss in LOSSES {
        let problem = reference.problem(loss);
        let network = BackPropagation::new(20, 0.01, 2000)
            .with_batch_size(8)
            .with_momentum(0.5)
            .train(&problem, go)
            .unwrap();
        let clean = loss_of(&network, &examples, loss);
        let fgsm = Attack::fgsm(0.05)
            .perturb(&network, &examples, loss)
            .unwrap();
        let pgd = Attack::pgd(0.05)
            .perturb(&network, &examples, loss)
            .unwrap();
        let [fgsm, pgd] = [fgsm, pgd].map(|moved| loss_of(&network, &moved, loss));
        assert!(fgsm > clean && pgd > clean);
        assert!(pgd > 0.98 * fgsm);
        let none = Attack::pgd(0.0).perturb(&network, &examples, loss).unwrap();
        assert_eq!(none, examples);
        // Adversarial training lowers what the same attack can do.
        let trained = BackPropagation::new(20, 0.01, 2000)
            .with_attack(Attack::fgsm(0.05))
            .train(&problem, go)
            .unwrap();
        let moved = Attack::fgsm(0.05)
            .perturb(&trained, &examples, loss)
            .unwrap();
        assert!(loss_of(&trained, &moved, loss) < fgsm, "{loss:?}");
    }
}

#[test]
fn a_run_repeats_and_can_be_ended_by_its_observer() {
    let reference = Reference::read();
    let problem = reference.problem(Loss::Hinge);
    let patterns = ActivationPatterns::from_gates(&problem, &reference.gates).unwrap();
    let solver = Admm::new().with_max_iterations(300);
    let run = || solver.solve(&problem, &patterns, Form::Relu, go).unwrap();
    assert_eq!(run(), run());
    let mut seen = Vec::new();
    let ended = solver
        .solve(&problem, &patterns, Form::Relu, |step| {
            seen.push(step.iteration);
            if step.iteration == 30 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    assert_eq!(seen, [10, 20, 30]);
    assert_eq!((ended.iterations, ended.converged), (30, false));
    let text = serde_json::to_string(&solver).unwrap();
    assert_eq!(serde_json::from_str::<Admm>(&text).unwrap(), solver);
    assert_eq!(serde_json::from_str::<Admm>("{}").unwrap(), Admm::new());
    assert!(serde_json::from_str::<Admm>("{\"rho\": 1}").is_err());
}

#[test]
fn a_network_survives_its_file() {
    let reference = Reference::read();
    let problem = reference.problem(Loss::Squared);
    let patterns = ActivationPatterns::from_gates(&problem, &reference.gates).unwrap();
    let network = admm(&problem, &patterns, Form::Relu).network();
    assert!(network.has_bias() && network.features() == 2);
    let text = serde_json::to_string(&network).unwrap();
    assert_eq!(
        serde_json::from_str::<TwoLayerRelu>(&text).unwrap(),
        network
    );
    for (wrong, reason) in [
        (
            r#"{"hidden":[[1.0]],"output":[1.0],"bias":false,"features":2}"#,
            "has 1 weights",
        ),
        (
            r#"{"hidden":[[1.0]],"output":[],"bias":false,"features":1}"#,
            "0 weights in the output",
        ),
        (
            r#"{"hidden":[[1.0]],"output":[1.0],"bias":true,"features":0}"#,
            "takes no features",
        ),
    ] {
        let error = serde_json::from_str::<TwoLayerRelu>(wrong).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert_eq!(
        network.predict(&[[1.0]]),
        Err(ConvexReluError::Features {
            found: 1,
            expected: 2
        })
    );
}

#[test]
fn wrong_input_is_told() {
    let told = |rows: &[Vec<f64>], labels: &[f64]| {
        DenseExamples::new(rows, labels).unwrap_err().to_string()
    };
    assert!(told(&[], &[]).contains("there are no examples"));
    assert!(told(&[vec![]], &[1.0]).contains("no features"));
    assert!(told(&[vec![1.0], vec![1.0, 2.0]], &[1.0, 1.0]).contains("example 1 has 2 features"));
    assert!(told(&[vec![1.0]], &[]).contains("0 labels for 1 examples"));
    let nan = told(&[vec![0.0, f64::NAN]], &[1.0]);
    assert!(nan.contains("feature 1 of example 0 is NaN"), "{nan}");

    let examples = DenseExamples::new(&[[1.0], [2.0]], &[1.0, 0.0]).unwrap();
    let told = |loss, beta| {
        ConvexReluProblem::new(&examples, loss, beta, true)
            .unwrap_err()
            .to_string()
    };
    assert!(told(Loss::Hinge, 0.1).contains("example 1 is 0, but for the hinge loss"));
    assert!(told(Loss::BinaryCrossEntropy, 0.1).contains("-1 or 1"));
    assert!(told(Loss::Squared, 0.0).contains("weight of the regularizer is 0"));
    let unlabelled = DenseExamples::new(&[[1.0]], &[f64::INFINITY]).unwrap();
    assert!(ConvexReluProblem::new(&unlabelled, Loss::Squared, 0.1, true).is_err());

    let problem = ConvexReluProblem::new(&examples, Loss::Squared, 0.1, true).unwrap();
    let patterns = ActivationPatterns::enumerate(&problem, 100).unwrap();
    let told = |solver: Admm| {
        solver
            .solve(&problem, &patterns, Form::Relu, go)
            .unwrap_err()
            .to_string()
    };
    assert!(told(Admm::new().with_penalty(Penalty::Fixed(-1.0))).contains("penalty of ADMM is -1"));
    assert!(told(Admm::new().with_dual_step(1.7)).contains("dual step of ADMM is 1.7"));
    assert!(told(Admm::new().with_tolerance(f64::NAN)).contains("tolerance of ADMM is NaN"));
    assert!(told(Admm::new().with_max_iterations(0)).contains("at least 1"));
    assert!(told(Admm::new().with_check_every(0)).contains("interval"));
    let tight = PrimalStep::Factored { max_side: 1 };
    assert!(told(Admm::new().with_primal_step(tight)).contains("2 rows, more than the limit of 1"));

    let masks = ActivationPatterns::from_masks(&problem, &[[true, false]]).unwrap();
    let gated = Admm::new().solve(&problem, &masks, Form::Gated, go);
    assert_eq!(gated, Err(ConvexReluError::NoGates));
    let others = DenseExamples::new(&[[1.0]], &[1.0]).unwrap();
    let others = ConvexReluProblem::new(&others, Loss::Squared, 0.1, true).unwrap();
    let error = Admm::new().solve(&others, &patterns, Form::Relu, go);
    assert_eq!(
        error,
        Err(ConvexReluError::PatternLength {
            found: 2,
            expected: 1
        })
    );
    let solver = InteriorPoint::new().with_epsilon(0.1);
    assert!(solver.solve(&problem, &patterns, Form::Gated).is_err());
    assert!(
        InteriorPoint::new()
            .with_epsilon(-0.1)
            .solve(&problem, &patterns, Form::Relu)
            .is_err()
    );
    assert!(SampledProgram::new(0).solve(&problem, go).is_err());
}
