//! Training with real threads: the gradients are exact whoever straggles, and the dead neither hang nor falsify it.

use std::thread;
use std::time::{Duration, Instant};

use nabla_share::communicator::delays::TwoStateDelays;
use nabla_share::communicator::faults::Faults;
use nabla_share::communicator::numbers::{from_bytes, to_bytes};
use nabla_share::communicator::threads::{self, ThreadCommunicator};
use nabla_share::communicator::trace::Trace;
use nabla_share::communicator::{Communicator, CommunicatorError, Tag, Traffic};
use nabla_share::sequential_gradient_coding::run::{
    BoxedError, Chunk, CodedRun, DeathRule, Models, RunError, RunReport,
};
use nabla_share::sequential_gradient_coding::selection::{Profile, Search, select};
use nabla_share::sequential_gradient_coding::{CodeKind, CodingScheme, GradientCode, MSgc, SrSgc};

const BATCH: usize = 240;
const WEIGHTS: usize = 5;
const LIMIT: Duration = Duration::from_secs(30);

/// Least squares: the gradient of one example at the weights.
fn add_gradient(sum: &mut [f32], weights: &[f32], job: usize, example: usize) {
    let feature = |i: usize| ((example * 7 + i * 13 + job) % 11) as f32 / 11.0 - 0.4;
    let predicted: f32 = (0..WEIGHTS).map(|i| feature(i) * weights[i]).sum();
    for (i, sum) in sum.iter_mut().enumerate() {
        *sum += (predicted - feature(0)) * feature(i) / BATCH as f32;
    }
}

struct Regressions {
    weights: Vec<Vec<f32>>,
    /// The largest difference of a decoded gradient from the direct sum.
    error: f32,
}

impl Regressions {
    fn new(models: usize) -> Self {
        let weights = (0..models).map(|m| vec![0.1 * m as f32; WEIGHTS]).collect();
        Self {
            weights,
            error: 0.0,
        }
    }
}

impl Models for Regressions {
    fn state(&mut self, _: usize, model: usize) -> Result<Vec<u8>, BoxedError> {
        Ok(to_bytes(&self.weights[model]))
    }

