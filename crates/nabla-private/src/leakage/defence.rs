//! What an attacker observes instead of the gradient, and what the attacker can repeat of it.
//!
//! | defence | observed, of the mean `g` of the examples' gradients | the attacker's `A` |
//! |---|---|---|
//! | none | `g` | identity |
//! | noise | `g + σ N(0, I)`, `σ` absolute | identity |
//! | clipping | `g · min(1, C/‖g‖)`: no effect on a cosine | identity, or clipping to a [supposed](Observed::supposed_clipped) norm |
//! | sparsification | each tensor's entries below the `p`-th percentile of its magnitudes are 0 | the same, by its own threshold |
//! | sketch | `S g` with a random `S` that both know | `S` |
//! | Soteria | rows of the last matrix are 0, see [`soteria`](super::soteria) | where the observed numbers are 0 |
//! | DP | `1/B (Σ_i g_i min(1, C/‖g_i‖) + σ C N(0, I))`: a step of [DP-SGD](crate::dp_sgd) | identity |
//!
//! The attacker is adaptive: it applies `A` to its own gradient before it compares, and `Aᵀ` on the way back; a mask
//! counts as constant there.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use nabla_base::range;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::sketch::{DrawnSketch, LinearSketch, SketchFamily};
use serde::{Deserialize, Serialize};

use super::error::LeakageError;
use super::gradient_oracle::norm;
use crate::clipping::{check_deviation, check_noise, check_norm};

/// The streams of the seed.
const NOISE_STREAM: u64 = 0;
const SKETCH_STREAM: u64 = 1;

/// A defence; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Defence {
    /// Nothing is done.
    None,
    /// Gaussian noise.
    Noise {
        /// `σ`. 0.01 in the paper.
        deviation: f64,
    },
    /// To a norm.
    Clip {
        /// `C`. 4 in the paper.
        norm: f64,
    },
    /// Small numbers are zero.
    Sparsify {
        /// `p`, in percent. 20 in the official code.
        percentile: f64,
    },
    /// A random sketch.
    Sketch {
        /// Its length in the gradient's.
        share: f64,
        /// How its matrix is drawn.
        #[serde(default = "hadamard")]
        family: SketchFamily,
    },
    /// Rows of the last layer's matrix are zero.
    Soteria {
        /// Of the features. 0.1 in the paper.
        share: f64,
    },
    /// Each example's gradient clipped, and noise.
    #[serde(rename = "dp")]
    Private {
        /// `C`.
        norm: f64,
        /// `σ`, in multiples of `C`.
        noise: f64,
    },
}

fn hadamard() -> SketchFamily {
    SketchFamily::Srht
}

nabla_base::choices! {
    Defence: "defence" {
        "none" => Self::None, "The gradient as it is";
        "noise" => Self::Noise { deviation: 0.01 }, "Normal noise of deviation 0.01";
        "clip" => Self::Clip { norm: 4.0 }, "Clipping to norm 4";
        "sparsify" => Self::Sparsify { percentile: 20.0 }, "Without the smallest 20 % of each parameter";
        "sketch" => Self::Sketch { share: 0.01, family: SketchFamily::Srht }, "A sketch of a hundredth of the length";
        "soteria" => Self::Soteria { share: 0.1 }, "Without a tenth of the last layer's features";
        "dp" => Self::Private { norm: 1.0, noise: 1.0 }, "Every example's gradient clipped to 1, and noise of deviation 1";
    }
}

/// What Soteria hides of a batch; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// The name of the last layer's matrix, `[features, classes]`.
    pub weight: String,
    /// The features.
    pub features: Vec<usize>,
}

/// What was observed, and what the attacker can repeat.
#[derive(Clone)]
pub struct Observed {
    /// `g*`, `[m]`.
    pub values: Tensor<1>,
    view: View,
}

#[derive(Clone)]
enum View {
    /// The whole gradient.
    Whole,
    /// The gradient clipped to a norm, whose factor counts as constant on the way back.
    Clipped {
        norm: f64,
    },
    /// The entries of each parameter at or above a percentile.
    Largest {
        percentile: f64,
        lengths: Vec<usize>,
    },
    /// `[d]`, of ones and zeros.
    Mask(Box<Tensor<1>>),
    Sketch(Arc<dyn LinearSketch + Send + Sync>),
    /// A factor, on the way back alone.
    Scaled(f64),
}

