//! Private sketches: what a client of a sketched averaging may send without telling what its examples are.
//!
//! A step sums the clipped gradients of its examples and adds noise, as [DP-SGD](crate::dp_sgd) does. With a sketch
//! `R ∈ R^{s×d}` this can be done in either of two spaces:
//!
//! ```text
//! parameters:  v = 1/B (Σ_i clip(g_i, C) + σ C w),    w ~ N(0, I_d);   send R v
//! sketch:      y = 1/B (Σ_i clip(R g_i, C) + σ C w),  w ~ N(0, I_s);   send y
//! ```
//!
//! In the parameters, the sketch is computed from what is released already, and so are any local steps before it. In the
//! sketch, the noise is `s` numbers instead of `d`, and the gradients of the examples need never be longer. Both move by
//! at most `C/B` with one example, so both are the Poisson-subsampled Gaussian mechanism with multiplier `σ` for the
//! [accountants](crate::accountant); clients with examples of their own are each an account of its own. Clipping in the
//! parameters and adding noise of `σC` in the sketch is *not* private: `‖R g‖` can be longer than `‖g‖`.
//!
//! The two differ in what is left of the noise after `Rᵀ`. Noise in the sketch has the energy `σ²C² tr RRᵀ`, on average
//! `d σ²C²`, as without a sketch. Noise in the parameters is lengthened as a gradient is, to
//! [`second_moment`](LinearSketch::second_moment) times that: about `d/s` times as much. So noise in the sketch is the
//! better form for few numbers, as well as the cheaper one, unless local steps need the gradient in the parameters.
//!
//! Sources: Song, Wang, Yu, Zhang, *Sketching for First Order Method: Efficient Algorithm for Low-Bandwidth Channel and
//! Vulnerability*, ICML 2023, arXiv 2210.08371 (noise in the parameters; noise in the sketch is our own form).

use nabla_base::OutOfRange;
use nabla_base::range;
use nabla_base::vector::{add_scaled, norm};
use nabla_grad::sketch::{LinearSketch, SketchError};

use crate::accountant::History;
use crate::dp_sgd::DpSgd;
use crate::release::{Release, Sums};
use crate::secret_noise::NoiseKey;

/// The reason why a sketch is not private.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PrivateSketchError {
    /// A value is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A gradient cannot be sketched.
    #[error(transparent)]
    Sketch(#[from] SketchError),
    /// Clipping does not make it finite.
    #[error("the gradient of an example is not finite, so that it cannot be clipped")]
    NotFinite,
}

/// Where gradients are clipped and noise is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseSpace {
    /// In the `d` parameters, before the sketch.
    #[default]
    Parameters,
    /// In the `s` numbers of the sketch.
    Sketch,
}

nabla_base::choices! {
    NoiseSpace: "space of the noise" {
        "parameters" => Self::Parameters, "In the parameters, before the sketch";
        "sketch" => Self::Sketch, "In the numbers of the sketch";
    }
}

/// Private sketches of mean gradients; see the [module documentation](self).
///
/// ```
/// use nabla_grad::{SeededNoise, SketchFamily};
/// use nabla_private::dp_sgd::DpSgd;
/// use nabla_private::private_sketch::{NoiseSpace, PrivateSketch};
/// use nabla_private::secret_noise::NoiseKey;
///
/// let release = DpSgd { clip: 1.0, noise_multiplier: 2.0, sampling_rate: 0.1, batch: 8.0 };
/// let private = PrivateSketch { release, space: NoiseSpace::Sketch };
/// let sketch = SketchFamily::Srht.draw(16, 100, &mut SeededNoise::new(1, 0))?;
/// let gradients = vec![vec![0.5; 100]; 8];
/// let noise = NoiseKey::from_seed(0); // from_system() outside of examples
/// let sent = private.sketched_mean(&gradients, &*sketch, &noise, 0)?; // [16]
/// # assert_eq!(sent.len(), 16);
/// # Ok::<(), nabla_private::private_sketch::PrivateSketchError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrivateSketch {
    /// The clip, the noise and the batch.
    pub release: DpSgd,
    /// Where gradients are clipped and noise is added.
    pub space: NoiseSpace,
}

impl PrivateSketch {
    /// What `steps` steps reveal, for the accountant: the same in both spaces.
    ///
    /// # Errors
    /// If there is too little noise to count.
    pub fn history(&self, steps: u64) -> Result<History, OutOfRange> {
        self.release.history(steps)
    }

