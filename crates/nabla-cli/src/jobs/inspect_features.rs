//! `nabla inspect features`: what the activations of a language model consist of, what the model loses without the rest, and
//! which texts light up a feature.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::{range, write_bytes_atomically};
use nabla::language::language_model::{LanguageModel, Network};
use nabla::probe::activation_set::{ActivationSet, Storage};
use nabla::probe::encoder_choice::{EncoderChoice, EncoderRecord, TrainedEncoder};
use nabla::probe::feature_effect::{Ablation, Coder, EffectError, GradientOf, effects, record};
use nabla::probe::feature_page::{FeatureCard, PageHead, feature_page};
use nabla::probe::language_features::{
    HookedLanguageModel, Passages, TextError, features, passages, pieces_together,
};
use nabla::probe::sae_training::SaeTraining;
use nabla::probe::sparse_autoencoder::{DictionaryConfig, SaeError};

use crate::choice::choice;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::plot_file;

mod findings;

use findings::{Found, Measured, Steered, plot, told};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A .gguf file of the Llama family, or a folder with config.json, model.safetensors and tokenizer.json of the BERT
    /// family
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Texts: a file, or a folder whose .txt files are read; several times for several
    #[arg(long, value_name = "PATH", required = true)]
    text: Vec<PathBuf>,
    /// Read the activation before this block, from 1 [default: the middle one]
    #[arg(long, value_name = "N")]
    block: Option<usize>,
    /// Encoders to train
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "gradient", value_parser = choice::<EncoderChoice>())]
    encoder: Vec<EncoderChoice>,
    /// Active latents of a piece, for encoders that have a number of them
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [32])]
    active: Vec<usize>,
    /// Weights of the penalty, for encoders that have one
    #[arg(long, value_name = "WEIGHT,..", value_delimiter = ',')]
    penalty: Vec<f64>,
    /// Seeds of the dictionaries; each is trained once for each seed
    #[arg(long, value_name = "SEED,..", value_delimiter = ',', default_values_t = [42])]
    seeds: Vec<u64>,
    /// Directions of a dictionary [default: 4 times the values of an activation]
    #[arg(long, value_name = "N")]
    latents: Option<usize>,
    /// Pieces of text to train on, rounded up to what the model reads at once; a ninth as many follow, on which is measured
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    tokens: usize,
    /// Pieces that the model reads at once
    #[arg(long, value_name = "N", default_value_t = 128)]
    length: usize,
    /// Training steps of a dictionary
    #[arg(long, value_name = "N", default_value_t = SaeTraining::default().steps)]
    steps: usize,
    /// Activations of a step
    #[arg(long, value_name = "N", default_value_t = SaeTraining::default().batch)]
    batch: usize,
    /// Learning rate of a dictionary
    #[arg(long, value_name = "RATE", default_value_t = SaeTraining::default().learning_rate)]
    learning_rate: f64,
    /// Megabytes of activations in memory, above which they are kept in a temporary file
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    memory: u64,
    /// Take a dictionary from a folder that `--save` wrote, and train none
    #[arg(long, value_name = "DIR", conflicts_with_all = ["encoder", "active", "penalty", "seeds", "latents", "steps", "batch", "learning_rate", "save"])]
    dictionary: Option<PathBuf>,
    /// Write the first dictionary into a folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Show the texts that light up the features of the first dictionary, an HTML file
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Features on the page at most, the strongest ones
    #[arg(long, value_name = "N", default_value_t = 300)]
    page_features: usize,
    /// The loss recovered against the active latents as a plot, an SVG file
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Go on with the prompt while the activation is moved along a feature of the first dictionary, by so many times its
    /// size
    #[arg(long, value_name = "FEATURE:STRENGTH", requires = "prompt", value_parser = steering)]
    steer: Option<(usize, f64)>,
    /// What to go on with
    #[arg(long, value_name = "TEXT", requires = "steer")]
    prompt: Option<String>,
    /// Pieces to go on
    #[arg(long, value_name = "N", default_value_t = 24)]
    more: usize,
    #[command(flatten)]
    device: DeviceFlag,
}

