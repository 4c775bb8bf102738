//! The solver as one operation in Burn's graph.
//!
//! Burn follows a graph backwards once. The gradient of a solution is computed by other rules than those of its single
//! operations, so the whole of it is one node, whose backward pass follows small graphs of its own: those of single
//! evaluations of the field, with leaves of their own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use crate::field::Pulled;

/// From the gradient by all values to those by state and parameters.
type Pull = Box<dyn FnOnce(Tensor<1>) -> Pulled + Send>;

/// A backward pass, which is run once.
#[derive(Clone)]
pub(crate) struct Pullback(Arc<Mutex<Option<Pull>>>);

impl Pullback {
    pub(crate) fn new(pull: impl FnOnce(Tensor<1>) -> Pulled + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(pull)))))
    }
}

impl fmt::Debug for Pullback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pullback")
    }
}

/// `values` as what follows from `state` and `parameters`, with the gradients that `pullback` gives.
///
/// - `values`: `[n]`, without graph
/// - `state`: `[batch, d]`; `parameters`: `[p]`
pub(crate) fn attached(
    values: Tensor<1>,
    state: Tensor<2>,
    parameters: Tensor<1>,
    pullback: Pullback,
) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Custom>::attach(
        values.into_dispatch(),
        state.into_dispatch(),
        parameters.into_dispatch(),
        pullback,
    ))
}

/// A number whose gradient by `output` is `cotangent`, without another pass over both.
pub(crate) fn seeded(output: Tensor<2>, cotangent: Tensor<2>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Custom>::inject(
        output.into_dispatch(),
        cotangent.into_dispatch(),
    ))
}

#[backend_extension(Flex, Autodiff)]
trait Custom: Backend {
    fn attach(
        values: FloatTensor<Self>,
        state: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        pullback: Pullback,
    ) -> FloatTensor<Self>;

    fn inject(output: FloatTensor<Self>, cotangent: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn zero() -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(vec![0.0_f32], [1]))
}

impl Custom for Flex {
    fn attach(
        values: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Pullback,
    ) -> FloatTensor<Self> {
        values
    }

    fn inject(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        zero()
    }
}

impl<C: CheckpointStrategy> Custom for Autodiff<Flex, C> {
    fn attach(
        values: FloatTensor<Self>,
        state: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        pullback: Pullback,
    ) -> FloatTensor<Self> {
        let nodes = [state.node(), parameters.node()];
        let values = values.into_primitive();
        match Attached.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(pullback, values),
            OpsKind::UnTracked(prep) => prep.finish(values),
        }
    }

    fn inject(output: FloatTensor<Self>, cotangent: FloatTensor<Self>) -> FloatTensor<Self> {
        let cotangent = cotangent.into_primitive();
        match Injected
            .prepare::<C>([output.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(cotangent, zero()),
            OpsKind::UnTracked(prep) => prep.finish(zero()),
        }
    }
}

#[derive(Debug)]
struct Attached;

impl Backward<Flex, 2> for Attached {
    type State = Pullback;

    fn backward(self, ops: Ops<Pullback, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let pull = ops
            .state
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(pull) = pull else { return };
        let (by_state, by_parameters) = pull(Tensor::from_primitive::<Flex>(gradient));
        let [state, parameters] = ops.parents;
        let state = state.zip(by_state.try_into_primitive::<Flex>().ok());
        let by_parameters = by_parameters.and_then(|found| found.try_into_primitive::<Flex>().ok());
        let parameters = parameters.zip(by_parameters);
        for (node, found) in [state, parameters].into_iter().flatten() {
            grads.register::<Flex>(node.id, found);
        }
    }
}

#[derive(Debug)]
struct Injected;

impl Backward<Flex, 1> for Injected {
    type State = FloatTensor<Flex>;

    fn backward(self, ops: Ops<FloatTensor<Flex>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _ = grads.consume::<Flex>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<Flex>(node.id, ops.state);
        }
    }
}
