//! Operations with their gradients, written once for every number type.
//!
//! An [`Operation`] computes arrays; here it becomes an operation on Burn's tensors, which autodiff differentiates by
//! its [`backward`](Operation::backward). It keeps what its backward pass reads, also under gradient checkpointing.
//! 16-bit numbers are computed in 32 bits: inputs are widened before the operation and the result is rounded after it.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;

pub(crate) use crate::array::Array;
use crate::half_precision::{is_half, rounded, widened};
use crate::per_example;
use crate::real::Real;

/// A differentiable function of `N` arrays.
pub(crate) trait Operation<const N: usize>: Clone + Debug + Send + Sync + 'static {
    /// What the backward pass needs besides inputs and output.
    type Kept: Send + Sync + 'static;

    /// Which inputs the backward pass reads.
    fn reads(&self) -> [bool; N] {
        [true; N]
    }

    /// Which inputs are matrices that may lie column after column: those read by [`Array::matrix`] only.
    fn turns(&self) -> [bool; N] {
        [false; N]
    }

    /// Which inputs are the parameters of a layer, whose gradients may be asked for example by example. Then the other
    /// inputs are one for each example, as the output.
    fn parameters(&self) -> [bool; N] {
        [false; N]
    }

    /// The operation on one of `examples` alone and what it would have kept; nothing if it mixes examples.
    fn of_example(
        &self,
        _kept: &Self::Kept,
        _example: usize,
        _examples: usize,
    ) -> Option<(Self, Self::Kept)> {
        None
    }

    /// Calls `then` with the gradients of each example by the parameters that are `wanted`, and returns what it returned
    /// in the order of the examples; nothing if the operation mixes examples.
    fn for_each_example<F: Real, R: Send>(
        &self,
        batch: &Batch<'_, F, Self::Kept, N>,
        wanted: [bool; N],
        then: impl Fn([Option<&[F]>; N]) -> R + Sync,
    ) -> Option<Vec<R>> {
        let each = (0..batch.examples).into_par_iter().map(|example| {
            let gradients = batch.gradients_of(self, example, wanted)?;
            let values = gradients.each_ref().map(|g| g.as_ref().map(Array::values));
            Some(then(values))
        });
        each.collect()
    }

    /// The squared norms of the examples' gradients by parameter `input`, if that is faster than to compute these.
    fn squared_norms<F: Real>(
        &self,
        _batch: &Batch<'_, F, Self::Kept, N>,
        _input: usize,
    ) -> Option<Vec<f64>> {
        None
    }

    /// Whether the backward pass reads the output.
    fn reads_output(&self) -> bool {
        false
    }

    /// The value, and what is kept if there will be a backward pass.
    fn forward<F: Real>(&self, inputs: [Array<F>; N], tracked: bool) -> (Array<F>, Self::Kept);

    /// The gradients by the inputs, of those that are `wanted`.
    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, N>) -> [Option<Array<F>>; N];
}

/// What a backward pass is given.
pub(crate) struct Saved<'a, F, K, const N: usize> {
    /// The inputs that [`Operation::reads`].
    pub inputs: [Option<Array<F>>; N],
    /// The output, if [`Operation::reads_output`].
    pub output: Option<Array<F>>,
    pub kept: &'a K,
    /// The gradient by the output.
    pub grad: Array<F>,
    /// For which inputs there must be a gradient.
    pub wanted: [bool; N],
}

impl<F: Real, K, const N: usize> Saved<'_, F, K, N> {
    /// The gradients of a layer with an input, a weight and perhaps a bias, of those that are wanted.
    ///
    /// - `by_input`, `by_weight`: of the input, the weight and the gradient by the output
    /// - `by_bias`: of the gradient by the output
    pub(crate) fn of_layer(
        self,
        by_input: impl FnOnce(&Array<F>, &Array<F>, &Array<F>) -> Array<F>,
        by_weight: impl FnOnce(&Array<F>, &Array<F>, &Array<F>) -> Array<F>,
        by_bias: impl FnOnce(&Array<F>) -> Array<F>,
    ) -> [Option<Array<F>>; N] {
        let mut gradients = [const { None }; N];
        let (Some(Some(x)), Some(Some(weight))) = (self.inputs.first(), self.inputs.get(1)) else {
            return gradients;
        };
        if self.wanted[0] {
            gradients[0] = Some(by_input(x, weight, &self.grad));
        }
        if self.wanted[1] {
            gradients[1] = Some(by_weight(x, weight, &self.grad));
        }
        if self.wanted.get(2) == Some(&true) {
            gradients[2] = Some(by_bias(&self.grad));
        }
        gradients
    }
}

