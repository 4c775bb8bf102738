//! One run: its steps, its support and how it ends.

use std::ops::ControlFlow;

use nabla_claims::ClaimError;
use nabla_solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, Blocks, Curvature, Penalty, Selection, SmoothProblem, Update,
};

pub(super) fn config(
    blocks: Blocks,
    selection: Selection,
    update: Update,
) -> BlockCoordinateDescentConfig {
    BlockCoordinateDescentConfig::new()
        .with_blocks(blocks)
        .with_selection(selection)
        .with_update(update)
        .with_tolerance(0.0)
        .with_trace_every(0)
}

/// The minimum, up to rounding, and its position.
pub(super) fn solved<P: SmoothProblem>(
    problem: &P,
    penalty: &Penalty,
    config: &BlockCoordinateDescentConfig,
) -> Result<(f64, Vec<f64>), ClaimError> {
    let tolerance = if config.tolerance > 0.0 {
        config.tolerance.min(1e-11)
    } else {
        1e-11
    };
    let config = config
        .clone()
        .with_tolerance(tolerance)
        .with_max_iterations(1000);
    let found = config
        .solve(problem, penalty, None, &mut |_| ControlFlow::Continue(()))
        .map_err(ClaimError::experiment)?;
    if found.certificate.relative_residual > 1e-8 {
        return Err(ClaimError::experiment(format!(
            "the reference minimum was not reached: the residual is {:.1e}",
            found.certificate.relative_residual
        )));
    }
    Ok((found.objective, found.x))
}

/// The mean size of the correlation of two coordinates of a block, `|H_ij|/√(H_ii H_jj)`, over the
/// first 100 steps.
pub(super) fn correlation<P: SmoothProblem>(
    problem: &P,
    config: &BlockCoordinateDescentConfig,
) -> Result<f64, ClaimError> {
    let state = problem.state(&vec![0.0; problem.dimension()], false);
    let (mut sum, mut pairs) = (0.0, 0_u32);
    let config = config.clone().with_max_iterations(100);
    let mut look = |block: &[usize]| {
        let h = problem.curvature_block(&state, Curvature::Bound, block);
        for i in 0..block.len() {
            for j in 0..i {
                let scale = (h[(i, i)] * h[(j, j)]).sqrt();
                // A pixel that is black in all pictures correlates with no other.
                sum += if scale > 0.0 {
                    h[(i, j)].abs() / scale
                } else {
                    0.0
                };
                pairs += 1;
            }
        }
    };
    config
        .solve(problem, &Penalty::None, None, &mut |step| {
            look(step.block);
            ControlFlow::Continue(())
        })
        .map_err(ClaimError::experiment)?;
    Ok(sum / f64::from(pairs.max(1)))
}

/// The coordinates that are not 0.
pub(super) fn support(x: &[f64]) -> Vec<usize> {
    (0..x.len()).filter(|&i| x[i] != 0.0).collect()
}

/// The measurements of one run.
pub(super) struct Descent {
    /// The steps to the excess that ends the run; infinite if it is not reached.
    pub(super) steps: f64,
    /// The coordinate updates until then, divided by the number of coordinates.
    pub(super) rounds: f64,
    /// The steps after which the support stays that of the solution; infinite if this never happens.
    pub(super) support: f64,
    /// [`last_contraction`].
    pub(super) contraction: f64,
    /// The excess as a fraction of the excess at 0, at each step.
    pub(super) curve: Vec<[f64; 2]>,
}

impl Descent {
    pub(super) fn run<P: SmoothProblem>(
        problem: &P,
        penalty: &Penalty,
        config: &BlockCoordinateDescentConfig,
        best: f64,
        share: f64,
        wanted: Option<&[usize]>,
    ) -> Result<Self, ClaimError> {
        let mut excesses: Vec<f64> = Vec::new();
        let mut curve = Vec::new();
        let (mut reached, mut last_other, mut next) = (false, None, 0.0);
        let found = config
            .solve(problem, penalty, None, &mut |step| {
                let excess = step.objective - best;
                excesses.push(excess);
                let relative = excess / excesses[0];
                reached = relative <= share;
                if wanted.is_some_and(|wanted| support(step.x) != wanted) {
                    last_other = Some(step.iteration);
                }
                // Points for a plot, about as dense on a linear as on a logarithmic axis.
                let at = step.iteration as f64;
                if at >= next || reached {
                    curve.push([at, relative]);
                    next = (at * 1.04).max(at + 1.0);
                }
                if reached {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(ClaimError::experiment)?;
        let (iterations, never) = (found.iterations, f64::INFINITY);
        Ok(Self {
            steps: if reached { iterations as f64 } else { never },
            rounds: if reached { found.epochs } else { never },
            support: match last_other {
                None => 0.0,
                Some(last) if last < iterations => (last + 1) as f64,
                Some(_) => never,
            },
            contraction: last_contraction(&excesses),
            curve,
        })
    }
}

/// The fraction of the excess that the last step left. Below 10⁻¹⁴ of the first excess the rest cannot be
/// distinguished from rounding. NaN without a step.
pub(super) fn last_contraction(excesses: &[f64]) -> f64 {
    match excesses {
        [first, .., before, last] => last.max(1e-14 * first) / before,
        [first, last] => last.max(1e-14 * first) / first,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_data::LabelledRows;
    use nabla_solve::block_coordinate_descent::{LinearModel, Partition};

    #[test]
    fn correlation_is_that_of_the_columns() {
        // Two columns at 45 degrees and one at a right angle to both: 1/√2, 0 and 0.
        let rows: LabelledRows = "1 1:1 2:1\n0 2:1\n1 3:2\n".parse().unwrap();
        let problem = LinearModel::least_squares(&rows, 0.0).unwrap();
        let all = Blocks::Fixed(Partition::Order { size: 3 });
        let config = config(all, Selection::Cyclic, Update::Matrix);
        let found = correlation(&problem, &config).unwrap();
        assert!((found - 0.5_f64.sqrt() / 3.0).abs() < 1e-12, "{found}");
    }

    #[test]
    fn a_superlinear_end_is_told_from_a_linear_one() {
        let linear: Vec<f64> = (0..60).map(|k| 0.9_f64.powi(k)).collect();
        assert!((last_contraction(&linear) - 0.9).abs() < 1e-12);
        let newton = [1.0, 1e-1, 1e-2, 1e-4, 1e-8, 0.0];
        assert_eq!(last_contraction(&newton), 1e-14 / 1e-8);
        assert_eq!(last_contraction(&[2.0, 1.0]), 0.5);
        assert!(last_contraction(&[1.0]).is_nan());
    }
}
