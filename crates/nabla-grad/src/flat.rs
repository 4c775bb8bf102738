//! A module's float parameters, and their gradients, as one flat vector, and back.
//!
//! Theory speaks of one vector `θ ∈ Rᵈ` and one gradient `g = ∇L(θ) ∈ Rᵈ`; Burn keeps a tree of
//! tensors of many ranks. A [`ParameterLayout`] is the map between both:
//!
//! ```text
//! θ = (vec θ₁, vec θ₂, …, vec θ_n),   vec in row-major order,   offset_i = Σ_{j<i} |θ_j|
//! ```
//!
//! where `θ_1 … θ_n` come in the order in which the module visits its parameters, with the dotted
//! names of Burn's own records (`encoder.0.weight`).
//!
//! A vector is plain data: it lives on the inner device, without autodiff, whichever device the
//! module is on. Flattening cuts it off the graph, as a method works *on* gradients and not through
//! them. What goes back into a module becomes a leaf again, which requires a gradient if and only if
//! the parameter it replaces did.
//!
//! [`ParameterLayout::of`] takes every float tensor that the module visits: also frozen parameters,
//! and buffers such as the running statistics of a batch normalisation, which have no gradient.
//! [`ParameterLayout::trainable`] takes those only that require a gradient: it is the one for gradients,
//! curvature and everything else that differentiates.

use std::collections::HashMap;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Shape, Tensor};

