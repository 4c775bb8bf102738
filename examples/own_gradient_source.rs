//! Your own source of gradients: the median of the gradients of five parts of a batch, number by number. A part with
//! wrong labels, or one that a worker got wrong, doesn't move it far (Yin et al. 2018, arXiv 1803.01498).
//!
//! ```text
//! g ← median(∇L_1, …, ∇L_5)
//! ```
//!
//! ```text
//! cargo run --release -p nabla --example own_gradient_source
//! ```

use std::error::Error;
use std::ops::ControlFlow;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nabla::grad::flat::ParameterLayout;
use nabla::train::classifier::Classifier;
use nabla::train::gradient_source::{
    Answers, GradientSource, GradientSources, OfBatches, Plan, TrainingExamples,
};
use nabla::train::{Experiment, Learner, TrainingError};

const PARTS: usize = 5;

struct Medians;

impl<M: Classifier> GradientSource<M> for Medians {
    fn name(&self) -> &str {
        "medians"
    }

    fn gradient(
        &mut self,
        examples: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError> {
        let step = learner.step();
        let batch = examples.of_step(step);
        let layout = ParameterLayout::trainable(learner.model())?;
        let mut answers = Answers::default();
        let mut total = 0.0;
        let mut parts: Vec<Vec<f32>> = Vec::new();
        for (number, part) in batch.chunks(batch.len().div_ceil(PARTS)).enumerate() {
            let mut drawn = examples.chosen(part, step, learner.device());
            if number == 0 {
                // The first part is told lies.
                drawn
                    .labels
                    .iter_mut()
                    .for_each(|label| *label = (*label + 1) % 10);
            }
            let (loss, right) = examples.mean_loss(learner.model(), drawn);
            total += loss.clone().without_autodiff().into_scalar::<f32>();
            let gradients = GradientsParams::from_grads(loss.backward(), learner.model());
            let vector = layout.flatten_gradients_or_zeros(&gradients)?; // [d]
            parts.push(vector.into_data().iter::<f32>().collect());
            answers.right += right;
            answers.examples += part.len();
        }
        let median = |i: usize| {
            let mut values: Vec<f32> = parts.iter().map(|part| part[i]).collect();
            values.sort_by(f32::total_cmp);
            values[values.len() / 2]
        };
        let medians: Vec<f32> = (0..layout.total_length()).map(median).collect();
        let medians = TensorData::new(medians, [layout.total_length()]);
        let medians = Tensor::<1>::from_data(medians, layout.device());
        learner.contribute(
            layout.to_gradients(medians)?,
            Some(total / parts.len() as f32),
        )?;
        Ok(answers)
    }
}

impl GradientSources for Medians {
    fn source<M: Classifier + 'static>(
        &self,
        _model: &M,
        _plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        Ok(Some(Box::new(Medians)))
    }
}

fn accuracy(sources: &impl GradientSources) -> Result<f64, Box<dyn Error>> {
    let mut experiment = Experiment::default(); // an MLP on the built-in digits
    experiment.training.epochs = 5;
    let data = experiment.open()?;
    let go = &mut |_: nabla::train::Progress<'_>| ControlFlow::Continue(());
    let outcome = experiment.run_with(sources, &data, &Device::flex(), None, go)?;
    Ok(outcome
        .history
        .last()
        .map_or(0.0, |epoch| epoch.test_accuracy))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (medians, plain) = (accuracy(&Medians)?, accuracy(&OfBatches)?);
    println!(
        "{:.1} % right by medians, with a fifth of the labels wrong; {:.1} % by the mean of right ones",
        100.0 * medians,
        100.0 * plain
    );
    assert!(medians > 0.8);
    Ok(())
}
