//! `nabla solve linear`: a sparse linear system from Matrix Market files.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use nabla::base::check_writable;
use nabla::base::choices::Choices;
use nabla::base::progress::ProgressSink;
use nabla::base::words::{count, duration};
use nabla::claims::plot::{LinePlot, Series};
use nabla::data::matrix_market::{MatrixMarket, MatrixMarketError, Symmetry, write_vector};
use nabla::physics::dcdm::{Dcdm, DcdmError, LearntDirections};
use nabla::physics::linear::{
    ConjugateGradient, Deflation, Identity, IncompleteCholesky, Jacobi, LinearError, Multigrid,
    MultigridConfig, Preconditioner, Report as Solved, SparseMatrix, SpdOperator,
};
use serde::Serialize;

use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::grid_sides::{GridSides, grid_sides};
use crate::jobs::plot_file;

/// How a system is solved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Plain,
    Jacobi,
    Cholesky,
    Multigrid,
    Deflation,
    Directions,
}

nabla::base::choices! {
    Method: "method" {
        "cg" => Self::Plain, "Conjugate gradients";
        "pcg-jacobi" => Self::Jacobi, "With the diagonal as the preconditioner";
        "pcg-ic" => Self::Cholesky, "With incomplete Cholesky factors";
        "pcg-amg" => Self::Multigrid, "With algebraic multigrid (smoothed aggregation): few iterations at any size";
        "pcg-deflation" => Self::Deflation, "With the diagonal, and 16 Ritz vectors of the right side solved exactly";
        "dcdm" => Self::Directions, "Directions from a network of `nabla train dcdm`, on a grid";
    }
}

/// Ritz vectors of a deflation, as in the paper of DCDM.
const DEFLATED: usize = 16;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The matrix, a Matrix Market file (.mtx): symmetric by its banner or by its values, and positive definite
    #[arg(value_name = "A.mtx")]
    matrix: PathBuf,
    /// The right side, a Matrix Market file with one column
    #[arg(value_name = "b.mtx")]
    right_side: PathBuf,
    #[arg(long, value_parser = choice::<Method>(), default_value = "pcg-ic", help = "The method")]
    method: Method,
    /// The residual, relative to the right side, at which the solution has converged
    #[arg(long, value_name = "TOLERANCE", default_value_t = 1e-8)]
    tolerance: f64,
    /// The most iterations
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_iterations: u32,
    /// Where to start, a Matrix Market file with one column [default: 0]
    #[arg(long, value_name = "FILE.mtx")]
    x0: Option<PathBuf>,
    /// The solution to write, a Matrix Market file
    #[arg(short, long, value_name = "FILE.mtx")]
    out: Option<PathBuf>,
    /// A plot of the residuals to write, an SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// For dcdm: the folder of a network that `nabla train dcdm` wrote
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// For dcdm: the sides of the grid whose cells the unknowns are, the last one fastest, such as 64x64; cells of obstacles
    /// have zero rows
    #[arg(long, value_name = "SIDES", value_parser = grid_sides)]
    grid: Option<GridSides>,
    /// For dcdm: the number of last directions to which a new one is made conjugate
    #[arg(long, value_name = "K", default_value_t = 2)]
    keep: usize,
}

impl From<MatrixMarketError> for Failure {
    fn from(error: MatrixMarketError) -> Self {
        Self::input(error)
    }
}

impl From<LinearError> for Failure {
    fn from(error: LinearError) -> Self {
        match error {
            LinearError::Cancelled => Self::interrupted(),
            error => Self::input(error),
        }
    }
}

impl From<DcdmError> for Failure {
    fn from(error: DcdmError) -> Self {
        match error {
            DcdmError::Linear(error) => error.into(),
            error if error.is_failure() => Self::run(error),
            error => Self::input(error),
        }
    }
}

