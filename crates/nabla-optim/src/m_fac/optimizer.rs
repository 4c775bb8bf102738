//! M-FAC as an optimizer of a whole module.

use std::collections::BTreeMap;

use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{GradientsParams, LearningRate, OptimizerRecord};
use burn::store::RecordError;
use burn::store::burn_pack::{self, Scalar, Writer};
use burn::tensor::{Bytes, Device, Tensor, TensorData};
use faer::Mat;
use nabla_grad::flat::ParameterLayout;

use super::{
    Elimination, InverseFisher, MFacError, SlidingFisher, check_count, check_damping, check_length,
};
use crate::checked_record::{LoadError, read_parts};
use crate::optimizer_config;

/// Configuration of [`MFac`]. The defaults are the official code's.
#[derive(Config, Debug)]
pub struct MFacConfig {
    /// The number `m` of gradients. Default 1024; 512 in the paper's run of ResNet-20. The memory is
    /// `m` numbers per parameter.
    #[config(default = 1024)]
    pub window: usize,
    /// The damping `λ`. Default 1e-5.
    #[config(default = 1e-5)]
    pub damping: f64,
    /// The momentum `β` of the preconditioned gradients, in `[0, 1)`. Default 0.
    #[config(default = 0.0)]
    pub momentum: f64,
    /// The coupled weight decay `λ_w`. Default 0; 3e-3 in the paper's run of ResNet-20.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Whether weights that are exactly 0 at the first step stay 0, for a pruned model. Default no.
    #[config(default = false)]
    pub sparse: bool,
    /// Gradient clipping, parameter by parameter as in every optimizer of Burn. Default: none.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl MFacConfig {
    /// Creates the optimizer for a module. The memory of the window is allocated at the first step, when the
    /// module is known ([`MFac::prepared`] allocates it earlier).
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn init(&self) -> Result<MFac, MFacError> {
        check_count("window", self.window)?;
        check_damping(self.damping)?;
        Ok(MFac {
            window: self.window,
            damping: self.damping,
            momentum: optimizer_config::decay_rate("momentum", self.momentum)?,
            weight_decay: optimizer_config::non_negative("weight_decay", self.weight_decay)?,
            sparse: self.sparse,
            clipping: self.grad_clipping.clone(),
            layout: None,
            state: None,
            loaded: None,
        })
    }
}

/// The M-FAC optimizer of one module; see the [module documentation](super).
///
/// **Differences from the other optimizers.** Those implement Burn's `Optimizer`, which gets one parameter
/// after the other and never sees two of them together; Burn's `ModuleOptimizer` consists of them. M-FAC's
/// step for a parameter depends on the gradients of all parameters, so it cannot be an `Optimizer` or a group
/// of a `ModuleOptimizer`. Like Burn's own L-BFGS, it is an optimizer of the whole module, with the same
/// methods under the same names: [`step`](Self::step), [`to_record`](Self::to_record),
/// [`load_record`](Self::load_record), [`into_bytes`](Self::into_bytes), [`from_bytes`](Self::from_bytes),
/// [`save`](Self::save), [`load`](Self::load), with records in the same format. The differences:
///
/// * there is one learning rate for the module, not one for each group;
/// * every trainable parameter must have a gradient in every step (`ModuleOptimizer` skips parameters without
///   a gradient);
/// * steps and records can return an error; a gradient that is missing or not finite leaves the window
///   unchanged;
/// * the record has one state for the module, without the numbers of parameters: it fits every module
///   whose trainable parameters have the same total length in the same order.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use nabla_optim::m_fac::MFacConfig;
///
/// let device = Device::flex().autodiff();
/// let mut model: Linear = LinearConfig::new(3, 2).init(&device);
/// let mut optimizer = MFacConfig::new().with_window(16).init()?;
/// for _ in 0..3 {
///     let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).square().mean();
///     let gradients = GradientsParams::from_grads(loss.backward(), &model);
///     model = optimizer.step(1e-3, model, gradients)?;
/// }
/// # Ok::<(), nabla_optim::m_fac::MFacError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MFac {
    window: usize,
    damping: f64,
    momentum: f64,
    weight_decay: f64,
    sparse: bool,
    clipping: Option<GradientClippingConfig>,
    /// The layout of the module, after the first step.
    layout: Option<ParameterLayout>,
    state: Option<State>,
    /// A loaded record that has not met its module yet.
    loaded: Option<Stored>,
}

#[derive(Clone, Debug)]
struct State {
    fisher: SlidingFisher,
    mask: Option<Tensor<1>>,
    velocity: Option<Tensor<1>>,
}

