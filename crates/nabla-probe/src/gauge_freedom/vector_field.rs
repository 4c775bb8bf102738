//! Fields `s(x, σ)`, and the products with their Jacobians.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range;
use nabla_base::vector::{add_scaled, dot, norm};

use super::GaugeError;

/// A field `s(x, σ)` on points of `dimension` numbers, in double precision.
///
/// Only [`eval`](Self::eval) is needed. For a Burn model, [`TensorField`] takes a closure.
///
/// ```
/// use nabla_probe::gauge_freedom::{GaugeError, VectorField, jacobians};
///
/// /// The score of a standard normal distribution with noise.
/// struct Normal;
///
/// impl VectorField for Normal {
///     fn dimension(&self) -> usize {
///         2
///     }
///     fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
///         Ok(x.iter().map(|x| -x / (1.0 + sigma * sigma)).collect())
///     }
/// }
///
/// let jacobian = jacobians(&Normal, &[0.3, -2.0], 1.0)?; // [points, 2, 2]
/// for (found, expected) in jacobian.iter().zip([-0.5, 0.0, 0.0, -0.5]) {
///     assert!((found - expected).abs() < 1e-9);
/// }
/// # Ok::<(), GaugeError>(())
/// ```
pub trait VectorField {
    /// The numbers of a point.
    fn dimension(&self) -> usize;

    /// `s(x, σ)` for `x` `[points, dimension]`, of the same shape.
    ///
    /// # Errors
    /// The field's own.
    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError>;

    /// The step of central differences as a share of `σ`, the scale on which a score varies: 1e-4, which suits
    /// double precision. A field that computes in single precision needs about 1e-2.
    fn difference_step(&self) -> f64 {
        1e-4
    }

    /// `J v` for several directions at each point: `x` `[points, dimension]`, `directions`
    /// `[points, directions, dimension]`, and so the products. By default `[s(x + h v) − s(x − h v)] / 2h`.
    ///
    /// # Errors
    /// Those of [`eval`](Self::eval), or if the shapes don't fit.
    fn products(&self, x: &[f64], directions: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        by_differences(self, x, directions, sigma, self.difference_step())
    }

    /// `Jᵀ v`, in the shapes of [`products`](Self::products). By default from the whole Jacobian.
    ///
    /// # Errors
    /// As [`products`](Self::products).
    fn transposed_products(
        &self,
        x: &[f64],
        directions: &[f64],
        sigma: f64,
    ) -> Result<Vec<f64>, GaugeError> {
        let d = self.dimension();
        let each = directions_of_each(d, x, directions)?;
        let jacobians = jacobians(self, x, sigma)?;
        let mut products = Vec::with_capacity(directions.len());
        for (jacobian, own) in jacobians.chunks(d * d).zip(directions.chunks(each * d)) {
            for v in own.chunks(d) {
                let mut product = vec![0.0; d];
                for (row, v) in jacobian.chunks(d).zip(v) {
                    add_scaled(&mut product, *v, row);
                }
                products.extend(product);
            }
        }
        Ok(products)
    }
}

/// `∂s_i/∂x_j` at each point, `[points, dimension, dimension]`.
///
/// # Errors
/// Those of [`VectorField::products`].
pub fn jacobians<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    sigma: f64,
) -> Result<Vec<f64>, GaugeError> {
    let d = field.dimension();
    let points = points_of(d, x)?;
    let units = (0..points * d * d).map(|i| f64::from(u8::from((i / d) % d == i % d)));
    let columns = field.products(x, &units.collect::<Vec<f64>>(), sigma)?;
    let mut jacobians = vec![0.0; points * d * d];
    for (jacobian, columns) in jacobians.chunks_mut(d * d).zip(columns.chunks(d * d)) {
        for i in 0..d {
            for j in 0..d {
                jacobian[i * d + j] = columns[j * d + i];
            }
        }
    }
    Ok(jacobians)
}

/// The number of points.
pub(super) fn points_of(dimension: usize, x: &[f64]) -> Result<usize, GaugeError> {
    range::at_least("dimension of the field", dimension, 1)?;
    match x.len().is_multiple_of(dimension) && !x.is_empty() {
        true => Ok(x.len() / dimension),
        false => Err(GaugeError::Points {
            values: x.len(),
            dimension,
        }),
    }
}

