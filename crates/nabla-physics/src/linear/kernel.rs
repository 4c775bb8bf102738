//! The kernel of a matrix, as far as its rows show it.

/// Vectors that `A` maps to zero: constants on sets of unknowns that are not linked to any other, if all rows of the set sum to
/// zero. These are the regions of a Poisson equation without a Dirichlet border, and the zero rows of its obstacles.
///
/// A matrix may have other vectors in its kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The set of each unknown, from 1; 0 for none. Empty if there is no set.
    set: Vec<u32>,
    /// The size of each set.
    sizes: Vec<usize>,
}

impl Kernel {
    /// - `n`: unknowns
    /// - `sums_to_zero`: whether a row does
    /// - `neighbours`: calls back with the columns of a row that are not zero
    pub(super) fn find(
        n: usize,
        sums_to_zero: impl Fn(usize) -> bool,
        neighbours: impl Fn(usize, &mut dyn FnMut(usize)),
    ) -> Self {
        const UNSEEN: u32 = u32::MAX;
        let mut set = vec![UNSEEN; n];
        let mut sizes = Vec::new();
        let mut members: Vec<u32> = Vec::new();
        for first in 0..n {
            if set[first] != UNSEEN {
                continue;
            }
            members.clear();
            members.push(first as u32);
            set[first] = 0;
            let (mut next, mut floats) = (0, true);
            while let Some(&row) = members.get(next) {
                next += 1;
                floats &= sums_to_zero(row as usize);
                neighbours(row as usize, &mut |other| {
                    if set[other] == UNSEEN {
                        set[other] = 0;
                        members.push(other as u32);
                    }
                });
            }
            if floats {
                sizes.push(members.len());
                let number = sizes.len() as u32;
                members.iter().for_each(|&row| set[row as usize] = number);
            }
        }
        if sizes.is_empty() {
            set = Vec::new();
        }
        Self { set, sizes }
    }

    /// Whether nothing is known of a kernel.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Its dimension.
    pub fn dimension(&self) -> usize {
        self.sizes.len()
    }

    /// How many unknowns have a zero row.
    pub fn zero_rows(&self) -> usize {
        self.sizes.iter().filter(|&&size| size == 1).count()
    }

    /// Whether the row of an unknown is zero.
    pub fn is_zero_row(&self, row: usize) -> bool {
        let set = self.set.get(row).copied().unwrap_or(0);
        set > 0 && self.sizes[set as usize - 1] == 1
    }

    /// Takes the part in the kernel from a vector, `[dim]`, and returns the norm of that part.
    pub fn project(&self, x: &mut [f64]) -> f64 {
        if self.is_empty() {
            return 0.0;
        }
        let mut means = vec![0.0; self.sizes.len()];
        for (&set, x) in self.set.iter().zip(x.iter()) {
            if set > 0 {
                means[set as usize - 1] += x;
            }
        }
        let mut squares = 0.0;
        for (mean, &size) in means.iter_mut().zip(&self.sizes) {
            *mean /= size as f64;
            squares += *mean * *mean * size as f64;
        }
        if squares > 0.0 {
            for (&set, x) in self.set.iter().zip(x) {
                if set > 0 {
                    *x -= means[set as usize - 1];
                }
            }
        }
        squares.sqrt()
    }
}