    /// The private mean of gradients as a sketch, `[s]`.
    ///
    /// - `gradients`: those of the examples that the step has drawn, `[d]` each
    /// - `step`: of the noise; no two steps may have the same one
    ///
    /// # Errors
    /// If a gradient has another length than the sketch needs, or is not finite, or the clip or the batch is not
    /// positive.
    pub fn sketched_mean(
        &self,
        gradients: &[Vec<f64>],
        sketch: &dyn LinearSketch,
        key: &NoiseKey,
        step: u64,
    ) -> Result<Vec<f64>, PrivateSketchError> {
        match self.space {
            NoiseSpace::Parameters => {
                let mean = self.mean(gradients, sketch.dimension(), key, step)?;
                Ok(sketch.apply_values(&mean)?)
            }
            NoiseSpace::Sketch => {
                let sketched = gradients.iter().map(|g| sketch.apply_values(g));
                let sketched = sketched.collect::<Result<Vec<_>, _>>()?;
                self.mean(&sketched, sketch.sketch_length(), key, step)
            }
        }
    }

    /// The private mean of vectors of `length` numbers in their own space, `[length]`: the gradient of a local step, if
    /// a client takes several before it sketches.
    ///
    /// # Errors
    /// If a vector has another length or is not finite, or the clip or the batch is not positive.
    pub fn mean(
        &self,
        vectors: &[Vec<f64>],
        length: usize,
        key: &NoiseKey,
        step: u64,
    ) -> Result<Vec<f64>, PrivateSketchError> {
        range::positive("norm to which gradients are clipped", self.release.clip)?;
        range::positive("expected batch", self.release.batch)?;
        let mut clipped = vec![0.0; length];
        for vector in vectors {
            if vector.len() != length {
                let found = vector.len();
                let what = "gradient of an example";
                return Err(SketchError::Length {
                    what,
                    expected: length,
                    found,
                }
                .into());
            }
            let norm = norm(vector);
            if !norm.is_finite() {
                return Err(PrivateSketchError::NotFinite);
            }
            add_scaled(&mut clipped, (self.release.clip / norm).min(1.0), vector);
        }
        let sums = Sums {
            clipped,
            raw: Vec::new(),
        };
        let mut release = self.release;
        Ok(release.release(sums, key.normal(step, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_base::vector::{distance, squared_norm};
    use nabla_grad::{SeededNoise, SketchFamily};

    const DIMENSION: usize = 60;
    const LENGTH: usize = 12;

    fn private(space: NoiseSpace, noise_multiplier: f64) -> PrivateSketch {
        PrivateSketch {
            release: DpSgd {
                clip: 1.5,
                noise_multiplier,
                sampling_rate: 0.2,
                batch: 4.0,
            },
            space,
        }
    }

    fn gradients(count: usize) -> Vec<Vec<f64>> {
        let mut noise = SeededNoise::new(3, 0);
        let mut draw = |scale: f64| -> Vec<f64> {
            let values = noise.normal_values(DIMENSION).into_iter();
            values.map(|v| scale * f64::from(v)).collect()
        };
        // Some are shorter than the clip.
        (0..count).map(|i| draw(0.04 * (i + 1) as f64)).collect()
    }

    #[test]
    fn one_example_moves_no_release_by_more_than_the_clip() {
        let key = NoiseKey::from_seed(0);
        let all = gradients(8);
        for seed in 0..20 {
            let noise = &mut SeededNoise::new(seed, 1);
            let sketch = SketchFamily::Count.draw(LENGTH, DIMENSION, noise).unwrap();
            for left_out in 0..all.len() {
                let mut others = all.clone();
                others.remove(left_out);
                let moved = |space, length| {
                    let of = |vectors: &[Vec<f64>]| match space {
                        NoiseSpace::Sketch => {
                            private(space, 0.0).sketched_mean(vectors, &*sketch, &key, 0)
                        }
                        NoiseSpace::Parameters => {
                            private(space, 0.0).mean(vectors, length, &key, 0)
                        }
                    };
                    distance(&of(&all).unwrap(), &of(&others).unwrap())
                };
                for (space, length) in [
                    (NoiseSpace::Sketch, LENGTH),
                    (NoiseSpace::Parameters, DIMENSION),
                ] {
                    let moved = moved(space, length);
                    assert!(moved <= 1.5 / 4.0 + 1e-12, "{space:?}: {moved}");
                }
            }
        }
    }

    /// Why noise in the sketch needs a clip in the sketch.
    #[test]
    fn a_sketch_can_be_longer_than_what_it_is_of() {
        let key = NoiseKey::from_seed(0);
        let long = vec![vec![1.0; DIMENSION]];
        let longest = (0..40).map(|seed| {
            let noise = &mut SeededNoise::new(seed, 2);
            let sketch = SketchFamily::Gaussian.draw(LENGTH, DIMENSION, noise);
            let sent = private(NoiseSpace::Parameters, 0.0).sketched_mean(
                &long,
                &*sketch.unwrap(),
                &key,
                0,
            );
            norm(&sent.unwrap())
        });
        assert!(longest.fold(0.0, f64::max) > 1.2 * 1.5 / 4.0);
    }

    #[test]
    fn the_noise_is_as_wide_as_its_clip_and_as_strong_after_the_way_back() {
        let key = NoiseKey::from_seed(5);
        let noise = &mut SeededNoise::new(1, 3);
        let sketch = SketchFamily::Srht.draw(LENGTH, DIMENSION, noise).unwrap();
        // Without examples there is only noise, of σC/B = 3 · 1.5 / 4.
        let draws = 4000;
        let mean = |space| {
            let squares = (0..draws).map(|step| {
                let sent = private(space, 3.0).sketched_mean(&[], &*sketch, &key, step);
                let sent = sent.unwrap();
                let back = sketch.transposed_values(&sent).unwrap();
                [squared_norm(&sent), squared_norm(&back)]
            });
            let sums = squares.fold([0.0; 2], |[a, b], [x, y]| [a + x, b + y]);
            sums.map(|sum| sum / draws as f64 / (3.0_f64 * 1.5 / 4.0).powi(2))
        };
        // In the sketch: s numbers, and RᵀR has the trace of its diagonal, d.
        let [sent, back] = mean(NoiseSpace::Sketch);
        assert!((sent / LENGTH as f64 - 1.0).abs() < 0.04, "{sent}");
        assert!((back / DIMENSION as f64 - 1.0).abs() < 0.04, "{back}");
        // In the parameters, the sketch of d numbers.
        let [sent, _] = mean(NoiseSpace::Parameters);
        assert!((sent / DIMENSION as f64 - 1.0).abs() < 0.04, "{sent}");
    }

    /// What the noise in the parameters costs, over the draw of the matrix.
    #[test]
    fn noise_in_the_parameters_is_lengthened_as_a_gradient_is() {
        let key = NoiseKey::from_seed(6);
        let (draws, mut mean, mut expected) = (4000, 0.0, 0.0);
        let mut noise = SeededNoise::new(2, 3);
        for step in 0..draws {
            let sketch = SketchFamily::Count.draw(LENGTH, DIMENSION, &mut noise);
            let sketch = sketch.unwrap();
            let sent =
                private(NoiseSpace::Parameters, 3.0).sketched_mean(&[], &*sketch, &key, step);
            let back = sketch.transposed_values(&sent.unwrap()).unwrap();
            mean += squared_norm(&back) / draws as f64 / (3.0_f64 * 1.5 / 4.0).powi(2);
            expected = sketch.second_moment() * DIMENSION as f64;
        }
        assert!((mean / expected - 1.0).abs() < 0.04, "{mean} {expected}");
    }

    #[test]
    fn both_spaces_count_alike_and_refuse_what_cannot_be() {
        let [a, b] = [NoiseSpace::Parameters, NoiseSpace::Sketch].map(|s| private(s, 2.0));
        assert_eq!(a.history(9).unwrap(), b.history(9).unwrap());
        let noise = &mut SeededNoise::new(1, 3);
        let sketch = SketchFamily::Ams.draw(LENGTH, DIMENSION, noise).unwrap();
        let key = NoiseKey::from_seed(5);
        for private in [a, b] {
            let of = |g: Vec<f64>| private.sketched_mean(&[g], &*sketch, &key, 0);
            assert!(matches!(
                of(vec![0.0; 5]),
                Err(PrivateSketchError::Sketch(_))
            ));
            let infinite = of(vec![f64::INFINITY; DIMENSION]);
            assert_eq!(infinite, Err(PrivateSketchError::NotFinite));
            assert!(
                of(vec![0.0; DIMENSION])
                    .unwrap()
                    .iter()
                    .all(|x| x.is_finite())
            );
        }
    }
}