fn steering(text: &str) -> Result<(usize, f64), String> {
    let wrong = || format!("{text:?} is no feature and strength such as 17:1.5");
    let (feature, strength) = text.split_once(':').ok_or_else(wrong)?;
    let feature = feature.trim().parse().map_err(|_| wrong())?;
    let strength: f64 = strength.trim().parse().map_err(|_| wrong())?;
    match strength.is_finite() {
        true => Ok((feature, strength)),
        false => Err(wrong()),
    }
}

fn of_effect(error: EffectError) -> Failure {
    match error {
        EffectError::Stopped => Failure::interrupted(),
        EffectError::Range(_) | EffectError::Autoencoder(SaeError::Width { .. }) => {
            Failure::input(error)
        }
        _ => Failure::run(error),
    }
}

fn of_text(error: TextError) -> Failure {
    match error {
        TextError::Effect(error) => of_effect(error),
        error => Failure::input(error),
    }
}

fn of_sae(error: SaeError) -> Failure {
    match error {
        SaeError::Range(_) | SaeError::Constant | SaeError::NoGradients => Failure::input(error),
        _ => Failure::run(error),
    }
}

/// The texts of files and of folders.
fn texts(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).and_then(|entries| {
            let paths = entries.map(|entry| Ok(entry?.path()));
            paths.collect::<Result<Vec<_>, std::io::Error>>()
        });
        let entries =
            entries.map_err(|e| Failure::input(format!("cannot read {}: {e}", path.display())))?;
        let is_text = |path: &PathBuf| {
            let ending = path.extension();
            ending.is_some_and(|e| e.eq_ignore_ascii_case("txt")) && path.is_file()
        };
        let mut found: Vec<PathBuf> = entries.into_iter().filter(is_text).collect();
        if found.is_empty() {
            return Err(Failure::input(format!(
                "the folder {} has no .txt file",
                path.display()
            )));
        }
        found.sort();
        files.extend(found);
    }
    let read = files.into_iter().map(|path| {
        let bytes = fs::read(&path)
            .map_err(|e| Failure::input(format!("cannot read {}: {e}", path.display())))?;
        String::from_utf8(bytes)
            .map_err(|_| Failure::input(format!("{} is no text in UTF-8", path.display())))
    });
    read.collect()
}

/// A dictionary with what it is.
struct Trained {
    encoder: EncoderChoice,
    sparsity: f64,
    /// Nothing of one that was trained before.
    seed: Option<u64>,
    coder: TrainedEncoder,
}

impl Arguments {
    fn check(&self) -> Result<(), Failure> {
        if let Some(path) = &self.out {
            plot_file::check(path)?;
        }
        if let Some(path) = &self.page {
            plot_file::check_named(path, "page", "html")?;
        }
        if let Some(folder) = &self.save {
            if folder.exists() && !folder.is_dir() {
                return Err(Failure::input(format!(
                    "{} is no folder, into which a dictionary could be written",
                    folder.display()
                )));
            }
            TrainedEncoder::check_folder(folder).map_err(Failure::input)?;
        }
        let without = self.encoder.iter().find(|encoder| !encoder.counts());
        if let (None, Some(encoder), true) = (&self.dictionary, without, self.penalty.is_empty()) {
            return Err(Failure::input(format!(
                "the encoder {} has a penalty, whose weight --penalty must say",
                encoder.name()
            )));
        }
        for (name, value) in [
            ("number of pieces", self.tokens),
            ("number of features on the page", self.page_features),
        ] {
            range::at_least(name, value, 1).map_err(Failure::input)?;
        }
        range::positive("learning rate", self.learning_rate).map_err(Failure::input)
    }

    /// Refuses, before anything is recorded, what a dictionary of the model cannot have.
    fn check_dictionaries(&self, model: &LanguageModel) -> Result<usize, Failure> {
        let dictionary = self.dictionary_config(model.width());
        dictionary.validate(model.width()).map_err(Failure::input)?;
        for (encoder, sparsity, _) in self.sparsities() {
            encoder
                .validate(sparsity, dictionary.latents)
                .map_err(Failure::input)?;
        }
        self.training(0).validate().map_err(Failure::input)?;
        Ok(dictionary.latents)
    }

