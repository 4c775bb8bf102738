//! Pictures go to files of each format and come back; any bytes at all are survived.

use std::fs;
use std::path::Path;

use nabla_data::{
    BitDepth, FileFormat, ImageFileError, Metadata, PhotoSphere, Picture, Raster, ReadOptions,
    WriteOptions, resize_xmp,
};
use proptest::prelude::*;

/// Big-endian Exif: the camera "Nabla", then a width of 64.
const EXIF: &[u8] = b"MM\0*\0\0\0\x08\0\x02\x01\x0f\0\x02\0\0\0\x06\0\0\0\x26\x01\0\0\x04\0\0\0\x01\0\0\0\x40\0\0\0\0Nabla\0";

/// The formats that carry colour profiles, Exif and XMP.
const FOR_SCREENS: [FileFormat; 4] = [
    FileFormat::Png,
    FileFormat::Jpeg,
    FileFormat::WebP,
    FileFormat::Tiff,
];

/// A picture with detail, quantised to `levels + 1` values so that a file can hold it exactly.
fn picture(channels: usize, alpha: bool, depth: BitDepth) -> Picture {
    let levels = match depth {
        BitDepth::Eight => 255.0,
        _ => 65535.0,
    };
    let quantised = |v: f32| (v * levels).round() / levels;
    let raster = Raster::from_fn(channels, 32, 64, |c, y, x| {
        quantised(0.5 + 0.5 * ((c + 1) as f32 * 0.1 * x as f32 + 0.07 * y as f32).sin())
    });
    let mut picture = Picture::new(raster, depth);
    picture.alpha = alpha.then(|| Raster::from_fn(1, 32, 64, |_, y, _| quantised(y as f32 / 31.0)));
    picture
}

fn mean_error(a: &Raster, b: &Raster) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let sum: f32 = a
        .data()
        .iter()
        .zip(b.data())
        .map(|(a, b)| (a - b).abs())
        .sum();
    sum / a.data().len() as f32
}

#[test]
fn lossless_formats_give_the_same_samples_back() {
    let folder = tempfile::tempdir().unwrap();
    for format in [FileFormat::Png, FileFormat::WebP, FileFormat::Tiff] {
        for depth in [BitDepth::Eight, BitDepth::Sixteen, BitDepth::Float] {
            for (channels, alpha) in [(1, false), (3, false), (3, true)] {
                if !format.can_write(depth) {
                    continue;
                }
                let path = folder.path().join(format!("a.{}", format.extension()));
                let written = picture(channels, alpha, depth);
                written.write(&path, &WriteOptions::default()).unwrap();
                let read = Picture::read(&path).unwrap();
                if format == FileFormat::WebP || depth == BitDepth::Float {
                    // Grey comes back as three equal channels.
                    assert_eq!(read, written.into_rgb());
                    continue;
                }
                assert_eq!(read, written, "{format} {depth} {channels} {alpha}");
            }
        }
    }
}

#[test]
fn jpeg_gives_nearly_the_same_samples_back_in_grey_and_colour() {
    let folder = tempfile::tempdir().unwrap();
    for channels in [1, 3] {
        let path = folder.path().join("a.jpg");
        let written = picture(channels, false, BitDepth::Eight);
        written.write(&path, &WriteOptions::default()).unwrap();
        let read = Picture::read(&path).unwrap();
        assert!(mean_error(&read.raster, &written.raster) < 0.01);
    }
}

#[test]
fn a_float_tiff_can_be_asked_of_an_eight_bit_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let written = picture(3, false, BitDepth::Eight);
    let options = WriteOptions {
        bit_depth: Some(BitDepth::Float),
        ..WriteOptions::default()
    };
    written.write(&path, &options).unwrap();
    let read = Picture::read(&path).unwrap();
    assert_eq!(read.bit_depth, BitDepth::Float);
    assert_eq!(read.raster, written.raster);
}

#[test]
fn metadata_goes_through_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let sphere = PhotoSphere {
        pose_heading_degrees: Some(12.5),
        ..PhotoSphere::full(64, 32)
    };
    let mut written = picture(3, false, BitDepth::Eight);
    written.metadata = Metadata {
        icc: Some(b"not a profile, but carried".to_vec()),
        exif: Some(EXIF.to_vec()),
        xmp: Some(sphere.to_xmp()),
        texts: vec![
            ("parameters".to_owned(), "a caf\u{e9}\nSteps: 3".to_owned()),
            ("Comment".to_owned(), "\u{3b1} and \u{732b}".to_owned()),
        ],
        ..Metadata::default()
    };
    for format in FOR_SCREENS {
        let path = folder.path().join(format!("a.{}", format.extension()));
        written.write(&path, &WriteOptions::default()).unwrap();
        let read = Picture::read(&path).unwrap().metadata;
        assert_eq!(read.icc, written.metadata.icc, "{format}");
        if format == FileFormat::Png {
            assert_eq!(read.texts, written.metadata.texts);
        }
        assert_eq!(
            read.photosphere().unwrap().as_ref(),
            Some(&sphere),
            "{format}"
        );
        let exif = read.exif.unwrap();
        let exif = exif::Reader::new().read_raw(exif).unwrap();
        let make = exif.get_field(exif::Tag::Make, exif::In::PRIMARY).unwrap();
        assert_eq!(make.display_value().to_string(), "\"Nabla\"", "{format}");
    }
}

