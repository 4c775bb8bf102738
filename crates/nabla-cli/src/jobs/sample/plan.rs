//! `nabla sample --plan`: the steps, the skipped blocks, the sampler and the guidance that a search has found.

use std::path::PathBuf;

use clap::Args;
use nabla::diffusion::autodiffusion::{PlanFile, PlannedModel, Space};
use nabla::diffusion::registry::Options;

use crate::errors::Failure;

/// The flag.
#[derive(Args)]
pub struct PlanFlag {
    /// A plan of `nabla search steps`: which steps to take, and which blocks of the network to skip in them; also the
    /// sampler and the guidance, unless other ones are given, for which a plan is less good
    #[arg(long, value_name = "FILE", conflicts_with_all = ["steps", "sigmas", "karras"])]
    plan: Option<PathBuf>,
}

/// A plan for a kind of model, or none.
pub struct Planned {
    file: Option<PlanFile>,
    path: Option<PathBuf>,
    model: PlannedModel,
}

impl PlanFlag {
    /// Reads the plan.
    pub fn read(&self, model: PlannedModel) -> Result<Planned, Failure> {
        let file = self.plan.as_deref().map(PlanFile::read).transpose()?;
        if let Some(file) = &file {
            // The kind, before a model is loaded.
            file.check(model, file.space)?;
        }
        Ok(Planned {
            file,
            path: self.plan.clone(),
            model,
        })
    }
}

impl Planned {
    /// The plan.
    pub fn file(&self) -> Option<&PlanFile> {
        self.file.as_ref()
    }

    /// Checks that the plan is for this model.
    pub fn check(&self, space: Space) -> Result<(), Failure> {
        match &self.file {
            Some(file) => Ok(file.check(self.model, space)?),
            None => Ok(()),
        }
    }

    /// The number of steps.
    pub fn steps(&self, given: u32) -> usize {
        match &self.file {
            Some(file) => file.steps.count(),
            None => given as usize,
        }
    }

    /// The name and the options of the sampler: those that are given, or the plan's.
    pub fn sampler(&self, name: Option<&str>, options: Options) -> (Option<String>, Options) {
        match &self.file {
            Some(file) if name.is_none_or(|name| name == file.sampler) => (
                Some(file.sampler.clone()),
                file.sampler_options.clone().overridden(&options),
            ),
            _ => (name.map(str::to_owned), options),
        }
    }

    /// The guidance of the plan, with its scale.
    pub fn guidance(&self) -> Option<(&str, Option<f64>)> {
        let file = self.file.as_ref()?;
        Some((file.guidance.as_str(), file.guidance_scale))
    }

    /// What the picture's parameters say of the plan, after a comma.
    pub fn parameters(&self) -> String {
        let name = self.path.as_deref().and_then(|path| path.file_name());
        name.map_or(String::new(), |name| format!(", Plan: {}", name.display()))
    }
}
