//! Intrinsic dimensions, read from singular values.

use nabla_base::range;
use nabla_base::vector::distance;

use super::GaugeError;
use super::flow::{FlowSpectrum, score_singular_values};
use super::vector_field::{VectorField, points_of};

/// How a dimension is read from a flow's singular values: those along the manifold saturate, those across it fall as
/// `σ`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Criterion {
    /// How many have a slope of `ln σ_i` against `ln σ` below ½ over the last factor `window` of levels; 10, a decade,
    /// by [default](Self::slope).
    Slope {
        /// The ratio of the levels at both ends, greater than 1.
        window: f64,
    },
    /// The place of the largest ratio `σ_i/σ_{i+1}`. Never 0, nor the number of directions.
    Gap,
    /// How many are at least this share of the largest. A gauge part shears the flow, and this criterion then misses
    /// directions along the manifold, so it is here only to compare with.
    Share(f64),
}

impl Criterion {
    /// The slope over the last decade.
    pub fn slope() -> Self {
        Self::Slope { window: 10.0 }
    }
}

/// The dimension of the manifold at the end of each flow.
///
/// # Errors
/// If the criterion is out of range, or the spectrum has fewer levels than it needs: two in the window of the slope.
pub fn intrinsic_dimension(
    spectrum: &FlowSpectrum,
    criterion: Criterion,
) -> Result<Vec<usize>, GaugeError> {
    let Some(last) = spectrum.values.last() else {
        return Err(GaugeError::NoLevels(0));
    };
    match criterion {
        Criterion::Slope { window } => {
            range::check(
                window > 1.0,
                "window of the slope",
                window,
                "greater than 1",
            )?;
            let slopes = slopes(spectrum, window)?;
            let count = |slopes: &Vec<f64>| slopes.iter().filter(|&&slope| slope < 0.5).count();
            Ok(slopes.iter().map(count).collect())
        }
        Criterion::Gap => {
            let place = |values: &Vec<f64>| {
                let mut best = (1, f64::NEG_INFINITY);
                for (i, pair) in values.windows(2).enumerate() {
                    let ratio = pair[0].ln() - pair[1].ln();
                    if ratio > best.1 {
                        best = (i + 1, ratio);
                    }
                }
                best.0
            };
            Ok(last.iter().map(place).collect())
        }
        Criterion::Share(share) => {
            range::between("share of the largest singular value", share, 0.0, 1.0)?;
            let count = |values: &Vec<f64>| {
                let least = share * values.first().copied().unwrap_or(0.0);
                values.iter().filter(|&&value| value >= least).count()
            };
            Ok(last.iter().map(count).collect())
        }
    }
}

/// The slope of each singular value's logarithm against `ln σ`, by least squares over the last levels, `[starts]
/// [directions]`.
fn slopes(spectrum: &FlowSpectrum, window: f64) -> Result<Vec<Vec<f64>>, GaugeError> {
    let lowest = spectrum.sigmas.last().copied().unwrap_or(f64::NAN);
    // A level on the edge counts, whatever its rounding.
    let limit = window * lowest * (1.0 + 1e-9);
    let first = spectrum.sigmas.iter().position(|&sigma| sigma <= limit);
    let first = first.unwrap_or(spectrum.sigmas.len());
    let logs: Vec<f64> = spectrum.sigmas[first..].iter().map(|s| s.ln()).collect();
    if logs.len() < 2 {
        return Err(GaugeError::NoLevels(logs.len()));
    }
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let square: f64 = logs.iter().map(|l| (l - mean) * (l - mean)).sum();
    let last = &spectrum.values[spectrum.values.len() - 1];
    let slope = |start: usize, direction: usize| {
        let levels = spectrum.values[first..].iter().zip(&logs);
        let each = levels.map(|(values, l)| (l - mean) * values[start][direction].ln());
        each.sum::<f64>() / square
    };
    let of =
        |(start, values): (usize, &Vec<f64>)| (0..values.len()).map(|i| slope(start, i)).collect();
    Ok(last.iter().enumerate().map(of).collect())
}

