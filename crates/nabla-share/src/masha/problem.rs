//! Operators, and the problems that they make.

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
pub struct Operator<'a>(Kind<'a>);

enum Kind<'a> {
    Whole(Map<'a>),
    Mean(usize, Component<'a>),
}

impl<'a> Operator<'a> {
    /// The operator `z ↦ F_m(z)`; both have the dimension of the problem.
    pub fn new(map: impl Fn(&[f64]) -> Vec<f64> + 'a) -> Self {
        Self(Kind::Whole(Box::new(map)))
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
        Self(Kind::Mean(count, Box::new(component)))
    }

    fn components(&self) -> usize {
        match self.0 {
            Kind::Whole(_) => 0,
            Kind::Mean(count, _) => count,
        }
    }

    fn value(&self, z: &[f64]) -> Vec<f64> {
        match &self.0 {
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
}

impl<'a> Problem<'a> {
    /// - `dimension`: the number of elements of `z`; `operators`: one per worker
    ///
    /// # Errors
    /// If there are no elements or no workers, or an operator is a mean of nothing.
    pub fn new(dimension: usize, operators: Vec<Operator<'a>>) -> Result<Self, OutOfRange> {
        range::at_least("dimension", dimension, 1)?;
        range::at_least("number of workers", operators.len(), 1)?;
        for operator in &operators {
            if let Kind::Mean(count, _) = operator.0 {
                range::at_least("number of components", count, 1)?;
            }
        }
        Ok(Self {
            dimension,
            operators,
            prox: None,
        })
    }

    /// With a term `h`, given as `(γ, z)`: replace `z` by `prox_γh(z) = argmin_u h(u) + ‖u − z‖²/(2γ)`. For a
    /// constraint it is the projection.
    #[must_use]
    pub fn with_prox(mut self, prox: impl Fn(f64, &mut [f64]) + 'a) -> Self {
        self.prox = Some(Box::new(prox));
        self
    }

    /// The number of elements of `z`.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.operators.len()
    }

    /// `F(z)`, the mean over the workers.
    pub fn value(&self, z: &[f64]) -> Vec<f64> {
        let mut mean = vec![0.0; self.dimension];
        for operator in &self.operators {
            add_scaled(&mut mean, 1.0 / self.workers() as f64, &operator.value(z));
        }
        mean
    }

    pub(super) fn is_composite(&self) -> bool {
        self.prox.is_some()
    }

    pub(super) fn prox(&self, step: f64, z: &mut [f64]) {
        if let Some(prox) = &self.prox {
            prox(step, z);
        }
    }

    /// Checks what a run is given.
    pub(super) fn check(
        &self,
        start: &[f64],
        batch: Option<usize>,
        workers: usize,
    ) -> Result<(), MashaError> {
        self.check_length("start", start)?;
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

    fn check_length(&self, what: &'static str, vector: &[f64]) -> Result<(), MashaError> {
        match vector.len() == self.dimension {
            true => Ok(()),
            false => Err(MashaError::Length {
                what,
                expected: self.dimension,
                found: vector.len(),
            }),
        }
    }

    /// `F_m(z)`.
    pub(super) fn at(&self, worker: usize, z: &[f64]) -> Result<Vec<f64>, MashaError> {
        self.checked(worker, self.operators[worker].value(z))
    }

    /// `F_m(zh) − F_m(w)`, or the mean of this difference over a batch of components.
    pub(super) fn difference(
        &self,
        worker: usize,
        zh: &[f64],
        w: &[f64],
        batch: Option<usize>,
        draws: &Draws,
    ) -> Result<Vec<f64>, MashaError> {
        let operator = &self.operators[worker];
        let [mut ahead, at_snapshot] = match (&operator.0, batch) {
            (Kind::Mean(count, component), Some(batch)) => {
                let chosen = draws.components(worker, batch, *count);
                [zh, w].map(|z| mean_over(chosen.iter().copied(), chosen.len(), component, z))
            }
            _ => [zh, w].map(|z| operator.value(z)),
        };
        self.check_length("value of an operator", &at_snapshot)?;
        add_scaled(&mut ahead, -1.0, &at_snapshot);
        self.checked(worker, ahead)
    }

    fn checked(&self, worker: usize, value: Vec<f64>) -> Result<Vec<f64>, MashaError> {
        self.check_length("value of an operator", &value)?;
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
