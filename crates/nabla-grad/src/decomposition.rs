//! The parts of one tensor parallel and orthogonal to another.
//!
//! ```text
//! x = x_∥ + x_⊥,   x_∥ = (⟨x, y⟩ / ⟨y, y⟩) y,   ⟨x_⊥, y⟩ = 0
//! ```
//!
//! Three families of methods use this decomposition. AdamP drops the part of a step along the weights, which
//! changes only their norm; adaptive projected guidance weakens the part of the guidance along the
//! prediction, which only saturates the picture; gradient surgery drops the part of one task's gradient along
//! another task's gradient if the two conflict. They differ in what counts as one vector: the whole tensor,
//! or each index of one dimension (an output channel, an example of the batch); see [`Views`].
//!
//! **Zero vectors** have no direction, so no part is along them. If `y = 0` then `x_∥ = 0` and `x_⊥ = x`, and
//! the cosine similarity with a zero vector is 0. No denominator contains an `ε`, which would leave a part of
//! `x` along a small `y`. Instead, both tensors are divided by their largest element before they are squared,
//! so elements of 10⁻³⁰ or 10³⁰ work too.
//!
//! Everything is differentiable.
//!
//! Sources: Heo et al., *AdamP: Slowing Down the Slowdown for Momentum Optimizers on
//! Scale-invariant Weights*, ICLR 2021, arXiv 2006.08217; Sadat, Hilliges, Weber,
//! *Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models*, ICLR
//! 2025, arXiv 2410.02416; Yu et al., *Gradient Surgery for Multi-Task Learning*, NeurIPS
//! 2020, arXiv 2001.06782, algorithm 1.

use burn::tensor::Tensor;

/// The reason why two tensors cannot be decomposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompositionError {
    /// The tensors have different shapes.
    #[error("both tensors must have the same shape, but they have {x:?} and {y:?}")]
    Shape {
        /// Shape of the decomposed tensor.
        x: Vec<usize>,
        /// Shape of the other tensor.
        y: Vec<usize>,
    },
    /// The tensors have no such dimension.
    #[error("the dimension of the views must be less than the rank {rank}, but it is {dim}")]
    Dim {
        /// The dimension.
        dim: usize,
        /// The rank of the tensors.
        rank: usize,
    },
    /// The tensor has no elements.
    #[error("the tensors must have at least one element, but their shape is {0:?}")]
    Empty(Vec<usize>),
    /// The tensors live on different devices.
    #[error("both tensors must be on the same device, but they are on {x} and {y}")]
    Device {
        /// Device of the decomposed tensor.
        x: String,
        /// Device of the other tensor.
        y: String,
    },
}

/// The elements that form one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Views {
    /// All elements of the tensor. AdamP's *layer-wise* projection.
    Whole,
    /// All elements at one index of this dimension: `Each(0)` of a weight `[outputs, inputs]` is
    /// each row, of pictures `[batch, channels, height, width]` each example. AdamP's *channel-wise*
    /// projection.
    Each(usize),
}

impl Views {
    /// The dimensions summed over.
    fn summed<const D: usize>(self) -> Vec<usize> {
        (0..D).filter(|&dim| self != Self::Each(dim)).collect()
    }

    fn check<const D: usize>(self, x: &Tensor<D>, y: &Tensor<D>) -> Result<(), DecompositionError> {
        let (dims, others) = (x.dims(), y.dims());
        if dims != others {
            return Err(DecompositionError::Shape {
                x: dims.into(),
                y: others.into(),
            });
        }
        if dims.contains(&0) {
            return Err(DecompositionError::Empty(dims.into()));
        }
        if x.device() != y.device() {
            return Err(DecompositionError::Device {
                x: format!("{:?}", x.device()),
                y: format!("{:?}", y.device()),
            });
        }
        match self {
            Self::Each(dim) if dim >= D => Err(DecompositionError::Dim { dim, rank: D }),
            _ => Ok(()),
        }
    }
}

