//! Conversion of a module's float parameters, or their gradients, to one flat vector and back.
//!
//! Theory speaks of one vector `θ ∈ Rᵈ` and one gradient `g = ∇L(θ) ∈ Rᵈ`; Burn keeps a tree of tensors of
//! many ranks. A [`ParameterLayout`] maps between the two:
//!
//! ```text
//! θ = (vec θ₁, vec θ₂, …, vec θ_n),   vec in row-major order,   offset_i = Σ_{j<i} |θ_j|
//! ```
//!
//! where `θ_1 … θ_n` are in the order in which the module visits its parameters, with the dotted names of
//! Burn's own records (`encoder.0.weight`).
//!
//! A vector is plain data: it lives on the inner device, without autodiff, whichever device the module is on.
//! Flattening detaches it from the graph, since methods work *on* gradients and not through them. A value put
//! back into a module becomes a leaf again. It requires a gradient if and only if the parameter that it
//! replaces did.
//!
//! [`ParameterLayout::of`] takes every float tensor that the module visits. This includes frozen parameters,
//! and buffers such as the running statistics of a batch normalisation, which have no gradient.
//! [`ParameterLayout::trainable`] takes only those that require a gradient: use it for gradients, curvature
//! and everything else that differentiates.

mod visitors;

use std::collections::HashMap;
use std::ops::Range;

use burn::module::{Module, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Shape, Tensor};

pub use visitors::with_float_type;

use crate::module_path::ModulePath;
use visitors::{Collect, Flatten, Replace, WithoutGradient};

/// The reason why a module or its gradients cannot be flattened, or a vector cannot be put back.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FlatError {
    /// There is nothing to flatten.
    #[error("the module has no float parameters{}", if *.trainable { " that require a gradient" } else { "" })]
    EmptyModule {
        /// Whether only parameters that require a gradient were requested.
        trainable: bool,
    },
    /// A parameter has no elements.
    #[error(
        "the parameter `{name}` has shape {shape:?}, but it must have at least one element to be \
         part of a flat vector"
    )]
    EmptyParameter {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Two parameters have the same identity, which would be stepped along the gradient twice.
    #[error(
        "the parameters `{first}` and `{second}` have the same id, but each must have its own: use \
         one parameter in both places instead of a clone of it"
    )]
    SharedId {
        /// Name of the first parameter.
        first: String,
        /// Name of the second parameter.
        second: String,
    },
    /// The module is another one: parameter number `index` has another name.
    #[error(
        "the module differs from the layout's: parameter number {index} must be \
         `{expected}`, but it is `{found}`"
    )]
    Name {
        /// Number of the parameter, from 0.
        index: usize,
        /// Its name in the layout.
        expected: String,
        /// Its name in the module.
        found: String,
    },
    /// The module is another one: a parameter has another shape.
    #[error(
        "the module differs from the layout's: `{name}` must have shape {expected:?}, but it \
         has {found:?}"
    )]
    Shape {
        /// Name of the parameter.
        name: String,
        /// Its shape in the layout.
        expected: Vec<usize>,
        /// The shape that was found.
        found: Vec<usize>,
    },
    /// The module is another one: it has more or fewer parameters.
    #[error(
        "the module differs from the layout's: it must have {expected} of the layout's \
         parameters, but it has {found}"
    )]
    Count {
        /// The number of parameters in the layout.
        expected: usize,
        /// The number of parameters in the module.
        found: usize,
    },
    /// The vector has another length.
    #[error("the flat vector must have {expected} elements, but it has {found}")]
    Length {
        /// Length of the layout.
        expected: usize,
        /// Length of the vector.
        found: usize,
    },
    /// A parameter has no gradient.
    #[error(
        "the parameter `{name}` has no gradient: it is frozen, or the loss does not depend on it; \
         `flatten_gradients_or_zeros` takes it as zero"
    )]
    MissingGradient {
        /// Name of the parameter.
        name: String,
    },
    /// A tensor is on another device.
    #[error("{what} must be on {expected}, but it is on {found}")]
    Device {
        /// What it is.
        what: String,
        /// The device of the layout.
        expected: String,
        /// Its device.
        found: String,
    },
    /// The elements are of another type.
    #[error(
        "{what} has elements of type {found:?}, but a flat vector has elements of one float type, \
         here {expected:?}"
    )]
    ElementType {
        /// What it is.
        what: String,
        /// The type of the tensors before.
        expected: DType,
        /// Its type.
        found: DType,
    },
    /// A parameter was requested with another rank.
    #[error(
        "the parameter `{name}` was requested with {rank} dimensions, but its shape is {shape:?}"
    )]
    Rank {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The rank requested.
        rank: usize,
    },
    /// There is no parameter of that name.
    #[error("the layout has no parameter `{0}`")]
    UnknownName(String),
    /// There is no parameter of that number.
    #[error("the layout has no parameter number {index}: it has {count}")]
    UnknownIndex {
        /// The number requested, counted from 0.
        index: usize,
        /// The number of parameters in the layout.
        count: usize,
    },
}

