//! The gradients of chunks, at a worker.

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use nabla_grad::flat::ParameterLayout;
use nabla_train::classification::LabelledBatch;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::gradient_source::TrainingExamples;

use super::CodedError;
use super::models::TOLD;
use crate::communicator::Communicator;
use crate::communicator::numbers::from_bytes;
use crate::sequential_gradient_coding::CodingScheme;
use crate::sequential_gradient_coding::run::{BoxedError, Chunk, CodedRun};

/// A worker's side.
pub(super) struct Working<'a, C> {
    pub run: CodedRun,
    pub scheme: &'a dyn CodingScheme,
    pub ranks: &'a mut C,
}

/// The weights and the batch of a job.
struct Present<M> {
    job: usize,
    model: M,
    batch: LabelledBatch,
}

impl<C: Communicator> Working<'_, C> {
    /// Works until the leader has no more chunks.
    pub fn work<M: Classifier + 'static>(
        self,
        model: M,
        examples: TrainingExamples<'_>,
    ) -> Result<(), CodedError> {
        let boxed = |error: TrainingError| BoxedError::from(error);
        let seed = examples.seed();
        let seeds = (0..self.run.models).map(|model| seed.wrapping_add(model as u64));
        let mut examples: Vec<_> = seeds.map(|seed| examples.clone().with_seed(seed)).collect();
        let mut present: Option<Present<M>> = None;
        let work = |chunk: &Chunk<'_>| {
            if chunk.state.is_empty() {
                return Ok(Vec::new());
            }
            let examples = &mut examples[chunk.model];
            let now = match present.take() {
                Some(now) if now.job == chunk.job => now,
                _ => begin_job(&model, examples, chunk)?,
            };
            let now = present.insert(now);
            gradient_of(&now.model, &now.batch, examples, chunk).map_err(boxed)
        };
        self.run.work(self.ranks, self.scheme, work)?;
        Ok(())
    }
}

/// The weights and the batch that the leader has sent for a job.
fn begin_job<M: Classifier>(
    model: &M,
    examples: &mut TrainingExamples<'_>,
    chunk: &Chunk<'_>,
) -> Result<Present<M>, BoxedError> {
    let layout = ParameterLayout::trainable(model)?;
    let expected = 8 + 4 * layout.total_length();
    let found = chunk.state.len();
    let step = match chunk.state.first_chunk::<8>() {
        Some(step) if found == expected => u64::from_le_bytes(*step) as usize,
        _ => return Err(CodedError::Weights { expected, found }.into()),
    };
    let weights = TensorData::new(
        from_bytes::<f32>(&chunk.state[8..]),
        [layout.total_length()],
    );
    let weights = Tensor::<1>::from_data(weights, layout.device());
    let indices = examples.of_step(step);
    Ok(Present {
        job: chunk.job,
        model: layout.with_parameters(model.clone(), weights)?,
        batch: examples.chosen(&indices, step, layout.device()),
    })
}

/// The gradient of a chunk, with what is told.
fn gradient_of<M: Classifier>(
    model: &M,
    batch: &LabelledBatch,
    examples: &TrainingExamples<'_>,
    chunk: &Chunk<'_>,
) -> Result<Vec<f32>, TrainingError> {
    let layout = ParameterLayout::trainable(model)?;
    let part = chunk.examples(batch.labels.len());
    if part.is_empty() {
        return Ok(vec![0.0; layout.total_length() + TOLD]);
    }
    let count = part.len() as f32;
    let share = count / batch.labels.len() as f32;
    let own = LabelledBatch {
        input: batch.input.clone().slice_dim(0, part.clone()),
        labels: batch.labels[part].to_vec(),
    };
    let (loss, right) = examples.mean_loss(model, own);
    let told: f32 = loss.clone().without_autodiff().into_scalar();
    let gradients = GradientsParams::from_grads(loss.backward(), model);
    let gradient = layout.flatten_gradients_or_zeros(&gradients)? * share;
    let mut numbers: Vec<f32> = gradient.into_data().iter::<f32>().collect();
    numbers.extend([told * share, right as f32, count]);
    Ok(numbers)
}
