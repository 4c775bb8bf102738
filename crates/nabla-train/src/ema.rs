//! An exponential moving average of a network's parameters.
//!
//! The average of the weights along the training path gives better samples than the last weights, and is used
//! to sample from every published diffusion model:
//!
//! ```text
//! θ̄ ← d θ̄ + (1 − d) θ,    d = min(decay, warm-up(n)) after n updates
//! ```
//!
//! The warm-up prevents the random initial weights from lingering in a long average.
//!
//! Sources: Polyak, Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992; Ho,
//! Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239 (decay 0.9999);
//! the warm-ups are those of TensorFlow's `ExponentialMovingAverage` and of Crowson's k-diffusion.

use std::any::Any;

use burn::config::Config;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};
use nabla_base::range::{self, OutOfRange};

/// The reason why an average cannot be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EmaError {
    /// The decay or a parameter of the warm-up is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The parameters of the network and of the average differ.
    #[error(
        "the network's parameters differ from those of its moving average: number {index} (in the \
         order of the network) does not match"
    )]
    Mismatch {
        /// Position of the first parameter that does not match.
        index: usize,
    },
}

/// How the decay rises over the first updates. The first update, `n = 0`, copies the network
/// unless there is no warm-up.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum WarmUp {
    /// The full decay from the start.
    None,
    /// `(1 + n) / (10 + n)`.
    Rational,
    /// `1 − (1 + n / inverse_gamma)^(−power)`. For `inverse_gamma` 1, a decay of 0.999 is reached after
    /// 31.6 thousand updates with `power` 2/3, and after 10 thousand with 3/4.
    Power {
        /// The time scale of the warm-up, in updates: a larger value makes the warm-up slower.
        inverse_gamma: f64,
        /// The exponent: a larger value makes the warm-up faster.
        power: f64,
    },
}

/// Configuration of an [`Ema`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct EmaConfig {
    /// The highest decay, in `[0, 1]`. Default 0.9999.
    #[config(default = 0.9999)]
    pub decay: f64,
    /// Default [`WarmUp::Rational`].
    #[config(default = "WarmUp::Rational")]
    pub warm_up: WarmUp,
}

impl EmaConfig {
    /// The decay of an update that follows `updates` earlier ones.
    pub fn decay_after(&self, updates: u64) -> f64 {
        let n = updates as f64;
        let warm = match self.warm_up {
            WarmUp::None => 1.0,
            WarmUp::Rational | WarmUp::Power { .. } if updates == 0 => 0.0,
            WarmUp::Rational => (1.0 + n) / (10.0 + n),
            WarmUp::Power {
                inverse_gamma,
                power,
            } => 1.0 - (1.0 + n / inverse_gamma).powf(-power),
        };
        warm.min(self.decay)
    }

    /// Starts an average at the current parameters of `network`.
    ///
    /// # Errors
    /// If the decay is not in `[0, 1]` or a parameter of the warm-up is not positive.
    ///
    /// ```
    /// use burn::nn::{Linear, LinearConfig};
    /// use burn::tensor::Device;
    /// use nabla_train::ema::EmaConfig;
    ///
    /// let network: Linear = LinearConfig::new(4, 2).init(&Device::flex());
    /// let mut ema = EmaConfig::new().with_decay(0.999).init(&network)?;
    /// // ... after each optimiser step:
    /// ema.update(&network)?;
    /// let sampled_with: &Linear = ema.average();
    /// # let _ = sampled_with;
    /// # Ok::<(), nabla_train::ema::EmaError>(())
    /// ```
    pub fn init<M: Module>(&self, network: &M) -> Result<Ema<M>, EmaError> {
        let mut ema = self.restore(network.valid(), 0)?;
        // A lazily initialised parameter is drawn once per copy; use the network's draw.
        ema.blend(network, 0.0)?;
        Ok(ema)
    }

