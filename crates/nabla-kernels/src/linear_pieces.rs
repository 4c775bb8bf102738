//! Networks held on the linear piece of their rectified units.
//!
//! A network with rectified units is smooth between kinks. Its Hessian, as a framework that differentiates twice has it,
//! is that of the piece in which the weights lie. A difference of gradients meets kinks: a network with millions of units
//! has some at every distance. [`Pieces::record`] notes for each unit whether it is off, and [`Pieces::hold`] computes
//! the network with the same units off at other weights. What is left is smooth, and equal to the network up to the next
//! kink.
//!
//! Held are all ReLUs of this crate, alone ([`relu`](crate::activation::relu)) or at the end of another operation
//! ([`batch_norm_relu`](crate::normalization::batch_norm_relu) ...), and which number is the largest in
//! [`max_pool2d`](crate::pooling::max_pool2d) without padding. Other kinks (leaky units, other poolings) stay.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_kernels::activation::relu;
//! use nabla_kernels::linear_pieces::Pieces;
//!
//! let at = Tensor::<1>::from_floats([-1.0, 2.0], &Device::flex());
//! let (_, pieces) = Pieces::record(|| relu(at.clone()));
//! // Across the kink, the first unit is still off, and the second one on.
//! let other = Tensor::<1>::from_floats([3.0, -4.0], &Device::flex());
//! let held = pieces.hold(|| relu(other))?;
//! assert_eq!(held.into_data().try_to_vec::<f32>().unwrap(), [0.0, -4.0]);
//! # Ok::<(), nabla_kernels::linear_pieces::OtherNetwork>(())
//! ```

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use burn::nn::PaddingConfig2d;
use burn::nn::pool::MaxPool2d;
use burn::tensor::module::max_pool2d_with_indices;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Bool, Int, Tensor};

use crate::elementwise::vectorized;
use crate::operation::{Array, Operation, Saved, compiled, computes, unary};
use crate::real::Real;

/// The network that is held is another one than was recorded: it has other units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network has other rectified units than the one whose linear piece was recorded")]
pub struct OtherNetwork;

/// What one operation does on a piece.
#[derive(Clone, Debug)]
enum Piece {
    /// Which units are off, in the order of the elements.
    Off(Arc<Vec<bool>>),
    /// The same, on a device for which there is no kernel.
    OffThere(Tensor<1, Bool>),
    /// Where the largest numbers are, `[batch, channels, places]`.
    Largest(Tensor<3, Int>),
}

/// What this thread does with its units.
enum Mode {
    Record(Vec<Piece>),
    Hold {
        pieces: Arc<Vec<Piece>>,
        next: usize,
        /// Whether an operation did not fit its piece.
        other: bool,
    },
}

thread_local! {
    static MODE: RefCell<Option<Mode>> = const { RefCell::new(None) };
}

/// Ends a mode, also when the network panics.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        MODE.set(None);
    }
}

/// Whether units are recorded or held, in which case operations leave their ReLU to [`relu`].
pub(crate) fn is_held() -> bool {
    MODE.with_borrow(Option::is_some)
}

/// The next piece, if pieces are held.
fn next() -> Option<Option<Piece>> {
    MODE.with_borrow_mut(|mode| match mode {
        Some(Mode::Hold { pieces, next, .. }) => {
            let piece = pieces.get(*next).cloned();
            *next += 1;
            Some(piece)
        }
        _ => None,
    })
}

fn note(piece: Piece) {
    MODE.with_borrow_mut(|mode| {
        if let Some(Mode::Record(pieces)) = mode {
            pieces.push(piece);
        }
    });
}

fn misfit() {
    MODE.with_borrow_mut(|mode| {
        if let Some(Mode::Hold { other, .. }) = mode {
            *other = true;
        }
    });
}

/// The ReLU of the piece.
pub(crate) fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let shape = x.dims();
    let elements: usize = shape.iter().product();
    let piece = match next() {
        None => {
            let off = x.clone().without_autodiff().lower_equal_elem(0.0);
            let off = off.reshape([elements]);
            let piece = match computes(&x) {
                true => Piece::Off(Arc::new(off.into_data().iter::<bool>().collect())),
                false => Piece::OffThere(off),
            };
            note(piece.clone());
            Some(piece)
        }
        Some(piece) => piece,
    };
    match piece {
        Some(Piece::Off(off)) if off.len() == elements && computes(&x) => unary(Held(off), x),
        Some(Piece::OffThere(off)) if off.dims() == [elements] => {
            x.mask_fill(off.reshape(shape), 0.0)
        }
        _ => {
            misfit();
            burn::tensor::activation::relu(x)
        }
    }
}

