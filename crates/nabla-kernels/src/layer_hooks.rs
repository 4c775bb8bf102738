//! Layers computed by someone else, in a network that knows nothing of it.
//!
//! Quantised training computes each layer with rounded weights and inputs; other methods want to see what goes into a
//! layer. [`with_hook`] computes a network, and gives each [`linear`](crate::linear::linear) layer and each
//! [`conv2d`](crate::convolution::conv2d) of it, in the order of the pass, to a [`LayerHook`], which may compute it in
//! its own way. Layers that the hook itself computes are not given to it.
//!
//! ```
//! use std::cell::RefCell;
//! use std::rc::Rc;
//!
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Tensor};
//! use nabla_kernels::layer_hooks::{LayerHook, with_hook};
//! use nabla_kernels::linear::linear;
//!
//! /// Doubles what comes out of linear layers.
//! struct Doubled;
//!
//! impl LayerHook for Doubled {
//!     fn linear(&mut self, layer: &Linear, x: Tensor<2>) -> Option<Tensor<2>> {
//!         Some(linear(layer, x) * 2.0)
//!     }
//! }
//!
//! let layer = LinearConfig::new(3, 2).init(&Device::flex());
//! let x = Tensor::<2>::ones([1, 3], &Device::flex());
//! let plain = linear(&layer, x.clone());
//! let doubled = with_hook(Rc::new(RefCell::new(Doubled)), || linear(&layer, x));
//! assert_eq!((doubled - plain * 2.0).abs().sum().into_scalar::<f32>(), 0.0);
//! ```

use std::cell::RefCell;
use std::rc::Rc;

use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

/// What is done with the layers of a network; see the [module documentation](self).
pub trait LayerHook {
    /// A linear layer; `None`, the default, to have it computed as ever.
    ///
    /// - `x`: `[rows, input]`
    /// - returns `[rows, output]`
    fn linear(&mut self, _layer: &Linear, _x: Tensor<2>) -> Option<Tensor<2>> {
        None
    }

    /// A convolution; `None`, the default, to have it computed as ever.
    ///
    /// - `x`: `[batch, channels_in, height_in, width_in]`
    /// - returns `[batch, channels_out, height_out, width_out]`
    fn conv2d(&mut self, _layer: &Conv2d, _x: Tensor<4>) -> Option<Tensor<4>> {
        None
    }
}

thread_local! {
    static HOOK: RefCell<Option<Rc<RefCell<dyn LayerHook>>>> = const { RefCell::new(None) };
}

/// Gives a hook back to this thread, also when the layer panics.
struct Restored(Option<Rc<RefCell<dyn LayerHook>>>);

impl Drop for Restored {
    fn drop(&mut self) {
        HOOK.set(self.0.take());
    }
}

/// Computes `network`, whose layers on this thread go through `hook`. A hook within another one takes its place.
pub fn with_hook<T>(hook: Rc<RefCell<impl LayerHook + 'static>>, network: impl FnOnce() -> T) -> T {
    let outer = Restored(HOOK.replace(Some(hook)));
    let value = network();
    drop(outer);
    value
}

/// Whether layers go through a hook, in which case operations leave their ReLU to others.
pub(crate) fn is_hooked() -> bool {
    HOOK.with_borrow(Option::is_some)
}

/// What the hook makes of a layer, without a hook meanwhile.
fn asked<T>(ask: impl FnOnce(&mut dyn LayerHook) -> Option<T>) -> Option<T> {
    let restored = Restored(HOOK.take());
    let hook = restored.0.clone()?;
    let answer = ask(&mut *hook.borrow_mut());
    drop(hook);
    drop(restored);
    answer
}

/// What the hook makes of a linear layer.
pub(crate) fn linear<const D: usize>(layer: &Linear, x: &Tensor<D>) -> Option<Tensor<D>> {
    if !is_hooked() {
        return None;
    }
    let mut shape = x.dims();
    let width = shape[D - 1];
    let rows = shape[..D - 1].iter().product();
    let y = asked(|hook| hook.linear(layer, x.clone().reshape([rows, width])))?;
    shape[D - 1] = y.dims()[1];
    Some(y.reshape(shape))
}

/// What the hook makes of a convolution.
pub(crate) fn conv2d(layer: &Conv2d, x: &Tensor<4>) -> Option<Tensor<4>> {
    match is_hooked() {
        true => asked(|hook| hook.conv2d(layer, x.clone())),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::Device;

    use super::*;
    use crate::convolution::conv2d_relu;

    /// Counts what it sees, and turns the sign of convolutions.
    #[derive(Default)]
    struct Seen {
        linear: Vec<[usize; 2]>,
        conv2d: usize,
    }

    impl LayerHook for Seen {
        fn linear(&mut self, layer: &Linear, x: Tensor<2>) -> Option<Tensor<2>> {
            self.linear.push(x.dims());
            // Computed here, it must not be seen again.
            Some(crate::linear::linear(layer, x))
        }

        fn conv2d(&mut self, layer: &Conv2d, x: Tensor<4>) -> Option<Tensor<4>> {
            self.conv2d += 1;
            Some(crate::convolution::conv2d(layer, x).neg())
        }
    }

    #[test]
    fn layers_go_through_the_hook_and_only_within_it() {
        let device = Device::flex();
        let conv = Conv2dConfig::new([1, 2], [3, 3]).init(&device);
        let layer = LinearConfig::new(3, 4).init(&device);
        let picture = Tensor::<4>::ones([1, 1, 5, 5], &device);
        let plain = crate::convolution::conv2d(&conv, picture.clone());
        let sequences = Tensor::<3>::ones([2, 5, 3], &device);
        let expected = crate::linear::linear(&layer, sequences.clone());
        let seen = Rc::new(RefCell::new(Seen::default()));
        let (map, rows) = with_hook(seen.clone(), || {
            let rows = crate::linear::linear(&layer, sequences);
            (conv2d_relu(&conv, picture), rows)
        });
        let seen = seen.take();
        assert_eq!((seen.linear, seen.conv2d), (vec![[10, 3]], 1));
        // The ReLU comes after what the hook has made.
        let turned = crate::activation::relu(plain.neg());
        assert_eq!((map - turned).abs().sum().into_scalar::<f32>(), 0.0);
        assert_eq!((rows - expected).abs().sum().into_scalar::<f32>(), 0.0);
        assert!(!is_hooked());
    }

    #[test]
    fn a_network_that_panics_leaves_no_hook() {
        let panicked = std::panic::catch_unwind(|| {
            let hook = Rc::new(RefCell::new(Seen::default()));
            with_hook(hook, || panic!("no"))
        });
        assert!(panicked.is_err() && !is_hooked());
    }
}
