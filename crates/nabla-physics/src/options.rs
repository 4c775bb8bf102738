//! What solvers of both kinds of equations are told.

use burn::tensor::Tensor;
use nabla_base::range;

use crate::controller::Controller;
use crate::solve_error::SolveError;

/// The options that all solvers have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Options {
    /// The absolute and the relative tolerance.
    pub(crate) tolerances: [f64; 2],
    pub(crate) controller: Controller,
    /// The length of the first step, unless it is searched.
    pub(crate) first_step: Option<f64>,
    /// Rejected ones too.
    pub(crate) most_steps: usize,
}

impl Options {
    pub(crate) fn new(tolerances: [f64; 2], controller: Controller) -> Self {
        Self {
            tolerances,
            controller,
            first_step: None,
            most_steps: 100_000,
        }
    }

    /// With steps whose first length is searched.
    pub(crate) fn searching(self) -> Self {
        Self {
            controller: Controller::PI,
            first_step: None,
            ..self
        }
    }

    /// Checks the options, and what is solved with them.
    pub(crate) fn check(&self, start: &Tensor<2>, times: &[f64]) -> Result<(), SolveError> {
        self.controller.check()?;
        range::positive("absolute tolerance", self.tolerances[0])?;
        range::not_negative("relative tolerance", self.tolerances[1])?;
        if let Some(length) = self.first_step {
            range::positive("length of the first step", length)?;
        }
        range::at_least("most steps", self.most_steps, 1)?;
        check_times(times)?;
        let dims = start.dims();
        if dims.contains(&0) {
            return Err(SolveError::Empty(dims));
        }
        Ok(())
    }
}

/// Checks that times rise.
pub(crate) fn check_times(times: &[f64]) -> Result<(), SolveError> {
    if times.len() < 2 {
        return Err(SolveError::TooFewTimes(times.len()));
    }
    let mut before = f64::NAN;
    for (index, &time) in times.iter().enumerate() {
        let rises = index == 0 || time > before;
        if !time.is_finite() || !rises {
            return Err(SolveError::TimesDoNotRise {
                index,
                time,
                before,
            });
        }
        before = time;
    }
    Ok(())
}
