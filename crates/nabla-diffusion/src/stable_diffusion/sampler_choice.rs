//! The choice of a sampler for a model.

use std::sync::Arc;

use crate::registry::Options;
use crate::sampler::Solver;

/// One of Nabla's samplers by name, with options, or your own sampler.
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
        /// The name; `None` for the sampler that the model's files name.
        name: Option<String>,
        /// Options, which override those of the model's files and the defaults.
        options: Options,
    },
    /// Your own sampler, as it is.
    Own(Arc<dyn Solver>),
}

impl SamplerChoice {
    /// One of Nabla's samplers.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Named {
            name: Some(name.into()),
            options: Options::new(),
        }
    }

    /// Your own sampler.
    pub fn own(solver: impl Solver + 'static) -> Self {
        Self::Own(Arc::new(solver))
    }

    /// Adds an option; has no effect on your own sampler, which has its options already.
    #[must_use]
    pub fn with_option(self, option: &str, value: impl Into<serde_json::Value>) -> Self {
        self.with_options(&Options::new().with(option, value))
    }

    /// Adds several options.
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
