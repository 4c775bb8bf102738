//! Encoding a [`Picture`] to the bytes of an image file.

use std::borrow::Cow;
use std::error::Error;
use std::io::{Seek, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use tiff::encoder::colortype::{
    ColorType, Gray8, Gray16, RGB8, RGB16, RGB32Float, RGBA8, RGBA16, RGBA32Float,
};
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, TiffValue};
use tiff::tags::{Predictor, SampleFormat, Tag};

use crate::exif::Portable;
use crate::file_format::{BitDepth, FileFormat};
use crate::image_file::{GainMap, ImageFileError, Picture, WriteOptions};
use crate::jpeg_container::{self, Extras};
use crate::light::srgb_to_linear;
use crate::outside_references::{Beside, dangling, settled, speaks_of_a_gain_map};
use crate::{Light, Raster, openexr, radiance, tone_map};

/// The keyword of the PNG chunk that contains XMP.
pub(crate) const PNG_XMP_KEYWORD: &str = "XML:com.adobe.xmp";
const TIFF_XMP: Tag = Tag::Unknown(700);

pub(crate) fn check(
    picture: &Picture,
    path: &Path,
    size: [u32; 2],
    options: &WriteOptions,
) -> Result<FileFormat, ImageFileError> {
    let format = FileFormat::from_path(path)
        .filter(|f| FileFormat::WRITABLE.contains(f))
        .ok_or_else(|| ImageFileError::UnknownExtension { path: path.into() })?;
    let reason = if let Some(depth) = options.bit_depth.filter(|&d| !format.can_write(d)) {
        let others = if depth == BitDepth::Float {
            "TIFF and OpenEXR have"
        } else {
            "PNG or TIFF has"
        };
        format!("{format} has no {depth} samples, {others}")
    } else if picture.alpha.is_some() && !format.has_alpha() {
        format!("{format} has no alpha channel, PNG, WebP, TIFF and OpenEXR have")
    } else if size.contains(&0) {
        format!(
            "a picture of {} x {} pixels has nothing to write",
            size[0], size[1]
        )
    } else if size.iter().any(|&side| u64::from(side) > format.max_side()) {
        format!(
            "{format} holds at most {} pixels a side, but the picture has {} x {}",
            format.max_side(),
            size[0],
            size[1]
        )
    } else if !matches!(picture.raster.channels(), 1 | 3) {
        format!(
            "the raster has {} channels, but 1 or 3 are expected",
            picture.raster.channels()
        )
    } else if format == FileFormat::Jpeg && !(1..=100).contains(&options.jpeg_quality) {
        format!(
            "the JPEG quality is {}, but 1 to 100 is expected",
            options.jpeg_quality
        )
    } else if let Some(kind) = too_much_metadata(picture, format) {
        format!("its {kind} metadata is larger than the 64 KiB that JPEG can hold")
    } else {
        return Ok(format);
    };
    Err(ImageFileError::CannotHold {
        path: path.into(),
        reason,
    })
}

fn too_much_metadata(picture: &Picture, format: FileFormat) -> Option<&'static str> {
    let metadata = &picture.metadata;
    if format != FileFormat::Jpeg {
        None
    } else if !metadata
        .exif
        .as_ref()
        .is_none_or(|b| jpeg_container::exif_fits(b.len()))
    {
        Some("Exif")
    } else if !xmp_for(picture, format, PLACEHOLDER)
        .as_ref()
        .is_none_or(|xmp| jpeg_container::xmp_fits(xmp.len()))
    {
        Some("XMP")
    } else {
        None
    }
}

/// A length of a gain map with the largest number of digits, to bound the packet's size before the length is
/// known.
const PLACEHOLDER: usize = u32::MAX as usize;

/// The XMP packet for a file of `format`, with a gain map of `gain_map` bytes if there is one. A packet that
/// cannot be parsed is left out, since its announcements are unknown.
fn xmp_for(picture: &Picture, format: FileFormat, gain_map: usize) -> Option<Vec<u8>> {
    let name = extended_for(picture, format).map(jpeg_container::name_of);
    let beside = beside(picture, format, gain_map, name.as_deref());
    settled(picture.metadata.xmp.as_deref(), beside)
        .or_else(|_| settled(None, beside))
        .ok()
        .flatten()
}

/// The data in a file of `format` besides the picture: a gain map of `length` bytes, and extended XMP named
/// `extended`.
fn beside<'a>(
    picture: &Picture,
    format: FileFormat,
    length: usize,
    extended: Option<&'a str>,
) -> Beside<'a> {
    let gain_map = gain_map_for(picture, format);
    let xmp = gain_map.and_then(|map| map.metadata.xmp.as_deref());
    Beside {
        gain_map: gain_map.map(|_| length),
        in_xmp: xmp.is_some_and(speaks_of_a_gain_map),
        extended,
    }
}

