//! The devices that `--device` names, and the check that a device works.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use burn::module::Param;
use burn::nn::conv::Conv2dConfig;
use burn::nn::{LinearConfig, PaddingConfig2d};
use burn::tensor::{DType, Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use nabla::diffusion::stable_diffusion::weights::Precision;
use nabla::kernels::convolution::conv2d;
use nabla::kernels::linear::linear;
use serde::Serialize;

use crate::errors::{Failure, panic_message};

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// All cores of the processor
    #[default]
    Cpu,
    /// An NVIDIA GPU (built with `--features cuda`)
    Cuda,
    /// Any GPU, through Vulkan, Metal or DirectX (built with `--features wgpu`)
    Wgpu,
}

/// The flag of jobs that compute with tensors.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct DeviceFlag {
    /// Where to compute
    #[arg(long, value_enum, default_value_t)]
    device: DeviceChoice,
}

impl DeviceFlag {
    /// The chosen device.
    pub fn choice(self) -> DeviceChoice {
        self.device
    }

    /// Opens the device.
    pub fn open(self) -> Result<Device, Failure> {
        self.device.open()
    }

    /// Opens the device for a network in `precision`, which not every GPU supports.
    pub fn open_for(self, precision: Precision) -> Result<Device, Failure> {
        self.device.open_for(precision)
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        })
    }
}

impl DeviceChoice {
    /// All devices.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::Wgpu];

    /// The device, or `None` if its backend is not part of this program.
    fn built_in(self) -> Option<Device> {
        match self {
            Self::Cpu => Some(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(Device::cuda(0)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda => None,
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(not(feature = "wgpu"))]
            Self::Wgpu => None,
        }
    }

    /// Whether this program was built with the backend of the device.
    pub fn is_built_in(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// Opens the device. A GPU computes something first, because a missing driver is noticed only then.
    pub fn open(self) -> Result<Device, Failure> {
        let device = catch_unwind(|| self.built_in()).map_err(|panic| self.unusable(&*panic))?;
        let Some(device) = device else {
            return Err(Failure::input(format!(
                "this nabla was built without the device {self}: build it with '--features {self}' \
                 or use '--device cpu'"
            )));
        };
        if self != Self::Cpu {
            arithmetic(&device).map_err(|reason| {
                Failure::input(format!("the device {self} cannot be used: {reason}"))
            })?;
        }
        Ok(device)
    }

    /// Opens the device for a network in `precision`, which not every GPU supports.
    fn open_for(self, precision: Precision) -> Result<Device, Failure> {
        let device = self.open()?;
        let dtype = precision.dtype();
        if self != Self::Cpu && dtype != DType::F32 {
            caught(|| {
                let matrix = Tensor::<2>::ones([16, 16], &device).cast(dtype);
                matrix.clone().matmul(matrix).into_data()
            })
            .map_err(|_| {
                Failure::input(format!(
                    "the device {self} cannot compute in {dtype:?}: use another --precision"
                ))
            })?;
        }
        Ok(device)
    }

    fn unusable(self, panic: &(dyn std::any::Any + Send)) -> Failure {
        Failure::input(format!(
            "the device {self} cannot be used: {}",
            panic_message(panic)
        ))
    }
}

/// The measurements of a device, from a second of work.
#[derive(Debug, Serialize)]
pub struct SelfCheck {
    /// Seconds until the first result, including the start of the device.
    pub first_result_seconds: f64,
    /// 10⁹ floating-point operations per second in a linear layer of 512 x 512 weights on 512 rows of `f32`.
    pub linear_gflops: f64,
    /// The same, forward and backward.
    pub linear_training_gflops: f64,
    /// Of a 3 x 3 convolution of 32 channels on four pictures of 64 x 64 pixels.
    pub convolution_gflops: f64,
    /// The same, forward and backward.
    pub convolution_training_gflops: f64,
}

/// Computes a small linear layer and a small convolution on `device`, and compares the results with integer
/// arithmetic; then measures the speed of both for a quarter of a second in each direction.
pub fn self_check(device: &Device) -> Result<SelfCheck, String> {
    let begun = Instant::now();
    arithmetic(device)?;
    let first_result_seconds = begun.elapsed().as_secs_f64();
    caught(|| {
        let rows = |device: &Device| Tensor::<2>::ones([512, 512], device);
        let pictures = |device: &Device| Tensor::<4>::ones([4, 32, 64, 64], device);
        let of_rows = 2.0 * 512f64.powi(3);
        let of_pictures = 2.0 * 32.0 * 32.0 * 9.0 * 4.0 * 64.0 * 64.0;
        let layer = LinearConfig::new(512, 512).init(device);
        let x = rows(device);
        let linear_gflops = repeat(of_rows, || finish(linear(&layer, x.clone())));
        let layer = convolution(32, 32).init(device);
        let x = pictures(device);
        let convolution_gflops = repeat(of_pictures, || finish(conv2d(&layer, x.clone())));

        // Backward are two products of the forward one's size.
        let training = device.clone().autodiff();
        let layer = LinearConfig::new(512, 512).init(&training);
        let x = rows(&training).require_grad();
        let linear_training_gflops = repeat(3.0 * of_rows, || {
            let grads = linear(&layer, x.clone()).sum().backward();
            if let Some(grad) = layer.weight.val().grad(&grads) {
                finish(grad);
            }
        });
        let layer = convolution(32, 32).init(&training);
        let x = pictures(&training).require_grad();
        let convolution_training_gflops = repeat(3.0 * of_pictures, || {
            let grads = conv2d(&layer, x.clone()).sum().backward();
            if let Some(grad) = layer.weight.val().grad(&grads) {
                finish(grad);
            }
        });
        SelfCheck {
            first_result_seconds,
            linear_gflops,
            linear_training_gflops,
            convolution_gflops,
            convolution_training_gflops,
        }
    })
}

/// Waits for the numbers of `x`.
fn finish<const D: usize>(x: Tensor<D>) {
    let _: f32 = x.narrow(0, 0, 1).sum().into_scalar();
}

fn convolution(inputs: usize, outputs: usize) -> Conv2dConfig {
    Conv2dConfig::new([inputs, outputs], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(false)
}

/// 10⁹ operations per second of a function that does `work` operations.
fn repeat(work: f64, mut f: impl FnMut()) -> f64 {
    f();
    let begun = Instant::now();
    let mut times = 0.0;
    while begun.elapsed() < Duration::from_millis(250) {
        f();
        times += 1.0;
    }
    work * times / begun.elapsed().as_secs_f64() / 1e9
}

fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| panic_message(panic.as_ref()))
}

/// Whole numbers from −5 to 5, with no pattern that a wrong memory layout would preserve.
fn number(index: usize) -> i32 {
    (index.wrapping_mul(2_654_435_761) % 4_294_967_291 % 11) as i32 - 5
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| number(i) as f32).collect()
}

