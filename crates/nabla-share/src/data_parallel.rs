//! Training by several workers, each with its part of every batch.
//!
//! ```text
//! for each step t:
//!   worker r:  g_r ← n/|B| Σ_{i∈B_r} ∇L_i        its part B_r of the batch B
//!              sends C(g_r)                       compressed
//!   all:       g ← 1/n Σ_r C(g_r)                 from worker 0 to the last one
//!              θ ← step of the optimizer along g
//! ```
//!
//! All workers have the same weights and take the same steps, so that the weights are never sent. [`train`] runs an
//! [`Experiment`] on threads of this process, and [`train_on`] is one worker on any [`Communicator`]. Sums are taken in the
//! order of the workers, so threads and processes give the same bits for the same seed and the same number of workers.
//!
//! Unbiased compressors replace the gradient as they are. A contraction (the largest numbers) is used with
//! [EF21](nabla_grad::error_feedback): the worker sends the change of its estimate. A sketch is linear: the sum of the
//! sketches is the sketch of the sum, by a new matrix in every step (`Sᵀ S g`, without error feedback).
//!
//! With sketches, a worker may take `K` [local steps](SharingConfig::local_steps) between two messages: its part of the
//! batch is cut into `K` pieces, and it descends along each of them at the learning rate `η` of the step. What is sketched
//! is the sum of the slopes, `(θ − u)/η`:
//!
//! ```text
//! u ← θ;  for each piece k:  g_k ← ∇L_k(u),  u ← u − η g_k
//! sends S Σ_k g_k
//! ```
//!
//! With plain SGD as the optimizer this is sketched federated averaging ([`sketching`](crate::sketching)) with a global
//! step of 1; any other optimizer steps along that sum.
//!
//! A batch normalisation takes its statistics from the worker's own part of the batch.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::compressor::{Compressed, Compressor, CompressorError, WireError};
use nabla_grad::error_feedback::{Ef21, Ef21Server, ErrorFeedbackError};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::sketch::{DrawnSketch, LinearSketch, SketchError};
use nabla_train::classifier::Classifier;
use nabla_train::data_set::DataSet;
use nabla_train::error::TrainingError;
use nabla_train::experiment::{Experiment, ExperimentError, Outcome};
use nabla_train::gradient_source::{
    Answers, GradientSource, GradientSources, OfBatches, Plan, TrainingExamples,
};
use nabla_train::learner::Learner;
use nabla_train::trainer::{MODEL, Observer, Progress};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::communicator::numbers::{from_bytes, to_bytes};
use crate::communicator::threads::{ThreadCommunicator, connected, led};
use crate::communicator::{Communicator, CommunicatorError};

mod compression;
mod header;
mod local;

use header::Header;
use local::LocalDescent;

pub use compression::Compression;

/// The reason why workers do not train together.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// A value is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The messages. It is a cause of its own, so that a worker that has ended is found among the causes.
    #[error("{0}")]
    Communicator(#[from] CommunicatorError),
    /// A gradient cannot be compressed.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// A gradient cannot be compressed with error feedback.
    #[error(transparent)]
    Feedback(#[from] ErrorFeedbackError),
    /// A gradient cannot be sketched.
    #[error(transparent)]
    Sketch(#[from] SketchError),
    /// A message is damaged.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A message is too short.
    #[error("worker {worker} sent a message of {found} bytes, which is none of a step")]
    Message {
        /// The worker.
        worker: usize,
        /// Bytes.
        found: usize,
    },
    /// The workers resumed from checkpoints of different steps.
    #[error(
        "worker {worker} is at step {found}, but worker 0 at step {expected}: their checkpoints don't belong together, \
         so start again without them"
    )]
    Apart {
        /// The worker.
        worker: usize,
        /// Its step.
        found: u64,
        /// That of worker 0.
        expected: u64,
    },
    /// Local steps without a sketch.
    #[error(
        "{0} local steps between two messages are for sketches, but the gradients are compressed otherwise"
    )]
    LocalSteps(usize),
    /// Another number of workers.
    #[error("{found} ranks were started for {expected} workers")]
    Workers {
        /// Workers of the configuration.
        expected: usize,
        /// Ranks of the communicator.
        found: usize,
    },
    /// The state in a checkpoint is damaged.
    #[error("the state of the workers cannot be read: {0}")]
    State(String),
}

