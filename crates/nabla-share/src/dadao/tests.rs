//! Least squares with different data at every node.

use std::time::Duration;

use nabla_base::rate_fit::exponential_rate;
use nabla_base::vector::{distance, squared_norm};
use nabla_grad::SeededNoise;

use super::adom::AdomPlus;
use super::gradient_tracking::GradientTracking;
use super::*;
use crate::communicator::{Kind, threads};
use crate::graph::Graph;

const DIMENSION: usize = 4;

/// `f_i = ½ xᵀ H_i x − b_iᵀ x`, with `H_i` diagonal in a basis that is turned from node to node.
struct Quadratic {
    scales: Vec<f64>,
    b: Vec<f64>,
}

const SMOOTHNESS: f64 = 4.0;
const STRONG: f64 = 0.25;

impl Quadratic {
    fn draw(nodes: usize, seed: u64) -> Vec<Self> {
        let mut noise = SeededNoise::new(seed, 0);
        let node = |i: usize| {
            let scale = |k: usize| match (k + i) % 4 {
                0 => SMOOTHNESS,
                1 => STRONG,
                part => part as f64 / 2.0,
            };
            let b = noise.normal_values(DIMENSION).into_iter();
            Self {
                scales: (0..DIMENSION).map(scale).collect(),
                b: b.map(f64::from).collect(),
            }
        };
        (0..nodes).map(node).collect()
    }

    fn gradient(&self, x: &[f64]) -> Vec<f64> {
        (0..DIMENSION)
            .map(|k| self.scales[k] * x[k] - self.b[k])
            .collect()
    }
}

fn objective(nodes: &[Quadratic]) -> Objective<'_> {
    let gradient = |node| Box::new(move |x: &[f64]| Quadratic::gradient(node, x)) as Gradient<'_>;
    Objective {
        smoothness: SMOOTHNESS,
        strong_convexity: STRONG,
        gradients: nodes.iter().map(gradient).collect(),
    }
}

fn minimum(nodes: &[Quadratic]) -> Vec<f64> {
    let sum = |part: fn(&Quadratic) -> &Vec<f64>, k: usize| -> f64 {
        nodes.iter().map(|node| part(node)[k]).sum()
    };
    (0..DIMENSION)
        .map(|k| sum(|n| &n.b, k) / sum(|n| &n.scales, k))
        .collect()
}

fn starts(nodes: usize) -> Vec<Vec<f64>> {
    vec![vec![1.0; DIMENSION]; nodes]
}

/// The mean squared distance from the minimum, relative to its norm.
fn error<'a>(solutions: impl Iterator<Item = &'a [f64]>, minimum: &[f64]) -> f64 {
    let all: Vec<f64> = solutions.map(|x| distance(x, minimum).powi(2)).collect();
    all.iter().sum::<f64>() / all.len() as f64 / squared_norm(minimum)
}

