//! The flags by which `nabla train model` trains by several workers, and what it tells at the end.

use clap::Args;
use nabla::base::words::{count, duration};
use nabla::grad::sketch::SketchFamily;
use nabla::share::coded_training::{CodedReport, Coding, CodingConfig};
use nabla::share::data_parallel::{Compression, SharingConfig, SharingReport};
use nabla::share::sequential_gradient_coding::run::DeathRule;
use nabla::share::sequential_gradient_coding::{CodeKind, WaitRule};

use crate::choice::{choice, chosen};
use crate::errors::Failure;
use crate::jobs::ranks::Communication;

/// Each flag overrides the file.
#[derive(Args)]
#[command(next_help_heading = "Several workers")]
pub struct SharingFlags {
    /// Train by so many workers, each with its part of every batch [default for mpi: the processes]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How workers exchange messages [default: threads]
    #[arg(long, value_parser = choice::<Communication>())]
    communicator: Option<Communication>,
    /// How workers compress their gradients [default: none]
    #[arg(long, value_parser = choice::<Compression>())]
    compress: Option<Compression>,
    /// The share of a gradient's numbers that is sent, for randk, topk and sketch
    #[arg(long, value_name = "SHARE")]
    compress_share: Option<f64>,
    /// The family of the matrices, for sketch [default: count]
    #[arg(long, value_parser = choice::<SketchFamily>())]
    sketch_family: Option<SketchFamily>,
    /// The steps that a worker takes between two messages, each along a piece of its part of the batch, for sketch
    /// [default: 1]
    #[arg(long, value_name = "N")]
    local_steps: Option<usize>,
    /// Code the gradients against stragglers; under mpirun, one process more than workers leads
    #[arg(long, value_parser = choice::<Coding>())]
    coding: Option<Coding>,
    /// The stragglers that the coding tolerates, in a round or (sequential) in a window
    #[arg(long, value_name = "N")]
    stragglers: Option<usize>,
    /// The rounds in a row for which a worker straggles, for sr-sgc and m-sgc
    #[arg(long, value_name = "ROUNDS")]
    burst: Option<usize>,
    /// The rounds in which the stragglers are counted, for sr-sgc and m-sgc
    #[arg(long, value_name = "ROUNDS")]
    window: Option<usize>,
    /// How the parts of a batch are given to workers [default: fitting]
    #[arg(long, value_parser = choice::<CodeKind>())]
    code: Option<CodeKind>,
    /// Train so many models in turn, each with a seed of its own, in folders of their own [default: the fewest that
    /// the coding needs]
    #[arg(long, value_name = "N")]
    models: Option<usize>,
    /// Answers are late that take longer than 1 + MU times the fastest [default: 1]
    #[arg(long, value_name = "MU")]
    tolerance: Option<f64>,
    /// When to go on without those that are late [default: until-recoverable]
    #[arg(long, value_parser = choice::<WaitRule>())]
    wait_rule: Option<WaitRule>,
    /// What becomes of the tasks of a worker that has died [default: take-over]
    #[arg(long, value_parser = choice::<DeathRule>())]
    dead: Option<DeathRule>,
    /// Seconds after which a silent worker ends the training, or is dead if gradients are coded [default: 600]
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,
}

/// How several workers train.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    /// Each with its part of every batch.
    pub parts: Option<SharingConfig>,
    /// With coded gradients.
    pub coded: Option<CodingConfig>,
}

impl Sharing {
    /// Whether there are several workers.
    pub fn is_some(&self) -> bool {
        self.parts.is_some() || self.coded.is_some()
    }
}

impl SharingFlags {
    /// How workers exchange messages.
    pub fn communication(&self) -> Communication {
        self.communicator.unwrap_or_default()
    }

    /// What the file says, overridden by the flags.
    ///
    /// - `processes`: those that `mpirun` has started
    ///
    /// # Errors
    /// If a flag is given that does not fit the others, or a value is out of range.
    pub fn apply(&self, file: Sharing, processes: Option<usize>) -> Result<Sharing, Failure> {
        if file.parts.is_some() && file.coded.is_some() {
            return Err(Failure::input(
                "the experiment has both [sharing] and [coding]: leave out one",
            ));
        }
        let compresses = self.compress.is_some()
            || self.compress_share.is_some()
            || self.sketch_family.is_some()
            || self.local_steps.is_some();
        if self.coding.is_some() || (file.coded.is_some() && !compresses) {
            if compresses {
                return Err(Failure::input(
                    "coded gradients aren't compressed: leave out --compress and its options, or --coding",
                ));
            }
            let file = file.coded.unwrap_or_default();
            return Ok(Sharing {
                parts: None,
                coded: Some(self.coded(file, processes)?),
            });
        }
        self.check_uncoded()?;
        if self.workers.is_none() && file.parts.is_none() && processes.is_none() {
            return match compresses {
                true => Err(Failure::input(
                    "gradients are compressed between workers, but there is one: add --workers",
                )),
                false => Ok(Sharing::default()),
            };
        }
        let mut sharing = file.parts.unwrap_or_default();
        sharing.workers = self.workers.or(processes).unwrap_or(sharing.workers);
        sharing.compression = chosen(self.compress, sharing.compression);
        sharing.time_limit = self.time_limit.unwrap_or(sharing.time_limit);
        if let Some(share) = self.compress_share {
            sharing.compression = sharing.compression.with_share(share).ok_or_else(|| {
                Failure::input(
                    "--compress-share is for randk, topk and sketch, but gradients are compressed otherwise",
                )
            })?;
        }
        if let Some(family) = self.sketch_family {
            sharing.compression = sharing.compression.with_family(family).ok_or_else(|| {
                Failure::input("--sketch-family is for sketches: add --compress sketch")
            })?;
        }
        if self.local_steps.is_some() && !matches!(sharing.compression, Compression::Sketch { .. })
        {
            return Err(Failure::input(
                "--local-steps is for sketches: add --compress sketch",
            ));
        }
        sharing.local_steps = self.local_steps.unwrap_or(sharing.local_steps);
        sharing.validate().map_err(Failure::input)?;
        Ok(Sharing {
            parts: Some(sharing),
            coded: None,
        })
    }

