//! The right side of an equation, `u' = f(u, t)`.
//!
//! A [`Field`] is a closure ([`field`]), a closure with parameters ([`parametric`]) or a Burn module that implements
//! [`Dynamics`]:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Tensor};
//! use nabla_physics::field::Dynamics;
//! use nabla_physics::{Method, Solver};
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     linear: Linear,
//! }
//!
//! impl Dynamics for Net {
//!     fn slope(&self, u: Tensor<2>, _t: Tensor<2>) -> Tensor<2> {
//!         self.linear.forward(u).tanh()
//!     }
//! }
//!
//! let device = Device::flex().autodiff();
//! let net = Net { linear: LinearConfig::new(2, 2).init(&device) };
//! let start = Tensor::<2>::ones([3, 2], &device); // [batch, d]
//! let solution = Solver::new(Method::TSIT5).solve(&net, start, &[0.0, 1.0])?;
//! let gradients = solution.last().powi_scalar(2).mean().backward();
//! assert_eq!(net.linear.weight.val().grad(&gradients).unwrap().dims(), [2, 2]);
//! # Ok::<(), nabla_physics::SolveError>(())
//! ```
//!
//! **Gradients** are those by the state and by the parameters that a field names. What a closure captures must not
//! require gradients: the solver says so with [`SolveError::HiddenParameters`].

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

use crate::numbers::tensor_like;
use crate::operation;
use crate::solve_error::SolveError;

/// The right side of an equation, for a batch of trajectories.
///
/// A field is a function of state, time and parameters: dropout and momentum make it none, and what it captures besides
/// must not require gradients.
pub trait Field: Clone + Send + 'static {
    /// `f(u, t)`.
    ///
    /// - `u`: `[batch, d]`
    /// - `t`: `[1, 1]` if all trajectories are at one time, `[batch, 1]` otherwise; both broadcast over `u`
    /// - returns `[batch, d]`
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2>;

    /// All parameters one after the other, `[p]`, with the graph that leads to them; `None` without parameters.
    fn parameters(&self) -> Option<Tensor<1>> {
        None
    }

    /// The field without gradients.
    fn frozen(&self) -> Self {
        self.clone()
    }

    /// The field with parameters that are leaves of a new graph.
    fn leaves(&self) -> Self {
        self.clone()
    }

    /// The gradients by the parameters of a field of [`leaves`](Self::leaves), `[p]`, zeros where there are none.
    fn gradient(&self, _gradients: &mut Gradients) -> Option<Tensor<1>> {
        None
    }
}

/// A closure `f(u, t)` without parameters as a [`Field`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_physics::{Method, Solver, field::field};
///
/// let decay = field(|u: Tensor<2>, _t| -u);
/// let start = Tensor::<2>::ones([1, 1], &Device::flex());
/// let end = Solver::new(Method::DOPRI5).solve(&decay, start, &[0.0, 1.0])?.last();
/// assert!((end.into_scalar::<f32>() - (-1.0_f32).exp()).abs() < 1e-3);
/// # Ok::<(), nabla_physics::SolveError>(())
/// ```
pub fn field<F>(f: F) -> Closure<F>
where
    F: Fn(Tensor<2>, Tensor<2>) -> Tensor<2> + Clone + Send + 'static,
{
    Closure(f)
}

/// See [`field`].
#[derive(Clone, Copy, Debug)]
pub struct Closure<F>(F);

impl<F> Field for Closure<F>
where
    F: Fn(Tensor<2>, Tensor<2>) -> Tensor<2> + Clone + Send + 'static,
{
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        (self.0)(u, t)
    }
}

/// A closure `f(u, t, θ)` with parameters as a [`Field`].
///
/// - `parameters`: `[p]`; they may come from a graph
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_physics::{Method, Solver, field::parametric};
///
/// let device = Device::flex().autodiff();
/// let rate = Tensor::<1>::from_floats([-0.5], &device).require_grad();
/// let growth = parametric(rate.clone(), |u: Tensor<2>, _t, rate: Tensor<1>| u * rate.unsqueeze());
/// let start = Tensor::<2>::ones([1, 1], &device);
/// let end = Solver::new(Method::TSIT5).solve(&growth, start, &[0.0, 2.0])?.last();
/// let gradients = end.sum().backward();
/// // d/dλ exp(2λ) = 2 exp(2λ)
/// let slope = rate.grad(&gradients).unwrap().into_scalar::<f32>();
/// assert!((slope - 2.0 * (-1.0_f32).exp()).abs() < 1e-3);
/// # Ok::<(), nabla_physics::SolveError>(())
/// ```
pub fn parametric<F>(parameters: Tensor<1>, f: F) -> Parametric<F>
where
    F: Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2> + Clone + Send + 'static,
{
    Parametric { parameters, f }
}

