//! The schemes as combinatorics: whatever straggles within a model, every job is decoded, and to the exact sum.

use nabla_base::vector;
use nabla_grad::SeededNoise;
use rand::RngExt;

use super::*;

const JOBS: usize = 14;
const DRAWS: u64 = 300;

/// The real gradients of a run, and the answers to them.
struct Gradients {
    chunks: Vec<Vec<f64>>,
    total: Vec<f64>,
}

impl Gradients {
    fn new(scheme: &dyn CodingScheme, noise: &mut SeededNoise) -> Self {
        let count = scheme.chunk_shares().len();
        let mut draw = || {
            (0..3)
                .map(|_| noise.random::<f64>() - 0.3)
                .collect::<Vec<f64>>()
        };
        let chunks: Vec<Vec<f64>> = (0..count).map(|_| draw()).collect();
        let mut total = vec![0.0; 3];
        for chunk in &chunks {
            vector::add_scaled(&mut total, 1.0, chunk);
        }
        Self { chunks, total }
    }

    /// The relative error of the gradient that is decoded from the returned answers.
    fn error(&self, scheme: &dyn CodingScheme, returned: &Returned) -> Result<f64, CodingError> {
        let all = (0..scheme.workers() * scheme.parts())
            .map(|index| {
                let (worker, part) = (index / scheme.parts(), index % scheme.parts());
                encode(scheme, worker, part, |chunk| {
                    Ok::<_, CodingError>(self.chunks[chunk].clone())
                })
            })
            .collect::<Result<Vec<Vec<f64>>, CodingError>>()?;
        let decoded = decode(scheme, returned, |worker, part| {
            let index = worker * scheme.parts() + part;
            returned.has(worker, part).then(|| all[index].as_slice())
        })?;
        Ok(vector::distance(&decoded, &self.total) / vector::norm(&self.total))
    }
}

/// A pattern of stragglers that fits a model and is as full as random trials make it.
fn pattern(model: StragglerModel, workers: usize, rounds: usize, seed: u64) -> Vec<Vec<bool>> {
    let mut noise = SeededNoise::new(seed, 0);
    let eager = noise.random_range(0.1..0.9);
    let mut pattern: Vec<Vec<bool>> = Vec::new();
    for _ in 0..rounds {
        let mut new = vec![false; workers];
        for _ in 0..workers {
            let worker = noise.random_range(0..workers);
            new[worker] = new[worker] || noise.random_bool(eager);
            if new[worker] && !model.admits(&pattern, &new) {
                new[worker] = false;
            }
        }
        pattern.push(new);
    }
    pattern
}

/// The jobs that are lost under a pattern; the others must be exact.
fn lost(scheme: &dyn CodingScheme, pattern: &[Vec<bool>], exact: bool) -> usize {
    let mut noise = SeededNoise::new(1, 1);
    let gradients = Gradients::new(scheme, &mut noise);
    let mut history = History::new(scheme, JOBS);
    let mut lost = 0;
    for stragglers in pattern {
        history.begin_round(scheme.assign(&history));
        for worker in (0..scheme.workers()).filter(|&worker| !stragglers[worker]) {
            history.record(worker);
        }
        for job in history.newly_decodable(scheme) {
            if exact {
                let error = gradients
                    .error(scheme, history.returned(job).unwrap())
                    .unwrap();
                assert!(error < 1e-10, "{} job {job}: {error:e}", scheme.label());
            }
        }
        let due = history.due_job().filter(|&job| !history.is_decoded(job));
        lost += usize::from(due.is_some());
        history.end_round();
    }
    lost
}

/// The draws of a model in which a scheme loses a job.
fn failures(scheme: &dyn CodingScheme, model: StragglerModel) -> usize {
    let rounds = JOBS + scheme.delay();
    let fails = |seed: &u64| {
        let pattern = pattern(model, scheme.workers(), rounds, *seed);
        assert!(model.admits_all(&pattern));
        // Real gradients in some of the draws: encoding all answers takes longest.
        lost(scheme, &pattern, *seed < 20) > 0
    };
    (0..DRAWS).filter(fails).count()
}

/// `(n, B, W, λ)`.
const M_SGC: [(usize, usize, usize, usize); 10] = [
    (4, 1, 2, 1),
    (4, 1, 2, 3),
    (4, 1, 2, 4),
    (5, 1, 3, 2),
    (5, 2, 3, 2),
    (6, 2, 4, 3),
    (6, 3, 4, 2),
    (7, 2, 3, 7),
    (8, 2, 5, 3),
    (8, 3, 5, 1),
];

