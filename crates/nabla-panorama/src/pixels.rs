//! The conversion between pictures and the networks' tensors.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_data::Raster;

/// Converts pictures of the same shape `[channels, height, width]` in `[0, 1]` to
/// `[pictures, channels, height, width]` in `[−1, 1]`.
///
/// # Panics
/// If the pictures differ in shape.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_data::Raster;
/// use nabla_panorama::pixels::{to_rasters, to_tensor};
/// let picture = Raster::new(1, 1, 2, vec![0.25, 1.0])?;
/// let tensor = to_tensor([&picture], &Device::flex());
/// assert_eq!(tensor.dims(), [1, 1, 1, 2]);
/// assert_eq!(to_rasters(tensor), [picture]);
/// # Ok::<(), nabla_data::RasterSizeError>(())
/// ```
pub fn to_tensor<'a>(pictures: impl IntoIterator<Item = &'a Raster>, device: &Device) -> Tensor<4> {
    let (mut count, mut shape) = (0, [0; 3]);
    let mut values: Vec<f32> = Vec::new();
    for picture in pictures {
        count += 1;
        shape = picture.shape();
        values.extend(picture.data().iter().map(|v| 2.0 * v - 1.0));
    }
    let [channels, height, width] = shape;
    Tensor::from_data(
        TensorData::new(values, [count, channels, height, width]),
        device,
    )
}

/// `[pictures, channels, height, width]` in `[−1, 1]` to pictures in `[0, 1]`, not clamped.
pub fn to_rasters(pictures: Tensor<4>) -> Vec<Raster> {
    let [count, channels, height, width] = pictures.dims();
    let pictures = pictures * 0.5 + 0.5;
    (0..count)
        .map(|i| {
            let picture = pictures.clone().slice_dim(0, i..i + 1).into_data();
            let mut values = picture.iter::<f32>();
            Raster::from_fn(channels, height, width, |_, _, _| {
                values.next().unwrap_or(0.0)
            })
        })
        .collect()
}