/// The part of `x` along `y`: `x_∥`. Shapes: as `x`.
///
/// # Errors
/// If the tensors differ in shape or device, have no elements, or lack the dimension of the views.
pub fn parallel<const D: usize>(
    x: Tensor<D>,
    y: Tensor<D>,
    views: Views,
) -> Result<Tensor<D>, DecompositionError> {
    views.check(&x, &y)?;
    let summed = views.summed::<D>();
    let (x, x_scale) = scaled(x, &summed);
    let (y, _) = scaled(y, &summed);
    // One number per view, [1, …, size of the dimension, …, 1]; at least 1 unless y is 0.
    let squares = one_for_zero(y.clone().square().sum_dims(&summed));
    let coefficient = (x * y.clone()).sum_dims(&summed) / squares;
    Ok(y * coefficient * x_scale)
}

/// The part of `x` across `y`: `x_⊥`. Shapes: as `x`.
///
/// # Errors
/// As [`parallel`].
pub fn orthogonal<const D: usize>(
    x: Tensor<D>,
    y: Tensor<D>,
    views: Views,
) -> Result<Tensor<D>, DecompositionError> {
    Ok(decompose(x, y, views)?.1)
}

/// Both parts of `x`, along and across `y`: `(x_∥, x_⊥)`. Shapes: as `x`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::decomposition::{Views, decompose};
///
/// let device = Device::flex();
/// let step = Tensor::<2>::from_floats([[3.0, 4.0], [5.0, 6.0]], &device); // [outputs, inputs]
/// let weight = Tensor::<2>::from_floats([[2.0, 0.0], [0.0, 0.5]], &device);
/// let (along, across) = decompose(step, weight, Views::Each(0))?;
/// assert_eq!(along.into_data(), Tensor::<2>::from_floats([[3.0, 0.0], [0.0, 6.0]], &device).into_data());
/// assert_eq!(across.into_data(), Tensor::<2>::from_floats([[0.0, 4.0], [5.0, 0.0]], &device).into_data());
/// # Ok::<(), nabla_grad::decomposition::DecompositionError>(())
/// ```
///
/// # Errors
/// As [`parallel`].
pub fn decompose<const D: usize>(
    x: Tensor<D>,
    y: Tensor<D>,
    views: Views,
) -> Result<(Tensor<D>, Tensor<D>), DecompositionError> {
    let along = parallel(x.clone(), y, views)?;
    let across = x - along.clone();
    Ok((along, across))
}

/// The cosine of the angle of each pair of vectors, `⟨x, y⟩ / (‖x‖ ‖y‖)`, in `[−1, 1]`: `[views]`, which is
/// `[1]` for the whole tensor; 0 if either vector is zero.
///
/// # Errors
/// As [`parallel`].
pub fn cosine_similarity<const D: usize>(
    x: Tensor<D>,
    y: Tensor<D>,
    views: Views,
) -> Result<Tensor<1>, DecompositionError> {
    views.check(&x, &y)?;
    let summed = views.summed::<D>();
    let (x, _) = scaled(x, &summed);
    let (y, _) = scaled(y, &summed);
    let norm = |tensor: Tensor<D>| one_for_zero(tensor.square().sum_dims(&summed)).sqrt();
    let norms = norm(x.clone()) * norm(y.clone());
    let cosine = (x * y).sum_dims(&summed) / norms;
    let views = cosine.dims().iter().product::<usize>();
    // Rounding may leave the interval by a few units in the last place.
    Ok(cosine.reshape([views]).clamp(-1.0, 1.0))
}

/// The tensor divided by the largest magnitude of each view, and those magnitudes, with 1 in place of 0.
fn scaled<const D: usize>(tensor: Tensor<D>, summed: &[usize]) -> (Tensor<D>, Tensor<D>) {
    // The result does not depend on the scale, so no gradient flows through it.
    let largest = one_for_zero(tensor.clone().detach().max_abs_dims(summed)).detach();
    (tensor / largest.clone(), largest)
}