/// The attacker's own gradient, seen in the same way.
pub struct Repeated {
    /// `A g`, `[m]`.
    pub values: Tensor<1>,
    view: View,
}

impl Repeated {
    /// `Aᵀ v`.
    ///
    /// - `vector`: `v`, `[m]`; returns `[d]`
    ///
    /// # Errors
    /// If the length is wrong.
    pub fn adjoint(&self, vector: Tensor<1>) -> Result<Tensor<1>, LeakageError> {
        match &self.view {
            View::Mask(mask) => Ok(vector * (**mask).clone()),
            View::Sketch(sketch) => Ok(sketch.transposed(&vector)?),
            View::Scaled(factor) => Ok(vector * *factor),
            View::Whole | View::Clipped { .. } | View::Largest { .. } => Ok(vector),
        }
    }
}

impl Observed {
    /// The gradient itself, `[d]`, or with changes that an attacker cannot repeat.
    pub fn whole(values: Tensor<1>) -> Self {
        Self {
            values,
            view: View::Whole,
        }
    }

    /// A sketch of the gradient, `[d]`, by a matrix that the attacker knows.
    ///
    /// # Errors
    /// If the sketch is for vectors of another length.
    pub fn sketched(gradient: &Tensor<1>, sketch: DrawnSketch) -> Result<Self, LeakageError> {
        Ok(Self::by_sketch(sketch.apply(gradient)?, sketch))
    }

    /// What was sent of a sketch, `[m]`, by a matrix that the attacker knows.
    pub fn by_sketch(values: Tensor<1>, sketch: DrawnSketch) -> Self {
        Self {
            values,
            view: View::Sketch(sketch.into()),
        }
    }

    /// The same values, `[d]`, of which the attacker supposes that they were clipped to `norm`.
    #[must_use]
    pub fn supposed_clipped(&self, norm: f64) -> Self {
        Self {
            values: self.values.clone(),
            view: View::Clipped { norm },
        }
    }

    /// The same values, `[d]`, of which the attacker supposes that each parameter's smallest numbers are missing.
    #[must_use]
    pub fn supposed_sparsified(&self, percentile: f64, layout: &ParameterLayout) -> Self {
        Self {
            values: self.values.clone(),
            view: View::Largest {
                percentile,
                lengths: lengths(layout),
            },
        }
    }

    /// The sketch, if it is one.
    pub fn sketch(&self) -> Option<&dyn LinearSketch> {
        match &self.view {
            View::Sketch(sketch) => Some(&**sketch),
            _ => None,
        }
    }

    /// The values on the host.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn numbers(&self) -> Result<Vec<f64>, LeakageError> {
        host(&self.values)
    }

    /// `A g` of the attacker's gradient `g`, `[d]`.
    ///
    /// # Errors
    /// If it has another length.
    pub fn repeat(&self, gradient: Tensor<1>) -> Result<Repeated, LeakageError> {
        let [found] = gradient.dims();
        let check = |expected| match expected == found {
            true => Ok(()),
            false => Err(LeakageError::Length {
                expected: found,
                found: expected,
            }),
        };
        let (values, view) = match &self.view {
            View::Whole | View::Scaled(_) => {
                check(self.values.dims()[0])?;
                (gradient, View::Whole)
            }
            View::Clipped { norm: limit } => {
                check(self.values.dims()[0])?;
                let factor = (limit / norm(&gradient)?.max(f64::MIN_POSITIVE)).min(1.0);
                (gradient * factor, View::Scaled(factor))
            }
            View::Mask(mask) => {
                check(mask.dims()[0])?;
                (gradient * (**mask).clone(), View::Mask(mask.clone()))
            }
            View::Largest {
                percentile,
                lengths,
            } => {
                check(lengths.iter().sum())?;
                let mask = largest(&gradient, *percentile, lengths)?;
                (gradient * mask.clone(), View::Mask(Box::new(mask)))
            }
            View::Sketch(sketch) => (sketch.apply(&gradient)?, View::Sketch(sketch.clone())),
        };
        Ok(Repeated { values, view })
    }
}

