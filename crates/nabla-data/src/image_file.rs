//! Pictures as they are read from and written to files: samples, transparency, depth, metadata.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::file_format::{BitDepth, FileFormat};
use crate::metadata::Metadata;
use crate::{Light, Raster, image_reader, image_writer};
use nabla_base::{OutputError, write_atomically};

/// A picture read from a file, or to be written to one.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The samples, `[1 or 3, height, width]`; grey has one channel. Samples for a screen are nominally in
    /// `[0, 1]`; linear light has no upper end.
    pub raster: Raster,
    /// Opacity, `[1, height, width]` in `[0, 1]`; `None` if the file has no alpha channel. It is not
    /// multiplied into `raster`.
    pub alpha: Option<Raster>,
    /// The depth of the file that was read, and of the file to write unless [`WriteOptions`] sets another.
    pub bit_depth: BitDepth,
    /// What the samples measure: Radiance HDR and OpenEXR contain linear light, and so does float TIFF with
    /// samples above 1.
    pub light: Light,
    /// Colour profile, Exif and XMP. The Exif orientation has been applied to `raster` and reset.
    pub metadata: Metadata,
    /// The gain map of a JPEG file ("Ultra HDR"); other formats cannot store one.
    pub gain_map: Option<GainMap>,
}

/// A gain map: how much brighter each part of the picture is on a screen that can show more than white. Its
/// size is independent of the picture's; viewers stretch it over the picture.
///
/// Its metadata (`hdrgm:GainMapMax` ... in XMP, or ISO 21496-1) states the meaning of its samples, which does
/// not change with the size.
#[derive(Clone, Debug, PartialEq)]
pub struct GainMap {
    /// The samples, `[1 or 3, height, width]` in `[0, 1]`.
    pub raster: Raster,
    /// The metadata of the gain map.
    pub metadata: Metadata,
    /// ISO 21496-1 metadata, as in the file.
    pub iso_21496: Option<Vec<u8>>,
}

/// Limits beyond which a file is refused before memory is reserved for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The number of pixels of the largest picture that is read. Default: 512 Mi.
    pub max_pixels: u64,
    /// The number of bytes that the file, and the samples decoded from it, may take. Default: 8 GiB.
    pub max_bytes: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            max_pixels: 512 << 20,
            max_bytes: 8 << 30,
        }
    }
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Depth of the file; by default the depth of the picture if the format supports it, otherwise 8 bit.
    pub bit_depth: Option<BitDepth>,
    /// Quality of JPEG, 1 to 100. Default: 95 (without chroma subsampling).
    pub jpeg_quality: u8,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            bit_depth: None,
            jpeg_quality: 95,
        }
    }
}

