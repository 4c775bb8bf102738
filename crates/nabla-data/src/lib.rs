//! Readers and writers of the real formats, and the small data sets that the repository carries.
//!
//! * [`Picture`]: PNG, JPEG, WebP, TIFF, Radiance HDR and OpenEXR in and out, as a [`Raster`] with
//!   alpha, depth, [`Light`], [`Metadata`] and the [`GainMap`] of a JPEG. Readers are total: any bytes
//!   give a picture or one clear sentence.
//!   Files are written whole or not at all ([`write_atomically`], [`check_writable`]);
//!   an interrupted program leaves nothing beside them ([`remove_unfinished_files`]).
//! * [`PhotoSphere`]: the GPano metadata by which viewers know a panorama; [`Metadata::resized`]
//!   keeps it true when a picture changes size.
//! * [`ToneCurve`]: linear light without an upper end as samples that a network takes, and back;
//!   [`tone_map`] makes it a picture for a screen.
//! * [`PanoramaSet`] and [`PhotoSet`]: the panoramas, with their split, and the photographs of
//!   `assets/`; [`sample_panorama`] is built in.
//! * [`LabelledRows`]: labelled sparse examples in the LIBSVM format; [`CsvTable`]: dense ones in CSV.
//! * [`LabelledPictures`]: MNIST, Fashion-MNIST ([`IdxArray`]) and CIFAR-10 in their published files;
//!   [`digits`] and a [`fashion_sample`] are built in.

mod atomic_file;
mod csv_table;
mod dataset;
mod embedded;
mod exif;
mod file_format;
mod idx;
mod image_file;
mod image_reader;
mod image_writer;
mod jpeg_container;
mod labelled_pictures;
mod libsvm;
mod light;
mod metadata;
mod openexr;
mod outside_references;
mod photosphere;
mod radiance;
mod raster;
mod tone_map;
mod xmp_packet;

pub use atomic_file::{
    OutputError, check_writable, remove_unfinished_files, write_atomically, write_bytes_atomically,
};
pub use csv_table::{CsvError, CsvOptions, CsvTable, LabelColumn};
pub use dataset::{DataSetError, PanoramaSet, PhotoSet, Split};
pub use embedded::{SAMPLE_PANORAMA, SAMPLE_PANORAMA_SMALL, sample_panorama};
pub use file_format::{BitDepth, FileFormat};
pub use idx::{IdxArray, IdxError, IdxValues};
pub use image_file::{GainMap, ImageFileError, Picture, ReadOptions, WriteOptions};
pub use labelled_pictures::{LabelledPictures, LabelledPicturesError, digits, fashion_sample};
pub use libsvm::{IndexBase, LabelledRows, LibsvmError, LibsvmText};
pub use light::{Light, ToneCurve};
pub use metadata::Metadata;
pub use photosphere::{PhotoSphere, resize_xmp};
pub use raster::{Raster, RasterSizeError};
pub use tone_map::tone_map;
pub use xmp_packet::XmpError;