fn host(x: &Tensor<1>) -> Result<Vec<f64>, LeakageError> {
    x.try_to_vec_as::<f64>()
        .map_err(|e| LeakageError::Device(e.to_string()))
}

fn like(values: Vec<f64>, x: &Tensor<1>) -> Tensor<1> {
    let length = values.len();
    let device = x.device().without_autodiff();
    Tensor::from_data(TensorData::new(values, [length]), (&device, x.dtype()))
}

/// The percentile of values in ascending order, between two of them by their straight line, as numpy does.
fn percentile_of(ascending: &[f64], percentile: f64) -> f64 {
    let at = percentile / 100.0 * (ascending.len() - 1) as f64;
    let (low, high) = (
        ascending[at.floor() as usize],
        ascending[at.ceil() as usize],
    );
    low + (high - low) * at.fract()
}

/// Ones where a magnitude is at or above its parameter's percentile.
fn largest(
    gradient: &Tensor<1>,
    percentile: f64,
    lengths: &[usize],
) -> Result<Tensor<1>, LeakageError> {
    let magnitudes: Vec<f64> = host(gradient)?.iter().map(|g| g.abs()).collect();
    let mut mask = Vec::with_capacity(magnitudes.len());
    let mut rest = magnitudes.as_slice();
    for &length in lengths {
        let (part, after) = rest.split_at(length);
        rest = after;
        let mut ascending = part.to_vec();
        ascending.sort_by(f64::total_cmp);
        let threshold = percentile_of(&ascending, percentile);
        mask.extend(part.iter().map(|&g| f64::from(u8::from(g >= threshold))));
    }
    Ok(like(mask, gradient))
}

/// Of each parameter.
fn lengths(layout: &ParameterLayout) -> Vec<usize> {
    let entries = layout.entries().iter();
    entries.map(|entry| entry.num_elements()).collect()
}

fn clipped(gradient: &Tensor<1>, limit: f64) -> Result<Tensor<1>, LeakageError> {
    let length = norm(gradient)?;
    Ok(match length > limit {
        true => gradient.clone() * (limit / length),
        false => gradient.clone(),
    })
}

fn noisy(gradient: Tensor<1>, deviation: f64, seed: u64) -> Tensor<1> {
    let [length] = gradient.dims();
    let noise = SeededNoise::new(seed, NOISE_STREAM).normal_values(length);
    let noise = noise
        .into_iter()
        .map(|z| deviation * f64::from(z))
        .collect();
    let noise = like(noise, &gradient);
    gradient + noise
}