fn gain_map_for(picture: &Picture, format: FileFormat) -> Option<&GainMap> {
    picture
        .gain_map
        .as_ref()
        .filter(|_| format == FileFormat::Jpeg)
}

fn extended_for(picture: &Picture, format: FileFormat) -> Option<&[u8]> {
    let extended = picture.metadata.extended_xmp.as_deref();
    extended.filter(|_| format == FileFormat::Jpeg)
}

pub(crate) fn left_out(picture: &Picture, format: FileFormat) -> Vec<String> {
    let name = extended_for(picture, format).map(jpeg_container::name_of);
    let beside = beside(picture, format, PLACEHOLDER, name.as_deref());
    let mut names = match &picture.metadata.xmp {
        Some(xmp) => dangling(xmp, beside),
        None => Vec::new(),
    };
    let unsaid = |names: &[String], name: &str| !names.iter().any(|n| n == name);
    let gain_map = "gain map";
    if picture.gain_map.is_some() && beside.gain_map.is_none() && unsaid(&names, gain_map) {
        names.push(gain_map.to_owned());
    }
    names
}

pub(crate) fn encode<W: Write + Seek>(
    picture: &Picture,
    path: &Path,
    format: FileFormat,
    options: &WriteOptions,
    out: &mut W,
) -> Result<(), ImageFileError> {
    if let Some(alpha) = &picture.alpha
        && alpha.shape() != [1, picture.raster.height(), picture.raster.width()]
    {
        let reason = format!(
            "the alpha channel is {:?}, but the picture is {:?}",
            alpha.shape(),
            picture.raster.shape()
        );
        return Err(ImageFileError::CannotHold {
            path: path.into(),
            reason,
        });
    }
    let depth = picture.depth_for(format, options);
    let converted = in_light(picture, format.light(picture.light, depth));
    let picture = converted.as_ref();
    let result: Result<(), Box<dyn Error>> = match format {
        FileFormat::Png => png(picture, depth, out),
        FileFormat::Jpeg => jpeg(picture, options.jpeg_quality, out),
        FileFormat::WebP => webp(picture, out),
        FileFormat::Tiff => tiff_of(picture, depth, out),
        FileFormat::Hdr => hdr(picture, out),
        FileFormat::Exr => exr(picture, out),
    };
    result.map_err(|e| ImageFileError::Encode {
        path: path.into(),
        format,
        reason: e
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    })
}

/// The picture with samples that measure `light`.
fn in_light(picture: &Picture, light: Light) -> Cow<'_, Picture> {
    let convert = |raster: Raster| Picture {
        raster,
        alpha: picture.alpha.clone(),
        bit_depth: picture.bit_depth,
        light,
        // The profile describes the samples before the conversion.
        metadata: crate::Metadata {
            icc: None,
            ..picture.metadata.clone()
        },
        gain_map: picture.gain_map.clone(),
    };
    match (picture.light, light) {
        (Light::Linear, Light::Display) => Cow::Owned(convert(tone_map(&picture.raster))),
        (Light::Display, Light::Linear) => {
            Cow::Owned(convert(picture.raster.clone().map(srgb_to_linear)))
        }
        _ => Cow::Borrowed(picture),
    }
}

/// The samples of rows `rows`, interleaved, each converted to a file's sample by `sample`. With `channels` 4,
/// a grey picture has its grey in all three colours.
fn interleaved<T>(
    picture: &Picture,
    rows: std::ops::Range<usize>,
    channels: usize,
    sample: impl Fn(f32) -> T,
) -> Vec<T> {
    let raster = &picture.raster;
    let mut out = Vec::with_capacity(rows.len() * raster.width() * channels);
    for y in rows {
        for x in 0..raster.width() {
            for c in 0..channels {
                let is_alpha = picture.alpha.is_some() && c + 1 == channels;
                out.push(sample(match &picture.alpha {
                    Some(alpha) if is_alpha => alpha.get(0, y, x),
                    _ => raster.get(c.min(raster.channels() - 1), y, x),
                }));
            }
        }
    }
    out
}

fn eight(v: f32) -> u8 {
    // The cast turns a NaN into 0.
    (v.clamp(0.0, 1.0) * 255.0).round() as u8
}

fn sixteen(v: f32) -> u16 {
    (v.clamp(0.0, 1.0) * 65535.0).round() as u16
}

