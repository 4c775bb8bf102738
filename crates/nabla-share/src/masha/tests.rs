//! The bilinear problem with regularisation: 20 workers with different data, and 100 numbers.

use std::cell::RefCell;
use std::time::Duration;

use nabla_base::rate_fit::exponential_rate;
use nabla_base::vector::{distance, dot, norm, squared_norm};
use nabla_grad::SeededNoise;
use nabla_grad::compressor::{Natural, RandK, ScaledSign, TopK};

use super::extragradient::{Extragradient, Lookahead};
use super::*;
use crate::communicator::{Communicator, Kind, threads};

/// `f_m = xᵀ A_m y + a_mᵀ x + b_mᵀ y + λ/2 (‖x‖² − ‖y‖²)`, with the same number of elements in `x` and `y`.
#[derive(Clone)]
struct Bilinear {
    half: usize,
    /// Row by row.
    a: Vec<f64>,
    /// `(a_m, b_m)`.
    linear: Vec<f64>,
}

const LAMBDA: f64 = 0.2;

impl Bilinear {
    fn draw(half: usize, workers: usize, seed: u64) -> Vec<Self> {
        let mut noise = SeededNoise::new(seed, 0);
        let mut normal = |count: usize| -> Vec<f64> {
            let values = noise.normal_values(count).into_iter();
            values.map(f64::from).collect()
        };
        let common = normal(half * half);
        let scale = 1.0 / (half as f64).sqrt();
        let worker = |_| {
            let own = normal(half * half).into_iter();
            Self {
                half,
                a: own.zip(&common).map(|(n, b)| scale * (n + b)).collect(),
                linear: normal(2 * half),
            }
        };
        (0..workers).map(worker).collect()
    }

    fn operator(&self, z: &[f64]) -> Vec<f64> {
        let (x, y) = z.split_at(self.half);
        let mut value: Vec<f64> = z.iter().map(|z| LAMBDA * z).collect();
        for i in 0..self.half {
            let row = &self.a[i * self.half..(i + 1) * self.half];
            value[i] += dot(row, y) + self.linear[i];
            value[self.half + i] -= self.linear[self.half + i];
            add_scaled(&mut value[self.half..], -x[i], row);
        }
        value
    }
}

fn problem(workers: &[Bilinear]) -> Problem<'_> {
    let operators = workers
        .iter()
        .map(|m| Operator::new(|z: &[f64]| m.operator(z)));
    Problem::new(2 * workers[0].half, operators.collect()).unwrap()
}

/// `z*`, by extragradient without messages.
fn solution(workers: &[Bilinear]) -> Vec<f64> {
    let problem = problem(workers);
    let mut z = vec![0.0; problem.dimension()];
    for _ in 0..2000 {
        let mut ahead = z.clone();
        add_scaled(&mut ahead, -0.3, &problem.value(&z));
        add_scaled(&mut z, -0.3, &problem.value(&ahead));
    }
    assert!(norm(&problem.value(&z)) < 1e-12);
    z
}

/// The squared distances to the solution relative to that of the start, until they are below `1e-8`.
struct Watch<'a> {
    solution: &'a [f64],
    errors: RefCell<Vec<f64>>,
}

impl<'a> Watch<'a> {
    fn new(solution: &'a [f64]) -> Self {
        let errors = RefCell::new(Vec::new());
        Self { solution, errors }
    }

