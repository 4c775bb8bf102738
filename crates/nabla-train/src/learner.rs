//! The model of a training, with everything that changes its weights: gradients, transforms, optimizers,
//! learning rates, the average.

use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_grad::flat::ParameterLayout;
use nabla_optim::checked_step::check_gradients;
use serde::{Deserialize, Serialize};

use crate::ema::Ema;
use crate::error::TrainingError;
use crate::history::StepRecord;
use crate::optimizer::{OptimizerConfig, OptimizerError, Stepper, pattern};
use crate::schedule::Schedule;
use crate::transform::{GradientTransform, Gradients};

/// A part of the model with its own optimizer.
pub(crate) struct Player<M: Module> {
    pub(crate) name: String,
    /// A regular expression for its parameters' names; `None` for all parameters.
    pub(crate) parameters: Option<String>,
    /// Its parameters; `None` for all parameters.
    ids: Option<Vec<ParamId>>,
    pub(crate) optimizer: OptimizerConfig,
    pub(crate) stepper: Stepper,
    pub(crate) transforms: Vec<Box<dyn GradientTransform<M>>>,
}

impl<M: Module> Player<M> {
    pub(crate) fn new(
        name: &str,
        parameters: Option<&str>,
        optimizer: OptimizerConfig,
        model: &M,
    ) -> Result<Self, TrainingError> {
        let stepper = optimizer.init(model)?;
        let ids = match parameters {
            None => None,
            Some(parameters) => {
                let pattern = pattern(parameters)?;
                let layout = ParameterLayout::trainable(model)?;
                let ids: Vec<ParamId> = layout
                    .entries()
                    .iter()
                    .filter(|entry| pattern.matches(&entry.id(), Some(entry.name())))
                    .map(|entry| entry.id())
                    .collect();
                if ids.is_empty() {
                    return Err(TrainingError::Player {
                        name: name.to_owned(),
                        reason: "has no parameters in the model",
                    });
                }
                if stepper.is_whole() && ids.len() < layout.entries().len() {
                    return Err(OptimizerError::Part(optimizer.name().to_owned()).into());
                }
                Some(ids)
            }
        };
        Ok(Self {
            name: name.to_owned(),
            parameters: parameters.map(str::to_owned),
            ids,
            optimizer,
            stepper,
            transforms: Vec::new(),
        })
    }

    /// Adapts to the parameters of a loaded model, which have other numbers, and to the state of its
    /// optimizer.
    pub(crate) fn reload(&mut self, model: &M, state: Vec<u8>) -> Result<(), TrainingError> {
        let parameters = self.parameters.as_deref();
        let fresh = Self::new(&self.name, parameters, self.optimizer.clone(), model)?;
        self.stepper = fresh.stepper.load(state, model)?;
        self.ids = fresh.ids;
        Ok(())
    }
}

/// Moves gradients of some parameters from one place to another.
struct Take<'a> {
    ids: &'a [ParamId],
    from: &'a mut GradientsParams,
    taken: GradientsParams,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.contains(&param.id)
            && let Some(gradient) = self.from.remove::<D>(param.id)
        {
            self.taken.register::<D>(param.id, gradient);
        }
    }
}

/// The record of the current step so far.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    loss: Option<f32>,
    norms: f64,
    norm: f32,
    learning_rate: f64,
    updates: usize,
    seconds: f64,
}

/// A model and its optimizers at some step of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    numbers: Vec<f32>,
    optimizers: Vec<Vec<u8>>,
}

/// The model in training, as a [task](crate::task::Task) sees it.
pub struct Learner<M: Module> {
    pub(crate) model: M,
    pub(crate) players: Vec<Player<M>>,
    pub(crate) average: Option<Ema<M>>,
    pub(crate) schedule: Schedule,
    pub(crate) step: usize,
    pub(crate) steps: usize,
    pub(crate) accumulate: usize,
    device: Device,
    gradients: GradientsAccumulator<M>,
    /// Whether there are gradients that no update has used.
    pending: bool,
    made: Made,
}

impl<M: Module> Learner<M> {
    pub(crate) fn new(
        model: M,
        schedule: Schedule,
        steps: usize,
        accumulate: usize,
    ) -> Result<Self, TrainingError> {
        let device = match model.devices().into_iter().next() {
            Some(device) if device.is_autodiff() => device,
            _ => return Err(TrainingError::NoGradients),
        };
        Ok(Self {
            model,
            players: Vec::new(),
            average: None,
            schedule,
            step: 0,
            steps,
            accumulate,
            device,
            gradients: GradientsAccumulator::new(),
            pending: false,
            made: Made::default(),
        })
    }

    /// The model with its current weights, on its autodiff device.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The moving average of the weights, on the plain device, if the training computes one.
    pub fn average(&self) -> Option<&M> {
        self.average.as_ref().map(Ema::average)
    }