/// The dimension of the manifold at points near it, from the score alone: `D` less the number of singular values of
/// `σ² J_s` above ½.
///
/// - `x`: `[points, dimension]`, such as data
/// - `sigma`: small against the curvature of the manifold
///
/// # Errors
/// If the field fails, or the shapes don't fit.
///
/// ```
/// use nabla_probe::gauge_freedom::{SphereScore, score_dimension};
///
/// let sphere = SphereScore::new(2, 5, 1.0)?;
/// assert_eq!(score_dimension(&sphere, &[1.0, 0.0, 0.0, 0.0, 0.0], 0.05)?, [2]);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn score_dimension<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    sigma: f64,
) -> Result<Vec<usize>, GaugeError> {
    let values = score_singular_values(field, x, sigma)?;
    Ok(values.iter().map(|values| along(values)).collect())
}

/// How many singular values of `σ² J_s` are those of directions along the manifold.
pub fn along(singular_values: &[f64]) -> usize {
    singular_values
        .iter()
        .filter(|&&value| value <= 0.5)
        .count()
}

/// The distances of each point to its nearest and second nearest neighbour.
fn neighbours(dimension: usize, x: &[f64]) -> Vec<[f64; 2]> {
    let rows: Vec<&[f64]> = x.chunks(dimension).collect();
    let nearest = |i: usize| {
        let mut found = [f64::INFINITY; 2];
        for j in (0..rows.len()).filter(|&j| j != i) {
            let apart = distance(rows[i], rows[j]);
            if apart < found[0] {
                found = [apart, found[0]];
            } else if apart < found[1] {
                found[1] = apart;
            }
        }
        found
    };
    (0..rows.len()).map(nearest).collect()
}

/// The dimension of a set of points from their distances alone, by TwoNN: an estimate that knows no score.
///
/// The ratios `μ = r₂/r₁` of the distances to the second and the first neighbour have the distribution `1 − μ^−d`, so
/// `d` is the slope of `−ln(1 − F(μ))` against `ln μ` through the origin; the largest tenth of the ratios is left out.
///
/// Source: Facco, d'Errico, Rodriguez, Laio, *Estimating the Intrinsic Dimension of Datasets by a Minimal Neighborhood
/// Information*, 2017, arXiv 1803.06992.
///
/// # Errors
/// If the values are not at least three different points.
pub fn two_nn(dimension: usize, x: &[f64]) -> Result<f64, GaugeError> {
    let points = points_of(dimension, x)?;
    range::at_least("number of points", points, 3)?;
    let ratios = neighbours(dimension, x).into_iter();
    let ratios = ratios.filter(|[first, _]| *first > 0.0);
    let mut logs: Vec<f64> = ratios
        .map(|[first, second]| (second / first).ln())
        .collect();
    range::at_least("number of different points", logs.len(), 3)?;
    logs.sort_by(f64::total_cmp);
    let count = logs.len() as f64;
    let kept = (0.9 * count) as usize;
    let (mut product, mut square) = (0.0, 0.0);
    for (i, log) in logs[..kept].iter().enumerate() {
        product -= log * (1.0 - (i as f64 + 1.0) / count).ln();
        square += log * log;
    }
    Ok(product / square)
}

/// The median distance of a point to its nearest neighbour. A field that was trained on these points knows the points
/// themselves at lower levels of noise, and the dimension that is read there falls to 0.
///
/// - `x`: `[points, dimension]`
///
/// # Errors
/// If the values are not at least two points.
pub fn median_neighbour_distance(dimension: usize, x: &[f64]) -> Result<f64, GaugeError> {
    let points = points_of(dimension, x)?;
    range::at_least("number of points", points, 2)?;
    let nearest = neighbours(dimension, x).into_iter();
    let mut nearest: Vec<f64> = nearest.map(|[first, _]| first).collect();
    nearest.sort_by(f64::total_cmp);
    Ok(0.5 * (nearest[points / 2] + nearest[(points - 1) / 2]))
}