/// One parameter's place in the flat vector.
#[derive(Clone, Debug)]
pub struct ParameterEntry {
    id: ParamId,
    name: String,
    shape: Vec<usize>,
    offset: usize,
    // In Burn the rank is a constant of the type, and is known only while the module is visited. Operations
    // that need it are kept as functions of that rank.
    gradient_of: fn(&GradientsParams, ParamId) -> Option<ShapedGradient>,
    register: fn(&mut GradientsParams, &ParameterEntry, Tensor<1>),
}

/// A gradient, flat `[elements]`, and the shape it had.
type ShapedGradient = (Tensor<1>, Vec<usize>);

impl ParameterEntry {
    /// The parameter's identity; optimizers keep their state by it.
    pub fn id(&self) -> ParamId {
        self.id
    }

    /// Its dotted name, as in Burn's records: `encoder.0.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where it starts in the flat vector.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Its number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its range in the flat vector.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.num_elements()
    }
}

fn gradient_of<const D: usize>(gradients: &GradientsParams, id: ParamId) -> Option<ShapedGradient> {
    let gradient = gradients.get::<D>(id)?.without_autodiff();
    let shape = gradient.dims();
    let elements = shape.iter().product::<usize>();
    Some((gradient.reshape([elements]), shape.to_vec()))
}

fn register<const D: usize>(
    gradients: &mut GradientsParams,
    entry: &ParameterEntry,
    gradient: Tensor<1>,
) {
    gradients.register::<D>(entry.id, gradient.reshape(Shape::from(entry.shape.clone())));
}

/// Which parameter of a layout: its number or its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKey<'a> {
    /// The number, from 0, in the order of the module.
    Index(usize),
    /// The dotted name.
    Name(&'a str),
}

impl From<usize> for ParameterKey<'_> {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl<'a> From<&'a str> for ParameterKey<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

/// The places of a module's float parameters in one flat vector; see the
/// [module documentation](self).
///
/// It contains no values: it fits the module from which it was made at any time, and every module of the same
/// structure.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::{GradientsParams, SgdConfig};
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::flat::ParameterLayout;
///
/// let device = Device::flex().autodiff();
/// let model: Linear = LinearConfig::new(3, 2).init(&device);
/// let layout = ParameterLayout::of(&model)?;
/// assert_eq!(layout.total_length(), 3 * 2 + 2);
///
/// let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).square().mean();
/// let gradients = GradientsParams::from_grads(loss.backward(), &model);
/// let gradient = layout.flatten_gradients(&gradients)?; // [d]
///
/// // Change the gradient as one vector in any way, then step along it with any optimizer.
/// let norm = gradient.clone().square().sum().sqrt(); // [1]
/// let mut optimizer = SgdConfig::new().init();
/// let model = optimizer.step(0.1, model, layout.to_gradients(gradient / norm)?);
/// # let _ = model;
/// # Ok::<(), nabla_grad::flat::FlatError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ParameterLayout {
    entries: Vec<ParameterEntry>,
    total_length: usize,
    /// Without autodiff.
    device: Device,
    /// Whether the module has other float tensors than those of the layout.
    partial: bool,
}

