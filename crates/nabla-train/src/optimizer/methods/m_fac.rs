//! M-FAC, which updates all parameters together. Its weight decay is added here, because it differs between
//! parameters.

use burn::tensor::{Bytes, Tensor, TensorData};
use nabla_optim::m_fac::{MFac, MFacConfig};

use crate::optimizer::method::{Entry, TreatedParameter};
use crate::optimizer::{OptimizerError, Rule, WholeOptimizer};

#[derive(Clone)]
struct WholeMFac {
    optimizer: MFac,
    /// The decay of each number, `[d]`.
    decay: Option<Vec<f32>>,
    /// The same on the device of the weights, from the first step on.
    factor: Option<Tensor<1>>,
    window: usize,
    velocity: bool,
}

/// The decay of each number; `None` if nothing decays.
fn decays(parameters: &[TreatedParameter]) -> Option<Vec<f32>> {
    let decays: Vec<f32> = parameters
        .iter()
        .flat_map(|p| std::iter::repeat_n(p.decay as f32, p.num_elements()))
        .collect();
    decays.iter().any(|&d| d > 0.0).then_some(decays)
}

impl WholeOptimizer for WholeMFac {
    fn step(
        &mut self,
        rate: f64,
        weights: Tensor<1>,
        gradient: Tensor<1>,
    ) -> Result<Tensor<1>, OptimizerError> {
        let gradient = match &self.decay {
            None => gradient,
            Some(decay) => {
                let factor = self.factor.get_or_insert_with(|| {
                    let data = TensorData::new(decay.clone(), [decay.len()]);
                    Tensor::from_data(data, (&weights.device(), weights.dtype()))
                });
                gradient + weights.clone() * factor.clone()
            }
        };
        Ok(self.optimizer.step_vector(rate, weights, gradient)?)
    }

    fn state_bytes(&self, numbers: usize) -> u64 {
        let (m, d) = (self.window as u64, numbers as u64);
        4 * d * (m + u64::from(self.velocity)) + 2 * 8 * m * m
    }

    fn to_bytes(&self) -> Result<Vec<u8>, OptimizerError> {
        Ok(self.optimizer.into_bytes()?.to_vec())
    }

    fn load(&mut self, bytes: Vec<u8>, weights: &Tensor<1>) -> Result<(), OptimizerError> {
        let bytes = Bytes::from_bytes_vec(bytes);
        let optimizer = self.optimizer.clone().from_bytes(bytes)?;
        self.optimizer = optimizer.prepared_for(weights)?;
        Ok(())
    }

    fn boxed(&self) -> Box<dyn WholeOptimizer> {
        Box::new(self.clone())
    }
}

pub(super) const METHOD: Entry<MFacConfig> = Entry {
    name: "m-fac",
    summary: "the inverse Fisher matrix of a window of gradients",
    learning_rate: 1e-3,
    decay: "coupled",
    state: "m (a window of gradients)",
    source: "arXiv 2107.03356",
    of_nabla: true,
    defaults: || MFacConfig::new().with_window(32),
    ranges: &[],
    assemble: |config, parameters| {
        if parameters.iter().any(|p| p.rate != 1.0) {
            return Err(OptimizerError::GroupRate);
        }
        Ok(Rule::Whole(Box::new(WholeMFac {
            optimizer: config.init()?,
            decay: decays(parameters),
            factor: None,
            window: config.window,
            velocity: config.momentum > 0.0,
        })))
    },
};
