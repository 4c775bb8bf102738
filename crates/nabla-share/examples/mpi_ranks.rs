//! Tests the communicator of MPI processes, and trains with coded gradients on them.
//!
//! ```text
//! cargo build --release -p nabla-share --features mpi --example mpi_ranks
//! mpirun -n 4 target/release/examples/mpi_ranks
//! ```
//!
//! Every rank checks its results against those of as many threads; the last line says that all agree.

use std::error::Error;
use std::time::Duration;

use nabla_share::communicator::faults::{Faults, Faulty};
use nabla_share::communicator::mpi::MpiCommunicator;
use nabla_share::communicator::numbers::{from_bytes, to_bytes};
use nabla_share::communicator::threads;
use nabla_share::communicator::{Communicator, CommunicatorError, Tag, Traffic};
use nabla_share::sequential_gradient_coding::run::{BoxedError, Chunk, CodedRun, Models};
use nabla_share::sequential_gradient_coding::{CodeKind, MSgc};

const LIMIT: Duration = Duration::from_secs(20);
/// A message that MPI does not buffer.
const LARGE: usize = 1 << 22;

/// What a rank has computed and counted.
type Results = (Vec<f32>, Vec<u8>, Traffic);

/// Every operation once.
fn everything(ranks: &mut impl Communicator) -> Result<Results, CommunicatorError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let mut values: Vec<f32> = (0..10_000)
        .map(|i| (0.1 + rank as f32).powi(3) * (i as f32).sin())
        .collect();
    ranks.all_reduce_sum_f32(&mut values)?;
    let mut double = [0.1 + rank as f64];
    ranks.all_reduce_sum_f64(&mut double)?;
    values.push(double[0] as f32);
    let mut bytes = ranks.all_gather(&vec![rank as u8; rank])?.concat();
    let mut word = vec![rank as u8];
    ranks.broadcast(size - 1, &mut word)?;
    bytes.extend(word);
    // All send to the next rank at the same time, before anybody receives.
    let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
    if size > 1 {
        ranks.send(next, Tag::new(3), &vec![rank as u8; LARGE])?;
        bytes.extend(&ranks.receive(before, Tag::new(3))?[..2]);
        // Nobody sends with this tag.
        let silent = ranks.receive_within(before, Tag::new(4), Duration::from_millis(50));
        assert!(matches!(silent, Err(CommunicatorError::Silent { rank, .. }) if rank == before));
        assert!(ranks.try_receive(next, Tag::new(4))?.is_none());
    }
    ranks.barrier()?;
    Ok((values, bytes, ranks.traffic().clone()))
}

/// One weight for each of two models.
struct Means([f32; 2]);

impl Models for Means {
    fn state(&mut self, _: usize, model: usize) -> Result<Vec<u8>, BoxedError> {
        Ok(to_bytes(&[self.0[model]]))
    }

    fn step(&mut self, _: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError> {
        self.0[model] -= 0.005 * gradient[0];
        Ok(())
    }
}

fn gradient(chunk: &Chunk<'_>) -> Result<Vec<f32>, BoxedError> {
    let weight = from_bytes::<f32>(chunk.state)[0];
    let terms = chunk.examples(100).map(|i| weight - i as f32 / 100.0);
    // Large enough that MPI does not buffer the answer.
    let mut gradient = vec![0.0; 100_000];
    gradient[0] = terms.sum();
    Ok(gradient)
}

fn check(ranks: &mut MpiCommunicator) -> Result<(), Box<dyn Error>> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let (values, bytes, traffic) = everything(&mut *ranks)?;
    let expected = threads::run(size, LIMIT, everything)?;
    let (same, gathered, counted) = &expected[rank];
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    if bits(&values) != bits(same) || bytes != *gathered || traffic != *counted {
        return Err(format!("rank {rank} differs from its thread").into());
    }
    if size > 1 {
        train(ranks)?;
    }
    ranks.barrier()?;
    if rank == 0 {
        println!("{size} processes agree with {size} threads");
    }
    // A large message that nobody asks for, as a late answer is, does not keep its sender from its end.
    if rank == 1 {
        ranks.send(0, Tag::new(5), &vec![0; LARGE])?;
    }
    Ok(())
}

/// The same run as with threads, but with a silent worker.
fn train(ranks: &mut MpiCommunicator) -> Result<(), Box<dyn Error>> {
    let size = ranks.size();
    let scheme = MSgc::new(size - 1, 1, 2, size - 1, CodeKind::Fitting)?;
    let run = CodedRun {
        jobs: 20,
        models: 2,
        ..CodedRun::default()
    };
    if ranks.rank() > 0 {
        // Worker 0 falls silent in round 5, and another one takes over.
        let faults = match size {
            2 => Faults::new(),
            _ => Faults::new().with_silence(0, 5),
        };
        run.work(&mut Faulty::new(&mut *ranks, faults), &scheme, gradient)?;
    } else {
        let (mut means, mut calm) = (Means([0.0, 1.0]), Means([0.0, 1.0]));
        let report = run.lead(&mut *ranks, &scheme, &mut means)?;
        run.on_threads(&scheme, LIMIT, &Faults::new(), &mut calm, |_| gradient)?;
        if means.0 != calm.0 {
            return Err(format!("MPI ends at {:?}, but threads at {:?}", means.0, calm.0).into());
        }
        println!(
            "{} gradients in {} rounds, dead: {:?}",
            report.gradients, report.rounds, report.dead
        );
    }
    Ok(())
}

fn main() {
    let mut ranks = match MpiCommunicator::start(Duration::from_secs(3)) {
        Ok(ranks) => ranks,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    if let Err(error) = check(&mut ranks) {
        eprintln!("rank {}: {error}", ranks.rank());
        ranks.abort(1);
    }
}
