//! Tasks of one's own on the trainer: two players, an agent with a replay buffer, transforms with a state.

use std::ops::ControlFlow;
use std::path::Path;

use burn::module::{Initializer, Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{relu, softplus};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_grad::seeded_noise::{NoiseState, SeededNoise};
use nabla_train::ema::{EmaConfig, WarmUp};
use nabla_train::initialization::he_normal;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::{
    Averaging, ClipByNorm, GradientTransform, Gradients, Learner, StepRecord, Task, Trainer,
    TrainerConfig, TrainingError,
};
use rand::RngExt;
use serde_json::Value;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Every weight of a model as bits.
fn bits<M: Module>(model: &M) -> Vec<u32> {
    struct Bits(Vec<u32>);
    impl ModuleVisitor for Bits {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values: Vec<f32> = param.val().without_autodiff().try_into_vec_as().unwrap();
            self.0.extend(values.into_iter().map(f32::to_bits));
        }
    }
    let mut bits = Bits(Vec::new());
    model.visit(&mut bits);
    bits.0
}

fn config(steps: usize, method: &str, rate: f64) -> TrainerConfig {
    TrainerConfig {
        steps,
        schedule: Schedule {
            decay: Decay::Constant,
            ..Schedule::default()
        },
        optimizer: optimizer(method, rate),
        ..TrainerConfig::default()
    }
}

fn optimizer(method: &str, rate: f64) -> OptimizerConfig {
    OptimizerConfig {
        learning_rate: Some(rate),
        ..OptimizerConfig::named(method).unwrap()
    }
}

/// A layer of zeros, whose matrix is to be drawn from a seed.
fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