/// A state off the device.
#[derive(Clone, Debug)]
struct Stored {
    /// `[m, d]`.
    gradients: TensorData,
    /// `[m, m]`.
    gram: Vec<f64>,
    next: usize,
    /// `[d]`.
    mask: Option<TensorData>,
    /// `[d]`.
    velocity: Option<TensorData>,
}

const GRADIENTS: &str = "m_fac.gradients";
const GRAM: &str = "m_fac.gram";
const NEXT: &str = "m_fac.next";
const MASK: &str = "m_fac.mask";
const VELOCITY: &str = "m_fac.velocity";

impl MFac {
    /// One step with the learning rate `lr` (1e-3 in the paper).
    ///
    /// # Errors
    /// If the module differs from that of the previous step, a gradient is missing or not finite, or a loaded
    /// record does not fit.
    pub fn step<M: Module>(
        &mut self,
        lr: LearningRate,
        module: M,
        gradients: GradientsParams,
    ) -> Result<M, MFacError> {
        let layout = self.layout_of(&module)?;
        let w = layout.flatten_parameters(&module)?; // [d]
        let g = self.clipped(&layout, layout.flatten_gradients(&gradients)?); // [d]
        let w = self.step_vector(lr, w, g)?;
        Ok(layout.with_parameters(module, w)?)
    }

    /// The gradients of `module` multiplied by the inverse Fisher matrix, with the weight decay and the
    /// momentum: the direction of [`step`](Self::step).
    ///
    /// Burn's learner steps with a `ModuleOptimizer`, of which M-FAC cannot be a part. The learner takes the
    /// same steps as M-FAC if the model's own `TrainStep::optimize` passes these gradients to the plain
    /// gradient descent of `SgdConfig::new().init()`:
    ///
    /// ```
    /// use burn::nn::{Linear, LinearConfig};
    /// use burn::optim::{GradientsParams, SgdConfig};
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_optim::m_fac::MFacConfig;
    ///
    /// let device = Device::flex().autodiff();
    /// let mut model: Linear = LinearConfig::new(3, 2).init(&device);
    /// let mut m_fac = MFacConfig::new().with_window(16).init()?;
    /// let mut sgd = SgdConfig::new().init();
    /// for _ in 0..3 {
    ///     let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).square().mean();
    ///     let gradients = GradientsParams::from_grads(loss.backward(), &model);
    ///     let gradients = m_fac.precondition(&model, gradients)?;
    ///     model = sgd.step(1e-3, model, gradients);
    /// }
    /// # Ok::<(), nabla_optim::m_fac::MFacError>(())
    /// ```
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn precondition<M: Module>(
        &mut self,
        module: &M,
        gradients: GradientsParams,
    ) -> Result<GradientsParams, MFacError> {
        let layout = self.layout_of(module)?;
        let w = layout.flatten_parameters(module)?; // [d]
        let g = self.clipped(&layout, layout.flatten_gradients(&gradients)?); // [d]
        Ok(layout.to_gradients(self.direction(&w, g)?)?)
    }

    /// Returns the weights after a step, for a program that has them and their gradient as vectors; the
    /// gradient is not clipped.
    ///
    /// - `w`, `g`: `[d]`
    ///
    /// # Errors
    /// If the gradient is not finite, the vectors differ in length from those of the previous step, or a
    /// loaded record does not fit.
    pub fn step_vector(
        &mut self,
        lr: LearningRate,
        w: Tensor<1>,
        g: Tensor<1>,
    ) -> Result<Tensor<1>, MFacError> {
        let update = self.direction(&w, g)?;
        Ok(w - update * lr)
    }

    /// Its layout, which is the same in every step.
    fn layout_of<M: Module>(&mut self, module: &M) -> Result<ParameterLayout, MFacError> {
        let layout = match self.layout.take() {
            Some(layout) => layout,
            None => ParameterLayout::trainable(module)?,
        };
        self.layout = Some(layout.clone());
        Ok(layout)
    }

    fn clipped(&self, layout: &ParameterLayout, g: Tensor<1>) -> Tensor<1> {
        let Some(clipping) = &self.clipping else {
            return g;
        };
        let clipping = clipping.init();
        let parts = layout.entries().iter().map(|entry| {
            let part = g.clone().slice(entry.range());
            clipping.clip_gradient(part)
        });
        Tensor::cat(parts.collect(), 0)
    }

