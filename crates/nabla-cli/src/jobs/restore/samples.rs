//! Pictures, volumes and measurements in files, as numbers.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use nabla::base::write_bytes_atomically;
use nabla::data::{
    BitDepth, FileFormat, KSPACE, NiftiVolume, NpyArray, NpyValues, Picture, Raster, WriteOptions,
    read_hdf5,
};
use nabla::diffusion::restore::CoilMaps;

use crate::errors::Failure;

/// Slices of a picture, a volume, or a measurement.
#[derive(Clone)]
pub struct Samples {
    /// `[slices, channels, height, width]`; a complex number has two channels.
    pub shape: [usize; 4],
    /// In the unit of the file: 0 to 1 in a picture.
    pub values: Vec<f32>,
    /// Whether the file has complex numbers.
    pub complex: bool,
    pub origin: Origin,
}

/// The kind of the file, with what a file of the same kind needs besides the values.
#[derive(Clone)]
pub enum Origin {
    Picture(Box<Picture>),
    Npy,
    Nifti(Box<NiftiVolume>),
}

/// What the first of three indices of complex numbers counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum First {
    Slices,
    Coils,
}

fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    extension.to_ascii_lowercase()
}

/// Whether a file is one of arrays: NumPy's or HDF5.
fn has_arrays(path: &Path) -> bool {
    matches!(extension(path).as_str(), "npy" | "h5" | "hdf5")
}

/// NumPy's array, or the k-space of an HDF5 file.
fn read_array(path: &Path) -> Result<NpyArray, Failure> {
    match extension(path).as_str() {
        "npy" => NpyArray::read(path).map_err(Failure::input),
        _ => read_hdf5(path, KSPACE).map_err(Failure::input),
    }
}

/// Real parts, then imaginary parts, of each plane.
fn planes(values: &[[f64; 2]], pixels: usize) -> Vec<f32> {
    let plane = |plane: &[[f64; 2]]| {
        let parts = [0, 1].map(|part| plane.iter().map(move |z| z[part] as f32));
        parts.into_iter().flatten().collect::<Vec<f32>>()
    };
    values.chunks(pixels.max(1)).flat_map(plane).collect()
}

impl Samples {
    /// Reads a picture, `.npy`, the k-space of an HDF5 file, or NIfTI.
    pub fn read(path: &Path, first: First) -> Result<Self, Failure> {
        if NiftiVolume::is_path(path) {
            let mut volume = NiftiVolume::read(path).map_err(Failure::input)?;
            let [slices, height, width] = volume.shape;
            return Ok(Self {
                shape: [slices, 1, height, width],
                values: std::mem::take(&mut volume.values),
                complex: false,
                origin: Origin::Nifti(Box::new(volume)),
            });
        }
        if !has_arrays(path) {
            let picture = Picture::read(path)?;
            let [channels, height, width] = picture.raster.shape();
            return Ok(Self {
                shape: [1, channels, height, width],
                values: picture.raster.data().to_vec(),
                complex: false,
                origin: Origin::Picture(Box::new(picture)),
            });
        }
        let array = read_array(path)?;
        let shape = match (array.shape.as_slice(), &array.values) {
            (&[h, w], _) => [1, 1, h, w],
            (&[n, h, w], NpyValues::Complex(_)) if first == First::Coils => [1, n, h, w],
            (&[n, h, w], _) => [n, 1, h, w],
            (&[n, c, h, w], _) => [n, c, h, w],
            (other, _) => {
                return Err(Failure::input(format!(
                    "{} has the shape {other:?}, but must have 2 to 4 dimensions, of which the last two are height \
                     and width",
                    path.display()
                )));
            }
        };
        if shape.contains(&0) {
            return Err(Failure::input(format!(
                "{} has the shape {:?}, and so no values",
                path.display(),
                array.shape
            )));
        }
        let [slices, channels, height, width] = shape;
        let complex = matches!(array.values, NpyValues::Complex(_));
        let (channels, values) = match array.values {
            NpyValues::Real(values) => (channels, values.iter().map(|v| *v as f32).collect()),
            NpyValues::Complex(values) => (2 * channels, planes(&values, height * width)),
        };
        Ok(Self {
            shape: [slices, channels, height, width],
            values,
            complex,
            origin: Origin::Npy,
        })
    }

