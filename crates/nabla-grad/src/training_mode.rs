//! Layers that behave differently in training and in use, and how to fix their behaviour but keep their
//! gradients.
//!
//! A Hessian, a per-example gradient and a Gauss-Newton matrix belong to one fixed function of the
//! parameters. Some layers of Burn are not fixed functions on an autodiff device while their flag `training`
//! is set. Batch normalisation normalises by the batch, so an example's gradient depends on the others, and
//! every pass moves the running statistics. Dropout, Gaussian noise and the randomised leaky ReLU draw new
//! random numbers in every pass. `Module::freeze` clears the flag, but also removes the gradients of all
//! parameters; [`freeze_norms`] and [`freeze_layers`] clear only the flag:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
//! use burn::tensor::{Device, Tensor};
//! use nabla_grad::curvature::{CurvatureOperator, DifferenceConfig, Hessian, ModuleLoss};
//! use nabla_grad::flat::ParameterLayout;
//! use nabla_grad::training_mode::freeze_norms;
//!
//! #[derive(Module, Debug)]
//! struct Network {
//!     linear: Linear,
//!     norm: BatchNorm,
//! }
//!
//! let device = Device::flex().autodiff();
//! let network = Network {
//!     linear: LinearConfig::new(3, 2).init(&device),
//!     norm: BatchNormConfig::new(2).init(&device),
//! };
//! let network = freeze_norms(network);
//! // γ and β are still trained; the running statistics are not parameters.
//! let layout = ParameterLayout::trainable(&network)?;
//! assert_eq!(layout.total_length(), 3 * 2 + 2 + 2 + 2);
//!
//! let x = Tensor::<2>::ones([4, 3], &device);
//! let loss = ModuleLoss::new(network, layout, move |m: &Network| {
//!     m.norm.forward(m.linear.forward(x.clone())).square().mean()
//! });
//! let at = loss.parameters()?;
//! let hessian = Hessian::new(loss, at, DifferenceConfig::new())?;
//! assert_eq!(hessian.dim(), 12);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::module_path::ModulePath;

/// A layer that is set to behave as in training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingLayer {
    /// Its dotted path in the module, as in Burn's records; empty for the module itself.
    pub path: String,
    /// Its type: `BatchNorm`, `Dropout`, `GaussianNoise`, `RRelu`, or the type of your own layer.
    pub kind: String,
}

impl TrainingLayer {
    /// Whether it normalises by the batch.
    pub fn mixes_examples(&self) -> bool {
        self.kind == BATCH_NORM
    }
}

impl fmt::Display for TrainingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "the {} itself", self.kind)
        } else {
            write!(f, "`{}` ({})", self.path, self.kind)
        }
    }
}

const BATCH_NORM: &str = "BatchNorm";

/// The layers of `module` whose flag `training` is set, in its order.
///
/// ```
/// use burn::nn::BatchNormConfig;
/// use burn::tensor::Device;
/// use nabla_grad::training_mode::{freeze_layers, training_layers};
///
/// let norm = BatchNormConfig::new(4).init(&Device::flex());
/// assert_eq!(training_layers(&norm)[0].kind, "BatchNorm");
/// assert!(training_layers(&freeze_layers(norm)).is_empty());
/// ```
pub fn training_layers<M: Module>(module: &M) -> Vec<TrainingLayer> {
    let mut find = Find::default();
    module.visit(&mut find);
    find.layers
}

/// Returns `module` with every batch normalisation in its form for use: it normalises by the running
/// statistics and does not move them. `γ` and `β` keep their gradients, and everything else is unchanged,
/// even after `valid` and `train`. `Module::unfreeze` sets the flag again.
pub fn freeze_norms<M: Module>(module: M) -> M {
    module.map(&mut Freeze {
        all: false,
        place: Place::default(),
    })
}

/// Like [`freeze_norms`], but for every layer that has the flag, so dropout and noise do nothing either.
pub fn freeze_layers<M: Module>(module: M) -> M {
    module.map(&mut Freeze {
        all: true,
        place: Place::default(),
    })
}

/// The first batch normalisation that normalises by the batch.
pub fn batch_norm_in_training<M: Module>(module: &M) -> Option<TrainingLayer> {
    let layers = training_layers(module);
    layers.into_iter().find(TrainingLayer::mixes_examples)
}

/// A vector without a gradient, and its name.
pub(crate) type Statistic = (String, Vec<f64>);

/// The vectors without a gradient, which are running statistics of any layer.
pub(crate) fn statistics<M: Module>(module: &M) -> Vec<Statistic> {
    let mut read = Statistics::default();
    module.visit(&mut read);
    read.found
}

/// The first of the vectors that has changed since [`statistics`].
pub(crate) fn moved_since<M: Module>(before: &[Statistic], module: &M) -> Option<String> {
    let bits = |values: &[f64]| -> Vec<u64> { values.iter().map(|x| x.to_bits()).collect() };
    let mut pairs = before.iter().zip(statistics(module));
    let changed = pairs.find(|(before, now)| bits(&before.1) != bits(&now.1))?;
    Some(changed.1.0)
}