    /// The direction of a step, `[d]`, from the weights and the gradient, `[d]` each.
    fn direction(&mut self, w: &Tensor<1>, mut g: Tensor<1>) -> Result<Tensor<1>, MFacError> {
        self.prepare(w)?;
        let Some(state) = &mut self.state else {
            return Err(MFacError::Record("it has no state".into()));
        };
        if self.weight_decay > 0.0 {
            g = g + w.clone() * self.weight_decay;
        }
        if let Some(mask) = &state.mask {
            g = g * mask.clone();
        }
        let u = state.fisher.push_solve(&g)?;
        let beta = self.momentum;
        let update = match state.velocity.take() {
            _ if beta == 0.0 => u,
            None => u * (1.0 - beta),
            Some(v) => v * beta + u * (1.0 - beta),
        };
        if beta > 0.0 {
            state.velocity = Some(update.clone());
        }
        Ok(update)
    }

    /// Allocates the memory for `module` now instead of at the first step, and compares a loaded record with
    /// it.
    ///
    /// # Errors
    /// If the module has no trainable parameters, or the record does not fit.
    pub fn prepared<M: Module>(mut self, module: &M) -> Result<Self, MFacError> {
        let w = self.layout_of(module)?.flatten_parameters(module)?;
        self.prepared_for(&w)
    }

    /// Like [`prepared`](Self::prepared), for the weights as a vector, `[d]`.
    ///
    /// # Errors
    /// If there are no weights, or the record does not fit.
    pub fn prepared_for(mut self, w: &Tensor<1>) -> Result<Self, MFacError> {
        self.prepare(w)?;
        Ok(self)
    }

    fn prepare(&mut self, w: &Tensor<1>) -> Result<(), MFacError> {
        let [d] = w.dims();
        if let Some(state) = &self.state {
            return check_length(state.fisher.dimension(), w);
        }
        let device = w.device();
        let state = match &self.loaded {
            Some(stored) => self.state_of(stored, d, &device)?,
            None => State {
                fisher: SlidingFisher::new(d, self.window, self.damping, &device)?,
                mask: self
                    .sparse
                    .then(|| w.clone().not_equal_elem(0.0).float().cast(w.dtype())),
                velocity: None,
            },
        };
        self.state = Some(state);
        self.loaded = None;
        Ok(())
    }

    fn state_of(&self, stored: &Stored, d: usize, device: &Device) -> Result<State, MFacError> {
        let window = self.window;
        let fits = |what: &str, data: &TensorData, shape: &[usize]| {
            if data.shape().as_slice() == shape {
                return Ok(());
            }
            Err(MFacError::Record(format!(
                "{what} has the shape {:?}, but the window is {window} and the model has {d} \
                 parameters",
                data.shape().as_slice()
            )))
        };
        fits("its window of gradients", &stored.gradients, &[window, d])?;
        for (what, part) in [
            ("its mask", &stored.mask),
            ("its velocity", &stored.velocity),
        ] {
            if let Some(part) = part {
                fits(what, part, &[d])?;
            }
        }
        if stored.gram.len() != window * window || stored.next >= window {
            return Err(MFacError::Record("its window is of another length".into()));
        }
        let load = |data: &TensorData| {
            let dtype = data.dtype();
            Tensor::<1>::from_data(data.clone(), (device, dtype))
        };
        let dtype = stored.gradients.dtype();
        let gram = Mat::from_fn(window, window, |i, j| stored.gram[i * window + j]);
        Ok(State {
            fisher: SlidingFisher {
                gradients: Some(Tensor::from_data(stored.gradients.clone(), (device, dtype))),
                factor: Elimination::of(&gram, self.damping)?,
                gram,
                next: stored.next,
                dimension: d,
                damping: self.damping,
            },
            mask: stored.mask.as_ref().map(load),
            velocity: stored.velocity.as_ref().map(load),
        })
    }

