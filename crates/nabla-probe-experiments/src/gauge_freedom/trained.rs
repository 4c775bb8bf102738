//! Dimensions from trained networks.

use std::f64::consts::PI;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{DType, Device};
use nabla_base::vector::{add_scaled, dot, norm};
use nabla_claims::{Bench, Cell, Check, ClaimError, Metric, Stage, Table, Task, Variant};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_probe::gauge_freedom::energy_networks::{
    DeepEnergy, ScoreHead, ScoreNetwork, TiedEnergy, Unconstrained,
};
use nabla_probe::gauge_freedom::{
    AntisymmetryPenalty, FlowGrid, FlowJacobian, Probes, ScoreMatching, ScoreMatchingConfig,
    asymmetry, flow_samples, flow_singular_values, matching_loss, median_neighbour_distance,
    score_dimension, score_field, two_nn,
};
use nabla_train::trainer::{Trainer, TrainerConfig};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{DISTANCE, GAP, Readings, SHARE, SLOPE, SPREAD, STARTS, distance, failed, normal};

const LOSS: Metric = Metric::lower("loss of denoising score matching", "");
const ASYMMETRY: Metric = Metric::lower("asymmetry of the Jacobian", "");
const JACOBIAN: Metric = Metric::higher("right dimension by the score's Jacobian", "%");
const TWO_NN: Metric = Metric::informative("dimension by TwoNN", "");

pub(super) const METRICS: [Metric; 4] = [LOSS, ASYMMETRY, JACOBIAN, TWO_NN];

/// A surface in a space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    roll: bool,
    ambient: usize,
}

impl Shape {
    pub(super) const ALL: [Self; 4] = [
        Self {
            roll: false,
            ambient: 3,
        },
        Self {
            roll: false,
            ambient: 5,
        },
        Self {
            roll: true,
            ambient: 3,
        },
        Self {
            roll: true,
            ambient: 5,
        },
    ];

    pub(super) fn task(self) -> Task {
        let name = if self.roll { "Swiss roll" } else { "sphere" };
        Task::of(format!("{name} in {} dimensions, trained", self.ambient))
    }

    /// Points, turned by a reflection at random.
    fn points(self, count: usize, seed: u64, stream: u64) -> Vec<f64> {
        let d = self.ambient;
        let mut mirror = normal(d, &mut SeededNoise::new(seed, 20));
        let length = norm(&mirror);
        mirror.iter_mut().for_each(|x| *x /= length);
        let mut noise = SeededNoise::new(seed, stream);
        let mut points = Vec::with_capacity(count * d);
        for _ in 0..count {
            let mut x = match self.roll {
                true => {
                    let t = 1.5 * PI * (1.0 + 2.0 * noise.random::<f64>());
                    let across = 21.0 * (noise.random::<f64>() - 0.5);
                    vec![0.1 * t * t.cos(), 0.1 * across, 0.1 * t * t.sin()]
                }
                false => {
                    let z = normal(3, &mut noise);
                    let length = norm(&z);
                    z.iter().map(|z| z / length).collect()
                }
            };
            x.resize(d, 0.0);
            let along = dot(&mirror, &x);
            add_scaled(&mut x, -2.0 * along, &mirror);
            points.extend(x);
        }
        points
    }
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Network {
    Unconstrained,
    Penalised,
    Tied,
    Deep,
}

impl Network {
    pub(super) const ALL: [Self; 4] =
        [Self::Unconstrained, Self::Penalised, Self::Tied, Self::Deep];

    pub(super) fn variant(self) -> Variant {
        match self {
            Self::Unconstrained => Variant::baseline("unconstrained network"),
            Self::Penalised => Variant::method("unconstrained network with a penalty"),
            Self::Tied => Variant::method("tied energy"),
            Self::Deep => Variant::method("deep energy"),
        }
    }
}

/// Units of the deep energy; the others have as many as give the same number of parameters.
const UNITS: usize = 64;
const LEVEL_UNITS: usize = 16;

/// The number of units with which a network of `count` parameters has most nearly `wanted`.
fn fitting(wanted: usize, count: impl Fn(usize) -> usize) -> usize {
    (1..1000)
        .min_by_key(|&units| count(units).abs_diff(wanted))
        .unwrap_or(1)
}

/// What a training has come to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trained {
    loss: f64,
    asymmetry: f64,
    distance: f64,
    jacobian: f64,
    two_nn: f64,
    parameters: usize,
    readings: Readings,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    points: usize,
    steps: usize,
    flow: usize,
    drawn: usize,
}

