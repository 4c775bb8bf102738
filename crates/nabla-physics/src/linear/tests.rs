use nabla_grad::seeded_noise::SeededNoise;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Reference {
    problems: Vec<Problem>,
    white: Vec<White>,
}

#[derive(Deserialize)]
struct Problem {
    name: String,
    sides: Vec<usize>,
    tolerance: f64,
    entries: usize,
    product: f64,
    cg: History,
    jacobi: History,
    ic: History,
    amg: History,
    amg_rows: Vec<usize>,
    deflated: usize,
    x: f64,
}

#[derive(Deserialize)]
struct History {
    iterations: usize,
    residuals: Vec<f64>,
}

#[derive(Deserialize)]
struct White {
    n: usize,
    b: Vec<f64>,
    cg: usize,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../tests/reference/linear.json")).unwrap()
}

fn right_side(a: &PoissonGrid) -> Vec<f64> {
    let value = |i: usize| (1.7 * i as f64 + 0.001 * (i * i) as f64).sin();
    (0..a.dim()).map(value).collect()
}

/// A disc, or ball, in the middle.
fn disc(sides: &[usize]) -> Vec<Cell> {
    let width = sides[sides.len() - 1];
    let radius = width as f64 / 5.0;
    let count: usize = sides.iter().product();
    let cell = |mut index: usize| {
        let mut square = 0.0;
        for &side in sides.iter().rev() {
            square += ((index % side) as f64 - (side as f64 - 1.0) / 2.0).powi(2);
            index /= side;
        }
        match square < radius * radius {
            true => Cell::Solid,
            false => Cell::Fluid,
        }
    };
    (0..count).map(cell).collect()
}

fn grid_of(problem: &Problem) -> PoissonGrid {
    let sides = &problem.sides;
    match problem.name.as_str() {
        "disc" => PoissonGrid::with_cells(sides, Border::Dirichlet, &disc(sides)).unwrap(),
        _ => PoissonGrid::new(sides, Border::Dirichlet).unwrap(),
    }
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (found - expected).abs() / expected.abs();
    assert!(error < tolerance, "{what}: {found} {expected}");
}

/// SciPy's conjugate gradients, ilupp's incomplete Cholesky and pyamg's smoothed aggregation, on the fluid cells alone.
#[test]
fn iterations_and_residuals_are_those_of_other_packages() {
    for problem in reference().problems {
        let grid = grid_of(&problem);
        let matrix = grid.matrix();
        assert_eq!(matrix.stored(), problem.entries, "{}", problem.name);
        let raw = right_side(&grid);
        let mut y = vec![0.0; raw.len()];
        grid.apply(&raw, &mut y);
        close(dot(&y, &y), problem.product, 1e-12, "product");
        let mut by_matrix = vec![1.0; raw.len()];
        matrix.apply(&raw, &mut by_matrix);
        for (a, b) in y.iter().zip(&by_matrix) {
            assert!((a - b).abs() < 1e-13, "{}: {a} {b}", problem.name);
        }
        // Zero in obstacles: the part in the kernel is not asked for.
        let mut b = raw;
        grid.kernel().project(&mut b);
        let solver = ConjugateGradient {
            tolerance: problem.tolerance,
            iterations: 10_000,
        };
        let check = |report: Report, expected: &History, slack: usize, what: &str| {
            let what = format!("{}, {what}", problem.name);
            assert!(
                report.converged && report.true_residual <= problem.tolerance,
                "{what}"
            );
            assert_eq!(report.inconsistent, 0.0, "{what}");
            let difference = report.iterations.abs_diff(expected.iterations);
            assert!(
                difference <= slack,
                "{what}: {} {}",
                report.iterations,
                expected.iterations
            );
            if slack <= 1 {
                for (found, expected) in report.residuals.iter().zip(&expected.residuals) {
                    close(*found, *expected, 1e-8, &what);
                }
            }
            close(dot(&report.x, &b), problem.x, 1e-7, &what);
        };
        let found = solver.solve(&grid, &Identity, &b).unwrap();
        check(found, &problem.cg, 1, "cg");
        let found = solver
            .solve(&matrix, &Jacobi::new(&grid).unwrap(), &b)
            .unwrap();
        check(found, &problem.jacobi, 1, "jacobi");
        let cholesky = IncompleteCholesky::new(&matrix).unwrap();
        assert_eq!(cholesky.shift(), 0.0);
        let found = solver.solve(&grid, &cholesky, &b).unwrap();
        check(found, &problem.ic, 1, "ic");
        // Aggregates depend on the order and the estimate of the radius on its start.
        let multigrid = Multigrid::new(&matrix, &MultigridConfig::default()).unwrap();
        assert_eq!(
            multigrid.rows().len(),
            problem.amg_rows.len(),
            "{:?}",
            multigrid.rows()
        );
        let found = solver.solve(&grid, &multigrid, &b).unwrap();
        check(found, &problem.amg, 2, "amg");
        let deflated = Deflation::of_krylov_space(&grid, Jacobi::new(&grid).unwrap(), &b, 16);
        let found = solver.solve(&grid, &deflated.unwrap(), &b).unwrap();
        let difference = found.iterations.abs_diff(problem.deflated);
        assert!(
            difference <= 2,
            "{}: {} {}",
            problem.name,
            found.iterations,
            problem.deflated
        );
    }
    for White { n, b, cg } in reference().white {
        let grid = PoissonGrid::new(&[n, n], Border::Dirichlet).unwrap();
        let solver = ConjugateGradient {
            tolerance: 1e-4,
            iterations: 1000,
        };
        assert_eq!(solver.solve(&grid, &Identity, &b).unwrap().iterations, cg);
    }
}

