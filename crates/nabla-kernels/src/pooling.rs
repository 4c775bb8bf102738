//! Maximum and average pooling, forward and backward.

use burn::nn::pool::{
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig, AdaptiveAvgPool3d, AvgPool1d,
    AvgPool2d, AvgPool2dConfig, MaxPool1d, MaxPool2d, MaxPool2dConfig,
};
use burn::nn::{PaddingConfig1d, PaddingConfig2d};
use burn::tensor::Tensor;

use crate::convolution::padding2d;
use crate::elementwise::{for_each_row, sums};
use crate::linear_pieces;
use crate::memory;
use crate::operation::{Array, Operation, Saved, compiled, computes, unary};
use crate::real::Real;

/// Computes `pool`. A `ceil_mode` is computed by Burn.
///
/// - `x`: `[batch, channels, height_in, width_in]`
/// - returns `[batch, channels, height_out, width_out]`
///
/// # Panics
/// Like `pool.forward`, if the window is larger than the picture.
pub fn max_pool2d(pool: &MaxPool2d, x: Tensor<4>) -> Tensor<4> {
    if linear_pieces::is_held()
        && let Some(y) = linear_pieces::max_pool2d(pool, &x)
    {
        return y;
    }
    let windows = Windows::new(
        &x,
        &pool.padding,
        pool.kernel_size,
        pool.stride,
        pool.dilation,
    );
    match windows {
        Some(windows) if !pool.ceil_mode && computes(&x) => unary(Max(windows), x),
        _ => pool.forward(x),
    }
}

/// Computes `pool`. A `ceil_mode` is computed by Burn.
///
/// - `x`: `[batch, channels, height_in, width_in]`
/// - returns `[batch, channels, height_out, width_out]`
///
/// # Panics
/// Like `pool.forward`, if the window is larger than the picture.
pub fn avg_pool2d(pool: &AvgPool2d, x: Tensor<4>) -> Tensor<4> {
    let windows = Windows::new(&x, &pool.padding, pool.kernel_size, pool.stride, [1, 1]);
    match windows {
        Some(windows) if !pool.ceil_mode && computes(&x) => {
            let with_padding = pool.count_include_pad;
            unary(
                Average {
                    windows,
                    with_padding,
                },
                x,
            )
        }
        _ => pool.forward(x),
    }
}

/// Computes `pool`. If the output doesn't divide the picture evenly, Burn computes it.
///
/// - `x`: `[batch, channels, height_in, width_in]`
/// - returns `[batch, channels, height_out, width_out]`
pub fn adaptive_avg_pool2d(pool: &AdaptiveAvgPool2d, x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let outputs = pool.output_size;
    let alike = !outputs.contains(&0)
        && height.is_multiple_of(outputs[0])
        && width.is_multiple_of(outputs[1]);
    if !alike || !computes(&x) || x.dims().contains(&0) {
        return pool.forward(x);
    }
    let kernel = [height / outputs[0], width / outputs[1]];
    let windows = Windows {
        input: [height, width],
        outputs,
        kernel,
        stride: kernel,
        dilation: [1, 1],
        padding: [0, 0],
    };
    let operation = Average {
        windows,
        with_padding: false,
    };
    unary(operation, x)
}

/// Computes `pool`. A `ceil_mode` is computed by Burn.
///
/// - `x`: `[batch, channels, length_in]`
/// - returns `[batch, channels, length_out]`
///
/// # Panics
/// Like `pool.forward`, if the window is longer than the input.
pub fn max_pool1d(pool: &MaxPool1d, x: Tensor<3>) -> Tensor<3> {
    let of_rows = MaxPool2dConfig::new([1, pool.kernel_size])
        .with_strides([1, pool.stride])
        .with_padding(along_rows(&pool.padding))
        .with_dilation([1, pool.dilation])
        .with_ceil_mode(pool.ceil_mode);
    one_row(max_pool2d(&of_rows.init(), row(x)))
}

/// Computes `pool`. A `ceil_mode` is computed by Burn.
///
/// - `x`: `[batch, channels, length_in]`
/// - returns `[batch, channels, length_out]`
///
/// # Panics
/// Like `pool.forward`, if the window is longer than the input.
pub fn avg_pool1d(pool: &AvgPool1d, x: Tensor<3>) -> Tensor<3> {
    let of_rows = AvgPool2dConfig::new([1, pool.kernel_size])
        .with_strides([1, pool.stride])
        .with_padding(along_rows(&pool.padding))
        .with_count_include_pad(pool.count_include_pad)
        .with_ceil_mode(pool.ceil_mode);
    one_row(avg_pool2d(&of_rows.init(), row(x)))
}

