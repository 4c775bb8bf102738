//! Times coded gradients with workers that really are slow: MPI processes that are stopped, niced or delayed.
//!
//! ```text
//! cargo build --release -p nabla-share --features mpi --example measured_stragglers
//! mpirun -n 9 target/release/examples/measured_stragglers
//! ```
//!
//! One process leads eight workers. In bursts at times of its own, which are drawn from a seed, a worker is
//!
//! * *stopped*: another process sends it SIGSTOP, and SIGCONT later;
//! * *niced*: its priority is lowered, and raised again (which only root may do), while all compete for the cores;
//! * *delayed*: it holds back its answers, as fault injection has it.
//!
//! As in the paper, every family's parameters are chosen from a profile of rounds that wait for all, and then all four
//! run. The table has the seconds of 400 gradients, the median of five repetitions with seeds of their own, and how much
//! less that is than with gradient coding. The paper has M-SGC 16 % below gradient coding, with 256 workers.

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nabla_share::communicator::Communicator;
use nabla_share::communicator::delays::TwoStateDelays;
use nabla_share::communicator::faults::{Faults, Faulty};
use nabla_share::communicator::mpi::MpiCommunicator;
use nabla_share::communicator::numbers::{from_bytes, to_bytes};
use nabla_share::communicator::trace::Trace;
use nabla_share::sequential_gradient_coding::CodingScheme;
use nabla_share::sequential_gradient_coding::run::{BoxedError, Chunk, CodedRun, Models};
use nabla_share::sequential_gradient_coding::selection::{Family, Profile, Search, select};

const LIMIT: Duration = Duration::from_secs(60);
const GRADIENTS: usize = 400;
/// Of each load, for the profile.
const PROFILED: usize = 24;
const REPETITIONS: u64 = 5;
const MODELS: usize = 4;
/// Examples and weights of a least-squares problem: some milliseconds for a gradient.
const BATCH: usize = 8192;
const WEIGHTS: usize = 512;
/// The share of the paper's table by which M-SGC takes less time than gradient coding, in per cent.
const PAPER: f64 = 16.0;

/// How workers are slow.
#[derive(Clone, Copy)]
enum Slow {
    Stopped,
    Niced,
    Delayed,
}

impl Slow {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Stopped, "stopped"),
        (Self::Niced, "niced"),
        (Self::Delayed, "delayed"),
    ];

    /// The process that slows this one down until it is dropped.
    fn tormentor(self, rank: usize, seed: u64) -> std::io::Result<Option<Tormentor>> {
        let (begin, end) = match self {
            Self::Stopped => ("kill -STOP $pid", "kill -CONT $pid"),
            Self::Niced => ("renice -n 19 -p $pid", "renice -n 0 -p $pid"),
            Self::Delayed => return Ok(None),
        };
        // One worker in twenty is slow at any time; a burst is about as long as some rounds.
        let script = format!(
            "pid={}; awk 'BEGIN {{ srand({}); for (;;) {{ print -1.9 * log(1 - rand()), -0.1 * log(1 - rand()) }} }}' | \
             while read calm burst && kill -0 $pid; do sleep $calm; {begin}; sleep $burst; {end}; done",
            std::process::id(),
            seed * 1000 + rank as u64,
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).process_group(0);
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Some(Tormentor {
            shell: shell.spawn()?,
            slow: self,
        }))
    }
}

struct Tormentor {
    shell: Child,
    slow: Slow,
}

impl Drop for Tormentor {
    fn drop(&mut self) {
        // This process runs, so it isn't stopped. The shell has a group with all that it has started.
        let group = format!("-{}", self.shell.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.shell.wait();
        if let Slow::Niced = self.slow {
            let own = std::process::id().to_string();
            let _ = Command::new("renice")
                .args(["-n", "0", "-p", &own])
                .output();
        }
    }
}

/// The features of all examples, `[BATCH, WEIGHTS]`.
fn features() -> Vec<f32> {
    let number = |i: usize| ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5;
    (0..BATCH * WEIGHTS).map(number).collect()
}

/// The gradient of a chunk for the loss Σ (x·w − x₀)²/2 / BATCH.
fn gradient(features: &[f32], chunk: &Chunk<'_>) -> Vec<f32> {
    let weights = from_bytes::<f32>(chunk.state);
    let mut sum = vec![0.0; WEIGHTS];
    for example in chunk.examples(BATCH) {
        let row = &features[example * WEIGHTS..(example + 1) * WEIGHTS];
        let predicted: f32 = row.iter().zip(&weights).map(|(x, w)| x * w).sum();
        let error = (predicted - row[0]) / BATCH as f32;
        sum.iter_mut()
            .zip(row)
            .for_each(|(sum, x)| *sum += error * x);
    }
    sum
}

struct Regressions(Vec<Vec<f32>>);

impl Models for Regressions {
    fn state(&mut self, _: usize, model: usize) -> Result<Vec<u8>, BoxedError> {
        Ok(to_bytes(&self.0[model]))
    }

