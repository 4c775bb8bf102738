//! The probability-flow equation in one of its forms, as a sequence of nodes and the slope at each.

use nabla_base::range;

use super::{AdjointError, FlowForm};
use crate::level::{Level, Levels};
use crate::sampler_error::SamplerError;

/// A point of the coordinate `s`: `x = scale · u`, and `du/ds = rate · u + gain · ε(x)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) s: f64,
    pub(super) level: Level,
    pub(super) scale: f64,
    pub(super) rate: f64,
    pub(super) gain: f64,
}

/// The nodes of a run, from the noise on. The last step to a level without noise is DDIM's in every form, so
/// that no node lies there.
#[derive(Clone, Debug)]
pub(super) struct Equation<'a> {
    form: FlowForm,
    levels: &'a Levels,
    nodes: Vec<Node>,
    /// The level without noise, if the run ends there.
    pub(super) clean: Option<Level>,
}

impl<'a> Equation<'a> {
    pub(super) fn new(form: FlowForm, levels: &'a Levels) -> Result<Self, AdjointError> {
        let start = levels.start();
        if start.signal() == 0.0 {
            let time = start.time();
            return Err(SamplerError::InfiniteSigma { time }.into());
        }
        if form == FlowForm::Time {
            levels.path().check_smooth()?;
        }
        let end = levels.end();
        let clean = (end.noise() == 0.0).then_some(end);
        let mut equation = Self {
            form,
            levels,
            nodes: Vec::with_capacity(levels.steps() + 1),
            clean,
        };
        let visited = (0..levels.steps()).rev().map(|i| levels.level(i));
        for level in visited.chain(clean.is_none().then_some(end)) {
            let node = equation.node(level);
            if let Some(before) = equation.nodes.last() {
                let expected = format!("below {}, the one before", before.s);
                let fits = node.s < before.s;
                range::check(fits, "coordinate of a level", node.s, expected)
                    .map_err(SamplerError::Range)?;
            }
            equation.nodes.push(node);
        }
        Ok(equation)
    }

    /// The number of steps between nodes.
    pub(super) fn steps(&self) -> usize {
        self.nodes.len() - 1
    }

    pub(super) fn at(&self, index: usize) -> Node {
        self.nodes[index]
    }

    /// `s_{i+1} − s_i` of every step.
    pub(super) fn lengths(&self) -> Vec<f64> {
        self.nodes
            .windows(2)
            .map(|pair| pair[1].s - pair[0].s)
            .collect()
    }

    /// The node at a share of the way from one node to another.
    pub(super) fn between(&self, from: usize, to: usize, share: f64) -> Node {
        let (from, to) = (self.nodes[from], self.nodes[to]);
        if share == 0.0 {
            return from;
        }
        if share == 1.0 {
            return to;
        }
        let s = from.s + share * (to.s - from.s);
        let path = self.levels.path();
        self.node(match self.form {
            FlowForm::Rho => path.level_of_sigma(s / self.levels.start().signal()),
            FlowForm::Time => path.level_at(s * path.times()[1]),
        })
    }

    fn node(&self, level: Level) -> Node {
        match self.form {
            FlowForm::Rho => {
                let signal = self.levels.start().signal();
                Node {
                    s: signal * level.sigma(),
                    level,
                    scale: level.signal() / signal,
                    rate: 0.0,
                    gain: 1.0,
                }
            }
            FlowForm::Time => {
                let span = self.levels.path().times()[1];
                let (smooth, rate) = self.levels.path().smooth_at(level.time());
                let (half, noise) = (0.5 * rate * span, (1.0 - smooth.alpha_bar()).sqrt());
                Node {
                    s: level.time() / span,
                    level: smooth,
                    scale: smooth.scale(),
                    rate: half * noise * noise,
                    gain: -half * noise,
                }
            }
        }
    }
}