/// Compares a linear layer and a convolution with the exact results, which are whole numbers.
fn arithmetic(device: &Device) -> Result<(), String> {
    const N: usize = 48;
    const IN: usize = 3;
    const OUT: usize = 4;
    const SIDE: usize = 12;
    let (product, convolved) = caught(|| {
        let matrix = TensorData::new(numbers(N * N), [N, N]);
        let matrix = Tensor::<2>::from_data(matrix, device);
        let mut layer = LinearConfig::new(N, N).with_bias(false).init(device);
        layer.weight = Param::from_tensor(matrix.clone());
        let product = linear(&layer, matrix);
        let picture = TensorData::new(numbers(IN * SIDE * SIDE), [1, IN, SIDE, SIDE]);
        let weight = TensorData::new(numbers(OUT * IN * 9), [OUT, IN, 3, 3]);
        let mut layer = convolution(IN, OUT).init(device);
        layer.weight = Param::from_tensor(Tensor::from_data(weight, device));
        let convolved = conv2d(&layer, Tensor::from_data(picture, device));
        (
            product.into_data().try_to_vec::<f32>(),
            convolved.into_data().try_to_vec::<f32>(),
        )
    })?;
    let exact_product = (0..N * N).map(|i| {
        let (row, column) = (i / N, i % N);
        (0..N)
            .map(|k| number(row * N + k) * number(k * N + column))
            .sum()
    });
    let pixel = |c: usize, y: usize, x: usize| match (y.checked_sub(1), x.checked_sub(1)) {
        (Some(y), Some(x)) if y < SIDE && x < SIDE => number((c * SIDE + y) * SIDE + x),
        _ => 0,
    };
    let exact_convolution = (0..OUT * SIDE * SIDE).map(|i| {
        let (out, y, x) = (i / (SIDE * SIDE), i / SIDE % SIDE, i % SIDE);
        let taps = (0..IN * 9).map(|t| (t / 9, t / 3 % 3, t % 3));
        taps.map(|(c, dy, dx)| {
            number(((out * IN + c) * 3 + dy) * 3 + dx) * pixel(c, y + dy, x + dx)
        })
        .sum()
    });
    compare("a linear layer", product, exact_product)?;
    compare("a convolution", convolved, exact_convolution)
}

fn compare<E: fmt::Debug>(
    what: &str,
    found: Result<Vec<f32>, E>,
    exact: impl Iterator<Item = i32>,
) -> Result<(), String> {
    let found = found.map_err(|e| format!("{what} gave no numbers: {e:?}"))?;
    let exact: Vec<f32> = exact.map(|v| v as f32).collect();
    // Whole numbers of this size are exact in `f32`; GPUs may round products a little.
    let right = |(a, b): (&f32, &f32)| (a - b).abs() <= 0.5;
    if found.len() == exact.len() && found.iter().zip(&exact).all(right) {
        Ok(())
    } else {
        Err(format!("{what} came out wrong"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_computes_rightly_and_wrong_numbers_are_noticed() {
        let device = DeviceChoice::Cpu.open().unwrap();
        arithmetic(&device).unwrap();
        let wrong = compare::<()>("x", Ok(vec![1.0, 2.0]), [1, 3].into_iter());
        assert_eq!(wrong.unwrap_err(), "x came out wrong");
    }
}