const SR_SGC: [(usize, usize, usize, usize); 7] = [
    (4, 1, 2, 2),
    (5, 1, 3, 3),
    (6, 2, 3, 4),
    (6, 2, 5, 3),
    (7, 3, 4, 5),
    (8, 1, 2, 6),
    (8, 2, 3, 8),
];

fn every_scheme() -> Vec<Box<dyn CodingScheme>> {
    let mut all: Vec<Box<dyn CodingScheme>> = Vec::new();
    for (n, b, w, most) in M_SGC {
        all.push(Box::new(
            MSgc::new(n, b, w, most, CodeKind::Fitting).unwrap(),
        ));
        all.push(Box::new(
            MSgc::new(n, b, w, most, CodeKind::Cyclic).unwrap(),
        ));
    }
    for (n, b, w, most) in SR_SGC {
        all.push(Box::new(
            SrSgc::new(n, b, w, most, CodeKind::Fitting).unwrap(),
        ));
        all.push(Box::new(
            SrSgc::new(n, b, w, most, CodeKind::Cyclic).unwrap(),
        ));
    }
    for (n, s) in [(4, 1), (6, 2), (5, 2), (8, 3), (8, 5)] {
        all.push(Box::new(
            GradientCode::new(n, s, CodeKind::Fitting).unwrap(),
        ));
    }
    all.push(Box::new(GradientCode::uncoded(4).unwrap()));
    all
}

#[test]
fn within_every_model_of_a_scheme_no_job_is_lost_and_every_gradient_is_exact() {
    for scheme in every_scheme() {
        for model in scheme.models() {
            assert_eq!(failures(&*scheme, model), 0, "{} {model:?}", scheme.label());
        }
    }
}

#[test]
fn as_many_arbitrary_stragglers_in_the_shorter_window_lose_jobs() {
    for (n, b, w, most) in [(5, 2, 3, 2), (6, 2, 4, 3), (6, 3, 4, 2)] {
        let scheme = MSgc::new(n, b, w, most, CodeKind::Fitting).unwrap();
        let model = StragglerModel::Arbitrary {
            times: b,
            window: w,
            most,
        };
        let failures = failures(&scheme, model);
        assert!(failures > 200, "{}: {failures} of {DRAWS}", scheme.label());
    }
}

#[test]
fn whatever_straggles_the_default_rule_loses_no_job() {
    for scheme in every_scheme() {
        for seed in 0..60 {
            let mut noise = SeededNoise::new(seed, 2);
            let gradients = Gradients::new(&*scheme, &mut noise);
            let mut history = History::new(&*scheme, JOBS);
            while !history.is_finished() {
                history.begin_round(scheme.assign(&history));
                let mut order: Vec<usize> = (0..scheme.workers()).collect();
                for i in (1..order.len()).rev() {
                    order.swap(i, noise.random_range(0..=i));
                }
                let mut waiting = Waiting::new(WaitRule::UntilRecoverable);
                let in_time = noise.random_range(0..order.len());
                for (count, worker) in order.into_iter().enumerate() {
                    if count >= in_time && waiting.is_over(&*scheme, &history) {
                        break;
                    }
                    history.record(worker);
                }
                for job in history.newly_decodable(&*scheme) {
                    let returned = history.returned(job).unwrap();
                    assert!(gradients.error(&*scheme, returned).unwrap() < 1e-10);
                }
                let due = history.due_job();
                assert!(
                    due.is_none_or(|job| history.is_decoded(job)),
                    "{}",
                    scheme.label()
                );
                history.end_round();
            }
            assert!(history.round() <= JOBS + scheme.delay());
        }
    }
}

#[test]
fn every_pattern_of_stragglers_of_a_code_decodes_and_more_are_refused() {
    for (n, s) in [
        (3, 1),
        (4, 2),
        (5, 3),
        (6, 1),
        (6, 2),
        (7, 3),
        (8, 2),
        (8, 5),
    ] {
        for kind in [CodeKind::Repetition, CodeKind::Cyclic] {
            let Ok(code) = GradientCode::new(n, s, kind) else {
                continue;
            };
            let gradients = Gradients::new(&code, &mut SeededNoise::new(3, 0));
            for mask in 0..1_u32 << n {
                let mut returned = Returned::new(n, 1);
                (0..n)
                    .filter(|i| mask >> i & 1 == 1)
                    .for_each(|i| returned.insert(i, 0));
                let error = gradients.error(&code, &returned);
                let straggle = n - mask.count_ones() as usize;
                if straggle <= s {
                    assert!(error.unwrap() < 1e-10, "{} {mask:b}", code.label());
                } else if code.decodable(&returned) {
                    // Repetition can be lucky.
                    assert!(code.repeats() && error.unwrap() < 1e-10);
                } else {
                    let refused = matches!(error, Err(CodingError::TooFewAnswers { .. }));
                    assert!(refused, "{} {mask:b}", code.label());
                }
            }
        }
    }
}

