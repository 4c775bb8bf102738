//! Conjugate gradients with incomplete Cholesky factors for Poisson's equation on a cube, beside SciPy's with the compiled
//! factors of ilupp on the same system in the same run, if `NABLA_PYTHON` names a Python with both. Dividends of times are printed:
//! below 1, Nabla is faster.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-physics --bench incomplete_cholesky
//! ```
//!
//! `NABLA_SIDE` is the side of the cube, 128 by default.

use std::process::Command;
use std::time::Instant;

use nabla_physics::linear::{
    Border, ConjugateGradient, IncompleteCholesky, Multigrid, MultigridConfig, PoissonGrid,
    Preconditioner, SpdOperator,
};

const TOLERANCE: f64 = 1e-8;
const RUNS: usize = 3;

/// The shortest times of the preparation and of the solution, and the iterations.
struct Measured {
    preparation: f64,
    solution: f64,
    iterations: usize,
}

impl Measured {
    fn whole(&self) -> f64 {
        self.preparation + self.solution
    }

    fn print(&self, name: &str) {
        println!(
            "{name}: {:.2} s + {:.2} s, {} iterations",
            self.preparation, self.solution, self.iterations
        );
    }
}

fn measured<M: Preconditioner>(
    a: &impl SpdOperator,
    b: &[f64],
    prepare: impl Fn() -> Result<M, nabla_physics::linear::LinearError>,
) -> Result<Measured, Box<dyn std::error::Error>> {
    let solver = ConjugateGradient {
        tolerance: TOLERANCE,
        iterations: 10_000,
    };
    let (mut preparation, mut solution, mut iterations) = (f64::INFINITY, f64::INFINITY, 0);
    for _ in 0..RUNS {
        let begun = Instant::now();
        let m = prepare()?;
        preparation = preparation.min(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let found = solver.solve(a, &m, b)?;
        solution = solution.min(begun.elapsed().as_secs_f64());
        iterations = found.iterations;
        if !found.converged {
            return Err("it has not converged".into());
        }
    }
    Ok(Measured {
        preparation,
        solution,
        iterations,
    })
}

fn peer(side: usize) -> Option<Measured> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let out = Command::new(&python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/benches/incomplete_cholesky_peer.py"
        ))
        .args([side, RUNS].map(|number| number.to_string()))
        .arg(TOLERANCE.to_string())
        .output();
    let out = match out {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).into_owned(),
        Ok(out) => {
            eprintln!("the peer stopped: {}", String::from_utf8_lossy(&out.stderr));
            return None;
        }
        Err(error) => {
            eprintln!("{python} does not start: {error}");
            return None;
        }
    };
    let numbers: Vec<f64> = out
        .split_whitespace()
        .filter_map(|w| w.parse().ok())
        .collect();
    let [preparation, solution, iterations] = numbers[..] else {
        eprintln!("the peer said {out:?}");
        return None;
    };
    Some(Measured {
        preparation,
        solution,
        iterations: iterations as usize,
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // As the program does.
    nabla_kernels::threads::compute_here();
    let side = std::env::var("NABLA_SIDE").ok();
    let side = side.map_or(Ok(128), |side| side.parse())?;
    let grid = PoissonGrid::new(&[side; 3], Border::Dirichlet)?;
    let matrix = grid.matrix();
    let value = |i: usize| (1.7 * i as f64 + 0.001 * (i * i) as f64).sin();
    let b: Vec<f64> = (0..grid.dim()).map(value).collect();
    let by_matrix = measured(&matrix, &b, || IncompleteCholesky::new(&matrix))?;
    by_matrix.print("nabla, incomplete Cholesky, matrix");
    let without = measured(&grid, &b, || IncompleteCholesky::new(&matrix))?;
    without.print("nabla, incomplete Cholesky, products without a matrix");
    let config = MultigridConfig::default();
    let multigrid = measured(&grid, &b, || Multigrid::new(&matrix, &config))?;
    multigrid.print("nabla, multigrid");
    if let Some(peer) = peer(side) {
        peer.print("SciPy and ilupp, incomplete Cholesky");
        println!(
            "nabla / peer: {:.2} with the matrix, {:.2} without, {:.2} by multigrid",
            by_matrix.whole() / peer.whole(),
            without.whole() / peer.whole(),
            multigrid.whole() / peer.whole()
        );
    }
    Ok(())
}
