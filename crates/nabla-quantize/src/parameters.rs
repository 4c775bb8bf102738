//! The parameters of a module with their names.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use nabla_grad::module_path::ModulePath;

/// A parameter of floating-point numbers.
pub(crate) struct Parameter {
    pub(crate) id: ParamId,
    /// Its dotted name, as files of weights have it.
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Its numbers, `[numbers]`.
    pub(crate) values: Tensor<1>,
}

/// All of them, in the order of the module. Tied weights are there more than once.
pub(crate) fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut collect = Collect::default();
    module.visit(&mut collect);
    collect.found
}

#[derive(Default)]
struct Collect {
    path: ModulePath,
    found: Vec<Parameter>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let shape = value.dims();
        let numbers: usize = shape.iter().product();
        self.found.push(Parameter {
            id: param.id,
            name: self.path.name(),
            shape: shape.to_vec(),
            values: value.reshape([numbers]),
        });
    }
}