/// Why a module or its gradients cannot be flattened, or a vector not be put back.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FlatError {
    /// There is nothing to flatten.
    #[error("the module has no float parameters{}", if *.trainable { " that require a gradient" } else { "" })]
    EmptyModule {
        /// Whether only the parameters were asked for that require a gradient.
        trainable: bool,
    },
    /// A parameter without elements.
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
    /// Two parameters with one identity, which would be stepped along the gradient twice.
    #[error(
        "the parameters `{first}` and `{second}` have the same id, but each must have its own: use \
         one parameter in both places instead of a clone of it"
    )]
    SharedId {
        /// Name of the first of them.
        first: String,
        /// Name of the second.
        second: String,
    },
    /// Another module: parameter number `index` has another name.
    #[error(
        "the module differs from that of the layout: parameter number {index} must be \
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
    /// Another module: a parameter has another shape.
    #[error(
        "the module differs from that of the layout: `{name}` must have shape {expected:?}, but it \
         has {found:?}"
    )]
    Shape {
        /// Name of the parameter.
        name: String,
        /// Its shape in the layout.
        expected: Vec<usize>,
        /// What was found.
        found: Vec<usize>,
    },
    /// Another module: more or fewer parameters.
    #[error(
        "the module differs from that of the layout: it must have {expected} of the layout's \
         parameters, but it has {found}"
    )]
    Count {
        /// Parameters of the layout.
        expected: usize,
        /// Parameters of the module.
        found: usize,
    },
    /// A vector of another length.
    #[error("the flat vector must have {expected} elements, but it has {found}")]
    Length {
        /// Length of the layout.
        expected: usize,
        /// Length of the vector.
        found: usize,
    },
    /// A parameter without a gradient.
    #[error(
        "the parameter `{name}` has no gradient: it is frozen, or the loss does not depend on it; \
         `flatten_gradients_or_zeros` takes it as zero"
    )]
    MissingGradient {
        /// Name of the parameter.
        name: String,
    },
    /// Something lives on another device.
    #[error("{what} must be on {expected}, but it is on {found}")]
    Device {
        /// What it is.
        what: String,
        /// The device of the layout.
        expected: String,
        /// Its device.
        found: String,
    },
    /// Elements of another type.
    #[error(
        "{what} has elements of type {found:?}, but a flat vector has elements of one float type, \
         here {expected:?}"
    )]
    ElementType {
        /// What it is.
        what: String,
        /// The type of what came before.
        expected: DType,
        /// Its type.
        found: DType,
    },
    /// A parameter asked for with another rank.
    #[error(
        "the parameter `{name}` was asked for with {rank} dimensions, but its shape is {shape:?}"
    )]
    Rank {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The rank asked for.
        rank: usize,
    },
    /// No parameter of that name.
    #[error("the layout has no parameter `{0}`")]
    UnknownName(String),
    /// No parameter of that number.
    #[error("the layout has no parameter number {index}: it has {count}")]
    UnknownIndex {
        /// The number asked for, from 0.
        index: usize,
        /// Parameters of the layout.
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
    // The rank is a constant of a type in Burn, and known only while the module is visited: what
    // needs it is kept as functions of that rank.
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

    /// Its place in the flat vector.
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
/// It holds no values: it fits the module it was taken of at any time, and every module of the same
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
/// // Any change of the gradient as one vector, then a step of any optimizer along it.
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
    /// The places of all float parameters of `module`, those without a gradient among them: to store or
    /// to average a whole module. What differentiates needs [`trainable`](Self::trainable). Parameters
    /// that Burn has not initialised yet stay so.
    ///
    /// # Errors
    /// If the module has no float parameters, one without elements, two with the same id, or
    /// parameters on more than one device.
    pub fn of<M: Module>(module: &M) -> Result<Self, FlatError> {
        Self::collect(module, false)
    }

    /// The places of the parameters of `module` that require a gradient now. What the layout does
    /// leaves all others as they are.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn trainable<M: Module>(module: &M) -> Result<Self, FlatError> {
        Self::collect(module, true)
    }

    fn collect<M: Module>(module: &M, trainable: bool) -> Result<Self, FlatError> {
        let mut collect = Collect {
            path: Vec::new(),
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
            path: Vec::new(),
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

    /// The parameters of `module` as one vector `[d]`, off the graph.
    ///
    /// # Errors
    /// If the module differs from that of the layout in a name, a shape, the number of parameters or
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
    /// If `gradients` holds, under the id of a parameter, a tensor of another rank: Burn cannot tell.
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
    /// If the module differs from that of the layout, or the vector has another length, device or
    /// element type; the parameters of clones of the module are then as before.
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
        // The module is known to fit: every entry is met, in order.
        Ok(module.map(&mut Replace {
            path: Vec::new(),
            entries: self.entries.iter().peekable(),
            vector,
        }))
    }

    /// `vector`, `[d]`, as gradients of the parameters, so that an optimizer of Burn steps along it.
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
    /// If there is none.
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
    /// As `slice`, and if the parameter has not `D` dimensions.
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

    /// The vector off the graph, if it has the layout's length and device.
    fn checked(&self, vector: Tensor<1>) -> Result<Tensor<1>, FlatError> {
        self.check_length(&vector)?;
        check_device(&self.device, &vector.device(), || "the flat vector".into())?;
        Ok(vector.without_autodiff())
    }

    /// The parameters of a module that fits, flat, and their element type.
    fn parts<M: Module>(&self, module: &M) -> Result<(Vec<Tensor<1>>, DType), FlatError> {
        let mut flatten = Flatten {
            layout: self,
            path: Vec::new(),
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

/// Makes a layout.
struct Collect {
    path: Vec<String>,
    trainable: bool,
    entries: Vec<ParameterEntry>,
    names: HashMap<ParamId, String>,
    total_length: usize,
    device: Option<Device>,
    error: Option<FlatError>,
}

impl Collect {
    fn add<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<(), FlatError> {
        // Asking for the gradient initialises the parameter; its shape and device do not.
        if self.trainable && !param.is_require_grad() {
            return Ok(());
        }
        let name = self.path.join(".");
        let shape = param.lazy_shape().to_vec();
        let device = param.lazy_device().without_autodiff();
        if shape.contains(&0) {
            return Err(FlatError::EmptyParameter { name, shape });
        }
        check_device(
            self.device.get_or_insert_with(|| device.clone()),
            &device,
            || format!("the parameter `{name}`"),
        )?;
        if let Some(first) = self.names.insert(param.id, name.clone()) {
            return Err(FlatError::SharedId {
                first,
                second: name,
            });
        }
        let entry = ParameterEntry {
            id: param.id,
            name,
            shape,
            offset: self.total_length,
            gradient_of: gradient_of::<D>,
            register: register::<D>,
        };
        self.total_length += entry.num_elements();
        self.entries.push(entry);
        Ok(())
    }
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.error.is_none() {
            self.error = self.add(param).err();
        }
    }
}

/// `module` with float tensors of another type: parameters, frozen ones and buffers. Ids stay, and a
/// parameter requires a gradient if it did before.
///
/// A [curvature](crate::curvature) in `f64` is exact to ten digits where one in `f32` has four. The
/// data that the loss uses must have the same type:
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{DType, Device, Tensor};
/// use nabla_grad::flat::{ParameterLayout, with_float_type};
///
/// let device = Device::flex().autodiff();
/// let linear: Linear = with_float_type(LinearConfig::new(3, 2).init(&device), DType::F64);
/// let x = Tensor::<2>::ones([1, 3], &device).cast(DType::F64);
/// assert_eq!(linear.forward(x).dtype(), DType::F64);
/// assert_eq!(ParameterLayout::trainable(&linear)?.total_length(), 8);
/// # Ok::<(), nabla_grad::flat::FlatError>(())
/// ```
pub fn with_float_type<M: Module>(module: M, dtype: DType) -> M {
    module.map(&mut Cast(dtype))
}

struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| leaf_like(old.clone().without_autodiff().cast(self.0), &old))
    }
}

