//! The linear system of the primal update, factored once.
//!
//! ```text
//! (B + c FᵀF) u = r,   B = I + GᵀG   or   I in the gated form
//! ```
//!
//! Because `(2D_i − I)² = I`, every block of `GᵀG` is `XᵀX`, so `B` is one `d × d` matrix. Two ways to use
//! this give the same `u`:
//!
//! * **weights**: `F = [F₁, −F₁]` only sees differences. With `p = (v − w)/√2` and `q = (v + w)/√2`
//!   the system separates into `(B + 2c F₁ᵀF₁) p` of `dP` rows and `B q`; the paper factors
//!   `2dP` rows;
//! * **examples**: by the identity of Woodbury, `u = B⁻¹r − B⁻¹Fᵀ (I/c + F B⁻¹Fᵀ)⁻¹ F B⁻¹r` with
//!   `n` rows, where `F B⁻¹Fᵀ = 2 (Σ_i D_i 1 1ᵀ D_i) ∘ (X B⁻¹ Xᵀ)`.

use faer::linalg::solvers::Llt;
use faer::prelude::Solve;
use faer::{Mat, MatRef, Side};

use super::error::ConvexReluError;
use super::problem::{Form, Program};

/// The factorisation for one program and one `c`.
pub(super) struct RidgeSystem {
    /// The factorisation of `B`; `None` for `B = I`.
    block: Option<Llt<f64>>,
    kind: Kind,
}

enum Kind {
    /// Of `I/c + F B⁻¹ Fᵀ`.
    Examples(Llt<f64>),
    /// Of `B + 2c F₁ᵀF₁`, or `I + c F₁ᵀF₁` in the gated form.
    Weights(Llt<f64>),
}

fn factor(matrix: &Mat<f64>) -> Result<Llt<f64>, ConvexReluError> {
    matrix
        .llt(Side::Lower)
        .map_err(|e| ConvexReluError::Factorization(format!("{e:?}")))
}

impl RidgeSystem {
    /// The number of rows of the smaller of the two systems, and whether it is that of the weights.
    pub(super) fn smaller(program: &Program<'_>) -> (usize, bool) {
        let weights = program.width() * program.patterns();
        let examples = program.examples();
        (weights.min(examples), weights < examples)
    }

    pub(super) fn new(
        program: &Program<'_>,
        c: f64,
        by_weights: bool,
    ) -> Result<Self, ConvexReluError> {
        let (n, d, p) = (program.examples(), program.width(), program.patterns());
        let (block, copies) = match program.form {
            Form::Relu => {
                let mut b = program.x.transpose() * program.x;
                for j in 0..d {
                    b[(j, j)] += 1.0;
                }
                (Some(b), 2.0)
            }
            Form::Gated => (None, 1.0),
        };
        let factored = block.as_ref().map(factor).transpose()?;
        let kind = if by_weights {
            let f = Mat::from_fn(n, d * p, |k, column| {
                program.active[(k, column / d)] * program.x[(k, column % d)]
            });
            let mut system = f.transpose() * &f;
            for i in 0..p {
                for a in 0..d {
                    for b in 0..d {
                        let own = match &block {
                            Some(block) => block[(a, b)],
                            None => f64::from(u8::from(a == b)),
                        };
                        system[(i * d + a, i * d + b)] += own / (copies * c);
                    }
                }
            }
            // Scaled by copies·c, so that one product makes it.
            Kind::Weights(factor(&(system * (copies * c)))?)
        } else {
            let shared = program.active * program.active.transpose(); // [n, n]
            let across = match &factored {
                Some(factored) => program.x * factored.solve(program.x.transpose().to_owned()),
                None => program.x * program.x.transpose(),
            };
            let system = Mat::from_fn(n, n, |k, l| {
                let own = if k == l { 1.0 / c } else { 0.0 };
                copies * shared[(k, l)] * across[(k, l)] + own
            });
            Kind::Examples(factor(&system)?)
        };
        Ok(Self {
            block: factored,
            kind,
        })
    }

    fn over_block(&self, r: Mat<f64>) -> Mat<f64> {
        match &self.block {
            Some(block) => block.solve(r),
            None => r,
        }
    }

