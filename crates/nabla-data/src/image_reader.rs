//! From the bytes of an image file to a [`Picture`], for any bytes whatever.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::file_format::{BitDepth, FileFormat};
use crate::image_file::{ImageFileError, Picture, ReadOptions};
use crate::image_writer::PNG_XMP_KEYWORD;
use crate::metadata::Metadata;
use crate::{Raster, exif, tone_map};

fn image_format(format: FileFormat) -> ImageFormat {
    match format {
        FileFormat::Png => ImageFormat::Png,
        FileFormat::Jpeg => ImageFormat::Jpeg,
        FileFormat::WebP => ImageFormat::WebP,
        FileFormat::Tiff => ImageFormat::Tiff,
        FileFormat::Hdr => ImageFormat::Hdr,
    }
}

fn format_of(bytes: &[u8]) -> Option<FileFormat> {
    match image::guess_format(bytes).ok()? {
        ImageFormat::Png => Some(FileFormat::Png),
        ImageFormat::Jpeg => Some(FileFormat::Jpeg),
        ImageFormat::WebP => Some(FileFormat::WebP),
        ImageFormat::Tiff => Some(FileFormat::Tiff),
        ImageFormat::Hdr => Some(FileFormat::Hdr),
        _ => None,
    }
}

pub(crate) fn decode(
    bytes: &[u8],
    name: &Path,
    options: &ReadOptions,
) -> Result<Picture, ImageFileError> {
    if bytes.is_empty() {
        return Err(ImageFileError::Empty { path: name.into() });
    }
    let Some(format) = format_of(bytes) else {
        return Err(ImageFileError::NotAnImage { path: name.into() });
    };
    // The decoders are other people's; a file that makes one of them panic is a damaged file, not a
    // reason to end the program.
    match catch_unwind(AssertUnwindSafe(|| decode_as(bytes, name, format, options))) {
        Ok(result) => result,
        Err(_) => Err(ImageFileError::Damaged {
            path: name.into(),
            format,
            reason: "the decoder gave up on it".into(),
        }),
    }
}

fn decode_as(
    bytes: &[u8],
    name: &Path,
    format: FileFormat,
    options: &ReadOptions,
) -> Result<Picture, ImageFileError> {
    let failed = |error| explain(error, name, format, options);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.max_bytes);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), image_format(format));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;

    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let too_large = |size, limit| ImageFileError::TooLarge {
        path: name.into(),
        size,
        limit,
    };
    if pixels > options.max_pixels {
        return Err(too_large(
            format!("it has {width} x {height} pixels"),
            format!("{} pixels", options.max_pixels),
        ));
    }
    if pixels == 0 {
        return Err(ImageFileError::Damaged {
            path: name.into(),
            format,
            reason: format!("it has {width} x {height} pixels"),
        });
    }
    // The samples as the decoder gives them, and the raster made from them.
    let channels = u64::from(decoder.color_type().channel_count());
    let needed = decoder
        .total_bytes()
        .saturating_add(pixels.saturating_mul(4 * channels));
    if needed > options.max_bytes {
        return Err(too_large(
            format!("its {width} x {height} pixels need {needed} bytes"),
            format!("{} bytes", options.max_bytes),
        ));
    }

    let mut orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    // Metadata that cannot be read is no reason to refuse the picture.
    let mut metadata = Metadata {
        icc: decoder
            .icc_profile()
            .ok()
            .flatten()
            .filter(|icc| !icc.is_empty()),
        exif: decoder.exif_metadata().ok().flatten().map(without_prefix),
        xmp: match format {
            FileFormat::Tiff => exif::xmp_of_tiff(bytes),
            _ => decoder.xmp_metadata().ok().flatten(),
        }
        .map(|mut xmp| {
            // Some writers pad or end the packet with NUL, which is no XML.
            xmp.truncate(xmp.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1));
            xmp
        }),
        texts: match format {
            FileFormat::Png => png_texts(bytes).unwrap_or_default(),
            _ => Vec::new(),
        },
    };
    metadata.xmp = metadata.xmp.filter(|xmp| !xmp.is_empty());
    if format == FileFormat::Tiff {
        metadata.exif = exif::Portable::read(bytes).to_block().ok().flatten();
    }
    if let Some(block) = &mut metadata.exif {
        // The samples are turned below; a tag that stayed would turn them once more.
        let _ = Orientation::remove_from_exif_chunk(block);
    }
    if format == FileFormat::Hdr {
        orientation = Orientation::NoTransforms;
    }

    let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    image.apply_orientation(orientation);
    let (raster, alpha, bit_depth) = planes(&image).ok_or_else(|| ImageFileError::Unsupported {
        path: name.into(),
        format,
        reason: format!("samples of type {:?}", image.color()),
    })?;
    drop(image);
    if format == FileFormat::Hdr {
        let picture = Picture {
            raster: tone_map(&raster),
            alpha,
            bit_depth,
            metadata,
        };
        return Ok(Picture {
            bit_depth: BitDepth::Sixteen,
            ..picture
        });
    }
    if raster.data().iter().any(|v| !v.is_finite()) {
        return Err(ImageFileError::Unsupported {
            path: name.into(),
            format,
            reason: "some of its samples are not finite numbers".into(),
        });
    }
    Ok(Picture {
        raster,
        alpha,
        bit_depth,
        metadata,
    })
}