    /// The autodiff device of the model.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of finished steps, which is the number of the current step, from 0.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The total number of steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The number of batches whose gradients are averaged in one step.
    pub fn accumulated(&self) -> usize {
        self.accumulate
    }

    /// The learning rate of a player's next update.
    ///
    /// # Errors
    /// If the player does not exist.
    pub fn learning_rate(&self, player: &str) -> Result<f64, TrainingError> {
        Ok(self.rate(self.place(player)?))
    }

    fn rate(&self, player: usize) -> f64 {
        let highest = self.players[player].optimizer.learning_rate();
        highest * self.schedule.share(self.step, self.steps)
    }

    fn place(&self, player: &str) -> Result<usize, TrainingError> {
        let place = self.players.iter().position(|p| p.name == player);
        place.ok_or_else(|| TrainingError::UnknownPlayer {
            name: player.to_owned(),
            players: self.players.iter().map(|p| p.name.clone()).collect(),
        })
    }

    /// Adds the gradient of a loss, `[1]`, to those of the step, for all players, and returns the loss.
    ///
    /// # Errors
    /// If the loss is not finite.
    pub fn backward(&mut self, loss: Tensor<1>) -> Result<f32, TrainingError> {
        let told = self.told(&loss)?;
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        self.gradients.accumulate(&self.model, gradients);
        self.pending = true;
        Ok(told)
    }

    /// Adds a gradient that was computed elsewhere to that of the step, for all players, with the loss that it
    /// belongs to; none if there were no examples.
    ///
    /// # Errors
    /// If the loss is not finite.
    pub fn contribute(
        &mut self,
        gradients: GradientsParams,
        loss: Option<f32>,
    ) -> Result<(), TrainingError> {
        if let Some(loss) = loss {
            self.count(loss)?;
        }
        self.gradients.accumulate(&self.model, gradients);
        self.pending = true;
        Ok(())
    }

    /// Like [`backward`](Self::backward), but only for the parameters of one player: the gradients of the
    /// others are dropped.
    ///
    /// # Errors
    /// If the player does not exist, or the loss is not finite.
    pub fn backward_player(&mut self, player: &str, loss: Tensor<1>) -> Result<f32, TrainingError> {
        let place = self.place(player)?;
        let told = self.told(&loss)?;
        let mut all = loss.backward();
        let gradients = match &self.players[place].ids {
            Some(ids) => GradientsParams::from_params(&mut all, &self.model, ids),
            None => GradientsParams::from_module(&mut all, &self.model),
        };
        self.gradients.accumulate(&self.model, gradients);
        self.pending = true;
        Ok(told)
    }

    fn told(&mut self, loss: &Tensor<1>) -> Result<f32, TrainingError> {
        let told = loss
            .clone()
            .without_autodiff()
            .try_into_scalar::<f32>()
            .map_err(|e| TrainingError::Device(e.to_string()))?;
        self.count(told)?;
        Ok(told)
    }

    fn count(&mut self, loss: f32) -> Result<(), TrainingError> {
        let step = self.step + 1;
        if !loss.is_finite() {
            return Err(TrainingError::Diverged { step, loss });
        }
        *self.made.loss.get_or_insert_default() += loss;
        Ok(())
    }

    /// Updates every player along the gradients so far, and clears them.
    ///
    /// # Errors
    /// If a transform fails, or a gradient is not finite; the weights of the player are then unchanged.
    pub fn apply(&mut self) -> Result<(), TrainingError> {
        self.pending = false;
        (0..self.players.len()).try_for_each(|place| self.apply_at(place))
    }

    /// Like [`apply`](Self::apply), for one player; the gradients of the others are kept.
    ///
    /// # Errors
    /// If the player does not exist, a transform fails, or a gradient is not finite.
    pub fn apply_player(&mut self, player: &str) -> Result<(), TrainingError> {
        self.apply_at(self.place(player)?)
    }

    /// [`backward`](Self::backward) and [`apply`](Self::apply); returns the loss.
    ///
    /// # Errors
    /// Theirs.
    pub fn update(&mut self, loss: Tensor<1>) -> Result<f32, TrainingError> {
        let told = self.backward(loss)?;
        self.apply()?;
        Ok(told)
    }

    /// [`backward_player`](Self::backward_player) and [`apply_player`](Self::apply_player); returns the
    /// loss.
    ///
    /// # Errors
    /// Theirs.
    pub fn update_player(&mut self, player: &str, loss: Tensor<1>) -> Result<f32, TrainingError> {
        let told = self.backward_player(player, loss)?;
        self.apply_player(player)?;
        Ok(told)
    }

    /// Replaces the weights by others with the same parameters, such as their projection on a constraint; the state of
    /// the optimizers stays.
    ///
    /// # Errors
    /// That of `change`.
    pub fn replaced<E>(&mut self, change: impl FnOnce(M) -> Result<M, E>) -> Result<(), E> {
        self.model = change(self.model.clone())?;
        Ok(())
    }