/// Every preconditioner is symmetric and positive definite.
#[test]
fn preconditioners_are_symmetric() {
    let sides = [12, 14];
    let grid = PoissonGrid::with_cells(&sides, Border::Neumann, &disc(&sides)).unwrap();
    let matrix = grid.matrix();
    let config = MultigridConfig {
        coarsest: 10,
        ..MultigridConfig::default()
    };
    let all: [Box<dyn Preconditioner>; 3] = [
        Box::new(Jacobi::new(&grid).unwrap()),
        Box::new(IncompleteCholesky::new(&matrix).unwrap()),
        Box::new(Multigrid::new(&matrix, &config).unwrap()),
    ];
    let mut noise = SeededNoise::new(0, 0);
    let mut vector = || {
        let mut x: Vec<f64> = noise
            .normal_values(168)
            .into_iter()
            .map(f64::from)
            .collect();
        grid.kernel().project(&mut x);
        x
    };
    let (x, y) = (vector(), vector());
    for m in &all {
        let (mut mx, mut my) = (vec![0.0; 168], vec![0.0; 168]);
        m.apply(&x, &mut mx);
        m.apply(&y, &mut my);
        let [one, other] = [dot(&mx, &y), dot(&x, &my)];
        assert!((one - other).abs() < 1e-10 * dot(&mx, &x), "{one} {other}");
        assert!(dot(&mx, &x) > 0.0);
    }
}