    fn see(&self, progress: Progress<'_>) -> ControlFlow<()> {
        let error = distance(progress.z, self.solution).powi(2) / squared_norm(self.solution);
        self.errors.borrow_mut().push(error);
        match error < 1e-8 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn converged(&self) -> bool {
        self.errors
            .borrow()
            .last()
            .is_some_and(|&error| error < 1e-8)
    }

    /// The explained share of the straight line in the logarithm.
    fn straightness(&self) -> f64 {
        let errors = self.errors.borrow();
        let points = errors.iter().enumerate().map(|(k, e)| (k as f64, *e));
        exponential_rate(points).unwrap().explained
    }
}

fn rand_k(k: usize) -> Uplink {
    Uplink::Independent(Box::new(RandK::new(k).unwrap()))
}

fn schedule(step: f64) -> Schedule {
    Schedule {
        step,
        iterations: 3000,
        ..Schedule::default()
    }
}

fn go(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn both_methods_converge_linearly() {
    let workers = Bilinear::draw(50, 20, 0);
    let (problem, solution) = (problem(&workers), solution(&workers));
    let start = vec![0.0; 100];
    let first = |uplink, downlink: Option<Box<dyn Compressor>>| {
        let watch = Watch::new(&solution);
        let masha = Masha1 {
            downlink,
            schedule: schedule(0.15),
            ..Masha1::new(uplink)
        };
        let outcome = masha.run(&problem, &start, &mut OneProcess::new(20), |p| watch.see(p));
        (watch, outcome.unwrap())
    };
    let (watch, outcome) = first(rand_k(10), None);
    assert!(watch.converged() && watch.straightness() > 0.97);
    // Ten numbers of each worker per round, and a hundred with every snapshot and at the start.
    let snapshots = (outcome.sent.up.numbers / 20 - 10 * outcome.iterations as u64) / 100;
    assert_eq!(
        outcome.sent.down.numbers,
        20 * 100 * (outcome.iterations as u64 + snapshots)
    );
    assert_eq!(
        outcome.sent.up.bits,
        20 * (10 * 39 * outcome.iterations as u64 + 3200 * snapshots)
    );
    assert!(
        (400..1000).contains(&outcome.iterations),
        "{}",
        outcome.iterations
    );
    for (uplink, downlink) in [
        (Uplink::PermK, None),
        (Uplink::Independent(Box::new(Natural)), None),
        (
            rand_k(10),
            Some(Box::new(RandK::new(50).unwrap()) as Box<dyn Compressor>),
        ),
    ] {
        let (watch, _) = first(uplink, downlink);
        assert!(watch.converged() && watch.straightness() > 0.97);
    }
    for downlink in [
        None,
        Some(Box::new(TopK::new(20).unwrap()) as Box<dyn Compressor>),
    ] {
        let watch = Watch::new(&solution);
        let masha = Masha2 {
            downlink,
            schedule: schedule(0.1),
            ..Masha2::new(Box::new(TopK::new(10).unwrap()))
        };
        let mut network = OneProcess::new(20);
        masha
            .run(&problem, &start, &mut network, |p| watch.see(p))
            .unwrap();
        assert!(watch.converged() && watch.straightness() > 0.97);
    }
}

#[test]
fn the_compressed_operator_itself_stalls() {
    let workers = Bilinear::draw(50, 20, 1);
    let (problem, solution) = (problem(&workers), solution(&workers));
    let watch = Watch::new(&solution);
    let naive = Extragradient {
        uplink: rand_k(10),
        step: 0.02,
        iterations: 3000,
        ..Extragradient::default()
    };
    let mut network = OneProcess::new(20);
    naive
        .run(&problem, &[0.0; 100], &mut network, |p| watch.see(p))
        .unwrap();
    let errors = watch.errors.borrow();
    assert!(errors[2000..].iter().all(|&error| error > 1e-2));
}

#[test]
fn a_few_workers_and_a_few_components_suffice() {
    let workers = Bilinear::draw(10, 8, 2);
    let solution = solution(&workers);
    let watch = Watch::new(&solution);
    let masha = Masha1 {
        participants: Some(3),
        schedule: schedule(0.1),
        ..Masha1::new(Uplink::PermK)
    };
    let mut network = OneProcess::new(8);
    masha
        .run(&problem(&workers), &[0.0; 20], &mut network, |p| {
            watch.see(p)
        })
        .unwrap();
    assert!(watch.converged());

    // Two workers with four components each.
    let operator = |m: usize| {
        let parts = &workers[4 * m..4 * m + 4];
        Operator::mean_of(4, move |j, z: &[f64]| parts[j].operator(z))
    };
    let sums = Problem::new(20, vec![operator(0), operator(1)]).unwrap();
    let schedule = Schedule {
        batch: Some(1),
        ..schedule(0.1)
    };
    let watch = Watch::new(&solution);
    let masha = Masha1 {
        schedule: schedule.clone(),
        ..Masha1::new(rand_k(10))
    };
    let mut network = OneProcess::new(2);
    masha
        .run(&sums, &[0.0; 20], &mut network, |p| watch.see(p))
        .unwrap();
    assert!(watch.converged());
    let watch = Watch::new(&solution);
    let masha = Masha2 {
        schedule,
        ..Masha2::new(Box::new(TopK::new(10).unwrap()))
    };
    masha
        .run(&sums, &[0.0; 20], &mut network, |p| watch.see(p))
        .unwrap();
    assert!(watch.converged());
}

#[test]
fn without_compression_and_with_a_snapshot_in_every_round_it_is_extragradient() {
    let workers = Bilinear::draw(5, 3, 3);
    let problem = problem(&workers);
    let start = vec![1.0; 10];
    let extragradient = Extragradient {
        step: 0.3,
        iterations: 50,
        ..Extragradient::default()
    };
    let mut network = OneProcess::new(3);
    let expected = extragradient
        .run(&problem, &start, &mut network, go)
        .unwrap()
        .z;
    let schedule = Schedule {
        step: 0.3,
        snapshot_probability: 1.0,
        iterations: 50,
        ..Schedule::default()
    };
    let first = Masha1 {
        schedule: schedule.clone(),
        ..Masha1::new(Uplink::Independent(Box::new(Identity)))
    };
    let second = Masha2 {
        schedule,
        ..Masha2::new(Box::new(Identity))
    };
    for z in [
        first.run(&problem, &start, &mut network, go).unwrap().z,
        second.run(&problem, &start, &mut network, go).unwrap().z,
    ] {
        assert!(distance(&z, &expected) < 1e-5 * norm(&expected));
    }
}

#[test]
fn the_mean_of_permuted_blocks_is_exact_if_all_workers_agree() {
    let mut draws = Draws::new(7, 3, 10);
    let vector: Vec<f64> = (0..10).map(f64::from).collect();
    for _ in 0..5 {
        draws.next_round();
        let message = |m| Uplink::PermK.message(&draws, m, (m, 3), &vector).unwrap();
        let messages: Vec<Compressed> = (0..3).map(message).collect();
        let numbers: usize = messages.iter().map(Compressed::dimension).sum();
        assert_eq!(numbers, 10);
        assert_eq!(Uplink::PermK.mean(&draws, &messages), vector);
    }
    // One worker alone, over many permutations: unbiased.
    let mut sum = [0.0; 10];
    for _ in 0..20_000 {
        draws.next_round();
        let order = draws.permutation();
        let message = Uplink::PermK.message(&draws, 0, (0, 3), &vector).unwrap();
        for (&i, value) in order.iter().zip(numbers_of(&message)) {
            sum[i] += value / 20_000.0;
        }
    }
    // The blocks have 3, 3 and 4 elements, so the first has 3/10 of them, times 3.
    for (mean, exact) in sum.iter().zip(&vector) {
        assert!((mean - 0.9 * exact).abs() < 0.3, "{mean} {exact}");
    }
}

#[test]
fn the_solution_stays_where_it_is() {
    let workers = Bilinear::draw(5, 4, 4);
    let (problem, solution) = (problem(&workers), solution(&workers));
    for uplink in [rand_k(2), Uplink::PermK] {
        let masha = Masha1::new(uplink);
        let z = masha
            .run(&problem, &solution, &mut OneProcess::new(4), go)
            .unwrap()
            .z;
        assert!(distance(&z, &solution) < 1e-6);
    }
    let masha = Masha2::new(Box::new(TopK::new(2).unwrap()));
    let z = masha
        .run(&problem, &solution, &mut OneProcess::new(4), go)
        .unwrap()
        .z;
    assert!(distance(&z, &solution) < 1e-6);
}

#[test]
fn the_optimistic_form_needs_half_the_messages() {
    let workers = Bilinear::draw(10, 4, 5);
    let (problem, solution) = (problem(&workers), solution(&workers));
    let run = |lookahead| {
        let watch = Watch::new(&solution);
        let method = Extragradient {
            lookahead,
            step: 0.2,
            ..Extragradient::default()
        };
        let mut network = OneProcess::new(4);
        let outcome = method
            .run(&problem, &[0.0; 20], &mut network, |p| watch.see(p))
            .unwrap();
        assert!(watch.converged());
        outcome
    };
    let [both, one] = [Lookahead::Extragradient, Lookahead::Optimistic].map(run);
    assert_eq!(both.sent.up.numbers, 4 * 2 * 20 * both.iterations as u64);
    assert_eq!(one.sent.up.numbers, 4 * 20 * (one.iterations as u64 + 1));
    assert!(one.sent.up.numbers < both.sent.up.numbers);
}

#[test]
fn a_constraint_is_kept_by_its_projection() {
    // min_x max_y x y + (x² − y²)/2 + 2 x with x ≥ −1/2: at x = −1/2, y = x.
    let operator = Operator::new(|z: &[f64]| vec![z[0] + z[1] + 2.0, z[1] - z[0]]);
    let constrained = || {
        let problem = Problem::new(2, vec![operator]).unwrap();
        problem.with_prox(|_, z: &mut [f64]| z[0] = z[0].max(-0.5))
    };
    let problem = constrained();
    let mut network = OneProcess::new(1);
    let z = Masha1::new(rand_k(1))
        .run(&problem, &[3.0, 3.0], &mut network, go)
        .unwrap()
        .z;
    assert!(distance(&z, &[-0.5, -0.5]) < 1e-3, "{z:?}");
    let refused = Masha2::new(Box::new(TopK::new(1).unwrap()));
    let error = refused
        .run(&problem, &[0.0; 2], &mut network, go)
        .unwrap_err();
    assert!(matches!(error, MashaError::Composite));
}

#[test]
fn threads_have_the_bits_of_one_loop_and_count_the_same() {
    let workers = Bilinear::draw(5, 3, 6);
    let start = vec![1.0; 10];
    let short = Schedule {
        iterations: 40,
        ..Schedule::default()
    };
    let first = || Masha1 {
        downlink: Some(Box::new(RandK::new(5).unwrap())),
        participants: Some(2),
        schedule: short.clone(),
        ..Masha1::new(Uplink::PermK)
    };
    let second = || Masha2 {
        downlink: Some(Box::new(ScaledSign)),
        schedule: short.clone(),
        ..Masha2::new(Box::new(TopK::new(3).unwrap()))
    };
    let mut network = OneProcess::new(3);
    let one = first()
        .run(&problem(&workers), &start, &mut network, go)
        .unwrap();
    let mut network = OneProcess::new(3);
    let two = second()
        .run(&problem(&workers), &start, &mut network, go)
        .unwrap();
    let limit = Duration::from_secs(20);
    let found = threads::run(3, limit, |ranks| -> Result<_, MashaError> {
        let problem = problem(&workers);
        let one = first().run(&problem, &start, &mut Ranks::new(&mut *ranks), go)?;
        let two = second().run(&problem, &start, &mut Ranks::new(&mut *ranks), go)?;
        let bytes = ranks.traffic().sent(Kind::Message).bytes;
        Ok((one, two, bytes))
    });
    let found = found.unwrap();
    for (at_server, alone) in [(&found[0].0, &one), (&found[0].1, &two)] {
        assert_eq!((&at_server.z, at_server.sent), (&alone.z, alone.sent));
        assert_eq!(at_server.iterations, alone.iterations);
    }
    for (a, b, bytes) in &found[1..] {
        assert_eq!((&a.z, &b.z), (&one.z, &two.z));
        // Their messages have headers, and are padded to bytes.
        assert!(8 * bytes > a.sent.up.bits + b.sent.up.bits);
    }
    let up: u64 = found.iter().map(|rank| rank.1.sent.up.bits).sum();
    // The server's count has all of it, its own worker's included.
    assert!(up > two.sent.up.bits && up < 2 * two.sent.up.bits);
}

#[test]
fn the_theoretical_step_converges() {
    let workers = Bilinear::draw(10, 4, 7);
    let (problem, solution) = (problem(&workers), solution(&workers));
    // ‖A‖_F bounds each Lipschitz constant.
    let lipschitz: Vec<f64> = workers.iter().map(|m| norm(&m.a) + LAMBDA).collect();
    let omega = rand_k(5).variance(20, 4);
    assert_eq!(omega, 3.0);
    let step = theoretical_step(&lipschitz, LAMBDA, omega, 0.0, 0.25).unwrap();
    let masha = Masha1 {
        schedule: Schedule {
            step,
            snapshot_probability: 0.25,
            iterations: 20_000,
            ..Schedule::default()
        },
        ..Masha1::new(rand_k(5))
    };
    let watch = Watch::new(&solution);
    masha
        .run(&problem, &[0.0; 20], &mut OneProcess::new(4), |p| {
            watch.see(p)
        })
        .unwrap();
    assert!(watch.converged());
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let workers = Bilinear::draw(2, 5, 8);
    let problem = problem(&workers);
    let start = [0.0; 4];
    let refused = |masha: &Masha1, start: &[f64], workers| {
        let found = masha.run(&problem, start, &mut OneProcess::new(workers), go);
        found.unwrap_err().to_string()
    };
    let biased = Masha1::new(Uplink::Independent(Box::new(TopK::new(1).unwrap())));
    assert_eq!(
        refused(&biased, &start, 5),
        "MASHA1 needs unbiased compressors, but the compressor of the workers is biased: use MASHA2"
    );
    let many = Masha1::new(Uplink::PermK);
    assert!(refused(&many, &start, 5).contains("must be from 1 to 4"));
    let good = |change: fn(&mut Masha1)| {
        let mut masha = Masha1::new(rand_k(1));
        change(&mut masha);
        masha
    };
    let zero = good(|m| m.schedule.step = 0.0);
    assert!(refused(&zero, &start, 5).contains("step γ"));
    let never = good(|m| m.schedule.snapshot_probability = 0.0);
    assert!(refused(&never, &start, 5).contains("probability of a snapshot"));
    let batch = good(|m| m.schedule.batch = Some(1));
    assert!(refused(&batch, &start, 5).contains("worker 0 has no components"));
    let none = good(|m| m.participants = Some(0));
    assert!(refused(&none, &start, 5).contains("participants"));
    let plain = good(|_| {});
    assert!(refused(&plain, &[0.0; 3], 5).contains("start"));
    assert!(refused(&plain, &start, 2).contains("5, as in the problem"));
    let nan = Problem::new(1, vec![Operator::new(|_: &[f64]| vec![f64::NAN])]).unwrap();
    let error = plain
        .run(&nan, &[0.0], &mut OneProcess::new(1), go)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "element 0 of the operator of worker 0 is NaN"
    );
}

/// Every worker has a `y_m` of its own: `min_x max_y (1/M) Σ_m f_m(x, y_m)`.
fn with_own(workers: &[Bilinear]) -> Problem<'_> {
    let half = workers[0].half;
    let operators = workers
        .iter()
        .map(|m| Operator::new(|z: &[f64]| m.operator(z)).with_own(vec![0.0; half]));
    Problem::new(half, operators.collect()).unwrap()
}

