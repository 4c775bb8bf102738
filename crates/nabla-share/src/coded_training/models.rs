//! The trainings of the models at the leader, and their lines to it.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Tensor, TensorData};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::training_mode::batch_norm_in_training;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::gradient_source::{
    Answers, GradientSource, GradientSources, Plan, TrainingExamples,
};
use nabla_train::learner::Learner;
use serde_json::{Value, json};

use super::{CodedError, CodingConfig};
use crate::communicator::numbers::Number;
use crate::sequential_gradient_coding::run::{BoxedError, Models};

/// What is told with a gradient: the loss, the number of right answers and that of examples.
pub(super) const TOLD: usize = 3;

/// What the training of a model says to the leader.
pub(super) enum Said {
    /// It needs the gradient of a step, of all steps.
    Wanted {
        step: usize,
        steps: usize,
        weights: Vec<f32>,
    },
    /// It has ended.
    Ended(Ending),
}

/// A model's line to the leader.
pub(super) struct ToLeader {
    pub said: Sender<Said>,
    pub gradients: Receiver<Vec<f32>>,
}

/// How a training has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With all steps done.
    Finished,
    /// It was stopped, and so are the others.
    Stopped,
    Failed,
}

/// The sources of one model's training.
pub(super) struct Coded<'a> {
    pub config: &'a CodingConfig,
    pub line: Mutex<Option<ToLeader>>,
}

impl GradientSources for Coded<'_> {
    fn source<M: Classifier + 'static>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        if let Some(layer) = batch_norm_in_training(model) {
            let layer = layer.to_string();
            return Err(CodedError::BatchNorm { layer }.into());
        }
        let line = self
            .line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(line) = line else {
            return Ok(None);
        };
        Ok(Some(Box::new(DecodedGradients {
            line,
            steps: plan.steps,
            settings: json!({
                "workers": self.config.workers,
                "coding": self.config.coding,
                "code": self.config.code,
            }),
        })))
    }
}

/// The gradients that the leader decodes.
struct DecodedGradients {
    line: ToLeader,
    steps: usize,
    settings: Value,
}

impl<M: Classifier> GradientSource<M> for DecodedGradients {
    fn name(&self) -> &str {
        "coded"
    }

    fn gradient(
        &mut self,
        _: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError> {
        let layout = ParameterLayout::trainable(learner.model())?;
        let weights = layout.flatten_parameters(learner.model())?;
        let wanted = Said::Wanted {
            step: learner.step(),
            steps: self.steps,
            weights: weights.into_data().iter::<f32>().collect(),
        };
        let ended = |_| TrainingError::from(CodedError::Leader);
        self.line.said.send(wanted).map_err(|_| ended(()))?;
        let mut numbers = self.line.gradients.recv().map_err(|_| ended(()))?;
        let (expected, found) = (layout.total_length() + TOLD, numbers.len());
        if expected != found {
            return Err(CodedError::Decoded { expected, found }.into());
        }
        let told = numbers.split_off(layout.total_length());
        // A cyclic code decodes whole numbers up to rounding.
        let whole = |number: f32| number.round().max(0.0) as usize;
        let data = TensorData::new(numbers, [layout.total_length()]);
        let gradient = Tensor::<1>::from_data(data, layout.device());
        learner.contribute(layout.to_gradients(gradient)?, Some(told[0]))?;
        Ok(Answers {
            right: whole(told[1]),
            examples: whole(told[2]),
        })
    }

    fn settings(&self) -> Value {
        self.settings.clone()
    }
}

/// The leader's line to a model's training.
pub(super) struct ToModel {
    pub said: Receiver<Said>,
    pub gradients: Sender<Vec<f32>>,
    /// What it has said last, if it has not been answered yet.
    pub last: Option<Said>,
}

impl ToModel {
    /// What it says; it is waited for.
    fn hear(&mut self) -> &Said {
        let said = &self.said;
        self.last
            .get_or_insert_with(|| said.recv().unwrap_or(Said::Ended(Ending::Failed)))
    }
}

/// All models, as the leader of the workers sees them. A model that is ahead of the others waits for them, and its
/// jobs are empty meanwhile.
pub(super) struct InTurn {
    lines: Vec<ToModel>,
    /// The first step of all.
    begin: usize,
    /// Their gradients, those of models that are ahead included.
    pub jobs: usize,
    /// For the open jobs, whether they are empty.
    empty: BTreeMap<usize, bool>,
}

impl InTurn {
    /// Hears the first words of all.
    pub fn new(mut lines: Vec<ToModel>) -> Self {
        let (mut begin, mut end) = (usize::MAX, 0);
        for line in &mut lines {
            if let Said::Wanted { step, steps, .. } = line.hear() {
                begin = begin.min(*step);
                end = end.max(*steps);
            }
        }
        let jobs = end.saturating_sub(begin) * lines.len();
        Self {
            lines,
            begin,
            jobs,
            empty: BTreeMap::new(),
        }
    }

    /// The step that a job is due for.
    fn due(&self, job: usize) -> usize {
        self.begin + job / self.lines.len()
    }
}

impl Models for InTurn {
    fn wants(&mut self, _: usize, model: usize) -> Result<bool, BoxedError> {
        match self.lines[model].hear() {
            // One that was resumed at its end has nothing to do while the others train.
            Said::Wanted { .. } | Said::Ended(Ending::Finished) => Ok(self.jobs > 0),
            Said::Ended(Ending::Stopped) => Ok(false),
            Said::Ended(Ending::Failed) => Err(CodedError::Model(model).into()),
        }
    }

    fn state(&mut self, job: usize, model: usize) -> Result<Vec<u8>, BoxedError> {
        let due = self.due(job);
        let Said::Wanted { step, weights, .. } = self.lines[model].hear() else {
            return Ok(Vec::new());
        };
        let ahead = *step > due;
        let state = match ahead {
            true => Vec::new(),
            false => {
                let mut state = Vec::with_capacity(8 + size_of_val(&weights[..]));
                state.extend((*step as u64).to_le_bytes());
                weights.iter().for_each(|weight| weight.write(&mut state));
                state
            }
        };
        self.empty.insert(job, ahead);
        Ok(state)
    }

    fn step(&mut self, job: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError> {
        if self.empty.remove(&job).is_none_or(|empty| empty) {
            return Ok(());
        }
        let line = &mut self.lines[model];
        line.last = None;
        // A training that has failed says so when it is heard next.
        let _ = line.gradients.send(gradient);
        Ok(())
    }
}
