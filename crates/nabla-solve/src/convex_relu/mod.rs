//! Training two-layer ReLU networks to global optimality, as a convex program.
//!
//! This is for tables of up to some thousand examples: it needs no learning rate and no luck with the seed,
//! and gives a lower bound that shows how good the result is. For the network `f(x) = Σ_j (x·u_j)_+ α_j`, the
//! problem
//!
//! ```text
//! min_{u, α} ℓ(Σ_j (X u_j)_+ α_j, y) + β/2 Σ_j (‖u_j‖² + α_j²)          X [n, d], y [n]
//! ```
//!
//! is, if the network is wide enough, equivalent to the convex program
//!
//! ```text
//! min_{v, w} ℓ(Σ_i D_i X (v_i − w_i), y) + β Σ_i (‖v_i‖ + ‖w_i‖)
//! with (2D_i − I) X v_i ≥ 0,  (2D_i − I) X w_i ≥ 0
//! ```
//!
//! over all activation patterns `D_i = diag(1[X h ≥ 0])` of the data. The network follows from the solution:
//! `u = v_i/√‖v_i‖, α = √‖v_i‖` and `u = w_i/√‖w_i‖, α = −√‖w_i‖`. With only some of the patterns, its value
//! may be above the optimum of training. The result is then the best network with these patterns, and
//! gradient descent, which can choose others, may find a better one.
//!
//! | | |
//! |---|---|
//! | [`ActivationPatterns`] | the `D_i`: sampled, for perturbed data, or all; [`sample_size`] tells how many |
//! | [`Admm`] | the paper's algorithm: quadratic cost per iteration, all losses |
//! | [`SampledProgram`] | the paper's second algorithm: a drawn first layer, no constraints |
//! | [`InteriorPoint`] | to high accuracy for small problems; adversarial training ([module](interior_point)) |
//! | [`BackPropagation`], [`Attack`] | a baseline, and attacks to measure robustness |
//!
//! ```
//! use std::ops::ControlFlow;
//! use nabla_data::LabelledRows;
//! use nabla_solve::convex_relu::*;
//!
//! let rows: LabelledRows = "1 1:1 2:1\n1 1:-1 2:-1\n-1 1:1 2:-1\n-1 1:-1 2:1\n".parse()?;
//! let examples = DenseExamples::try_from(&rows)?;
//! let problem = ConvexReluProblem::new(&examples, Loss::BinaryCrossEntropy, 0.01, true)?;
//! let patterns = ActivationPatterns::sample(&problem, PatternSampling::new(50))?;
//! let solution = Admm::new().solve(&problem, &patterns, Form::Relu, |_| ControlFlow::Continue(()))?;
//! let network = solution.network();
//! assert_eq!(network.accuracy(&examples)?, 1.0);
//! println!("{}", serde_json::to_string(&network)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The loss is a sum over the examples: multiply a `β` for a mean by `n`. ADMM works best with features of a
//! size of about 1. Everything is `f64` on the CPU; the same seed gives the same bits.
//!
//! Sources: Bai, Gautam, Sojoudi, *Efficient Global Optimization of Two-layer ReLU Networks:
//! Quadratic-time Algorithms and Adversarial Training*, SIAM Journal on Mathematics of Data Science
//! 2023, arXiv 2201.01965; Pilanci, Ergen, *Neural Networks are Convex Regularizers: Exact
//! Polynomial-time Convex Optimization Formulations for Two-layer Networks*, ICML 2020,
//! arXiv 2002.10553.

pub mod admm;
pub mod attack;
pub mod back_propagation;
mod error;
pub mod interior_point;
mod loss;
mod network;
pub mod patterns;
mod problem;
mod ridge_system;
pub mod sampled_program;
mod training_method;

pub use admm::{Admm, AdmmStep, Penalty, PrimalStep};
pub use attack::Attack;
pub use back_propagation::{BackPropagation, BackPropagationStep};
pub use error::ConvexReluError;
pub use interior_point::InteriorPoint;
pub use loss::Loss;
pub use network::{GatedRelu, TwoLayerRelu};
pub use patterns::{ActivationPatterns, PatternSampling, pattern_bound, sample_size};
pub use problem::{ConvexReluProblem, ConvexReluSolution, DenseExamples, Form};
pub use sampled_program::{SampledProgram, SampledSolution};
pub use training_method::TrainingMethod;