fn trained(
    shape: Shape,
    network: Network,
    budget: Budget,
    seed: u64,
) -> Result<Trained, ClaimError> {
    let device = Device::flex().autodiff();
    let d = shape.ambient;
    let range = ClaimError::experiment;
    let deep = || DeepEnergy::new(d, UNITS, &device).map_err(range);
    let wanted = deep()?.num_params();
    let plain = Device::flex();
    match network {
        Network::Deep => of_head(deep()?, shape, network, budget, seed),
        Network::Tied => {
            let of = |units| {
                TiedEnergy::new(d, units, LEVEL_UNITS, &plain).map_or(0, |head| head.num_params())
            };
            let head = TiedEnergy::new(d, fitting(wanted, of), LEVEL_UNITS, &device);
            of_head(head.map_err(range)?, shape, network, budget, seed)
        }
        Network::Unconstrained | Network::Penalised => {
            let of =
                |units| Unconstrained::new(d, units, &plain).map_or(0, |head| head.num_params());
            let head = Unconstrained::new(d, fitting(wanted, of), &device);
            of_head(head.map_err(range)?, shape, network, budget, seed)
        }
    }
}

fn of_head<H: ScoreHead>(
    head: H,
    shape: Shape,
    network: Network,
    budget: Budget,
    seed: u64,
) -> Result<Trained, ClaimError> {
    let d = shape.ambient;
    let parameters = Module::num_params(&head);
    let data = shape.points(budget.points, seed, 21);
    let singles = |values: &[f64]| -> Vec<f32> { values.iter().map(|&x| x as f32).collect() };
    let scale = norm(&data) / (data.len() as f64).sqrt();
    let model = ScoreNetwork::new(head, scale, seed).map_err(ClaimError::experiment)?;
    let config = ScoreMatchingConfig {
        penalty: (network == Network::Penalised).then(AntisymmetryPenalty::default),
        seed,
        ..ScoreMatchingConfig::default()
    };
    let task = ScoreMatching::new(d, singles(&data), config).map_err(failed)?;
    let mut training = TrainerConfig {
        steps: budget.steps,
        ..TrainerConfig::default()
    };
    training.optimizer.learning_rate = Some(3e-3);
    let mut trainer = Trainer::new(training, task, model).map_err(ClaimError::experiment)?;
    let ran = trainer.run(None, &mut |_| ControlFlow::Continue(()));
    ran.map_err(ClaimError::experiment)?;

    // Never seen points, the same for all networks.
    let fresh = shape.points(budget.drawn, seed, 22);
    let device = trainer.model().devices().into_iter().next();
    let device = device.ok_or_else(|| ClaimError::experiment("a network without parameters"))?;
    let held_out = ScoreMatchingConfig {
        batch: 20 * budget.drawn,
        seed: seed + 1000,
        penalty: None,
        ..config
    };
    let mut held_out =
        ScoreMatching::<ScoreNetwork<H>>::new(d, singles(&fresh), held_out).map_err(failed)?;
    let loss = matching_loss(trainer.model(), &held_out.draw(&device)).without_autodiff();
    let loss: f32 = loss.try_into_scalar().map_err(ClaimError::experiment)?;

    let field = score_field(trainer.model(), d, DType::F64).map_err(failed)?;
    let lowest = median_neighbour_distance(d, &data).map_err(failed)?;
    let grid = FlowGrid {
        sigma_min: lowest,
        steps: budget.flow,
        ..FlowGrid::default()
    };
    let mut noise = SeededNoise::new(seed, 23);
    let mut starts = |count: usize| -> Vec<f64> {
        let drawn = normal(count * d, &mut noise);
        drawn.iter().map(|z| grid.sigma_max * z).collect()
    };
    let flow = FlowJacobian {
        grid,
        every: 5,
        ..FlowJacobian::default()
    };
    let spectrum = flow_singular_values(&field, &starts(STARTS), &flow).map_err(failed)?;
    let sampling = FlowGrid {
        sigma_min: 0.02,
        ..grid
    };
    // Without gradients, which a flow does not need.
    let plain = score_field(&trainer.model().valid(), d, DType::F64).map_err(failed)?;
    let drawn = flow_samples(&plain, &starts(budget.drawn), &sampling).map_err(failed)?;
    // Near the surface, as data with this noise are.
    let noisy: Vec<f64> = {
        let z = normal(fresh.len(), &mut noise);
        fresh.iter().zip(z).map(|(x, z)| x + lowest * z).collect()
    };
    let noisy = &noisy[..(200 * d).min(noisy.len())];
    let dimensions = score_dimension(&field, noisy, lowest).map_err(failed)?;
    let right = dimensions.iter().filter(|&&found| found == 2).count();
    Ok(Trained {
        loss: f64::from(loss),
        asymmetry: asymmetry(&field, noisy, lowest, Probes::All).map_err(failed)?,
        distance: distance(&drawn, &fresh, d)?,
        jacobian: 100.0 * right as f64 / dimensions.len() as f64,
        two_nn: two_nn(d, &data).map_err(failed)?,
        parameters,
        readings: Readings::of(&spectrum, 2)?,
    })
}