    /// Continues a stored `average` that has had `updates` updates.
    ///
    /// # Errors
    /// If the decay is not in `[0, 1]` or a parameter of the warm-up is not positive.
    pub fn restore<M: Module>(&self, average: M, updates: u64) -> Result<Ema<M>, EmaError> {
        range::within("decay of the moving average", self.decay, 0.0..=1.0)?;
        if let WarmUp::Power {
            inverse_gamma,
            power,
        } = self.warm_up
        {
            for (field, value) in [("inverse gamma", inverse_gamma), ("power", power)] {
                range::positive(format!("{field} of the moving average's warm-up"), value)?;
            }
        }
        Ok(Ema {
            average: average.valid(),
            updates,
            config: *self,
        })
    }
}

/// An exponential moving average of the network `M`; see the [module documentation](self).
///
/// To store it, store [`average`](Self::average) like any network, and [`updates`](Self::updates);
/// [`EmaConfig::restore`] continues with the same bits.
#[derive(Clone, Debug)]
pub struct Ema<M: Module> {
    average: M,
    updates: u64,
    config: EmaConfig,
}

impl<M: Module> Ema<M> {
    /// The averaged network, without autodiff, in its validation state.
    pub fn average(&self) -> &M {
        &self.average
    }

    /// The averaged network.
    pub fn into_average(self) -> M {
        self.average
    }

    /// Its configuration.
    pub fn config(&self) -> EmaConfig {
        self.config
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Updates the average with the network's current parameters. Integer and boolean parameters are copied.
    ///
    /// # Errors
    /// If the parameters of the network and of the average differ; the average is then unchanged.
    pub fn update(&mut self, network: &M) -> Result<(), EmaError> {
        self.blend(network, self.config.decay_after(self.updates))?;
        self.updates += 1;
        Ok(())
    }

    /// `θ̄ ← d θ̄ + (1 − d) θ`.
    fn blend(&mut self, network: &M, decay: f64) -> Result<(), EmaError> {
        let mut parameters = Parameters::default();
        network.visit(&mut parameters);
        let count = parameters.0.len();
        let mut blend = Blend {
            parameters: parameters.0.into_iter(),
            decay,
            done: 0,
            mismatch: None,
        };
        let average = self.average.clone().map(&mut blend);
        match blend.mismatch {
            Some(index) => Err(EmaError::Mismatch { index }),
            None if blend.done < count => Err(EmaError::Mismatch { index: blend.done }),
            None => {
                self.average = average;
                Ok(())
            }
        }
    }
}

/// The tensors of a network, in the network's order; their ranks differ.
#[derive(Default)]
struct Parameters(Vec<Box<dyn Any>>);

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(Box::new(param.base().without_autodiff()));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.push(Box::new(param.base()));
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.push(Box::new(param.base()));
    }
}

struct Blend {
    parameters: std::vec::IntoIter<Box<dyn Any>>,
    decay: f64,
    done: usize,
    mismatch: Option<usize>,
}

impl Blend {
    /// The network's next parameter, if it is a `T`.
    fn next<T: 'static>(&mut self, fits: impl FnOnce(&T) -> bool) -> Option<T> {
        let next = self
            .parameters
            .next()
            .and_then(|p| p.downcast::<T>().ok())
            .map(|p| *p);
        let next = next.filter(|p| fits(p));
        if next.is_none() {
            self.mismatch.get_or_insert(self.done);
        }
        self.done += 1;
        next
    }
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let decay = self.decay;
        param.map(
            |average| match self.next::<Tensor<D>>(|p| p.dims() == average.dims()) {
                Some(parameter) if decay == 0.0 => parameter,
                Some(parameter) => average.clone() + (parameter - average) * (1.0 - decay),
                None => average,
            },
        )
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.map(|kept| {
            self.next(|p: &Tensor<D, Int>| p.dims() == kept.dims())
                .unwrap_or(kept)
        })
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        param.map(|kept| {
            self.next(|p: &Tensor<D, Bool>| p.dims() == kept.dims())
                .unwrap_or(kept)
        })
    }
}
