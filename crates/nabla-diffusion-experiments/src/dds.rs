//! DDS against DPS and other ways to restore scans: quality and time.
//!
//! What is restored are slices of 32 x 32 pixels of one CT scan of a chest and one MR scan of a head, those of the second
//! patients of pyradiomics 3.0.1. The prior is a small network that `nabla train denoiser` made of slices of the first
//! patients (`assets/scans`). Sinograms, k-space and coil maps are simulated from the slices: no raw data of a scanner is
//! behind them.
//!
//! DPS has the 1000 steps of its paper. It is compared with DDS once with the defaults of both, and once with the options
//! of both that are best for the slices of the first patients, of a grid: the step size of DPS; `η`, the iterations and
//! `γ` of DDS. At 20 and 50 calls of the network, DDS, DPS, a gradient step in place of the conjugate
//! gradients, and the exact projection are compared. Without a network there are conjugate gradients from 0, stopped
//! where it is best for the first patients, and total variation, with a weight found in the same way. The time is that
//! of the whole restoration of a batch.
//!
//! The theorem of the paper, that the conjugate gradients stay in the tangent space of the clean pictures if this is a
//! Krylov space, is checked where the space is known (`krylov`).

use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Role, Stage, Table, Task, Variant,
};
use nabla_diffusion::restore::Dds;

mod krylov;
mod scans;
mod total_variation;

use scans::{Kind, Method, Patients, Scans};

/// Angles of the CT scan over 180°; coils of the MR scan, and one in how many columns of its k-space is measured.
const VIEWS: usize = 12;
const COILS: usize = 4;
const ACCELERATION: f64 = 4.0;

const KINDS: [(Kind, Task); 2] = [
    (Kind::Ct, Task::named("CT, 12 views")),
    (
        Kind::Mr,
        Task::named("MR, 4 coils, a quarter of the frequencies"),
    ),
];

const PSNR: Metric = Metric::higher("PSNR", "dB");
const SECONDS: Metric = Metric::lower("time", "s");

/// Without a network.
const LEAST_SQUARES: Variant = Variant::baseline("conjugate gradients alone");
const TOTAL_VARIATION: Variant = Variant::baseline("total variation");

/// The theorem: where `AᵀA` maps the space into itself, and where it does not.
const KEPT: Task = Task::named("subspace that the operator maps into itself");
const LEFT: Task = Task::named("subspace that the operator leaves");
const NOISELESS: Variant = Variant::method("DDS, without noise");
const PROXIMAL: Variant = Variant::method("DDS, proximal");
const GRADIENT: Variant = Variant::baseline("gradient step");
const DISTANCE: Metric = Metric::lower("largest distance from the subspace", "");

/// How much faster DDS has to be than DPS.
const FASTER: f64 = 10.0;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct DdsClaim;

impl Claim for DdsClaim {
    fn slug(&self) -> &str {
        "dds"
    }

    fn statement(&self) -> &str {
        "A few conjugate gradient iterations on the denoised estimate keep it among the clean pictures if their tangent \
         space is a Krylov space, so that no gradient through the network is needed: MR and CT scans are restored as well \
         as by the best other diffusion methods, and many times faster."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds, for CT from few views and MR with several coils: DDS with 50 calls takes at most a tenth of \
         the time of DPS with its 1000 and has no lower PSNR, with the defaults of both, and with the options of both \
         that are best for other patients. Where the operator maps the space of the clean pictures into itself, DDS leaves it by less than \
         1e-5. In detail: at 20 and 50 calls DDS is at least 1 dB above DPS, and a step takes at most a third of the \
         time; DDS is at least 3 dB above conjugate gradients alone, and above total variation; where the operator does \
         not map the space into itself, it is left."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() { QUICK } else { FULL };
        let scans = Scans::open(bench.context())?;
        let tuned = Tuned::find(bench, &size, &scans)?;
        let contestants = size.contestants();
        let mut table = Table::new(
            bench.seeds(),
            [PSNR, SECONDS, DISTANCE],
            contestants
                .iter()
                .map(|contestant| contestant.variant())
                .chain([NOISELESS, PROXIMAL, GRADIENT]),
            KINDS.map(|(_, task)| task).into_iter().chain([KEPT, LEFT]),
        )?;
        restorations(bench, &size, &scans, &tuned, &mut table)?;
        theorem(bench, &mut table)?;
        let checks = checks(&table, &size)?;
        let measurement = Measurement::new(table, checks).with_note(
            "Slices of 32 x 32 pixels of two patients, simulated sinograms (without noise), k-space (with noise of 1 % of \
             half the range) and coil maps; the network was trained on two other patients.",
        );
        Ok(measurement.with_note(tuned.told()).with_note(
            "Not measured: the paper's networks and data (fastMRI, AAPM), volumes, and DiffusionMBIR, against which its \
             factor of 80 is.",
        ))
    }
}