/// See [`parametric`].
#[derive(Clone, Debug)]
pub struct Parametric<F> {
    parameters: Tensor<1>,
    f: F,
}

impl<F> Field for Parametric<F>
where
    F: Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2> + Clone + Send + 'static,
{
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        (self.f)(u, t, self.parameters.clone())
    }

    fn parameters(&self) -> Option<Tensor<1>> {
        Some(self.parameters.clone())
    }

    fn frozen(&self) -> Self {
        let parameters = self.parameters.clone().inner();
        Self {
            parameters,
            f: self.f.clone(),
        }
    }

    fn leaves(&self) -> Self {
        let parameters = self.parameters.clone().inner().autodiff().require_grad();
        Self {
            parameters,
            f: self.f.clone(),
        }
    }

    fn gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        let found = self.parameters.grad_remove(gradients);
        Some(found.unwrap_or_else(|| self.parameters.clone().inner().zeros_like()))
    }
}

/// A Burn module that is the right side of an equation: a neural ODE. Every module of this kind is a [`Field`], whose
/// parameters are the weights that require gradients.
pub trait Dynamics: Module {
    /// `f(u, t)`; see [`Field::slope`].
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2>;
}

impl<M: Dynamics + 'static> Field for M {
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        Dynamics::slope(self, u, t)
    }

    fn parameters(&self) -> Option<Tensor<1>> {
        let mut visitor = Joined(Vec::new());
        self.visit(&mut visitor);
        (!visitor.0.is_empty()).then(|| Tensor::cat(visitor.0, 0))
    }

    fn frozen(&self) -> Self {
        self.clone().map(&mut Frozen)
    }

    fn leaves(&self) -> Self {
        self.clone().map(&mut Leaves)
    }

    fn gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        let mut visitor = Found {
            gradients,
            parts: Vec::new(),
        };
        self.visit(&mut visitor);
        (!visitor.parts.is_empty()).then(|| Tensor::cat(visitor.parts, 0))
    }
}

/// The parameters of a module that require gradients, flat, with their graph.
struct Joined(Vec<Tensor<1>>);

impl ModuleVisitor for Joined {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let count = param.lazy_shape().num_elements();
            self.0.push(param.val().reshape([count]));
        }
    }
}

struct Frozen;

impl ModuleMapper for Frozen {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| old.set_require_grad(false).inner())
    }
}

struct Leaves;

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| {
            let wanted = old.is_require_grad();
            old.inner().autodiff().set_require_grad(wanted)
        })
    }
}

/// The gradients of those that [`Joined`] joins, in the same order.
struct Found<'a> {
    gradients: &'a mut Gradients,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Found<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let value = param.val();
            let found = value.grad_remove(self.gradients);
            let count = value.shape().num_elements();
            let gradient = found.unwrap_or_else(|| value.inner().zeros_like());
            self.parts.push(gradient.reshape([count]));
        }
    }
}

/// What the gradient of an evaluation is: by the state, and by the parameters.
pub(crate) type Pulled = (Tensor<2>, Option<Tensor<1>>);

/// The sum of two gradients, of which one or both may be nothing.
pub(crate) fn sum_of<const D: usize>(
    a: Option<Tensor<D>>,
    b: Option<Tensor<D>>,
) -> Option<Tensor<D>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

/// The graph of one evaluation: from a gradient by its value to those by state and parameters.
pub(crate) type Graph = Box<dyn FnOnce(Tensor<2>) -> Pulled + Send>;

/// A field at one state and time.
pub(crate) struct Stage {
    /// `y`, `[batch, d]`, without graph.
    pub(crate) argument: Tensor<2>,
    /// `f(y, t)`, `[batch, d]`, without graph.
    pub(crate) slope: Tensor<2>,
    /// If it was asked for.
    pub(crate) graph: Option<Graph>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage")
            .field("shape", &self.argument.dims())
            .finish_non_exhaustive()
    }
}

impl Stage {
    /// Without graph.
    pub(crate) fn plain(argument: Tensor<2>, slope: Tensor<2>) -> Self {
        Self {
            argument,
            slope,
            graph: None,
        }
    }

