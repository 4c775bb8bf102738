//! Rows of a batch: chosen, and put back in their order.

use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::OutOfRange;

use super::Condition;
use crate::sampler_error::{OwnError, SamplerError};

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

/// The rows with these indices, in this order, `[rows, …]`.
pub(crate) fn select<const D: usize>(x: &Tensor<D>, rows: &[usize]) -> Tensor<D> {
    match rows.iter().copied().eq(0..x.dims()[0]) {
        true => x.clone(),
        false => x.clone().select(0, indices(rows, &x.device())),
    }
}

/// The parts of a batch as one tensor, in the order of the batch.
///
/// - `parts`: for each, the indices of its rows, and the rows themselves; together they are all rows
pub(crate) fn joined<const D: usize>(parts: Vec<(Vec<usize>, Tensor<D>)>) -> Tensor<D> {
    let mut places: Vec<usize> = parts.iter().flat_map(|(rows, _)| rows.clone()).collect();
    let stacked = match <[_; 1]>::try_from(parts) {
        Ok([(_, only)]) => only,
        Err(parts) => Tensor::cat(parts.into_iter().map(|(_, x)| x).collect(), 0),
    };
    // Where each row of the batch is among the stacked ones.
    let mut order = vec![0; places.len()];
    for (place, row) in places.drain(..).enumerate() {
        order[row] = place;
    }
    select(&stacked, &order)
}

/// Answers all rows under each condition with one call of a model that has an answer for rows.
///
/// - `x`: `[batch, …]`
/// - `answer`: is given the rows, the conditions one after the other, `[conditions · batch, …]`
/// - returns a prediction for each condition, `[batch, …]`
///
/// # Errors
/// If there is no condition, or the answer has another number of rows.
pub(crate) fn of_conditions<const D: usize>(
    x: Tensor<D>,
    conditions: &[Condition],
    answer: impl FnOnce(Tensor<D>, &[(usize, Condition)]) -> Result<Tensor<D>, OwnError>,
) -> Result<Vec<Tensor<D>>, OwnError> {
    let (batch, count) = (x.dims()[0], conditions.len());
    let rows = |&condition: &Condition| (0..batch).map(move |row| (row, condition));
    let rows: Vec<_> = conditions.iter().flat_map(rows).collect();
    let together = match count {
        0 => return Err(OutOfRange::new("number of conditions", 0, "at least 1").into()),
        1 => x,
        _ => x.repeat_dim(0, count),
    };
    let output = answer(together, &rows)?;
    let (asked, found) = (rows.len(), output.dims()[0]);
    match (count, found == asked) {
        (_, false) => Err(SamplerError::Predictions { asked, found }.into()),
        (1, true) => Ok(vec![output]),
        (_, true) => Ok(output.split(batch, 0)),
    }
}

/// Answers the rows of each condition together, the conditions one after the other.
///
/// - `rows`: the condition of each row of `x`, beside its index in the whole batch
/// - `answer`: is given the rows of `x` under one condition
pub(crate) fn by_condition<const D: usize>(
    rows: &[(usize, Condition)],
    x: &Tensor<D>,
    mut answer: impl FnMut(Tensor<D>, Condition) -> Result<Tensor<D>, OwnError>,
) -> Result<Tensor<D>, OwnError> {
    let mut groups: Vec<(Condition, Vec<usize>)> = Vec::new();
    for (place, &(_, condition)) in rows.iter().enumerate() {
        match groups.iter_mut().find(|(known, _)| *known == condition) {
            Some((_, places)) => places.push(place),
            None => groups.push((condition, vec![place])),
        }
    }
    let mut parts = Vec::with_capacity(groups.len());
    for (condition, places) in groups {
        let output = answer(select(x, &places), condition)?;
        parts.push((places, output));
    }
    Ok(joined(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_each_condition_are_answered_together_and_come_back_in_order() {
        let x = Tensor::<2>::from_floats([[1.0], [2.0], [3.0], [4.0]], &Device::flex());
        let (a, b) = (Condition::FIRST, Condition::Without);
        let mut asked = Vec::new();
        let found = by_condition(&[(0, a), (1, b), (1, a), (0, b)], &x, |x, condition| {
            asked.push((condition, x.dims()[0]));
            Ok(x * if condition == a { 10.0 } else { 100.0 })
        });
        let found: Vec<f32> = found.unwrap().try_into_vec_as().unwrap();
        assert_eq!(found, [10.0, 200.0, 30.0, 400.0]);
        assert_eq!(asked, [(a, 2), (b, 2)]);
    }
}
