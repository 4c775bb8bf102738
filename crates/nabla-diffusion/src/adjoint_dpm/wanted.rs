//! What gradients are wanted of, besides the noise: tensors, modules, or several of them.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Tensor};

/// Receives the gradients of each recomputed step, which add up to the gradient of the whole run.
///
/// ```
/// use burn::tensor::Gradients;
/// use nabla_diffusion::adjoint_dpm::Wanted;
///
/// /// Counts the steps.
/// struct Counter(usize);
///
/// impl Wanted for Counter {
///     fn receive(&mut self, _gradients: &mut Gradients) {
///         self.0 += 1;
///     }
/// }
/// ```
pub trait Wanted {
    /// Takes what it wants out of the gradients of one graph, and adds it up.
    fn receive(&mut self, gradients: &mut Gradients);
}

/// Nothing but the gradient of the noise.
impl Wanted for () {
    fn receive(&mut self, _gradients: &mut Gradients) {}
}

impl<A: Wanted, B: Wanted> Wanted for (A, B) {
    fn receive(&mut self, gradients: &mut Gradients) {
        self.0.receive(gradients);
        self.1.receive(gradients);
    }
}

impl<W: Wanted> Wanted for Vec<W> {
    fn receive(&mut self, gradients: &mut Gradients) {
        for wanted in self {
            wanted.receive(gradients);
        }
    }
}

impl<W: Wanted + ?Sized> Wanted for &mut W {
    fn receive(&mut self, gradients: &mut Gradients) {
        (**self).receive(gradients);
    }
}

/// The gradient of a tensor on which the model depends, such as an embedding.
#[derive(Clone, Debug)]
pub struct LeafGradient<const D: usize> {
    leaf: Tensor<D>,
    sum: Option<Tensor<D>>,
}

impl<const D: usize> LeafGradient<D> {
    /// - `leaf`: a tensor that requires gradients, and that the model itself uses: each of its calls must
    ///   compute everything that follows from it anew
    pub fn new(leaf: Tensor<D>) -> Self {
        Self { leaf, sum: None }
    }

    /// The gradient, of the shape of the tensor; zeros if nothing depends on it.
    pub fn gradient(self) -> Tensor<D> {
        match self.sum {
            Some(sum) => sum,
            None => self.leaf.inner().zeros_like(),
        }
    }
}

impl<const D: usize> Wanted for LeafGradient<D> {
    fn receive(&mut self, gradients: &mut Gradients) {
        if let Some(gradient) = self.leaf.grad_remove(gradients) {
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
    }
}

/// The gradients of the weights of a module.
pub struct ModuleGradients<'a, M: Module> {
    module: &'a M,
    sum: GradientsAccumulator<M>,
}

impl<M: Module> std::fmt::Debug for ModuleGradients<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleGradients").finish_non_exhaustive()
    }
}

impl<'a, M: Module> ModuleGradients<'a, M> {
    /// - `module`: the network of the model, or a part of it, on an autodiff device
    pub fn new(module: &'a M) -> Self {
        Self {
            module,
            sum: GradientsAccumulator::new(),
        }
    }

    /// The gradients by parameter, as Burn's optimizers take them.
    pub fn gradients(mut self) -> GradientsParams {
        self.sum.grads()
    }
}

impl<M: Module> Wanted for ModuleGradients<'_, M> {
    fn receive(&mut self, gradients: &mut Gradients) {
        let found = GradientsParams::from_module(gradients, self.module);
        self.sum.accumulate(self.module, found);
    }
}
