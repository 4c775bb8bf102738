//! Decoding the bytes of an image file to a [`Picture`], safe for any bytes.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::file_format::{BitDepth, FileFormat};
use crate::image_file::{GainMap, ImageFileError, Picture, ReadOptions};
use crate::image_writer::PNG_XMP_KEYWORD;
use crate::metadata::Metadata;
use crate::outside_references::extended_name;
use crate::{Light, Raster, exif, jpeg_container, openexr, radiance};

fn format_of(bytes: &[u8]) -> Option<FileFormat> {
    if bytes.starts_with(&openexr::SIGNATURE) {
        return Some(FileFormat::Exr);
    }
    if radiance::is_radiance(bytes) {
        return Some(FileFormat::Hdr);
    }
    match image::guess_format(bytes).ok()? {
        ImageFormat::Png => Some(FileFormat::Png),
        ImageFormat::Jpeg => Some(FileFormat::Jpeg),
        ImageFormat::WebP => Some(FileFormat::WebP),
        ImageFormat::Tiff => Some(FileFormat::Tiff),
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
    // The decoders are third-party code. A file that makes one of them panic counts as damaged, and must not
    // end the program.
    let source = Source {
        bytes,
        name,
        format,
        options,
    };
    match catch_unwind(AssertUnwindSafe(|| source.decode())) {
        Ok(result) => result,
        Err(_) => Err(ImageFileError::Damaged {
            path: name.into(),
            format,
            reason: "the decoder gave up on it".into(),
        }),
    }
}

/// A file that is being read.
struct Source<'a> {
    bytes: &'a [u8],
    name: &'a Path,
    format: FileFormat,
    options: &'a ReadOptions,
}