/// What an operation ends with that makes negative numbers 0.
#[derive(Clone, Debug)]
pub(crate) enum Rectifier {
    /// `max(·, 0)`.
    Relu,
    /// 0 where a unit is off on the piece.
    Held(Held),
}

impl Rectifier {
    /// For an operation whose output has as many elements as `x`. `None` if its units are recorded, or don't fit those that
    /// are held, or there is no kernel for them: then [`relu`] is to follow it.
    pub(crate) fn after<const D: usize>(x: &Tensor<D>) -> Option<Self> {
        MODE.with_borrow_mut(|mode| match mode {
            None => Some(Self::Relu),
            Some(Mode::Record(_)) => None,
            Some(Mode::Hold { pieces, next, .. }) => match pieces.get(*next) {
                Some(Piece::Off(off)) if off.len() == x.shape().num_elements() => {
                    *next += 1;
                    Some(Self::Held(Held(Arc::clone(off))))
                }
                _ => None,
            },
        })
    }
}

/// The ReLU of units of which it is known which are off.
#[derive(Clone, Debug)]
pub(crate) struct Held(Arc<Vec<bool>>);

compiled!(Held: 1);

impl Held {
    /// Makes the numbers of units that are off 0, inside of [`vectorized`].
    ///
    /// - `units`: which units `values` has
    #[inline(always)]
    pub(crate) fn mask<F: Real>(&self, values: &mut [F], units: Range<usize>) {
        for (value, &off) in values.iter_mut().zip(&self.0[units]) {
            *value = if off { F::ZERO } else { *value };
        }
    }

    /// 0 where a unit is off.
    pub(crate) fn masked<F: Real>(&self, x: Array<F>) -> Array<F> {
        x.changed(|units, values| {
            vectorized::<F, _>(
                #[inline(always)]
                || self.mask(values, units.clone()),
            );
        })
    }

    /// [`masked`](Self::masked) `a + b`, in one pass.
    pub(crate) fn sum<F: Real>(&self, a: Array<F>, b: &[F]) -> Array<F> {
        a.changed(|units, values| {
            vectorized::<F, _>(
                #[inline(always)]
                || {
                    for (value, &b) in values.iter_mut().zip(&b[units.clone()]) {
                        *value += b;
                    }
                    self.mask(values, units.clone());
                },
            );
        })
    }
}

impl Operation<1> for Held {
    type Kept = ();

    fn reads(&self) -> [bool; 1] {
        [false]
    }

    fn forward<F: Real>(&self, [x]: [Array<F>; 1], _: bool) -> (Array<F>, ()) {
        (self.masked(x), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 1>) -> [Option<Array<F>>; 1] {
        [Some(self.masked(saved.grad))]
    }
}

/// The maximum of the piece; `None` for a pooling whose piece is not held.
pub(crate) fn max_pool2d(pool: &MaxPool2d, x: &Tensor<4>) -> Option<Tensor<4>> {
    if !matches!(pool.padding, PaddingConfig2d::Valid) || pool.ceil_mode {
        return None;
    }
    let [batch, channels, height, width] = x.dims();
    let places = |size: usize, d: usize| {
        let window = pool.dilation[d] * (pool.kernel_size[d] - 1) + 1;
        size.checked_sub(window)
            .map(|left| left / pool.stride[d] + 1)
    };
    let (rows, columns) = (places(height, 0)?, places(width, 1)?);
    let largest = match next() {
        None => {
            let plain = x.clone().without_autodiff();
            let options = MaxPoolOptions {
                kernel_size: pool.kernel_size,
                stride: pool.stride,
                padding: [(0, 0); 2],
                dilation: pool.dilation,
                ceil_mode: false,
            };
            let (_, largest) = max_pool2d_with_indices(plain, options);
            let largest = largest.reshape([batch, channels, rows * columns]);
            note(Piece::Largest(largest.clone()));
            largest
        }
        Some(Some(Piece::Largest(largest)))
            if largest.dims() == [batch, channels, rows * columns] =>
        {
            largest
        }
        Some(_) => {
            misfit();
            return None;
        }
    };
    let flat = x.clone().reshape([batch, channels, height * width]);
    Some(
        flat.gather(2, largest)
            .reshape([batch, channels, rows, columns]),
    )
}

/// The linear piece of a network; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Pieces(Arc<Vec<Piece>>);

impl Pieces {
    /// Computes `network`, and notes its piece. A recording inside of another one takes its place.
    pub fn record<T>(network: impl FnOnce() -> T) -> (T, Self) {
        MODE.set(Some(Mode::Record(Vec::new())));
        let ended = Ended;
        let value = network();
        let pieces = match MODE.take() {
            Some(Mode::Record(pieces)) => pieces,
            _ => Vec::new(),
        };
        drop(ended);
        (value, Self(Arc::new(pieces)))
    }