    fn step(&mut self, job: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError> {
        let mut direct = vec![0.0; WEIGHTS];
        for example in 0..BATCH {
            add_gradient(&mut direct, &self.weights[model], job, example);
        }
        for ((weight, decoded), direct) in
            self.weights[model].iter_mut().zip(&gradient).zip(&direct)
        {
            self.error = self.error.max((decoded - direct).abs());
            *weight -= 0.5 * decoded;
        }
        Ok(())
    }
}

fn gradient(chunk: &Chunk<'_>) -> Result<Vec<f32>, BoxedError> {
    let weights = from_bytes::<f32>(chunk.state);
    let mut sum = vec![0.0; WEIGHTS];
    for example in chunk.examples(BATCH) {
        add_gradient(&mut sum, &weights, chunk.job, example);
    }
    Ok(sum)
}

fn train(
    scheme: &dyn CodingScheme,
    run: &CodedRun,
    limit: Duration,
    faults: &Faults,
) -> Result<(RunReport, Regressions), RunError> {
    let mut models = Regressions::new(run.models);
    let report = run.on_threads(scheme, limit, faults, &mut models, |_| gradient)?;
    Ok((report, models))
}

fn run(jobs: usize) -> CodedRun {
    CodedRun {
        jobs,
        ..CodedRun::default()
    }
}

fn schemes(workers: usize) -> Vec<Box<dyn CodingScheme>> {
    let fitting = CodeKind::Fitting;
    vec![
        Box::new(GradientCode::uncoded(workers).unwrap()),
        Box::new(GradientCode::new(workers, 1, CodeKind::Repetition).unwrap()),
        Box::new(GradientCode::new(workers, 2, CodeKind::Cyclic).unwrap()),
        Box::new(SrSgc::new(workers, 1, 2, 2, fitting).unwrap()),
        Box::new(SrSgc::new(workers, 2, 3, 3, fitting).unwrap()),
        Box::new(MSgc::new(workers, 1, 2, 1, fitting).unwrap()),
        Box::new(MSgc::new(workers, 2, 3, 2, fitting).unwrap()),
        Box::new(MSgc::new(workers, 1, 2, workers, fitting).unwrap()),
    ]
}

/// Delays of which some are stragglers, but short.
fn delays(workers: usize, seed: u64) -> Faults {
    let law = TwoStateDelays {
        base_seconds: 0.004,
        straggle: 0.2,
        stay: 0.3,
        ..TwoStateDelays::default()
    };
    Faults::new().with_delays(law.draw(workers, 40, seed).unwrap())
}

#[test]
fn with_every_scheme_the_gradients_are_the_sums_whoever_straggles() {
    for scheme in schemes(6) {
        let (report, models) = train(&*scheme, &run(24), LIMIT, &delays(6, 1)).unwrap();
        assert!(models.error < 2e-5, "{}: {}", scheme.label(), models.error);
        assert_eq!((report.gradients, report.dead.len()), (24, 0));
        assert!(report.rounds <= 24 + scheme.delay());
        assert!(report.trace.rows().len() >= 24);
        // Every round waits at least until the cut-off, twice the time of the fastest worker.
        assert!(report.seconds() > 24.0 * 0.003, "{}", report.seconds());
    }
}

#[test]
fn the_same_scheme_gives_the_same_bits_whoever_straggles() {
    let kind = CodeKind::Repetition;
    let same: [Box<dyn CodingScheme>; 4] = [
        Box::new(GradientCode::uncoded(6).unwrap()),
        Box::new(GradientCode::new(6, 2, kind).unwrap()),
        Box::new(SrSgc::new(6, 1, 2, 2, kind).unwrap()),
        Box::new(MSgc::new(6, 1, 2, 2, kind).unwrap()),
    ];
    for scheme in same {
        let weights = |faults| train(&*scheme, &run(16), LIMIT, &faults).unwrap().1.weights;
        let calm = weights(Faults::new());
        assert_eq!(calm, weights(delays(6, 2)), "{}", scheme.label());
        assert_eq!(
            calm,
            weights(Faults::new().with_death(4, 3)),
            "{}",
            scheme.label()
        );
    }
}

#[test]
fn coded_training_ends_at_the_weights_of_uncoded_training() {
    let uncoded = GradientCode::uncoded(6).unwrap();
    let expected = train(&uncoded, &run(24), LIMIT, &Faults::new()).unwrap().1;
    for scheme in schemes(6) {
        let models = train(&*scheme, &run(24), LIMIT, &delays(6, 3)).unwrap().1;
        for (a, b) in models
            .weights
            .iter()
            .flatten()
            .zip(expected.weights.iter().flatten())
        {
            assert!((a - b).abs() < 1e-4, "{}: {a} {b}", scheme.label());
        }
    }
}

#[test]
fn the_tasks_of_a_dead_worker_are_taken_over() {
    for scheme in schemes(6) {
        let faults = Faults::new().with_death(2, 5).with_death(3, 7);
        let begun = Instant::now();
        let (report, models) = train(&*scheme, &run(16), LIMIT, &faults).unwrap();
        assert!(begun.elapsed() < LIMIT);
        assert!(models.error < 2e-5, "{}: {}", scheme.label(), models.error);
        let mut dead: Vec<usize> = report.dead.iter().map(|dead| dead.0).collect();
        // A worker that is late in the round of its death dies later.
        dead.sort_unstable();
        assert_eq!(dead, [2, 3], "{}", scheme.label());
    }
}

#[test]
fn a_silent_worker_is_taken_for_dead_after_the_time_limit() {
    let scheme = MSgc::new(4, 1, 2, 1, CodeKind::Fitting).unwrap();
    let faults = Faults::new().with_silence(1, 3);
    let limit = Duration::from_millis(500);
    let begun = Instant::now();
    let (report, models) = train(&scheme, &run(12), limit, &faults).unwrap();
    assert!(begun.elapsed() < LIMIT);
    // On a busy machine others may be silent for as long.
    assert!(report.dead.iter().any(|dead| dead.0 == 1));
    assert!(models.error < 2e-5);
}

#[test]
fn whom_the_scheme_can_do_without_may_be_dead() {
    let endure = CodedRun {
        deaths: DeathRule::Endure,
        ..run(16)
    };
    let scheme = GradientCode::new(6, 2, CodeKind::Cyclic).unwrap();
    let faults = Faults::new().with_death(0, 2).with_death(5, 4);
    let (_, models) = train(&scheme, &endure, LIMIT, &faults).unwrap();
    assert!(models.error < 2e-5);

    // A third one is too much; M-SGC cannot do without the chunks of a single one.
    let faults = faults.with_death(3, 6);
    let error = train(&scheme, &endure, LIMIT, &faults)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, RunError::Dead { .. }), "{error}");
    let scheme = MSgc::new(6, 1, 2, 2, CodeKind::Fitting).unwrap();
    let faults = Faults::new().with_death(4, 2);
    let begun = Instant::now();
    let error = train(&scheme, &endure, LIMIT, &faults)
        .map(|_| ())
        .unwrap_err();
    assert!(begun.elapsed() < LIMIT);
    // In the round of its death, or in the next one if it was late in that.
    let message = error.to_string();
    let reason = "cannot be completed: rank 5 has ended";
    assert!(message.ends_with(reason), "{message}");
}