impl Source<'_> {
    fn decode(&self) -> Result<Picture, ImageFileError> {
        match self.format {
            FileFormat::Png => self.decode_with(ImageFormat::Png),
            FileFormat::Jpeg => self.decode_with(ImageFormat::Jpeg),
            FileFormat::WebP => self.decode_with(ImageFormat::WebP),
            FileFormat::Tiff => self.decode_with(ImageFormat::Tiff),
            FileFormat::Hdr => self.decode_radiance(),
            FileFormat::Exr => self.decode_openexr(),
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> ImageFileError {
        ImageFileError::Damaged {
            path: self.name.into(),
            format: self.format,
            reason: reason.into(),
        }
    }

    fn unsupported(&self, reason: impl Into<String>) -> ImageFileError {
        ImageFileError::Unsupported {
            path: self.name.into(),
            format: self.format,
            reason: reason.into(),
        }
    }

    fn failed(&self, error: ImageError) -> ImageFileError {
        match &error {
            ImageError::Unsupported(e) => self.unsupported(line(e)),
            ImageError::Limits(e) => ImageFileError::TooLarge {
                path: self.name.into(),
                size: line(e),
                limit: format!("{} bytes", self.options.max_bytes),
            },
            ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.damaged("it ends too early")
            }
            _ => self.damaged(line(&error)),
        }
    }

    /// Refuses a picture of `[width, height]` pixels that has no pixels, too many pixels, or needs more
    /// memory than allowed: `decoded` bytes from the decoder, and a raster of `channels`.
    fn check_size(
        &self,
        [width, height]: [u32; 2],
        decoded: u64,
        channels: u64,
    ) -> Result<(), ImageFileError> {
        let pixels = u64::from(width) * u64::from(height);
        let too_large = |size, limit| ImageFileError::TooLarge {
            path: self.name.into(),
            size,
            limit,
        };
        if pixels > self.options.max_pixels {
            return Err(too_large(
                format!("it has {width} x {height} pixels"),
                format!("{} pixels", self.options.max_pixels),
            ));
        }
        if pixels == 0 {
            return Err(self.damaged(format!("it has {width} x {height} pixels")));
        }
        let needed = decoded.saturating_add(pixels.saturating_mul(4 * channels));
        if needed > self.options.max_bytes {
            return Err(too_large(
                format!("its {width} x {height} pixels need {needed} bytes"),
                format!("{} bytes", self.options.max_bytes),
            ));
        }
        Ok(())
    }

    /// Refuses samples that are not finite.
    fn finite(&self, picture: Picture) -> Result<Picture, ImageFileError> {
        let mut rasters = std::iter::once(&picture.raster).chain(&picture.alpha);
        if rasters.any(|raster| raster.data().iter().any(|v| !v.is_finite())) {
            return Err(self.unsupported("some of its samples are not finite numbers"));
        }
        Ok(picture)
    }

    fn decode_radiance(&self) -> Result<Picture, ImageFileError> {
        let header = radiance::Header::read(self.bytes).map_err(|e| self.failed(e))?;
        let [width, height] = header.size;
        let samples = u64::from(width) * u64::from(height) * 3;
        self.check_size(header.size, samples.saturating_mul(8), 3)?;
        let metadata = Metadata {
            radiance_header: header.kept_lines(),
            ..Metadata::default()
        };
        let samples = header.samples().map_err(|e| self.failed(e))?;
        let (raster, _) = split(&samples, 3, width, height, |v| v);
        self.finite(Picture {
            light: Light::Linear,
            metadata,
            ..Picture::new(raster, BitDepth::Float)
        })
    }

    fn decode_openexr(&self) -> Result<Picture, ImageFileError> {
        let refused = |error| match error {
            openexr::Refused::Damaged(reason) => self.damaged(one_line(&reason)),
            openexr::Refused::Unsupported(reason) => self.unsupported(one_line(&reason)),
        };
        let parts = openexr::Parts::read(self.bytes).map_err(refused)?;
        self.check_size(parts.size, parts.samples.saturating_mul(4), 4)?;
        let (raster, alpha) = parts.decode(self.bytes).map_err(refused)?;
        self.finite(Picture {
            alpha,
            light: Light::Linear,
            ..Picture::new(raster, BitDepth::Float)
        })
    }

    fn decode_with(&self, image_format: ImageFormat) -> Result<Picture, ImageFileError> {
        let failed = |error| self.failed(error);
        let (bytes, format) = (self.bytes, self.format);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(self.options.max_bytes);
        let mut reader = ImageReader::with_format(Cursor::new(bytes), image_format);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(failed)?;
        let (width, height) = decoder.dimensions();
        let channels = u64::from(decoder.color_type().channel_count());
        self.check_size([width, height], decoder.total_bytes(), channels)?;

        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
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
                // Some writers pad or end the packet with NUL, which is not XML.
                xmp.truncate(xmp.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1));
                xmp
            }),
            texts: match format {
                FileFormat::Png => png_texts(bytes).unwrap_or_default(),
                _ => Vec::new(),
            },
            ..Metadata::default()
        };
        metadata.xmp = metadata.xmp.filter(|xmp| !xmp.is_empty());
        if format == FileFormat::Tiff {
            metadata.exif = exif::Portable::read(bytes).to_block().ok().flatten();
        }
        if let Some(block) = &mut metadata.exif {
            // The samples are rotated below; a tag left in place would rotate them again.
            let _ = Orientation::remove_from_exif_chunk(block);
        }

        let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
        image.apply_orientation(orientation);
        let (raster, alpha, bit_depth) = planes(&image)
            .ok_or_else(|| self.unsupported(format!("samples of type {:?}", image.color())))?;
        drop(image);
        let mut gain_map = None;
        if format == FileFormat::Jpeg {
            let name = metadata.xmp.as_deref().and_then(extended_name);
            metadata.extended_xmp =
                name.and_then(|name| jpeg_container::extended_xmp(bytes, &name));
            gain_map = self.gain_map(metadata.xmp.as_deref(), orientation);
        }
        let above_white = || raster.data().iter().any(|&v| v > 1.0);
        let light = if bit_depth == BitDepth::Float && above_white() {
            Light::Linear
        } else {
            Light::Display
        };
        self.finite(Picture {
            raster,
            alpha,
            bit_depth,
            light,
            metadata,
            gain_map,
        })
    }

    /// The gain map after the picture, rotated like the picture. A gain map that cannot be read is no reason
    /// to refuse the picture.
    fn gain_map(&self, xmp: Option<&[u8]>, orientation: Orientation) -> Option<GainMap> {
        let file = jpeg_container::gain_map(self.bytes, xmp)?;
        let own = Source {
            bytes: file,
            ..*self
        };
        let cursor = Cursor::new(file);
        let mut decoder = ImageReader::with_format(cursor, ImageFormat::Jpeg)
            .into_decoder()
            .ok()?;
        let (width, height) = decoder.dimensions();
        own.check_size([width, height], decoder.total_bytes(), 3)
            .ok()?;
        let metadata = Metadata {
            icc: decoder.icc_profile().ok().flatten(),
            exif: None,
            xmp: decoder.xmp_metadata().ok().flatten(),
            ..Metadata::default()
        };
        let mut image = DynamicImage::from_decoder(decoder).ok()?;
        image.apply_orientation(orientation);
        let (raster, _, _) = planes(&image)?;
        Some(GainMap {
            raster,
            metadata,
            iso_21496: jpeg_container::iso_gain_map(file).map(<[u8]>::to_vec),
        })
    }
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

/// The first line of a decoder's message.
fn line(error: &dyn std::error::Error) -> String {
    one_line(&error.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
