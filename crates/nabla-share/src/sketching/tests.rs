//! Quadratics, whose descent has closed forms.

use std::time::Duration;

use nabla_base::vector::{dot, norm, squared_norm};

use super::*;
use crate::communicator::threads::{self, RankError, ThreadCommunicator};

const LIMIT: Duration = Duration::from_secs(30);
const DIMENSION: usize = 20;
const CLIENTS: usize = 3;

/// The mean over `j` of `½ Σ_k a_k (w_k − c_jk)²`.
#[derive(Clone)]
struct Quadratic {
    curvature: Vec<f64>,
    centres: Vec<Vec<f64>>,
}

impl LocalLoss for Quadratic {
    fn examples(&self) -> usize {
        self.centres.len()
    }

    fn gradient(&self, w: &[f64], examples: &[usize]) -> Vec<f64> {
        let of = |k: usize| {
            let terms = examples.iter().map(|&j| w[k] - self.centres[j][k]);
            self.curvature[k] * terms.sum::<f64>() / examples.len() as f64
        };
        (0..w.len()).map(of).collect()
    }
}

fn normal(count: usize, stream: u64) -> Vec<f64> {
    let values = SeededNoise::new(17, stream).normal_values(count);
    values.into_iter().map(f64::from).collect()
}

/// Eigenvalues from 1/4 to 2.
fn curvature() -> Vec<f64> {
    (0..DIMENSION)
        .map(|k| 0.25 + 1.75 * k as f64 / (DIMENSION - 1) as f64)
        .collect()
}

fn loss_of(client: usize) -> Quadratic {
    let centre = |j| normal(DIMENSION, 10 + 4 * client as u64 + j);
    Quadratic {
        curvature: curvature(),
        centres: (0..4).map(centre).collect(),
    }
}

fn client(rank: usize, steps: usize, batch: Option<usize>) -> LocalDescent<Quadratic> {
    LocalDescent {
        steps,
        step: 0.04,
        batch,
        ..LocalDescent::new(loss_of(rank))
    }
}

fn on_ranks<T: Send>(
    on_rank: impl Fn(&mut ThreadCommunicator) -> Result<T, SketchingError> + Sync,
) -> Result<Vec<T>, RankError<SketchingError>> {
    threads::run(CLIENTS, LIMIT, on_rank)
}