    /// `u`, `[d, blocks]`, of `r`, `[d, blocks]`.
    pub(super) fn solve(&self, program: &Program<'_>, r: Mat<f64>) -> Mat<f64> {
        let (d, p) = (program.width(), program.patterns());
        match &self.kind {
            Kind::Examples(system) => {
                let first = self.over_block(r);
                let outputs = program.outputs((program.x * &first).as_ref());
                let inner = system.solve(Mat::from_fn(outputs.len(), 1, |k, _| outputs[k]));
                let inner: Vec<f64> = (0..outputs.len()).map(|k| inner[(k, 0)]).collect();
                let back = self.over_block(program.adjoint(&inner, None));
                first - back
            }
            Kind::Weights(system) if program.form == Form::Gated => {
                let flat = stack(r.as_ref());
                unstack(system.solve(flat).as_ref(), d, p)
            }
            Kind::Weights(system) => {
                let half = std::f64::consts::FRAC_1_SQRT_2;
                let difference = Mat::from_fn(d, p, |a, i| half * (r[(a, i)] - r[(a, p + i)]));
                let sum = Mat::from_fn(d, p, |a, i| half * (r[(a, i)] + r[(a, p + i)]));
                let difference = unstack(system.solve(stack(difference.as_ref())).as_ref(), d, p);
                let sum = self.over_block(sum);
                Mat::from_fn(d, 2 * p, |a, b| {
                    if b < p {
                        half * (sum[(a, b)] + difference[(a, b)])
                    } else {
                        half * (sum[(a, b - p)] - difference[(a, b - p)])
                    }
                })
            }
        }
    }
}

fn stack(columns: MatRef<'_, f64>) -> Mat<f64> {
    let d = columns.nrows();
    Mat::from_fn(d * columns.ncols(), 1, |i, _| columns[(i % d, i / d)])
}

fn unstack(flat: MatRef<'_, f64>, d: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(d, columns, |a, i| flat[(i * d + a, 0)])
}

#[cfg(test)]
mod tests {
    use super::super::{
        ActivationPatterns, ConvexReluProblem, DenseExamples, Loss, PatternSampling,
    };
    use super::*;

    /// The paper's matrix of `2dP` rows, written out.
    fn dense(program: &Program<'_>, c: f64) -> Mat<f64> {
        let (n, d, blocks) = (program.examples(), program.width(), program.blocks());
        let mut f = Mat::zeros(n, d * blocks);
        let mut g = Mat::zeros(n * blocks, d * blocks);
        for b in 0..blocks {
            for k in 0..n {
                for j in 0..d {
                    f[(k, b * d + j)] = program.weight(k, b) * program.x[(k, j)];
                    if program.form == Form::Relu {
                        g[(b * n + k, b * d + j)] = program.side(k, b) * program.x[(k, j)];
                    }
                }
            }
        }
        Mat::<f64>::identity(d * blocks, d * blocks) + f.transpose() * &f * c + g.transpose() * &g
    }

    #[test]
    fn both_systems_solve_the_matrix_of_the_paper() {
        let rows: Vec<Vec<f64>> = (0..9)
            .map(|k| {
                (0..3)
                    .map(|j| ((k * 7 + j * 5) % 11) as f64 / 5.0 - 1.0)
                    .collect()
            })
            .collect();
        let examples = DenseExamples::new(&rows, &[1.0; 9]).unwrap();
        let problem = ConvexReluProblem::new(&examples, Loss::Squared, 0.1, true).unwrap();
        let patterns = ActivationPatterns::sample(&problem, PatternSampling::new(6)).unwrap();
        for form in [Form::Relu, Form::Gated] {
            let program = Program::new(&problem, &patterns, form).unwrap();
            let r = Mat::from_fn(4, program.blocks(), |i, j| {
                ((i * 3 + j * 7) % 13) as f64 - 6.0
            });
            for c in [0.02, 1.0, 300.0] {
                let matrix = dense(&program, c);
                for by_weights in [false, true] {
                    let system = RidgeSystem::new(&program, c, by_weights).unwrap();
                    let u = system.solve(&program, r.clone());
                    let error = (&matrix * stack(u.as_ref()) - stack(r.as_ref())).norm_max();
                    assert!(error < 1e-9, "{form:?} {c} {by_weights} {error}");
                }
            }
        }
    }
}
