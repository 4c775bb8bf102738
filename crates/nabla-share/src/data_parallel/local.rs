//! The steps of a worker between two messages.

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use nabla_grad::flat::ParameterLayout;
use nabla_train::classification::LabelledBatch;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::gradient_source::TrainingExamples;

/// Descent along a worker's part of a batch, cut into pieces.
pub(super) struct LocalDescent<'a> {
    pub(super) whole: &'a LabelledBatch,
    /// The worker's examples in it, of which there are some.
    pub(super) part: Range<usize>,
    /// `K`.
    pub(super) steps: usize,
    /// `η`.
    pub(super) rate: f64,
}

/// The end of it.
pub(super) struct Descended {
    /// `Σ_k g_k`, `[d]`, where `g_k` is the slope of the mean loss of piece `k`; with one piece, the gradient.
    pub(super) slopes: Tensor<1>,
    /// The mean over the examples, each before the step along its piece.
    pub(super) loss: f64,
    /// Right answers.
    pub(super) right: usize,
}

impl LocalDescent<'_> {
    pub(super) fn run<M: Classifier>(
        &self,
        model: &M,
        layout: &ParameterLayout,
        examples: &TrainingExamples<'_>,
    ) -> Result<Descended, TrainingError> {
        let Range { start, end } = self.part;
        let count = end - start;
        let piece = |k: usize| start + k * count / self.steps..start + (k + 1) * count / self.steps;
        // The last batch of an epoch may have fewer examples than there are pieces.
        let mut pieces = (0..self.steps).map(piece).filter(|piece| !piece.is_empty());
        let slope = |model: &M, piece: Range<usize>| -> Result<Descended, TrainingError> {
            let own = LabelledBatch {
                input: self.whole.input.clone().slice_dim(0, piece.clone()),
                labels: self.whole.labels[piece.clone()].to_vec(),
            };
            let (loss, right) = examples.mean_loss(model, own);
            let share = match piece.len() == count {
                true => 1.0,
                false => piece.len() as f64 / count as f64,
            };
            let told: f64 = loss.clone().without_autodiff().into_scalar();
            let gradients = GradientsParams::from_grads(loss.backward(), model);
            Ok(Descended {
                slopes: layout.flatten_gradients_or_zeros(&gradients)?,
                loss: share * told,
                right,
            })
        };
        let mut sum = slope(model, pieces.next().unwrap_or(start..end))?;
        let mut last = sum.slopes.clone();
        let mut u = None;
        for piece in pieces {
            let from = match u.take() {
                Some(u) => u,
                None => layout.flatten_parameters(model)?,
            };
            let moved: Tensor<1> = from - last * self.rate;
            let ahead = layout.with_parameters(model.clone(), moved.clone())?;
            let found = slope(&ahead, piece)?;
            sum.slopes = sum.slopes + found.slopes.clone();
            sum.loss += found.loss;
            sum.right += found.right;
            last = found.slopes;
            u = Some(moved);
        }
        Ok(sum)
    }
}
