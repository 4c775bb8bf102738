//! Rows that belong to segments, such as edges to nodes.

use std::sync::Arc;

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use super::{GraphError, rows};

/// Which segment each row belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    of: Arc<[usize]>,
    count: usize,
}

impl Segments {
    /// - `of`: the segment of each row, below `count`
    pub(super) fn new(of: Arc<[usize]>, count: usize) -> Self {
        Self { of, count }
    }

    /// How many segments there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many rows each segment has: the degrees of nodes.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.count];
        for &segment in self.of.iter() {
            sizes[segment] += 1;
        }
        sizes
    }

    fn indices(&self, like: &Tensor<2>) -> Tensor<1, Int> {
        let of: Vec<i32> = self.of.iter().map(|&segment| segment as i32).collect();
        let count = of.len();
        Tensor::from_data(TensorData::new(of, [count]), &like.device())
    }

    /// `1 / rows` of each segment, 0 for one without rows, `[count, 1]`.
    pub(crate) fn shares(&self, like: &Tensor<2>) -> Tensor<2> {
        let sizes = self.sizes();
        let shares = sizes.iter().map(|&size| match size {
            0 => 0.0,
            size => 1.0 / size as f64,
        });
        let data = TensorData::new(shares.collect::<Vec<f64>>(), [self.count, 1]);
        Tensor::from_data(data, (&like.device(), like.dtype()))
    }

    /// The row of its segment for each row.
    ///
    /// - `x`: `[segments, width]`
    /// - returns `[rows, width]`
    ///
    /// # Errors
    /// If there is not a row for each segment.
    pub fn spread(&self, x: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        let [found, width] = x.dims();
        rows("the rows of segments", found, self.count)?;
        if self.of.is_empty() {
            return Ok(Tensor::zeros([0, width], (&x.device(), x.dtype())));
        }
        let indices = self.indices(&x);
        Ok(x.select(0, indices))
    }

    /// The sum of each segment's rows, in their order.
    ///
    /// - `x`: `[rows, width]`
    /// - returns `[segments, width]`, 0 where there are no rows
    ///
    /// # Errors
    /// If there are not as many rows.
    pub fn sum(&self, x: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        let [found, width] = x.dims();
        rows("the rows of a sum", found, self.of.len())?;
        let zeros = Tensor::<2>::zeros([self.count, width], (&x.device(), x.dtype()));
        if self.of.is_empty() {
            return Ok(zeros);
        }
        let indices = self.indices(&x);
        Ok(zeros.select_assign(0, indices, x, IndexingUpdateOp::Add))
    }

    /// The mean of each segment's rows.
    ///
    /// - `x`: `[rows, width]`
    /// - returns `[segments, width]`, 0 where there are no rows
    ///
    /// # Errors
    /// If there are not as many rows.
    pub fn mean(&self, x: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        let shares = self.shares(&x);
        Ok(self.sum(x)? * shares)
    }

    /// The greatest number of each column among a segment's rows; its gradient goes to the first of them.
    ///
    /// - `x`: `[rows, width]`
    /// - returns `[segments, width]`, 0 where there are no rows
    ///
    /// # Errors
    /// If there are not as many rows, or they cannot be read.
    pub fn max(&self, x: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        let [found, width] = x.dims();
        rows("the rows of a maximum", found, self.of.len())?;
        if self.of.is_empty() || width == 0 {
            return Ok(Tensor::zeros([self.count, width], (&x.device(), x.dtype())));
        }
        let values = x.clone().try_into_vec_as::<f64>();
        let values = values.map_err(|error| GraphError::Device(error.to_string()))?;
        // The row of each greatest number.
        let mut best: Vec<Option<usize>> = vec![None; self.count * width];
        for (row, &segment) in self.of.iter().enumerate() {
            for column in 0..width {
                let best = &mut best[segment * width + column];
                let value = values[row * width + column];
                // What is not a number stays one.
                let wins = best.is_none_or(|best| {
                    let best = values[best * width + column];
                    value > best || (value.is_nan() && !best.is_nan())
                });
                if wins {
                    *best = Some(row);
                }
            }
        }
        let shape = [self.count, width];
        let chosen: Vec<i32> = best.iter().map(|row| row.unwrap_or(0) as i32).collect();
        let there = best.iter().map(|row| f64::from(u8::from(row.is_some())));
        let there = TensorData::new(there.collect::<Vec<f64>>(), shape);
        let chosen = Tensor::<2, Int>::from_data(TensorData::new(chosen, shape), &x.device());
        let there = Tensor::<2>::from_data(there, (&x.device(), x.dtype()));
        Ok(x.gather(0, chosen) * there)
    }

    /// `exp x_e / Σ_f exp x_f` over the rows of a segment, for each column: each segment's add up to 1.
    ///
    /// - `x`, and what is returned: `[rows, width]`
    ///
    /// # Errors
    /// If there are not as many rows, or they cannot be read.
    pub fn softmax(&self, x: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        let greatest = self.spread(self.max(x.clone().detach())?)?;
        let powers = (x - greatest).exp();
        let sums = self.spread(self.sum(powers.clone())?)?;
        Ok(powers / sums)
    }
}