/// A region of walls alone has a solution up to a constant, and one for right sides without a mean only.
#[test]
fn singular_systems_are_solved_in_the_complement_of_their_kernel() {
    let sides = [16, 20];
    let grid = PoissonGrid::with_cells(&sides, Border::Neumann, &disc(&sides)).unwrap();
    let solids = disc(&sides).iter().filter(|&&c| c == Cell::Solid).count();
    assert_eq!(grid.kernel().zero_rows(), solids);
    assert_eq!(grid.kernel().dimension(), solids + 1);
    assert_eq!(grid.unknowns(), 320 - solids);
    let matrix = grid.matrix();
    // The same is found from the rows of a matrix.
    let entries: Vec<_> = (0..320)
        .flat_map(|row| sparse::entries(matrix.rows(), row).map(move |(c, v)| (row, c, v)))
        .collect();
    let again = SparseMatrix::of_entries(320, &entries).unwrap();
    assert_eq!(again.kernel(), grid.kernel());
    let mut x: Vec<f64> = (0..320).map(|i| (i as f64).cos()).collect();
    grid.kernel().project(&mut x);
    let mut b = vec![0.0; 320];
    grid.apply(&x, &mut b);
    let multigrid = Multigrid::new(&again, &MultigridConfig::default()).unwrap();
    let all: [Box<dyn Preconditioner>; 4] = [
        Box::new(Identity),
        Box::new(Jacobi::new(&grid).unwrap()),
        Box::new(IncompleteCholesky::new(&matrix).unwrap()),
        Box::new(multigrid),
    ];
    let solver = ConjugateGradient {
        tolerance: 1e-10,
        iterations: 1000,
    };
    for m in &all {
        let found = solver.solve(&grid, m, &b).unwrap();
        assert!(found.converged);
        assert!(found.inconsistent < 1e-14);
        for (found, expected) in found.x.iter().zip(&x) {
            assert!((found - expected).abs() < 1e-7, "{found} {expected}");
        }
    }
    // With a mean there is no solution, but the nearest is found and the part that is left is told.
    let mean = vec![1.0; 320];
    let found = solver.solve(&grid, &Identity, &mean).unwrap();
    assert!((found.inconsistent - 1.0).abs() < 1e-14 && found.converged);
    assert!(found.x.iter().all(|x| *x == 0.0));
}

/// Biharmonic: no M-matrix, so that the factorisation needs a shift; and what is not positive definite is refused.
#[test]
fn matrices_that_are_no_m_matrices_are_solved_or_refused() {
    let n = 24;
    let grid = PoissonGrid::new(&[n, n], Border::Dirichlet).unwrap();
    let laplacian = grid.matrix();
    let dim = n * n;
    let mut entries = Vec::new();
    for row in 0..dim {
        for (middle, a) in sparse::entries(laplacian.rows(), row) {
            for (column, b) in sparse::entries(laplacian.rows(), middle) {
                entries.push((row, column, a * b));
            }
        }
    }
    let square = SparseMatrix::of_entries(dim, &entries).unwrap();
    let cholesky = IncompleteCholesky::new(&square).unwrap();
    assert!(cholesky.shift() > 0.0);
    let b = right_side(&grid);
    let solver = ConjugateGradient::default();
    let plain = solver.solve(&square, &Identity, &b).unwrap();
    let found = solver.solve(&square, &cholesky, &b).unwrap();
    assert!(plain.converged && found.converged);
    assert!(
        2 * found.iterations < plain.iterations,
        "{} {}",
        found.iterations,
        plain.iterations
    );

    let of = |entries: &[(usize, usize, f64)]| SparseMatrix::of_entries(2, entries);
    let told = |entries: &[(usize, usize, f64)]| of(entries).unwrap_err().to_string();
    let identity = [(0, 0, 1.0), (1, 1, 1.0)];
    let with = |more: &[(usize, usize, f64)]| [&identity, more].concat();
    assert_eq!(
        told(&with(&[(0, 1, 0.5)])),
        "the matrix is not symmetric: its entry (1, 2) is 0.5, but (2, 1) is 0"
    );
    assert!(told(&with(&[(0, 0, f64::NAN)])).contains("entry (1, 1) of the matrix is NaN"));
    assert_eq!(
        told(&[(0, 0, 1.0), (1, 1, -2.0)]),
        "the matrix is not positive definite: its entry (2, 2) on the diagonal is -2"
    );
    assert!(
        told(&[(0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0)])
            .contains("entry (2, 2) on the diagonal is 0")
    );
    let indefinite = of(&with(&[(0, 1, 3.0), (1, 0, 3.0)])).unwrap();
    let error = solver
        .solve(&indefinite, &Identity, &[1.0, -1.0])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("not positive definite: in iteration 1"),
        "{error}"
    );
    // A shift makes it factorable, but not definite.
    let cholesky = IncompleteCholesky::new(&indefinite).unwrap();
    assert!(solver.solve(&indefinite, &cholesky, &[1.0, -1.0]).is_err());
    let error = solver.solve(&indefinite, &Identity, &[1.0]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("right side has 1 numbers, but the matrix has 2 rows")
    );
    let error = solver
        .solve(&indefinite, &Identity, &[1.0, f64::INFINITY])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("number 2 of the right side is inf")
    );
}