/// The same with all of them in `z`.
fn with_all_shared(workers: &[Bilinear]) -> Problem<'_> {
    let (half, count) = (workers[0].half, workers.len());
    let operators = workers.iter().enumerate().map(|(m, worker)| {
        Operator::new(move |z: &[f64]| {
            let own = (m + 1) * half..(m + 2) * half;
            let found = worker.operator(&[&z[..half], &z[own.clone()]].concat());
            let mut value = vec![0.0; (count + 1) * half];
            value[..half].copy_from_slice(&found[..half]);
            // The mean over the workers divides it again.
            add_scaled(&mut value[own], count as f64, &found[half..]);
            value
        })
    });
    Problem::new((count + 1) * half, operators.collect()).unwrap()
}

#[test]
fn own_variables_move_as_shared_ones_do_and_are_not_sent() {
    let workers = Bilinear::draw(5, 4, 9);
    let method = Extragradient {
        step: 0.2,
        iterations: 300,
        ..Extragradient::default()
    };
    let shared = method
        .run(
            &with_all_shared(&workers),
            &[0.0; 25],
            &mut OneProcess::new(4),
            go,
        )
        .unwrap();
    let problem = with_own(&workers);
    let own = method
        .run(&problem, &[0.0; 5], &mut OneProcess::new(4), go)
        .unwrap();
    let all = |outcome: &Outcome| {
        [std::slice::from_ref(&outcome.z), &outcome.own[..]]
            .concat()
            .concat()
    };
    assert!(distance(&all(&own), &shared.z) < 1e-5 * norm(&shared.z));
    assert_eq!(own.sent.up.numbers, 300 * 2 * 5 * 4);

    // Both methods find the same point, whatever they send and whoever is asked.
    let schedule = schedule(0.1);
    let few = Masha1 {
        participants: Some(2),
        schedule: schedule.clone(),
        ..Masha1::new(rand_k(2))
    };
    let top = Masha2 {
        schedule,
        ..Masha2::new(Box::new(TopK::new(2).unwrap()))
    };
    for found in [
        few.run(&problem, &[0.0; 5], &mut OneProcess::new(4), go),
        top.run(&problem, &[0.0; 5], &mut OneProcess::new(4), go),
    ] {
        assert!(distance(&all(&found.unwrap()), &shared.z) < 1e-3 * norm(&shared.z));
    }
}