#[derive(Serialize)]
struct Told {
    method: Option<&'static str>,
    rows: usize,
    entries: usize,
    /// Rows that are zero, such as cells of an obstacle.
    zero_rows: usize,
    /// Sets of unknowns whose solution is known up to a constant.
    floating: usize,
    tolerance: f64,
    converged: bool,
    /// `‖b − A x‖ / ‖b‖`, computed anew from the files' numbers.
    residual: f64,
    /// The part of the right side that no solution gives.
    inconsistent: f64,
    iterations: usize,
    products: usize,
    /// The shift of an incomplete factorisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    shift: Option<f64>,
    /// Rows of the matrices of a multigrid.
    #[serde(skip_serializing_if = "Option::is_none")]
    levels: Option<Vec<usize>>,
    /// Until the first iteration, without reading.
    preparation_seconds: f64,
    seconds: f64,
    residuals: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plot: Option<PathBuf>,
}

impl Arguments {
    /// Refuses flags that don't fit the method, and outputs that cannot be written.
    fn check(&self) -> Result<(), Failure> {
        let directions = self.method == Method::Directions;
        for (given, flag) in [
            (self.weights.is_some(), "--weights"),
            (self.grid.is_some(), "--grid"),
        ] {
            match (given, directions) {
                (true, false) => {
                    return Err(Failure::input(format!("{flag} is for --method dcdm")));
                }
                (false, true) => {
                    return Err(Failure::input(format!(
                        "--method dcdm needs {flag}: train a network by `nabla train dcdm --grid 64x64 --out DIR`, and name \
                         the grid of the unknowns"
                    )));
                }
                _ => {}
            }
        }
        let inputs = [Some(&self.matrix), Some(&self.right_side), self.x0.as_ref()];
        for path in [&self.out, &self.plot].into_iter().flatten() {
            if inputs.contains(&Some(path)) {
                return Err(Failure::input(format!(
                    "{} is read, so it cannot be written",
                    path.display()
                )));
            }
        }
        if let Some(out) = &self.out {
            plot_file::check_named(out, "Matrix Market file", "mtx")?;
            check_writable(out)?;
        }
        if let Some(plot) = &self.plot {
            plot_file::check(plot)?;
        }
        let solver = ConjugateGradient {
            tolerance: self.tolerance,
            iterations: 1,
        };
        solver.validate().map_err(Failure::input)
    }
}

/// Reads a file, and tells what is unusual in it.
fn read(path: &Path, context: &Context) -> Result<MatrixMarket, Failure> {
    let file = MatrixMarket::read(path)?;
    for note in &file.notes {
        context.note_at_end(&format!("{}: {note}", path.display()));
    }
    Ok(file)
}

fn read_matrix(path: &Path, context: &Context) -> Result<SparseMatrix, Failure> {
    let file = read(path, context)?;
    let at = |line: usize, what: &dyn std::fmt::Display| {
        Failure::input(format!("{}: line {line}: {what}", path.display()))
    };
    if file.symmetry == Symmetry::Skew {
        return Err(at(1, &"a skew-symmetric matrix is not positive definite"));
    }
    SparseMatrix::of_market(&file).map_err(|error| {
        let line = match error {
            LinearError::NotSquare { .. } | LinearError::Empty => Some(file.size_line),
            LinearError::NotSymmetric { row, column, .. } => file
                .line_of_place(row, column)
                .or_else(|| file.line_of_place(column, row)),
            LinearError::Diagonal { row, .. } => file.line_of_place(row, row).or_else(|| {
                let place = file.entries().iter().position(|e| e.row as usize == row);
                place.map(|place| file.line_of(place))
            }),
            LinearError::Entry { row, column, .. } => file.line_of_place(row, column),
            _ => None,
        };
        match line {
            Some(line) => at(line, &error),
            None => Failure::input_because(path.display().to_string(), error),
        }
    })
}

fn read_vector(path: &Path, rows: usize, context: &Context) -> Result<Vec<f64>, Failure> {
    let file = read(path, context)?;
    let line = file.size_line;
    let wrong = |what: String| Failure::input(format!("{}: line {line}: {what}", path.display()));
    let values = file.vector().map_err(|error| wrong(error.to_string()))?;
    match values.len() == rows {
        true => Ok(values),
        false => Err(wrong(format!(
            "the vector has {}, but the matrix has {}",
            count(values.len() as u64, "number"),
            count(rows as u64, "row")
        ))),
    }
}