/// Another reader of containers finds our XMP where it belongs.
#[test]
fn an_independent_reader_finds_the_xmp_of_a_jpeg() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    let mut written = picture(3, false, BitDepth::Eight);
    let xmp = PhotoSphere::full(64, 32).to_xmp();
    written.metadata.xmp = Some(xmp.clone());
    written.write(&path, &WriteOptions::default()).unwrap();
    let jpeg = img_parts::jpeg::Jpeg::from_bytes(fs::read(&path).unwrap().into()).unwrap();
    let found = jpeg
        .segments_by_marker(0xe1)
        .any(|s| s.contents().ends_with(&xmp) && s.contents().starts_with(b"http://ns.adobe.com/"));
    assert!(found);
}

#[test]
fn a_turned_photograph_is_set_upright() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    let mut written = picture(3, false, BitDepth::Eight);
    // Orientation 6: turn by 90 degrees clockwise.
    let tag = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    written.metadata.exif = Some(tag.to_vec());
    written.write(&path, &WriteOptions::default()).unwrap();
    let read = Picture::read(&path).unwrap();
    assert_eq!(read.size(), [32, 64]);
    let upright = Raster::from_fn(3, 64, 32, |c, y, x| written.raster.get(c, 31 - x, y));
    assert!(mean_error(&read.raster, &upright) < 0.01);
    // Written again, nothing turns it a second time.
    read.write(&path, &WriteOptions::default()).unwrap();
    assert_eq!(Picture::read(&path).unwrap().size(), [32, 64]);
}

fn message(bytes: &[u8], options: &ReadOptions) -> String {
    let error = Picture::decode(bytes, Path::new("in.png"), options).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("in.png ") && !text.contains('\n'),
        "{text}"
    );
    text
}

fn encoded(format: FileFormat, alpha: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("a.{}", format.extension()));
    let mut picture = picture(3, alpha && format.has_alpha(), BitDepth::Eight);
    picture.metadata.xmp = Some(PhotoSphere::full(64, 32).to_xmp());
    picture.metadata.exif = Some(EXIF.to_vec());
    picture.write(&path, &WriteOptions::default()).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn wrong_files_are_told_in_one_sentence() {
    let options = ReadOptions::default();
    assert!(message(b"", &options).contains("is empty"));
    assert!(message(b"hello, I am text", &options).contains("is not an image"));
    for format in [FileFormat::Png, FileFormat::WebP, FileFormat::Tiff] {
        let whole = encoded(format, false);
        let half = &whole[..whole.len() / 2];
        assert!(
            message(half, &options).contains("damaged or truncated"),
            "{format}"
        );
    }
}

#[test]
fn huge_dimensions_are_refused_before_memory_is_reserved() {
    // A PNG whose header claims 2^31 - 1 pixels a side.
    let mut bytes = encoded(FileFormat::Png, false);
    bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let crc = {
        let mut crc = u32::MAX;
        for &b in &bytes[12..29] {
            crc ^= u32::from(b);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    (crc >> 1) ^ 0xedb8_8320
                } else {
                    crc >> 1
                };
            }
        }
        !crc
    };
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(message(&bytes, &ReadOptions::default()).contains("too large"));
    let small = ReadOptions {
        max_pixels: 64 * 32 - 1,
        ..ReadOptions::default()
    };
    for format in FileFormat::WRITABLE {
        let text = message(&encoded(format, false), &small);
        assert!(
            text.contains("64 x 32 pixels") && text.contains("2047"),
            "{text}"
        );
    }
}

#[test]
fn an_output_that_cannot_hold_the_picture_is_told_before_the_job() {
    let plain = picture(3, false, BitDepth::Eight);
    let with_alpha = picture(3, true, BitDepth::Eight);
    let options = WriteOptions::default();
    let told = |p: &Picture, path: &str, size| {
        p.check(Path::new(path), size, &options)
            .unwrap_err()
            .to_string()
    };
    assert!(told(&with_alpha, "a.jpg", [8, 4]).contains("no alpha channel"));
    assert!(told(&plain, "a.webp", [20_000, 10_000]).contains("16383 pixels a side"));
    assert!(told(&plain, "a.gif", [8, 4]).contains("extension"));
    assert!(told(&plain, "a", [8, 4]).contains("extension"));
    assert!(told(&with_alpha, "a.hdr", [8, 4]).contains("no alpha channel"));
    assert_eq!(
        plain.check(Path::new("a.PNG"), [8, 4], &options).unwrap(),
        FileFormat::Png
    );
    assert!(matches!(
        Picture::read(Path::new("/")),
        Err(ImageFileError::Folder { .. })
    ));
}