    /// The state as Burn's record of an optimizer; empty before the first step.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    pub fn to_record(&self) -> Result<OptimizerRecord, MFacError> {
        Ok(OptimizerRecord::from_bytes(self.into_bytes()?).map_err(LoadError::from)?)
    }

    /// Returns this optimizer in the state of `record`, from which it continues bit for bit. The record is
    /// compared with the module at the next step, or by [`prepared`](Self::prepared).
    ///
    /// # Errors
    /// If it is not a record of M-FAC.
    pub fn load_record(self, record: OptimizerRecord) -> Result<Self, MFacError> {
        let bytes = record.into_bytes().map_err(LoadError::from)?;
        self.from_bytes(bytes)
    }

    /// The record as bytes, in Burn's format.
    ///
    /// # Errors
    /// If the state cannot be read from the device.
    // The name is that of Burn's optimizers.
    #[allow(clippy::wrong_self_convention)]
    pub fn into_bytes(&self) -> Result<Bytes, MFacError> {
        let stored = match (&self.state, &self.loaded) {
            (Some(state), _) => Some(state.stored()?),
            (None, loaded) => loaded.clone(),
        };
        let mut tensors = Vec::new();
        let mut next = None;
        if let Some(stored) = stored {
            let m = self.window;
            let gram = TensorData::new(stored.gram, [m, m]);
            let parts = [
                (GRADIENTS, Some(stored.gradients)),
                (GRAM, Some(gram)),
                (MASK, stored.mask),
                (VELOCITY, stored.velocity),
            ];
            for (name, data) in parts {
                if let Some(data) = data {
                    let (bytes, shape, dtype) = data.into_parts();
                    let name = name.to_string();
                    tensors.push(burn_pack::Tensor::new(name, dtype, shape, None, bytes));
                }
            }
            next = Some(stored.next);
        }
        let mut writer = Writer::new(tensors);
        if let Some(next) = next {
            writer = writer.with_scalar(NEXT, Scalar::from(next));
        }
        let bytes = writer.into_bytes().map_err(RecordError::from);
        Ok(bytes.map_err(LoadError::from)?)
    }

    /// As [`load_record`](Self::load_record), from the bytes of [`into_bytes`](Self::into_bytes).
    ///
    /// # Errors
    /// As [`load_record`](Self::load_record), and if the bytes are not a record.
    // The name is that of Burn's optimizers.
    #[allow(clippy::wrong_self_convention)]
    pub fn from_bytes(mut self, bytes: Bytes) -> Result<Self, MFacError> {
        let (scalars, tensors) = read_parts(bytes)?;
        let mut parts: BTreeMap<String, TensorData> = tensors
            .into_iter()
            .map(|tensor| (tensor.name, tensor.data))
            .collect();
        self.layout = None;
        self.state = None;
        self.loaded = None;
        if parts.is_empty() && scalars.is_empty() {
            return Ok(self);
        }
        let missing = |name: &str| MFacError::Record(format!("it has no {name}"));
        let mut take = |name: &str| parts.remove(name).ok_or_else(|| missing(name));
        let (gradients, gram) = (take(GRADIENTS)?, take(GRAM)?);
        let (mask, velocity) = (parts.remove(MASK), parts.remove(VELOCITY));
        let next = scalars
            .get(NEXT)
            .and_then(|next| usize::try_from(*next).ok());
        if let Some(name) = parts.keys().next() {
            return Err(MFacError::Record(format!("it has a state {name:?}")));
        }
        let gram = gram.convert::<f64>().try_to_vec::<f64>();
        let stored = Stored {
            gradients,
            gram: gram.map_err(|e| MFacError::Record(format!("{e:?}")))?,
            next: next.ok_or_else(|| missing(NEXT))?,
            mask,
            velocity,
        };
        // Only checks that don't need the module happen here.
        let found = stored.gradients.shape().first().copied();
        if found != Some(self.window) {
            return Err(MFacError::Record(format!(
                "it has a window of {} gradients, but the window is {}",
                found.unwrap_or(0),
                self.window
            )));
        }
        self.loaded = Some(stored);
        Ok(self)
    }

    /// Writes the record to a file, in Burn's format.
    ///
    /// # Errors
    /// If the state cannot be read from the device, or the file cannot be written.
    pub fn save<P: AsRef<std::path::Path>>(&self, path: P) -> Result<(), MFacError> {
        Ok(self.to_record()?.save(path).map_err(LoadError::from)?)
    }

    /// As [`load_record`](Self::load_record), from a file of [`save`](Self::save).
    ///
    /// # Errors
    /// As [`load_record`](Self::load_record), and if the file cannot be read.
    pub fn load<P: AsRef<std::path::Path>>(self, path: P) -> Result<Self, MFacError> {
        let record = OptimizerRecord::load(path).map_err(LoadError::from)?;
        self.load_record(record)
    }
}

impl State {
    fn stored(&self) -> Result<Stored, MFacError> {
        let m = self.fisher.window();
        Ok(Stored {
            gradients: self.fisher.rows()?.clone().into_data(),
            gram: (0..m * m)
                .map(|i| self.fisher.gram[(i / m, i % m)])
                .collect(),
            next: self.fisher.next,
            mask: self.mask.clone().map(Tensor::into_data),
            velocity: self.velocity.clone().map(Tensor::into_data),
        })
    }
}