#[derive(Debug)]
struct Size {
    slices: u64,
    tuning_slices: u64,
    /// The calls at which all are compared; the last is the number of DDS against the many of DPS.
    calls: &'static [usize],
    /// The calls of DPS as published.
    many: usize,
    scales: &'static [f64],
    etas: &'static [f64],
    dds_iterations: &'static [usize],
    gammas: &'static [Option<f64>],
    iterations: &'static [usize],
    weights: &'static [f64],
}

const FULL: Size = Size {
    slices: 4,
    tuning_slices: 2,
    calls: &[20, 50],
    many: 1000,
    scales: &[0.01, 0.03, 0.1, 0.3, 1.0],
    etas: &[0.0, 0.5, 0.85, 1.0],
    dds_iterations: &[1, 2, 5, 10, 30],
    gammas: &[
        Some(1.0),
        Some(3.0),
        Some(10.0),
        Some(30.0),
        Some(100.0),
        None,
    ],
    iterations: &[2, 5, 10, 20, 50, 200],
    weights: &[1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
};
const QUICK: Size = Size {
    slices: 1,
    tuning_slices: 1,
    calls: &[3, 5],
    many: 10,
    scales: &[0.1, 1.0],
    etas: &[0.85],
    dds_iterations: &[5, 10],
    gammas: &[Some(1.0), None],
    iterations: &[5, 20],
    weights: &[0.01],
};

/// The step size of DPS by default.
const DPS_DEFAULT: f64 = 1.0;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// With the best options, or with its defaults.
    Dds {
        tuned: bool,
    },
    DdsShares,
    OneStep,
    Projection,
    /// With the best step size, or with its default.
    Dps {
        tuned: bool,
    },
    LeastSquares,
    TotalVariation,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Contestant {
    way: Way,
    calls: usize,
}

impl Contestant {
    fn variant(self) -> Variant {
        let calls = self.calls;
        let (role, name) = match self.way {
            Way::Dds { tuned: true } => (Role::Method, "DDS, best options"),
            Way::Dds { tuned: false } => (Role::Method, "DDS, defaults"),
            Way::DdsShares => (Role::Ablation, "DDS, noise as in the published code"),
            Way::OneStep => (Role::Ablation, "one gradient step"),
            Way::Projection => (Role::Baseline, "projection"),
            Way::Dps { tuned: true } => (Role::Baseline, "DPS, best step size"),
            Way::Dps { tuned: false } => (Role::Baseline, "DPS, default step size"),
            Way::LeastSquares => return LEAST_SQUARES,
            Way::TotalVariation => return TOTAL_VARIATION,
        };
        Variant::of(role, format!("{name}, {calls} calls"))
    }
}

impl Size {
    /// The calls of DDS against the many of DPS.
    fn few(&self) -> usize {
        self.calls.last().copied().unwrap_or(self.many)
    }

    fn contestants(&self) -> Vec<Contestant> {
        let of = |way, calls| Contestant { way, calls };
        let mut all = Vec::new();
        for &calls in self.calls {
            let each = [
                Way::Dds { tuned: true },
                Way::Dds { tuned: false },
                Way::OneStep,
                Way::Projection,
                Way::Dps { tuned: true },
            ];
            all.extend(each.map(|way| of(way, calls)));
        }
        all.push(of(Way::DdsShares, self.few()));
        all.push(of(Way::Dps { tuned: true }, self.many));
        all.push(of(Way::Dps { tuned: false }, self.many));
        all.push(of(Way::LeastSquares, 0));
        all.push(of(Way::TotalVariation, 0));
        all
    }
}

/// What was found for the patients that the network knows: kind of scan, what is tuned, its best value.
struct Tuned(Vec<(Kind, Contestant, Method)>);

impl Tuned {
    fn find(bench: &Bench<'_>, size: &Size, scans: &Scans) -> Result<Self, ClaimError> {
        let mut tuned: Vec<(Contestant, Vec<Method>)> = Vec::new();
        for &calls in size.calls.iter().chain([&size.many]) {
            let way = Way::Dps { tuned: true };
            let methods = size.scales.iter().map(|&scale| Method::Dps { scale });
            tuned.push((Contestant { way, calls }, methods.collect()));
        }
        let of_dds = |kind| -> Vec<(Contestant, Vec<Method>)> {
            let way = Way::Dds { tuned: true };
            let every = || Method::every_dds(kind, size.etas, size.dds_iterations, size.gammas);
            let calls = size.calls.iter();
            calls
                .map(|&calls| (Contestant { way, calls }, every()))
                .collect()
        };
        let iterations = size.iterations.iter();
        let squares = iterations.map(|&iterations| Method::LeastSquares { iterations });
        let weights = size.weights.iter();
        let variations = weights.map(|&weight| Method::TotalVariation { weight });
        let alone = |way| Contestant { way, calls: 0 };
        tuned.push((alone(Way::LeastSquares), squares.collect()));
        tuned.push((alone(Way::TotalVariation), variations.collect()));
        let mut points = Vec::new();
        for (kind, task) in KINDS {
            for (contestant, methods) in tuned.iter().chain(&of_dds(kind)) {
                let each = methods.iter();
                points.extend(each.map(|&method| (kind, task.clone(), *contestant, method)));
            }
        }
        let found = bench.measure(
            &Stage::new("what is best for the known patients", size),
            &points,
            |(_, task, contestant, method)| {
                let cell = Cell::of(task).variant(&contestant.variant());
                cell.part(format!("{method:?}"))
            },
            |&(kind, _, contestant, method)| {
                let chosen = [0, size.tuning_slices];
                scans.restored(kind, Patients::Known, method, contestant.calls, chosen)
            },
        )?;
        let mut best: Vec<(Kind, Contestant, Method, f64)> = Vec::new();
        for (&(kind, _, contestant, method), outcome) in points.iter().zip(found) {
            let there = best.iter_mut().find(|b| (b.0, b.1) == (kind, contestant));
            match there {
                Some(there) if outcome.psnr > there.3 => {
                    (there.2, there.3) = (method, outcome.psnr)
                }
                Some(_) => {}
                None => best.push((kind, contestant, method, outcome.psnr)),
            }
        }
        let best = best.into_iter();
        Ok(Self(
            best.map(|(kind, of, method, _)| (kind, of, method))
                .collect(),
        ))
    }

    /// The method of a row.
    fn method(&self, kind: Kind, contestant: Contestant) -> Method {
        let mut tuned = self.0.iter();
        let found = tuned.find(|(k, of, _)| (*k, *of) == (kind, contestant));
        match (contestant.way, found) {
            (_, Some((_, _, method))) => *method,
            (Way::DdsShares, _) => Method::DdsShares,
            (Way::OneStep, _) => Method::OneStep,
            (Way::Projection, _) => Method::Projection,
            (Way::Dps { .. }, _) => Method::Dps { scale: DPS_DEFAULT },
            _ => Method::dds(),
        }
    }

    fn told(&self) -> String {
        let each = self.0.iter().map(|(kind, contestant, method)| {
            let value = match method {
                Method::Dps { scale } => format!("step size {scale}"),
                Method::Dds {
                    eta,
                    iterations,
                    gamma,
                } => {
                    let gamma = match gamma {
                        Some(gamma) => format!("γ = {gamma}"),
                        None => "γ by Bayes' rule".to_owned(),
                    };
                    let gamma = match kind {
                        Kind::Ct => String::new(),
                        Kind::Mr => format!(", {gamma}"),
                    };
                    format!("η = {eta}, {iterations} iterations{gamma}")
                }
                Method::LeastSquares { iterations } => format!("{iterations} iterations"),
                Method::TotalVariation { weight } => format!("weight {weight}"),
                other => format!("{other:?}"),
            };
            format!("{kind:?}, {}: {value}", contestant.variant())
        });
        format!(
            "Best for the known patients: {}.",
            each.collect::<Vec<_>>().join("; ")
        )
    }
}

fn restorations(
    bench: &Bench<'_>,
    size: &Size,
    scans: &Scans,
    tuned: &Tuned,
    table: &mut Table,
) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        for (kind, task) in KINDS {
            let contestants = size.contestants().into_iter();
            points.extend(contestants.map(|contestant| (kind, task.clone(), contestant, seed)));
        }
    }
    let found = bench.measure(
        &Stage::new("restoration of the other patients", size),
        &points,
        |(_, task, contestant, seed)| Cell::of(task).variant(&contestant.variant()).seed(*seed),
        |&(kind, _, contestant, seed)| {
            let method = tuned.method(kind, contestant);
            let chosen = [seed, size.slices];
            scans.restored(kind, Patients::Others, method, contestant.calls, chosen)
        },
    )?;
    for ((_, task, contestant, seed), outcome) in points.iter().zip(found) {
        let variant = contestant.variant();
        table.record(task, &variant, &PSNR, *seed, outcome.psnr)?;
        table.record(task, &variant, &SECONDS, *seed, outcome.seconds)?;
    }
    Ok(())
}

