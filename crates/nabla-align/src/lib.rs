//! Classifiers for domains that nobody has seen in training: hospitals, cameras, painters, years.
//!
//! The training data come from several domains, and the classifier must work in another one. An [`Objective`] sees a
//! batch of every domain and leaves the gradient of a step:
//!
//! * [`objective`]: the trait, and what an objective sees of a step;
//! * [`mod@objectives`]: all of them by name, one file each, from the mean loss to the two methods of this crate,
//!   [Hessian alignment](objectives::hessian_alignment) and [UDIM](objectives::udim);
//! * [`domain_source`]: an objective as the [gradient source](nabla_train::gradient_source) of a training, so that
//!   optimizers, schedules, averages and checkpoints are those of every training;
//! * [`domains`]: examples by domain, and how one domain is held out; [`domain_folder`] reads them from
//!   `domain/class/picture`, [`rotated`] and [`coloured`] make them from built-in pictures;
//! * [`selection`]: which of several trainings is chosen without a look at the test domain;
//! * [`domain_config`]: domains, test domain and objective by name, for files and commands;
//! * [`domain_comparison`]: several objectives with the same budget of [`search`];
//! * [`head_stats`]: gradient, Hessian and variance of a linear last layer in closed form;
//!   [`landscape`]: gradients at moved weights, and second derivatives from their differences.

pub mod coloured;
pub mod domain_comparison;
pub mod domain_config;
pub mod domain_folder;
pub mod domain_source;
pub mod domains;
pub mod head_stats;
pub mod landscape;
pub mod objective;
pub mod objectives;
pub mod rotated;
pub mod search;
pub mod selection;

pub use coloured::Coloured;
pub use domain_comparison::{DomainComparison, DomainTable};
pub use domain_folder::{DomainFolder, DomainFolderError};
pub use domain_source::{DomainObjective, DomainSource};
pub use domains::{DomainError, Domains, HeldOut};
pub use head_stats::{HeadError, HeadStats};
pub use objective::{DomainBatch, DomainPlan, DomainStep, Objective, ObjectiveError, Pass};
pub use objectives::objectives;
pub use rotated::Rotated;
pub use selection::Selection;
