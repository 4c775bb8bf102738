//! Poisson's equation on a grid with obstacles, without a matrix.

use faer::sparse::{SparseRowMat, SymbolicSparseRowMat};
use rayon::prelude::*;

use super::{Kernel, LinearError, SparseMatrix, SpdOperator};

/// What a cell of a grid is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cell {
    /// An unknown.
    #[default]
    Fluid,
    /// An obstacle through which nothing flows (Neumann); its row and column are zero.
    Solid,
    /// A place where the solution is 0 (Dirichlet); its row and column are zero.
    Fixed,
}

/// What is around the grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Border {
    /// Cells where the solution is 0.
    #[default]
    Dirichlet,
    /// Walls through which nothing flows.
    Neumann,
}

/// The negative Laplacian of a grid of two or three dimensions, with spacing 1:
///
/// ```text
/// (A x)_i = Σ_j (x_i − x_j)      over neighbours j that are fluid, or fixed with x_j = 0
/// ```
///
/// so 4 on the diagonal and −1 beside it inside a plane, 6 and −1 inside a volume. All cells are numbered, the last index fastest;
/// those that are not fluid have zero rows.
///
/// ```
/// use nabla_physics::linear::{Border, PoissonGrid, SpdOperator};
///
/// let grid = PoissonGrid::new(&[2, 3], Border::Dirichlet)?;
/// let mut y = [0.0; 6];
/// grid.apply(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], &mut y);
/// assert_eq!(y, [4.0, -1.0, 0.0, -1.0, 0.0, 0.0]);
/// # Ok::<(), nabla_physics::linear::LinearError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PoissonGrid {
    /// Depth, height, width; a plane has the depth 1.
    sides: [usize; 3],
    dimensions: usize,
    /// For each cell: which of the six neighbours are unknowns linked to it, as bits.
    links: Vec<u8>,
    /// The number on the diagonal, 0 of cells that are not fluid.
    degrees: Vec<u8>,
    /// Of each line along the width: whether all but its ends are linked to all neighbours.
    inner: Vec<bool>,
    kernel: Kernel,
}

/// The most cells of a grid.
const MOST: usize = 1 << 28;

impl PoissonGrid {
    /// A grid without obstacles.
    ///
    /// - `sides`: 2 or 3 of them
    ///
    /// # Errors
    /// If there is another number of sides, one is 0, or the grid is too large.
    pub fn new(sides: &[usize], border: Border) -> Result<Self, LinearError> {
        Self::build(sides, border, None)
    }

    /// A grid with obstacles.
    ///
    /// - `cells`: the last index fastest
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the number of cells is another or none is fluid.
    pub fn with_cells(
        sides: &[usize],
        border: Border,
        cells: &[Cell],
    ) -> Result<Self, LinearError> {
        Self::build(sides, border, Some(cells))
    }

    fn build(sides: &[usize], border: Border, cells: Option<&[Cell]>) -> Result<Self, LinearError> {
        let shape = match *sides {
            [height, width] => [1, height, width],
            [depth, height, width] => [depth, height, width],
            _ => {
                return Err(LinearError::Grid(format!(
                    "a grid has 2 or 3 sides, but {} are given",
                    sides.len()
                )));
            }
        };
        let count = shape
            .iter()
            .try_fold(1_usize, |count, side| count.checked_mul(*side));
        let count = count.filter(|count| (1..=MOST).contains(count));
        let count = count.ok_or_else(|| {
            LinearError::Grid(format!(
                "a grid of the sides {sides:?} must have between 1 and {MOST} cells"
            ))
        })?;
        if let Some(cells) = cells {
            if cells.len() != count {
                return Err(LinearError::Length {
                    what: "mask",
                    expected: count,
                    found: cells.len(),
                });
            }
            if !cells.contains(&Cell::Fluid) {
                return Err(LinearError::Grid("no cell of the grid is fluid".to_owned()));
            }
        }
        let cell = |index: usize| cells.map_or(Cell::Fluid, |cells| cells[index]);
        let [_, height, width] = shape;
        let (mut links, mut degrees) = (vec![0_u8; count], vec![0_u8; count]);
        let first = 3 - sides.len();
        for index in 0..count {
            if cell(index) != Cell::Fluid {
                continue;
            }
            let at = [
                index / (height * width),
                index / width % height,
                index % width,
            ];
            let steps = [height * width, width, 1];
            for axis in first..3 {
                let before = (at[axis] > 0).then(|| index - steps[axis]);
                let after = (at[axis] + 1 < shape[axis]).then(|| index + steps[axis]);
                for (side, other) in [before, after].into_iter().enumerate() {
                    let found = match (other, border) {
                        (Some(other), _) => cell(other),
                        (None, Border::Dirichlet) => Cell::Fixed,
                        (None, Border::Neumann) => Cell::Solid,
                    };
                    match found {
                        Cell::Fluid => {
                            links[index] |= 1 << (2 * axis + side);
                            degrees[index] += 1;
                        }
                        Cell::Fixed => degrees[index] += 1,
                        Cell::Solid => {}
                    }
                }
            }
        }
        let all = ((1_u16 << 6) - (1 << (2 * first))) as u8;
        let lines = links.chunks(width);
        let inner = lines.map(|line| {
            let ends = 1..width.saturating_sub(1).max(1);
            line[ends].iter().all(|&links| links == all)
        });
        let inner = inner.collect();
        let mut grid = Self {
            sides: shape,
            dimensions: sides.len(),
            links,
            degrees,
            inner,
            kernel: Kernel::default(),
        };
        grid.kernel = Kernel::find(
            count,
            |index| grid.links[index].count_ones() == u32::from(grid.degrees[index]),
            |index, call| grid.linked(index).for_each(call),
        );
        Ok(grid)
    }

