//! A pull on the state at the end of a step: what DPS adds, in any sampler.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

use crate::asking::{Asking, Reading};
use crate::level::Levels;
use crate::sampler::{Grid, Solver, Steps, shared, steps};
use crate::sampler_error::SamplerError;

/// Where a guidance leaves what the sampler adds to the state at the end of the step; if it is asked several times in
/// a step, the last counts.
#[derive(Clone, Debug)]
pub struct Pull<const D: usize = 4>(Arc<Mutex<Option<Tensor<D>>>>);

impl<const D: usize> Default for Pull<D> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<const D: usize> Pull<D> {
    /// Leaves a pull, `[batch, …]`.
    pub fn put(&self, pull: Tensor<D>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pull);
    }

    fn take(&self) -> Option<Tensor<D>> {
        let mut pull = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pull.take()
    }

    /// The sampler with the pull.
    pub(crate) fn pulling(self, solver: Arc<dyn Solver<D>>) -> Arc<dyn Solver<D>> {
        shared(Pulled { solver, pull: self })
    }
}

#[derive(Debug)]
struct Pulled<const D: usize> {
    solver: Arc<dyn Solver<D>>,
    pull: Pull<D>,
}

impl<const D: usize> Solver<D> for Pulled<D> {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        let mut run = self.solver.begin(levels)?;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let end = run.step(x, index, ask)?;
            Ok(match self.pull.take() {
                Some(pull) => end + pull,
                None => end,
            })
        }))
    }

    fn reading(&self) -> Reading {
        self.solver.reading()
    }

    fn calls(&self, steps: usize) -> usize {
        self.solver.calls(steps)
    }

    fn least_steps(&self) -> usize {
        self.solver.least_steps()
    }

    fn grid(&self) -> Grid {
        self.solver.grid()
    }
}
