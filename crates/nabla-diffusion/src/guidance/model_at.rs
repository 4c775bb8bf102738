//! A model as a guidance sees it: at one state, with its evaluations counted.

use burn::tensor::Tensor;

use super::Evaluations;
use crate::denoiser::{Condition, Denoised, Denoiser, Prediction, rows};
use crate::level::Level;
use crate::sampler_error::SamplerError;

/// The model at the state of a query, which a [`Guidance`](super::Guidance) asks as often as it needs to: all
/// rows at once or some, in one call or in several that depend on each other.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{Condition, GaussianMixture, MixturePart, SamplerError};
/// use nabla_diffusion::guidance::{Evaluations, ModelAt};
/// use nabla_diffusion::level::Level;
///
/// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place], deviation: 0.1 };
/// let mixture = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0)])?;
/// let x = Tensor::zeros([3, 1], &Device::flex());
/// let mut evaluations = Evaluations::new();
/// let mut model = ModelAt::new(&mixture, &x, Level::straight(0.5), &mut evaluations);
///
/// let [without, _with] = model.ask([Condition::Without, Condition::FIRST])?; // each [3, 1]
/// let denoised = model.read(without)?;
/// // The last row once more, under another condition.
/// let last = model.ask_rows(&[(2, Condition::Given(1))])?; // [1, 1]
/// assert_eq!(denoised.sample.dims(), [3, 1]);
/// assert_eq!(last.dims(), [1, 1]);
/// assert_eq!(evaluations.each(), [2, 2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ModelAt<'a, const D: usize = 4> {
    model: &'a dyn Denoiser<D>,
    x: &'a Tensor<D>,
    level: Level,
    evaluations: &'a mut Evaluations,
}

impl<const D: usize> std::fmt::Debug for ModelAt<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelAt")
            .field("x", &self.x.dims())
            .field("level", &self.level)
            .field("evaluations", &self.evaluations)
            .finish_non_exhaustive()
    }
}

impl<'a, const D: usize> ModelAt<'a, D> {
    /// - `x`: the state, `[batch, …]`, at the level `level`
    /// - `evaluations`: where the evaluations are counted
    pub fn new(
        model: &'a dyn Denoiser<D>,
        x: &'a Tensor<D>,
        level: Level,
        evaluations: &'a mut Evaluations,
    ) -> Self {
        Self {
            model,
            x,
            level,
            evaluations,
        }
    }

    /// The kind of the model's predictions.
    pub fn prediction(&self) -> Prediction {
        self.model.prediction()
    }

    /// The number of rows of the batch.
    pub fn rows(&self) -> usize {
        self.x.dims()[0]
    }

    /// The answers for the whole batch, in the model's own form, in the order of the conditions: one call of
    /// the network.
    ///
    /// # Errors
    /// If the model fails, or returns another number of answers.
    pub fn ask<const N: usize>(
        &mut self,
        conditions: [Condition; N],
    ) -> Result<[Tensor<D>; N], SamplerError> {
        let batch = self.rows();
        self.evaluations.count((0..N * batch).map(|i| i % batch));
        answers(self.model, self.x, self.level, conditions)
    }

    /// The answers for some rows, each under its own condition, `[rows, …]` in the model's own form.
    ///
    /// - `rows`: the indices in the batch, and the conditions; at least one
    ///
    /// # Errors
    /// If the batch has no such row, the model fails, or returns another number of answers.
    pub fn ask_rows(&mut self, rows: &[(usize, Condition)]) -> Result<Tensor<D>, SamplerError> {
        let x = self.rows_of_x(rows)?;
        self.evaluations.count(rows.iter().map(|&(row, _)| row));
        complete(self.model.predict_rows(x, self.level, rows)?, rows.len())
    }

    /// The answers at another state of the same level, one for each row, in the model's own form.
    ///
    /// - `x`: of the shape of the state
    ///
    /// # Errors
    /// If the model fails, or returns another number of answers.
    pub fn ask_at(
        &mut self,
        x: &Tensor<D>,
        condition: Condition,
    ) -> Result<Tensor<D>, SamplerError> {
        self.evaluations.count(0..self.rows());
        let [output] = answers(self.model, x, self.level, [condition])?;
        Ok(output)
    }

    /// The answers for the whole batch from the network with perturbed self-attention; see
    /// [`Denoiser::predict_perturbed`].
    ///
    /// # Errors
    /// If the model has none, fails, or returns another number of answers.
    pub fn ask_perturbed(&mut self, condition: Condition) -> Result<Tensor<D>, SamplerError> {
        let rows = self.whole([condition]);
        self.evaluations.count(0..rows.len());
        let output = self
            .model
            .predict_perturbed(self.x.clone(), self.level, &rows)?;
        complete(output, rows.len())
    }