fn png<W: Write>(picture: &Picture, depth: BitDepth, out: &mut W) -> Result<(), Box<dyn Error>> {
    let [width, height] = picture.size();
    let channels = picture.raster.channels() + usize::from(picture.alpha.is_some());
    let mut info = png::Info::with_size(width, height);
    info.color_type = match channels {
        1 => png::ColorType::Grayscale,
        2 => png::ColorType::GrayscaleAlpha,
        3 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    };
    let wide = depth == BitDepth::Sixteen;
    info.bit_depth = if wide {
        png::BitDepth::Sixteen
    } else {
        png::BitDepth::Eight
    };
    info.icc_profile = picture.metadata.icc.as_deref().map(Cow::Borrowed);
    info.exif_metadata = picture.metadata.exif.as_deref().map(Cow::Borrowed);
    let mut encoder = png::Encoder::with_info(out, info)?;
    encoder.set_compression(png::Compression::Balanced);
    if let Some(xmp) = xmp_for(picture, FileFormat::Png, 0) {
        let text = std::str::from_utf8(&xmp)?;
        encoder.add_itxt_chunk(PNG_XMP_KEYWORD.into(), text.into())?;
    }
    for (keyword, text) in &picture.metadata.texts {
        // Other programs look for Latin-1 text in the older chunk.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword.clone(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.clone(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    for y in 0..picture.raster.height() {
        if wide {
            let row = interleaved(picture, y..y + 1, channels, |v| sixteen(v).to_be_bytes());
            stream.write_all(row.as_flattened())?;
        } else {
            stream.write_all(&interleaved(picture, y..y + 1, channels, eight))?;
        }
    }
    stream.finish()?;
    writer.finish()?;
    Ok(())
}

fn jpeg<W: Write>(picture: &Picture, quality: u8, out: &mut W) -> Result<(), Box<dyn Error>> {
    let format = FileFormat::Jpeg;
    let file = jpeg_samples(picture, quality)?;
    let gain_map = gain_map_for(picture, format)
        .map(|gain_map| jpeg_of_gain_map(gain_map, quality))
        .transpose()?;
    let has_iso = gain_map_for(picture, format).is_some_and(|map| map.iso_21496.is_some());
    let xmp = xmp_for(picture, format, gain_map.as_ref().map_or(0, Vec::len));
    let extras = Extras {
        xmp: xmp.as_deref(),
        extended: extended_for(picture, format),
        iso: has_iso.then_some(&jpeg_container::ISO_VERSION),
        gain_map: gain_map.as_deref(),
    };
    Ok(out.write_all(&jpeg_container::with_extras(&file, extras)?)?)
}

fn jpeg_of_gain_map(gain_map: &GainMap, quality: u8) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut picture = Picture::new(gain_map.raster.clone(), BitDepth::Eight);
    picture.metadata.icc = gain_map.metadata.icc.clone();
    let extras = Extras {
        xmp: gain_map.metadata.xmp.as_deref(),
        iso: gain_map.iso_21496.as_deref(),
        ..Extras::default()
    };
    Ok(jpeg_container::with_extras(
        &jpeg_samples(&picture, quality)?,
        extras,
    )?)
}

/// A JPEG file with colour profile and Exif data, and nothing else besides its samples.
fn jpeg_samples(picture: &Picture, quality: u8) -> Result<Vec<u8>, Box<dyn Error>> {
    let [width, height] = picture.size();
    let channels = picture.raster.channels();
    let samples = interleaved(picture, 0..picture.raster.height(), channels, eight);
    let mut file = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut file, quality);
    if let Some(icc) = &picture.metadata.icc {
        encoder.set_icc_profile(icc.clone())?;
    }
    if let Some(exif) = &picture.metadata.exif {
        encoder.set_exif_metadata(exif.clone())?;
    }
    let colour = if channels == 1 {
        ExtendedColorType::L8
    } else {
        ExtendedColorType::Rgb8
    };
    encoder.write_image(&samples, width, height, colour)?;
    Ok(file)
}

fn hdr<W: Write>(picture: &Picture, out: &mut W) -> Result<(), Box<dyn Error>> {
    let samples = interleaved(picture, 0..picture.raster.height(), 3, |v| v);
    let lines = &picture.metadata.radiance_header;
    Ok(out.write_all(&radiance::encode(&samples, picture.size(), lines)?)?)
}