#[test]
fn loads_are_those_of_the_paper() {
    let m_sgc = |n, b, w, most| MSgc::new(n, b, w, most, CodeKind::Fitting).unwrap().load();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    close(m_sgc(256, 1, 2, 27), 0.007_543_103_448_275_862);
    close(m_sgc(256, 1, 2, 9), 0.007_102_272_727_272_727);
    close(m_sgc(10, 1, 2, 10), 0.2);
    close(m_sgc(4, 1, 2, 3), 0.4);
    let gc = GradientCode::new(256, 15, CodeKind::Repetition).unwrap();
    assert_eq!(gc.load(), 0.0625);
    let sr = SrSgc::new(256, 2, 3, 23, CodeKind::Fitting).unwrap();
    assert_eq!((sr.code().stragglers(), sr.load()), (12, 0.050_781_25));
    for scheme in every_scheme() {
        close(scheme.chunk_shares().iter().sum(), 1.0);
        // What a mini-task processes is the sum of its chunks, whichever it is.
        for part in 0..scheme.parts() {
            let chunks = scheme.combination(0, part).unwrap();
            let shares = scheme.chunk_shares();
            close(
                chunks.iter().map(|chunk| shares[chunk.0]).sum(),
                scheme.part_load(),
            );
        }
    }
}

#[test]
fn a_straggler_retries_its_chunk_and_the_other_worker_stands_in_for_it() {
    // n = 2, B = 1, W = 2, λ = 1: a job has the slots 0, an own chunk, and 1, the group.
    let scheme = MSgc::new(2, 1, 2, 1, CodeKind::Fitting).unwrap();
    let task = |job, part| MiniTask { job, part };
    let mut history = History::new(&scheme, 2);
    history.begin_round(scheme.assign(&history));
    assert_eq!(history.tasks(0), [task(0, 0)]);
    history.record(1);
    assert!(scheme.recoverable(&history));
    history.end_round();
    history.begin_round(scheme.assign(&history));
    assert_eq!(history.tasks(0), [task(0, 0), task(1, 0)]);
    assert_eq!(history.tasks(1), [task(0, 1), task(1, 0)]);
    history.record(0);
    // One of the two chunks of the group is worker 1's alone to answer.
    assert!(!scheme.recoverable(&history));
    history.record(1);
    assert_eq!(history.newly_decodable(&scheme), [0]);
    history.end_round();
    // No job starts in the last round.
    history.begin_round(scheme.assign(&history));
    assert_eq!(history.tasks(0), [task(1, 1)]);
}

#[test]
fn what_makes_no_scheme_is_refused() {
    let message = |error: CodingError| error.to_string();
    let kind = CodeKind::Fitting;
    assert_eq!(
        message(SrSgc::new(8, 2, 4, 3, kind).unwrap_err()),
        "the window of SR-SGC must be a multiple of the burst plus 1, but the window is 4 and the burst is 2"
    );
    assert_eq!(
        message(MSgc::new(8, 2, 2, 3, kind).unwrap_err()),
        "the window is 2, but it must be greater than the burst, 2, and at most 1000"
    );
    assert_eq!(
        message(MSgc::new(8, 1, 2, 9, kind).unwrap_err()),
        "the number of stragglers is 9, but it must be from 0 to 8"
    );
    assert_eq!(
        message(GradientCode::new(8, 2, CodeKind::Repetition).unwrap_err()),
        "repetition needs groups of 3 workers, but the number of workers, 8, is no multiple of it"
    );
    assert!(GradientCode::new(0, 0, kind).is_err() && GradientCode::new(4, 4, kind).is_err());
    assert!(SrSgc::new(4, 0, 1, 1, kind).is_err() && SrSgc::new(4, 1, 1, 1, kind).is_err());
    // Nor do rounds for which no memory suffices.
    for (burst, window) in [(1, 1001), (usize::MAX, usize::MAX), (1000, usize::MAX)] {
        assert!(MSgc::new(4, burst, window, 1, kind).is_err());
        assert!(SrSgc::new(4, burst, window, 1, kind).is_err());
    }
    assert!(MSgc::new(4, 1, 1000, 1, kind).is_ok() && SrSgc::new(4, 3, 1000, 1, kind).is_ok());
}
