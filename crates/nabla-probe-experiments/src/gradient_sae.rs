//! Gradient SAE beside the top-k autoencoder: what a network loses when its activations are reconstructed, at the same
//! number of active latents, steps and activations.
//!
//! * **Digits beside invisible directions**: a network of three hidden layers of 64 units on 1400 handwritten digits, read
//!   behind its first layer. Its second layer is made blind to 32 of its weakest input directions, and in these a large
//!   sparse sum is added to the activation: half of what there is to reconstruct doesn't matter.
//! * **Letters of Moby Dick**: a Llama of two blocks of width 64, trained on 42 chapters letter by letter, read between its
//!   blocks.
//!
//! Codes are measured on examples that neither the network nor the autoencoder was trained on, with the gradient of the
//! network's own prediction, which knows nothing of the truth.

use std::ops::ControlFlow;
use std::sync::Arc;

use burn::tensor::Device;
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant, median,
};
use nabla_probe::activation_set::{ActivationSet, Storage};
use nabla_probe::feature_effect::{
    Ablation, Coder, Effect, GradientOf, HookedModel, effects, random_directions, record,
    steering_effect, to_the_end,
};
use nabla_probe::gradient_sae::{GradientSae, GradientSaeConfig};
use nabla_probe::sae_training::SaeTraining;
use nabla_probe::sparse_autoencoder::{DictionaryConfig, SparseAutoencoder};
use serde::{Deserialize, Serialize};

mod networks;

use networks::{Parts, digits, text};

const TOP_K: Variant = Variant::baseline("top-k");
const GRADIENT: Variant = Variant::method("g-SAE");
const ATTRIBUTION: Variant = Variant::method("g-SAE, attribution alone");
const LATE: Variant = Variant::baseline("top-k, gradients when measured only");
const SHUFFLED: Variant = Variant::baseline("g-SAE, trained with gradients of other examples");
const RANDOM: Variant = Variant::baseline("random directions");

const DIVERGENCE: Metric = Metric::lower("divergence from the network's own answers", "nat");
const RECOVERED: Metric = Metric::higher("loss recovered", "%");
const WITHOUT: Metric = Metric::informative("loss recovered without gradients", "%");
const UNEXPLAINED: Metric = Metric::informative("unexplained variance", "%");
const LIVE: Metric = Metric::informative("live latents", "%");
const STEERING: Metric = Metric::informative("largest change of a logit by steering", "");

fn digits_task() -> Task {
    Task::named("digits beside invisible directions")
}

fn text_task() -> Task {
    Task::named("letters of Moby Dick")
}

/// The sizes of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sizes {
    /// Latents, and active ones: the first is that of the checks.
    digits: (usize, Vec<usize>),
    text: (usize, Vec<usize>),
    steps: usize,
    text_steps: usize,
    network_epochs: usize,
    language_steps: usize,
    windows: usize,
    measured: usize,
    steered: usize,
}

