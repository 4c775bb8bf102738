//! Arrays that start at a line of the cache.
//!
//! The allocator's large arrays start 16 bytes after a page, where every vector of 64 bytes lies in two lines: reading
//! it costs twice.

use crate::real::Real;

/// The bytes of a line.
const LINE: usize = 64;

/// Numbers from the start of a line on.
#[derive(Debug)]
pub(crate) struct Aligned<F> {
    /// Room for some numbers before the first.
    room: Vec<F>,
    start: usize,
}

impl<F> Default for Aligned<F> {
    fn default() -> Self {
        Self {
            room: Vec::new(),
            start: 0,
        }
    }
}

impl<F: Real> Aligned<F> {
    /// Makes it `len` zeros.
    pub(crate) fn reset(&mut self, len: usize) {
        self.room.clear();
        self.make_room(len);
    }

    /// Makes it `len` numbers, to be overwritten.
    pub(crate) fn make_room(&mut self, len: usize) {
        let before = LINE / size_of::<F>();
        self.room.resize(len + before, F::ZERO);
        // It may not be known: then the numbers start anywhere.
        self.start = match self.room.as_ptr().align_offset(LINE) {
            start if start <= before => start,
            _ => 0,
        };
        self.room.truncate(self.start + len);
    }

    pub(crate) fn len(&self) -> usize {
        self.values().len()
    }

    pub(crate) fn values(&self) -> &[F] {
        &self.room[self.start..]
    }

    pub(crate) fn values_mut(&mut self) -> &mut [F] {
        &mut self.room[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_start_at_a_line_and_are_zeros() {
        let mut array = Aligned::<f32>::default();
        assert!(array.values().is_empty());
        for len in [1, 1000, 7, 100_000] {
            array.reset(len);
            assert_eq!(array.values(), vec![0.0; len]);
            assert!(array.values().as_ptr().addr().is_multiple_of(LINE));
            array.values_mut().fill(1.0);
        }
    }
}
