//! What `nabla inspect features` tells of dictionaries.

use std::path::PathBuf;

use nabla::claims::plot::{LinePlot, Series};
use nabla::probe::encoder_choice::EncoderChoice;
use nabla::probe::feature_effect::{Effect, GradientOf};
use serde::Serialize;

use crate::output::table;

/// What was measured of a dictionary with gradients of one kind.
#[derive(Serialize)]
pub(super) struct Measured {
    pub(super) encoder: EncoderChoice,
    /// Active latents, or the weight of the penalty.
    pub(super) sparsity: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seed: Option<u64>,
    pub(super) gradient: GradientOf,
    pub(super) loss_recovered: f64,
    #[serde(flatten)]
    pub(super) effect: Effect,
}

/// What the model says, with and without steering.
#[derive(Serialize)]
pub(super) struct Steered {
    pub(super) feature: usize,
    pub(super) strength: f64,
    pub(super) plain: String,
    pub(super) steered: String,
}

#[derive(Serialize)]
pub(super) struct Found {
    pub(super) model: PathBuf,
    pub(super) block: usize,
    pub(super) blocks: usize,
    pub(super) width: usize,
    pub(super) latents: usize,
    pub(super) pieces: usize,
    pub(super) measured_pieces: usize,
    pub(super) on_disk: bool,
    pub(super) dictionaries: Vec<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) steering: Option<Steered>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plot: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) saved: Option<PathBuf>,
}

fn gradient_name(of: GradientOf) -> &'static str {
    match of {
        GradientOf::OwnPrediction => "own prediction",
        GradientOf::Label => "true next piece",
        GradientOf::None => "none",
    }
}

/// Means over seeds, of the first kind of gradient of each encoder. Where there is no loss to recover, it shows the
/// variance instead.
pub(super) fn plot(found: &[Measured]) -> LinePlot {
    let lost = found.iter().any(|one| one.loss_recovered.is_finite());
    let (title, axis) = match lost {
        true => ("Loss recovered by reconstructions", "loss recovered, %"),
        false => (
            "Variance that reconstructions lack",
            "unexplained variance, %",
        ),
    };
    let mut plot = LinePlot::new(title, "active latents", axis).log_x();
    let mut encoders: Vec<EncoderChoice> = Vec::new();
    for one in found {
        if !encoders.contains(&one.encoder) {
            encoders.push(one.encoder);
        }
    }
    for encoder in encoders {
        let own =
            |one: &&Measured| one.encoder == encoder && one.gradient == encoder.gradients()[0];
        let mut points: Vec<(f64, Vec<[f64; 2]>)> = Vec::new();
        for one in found.iter().filter(own) {
            let height = match lost {
                true => one.loss_recovered,
                false => one.effect.unexplained,
            };
            let point = [one.effect.active, 100.0 * height];
            match points
                .iter_mut()
                .find(|(sparsity, _)| *sparsity == one.sparsity)
            {
                Some((_, all)) => all.push(point),
                None => points.push((one.sparsity, vec![point])),
            }
        }
        let mut means: Vec<[f64; 2]> = points
            .into_iter()
            .map(|(_, all)| {
                let count = all.len() as f64;
                [0, 1].map(|i| all.iter().map(|p| p[i]).sum::<f64>() / count)
            })
            .collect();
        means.sort_by(|a, b| a[0].total_cmp(&b[0]));
        plot = plot.with_series(Series::new(encoder.name(), means));
    }
    plot
}

fn share(value: f64) -> String {
    match value.is_nan() {
        true => "none".to_owned(),
        false => format!("{:.2} %", 100.0 * value),
    }
}

pub(super) fn told(found: &Found) -> String {
    let Found {
        block,
        blocks,
        width,
        latents,
        pieces,
        measured_pieces,
        ..
    } = found;
    let mut told = format!(
        "{} before block {block} of {blocks}: {latents} directions for {width} values, {} {pieces} activations{}, \
         measured on {measured_pieces} pieces\n",
        found.model.display(),
        match found.dictionaries.iter().any(|one| one.seed.is_some()) {
            true => "trained on",
            false => "with the mean of",
        },
        if found.on_disk { " (on disk)" } else { "" },
    );
    if let Some(first) = found.dictionaries.first() {
        let effect = &first.effect;
        told += &format!(
            "loss {:.4}, with the mean activation {:.4}\n",
            effect.clean_loss, effect.ablated_loss
        );
        if first.loss_recovered.is_nan() {
            told += "the mean activation loses nothing, so that there is nothing to recover\n";
        }
    }
    let mut rows = vec![
        [
            "encoder",
            "sparsity",
            "seed",
            "gradient of",
            "active",
            "loss",
            "recovered",
            "divergence",
            "unexplained",
            "live",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for one in &found.dictionaries {
        let effect = &one.effect;
        rows.push(vec![
            one.encoder.name().to_owned(),
            one.sparsity.to_string(),
            one.seed.map_or(String::new(), |seed| seed.to_string()),
            gradient_name(one.gradient).to_owned(),
            format!("{:.1}", effect.active),
            format!("{:.4}", effect.loss),
            share(one.loss_recovered),
            format!("{:.4}", effect.divergence),
            share(effect.unexplained),
            effect.live.to_string(),
        ]);
    }
    told += &table(&rows);
    if let Some(steering) = &found.steering {
        told += &format!(
            "as it is: {}\nalong feature {} by {}: {}\n",
            steering.plain, steering.feature, steering.strength, steering.steered
        );
    }
    for (path, what) in [
        (&found.plot, "the loss recovered against the active latents"),
        (&found.page, "the texts that light up features"),
        (&found.saved, "the first dictionary"),
    ] {
        if let Some(path) = path {
            told += &format!("{}: {what}\n", path.display());
        }
    }
    told
}