/// The number of directions at each point.
pub(super) fn directions_of_each(
    dimension: usize,
    x: &[f64],
    directions: &[f64],
) -> Result<usize, GaugeError> {
    let points = points_of(dimension, x)?;
    match directions.len().is_multiple_of(x.len()) && !directions.is_empty() {
        true => Ok(directions.len() / x.len()),
        false => Err(GaugeError::Directions {
            values: directions.len(),
            points,
            dimension,
        }),
    }
}

fn by_differences<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    directions: &[f64],
    sigma: f64,
    step: f64,
) -> Result<Vec<f64>, GaugeError> {
    let d = field.dimension();
    let each = directions_of_each(d, x, directions)?;
    range::positive("step of the differences", step)?;
    range::positive("noise level", sigma)?;
    let mut sides = Vec::with_capacity(2 * directions.len());
    let mut lengths = Vec::with_capacity(directions.len() / d);
    for (x, own) in x.chunks(d).zip(directions.chunks(each * d)) {
        for v in own.chunks(d) {
            // The points lie one step apart, however long the direction is.
            let length = norm(v);
            let h = if length > 0.0 {
                step * sigma / length
            } else {
                step * sigma
            };
            sides.extend(x.iter().zip(v).map(|(x, v)| x + h * v));
            sides.extend(x.iter().zip(v).map(|(x, v)| x - h * v));
            lengths.push(2.0 * h);
        }
    }
    let values = field.eval(&sides, sigma)?;
    let mut products = Vec::with_capacity(directions.len());
    for (pair, length) in values.chunks(2 * d).zip(lengths) {
        let (above, below) = pair.split_at(d);
        products.extend(above.iter().zip(below).map(|(a, b)| (a - b) / length));
    }
    Ok(products)
}

/// A field from a closure of one point.
///
/// ```
/// use nabla_probe::gauge_freedom::{GaugeError, HostField, VectorField};
///
/// let whirl = HostField::new(2, |x: &[f64], _sigma| vec![-x[1], x[0]]);
/// assert_eq!(whirl.eval(&[1.0, 2.0, 0.5, 0.0], 1.0)?, [-2.0, 1.0, 0.0, 0.5]);
/// # Ok::<(), GaugeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostField<F> {
    dimension: usize,
    evaluate: F,
}

impl<F: Fn(&[f64], f64) -> Vec<f64>> HostField<F> {
    /// - `evaluate`: `s(x, σ)` at one point
    pub fn new(dimension: usize, evaluate: F) -> Self {
        Self {
            dimension,
            evaluate,
        }
    }
}

impl<F: Fn(&[f64], f64) -> Vec<f64>> VectorField for HostField<F> {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        points_of(self.dimension, x)?;
        let mut values = Vec::with_capacity(x.len());
        for x in x.chunks(self.dimension) {
            let value = (self.evaluate)(x, sigma);
            if value.len() != self.dimension {
                return Err(GaugeError::Output {
                    values: value.len(),
                    expected: self.dimension,
                });
            }
            values.extend(value);
        }
        Ok(values)
    }
}

/// How a [`TensorField`] differentiates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Derivatives {
    /// By one backward pass for each number of a point. The device must compute gradients.
    Backward,
    /// By central differences with this step, as a share of `σ`.
    Differences(f64),
}

/// A field from a closure on tensors: any Burn model.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{DType, Device, Tensor};
/// use nabla_grad::flat::with_float_type;
/// use nabla_probe::gauge_freedom::{GaugeError, TensorField, jacobians};
///
/// let device = Device::flex().autodiff();
/// // In double precision, as the diagnostics want it.
/// let model: Linear = with_float_type(LinearConfig::new(3, 3).init(&device), DType::F64);
/// let field = TensorField::new(3, &device, DType::F64, |x, _sigma| model.forward(x));
/// let found = jacobians(&field, &[0.0; 3], 1.0)?;
/// let weights = model.weight.val().transpose().try_into_vec_as::<f64>().unwrap();
/// assert_eq!(found, weights);
/// # Ok::<(), GaugeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TensorField<F> {
    dimension: usize,
    device: Device,
    dtype: DType,
    derivatives: Derivatives,
    evaluate: F,
}