/// Some writers of PNG and WebP put the header of JPEG's segment before the Exif data.
fn without_prefix(block: Vec<u8>) -> Vec<u8> {
    match block.strip_prefix(b"Exif\0\0") {
        Some(rest) => rest.to_vec(),
        None => block,
    }
}

/// Interleaved samples, `[height, width, samples]`, as planes of colour and of opacity.
fn split<T: Copy>(
    samples: &[T],
    per_pixel: usize,
    width: u32,
    height: u32,
    scale: impl Fn(T) -> f32,
) -> (Raster, Option<Raster>) {
    let (width, height) = (width as usize, height as usize);
    let colours = if per_pixel < 3 { 1 } else { 3 };
    let plane = |channel: usize| {
        Raster::from_fn(1, height, width, |_, y, x| {
            scale(samples[(y * width + x) * per_pixel + channel])
        })
    };
    let raster = Raster::from_fn(colours, height, width, |c, y, x| {
        scale(samples[(y * width + x) * per_pixel + c])
    });
    (raster, (per_pixel > colours).then(|| plane(colours)))
}

fn planes(image: &DynamicImage) -> Option<(Raster, Option<Raster>, BitDepth)> {
    let (width, height) = (image.width(), image.height());
    let eight = |samples: &[u8], n| split(samples, n, width, height, |v| f32::from(v) / 255.0);
    let sixteen = |samples: &[u16], n| split(samples, n, width, height, |v| f32::from(v) / 65535.0);
    let float = |samples: &[f32], n| split(samples, n, width, height, |v| v);
    let ((raster, alpha), depth) = match image {
        DynamicImage::ImageLuma8(i) => (eight(i.as_raw(), 1), BitDepth::Eight),
        DynamicImage::ImageLumaA8(i) => (eight(i.as_raw(), 2), BitDepth::Eight),
        DynamicImage::ImageRgb8(i) => (eight(i.as_raw(), 3), BitDepth::Eight),
        DynamicImage::ImageRgba8(i) => (eight(i.as_raw(), 4), BitDepth::Eight),
        DynamicImage::ImageLuma16(i) => (sixteen(i.as_raw(), 1), BitDepth::Sixteen),
        DynamicImage::ImageLumaA16(i) => (sixteen(i.as_raw(), 2), BitDepth::Sixteen),
        DynamicImage::ImageRgb16(i) => (sixteen(i.as_raw(), 3), BitDepth::Sixteen),
        DynamicImage::ImageRgba16(i) => (sixteen(i.as_raw(), 4), BitDepth::Sixteen),
        DynamicImage::ImageRgb32F(i) => (float(i.as_raw(), 3), BitDepth::Float),
        DynamicImage::ImageRgba32F(i) => (float(i.as_raw(), 4), BitDepth::Float),
        _ => return None,
    };
    Some((raster, alpha, depth))
}

/// One line of what a decoder said.
fn line(error: &dyn std::error::Error) -> String {
    error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn explain(
    error: ImageError,
    name: &Path,
    format: FileFormat,
    options: &ReadOptions,
) -> ImageFileError {
    let path = name.to_path_buf();
    match &error {
        ImageError::Unsupported(e) => ImageFileError::Unsupported {
            path,
            format,
            reason: line(e),
        },
        ImageError::Limits(e) => ImageFileError::TooLarge {
            path,
            size: line(e),
            limit: format!("{} bytes", options.max_bytes),
        },
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageFileError::Damaged {
                path,
                format,
                reason: "it ends too early".into(),
            }
        }
        _ => ImageFileError::Damaged {
            path,
            format,
            reason: line(&error),
        },
    }
}

/// The texts before the samples of a PNG file, without the XMP packet.
fn png_texts(bytes: &[u8]) -> Result<Vec<(String, String)>, png::DecodingError> {
    let reader = png::Decoder::new(Cursor::new(bytes)).read_info()?;
    let info = reader.info();
    let mut texts = Vec::new();
    for chunk in &info.uncompressed_latin1_text {
        texts.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    for chunk in &info.compressed_latin1_text {
        texts.push((chunk.keyword.clone(), chunk.get_text()?));
    }
    for chunk in &info.utf8_text {
        texts.push((chunk.keyword.clone(), chunk.get_text()?));
    }
    texts.retain(|(keyword, _)| keyword != PNG_XMP_KEYWORD);
    Ok(texts)
}