    fn step(&mut self, _: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError> {
        let weights = self.0[model].iter_mut().zip(gradient);
        weights.for_each(|(weight, gradient)| *weight -= 0.5 * gradient);
        Ok(())
    }
}

/// A run on all processes: the seconds, and the trace, which all have.
fn run(
    ranks: &mut MpiCommunicator,
    features: &[f32],
    run: &CodedRun,
    scheme: &dyn CodingScheme,
    faults: &Faults,
) -> Result<(f64, Trace), Box<dyn Error>> {
    let mut told = Vec::new();
    if ranks.rank() == 0 {
        let mut models = Regressions(vec![vec![0.0; WEIGHTS]; MODELS]);
        let report = run.lead(&mut *ranks, scheme, &mut models)?;
        told = to_bytes(&[report.seconds()]);
        told.extend(report.trace.to_csv().into_bytes());
    } else {
        let mut end = Faulty::new(&mut *ranks, faults.clone());
        run.work(&mut end, scheme, |chunk| Ok(gradient(features, chunk)))?;
    }
    ranks.broadcast(0, &mut told)?;
    let (seconds, trace) = told.split_at(8);
    let trace = Trace::from_csv(&String::from_utf8_lossy(trace))?;
    Ok((from_bytes::<f64>(seconds)[0], trace))
}

/// The seconds of the four families, with the schemes.
fn repetition(
    ranks: &mut MpiCommunicator,
    features: &[f32],
    slow: Slow,
    seed: u64,
) -> Result<Vec<(Family, String, f64)>, Box<dyn Error>> {
    let workers = ranks.size() - 1;
    let faults = match slow {
        Slow::Delayed => {
            let delays = TwoStateDelays {
                base_seconds: 0.01,
                ..TwoStateDelays::default()
            };
            Faults::new().with_delays(delays.draw(workers, 4 * (GRADIENTS + PROFILED), seed)?)
        }
        Slow::Stopped | Slow::Niced => Faults::new(),
    };
    let tormentor = match ranks.rank() {
        0 => None,
        rank => slow.tormentor(rank, seed)?,
    };
    let base = CodedRun {
        jobs: PROFILED,
        models: MODELS,
        ..CodedRun::default()
    };
    let probe = base.clone().waiting_for_all();
    let profile = Profile::measure(workers, |scheme| -> Result<Trace, ProfileError> {
        let run = run(ranks, features, &probe, scheme, &faults);
        Ok(run.map_err(|error| ProfileError::Run(error.to_string()))?.1)
    })?;
    // All processes choose the same, from the same trace.
    let mut chosen = select(&profile.simulation(), &Search::default())?;
    chosen.sort_by_key(|chosen| {
        Family::ALL
            .iter()
            .position(|family| *family == chosen.family)
    });
    let mut times = Vec::new();
    for chosen in chosen {
        let mut timed = base.clone();
        timed.jobs = GRADIENTS;
        if chosen.family == Family::Uncoded {
            timed = timed.waiting_for_all();
        }
        let (seconds, _) = run(ranks, features, &timed, &*chosen.scheme, &faults)?;
        times.push((chosen.family, chosen.scheme.label(), seconds));
    }
    ranks.barrier()?;
    drop(tormentor);
    Ok(times)
}

#[derive(Debug, thiserror::Error)]
enum ProfileError {
    #[error(transparent)]
    Range(#[from] nabla_base::range::OutOfRange),
    #[error(transparent)]
    Coding(#[from] nabla_share::sequential_gradient_coding::CodingError),
    #[error(transparent)]
    Trace(#[from] nabla_share::communicator::trace::TraceError),
    #[error("{0}")]
    Run(String),
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(ranks: &mut MpiCommunicator) -> Result<(), Box<dyn Error>> {
    let features = features();
    if ranks.rank() == 0 {
        println!(
            "| Workers | Coding | Seconds | Of gradient coding | Schemes |\n|---|---|---:|---:|---|"
        );
    }
    for (slow, name) in Slow::ALL {
        let mut repetitions = Vec::new();
        for seed in 0..REPETITIONS {
            repetitions.push(repetition(ranks, &features, slow, seed)?);
        }
        if ranks.rank() > 0 {
            continue;
        }
        let of = |family: usize| median(repetitions.iter().map(|times| times[family].2).collect());
        for (i, family) in Family::ALL.into_iter().enumerate() {
            let less = 100.0 * (1.0 - of(i) / of(1));
            let paper = match family {
                Family::MSgc => format!(" (paper: {PAPER} %)"),
                _ => String::new(),
            };
            let schemes: Vec<&str> = repetitions
                .iter()
                .map(|times| times[i].1.as_str())
                .collect();
            let family = format!("{family:?}");
            println!(
                "| {name} | {family} | {:.2} | {less:+.1} %{paper} | {} |",
                of(i),
                schemes.join(", ")
            );
        }
    }
    Ok(())
}

fn main() {
    let mut ranks = match MpiCommunicator::start(LIMIT) {
        Ok(ranks) => ranks,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    if let Err(error) = table(&mut ranks) {
        eprintln!("rank {}: {error}", ranks.rank());
        ranks.abort(1);
    }
}