/// A reader may fail on damaged bytes, but with one sentence and without a panic.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let limits = ReadOptions {
        max_pixels: 1 << 20,
        max_bytes: 64 << 20,
    };
    match Picture::decode(bytes, Path::new("in"), &limits) {
        Ok(read) => {
            prop_assert!(read.raster.data().iter().all(|v| v.is_finite()));
            if let Some(xmp) = &read.metadata.xmp {
                let _ = resize_xmp(xmp, [64, 32], [128, 64]);
            }
        }
        Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        survives(&bytes)?;
    }

    /// The magic numbers lead random bytes into each of the decoders.
    #[test]
    fn any_bytes_behind_a_known_start_are_survived(
        start in prop::sample::select(vec![
            &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..],
            &b"\xff\xd8\xff\xe0"[..],
            &b"RIFF\x40\0\0\0WEBPVP8L"[..],
            &b"RIFF\x40\0\0\0WEBPVP8X"[..],
            &b"II*\0\x08\0\0\0"[..],
            &b"MM\0*\0\0\0\x08"[..],
            &b"\x76\x2f\x31\x01\x02\0\0\0channels\0chlist\0"[..],
            &b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 8\n"[..],
        ]),
        rest in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        survives(&[start, &rest].concat())?;
    }

    #[test]
    fn any_damage_to_a_file_is_survived(
        format in prop::sample::select(FileFormat::WRITABLE.to_vec()),
        alpha in any::<bool>(),
        keep in 0.0f64..=1.0,
        hits in proptest::collection::vec((0.0f64..1.0, any::<u8>()), 0..6),
    ) {
        let mut bytes = encoded(format, alpha);
        bytes.truncate((bytes.len() as f64 * keep) as usize);
        let len = bytes.len();
        for (at, value) in hits {
            if let Some(b) = bytes.get_mut((at * len as f64) as usize) {
                *b = value;
            }
        }
        survives(&bytes)?;
    }

    #[test]
    fn any_xmp_is_survived(text in "[<>/a-zA-Z:=\"' &;!?\\-\\[\\]]{0,120}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        for xmp in [text.as_bytes(), &bytes] {
            let _ = PhotoSphere::read(xmp);
            let _ = PhotoSphere::full(8, 4).added_to(xmp);
            let _ = resize_xmp(xmp, [8, 4], [16, 8]);
        }
    }

    #[test]
    fn a_resized_packet_keeps_what_does_not_count_pixels(
        width in 1u32..4096,
        scale in 1u32..8,
        heading in -360.0f64..360.0,
    ) {
        let sphere = |w: u32| PhotoSphere {
            pose_heading_degrees: Some(heading),
            cropped_offset: [w / width, 0],
            ..PhotoSphere::full(2 * w, w)
        };
        let larger = resize_xmp(
            &sphere(width).to_xmp(),
            [2 * width, width],
            [2 * width * scale, width * scale],
        )
        .unwrap();
        prop_assert_eq!(PhotoSphere::read(&larger).unwrap(), Some(sphere(width * scale)));
    }
}

/// Elements instead of attributes, another prefix, and properties of others beside them.
#[test]
fn gpano_in_any_form_is_resized_and_the_rest_left_as_it_is() {
    let packet = r#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:g="http://ns.google.com/photos/1.0/panorama/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<g:ProjectionType> equirectangular </g:ProjectionType><g:FullPanoWidthPixels> 64 </g:FullPanoWidthPixels>
<g:FullPanoHeightPixels>32</g:FullPanoHeightPixels><dc:source>64</dc:source></rdf:Description></rdf:RDF></x:xmpmeta>"#;
    let larger = resize_xmp(packet.as_bytes(), [64, 32], [256, 128]).unwrap();
    let expected = packet.replace("> 64 <", "> 256 <").replace(">32<", ">128<");
    assert_eq!(String::from_utf8(larger).unwrap(), expected);
    let sphere = PhotoSphere::read(packet.as_bytes()).unwrap().unwrap();
    assert_eq!(sphere.projection, "equirectangular");
    assert_eq!(sphere.full_size, [64, 32]);
}

#[test]
fn gpano_is_added_to_a_packet_of_other_properties() {
    let packet = r#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description dc:a="b" xmlns:dc="http://purl.org/dc/elements/1.1/"/></r:RDF></x:xmpmeta>"#;
    let sphere = PhotoSphere::full(64, 32);
    let metadata = Metadata {
        xmp: Some(packet.as_bytes().to_vec()),
        ..Metadata::default()
    };
    let with = metadata.with_photosphere(&sphere).unwrap();
    assert_eq!(with.photosphere().unwrap(), Some(sphere));
    let text = String::from_utf8(with.xmp.unwrap()).unwrap();
    assert!(text.contains(r#"dc:a="b""#));
}