impl<F: Fn(Tensor<2>, f64) -> Tensor<2>> TensorField<F> {
    /// Differentiates by backward passes if the device computes gradients, and otherwise by differences, with a step of
    /// 1e-4 in double precision and 1e-2 in any other.
    ///
    /// - `device`, `dtype`: of the tensors that the closure gets
    /// - `evaluate`: `s(x, σ)`, `[points, dimension]` to `[points, dimension]`, each row by itself
    pub fn new(dimension: usize, device: &Device, dtype: DType, evaluate: F) -> Self {
        let step = if dtype == DType::F64 { 1e-4 } else { 1e-2 };
        let derivatives = match device.is_autodiff() {
            true => Derivatives::Backward,
            false => Derivatives::Differences(step),
        };
        Self {
            dimension,
            device: device.clone(),
            dtype,
            derivatives,
            evaluate,
        }
    }

    /// Differentiates in another way.
    #[must_use]
    pub fn with_derivatives(mut self, derivatives: Derivatives) -> Self {
        self.derivatives = derivatives;
        self
    }

    fn tensor(&self, x: &[f64]) -> Result<Tensor<2>, GaugeError> {
        let points = points_of(self.dimension, x)?;
        let data = TensorData::new(x.to_vec(), [points, self.dimension]);
        Ok(Tensor::from_data(data, (&self.device, self.dtype)))
    }

    fn output(&self, x: Tensor<2>, sigma: f64) -> Result<Tensor<2>, GaugeError> {
        let expected = x.dims();
        let output = (self.evaluate)(x, sigma);
        match output.dims() == expected {
            true => Ok(output),
            false => Err(GaugeError::Output {
                values: output.dims()[1],
                expected: expected[1],
            }),
        }
    }
}

fn host(tensor: Tensor<2>) -> Result<Vec<f64>, GaugeError> {
    let values = tensor.without_autodiff().try_into_vec_as::<f64>();
    values.map_err(|error| GaugeError::Device(error.to_string()))
}

impl<F: Fn(Tensor<2>, f64) -> Tensor<2>> VectorField for TensorField<F> {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        host(self.output(self.tensor(x)?, sigma)?)
    }

    fn difference_step(&self) -> f64 {
        match self.derivatives {
            Derivatives::Differences(step) => step,
            Derivatives::Backward if self.dtype == DType::F64 => 1e-4,
            Derivatives::Backward => 1e-2,
        }
    }

    fn products(&self, x: &[f64], directions: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        let Derivatives::Backward = self.derivatives else {
            return by_differences(self, x, directions, sigma, self.difference_step());
        };
        let d = self.dimension;
        let each = directions_of_each(d, x, directions)?;
        // Row i of all Jacobians, [points, dimension] each.
        let mut rows = Vec::with_capacity(d);
        for i in 0..d {
            let unit = (0..x.len()).map(|k| f64::from(u8::from(k % d == i)));
            rows.push(self.backward(x, &unit.collect::<Vec<f64>>(), sigma)?);
        }
        let mut products = Vec::with_capacity(directions.len());
        for (point, own) in directions.chunks(each * d).enumerate() {
            for v in own.chunks(d) {
                products.extend(rows.iter().map(|row| dot(&row[point * d..][..d], v)));
            }
        }
        Ok(products)
    }

    fn transposed_products(
        &self,
        x: &[f64],
        directions: &[f64],
        sigma: f64,
    ) -> Result<Vec<f64>, GaugeError> {
        let d = self.dimension;
        let each = directions_of_each(d, x, directions)?;
        if !self.device.is_autodiff() {
            let field = HostDifferences(self);
            return field.transposed_products(x, directions, sigma);
        }
        let mut products = vec![0.0; directions.len()];
        for k in 0..each {
            let place = |point: usize| (point * each + k) * d;
            let chosen = (0..x.len() / d).flat_map(|point| &directions[place(point)..][..d]);
            let found = self.backward(x, &chosen.copied().collect::<Vec<f64>>(), sigma)?;
            for (point, found) in found.chunks(d).enumerate() {
                products[place(point)..][..d].copy_from_slice(found);
            }
        }
        Ok(products)
    }
}