impl Defence {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), LeakageError> {
        match self {
            Self::None => {}
            Self::Soteria { share } => {
                range::within("share of the hidden features", *share, 0.0..=1.0)?;
            }
            Self::Noise { deviation } => check_deviation("deviation of the noise", *deviation)?,
            Self::Clip { norm } => check_norm(*norm)?,
            Self::Sparsify { percentile } => {
                range::within("percentile of sparsification", *percentile, 0.0..=100.0)?;
            }
            Self::Sketch { share, .. } => {
                let holds = *share > 0.0 && *share <= 1.0;
                range::check(holds, "share of the sketch", share, "above 0 and at most 1")?;
            }
            Self::Private { norm, noise } => {
                check_norm(*norm)?;
                range::not_negative("noise multiplier", *noise)?;
                check_noise(*noise, *norm)?;
            }
        }
        Ok(())
    }

    /// What is observed of the mean of some examples' gradients.
    ///
    /// - `examples`: `[d]` each, of one example each or, where the defence does not look at examples, the mean alone
    /// - `hidden`: what [`Soteria`](Self::Soteria) hides of these examples; the others don't look at it
    /// - `seed`: of the noise and the sketch
    ///
    /// # Errors
    /// If a value is out of range, there are no gradients, or they are not those of the layout.
    pub fn protect(
        &self,
        examples: &[Tensor<1>],
        layout: &ParameterLayout,
        hidden: &Hidden,
        seed: u64,
    ) -> Result<Observed, LeakageError> {
        self.validate()?;
        range::at_least("number of gradients", examples.len(), 1)?;
        let mean = |parts: Vec<Tensor<1>>| {
            let count = parts.len() as f64;
            Tensor::stack::<2>(parts, 0).sum_dim(0).flatten::<1>(0, 1) / count // [d]
        };
        let gradient = mean(examples.to_vec());
        let [found] = gradient.dims();
        let expected = layout.total_length();
        if found != expected {
            return Err(LeakageError::Length { expected, found });
        }
        Ok(match self {
            Self::None => Observed::whole(gradient),
            Self::Noise { deviation } => Observed::whole(noisy(gradient, *deviation, seed)),
            Self::Clip { norm } => Observed::whole(clipped(&gradient, *norm)?),
            Self::Sparsify { percentile } => {
                let lengths = lengths(layout);
                Observed {
                    values: gradient.clone() * largest(&gradient, *percentile, &lengths)?,
                    view: View::Largest {
                        percentile: *percentile,
                        lengths,
                    },
                }
            }
            Self::Sketch { share, family } => {
                let rows = ((share * found as f64).round() as usize).max(1);
                let rows = match family {
                    // Blocks of the same length.
                    SketchFamily::Sparse { blocks } => rows.next_multiple_of((*blocks).max(1)),
                    _ => rows,
                };
                let mut noise = SeededNoise::new(seed, SKETCH_STREAM);
                Observed::sketched(&gradient, family.draw(rows, found, &mut noise)?)?
            }
            Self::Soteria { .. } => {
                let entry = layout.entry(hidden.weight.as_str())?;
                let classes = entry.shape().last().copied().unwrap_or(1);
                let mut values = host(&gradient)?;
                for &feature in &hidden.features {
                    let start = entry.offset() + feature * classes;
                    range::check(
                        start + classes <= entry.range().end,
                        "number of a hidden feature",
                        feature,
                        "that of a row of the last layer's matrix",
                    )?;
                    values[start..start + classes].fill(0.0);
                }
                // The attacker reads the mask from the zeros.
                let mask = values.iter().map(|&v| f64::from(u8::from(v != 0.0)));
                let mask = like(mask.collect(), &gradient);
                Observed {
                    values: like(values, &gradient),
                    view: View::Mask(Box::new(mask)),
                }
            }
            Self::Private { norm, noise } => {
                let clipped: Result<Vec<_>, _> =
                    examples.iter().map(|g| clipped(g, *norm)).collect();
                let deviation = noise * norm / examples.len() as f64;
                Observed::whole(noisy(mean(clipped?), deviation, seed))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    fn layout() -> ParameterLayout {
        let layer: Linear = LinearConfig::new(2, 3).init(&Device::flex().autodiff());
        ParameterLayout::trainable(&layer).unwrap()
    }

    fn vector(values: [f32; 9]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn gradient() -> Tensor<1> {
        vector([0.1, -0.5, 2.0, 0.3, -0.2, 1.0, 4.0, -5.0, 6.0])
    }

    fn protected(defence: &Defence) -> Vec<f64> {
        let observed = defence
            .protect(&[gradient()], &layout(), &Hidden::default(), 3)
            .unwrap();
        host(&observed.values).unwrap()
    }

    /// By numpy: percentile([.1, .2, .3, .5, 1, 2], 50) = 0.4 and percentile([4, 5, 6], 50) = 5.
    #[test]
    fn small_numbers_of_each_tensor_become_zero() {
        let found = protected(&Defence::Sparsify { percentile: 50.0 });
        let expected = [0.0, -0.5, 2.0, 0.0, 0.0, 1.0, 0.0, -5.0, 6.0];
        assert_eq!(found, expected);
        let ascending = [1.0, 2.0, 4.0, 8.0];
        assert!((percentile_of(&ascending, 20.0) - 1.6).abs() < 1e-12);
    }

    #[test]
    fn clipping_keeps_the_direction_and_noise_has_its_deviation() {
        let found = protected(&Defence::Clip { norm: 1.0 });
        let length = nabla_base::vector::norm(&found);
        assert!((length - 1.0).abs() < 1e-6);
        let whole = protected(&Defence::None);
        assert_eq!(whole, protected(&Defence::Clip { norm: 100.0 }));
        assert_eq!(whole, protected(&Defence::Noise { deviation: 0.0 }));
        let noisy = protected(&Defence::Noise { deviation: 0.01 });
        let distance = nabla_base::vector::distance(&noisy, &whole);
        assert!(distance > 0.005 && distance < 0.08, "{distance}");
    }

    #[test]
    fn private_gradients_are_clipped_one_by_one() {
        let defence = Defence::Private {
            norm: 1.0,
            noise: 0.0,
        };
        let small = gradient() * 0.01;
        let observed = defence
            .protect(
                &[gradient(), small.clone()],
                &layout(),
                &Hidden::default(),
                0,
            )
            .unwrap();
        let unit = gradient() / norm(&gradient()).unwrap();
        let expected = host(&((unit + small) / 2.0)).unwrap();
        for (found, expected) in host(&observed.values).unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn hidden_features_are_rows_of_zeros_and_the_attacker_sees_them() {
        let defence = Defence::Soteria { share: 0.5 };
        let hidden = |feature| Hidden {
            weight: "weight".into(),
            features: vec![feature],
        };
        let observed = defence
            .protect(&[gradient()], &layout(), &hidden(1), 0)
            .unwrap();
        let repeated = observed.repeat(vector([1.0; 9])).unwrap();
        let mask = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        assert_eq!(host(&repeated.values).unwrap(), mask);
        let back = repeated.adjoint(vector([2.0; 9])).unwrap();
        assert_eq!(host(&back).unwrap(), mask.map(|m| 2.0 * m));
        let wrong = defence.protect(&[gradient()], &layout(), &hidden(2), 0);
        assert!(wrong.is_err());
    }

    /// Clipped to 1, the attacker's gradient of length 2 is half of itself, and slopes are halved on the way back.
    #[test]
    fn a_supposed_clipping_is_repeated() {
        let observed = Observed::whole(gradient()).supposed_clipped(1.0);
        let long = gradient() * (2.0 / norm(&gradient()).unwrap());
        let repeated = observed.repeat(long.clone()).unwrap();
        assert!((norm(&repeated.values).unwrap() - 1.0).abs() < 1e-6);
        let back = repeated.adjoint(vector([1.0; 9])).unwrap();
        assert!(host(&back).unwrap().iter().all(|v| (v - 0.5).abs() < 1e-6));
        let short = observed.repeat(long * 0.25).unwrap();
        assert!((norm(&short.values).unwrap() - 0.5).abs() < 1e-6);
        let sparse = Observed::whole(gradient()).supposed_sparsified(50.0, &layout());
        let repeated = sparse.repeat(gradient()).unwrap();
        let expected = protected(&Defence::Sparsify { percentile: 50.0 });
        assert_eq!(host(&repeated.values).unwrap(), expected);
    }

    #[test]
    fn every_family_sketches() {
        for choice in <SketchFamily as nabla_base::choices::Choices>::choices() {
            let family = choice.value;
            let found = protected(&Defence::Sketch { share: 0.5, family });
            // 4.5 numbers, and a multiple of four blocks.
            let expected = match family {
                SketchFamily::Sparse { .. } => 8,
                _ => 5,
            };
            assert_eq!(found.len(), expected, "{family:?}");
        }
        let older = r#"{"name": "sketch", "share": 0.1}"#;
        let family = SketchFamily::Srht;
        let read: Defence = serde_json::from_str(older).unwrap();
        assert_eq!(read, Defence::Sketch { share: 0.1, family });
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for defence in [
            Defence::Noise { deviation: -1.0 },
            Defence::Clip { norm: 0.0 },
            Defence::Sparsify { percentile: 101.0 },
            Defence::Sketch {
                share: 0.0,
                family: SketchFamily::Srht,
            },
            Defence::Private {
                norm: 1.0,
                noise: f64::NAN,
            },
        ] {
            let found = defence.protect(&[gradient()], &layout(), &Hidden::default(), 0);
            assert!(found.is_err());
        }
        let none = Hidden::default();
        assert!(Defence::None.protect(&[], &layout(), &none, 0).is_err());
        let short = Tensor::<1>::zeros([3], &Device::flex());
        assert!(
            Defence::None
                .protect(&[short], &layout(), &none, 0)
                .is_err()
        );
    }
}