/// A rank that dies when it has sent a message.
struct DiesAfterItsAnswer {
    end: ThreadCommunicator,
    dead: bool,
}

impl Communicator for DiesAfterItsAnswer {
    fn rank(&self) -> usize {
        self.end.rank()
    }

    fn size(&self) -> usize {
        self.end.size()
    }

    fn time_limit(&self) -> Duration {
        self.end.time_limit()
    }

    fn traffic(&self) -> &Traffic {
        self.end.traffic()
    }

    fn send(&mut self, to: usize, tag: Tag, bytes: &[u8]) -> Result<(), CommunicatorError> {
        self.dead = true;
        self.end.send(to, tag, bytes)
    }

    fn receive_first(
        &mut self,
        from: &[usize],
        tag: Tag,
        wait: Duration,
    ) -> Result<Option<(usize, Vec<u8>)>, CommunicatorError> {
        match self.dead {
            true => Err(CommunicatorError::Killed {
                rank: self.rank(),
                round: 0,
            }),
            false => self.end.receive_first(from, tag, wait),
        }
    }
}

/// Models whose second state takes long.
struct Late(Regressions);

impl Models for Late {
    fn state(&mut self, job: usize, model: usize) -> Result<Vec<u8>, BoxedError> {
        if job == 1 {
            thread::sleep(Duration::from_millis(200));
        }
        self.0.state(job, model)
    }

    fn step(&mut self, job: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError> {
        self.0.step(job, model, gradient)
    }
}

#[test]
fn whoever_takes_over_between_two_rounds_has_the_state_of_the_new_job() {
    let scheme = GradientCode::uncoded(3).unwrap();
    let mut ends = threads::connected(4, LIMIT).unwrap().into_iter();
    let mut leader = ends.next().unwrap();
    let end = ends.next().unwrap();
    let (scheme, run) = (&scheme, &run(8));
    let mut models = Late(Regressions::new(4));
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            let mut dying = DiesAfterItsAnswer { end, dead: false };
            // It is the last to answer, so its end is found when the next round is sent out.
            let slow = |chunk: &Chunk<'_>| {
                thread::sleep(Duration::from_millis(200));
                gradient(chunk)
            };
            assert!(run.work(&mut dying, scheme, slow).is_err());
        });
        for mut end in ends {
            scope.spawn(move || run.work(&mut end, scheme, gradient));
        }
        run.lead(&mut leader, scheme, &mut models)
    });
    assert_eq!(report.unwrap().dead, [(0, 1)]);
    assert!(models.0.error < 2e-5);
}

#[test]
fn the_dead_cannot_be_replaced_if_all_are() {
    let scheme = GradientCode::uncoded(2).unwrap();
    let faults = Faults::new().with_death(0, 1).with_death(1, 1);
    let error = train(&scheme, &run(4), LIMIT, &faults)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, RunError::Dead { .. }), "{error}");
}

