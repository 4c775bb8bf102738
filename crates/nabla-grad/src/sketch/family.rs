//! The families of sketches, by name.

use serde::{Deserialize, Serialize};

use super::{
    AmsSketch, CountSketch, GaussianSketch, LinearSketch, SketchError, Srht, check_length,
    check_sizes, identity,
};
use crate::seeded_noise::SeededNoise;

/// A sketch of any family.
pub type DrawnSketch = Box<dyn LinearSketch + Send + Sync>;

/// A family of random matrices; see the [module documentation](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SketchFamily {
    /// Independent normal numbers.
    Gaussian,
    /// Independent signs (Alon, Matias, Szegedy).
    Ams,
    /// One sign in each column.
    Count,
    /// One sign in each of several blocks of each column.
    Sparse {
        /// The number of blocks, which must divide the length of the sketch.
        blocks: usize,
    },
    /// Rows of a randomised Hadamard transform, without replacement.
    Srht,
    /// The vector itself, to compare with: its sketch is as long as the vector.
    Identity,
}

nabla_base::choices! {
    SketchFamily: "sketch family" {
        "gaussian" => Self::Gaussian, "Independent normal numbers";
        "ams" => Self::Ams, "Independent signs";
        "count" => Self::Count, "One sign in each column: the count sketch";
        "sparse" => Self::Sparse { blocks: 4 }, "One sign in each of four blocks of each column";
        "srht" => Self::Srht, "Rows of a randomised Hadamard transform";
    }
}

impl SketchFamily {
    /// Draws a matrix, `[rows, dimension]`. The same noise gives the same matrix on every machine.
    ///
    /// # Errors
    /// If a size is 0, the blocks do not divide the rows, a Hadamard transform has fewer rows, or an identity has other
    /// rows than elements.
    ///
    /// ```
    /// use nabla_grad::{LinearSketch, SeededNoise, SketchFamily};
    ///
    /// let family: SketchFamily = "srht".parse()?;
    /// let sketch = family.draw(128, 1970, &mut SeededNoise::new(42, 0))?;
    /// assert_eq!((sketch.sketch_length(), sketch.dimension()), (128, 1970));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn draw(
        self,
        rows: usize,
        dimension: usize,
        noise: &mut SeededNoise,
    ) -> Result<DrawnSketch, SketchError> {
        Ok(match self {
            Self::Gaussian => Box::new(GaussianSketch::new(rows, dimension, noise)?),
            Self::Ams => Box::new(AmsSketch::new(rows, dimension, noise)?),
            Self::Count => Box::new(CountSketch::new(1, rows, dimension, noise)?),
            Self::Sparse { blocks } => {
                check_sizes(&[("number of blocks", blocks)])?;
                if !rows.is_multiple_of(blocks) {
                    return Err(SketchError::Blocks { rows, blocks });
                }
                Box::new(CountSketch::new(blocks, rows / blocks, dimension, noise)?)
            }
            Self::Srht => Box::new(Srht::new(rows, dimension, noise)?),
            Self::Identity => {
                check_length("sketch by the identity", dimension, rows)?;
                Box::new(IdentitySketch::new(dimension)?)
            }
        })
    }
}

/// `S = I`: nothing is left out and nothing is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentitySketch {
    dimension: usize,
}

impl IdentitySketch {
    /// For vectors of `dimension` elements.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(dimension: usize) -> Result<Self, SketchError> {
        check_sizes(&[("dimension", dimension)])?;
        Ok(Self { dimension })
    }
}

impl LinearSketch for IdentitySketch {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn sketch_length(&self) -> usize {
        self.dimension
    }

    fn variance(&self) -> f64 {
        0.0
    }

    fn identity(&self) -> u64 {
        identity(b"identity", std::iter::empty())
    }

    fn apply_values(&self, x: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("vector", self.dimension, x.len())?;
        Ok(x.to_vec())
    }