impl From<SharingError> for TrainingError {
    fn from(error: SharingError) -> Self {
        match error {
            // What goes wrong between workers, or with a gradient that has run away.
            SharingError::Communicator(_)
            | SharingError::Compressor(_)
            | SharingError::Feedback(_) => Self::Failed(error.into()),
            _ => Self::task(error),
        }
    }
}

/// How workers train together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SharingConfig {
    /// Workers. Default 2.
    pub workers: usize,
    /// How gradients are compressed. Default not at all.
    pub compression: Compression,
    /// `K`, the steps that a worker takes between two messages, for sketches. Default 1.
    pub local_steps: usize,
    /// Seconds after which a silent worker ends the training; it must be longer than a measurement of the model.
    /// Default 600.
    pub time_limit: f64,
}

impl Default for SharingConfig {
    fn default() -> Self {
        Self {
            workers: 2,
            compression: Compression::default(),
            local_steps: 1,
            time_limit: 600.0,
        }
    }
}

impl SharingConfig {
    /// Refuses values that are out of range, or don't fit each other.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), SharingError> {
        range::within("number of workers", self.workers, 1..=1024)?;
        range::within("time limit in seconds", self.time_limit, 0.1..=1e6)?;
        range::at_least("number of local steps", self.local_steps, 1)?;
        if self.local_steps > 1 && !matches!(self.compression, Compression::Sketch { .. }) {
            return Err(SharingError::LocalSteps(self.local_steps));
        }
        Ok(self.compression.validate()?)
    }

    /// The longest time that a worker waits for another one.
    pub fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.time_limit)
    }
}

/// What a training by several workers has sent and waited for, as worker 0 has seen it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharingReport {
    /// Workers.
    pub workers: usize,
    /// How gradients were compressed.
    pub compression: Compression,
    /// Steps of a worker between two messages.
    pub local_steps: usize,
    /// Steps.
    pub steps: u64,
    /// Bytes of a worker's message in a step, in the mean.
    pub message_bytes: f64,
    /// Bytes of such a message without compression.
    pub plain_bytes: u64,
    /// Bytes that worker 0 has sent to the others and received from them.
    pub leader_bytes: [u64; 2],
    /// Seconds that a worker has computed, in the mean.
    pub computed: f64,
    /// Seconds that a worker has waited for the slowest, in the mean.
    pub waited: f64,
}

/// How a run is asked to stop, and told that all workers will.
#[derive(Clone, Debug, Default)]
struct Stop {
    asked: Arc<AtomicBool>,
    agreed: Arc<AtomicBool>,
}

/// The sources of one worker; see the [module documentation](self).
struct Shared<C> {
    config: SharingConfig,
    /// Taken by the source.
    communicator: Cell<Option<C>>,
    rank: usize,
    /// That of worker 0.
    checkpoint: Option<Vec<u8>>,
    stop: Stop,
}

impl<C: Communicator + 'static> GradientSources for Shared<C> {
    fn source<M: Classifier + 'static>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        let Some(communicator) = self.communicator.take() else {
            return Ok(None);
        };
        let dimension = ParameterLayout::trainable(model)?.total_length();
        let source = SharedGradients::new(&self.config, communicator, dimension, plan, &self.stop)?;
        Ok(Some(Box::new(source)))
    }

    fn measures(&self) -> bool {
        self.rank == 0
    }

    fn checkpoint(&self, _: &Path) -> Result<Option<Vec<u8>>, TrainingError> {
        Ok(self.checkpoint.clone())
    }
}

/// The gradients that workers share.
struct SharedGradients<C> {
    config: SharingConfig,
    communicator: C,
    dimension: usize,
    seed: u64,
    compressor: Box<dyn Compressor + Send>,
    /// EF21's, for contractions.
    feedback: Option<(Ef21<Box<dyn Compressor + Send>>, Ef21Server)>,
    stop: Stop,
    seen: Seen,
}

/// What has been seen so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Seen {
    steps: u64,
    message_bytes: u64,
    /// Sent and received by this worker, in runs before this one.
    earlier_bytes: [u64; 2],
    computed: f64,
    waited: f64,
}

/// The state in a checkpoint.
#[derive(Serialize, Deserialize)]
struct State {
    seen: Seen,
    /// EF21's estimates of all workers.
    feedback: Option<Vec<u8>>,
}