#[test]
fn errors_of_your_code_end_the_run_with_their_place() {
    let scheme = MSgc::new(4, 1, 2, 1, CodeKind::Fitting).unwrap();
    let failing = |worker: usize| {
        move |chunk: &Chunk<'_>| match (worker, chunk.job) {
            (2, 3) => Err("out of memory".into()),
            _ => gradient(chunk),
        }
    };
    let mut models = Regressions::new(4);
    let result = run(8).on_threads(&scheme, LIMIT, &Faults::new(), &mut models, failing);
    let message = result.unwrap_err().to_string();
    assert_eq!(
        message,
        "worker 2 failed in job 3 at chunk 2: out of memory"
    );

    let panicking = |worker: usize| {
        move |chunk: &Chunk<'_>| {
            assert!((worker, chunk.job) != (1, 2), "no luck");
            gradient(chunk)
        }
    };
    // A worker that panics is dead, and replaced.
    let uncoded = GradientCode::uncoded(3).unwrap();
    let mut models = Regressions::new(4);
    let report = run(8).on_threads(&uncoded, LIMIT, &Faults::new(), &mut models, panicking);
    assert_eq!(report.unwrap().dead, [(1, 2)]);
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let scheme = MSgc::new(4, 2, 3, 1, CodeKind::Fitting).unwrap();
    let few = CodedRun {
        models: 3,
        ..run(8)
    };
    let error = train(&scheme, &few, LIMIT, &Faults::new())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the scheme M-SGC(n=4, B=2, W=3, lambda=1) takes 4 rounds for a gradient, so it needs at least 4 models, \
         but there are 3"
    );
    assert!(train(&scheme, &run(0), LIMIT, &Faults::new()).is_err());
    let negative = CodedRun {
        tolerance: -1.0,
        ..run(8)
    };
    assert!(train(&scheme, &negative, LIMIT, &Faults::new()).is_err());
}

#[test]
fn the_leader_is_rank_0_and_nobody_else() {
    let scheme = GradientCode::uncoded(1).unwrap();
    let mut ends = threads::connected(2, LIMIT).unwrap();
    let models = &mut Regressions::new(4);
    let error = run(1).lead(&mut ends[1], &scheme, models).unwrap_err();
    let expected = "the rank of the leader is 1, but it must be 0";
    assert_eq!(error.to_string(), expected);
    assert!(run(1).work(&mut ends[0], &scheme, gradient).is_err());
}

#[test]
fn a_profile_is_measured_and_a_scheme_chosen_from_it() {
    let probe = CodedRun {
        jobs: 6,
        ..CodedRun::default().waiting_for_all()
    };
    let slow = |chunk: &Chunk<'_>| {
        // 24 ms for a whole batch.
        thread::sleep(Duration::from_micros(100) * chunk.examples(BATCH).len() as u32);
        gradient(chunk)
    };
    let mut loads = Vec::new();
    let profile = Profile::measure(4, |scheme| -> Result<Trace, RunError> {
        loads.push(scheme.load());
        let mut models = Regressions::new(4);
        let report = probe.on_threads(scheme, LIMIT, &Faults::new(), &mut models, |_| slow)?;
        assert_eq!((report.late, report.stragglers), (0, 0));
        Ok(report.trace)
    })
    .unwrap();
    assert_eq!(loads, [0.25, 0.5, 1.0]);
    assert_eq!((profile.delays.rounds(), profile.delays.load()), (6, 0.25));
    assert!(profile.fit.slope > 0.01, "{:?}", profile.fit);
    let chosen = select(&profile.simulation(), &Search::default()).unwrap();
    assert_eq!(chosen.len(), 4);
}

#[test]
fn a_recorded_run_is_replayed() {
    let scheme = GradientCode::uncoded(4).unwrap();
    let (report, _) = train(&scheme, &run(10), LIMIT, &delays(4, 5)).unwrap();
    let recorded = report.trace.delays(4).unwrap();
    assert_eq!((recorded.rounds(), recorded.load()), (10, 0.25));
    let faults = Faults::new().with_delays(recorded);
    let (replayed, _) = train(&scheme, &run(10), LIMIT, &faults).unwrap();
    assert!(replayed.seconds() > 0.9 * report.seconds());
}
