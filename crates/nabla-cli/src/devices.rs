//! The devices that `--device` names, and the check that a device works.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use nabla::diffusion::stable_diffusion::weights::Precision;
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
    /// 10⁹ floating-point operations per second in products of 512 x 512 `f32` matrices.
    pub matmul_gflops: f64,
    /// The same for a 3 x 3 convolution of 32 channels on 128 x 128 pixels.
    pub convolution_gflops: f64,
}

/// Multiplies small matrices and convolves a small picture on `device`, and compares the results with
/// integer arithmetic; then measures the speed of both for half a second each.
pub fn self_check(device: &Device) -> Result<SelfCheck, String> {
    let begun = Instant::now();
    arithmetic(device)?;
    let first_result_seconds = begun.elapsed().as_secs_f64();
    caught(|| {
        let matrix = Tensor::<2>::ones([512, 512], device);
        let matmul = repeat(2.0 * 512f64.powi(3), || {
            matrix
                .clone()
                .matmul(matrix.clone())
                .sum()
                .into_scalar::<f32>();
        });
        let picture = Tensor::<4>::ones([1, 32, 128, 128], device);
        let weight = Tensor::<4>::ones([32, 32, 3, 3], device);
        let work = 2.0 * 32.0 * 32.0 * 9.0 * 128.0 * 128.0;
        let convolution = repeat(work, || {
            conv2d(picture.clone(), weight.clone(), None, same())
                .sum()
                .into_scalar::<f32>();
        });
        SelfCheck {
            first_result_seconds,
            matmul_gflops: matmul,
            convolution_gflops: convolution,
        }
    })
}

/// 10⁹ operations per second of a function that does `work` operations.
fn repeat(work: f64, mut f: impl FnMut()) -> f64 {
    f();
    let begun = Instant::now();
    let mut times = 0.0;
    while begun.elapsed() < Duration::from_millis(500) {
        f();
        times += 1.0;
    }
    work * times / begun.elapsed().as_secs_f64() / 1e9
}

fn same() -> ConvOptions<2> {
    ConvOptions::new([1, 1], [1, 1], [1, 1], 1)
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

/// Compares a product of matrices and a convolution with the exact results, which are whole numbers.
fn arithmetic(device: &Device) -> Result<(), String> {
    const N: usize = 48;
    const IN: usize = 3;
    const OUT: usize = 4;
    const SIDE: usize = 12;
    let (product, convolved) = caught(|| {
        let matrix = TensorData::new(numbers(N * N), [N, N]);
        let matrix = Tensor::<2>::from_data(matrix, device);
        let product = matrix.clone().matmul(matrix);
        let picture = TensorData::new(numbers(IN * SIDE * SIDE), [1, IN, SIDE, SIDE]);
        let weight = TensorData::new(numbers(OUT * IN * 9), [OUT, IN, 3, 3]);
        let convolved = conv2d(
            Tensor::<4>::from_data(picture, device),
            Tensor::<4>::from_data(weight, device),
            None,
            same(),
        );
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
    compare("a product of matrices", product, exact_product)?;
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
