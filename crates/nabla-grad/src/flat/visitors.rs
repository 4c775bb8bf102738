//! Walks over the parameters of a module: collecting, flattening, replacing and casting them.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Shape, Tensor};

use crate::module_path::ModulePath;

use super::{
    FlatError, ParameterEntry, ParameterLayout, check_device, check_element_type, gradient_of,
    register,
};

/// Builds a layout.
pub(super) struct Collect {
    pub(super) path: ModulePath,
    pub(super) trainable: bool,
    pub(super) entries: Vec<ParameterEntry>,
    pub(super) names: HashMap<ParamId, String>,
    pub(super) total_length: usize,
    pub(super) device: Option<Device>,
    pub(super) error: Option<FlatError>,
}

impl Collect {
    fn add<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<(), FlatError> {
        // Reading the gradient initialises the parameter; reading its shape or device does not.
        if self.trainable && !param.is_require_grad() {
            return Ok(());
        }
        let name = self.path.name();
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
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.error.is_none() {
            self.error = self.add(param).err();
        }
    }
}

/// Returns `module` with float tensors of another type: parameters, frozen parameters and buffers. Ids stay,
/// and a parameter requires a gradient if it did before.
///
/// A [curvature](crate::curvature) in `f64` is exact to ten digits, and to four in `f32`. The
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
    // Operations refuse operands with different strategies, so the new value takes the old strategy.
    match old.gradient_checkpointing_strategy() {
        Some(strategy) => new
            .autodiff()
            .with_gradient_checkpointing_strategy(strategy)
            .set_require_grad(old.is_require_grad()),
        None => new,
    }
}

/// Finds the first tensor of a layout without gradient.
pub(super) struct WithoutGradient<'a> {
    pub(super) path: ModulePath,
    pub(super) entries: std::iter::Peekable<std::slice::Iter<'a, ParameterEntry>>,
    pub(super) found: Option<String>,
}

impl ModuleVisitor for WithoutGradient<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        if self.entries.next_if(|entry| entry.name == name).is_some()
            && self.found.is_none()
            && !param.is_require_grad()
        {
            self.found = Some(name);
        }
    }
}

/// Reads the parameters of a module, and finds where it differs from the layout.
pub(super) struct Flatten<'a> {
    pub(super) layout: &'a ParameterLayout,
    pub(super) path: ModulePath,
    pub(super) parts: Vec<Tensor<1>>,
    /// The number of float tensors visited, in the layout or not.
    pub(super) visited: usize,
    pub(super) element_type: Option<DType>,
    pub(super) error: Option<FlatError>,
}

impl Flatten<'_> {
    fn add<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<(), FlatError> {
        let index = self.parts.len();
        self.visited += 1;
        // A parameter beyond those of the layout shows in the count.
        let Some(entry) = self.layout.entries.get(index) else {
            return Ok(());
        };
        let name = self.path.name();
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
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.error.is_none() {
            self.error = self.add(param).err();
        }
    }
}

/// Puts a vector into a module that fits the layout.
pub(super) struct Replace<'a> {
    pub(super) path: ModulePath,
    pub(super) entries: std::iter::Peekable<std::slice::Iter<'a, ParameterEntry>>,
    pub(super) vector: Tensor<1>,
}

impl ModuleMapper for Replace<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some(entry) = self.entries.next_if(|entry| entry.name == name) else {
            return param;
        };
        param.map(|old| {
            let new = self.vector.clone().slice(entry.range());
            leaf_like(new.reshape(Shape::from(entry.shape.clone())), &old)
        })
    }
}