/// The current position of a visit.
#[derive(Default)]
struct Place {
    path: ModulePath,
    /// The types of the containers of each part of the path.
    kinds: Vec<String>,
}

impl Place {
    fn enter(&mut self, name: &str, kind: &str) {
        self.path.enter(name, kind);
        let kind = kind.split_once(':').map_or(kind, |(_, kind)| kind);
        self.kinds.push(kind.into());
    }

    fn exit(&mut self) {
        self.path.exit();
        self.kinds.pop();
    }

    /// The layer at this position that has a flag named `training`.
    fn layer(&self) -> Option<TrainingLayer> {
        (self.path.last()? == "training").then(|| TrainingLayer {
            path: self.path.parent(),
            kind: self.kinds.last().cloned().unwrap_or_default(),
        })
    }
}

#[derive(Default)]
struct Find {
    place: Place,
    layers: Vec<TrainingLayer>,
}

impl ModuleVisitor for Find {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        if flag.is_enabled() {
            self.layers.extend(self.place.layer());
        }
    }
}

#[derive(Default)]
struct Statistics {
    path: ModulePath,
    found: Vec<Statistic>,
}

impl ModuleVisitor for Statistics {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A matrix is a frozen weight, and would be slow to read.
        if D == 1
            && !param.is_require_grad()
            && let Ok(values) = param.val().try_to_vec_as::<f64>()
        {
            self.found.push((self.path.name(), values));
        }
    }
}

struct Freeze {
    all: bool,
    place: Place,
}

impl ModuleMapper for Freeze {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        match self.place.layer() {
            Some(layer) if self.all || layer.mixes_examples() => flag.with_value(false),
            _ => flag,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::RunningState;
    use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
    use burn::tensor::Device;

    use crate::curvature::{
        CurvatureError, DifferenceConfig, GaussNewton, GradientField, Hessian, ModuleLoss,
        ModuleOutputs, OutputLoss,
    };
    use crate::flat::ParameterLayout;
    use crate::per_example::{PerExampleError, per_example_gradients};
    use crate::seeded_noise::SeededNoise;

    #[derive(Module, Debug)]
    struct Block {
        linear: Linear,
        norm: BatchNorm,
        dropout: Dropout,
    }

    #[derive(Module, Debug)]
    struct Network {
        blocks: Vec<Block>,
    }

    impl Network {
        fn forward(&self, mut x: Tensor<2>) -> Tensor<2> {
            for block in &self.blocks {
                let y = block.norm.forward(block.linear.forward(x));
                x = block.dropout.forward(y.tanh());
            }
            x
        }
    }

    fn device() -> Device {
        Device::flex().autodiff()
    }

    fn network(dropout: f64) -> Network {
        let device = device();
        let block = || Block {
            linear: LinearConfig::new(3, 3).init(&device),
            norm: BatchNormConfig::new(3).init(&device),
            dropout: DropoutConfig::new(dropout).init(),
        };
        Network {
            blocks: vec![block(), block()],
        }
    }

    fn x() -> Tensor<2> {
        SeededNoise::new(1, 0).normal([6, 3], &device())
    }

    fn running_means(network: &Network) -> Vec<f32> {
        let means = network.blocks.iter().flat_map(|block| {
            let mean = block.norm.running_mean.value_sync();
            mean.into_data().try_to_vec::<f32>().unwrap()
        });
        means.collect()
    }

