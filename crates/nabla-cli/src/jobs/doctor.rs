//! `nabla doctor`: what this program is made of, and whether its devices work.

use std::num::NonZero;
use std::thread;

use clap::Args;
use nabla::claims::describe_device;
use serde::Serialize;

use crate::devices::{DeviceChoice, SelfCheck, self_check};
use crate::errors::Failure;
use crate::job::{Context, Job, Report};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {}

/// The version of Burn that the workspace asks for.
const BURN: &str = "0.22";

/// The state of a device that does not work.
const FAILS: &str = "fails";

#[derive(Serialize)]
struct Checked {
    nabla: &'static str,
    burn: &'static str,
    system: String,
    processor: String,
    threads: usize,
    features: Vec<DeviceChoice>,
    devices: Vec<DeviceReport>,
}

#[derive(Serialize)]
struct DeviceReport {
    device: DeviceChoice,
    /// `works`, `fails` or `not built in`.
    state: &'static str,
    /// The backend's own name of the device.
    name: Option<String>,
    check: Option<SelfCheck>,
    /// Why it fails, or how to get it.
    reason: Option<String>,
}

impl Job for Arguments {
    /// A device that does not work is an answer, except the processor.
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let checked = checked()?;
        let processor = checked
            .devices
            .iter()
            .find(|d| d.device == DeviceChoice::Cpu && d.state == FAILS);
        let failure = processor.map(|processor| {
            Failure::run(format!(
                "the processor computes wrongly: {}",
                processor.reason.as_deref().unwrap_or("no reason")
            ))
        });
        let report = context.report(&checked, || text(&checked))?;
        Ok(report.ending_in(failure))
    }
}

fn checked() -> Result<Checked, Failure> {
    let cpu = DeviceChoice::Cpu.open()?;
    Ok(Checked {
        nabla: env!("CARGO_PKG_VERSION"),
        burn: BURN,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: describe_device(&cpu),
        threads: thread::available_parallelism().map_or(1, NonZero::get),
        features: DeviceChoice::ALL
            .into_iter()
            .filter(|d| d.is_built_in())
            .collect(),
        devices: DeviceChoice::ALL.into_iter().map(look_at).collect(),
    })
}

fn look_at(device: DeviceChoice) -> DeviceReport {
    let failed = |state, reason: String| DeviceReport {
        device,
        state,
        name: None,
        check: None,
        reason: Some(reason),
    };
    if !device.is_built_in() {
        return failed(
            "not built in",
            format!("build nabla with '--features {device}'"),
        );
    }
    let opened = match device.open() {
        Ok(opened) => opened,
        Err(failure) => return failed(FAILS, failure.to_string()),
    };
    match self_check(&opened) {
        Ok(check) => DeviceReport {
            device,
            state: "works",
            name: Some(describe_device(&opened)),
            check: Some(check),
            reason: None,
        },
        Err(reason) => failed(FAILS, reason),
    }
}

fn text(report: &Checked) -> String {
    let features: Vec<String> = report.features.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "nabla      {}\nburn       {}\nsystem     {}\nprocessor  {}\nbuilt in   {}\n\n",
        report.nabla,
        report.burn,
        report.system,
        report.processor,
        features.join(", ")
    );
    for device in &report.devices {
        let name = device.device.to_string();
        let line = match (&device.check, &device.name, &device.reason) {
            (Some(check), Some(name), _) => format!(
                "{name}; first result after {:.3} s; GFLOP/s forward, and with backward: linear layer {:.0}, {:.0}; \
                 convolution {:.0}, {:.0}",
                check.first_result_seconds,
                check.linear_gflops,
                check.linear_training_gflops,
                check.convolution_gflops,
                check.convolution_training_gflops
            ),
            (_, _, Some(reason)) => reason.clone(),
            _ => String::new(),
        };
        text.push_str(&format!("{name:<5} {:<13} {line}\n", device.state));
    }
    text
}
