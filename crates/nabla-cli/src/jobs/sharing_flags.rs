//! The flags by which `nabla train model` trains by several workers, and what it tells at the end.

use clap::Args;
use nabla::base::words::duration;
use nabla::share::data_parallel::{Compression, SharingConfig, SharingReport};

use crate::choice::choice;
use crate::errors::Failure;

/// Each flag overrides the file.
#[derive(Args)]
#[command(next_help_heading = "Several workers")]
pub struct SharingFlags {
    /// Train by so many workers, each with its part of every batch
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How workers compress their gradients [default: none]
    #[arg(long, value_parser = choice::<Compression>())]
    compress: Option<Compression>,
    /// The share of a gradient's numbers that is sent, for randk, topk and sketch
    #[arg(long, value_name = "SHARE")]
    compress_share: Option<f64>,
}

impl SharingFlags {
    /// What the file says, overridden by the flags; none if neither asks for workers.
    ///
    /// # Errors
    /// If a flag is given without workers, or a value is out of range.
    pub fn apply(&self, file: Option<SharingConfig>) -> Result<Option<SharingConfig>, Failure> {
        if self.workers.is_none() && file.is_none() {
            let given = self.compress.is_some() || self.compress_share.is_some();
            return match given {
                true => Err(Failure::input(
                    "gradients are compressed between workers, but there is one: add --workers",
                )),
                false => Ok(None),
            };
        }
        let mut sharing = file.unwrap_or_default();
        sharing.workers = self.workers.unwrap_or(sharing.workers);
        sharing.compression = self.compress.unwrap_or(sharing.compression);
        if let Some(share) = self.compress_share {
            sharing.compression = sharing.compression.with_share(share).ok_or_else(|| {
                Failure::input(
                    "--compress-share is for randk, topk and sketch, but gradients are compressed otherwise",
                )
            })?;
        }
        sharing.validate().map_err(Failure::input)?;
        Ok(Some(sharing))
    }
}

/// What the workers have sent and waited for, in lines.
pub fn told(report: &SharingReport) -> String {
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    let [sent, received] = report.leader_bytes;
    let kibibytes = |bytes: f64| bytes / 1024.0;
    format!(
        "{} workers: {:.1} KiB a step and worker ({:.1} KiB without compression); worker 0 sent {:.1} MiB and received \
         {:.1} MiB\nworkers computed for {} in the mean and waited for the slowest for {}\n",
        report.workers,
        kibibytes(report.message_bytes),
        kibibytes(report.plain_bytes as f64),
        mebibytes(sent as f64),
        mebibytes(received as f64),
        duration(report.computed),
        duration(report.waited),
    )
}