/// Computes `pool`. If the output doesn't divide the input evenly, Burn computes it.
///
/// - `x`: `[batch, channels, length_in]`
/// - returns `[batch, channels, length_out]`
pub fn adaptive_avg_pool1d(pool: &AdaptiveAvgPool1d, x: Tensor<3>) -> Tensor<3> {
    let of_rows = AdaptiveAvgPool2dConfig::new([1, pool.output_size]);
    one_row(adaptive_avg_pool2d(&of_rows.init(), row(x)))
}

/// Computes `pool`, first within each plane, then along the depth. If the output doesn't divide the volume evenly, Burn
/// computes it.
///
/// - `x`: `[batch, channels, depth_in, height_in, width_in]`
/// - returns `[batch, channels, depth_out, height_out, width_out]`
pub fn adaptive_avg_pool3d(pool: &AdaptiveAvgPool3d, x: Tensor<5>) -> Tensor<5> {
    let [batch, channels, depth, height, width] = x.dims();
    let [deep, high, wide] = pool.output_size;
    let alike = [(depth, deep), (height, high), (width, wide)]
        .iter()
        .all(|&(size, output)| output > 0 && size.is_multiple_of(output));
    if !alike || !computes(&x) || x.dims().contains(&0) {
        return pool.forward(x);
    }
    let average = |x: Tensor<4>, outputs| {
        let pool = AdaptiveAvgPool2dConfig::new(outputs).init();
        adaptive_avg_pool2d(&pool, x)
    };
    let planes = x.reshape([batch, channels * depth, height, width]);
    let columns = average(planes, [high, wide]).reshape([batch, channels, depth, high * wide]);
    average(columns, [deep, high * wide]).reshape([batch, channels, deep, high, wide])
}

/// A sequence as a picture of one row.
fn row(x: Tensor<3>) -> Tensor<4> {
    x.unsqueeze_dim(2)
}

/// The padding of sequences, of pictures of one row.
fn along_rows(padding: &PaddingConfig1d) -> PaddingConfig2d {
    match *padding {
        PaddingConfig1d::Valid => PaddingConfig2d::Valid,
        PaddingConfig1d::Same => PaddingConfig2d::Same,
        PaddingConfig1d::Explicit(before, after) => PaddingConfig2d::Explicit(0, before, 0, after),
    }
}

fn one_row(x: Tensor<4>) -> Tensor<3> {
    x.squeeze_dim(2)
}

/// Where the windows of a pooling lie.
#[derive(Clone, Copy, Debug)]
struct Windows {
    input: [usize; 2],
    outputs: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Positions before the first.
    padding: [usize; 2],
}

impl Windows {
    /// None if there is no window.
    fn new(
        x: &Tensor<4>,
        padding: &PaddingConfig2d,
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
    ) -> Option<Self> {
        let [_, _, height, width] = x.dims();
        let input = [height, width];
        let pairs = padding2d(padding, kernel, stride, input);
        if kernel.contains(&0) || stride.contains(&0) || x.dims().contains(&0) {
            return None;
        }
        let mut outputs = [0; 2];
        for d in 0..2 {
            let (before, after) = pairs[d];
            let reach = dilation[d] * (kernel[d] - 1) + 1;
            outputs[d] = (input[d] + before + after).checked_sub(reach)? / stride[d] + 1;
        }
        Some(Self {
            input,
            outputs,
            kernel,
            stride,
            dilation,
            padding: pairs.map(|(before, _)| before),
        })
    }

    fn area(&self) -> usize {
        self.input.iter().product()
    }

    fn shape(&self, x: &[usize]) -> Vec<usize> {
        vec![x[0], x[1], self.outputs[0], self.outputs[1]]
    }

    /// Calls `visit(output, input)` for each output, window by window, and each input of its window.
    #[inline(always)]
    fn each(&self, mut visit: impl FnMut(usize, usize)) {
        for i in 0..self.outputs[0] {
            for j in 0..self.outputs[1] {
                for a in 0..self.kernel[0] {
                    let row = i * self.stride[0] + a * self.dilation[0];
                    let Some(row) = row
                        .checked_sub(self.padding[0])
                        .filter(|&r| r < self.input[0])
                    else {
                        continue;
                    };
                    for b in 0..self.kernel[1] {
                        let column = j * self.stride[1] + b * self.dilation[1];
                        let column = column.checked_sub(self.padding[1]);
                        if let Some(column) = column.filter(|&c| c < self.input[1]) {
                            visit(i * self.outputs[1] + j, row * self.input[1] + column);
                        }
                    }
                }
            }
        }
    }

