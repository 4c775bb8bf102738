//! A model under one condition for each row of the batch.

use burn::tensor::Tensor;

use super::{Condition, Denoiser, OwnError, Prediction, SamplerError, rows};
use crate::level::Level;

/// A model whose first condition is another one for each row: a batch with a class for each of its samples.
///
/// [`Condition::FIRST`] stands for the row's own condition, [`Condition::Without`] for none. So every guidance
/// that needs the two works for batches of several classes.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{
///     Condition, Denoised, Denoiser, GaussianMixture, MixturePart, RowConditions,
/// };
/// use nabla_diffusion::level::Level;
///
/// // One point for each of two classes.
/// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place], deviation: 0.0 };
/// let model = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0)])?;
/// let labels = vec![Condition::Given(1), Condition::Given(0), Condition::Given(1)];
/// let model = RowConditions::new(&model, labels);
/// let x = Tensor::zeros([3, 1], &Device::flex());
/// let found = Denoised::predict(&model, &x, Level::straight(0.5))?.sample;
/// assert_eq!(found.try_into_vec_as::<f32>()?, [1.0, -1.0, 1.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RowConditions<'a, const D: usize = 4> {
    model: &'a dyn Denoiser<D>,
    conditions: Vec<Condition>,
}

impl<const D: usize> std::fmt::Debug for RowConditions<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowConditions")
            .field("conditions", &self.conditions)
            .finish_non_exhaustive()
    }
}

impl<'a, const D: usize> RowConditions<'a, D> {
    /// - `conditions`: for each row of the batch, the condition of `model`
    pub fn new(model: &'a dyn Denoiser<D>, conditions: Vec<Condition>) -> Self {
        Self { model, conditions }
    }

    /// The conditions of the model for these rows.
    fn own(&self, rows: &[(usize, Condition)]) -> Result<Vec<(usize, Condition)>, SamplerError> {
        let own = |&(row, condition): &(usize, Condition)| match condition {
            Condition::FIRST => match self.conditions.get(row) {
                Some(&own) => Ok((row, own)),
                None => Err(SamplerError::NoRow {
                    row,
                    rows: self.conditions.len(),
                }),
            },
            Condition::Without => Ok((row, condition)),
            Condition::Given(_) => Err(SamplerError::NoCondition {
                condition,
                known: "one for each row, and none".to_owned(),
            }),
        };
        rows.iter().map(own).collect()
    }
}

impl<const D: usize> Denoiser<D> for RowConditions<'_, D> {
    fn prediction(&self) -> Prediction {
        self.model.prediction()
    }

    fn predict(
        &self,
        x: Tensor<D>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<D>>, OwnError> {
        let batch = x.dims()[0];
        if batch != self.conditions.len() {
            let expected = format!("{batch}, as the batch has rows");
            let found = self.conditions.len();
            return Err(
                nabla_base::OutOfRange::new("number of conditions", found, expected).into(),
            );
        }
        rows::of_conditions(x, conditions, |x, rows| self.predict_rows(x, level, rows))
    }

    fn predict_rows(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<D>, OwnError> {
        self.model.predict_rows(x, level, &self.own(rows)?)
    }

    fn predict_perturbed(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<D>, OwnError> {
        self.model.predict_perturbed(x, level, &self.own(rows)?)
    }

    fn predict_attending(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<(Tensor<D>, Tensor<3>), OwnError> {
        self.model.predict_attending(x, level, &self.own(rows)?)
    }
}