impl ParameterLayout {
    /// Creates the layout of all float parameters of `module`, including those without a gradient: use it to
    /// store or to average a whole module. Methods that differentiate need [`trainable`](Self::trainable).
    /// Parameters that Burn has not initialised yet stay uninitialised.
    ///
    /// # Errors
    /// If the module has no float parameters, one without elements, two with the same id, or
    /// parameters on more than one device.
    pub fn of<M: Module>(module: &M) -> Result<Self, FlatError> {
        Self::collect(module, false)
    }

    /// Creates the layout of the parameters of `module` that require a gradient now. Its methods leave all
    /// others unchanged.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn trainable<M: Module>(module: &M) -> Result<Self, FlatError> {
        Self::collect(module, true)
    }

    fn collect<M: Module>(module: &M, trainable: bool) -> Result<Self, FlatError> {
        let mut collect = Collect {
            path: ModulePath::default(),
            trainable,
            entries: Vec::new(),
            names: HashMap::new(),
            total_length: 0,
            device: None,
            error: None,
        };
        module.visit(&mut collect);
        match (collect.error, collect.device) {
            (Some(error), _) => Err(error),
            (None, None) => Err(FlatError::EmptyModule { trainable }),
            (None, Some(device)) => Ok(Self {
                entries: collect.entries,
                total_length: collect.total_length,
                device,
                partial: trainable,
            }),
        }
    }

    /// The name of the first of the layout's tensors that has no gradient in `module`: a frozen
    /// parameter, or a buffer such as the running statistics of a batch normalisation.
    pub fn without_gradient<M: Module>(&self, module: &M) -> Option<String> {
        let mut find = WithoutGradient {
            path: ModulePath::default(),
            entries: self.entries.iter().peekable(),
            found: None,
        };
        module.visit(&mut find);
        find.found
    }

    /// The parameters, in the order of the module and of the vector.
    pub fn entries(&self) -> &[ParameterEntry] {
        &self.entries
    }

    /// The length `d` of the flat vector.
    pub fn total_length(&self) -> usize {
        self.total_length
    }

    /// The device of the flat vectors: that of the module, without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameters of `module` as one vector `[d]`, detached from the graph.
    ///
    /// # Errors
    /// If the module differs from the module of the layout in a name, a shape, the number of parameters or
    /// the device, or its parameters have more than one element type.
    pub fn flatten_parameters<M: Module>(&self, module: &M) -> Result<Tensor<1>, FlatError> {
        let (parts, _) = self.parts(module)?;
        Ok(Tensor::cat(parts, 0))
    }

    /// The gradients as one vector `[d]`.
    ///
    /// # Errors
    /// If a parameter has no gradient, or its gradient has another shape, device or element type.
    ///
    /// # Panics
    /// If `gradients` contains a tensor of another rank under the id of a parameter, which Burn does not
    /// check.
    pub fn flatten_gradients(&self, gradients: &GradientsParams) -> Result<Tensor<1>, FlatError> {
        let parts = self.gradient_parts(gradients)?;
        let parts = self.entries.iter().zip(parts);
        let parts = parts.map(|(entry, part)| {
            part.ok_or_else(|| FlatError::MissingGradient {
                name: entry.name.clone(),
            })
        });
        Ok(Tensor::cat(parts.collect::<Result<Vec<_>, _>>()?, 0))
    }

    /// The gradients as one vector `[d]`, with zeros for parameters that have none: frozen ones, and
    /// those on which the loss does not depend.
    ///
    /// # Errors
    /// If a gradient has another shape, device or element type.
    ///
    /// # Panics
    /// As [`flatten_gradients`](Self::flatten_gradients).
    pub fn flatten_gradients_or_zeros(
        &self,
        gradients: &GradientsParams,
    ) -> Result<Tensor<1>, FlatError> {
        let parts = self.gradient_parts(gradients)?;
        // Without any gradient, zeros of the device's usual type.
        let element_type = parts.iter().flatten().map(Tensor::dtype).next();
        let zeros = |length: usize| match element_type {
            Some(dtype) => Tensor::zeros([length], (&self.device, dtype)),
            None => Tensor::zeros([length], &self.device),
        };
        let parts = self.entries.iter().zip(parts);
        let parts = parts.map(|(entry, part)| part.unwrap_or_else(|| zeros(entry.num_elements())));
        Ok(Tensor::cat(parts.collect(), 0))
    }

    /// `module` with the values of `vector`, `[d]`. Ids stay, and each parameter requires a gradient
    /// if it did before; the values are leaves, whatever graph the vector was part of.
    ///
    /// Buffers that Burn shares between the clones of a module, the running statistics of a batch
    /// normalisation, change in all clones, as with every map over a module. A
    /// [`trainable`](Self::trainable) layout leaves them alone.
    ///
    /// # Errors
    /// If the module differs from the module of the layout, or the vector has another length, device or
    /// element type; the parameters of the module's clones are then unchanged.
    pub fn with_parameters<M: Module>(&self, module: M, vector: Tensor<1>) -> Result<M, FlatError> {
        let vector = self.checked(vector)?;
        let (_, element_type) = self.parts(&module)?;
        if vector.dtype() != element_type {
            return Err(FlatError::ElementType {
                what: "the flat vector".into(),
                expected: element_type,
                found: vector.dtype(),
            });
        }
        // The module is known to fit: every entry is visited, in order.
        Ok(module.map(&mut Replace {
            path: ModulePath::default(),
            entries: self.entries.iter().peekable(),
            vector,
        }))
    }

    /// Returns `vector`, `[d]`, as gradients of the parameters, so that an optimizer of Burn can step along
    /// it.
    ///
    /// # Errors
    /// If the vector has another length or device.
    pub fn to_gradients(&self, vector: Tensor<1>) -> Result<GradientsParams, FlatError> {
        let vector = self.checked(vector)?;
        let mut gradients = GradientsParams::new();
        for entry in &self.entries {
            (entry.register)(&mut gradients, entry, vector.clone().slice(entry.range()));
        }
        Ok(gradients)
    }

    /// The entry of a number or a name.
    ///
    /// # Errors
    /// If there is no such entry.
    pub fn entry<'a>(
        &self,
        key: impl Into<ParameterKey<'a>>,
    ) -> Result<&ParameterEntry, FlatError> {
        match key.into() {
            ParameterKey::Index(index) => self.entries.get(index).ok_or(FlatError::UnknownIndex {
                index,
                count: self.entries.len(),
            }),
            ParameterKey::Name(name) => self
                .entries
                .iter()
                .find(|entry| entry.name == name)
                .ok_or_else(|| FlatError::UnknownName(name.into())),
        }
    }

    /// The part of `vector`, `[d]`, that belongs to one parameter, flat: `[elements]`.
    ///
    /// ```
    /// # use burn::nn::{Linear, LinearConfig};
    /// # use burn::tensor::Device;
    /// # use nabla_grad::flat::ParameterLayout;
    /// let model: Linear = LinearConfig::new(3, 2).init(&Device::flex());
    /// let layout = ParameterLayout::of(&model)?;
    /// let parameters = layout.flatten_parameters(&model)?; // [8]
    /// assert_eq!(layout.slice("bias", &parameters)?.dims(), [2]);
    /// assert_eq!(layout.slice(0, &parameters)?.dims(), [6]);
    /// # Ok::<(), nabla_grad::flat::FlatError>(())
    /// ```
    ///
    /// # Errors
    /// If the layout has no such parameter, or the vector has another length.
    pub fn slice<'a>(
        &self,
        key: impl Into<ParameterKey<'a>>,
        vector: &Tensor<1>,
    ) -> Result<Tensor<1>, FlatError> {
        let entry = self.entry(key)?;
        self.check_length(vector)?;
        Ok(vector.clone().slice(entry.range()))
    }

    /// As [`slice`](Self::slice), in the parameter's shape.
    ///
    /// # Errors
    /// As `slice`, and if the parameter does not have `D` dimensions.
    pub fn slice_shaped<'a, const D: usize>(
        &self,
        key: impl Into<ParameterKey<'a>>,
        vector: &Tensor<1>,
    ) -> Result<Tensor<D>, FlatError> {
        let entry = self.entry(key)?;
        let shape: [usize; D] = entry
            .shape
            .as_slice()
            .try_into()
            .map_err(|_| FlatError::Rank {
                name: entry.name.clone(),
                shape: entry.shape.clone(),
                rank: D,
            })?;
        self.check_length(vector)?;
        Ok(vector.clone().slice(entry.range()).reshape(shape))
    }

    fn check_length(&self, vector: &Tensor<1>) -> Result<(), FlatError> {
        let [found] = vector.dims();
        if found == self.total_length {
            Ok(())
        } else {
            Err(FlatError::Length {
                expected: self.total_length,
                found,
            })
        }
    }

    /// The vector detached from the graph, if it has the layout's length and device.
    fn checked(&self, vector: Tensor<1>) -> Result<Tensor<1>, FlatError> {
        self.check_length(&vector)?;
        check_device(&self.device, &vector.device(), || "the flat vector".into())?;
        Ok(vector.without_autodiff())
    }

    /// The parameters of a module that fits, flat, and their element type.
    fn parts<M: Module>(&self, module: &M) -> Result<(Vec<Tensor<1>>, DType), FlatError> {
        let mut flatten = Flatten {
            layout: self,
            path: ModulePath::default(),
            parts: Vec::with_capacity(self.entries.len()),
            visited: 0,
            element_type: None,
            error: None,
        };
        module.visit(&mut flatten);
        let found = if self.partial {
            flatten.parts.len()
        } else {
            flatten.visited
        };
        let expected = self.entries.len();
        match (flatten.error, flatten.element_type) {
            (Some(error), _) => Err(error),
            (None, Some(element_type)) if found == expected => Ok((flatten.parts, element_type)),
            _ => Err(FlatError::Count { expected, found }),
        }
    }

    /// The gradients that are there, flat, in the order of the layout.
    fn gradient_parts(
        &self,
        gradients: &GradientsParams,
    ) -> Result<Vec<Option<Tensor<1>>>, FlatError> {
        let mut element_type = None;
        let parts = self.entries.iter().map(|entry| {
            let Some((gradient, shape)) = (entry.gradient_of)(gradients, entry.id) else {
                return Ok(None);
            };
            let what = || format!("the gradient of `{}`", entry.name);
            if shape != entry.shape {
                return Err(FlatError::Shape {
                    name: what(),
                    expected: entry.shape.clone(),
                    found: shape,
                });
            }
            check_device(&self.device, &gradient.device(), what)?;
            check_element_type(&mut element_type, gradient.dtype(), what)?;
            Ok(Some(gradient))
        });
        parts.collect()
    }
}

fn check_device(
    expected: &Device,
    found: &Device,
    what: impl FnOnce() -> String,
) -> Result<(), FlatError> {
    // Devices compare equal with and without autodiff.
    if found == expected {
        return Ok(());
    }
    Err(FlatError::Device {
        what: what(),
        expected: format!("{expected:?}"),
        found: format!("{found:?}"),
    })
}

/// Takes the first float type that it sees as the expected one.
fn check_element_type(
    expected: &mut Option<DType>,
    found: DType,
    what: impl FnOnce() -> String,
) -> Result<(), FlatError> {
    let wanted = expected.unwrap_or(if found.is_float() { found } else { DType::F32 });
    if found != wanted {
        return Err(FlatError::ElementType {
            what: what(),
            expected: wanted,
            found,
        });
    }
    *expected = Some(wanted);
    Ok(())
}

#[cfg(test)]
mod tests;