    /// Refuses values that are not numbers.
    pub fn checked(self, path: &Path) -> Result<Self, Failure> {
        match self.values.iter().all(|value| value.is_finite()) {
            true => Ok(self),
            false => Err(Failure::input(format!(
                "{} has a value that is not a finite number",
                path.display()
            ))),
        }
    }

    /// The same values in other slices and channels.
    pub fn reshaped(self, shape: [usize; 4]) -> Self {
        Self { shape, ..self }
    }

    /// `[height, width]`.
    pub fn sides(&self) -> [usize; 2] {
        [self.shape[2], self.shape[3]]
    }

    pub fn tensor(&self, device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(self.values.clone(), self.shape), device)
    }

    /// With the values of a tensor.
    pub fn of(tensor: &Tensor<4>, origin: Origin) -> Result<Self, Failure> {
        let values = tensor.clone().without_autodiff().try_into_vec_as::<f32>();
        Ok(Self {
            shape: tensor.dims(),
            values: values.map_err(Failure::run)?,
            complex: false,
            origin,
        })
    }

    /// All slices and channels as one raster, from 0 to 1 between `low` and `high`; for metrics.
    pub fn raster(&self, [low, high]: [f64; 2]) -> Result<Raster, Failure> {
        let [slices, channels, height, width] = self.shape;
        let value = |v: &f32| ((f64::from(*v) - low) / (high - low)).clamp(0.0, 1.0) as f32;
        let values = self.values.iter().map(value).collect();
        Raster::new(slices * channels, height, width, values).map_err(Failure::run)
    }

    /// Grey: the means of the channels.
    pub fn mean_of_channels(self) -> Self {
        let [slices, channels, height, width] = self.shape;
        let pixels = height * width;
        let mean = |slice: &[f32], i: usize| {
            slice.iter().skip(i).step_by(pixels).sum::<f32>() / channels as f32
        };
        let each = self.values.chunks_exact(channels * pixels);
        let values = each.flat_map(|slice| (0..pixels).map(move |i| mean(slice, i)));
        Self {
            shape: [slices, 1, height, width],
            values: values.collect(),
            complex: false,
            origin: self.origin.clone(),
        }
    }

    /// The absolute values of complex numbers.
    pub fn magnitude(&self) -> Self {
        let [slices, channels, height, width] = self.shape;
        let pixels = height * width;
        let both = self.values.chunks_exact(2 * pixels);
        let values = both.flat_map(|both| {
            let (real, imaginary) = both.split_at(pixels);
            real.iter().zip(imaginary).map(|(re, im)| re.hypot(*im))
        });
        Self {
            shape: [slices, channels / 2, height, width],
            values: values.collect(),
            complex: false,
            origin: self.origin.clone(),
        }
    }
}

/// Where the result goes.
pub enum Target {
    Picture(PathBuf),
    Npy(PathBuf),
    Nifti(PathBuf),
}

