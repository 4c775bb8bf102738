//! Tiles of a picture, computed one by one and joined; see the [parent module](super).

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::TileOptions;
use crate::stable_diffusion::norm_statistics::NormStatistics;

/// Applies `compute` to `x` in tiles that see their neighbourhood and use the statistics of `small`; see the
/// [module](self).
///
/// - `size`: of a tile, and `reach`: of its neighbourhood, in positions of the latent
/// - `scales`: the number of positions of `x` and of the result for one position of the latent
pub(super) fn seamless(
    x: Tensor<4>,
    small: Tensor<4>,
    size: usize,
    reach: usize,
    [source, target]: [usize; 2],
    compute: &dyn Fn(Tensor<4>, &mut NormStatistics) -> Tensor<4>,
) -> Tensor<4> {
    let mut norms = NormStatistics::Record(Vec::new());
    compute(small, &mut norms);
    let norms = norms.recorded();
    let [_, _, height, width] = x.dims();
    let [height, width] = [height / source, width / source];
    let around = |part: &Range<usize>, side: usize| {
        part.start.saturating_sub(reach)..(part.end + reach).min(side)
    };
    let scaled = |part: Range<usize>, scale: usize| part.start * scale..part.end * scale;
    let rows = spans(height, size).map(|rows| {
        let columns = spans(width, size).map(|columns| {
            let (top, left) = (around(&rows, height), around(&columns, width));
            let window = x
                .clone()
                .slice_dim(2, scaled(top.clone(), source))
                .slice_dim(3, scaled(left.clone(), source));
            let own = |part: &Range<usize>, around: &Range<usize>| {
                scaled(part.start - around.start..part.end - around.start, target)
            };
            compute(window, &mut norms.clone())
                .slice_dim(2, own(&rows, &top))
                .slice_dim(3, own(&columns, &left))
        });
        Tensor::cat(columns.collect(), 3)
    });
    Tensor::cat(rows.collect(), 2)
}

/// A smaller version of `x` of about as many positions as a square of `side`, each of `unit` numbers along
/// a side: samples at a regular stride, shifted and scaled so that each channel keeps its mean and spread.
pub(super) fn shrunk(x: &Tensor<4>, side: usize, unit: usize) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let positions = (height / unit * (width / unit)) as f64;
    let scale = (side as f64 / positions.sqrt()).min(1.0);
    let mut small = x.clone();
    for (dim, length) in [(2, height), (3, width)] {
        let kept = ((length / unit) as f64 * scale).round().max(1.0) as usize * unit;
        let step = length as f64 / kept as f64;
        let places: Vec<i32> = (0..kept)
            .map(|i| ((i as f64 + 0.5) * step) as i32)
            .collect();
        let places = TensorData::new(places, [kept]);
        let places = Tensor::<1, Int>::from_data(places, &x.device());
        small = small.select(dim, places);
    }
    let dtype = x.dtype();
    let moments = |x: &Tensor<4>| {
        let x = x.clone().cast(DType::F32).flatten::<3>(2, 3);
        let (variance, mean) = x.var_mean_bias(2);
        [mean, variance.sqrt()].map(|v| v.unsqueeze_dim::<4>(3))
    };
    let [mean, spread] = moments(x);
    let [small_mean, small_spread] = moments(&small);
    // A constant channel has no spread to restore.
    let stretch = (spread / small_spread.clamp_min(f32::MIN_POSITIVE)).clamp_max(2.0);
    ((small.cast(DType::F32) - small_mean) * stretch + mean).cast(dtype)
}

/// The ranges of `side` for tiles of `size`, of about the same length.
fn spans(side: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let count = side.div_ceil(size);
    (0..count).map(move |i| i * side / count..(i + 1) * side / count)
}

/// Applies `compute` to tiles of `x` that fade into each other.
///
/// - `scales`: the number of positions of `x` and of the result for one position of the latent
pub(super) fn faded(
    x: Tensor<4>,
    TileOptions { size, overlap }: TileOptions,
    scales: [usize; 2],
    compute: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let [source, target] = scales;
    let (tile, step) = (size * source, (size - overlap) * source);
    let (kept, fade) = ((size - overlap) * target, overlap * target);
    let piece = |top: usize, left: usize| {
        let x = x.clone().narrow(2, top, tile.min(height - top));
        compute(x.narrow(3, left, tile.min(width - left)))
    };
    let mut rows = Vec::new();
    // The faded tiles of the row above.
    let mut above: Vec<Tensor<4>> = Vec::new();
    for top in (0..height).step_by(step) {
        let mut row: Vec<Tensor<4>> = Vec::new();
        for (j, left) in (0..width).step_by(step).enumerate() {
            let mut y = piece(top, left);
            if let Some(above) = above.get(j) {
                y = mixed(above, y, 2, fade);
            }
            if let Some(before) = row.last() {
                y = mixed(before, y, 3, fade);
            }
            row.push(y);
        }
        let kept_of = |y: &Tensor<4>| {
            let [_, _, height, width] = y.dims();
            y.clone()
                .narrow(2, 0, kept.min(height))
                .narrow(3, 0, kept.min(width))
        };
        rows.push(Tensor::cat(row.iter().map(kept_of).collect(), 3));
        above = row;
    }
    Tensor::cat(rows, 2)
}

/// `after`, into whose beginning along `dim` the end of `before` fades: `(1 − t)·before + t·after`.
fn mixed(before: &Tensor<4>, after: Tensor<4>, dim: usize, fade: usize) -> Tensor<4> {
    let (length, other) = (after.dims()[dim], before.dims()[dim]);
    let fade = fade.min(length).min(other);
    if fade == 0 {
        return after;
    }
    let weights: Vec<f32> = (0..fade).map(|i| i as f32 / fade as f32).collect();
    let mut shape = [1; 4];
    shape[dim] = fade;
    let t = Tensor::<1>::from_floats(weights.as_slice(), &after.device())
        .cast(after.dtype())
        .reshape(shape);
    let end = before.clone().narrow(dim, other - fade, fade);
    let start = after.clone().narrow(dim, 0, fade);
    let both = end * (t.clone().neg() + 1.0) + start * t;
    match length == fade {
        true => both,
        false => Tensor::cat(vec![both, after.narrow(dim, fade, length - fade)], dim),
    }
}