#[test]
fn it_converges_linearly_in_the_same_time_on_every_graph() {
    let nodes = Quadratic::draw(8, 0);
    let (objective, minimum) = (objective(&nodes), minimum(&nodes));
    let mut times = Vec::new();
    for graph in [
        Graph::ring(8).unwrap(),
        Graph::star(8).unwrap(),
        Graph::barbell(4).unwrap(),
        Graph::random_geometric(8, 0.3, 1).unwrap(),
    ] {
        for rates in [EdgeRates::uniform(&graph), EdgeRates::optimal(&graph)] {
            let dadao = Dadao::new(&objective, &rates.unwrap()).unwrap();
            let mut errors = Vec::new();
            let report = dadao.simulate(&objective, &starts(8), 2000.0, 3, |moment| {
                let error = error(moment.nodes.iter().map(DadaoNode::solution), &minimum);
                errors.push((moment.time, error));
                match error < 1e-8 {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            let report = report.unwrap();
            assert!(errors.last().unwrap().1 < 1e-8);
            assert!(exponential_rate(errors).unwrap().explained > 0.97);
            times.push(report.time);
        }
    }
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    assert!(
        times.iter().all(|time| (time / mean - 1.0).abs() < 0.15),
        "{times:?}"
    );
}

#[test]
fn the_sums_of_z_stay_zero() {
    let nodes = Quadratic::draw(6, 1);
    let objective = objective(&nodes);
    let rates = EdgeRates::uniform(&Graph::grid(2, 3).unwrap()).unwrap();
    let dadao = Dadao::new(&objective, &rates).unwrap();
    let observe = |moment: Moment<'_>| {
        // Drift mixes z and z̃ of a node, so all nodes must be at the same time.
        let mut nodes = moment.nodes.to_vec();
        for part in [Z, Z_TILDE] {
            for k in 0..DIMENSION {
                let advanced = nodes.iter_mut().map(|node| {
                    node.advance(&dadao.drift, moment.time);
                    node.state[part][k]
                });
                let sum: f64 = advanced.sum();
                assert!(sum.abs() < 1e-9, "{sum}");
            }
        }
        ControlFlow::Continue(())
    };
    dadao
        .simulate(&objective, &starts(6), 30.0, 0, observe)
        .unwrap();
}

#[test]
fn neither_drift_nor_events_move_the_optimum() {
    let nodes = Quadratic::draw(5, 2);
    let (objective, minimum) = (objective(&nodes), minimum(&nodes));
    let rates = EdgeRates::optimal(&Graph::path(5).unwrap()).unwrap();
    let dadao = Dadao::new(&objective, &rates).unwrap();
    let nu = dadao.constants.nu;
    let at = |node: &Quadratic| {
        let mut y = node.gradient(&minimum);
        add_scaled(&mut y, -nu, &minimum);
        let mut z: Vec<f64> = y.iter().map(|y| -y).collect();
        add_scaled(&mut z, -nu, &minimum);
        let x = minimum.clone();
        DadaoNode {
            state: [x.clone(), x, y.clone(), y, z.clone(), z],
            time: 0.0,
        }
    };
    let optimum: Vec<DadaoNode> = nodes.iter().map(at).collect();
    let near = |found: &DadaoNode, node: usize| {
        for (found, exact) in found.state.iter().zip(&optimum[node].state) {
            assert!(distance(found, exact) < 1e-12);
        }
    };
    for (i, node) in optimum.iter().enumerate() {
        let mut moved = node.clone();
        moved.advance(&dadao.drift, 7.0);
        near(&moved, i);
        let mut moved = node.clone();
        moved.gradient_event(&dadao.constants, nodes[i].gradient(&minimum));
        near(&moved, i);
        let other = &optimum[(i + 1) % 5];
        let mut moved = node.clone();
        moved.gossip(&dadao.constants, &node.message(), &other.message());
        near(&moved, i);
    }
}

#[test]
fn clocks_tick_at_their_rates() {
    let graph = Graph::path(4).unwrap();
    let rates = EdgeRates::new(&graph, vec![1.0, 4.0, 2.0]).unwrap();
    let mut counts = [[0; 4]; 2];
    let mut last = 0.0;
    for (time, event) in Clocks::new(&rates, 2000.0, 5) {
        assert!(time > last);
        last = time;
        match event {
            Event::Gradient(node) => counts[0][node] += 1,
            Event::Gossip(i, _) => counts[1][i] += 1,
        }
    }
    for (found, rate) in [(counts[0], [1.0; 4]), (counts[1], [1.0, 4.0, 2.0, 0.0])] {
        for (found, rate) in found.into_iter().zip(rate) {
            // Four standard deviations.
            let expected: f64 = 2000.0 * rate;
            assert!((f64::from(found) - expected).abs() <= 4.0 * expected.sqrt());
        }
    }
}

#[test]
fn threads_have_the_bits_of_the_simulation() {
    let nodes = Quadratic::draw(5, 3);
    let rates = EdgeRates::uniform(&Graph::star(5).unwrap()).unwrap();
    let dadao = Dadao::new(&objective(&nodes), &rates).unwrap();
    let simulated = dadao.simulate(&objective(&nodes), &starts(5), 40.0, 9, |_| {
        ControlFlow::Continue(())
    });
    let simulated = simulated.unwrap();
    let found = threads::run(
        5,
        Duration::from_secs(20),
        |ranks| -> Result<_, DadaoError> {
            let start = vec![1.0; DIMENSION];
            let report = dadao.run_on(ranks, &objective(&nodes), start, 40.0, 9)?;
            let sent = ranks.traffic().sent(Kind::Message);
            assert_eq!(sent.messages, report.gossips);
            assert_eq!(sent.bytes, 8 * DIMENSION as u64 * report.gossips);
            Ok(report)
        },
    );
    let found = found.unwrap();
    let solutions: Vec<_> = found
        .iter()
        .map(|report| report.solutions[0].clone())
        .collect();
    assert_eq!(solutions, simulated.solutions);
    assert_eq!(
        found.iter().map(|r| r.gradients).sum::<u64>(),
        simulated.gradients
    );
    assert_eq!(
        found.iter().map(|r| r.gossips).sum::<u64>(),
        2 * simulated.gossips
    );
}

#[test]
fn rounds_converge_too() {
    let nodes = Quadratic::draw(8, 4);
    let (objective, minimum) = (objective(&nodes), minimum(&nodes));
    for graph in [Graph::complete(8).unwrap(), Graph::ring(8).unwrap()] {
        let rounds = |multi_consensus| {
            let mut rounds = 0;
            let mut per_round = 0;
            let method = AdomPlus { multi_consensus };
            let found = method.run(&objective, &graph, &starts(8), 50_000, |round| {
                rounds += 1;
                per_round = round.gossips / rounds;
                match error(round.solutions.iter().map(Vec::as_slice), &minimum) < 1e-8 {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            let last = error(found.unwrap().iter().map(Vec::as_slice), &minimum);
            assert!(last < 1e-8, "{last}");
            (rounds, per_round)
        };
        let [(single, once), (multi, often)] = [false, true].map(rounds);
        assert_eq!(once, graph.edges().len() as u64);
        // On the ring 7 gossips halve the error of the consensus, and save gradients.
        if graph.edges().len() == 8 {
            assert!(often > once && multi < single);
        }
    }
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let nodes = Quadratic::draw(4, 5);
    let good = objective(&nodes);
    let graph = Graph::ring(4).unwrap();
    let rates = EdgeRates::uniform(&graph).unwrap();
    let slow: Vec<f64> = rates.rates().iter().map(|rate| rate / 2.0).collect();
    let error = Dadao::new(&good, &EdgeRates::new(&graph, slow).unwrap()).unwrap_err();
    assert!(error.to_string().contains("χ₁ χ₂ is 2.000"), "{error}");
    let wrong = Objective {
        strong_convexity: 5.0,
        ..objective(&nodes)
    };
    assert!(Dadao::new(&wrong, &rates).is_err());
    assert!(Dadao::new(&objective(&nodes[1..]), &rates).is_err());
    let dadao = Dadao::new(&good, &rates).unwrap();
    let go = |_: Moment<'_>| ControlFlow::Continue(());
    assert!(dadao.simulate(&good, &starts(3), 1.0, 0, go).is_err());
    let mut uneven = starts(4);
    uneven[2].pop();
    let error = dadao
        .simulate(&good, &uneven, 1.0, 0, go)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the start of node 2 must have 4 elements, but it has 3"
    );
    // An L that is a hundred times too small.
    let steep = Objective {
        smoothness: 0.01 * SMOOTHNESS,
        strong_convexity: 0.01 * STRONG,
        ..objective(&nodes)
    };
    let dadao = Dadao::new(&steep, &rates).unwrap();
    let error = dadao.simulate(&steep, &starts(4), 1e4, 0, go).unwrap_err();
    assert!(matches!(error, DadaoError::NotFinite { .. }), "{error}");
}

#[test]
fn msda_falls_at_least_as_fast_as_its_theory() {
    let nodes = Quadratic::draw(8, 3);
    let minimum = minimum(&nodes);
    let dual = |node| {
        let solve = move |y: &[f64]| -> Vec<f64> {
            let node: &Quadratic = node;
            (0..DIMENSION)
                .map(|k| (y[k] + node.b[k]) / node.scales[k])
                .collect()
        };
        Box::new(solve) as Gradient<'_>
    };
    let duals = Objective {
        smoothness: SMOOTHNESS,
        strong_convexity: STRONG,
        gradients: nodes.iter().map(dual).collect(),
    };
    for (graph, gossips) in [
        (Graph::complete(8).unwrap(), 1),
        (Graph::ring(8).unwrap(), 2),
        // The eigenvalues are 3 ± √7.
        (Graph::barbell(4).unwrap(), 3),
    ] {
        let mut errors = Vec::new();
        let found = msda::run(&duals, &graph, DIMENSION, 400, |round| {
            let edges = graph.edges().len() as u64;
            assert_eq!(round.gossips * 8, round.gradients * gossips * edges);
            let error = error(round.solutions.iter().map(Vec::as_slice), &minimum);
            errors.push((errors.len() as f64, error));
            match error < 1e-16 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        found.unwrap();
        assert!(errors.last().unwrap().1 < 1e-16, "{graph:?}");
        let slope = exponential_rate(errors.into_iter().skip(5)).unwrap().rate;
        // The squared error is at most a multiple of that of the dual.
        let theory = msda::rate(&duals, &graph).unwrap();
        assert!(slope <= theory.ln(), "{slope} {theory}");
    }
}

/// For `f_i = a/2 ‖x − c_i‖²`, each eigenvector of the Laplacian has a matrix of its own, with the eigenvalues of
/// `λ² − (2w − aη) λ + w² − aη`, where `w` is the eigenvalue of `M`.
#[test]
fn gradient_tracking_has_the_rate_of_its_iteration() {
    let (a, step) = (0.8, 0.6);
    let gradients = (0..6).map(|i| {
        Box::new(move |x: &[f64]| vec![a * (x[0] - f64::from(i * i))]) as Gradient<'static>
    });
    let objective = Objective {
        smoothness: a,
        strong_convexity: a,
        gradients: gradients.collect(),
    };
    let graph = Graph::ring(6).unwrap();
    let mean = 55.0 / 6.0;
    let laplacian: Vec<f64> = (0..6)
        .map(|k| 2.0 - 2.0 * (std::f64::consts::TAU * f64::from(k) / 6.0).cos())
        .collect();
    let size = |w: f64| {
        let (half, product) = (w - 0.5 * a * step, w * w - a * step);
        match half * half - product {
            complex if complex < 0.0 => product.sqrt(),
            real => half.abs() + real.sqrt(),
        }
    };
    let consensus = laplacian[1..].iter().map(|l| size(1.0 - 2.0 / 5.0 * l));
    let expected = consensus.fold(1.0 - a * step, f64::max);
    let mut errors = Vec::new();
    let starts: Vec<Vec<f64>> = (0..6).map(|i| vec![f64::from(i).cos()]).collect();
    let found = GradientTracking { step }.run(&objective, &graph, &starts, 60, |round| {
        let all = round.solutions.iter().map(|x| (x[0] - mean).abs());
        errors.push((errors.len() as f64, all.fold(0.0, f64::max)));
        ControlFlow::Continue(())
    });
    found.unwrap();
    let slope = exponential_rate(errors.into_iter().skip(20)).unwrap().rate;
    assert!(
        (slope - expected.ln()).abs() < 0.05 * expected.ln().abs(),
        "{slope} {}",
        expected.ln()
    );
    let refused = GradientTracking { step: 0.0 }.run(&objective, &graph, &starts, 1, |_| {
        ControlFlow::Continue(())
    });
    assert!(refused.is_err());
}