/// What a preconditioner has to tell.
#[derive(Default)]
struct Prepared {
    shift: Option<f64>,
    levels: Option<Vec<usize>>,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        self.check()?;
        let learnt = self.weights.as_deref().map(LearntDirections::load);
        let learnt = learnt.transpose()?;
        let a = read_matrix(&self.matrix, context)?;
        let b = read_vector(&self.right_side, a.dim(), context)?;
        let x0 = self.x0.as_deref();
        let x0 = x0.map(|path| read_vector(path, a.dim(), context));
        let x0 = x0.transpose()?;
        if let Some(GridSides(sides)) = &self.grid {
            let cells: usize = sides.iter().product();
            if cells != a.dim() {
                return Err(Failure::input(format!(
                    "--grid has {cells} cells, but {} has {}",
                    self.matrix.display(),
                    count(a.dim() as u64, "row")
                )));
            }
        }
        let begun = Instant::now();
        let mut prepared = Prepared::default();
        let mut solving = None;
        let solved = {
            let mut observe = observer(context, self.tolerance);
            let mut observe = |iteration: usize, residual: f64| {
                solving.get_or_insert_with(Instant::now);
                observe(iteration, residual)
            };
            match (&learnt, &self.grid) {
                (Some(learnt), Some(GridSides(sides))) => {
                    let solver = Dcdm {
                        keep: self.keep,
                        tolerance: self.tolerance,
                        iterations: self.max_iterations as usize,
                        ..Dcdm::default()
                    };
                    let model = learnt.on(sides)?;
                    solver.solve_observed(&a, &model, &b, x0.as_deref(), &mut observe)?
                }
                _ => {
                    let m = self.preconditioner(&a, &b, &mut prepared)?;
                    let solver = ConjugateGradient {
                        tolerance: self.tolerance,
                        iterations: self.max_iterations as usize,
                    };
                    solver.solve_observed(&a, &m, &b, x0.as_deref(), &mut observe)?
                }
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        let solving = solving.map_or(0.0, |solving| solving.elapsed().as_secs_f64());
        context.progress().finish();
        context.check()?;
        if let Some(out) = &self.out {
            write_vector(out, &solved.x)?;
        }
        let told = Told {
            method: self.method.choice_name(),
            rows: a.dim(),
            entries: a.stored(),
            zero_rows: a.kernel().zero_rows(),
            floating: a.kernel().dimension() - a.kernel().zero_rows(),
            tolerance: self.tolerance,
            converged: solved.converged,
            residual: certificate(&a, &solved.x, &b),
            inconsistent: solved.inconsistent,
            iterations: solved.iterations,
            products: solved.products,
            shift: prepared.shift,
            levels: prepared.levels,
            preparation_seconds: (seconds - solving).max(0.0),
            seconds,
            residuals: solved.residuals.clone(),
            out: self.out.clone(),
            plot: self.plot.clone(),
        };
        if let Some(plot) = &self.plot {
            plot_file::write(plot, &self.plotted(&solved))?;
        }
        let failure = (!solved.converged).then(|| {
            Failure::run(format!(
                "the residual is {:.1e} after {}, not {:e}: it has not converged",
                told.residual,
                count(solved.iterations as u64, "iteration"),
                self.tolerance
            ))
        });
        let report = context.report(&told, || self.told_of(&told))?;
        Ok(report.ending_in(failure))
    }
}

/// `‖b − A x‖ / ‖b‖`, and 0 if `b` is 0 and `A x` too.
fn certificate(a: &SparseMatrix, x: &[f64], b: &[f64]) -> f64 {
    let mut product = vec![0.0; x.len()];
    a.apply(x, &mut product);
    let difference = nabla::base::vector::distance(&product, b);
    match nabla::base::vector::norm(b) {
        0.0 => difference,
        norm => difference / norm,
    }
}

/// Shows progress as the residual falls, in hundredths of a power of ten.
fn observer<'a>(
    context: &'a Context,
    tolerance: f64,
) -> impl FnMut(usize, f64) -> ControlFlow<()> + 'a {
    let goal = tolerance.max(1e-16);
    let mut done = 0;
    let mut all = None;
    move |iteration, residual| {
        // A matrix that is refused at once is refused without progress.
        if iteration == 0 {
            return context.go_on();
        }
        let left = (100.0 * (residual / goal).log10()).max(0.0) as u64;
        let all = *all.get_or_insert_with(|| {
            context.progress().begin("solving", left);
            left
        });
        let now = all.saturating_sub(left);
        if now > done {
            context.progress().advance(now - done);
            done = now;
        }
        context.go_on()
    }
}