#[test]
fn own_variables_keep_their_constraint_in_both_methods() {
    let workers = Bilinear::draw(5, 3, 10);
    let clamp = |_: f64, own: &mut [f64]| own.iter_mut().for_each(|y| *y = y.clamp(-0.1, 0.1));
    let problem = || with_own(&workers).with_own_prox(clamp);
    let first = || Masha1::new(rand_k(2));
    let second = || Masha2 {
        downlink: Some(Box::new(TopK::new(3).unwrap())),
        ..Masha2::new(Box::new(TopK::new(2).unwrap()))
    };
    let start = [0.0; 5];
    let one = first().run(&problem(), &start, &mut OneProcess::new(3), go);
    let two = second().run(&problem(), &start, &mut OneProcess::new(3), go);
    let (one, two) = (one.unwrap(), two.unwrap());
    let bounded = |outcome: &Outcome| outcome.own.concat().iter().all(|y| y.abs() <= 0.1);
    assert!(bounded(&one) && bounded(&two));
    assert!(distance(&one.own.concat(), &two.own.concat()) < 1e-3);
    assert!(distance(&one.z, &two.z) < 1e-3);

    // Every rank has its own, with the bits of one loop.
    let found = threads::run(
        3,
        Duration::from_secs(20),
        |ranks| -> Result<_, MashaError> {
            let one = first().run(&problem(), &start, &mut Ranks::new(&mut *ranks), go)?;
            let two = second().run(&problem(), &start, &mut Ranks::new(&mut *ranks), go)?;
            Ok((one, two))
        },
    );
    for (rank, (a, b)) in found.unwrap().iter().enumerate() {
        assert_eq!((&a.z, &b.z), (&one.z, &two.z));
        let own = std::slice::from_ref(&one.own[rank]);
        assert_eq!(a.own, own);
        assert_eq!(b.own, std::slice::from_ref(&two.own[rank]));
    }
}

#[test]
fn an_operator_is_asked_once_an_iteration_and_once_a_snapshot() {
    let asked = std::cell::Cell::new(0_u64);
    let operator = Operator::new(|z: &[f64]| {
        asked.set(asked.get() + 1);
        vec![z[1], -z[0]]
    });
    let problem = Problem::new(2, vec![operator]).unwrap();
    let masha = Masha1 {
        schedule: Schedule {
            iterations: 200,
            ..Schedule::default()
        },
        ..Masha1::new(Uplink::PermK)
    };
    let mut network = OneProcess::new(1);
    let outcome = masha.run(&problem, &[1.0, 1.0], &mut network, go).unwrap();
    // Two numbers a message: a difference in every iteration, and one for each snapshot, the first included.
    assert_eq!(asked.get(), outcome.sent.up.numbers / 2);
    assert!((200 + 5..200 + 50).contains(&asked.get()));
}