    /// Computes `network` on this piece.
    ///
    /// # Errors
    /// If the network has other units.
    pub fn hold<T>(&self, network: impl FnOnce() -> T) -> Result<T, OtherNetwork> {
        let pieces = Arc::clone(&self.0);
        MODE.set(Some(Mode::Hold {
            pieces,
            next: 0,
            other: false,
        }));
        let ended = Ended;
        let value = network();
        let fits = match MODE.take() {
            Some(Mode::Hold { next, other, .. }) => !other && next == self.0.len(),
            _ => false,
        };
        drop(ended);
        match fits {
            true => Ok(value),
            false => Err(OtherNetwork),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::conv::Conv2dConfig;
    use burn::nn::pool::MaxPool2dConfig;
    use burn::nn::{BatchNormConfig, GroupNormConfig};
    use burn::tensor::Device;
    use nabla_grad::seeded_noise::SeededNoise;

    use super::*;
    use crate::{activation, convolution, normalization, pooling, residual};

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn a_network_on_its_own_piece_is_the_network_with_its_gradient() {
        let device = Device::flex().autodiff();
        let convolution = Conv2dConfig::new([2, 4], [3, 3]).init(&device);
        let norm = BatchNormConfig::new(4).init(&device);
        let fixed = BatchNormConfig::new(4).init(&device);
        let fixed = nabla_grad::training_mode::freeze_norms(fixed);
        let groups = GroupNormConfig::new(2, 4).init(&device);
        let pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
        let network = |x: Tensor<4>| {
            let y = convolution::conv2d_relu(&convolution, x);
            let z = normalization::batch_norm_relu(&norm, y.clone() - 0.1);
            let z = normalization::batch_norm_relu(&fixed, z - y.clone());
            let z = normalization::group_norm_relu(&groups, z - y.clone());
            let z = residual::add_relu(z, y - 0.3);
            activation::relu(pooling::max_pool2d(&pool, z) - 0.2)
        };
        let x = SeededNoise::new(1, 0).normal([3, 2, 8, 8], &device);
        let by = |run: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            let x = x.clone().detach().require_grad();
            let y = run(x.clone());
            let gradients = y.clone().square().sum().backward();
            (
                values(y.without_autodiff()),
                values(x.grad(&gradients).unwrap()),
            )
        };
        let plain = by(&network);
        let (_, pieces) = Pieces::record(|| network(x.clone()));
        let held = by(&|x| pieces.hold(|| network(x)).unwrap());
        for (a, b) in [(plain.0, held.0), (plain.1, held.1)] {
            assert!(
                a.iter()
                    .zip(&b)
                    .all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + a.abs()))
            );
        }
        assert!(!is_held());
    }

    #[test]
    fn on_a_piece_the_network_is_linear_in_its_input() {
        let device = Device::flex();
        let pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
        let network = |x: Tensor<4>| activation::relu(pooling::max_pool2d(&pool, x));
        let x = SeededNoise::new(1, 0).normal([1, 1, 4, 4], &device);
        let (at, pieces) = Pieces::record(|| network(x.clone()));
        let held = |x: Tensor<4>| values(pieces.hold(|| network(x)).unwrap());
        let negative = held(-x.clone());
        assert!(values(at).iter().zip(&negative).all(|(a, b)| *a == -b));
        assert!(negative.iter().any(|y| *y < 0.0));
    }

    #[test]
    fn another_network_is_refused() {
        let x = Tensor::<1>::from_floats([1.0, -1.0], &Device::flex());
        let (_, pieces) = Pieces::record(|| activation::relu(x.clone()));
        let longer = Tensor::<1>::from_floats([1.0, -1.0, 2.0], &Device::flex());
        assert_eq!(
            pieces.hold(|| activation::relu(longer)).err(),
            Some(OtherNetwork)
        );
        let twice = pieces.hold(|| activation::relu(activation::relu(x.clone())));
        assert_eq!(twice.err(), Some(OtherNetwork));
        assert_eq!(pieces.hold(|| x.clone()).err(), Some(OtherNetwork));
        assert!(pieces.hold(|| activation::relu(x)).is_ok());
    }
}
