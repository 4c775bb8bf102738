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
//! * [`activation_set`]: activations of a network, with the gradients of its loss by them;
//! * [`sparse_autoencoder`] and [`sae_training`]: activations as sums of few directions, with encoders in [`gradient_sae`] (and top-k),
//!   [`gated_sae`] and [`jump_relu_sae`];
//! * [`feature_effect`]: what a network loses when its activations are replaced by their reconstructions, and what a
//!   direction does to its output;
//! * [`language_features`]: language models, cut in two before a block, and [`feature_page`], which shows their features;
//! * [`encoder_choice`]: the encoders by name;
//! * [`two_layer_relu`]: a network small enough for theory;
//! * [`xor_grokking`]: a laboratory of benign overfitting and grokking.

pub mod activation_set;
pub mod classifier_stability;
pub mod coherence;
pub mod dynamical_stability;
pub mod encoder_choice;
pub mod feature_effect;
pub mod feature_page;
pub mod gated_sae;
pub mod gauge_freedom;
pub mod gradient_sae;
pub mod jump_relu_sae;
pub mod kernel_gradient_descent;
pub mod language_features;
pub mod robust_gradients;
pub mod sae_training;
pub mod score_estimation;
pub mod sharpness;
pub mod sparse_autoencoder;
pub mod two_layer_relu;
pub mod xor_grokking;
