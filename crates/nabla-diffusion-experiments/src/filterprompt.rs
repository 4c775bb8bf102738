//! FilterPrompt on a small model with two guiding pictures, against the same model without filters.
//!
//! The paper's system is Stable Diffusion with a ControlNet and an IP-Adapter, and its code is not published. Here a
//! diffusion model of 8 x 8 pictures in colour has the same two branches, trained as those are: both conditions come
//! from the picture itself, and each is left out now and then. The structure is the brightness of each pixel, the
//! appearance is the picture averaged to 4 x 4, which tells the colours and leaks the shape, as CLIP's encoder does.
//!
//! A picture is one of eight shapes at one of sixteen places, in a colour of its own, light on a dark ground or dark on a
//! light one. In the test the structure of one picture meets the appearance of another. What should come out is
//! known: the shape of the first in the colours of the second. All variants have the same network, noise and steps, so
//! a filter costs no call of the network. The order in which the paper's figure filters (gray, inversion, contrast) is
//! taken over; whether a pair needs the inversion is decided by a rule
//! ([`MatchPolarity`](nabla_diffusion::filter_prompt::MatchPolarity)), and the contrast by the range of the other
//! picture.

use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_diffusion::filter_prompt::{FilterPrompt, pixel_filters};
use serde::{Deserialize, Serialize};

mod model;
mod shapes;

use model::{Dropped, Network, Training};
use shapes::Shapes;

/// Variants: their name, the filters of structure and appearance, and what is left out.
struct Prompting {
    variant: Variant,
    structure: &'static str,
    appearance: &'static str,
    dropped: Dropped,
}

const NONE: Variant = Variant::baseline("no filters");
const RANGE: Variant = Variant::ablation("structure: gray, range");
const STRUCTURE: Variant = Variant::method("structure: gray, polarity, range");
const BLUR: Variant = Variant::ablation("appearance: blur");
const BOTH: Variant = Variant::method("structure: gray, polarity, range; appearance: blur");
const INVERTED: Variant = Variant::method("structure as before; appearance: inverted");
const APPEARANCE_ONLY: Variant = Variant::baseline("appearance alone");
const STRUCTURE_ONLY: Variant = Variant::baseline("structure alone");
const ITSELF: Variant = Variant::baseline("both of the same picture");

const FILTERED: &str = "gray|match-polarity|match-range";
const BLURRED: &str = "blur:1.5";

fn variants() -> [Prompting; 9] {
    [
        Prompting::of(STRUCTURE, FILTERED, ""),
        Prompting::of(BOTH, FILTERED, BLURRED),
        Prompting::of(INVERTED, FILTERED, "invert"),
        Prompting::of(RANGE, "gray|match-range", ""),
        Prompting::of(BLUR, "", BLURRED),
        Prompting::of(NONE, "", ""),
        Prompting::of(APPEARANCE_ONLY, "", "").without(Dropped::Structure),
        Prompting::of(STRUCTURE_ONLY, "", "").without(Dropped::Appearance),
        Prompting::of(ITSELF, "", ""),
    ]
}

impl Prompting {
    fn of(variant: Variant, structure: &'static str, appearance: &'static str) -> Self {
        Self {
            variant,
            structure,
            appearance,
            dropped: Dropped::None,
        }
    }

    fn without(self, dropped: Dropped) -> Self {
        Self { dropped, ..self }
    }

    fn filters(&self) -> Result<FilterPrompt, ClaimError> {
        let family = pixel_filters();
        let filters = FilterPrompt::new().with_structure(self.structure, &family);
        filters
            .and_then(|filters| filters.with_appearance(self.appearance, &family))
            .map_err(ClaimError::experiment)
    }
}

const TASK: Task = Task::named("structure of one picture, appearance of another");
const OVERLAP: Metric = Metric::higher("overlap with the shape (IoU)", "");
const COLOUR: Metric = Metric::lower("error of the shape's colour", "");
const GROUND: Metric = Metric::lower("error of the ground", "");

#[derive(Clone, Copy, Debug)]
struct Size {
    training: Training,
    pairs: usize,
    steps: usize,
}

const FULL: Size = Size {
    training: Training {
        steps: 16_000,
        batch: 128,
        width: 384,
    },
    pairs: 300,
    steps: 20,
};
const QUICK: Size = Size {
    training: Training {
        steps: 60,
        batch: 32,
        width: 64,
    },
    pairs: 20,
    steps: 5,
};

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct FilterPromptClaim;

impl Claim for FilterPromptClaim {
    fn slug(&self) -> &str {
        "filterprompt"
    }

