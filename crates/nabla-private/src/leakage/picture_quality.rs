//! How near rebuilt pictures are to the true ones: PSNR, SSIM, a perceptual distance, and which picture is which.
//!
//! ```text
//! PSNR = −10 log₁₀ mse                                                         for pictures in [0, 1], in dB
//! SSIM = mean (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂))
//! perceptual = Σ_stages mean over places of ‖a/‖a‖ − b/‖b‖‖²                    a, b the channels of a network's maps
//! ```
//!
//! with Gaussian windows of 11 × 11, σ = 1.5, where the picture has room for them and the largest odd window that fits
//! otherwise, `c₁ = 0.01²`, `c₂ = 0.03²`. The perceptual distance is that of LPIPS without its learned weights; the
//! network may have been trained on such pictures, and even with random weights it sees edges rather than pixels.
//!
//! A batch comes back in any order, since its gradient is a mean: the order that [`matched`] gives has the largest sum of
//! PSNR.
//!
//! Sources: Wang, Bovik, Sheikh, Simoncelli, *Image Quality Assessment: From Error Visibility to Structural Similarity*,
//! 2004; Zhang, Isola, Efros, Shechtman, Wang, *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*,
//! CVPR 2018, arXiv 1801.03924; Held, Karp, *A Dynamic Programming Approach to Sequencing Problems*, 1962, for the order.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};

/// Beyond this the pictures are the same for any use of them, in dB.
pub const MOST_PSNR: f64 = 100.0;

const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// The most pictures whose order is found.
pub const MOST_PICTURES: usize = 16;

/// The peak signal-to-noise ratio of two pictures with values in [0, 1], in dB, at most [`MOST_PSNR`].
///
/// ```
/// use nabla_private::leakage::picture_quality::psnr;
///
/// assert!((psnr(&[0.5, 0.5], &[0.6, 0.4]) - 20.0).abs() < 1e-5);
/// ```
pub fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    let mean = squares.sum::<f64>() / a.len().max(1) as f64;
    (-10.0 * mean.log10()).min(MOST_PSNR)
}

/// Structural similarity of two pictures, the mean over the channels; 1 for equal ones.
///
/// - `shape`: channels, height and width
pub fn ssim(a: &[f32], b: &[f32], shape: [usize; 3]) -> f64 {
    let [channels, height, width] = shape;
    let side = height.min(width).min(WINDOW);
    // The largest odd one.
    let window = if side.is_multiple_of(2) {
        side.max(1) - 1
    } else {
        side
    };
    if window == 0 {
        return f64::NAN;
    }
    let middle = (window / 2) as f64;
    let weights: Vec<f64> = (0..window)
        .map(|i| (-(i as f64 - middle).powi(2) / (2.0 * SIGMA * SIGMA)).exp())
        .collect();
    let whole: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|weight| weight / whole).collect();
    let (mut sum, mut count) = (0.0, 0);
    for channel in 0..channels {
        for y in 0..=height - window {
            for x in 0..=width - window {
                let [mut ma, mut mb, mut aa, mut bb, mut ab] = [0.0; 5];
                for (dy, wy) in weights.iter().enumerate() {
                    for (dx, wx) in weights.iter().enumerate() {
                        let at = (channel * height + y + dy) * width + x + dx;
                        let (weight, p, q) = (wy * wx, f64::from(a[at]), f64::from(b[at]));
                        ma += weight * p;
                        mb += weight * q;
                        aa += weight * p * p;
                        bb += weight * q * q;
                        ab += weight * p * q;
                    }
                }
                let (va, vb, cov) = (aa - ma * ma, bb - mb * mb, ab - ma * mb);
                sum += (2.0 * ma * mb + C1) * (2.0 * cov + C2)
                    / ((ma * ma + mb * mb + C1) * (va + vb + C2));
                count += 1;
            }
        }
    }
    sum / f64::from(count)
}

/// The perceptual distance of each picture from its counterpart.
///
/// - `a`, `b`: the maps of all pictures, stage by stage, `[batch, channels, height, width]` each
pub fn perceptual(a: &[Tensor<4>], b: &[Tensor<4>]) -> Vec<f64> {
    let mut distances = Vec::new();
    for (a, b) in a.iter().zip(b) {
        // A place at which nothing is seen has no direction.
        let unit = |maps: &Tensor<4>| {
            let lengths = maps.clone().square().sum_dim(1).sqrt();
            maps.clone() / (lengths + 1e-10)
        };
        let apart = (unit(a) - unit(b)).square().sum_dim(1); // [batch, 1, height, width]
        let own = apart.mean_dim(3).mean_dim(2).into_data();
        let own: Vec<f64> = own.iter::<f64>().collect();
        distances.resize(own.len(), 0.0);
        distances
            .iter_mut()
            .zip(own)
            .for_each(|(sum, own)| *sum += own);
    }
    distances
}

