//! The two-layer network of the theory, with several outputs, which starts at 0.

use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::distance;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;

/// The reason why there is no such network.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MirroredReluError {
    /// A size is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// `f(z) = m^−½ Σ_r a_r max(0, ⟨w_r, z⟩)`, in double precision.
///
/// `w ~ N(0, I)` is trained, the signs `a ∈ {−1, 1}^outputs` are not. Units come in pairs `(w, a)`, `(w, −a)`, so `f = 0`
/// at first.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_probe::score_estimation::MirroredRelu;
///
/// let mut network = MirroredRelu::new(3, 100, 2, 1, &Device::flex())?;
/// let z = network.rows(&[0.5, -1.0, 1.0], 3)?;
/// assert!(network.predict(&z)?.iter().all(|f| f.abs() < 1e-14));
/// let y = network.rows(&[1.0, -1.0], 2)?;
/// for _ in 0..30 {
///     network.step(&z, &y, 1.0);
/// }
/// assert!((network.predict(&z)?[0] - 1.0).abs() < 1e-3);
/// # Ok::<(), nabla_probe::score_estimation::MirroredReluError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MirroredRelu {
    /// `w`, `[units, inputs]`.
    inner: Tensor<2>,
    /// `a/√m`, `[units, outputs]`.
    outer: Tensor<2>,
}

impl MirroredRelu {
    /// - `units`: `m`, even
    ///
    /// # Errors
    /// If a number is 0, or the number of units odd.
    pub fn new(
        inputs: usize,
        units: usize,
        outputs: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, MirroredReluError> {
        range::at_least("number of inputs", inputs, 1)?;
        range::at_least("number of outputs", outputs, 1)?;
        let even = units > 0 && units.is_multiple_of(2);
        range::check(even, "number of units", units, "positive and even")?;
        let mut noise = SeededNoise::new(seed, 0);
        let half = Probe::Gaussian.draw(units / 2 * inputs, &mut noise);
        let scale = 1.0 / (units as f64).sqrt();
        let signs = Probe::Rademacher.draw(units / 2 * outputs, &mut noise);
        let heights = |sign: f64| signs.iter().map(move |a| sign * scale * a);
        let outer: Vec<f64> = heights(1.0).chain(heights(-1.0)).collect();
        let options = (device, DType::F64);
        Ok(Self {
            inner: Tensor::from_data(TensorData::new(half.repeat(2), [units, inputs]), options),
            outer: Tensor::from_data(TensorData::new(outer, [units, outputs]), options),
        })
    }

    /// `w`, `[units, inputs]`.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    pub fn weights(&self) -> Result<Vec<f64>, MirroredReluError> {
        read(&self.inner)
    }

    /// Rows on the network's device.
    ///
    /// # Errors
    /// If the width does not divide the numbers.
    pub fn rows(&self, values: &[f64], width: usize) -> Result<Tensor<2>, MirroredReluError> {
        let fits = width > 0 && values.len().is_multiple_of(width);
        range::check(
            fits,
            "number of values",
            values.len(),
            format!("rows of {width}"),
        )?;
        let data = TensorData::new(values.to_vec(), [values.len() / width, width]);
        Ok(Tensor::from_data(data, (&self.inner.device(), DType::F64)))
    }

    /// `⟨w_r, z⟩`, `[examples, units]`.
    fn hidden(&self, z: &Tensor<2>) -> Tensor<2> {
        z.clone().matmul(self.inner.clone().transpose())
    }

    /// `f(z)`, `[examples, outputs]`, for `z` `[examples, inputs]`.
    pub fn forward(&self, z: &Tensor<2>) -> Tensor<2> {
        relu(self.hidden(z)).matmul(self.outer.clone())
    }

    /// [`forward`](Self::forward), read from the device.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn predict(&self, z: &Tensor<2>) -> Result<Vec<f64>, MirroredReluError> {
        read(&self.forward(z))
    }

    /// The gradient of `1/2n Σ_j ‖f(z_j) − y_j‖²`, `[units, inputs]`.
    ///
    /// ```text
    /// ∂L/∂w_r = 1/n Σ_j m^−½ (a_r·(f − y)_j) 1[w_r·z_j > 0] z_j
    /// ```
    pub fn gradient(&self, z: &Tensor<2>, y: &Tensor<2>) -> Tensor<2> {
        let hidden = self.hidden(z);
        let active = hidden.clone().greater_elem(0.0);
        let left = relu(hidden).matmul(self.outer.clone()) - y.clone(); // [examples, outputs]
        let back = left.matmul(self.outer.clone().transpose()); // [examples, units]
        let back = back.mask_fill(active.bool_not(), 0.0);
        back.transpose().matmul(z.clone()) / z.dims()[0] as f64
    }

    /// One step of gradient descent.
    pub fn step(&mut self, z: &Tensor<2>, y: &Tensor<2>, rate: f64) {
        self.inner = self.inner.clone() - self.gradient(z, y) * rate;
    }

    /// `max_r ‖w_r − w′_r‖`.
    ///
    /// # Errors
    /// If the weights cannot be read from the device.
    pub fn largest_move(&self, other: &Self) -> Result<f64, MirroredReluError> {
        let [_, inputs] = self.inner.dims();
        let (own, others) = (self.weights()?, other.weights()?);
        let each = own.chunks(inputs).zip(others.chunks(inputs));
        Ok(each.map(|(a, b)| distance(a, b)).fold(0.0, f64::max))
    }
}

fn read(tensor: &Tensor<2>) -> Result<Vec<f64>, MirroredReluError> {
    let values = tensor.clone().try_into_vec_as::<f64>();
    values.map_err(|error| MirroredReluError::Device(error.to_string()))
}
