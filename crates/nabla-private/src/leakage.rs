//! What one shared gradient gives away: attacks that rebuild pictures from it, with and without a defence.
//!
//! * [`gradient_oracle`]: how far the gradient of a guess is from the one observed, and how that distance changes with
//!   the guess, without a double backward pass;
//! * [`defence`]: what is observed instead of the gradient; [`soteria`]: which features one of them hides;
//! * [`labels`]: the classes of the pictures, from the last layer's gradient;
//! * attacks on pixels: [`dlg`], [`inverting_gradients`]; [`pixel_prior`]: what they suppose of pictures;
//! * [`grad_inversion`]: several searches of a batch's pixels at once, which keep near their consensus;
//! * attacks through a [staged generator](staged_generator): [`gifd`], of which the search of the latent vector alone is
//!   the first stage, [`gias`], which also searches the generator's weights, and [`ggl`], without derivatives;
//! * [`decoder`]: such a generator, and [`decoder_training`]: how it learns;
//! * [`small_network`]: one to attack in tests and experiments;
//! * [`audit`]: an attack on a batch's gradient with and without defences, measured by [`picture_quality`].

pub mod audit;
pub mod decoder;
pub mod decoder_training;
pub mod defence;
mod descent;
pub mod dlg;
pub mod error;
pub mod ggl;
pub mod gias;
pub mod gifd;
pub mod grad_inversion;
pub mod gradient_oracle;
pub mod inverting_gradients;
pub mod labels;
pub mod picture_quality;
pub mod pixel_prior;
pub mod small_network;
pub mod soteria;
pub mod staged_generator;
#[cfg(test)]
mod two_stages;

pub use defence::{Defence, Hidden, Observed};
pub use error::LeakageError;
pub use gradient_oracle::{Distance, GradientOracle, Matched, Objective};