    /// Refuses the flags that only coded gradients have.
    fn check_uncoded(&self) -> Result<(), Failure> {
        let given = [
            ("--stragglers", self.stragglers.is_some()),
            ("--burst", self.burst.is_some()),
            ("--window", self.window.is_some()),
            ("--code", self.code.is_some()),
            ("--models", self.models.is_some()),
            ("--tolerance", self.tolerance.is_some()),
            ("--wait-rule", self.wait_rule.is_some()),
            ("--dead", self.dead.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::input(format!(
                "{flag} is for coded gradients: add --coding gc, sr-sgc or m-sgc"
            ))),
            None => Ok(()),
        }
    }

    fn coded(
        &self,
        mut config: CodingConfig,
        processes: Option<usize>,
    ) -> Result<CodingConfig, Failure> {
        // One of the processes leads.
        let workers = processes.map(|processes| processes.saturating_sub(1));
        config.workers = self.workers.or(workers).unwrap_or(config.workers);
        config.coding = chosen(self.coding, config.coding);
        if let Some(stragglers) = self.stragglers {
            let coding = config.coding.with_stragglers(stragglers);
            config.coding = coding.ok_or_else(|| {
                Failure::input(
                    "--stragglers is for gc, sr-sgc and m-sgc: without coding none is tolerated",
                )
            })?;
        }
        if self.burst.is_some() || self.window.is_some() {
            let coding = config.coding.with_rounds(self.burst, self.window);
            config.coding = coding.ok_or_else(|| {
                Failure::input(
                    "--burst and --window are for sr-sgc and m-sgc, but the coding is none of them",
                )
            })?;
        }
        config.code = self.code.unwrap_or(config.code);
        if self.models == Some(0) {
            return Err(Failure::input(
                "the number of models is 0, but it must be at least 1",
            ));
        }
        config.models = self.models.unwrap_or(config.models);
        config.tolerance = self.tolerance.unwrap_or(config.tolerance);
        config.rule = self.wait_rule.unwrap_or(config.rule);
        config.deaths = self.dead.unwrap_or(config.deaths);
        config.time_limit = self.time_limit.unwrap_or(config.time_limit);
        config.scheme().map_err(Failure::input)?;
        Ok(config)
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What the workers have sent and waited for, in lines.
pub fn told(report: &SharingReport) -> String {
    let [sent, received] = report.leader_bytes;
    let kibibytes = |bytes: f64| bytes / 1024.0;
    format!(
        "{}: {:.1} KiB a step and worker ({:.1} KiB without compression); worker 0 sent {:.1} MiB and received \
         {:.1} MiB\nworkers computed for {} in the mean and waited for the slowest for {}\n",
        count(report.workers, "worker"),
        kibibytes(report.message_bytes),
        kibibytes(report.plain_bytes as f64),
        mebibytes(sent),
        mebibytes(received),
        duration(report.computed),
        duration(report.waited),
    )
}

/// What the leader of coded gradients has seen, in lines.
pub fn told_coded(report: &CodedReport) -> String {
    let [sent, received] = report.leader_bytes;
    let mut told = format!(
        "{} with {}: {} in {} and {}; {} came late, and {} waited for one; \
         uncoded, and with all of them waited for, it would have been at least {}\n\
         each worker computed {:.0} % of a batch per round; the leader sent {:.1} MiB and received {:.1} MiB\n",
        count(report.workers, "worker"),
        report.scheme,
        count(report.gradients, "gradient"),
        count(report.rounds, "round"),
        duration(report.seconds),
        count(report.stragglers, "answer"),
        count(report.waits, "round"),
        duration(report.uncoded_seconds),
        100.0 * report.load,
        mebibytes(sent),
        mebibytes(received),
    );
    for (worker, round) in &report.dead {
        told += &format!("worker {worker} died, which was noticed in round {round}\n");
    }
    told
}
