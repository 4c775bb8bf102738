//! Matrices whose rows are of very different lengths, and their singular values to relative accuracy.
//!
//! The usual algorithms lose singular values below `10⁻¹⁶` of the largest. Jacobi's rotations of the rows don't, if the
//! rows would be well conditioned at equal lengths, which the factors of `Q R` are.
//!
//! Source: Demmel, Veselić, *Jacobi's Method is More Accurate than QR*, 1992.

use nabla_base::vector::{add_scaled, dot, norm};

/// A square matrix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Graded {
    rows: Vec<Vec<f64>>,
}

impl Graded {
    pub(super) fn identity(size: usize) -> Self {
        let entry = |i: usize, j: usize| f64::from(u8::from(i == j));
        Self {
            rows: (0..size)
                .map(|i| (0..size).map(|j| entry(i, j)).collect())
                .collect(),
        }
    }

    /// From rows of `width`.
    pub(super) fn of_rows(values: &[f64], width: usize) -> Self {
        Self {
            rows: values.chunks(width).map(<[f64]>::to_vec).collect(),
        }
    }

    /// `self · other`.
    pub(super) fn times(&self, other: &Self) -> Self {
        let row = |factors: &Vec<f64>| {
            let mut sum = vec![0.0; factors.len()];
            for (factor, row) in factors.iter().zip(&other.rows) {
                add_scaled(&mut sum, *factor, row);
            }
            sum
        };
        Self {
            rows: self.rows.iter().map(row).collect(),
        }
    }

    /// Of the lengths of the rows.
    pub(super) fn condition(&self) -> f64 {
        let lengths = self.rows.iter().map(|row| norm(row));
        let (low, high) = lengths.fold((f64::INFINITY, 0.0_f64), |(low, high), length| {
            (low.min(length), high.max(length))
        });
        high / low
    }

    /// In descending order.
    pub(super) fn singular_values(&self) -> Vec<f64> {
        let mut rows = self.rows.clone();
        // A sweep squares the cosines between the rows, once they are small.
        for _ in 0..40 {
            let mut largest = 0.0_f64;
            for i in 0..rows.len() {
                for j in i + 1..rows.len() {
                    let (head, tail) = rows.split_at_mut(j);
                    largest = largest.max(rotate(&mut head[i], &mut tail[0]));
                }
            }
            if largest < 1e-15 {
                break;
            }
        }
        let mut values: Vec<f64> = rows.iter().map(|row| norm(row)).collect();
        values.sort_by(|a, b| b.total_cmp(a));
        values
    }
}

/// Turns two rows in their plane until they are orthogonal; returns the cosine between them before.
fn rotate(a: &mut [f64], b: &mut [f64]) -> f64 {
    let (long, other) = (norm(a), norm(b));
    if long == 0.0 || other == 0.0 {
        return 0.0;
    }
    // Products of lengths could underflow.
    let cosine: f64 = a
        .iter()
        .zip(&*b)
        .map(|(a, b)| (a / long) * (b / other))
        .sum();
    if cosine.abs() < 1e-16 {
        return cosine.abs();
    }
    // tan 2θ = 2 aᵀb / (‖a‖² − ‖b‖²)
    let zeta = 0.5 * (other / long - long / other) / cosine;
    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let c = 1.0 / tangent.hypot(1.0);
    let s = c * tangent;
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
    }
    cosine.abs()
}

/// `Q R` with pivoting of columns of `d` numbers, one after the other: the columns of `Q`, and `R` in the order in which
/// the columns came, so that `Q R` is the matrix. The rows of `R` fall in length.
pub(super) fn orthonormalised(columns: &[f64], d: usize) -> (Vec<f64>, Graded) {
    let mut left: Vec<Vec<f64>> = columns.chunks(d).map(<[f64]>::to_vec).collect();
    let count = left.len();
    let mut open: Vec<usize> = (0..count).collect();
    let mut rows = vec![vec![0.0; count]; count];
    let mut q: Vec<Vec<f64>> = Vec::with_capacity(count);
    while !open.is_empty() {
        let mut best = 0;
        for place in 1..open.len() {
            if norm(&left[open[place]]) > norm(&left[open[best]]) {
                best = place;
            }
        }
        let chosen = open.remove(best);
        let mut column = std::mem::take(&mut left[chosen]);
        // Once more against those before: what was left of a small column leans on them.
        for (k, before) in q.iter().enumerate() {
            let along = dot(before, &column);
            rows[k][chosen] += along;
            add_scaled(&mut column, -along, before);
        }
        let length = norm(&column);
        let row = q.len();
        rows[row][chosen] = length;
        if length > 0.0 {
            column.iter_mut().for_each(|x| *x /= length);
        }
        for &other in &open {
            let along = dot(&column, &left[other]);
            rows[row][other] = along;
            add_scaled(&mut left[other], -along, &column);
        }
        q.push(column);
    }
    (q.concat(), Graded { rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_grad::seeded_noise::SeededNoise;
    use nabla_grad::trace::Probe;

    /// A product of a diagonal over 40 decades with a rotation has the diagonal as its singular values.
    #[test]
    fn small_singular_values_are_found_to_relative_accuracy() {
        let drawn = Probe::Gaussian.draw(25, &mut SeededNoise::new(4, 0));
        let (q, r) = orthonormalised(&drawn, 5);
        let q = Graded::of_rows(&q, 5);
        let diagonal = [3.0, 1e-9, 1e-17, 4e-30, 1e-40];
        let mut graded = q.clone();
        for (row, factor) in graded.rows.iter_mut().zip(diagonal) {
            row.iter_mut().for_each(|x| *x *= factor);
        }
        let found = graded.singular_values();
        for (found, expected) in found.iter().zip(diagonal) {
            assert!((found / expected - 1.0).abs() < 1e-13, "{found} {expected}");
        }
        // Qᵀ's columns are the rows here, so Rᵀ Q has the rows of the matrix.
        let transposed = |m: &Graded| {
            let entry = |i: usize, j: usize| m.rows[j][i];
            Graded {
                rows: (0..5)
                    .map(|i| (0..5).map(|j| entry(i, j)).collect())
                    .collect(),
            }
        };
        let back = transposed(&r).times(&q);
        for (found, expected) in back.rows.concat().iter().zip(&drawn) {
            assert!((found - expected).abs() < 1e-14);
        }
        assert!(Graded::identity(4).condition() == 1.0);
    }
}
