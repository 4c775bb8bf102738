//! ZO-RankSGD with a person or a program as the judge.
//!
//! ```text
//! # A person puts points in order at the terminal; `quit` saves the run, and the same command
//! # resumes it.
//! cargo run --release -p nabla-solve --example rank_by_program -- state.json
//!
//! # A program does, over its standard streams; here this one as the judge.
//! cargo run --release -p nabla-solve --example rank_by_program -- state.json \
//!     cargo run --release -p nabla-solve --example rank_by_program -- judge
//! ```
//!
//! The protocol is that of `nabla_solve::ranking_protocol`. After every answer, the state is written to
//! the file, so that a run can be cut off at any time.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nabla_solve::ranking_oracle::RankingOracle;
use nabla_solve::ranking_protocol::{ProtocolError, ProtocolOracle, serve};
use nabla_solve::zeroth_order::LineSearch;
use nabla_solve::zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};

/// Iterations in a session.
const ITERATIONS: u64 = 50;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => Err("give a file for the state and a command that ranks, or `judge`".into()),
        [judge] if judge == "judge" => {
            // What this judge likes, and tells nobody.
            let secret = |x: &[f64]| -> f64 { x.iter().map(|x| (x - 0.7).powi(2)).sum() };
            serve(io::stdin().lock(), io::stdout().lock(), secret)?;
            Ok(())
        }
        [state] => {
            let oracle = ProtocolOracle::new(io::stdin().lock(), io::stdout().lock()).shuffled(0);
            descend(Path::new(state), oracle)
        }
        [state, command, arguments @ ..] => {
            let mut child = Command::new(command)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("the ranker {command} cannot be started: {error}"))?;
            let (Some(input), Some(output)) = (child.stdout.take(), child.stdin.take()) else {
                return Err("the ranker has no standard streams".into());
            };
            // The oracle's end closes the ranker's input, at which it ends.
            let result = descend(
                Path::new(state),
                ProtocolOracle::new(BufReader::new(input), output),
            );
            child.wait()?;
            result
        }
    }
}

/// Goes on from the state in the file, or from the beginning.
fn descend<R: BufRead, W: Write>(
    path: &Path,
    mut oracle: ProtocolOracle<R, W>,
) -> Result<(), Box<dyn Error>> {
    let mut run = if path.exists() {
        ZoRankSgd::from_state(serde_json::from_str(&fs::read_to_string(path)?)?)?
    } else {
        let config = ZoRankSgdConfig::new()
            .with_candidates(6)
            .with_best(Some(3))
            .with_smoothing(0.1)
            .with_step_size(0.5)
            .with_line_search(Some(LineSearch::human_feedback(5)));
        ZoRankSgd::new(config, [0.0; 4])?
    };
    let last = run.state().iterations + ITERATIONS;
    while run.state().iterations < last {
        let ranking = match oracle.rank(&run.question()?) {
            Ok(ranking) => ranking,
            Err(ProtocolError::Quit) => break,
            Err(error) => return Err(error.into()),
        };
        run.answer(&ranking)?;
        // A whole file replaces the old one.
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_string(run.state())?)?;
        fs::rename(&new, path)?;
    }
    eprintln!(
        "{} iterations, {} questions: {:.4?}",
        run.state().iterations,
        run.state().questions,
        run.point()
    );
    Ok(())
}
