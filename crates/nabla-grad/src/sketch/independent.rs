//! Sketches whose elements are independent: normal numbers, or signs.

use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::{LinearSketch, SketchError, check_length, check_sizes, identity};
use crate::seeded_noise::SeededNoise;

/// The number of elements whose columns of `S` come from one stream of noise.
const BLOCK: usize = 1024;

/// `S = E/√m`, where the columns of `E` are drawn again whenever they are needed.
#[derive(Clone, Debug, PartialEq)]
struct Independent {
    rows: usize,
    dimension: usize,
    seed: u64,
}

impl Independent {
    fn new(rows: usize, dimension: usize, noise: &mut SeededNoise) -> Result<Self, SketchError> {
        check_sizes(&[("number of rows", rows), ("dimension", dimension)])?;
        Ok(Self {
            rows,
            dimension,
            seed: noise.random(),
        })
    }

    /// `1/√m`.
    fn scale(&self) -> f64 {
        1.0 / (self.rows as f64).sqrt()
    }

    /// The noise of block `number`; its columns of `E` follow each other, `[m]` each.
    fn block(&self, number: usize) -> SeededNoise {
        SeededNoise::new(self.seed, number as u64)
    }

    /// - `column`: draws the next column of `E`, `[m]`
    fn apply(
        &self,
        x: &[f64],
        column: impl Fn(&mut SeededNoise, usize) -> Vec<f32> + Sync,
    ) -> Result<Vec<f64>, SketchError> {
        check_length("vector", self.dimension, x.len())?;
        let blocks: Vec<Vec<f64>> = x
            .par_chunks(BLOCK)
            .enumerate()
            .map(|(number, x)| {
                let mut noise = self.block(number);
                let mut sums = vec![0.0; self.rows];
                for value in x {
                    for (sum, element) in sums.iter_mut().zip(column(&mut noise, self.rows)) {
                        *sum += f64::from(element) * value;
                    }
                }
                sums
            })
            .collect();
        // Added in the order of the blocks, no matter which was ready first.
        let mut sketch = vec![0.0; self.rows];
        for block in blocks {
            for (sum, part) in sketch.iter_mut().zip(block) {
                *sum += part * self.scale();
            }
        }
        Ok(sketch)
    }

    /// - `column`: draws the next column of `E`, `[m]`
    fn transposed(
        &self,
        y: &[f64],
        column: impl Fn(&mut SeededNoise, usize) -> Vec<f32> + Sync,
    ) -> Result<Vec<f64>, SketchError> {
        check_length("sketch", self.rows, y.len())?;
        let mut x = vec![0.0; self.dimension];
        x.par_chunks_mut(BLOCK).enumerate().for_each(|(number, x)| {
            let mut noise = self.block(number);
            for value in x {
                let column = column(&mut noise, self.rows);
                let products = column.iter().zip(y).map(|(&a, b)| f64::from(a) * b);
                *value = products.sum::<f64>() * self.scale();
            }
        });
        Ok(x)
    }

    fn identity(&self, kind: &[u8]) -> u64 {
        identity(kind, [self.seed, self.rows as u64].into_iter())
    }
}

/// Independent Gaussian elements of variance `1/m`; see the [module documentation](super).
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianSketch(Independent);

impl GaussianSketch {
    /// With `rows = m` numbers, for vectors of `dimension` elements.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(
        rows: usize,
        dimension: usize,
        noise: &mut SeededNoise,
    ) -> Result<Self, SketchError> {
        Ok(Self(Independent::new(rows, dimension, noise)?))
    }
}

impl LinearSketch for GaussianSketch {
    fn dimension(&self) -> usize {
        self.0.dimension
    }

    fn sketch_length(&self) -> usize {
        self.0.rows
    }

    fn variance(&self) -> f64 {
        1.0 / self.0.rows as f64
    }

    fn second_moment(&self) -> f64 {
        // The diagonal of SᵀS is not 1 here, but has a variance of its own.
        1.0 + (self.0.dimension as f64 + 1.0) / self.0.rows as f64
    }

    fn identity(&self) -> u64 {
        self.0.identity(b"gaussian")
    }

    fn apply_values(&self, x: &[f64]) -> Result<Vec<f64>, SketchError> {
        self.0.apply(x, SeededNoise::normal_values)
    }

    fn transposed_values(&self, y: &[f64]) -> Result<Vec<f64>, SketchError> {
        self.0.transposed(y, SeededNoise::normal_values)
    }
}

/// Independent elements `±1/√m`; see the [module documentation](super).
#[derive(Clone, Debug, PartialEq)]
pub struct AmsSketch(Independent);

impl AmsSketch {
    /// With `rows = m` numbers, for vectors of `dimension` elements.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(
        rows: usize,
        dimension: usize,
        noise: &mut SeededNoise,
    ) -> Result<Self, SketchError> {
        Ok(Self(Independent::new(rows, dimension, noise)?))
    }
}

/// The signs of a column, from the bits of as many 64-bit words as it needs.
fn signs(noise: &mut SeededNoise, rows: usize) -> Vec<f32> {
    let mut column = Vec::with_capacity(rows);
    while column.len() < rows {
        let word = noise.next_u64();
        let bits = (0..64.min(rows - column.len())).map(|bit| word >> bit & 1);
        column.extend(bits.map(|bit| if bit == 0 { 1.0 } else { -1.0 }));
    }
    column
}

impl LinearSketch for AmsSketch {
    fn dimension(&self) -> usize {
        self.0.dimension
    }

    fn sketch_length(&self) -> usize {
        self.0.rows
    }

    fn variance(&self) -> f64 {
        1.0 / self.0.rows as f64
    }

    fn identity(&self) -> u64 {
        self.0.identity(b"ams")
    }

    fn apply_values(&self, x: &[f64]) -> Result<Vec<f64>, SketchError> {
        self.0.apply(x, signs)
    }

    fn transposed_values(&self, y: &[f64]) -> Result<Vec<f64>, SketchError> {
        self.0.transposed(y, signs)
    }
}
