//! What gradients and curvature tell of a network.
//!
//! * [`dynamical_stability`]: whether gradient descent, or SGD with a batch size, can rest at a minimum;
//! * [`sharpness`]: trace, norm, extreme eigenvalues and density of a Hessian from one set of products, and those of a
//!   classifier on examples;
//! * [`classifier_stability`]: between which learning rates SGD leaves the weights of a classifier;
//! * [`coherence`]: how much the gradients of examples agree, and which examples are hard;
//! * [`gauge_freedom`]: which part of a diffusion model's field is a gradient, and the dimension of its data;
//! * [`score_estimation`]: what the training of a score network does in the kernel regime, and when to stop it, by
//!   [`kernel_gradient_descent`];
//! * [`robust_gradients`]: gradients averaged so that directions which serve few examples don't count;
//! * [`two_layer_relu`]: a network small enough for theory.

pub mod classifier_stability;
pub mod coherence;
pub mod dynamical_stability;
pub mod gauge_freedom;
pub mod kernel_gradient_descent;
pub mod robust_gradients;
pub mod score_estimation;
pub mod sharpness;
pub mod two_layer_relu;