/// `new` as the leaf that `old` was.
fn leaf_like<const D: usize>(new: Tensor<D>, old: &Tensor<D>) -> Tensor<D> {
    // Operations refuse operands with different strategies: the new value takes the old one.
    match old.gradient_checkpointing_strategy() {
        Some(strategy) => new
            .autodiff()
            .with_gradient_checkpointing_strategy(strategy)
            .set_require_grad(old.is_require_grad()),
        None => new,
    }
}

/// Finds the first tensor of a layout without gradient.
struct WithoutGradient<'a> {
    path: Vec<String>,
    entries: std::iter::Peekable<std::slice::Iter<'a, ParameterEntry>>,
    found: Option<String>,
}

impl ModuleVisitor for WithoutGradient<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        if self.entries.next_if(|entry| entry.name == name).is_some()
            && self.found.is_none()
            && !param.is_require_grad()
        {
            self.found = Some(name);
        }
    }
}

/// Reads the parameters of a module, and finds where it differs from the layout.
struct Flatten<'a> {
    layout: &'a ParameterLayout,
    path: Vec<String>,
    parts: Vec<Tensor<1>>,
    /// Float tensors visited, in the layout or not.
    visited: usize,
    element_type: Option<DType>,
    error: Option<FlatError>,
}

impl Flatten<'_> {
    fn add<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<(), FlatError> {
        let index = self.parts.len();
        self.visited += 1;
        // A parameter more than the layout has shows in the count.
        let Some(entry) = self.layout.entries.get(index) else {
            return Ok(());
        };
        let name = self.path.join(".");
        if name != entry.name {
            if self.layout.partial {
                return Ok(());
            }
            return Err(FlatError::Name {
                index,
                expected: entry.name.clone(),
                found: name,
            });
        }
        let shape = param.lazy_shape().to_vec();
        if shape != entry.shape {
            return Err(FlatError::Shape {
                name,
                expected: entry.shape.clone(),
                found: shape,
            });
        }
        let what = || format!("the parameter `{name}`");
        let value = param.base().without_autodiff();
        check_device(&self.layout.device, &value.device(), what)?;
        check_element_type(&mut self.element_type, value.dtype(), what)?;
        self.parts.push(value.reshape([entry.num_elements()]));
        Ok(())
    }
}

impl ModuleVisitor for Flatten<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.error.is_none() {
            self.error = self.add(param).err();
        }
    }
}

/// Puts a vector into a module that fits the layout.
struct Replace<'a> {
    path: Vec<String>,
    entries: std::iter::Peekable<std::slice::Iter<'a, ParameterEntry>>,
    vector: Tensor<1>,
}