    /// With the graph from a leaf, which has the argument's values, to `output`.
    ///
    /// - `by_parameters`: finds the gradients by parameters
    ///
    /// # Errors
    /// If the output does not fit.
    pub(crate) fn tracked(
        argument: Tensor<2>,
        leaf: Tensor<2>,
        output: Tensor<2>,
        by_parameters: impl FnOnce(&mut Gradients) -> Option<Tensor<1>> + Send + 'static,
    ) -> Result<Self, SolveError> {
        let slope = checked(&argument, output.clone().inner())?;
        let graph: Graph = Box::new(move |cotangent| {
            if !output.is_tracked() {
                return (cotangent.zeros_like(), None);
            }
            let mut gradients = operation::seeded(output, cotangent).backward();
            let by_state = leaf.grad_remove(&mut gradients);
            let by_state = by_state.unwrap_or_else(|| leaf.inner().zeros_like());
            (by_state, by_parameters(&mut gradients))
        });
        Ok(Self {
            argument,
            slope,
            graph: Some(graph),
        })
    }

    /// The gradients, from that by the slope.
    pub(crate) fn pull(&mut self, cotangent: Tensor<2>) -> Pulled {
        match self.graph.take() {
            Some(graph) => graph(cotangent),
            None => (cotangent.zeros_like(), None),
        }
    }
}

/// What is evaluated.
pub(crate) trait System {
    /// - `u`: `[batch, d]`, without graph
    /// - `times`: one, or one for each trajectory
    /// - `tracked`: whether the graph is kept
    fn evaluate(&mut self, u: Tensor<2>, times: &[f64], tracked: bool)
    -> Result<Stage, SolveError>;
}

/// A field as a system, which counts.
pub(crate) struct FieldSystem<F> {
    /// Without the graph from which its parameters come: in a backward pass, this is locked.
    field: F,
    frozen: F,
    parameters: Option<Tensor<1>>,
    pub(crate) evaluations: usize,
}

impl<F: Field> FieldSystem<F> {
    pub(crate) fn new(field: &F) -> Self {
        let parameters = field.parameters().map(Tensor::inner);
        let (field, frozen) = (field.leaves(), field.frozen());
        Self {
            field,
            frozen,
            parameters,
            evaluations: 0,
        }
    }

    /// The values of the parameters, `[p]`.
    pub(crate) fn parameters(&self) -> Option<Tensor<1>> {
        self.parameters.clone()
    }

    /// Checks that the field has no parameters but those that it names: their graph would become part of this one.
    pub(crate) fn check_hidden(&self, u: &Tensor<2>, time: f64) -> Result<(), SolveError> {
        let slope = self.frozen.slope(u.clone(), time_tensor(u, &[time]));
        if slope.is_tracked() {
            Err(SolveError::HiddenParameters)
        } else {
            Ok(())
        }
    }
}

impl<F: Field> System for FieldSystem<F> {
    fn evaluate(
        &mut self,
        u: Tensor<2>,
        times: &[f64],
        tracked: bool,
    ) -> Result<Stage, SolveError> {
        self.evaluations += 1;
        let time = time_tensor(&u, times);
        if !tracked {
            let slope = self.frozen.slope(u.clone(), time);
            if slope.is_tracked() {
                return Err(SolveError::HiddenParameters);
            }
            let slope = checked(&u, slope.inner())?;
            return Ok(Stage::plain(u, slope));
        }
        let field = self.field.leaves();
        let leaf = u.clone().autodiff().require_grad();
        let output = field.slope(leaf.clone(), time.autodiff());
        Stage::tracked(u, leaf, output, move |gradients| field.gradient(gradients))
    }
}

/// Times as the field sees them, `[1, 1]` or `[batch, 1]`.
pub(crate) fn time_tensor(u: &Tensor<2>, times: &[f64]) -> Tensor<2> {
    tensor_like(times.to_vec(), [times.len(), 1], u)
}

/// The slope, if it fits.
pub(crate) fn checked(u: &Tensor<2>, slope: Tensor<2>) -> Result<Tensor<2>, SolveError> {
    let (expected, found) = (u.dims(), slope.dims());
    if expected != found {
        return Err(SolveError::FieldShape { expected, found });
    }
    if u.dtype() != slope.dtype() {
        let [expected, found] = [u.dtype(), slope.dtype()].map(|dtype| format!("{dtype:?}"));
        return Err(SolveError::FieldType { expected, found });
    }
    Ok(slope)
}
