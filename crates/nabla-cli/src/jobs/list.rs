//! `nabla list`: every published method.

use std::path::PathBuf;

use clap::Args;
use nabla::base::methods::{METHODS, Paper, State};
use nabla::claims::report::method_table_text;
use nabla::claims::{Verdict, read_results};
use serde::Serialize;

use crate::errors::Failure;
use crate::job::{Context, Job, Report};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder with the results of claims
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

#[derive(Serialize)]
struct Listed {
    slug: &'static str,
    name: &'static str,
    #[serde(rename = "crate")]
    crate_name: &'static str,
    state: &'static str,
    paper: Paper,
    claim: Option<Measured>,
}

/// The result of a method's claim.
#[derive(Serialize)]
struct Measured {
    verdict: Verdict,
    date: String,
    device: String,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let folder = read_results(&self.results)?;
        for problem in &folder.problems {
            context.note(&problem.to_string());
        }
        let methods: Vec<Listed> = METHODS
            .iter()
            .map(|method| Listed {
                slug: method.slug,
                name: method.name,
                crate_name: method.crate_name,
                state: method.state.word(),
                paper: method.paper.clone(),
                claim: folder.result(method.slug).map(|result| Measured {
                    verdict: result.verdict,
                    date: result.date.clone(),
                    device: result.device.clone(),
                }),
            })
            .collect();
        context.report(&methods, || {
            let done = METHODS.iter().filter(|m| m.state == State::Done).count();
            let table = method_table_text(&folder);
            format!("{table}\n{done} of {} methods are done.\n", METHODS.len())
        })
    }
}