    fn statement(&self) -> &str {
        "Filtering the two guiding pictures in pixel space, before they are encoded and without training, resolves the \
         conflict of their contents and gives control of the transfer: the structure of one and the appearance of the \
         other."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds, the same model, noise and steps: with the structure filtered (gray, polarity, range) the \
         overlap with the shape is higher by at least 0.25 and the error of the ground at most a third of that without \
         filters; an inverted appearance gives inverted colours with an error of at most 0.2 (control). In detail: a \
         blurred appearance raises the overlap further by at least 0.03 for at most 0.03 of colour error; range without \
         polarity, and blur alone, do not reach it."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() { QUICK } else { FULL };
        let names = || variants().map(|prompting| prompting.variant);
        let mut table = Table::new(bench.seeds(), [OVERLAP, COLOUR, GROUND], names(), [TASK])?;
        let found = bench.measure(
            &Stage::new("training and transfer", &size),
            bench.seeds(),
            |&seed| Cell::whole().seed(seed).steps(size.training.steps as u64),
            |&seed| transfers(bench, size, seed),
        )?;
        for (&seed, results) in bench.seeds().iter().zip(found) {
            for (variant, result) in names().into_iter().zip(results) {
                table.record(&TASK, &variant, &OVERLAP, seed, result.overlap)?;
                table.record(&TASK, &variant, &COLOUR, seed, result.colour)?;
                table.record(&TASK, &variant, &GROUND, seed, result.ground)?;
            }
        }
        let checks = checks(&table)?;
        Ok(Measurement::new(table, checks)
            .with_note(
                "Not measured: Stable Diffusion with a ControlNet and an IP-Adapter, for which `nabla sample --image-filter` \
                 does the same; users' judgement. Inverted colours are compared with the inverted colours of the appearance.",
            )
            .with_note(
                "The baseline is the same model with identity filters, which differs in nothing else. Both pictures being the \
                 same one is the upper bound.",
            ))
    }
}

/// How well a transfer succeeded, over all pairs.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Transferred {
    overlap: f64,
    colour: f64,
    ground: f64,
}

/// Trains a model, and draws every variant from it.
fn transfers(bench: &Bench<'_>, size: Size, seed: u64) -> Result<Vec<Transferred>, ClaimError> {
    let network = Network::trained(bench, size.training, seed)?;
    let mut shapes = Shapes::new(seed, 77);
    let pairs: Vec<_> = (0..size.pairs)
        .map(|_| [shapes.draw(), shapes.draw()])
        .collect();
    variants()
        .iter()
        .map(|prompting| {
            let filters = prompting.filters()?;
            let of_itself = prompting.variant == ITSELF;
            let inverted = prompting.variant == INVERTED;
            let guides = pairs.iter().map(|[structure, appearance]| {
                let appearance = if of_itself { structure } else { appearance };
                let pictures = [structure, appearance].map(|shape| shape.pixels());
                let [structure, appearance] = pictures;
                filters.filtered(structure, appearance)
            });
            let guides: Vec<_> = guides
                .collect::<Result<_, _>>()
                .map_err(ClaimError::experiment)?;
            let drawn = network.drawn(&guides, prompting.dropped, size.steps, seed)?;
            let mut sum = Transferred {
                overlap: 0.0,
                colour: 0.0,
                ground: 0.0,
            };
            for (picture, [structure, appearance]) in drawn.iter().zip(&pairs) {
                let appearance = if of_itself { structure } else { appearance };
                let found = structure.compared(picture, appearance, inverted);
                sum.overlap += found.overlap;
                sum.colour += found.colour;
                sum.ground += found.ground;
            }
            let count = pairs.len() as f64;
            Ok(Transferred {
                overlap: sum.overlap / count,
                colour: sum.colour / count,
                ground: sum.ground / count,
            })
        })
        .collect()
}

fn checks(table: &Table) -> Result<Vec<Check>, ClaimError> {
    let mean = |variant: &Variant, metric: &Metric| table.mean(&TASK, variant, metric);
    let mut checks = Vec::new();
    let [filtered, plain] = [mean(&STRUCTURE, &OVERLAP)?, mean(&NONE, &OVERLAP)?];
    checks.push(
        Check::new(
            "filtered structure: an overlap higher by at least 0.25",
            filtered >= plain + 0.25,
            format!("{filtered:.3} against {plain:.3}"),
        )
        .headline(),
    );
    let [ours, theirs] = [mean(&STRUCTURE, &GROUND)?, mean(&NONE, &GROUND)?];
    checks.push(
        Check::new(
            "filtered structure: at most a third of the error of the ground",
            ours <= theirs / 3.0,
            format!("{ours:.3} against {theirs:.3}"),
        )
        .headline(),
    );
    let inverted = mean(&INVERTED, &COLOUR)?;
    checks.push(
        Check::new(
            "inverted appearance: inverted colours, with an error of at most 0.2",
            inverted <= 0.2,
            format!("{inverted:.3}"),
        )
        .headline(),
    );
    let both = mean(&BOTH, &OVERLAP)?;
    checks.push(Check::new(
        "blurred appearance: the overlap is higher by at least 0.03",
        both >= filtered + 0.03,
        format!("{both:.3} against {filtered:.3}"),
    ));
    let [both, filtered_colour] = [mean(&BOTH, &COLOUR)?, mean(&STRUCTURE, &COLOUR)?];
    checks.push(Check::new(
        "blurred appearance: at most 0.03 more of colour error",
        both <= filtered_colour + 0.03,
        format!("{both:.3} against {filtered_colour:.3}"),
    ));
    for variant in [RANGE, BLUR] {
        checks.push(table.compare(&TASK, &OVERLAP, &STRUCTURE, &variant)?);
    }
    Ok(checks)
}
