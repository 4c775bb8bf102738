//! The sliced Wasserstein distance between two sets of points.
//!
//! Along a direction, the Wasserstein distance of equally many points is that of their sorted places; the sliced
//! distance is the mean over directions:
//!
//! ```text
//! SW_p = (mean over θ of 1/n Σ_i |⟨θ, x⟩₍ᵢ₎ − ⟨θ, y⟩₍ᵢ₎|^p)^{1/p}
//! ```
//!
//! Two sets of the same distribution have a distance above 0, which falls with their size: compare with that floor.
//!
//! Source: Bonneel, Rabin, Peyré, Pfister, *Sliced and Radon Wasserstein Barycenters of Measures*, 2015.

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{dot, norm};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;

/// The exponent `p` of a distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WassersteinOrder {
    /// 1.
    First,
    /// 2.
    Second,
}

/// Unit vectors, `[directions, dimension]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceDirections {
    dimension: usize,
    values: Vec<f64>,
}

impl SliceDirections {
    /// Directions of the plane with even angles from 0 to π.
    ///
    /// # Errors
    /// If there are none.
    pub fn even(count: usize) -> Result<Self, OutOfRange> {
        range::at_least("number of directions", count, 1)?;
        let angles = (0..count).map(|k| std::f64::consts::PI * k as f64 / count as f64);
        Ok(Self {
            dimension: 2,
            values: angles.flat_map(|a| [a.cos(), a.sin()]).collect(),
        })
    }

    /// Uniformly random directions.
    ///
    /// # Errors
    /// If there are none, or a point has no numbers.
    pub fn random(dimension: usize, count: usize, seed: u64) -> Result<Self, OutOfRange> {
        range::at_least("dimension of the points", dimension, 1)?;
        range::at_least("number of directions", count, 1)?;
        let mut values = Probe::Gaussian.draw(dimension * count, &mut SeededNoise::new(seed, 0));
        for direction in values.chunks_mut(dimension) {
            let length = norm(direction);
            direction.iter_mut().for_each(|x| *x /= length);
        }
        Ok(Self { dimension, values })
    }
}

/// The distance of two sets of equally many points; see the [module documentation](self).
///
/// - `one`, `other`: `[points, dimension]`
///
/// # Errors
/// If the values are not equally many points of the directions' dimension.
///
/// ```
/// use nabla_train::sliced_wasserstein::{SliceDirections, WassersteinOrder, sliced_wasserstein};
///
/// let directions = SliceDirections::even(64)?;
/// let found = sliced_wasserstein(&[0.0, 0.0, 5.0, 1.0], &[6.0, 1.0, 1.0, 0.0], WassersteinOrder::Second, &directions)?;
/// // Moved by 1 along an axis: the mean of cos² is a half.
/// assert!((found - 0.5_f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
pub fn sliced_wasserstein(
    one: &[f64],
    other: &[f64],
    order: WassersteinOrder,
    directions: &SliceDirections,
) -> Result<f64, OutOfRange> {
    let d = directions.dimension;
    range::check(
        !one.is_empty() && one.len().is_multiple_of(d),
        "number of values of the points",
        one.len(),
        format!("a positive multiple of {d}"),
    )?;
    range::check(
        other.len() == one.len(),
        "number of values of the other points",
        other.len(),
        format!("{}, as that of the first", one.len()),
    )?;
    let points = one.len() / d;
    let mut sum = 0.0;
    for direction in directions.values.chunks(d) {
        let along = |points: &[f64]| {
            let mut each: Vec<f64> = points.chunks(d).map(|x| dot(x, direction)).collect();
            each.sort_by(f64::total_cmp);
            each
        };
        let (one, other) = (along(one), along(other));
        let apart = one.iter().zip(&other).map(|(a, b)| match order {
            WassersteinOrder::First => (a - b).abs(),
            WassersteinOrder::Second => (a - b) * (a - b),
        });
        sum += apart.sum::<f64>() / points as f64;
    }
    let mean = sum / (directions.values.len() / d) as f64;
    Ok(match order {
        WassersteinOrder::First => mean,
        WassersteinOrder::Second => mean.sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Along one axis it is `scipy.stats.wasserstein_distance` (SciPy 1.17.1): that of these places is 3.5.
    #[test]
    fn along_one_axis_it_is_the_wasserstein_distance() {
        let axis = SliceDirections::random(1, 1, 0).unwrap();
        let places = ([0.0, 1.0, 3.0, 10.0], [5.0, 6.0, 8.0, 5.0]);
        let found = sliced_wasserstein(&places.0, &places.1, WassersteinOrder::First, &axis);
        assert!((found.unwrap() - 3.5).abs() < 1e-12);
    }

    /// Of a shift by `v`: `E|⟨θ, v⟩| = ‖v‖/2` in three dimensions.
    #[test]
    fn a_shift_is_its_mean_projection() {
        let directions = SliceDirections::random(3, 20_000, 1).unwrap();
        let found = sliced_wasserstein(
            &[0.0; 3],
            &[0.0, 3.0, -4.0],
            WassersteinOrder::First,
            &directions,
        );
        assert!((found.unwrap() - 2.5).abs() < 0.03);
        let told = sliced_wasserstein(&[0.0; 3], &[0.0; 6], WassersteinOrder::First, &directions);
        assert!(told.unwrap_err().to_string().contains("3, as that"));
    }
}