    fn transposed_values(&self, y: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("sketch", self.dimension, y.len())?;
        Ok(y.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_base::choices::Choices;
    use nabla_base::vector::{dot, squared_norm};

    fn all() -> Vec<SketchFamily> {
        let named = SketchFamily::choices().into_iter().map(|c| c.value);
        named.chain([SketchFamily::Identity]).collect()
    }

    fn normal(count: usize, stream: u64) -> Vec<f64> {
        let values = SeededNoise::new(9, stream).normal_values(count);
        values.into_iter().map(f64::from).collect()
    }

    #[test]
    fn all_families_have_their_adjoints_and_keep_what_they_were_drawn_from() {
        for family in all() {
            let (s, d) = match family {
                SketchFamily::Identity => (70, 70),
                _ => (24, 70),
            };
            let draw = |seed| family.draw(s, d, &mut SeededNoise::new(seed, 1)).unwrap();
            let sketch = draw(3);
            assert_eq!((sketch.sketch_length(), sketch.dimension()), (s, d));
            let (v, u) = (normal(d, 0), normal(s, 1));
            let there = sketch.apply_values(&v).unwrap();
            let back = sketch.transposed_values(&u).unwrap();
            assert!(
                (dot(&there, &u) - dot(&v, &back)).abs() < 1e-11,
                "{family:?}"
            );
            assert_eq!(draw(3).apply_values(&v).unwrap(), there);
            assert_eq!(draw(3).identity(), sketch.identity());
            if family != SketchFamily::Identity {
                assert_ne!(draw(4).identity(), sketch.identity());
            }
            assert!(
                sketch.apply_values(&u[..9]).is_err() && sketch.transposed_values(&u[..9]).is_err()
            );
        }
    }

    /// Values at the sizes of a softmax regression, from the closed forms by another hand.
    #[test]
    fn second_moments_are_those_of_theory() {
        let (s, d, draws) = (128, 1970, 160);
        let h = normal(d, 2);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        pool.unwrap().install(|| {
            for (family, expected) in [
                (SketchFamily::Gaussian, 16.398),
                (SketchFamily::Ams, 16.383),
                (SketchFamily::Count, 16.383),
                (SketchFamily::Sparse { blocks: 4 }, 16.383),
                (SketchFamily::Srht, 15.428),
            ] {
                let mut noise = SeededNoise::new(11, 0);
                let mut found = Vec::new();
                for _ in 0..draws {
                    let sketch = family.draw(s, d, &mut noise).unwrap();
                    assert!(
                        (sketch.second_moment() - expected).abs() < 5e-4,
                        "{family:?}"
                    );
                    let there = sketch.apply_values(&h).unwrap();
                    let back = sketch.transposed_values(&there).unwrap();
                    found.push(squared_norm(&back) / squared_norm(&h));
                }
                let mean = found.iter().sum::<f64>() / f64::from(draws);
                let squares = found.iter().map(|f| (f - mean).powi(2));
                let error = (squares.sum::<f64>() / f64::from(draws * (draws - 1))).sqrt();
                assert!(
                    (mean - expected).abs() < 4.5 * error,
                    "{family:?}: {mean} ± {error}"
                );
            }
        });
        assert_eq!(IdentitySketch::new(9).unwrap().second_moment(), 1.0);
    }

    #[test]
    fn signs_leave_the_diagonal_of_the_product_at_one() {
        for family in [
            SketchFamily::Ams,
            SketchFamily::Count,
            SketchFamily::Sparse { blocks: 4 },
        ] {
            let sketch = family.draw(64, 40, &mut SeededNoise::new(5, 0)).unwrap();
            for index in 0..40 {
                let mut unit = vec![0.0; 40];
                unit[index] = 1.0;
                let column = sketch.apply_values(&unit).unwrap();
                assert_eq!(squared_norm(&column), 1.0, "{family:?}");
            }
        }
    }

    #[test]
    fn families_have_names_and_refuse_what_cannot_be() {
        let noise = &mut SeededNoise::new(0, 0);
        let sparse: SketchFamily = "sparse".parse().unwrap();
        let error = sparse.draw(30, 50, noise).err().unwrap();
        assert_eq!(
            error.to_string(),
            "a sketch of 30 numbers cannot be divided among 4 blocks of the same length"
        );
        assert!(
            SketchFamily::Sparse { blocks: 0 }
                .draw(4, 5, noise)
                .is_err()
        );
        assert!(SketchFamily::Srht.draw(9, 5, noise).is_err());
        assert!(SketchFamily::Identity.draw(4, 5, noise).is_err());
        for family in all() {
            assert!(family.draw(0, 5, noise).is_err(), "{family:?}");
            let text = serde_json::to_string(&family).unwrap();
            assert_eq!(serde_json::from_str::<SketchFamily>(&text).unwrap(), family);
        }
    }
}