fn go(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn start() -> SketchingState {
    SketchingState::new(normal(DIMENSION, 0))
}

/// The method in its own words, with `R` as a matrix, in one loop.
fn by_hand(method: &SketchedAveraging, steps: usize, rounds: u64) -> Vec<f64> {
    let mut w = start().weights;
    let all: Vec<usize> = (0..4).collect();
    for round in 0..rounds {
        let matrix = method.matrix(round, DIMENSION).unwrap();
        let columns: Vec<Vec<f64>> = (0..DIMENSION)
            .map(|k| {
                let mut unit = vec![0.0; DIMENSION];
                unit[k] = 1.0;
                matrix.apply_values(&unit).unwrap()
            })
            .collect();
        let mut y = vec![0.0; method.length];
        for rank in 0..CLIENTS {
            let (loss, mut u) = (loss_of(rank), w.clone());
            for _ in 0..steps {
                let gradient = loss.gradient(&u, &all);
                add_scaled(&mut u, -0.04, &gradient);
            }
            for (k, column) in columns.iter().enumerate() {
                let factor = method.global_step / CLIENTS as f64;
                add_scaled(&mut y, factor * (u[k] - w[k]), column);
            }
        }
        for (w, column) in w.iter_mut().zip(&columns) {
            *w += dot(column, &y);
        }
    }
    w
}

#[test]
fn every_family_takes_the_steps_of_its_definition_on_all_ranks_alike() {
    for (family, length, steps) in [
        (SketchFamily::Srht, 12, 1),
        (SketchFamily::Count, 12, 3),
        (SketchFamily::Sparse { blocks: 4 }, 12, 3),
        (SketchFamily::Gaussian, 12, 2),
        (SketchFamily::Ams, 12, 1),
        (SketchFamily::Identity, DIMENSION, 3),
    ] {
        let method = SketchedAveraging {
            family,
            length,
            global_step: 0.9,
            seed: 5,
            ..SketchedAveraging::default()
        };
        let found = on_ranks(|ranks| {
            let mut state = start();
            let mut client = client(ranks.rank(), steps, None);
            method.run(ranks, &mut client, &mut state, 20, go)?;
            let traffic = ranks.traffic();
            if ranks.rank() != 0 {
                assert_eq!(traffic.all_sent().bytes, state.up);
                assert_eq!(traffic.all_received().bytes, state.down);
            }
            Ok(state)
        });
        let found = found.unwrap();
        assert!(found.iter().all(|state| *state == found[0]), "{family:?}");
        let header = 8 + SketchMessage::HEADER_BYTES as u64;
        assert_eq!(found[0].up, 20 * (header + 4 * length as u64));
        assert_eq!(found[0].down, found[0].up + 20);
        let expected = by_hand(&method, steps, 20);
        for (found, expected) in found[0].weights.iter().zip(expected) {
            // Numbers travel in 32 bits.
            assert!((found - expected).abs() < 1e-4, "{family:?}");
        }
    }
}

/// `E‖w_T − w*‖²_A` falls at least by `1 − μ η` in every round, for both steps of theory.
#[test]
fn theory_bounds_the_mean_loss() {
    let (a, rounds, draws) = (curvature(), 60, 40);
    let (strong, smooth, trace) = (0.25, 2.0, a.iter().sum::<f64>());
    for family in [SketchFamily::Gaussian, SketchFamily::Srht] {
        let matrix = family.draw(8, DIMENSION, &mut SeededNoise::new(0, 0));
        let matrix = matrix.unwrap();
        let worst = worst_case_step(smooth, matrix.second_moment(), 1).unwrap();
        let better = effective_rank_step(smooth, trace, matrix.variance(), 1).unwrap();
        assert!(worst < better && better < 1.0 / smooth);
        for step in [worst, better] {
            let mut mean = 0.0;
            let mut begun = 0.0;
            for seed in 0..draws {
                let method = SketchedAveraging {
                    family,
                    length: 8,
                    seed,
                    ..SketchedAveraging::default()
                };
                let loss = Quadratic {
                    curvature: a.clone(),
                    centres: vec![vec![0.0; DIMENSION]],
                };
                let value = |w: &[f64]| w.iter().zip(&a).map(|(w, a)| 0.5 * a * w * w).sum::<f64>();
                begun = value(&start().weights);
                let end = threads::run(1, LIMIT, |ranks| {
                    let mut state = start();
                    let mut client = LocalDescent {
                        step,
                        ..LocalDescent::new(loss.clone())
                    };
                    method.run(ranks, &mut client, &mut state, rounds, go)?;
                    Ok::<_, SketchingError>(state.weights)
                });
                mean += value(&end.unwrap()[0]) / draws as f64;
            }
            let bound = begun * (1.0 - strong * step).powi(rounds as i32);
            assert!(mean <= bound, "{family:?}, {step}: {mean} {bound}");
        }
    }
}

/// `E[RᵀR A RᵀR] = (1 + 1/s) A + tr(A)/s I` for normal numbers, by its quadratic form.
#[test]
fn the_effective_rank_is_what_a_hessian_costs() {
    let (a, s, draws) = (curvature(), 8, 20_000);
    let h = normal(DIMENSION, 3);
    let quadratic = |x: &[f64]| x.iter().zip(&a).map(|(x, a)| a * x * x).sum::<f64>();
    let mut noise = SeededNoise::new(2, 0);
    let mut mean = 0.0;
    for _ in 0..draws {
        let matrix = SketchFamily::Gaussian
            .draw(s, DIMENSION, &mut noise)
            .unwrap();
        let there = matrix.apply_values(&h).unwrap();
        mean += quadratic(&matrix.transposed_values(&there).unwrap()) / f64::from(draws);
    }
    let s = s as f64;
    let expected = (1.0 + 1.0 / s) * quadratic(&h) + a.iter().sum::<f64>() / s * squared_norm(&h);
    assert!((mean / expected - 1.0).abs() < 0.03, "{mean} {expected}");
}

#[test]
fn a_matrix_that_stays_confines_the_weights() {
    let method = SketchedAveraging {
        length: 6,
        family: SketchFamily::Gaussian,
        matrices: Matrices::Fixed,
        ..SketchedAveraging::default()
    };
    let found = on_ranks(|ranks| {
        let mut state = start();
        let mut client = client(ranks.rank(), 1, None);
        method.run(ranks, &mut client, &mut state, 40, go)?;
        Ok(state.weights)
    });
    let mut change = found.unwrap().remove(0);
    add_scaled(&mut change, -1.0, &start().weights);
    // The rows of R, made orthogonal one after the other.
    let matrix = method.matrix(7, DIMENSION).unwrap();
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for row in 0..6 {
        let mut unit = vec![0.0; 6];
        unit[row] = 1.0;
        let mut row = matrix.transposed_values(&unit).unwrap();
        for before in &rows {
            let along = dot(&row, before);
            add_scaled(&mut row, -along, before);
        }
        let length = norm(&row);
        rows.push(row.into_iter().map(|x| x / length).collect());
    }
    let whole = norm(&change);
    for row in &rows {
        let along = dot(&change, row);
        add_scaled(&mut change, -along, row);
    }
    assert!(whole > 0.1 && norm(&change) < 1e-9 * whole);
}

#[test]
fn a_saved_run_goes_on_with_the_same_bits() {
    let method = SketchedAveraging {
        length: 10,
        ..SketchedAveraging::default()
    };
    let run = |cut: bool| {
        let found = on_ranks(|ranks| {
            let mut state = start();
            let mut worker = client(ranks.rank(), 2, Some(3));
            if cut {
                method.run(ranks, &mut worker, &mut state, 7, go)?;
                state = SketchingState::from_bytes(&state.to_bytes())?;
                worker = client(ranks.rank(), 2, Some(3));
            }
            method.run(ranks, &mut worker, &mut state, 15, go)?;
            Ok(state)
        });
        found.unwrap()
    };
    assert_eq!(run(false), run(true));
    let bytes = start().to_bytes();
    for damaged in [&bytes[..20], &bytes[..bytes.len() - 1]] {
        assert!(SketchingState::from_bytes(damaged).is_err());
    }
}

#[test]
fn an_observer_of_the_server_stops_everyone_in_its_round() {
    let method = SketchedAveraging {
        length: 4,
        ..SketchedAveraging::default()
    };
    let found = on_ranks(|ranks| {
        let (mut state, mut client) = (start(), client(ranks.rank(), 1, None));
        method.run(ranks, &mut client, &mut state, 100, |seen| {
            assert_eq!(seen.up + seen.rounds, seen.down);
            match seen.rounds == 9 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        Ok(state)
    });
    let found = found.unwrap();
    assert!(
        found
            .iter()
            .all(|state| state.round == 9 && *state == found[0])
    );
}

#[test]
fn ranks_that_disagree_are_told_so() {
    let of = |change: fn(&mut SketchedAveraging), round: u64| {
        let error = on_ranks(|ranks| {
            let mut method = SketchedAveraging {
                length: 8,
                ..SketchedAveraging::default()
            };
            let (mut state, mut client) = (start(), client(ranks.rank(), 1, None));
            if ranks.rank() == 2 {
                change(&mut method);
                state.round = round;
            }
            method.run(ranks, &mut client, &mut state, 5, go)
        });
        error.unwrap_err().to_string()
    };
    let seed = of(|method| method.seed = 1, 0);
    assert!(
        seed.contains("the message of rank 2 in round 0 is refused"),
        "{seed}"
    );
    assert!(seed.contains("same seed, family and sizes"), "{seed}");
    for error in [
        of(|method| method.family = SketchFamily::Count, 0),
        of(|method| method.length = 4, 0),
    ] {
        assert!(error.contains("same seed, family and sizes"), "{error}");
    }
    let round = of(|method| method.matrices = Matrices::Fixed, 3);
    assert!(
        round.contains("rank 2 is in round 3, but this rank in round 0"),
        "{round}"
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |method: SketchedAveraging, worker: LocalDescent<Quadratic>| {
        let found = threads::run(1, LIMIT, |ranks| {
            method.run(ranks, &mut worker.clone(), &mut start(), 1, go)
        });
        found.unwrap_err().to_string()
    };
    let good = SketchedAveraging::default;
    assert!(good().length > DIMENSION);
    let error = refused(good(), client(0, 1, None));
    assert!(
        error.contains("32 rows to choose from, but 64 were requested"),
        "{error}"
    );
    let small = || SketchedAveraging {
        length: 4,
        ..good()
    };
    let error = refused(small(), client(0, 0, None));
    assert!(error.contains("number of local steps is 0"), "{error}");
    let error = refused(small(), client(0, 1, Some(5)));
    assert!(error.contains("batch of a client is 5"), "{error}");
    let mut diverged = client(0, 1, None);
    diverged.step = 1e300;
    assert!(refused(small(), diverged).contains("must be finite to be sent"));
    let still = SketchedAveraging {
        global_step: 0.0,
        ..small()
    };
    assert!(refused(still, client(0, 1, None)).contains("global step"));
    assert!(worst_case_step(1.0, 0.5, 1).is_err() && worst_case_step(0.0, 1.0, 1).is_err());
    assert!(effective_rank_step(2.0, 1.0, 0.1, 1).is_err());
}