fn one_for_zero<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let zeros = tensor.clone().equal_elem(0.0);
    tensor.mask_fill(zeros, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use crate::seeded_noise::SeededNoise;

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    fn tensor(values: &[f32], shape: [usize; 3]) -> Tensor<3> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    /// Which vector each element is part of, in row-major order.
    fn view_of_elements(shape: [usize; 3], views: Views) -> (Vec<usize>, usize) {
        let [a, b, c] = shape;
        let elements = (0..a * b * c).map(|i| match views {
            Views::Whole => 0,
            Views::Each(0) => i / (b * c),
            Views::Each(1) => i / c % b,
            Views::Each(_) => i % c,
        });
        let count = match views {
            Views::Whole => 1,
            Views::Each(dim) => shape[dim],
        };
        (elements.collect(), count)
    }

    /// ⟨x, y⟩ of each view, in f64, by its definition.
    fn dots(x: &[f32], y: &[f32], (view, count): &(Vec<usize>, usize)) -> Vec<f64> {
        let mut sums = vec![0.0; *count];
        for ((&x, &y), &view) in x.iter().zip(y).zip(view) {
            sums[view] += f64::from(x) * f64::from(y);
        }
        sums
    }

    fn any_views() -> impl Strategy<Value = Views> {
        prop_oneof![Just(Views::Whole), (0_usize..3).prop_map(Views::Each)]
    }

    proptest! {
        #[test]
        fn the_parts_are_those_of_the_definition(
            shape in prop::array::uniform3(1_usize..7),
            views in any_views(),
            seed: u64,
            scales in prop::array::uniform2(-25_i32..25),
        ) {
            let mut noise = SeededNoise::new(seed, 0);
            let [x, y] = scales.map(|scale| {
                let values = noise.normal_values(shape.iter().product());
                values.into_iter().map(|v| v * 10_f32.powi(scale)).collect::<Vec<f32>>()
            });
            let (along, across) =
                decompose(tensor(&x, shape), tensor(&y, shape), views).unwrap();
            let again = decompose(along.clone(), tensor(&y, shape), views).unwrap();
            let across_again =
                orthogonal(across.clone(), tensor(&y, shape), views).unwrap();
            let cosine = values(
                cosine_similarity(tensor(&x, shape), tensor(&y, shape), views).unwrap(),
            );
            let (along, across) = (values(along), values(across));
            let (along_again, nothing) = (values(again.0), values(again.1));
            let across_again = values(across_again);

            let of = view_of_elements(shape, views);
            let xx = dots(&x, &x, &of);
            let yy = dots(&y, &y, &of);
            let xy = dots(&x, &y, &of);
            let across_y = dots(&across, &y, &of);
            // Relative to the vector that is taken apart, a few units in the last place.
            let close = |found: f64, expected: f64, view: usize| {
                (found - expected).abs() <= 4e-6 * xx[view].sqrt()
            };
            prop_assert_eq!(cosine.len(), of.1);
            for (view, &cosine) in cosine.iter().enumerate() {
                let expected = xy[view] / (xx[view] * yy[view]).sqrt();
                prop_assert!((f64::from(cosine) - expected).abs() < 4e-6);
                // Orthogonal up to rounding.
                prop_assert!(close(across_y[view] / yy[view].sqrt(), 0.0, view));
            }
            for (i, &view) in of.0.iter().enumerate() {
                let expected = xy[view] / yy[view] * f64::from(y[i]);
                prop_assert!(close(f64::from(along[i]), expected, view));
                // The sum gives back.
                let sum = f64::from(along[i]) + f64::from(across[i]);
                prop_assert!(close(sum, f64::from(x[i]), view));
                // Both projections are idempotent.
                prop_assert!(close(f64::from(along_again[i]), f64::from(along[i]), view));
                prop_assert!(close(f64::from(nothing[i]), 0.0, view));
                prop_assert!(close(f64::from(across_again[i]), f64::from(across[i]), view));
            }
        }
    }

    #[test]
    fn nothing_is_along_a_zero_vector() {
        let x = [1.0, -2.0, 3.0, 4.0];
        let y = [0.0, 0.0, 0.0, 2.0];
        let (x, y) = (tensor(&x, [2, 1, 2]), tensor(&y, [2, 1, 2]));
        let (along, across) = decompose(x.clone(), y.clone(), Views::Each(0)).unwrap();
        assert_eq!(values(along), [0.0, 0.0, 0.0, 4.0]);
        assert_eq!(values(across), [1.0, -2.0, 3.0, 0.0]);
        let zero = x.zeros_like();
        for views in [Views::Whole, Views::Each(0), Views::Each(2)] {
            let (along, across) = decompose(zero.clone(), y.clone(), views).unwrap();
            assert_eq!(values(along), [0.0; 4]);
            assert_eq!(values(across), [0.0; 4]);
            let (along, across) = decompose(x.clone(), zero.clone(), views).unwrap();
            assert_eq!(values(along), [0.0; 4]);
            assert_eq!(values(across), values(x.clone()));
            let cosine = cosine_similarity(x.clone(), zero.clone(), views).unwrap();
            assert!(values(cosine).into_iter().all(|cosine| cosine == 0.0));
        }
        let cosine = values(cosine_similarity(x, y, Views::Each(0)).unwrap());
        assert_eq!(cosine, [0.0, 0.8]);
    }

    #[test]
    fn each_element_of_a_vector_can_be_a_view() {
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([1.0, -2.0, 3.0], &device);
        let y = Tensor::<1>::from_floats([-4.0, 0.0, 5.0], &device);
        let (along, across) = decompose(x.clone(), y.clone(), Views::Each(0)).unwrap();
        assert_eq!(values(along), [1.0, 0.0, 3.0]);
        assert_eq!(values(across), [0.0, -2.0, 0.0]);
        let cosine = cosine_similarity(x, y, Views::Each(0)).unwrap();
        assert_eq!(values(cosine), [-1.0, 0.0, 1.0]);
    }

    #[test]
    fn what_is_not_finite_is_not_hidden() {
        let x = tensor(&[f32::NAN, 1.0, 1.0, 1.0], [2, 2, 1]);
        let y = tensor(&[1.0, 1.0, 1.0, 1.0], [2, 2, 1]);
        let along = values(parallel(x, y, Views::Each(0)).unwrap());
        assert!(along[0].is_nan() && along[1].is_nan());
        assert_eq!(along[2..], [1.0, 1.0]);
    }

    /// The derivative of `Σ c ⊙ x_∥` along a direction, against central differences.
    #[test]
    fn gradients_flow_through_both_tensors() {
        let device = Device::flex().autodiff();
        let x = [0.3, -1.2, 0.8, 2.0];
        let y = [1.0, 0.4, -0.6, 0.9];
        let c = Tensor::<2>::from_floats([[0.5, -1.0], [2.0, 0.3]], &device);
        let of = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [2, 2]);
            Tensor::<2>::from_data(data, &device)
        };
        let value = |x: Tensor<2>, y: Tensor<2>| {
            (parallel(x, y, Views::Each(1)).unwrap() * c.clone()).sum()
        };
        let (at_x, at_y) = (of(&x).require_grad(), of(&y).require_grad());
        let gradients = value(at_x.clone(), at_y.clone()).backward();
        let gradient_x = values(at_x.grad(&gradients).unwrap());
        let gradient_y = values(at_y.grad(&gradients).unwrap());
        for i in 0..4 {
            let moved = |values: &[f32], step: f32| {
                let mut moved = values.to_vec();
                moved[i] += step;
                of(&moved)
            };
            let scalar = |tensor: Tensor<1>| tensor.into_scalar::<f32>();
            let h = 1e-2;
            let along_x =
                scalar(value(moved(&x, h), of(&y))) - scalar(value(moved(&x, -h), of(&y)));
            let along_y =
                scalar(value(of(&x), moved(&y, h))) - scalar(value(of(&x), moved(&y, -h)));
            assert!((along_x / (2.0 * h) - gradient_x[i]).abs() < 1e-3);
            assert!((along_y / (2.0 * h) - gradient_y[i]).abs() < 2e-3);
        }
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        let x = tensor(&[0.0; 6], [1, 2, 3]);
        let error = parallel(x.clone(), tensor(&[0.0; 6], [1, 3, 2]), Views::Whole).unwrap_err();
        let expected = DecompositionError::Shape {
            x: vec![1, 2, 3],
            y: vec![1, 3, 2],
        };
        assert_eq!(error, expected);
        let error = cosine_similarity(x.clone(), x, Views::Each(3)).unwrap_err();
        assert_eq!(error, DecompositionError::Dim { dim: 3, rank: 3 });
        let empty = tensor(&[], [1, 0, 3]);
        let error = decompose(empty.clone(), empty, Views::Whole).unwrap_err();
        assert_eq!(error, DecompositionError::Empty(vec![1, 0, 3]));
    }
}