    /// Whether windows of 2 x 2 lie side by side.
    fn is_halving(&self) -> bool {
        self.kernel == [2, 2]
            && self.stride == [2, 2]
            && self.dilation == [1, 1]
            && self.padding == [0, 0]
            && self
                .outputs
                .iter()
                .zip(self.input)
                .all(|(&o, i)| 2 * o <= i)
    }
}

/// The position of no maximum.
const NONE: u32 = u32::MAX;

/// Maximum pooling.
#[derive(Clone, Copy, Debug)]
struct Max(Windows);

compiled!(Max: 1);

impl Operation<1> for Max {
    /// The position of each maximum in its plane.
    type Kept = Vec<u32>;

    fn reads(&self) -> [bool; 1] {
        [false]
    }

    fn forward<F: Real>(&self, [x]: [Array<F>; 1], tracked: bool) -> (Array<F>, Vec<u32>) {
        let windows = &self.0;
        let shape = windows.shape(&x.shape());
        let (area, outputs) = (windows.area(), windows.outputs[0] * windows.outputs[1]);
        let x = x.values();
        let mut y = memory::room(shape.iter().product());
        y.fill(F::of(f64::NEG_INFINITY));
        let places = for_each_row(
            &mut y,
            outputs,
            #[inline(always)]
            |plane, y| {
                let x = &x[plane * area..(plane + 1) * area];
                let mut places = vec![NONE; if tracked { outputs } else { 0 }];
                if windows.is_halving() {
                    let (width, half) = (windows.input[1], windows.outputs[1]);
                    for (i, y) in y.chunks_exact_mut(half).enumerate() {
                        let upper = &x[2 * i * width..][..width];
                        let lower = &x[(2 * i + 1) * width..][..width];
                        let pairs = upper
                            .as_chunks::<2>()
                            .0
                            .iter()
                            .zip(lower.as_chunks::<2>().0);
                        for (j, (y, (upper, lower))) in y.iter_mut().zip(pairs).enumerate() {
                            let mut best = upper[0];
                            let mut place = 2 * i * width + 2 * j;
                            for (value, at) in [
                                (upper[1], place + 1),
                                (lower[0], place + width),
                                (lower[1], place + width + 1),
                            ] {
                                if value > best || value.is_not_a_number() {
                                    (best, place) = (value, at);
                                }
                            }
                            *y = best;
                            if tracked {
                                places[i * half + j] = place as u32;
                            }
                        }
                    }
                } else {
                    let mut last = usize::MAX;
                    windows.each(|output, input| {
                        let value = x[input];
                        if output != last || value > y[output] || value.is_not_a_number() {
                            y[output] = value;
                            if tracked {
                                places[output] = input as u32;
                            }
                        }
                        last = output;
                    });
                }
                places
            },
        );
        (Array::new(y, &shape), places.concat())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Vec<u32>, 1>) -> [Option<Array<F>>; 1] {
        let Saved { kept, grad, .. } = saved;
        let shape = grad.shape();
        let outputs = self.0.outputs[0] * self.0.outputs[1];
        let grad = grad.values();
        let mut dx = memory::zeros(shape[0] * shape[1] * self.0.area());
        for_each_row(&mut dx, self.0.area(), |plane, dx| {
            let range = plane * outputs..(plane + 1) * outputs;
            for (&place, &grad) in kept[range.clone()].iter().zip(&grad[range]) {
                // A window in the padding alone has no maximum.
                if let Some(dx) = dx.get_mut(place as usize) {
                    *dx += grad;
                }
            }
        });
        let [height, width] = self.0.input;
        [Some(Array::new(dx, &[shape[0], shape[1], height, width]))]
    }
}

/// Average pooling.
#[derive(Clone, Copy, Debug)]
struct Average {
    windows: Windows,
    /// Whether positions before the first and after the last count.
    with_padding: bool,
}