impl<F: Fn(Tensor<2>, f64) -> Tensor<2>> TensorField<F> {
    /// `Jᵀ v` for one direction at each point, both `[points, dimension]`, by one backward pass.
    fn backward(&self, x: &[f64], v: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        if !self.device.is_autodiff() {
            return Err(GaugeError::NoGradients);
        }
        let leaf = self.tensor(x)?.require_grad();
        let output = self.output(leaf.clone(), sigma)?;
        // Also where the output does not depend on the point, there is a graph to follow.
        let scalar = (output * self.tensor(v)?).sum() + leaf.clone().sum() * 0.0;
        match leaf.grad(&scalar.backward()) {
            Some(gradient) => host(gradient),
            None => Ok(vec![0.0; x.len()]),
        }
    }
}

/// A field of which only the values and products are taken.
struct HostDifferences<'a, F>(&'a TensorField<F>);

impl<F: Fn(Tensor<2>, f64) -> Tensor<2>> VectorField for HostDifferences<'_, F> {
    fn dimension(&self) -> usize {
        self.0.dimension
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        self.0.eval(x, sigma)
    }

    fn difference_step(&self) -> f64 {
        self.0.difference_step()
    }
}

/// A score with a gauge part, `s = (I + A) ∇ln p` with an antisymmetric `A`.
///
/// `r = A ∇ln p` is a gauge field of every density, since `∇·(p r) = ∇·(A ∇p) = Σ_ij A_ij ∂_i∂_j p = 0`.
#[derive(Clone, Debug)]
pub struct Gauged<F> {
    score: F,
    /// `I + A`, row by row.
    matrix: Vec<f64>,
}

impl<F: VectorField> Gauged<F> {
    /// - `antisymmetric`: `A`, `[dimension, dimension]`, row by row
    ///
    /// # Errors
    /// If `A` has another size than the score, or is not antisymmetric.
    ///
    /// ```
    /// use nabla_probe::gauge_freedom::{Gauged, GaugeError, GaussianMixtureScore, MixtureComponent, VectorField};
    ///
    /// let score = GaussianMixtureScore::new(vec![MixtureComponent::isotropic(1.0, vec![0.0; 2], 1.0)])?;
    /// let field = Gauged::new(score, &[0.0, 2.0, -2.0, 0.0])?;
    /// // −x/(1 + σ²), and twice that across
    /// assert_eq!(field.eval(&[0.0, 2.0], 1.0)?, [-2.0, -1.0]);
    /// # Ok::<(), GaugeError>(())
    /// ```
    pub fn new(score: F, antisymmetric: &[f64]) -> Result<Self, GaugeError> {
        let d = score.dimension();
        if antisymmetric.len() != d * d {
            return Err(GaugeError::Matrix {
                what: "antisymmetric matrix",
                values: antisymmetric.len(),
                dimension: d,
            });
        }
        let mut matrix = antisymmetric.to_vec();
        for i in 0..d {
            for j in 0..=i {
                let (one, other) = (antisymmetric[i * d + j], antisymmetric[j * d + i]);
                range::check(
                    one == -other && one.is_finite(),
                    "entry of the antisymmetric matrix",
                    one,
                    format!("the negative of {other}, which lies across the diagonal"),
                )?;
            }
            matrix[i * d + i] = 1.0;
        }
        Ok(Self { score, matrix })
    }

    /// `(I + A) v` for each vector.
    fn turned(&self, vectors: &[f64]) -> Vec<f64> {
        let d = self.score.dimension();
        let rows = |v| self.matrix.chunks(d).map(move |row| dot(row, v));
        vectors.chunks(d).flat_map(rows).collect()
    }
}

impl<F: VectorField> VectorField for Gauged<F> {
    fn dimension(&self) -> usize {
        self.score.dimension()
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        Ok(self.turned(&self.score.eval(x, sigma)?))
    }

    fn difference_step(&self) -> f64 {
        self.score.difference_step()
    }

    fn products(&self, x: &[f64], directions: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        Ok(self.turned(&self.score.products(x, directions, sigma)?))
    }
}