/// The noise of worker `r` in step `t` is stream `COMPRESSION + t · 1024 + r` of the seed.
const COMPRESSION: u64 = 1 << 56;
/// The sketch of step `t` is drawn from stream `SKETCH + t` of the seed.
const SKETCH: u64 = 1 << 57;

impl<C: Communicator> SharedGradients<C> {
    fn new(
        config: &SharingConfig,
        communicator: C,
        dimension: usize,
        plan: Plan,
        stop: &Stop,
    ) -> Result<Self, SharingError> {
        config.validate()?;
        let (expected, found) = (config.workers, communicator.size());
        if expected != found {
            return Err(SharingError::Workers { expected, found });
        }
        let most = plan.batch.max(1);
        range::check(
            expected <= most,
            "number of workers",
            expected,
            format!("at most {most}, the examples of a batch"),
        )?;
        let most = plan.batch / expected;
        range::check(
            config.local_steps <= most.max(1),
            "number of local steps",
            config.local_steps,
            format!("at most {most}, the examples of a worker in a batch"),
        )?;
        let compressor = || config.compression.compressor(dimension);
        let feedback = match config.compression {
            Compression::TopK { .. } => {
                let worker = Ef21::new(compressor()?, dimension);
                Some((worker, Ef21Server::new(expected, dimension)?))
            }
            _ => None,
        };
        Ok(Self {
            compressor: compressor()?,
            config: config.clone(),
            communicator,
            dimension,
            seed: plan.seed,
            feedback,
            stop: stop.clone(),
            seen: Seen::default(),
        })
    }

    /// Sent and received so far.
    fn bytes(&self) -> [u64; 2] {
        let traffic = self.communicator.traffic();
        let [sent, received] = self.seen.earlier_bytes;
        [
            sent + traffic.all_sent().bytes,
            received + traffic.all_received().bytes,
        ]
    }

    /// The matrix of a step, if gradients are sketched.
    fn sketch(&self, step: u64) -> Result<Option<DrawnSketch>, SketchError> {
        let mut noise = SeededNoise::new(self.seed, SKETCH + step);
        self.config.compression.sketch(self.dimension, &mut noise)
    }

    /// The message of a gradient.
    fn message(
        &mut self,
        gradient: &Tensor<1>,
        step: u64,
        sketch: Option<&dyn LinearSketch>,
    ) -> Result<Vec<u8>, SharingError> {
        if let Some(sketch) = sketch {
            let sketched = sketch.apply(gradient)?;
            let numbers: Vec<f32> = sketched.into_data().iter::<f32>().collect();
            return Ok(to_bytes(&numbers));
        }
        let stream = COMPRESSION + step * 1024 + self.communicator.rank() as u64;
        let mut noise = SeededNoise::new(self.seed, stream);
        let message = match &mut self.feedback {
            Some((worker, _)) => worker.compress(gradient, &mut noise)?,
            None => self.compressor.compress(gradient, &mut noise)?,
        };
        Ok(message.to_bytes())
    }

    /// The mean of the workers' gradients, from their messages.
    fn mean(
        &mut self,
        messages: &[&[u8]],
        sketch: Option<&dyn LinearSketch>,
    ) -> Result<Vec<f64>, SharingError> {
        let workers = messages.len() as f64;
        if let Some(sketch) = sketch {
            let mut sum = vec![0.0; sketch.sketch_length()];
            for (worker, message) in messages.iter().enumerate() {
                let found = message.len();
                if found != 4 * sum.len() {
                    return Err(SharingError::Message { worker, found });
                }
                let numbers = from_bytes::<f32>(message).into_iter();
                sum.iter_mut()
                    .zip(numbers)
                    .for_each(|(sum, x)| *sum += f64::from(x) / workers);
            }
            return Ok(sketch.transposed_values(&sum)?);
        }
        let read = |message: &&[u8]| Compressed::from_bytes(message, self.dimension);
        let messages = messages.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if let Some((_, server)) = &mut self.feedback {
            for (worker, message) in messages.iter().enumerate() {
                server.receive(worker, message)?;
            }
            return Ok(server.mean());
        }
        let mut sum = vec![0.0; self.dimension];
        for message in &messages {
            message.add_to(&mut sum, 1.0);
        }
        sum.iter_mut().for_each(|sum| *sum /= workers);
        Ok(sum)
    }
}