/// For [`Operation::parameters`] of a layer: all inputs but the first.
pub(crate) fn but_first<const N: usize>() -> [bool; N] {
    std::array::from_fn(|input| input > 0)
}

/// For [`Operation::reads`] of a layer whose gradients don't depend on the bias.
pub(crate) fn but_bias<const N: usize>() -> [bool; N] {
    std::array::from_fn(|input| input < 2)
}

/// Whether the kernels compute with `tensor`: a tensor of floats on the processor.
pub(crate) fn computes<const D: usize>(tensor: &Tensor<D>) -> bool {
    let known = matches!(
        tensor.dtype(),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16
    );
    known && tensor.device() == Device::flex()
}

/// Whether the kernels compute with both tensors, of one number type.
pub(crate) fn computes_both<const A: usize, const B: usize>(a: &Tensor<A>, b: &Tensor<B>) -> bool {
    a.dtype() == b.dtype() && computes(a) && computes(b)
}

/// A tensor of any rank.
pub(crate) type Any = FloatTensor<Dispatch>;

/// An operation whose loops are compiled in this crate.
///
/// A function of tensors of rank `D` is compiled where `D` is known, with all that it calls: in every crate that uses a
/// layer. [`run`](Self::run) isn't, since its types are known here. [`compiled!`] implements it.
pub(crate) trait Compiled<const N: usize>: Operation<N> {
    fn run(self, inputs: [Any; N]) -> Any;
}

/// Implements [`Compiled`] for an operation of so many tensors.
macro_rules! compiled {
    ($operation:ty: $($tensors:literal),+) => {$(
        impl $crate::operation::Compiled<$tensors> for $operation {
            #[inline(never)]
            fn run(self, inputs: [$crate::operation::Any; $tensors]) -> $crate::operation::Any {
                $crate::operation::Tensors::<$tensors>::run(self, inputs)
            }
        }
    )+};
}
pub(crate) use compiled;

/// So many tensors.
pub(crate) struct Tensors<const N: usize>;

impl Tensors<1> {
    pub(crate) fn run(operation: impl Operation<1>, [a]: [Any; 1]) -> Any {
        <Dispatch as Kernels>::unary(operation, a)
    }
}

impl Tensors<2> {
    pub(crate) fn run(operation: impl Operation<2>, [a, b]: [Any; 2]) -> Any {
        <Dispatch as Kernels>::binary(operation, a, b)
    }
}

impl Tensors<3> {
    pub(crate) fn run(operation: impl Operation<3>, [a, b, c]: [Any; 3]) -> Any {
        <Dispatch as Kernels>::ternary(operation, a, b, c)
    }
}

/// The operation of one tensor that [`computes`].
pub(crate) fn unary<const A: usize, const Z: usize>(
    operation: impl Compiled<1>,
    a: Tensor<A>,
) -> Tensor<Z> {
    Tensor::from_dispatch(operation.run([a.into_dispatch()]))
}

/// The operation of two tensors that it [`computes`].
pub(crate) fn binary<const A: usize, const B: usize, const Z: usize>(
    operation: impl Compiled<2>,
    a: Tensor<A>,
    b: Tensor<B>,
) -> Tensor<Z> {
    Tensor::from_dispatch(operation.run([a.into_dispatch(), b.into_dispatch()]))
}

/// The operation of three tensors that it [`computes`].
pub(crate) fn ternary<const A: usize, const B: usize, const C: usize, const Z: usize>(
    operation: impl Compiled<3>,
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
) -> Tensor<Z> {
    let inputs = [a.into_dispatch(), b.into_dispatch(), c.into_dispatch()];
    Tensor::from_dispatch(operation.run(inputs))
}

