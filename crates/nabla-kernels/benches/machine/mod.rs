//! What the machine can do at most: additions and multiplications in registers, and memory.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// The best of some rounds of `work`, which all threads do at once, in seconds.
fn fastest(work: impl Fn() + Sync) -> f64 {
    let seconds = (0..15).map(|_| {
        let start = Instant::now();
        rayon::broadcast(|_| work());
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

/// Sums of products that stay in registers.
struct Products {
    rounds: usize,
    factor: f32,
}

/// So many sums at once hide how long one of them takes.
const SUMS: usize = 12;

impl WithSimd for Products {
    /// A number that depends on all of them, and how many operations it took.
    type Output = (f32, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f64) {
        let factor = simd.splat_f32s(self.factor);
        let mut sums = [simd.splat_f32s(1.0); SUMS];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, factor);
            }
        }
        let total = sums.iter().map(|&sum| simd.reduce_sum_f32s(sum)).sum();
        let operations = 2 * self.rounds * SUMS * S::F32_LANES;
        (total, operations as f64)
    }
}

/// Additions and multiplications per second of all threads.
pub fn operations_per_second() -> f64 {
    let run = || {
        let rounds = black_box(2_000_000);
        let factor = black_box(0.5);
        black_box(Arch::new().dispatch(Products { rounds, factor }))
    };
    let (_, operations) = run();
    rayon::current_num_threads() as f64 * operations
        / fastest(|| {
            black_box(run());
        })
}

/// Bytes per second of all threads that read two arrays and write a third, all larger than the caches.
pub fn bytes_per_second() -> f64 {
    /// Numbers in each array.
    const LEN: usize = 1 << 25;
    let (a, b) = (vec![1.0_f32; LEN], vec![2.0_f32; LEN]);
    let mut sum = vec![0.0_f32; LEN];
    let part = LEN.div_ceil(rayon::current_num_threads());
    let seconds = (0..7).map(|_| {
        let start = Instant::now();
        sum.par_chunks_mut(part)
            .zip(a.par_chunks(part).zip(b.par_chunks(part)))
            .for_each(|(sum, (a, b))| {
                for (sum, (a, b)) in sum.iter_mut().zip(a.iter().zip(b)) {
                    *sum = a + b;
                }
            });
        black_box(&sum);
        start.elapsed().as_secs_f64()
    });
    let fastest = seconds.fold(f64::INFINITY, f64::min);
    (3 * LEN * size_of::<f32>()) as f64 / fastest
}
