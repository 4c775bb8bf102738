//! Which sampler a model is run with.

use std::sync::Arc;

use crate::registry::Options;
use crate::sampler::Solver;

/// A sampler of ours by name, with options, or one of one's own.
///
/// ```
/// use nabla_diffusion::ddim::Ddim;
/// use nabla_diffusion::stable_diffusion::pipeline::SamplerChoice;
///
/// let the_models_own = SamplerChoice::default();
/// let named = SamplerChoice::named("euler").with_option("churn", 0.3);
/// let of_ones_own = SamplerChoice::own(Ddim::new().with_eta(0.5));
/// # let _ = (the_models_own, named, of_ones_own);
/// ```
#[derive(Clone, Debug)]
pub enum SamplerChoice {
    /// One of [`samplers`](crate::sampler::samplers).
    Named {
        /// The name; without one, the sampler that the model's files name.
        name: Option<String>,
        /// Options in the places of those that the model's files have, or of the defaults.
        options: Options,
    },
    /// One of one's own, as it is.
    Own(Arc<dyn Solver>),
}

impl SamplerChoice {
    /// One of ours.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Named {
            name: Some(name.into()),
            options: Options::new(),
        }
    }

    /// One of one's own.
    pub fn own(solver: impl Solver + 'static) -> Self {
        Self::Own(Arc::new(solver))
    }

    /// The same with one more option; one of one's own has its options already, and stays as it is.
    #[must_use]
    pub fn with_option(self, option: &str, value: impl Into<serde_json::Value>) -> Self {
        self.with_options(&Options::new().with(option, value))
    }

    /// The same with more options.
    #[must_use]
    pub fn with_options(self, more: &Options) -> Self {
        match self {
            Self::Named { name, options } => Self::Named {
                name,
                options: options.overridden(more),
            },
            own => own,
        }
    }
}

/// The sampler that the model's files name.
impl Default for SamplerChoice {
    fn default() -> Self {
        Self::Named {
            name: None,
            options: Options::new(),
        }
    }
}

impl From<&str> for SamplerChoice {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}