#[test]
fn starts_zeros_limits_and_observers() {
    let grid = PoissonGrid::new(&[10, 10, 10], Border::Dirichlet).unwrap();
    let b = right_side(&grid);
    let solver = ConjugateGradient {
        tolerance: 1e-12,
        iterations: 200,
    };
    let exact = solver.solve(&grid, &Identity, &b).unwrap();
    assert!(exact.converged && exact.true_residual <= 1e-12);
    // From the solution there is nothing left to do.
    let again = solver
        .solve_observed(&grid, &Identity, &b, Some(&exact.x), &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((again.iterations, again.converged), (0, true));
    let zero = solver.solve(&grid, &Identity, &vec![0.0; 1000]).unwrap();
    assert_eq!(
        (zero.iterations, zero.true_residual, zero.converged),
        (0, 0.0, true)
    );
    let few = ConjugateGradient {
        iterations: 3,
        ..solver
    };
    let found = few.solve(&grid, &Identity, &b).unwrap();
    assert_eq!(
        (found.iterations, found.converged, found.residuals.len()),
        (3, false, 4)
    );
    close(
        found.true_residual,
        found.residuals[3],
        1e-12,
        "true residual",
    );
    // Nothing is below rounding: the true residual ends it, not the recurrence's.
    let never = ConjugateGradient {
        tolerance: 1e-18,
        iterations: 2000,
    };
    let found = never.solve(&grid, &Identity, &b).unwrap();
    assert!(!found.converged && found.true_residual > 1e-18 && found.true_residual < 1e-13);
    let mut seen = 0;
    let ended = solver.solve_observed(&grid, &Identity, &b, None, &mut |iteration, _| {
        seen = iteration;
        if iteration == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(ended, Err(LinearError::Cancelled)));
    assert_eq!(seen, 2);
}

/// Sums are over parts of a fixed size, in order.
#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let sides = [40, 41, 42];
    let grid = PoissonGrid::with_cells(&sides, Border::Dirichlet, &disc(&sides)).unwrap();
    let mut b = right_side(&grid);
    grid.kernel().project(&mut b);
    let solve = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let matrix = grid.matrix();
            let multigrid = Multigrid::new(&matrix, &MultigridConfig::default()).unwrap();
            let solver = ConjugateGradient::default();
            let plain = solver.solve(&grid, &Identity, &b).unwrap();
            [plain, solver.solve(&matrix, &multigrid, &b).unwrap()]
        })
    };
    assert_eq!(solve(1), solve(3));
}

#[test]
fn grids_are_checked() {
    let told = |sides: &[usize]| {
        PoissonGrid::new(sides, Border::Dirichlet)
            .unwrap_err()
            .to_string()
    };
    assert!(told(&[4]).contains("2 or 3 sides, but 1"));
    assert!(told(&[4, 0]).contains("between 1 and"));
    assert!(told(&[1 << 20, 1 << 20]).contains("between 1 and"));
    let cells = |cells: &[Cell]| PoissonGrid::with_cells(&[2, 2], Border::Dirichlet, cells);
    let error = cells(&[Cell::Fluid]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("mask has 1 numbers, but the matrix has 4 rows")
    );
    assert!(
        cells(&[Cell::Solid; 4])
            .unwrap_err()
            .to_string()
            .contains("no cell")
    );
    // A fixed cell counts on the diagonals beside it, a solid one does not.
    let grid = cells(&[Cell::Fluid, Cell::Fixed, Cell::Solid, Cell::Fluid]).unwrap();
    assert_eq!(grid.diagonal(), [3.0, 0.0, 0.0, 3.0]);
}