/// The noise for which the estimate is corrected by the proximal step.
const SOME_NOISE: f64 = 0.01;

fn theorem(bench: &Bench<'_>, table: &mut Table) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        for (task, blocks) in [(KEPT, true), (LEFT, false)] {
            for variant in [NOISELESS, PROXIMAL, GRADIENT] {
                points.push((task.clone(), blocks, variant, seed));
            }
        }
    }
    let found = bench.measure(
        &Stage::new("distance from the subspace", &"50 steps"),
        &points,
        |(task, _, variant, seed)| Cell::of(task).variant(variant).seed(*seed),
        |(_, blocks, variant, seed)| {
            let dds = match *variant == GRADIENT {
                true => Dds::new().with_cg_iterations(1),
                false => Dds::new(),
            };
            let noise = if *variant == PROXIMAL {
                SOME_NOISE
            } else {
                0.0
            };
            krylov::distance(&dds, *blocks, noise, *seed)
        },
    )?;
    for ((task, _, variant, seed), distance) in points.iter().zip(found) {
        table.record(task, variant, &DISTANCE, *seed, distance)?;
    }
    Ok(())
}

/// The headlines test the abstract: quality and speed of medical reconstructions, and the theorem.
fn checks(table: &Table, size: &Size) -> Result<Vec<Check>, ClaimError> {
    let row = |way, calls| Contestant { way, calls }.variant();
    let mut checks = Vec::new();
    for (_, task) in KINDS {
        for tuned in [true, false] {
            let ours = row(Way::Dds { tuned }, size.few());
            let theirs = &row(Way::Dps { tuned }, size.many);
            let seconds = |variant| table.mean(&task, variant, &SECONDS);
            let (fast, slow) = (seconds(&ours)?, seconds(theirs)?);
            let check = Check::new(
                format!("{task}: {ours} takes at most a tenth of the time of {theirs}"),
                FASTER * fast <= slow,
                format!(
                    "{fast:.2} s against {slow:.2} s, {:.1} times faster",
                    slow / fast
                ),
            );
            checks.push(check.headline());
            let psnr = |variant| table.mean(&task, variant, &PSNR);
            let (high, low) = (psnr(&ours)?, psnr(theirs)?);
            let check = Check::new(
                format!("{task}: the PSNR of {ours} is not below that of {theirs}"),
                high >= low,
                format!("{high:.2} dB against {low:.2} dB"),
            );
            checks.push(check.headline());
        }
    }
    for variant in [NOISELESS, PROXIMAL] {
        let distance = table.mean(&KEPT, &variant, &DISTANCE)?;
        let check = Check::new(
            format!("{KEPT}: {variant} leaves it by less than 1e-5"),
            distance < 1e-5,
            format!("{distance:.1e}"),
        );
        checks.push(check.headline());
    }
    for variant in [NOISELESS, GRADIENT] {
        let distance = table.mean(&LEFT, &variant, &DISTANCE)?;
        checks.push(Check::new(
            format!("{LEFT}: {variant} leaves it by more than 0.01"),
            distance > 0.01,
            format!("{distance:.3}"),
        ));
    }
    for (_, task) in KINDS {
        for &calls in size.calls {
            let tuned = true;
            let [ours, theirs] =
                [Way::Dds { tuned }, Way::Dps { tuned }].map(|way| row(way, calls));
            let psnr = |variant| table.mean(&task, variant, &PSNR);
            let (high, low) = (psnr(&ours)?, psnr(&theirs)?);
            checks.push(Check::new(
                format!("{task}: {ours} is at least 1 dB above {theirs}"),
                high >= low + 1.0,
                format!("{high:.2} dB against {low:.2} dB"),
            ));
            let seconds = |variant| table.mean(&task, variant, &SECONDS);
            let (fast, slow) = (seconds(&ours)?, seconds(&theirs)?);
            checks.push(Check::new(
                format!("{task}: {ours} takes at most a third of the time of {theirs}"),
                3.0 * fast <= slow,
                format!("{fast:.2} s against {slow:.2} s"),
            ));
            // Alike but for what corrects the estimate.
            let ours = row(Way::Dds { tuned: false }, calls);
            for other in [Way::OneStep, Way::Projection] {
                checks.push(table.compare(&task, &PSNR, &ours, &row(other, calls))?);
            }
        }
        let ours = row(Way::Dds { tuned: true }, size.few());
        let psnr = |variant| table.mean(&task, variant, &PSNR);
        let (high, low) = (psnr(&ours)?, psnr(&LEAST_SQUARES)?);
        checks.push(Check::new(
            format!("{task}: {ours} is at least 3 dB above {LEAST_SQUARES}"),
            high >= low + 3.0,
            format!("{high:.2} dB against {low:.2} dB"),
        ));
        checks.push(table.compare(&task, &PSNR, &ours, &TOTAL_VARIATION)?);
    }
    Ok(checks)
}
