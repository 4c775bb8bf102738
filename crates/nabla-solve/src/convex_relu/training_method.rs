//! The default training method of a network.

use nabla_base::choices;

/// A way to train a two-layer ReLU network by a convex program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingMethod {
    /// [`Admm`](super::Admm) on the program of drawn activation patterns.
    Admm,
    /// [`InteriorPoint`](super::InteriorPoint) on the same program: exact, for small problems, and the only
    /// method that trains for the worst case within a radius.
    InteriorPoint,
    /// [`SampledProgram`](super::SampledProgram): the first layer is drawn, the second is solved for.
    DrawnUnits,
}

choices! {
    TrainingMethod: "method" {
        "admm" => Self::Admm, "The alternating direction method of multipliers";
        "interior-point" => Self::InteriorPoint, "An interior-point method";
        "drawn-units" => Self::DrawnUnits, "The first layer is drawn at random, the second is solved for";
    }
}

impl TrainingMethod {
    /// Its name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admm => "ADMM",
            Self::InteriorPoint => "interior-point method",
            Self::DrawnUnits => "drawn units",
        }
    }

    /// The suitable method: the interior-point method for robust training, which the others do not support;
    /// drawn units if their number is given; otherwise ADMM, which handles large problems.
    ///
    /// ```
    /// use nabla_solve::convex_relu::TrainingMethod;
    ///
    /// assert_eq!(TrainingMethod::suited(false, false), TrainingMethod::Admm);
    /// assert_eq!(TrainingMethod::suited(true, false), TrainingMethod::InteriorPoint);
    /// assert_eq!(TrainingMethod::suited(false, true), TrainingMethod::DrawnUnits);
    /// ```
    pub fn suited(robust: bool, drawn_units: bool) -> Self {
        match (robust, drawn_units) {
            (true, _) => Self::InteriorPoint,
            (false, true) => Self::DrawnUnits,
            (false, false) => Self::Admm,
        }
    }
}
