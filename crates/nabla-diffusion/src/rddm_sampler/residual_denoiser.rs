//! The network as training and sampling see it.

use burn::tensor::Tensor;

use crate::rddm::ResidualNetwork;
use crate::sampler_error::{IntoOwnResult, OwnError};
use crate::unet::UNet;

/// A network that predicts what an [`Objective`](crate::rddm::Objective) asks for.
///
/// It is implemented for [`ResidualNetwork`], for a [`UNet`] and for closures of the same form (by
/// which a class, say, is bound to a network), which may also return a result.
pub trait ResidualDenoiser {
    /// The outputs, each `[batch, channels, height, width]`, in the order of the objective.
    ///
    /// - `x`: `I_t`, `[batch, channels, height, width]`
    /// - `times`: the time as the residual and the noise network take it, `[batch]` each
    /// - `condition`: pictures to see beside `x`, `[batch, condition_channels, height, width]`
    ///
    /// # Errors
    /// Whatever keeps the network from it: a run ends with it.
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
