//! What a product leaves in the processor's vector registers.
//!
//! faer's products end with numbers in the upper halves of the registers. An x86 processor then keeps these halves with every
//! instruction of the older kind, of which the C library's functions consist: a `tanh` or a power of doubles takes 160
//! nanoseconds instead of 9, on this thread, until somebody clears the halves.

/// Clears the upper halves of this thread's vector registers.
#[inline(always)]
pub(crate) fn clear_upper_halves() {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx) = pulp::core_arch::x86::Avx::try_new() {
        avx._mm256_zeroupper();
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use burn::nn::LinearConfig;
    use burn::tensor::{Device, Tensor};

    use crate::linear::linear;

    /// The shortest of several times of many functions of the C library.
    fn shortest(before: impl Fn()) -> f64 {
        let mut least = f64::INFINITY;
        for _ in 0..50 {
            before();
            let begun = Instant::now();
            for i in 0..1000 {
                black_box(black_box(f64::from(i) / 1000.0).tanh());
            }
            least = least.min(begun.elapsed().as_secs_f64());
        }
        least
    }

    /// Without, it is 18 times on a processor of 2023.
    #[test]
    fn products_leave_functions_of_the_c_library_as_fast_as_they_were() {
        let device = Device::flex();
        let layer = LinearConfig::new(8, 50).init(&device);
        let x = Tensor::<2>::ones([100, 8], &device);
        // On a thread of its own, where nobody has computed before.
        let fresh = std::thread::spawn(|| shortest(|| ())).join().unwrap();
        let after = shortest(|| drop(black_box(linear(&layer, x.clone()).into_data())));
        assert!(after < 4.0 * fresh, "{after} {fresh}");
    }
}
