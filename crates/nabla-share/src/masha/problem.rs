//! Operators, and the problems that they make.
//!
//! A worker may have variables of its own, which no other operator depends on: the perturbations of its own examples,
//! say. They never travel: of `z = (shared, own₁, …, own_M)` every worker knows the shared part and its own one.

use std::ops::Range;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::add_scaled;

use super::MashaError;
use super::draws::Draws;

/// `z ↦ F_m(z)`.
type Map<'a> = Box<dyn Fn(&[f64]) -> Vec<f64> + 'a>;

/// `j, z ↦ F_{m,j}(z)`.
type Component<'a> = Box<dyn Fn(usize, &[f64]) -> Vec<f64> + 'a>;

/// `(γ, z)`: replaces `z` by `prox_γh(z)`.
type Prox<'a> = Box<dyn Fn(f64, &mut [f64]) + 'a>;

/// `F_m`, the operator of one worker.
pub struct Operator<'a> {
    kind: Kind<'a>,
    /// Where the worker's own variables start; empty without any.
    own: Vec<f64>,
}

enum Kind<'a> {
    Whole(Map<'a>),
    Mean(usize, Component<'a>),
}

impl<'a> Operator<'a> {
    /// The operator `z ↦ F_m(z)`; both have the dimension of the problem.
    pub fn new(map: impl Fn(&[f64]) -> Vec<f64> + 'a) -> Self {
        Self::of(Kind::Whole(Box::new(map)))
    }

    fn of(kind: Kind<'a>) -> Self {
        let own = Vec::new();
        Self { kind, own }
    }

    /// The operator of `min_x max_y f(x, y)`, with `z = (x, y)`: the gradient of `f` with the sign of its second part
    /// changed.
    ///
    /// - `minimised`: the number of elements of `x`; `gradient`: `z ↦ (∇_x f, ∇_y f)`
    ///
    /// ```
    /// use nabla_share::masha::{Operator, Problem};
    ///
    /// // f = x y at (1, 2).
    /// let operator = Operator::of_saddle_point(1, |z: &[f64]| vec![z[1], z[0]]);
    /// assert_eq!(Problem::new(2, vec![operator])?.value(&[1.0, 2.0]), [2.0, -1.0]);
    /// # Ok::<(), nabla_base::OutOfRange>(())
    /// ```
    pub fn of_saddle_point(minimised: usize, gradient: impl Fn(&[f64]) -> Vec<f64> + 'a) -> Self {
        Self::new(move |z| {
            let mut value = gradient(z);
            value.iter_mut().skip(minimised).for_each(|v| *v = -*v);
            value
        })
    }

    /// The mean of `count` components `j, z ↦ F_{m,j}(z)`, of which a [batch](super::Schedule::batch) may be drawn.
    pub fn mean_of(count: usize, component: impl Fn(usize, &[f64]) -> Vec<f64> + 'a) -> Self {
        Self::of(Kind::Mean(count, Box::new(component)))
    }

    /// With variables of the worker's own, which start at `start`. The operator then takes the shared variables
    /// followed by these, and returns as many elements. Nothing of these is sent or compressed. They move with the same
    /// step as the shared ones, so choose their scale (a variable `s` times smaller moves `s²` times as far).
    #[must_use]
    pub fn with_own(mut self, start: Vec<f64>) -> Self {
        self.own = start;
        self
    }

    fn components(&self) -> usize {
        match self.kind {
            Kind::Whole(_) => 0,
            Kind::Mean(count, _) => count,
        }
    }

    fn value(&self, z: &[f64]) -> Vec<f64> {
        match &self.kind {
            Kind::Whole(map) => map(z),
            Kind::Mean(count, component) => mean_over(0..*count, *count, component, z),
        }
    }
}

fn mean_over(
    chosen: impl IntoIterator<Item = usize>,
    count: usize,
    component: &Component<'_>,
    z: &[f64],
) -> Vec<f64> {
    let mut mean = vec![0.0; z.len()];
    for j in chosen {
        add_scaled(&mut mean, 1.0 / count as f64, &component(j, z));
    }
    mean
}

/// The operators of all workers, and the composite term.
pub struct Problem<'a> {
    dimension: usize,
    operators: Vec<Operator<'a>>,
    prox: Option<Prox<'a>>,
    own_prox: Option<Prox<'a>>,
}

impl<'a> Problem<'a> {
    /// - `dimension`: the number of elements of `z`, without the workers' own variables; `operators`: one per worker
    ///
    /// # Errors
    /// If there are no elements or no workers, or an operator is a mean of nothing.
    pub fn new(dimension: usize, operators: Vec<Operator<'a>>) -> Result<Self, OutOfRange> {
        range::at_least("dimension", dimension, 1)?;
        range::at_least("number of workers", operators.len(), 1)?;
        for operator in &operators {
            if let Kind::Mean(count, _) = operator.kind {
                range::at_least("number of components", count, 1)?;
            }
        }
        Ok(Self {
            dimension,
            operators,
            prox: None,
            own_prox: None,
        })
    }

    /// With a term `h`, given as `(γ, z)`: replace `z` by `prox_γh(z) = argmin_u h(u) + ‖u − z‖²/(2γ)`. For a
    /// constraint it is the projection.
    #[must_use]
    pub fn with_prox(mut self, prox: impl Fn(f64, &mut [f64]) + 'a) -> Self {
        self.prox = Some(Box::new(prox));
        self
    }

    /// As [`Self::with_prox`] for the own variables of every worker. MASHA2 takes such a term too, for what is not
    /// compressed has no error to feed back.
    #[must_use]
    pub fn with_own_prox(mut self, prox: impl Fn(f64, &mut [f64]) + 'a) -> Self {
        self.own_prox = Some(Box::new(prox));
        self
    }