impl Arguments {
    fn preconditioner(
        &self,
        a: &SparseMatrix,
        b: &[f64],
        prepared: &mut Prepared,
    ) -> Result<Box<dyn Preconditioner>, Failure> {
        Ok(match self.method {
            Method::Plain | Method::Directions => Box::new(Identity),
            Method::Jacobi => Box::new(Jacobi::new(a)?),
            Method::Cholesky => {
                let factors = IncompleteCholesky::new(a)?;
                prepared.shift = Some(factors.shift());
                Box::new(factors)
            }
            Method::Multigrid => {
                let multigrid = Multigrid::new(a, &MultigridConfig::default())?;
                prepared.levels = Some(multigrid.rows());
                Box::new(multigrid)
            }
            Method::Deflation if b.iter().all(|b| *b == 0.0) => Box::new(Identity),
            Method::Deflation => {
                let inner = Jacobi::new(a)?;
                Box::new(Deflation::of_krylov_space(a, inner, b, DEFLATED)?)
            }
        })
    }

    fn plotted(&self, solved: &Solved) -> LinePlot {
        let name = self.method.choice_name().unwrap_or_default();
        let points = solved.residuals.iter().enumerate();
        let points: Vec<[f64; 2]> = points.map(|(i, r)| [i as f64, *r]).collect();
        let last = points.last().map_or(1.0, |last| last[0].max(1.0));
        let goal = [[0.0, self.tolerance], [last, self.tolerance]];
        let title = format!("Convergence on {}", self.matrix.display());
        LinePlot::new(title, "iteration", "residual, relative to the right side")
            .log_y()
            .with_series(Series::new(name, points))
            .with_series(Series::new("tolerance", goal))
    }

    fn told_of(&self, told: &Told) -> String {
        let mut text = format!(
            "{} on {} of {}, {} entries: {} in {}, after {} of preparation\n",
            told.method.unwrap_or_default(),
            self.matrix.display(),
            count(told.rows as u64, "row"),
            told.entries,
            count(told.iterations as u64, "iteration"),
            duration(told.seconds - told.preparation_seconds),
            duration(told.preparation_seconds),
        );
        // Writing to a string never fails.
        if told.zero_rows > 0 {
            let zero = count(told.zero_rows as u64, "row");
            let _ = writeln!(text, "{zero} of zeros, where the solution is 0");
        }
        if told.floating > 0 {
            let _ = writeln!(
                text,
                "singular: the solution is one up to a constant in {}, and has the mean 0 there",
                match told.floating {
                    1 => "1 part".to_owned(),
                    parts => format!("{parts} parts"),
                }
            );
        }
        if told.inconsistent > 1e-12 {
            let _ = writeln!(
                text,
                "{:.1e} of the right side lies in the kernel of the matrix, where no solution gives it: the nearest system is solved",
                told.inconsistent
            );
        }
        if let Some(shift) = told.shift.filter(|shift| *shift > 0.0) {
            let _ = writeln!(text, "the factors are those of A + {shift} diag(A)");
        }
        if let Some(levels) = &told.levels {
            let rows: Vec<String> = levels.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "rows of the levels: {}", rows.join(", "));
        }
        let _ = writeln!(
            text,
            "certificate: ‖b − A x‖ / ‖b‖ = {:.3e}, computed anew from x; asked for was {:e}",
            told.residual, told.tolerance
        );
        for (what, file) in [("solution", &told.out), ("plot", &told.plot)] {
            if let Some(file) = file {
                let _ = writeln!(text, "{what}: {}", file.display());
            }
        }
        text
    }
}