    /// Updates along what gradients there are, unless every gradient of the step has been used in an update already.
    pub(crate) fn finish(&mut self) -> Result<(), TrainingError> {
        match self.pending || self.made.updates == 0 {
            true => self.apply(),
            false => Ok(()),
        }
    }

    /// Replaces the weights, for methods that move them other than by an optimizer.
    ///
    /// - `weights`: `[parameters]`, those of [`ParameterLayout::trainable`], without autodiff
    ///
    /// # Errors
    /// If the vector does not fit the model.
    pub fn set_weights(&mut self, weights: Tensor<1>) -> Result<(), TrainingError> {
        let layout = ParameterLayout::trainable(&self.model)?;
        self.model = layout.with_parameters(self.model.clone(), weights)?;
        Ok(())
    }

    /// All numbers of the model, with the running statistics of its normalisations, and the states of all optimizers.
    ///
    /// # Errors
    /// If they cannot be read from the device.
    pub fn snapshot(&self) -> Result<Snapshot, TrainingError> {
        // Burn leaves the last pass of a running statistic aside until a model is used.
        drop(self.model.valid());
        let layout = ParameterLayout::of(&self.model)?;
        let numbers = layout.flatten_parameters(&self.model)?;
        let numbers = numbers.try_into_vec_as::<f32>();
        let optimizers = self.players.iter().map(|player| player.stepper.to_bytes());
        Ok(Snapshot {
            numbers: numbers.map_err(|e| TrainingError::Device(e.to_string()))?,
            optimizers: optimizers.collect::<Result<_, _>>()?,
        })
    }

    /// Goes on from a snapshot of the same model and optimizers.
    ///
    /// # Errors
    /// If it is of others.
    pub fn take_up(&mut self, snapshot: &Snapshot) -> Result<(), TrainingError> {
        drop(self.model.valid());
        let layout = ParameterLayout::of(&self.model)?;
        let count = snapshot.numbers.len();
        let numbers = TensorData::new(snapshot.numbers.clone(), [count]);
        let numbers = Tensor::<1>::from_data(numbers, layout.device());
        self.model = layout.with_parameters(self.model.clone(), numbers)?;
        for (player, state) in self.players.iter_mut().zip(&snapshot.optimizers) {
            player.reload(&self.model, state.clone())?;
        }
        Ok(())
    }

    /// Lets all optimizers forget what they have averaged so far, for a loss that changes at once.
    ///
    /// # Errors
    /// If an optimizer cannot begin.
    pub fn restart_optimizers(&mut self) -> Result<(), TrainingError> {
        for player in &mut self.players {
            player.stepper = player.optimizer.init(&self.model)?;
        }
        Ok(())
    }

    fn apply_at(&mut self, place: usize) -> Result<(), TrainingError> {
        let begun = Instant::now();
        let rate = self.rate(place);
        let mut all = self.gradients.grads();
        let player = &mut self.players[place];
        let gradients = match &player.ids {
            None => all,
            Some(ids) => {
                let mut take = Take {
                    ids,
                    from: &mut all,
                    taken: GradientsParams::new(),
                };
                self.model.visit(&mut take);
                let taken = take.taken;
                self.gradients.accumulate(&self.model, all);
                taken
            }
        };
        let mut gradients = Gradients::new(&self.model, gradients, self.step);
        for transform in &mut player.transforms {
            transform.apply(&mut gradients)?;
        }
        let (gradients, norm) = gradients.finish()?;
        if !norm.is_finite() {
            let step = self.step + 1;
            check_gradients(&self.model, &gradients)
                .map_err(|source| TrainingError::Gradient { step, source })?;
            return Err(TrainingError::Overflow { step });
        }
        self.model = player.stepper.step(rate, self.model.clone(), gradients)?;
        let made = &mut self.made;
        if made.updates == 0 {
            made.learning_rate = rate;
        }
        made.norm = norm;
        made.norms += f64::from(norm).powi(2);
        made.updates += 1;
        made.seconds += begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// Begins a step, and discards everything from a failed one.
    pub(crate) fn begin(&mut self) {
        self.made = Made::default();
        self.pending = false;
        drop(self.gradients.grads());
    }

    /// Ends a step; returns its record and the seconds of its updates.
    pub(crate) fn end(&mut self) -> Result<(StepRecord, f64), TrainingError> {
        let made = std::mem::take(&mut self.made);
        if made.updates == 0 {
            return Err(TrainingError::Idle {
                step: self.step + 1,
            });
        }
        self.step += 1;
        let gradient_norm = match made.updates {
            1 => made.norm,
            _ => made.norms.sqrt() as f32,
        };
        let record = StepRecord {
            loss: made.loss,
            gradient_norm,
            learning_rate: made.learning_rate,
        };
        Ok((record, made.seconds))
    }
}
