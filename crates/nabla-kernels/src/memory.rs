//! Memory that arrays leave behind, for those that follow.
//!
//! A step of training makes the same arrays as the one before. Memory that goes back to the operating system
//! between them comes again page by page, each cleared, which costs as much as the arithmetic of a small
//! convolution. Here the memory of a dropped array waits for the next one of its size.
//!
//! For each number type, what is lent and what waits together stay below one and a half times the most that was lent at
//! once since the last [`release`], which gives back what waits.
//!
//! Such memory is read in place by Burn's operations, but not written: the first operation that changes a tensor in
//! place copies it, and the memory comes back when the tensor is dropped.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{AllocationProperty, Bytes, TensorData};

use crate::real::Real;

/// The bytes from which an array is worth keeping; below, the allocator keeps it by itself.
const LEAST: usize = 1 << 16;

/// Arrays of one number type.
#[derive(Debug)]
pub(crate) struct Shelf<F> {
    /// What waits, by capacity.
    waiting: BTreeMap<usize, Vec<Vec<F>>>,
    /// Numbers that wait, that are lent, and the most that were lent.
    idle: usize,
    lent: usize,
    most: usize,
}

impl<F: Real> Shelf<F> {
    pub(crate) const fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            idle: 0,
            lent: 0,
            most: 0,
        }
    }

    /// An array of at least `len` numbers, if one waits that isn't much larger.
    fn take(&mut self, len: usize) -> Option<Vec<F>> {
        let (&capacity, arrays) = self.waiting.range_mut(len..=len + len / 4).next()?;
        let array = arrays.pop();
        if arrays.is_empty() {
            self.waiting.remove(&capacity);
        }
        if array.is_some() {
            self.idle -= capacity;
        }
        array
    }

    fn lend(&mut self, capacity: usize) {
        self.lent += capacity;
        self.most = self.most.max(self.lent);
    }

    /// Puts an array on the shelf, or returns it if that is full.
    fn put_back(&mut self, array: Vec<F>) -> Option<Vec<F>> {
        let capacity = array.capacity();
        self.lent = self.lent.saturating_sub(capacity);
        if self.idle + self.lent + capacity > self.bound(0) {
            return Some(array);
        }
        self.idle += capacity;
        self.waiting.entry(capacity).or_default().push(array);
        None
    }

    /// The most that may be lent and wait together, with `more` to be lent.
    fn bound(&self, more: usize) -> usize {
        let most = self.most.max(self.lent + more);
        most + most / 2
    }

    /// Takes the largest arrays off the shelf until `more` numbers fit.
    fn make_room(&mut self, more: usize) -> Vec<Vec<F>> {
        let mut dropped = Vec::new();
        let bound = self.bound(more);
        while self.idle > 0 && self.idle + self.lent + more > bound {
            let Some((capacity, arrays)) = self.waiting.pop_last() else {
                break;
            };
            self.idle -= capacity * arrays.len();
            dropped.extend(arrays);
        }
        dropped
    }
}

fn shelf<F: Real>() -> MutexGuard<'static, Shelf<F>> {
    F::shelf().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the memory that waits for arrays back to the operating system.
pub fn release() {
    clear::<f32>();
    clear::<f64>();
}

fn clear<F: Real>() {
    let mut shelf = shelf::<F>();
    shelf.idle = 0;
    shelf.most = shelf.lent;
    drop(std::mem::take(&mut shelf.waiting));
}

/// An array of some numbers, to be overwritten.
pub(crate) fn room<F: Real>(len: usize) -> Vec<F> {
    if len * size_of::<F>() < LEAST {
        return vec![F::ZERO; len];
    }
    let (found, dropped) = {
        let mut shelf = shelf::<F>();
        match shelf.take(len) {
            Some(array) => {
                shelf.lend(array.capacity());
                (Some(array), Vec::new())
            }
            None => {
                let dropped = shelf.make_room(len);
                shelf.lend(len);
                (None, dropped)
            }
        }
    };
    // Outside of the lock: it takes time.
    drop(dropped);
    match found {
        Some(mut array) => {
            array.resize(len, F::ZERO);
            array
        }
        None => vec![F::ZERO; len],
    }
}

/// An array of zeros.
pub(crate) fn zeros<F: Real>(len: usize) -> Vec<F> {
    if len * size_of::<F>() < LEAST {
        return vec![F::ZERO; len];
    }
    let mut array = room(len);
    array.fill(F::ZERO);
    array
}

/// The numbers of a tensor, which go back to the shelf.
struct Lent<F: Real>(Vec<F>);

impl<F: Real> AsRef<[u8]> for Lent<F> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl<F: Real> Drop for Lent<F> {
    fn drop(&mut self) {
        let array = std::mem::take(&mut self.0);
        let mut shelf = shelf::<F>();
        let refused = shelf.put_back(array);
        drop(shelf);
        // Outside of the lock: it takes time.
        drop(refused);
    }
}

/// A tensor of an array from [`room`] or [`zeros`], whose memory comes back when it is dropped.
pub(crate) fn tensor<F: Real>(values: Vec<F>, shape: &[usize]) -> FloatTensor<Flex> {
    let data = if values.len() * size_of::<F>() < LEAST {
        TensorData::new(values, shape.to_vec())
    } else {
        let shared = bytes::Bytes::from_owner(Lent(values));
        let bytes = Bytes::from_shared(shared, AllocationProperty::Other);
        TensorData::from_bytes(bytes, shape.to_vec(), F::dtype())
    };
    FloatTensor::<Flex>::from_data(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::relu;
    use burn::tensor::{Device, Tensor};

    /// Through arrays of changing sizes, with what came before in their memory.
    #[test]
    fn memory_that_comes_back_is_overwritten() {
        let device = Device::flex();
        for round in 0..50_usize {
            let len = 40_000 + round % 7 * 9_000;
            let x = Tensor::<1>::full([len], round as f32 - 10.0, &device);
            let kept = x.clone();
            let y: Vec<f32> = relu(x).into_data().iter().collect();
            assert_eq!(y.len(), len);
            assert!(y.iter().all(|&y| y == (round as f32 - 10.0).max(0.0)));
            drop(kept);
            if round % 20 == 19 {
                release();
            }
        }
    }

    /// Arrays that never came from the shelf, which only ever come back.
    #[test]
    fn arrays_from_elsewhere_do_not_gather() {
        let mut shelf = Shelf::<f32>::new();
        shelf.lend(10_000);
        for _ in 0..100 {
            drop(shelf.put_back(Vec::with_capacity(4_000)));
        }
        assert!(shelf.idle <= 15_000, "{}", shelf.idle);
    }

    #[test]
    fn a_shelf_stays_below_its_bound() {
        let mut shelf = Shelf::<f32>::new();
        let mut lent: Vec<Vec<f32>> = Vec::new();
        for round in 0..400_usize {
            let len = 1000 + round * 7919 % 5000;
            let array = match shelf.take(len) {
                Some(array) => array,
                None => {
                    drop(shelf.make_room(len));
                    Vec::with_capacity(len)
                }
            };
            shelf.lend(array.capacity());
            lent.push(array);
            if round % 3 == 2 {
                for array in lent.drain(..2) {
                    drop(shelf.put_back(array));
                }
            }
            let waiting: usize = shelf
                .waiting
                .iter()
                .map(|(size, all)| size * all.len())
                .sum();
            assert_eq!(waiting, shelf.idle);
            assert!(shelf.idle + shelf.lent <= shelf.most + shelf.most / 2 + 6000);
        }
        assert!(shelf.idle > 0);
    }
}