/// An image file that cannot be read or written; each message is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum ImageFileError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A folder.
    #[error("{} is a folder, but an image file is expected", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The file is empty.
    #[error("{} is empty, but an image file is expected", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is in none of the formats.
    #[error(
        "{} is not an image in PNG, JPEG, WebP, TIFF, Radiance HDR or OpenEXR format",
        path.display()
    )]
    NotAnImage {
        /// The file.
        path: PathBuf,
    },
    /// The decoder failed.
    #[error("{} is a damaged or truncated {format} file: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: FileFormat,
        /// The message of the decoder.
        reason: String,
    },
    /// The file uses a colour type or a feature that the decoder does not know.
    #[error("{} uses a feature of {format} that is not supported: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: FileFormat,
        /// The message of the decoder.
        reason: String,
    },
    /// The file has more pixels or bytes than [`ReadOptions`] allow.
    #[error("{} is too large: {size}, but at most {limit} are allowed", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The size of the file.
        size: String,
        /// The limit.
        limit: String,
    },
    /// The extension of an output names no format that can be written.
    #[error(
        "cannot write {}: its extension must be .png, .jpg, .webp, .tif, .hdr or .exr",
        path.display()
    )]
    UnknownExtension {
        /// The output.
        path: PathBuf,
    },
    /// The format of an output cannot hold the picture.
    #[error("cannot write {}: {reason}", path.display())]
    CannotHold {
        /// The output.
        path: PathBuf,
        /// The reason, and what would work.
        reason: String,
    },
    /// The encoder failed.
    #[error("cannot write {} as {format}: {reason}", path.display())]
    Encode {
        /// The output.
        path: PathBuf,
        /// Its format.
        format: FileFormat,
        /// The message of the encoder.
        reason: String,
    },
    /// The output file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Picture {
    /// Creates a picture for a screen, without transparency, metadata or gain map.
    pub fn new(raster: Raster, bit_depth: BitDepth) -> Self {
        Self {
            raster,
            alpha: None,
            bit_depth,
            light: Light::Display,
            metadata: Metadata::default(),
            gain_map: None,
        }
    }

    /// Width and height, pixels.
    pub fn size(&self) -> [u32; 2] {
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        [side(self.raster.width()), side(self.raster.height())]
    }

    /// Reads an image file; its contents determine the format, not its name.
    ///
    /// If a file has several pictures, only the first is read, and the gain map of a JPEG. Radiance HDR and
    /// OpenEXR give linear light, as it is in the file: `EXPOSURE=` in a header is kept but not applied.
    ///
    /// # Errors
    /// If the file cannot be opened, is empty, is not an image, is damaged, truncated or too large
    /// ([`ReadOptions::default`]), or uses an unsupported colour type.
    ///
    /// ```
    /// use nabla_data::{BitDepth, Picture, Raster, WriteOptions};
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("grey.png");
    /// let picture = Picture::new(Raster::new(1, 1, 2, vec![0.0, 1.0])?, BitDepth::Sixteen);
    /// picture.write(&path, &WriteOptions::default())?;
    /// assert_eq!(Picture::read(&path)?, picture);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(path: &Path) -> Result<Self, ImageFileError> {
        Self::read_with(path, &ReadOptions::default())
    }

    /// [`Picture::read`] with other limits.
    ///
    /// # Errors
    /// Those of [`Picture::read`].
    pub fn read_with(path: &Path, options: &ReadOptions) -> Result<Self, ImageFileError> {
        let failed = |source| ImageFileError::Read {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(ImageFileError::Folder { path: path.into() });
        }
        let mut bytes = Vec::new();
        // Reading one byte more than allowed distinguishes an endless device from a file that just fits.
        if about.len() <= options.max_bytes {
            file.take(options.max_bytes.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(failed)?;
        }
        if about.len().max(bytes.len() as u64) > options.max_bytes {
            return Err(ImageFileError::TooLarge {
                path: path.into(),
                size: format!("the file has {} bytes", about.len().max(bytes.len() as u64)),
                limit: format!("{} bytes", options.max_bytes),
            });
        }
        Self::decode(&bytes, path, options)
    }

    /// Reads an image from memory; error messages call it `name`.
    ///
    /// # Errors
    /// Those of [`Picture::read`].
    pub fn decode(
        bytes: &[u8],
        name: &Path,
        options: &ReadOptions,
    ) -> Result<Self, ImageFileError> {
        image_reader::decode(bytes, name, options)
    }

    /// The depth at which `write` would write a file of `format`.
    pub fn depth_for(&self, format: FileFormat, options: &WriteOptions) -> BitDepth {
        match options.bit_depth {
            Some(depth) => depth,
            None => format.nearest_depth(self.bit_depth),
        }
    }

    /// Lists, in words, the parts of this picture that a file of `format` cannot store: data after the
    /// picture in its file (a motion photo, a depth map), and a gain map if the format has none. Their
    /// announcements in XMP are left out with them.
    pub fn left_out(&self, format: FileFormat) -> Vec<String> {
        image_writer::left_out(self, format)
    }

    /// Checks, before a long job, whether a picture of `size` (`[width, height]`, pixels) with the
    /// transparency and metadata of this one could be written to `path`.
    ///
    /// # Errors
    /// If the extension names no format that can be written, or if that format does not support the depth, an
    /// alpha channel, pictures of this size, or the metadata. Whether the folder can be written is not
    /// checked; see [`check_writable`](nabla_base::check_writable).
    pub fn check(
        &self,
        path: &Path,
        size: [u32; 2],
        options: &WriteOptions,
    ) -> Result<FileFormat, ImageFileError> {
        image_writer::check(self, path, size, options)
    }

    /// Writes the picture in the format that the extension of `path` names. Samples are clamped to `[0, 1]`
    /// and rounded, except in floating point. Metadata is written unchanged (after a change of size see
    /// [`Metadata::resized`]), except that XMP no longer announces bytes that are not in the file
    /// ([`Picture::left_out`]).
    ///
    /// Linear light is written to a format for screens through [`tone_map`](crate::tone_map), and samples for
    /// a screen to Radiance HDR and OpenEXR by the curve of sRGB. An OpenEXR file states that it is a
    /// panorama if the picture's XMP states a whole one.
    ///
    /// The file appears under its name when it is complete ([`write_atomically`]).
    ///
    /// # Errors
    /// Those of [`Picture::check`], and if the file cannot be written.
    pub fn write(&self, path: &Path, options: &WriteOptions) -> Result<(), ImageFileError> {
        let format = self.check(path, self.size(), options)?;
        write_atomically(path, |out| {
            image_writer::encode(self, path, format, options, out)
        })
    }

    /// The picture with three channels; grey is repeated.
    #[must_use]
    pub fn into_rgb(mut self) -> Self {
        if self.raster.channels() == 1 {
            let [_, height, width] = self.raster.shape();
            let grey = &self.raster;
            self.raster = Raster::from_fn(3, height, width, |_, y, x| grey.get(0, y, x));
            // A grey profile does not describe three channels.
            self.metadata.icc = None;
        }
        self
    }

    /// The picture with one channel: the luma `0.299 R + 0.587 G + 0.114 B`.
    #[must_use]
    pub fn into_grey(mut self) -> Self {
        if self.raster.channels() == 3 {
            let [_, height, width] = self.raster.shape();
            let colours = &self.raster;
            self.raster = Raster::from_fn(1, height, width, |_, y, x| {
                let [red, green, blue] = [0, 1, 2].map(|c| colours.get(c, y, x));
                0.299 * red + 0.587 * green + 0.114 * blue
            });
            // A profile of colours does not describe one channel.
            self.metadata.icc = None;
        }
        self
    }
}