impl<M: Classifier, C: Communicator> GradientSource<M> for SharedGradients<C> {
    fn name(&self) -> &str {
        "data-parallel"
    }

    fn gradient(
        &mut self,
        examples: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError> {
        let begun = Instant::now();
        let step = learner.step() as u64;
        let (rank, workers) = (self.communicator.rank(), self.communicator.size());
        let layout = ParameterLayout::trainable(learner.model())?;
        let batch = examples.of_step(learner.step());
        let part = rank * batch.len() / workers..(rank + 1) * batch.len() / workers;
        // All of the batch is drawn, so that a picture's changes don't depend on the number of workers.
        let whole = examples.chosen(&batch, learner.step(), learner.device());
        let mut header = Header {
            step,
            loss: 0.0,
            right: 0,
            examples: part.len() as u64,
            seconds: 0.0,
            stop: self.stop.asked.load(Ordering::Relaxed),
        };
        let gradient = if part.is_empty() {
            Tensor::<1>::zeros([self.dimension], layout.device())
        } else {
            let descent = LocalDescent {
                whole: &whole,
                part: part.clone(),
                steps: self.config.local_steps,
                rate: learner.learning_rate(MODEL)?,
            };
            let descended = descent.run(learner.model(), &layout, examples)?;
            header.right = descended.right as u64;
            header.loss = descended.loss;
            let weight = (workers * part.len()) as f64 / batch.len() as f64;
            descended.slopes * weight
        };
        let sketch = self.sketch(step).map_err(SharingError::from)?;
        let sketch = sketch.as_deref().map(|sketch| sketch as &dyn LinearSketch);
        let message = self.message(&gradient, step, sketch)?;
        header.seconds = begun.elapsed().as_secs_f64();
        let own = [header.put(), message].concat();
        self.seen.message_bytes += own.len() as u64;
        let gathered = self
            .communicator
            .all_gather(&own)
            .map_err(SharingError::from)?;
        let mut headers = Vec::with_capacity(workers);
        let mut messages = Vec::with_capacity(workers);
        for (worker, bytes) in gathered.iter().enumerate() {
            let (told, message) = Header::take(bytes, worker)?;
            if told.step != step {
                let (found, expected) = (told.step, step);
                return Err(SharingError::Apart {
                    worker,
                    found,
                    expected,
                }
                .into());
            }
            headers.push(told);
            messages.push(message);
        }
        self.stop.agreed.store(headers[0].stop, Ordering::Relaxed);
        let mean = self.mean(&messages, sketch)?;
        let mut answers = Answers::default();
        let (mut loss, mut slowest, mut all) = (0.0, 0.0, 0.0);
        for told in &headers {
            answers.right += told.right as usize;
            answers.examples += told.examples as usize;
            loss += told.loss * told.examples as f64;
            slowest = f64::max(slowest, told.seconds);
            all += told.seconds;
        }
        let loss = loss / answers.examples.max(1) as f64;
        let data = TensorData::new(mean, [self.dimension]);
        let mean = Tensor::<1>::from_data(data, layout.device());
        learner.contribute(layout.to_gradients(mean)?, Some(loss as f32))?;
        self.seen.steps += 1;
        self.seen.computed += all / workers as f64;
        self.seen.waited += slowest - all / workers as f64;
        Ok(answers)
    }

    fn settings(&self) -> Value {
        json!({
            "workers": self.config.workers,
            "compression": self.config.compression,
            "local-steps": self.config.local_steps,
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let feedback = self.feedback.as_ref();
        let state = State {
            seen: Seen {
                earlier_bytes: self.bytes(),
                ..self.seen
            },
            feedback: feedback.map(|(_, server)| server.to_bytes()),
        };
        serde_json::to_vec(&state).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let failed = |error: &dyn std::fmt::Display| SharingError::State(error.to_string());
        let state: State = serde_json::from_slice(state).map_err(|error| failed(&error))?;
        self.seen = state.seen;
        if let Some((worker, server)) = self.feedback.take() {
            let all = state
                .feedback
                .ok_or_else(|| failed(&"it has no error feedback"))?;
            // Worker 0 saves for all of them.
            let size = all.len() / self.communicator.size();
            let own = self.communicator.rank() * size;
            let own = all.get(own..own + size).unwrap_or_default();
            let worker = worker.restored(own).map_err(|error| failed(&error))?;
            let server = server.restored(&all).map_err(|error| failed(&error))?;
            self.feedback = Some((worker, server));
        }
        Ok(())
    }

    fn report(&self) -> Result<Value, TrainingError> {
        let steps = self.seen.steps;
        let report = SharingReport {
            workers: self.config.workers,
            compression: self.config.compression,
            local_steps: self.config.local_steps,
            steps,
            message_bytes: self.seen.message_bytes as f64 / steps.max(1) as f64,
            plain_bytes: (Header::BYTES + 4 * self.dimension) as u64,
            leader_bytes: self.bytes(),
            computed: self.seen.computed,
            waited: self.seen.waited,
        };
        serde_json::to_value(report).map_err(TrainingError::task)
    }
}

/// The bytes of worker 0's file, if it exists: the others may be on machines that don't have it.
fn of_worker_0(
    ranks: &mut impl Communicator,
    path: &Path,
) -> Result<Option<Vec<u8>>, TrainingError> {
    let own = match ranks.rank() {
        0 => OfBatches.checkpoint(path),
        _ => Ok(None),
    };
    // The others must not wait for a file that cannot be read.
    let mut bytes = match &own {
        Ok(Some(bytes)) => [&[1], bytes.as_slice()].concat(),
        Ok(None) | Err(_) => vec![0],
    };
    ranks.broadcast(0, &mut bytes).map_err(SharingError::from)?;
    own?;
    Ok(match bytes.split_first() {
        Some((1, bytes)) => Some(bytes.to_vec()),
        _ => None,
    })
}

/// Trains as one worker of several, which all call this with the same arguments. Worker 0 measures the model and saves
/// the checkpoint, from which all of them resume. If `observe` breaks at worker 0, all of them end after the next step.
///
/// # Errors
/// If the training fails, or another worker does.
pub fn train_on<C: Communicator + 'static>(
    experiment: &Experiment,
    config: &SharingConfig,
    mut communicator: C,
    data: &DataSet,
    device: &Device,
    checkpoint: Option<&Path>,
    observe: Observer<'_>,
) -> Result<Outcome, ExperimentError> {
    let rank = communicator.rank();
    let resumed = match checkpoint {
        Some(path) => of_worker_0(&mut communicator, path).map_err(ExperimentError::Training)?,
        None => None,
    };
    let stop = Stop::default();
    let sources = Shared {
        config: config.clone(),
        communicator: Cell::new(Some(communicator)),
        rank,
        checkpoint: resumed,
        stop: stop.clone(),
    };
    experiment.run_with(&sources, data, device, checkpoint, &mut |progress| {
        if rank == 0 && observe(progress).is_break() {
            stop.asked.store(true, Ordering::Relaxed);
        }
        match stop.agreed.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })
}

/// Trains by threads of this process.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use burn::tensor::Device;
/// use nabla_share::data_parallel::{Compression, SharingConfig, SharingReport, train};
/// use nabla_train::experiment::Experiment;
///
/// let mut experiment = Experiment::default(); // an MLP on the built-in digits
/// experiment.training.epochs = 1;
/// let config = SharingConfig {
///     workers: 4,
///     compression: Compression::TopK { share: 0.05 },
///     ..SharingConfig::default()
/// };
/// let data = experiment.open()?;
/// let go = &mut |_: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
/// let outcome = train(&experiment, &config, &data, &Device::flex(), None, go)?;
/// let report: SharingReport = serde_json::from_value(outcome.told)?;
/// assert!(report.message_bytes < 0.1 * report.plain_bytes as f64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a value is out of range, or the training fails.
pub fn train(
    experiment: &Experiment,
    config: &SharingConfig,
    data: &DataSet,
    device: &Device,
    checkpoint: Option<&Path>,
    observe: Observer<'_>,
) -> Result<Outcome, ExperimentError> {
    let failed = |error: SharingError| ExperimentError::Training(error.into());
    config.validate().map_err(failed)?;
    let ends = connected(config.workers, config.limit()).map_err(|error| failed(error.into()))?;
    let worker = |end: ThreadCommunicator, observe: Observer<'_>| {
        train_on(experiment, config, end, data, device, checkpoint, observe)
    };
    led(
        ends,
        |end| worker(end, observe),
        |end| {
            let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
            worker(end, go).map(drop)
        },
        |error| ExperimentError::Training(TrainingError::Failed(error.into())),
    )
}
