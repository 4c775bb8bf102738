//! What can go wrong in an attack.

use nabla_base::range::OutOfRange;
use nabla_grad::covariance_adaptation::AdaptationError;
use nabla_grad::flat::FlatError;
use nabla_grad::proximal::ProximalError;
use nabla_grad::sketch::SketchError;

/// The reason why nothing is rebuilt from a gradient.
#[derive(Debug, thiserror::Error)]
pub enum LeakageError {
    /// The weights or their gradient are not one vector.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The gradient cannot be sketched.
    #[error(transparent)]
    Sketch(#[from] SketchError),
    /// A feature cannot be projected.
    #[error(transparent)]
    Projection(#[from] ProximalError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Something is not finite.
    #[error("{0} is not finite, so it cannot be matched")]
    NotFinite(&'static str),
    /// Nothing can be matched.
    #[error("{0} is zero, so it has no direction that could be matched")]
    Zero(&'static str),
    /// The loss does not depend on the pictures.
    #[error("the loss does not depend on the pictures")]
    NoGradient,
    /// A tensor cannot be read.
    #[error("cannot read a tensor from its device: {0}")]
    Device(String),
    /// Gradients of one length were expected.
    #[error("the observed gradient has {found} numbers, but that of the model has {expected}")]
    Length {
        /// Of the model.
        expected: usize,
        /// Of what was observed.
        found: usize,
    },
    /// There are fewer classes than labels to be found.
    #[error("{batch} different labels are to be found, but the model has {classes} classes")]
    Labels {
        /// The number of pictures.
        batch: usize,
        /// The number of classes.
        classes: usize,
    },
    /// The configuration is for another generator.
    #[error(
        "the attack has {found} radii, but the generator's {stages} stages need one for each stage after the first"
    )]
    Stages {
        /// The generator's stages.
        stages: usize,
        /// The radii.
        found: usize,
    },
    /// The generator makes other pictures.
    #[error("the generator makes pictures of {found} numbers, but the model sees {expected}")]
    Pictures {
        /// What the model sees.
        expected: usize,
        /// What the generator makes.
        found: usize,
    },
    /// The search without derivatives cannot go on.
    #[error(transparent)]
    Adaptation(#[from] AdaptationError),
    /// An attack through a generator has none.
    #[error("the attack searches what a generator makes, but there is no generator")]
    NoGenerator,
    /// The network does not end in a matrix.
    #[error("the network has no last matrix of {classes} columns, one for each class")]
    NoLastLayer {
        /// The number of classes.
        classes: usize,
    },
    /// A private step would not be one of this network.
    #[error(
        "{layer} normalises by the batch in training, so that no example has a gradient of its own to clip, and no \
         training of the network is private: use group normalisation (`--normalization group`)"
    )]
    BatchNorm {
        /// The layer.
        layer: String,
    },
    /// No restart gave a finite cost.
    #[error("no restart of the attack had a finite cost: lower its learning rate")]
    NoRestart,
}

impl LeakageError {
    /// Whether another start of the search may do better: this one ran away, or its pictures have no gradient.
    pub(crate) fn is_of_one_start(&self) -> bool {
        matches!(
            self,
            Self::NotFinite(_) | Self::Zero("the gradient of the guess")
        )
    }
}