    /// Refuses, before anything is recorded, a steering that the model or the dictionary doesn't have.
    fn check_steering(&self, model: &LanguageModel, latents: usize) -> Result<(), Failure> {
        let (Some((feature, _)), Some(prompt)) = (self.steer, &self.prompt) else {
            return Ok(());
        };
        if matches!(model.network, Network::Bert(_)) {
            return Err(Failure::input(format!(
                "{} is an encoder, which cannot go on with a text: leave out --steer",
                self.model.display()
            )));
        }
        range::within("feature", feature, 0..=latents - 1).map_err(Failure::input)?;
        let pieces = model.tokenizer.encode(prompt).map_err(Failure::input)?;
        range::within(
            "number of pieces of the prompt",
            pieces.len(),
            1..=model.context() - 1,
        )
        .map_err(Failure::input)?;
        let left = model.context() - pieces.len();
        range::within("number of pieces to go on", self.more, 1..=left).map_err(Failure::input)
    }

    fn dictionary_config(&self, width: usize) -> DictionaryConfig {
        DictionaryConfig::new(self.latents.unwrap_or(4 * width))
    }

    fn training(&self, seed: u64) -> SaeTraining {
        SaeTraining {
            steps: self.steps,
            batch: self.batch,
            learning_rate: self.learning_rate,
            seed,
            ..SaeTraining::default()
        }
    }

    /// All dictionaries to train: encoder, sparsity and seed, each once.
    fn sparsities(&self) -> Vec<(EncoderChoice, f64, u64)> {
        let mut all: Vec<(EncoderChoice, f64, u64)> = Vec::new();
        for &encoder in &self.encoder {
            let values: Vec<f64> = match encoder.counts() {
                true => self.active.iter().map(|&active| active as f64).collect(),
                false => self.penalty.clone(),
            };
            for value in values {
                for &seed in &self.seeds {
                    if !all.contains(&(encoder, value, seed)) {
                        all.push((encoder, value, seed));
                    }
                }
            }
        }
        all
    }

    /// A dictionary that was trained before, for this model and block.
    fn loaded(
        &self,
        folder: &Path,
        model: &LanguageModel,
        device: &Device,
    ) -> Result<(TrainedEncoder, EncoderRecord), Failure> {
        let (coder, record) = TrainedEncoder::load(folder, device).map_err(Failure::input)?;
        if record.width != model.width() {
            return Err(Failure::input(format!(
                "the dictionary {} is of {} with activations of {} values, but {} has {}",
                folder.display(),
                record.of,
                record.width,
                self.model.display(),
                model.width()
            )));
        }
        match self.block {
            Some(block) if block != record.block => Err(Failure::input(format!(
                "the dictionary {} is of activations before block {}, but --block says {block}",
                folder.display(),
                record.block
            ))),
            _ => Ok((coder, record)),
        }
    }

    fn train(
        &self,
        data: &Arc<ActivationSet>,
        device: &Device,
        context: &Context,
    ) -> Result<Vec<Trained>, Failure> {
        let all = self.sparsities();
        let progress = context.progress();
        progress.begin("training dictionaries", (all.len() * self.steps) as u64);
        let mut trained = Vec::new();
        for (encoder, sparsity, seed) in all {
            let mut dictionary = self.dictionary_config(data.width());
            dictionary.seed = seed;
            let training = self.training(seed);
            let mut before = || {
                progress.advance(1);
                context.go_on()
            };
            let found = encoder
                .train(sparsity, &dictionary, &training, data, device, &mut before)
                .map_err(of_sae)?;
            let (coder, _) = found.ok_or_else(Failure::interrupted)?;
            trained.push(Trained {
                encoder,
                sparsity,
                seed: Some(seed),
                coder,
            });
        }
        Ok(trained)
    }