    /// The answers for the whole batch with the attention that each place gets; see
    /// [`Denoiser::predict_attending`].
    ///
    /// - returns for each condition the answers and the attention, `[batch, height, width]`
    ///
    /// # Errors
    /// If the model gives none, fails, or returns another number of answers.
    pub fn ask_attending<const N: usize>(
        &mut self,
        conditions: [Condition; N],
    ) -> Result<[(Tensor<D>, Tensor<3>); N], SamplerError> {
        let batch = self.rows();
        let rows = self.whole(conditions);
        self.evaluations.count(rows.iter().map(|&(row, _)| row));
        let x = self.x.clone().repeat_dim(0, N);
        let (output, attention) = self.model.predict_attending(x, self.level, &rows)?;
        let output = complete(output, rows.len())?;
        let attention = complete(attention, rows.len())?;
        Ok(std::array::from_fn(|i| {
            let rows = i * batch..(i + 1) * batch;
            (
                output.clone().slice_dim(0, rows.clone()),
                attention.clone().slice_dim(0, rows),
            )
        }))
    }

    /// The answers of another model for the whole batch, in the form of this one.
    ///
    /// # Errors
    /// If that model fails, or returns another number of answers.
    pub fn ask_other(
        &mut self,
        other: &dyn Denoiser<D>,
        condition: Condition,
    ) -> Result<Tensor<D>, SamplerError> {
        self.evaluations.count_other(self.rows());
        let [output] = answers(other, self.x, self.level, [condition])?;
        Ok(self.in_own_form(other, output))
    }

    /// The answers of another model for all rows of the batch, each under its own condition, in the form of
    /// this one.
    ///
    /// - `conditions`: one for each row
    ///
    /// # Errors
    /// If there are not as many conditions as rows, that model fails, or returns another number of answers.
    pub fn ask_other_rows(
        &mut self,
        other: &dyn Denoiser<D>,
        conditions: &[Condition],
    ) -> Result<Tensor<D>, SamplerError> {
        let rows: Vec<_> = conditions.iter().copied().enumerate().collect();
        let x = self.rows_of_x(&rows)?;
        self.evaluations.count_other(rows.len());
        let output = other.predict_rows(x, self.level, &rows)?;
        let output = complete(output, self.rows())?;
        Ok(self.in_own_form(other, output))
    }

    /// Reads an answer, or a combination of answers, as a prediction for the state.
    ///
    /// - `output`: of the whole batch, in the model's own form
    ///
    /// # Errors
    /// If it has the wrong shape, or is an `ε` or a score where no signal is left.
    pub fn read(&self, output: Tensor<D>) -> Result<Denoised<D>, SamplerError> {
        Denoised::from_output(output, self.x, self.level, self.prediction())
    }

    /// The prediction with this clean sample, whose direction makes up the state with it.
    ///
    /// - `sample`: of the shape of the state
    ///
    /// # Errors
    /// If it has another shape.
    pub fn read_sample(&self, sample: Tensor<D>) -> Result<Denoised<D>, SamplerError> {
        Denoised::from_output(sample, self.x, self.level, Prediction::Sample)
    }

    fn whole<const N: usize>(&self, conditions: [Condition; N]) -> Vec<(usize, Condition)> {
        let each = conditions.into_iter();
        let rows = each.flat_map(|condition| (0..self.rows()).map(move |row| (row, condition)));
        rows.collect()
    }

    fn rows_of_x(&self, rows: &[(usize, Condition)]) -> Result<Tensor<D>, SamplerError> {
        let count = self.rows();
        if let Some(&(row, _)) = rows.iter().find(|&&(row, _)| row >= count) {
            return Err(SamplerError::NoRow { row, rows: count });
        }
        let each: Vec<usize> = rows.iter().map(|&(row, _)| row).collect();
        Ok(rows::select(self.x, &each))
    }

    fn in_own_form(&self, other: &dyn Denoiser<D>, output: Tensor<D>) -> Tensor<D> {
        let own = self.prediction();
        other
            .prediction()
            .convert(own, output, self.x.clone(), self.level)
    }
}

/// One call of a model for all rows.
fn answers<const D: usize, const N: usize>(
    model: &dyn Denoiser<D>,
    x: &Tensor<D>,
    level: Level,
    conditions: [Condition; N],
) -> Result<[Tensor<D>; N], SamplerError> {
    let outputs = model.predict(x.clone(), level, &conditions)?;
    let found = outputs.len();
    <[Tensor<D>; N]>::try_from(outputs).map_err(|_| SamplerError::Predictions { asked: N, found })
}

/// Checks that there is an answer for each row.
fn complete<const D: usize>(output: Tensor<D>, asked: usize) -> Result<Tensor<D>, SamplerError> {
    match output.dims()[0] {
        found if found == asked => Ok(output),
        found => Err(SamplerError::Predictions { asked, found }),
    }
}
