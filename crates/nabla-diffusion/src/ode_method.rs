//! The methods that solve the equation: explicit Runge-Kutta methods, and the two-step method of Adams and
//! Bashforth for steps of any length.

use burn::config::Config;
use burn::tensor::Tensor;

/// How the equation is solved.
///
/// The two-step method starts with a step of Euler's. Every other method forgets all but the state between two
/// steps.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum OdeMethod {
    /// Euler's method: order 1, one call a step. In [`FlowForm::Rho`](crate::adjoint_dpm::FlowForm::Rho) it is DDIM.
    Euler,
    /// The midpoint method: order 2, two calls.
    Midpoint,
    /// Heun's method: order 2, two calls.
    Heun,
    /// The classical method of Runge and Kutta: order 4, four calls.
    RungeKutta4,
    /// The method of Adams and Bashforth with two steps of any length: order 2, one call.
    Adams2,
}

nabla_base::choices! {
    OdeMethod: "method" {
        "euler" => Self::Euler, "Euler's method, which is DDIM";
        "midpoint" => Self::Midpoint, "The midpoint method";
        "heun" => Self::Heun, "Heun's method";
        "rk4" => Self::RungeKutta4, "The classical method of Runge and Kutta";
        "adams2" => Self::Adams2, "Adams and Bashforth's method with two steps";
    }
}

/// An explicit method: `k_j = f(s + c_j h, u + h Σ_l a_jl k_l)`, `u' = u + h Σ_j b_j k_j`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tableau {
    pub(crate) nodes: &'static [f64],
    pub(crate) stages: &'static [&'static [f64]],
    pub(crate) weights: &'static [f64],
}

impl Tableau {
    /// `u'`, a step further.
    ///
    /// - `slope`: of a stage: `k_j`, given `c_j` and `u + h Σ_l a_jl k_l`
    pub(crate) fn step<const D: usize, E>(
        &self,
        u: Tensor<D>,
        length: f64,
        mut slope: impl FnMut(f64, Tensor<D>) -> Result<Tensor<D>, E>,
    ) -> Result<Tensor<D>, E> {
        let mut slopes = Vec::with_capacity(self.nodes.len());
        for (&node, weights) in self.nodes.iter().zip(self.stages) {
            slopes.push(slope(node, plus(u.clone(), &slopes, weights, length))?);
        }
        Ok(plus(u, &slopes, self.weights, length))
    }
}

const EULER: Tableau = Tableau {
    nodes: &[0.0],
    stages: &[&[]],
    weights: &[1.0],
};

const MIDPOINT: Tableau = Tableau {
    nodes: &[0.0, 0.5],
    stages: &[&[], &[0.5]],
    weights: &[0.0, 1.0],
};

const HEUN: Tableau = Tableau {
    nodes: &[0.0, 1.0],
    stages: &[&[], &[1.0]],
    weights: &[0.5, 0.5],
};

const RUNGE_KUTTA_4: Tableau = Tableau {
    nodes: &[0.0, 0.5, 0.5, 1.0],
    stages: &[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    weights: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
};

impl OdeMethod {
    /// The tableau of a step; `None` for the method that remembers a step.
    pub(crate) fn tableau(self) -> Option<&'static Tableau> {
        match self {
            Self::Euler => Some(&EULER),
            Self::Midpoint => Some(&MIDPOINT),
            Self::Heun => Some(&HEUN),
            Self::RungeKutta4 => Some(&RUNGE_KUTTA_4),
            Self::Adams2 => None,
        }
    }

    /// The order of convergence.
    pub fn order(self) -> usize {
        match self {
            Self::Euler => 1,
            Self::Midpoint | Self::Heun | Self::Adams2 => 2,
            Self::RungeKutta4 => 4,
        }
    }

    /// Evaluations of the model (under its guidance) in a step.
    pub fn calls(self) -> usize {
        self.tableau().map_or(1, |tableau| tableau.nodes.len())
    }
}

/// The weights of the slopes at the nodes `n` and `n − 1` in the step `n` of Adams and Bashforth's method, both
/// with the length of the step in them.
///
/// - `lengths`: of all steps
pub(crate) fn adams_weights(lengths: &[f64], step: usize) -> [f64; 2] {
    let length = lengths[step];
    let half = match step {
        0 => 0.0,
        _ => 0.5 * length / lengths[step - 1],
    };
    [length * (1.0 + half), -length * half]
}

/// `u + Σ w_k v_k`, without the terms of weight 0.
pub(crate) fn plus<const D: usize>(
    u: Tensor<D>,
    values: &[Tensor<D>],
    weights: &[f64],
    length: f64,
) -> Tensor<D> {
    let terms = values.iter().zip(weights);
    terms
        .filter(|&(_, &weight)| weight != 0.0)
        .fold(u, |sum, (value, &weight)| {
            sum + value.clone() * (weight * length)
        })
}