/// Measures all networks; returns a note about their sizes.
pub(super) fn measure(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<String, ClaimError> {
    let budget = match bench.quick() {
        true => Budget {
            points: 200,
            steps: 30,
            flow: 20,
            drawn: 50,
        },
        false => Budget {
            points: 2000,
            steps: 5000,
            flow: 200,
            drawn: 1000,
        },
    };
    let mut points = Vec::new();
    for shape in Shape::ALL {
        for network in Network::ALL {
            // Each of its steps costs as much as five.
            if network != Network::Penalised || shape == Shape::ALL[0] {
                points.extend(bench.seeds().iter().map(|&seed| (shape, network, seed)));
            }
        }
    }
    let found = bench.measure_side_by_side(
        &Stage::new("trained networks", &budget),
        &points,
        |(shape, network, seed)| {
            Cell::of(&shape.task())
                .variant(&network.variant())
                .seed(*seed)
        },
        |&(shape, network, seed)| trained(shape, network, budget, seed),
    )?;
    for ((shape, network, seed), found) in points.iter().zip(&found) {
        let (task, variant) = (shape.task(), network.variant());
        let readings = &found.readings;
        for (metric, value) in [
            (LOSS, found.loss),
            (ASYMMETRY, found.asymmetry),
            (DISTANCE, found.distance),
            (JACOBIAN, found.jacobian),
            (TWO_NN, found.two_nn),
            (SLOPE, readings.slope),
            (GAP, readings.gap),
            (SHARE, readings.share),
            (SPREAD, readings.spread),
        ] {
            table.record(&task, &variant, &metric, *seed, value)?;
        }
    }
    // The mean over all four tasks and the seeds.
    let mean = |network: Network, of: fn(&Trained) -> f64| {
        let of_network = points.iter().zip(&found);
        let chosen = of_network.filter(|((_, n, _), _)| *n == network);
        let values: Vec<f64> = chosen.map(|(_, found)| of(found)).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let slope = |network| mean(network, |found| found.readings.slope);
    let free = slope(Network::Unconstrained);
    for (network, headline) in [(Network::Deep, true), (Network::Tied, false)] {
        let conservative = slope(network);
        checks.push(
            Check::new(
                format!(
                    "the slope gives the right dimension in at least as many flows with the {} as with the \
                     unconstrained network, over all four shapes",
                    network.variant().name()
                ),
                conservative >= free,
                format!("{conservative:.1} % against {free:.1} %"),
            )
            .headline_if(headline),
        );
    }
    let energies = points.iter().zip(&found);
    let energies = energies.filter(|((_, n, _), _)| matches!(n, Network::Tied | Network::Deep));
    let largest = energies.map(|(_, f)| f.asymmetry).fold(0.0, f64::max);
    checks.push(Check::new(
        "the asymmetry of the energies is below 1e-10",
        largest < 1e-10,
        format!("at most {largest:.1e}"),
    ));
    let (penalised, plain) = (
        Network::Penalised.variant(),
        Network::Unconstrained.variant(),
    );
    checks.push(table.compare(&Shape::ALL[0].task(), &ASYMMETRY, &penalised, &plain)?);
    let loss = |network| mean(network, |found| found.loss);
    let (deep, tied, free) = (
        loss(Network::Deep),
        loss(Network::Tied),
        loss(Network::Unconstrained),
    );
    checks.push(Check::new(
        "the losses of the energies are within 5 % of the unconstrained network's",
        deep.max(tied) <= 1.05 * free && deep.min(tied) >= free / 1.05,
        format!("deep {deep:.4}, tied {tied:.4}, unconstrained {free:.4}"),
    ));
    let size = |network: Network, ambient: usize| {
        let mut of = points.iter().zip(&found);
        let first = of.find(|((s, n, _), _)| *n == network && s.ambient == ambient);
        first.map_or(0, |(_, found)| found.parameters)
    };
    let told = [3, 5].map(|ambient| {
        let of = |network| size(network, ambient);
        format!(
            "{} (unconstrained), {} (tied) and {} (deep) in {ambient} dimensions",
            of(Network::Unconstrained),
            of(Network::Tied),
            of(Network::Deep)
        )
    });
    Ok(format!(
        "Parameters: {}. Dimensions of trained networks are read down to the median distance of neighbours; the paper \
         shows single trajectories and no such numbers.",
        told.join("; ")
    ))
}
