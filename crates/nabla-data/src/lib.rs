//! Readers and writers of real file formats, and the small data sets of the repository.
//!
//! * [`Picture`]: reads and writes PNG, JPEG, WebP, TIFF, Radiance HDR and OpenEXR, as a [`Raster`] with
//!   alpha, depth, [`Light`], [`Metadata`] and the [`GainMap`] of a JPEG. Readers never panic: any bytes give
//!   a picture or one clear error message. Files are written whole or not at all
//!   ([`nabla_base::atomic_file`]).
//! * [`PhotoSphere`]: the GPano metadata by which viewers recognise a panorama; [`Metadata::resized`] keeps
//!   it correct when a picture changes size.
//! * [`ToneCurve`]: converts linear light without an upper end to samples for a network, and back;
//!   [`tone_map`] turns it into a picture for a screen.
//! * [`PanoramaSet`] and [`PhotoSet`]: the panoramas, with their split, and the photographs of
//!   `assets/`; [`sample_panorama`] is built in.
//! * [`LabelledRows`]: labelled sparse examples in the LIBSVM format; [`CsvTable`]: dense examples in CSV.
//! * [`trajectories`]: values at irregular times, with gaps, in CSV.
//! * [`matrix_market`]: sparse and dense matrices and vectors in the Matrix Market format.
//! * [`LabelledPictures`]: MNIST, Fashion-MNIST ([`IdxArray`]) and CIFAR-10 in their published files;
//!   [`digits`] and a [`fashion_sample`] are built in.
//! * [`NpyArray`]: NumPy's `.npy`, real and complex, and with the feature `hdf5` arrays of HDF5 files; [`NiftiVolume`]: medical volumes in NIfTI-1.
//!
//! The feature `pictures`, on by default, contains the first four; without it no image codec is compiled.

mod csv_table;
#[cfg(feature = "pictures")]
mod dataset;
#[cfg(feature = "pictures")]
mod embedded;
#[cfg(feature = "pictures")]
mod exif;
#[cfg(feature = "pictures")]
mod file_format;
#[cfg(feature = "hdf5")]
mod hdf5;
mod idx;
#[cfg(feature = "pictures")]
mod image_file;
#[cfg(feature = "pictures")]
mod image_reader;
#[cfg(feature = "pictures")]
mod image_writer;
#[cfg(feature = "pictures")]
mod jpeg_container;
mod labelled_pictures;
mod libsvm;
#[cfg(feature = "pictures")]
mod light;
pub mod matrix_market;
#[cfg(feature = "pictures")]
mod metadata;
mod nifti;
mod npy;
#[cfg(feature = "pictures")]
mod openexr;
#[cfg(feature = "pictures")]
mod outside_references;
#[cfg(feature = "pictures")]
mod photosphere;
#[cfg(feature = "pictures")]
mod radiance;
#[cfg(feature = "pictures")]
mod raster;
#[cfg(feature = "pictures")]
mod tone_map;
pub mod trajectories;
#[cfg(feature = "pictures")]
mod xmp_packet;

pub use csv_table::{CsvError, CsvOptions, CsvTable, LabelColumn};
#[cfg(feature = "pictures")]
pub use dataset::{DataSetError, PanoramaSet, PhotoSet, Split};
#[cfg(feature = "pictures")]
pub use embedded::{SAMPLE_PANORAMA, SAMPLE_PANORAMA_SMALL, sample_panorama};
#[cfg(feature = "pictures")]
pub use file_format::{BitDepth, FileFormat};
#[cfg(feature = "hdf5")]
pub use hdf5::{Hdf5Error, KSPACE, read_hdf5};
pub use idx::{IdxArray, IdxError, IdxValues};
#[cfg(feature = "pictures")]
pub use image_file::{GainMap, ImageFileError, Picture, ReadOptions, WriteOptions};
pub use labelled_pictures::{
    LabelledPictures, LabelledPicturesError, digits, fashion_sample, squares_of_four,
};
pub use libsvm::{IndexBase, LabelledRows, LibsvmError, LibsvmText};
#[cfg(feature = "pictures")]
pub use light::{Light, ToneCurve};
#[cfg(feature = "pictures")]
pub use metadata::Metadata;
pub use nifti::{NiftiError, NiftiVolume};
pub use npy::{NpyArray, NpyError, NpyValues};
#[cfg(feature = "pictures")]
pub use photosphere::{PhotoSphere, resize_xmp};
#[cfg(feature = "pictures")]
pub use raster::{Raster, RasterSizeError};
#[cfg(feature = "pictures")]
pub use tone_map::tone_map;
#[cfg(feature = "pictures")]
pub use xmp_packet::XmpError;