/// For each true picture the number of the rebuilt one that goes with it.
///
/// - `truth`, `rebuilt`: as many pictures
///
/// # Errors
/// If there are more than [`MOST_PICTURES`].
///
/// ```
/// use nabla_private::leakage::picture_quality::matched;
///
/// let truth = [[0.0_f32, 0.1], [1.0, 0.9], [0.5, 0.5]];
/// let rebuilt = [[0.9_f32, 0.8], [0.5, 0.4], [0.1, 0.1]];
/// let rows = |rows: &[[f32; 2]]| rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>();
/// assert_eq!(matched(&rows(&truth), &rows(&rebuilt))?, [2, 0, 1]);
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
pub fn matched(truth: &[Vec<f32>], rebuilt: &[Vec<f32>]) -> Result<Vec<usize>, OutOfRange> {
    let count = truth.len().min(rebuilt.len());
    range::within(
        "number of pictures whose order is found",
        count,
        0..=MOST_PICTURES,
    )?;
    // The best sum for the first pictures with a set of rebuilt ones, and which of them is the last.
    let mut best = vec![(f64::NEG_INFINITY, 0); 1 << count];
    best[0] = (0.0, 0);
    for set in 0_usize..1 << count {
        let picture = set.count_ones() as usize;
        if picture == count {
            continue;
        }
        for (other, candidate) in rebuilt.iter().enumerate().take(count) {
            let with = set | 1 << other;
            if with != set {
                let sum = best[set].0 + psnr(&truth[picture], candidate);
                if sum > best[with].0 {
                    best[with] = (sum, other);
                }
            }
        }
    }
    let mut order = vec![0; count];
    let mut set = (1 << count) - 1;
    for picture in (0..count).rev() {
        order[picture] = best[set].1;
        set &= !(1 << order[picture]);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use nabla_grad::seeded_noise::SeededNoise;

    fn pictures(count: usize, pixels: usize, seed: u64) -> Vec<Vec<f32>> {
        let noise = SeededNoise::new(seed, 0).normal::<2>([count, pixels], &Device::flex());
        let values: Vec<f32> = (noise * 0.2 + 0.5)
            .clamp(0.0, 1.0)
            .into_data()
            .iter()
            .collect();
        values.chunks_exact(pixels).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn equal_pictures_are_equal() {
        let own = &pictures(1, 3 * 12 * 13, 1)[0];
        assert_eq!(psnr(own, own), MOST_PSNR);
        assert!((ssim(own, own, [3, 12, 13]) - 1.0).abs() < 1e-12);
        let shift: Vec<f32> = own.iter().map(|x| x * 0.5 + 0.1).collect();
        let other = &pictures(1, 3 * 12 * 13, 2)[0];
        let [near, far] = [&shift, other].map(|b| ssim(own, b, [3, 12, 13]));
        assert!(far < 0.3 && near > 0.5 && near < 1.0, "{far} {near}");
    }

    /// By scikit-image 0.26, structural_similarity with gaussian_weights, sigma 1.5, use_sample_covariance False and
    /// data_range 1, of i/255 and (i² mod 251)/255 on 16 × 16: see tests/reference/picture_quality.py.
    #[test]
    fn ssim_is_that_of_scikit_image() {
        let a: Vec<f32> = (0..256).map(|i| i as f32 / 255.0).collect();
        let b: Vec<f32> = (0..256).map(|i| ((i * i) % 251) as f32 / 255.0).collect();
        let expected = 0.029_254_112_156_401;
        assert!((ssim(&a, &b, [1, 16, 16]) - expected).abs() < 1e-6);
    }

    #[test]
    fn every_order_is_found() {
        let truth = pictures(6, 20, 3);
        for turn in 0..6 {
            let mut rebuilt = truth.clone();
            rebuilt.rotate_left(turn);
            rebuilt.swap(0, 3);
            let order = matched(&truth, &rebuilt).unwrap();
            for (picture, other) in order.into_iter().enumerate() {
                assert_eq!(rebuilt[other], truth[picture]);
            }
        }
        assert!(matched(&pictures(17, 2, 0), &pictures(17, 2, 0)).is_err());
    }

    #[test]
    fn maps_of_the_same_direction_are_the_same() {
        let maps = SeededNoise::new(1, 0).normal::<4>([2, 3, 4, 4], &Device::flex());
        assert!(
            perceptual(std::slice::from_ref(&maps), &[maps.clone() * 2.0])
                .iter()
                .all(|d| *d < 1e-9)
        );
        // The opposite direction is 2² away.
        let far = perceptual(std::slice::from_ref(&maps), &[-maps.clone()]);
        assert!(far.iter().all(|d| (d - 4.0).abs() < 1e-5), "{far:?}");
    }
}