/// All steps at once are some, a checkpoint, and by new objects the rest.
fn resumes<T: Task>(make: impl Fn() -> Trainer<T>, stop: usize, path: &Path) -> Trainer<T> {
    let mut whole = make();
    whole.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut part = make();
    part.run(Some(path), &mut |progress| {
        if progress.step == stop {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    assert_eq!(part.step(), stop);
    let mut rest = make().resume(path).unwrap();
    rest.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(rest.is_finished());
    assert_eq!(rest.history().steps, whole.history().steps);
    assert_eq!(bits(rest.model()), bits(whole.model()));
    assert_eq!(rest.task().state().unwrap(), whole.task().state().unwrap());
    whole
}

/// A generator of numbers and a discriminator that tells them from `N(3, ½²)`.
#[derive(Module, Debug)]
struct Players {
    generator: Linear,
    hidden: Linear,
    judge: Linear,
}

impl Players {
    fn new() -> Self {
        let device = device();
        let players = Self {
            generator: linear(1, 1, &device),
            hidden: linear(1, 16, &device),
            judge: linear(16, 1, &device),
        };
        he_normal(players, 1).unwrap()
    }

    /// `[batch, 1]` to `[batch, 1]`.
    fn judged(&self, x: Tensor<2>) -> Tensor<2> {
        self.judge.forward(relu(self.hidden.forward(x)))
    }
}

/// The non-saturating game of Goodfellow et al. 2014, the discriminator first.
struct Game {
    draw: SeededNoise,
    /// The losses of the last step.
    losses: [f32; 2],
}

impl Game {
    fn noise(&mut self, device: &Device) -> Tensor<2> {
        self.draw.normal([64, 1], device)
    }
}

impl Task for Game {
    type Model = Players;
    type Batch = Tensor<2>;
    type Report = f64;

    fn batch(&mut self, learner: &Learner<Players>) -> Result<Tensor<2>, TrainingError> {
        Ok(self.noise(learner.device()) * 0.5 + 3.0)
    }

    fn step(&mut self, learner: &mut Learner<Players>) -> Result<(), TrainingError> {
        let real = self.batch(learner)?;
        let noise = self.noise(learner.device());
        let players = learner.model();
        let fake = players.generator.forward(noise.clone()).detach();
        let loss = softplus(-players.judged(real), 1.0) + softplus(players.judged(fake), 1.0);
        let generator = bits(&learner.model().generator);
        let of_discriminator = learner.update_player("discriminator", loss.mean())?;
        assert_eq!(bits(&learner.model().generator), generator);

        let players = learner.model();
        let fake = players.generator.forward(noise);
        let loss = softplus(-players.judged(fake), 1.0).mean();
        let judge = bits(&learner.model().judge);
        let of_generator = learner.update_player("generator", loss)?;
        // The gradient that the discriminator has of the generator's loss is dropped.
        assert_eq!(bits(&learner.model().judge), judge);
        self.losses = [of_discriminator, of_generator];
        Ok(())
    }

    fn stepped(&mut self, record: &StepRecord) {
        let loss = record.loss.unwrap();
        assert!((loss - self.losses.iter().sum::<f32>()).abs() < 1e-6);
    }

    /// The mean of what is generated.
    fn evaluate(&mut self, players: &Players, step: usize) -> Result<Option<f64>, TrainingError> {
        if !step.is_multiple_of(100) {
            return Ok(None);
        }
        let mean = players.generator.bias.as_ref().map(|b| b.val());
        Ok(mean.map(|b| f64::from(b.into_scalar::<f32>())))
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        serde_json::to_vec(&self.draw.state()).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let state: NoiseState = serde_json::from_slice(state).map_err(TrainingError::task)?;
        self.draw = SeededNoise::from_state(state);
        Ok(())
    }
}

fn game(steps: usize) -> Trainer<Game> {
    let task = Game {
        draw: SeededNoise::new(5, 1),
        losses: [0.0; 2],
    };
    let adam = |rate| {
        let mut adam = optimizer("adam", rate);
        adam.method = adam.method.with("beta_1", 0.5).unwrap();
        adam
    };
    Trainer::new(config(steps, "adam", 1e-3), task, Players::new())
        .unwrap()
        .with_player("discriminator", "^(hidden|judge)", adam(1e-2))
        .unwrap()
        .with_transform(ClipByNorm(1.0))
        .with_player("generator", "^generator", adam(5e-3))
        .unwrap()
}

#[test]
fn two_players_find_the_distribution_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let whole = resumes(|| game(1500), 37, &folder.path().join("game.safetensors"));
    let means = &whole.history().epochs;
    assert_eq!(means.len(), 15);
    assert!((means[14] - 3.0).abs() < 0.5, "{means:?}");
}

#[test]
fn wrong_players_are_told() {
    let told = |trainer: Result<Trainer<Game>, TrainingError>| trainer.unwrap_err().to_string();
    let sgd = optimizer("sgd", 0.1);
    let none = told(game(1).with_player("third", "^nobody", sgd.clone()));
    assert!(none.contains("has no parameters"), "{none}");
    let twice = told(game(1).with_player("generator", "^generator", sgd));
    assert!(twice.contains("is given twice"), "{twice}");
    let whole = told(game(1).with_player("fisher", "^judge", optimizer("m-fac", 0.1)));
    assert!(whole.contains("cannot train a part of a model"), "{whole}");
    let trainer = Trainer::new(
        config(1, "sgd", 0.1),
        Game {
            draw: SeededNoise::new(0, 0),
            losses: [0.0; 2],
        },
        Players::new(),
    );
    let unknown = trainer.unwrap().train_step().unwrap_err().to_string();
    assert!(unknown.contains("no player \"discriminator\""), "{unknown}");
}

const CELLS: usize = 5;

/// An agent in a corridor of five cells, of which the last one pays, with Q-learning (Mnih et al. 2013)
/// from a replay buffer; the target is the average of the weights.
struct Corridor {
    draw: SeededNoise,
    cell: usize,
    /// Cell, direction, reward, next cell.
    memory: Vec<(usize, usize, f32, usize)>,
}

impl Corridor {
    fn one_hot(cells: &[usize], device: &Device) -> Tensor<2> {
        let mut values = vec![0.0f32; cells.len() * CELLS];
        for (row, &cell) in cells.iter().enumerate() {
            values[row * CELLS + cell] = 1.0;
        }
        Tensor::from_data(TensorData::new(values, [cells.len(), CELLS]), device)
    }

    /// The values of going left and right, `[cells, 2]`.
    fn values(model: &Linear, cells: &[usize]) -> Vec<f32> {
        let device = model.weight.val().device();
        let values = model.forward(Self::one_hot(cells, &device));
        values.into_data().try_to_vec().unwrap()
    }
}

impl Task for Corridor {
    type Model = Linear;
    type Batch = (Tensor<2>, Tensor<2>, Tensor<2>);
    type Report = ();

    /// Acts, remembers, and draws from the memory: cells, directions, and what they are worth.
    fn batch(&mut self, learner: &Learner<Linear>) -> Result<Self::Batch, TrainingError> {
        let values = Self::values(learner.model(), &[self.cell]);
        let greedy = usize::from(values[1] > values[0]);
        let right = if self.draw.random_bool(0.5) {
            self.draw.random_range(0..2)
        } else {
            greedy
        };
        let next = match right {
            0 => self.cell.saturating_sub(1),
            _ => self.cell + 1,
        };
        let paid = next == CELLS - 1;
        self.memory
            .push((self.cell, right, if paid { 1.0 } else { 0.0 }, next));
        self.cell = if paid { 0 } else { next };

        let drawn: Vec<_> = (0..16)
            .map(|_| self.memory[self.draw.random_range(0..self.memory.len())])
            .collect();
        let target = learner
            .average()
            .ok_or_else(|| TrainingError::task("no target"))?;
        let next: Vec<usize> = drawn.iter().map(|d| d.3).collect();
        let next = Self::values(target, &next);
        let worth: Vec<f32> = drawn
            .iter()
            .zip(next.chunks(2))
            .map(|(&(_, _, reward, _), next)| match reward {
                1.0 => 1.0,
                _ => 0.9 * next[0].max(next[1]),
            })
            .collect();
        let directions: Vec<f32> = drawn
            .iter()
            .flat_map(|d| if d.1 == 0 { [1.0, 0.0] } else { [0.0, 1.0] })
            .collect();
        let device = learner.device();
        let cells: Vec<usize> = drawn.iter().map(|d| d.0).collect();
        Ok((
            Self::one_hot(&cells, device),
            Tensor::from_data(TensorData::new(directions, [16, 2]), device),
            Tensor::from_data(TensorData::new(worth, [16, 1]), device),
        ))
    }

    fn loss(
        &mut self,
        model: &Linear,
        (cells, directions, worth): Self::Batch,
    ) -> Result<Tensor<1>, TrainingError> {
        let chosen = (model.forward(cells) * directions).sum_dim(1); // [batch, 1]
        Ok((chosen - worth).square().mean())
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let state = (self.draw.state(), self.cell, &self.memory);
        serde_json::to_vec(&state).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let (draw, cell, memory) = serde_json::from_slice(state).map_err(TrainingError::task)?;
        self.draw = SeededNoise::from_state(draw);
        (self.cell, self.memory) = (cell, memory);
        Ok(())
    }
}

#[test]
fn an_agent_with_a_memory_learns_and_resumes() {
    let make = || {
        let mut config = config(2000, "adam", 0.02);
        config.schedule.decay = Decay::Linear { floor: 0.0 };
        config.averaging = Some(Averaging {
            ema: EmaConfig::new().with_decay(0.9).with_warm_up(WarmUp::None),
            every: 1,
        });
        let model = linear(CELLS, 2, &device());
        let task = Corridor {
            draw: SeededNoise::new(3, 1),
            cell: 0,
            memory: Vec::new(),
        };
        Trainer::new(config, task, he_normal(model, 2).unwrap()).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let whole = resumes(make, 301, &folder.path().join("agent.safetensors"));
    let values = Corridor::values(whole.model(), &[0, 1, 2, 3]);
    // Right is worth 0.9 to the power of the steps that are left.
    for (cell, value) in values.chunks(2).enumerate() {
        let expected = 0.9f32.powi(3 - cell as i32);
        assert!((value[1] - expected).abs() < 0.05, "{values:?}");
        assert!(value[0] < value[1], "{values:?}");
    }
}

/// `‖w − x‖²` for the points of a list, two at a time.
struct Points {
    points: Vec<[f32; 2]>,
    met: usize,
}

#[derive(Module, Debug)]
struct Place {
    at: Param<Tensor<1>>,
    /// No loss depends on it.
    idle: Param<Tensor<1>>,
}

impl Task for Points {
    type Model = Place;
    type Batch = Tensor<1>;
    type Report = ();

    fn batch(&mut self, learner: &Learner<Place>) -> Result<Tensor<1>, TrainingError> {
        let point = self.points[self.met % self.points.len()];
        self.met += 1;
        Ok(Tensor::from_floats(point, learner.device()))
    }

    fn loss(&mut self, place: &Place, point: Tensor<1>) -> Result<Tensor<1>, TrainingError> {
        Ok((place.at.val() - point).square().sum())
    }

    fn settings(&self) -> Value {
        serde_json::json!({ "points": self.points })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(self.met.to_le_bytes().to_vec())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let bytes = state.try_into().map_err(TrainingError::task)?;
        self.met = usize::from_le_bytes(bytes);
        Ok(())
    }
}

fn place() -> Place {
    let device = device();
    let at = |value: f32| Param::from_tensor(Tensor::from_floats([value, value], &device));
    Place {
        at: at(0.0),
        idle: at(1.0),
    }
}

fn points() -> Points {
    Points {
        points: vec![[1.0, 0.0], [3.0, -2.0], [-1.0, 4.0]],
        met: 0,
    }
}

fn at(place: &Place) -> Vec<f32> {
    let at = place.at.val().without_autodiff();
    at.into_data().try_to_vec().unwrap()
}

/// The mean gradient at 0 of the first two points is (−4, 2), and the mean loss (1 + 13)/2.
#[test]
fn accumulated_gradients_are_the_mean_over_the_batches() {
    let mut config = config(1, "sgd", 0.25);
    config.accumulate = 2;
    let mut trainer = Trainer::new(config, points(), place()).unwrap();
    let record = trainer.train_step().unwrap().record;
    assert_eq!(at(trainer.model()), [1.0, -0.5]);
    assert_eq!(record.loss, Some(7.0));
    assert!((record.gradient_norm - 20_f32.sqrt()).abs() < 1e-6);
    assert_eq!(record.learning_rate, 0.25);
    assert_eq!(trainer.task().met, 2);
}

/// Keeps the part of the gradient that it cuts off for the next step.
struct Rationed {
    kept: Option<Tensor<1>>,
}

impl<M: Module> GradientTransform<M> for Rationed {
    fn name(&self) -> &str {
        "rationed"
    }

    fn apply(&mut self, gradients: &mut Gradients<'_, M>) -> Result<(), TrainingError> {
        let kept = self.kept.take();
        gradients.map_flat(|g| {
            let all = match kept {
                Some(kept) => g + kept,
                None => g,
            };
            let given = all.clone().clamp(-1.0, 1.0);
            self.kept = Some(all - given.clone());
            Ok(given)
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let values = self.kept.clone().map(|kept| kept.into_data());
        let values = values.map(|data| data.try_to_vec::<f32>().unwrap());
        serde_json::to_vec(&values).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let values: Option<Vec<f32>> =
            serde_json::from_slice(state).map_err(TrainingError::task)?;
        self.kept = values.map(|values| Tensor::from_floats(values.as_slice(), &Device::flex()));
        Ok(())
    }
}

#[test]
fn transforms_act_in_their_order_and_their_state_is_resumed() {
    let make = |limit: f64| {
        Trainer::new(config(9, "sgd", 0.125), points(), place())
            .unwrap()
            .with_transform(Rationed { kept: None })
            .with_transform(ClipByNorm(limit))
    };
    // At 0 the gradient (−2, 0) of the first point becomes (−1, 0), then half of it.
    let mut first = make(0.5);
    let record = first.train_step().unwrap().record;
    assert_eq!(record.gradient_norm, 1.0, "the norm before it was limited");
    assert!((at(first.model())[0] - 0.0625).abs() < 1e-6);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("points.safetensors");
    resumes(|| make(2.0), 4, &path);
    // Another limit, points and chain are another training.
    let told = |trainer: Trainer<Points>| trainer.resume(&path).unwrap_err().to_string();
    let limit = told(make(3.0));
    assert!(limit.contains("2.0") && limit.contains("3.0"), "{limit}");
    let chain = told(Trainer::new(config(9, "sgd", 0.125), points(), place()).unwrap());
    assert!(chain.contains("another training"), "{chain}");
    let mut other = points();
    other.points.pop();
    let other = Trainer::new(config(9, "sgd", 0.125), other, place())
        .unwrap()
        .with_transform(Rationed { kept: None })
        .with_transform(ClipByNorm(2.0));
    assert!(told(other).contains("another training"));
    // With a constant rate there may be more steps.
    let longer = Trainer::new(config(20, "sgd", 0.125), points(), place())
        .unwrap()
        .with_transform(Rationed { kept: None })
        .with_transform(ClipByNorm(2.0));
    assert_eq!(longer.resume(&path).unwrap().step(), 4);
}

/// `θ̄ ← θ̄ + (θ − θ̄)/2` after every second step.
#[test]
fn the_average_follows_the_weights() {
    let mut config = config(4, "sgd", 0.25);
    config.averaging = Some(Averaging {
        ema: EmaConfig::new().with_decay(0.5).with_warm_up(WarmUp::None),
        every: 2,
    });
    let points = Points {
        points: vec![[8.0, 8.0]],
        met: 0,
    };
    let mut trainer = Trainer::new(config, points, place()).unwrap();
    // Each step halves the distance to the point: 4, 6, 7, 7.5.
    trainer
        .run(None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(at(trainer.model()), [7.5, 7.5]);
    // Of 0 and 6: 3; of 3 and 7.5: 5.25.
    assert_eq!(at(trainer.average().unwrap()), [5.25, 5.25]);
}

#[test]
fn a_training_that_runs_away_or_does_nothing_is_an_error() {
    let mut infinite = points();
    infinite.points[1] = [f32::INFINITY, 0.0];
    let mut trainer = Trainer::new(config(3, "sgd", 0.1), infinite, place()).unwrap();
    trainer.train_step().unwrap();
    let before = bits(trainer.model());
    let error = trainer.train_step().unwrap_err();
    assert!(error.is_divergence(), "{error}");
    assert_eq!((bits(trainer.model()), trainer.step()), (before, 1));

    struct Idle;
    impl Task for Idle {
        type Model = Place;
        type Batch = ();
        type Report = ();

        fn batch(&mut self, _learner: &Learner<Place>) -> Result<(), TrainingError> {
            Ok(())
        }

        fn step(&mut self, _learner: &mut Learner<Place>) -> Result<(), TrainingError> {
            Ok(())
        }
    }
    let mut idle = Trainer::new(config(3, "sgd", 0.1), Idle, place()).unwrap();
    let told = idle.train_step().unwrap_err().to_string();
    assert_eq!(told, "the task updated nothing in step 1");
    let plain = Trainer::new(config(3, "sgd", 0.1), Idle, place().valid());
    assert!(matches!(plain, Err(TrainingError::NoGradients)));
}