    fn write_page(
        &self,
        path: &Path,
        parts: &Parts<'_>,
        first: &Trained,
        context: &Context,
    ) -> Result<(), Failure> {
        // Pieces on both sides of a place, places of a feature, and pieces that it makes likelier.
        const AROUND: usize = 14;
        const PLACES: usize = 8;
        const LIKELIER: usize = 8;
        let progress = context.progress();
        progress.begin("looking for texts", parts.measured.len() as u64);
        let before = || {
            progress.advance(1);
            context.go_on()
        };
        let of = first.encoder.gradients()[0];
        let mut found = features(
            parts.hooked,
            parts.measured,
            &first.coder,
            of,
            PLACES,
            &before,
        )
        .map_err(of_effect)?;
        let strongest = |f: &nabla::probe::language_features::Feature| {
            f.strongest.first().map_or(0.0, |lit| lit.activity)
        };
        found.sort_by(|a, b| strongest(b).total_cmp(&strongest(a)));
        let live = found.len();
        found.truncate(self.page_features);
        let rows = first.coder.dictionary().decoder.val().without_autodiff();
        let chosen: Vec<i32> = found.iter().map(|f| f.latent as i32).collect();
        let chosen = burn::tensor::Tensor::<1, burn::tensor::Int>::from_ints(
            chosen.as_slice(),
            &rows.device(),
        );
        let promoted = parts
            .hooked
            .promoted(rows.select(0, chosen), LIKELIER)
            .map_err(of_effect)?;
        let tokenizer = &parts.model.tokenizer;
        let cards = found.iter().enumerate().map(|(place, feature)| {
            let pieces = promoted.as_ref().and_then(|all| all.get(place));
            let pieces = pieces.into_iter().flatten();
            let pieces: Result<Vec<String>, _> =
                pieces.map(|&piece| tokenizer.decode(&[piece])).collect();
            FeatureCard::of(feature, parts.measured, tokenizer, AROUND, pieces?)
        });
        let cards: Result<Vec<FeatureCard>, _> = cards.collect();
        let cards = cards.map_err(Failure::run)?;
        let name = self.model.file_name().unwrap_or_default().to_string_lossy();
        let head = PageHead {
            title: format!("Features of {name} before block {}", parts.block),
            facts: vec![
                (
                    "dictionary".to_owned(),
                    format!(
                        "{} directions, {}, {} {}",
                        first.coder.dictionary().latents(),
                        first.encoder.name(),
                        if first.encoder.counts() {
                            "active"
                        } else {
                            "penalty"
                        },
                        first.sparsity
                    ),
                ),
                (
                    "shown".to_owned(),
                    format!("{} of {live} that were active", cards.len()),
                ),
                ("texts".to_owned(), listed(&self.text)),
            ],
        };
        Ok(write_bytes_atomically(
            path,
            feature_page(&head, &cards).as_bytes(),
        )?)
    }

    fn steered(&self, parts: &Parts<'_>, first: &Trained) -> Result<Option<Steered>, Failure> {
        let (Some((feature, strength)), Some(prompt)) = (self.steer, &self.prompt) else {
            return Ok(None);
        };
        let dictionary = first.coder.dictionary();
        let row = dictionary
            .decoder
            .val()
            .without_autodiff()
            .narrow(0, feature, 1);
        let row = row.try_into_vec_as::<f64>().map_err(Failure::run)?;
        let tokenizer = &parts.model.tokenizer;
        let ids = tokenizer.encode(prompt).map_err(Failure::input)?;
        let go_on = |direction: Option<(&[f64], f64)>| -> Result<String, Failure> {
            let ids = parts.hooked.continued(&ids, self.more, direction);
            let ids = ids.map_err(of_text)?;
            tokenizer
                .decode(&ids[1.min(ids.len())..])
                .map_err(Failure::run)
        };
        Ok(Some(Steered {
            feature,
            strength,
            plain: go_on(None)?,
            steered: go_on(Some((&row, strength)))?,
        }))
    }
}

/// What all measurements share.
struct Parts<'a> {
    model: &'a LanguageModel,
    hooked: &'a HookedLanguageModel,
    measured: &'a [Passages],
    block: usize,
}