/// The operation of a layer, with or without a bias.
pub(crate) fn layer<const A: usize, const B: usize, const Z: usize>(
    operation: impl Compiled<2> + Compiled<3>,
    x: Tensor<A>,
    weight: Tensor<B>,
    bias: Option<Tensor<1>>,
) -> Tensor<Z> {
    match bias {
        Some(bias) => ternary(operation, x, weight, bias),
        None => binary(operation, x, weight),
    }
}

/// Operations as functions of a backend.
#[backend_extension(Flex, Autodiff)]
trait Kernels: Backend {
    fn unary<O: Operation<1>>(operation: O, a: FloatTensor<Self>) -> FloatTensor<Self>;

    fn binary<O: Operation<2>>(
        operation: O,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    fn ternary<O: Operation<3>>(
        operation: O,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The place of a tensor in the graph of autodiff.
    fn node(a: FloatTensor<Self>) -> Option<NodeId>;
}

impl Kernels for Flex {
    fn unary<O: Operation<1>>(operation: O, a: FloatTensor<Self>) -> FloatTensor<Self> {
        compute(&operation, [a], false).0
    }

    fn binary<O: Operation<2>>(
        operation: O,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        compute(&operation, [a, b], false).0
    }

    fn ternary<O: Operation<3>>(
        operation: O,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        compute(&operation, [a, b, c], false).0
    }

    fn node(_: FloatTensor<Self>) -> Option<NodeId> {
        None
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn unary<O: Operation<1>>(operation: O, a: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<C, O, 1>(operation, [a])
    }

    fn binary<O: Operation<2>>(
        operation: O,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        tracked::<C, O, 2>(operation, [a, b])
    }

    fn ternary<O: Operation<3>>(
        operation: O,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        tracked::<C, O, 3>(operation, [a, b, c])
    }

    fn node(a: FloatTensor<Self>) -> Option<NodeId> {
        Some(a.id())
    }
}

/// The place of a tensor of the CPU backend in the graph of autodiff.
pub(crate) fn node_of<const D: usize>(tensor: &Tensor<D>) -> Option<NodeId> {
    if tensor.device() != Device::flex() {
        return None;
    }
    <Dispatch as Kernels>::node(tensor.clone().into_dispatch())
}

/// Runs `operation` in the number type of the first input.
fn compute<O: Operation<N>, const N: usize>(
    operation: &O,
    inputs: [FloatTensor<Flex>; N],
    tracked: bool,
) -> (FloatTensor<Flex>, O::Kept) {
    let dtype = inputs.first().map_or(DType::F32, |first| first.dtype());
    if dtype == DType::F64 {
        let (y, kept) = operation.forward(taken::<f64, O, N>(operation, inputs), tracked);
        return (y.tensor, kept);
    }
    let inputs = taken::<f32, O, N>(operation, inputs.map(widened));
    let (y, kept) = operation.forward(inputs, tracked);
    (narrowed(y, dtype), kept)
}

fn taken<F: Real, O: Operation<N>, const N: usize>(
    operation: &O,
    inputs: [FloatTensor<Flex>; N],
) -> [Array<F>; N] {
    let mut turns = operation.turns().into_iter();
    inputs.map(|input| Array::take(input, turns.next().unwrap_or(false)))
}

/// [`taken`], of inputs that were kept.
fn kept<F: Real, O: Operation<N>, const N: usize>(
    operation: &O,
    inputs: [Option<FloatTensor<Flex>>; N],
) -> [Option<Array<F>>; N] {
    let mut turns = operation.turns().into_iter();
    inputs.map(|input| {
        let turn = turns.next().unwrap_or(false);
        input.map(|input| Array::take(widened(input), turn))
    })
}

/// The array in `dtype`: rounded, if it has 16 bits.
pub(crate) fn narrowed<F: Real>(array: Array<F>, dtype: DType) -> FloatTensor<Flex> {
    if !is_half(dtype) {
        return array.tensor;
    }
    // What has 16 bits is computed in 32.
    let values: &[f32] = bytemuck::cast_slice(array.values());
    rounded(values, array.shape(), dtype)
}

/// The gradients in the number types of their inputs.
fn all_narrowed<F: Real, const N: usize>(
    gradients: [Option<Array<F>>; N],
    dtypes: [DType; N],
) -> [Option<FloatTensor<Flex>>; N] {
    let mut dtypes = dtypes.into_iter();
    gradients.map(|gradient| {
        let dtype = dtypes.next().unwrap_or(F::dtype());
        gradient.map(|gradient| narrowed(gradient, dtype))
    })
}

/// An operation in the graph of autodiff.
#[derive(Debug)]
struct Node<O>(O);

/// What the graph keeps of it.
struct State<K, const N: usize> {
    inputs: [Option<FloatTensor<Flex>>; N],
    output: Option<FloatTensor<Flex>>,
    /// The number types of the inputs, which are those of their gradients.
    dtypes: [DType; N],
    /// How many numbers they have.
    sizes: [usize; N],
    kept: Arc<K>,
}

impl<K, const N: usize> Clone for State<K, N> {
    fn clone(&self) -> Self {
        Self {
            inputs: self.inputs.clone(),
            output: self.output.clone(),
            dtypes: self.dtypes,
            sizes: self.sizes,
            kept: self.kept.clone(),
        }
    }
}

impl<K, const N: usize> Debug for State<K, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("inputs", &self.inputs)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Node<O> {
    type State = State<O::Kept, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents;
        let mut applied = Applied {
            operation: self.0,
            state: ops.state,
            grad: grads.consume::<Flex>(&ops.node),
            parameters: [None; N],
        };
        let mut wanted = parents.each_ref().map(Option::is_some);
        if per_example::is_recording() {
            let mut own = applied.operation.parameters().into_iter();
            applied.parameters = parents.each_ref().map(|parent| {
                let own = own.next().unwrap_or(false);
                // Not what was computed from parameters, which has its gradient passed on.
                let leaf = parent
                    .as_ref()
                    .filter(|node| own && node.parents.is_empty());
                leaf.map(|node| node.id)
            });
            for (wanted, parameter) in wanted.iter_mut().zip(&applied.parameters) {
                *wanted &= parameter.is_none();
            }
        }
        if applied.parameters.iter().any(Option::is_some) {
            per_example::record(&applied);
        }
        if !wanted.contains(&true) {
            return;
        }
        for (node, gradient) in parents.into_iter().zip(applied.into_gradients(wanted)) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// An operation that was run, and the gradient by its output.
pub(crate) struct Applied<O: Operation<N>, const N: usize> {
    pub(crate) operation: O,
    state: State<O::Kept, N>,
    pub(crate) grad: FloatTensor<Flex>,
    /// The inputs whose gradients are asked for example by example.
    pub(crate) parameters: [Option<NodeId>; N],
}

impl<O: Operation<N>, const N: usize> Clone for Applied<O, N> {
    fn clone(&self) -> Self {
        Self {
            operation: self.operation.clone(),
            state: self.state.clone(),
            grad: self.grad.clone(),
            parameters: self.parameters,
        }
    }
}

impl<O: Operation<N>, const N: usize> Applied<O, N> {
    /// In which it is computed: in `f64`, or in `f32` for all others.
    pub(crate) fn is_wide(&self) -> bool {
        self.grad.dtype() == DType::F64
    }

    /// What the gradients of each example follow from.
    pub(crate) fn batch<F: Real>(&self, examples: usize) -> Batch<'_, F, O::Kept, N> {
        let output = self.state.output.clone();
        Batch {
            inputs: kept::<F, O, N>(&self.operation, self.state.inputs.clone()),
            output: output.map(|output| Array::take(widened(output), false)),
            kept: &self.state.kept,
            grad: Array::take(widened(self.grad.clone()), false),
            examples,
        }
    }

    /// How many numbers each input has.
    pub(crate) fn sizes(&self) -> [usize; N] {
        self.state.sizes
    }

    /// The number types of the inputs.
    pub(crate) fn dtypes(&self) -> [DType; N] {
        self.state.dtypes
    }

    /// The gradients by the inputs.
    fn into_gradients(self, wanted: [bool; N]) -> [Option<FloatTensor<Flex>>; N] {
        match self.is_wide() {
            true => self.into_gradients_in::<f64>(wanted),
            false => self.into_gradients_in::<f32>(wanted),
        }
    }

    // By value: what nothing else needs is overwritten.
    fn into_gradients_in<F: Real>(self, wanted: [bool; N]) -> [Option<FloatTensor<Flex>>; N] {
        let State {
            inputs,
            output,
            dtypes,
            kept: own,
            ..
        } = self.state;
        let saved = Saved {
            inputs: kept::<F, O, N>(&self.operation, inputs),
            output: output.map(|output| Array::take(widened(output), false)),
            kept: &*own,
            grad: Array::take(widened(self.grad), false),
            wanted,
        };
        all_narrowed(self.operation.backward(saved), dtypes)
    }

    /// The gradients by the parameters of all examples together, in their number types.
    ///
    /// - `grad`: by the output
    pub(crate) fn of_all<F: Real>(
        &self,
        batch: &Batch<'_, F, O::Kept, N>,
        grad: Array<F>,
        wanted: [bool; N],
    ) -> [Option<FloatTensor<Flex>>; N] {
        let gradients = self.operation.backward(Saved {
            inputs: batch.inputs.clone(),
            output: batch.output.clone(),
            kept: batch.kept,
            grad,
            wanted,
        });
        all_narrowed(gradients, self.state.dtypes)
    }
}

/// What the gradients of each example of a layer follow from.
pub(crate) struct Batch<'a, F, K, const N: usize> {
    /// Those that [`Operation::reads`].
    pub(crate) inputs: [Option<Array<F>>; N],
    pub(crate) output: Option<Array<F>>,
    pub(crate) kept: &'a K,
    /// The gradient by the output.
    pub(crate) grad: Array<F>,
    pub(crate) examples: usize,
}

impl<F: Real, K, const N: usize> Batch<'_, F, K, N> {
    /// The gradients of one example, by an operation on it alone.
    fn gradients_of<O: Operation<N, Kept = K>>(
        &self,
        operation: &O,
        example: usize,
        wanted: [bool; N],
    ) -> Option<[Option<Array<F>>; N]> {
        let mut parameters = operation.parameters().into_iter();
        let inputs = self.inputs.each_ref().map(|input| {
            let shared = parameters.next().unwrap_or(false);
            let input = input.as_ref()?;
            Some(match shared {
                true => input.clone(),
                false => input.of_example(example, self.examples),
            })
        });
        let (operation, kept) = operation.of_example(self.kept, example, self.examples)?;
        let output = self.output.as_ref();
        Some(operation.backward(Saved {
            inputs,
            output: output.map(|output| output.of_example(example, self.examples)),
            kept: &kept,
            grad: self.grad.of_example(example, self.examples),
            wanted,
        }))
    }
}

fn tracked<C: CheckpointStrategy, O: Operation<N>, const N: usize>(
    operation: O,
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    let node = Node(operation.clone());
    match node.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let reads = operation.reads();
            let inputs = inputs.map(|input| input.into_primitive());
            let dtypes = inputs.each_ref().map(|input| input.dtype());
            let sizes = inputs.each_ref().map(|input| input.shape().num_elements());
            let mut saved = inputs.clone().map(Some);
            for (saved, reads) in saved.iter_mut().zip(reads) {
                if !reads {
                    *saved = None;
                }
            }
            let (y, kept) = compute(&operation, inputs, true);
            let state = State {
                inputs: saved,
                output: operation.reads_output().then(|| y.clone()),
                dtypes,
                sizes,
                kept: Arc::new(kept),
            };
            prep.finish(state, y)
        }
        OpsKind::UnTracked(prep) => {
            let inputs = inputs.map(|input| input.into_primitive());
            prep.finish(compute(&operation, inputs, false).0)
        }
    }
}
