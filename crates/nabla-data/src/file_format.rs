//! The image formats that are read and written, and what each can store.

use std::fmt;
use std::path::Path;

use crate::Light;

/// An image file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileFormat {
    /// Portable Network Graphics: lossless, 8 and 16 bit, alpha.
    Png,
    /// JPEG: lossy, 8 bit, no alpha, at most 65535 pixels a side.
    Jpeg,
    /// WebP: written lossless, 8 bit, alpha, at most 16383 pixels a side.
    WebP,
    /// TIFF: lossless (deflate), 8 and 16 bit and float, alpha.
    Tiff,
    /// Radiance HDR: linear light, 8 bits a colour with a common exponent, no alpha.
    Hdr,
    /// OpenEXR: linear light, written lossless in 32-bit float, alpha.
    Exr,
}

impl FileFormat {
    /// The formats that can be written.
    pub const WRITABLE: [FileFormat; 6] = [
        Self::Png,
        Self::Jpeg,
        Self::WebP,
        Self::Tiff,
        Self::Hdr,
        Self::Exr,
    ];

    /// The format that the extension of `path` names, whatever its case; `None` if there is no extension or
    /// it is unknown.
    ///
    /// ```
    /// use nabla_data::FileFormat;
    /// assert_eq!(FileFormat::from_path("a/b.JPeG".as_ref()), Some(FileFormat::Jpeg));
    /// assert_eq!(FileFormat::from_path("a/b.gif".as_ref()), None);
    /// ```
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" | "jpe" | "jfif" => Some(Self::Jpeg),
            "webp" => Some(Self::WebP),
            "tif" | "tiff" => Some(Self::Tiff),
            "hdr" | "pic" => Some(Self::Hdr),
            "exr" => Some(Self::Exr),
            _ => None,
        }
    }

    /// The extension that files of this format usually have, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
            Self::Tiff => "tif",
            Self::Hdr => "hdr",
            Self::Exr => "exr",
        }
    }

    /// Whether a file of this format can be written with samples of `depth`.
    pub fn can_write(self, depth: BitDepth) -> bool {
        match self {
            Self::Png => depth != BitDepth::Float,
            Self::Tiff => true,
            Self::Jpeg | Self::WebP => depth == BitDepth::Eight,
            Self::Hdr | Self::Exr => depth == BitDepth::Float,
        }
    }

    /// The depth at which a picture of `depth` is written to a file of this format: its own, or the one that
    /// loses least.
    ///
    /// ```
    /// use nabla_data::{BitDepth, FileFormat};
    /// assert_eq!(FileFormat::Png.nearest_depth(BitDepth::Float), BitDepth::Sixteen);
    /// assert_eq!(FileFormat::Jpeg.nearest_depth(BitDepth::Float), BitDepth::Eight);
    /// ```
    pub fn nearest_depth(self, depth: BitDepth) -> BitDepth {
        let deeper = [BitDepth::Sixteen, BitDepth::Eight, BitDepth::Float];
        [depth]
            .into_iter()
            .chain(deeper)
            .find(|&depth| self.can_write(depth))
            .unwrap_or(BitDepth::Eight)
    }

    /// The meaning of the samples in a file with samples of `depth`, when a picture of `light` is written to
    /// it. Only floating point can store light without an upper end, and Radiance HDR and OpenEXR are always
    /// linear.
    pub fn light(self, light: Light, depth: BitDepth) -> Light {
        match self {
            Self::Hdr | Self::Exr => Light::Linear,
            Self::Tiff if depth == BitDepth::Float => light,
            _ => Light::Display,
        }
    }

    /// Whether a file of this format can have an alpha channel.
    pub fn has_alpha(self) -> bool {
        !matches!(self, Self::Jpeg | Self::Hdr)
    }

    /// The longest side, in pixels, that a file of this format can have.
    pub fn max_side(self) -> u64 {
        match self {
            Self::Jpeg => 65_535,
            Self::WebP => 16_383,
            Self::Png | Self::Tiff | Self::Hdr | Self::Exr => i32::MAX as u64,
        }
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
            Self::Hdr => "Radiance HDR",
            Self::Exr => "OpenEXR",
        })
    }
}

/// The type of a sample in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BitDepth {
    /// 8-bit unsigned integers.
    Eight,
    /// 16-bit unsigned integers.
    Sixteen,
    /// 32-bit floating point.
    Float,
}

impl fmt::Display for BitDepth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eight => "8-bit",
            Self::Sixteen => "16-bit",
            Self::Float => "32-bit float",
        })
    }
}