fn listed(paths: &[PathBuf]) -> String {
    let names = paths.iter().map(|path| path.display().to_string());
    names.collect::<Vec<_>>().join(", ")
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        self.check()?;
        let device = self.device.open()?.autodiff();
        let texts = texts(&self.text)?;
        let model = LanguageModel::open(&self.model, &device).map_err(Failure::input)?;
        let loaded = match &self.dictionary {
            None => None,
            Some(folder) => Some(self.loaded(folder, &model, &device)?),
        };
        let latents = match &loaded {
            None => self.check_dictionaries(&model)?,
            Some((coder, _)) => coder.dictionary().latents(),
        };
        self.check_steering(&model, latents)?;
        let block = match &loaded {
            None => self.block.unwrap_or((model.blocks() / 2).max(1)),
            Some((_, record)) => record.block,
        };
        let hooked = HookedLanguageModel::new(model.network.clone(), block, device.clone())
            .map_err(Failure::input)?;
        // What follows is only measured on.
        let together = pieces_together(&model, self.length).map_err(Failure::input)?;
        let trained_on = self.tokens.div_ceil(together);
        let measured_on = (self.tokens / 9).max(1).div_ceil(together);
        let wanted = (trained_on + measured_on).saturating_mul(together);
        let all = passages(&model, &texts, self.length, wanted).map_err(of_text)?;
        // If the texts end before, a tenth of them.
        let kept = match all.len() > trained_on {
            true => all.len() - trained_on,
            false => (all.len() / 10).max(1),
        };
        if all.len() <= kept {
            return Err(Failure::input(
                "the texts fill what the model reads at once only, but one to train on and one to measure on are needed",
            ));
        }
        let (training, measured) = all.split_at(all.len() - kept);
        let parts = Parts {
            model: &model,
            hooked: &hooked,
            measured,
            block,
        };
        let storage = Storage {
            memory: self.memory.saturating_mul(1 << 20),
            ..Storage::default()
        };
        let progress = context.progress();
        progress.begin("recording activations", training.len() as u64);
        let before = || {
            progress.advance(1);
            context.go_on()
        };
        let mut trained_anew = self.encoder.iter().filter(|_| loaded.is_none());
        let of = match trained_anew.any(|encoder| encoder.uses_gradients()) {
            true => GradientOf::Label,
            false => GradientOf::None,
        };
        let data = record(&hooked, training, of, storage, &before);
        let data = Arc::new(data.map_err(of_effect)?);
        let mean = data.mean().map_err(Failure::run)?;
        let trained = match loaded {
            None => self.train(&data, &device, context)?,
            Some((coder, record)) => vec![Trained {
                encoder: record.encoder,
                sparsity: record.sparsity,
                seed: None,
                coder,
            }],
        };
        let coders: Vec<(&dyn Coder, GradientOf)> = trained
            .iter()
            .flat_map(|one| {
                let gradients = one.encoder.gradients().iter();
                gradients.map(|&of| (&one.coder as &dyn Coder, of))
            })
            .collect();
        progress.begin("measuring", measured.len() as u64);
        let found = effects(&hooked, measured, &coders, Ablation::Mean, &mean, &before);
        let mut found = found.map_err(of_effect)?.into_iter();
        let mut dictionaries = Vec::new();
        for one in &trained {
            for (&gradient, effect) in one.encoder.gradients().iter().zip(found.by_ref()) {
                dictionaries.push(Measured {
                    encoder: one.encoder,
                    sparsity: one.sparsity,
                    seed: one.seed,
                    gradient,
                    loss_recovered: effect.loss_recovered(),
                    effect,
                });
            }
        }
        let first = &trained[0];
        let steering = self.steered(&parts, first)?;
        if let Some(path) = &self.page {
            self.write_page(path, &parts, first, context)?;
        }
        if let Some(folder) = &self.save {
            let record = EncoderRecord {
                encoder: first.encoder,
                sparsity: first.sparsity,
                latents: first.coder.dictionary().latents(),
                width: model.width(),
                of: format!("{} before block {block}", self.model.display()),
                block,
            };
            first.coder.save(&record, folder).map_err(Failure::run)?;
        }
        if let Some(path) = &self.out {
            plot_file::write(path, &plot(&dictionaries))?;
        }
        let found = Found {
            model: self.model.clone(),
            block,
            blocks: model.blocks(),
            width: model.width(),
            latents: first.coder.dictionary().latents(),
            pieces: data.rows(),
            measured_pieces: measured.iter().map(Passages::pieces).sum(),
            on_disk: data.is_on_disk(),
            dictionaries,
            steering,
            page: self.page.clone(),
            plot: self.out.clone(),
            saved: self.save.clone(),
        };
        context.report(&found, || told(&found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steering_is_a_feature_and_a_strength() {
        assert_eq!(steering("17:1.5"), Ok((17, 1.5)));
        assert_eq!(steering("3:-2"), Ok((3, -2.0)));
        for text in ["", "17", "x:1", "1:x", "1:inf", "-1:2", "1:2:3"] {
            assert!(
                steering(text).unwrap_err().contains("such as 17:1.5"),
                "{text}"
            );
        }
    }
}