fn exr<W: Write>(picture: &Picture, out: &mut W) -> Result<(), Box<dyn Error>> {
    let sphere = picture.metadata.photosphere().ok().flatten();
    let panorama = sphere.is_some_and(|sphere| sphere.is_full());
    let alpha = picture.alpha.as_ref();
    Ok(out.write_all(&openexr::encode(&picture.raster, alpha, panorama)?)?)
}

fn webp<W: Write>(picture: &Picture, out: &mut W) -> Result<(), Box<dyn Error>> {
    let [width, height] = picture.size();
    let channels = picture.raster.channels() + usize::from(picture.alpha.is_some());
    let samples = interleaved(picture, 0..picture.raster.height(), channels, eight);
    let mut encoder = image_webp::WebPEncoder::new(out);
    if let Some(icc) = &picture.metadata.icc {
        encoder.set_icc_profile(icc.clone());
    }
    if let Some(exif) = &picture.metadata.exif {
        encoder.set_exif_metadata(exif.clone());
    }
    if let Some(xmp) = xmp_for(picture, FileFormat::WebP, 0) {
        encoder.set_xmp_metadata(xmp);
    }
    let colour = match channels {
        1 => image_webp::ColorType::L8,
        2 => image_webp::ColorType::La8,
        3 => image_webp::ColorType::Rgb8,
        _ => image_webp::ColorType::Rgba8,
    };
    Ok(encoder.encode(&samples, width, height, colour)?)
}

fn tiff_of<W: Write + Seek>(
    picture: &Picture,
    depth: BitDepth,
    out: &mut W,
) -> Result<(), Box<dyn Error>> {
    let grey = picture.raster.channels() == 1 && picture.alpha.is_none();
    match (depth, grey, picture.alpha.is_some()) {
        (BitDepth::Eight, true, _) => tiff_with::<Gray8, _>(picture, 1, eight, out),
        (BitDepth::Eight, _, true) => tiff_with::<RGBA8, _>(picture, 4, eight, out),
        (BitDepth::Eight, _, false) => tiff_with::<RGB8, _>(picture, 3, eight, out),
        (BitDepth::Sixteen, true, _) => tiff_with::<Gray16, _>(picture, 1, sixteen, out),
        (BitDepth::Sixteen, _, true) => tiff_with::<RGBA16, _>(picture, 4, sixteen, out),
        (BitDepth::Sixteen, _, false) => tiff_with::<RGB16, _>(picture, 3, sixteen, out),
        (BitDepth::Float, _, true) => tiff_with::<RGBA32Float, _>(picture, 4, |v| v, out),
        // Grey is written as RGB too, since few readers know grey floating point.
        (BitDepth::Float, _, false) => tiff_with::<RGB32Float, _>(picture, 3, |v| v, out),
    }
}

fn tiff_with<C: ColorType, W: Write + Seek>(
    picture: &Picture,
    channels: usize,
    sample: impl Fn(f32) -> C::Inner,
    out: &mut W,
) -> Result<(), Box<dyn Error>>
where
    [C::Inner]: TiffValue,
{
    let [width, height] = picture.size();
    let samples = interleaved(picture, 0..picture.raster.height(), channels, sample);
    let predictor = if C::SAMPLE_FORMAT.contains(&SampleFormat::IEEEFP) {
        Predictor::None
    } else {
        Predictor::Horizontal
    };
    let mut encoder = TiffEncoder::new(out)?
        .with_compression(Compression::Deflate(DeflateLevel::Balanced))
        .with_predictor(predictor);
    let entries = picture.metadata.exif.as_deref().map(Portable::read);
    let pointers = match &entries {
        Some(entries) => entries.write_subdirectories(&mut encoder)?,
        None => Vec::new(),
    };
    let mut image = encoder.new_image::<C>(width, height)?;
    if let Some(entries) = &entries {
        entries.write_main(&pointers, image.encoder())?;
    }
    if let Some(icc) = &picture.metadata.icc {
        let entry = image
            .encoder()
            .write_entry_bytes(tiff::tags::Type::UNDEFINED, icc)?;
        extend(&mut image, Tag::IccProfile, entry);
    }
    if let Some(xmp) = xmp_for(picture, FileFormat::Tiff, 0) {
        image.encoder().write_tag(TIFF_XMP, xmp.as_slice())?;
    }
    Ok(image.write_data(&samples)?)
}

fn extend<W: Write + Seek, C: ColorType>(
    image: &mut tiff::encoder::ImageEncoder<'_, W, C, tiff::encoder::TiffKindStandard>,
    tag: Tag,
    entry: tiff::decoder::ifd::Entry,
) {
    let mut directory = tiff::Directory::empty();
    directory.extend([(tag, entry)]);
    image.encoder().extend_from(&directory);
}