impl Target {
    /// Judging by the extension.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        if NiftiVolume::is_path(path) {
            return Ok(Self::Nifti(path.to_owned()));
        }
        if extension(path) == "npy" {
            return Ok(Self::Npy(path.to_owned()));
        }
        match FileFormat::from_path(path) {
            Some(format) if FileFormat::WRITABLE.contains(&format) => {
                Ok(Self::Picture(path.to_owned()))
            }
            _ => Err(Failure::input(format!(
                "{} is not the name of a picture (.png, .jpg …), a NumPy array (.npy) or a volume (.nii, .nii.gz)",
                path.display()
            ))),
        }
    }

    /// Refuses what a file of this kind cannot hold.
    ///
    /// - `complex`: whether two channels are a complex number
    pub fn check(&self, [slices, channels, ..]: [usize; 4], complex: bool) -> Result<(), Failure> {
        let told = |path: &Path, what: String| {
            Err(Failure::input(format!(
                "{} cannot hold {what}: write a NumPy array (.npy)",
                path.display()
            )))
        };
        let channels = if complex { channels / 2 } else { channels };
        match self {
            Self::Picture(path) if slices > 1 => told(path, format!("{slices} slices")),
            Self::Picture(path) if channels != 1 && channels != 3 => {
                told(path, format!("{channels} channels"))
            }
            Self::Nifti(path) if channels != 1 => told(path, format!("{channels} channels")),
            _ => Ok(()),
        }
    }

    /// Writes the samples.
    ///
    /// - `range`: what is black and white in a picture
    pub fn write(
        &self,
        samples: &Samples,
        complex: bool,
        range: [f64; 2],
        text: Option<String>,
    ) -> Result<(), Failure> {
        let [slices, channels, height, width] = samples.shape;
        match self {
            Self::Npy(path) => {
                let reals = samples.values.iter().map(|v| f64::from(*v));
                let (shape, values) = match complex {
                    false => (
                        [slices, channels, height, width],
                        NpyValues::Real(reals.collect()),
                    ),
                    true => {
                        let shape = [slices, channels / 2, height, width];
                        (shape, NpyValues::Complex(pairs(samples)))
                    }
                };
                // A slice or a channel alone is no dimension.
                let leading = shape[..2].iter().filter(|n| **n > 1);
                let shape = leading.chain(&shape[2..]).copied().collect();
                let bytes = NpyArray { shape, values }.encode();
                Ok(write_bytes_atomically(path, &bytes)?)
            }
            Self::Nifti(path) => {
                let samples = if complex {
                    samples.magnitude()
                } else {
                    samples.clone()
                };
                let shape = [slices, height, width];
                let volume = match &samples.origin {
                    Origin::Nifti(volume) => volume.with_values(shape, samples.values),
                    _ => NiftiVolume::new(shape, samples.values),
                };
                let bytes = volume.encode_for(path).map_err(Failure::run)?;
                Ok(write_bytes_atomically(path, &bytes)?)
            }
            Self::Picture(path) => {
                let samples = if complex {
                    samples.magnitude()
                } else {
                    samples.clone()
                };
                let raster = samples.raster(range)?;
                let mut picture = match samples.origin {
                    // Its profile and its description, if the pixels are the same.
                    Origin::Picture(of) if of.raster.shape() == raster.shape() => Picture {
                        raster,
                        gain_map: None,
                        ..*of
                    },
                    Origin::Picture(of) => Picture::new(raster, of.bit_depth),
                    _ => Picture::new(raster, BitDepth::Eight),
                };
                let png = FileFormat::from_path(path) == Some(FileFormat::Png);
                if let Some(text) = text.filter(|_| png) {
                    picture.metadata.texts = vec![("parameters".to_owned(), text)];
                }
                Ok(picture.write(path, &WriteOptions::default())?)
            }
        }
    }
}

/// The complex numbers of samples.
fn pairs(samples: &Samples) -> Vec<[f64; 2]> {
    let pixels = samples.sides().iter().product::<usize>();
    let planes = samples.values.chunks_exact(2 * pixels);
    let pairs = planes.flat_map(|both| {
        let (real, imaginary) = both.split_at(pixels);
        let both = real.iter().zip(imaginary);
        both.map(|(re, im)| [f64::from(*re), f64::from(*im)])
    });
    pairs.collect()
}

/// A mask or a kernel: `[height, width]` and the mean of the channels of a picture, or an array.
pub fn read_plane(path: &Path) -> Result<([usize; 2], Vec<f64>), Failure> {
    let samples = Samples::read(path, First::Slices)?.checked(path)?;
    let [slices, channels, height, width] = samples.shape;
    if slices > 1 || (channels != 1 && !matches!(samples.origin, Origin::Picture(_))) {
        return Err(Failure::input(format!(
            "{} has {slices} slice(s) of {channels} channel(s), but must be one plane",
            path.display()
        )));
    }
    let pixels = height * width;
    let mean = |i: usize| {
        let of_pixel = samples.values.iter().skip(i).step_by(pixels);
        of_pixel.map(|v| f64::from(*v)).sum::<f64>() / channels as f64
    };
    Ok(([height, width], (0..pixels).map(mean).collect()))
}

/// Coil maps: complex numbers, `[coils, height, width]`.
pub fn read_coil_maps(path: &Path) -> Result<CoilMaps, Failure> {
    let array = read_array(path)?;
    match (array.shape.as_slice(), array.values) {
        (&[_, height, width], NpyValues::Complex(values)) => {
            CoilMaps::new(values, [height, width]).map_err(Failure::input)
        }
        (shape, values) => Err(Failure::input(format!(
            "{} has {} numbers of the shape {shape:?}, but coil maps are complex numbers for [coils, height, width]",
            path.display(),
            match values {
                NpyValues::Real(_) => "real",
                NpyValues::Complex(_) => "complex",
            }
        ))),
    }
}