impl Average {
    /// One over the number of positions that count, of each output.
    fn factors<F: Real>(&self) -> Vec<F> {
        let windows = &self.windows;
        let outputs = windows.outputs[0] * windows.outputs[1];
        if self.with_padding {
            let size = windows.kernel[0] * windows.kernel[1];
            return vec![F::of(1.0 / size as f64); outputs];
        }
        let mut counts = vec![0.0; outputs];
        windows.each(|output, _| counts[output] += 1.0);
        counts
            .into_iter()
            .map(|count: f64| F::of(1.0 / count.max(1.0)))
            .collect()
    }

    /// Whether there is one window, the whole plane.
    fn is_global(&self) -> bool {
        let Windows {
            input,
            outputs,
            kernel,
            padding,
            ..
        } = self.windows;
        outputs == [1, 1] && kernel == input && padding == [0, 0]
    }
}

compiled!(Average: 1);

impl Operation<1> for Average {
    type Kept = ();

    fn reads(&self) -> [bool; 1] {
        [false]
    }

    fn forward<F: Real>(&self, [x]: [Array<F>; 1], _: bool) -> (Array<F>, ()) {
        let windows = &self.windows;
        let shape = windows.shape(&x.shape());
        let (area, outputs) = (windows.area(), windows.outputs[0] * windows.outputs[1]);
        let factors = self.factors::<F>();
        let x = x.values();
        let mut y = memory::zeros(shape.iter().product());
        for_each_row(
            &mut y,
            outputs,
            #[inline(always)]
            |plane, y| {
                let x = &x[plane * area..(plane + 1) * area];
                if self.is_global() {
                    let [sum] = sums(
                        [x],
                        #[inline(always)]
                        |[x]| [x],
                    );
                    y[0] = F::of(sum);
                } else {
                    windows.each(|output, input| y[output] += x[input]);
                }
                for (y, &factor) in y.iter_mut().zip(&factors) {
                    *y *= factor;
                }
            },
        );
        (Array::new(y, &shape), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 1>) -> [Option<Array<F>>; 1] {
        let windows = &self.windows;
        let shape = saved.grad.shape();
        let grad = saved.grad.values();
        let factors = self.factors::<F>();
        let outputs = factors.len();
        let mut dx = memory::zeros(shape[0] * shape[1] * windows.area());
        for_each_row(
            &mut dx,
            windows.area(),
            #[inline(always)]
            |plane, dx| {
                let grad = &grad[plane * outputs..(plane + 1) * outputs];
                windows.each(|output, input| dx[input] += grad[output] * factors[output]);
            },
        );
        let [height, width] = windows.input;
        [Some(Array::new(dx, &[shape[0], shape[1], height, width]))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::pool::{
        AdaptiveAvgPool1dConfig, AdaptiveAvgPool3dConfig, AvgPool1dConfig, MaxPool1dConfig,
    };
    use burn::tensor::{Device, Distribution, Tolerance};
    use proptest::prelude::*;

    fn check<const D: usize>(x: &Tensor<D>, found: Tensor<D>, burns: Tensor<D>) {
        let near = Tolerance::<f32>::absolute(1e-5);
        found.to_data().assert_approx_eq(&burns.to_data(), near);
        let weights = Tensor::random(found.dims(), Distribution::Default, &x.device());
        let expected = x.grad(&(burns * weights.clone()).sum().backward()).unwrap();
        let grad = x.grad(&(found * weights).sum().backward()).unwrap();
        grad.into_data()
            .assert_approx_eq(&expected.into_data(), near);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn windows_are_burns(
            size in (1_usize..12, 1_usize..12), kernel in (1_usize..4, 1_usize..4), stride in (1_usize..4, 1_usize..4),
            dilation in 1_usize..3, padded: bool, counted: bool,
        ) {
            let device = Device::flex().autodiff();
            let reach = |k: usize| dilation * (k - 1);
            prop_assume!(size.0 > reach(kernel.0) && size.1 > reach(kernel.1));
            let padding = if padded && kernel.0 > 1 && kernel.1 > 1 { PaddingConfig2d::Explicit(1, 1, 1, 1) } else { PaddingConfig2d::Valid };
            let x = Tensor::<4>::random([2, 3, size.0, size.1], Distribution::Normal(0.0, 1.0), &device).require_grad();
            let pool = MaxPool2dConfig::new([kernel.0, kernel.1]).with_strides([stride.0, stride.1])
                .with_dilation([dilation, dilation]).with_padding(padding.clone()).init();
            check(&x, max_pool2d(&pool, x.clone()), pool.forward(x.clone()));
            let pool = AvgPool2dConfig::new([kernel.0, kernel.1]).with_strides([stride.0, stride.1])
                .with_padding(padding).with_count_include_pad(counted).init();
            check(&x, avg_pool2d(&pool, x.clone()), pool.forward(x.clone()));
        }

        #[test]
        fn windows_along_sequences_are_burns(
            length in 1_usize..12, kernel in 1_usize..4, stride in 1_usize..4, dilation in 1_usize..3, before in 0_usize..2,
            counted: bool, outputs in 1_usize..4,
        ) {
            let device = Device::flex().autodiff();
            prop_assume!(length > dilation * (kernel - 1));
            let padding = PaddingConfig1d::Explicit(before.min(kernel / 2), before.min(kernel / 2));
            let x = Tensor::<3>::random([2, 3, length], Distribution::Normal(0.0, 1.0), &device).require_grad();
            let pool = MaxPool1dConfig::new(kernel).with_stride(stride).with_dilation(dilation)
                .with_padding(padding.clone()).init();
            check(&x, max_pool1d(&pool, x.clone()), pool.forward(x.clone()));
            let pool = AvgPool1dConfig::new(kernel).with_stride(stride).with_padding(padding)
                .with_count_include_pad(counted).init();
            check(&x, avg_pool1d(&pool, x.clone()), pool.forward(x.clone()));
            let pool = AdaptiveAvgPool1dConfig::new(outputs).init();
            check(&x, adaptive_avg_pool1d(&pool, x.clone()), pool.forward(x.clone()));
        }
    }

    #[test]
    fn averages_of_planes_are_burns() {
        let device = Device::flex().autodiff();
        for (size, outputs) in [([4, 6], [1, 1]), ([4, 6], [2, 3]), ([5, 7], [2, 3])] {
            let x = Tensor::<4>::random([2, 3, size[0], size[1]], Distribution::Default, &device);
            let x = x.require_grad();
            let pool = AdaptiveAvgPool2dConfig::new(outputs).init();
            check(
                &x,
                adaptive_avg_pool2d(&pool, x.clone()),
                pool.forward(x.clone()),
            );
        }
    }

    #[test]
    fn averages_of_volumes_are_burns() {
        let device = Device::flex().autodiff();
        for (size, outputs) in [
            ([4, 6, 2], [1, 1, 1]),
            ([4, 6, 2], [2, 3, 2]),
            ([6, 4, 5], [3, 4, 1]),
            ([5, 4, 6], [2, 2, 2]),
        ] {
            let [depth, height, width] = size;
            let x =
                Tensor::<5>::random([2, 3, depth, height, width], Distribution::Default, &device);
            let x = x.require_grad();
            let pool = AdaptiveAvgPool3dConfig::new(outputs).init();
            check(
                &x,
                adaptive_avg_pool3d(&pool, x.clone()),
                pool.forward(x.clone()),
            );
        }
    }

    /// One window of the picture's size that begins in the padding.
    #[test]
    fn a_window_of_the_size_of_the_picture_is_not_always_the_picture() {
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::from_floats([[[[1.0, 3.0], [5.0, 7.0]]]], &device).require_grad();
        let pool = AvgPool2dConfig::new([2, 2]).with_strides([3, 3]);
        let pool = pool.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        let pool = pool.with_count_include_pad(false).init();
        let y = avg_pool2d(&pool, x.clone());
        assert_eq!(y.to_data().try_to_vec::<f32>().unwrap()[0], 1.0);
        check(&x, y, pool.forward(x.clone()));
    }

    #[test]
    fn a_window_in_the_padding_has_no_gradient() {
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::ones([1, 1, 2, 2], &device).require_grad();
        let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let pool = MaxPool2dConfig::new([1, 1]).with_padding(padding).init();
        let grads = max_pool2d(&pool, x.clone()).sum().backward();
        let grad: Vec<f32> = x.grad(&grads).unwrap().into_data().iter().collect();
        assert_eq!(grad, [1.0; 4]);
    }

    #[test]
    fn nan_is_the_maximum_of_its_window() {
        let x = Tensor::<4>::from_floats([[[[1.0, f32::NAN], [3.0, 2.0]]]], &Device::flex());
        let pool = MaxPool2dConfig::new([2, 2]).init();
        let y = max_pool2d(&pool, x).into_data();
        assert!(y.iter::<f32>().all(f32::is_nan));
    }
}
