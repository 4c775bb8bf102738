//! The classes of diffusers, and their peculiarities.

use serde::Serialize;

use crate::pndm::{Pndm, PndmMethod};
use crate::registry::Options;
use crate::sampler::{Grid, samplers};
use crate::sigma_spacing::SigmaSpacing;

/// Your own sampler has no name.
pub(super) const OWN: &str = "";

/// The classes of diffusers, and the corresponding samplers.
pub(super) const CLASSES: [(&str, &str); 14] = [
    ("DDIMScheduler", "ddim"),
    ("DDPMScheduler", "ddpm"),
    ("PNDMScheduler", "plms"),
    ("EulerDiscreteScheduler", "euler"),
    ("EulerAncestralDiscreteScheduler", "euler-ancestral"),
    ("HeunDiscreteScheduler", "heun"),
    ("LMSDiscreteScheduler", "lms"),
    ("DPMSolverMultistepScheduler", "dpm++2m"),
    ("DPMSolverSinglestepScheduler", "dpm++2s"),
    ("DEISMultistepScheduler", "deis"),
    ("KDPM2DiscreteScheduler", "dpm2"),
    ("KDPM2AncestralDiscreteScheduler", "dpm2-ancestral"),
    ("UniPCMultistepScheduler", "unipc"),
    ("LCMScheduler", "lcm"),
];

/// PNDM as in diffusers. diffusers does not have S-PNDM, so there is nothing to agree with.
pub(super) fn combined(method: PndmMethod) -> Pndm {
    Pndm::new().with_method(method).with_combine_outputs(true)
}

/// The options of one of Nabla's samplers, whose configuration is a table of values.
pub(super) fn fields(config: &impl Serialize) -> Options {
    Options::of(config).unwrap_or_default()
}

/// The grid of one of Nabla's samplers.
pub(super) fn grid_of(name: &str) -> Grid {
    samplers::<4>()
        .get(name)
        .map_or(Grid::WholeSteps, |solver| solver.grid())
}

/// Whether the class of diffusers reads this spacing's option.
pub(super) fn has_spacing(name: &str, rule: Grid, spacing: SigmaSpacing) -> bool {
    match spacing {
        SigmaSpacing::Lu => {
            rule == Grid::WithoutLowest && !matches!(name, "unipc" | "deis" | "dpm++2s" | OWN)
        }
        _ => match rule {
            Grid::WithoutLowest => true,
            Grid::Interpolated => name != "euler-ancestral",
            Grid::WholeSteps | Grid::Distilled => false,
        },
    }
}
