//! All objectives by name, one file each.
//!
//! The defaults are those of the papers' or DomainBed's code. A new objective is a file here and a line in
//! [`objectives`]; the tests that hold for every objective iterate over the registry.

use nabla_base::registry::Registry;
use nabla_train::classifier::Classifier;

use crate::objective::Objective;

pub mod coral;
pub mod erm;
pub mod fish;
pub mod fishr;
pub mod gaqat;
pub mod group_dro;
pub mod hessian_alignment;
pub mod iga;
pub mod irm;
pub mod mixup;
pub mod mmd;
pub mod sagm;
pub mod sam;
pub mod udim;
pub mod vrex;

pub use coral::Coral;
pub use erm::Erm;
pub use fish::Fish;
pub use fishr::{Fishr, FishrConfig};
pub use gaqat::{Gaqat, GaqatConfig};
pub use group_dro::{GroupDro, GroupDroConfig};
pub use hessian_alignment::{HessianAlignment, HessianAlignmentConfig};
pub use iga::Iga;
pub use irm::Irm;
pub use mixup::Mixup;
pub use mmd::Mmd;
pub use sagm::Sagm;
pub use sam::Sam;
pub use udim::{Udim, UdimConfig};
pub use vrex::Vrex;

/// An objective for models of one type.
type Boxed<M> = Box<dyn Objective<M>>;

fn boxed<M: Classifier, O: Objective<M> + 'static>(objective: O) -> Boxed<M> {
    Box::new(objective)
}

/// All objectives of this crate, for models of type `M`.
///
/// ```
/// use nabla_align::objectives;
/// use nabla_base::registry::Options;
/// use nabla_train::mlp::Mlp;
///
/// let objectives = objectives::<Mlp>();
/// let irm = objectives.make("irm", &Options::parse(&["penalty=1e4", "anneal_steps=80"])?)?;
/// assert_eq!(irm.name(), "irm");
/// # Ok::<(), nabla_base::registry::RegistryError>(())
/// ```
pub fn objectives<M: Classifier + 'static>() -> Registry<Box<dyn Objective<M>>> {
    Registry::<Boxed<M>>::new("objective")
        .with("erm", "The mean loss of all examples", Erm {}, boxed)
        .with(
            "irm",
            "Scaling the scores helps in no domain",
            Irm::default(),
            boxed,
        )
        .with(
            "vrex",
            "The same loss in every domain",
            Vrex::default(),
            boxed,
        )
        .with(
            "group-dro",
            "Domains with a high loss weigh more",
            GroupDroConfig::default(),
            |c| boxed(GroupDro::new(c)),
        )
        .with(
            "mixup",
            "Mixtures of the examples of two domains",
            Mixup::default(),
            boxed,
        )
        .with(
            "coral",
            "The same mean and covariance of the features",
            Coral::default(),
            boxed,
        )
        .with(
            "mmd",
            "The same distribution of the features",
            Mmd::default(),
            boxed,
        )
        .with(
            "fish",
            "Gradients of the domains with large inner products",
            Fish::default(),
            boxed,
        )
        .with(
            "fishr",
            "The same variance of the gradients",
            FishrConfig::default(),
            |c| boxed(Fishr::new(c)),
        )
        .with(
            "iga",
            "The same gradient of all weights",
            Iga::default(),
            boxed,
        )
        .with(
            "sam",
            "The gradient at the worst weights nearby",
            Sam::default(),
            boxed,
        )
        .with(
            "sagm",
            "That gradient, aligned with the gradient here",
            Sagm::default(),
            boxed,
        )
        .with(
            "hgp",
            "The same gradient and Hessian times gradient of the last layer",
            HessianAlignmentConfig::hgp(),
            |c| boxed(HessianAlignment::new(c)),
        )
        .with(
            "hutchinson",
            "The same gradient and Hessian diagonal of the last layer",
            HessianAlignmentConfig::hutchinson(),
            |c| boxed(HessianAlignment::new(c)),
        )
        .with(
            "gaqat",
            "SAGM for a network of few bits, whose steady step sizes are frozen",
            GaqatConfig::default(),
            |c| boxed(Gaqat::new(c)),
        )
        .with(
            "udim",
            "Flat, also for examples that are moved to be hard",
            UdimConfig::default(),
            |c| boxed(Udim::new(c)),
        )
}

/// The names of the objectives for models whose layers are not rounded: all but those of quantised training.
pub fn plain_objectives<M: Classifier + 'static>() -> Vec<&'static str> {
    let mut names = objectives::<M>().names();
    names.retain(|&name| name != "gaqat");
    names
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
