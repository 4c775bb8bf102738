//! The network as training and sampling see it.

use burn::tensor::Tensor;

use crate::rddm::ResidualNetwork;
use crate::sampler_error::{IntoOwnResult, OwnError};
use crate::unet::UNet;

/// A network that predicts the outputs of an [`Objective`](crate::rddm::Objective).
///
/// It is implemented for [`ResidualNetwork`], for a [`UNet`] and for closures of the same form (for example
/// to bind a class to a network), which may also return a `Result`.
pub trait ResidualDenoiser {
    /// The outputs, each `[batch, channels, height, width]`, in the order of the objective.
    ///
    /// - `x`: `I_t`, `[batch, channels, height, width]`
    /// - `times`: the times for the residual network and the noise network, `[batch]` each
    /// - `condition`: additional input pictures, `[batch, condition_channels, height, width]`
    ///
    /// # Errors
    /// Any error that prevents the prediction; it ends the run.
    /// [`Cancelled`](crate::sampler_error::Cancelled) stops the run.
    fn predict(
        &self,
        x: Tensor<4>,
        times: [Tensor<1>; 2],
        condition: Option<Tensor<4>>,
    ) -> Result<Vec<Tensor<4>>, OwnError>;
}

impl<F, R> ResidualDenoiser for F
where
    F: Fn(Tensor<4>, [Tensor<1>; 2], Option<Tensor<4>>) -> R,
    R: IntoOwnResult<Vec<Tensor<4>>>,
{
    fn predict(
        &self,
        x: Tensor<4>,
        times: [Tensor<1>; 2],
        condition: Option<Tensor<4>>,
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        self(x, times, condition).into_own_result()
    }
}

impl ResidualDenoiser for ResidualNetwork {
    fn predict(
        &self,
        x: Tensor<4>,
        times: [Tensor<1>; 2],
        condition: Option<Tensor<4>>,
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        Ok(self.forward(x, times, condition, None))
    }
}

impl ResidualDenoiser for UNet {
    fn predict(
        &self,
        x: Tensor<4>,
        [time, _]: [Tensor<1>; 2],
        condition: Option<Tensor<4>>,
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        Ok(self.forward(x, time, condition, None))
    }
}