impl Sizes {
    fn new(quick: bool) -> Self {
        match quick {
            true => Self {
                digits: (64, vec![4]),
                text: (64, vec![8]),
                steps: 30,
                text_steps: 10,
                network_epochs: 3,
                language_steps: 5,
                windows: 8,
                measured: 2,
                steered: 2,
            },
            false => Self {
                digits: (256, vec![4, 2, 8, 16]),
                text: (512, vec![8, 4, 16, 32]),
                steps: 2000,
                text_steps: 1500,
                network_epochs: 40,
                language_steps: 1500,
                windows: 800,
                measured: 60,
                steered: 30,
            },
        }
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn wrong(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClaimError {
    ClaimError::experiment(error.into().to_string())
}

/// An autoencoder's effect, with and without gradients, and that of steering along its latents.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    variant: String,
    active: usize,
    with: Effect,
    without: Effect,
    steering: Option<f64>,
}

/// All outcomes of a seed on a task, and the steering along random directions.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcomes {
    each: Vec<Outcome>,
    random: f64,
}

/// The strength of steering, in sizes of an activation.
const STRENGTH: f64 = 2.0;

fn measured<M: HookedModel>(
    parts: &Parts<M>,
    (latents, active): &(usize, Vec<usize>),
    steps: usize,
    steered: usize,
    seed: u64,
) -> Result<Outcomes, ClaimError> {
    let (model, storage) = (&parts.model, Storage::default());
    let data = record(
        model,
        &parts.training,
        GradientOf::Label,
        storage,
        &to_the_end,
    )
    .map_err(wrong)?;
    let data = Arc::new(data);
    let shuffled = Arc::new(with_other_gradients(&data)?);
    let width = data.width();
    let mean = data.mean().map_err(wrong)?;
    let main = active[0];
    let mut each = Vec::new();
    let trained = |config: &GradientSaeConfig, data: &Arc<ActivationSet>| {
        let mut begin = DictionaryConfig::new(*latents);
        begin.seed = seed;
        let sae = config.init(&begin, data, &device()).map_err(wrong)?;
        let training = SaeTraining {
            steps,
            batch: 128,
            learning_rate: 2e-3,
            seed,
            ..SaeTraining::default()
        };
        let mut trainer = training.trainer(sae, data.clone()).map_err(wrong)?;
        let ran = trainer.run(None, &mut |_| ControlFlow::Continue(()));
        ran.map_err(wrong)?;
        Ok::<GradientSae, ClaimError>(trainer.model().clone())
    };
    let outcome = |variant: &Variant, k: usize, sae: &GradientSae, steer: bool| {
        let coders: [(&dyn Coder, GradientOf); 2] =
            [(sae, GradientOf::OwnPrediction), (sae, GradientOf::None)];
        let found = effects(
            model,
            &parts.measured,
            &coders,
            Ablation::Mean,
            &mean,
            &to_the_end,
        );
        let found = found.map_err(wrong)?;
        let [with, without] = <[Effect; 2]>::try_from(found)
            .map_err(|_| ClaimError::experiment("two effects were measured"))?;
        let steering = match steer {
            true => Some(steering(parts, sae, steered)?),
            false => None,
        };
        Ok::<Outcome, ClaimError>(Outcome {
            variant: variant.name().to_owned(),
            active: k,
            with,
            without,
            steering,
        })
    };
    for &k in active {
        let plain = trained(&GradientSaeConfig::top_k(k), &data)?;
        let gradient = trained(&GradientSaeConfig::new(k), &data)?;
        each.push(outcome(&TOP_K, k, &plain, k == main)?);
        each.push(outcome(&GRADIENT, k, &gradient, k == main)?);
        if k == main {
            let mut late = gradient.clone();
            late.dictionary = plain.dictionary.clone();
            each.push(outcome(&LATE, k, &late, false)?);
            let other = trained(&GradientSaeConfig::new(k), &shuffled)?;
            each.push(outcome(&SHUFFLED, k, &other, false)?);
            let mut alone = GradientSaeConfig::new(k);
            alone.alpha = 0.0;
            each.push(outcome(&ATTRIBUTION, k, &trained(&alone, &data)?, false)?);
        }
    }
    let directions = random_directions(width, steered, seed);
    let inputs = steering_inputs(parts);
    let random = steering_effect(model, inputs, &directions, STRENGTH).map_err(wrong)?;
    Ok(Outcomes { each, random })
}

/// What steering is measured on.
fn steering_inputs<M: HookedModel>(parts: &Parts<M>) -> &[M::Input] {
    &parts.measured[..parts.measured.len().min(8)]
}

/// Along live latents, evenly spread.
fn steering<M: HookedModel>(
    parts: &Parts<M>,
    sae: &GradientSae,
    most: usize,
) -> Result<f64, ClaimError> {
    let mut counts = vec![0; sae.dictionary().latents()];
    for input in &parts.measured {
        let codes =
            nabla_probe::feature_effect::codes(&parts.model, input, sae, GradientOf::OwnPrediction);
        for (sum, count) in counts.iter_mut().zip(codes.map_err(wrong)?.0.counts()) {
            *sum += count;
        }
    }
    let live: Vec<usize> = (0..counts.len()).filter(|&id| counts[id] > 0).collect();
    let rows = sae.dictionary().decoder.val().without_autodiff();
    let rows = rows.try_into_vec_as::<f64>().map_err(wrong)?;
    let width = sae.dictionary().width();
    let count = live.len().min(most);
    let directions: Vec<Vec<f64>> = (0..count)
        .map(|i| live[i * live.len() / count])
        .map(|id| rows[id * width..(id + 1) * width].to_vec())
        .collect();
    let inputs = steering_inputs(parts);
    steering_effect(&parts.model, inputs, &directions, STRENGTH).map_err(wrong)
}

/// Every activation with the gradient of another one.
fn with_other_gradients(data: &ActivationSet) -> Result<ActivationSet, ClaimError> {
    let all: Vec<usize> = (0..data.rows()).collect();
    let rows = data.read(&all).map_err(wrong)?;
    let mut moved = rows.gradients;
    moved.rotate_left(data.rows() / 2 * data.width());
    let mut set = ActivationSet::new(data.width(), Storage::default()).map_err(wrong)?;
    set.push(&rows.activations, Some(&moved)).map_err(wrong)?;
    Ok(set)
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct GradientSaeClaim;

impl Claim for GradientSaeClaim {
    fn slug(&self) -> &str {
        "gradient-sae"
    }

    fn statement(&self) -> &str {
        "Sparse autoencoders whose active latents are chosen with the gradient of the network's loss give reconstructions \
         that are more faithful to the network when they are put in its place, at the same sparsity, and latents that \
         steer the network more effectively."
    }

    fn criterion(&self) -> &str {
        "With four active latents on digits, the median divergence of g-SAE is at most three quarters of top-k's. On \
         letters, g-SAE recovers more of the loss in the mean than top-k at every number of active latents, and steering \
         along its latents changes the answers more. In detail: so it does on digits; g-SAE leaves more variance \
         unexplained; it is no worse than a top-k dictionary that is given gradients when it is measured; without \
         gradients it recovers less than top-k; trained with gradients of other examples it is worse."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let sizes = Sizes::new(bench.quick());
        let mut table = Table::new(
            bench.seeds(),
            [DIVERGENCE, RECOVERED, WITHOUT, UNEXPLAINED, LIVE, STEERING],
            [GRADIENT, ATTRIBUTION, TOP_K, LATE, SHUFFLED, RANDOM],
            [digits_task(), text_task()],
        )?;
        let stage = |name: &'static str| Stage::new(name, &sizes);
        let on_digits = bench.measure_side_by_side(
            &stage("digits"),
            bench.seeds(),
            |&seed| Cell::of(&digits_task()).seed(seed),
            |&seed| {
                let parts = digits(&sizes, seed)?;
                measured(&parts, &sizes.digits, sizes.steps, sizes.steered, seed)
            },
        )?;
        let on_text = bench.measure_side_by_side(
            &stage("letters"),
            bench.seeds(),
            |&seed| Cell::of(&text_task()).seed(seed),
            |&seed| {
                let parts = text(&sizes, seed)?;
                measured(&parts, &sizes.text, sizes.text_steps, sizes.steered, seed)
            },
        )?;
        for (task, main, found) in [
            (digits_task(), sizes.digits.1[0], &on_digits),
            (text_task(), sizes.text.1[0], &on_text),
        ] {
            for (&seed, outcomes) in bench.seeds().iter().zip(found) {
                table.record(&task, &RANDOM, &STEERING, seed, outcomes.random)?;
                for outcome in outcomes.each.iter().filter(|o| o.active == main) {
                    let variants = table.variants().to_vec();
                    let variant = variants.iter().find(|v| v.name() == outcome.variant);
                    let variant = variant
                        .ok_or_else(|| ClaimError::experiment("an outcome has no variant"))?;
                    let with = &outcome.with;
                    let live = 100.0 * with.live as f64 / with.latents as f64;
                    for (metric, value) in [
                        (&DIVERGENCE, with.divergence),
                        (&RECOVERED, 100.0 * with.loss_recovered()),
                        (&WITHOUT, 100.0 * outcome.without.loss_recovered()),
                        (&UNEXPLAINED, 100.0 * with.unexplained),
                        (&LIVE, live),
                    ] {
                        table.record(&task, variant, metric, seed, value)?;
                    }
                    if let Some(steering) = outcome.steering {
                        table.record(&task, variant, &STEERING, seed, steering)?;
                    }
                }
            }
        }
        let checks = checks(&table, &sizes, &on_text)?;
        let mut measurement = Measurement::new(table, checks);
        measurement.plots = vec![
            plot(
                "Digits beside invisible directions",
                &sizes.digits.1,
                &on_digits,
            ),
            plot("Letters of Moby Dick", &sizes.text.1, &on_text),
        ];
        measurement.notes.push(
            "Not measured: GPT-2, interpretability by people. On published language models, `nabla inspect features` \
             measures the same."
                .to_owned(),
        );
        Ok(measurement)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean loss recovered of a variant with so many active latents.
fn recovered(found: &[Outcomes], variant: &Variant, active: usize) -> f64 {
    let all = found.iter().flat_map(|outcomes| &outcomes.each);
    let own = all.filter(|o| o.active == active && o.variant == variant.name());
    mean(&own.map(|o| o.with.loss_recovered()).collect::<Vec<_>>())
}

fn checks(table: &Table, sizes: &Sizes, on_text: &[Outcomes]) -> Result<Vec<Check>, ClaimError> {
    let (digits, text) = (digits_task(), text_task());
    let medians = |task: &Task, variant: &Variant, metric: &Metric| -> Result<f64, ClaimError> {
        Ok(median(&table.values(task, variant, metric)?))
    };
    let pair = |task: &Task, metric: &Metric| -> Result<[f64; 2], ClaimError> {
        Ok([
            medians(task, &GRADIENT, metric)?,
            medians(task, &TOP_K, metric)?,
        ])
    };
    let [g, plain] = pair(&digits, &DIVERGENCE)?;
    let mut checks = vec![
        Check::new(
            "digits: the median divergence of g-SAE is at most three quarters of top-k's",
            g <= 0.75 * plain,
            format!("{g:.3} and {plain:.3} nat"),
        )
        .headline(),
    ];
    let each: Vec<[f64; 3]> = sizes
        .text
        .1
        .iter()
        .map(|&k| {
            let of = |variant: &Variant| 100.0 * recovered(on_text, variant, k);
            [k as f64, of(&GRADIENT), of(&TOP_K)]
        })
        .collect();
    let told = each
        .iter()
        .map(|[k, g, plain]| format!("{k}: {g:.1} and {plain:.1} %"));
    checks.push(
        Check::new(
            "letters: g-SAE recovers more of the loss than top-k at every number of active latents",
            each.iter().all(|[_, g, plain]| g > plain),
            told.collect::<Vec<_>>().join(", "),
        )
        .headline(),
    );
    let steering = |task: &Task| -> Result<(bool, String), ClaimError> {
        let [g, plain] = [&GRADIENT, &TOP_K].map(|v| table.mean(task, v, &STEERING));
        let (g, plain, random) = (g?, plain?, table.mean(task, &RANDOM, &STEERING)?);
        let told = format!("{g:.2} and {plain:.2}; {random:.2} along random directions");
        Ok((g > plain, told))
    };
    let (holds, told) = steering(&text)?;
    let stronger = "steering along latents of g-SAE changes the answers more than along top-k's";
    checks.push(Check::new(format!("letters: {stronger}"), holds, told).headline());
    let (holds, told) = steering(&digits)?;
    checks.push(Check::new(format!("digits: {stronger}"), holds, told));
    for (name, task) in [("digits", &digits), ("letters", &text)] {
        let [g, plain] = pair(task, &UNEXPLAINED)?;
        checks.push(Check::new(
            format!("{name}: g-SAE leaves more variance unexplained"),
            g >= plain,
            format!("{g:.1} and {plain:.1} %"),
        ));
        let [g, late] = [&GRADIENT, &LATE].map(|v| medians(task, v, &DIVERGENCE));
        let (g, late) = (g?, late?);
        checks.push(Check::new(
            format!(
                "{name}: its divergence is at most that of top-k given gradients when measured"
            ),
            g <= late,
            format!("{g:.3} and {late:.3} nat"),
        ));
        let [g, plain] = pair(task, &WITHOUT)?;
        checks.push(Check::new(
            format!("{name}: without gradients it recovers less than top-k"),
            g < plain,
            format!("{g:.1} and {plain:.1} %"),
        ));
        let [g, other] = [&GRADIENT, &SHUFFLED].map(|v| medians(task, v, &DIVERGENCE));
        let (g, other) = (g?, other?);
        checks.push(Check::new(
            format!("{name}: trained with gradients of other examples, its divergence is higher"),
            g < other,
            format!("{g:.3} and {other:.3} nat"),
        ));
    }
    Ok(checks)
}

fn plot(title: &str, active: &[usize], found: &[Outcomes]) -> LinePlot {
    let mut sorted = active.to_vec();
    sorted.sort_unstable();
    let series = |variant: &Variant| {
        let points = sorted
            .iter()
            .map(|&k| [k as f64, 100.0 * recovered(found, variant, k)]);
        Series::new(variant.name(), points)
    };
    LinePlot::new(title, "active latents", "loss recovered, %")
        .log_x()
        .with_series(series(&GRADIENT))
        .with_series(series(&TOP_K))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_invisible() {
        let mut sizes = Sizes::new(true);
        sizes.network_epochs = 1;
        let parts = digits(&sizes, 3).unwrap();
        let input = parts.measured[0].clone();
        let mut bare = input.clone();
        bare.added.iter_mut().for_each(|v| *v = 0.0);
        let logits = |input: &networks::Digits| -> Vec<f32> {
            let x = parts.model.lower(input).unwrap();
            parts
                .model
                .upper(input, x)
                .unwrap()
                .into_data()
                .iter()
                .collect()
        };
        let size = input.added.iter().map(|v| v * v).sum::<f64>() / input.labels.len() as f64;
        assert!(size > 10.0, "{size}");
        for (a, b) in logits(&input).iter().zip(logits(&bare)) {
            assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{a} {b}");
        }
    }

    #[test]
    fn the_text_has_its_letters() {
        let (ids, letters) = networks::letters().unwrap();
        assert_eq!((ids.len(), letters), (405_517, 79));
    }
}