impl ModuleMapper for Replace<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(entry) = self.entries.next_if(|entry| entry.name == name) else {
            return param;
        };
        param.map(|old| {
            let new = self.vector.clone().slice(entry.range());
            leaf_like(new.reshape(Shape::from(entry.shape.clone())), &old)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::optim::{AdamConfig, SgdConfig};
    use burn::store::ModuleSnapshot;
    use burn::tensor::TensorData;
    use proptest::prelude::*;

    #[derive(Module, Debug)]
    struct Network {
        layers: Vec<Linear>,
        norm: Option<BatchNorm>,
        scale: Param<Tensor<3>>,
    }

    /// `widths[0] → widths[1] → …`, without biases after the first layer.
    fn network(widths: &[usize], norm: bool, device: &Device) -> Network {
        let layers = widths.windows(2).enumerate().map(|(index, pair)| {
            LinearConfig::new(pair[0], pair[1])
                .with_bias(index == 0)
                .init(device)
        });
        Network {
            layers: layers.collect(),
            norm: norm.then(|| BatchNormConfig::new(widths[1]).init(device)),
            scale: Param::from_tensor(Tensor::ones([1, 2, 3], device)),
        }
    }

    /// Depends on every parameter.
    fn loss(network: &Network, device: &Device) -> Tensor<1> {
        let [inputs, _] = network.layers[0].weight.dims();
        let mut x = Tensor::<1>::from_floats([0.3, -0.7, 1.1, 0.2, -0.4, 0.9], device)
            .slice(0..inputs)
            .unsqueeze::<2>(); // [1, inputs]
        for layer in &network.layers {
            x = layer.forward(x).tanh();
        }
        x.square().sum() + network.scale.val().powi_scalar(2).sum() * 0.5
    }

    fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
        tensor.to_data().try_to_vec().unwrap()
    }

    #[test]
    fn names_shapes_and_values_are_those_of_burns_records() {
        let device = Device::flex();
        let network = network(&[3, 4, 2], true, &device);
        let layout = ParameterLayout::of(&network).unwrap();
        let vector = layout.flatten_parameters(&network).unwrap();
        let tensors = network.collect(None, None, false);
        assert_eq!(tensors.len(), layout.entries().len());
        let mut offset = 0;
        for (entry, tensor) in layout.entries().iter().zip(tensors) {
            assert_eq!(entry.name(), tensor.name);
            assert_eq!(Some(entry.id().val()), tensor.param_id);
            assert_eq!(entry.shape(), tensor.shape.as_slice());
            assert_eq!(entry.offset(), offset);
            offset += entry.num_elements();
            let bytes: Vec<u8> = values(&layout.slice(entry.name(), &vector).unwrap())
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect();
            assert_eq!(bytes, *tensor.to_bytes().unwrap(), "{}", entry.name());
        }
        assert_eq!(layout.total_length(), offset);
        assert_eq!(layout.total_length(), network.num_params());
        let names: Vec<_> = layout.entries().iter().map(ParameterEntry::name).collect();
        assert_eq!(
            names,
            [
                "layers.0.weight",
                "layers.0.bias",
                "layers.1.weight",
                "norm.gamma",
                "norm.beta",
                "norm.running_mean",
                "norm.running_var",
                "scale"
            ]
        );
    }

    #[test]
    fn the_flat_gradient_is_the_derivative_along_each_coordinate() {
        let device = Device::flex().autodiff();
        let network = network(&[3, 4, 2], false, &device);
        let layout = ParameterLayout::of(&network).unwrap();
        let gradients = GradientsParams::from_grads(loss(&network, &device).backward(), &network);
        let gradient = layout.flatten_gradients(&gradients).unwrap();
        assert!(!gradient.is_autodiff());
        let gradient = values(&gradient);
        let parameters = layout.flatten_parameters(&network).unwrap();
        assert!(!parameters.is_autodiff());
        let parameters = values(&parameters);
        for index in 0..layout.total_length() {
            let at = |step: f32| {
                let mut moved = parameters.clone();
                moved[index] += step;
                let moved = Tensor::from_floats(moved.as_slice(), &Device::flex());
                let moved = layout.with_parameters(network.clone(), moved).unwrap();
                f64::from(loss(&moved, &device).into_scalar::<f32>())
            };
            let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!(
                (difference - f64::from(gradient[index])).abs() < 1e-3,
                "{index}: {difference} {}",
                gradient[index]
            );
        }
    }

    #[test]
    fn what_goes_back_keeps_ids_and_the_requirement_of_a_gradient() {
        let device = Device::flex().autodiff().gradient_checkpointing();
        let mut before = network(&[3, 4, 2], false, &device);
        before.layers[1].weight = before.layers[1].weight.clone().set_require_grad(false);
        let layout = ParameterLayout::of(&before).unwrap();
        // A vector that is part of a graph is cut off it.
        let vector = layout.flatten_parameters(&before).unwrap().autodiff();
        let vector = (vector.require_grad() * 2.0).exp();
        let after = layout
            .with_parameters(before.clone(), vector.clone())
            .unwrap();
        let kept = ParameterLayout::of(&after).unwrap();
        for (a, b) in layout.entries().iter().zip(kept.entries()) {
            assert_eq!((a.id(), a.name()), (b.id(), b.name()));
        }
        assert!(after.layers[0].weight.is_require_grad());
        assert!(!after.layers[1].weight.is_require_grad());
        assert!(after.scale.is_require_grad());
        assert_eq!(
            after.scale.gradient_checkpointing_strategy(),
            before.scale.gradient_checkpointing_strategy()
        );
        assert_eq!(
            values(&layout.flatten_parameters(&after).unwrap()),
            values(&vector)
        );
        // It trains: gradients arrive at the leaves that ask for them.
        let gradients = GradientsParams::from_grads(loss(&after, &device).backward(), &after);
        assert!(gradients.get::<3>(after.scale.id).is_some());
        assert!(gradients.get::<2>(after.layers[1].weight.id).is_none());
    }

    #[test]
    fn an_optimizer_steps_along_the_changed_gradient() {
        let device = Device::flex().autodiff();
        let network = network(&[3, 4, 2], false, &device);
        let layout = ParameterLayout::of(&network).unwrap();
        let direction: Vec<f32> = (0..layout.total_length()).map(|i| i as f32).collect();
        let direction = Tensor::<1>::from_floats(direction.as_slice(), &Device::flex());
        let before = layout.flatten_parameters(&network).unwrap();
        let gradients = layout.to_gradients(direction.clone()).unwrap();
        let stepped = SgdConfig::new()
            .init()
            .step(0.5, network.clone(), gradients);
        let after = layout.flatten_parameters(&stepped).unwrap();
        let expected = values(&(before - direction * 0.5));
        for (found, expected) in values(&after).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }

        // And unchanged, the same bits as without the detour; Adam keeps a state per id.
        let gradients =
            || GradientsParams::from_grads(loss(&network, &device).backward(), &network);
        let flat = layout.flatten_gradients(&gradients()).unwrap();
        let step = |gradients| {
            let stepped = AdamConfig::new()
                .init()
                .step(0.1, network.clone(), gradients);
            values(&layout.flatten_parameters(&stepped).unwrap())
        };
        assert_eq!(step(layout.to_gradients(flat).unwrap()), step(gradients()));
    }

    #[test]
    fn a_missing_gradient_is_an_error_or_zero_as_asked() {
        let device = Device::flex().autodiff();
        let mut network = network(&[3, 4, 2], false, &device);
        let all = ParameterLayout::of(&network).unwrap();
        let full = all
            .flatten_gradients(&GradientsParams::from_grads(
                loss(&network, &device).backward(),
                &network,
            ))
            .unwrap();
        network.layers[1].weight = network.layers[1].weight.clone().set_require_grad(false);
        let gradients = GradientsParams::from_grads(loss(&network, &device).backward(), &network);
        assert_eq!(
            all.flatten_gradients(&gradients).unwrap_err(),
            FlatError::MissingGradient {
                name: "layers.1.weight".into()
            }
        );
        let zeros = all.flatten_gradients_or_zeros(&gradients).unwrap();
        for entry in all.entries() {
            let found = values(&all.slice(entry.name(), &zeros).unwrap());
            let expected = if entry.name() == "layers.1.weight" {
                vec![0.0; 8]
            } else {
                values(&all.slice(entry.name(), &full).unwrap())
            };
            assert_eq!(found, expected, "{}", entry.name());
        }
        let none = all.flatten_gradients_or_zeros(&GradientsParams::new());
        assert_eq!(values(&none.unwrap()), vec![0.0; all.total_length()]);

        // A layout of what is trainable misses nothing, and leaves the rest alone.
        let trainable = ParameterLayout::trainable(&network).unwrap();
        assert_eq!(trainable.total_length(), all.total_length() - 8);
        let gradient = trainable.flatten_gradients(&gradients).unwrap();
        let frozen = values(&network.layers[1].weight.val());
        let moved = trainable
            .with_parameters(network, gradient.clone())
            .unwrap();
        assert_eq!(values(&moved.layers[1].weight.val()), frozen);
        assert_eq!(
            values(&trainable.flatten_parameters(&moved).unwrap()),
            values(&gradient)
        );
    }

    #[test]
    fn a_trainable_layout_leaves_shared_statistics_alone() {
        let device = Device::flex().autodiff();
        let network = network(&[3, 4, 2], true, &device);
        let layout = ParameterLayout::trainable(&network).unwrap();
        assert!(layout.entry("norm.gamma").is_ok());
        assert_eq!(
            layout.entry("norm.running_var").unwrap_err(),
            FlatError::UnknownName("norm.running_var".into())
        );
        let vector = Tensor::zeros([layout.total_length()], layout.device());
        let moved = layout.with_parameters(network.clone(), vector).unwrap();
        for norm in [network.norm.as_ref().unwrap(), moved.norm.as_ref().unwrap()] {
            assert_eq!(values(&norm.running_var.value()), [1.0; 4]);
        }
        assert_eq!(values(&moved.norm.unwrap().gamma.val()), [0.0; 4]);
        assert_eq!(values(&network.norm.unwrap().gamma.val()), [1.0; 4]);
    }

    #[test]
    fn taking_the_layout_does_not_initialise() {
        let linear: Linear = LinearConfig::new(3, 2).init(&Device::flex());
        assert_eq!(ParameterLayout::of(&linear).unwrap().total_length(), 8);
        assert!(!linear.weight.is_initialized());
    }

    #[test]
    fn a_shaped_slice_has_the_shape_of_the_parameter() {
        let network = network(&[3, 4, 2], false, &Device::flex());
        let layout = ParameterLayout::of(&network).unwrap();
        let vector = layout.flatten_parameters(&network).unwrap();
        let weight = layout.slice_shaped::<2>(0, &vector).unwrap();
        assert_eq!(weight.to_data(), network.layers[0].weight.val().to_data());
        assert_eq!(
            layout.slice_shaped::<3>("scale", &vector).unwrap().dims(),
            [1, 2, 3]
        );
        let error = layout.slice_shaped::<1>(0, &vector).unwrap_err();
        assert!(matches!(error, FlatError::Rank { .. }), "{error}");
        assert_eq!(
            layout.slice(4, &vector).unwrap_err(),
            FlatError::UnknownIndex { index: 4, count: 4 }
        );
        assert_eq!(
            layout.slice(0, &vector.slice(0..5)).unwrap_err(),
            FlatError::Length {
                expected: layout.total_length(),
                found: 5
            }
        );
    }

    #[test]
    fn another_module_is_refused_with_what_differs() {
        let device = Device::flex();
        let layout = ParameterLayout::of(&network(&[3, 4, 2], false, &device)).unwrap();
        let refused = |other: &Network| {
            let error = layout.flatten_parameters(other).unwrap_err();
            let vector = Tensor::zeros([layout.total_length()], &device);
            let put = layout.with_parameters(other.clone(), vector).unwrap_err();
            assert_eq!(error, put);
            error
        };
        assert_eq!(
            refused(&network(&[3, 5, 2], false, &device)),
            FlatError::Shape {
                name: "layers.0.weight".into(),
                expected: vec![3, 4],
                found: vec![3, 5]
            }
        );
        assert_eq!(
            refused(&network(&[3, 4, 2], true, &device)),
            FlatError::Name {
                index: 3,
                expected: "scale".into(),
                found: "norm.gamma".into()
            }
        );
        let short = ParameterLayout::of(&network(&[3, 4, 2], false, &device).layers).unwrap();
        assert_eq!(
            short
                .flatten_parameters(&network(&[3, 4, 2, 2], false, &device).layers)
                .unwrap_err(),
            FlatError::Count {
                expected: 3,
                found: 4
            }
        );
        assert_eq!(
            short
                .flatten_parameters(&network(&[3, 4], false, &device).layers)
                .unwrap_err(),
            FlatError::Count {
                expected: 3,
                found: 2
            }
        );
        // The same structure fits: a layout holds no values.
        assert!(
            layout
                .flatten_parameters(&network(&[3, 4, 2], false, &device))
                .is_ok()
        );
    }

    #[test]
    fn modules_that_cannot_be_flattened_are_refused() {
        let device = Device::flex();
        assert_eq!(
            ParameterLayout::of(&Vec::<Linear>::new()).unwrap_err(),
            FlatError::EmptyModule { trainable: false }
        );
        // Nothing requires a gradient on a device without autodiff.
        let error = ParameterLayout::trainable(&network(&[3, 4], false, &device)).unwrap_err();
        assert_eq!(error, FlatError::EmptyModule { trainable: true });
        assert_eq!(
            error.to_string(),
            "the module has no float parameters that require a gradient"
        );
        let linear: Linear = LinearConfig::new(3, 2).init(&device);
        assert_eq!(
            ParameterLayout::of(&vec![linear.clone(), linear]).unwrap_err(),
            FlatError::SharedId {
                first: "0.weight".into(),
                second: "1.weight".into()
            }
        );
        let mut hollow = network(&[3, 4], false, &device);
        hollow.scale = Param::from_tensor(Tensor::zeros([1, 0, 3], &device));
        assert_eq!(
            ParameterLayout::of(&hollow).unwrap_err(),
            FlatError::EmptyParameter {
                name: "scale".into(),
                shape: vec![1, 0, 3]
            }
        );
        let mut mixed = network(&[3, 4], false, &device);
        mixed.scale = Param::from_tensor(Tensor::ones([1, 2, 3], (&device, DType::F64)));
        let layout = ParameterLayout::of(&mixed).unwrap();
        let expected = FlatError::ElementType {
            what: "the parameter `scale`".into(),
            expected: DType::F32,
            found: DType::F64,
        };
        assert_eq!(layout.flatten_parameters(&mixed).unwrap_err(), expected);
    }

    #[test]
    fn vectors_that_do_not_fit_are_refused() {
        let device = Device::flex();
        let network = network(&[3, 4], false, &device);
        let layout = ParameterLayout::of(&network).unwrap();
        let expected = FlatError::Length {
            expected: 22,
            found: 21,
        };
        let short = Tensor::zeros([21], &device);
        assert_eq!(layout.to_gradients(short.clone()).unwrap_err(), expected);
        let error = layout.with_parameters(network.clone(), short).unwrap_err();
        assert_eq!(error, expected);
        let double = Tensor::zeros([22], (&device, DType::F64));
        let error = layout.with_parameters(network, double).unwrap_err();
        assert!(matches!(error, FlatError::ElementType { .. }), "{error}");
        // A gradient of another shape under the parameter's id.
        let mut gradients = layout.to_gradients(Tensor::zeros([22], &device)).unwrap();
        let bias = layout.entry("layers.0.bias").unwrap();
        gradients.register(bias.id(), Tensor::<1>::zeros([3], &device));
        let error = layout.flatten_gradients(&gradients).unwrap_err();
        assert!(error.to_string().contains("layers.0.bias"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_vector_goes_into_a_module_and_comes_back(
            widths in prop::collection::vec(1_usize..6, 2..5),
            norm: bool,
            seed: u64,
        ) {
            let device = Device::flex();
            let network = network(&widths, norm, &device);
            let layout = ParameterLayout::of(&network).unwrap();
            let mut noise = crate::seeded_noise::SeededNoise::new(seed, 0);
            let vector = noise.normal_values(layout.total_length());
            let tensor = Tensor::<1>::from_data(
                TensorData::new(vector.clone(), [vector.len()]),
                &device,
            );
            let moved = layout.with_parameters(network, tensor.clone()).unwrap();
            prop_assert_eq!(values(&layout.flatten_parameters(&moved).unwrap()), vector.clone());
            let gradients = layout.to_gradients(tensor).unwrap();
            prop_assert_eq!(values(&layout.flatten_gradients(&gradients).unwrap()), vector);
        }
    }
}
