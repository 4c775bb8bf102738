//! Arrays, as the kernels see the tensors of the CPU backend.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::AllocationProperty;
use faer::MatRef;

use crate::elementwise::{for_each_part, from, update};
use crate::memory;
use crate::real::Real;

/// An array of the CPU backend, in row-major order.
#[derive(Clone, Debug)]
pub(crate) struct Array<F> {
    pub(crate) tensor: FloatTensor<Flex>,
    /// Whether the numbers of this matrix lie column after column.
    turned: bool,
    number: std::marker::PhantomData<F>,
}

impl<F: Real> Array<F> {
    /// - `values`: from [`memory::room`] or [`memory::zeros`]
    pub(crate) fn new(values: Vec<F>, shape: &[usize]) -> Self {
        Self {
            tensor: memory::tensor(values, shape),
            turned: false,
            number: std::marker::PhantomData,
        }
    }

    /// The numbers of `tensor`. A transposed matrix stays as it lies if the operation can `turn` it.
    pub(crate) fn take(tensor: FloatTensor<Flex>, turn: bool) -> Self {
        let whole = |tensor: &FloatTensor<Flex>| {
            tensor.is_contiguous()
                && tensor.layout().start_offset() == 0
                && tensor.storage::<F>().len() == tensor.layout().num_elements()
        };
        let as_it_lies = |tensor: FloatTensor<Flex>, turned: bool| Self {
            tensor,
            turned,
            number: std::marker::PhantomData,
        };
        if whole(&tensor) {
            return as_it_lies(tensor, false);
        }
        if turn && tensor.shape().num_dims() == 2 {
            let transposed = tensor.transpose(0, 1);
            if whole(&transposed) {
                return as_it_lies(transposed, true);
            }
        }
        as_it_lies(tensor.to_contiguous(), false)
    }

    /// The matrix, of two dimensions.
    pub(crate) fn matrix(&self) -> MatRef<'_, F> {
        let shape = self.tensor.shape();
        let stored = MatRef::from_row_major_slice(self.values(), shape[0], shape[1]);
        match self.turned {
            true => stored.transpose(),
            false => stored,
        }
    }

    /// The numbers.
    pub(crate) fn values(&self) -> &[F] {
        self.tensor.storage()
    }

    /// `f(x, others)` for each number `x`: in place, if nothing else needs the array.
    pub(crate) fn updated<const R: usize>(
        mut self,
        others: [&[F]; R],
        f: impl Fn(F, [F; R]) -> F + Sync,
    ) -> Self {
        if let Some(values) = self.own_values() {
            update(values, others, f);
            return self;
        }
        let mut values = memory::room(self.values().len());
        from(&mut values, self.values(), others, f);
        Self::new(values, &self.shape())
    }

    /// After `change` of its numbers, part by part: in place, if nothing else needs the array.
    pub(crate) fn changed(mut self, change: impl Fn(Range<usize>, &mut [F]) + Sync) -> Self {
        if let Some(values) = self.own_values() {
            for_each_part(values, change);
            return self;
        }
        let mut values = memory::room(self.values().len());
        let before = self.values();
        for_each_part(&mut values, |range, part| {
            part.copy_from_slice(&before[range.clone()]);
            change(range, part);
        });
        Self::new(values, &self.shape())
    }

    /// The numbers, if nothing else needs the array.
    fn own_values(&mut self) -> Option<&mut [F]> {
        match self.tensor.data_arc().property() == AllocationProperty::Native {
            true => self.tensor.try_storage_mut::<F>(),
            false => None,
        }
    }

    /// The numbers of one of `examples`, which the first dimension counts.
    pub(crate) fn of_example(&self, example: usize, examples: usize) -> Self {
        let mut shape = self.shape();
        if let Some(first) = shape.first_mut() {
            *first /= examples;
        }
        let width = self.values().len() / examples;
        let values = &self.values()[example * width..(example + 1) * width];
        Self::new(values.to_vec(), &shape)
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape().to_vec();
        if self.turned {
            shape.reverse();
        }
        shape
    }
}
