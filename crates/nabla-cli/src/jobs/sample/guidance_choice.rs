//! The guidance that a command line asks for.

use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::range;
use nabla::diffusion::guidance::{Guidance, LimitedInterval, StoredGuidance, guidances};
use nabla::diffusion::registry::Options;

use crate::errors::Failure;

/// The guidance that the pipeline uses by itself.
const CLASSIFIER_FREE: &str = "classifier-free";

/// The flags.
#[derive(Args)]
pub struct GuidanceFlags {
    /// How strongly the text guides [default: that of the guidance, for classifier-free 7.5]; in
    /// classifier-free guidance 1 means none, in cfg++ it is 0 to 1
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance_scale: Option<f64>,
    /// How far the spread of the guided prediction is rescaled to that of the unguided one, 0 to 1 [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    guidance_rescale: Option<f64>,
    /// How the predictions with and without the text are combined [default: classifier-free]
    #[arg(long, value_name = "NAME", value_parser = names())]
    guidance: Option<String>,
    /// An option of the guidance, such as scale=5; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    guidance_option: Vec<String>,
    /// Guides only where the noise level sigma is above LOW and at most HIGH, such as 0.28,5.42; elsewhere one
    /// evaluation of the network is saved
    #[arg(long, value_name = "LOW,HIGH", value_parser = interval)]
    guidance_interval: Option<[f64; 2]>,
    /// A guidance of `nabla search guidance` (LinearAG, or a policy), for the number of steps that it was made for
    #[arg(long, value_name = "FILE", conflicts_with_all = ["guidance", "guidance_scale", "guidance_rescale",
        "guidance_option", "guidance_interval"])]
    guidance_file: Option<PathBuf>,
}

fn names() -> clap::builder::PossibleValuesParser {
    guidances::<4>().names().into()
}

/// `LOW,HIGH`.
fn interval(text: &str) -> Result<[f64; 2], String> {
    let wrong = || "it must be two noise levels, the lower one first, as 0.28,5.42".to_owned();
    let level = |text: &str| match text.trim().parse::<f64>() {
        Ok(level) if level >= 0.0 => Ok(level),
        _ => Err(wrong()),
    };
    let (low, high) = text.split_once(',').ok_or_else(wrong)?;
    match [level(low)?, level(high)?] {
        [low, high] if low < high => Ok([low, high]),
        _ => Err(wrong()),
    }
}

/// What the flags mean.
pub struct GuidanceChoice {
    /// The guidance, if it is another one than the pipeline's own.
    pub own: Option<Box<dyn Guidance>>,
    /// Its name.
    pub name: String,
    /// The scale, if it has one.
    pub scale: Option<f64>,
    /// The rescale, if it has one.
    pub rescale: Option<f64>,
    /// The flags that have no effect on it.
    pub unused: Vec<&'static str>,
}

impl GuidanceFlags {
    /// The guidance for runs of this many steps. What is wrong is said before a model is loaded.
    ///
    /// - `usual`: the name and the scale of the guidance if no other is given
    pub fn chosen(
        &self,
        steps: usize,
        usual: Option<(&str, Option<f64>)>,
    ) -> Result<GuidanceChoice, Failure> {
        if let Some(file) = &self.guidance_file {
            return from_file(file, steps);
        }
        let usual_name = usual.map_or(CLASSIFIER_FREE, |(name, _)| name);
        let name = self.guidance.as_deref().unwrap_or(usual_name);
        let usual_scale = usual.filter(|(usual, _)| *usual == name);
        let usual_scale = usual_scale.and_then(|(_, scale)| scale);
        let family = guidances::<4>();
        let defaults = family
            .entry(name)
            .map_err(Failure::input)?
            .defaults()
            .clone();
        let (mut options, mut unused) = (Options::new(), Vec::new());
        for (flag, option, value) in [
            (
                "--guidance-scale",
                "scale",
                self.guidance_scale.or(usual_scale),
            ),
            ("--guidance-rescale", "rescale", self.guidance_rescale),
        ] {
            let Some(value) = value else { continue };
            // JSON, in which options are kept, has no other numbers.
            range::finite(format!("guidance {option}"), value).map_err(Failure::input)?;
            match defaults.get(option) {
                Some(_) => options.set(option, value.into()),
                None => unused.push(flag),
            }
        }
        let more = Options::parse(&self.guidance_option).map_err(Failure::input)?;
        let options = options.overridden(&more);
        let mut made = family.make(name, &options).map_err(Failure::input)?;
        if let Some([low, high]) = self.guidance_interval {
            made = Box::new(LimitedInterval::new(low, high, made));
        }
        made.begin(steps).map_err(Failure::input)?;
        let all = defaults.overridden(&options);
        let number = |option| all.get(option).and_then(serde_json::Value::as_f64);
        let usual = name == CLASSIFIER_FREE
            && self.guidance.is_none()
            && self.guidance_option.is_empty()
            && self.guidance_interval.is_none();
        Ok(GuidanceChoice {
            own: (!usual).then_some(made),
            name: name.to_owned(),
            scale: number("scale"),
            rescale: number("rescale"),
            unused,
        })
    }

    /// What the picture's parameters say of the guidance besides its scale, each after a comma.
    pub fn parameters(&self) -> String {
        let mut text = String::new();
        for option in &self.guidance_option {
            text += &format!(", Guidance option: {option}");
        }
        if let Some(file) = &self.guidance_file {
            text += &format!(", Guidance file: {}", file.display());
        }
        if let Some(guidance) = &self.guidance {
            text += &format!(", Guidance: {guidance}");
        }
        if let Some([low, high]) = self.guidance_interval {
            text += &format!(", Guidance interval: {low} to {high}");
        }
        text
    }
}

/// The guidance of a file.
fn from_file(file: &Path, steps: usize) -> Result<GuidanceChoice, Failure> {
    let stored = StoredGuidance::read(file)?;
    let made_for = stored.steps();
    if made_for != steps {
        return Err(Failure::input(format!(
            "{} is a guidance for {made_for} steps, but the run has {steps}",
            file.display()
        )));
    }
    let mut made = stored.init().map_err(Failure::input)?;
    made.begin(steps).map_err(Failure::input)?;
    let (name, scale) = match &stored {
        StoredGuidance::Linear { guidance, .. } => ("LinearAG", Some(guidance.scale)),
        StoredGuidance::Policy(_) => ("policy", None),
    };
    Ok(GuidanceChoice {
        own: Some(made),
        name: name.to_owned(),
        scale,
        rescale: None,
        unused: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_the_lower_level_first() {
        assert_eq!(interval("0.28, 5.42"), Ok([0.28, 5.42]));
        for wrong in ["", "1", "2,1", "-1,2", "a,b", "1,1", "NaN,2"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
