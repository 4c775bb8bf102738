//! What happens at given times.

use std::fmt;
use std::sync::Arc;

use burn::tensor::Tensor;

/// From the state before an event to that after it.
pub(crate) type Change = Arc<dyn Fn(Tensor<2>) -> Tensor<2> + Send + Sync>;

/// A time to which steps end exactly, and what changes the state there.
///
/// A state that is asked for at the time of an event is the one before it. Gradients go through the change by the state;
/// tensors that it captures must not require gradients.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_physics::{Event, Method, Solver, field::field};
///
/// // A drug decays, and a dose of 1 is given at the time 2.
/// let solver = Solver::new(Method::TSIT5).with_event(Event::change(2.0, |u| u + 1.0));
/// let start = Tensor::<2>::ones([1, 1], &Device::flex());
/// let end = solver.solve(&field(|u: Tensor<2>, _t| -u), start, &[0.0, 4.0])?.last();
/// let expected = (-4.0_f32).exp() + (-2.0_f32).exp();
/// assert!((end.into_scalar::<f32>() - expected).abs() < 1e-3);
/// # Ok::<(), nabla_physics::SolveError>(())
/// ```
#[derive(Clone)]
pub struct Event {
    pub(crate) time: f64,
    pub(crate) change: Option<Change>,
}

impl Event {
    /// A change of the state at `time`.
    ///
    /// - `change`: from the state, `[batch, d]`, to that after the event
    pub fn change(
        time: f64,
        change: impl Fn(Tensor<2>) -> Tensor<2> + Send + Sync + 'static,
    ) -> Self {
        Self {
            time,
            change: Some(Arc::new(change)),
        }
    }

    /// A time at which the field is not smooth: a step ends there, and the next one evaluates the field anew.
    pub fn stop(time: f64) -> Self {
        Self { time, change: None }
    }

    /// When.
    pub fn time(&self) -> f64 {
        self.time
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("time", &self.time)
            .field("changes", &self.change.is_some())
            .finish()
    }
}