    #[test]
    fn layers_in_training_are_found_by_their_paths() {
        let found: Vec<(String, String)> = training_layers(&network(0.5))
            .into_iter()
            .map(|layer| (layer.path, layer.kind))
            .collect();
        let expected = [
            ("blocks.0.norm", "BatchNorm"),
            ("blocks.0.dropout", "Dropout"),
            ("blocks.1.norm", "BatchNorm"),
            ("blocks.1.dropout", "Dropout"),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.into(), b.into())));
    }

    #[test]
    fn frozen_norms_use_and_keep_their_statistics_and_keep_their_gradients() {
        let trained = network(0.0);
        trained.forward(x());
        let trainable = ParameterLayout::trainable(&trained).unwrap();
        let frozen = freeze_norms(trained);
        let kept = ParameterLayout::trainable(&frozen).unwrap();
        assert_eq!(kept.total_length(), trainable.total_length());
        let left = training_layers(&frozen);
        assert!(left.iter().all(|layer| layer.kind == "Dropout") && left.len() == 2);
        // As in use, and also after a round of validation.
        let before = running_means(&frozen);
        assert!(before.iter().all(|&mean| mean != 0.0));
        let in_use = frozen.valid().forward(x().inner());
        for network in [frozen.clone(), frozen.valid().train()] {
            let found = network.forward(x());
            let off = (found.inner() - in_use.clone()).abs().max();
            assert!(off.into_data().try_to_vec::<f32>().unwrap()[0] < 1e-6);
            assert_eq!(running_means(&network), before);
        }
        assert!(training_layers(&freeze_layers(frozen)).is_empty());
    }

    fn loss(network: &Network, rows: std::ops::Range<usize>) -> Tensor<1> {
        network.forward(x().slice(rows)).square().sum()
    }

    #[test]
    fn batch_norms_in_training_are_refused_by_their_names_before_they_move() {
        // Frozen γ and β do not make it a fixed function.
        for network in [network(0.0), network(0.0).no_grad()] {
            let before = running_means(&network);
            let layout = ParameterLayout::of(&network).unwrap();
            let rows = per_example_gradients(&network, &layout, 6, |m, i| loss(m, i..i + 1));
            let Err(PerExampleError::Training { layer }) = rows else {
                panic!("{rows:?}");
            };
            assert_eq!(layer.path, "blocks.0.norm");
            let field = ModuleLoss::new(network.clone(), layout.clone(), |m| loss(m, 0..6));
            let at = field.parameters().unwrap();
            let alone = field.gradient(&at).unwrap_err();
            assert!(matches!(alone, CurvatureError::Training { .. }), "{alone}");
            let refused = Hessian::new(field, at.clone(), DifferenceConfig::new())
                .err()
                .unwrap();
            assert_eq!(
                refused.to_string(),
                "`blocks.0.norm` (BatchNorm) normalises by the batch, which is not a fixed function of \
                 the parameters: freeze it with `training_mode::freeze_norms`, and take \
                 `ParameterLayout::trainable`"
            );
            let outputs = ModuleOutputs::new(network.clone(), layout, |m: &Network| m.forward(x()));
            let squared = OutputLoss::SquaredError;
            let refused = GaussNewton::new(outputs, at, squared, 1.0, DifferenceConfig::new());
            assert!(matches!(refused, Err(CurvatureError::Training { .. })));
            assert_eq!(running_means(&network), before);
        }
    }

    #[test]
    fn statistics_are_no_parameters_of_a_curvature() {
        let network = freeze_norms(network(0.0));
        let layout = ParameterLayout::of(&network).unwrap();
        let field = ModuleLoss::new(network, layout, |m| loss(m, 0..6));
        let at = field.parameters().unwrap();
        let refused = Hessian::new(field, at, DifferenceConfig::new())
            .err()
            .unwrap();
        let name = "blocks.0.norm.running_mean";
        assert!(
            matches!(&refused, CurvatureError::NotTrainable { name: found } if found == name),
            "{refused}"
        );
        assert!(refused.to_string().contains("ParameterLayout::trainable"));
    }

    #[test]
    fn a_random_loss_is_refused_with_the_names_of_its_layers() {
        let random = freeze_norms(network(0.5));
        let layout = ParameterLayout::trainable(&random).unwrap();
        let field = ModuleLoss::new(random.clone(), layout.clone(), |m| loss(m, 0..6));
        let at = field.parameters().unwrap();
        let refused = Hessian::new(field, at.clone(), DifferenceConfig::new())
            .err()
            .unwrap();
        assert!(matches!(refused, CurvatureError::RandomLayers { .. }));
        assert!(
            refused.to_string().contains("`blocks.0.dropout` (Dropout)"),
            "{refused}"
        );
        // Dropout without a share is no dropout, and a frozen one neither.
        let steady = freeze_norms(network(0.0));
        for network in [freeze_layers(random), steady] {
            let layout = ParameterLayout::trainable(&network).unwrap();
            let field = ModuleLoss::new(network, layout, |m| loss(m, 0..6));
            Hessian::new(field, at.clone(), DifferenceConfig::new()).unwrap();
        }
    }

    /// A custom normalisation without γ and β, by the mean of all inputs so far.
    #[derive(Module, Debug)]
    struct OwnNorm {
        linear: Linear,
        mean: RunningState<Tensor<1>>,
    }

    impl OwnNorm {
        fn forward(&self, x: Tensor<2>) -> Tensor<2> {
            let y = self.linear.forward(x);
            let seen = y.clone().mean_dim(0).squeeze_dim::<1>(0).detach();
            let mean = self.mean.value_sync() * 0.9 + seen * 0.1;
            self.mean.update(mean);
            y.clone() - y.mean_dim(0)
        }
    }

    #[test]
    fn statistics_that_move_are_refused_whoever_keeps_them() {
        let own = OwnNorm {
            linear: LinearConfig::new(3, 2).init(&device()),
            mean: RunningState::new(Tensor::zeros([2], &device())),
        };
        let layout = ParameterLayout::trainable(&own).unwrap();
        let rows = per_example_gradients(&own, &layout, 6, |m, i| {
            m.forward(x().narrow(0, i, 1)).square().sum()
        });
        let moved = PerExampleError::Moved {
            name: "mean".into(),
        };
        assert_eq!(rows.unwrap_err(), moved);
        let field = ModuleLoss::new(own, layout, |m: &OwnNorm| m.forward(x()).square().sum());
        let at = field.parameters().unwrap();
        let refused = Hessian::new(field, at, DifferenceConfig::new())
            .err()
            .unwrap();
        assert!(matches!(refused, CurvatureError::Moved { name } if name == "mean"));
    }
}
