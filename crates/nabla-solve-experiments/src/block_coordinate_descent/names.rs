//! The rows, columns and tasks of the table.

use nabla_claims::{Metric, Task, Variant};

pub(super) const STEPS: Metric = Metric::lower("steps", "");
pub(super) const ROUNDS: Metric = Metric::lower("rounds", "");
pub(super) const SUPPORT: Metric = Metric::lower("steps to the support", "");
pub(super) const CONTRACTION: Metric = Metric::lower("last contraction", "");
pub(super) const CORRELATION: Metric = Metric::informative("correlation in blocks", "");

pub(super) const CYCLIC: Variant = Variant::baseline("cyclic");
pub(super) const RANDOM: Variant = Variant::baseline("random");
pub(super) const LIPSCHITZ: Variant = Variant::baseline("Lipschitz sampling");
pub(super) const GS: Variant = Variant::ablation("GS");
pub(super) const GSL: Variant = Variant::method("GSL");
pub(super) const GSD: Variant = Variant::method("GSD");
pub(super) const GSQ: Variant = Variant::method("GSQ");
pub(super) const MI: Variant = Variant::method("MI");
pub(super) const OMP: Variant = Variant::method("GSQ by pursuit");

pub(super) const STEP_L: Variant = Variant::baseline("gradient, L");
pub(super) const STEP_GUESS: Variant = Variant::ablation("gradient, backtracking");
pub(super) const STEP_LB: Variant = Variant::ablation("gradient, L_b");
pub(super) const MATRIX: Variant = Variant::method("matrix");
pub(super) const NEWTON: Variant = Variant::method("Newton");

pub(super) const IN_ORDER: Variant = Variant::baseline("blocks in order");
pub(super) const AT_RANDOM: Variant = Variant::baseline("blocks at random");
pub(super) const AVERAGED: Variant = Variant::ablation("averaged blocks");
pub(super) const SORTED: Variant = Variant::method("sorted blocks");

pub(super) const SIZES: [(usize, Variant); 4] = [
    (1, Variant::ablation("1 coordinate")),
    (5, Variant::ablation("5 coordinates")),
    (20, Variant::ablation("20 coordinates")),
    (50, Variant::ablation("50 coordinates")),
];

pub(super) const GREEDY_TREES: Variant = Variant::method("greedy trees (GS)");
pub(super) const GREEDY_TREES_L: Variant = Variant::method("greedy trees (GSL)");
pub(super) const RANDOM_TREES: Variant = Variant::ablation("random trees");
pub(super) const FIXED_TREES: Variant = Variant::ablation("fixed trees");
pub(super) const RED_BLACK: Variant = Variant::baseline("red-black");
pub(super) const DENSE: Variant = Variant::baseline("dense blocks (GS)");
pub(super) const DENSE_L: Variant = Variant::baseline("dense blocks (GSL)");

pub(super) const PROXIMAL_NEWTON: Variant = Variant::method("proximal Newton");
pub(super) const TWO_METRIC: Variant = Variant::method("two-metric");
pub(super) const PROXIMAL_GRADIENT: Variant = Variant::baseline("proximal gradient");
pub(super) const SMALL_NEWTON: Variant = Variant::ablation("proximal Newton, 5 coordinates");
pub(super) const CYCLIC_COORDINATES: Variant = Variant::baseline("cyclic coordinates");

/// The rules with which the paper compares its own.
pub(super) const NOT_GREEDY: [Variant; 3] = [CYCLIC, RANDOM, LIPSCHITZ];

/// The smooth problems, which have several parts, each with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Smooth {
    Squares,
    Logistic,
    Softmax,
}

impl Smooth {
    pub(super) const ALL: [Self; 3] = [Self::Squares, Self::Logistic, Self::Softmax];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Squares => "least squares, digits",
            Self::Logistic => "logistic, Fashion",
            Self::Softmax => "softmax, digits",
        }
    }

    /// One part of a smooth problem.
    pub(super) fn task(self, part: Part) -> Task {
        Task::of(format!("{}: {}", self.name(), part.name()))
    }
}

/// The setting that is varied on a smooth problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The rules, in each of four ways.
    Rules {
        variable: bool,
        matrix: bool,
    },
    Updates,
    Partitions,
    SizesGradient,
    SizesMatrix,
}

/// The four ways in which the rules are compared.
pub(super) const WAYS: [Part; 4] = [
    way(false, false),
    way(false, true),
    way(true, false),
    way(true, true),
];

pub(super) const fn way(variable: bool, matrix: bool) -> Part {
    Part::Rules { variable, matrix }
}

impl Part {
    pub(super) const ALL: [Self; 8] = [
        WAYS[0],
        WAYS[1],
        WAYS[2],
        WAYS[3],
        Self::Updates,
        Self::Partitions,
        Self::SizesGradient,
        Self::SizesMatrix,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rules { variable, matrix } => match (variable, matrix) {
                (false, false) => "fixed blocks, gradient",
                (false, true) => "fixed blocks, matrix",
                (true, false) => "variable blocks, gradient",
                (true, true) => "variable blocks, matrix",
            },
            Self::Updates => "updates (GS, fixed blocks)",
            Self::Partitions => "partitions (GS, gradient)",
            Self::SizesGradient => "sizes (GSL, fixed blocks, gradient)",
            Self::SizesMatrix => "sizes (GSD, variable blocks, matrix)",
        }
    }
}

pub(super) const PROPAGATION: Task = Task::named("label propagation, digits");
pub(super) const SPARSE_SQUARES: Task = Task::named("non-negative l1 least squares, digits");
pub(super) const SPARSE_LOGISTIC: Task = Task::named("l1 logistic, Fashion");
pub(super) const SPARSE: [Task; 2] = [SPARSE_SQUARES, SPARSE_LOGISTIC];

/// The subject of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Smooth(Smooth, Part),
    Propagation,
    SparseSquares,
    SparseLogistic,
}

impl Subject {
    pub(super) fn task(self) -> Task {
        match self {
            Self::Smooth(problem, part) => problem.task(part),
            Self::Propagation => PROPAGATION,
            Self::SparseSquares => SPARSE_SQUARES,
            Self::SparseLogistic => SPARSE_LOGISTIC,
        }
    }
}

pub(super) fn variants() -> Vec<Variant> {
    let method = [GSL, GSD, GSQ, OMP, MI, NEWTON, MATRIX, SORTED];
    let method =
        method
            .into_iter()
            .chain([GREEDY_TREES, GREEDY_TREES_L, PROXIMAL_NEWTON, TWO_METRIC]);
    let ablation = [
        GS,
        STEP_LB,
        STEP_GUESS,
        AVERAGED,
        RANDOM_TREES,
        FIXED_TREES,
        SMALL_NEWTON,
    ];
    let ablation = SIZES.map(|(_, size)| size).into_iter().chain(ablation);
    let baseline = NOT_GREEDY
        .into_iter()
        .chain([STEP_L, IN_ORDER, AT_RANDOM, RED_BLACK]);
    let baseline = baseline.chain([DENSE, DENSE_L, PROXIMAL_GRADIENT, CYCLIC_COORDINATES]);
    method.chain(ablation).chain(baseline).collect()
}