    /// The sides, 2 or 3.
    pub fn sides(&self) -> &[usize] {
        &self.sides[3 - self.dimensions..]
    }

    /// Whether a cell is an unknown. A fluid cell with neither a fluid nor a fixed neighbour is none.
    pub fn is_unknown(&self, index: usize) -> bool {
        self.degrees[index] > 0
    }

    /// How many unknowns there are.
    pub fn unknowns(&self) -> usize {
        self.degrees.iter().filter(|&&degree| degree > 0).count()
    }

    /// Distances to the six neighbours, in the order of the bits.
    fn steps(&self) -> [isize; 6] {
        let [_, height, width] = self.sides.map(|side| side as isize);
        let plane = height * width;
        [-plane, plane, -width, width, -1, 1]
    }

    /// The unknowns that are linked to one, rising.
    fn linked(&self, index: usize) -> impl Iterator<Item = usize> {
        let (links, steps) = (self.links[index], self.steps());
        [0, 2, 4, 5, 3, 1]
            .into_iter()
            .filter(move |bit| links >> bit & 1 == 1)
            .map(move |bit| (index as isize + steps[bit]) as usize)
    }

    /// The same as a matrix.
    pub fn matrix(&self) -> SparseMatrix {
        let n = self.dim();
        let mut starts = vec![0_u32; n + 1];
        let most = 7 * self.unknowns();
        let (mut columns, mut values) = (Vec::with_capacity(most), Vec::with_capacity(most));
        for row in 0..n {
            let degree = self.degrees[row];
            if degree > 0 {
                let mut put = |column: usize, value: f64| {
                    columns.push(column as u32);
                    values.push(value);
                };
                let (mut before, mut after) = ([0; 3], [0; 3]);
                let (mut lower, mut upper) = (0, 0);
                for other in self.linked(row) {
                    match other < row {
                        true => {
                            before[lower] = other;
                            lower += 1;
                        }
                        false => {
                            after[upper] = other;
                            upper += 1;
                        }
                    }
                }
                before[..lower].iter().for_each(|&other| put(other, -1.0));
                put(row, f64::from(degree));
                after[..upper].iter().for_each(|&other| put(other, -1.0));
            }
            starts[row + 1] = columns.len() as u32;
        }
        let symbolic = SymbolicSparseRowMat::new_checked(n, n, starts, None, columns);
        SparseMatrix::with_kernel(SparseRowMat::new(symbolic, values), self.kernel.clone())
    }
}

impl SpdOperator for PoissonGrid {
    fn dim(&self) -> usize {
        self.links.len()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        let width = self.sides[2];
        let steps = self.steps();
        let degree = 2.0 * self.dimensions as f64;
        // Whole lines for each thread.
        let lines = (super::CHUNK / width).max(1);
        y.par_chunks_mut(lines * width)
            .enumerate()
            .for_each(|(part, y)| {
                for (line, y) in y.chunks_mut(width).enumerate() {
                    let line = part * lines + line;
                    let begin = line * width;
                    let one = |at: usize| {
                        let index = begin + at;
                        let links = self.links[index];
                        let mut sum = f64::from(self.degrees[index]) * x[index];
                        for (bit, step) in steps.iter().enumerate() {
                            if links >> bit & 1 == 1 {
                                sum -= x[(index as isize + step) as usize];
                            }
                        }
                        // Not 0 times what may be infinite.
                        if self.degrees[index] == 0 { 0.0 } else { sum }
                    };
                    if !self.inner[line] || width < 3 {
                        y.iter_mut().enumerate().for_each(|(at, y)| *y = one(at));
                        continue;
                    }
                    y[0] = one(0);
                    y[width - 1] = one(width - 1);
                    let inside = |step: isize| {
                        let from = (begin as isize + 1 + step) as usize;
                        &x[from..from + width - 2]
                    };
                    let y = &mut y[1..width - 1];
                    let here = inside(0);
                    let (west, east) = (inside(-1), inside(1));
                    let (north, south) = (inside(steps[2]), inside(steps[3]));
                    match self.dimensions {
                        2 => {
                            for at in 0..y.len() {
                                let sum = west[at] + east[at] + (north[at] + south[at]);
                                y[at] = degree * here[at] - sum;
                            }
                        }
                        _ => {
                            let (below, above) = (inside(steps[0]), inside(steps[1]));
                            for at in 0..y.len() {
                                let plane = west[at] + east[at] + (north[at] + south[at]);
                                y[at] = degree * here[at] - (plane + (below[at] + above[at]));
                            }
                        }
                    }
                }
            });
    }

    fn diagonal(&self) -> Vec<f64> {
        self.degrees.iter().map(|&degree| degree.into()).collect()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }
}