    /// The number of elements of `z`, without the workers' own variables.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.operators.len()
    }

    /// `F(z)`, the mean over the workers, with their own variables where they start.
    pub fn value(&self, z: &[f64]) -> Vec<f64> {
        let mut mean = vec![0.0; self.dimension];
        for operator in &self.operators {
            let value = operator.value(&[z, &operator.own].concat());
            let shared = &value[..self.dimension.min(value.len())];
            add_scaled(&mut mean, 1.0 / self.workers() as f64, shared);
        }
        mean
    }

    /// The start, with the own variables of some workers.
    pub(super) fn start(&self, z: &[f64], workers: Range<usize>) -> Point {
        Point {
            z: z.to_vec(),
            own: workers.map(|m| self.operators[m].own.clone()).collect(),
        }
    }

    pub(super) fn is_composite(&self) -> bool {
        self.prox.is_some()
    }

    pub(super) fn prox(&self, step: f64, point: &mut Point) {
        if let Some(prox) = &self.prox {
            prox(step, &mut point.z);
        }
        if let Some(prox) = &self.own_prox {
            let own = point.own.iter_mut().filter(|own| !own.is_empty());
            own.for_each(|own| prox(step, own));
        }
    }

    /// Checks what a run is given.
    pub(super) fn check(
        &self,
        start: &[f64],
        batch: Option<usize>,
        workers: usize,
    ) -> Result<(), MashaError> {
        check_length("start", self.dimension, start)?;
        range::check(
            workers == self.workers(),
            "number of workers of the network",
            workers,
            format!("{}, as in the problem", self.workers()),
        )?;
        if let Some(batch) = batch {
            range::at_least("batch", batch, 1)?;
            if let Some(worker) = self.operators.iter().position(|o| o.components() == 0) {
                return Err(MashaError::NoComponents { worker });
            }
        }
        Ok(())
    }

    /// `F_m` at the shared variables and the worker's own, which it has as many elements as.
    pub(super) fn at(&self, worker: usize, z: &[f64], own: &[f64]) -> Result<Vec<f64>, MashaError> {
        let operator = &self.operators[worker];
        self.checked(worker, operator.value(&[z, own].concat()))
    }

    /// `F_m(zh) − F_m(w)`, or the mean of this difference over a batch of components.
    ///
    /// - `zh`, `w`: the shared variables and the worker's own; `at_w`: `F_m(w)`, which is known
    pub(super) fn difference(
        &self,
        worker: usize,
        zh: (&[f64], &[f64]),
        w: (&[f64], &[f64]),
        at_w: &[f64],
        (batch, draws): (Option<usize>, &Draws),
    ) -> Result<Vec<f64>, MashaError> {
        let operator = &self.operators[worker];
        let zh = [zh.0, zh.1].concat();
        let mut ahead;
        match (&operator.kind, batch) {
            (Kind::Mean(count, component), Some(batch)) => {
                let w = [w.0, w.1].concat();
                let chosen = draws.components(worker, batch, *count);
                let over = |z| mean_over(chosen.iter().copied(), chosen.len(), component, z);
                ahead = over(&zh);
                add_scaled(&mut ahead, -1.0, &over(&w));
            }
            _ => {
                ahead = self.checked(worker, operator.value(&zh))?;
                add_scaled(&mut ahead, -1.0, at_w);
            }
        }
        self.checked(worker, ahead)
    }

    fn checked(&self, worker: usize, value: Vec<f64>) -> Result<Vec<f64>, MashaError> {
        let expected = self.dimension + self.operators[worker].own.len();
        check_length("value of an operator", expected, &value)?;
        match value.iter().position(|v| !v.is_finite()) {
            None => Ok(value),
            Some(index) => Err(MashaError::NotFinite {
                worker,
                index,
                value: value[index],
            }),
        }
    }
}

fn check_length(what: &'static str, expected: usize, vector: &[f64]) -> Result<(), MashaError> {
    let found = vector.len();
    match found == expected {
        true => Ok(()),
        false => Err(MashaError::Length {
            what,
            expected,
            found,
        }),
    }
}

/// The variables that one process knows.
#[derive(Clone)]
pub(super) struct Point {
    /// The shared ones.
    pub(super) z: Vec<f64>,
    /// Those of every worker here.
    pub(super) own: Vec<Vec<f64>>,
}

/// `F` at a [`Point`], after an exchange.
pub(super) struct Value {
    /// The mean over all workers, of the shared variables.
    pub(super) mean: Vec<f64>,
    /// `F_m` of every worker here, with its own variables.
    pub(super) each: Vec<Vec<f64>>,
}

impl Point {
    /// A step against the operator; the own variables are those after the shared ones in each value.
    pub(super) fn step(&mut self, step: f64, value: &Value) {
        add_scaled(&mut self.z, -step, &value.mean);
        for (own, value) in self.own.iter_mut().zip(&value.each) {
            add_scaled(own, -step, &value[self.z.len()..]);
        }
    }

    /// `(1 − share) self + share other`.
    pub(super) fn between(&self, other: &Self, share: f64) -> Self {
        let mix = |a: &[f64], b: &[f64]| -> Vec<f64> {
            let pairs = a.iter().zip(b);
            pairs.map(|(a, b)| (1.0 - share) * a + share * b).collect()
        };
        let own = self.own.iter().zip(&other.own);
        Self {
            z: mix(&self.z, &other.z),
            own: own.map(|(a, b)| mix(a, b)).collect(),
        }
    }
}
