//! Files of other programs are read as those programs read them, and what is written of them says
//! nothing that is not so. `reference/make_pictures.py` made them and printed the values.

use std::path::{Path, PathBuf};

use nabla_data::{
    BitDepth, FileFormat, Light, Metadata, PhotoSphere, Picture, Raster, WriteOptions,
};

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name)
}

fn read(name: &str) -> Picture {
    Picture::read(&reference(name)).unwrap()
}

/// The picture after it was written to a file of that name.
fn again(picture: &Picture, name: &str) -> (Picture, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    picture.write(&path, &WriteOptions::default()).unwrap();
    (Picture::read(&path).unwrap(), std::fs::read(path).unwrap())
}

fn colour(raster: &Raster, row: usize, column: usize) -> Vec<f32> {
    (0..raster.channels())
        .map(|c| raster.get(c, row, column))
        .collect()
}

fn close(found: &[f32], expected: &[f32], relative: f32) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= relative * b.abs(),
            "{found:?} {expected:?}"
        );
    }
}

fn xmp(picture: &Picture) -> String {
    String::from_utf8(picture.metadata.xmp.clone().unwrap()).unwrap()
}

#[test]
fn gpano_of_exiftool_is_read_in_every_container() {
    let phone = PhotoSphere {
        cropped_size: [64, 32],
        cropped_offset: [10, 20],
        ..PhotoSphere::full(128, 64)
    };
    for name in [
        "gpano.png",
        "gpano_compressed.png",
        "gpano.jpg",
        "gpano.webp",
        "gpano.tif",
        "extended.jpg",
    ] {
        let picture = read(name);
        let sphere = picture.metadata.photosphere().unwrap();
        assert_eq!(sphere.as_ref(), Some(&phone), "{name}");
        // Exif's words for numbers are kept by the packet: `64.0`, as it was written.
        assert!(xmp(&picture).contains("64.0"), "{name}");
        for format in ["png", "jpg", "webp", "tif"] {
            let (again, _) = again(&picture, &format!("a.{format}"));
            assert_eq!(again.metadata.photosphere().unwrap(), sphere, "{name}");
        }
    }
}

#[test]
fn extended_xmp_goes_along_in_jpeg_and_is_not_announced_elsewhere() {
    let picture = read("extended.jpg");
    let extended = picture.metadata.extended_xmp.as_ref().unwrap();
    // 70,000 bytes in base64.
    assert!(extended.len() > 93_000);
    assert!(picture.left_out(FileFormat::Jpeg).is_empty());
    let (jpeg, _) = again(&picture, "a.jpg");
    assert_eq!(jpeg.metadata.extended_xmp.as_ref(), Some(extended));
    assert!(xmp(&jpeg).contains("HasExtendedXMP") && xmp(&jpeg).contains("GImage"));

    assert_eq!(
        picture.left_out(FileFormat::Png),
        ["embedded picture", "extended XMP"]
    );
    for name in ["a.png", "a.webp", "a.tif"] {
        let (other, _) = again(&picture, name);
        assert!(!xmp(&other).contains("HasExtendedXMP"), "{name}");
        assert!(!xmp(&other).contains("image/jpeg"), "{name}");
        assert!(other.left_out(FileFormat::Png).is_empty(), "{name}");
    }
    // A file whose pieces are damaged announces what cannot be put together.
    let mut bytes = std::fs::read(reference("extended.jpg")).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    let damaged = Picture::decode(&bytes, Path::new("d.jpg"), &Default::default()).unwrap();
    assert_eq!(damaged.metadata.extended_xmp, None);
    assert_eq!(
        damaged.left_out(FileFormat::Jpeg),
        ["embedded picture", "extended XMP"]
    );
    assert!(!xmp(&again(&damaged, "a.jpg").0).contains("HasExtendedXMP"));
}

#[test]
fn a_gain_map_of_libultrahdr_goes_along_in_jpeg() {
    let picture = read("ultrahdr.jpg");
    let map = picture.gain_map.as_ref().unwrap();
    assert_eq!([map.raster.width(), map.raster.height()], [64, 32]);
    assert!(map.iso_21496.is_some());
    // The sun is brightened more than the wall.
    assert!(map.raster.get(0, 9, 22) > map.raster.get(0, 30, 3) + 0.3);
    assert!(picture.left_out(FileFormat::Jpeg).is_empty());

    let (same, bytes) = again(&picture, "a.jpg");
    let again_map = same.gain_map.as_ref().unwrap();
    assert_eq!(again_map.iso_21496, map.iso_21496);
    assert_eq!(again_map.metadata.xmp, map.metadata.xmp);
    let error = map.raster.data().iter().zip(again_map.raster.data());
    let error = error.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 0.03, "{error}");
    // The index has the place and the length of the second picture, which ends the file.
    let index = bytes.windows(4).position(|w| w == b"MPF\0").unwrap() + 4;
    let long = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let entry = index + 50 + 16;
    let (length, offset) = (long(entry + 4), index + long(entry + 8));
    assert_eq!(offset + length, bytes.len());
    assert_eq!(long(index + 50 + 4), offset);
    assert!(bytes[offset..].starts_with(&[0xff, 0xd8]));

    assert_eq!(picture.left_out(FileFormat::Png), ["gain map"]);
    assert_eq!(again(&picture, "a.png").0.gain_map, None);
}

/// A gain map that says in XMP what it means is announced there, with its length.
#[test]
fn a_gain_map_with_xmp_is_announced_with_its_length() {
    let mut picture = read("ultrahdr.jpg");
    let hdrgm = r#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" hdrgm:GainMapMax="5.3"/></rdf:RDF></x:xmpmeta>"#;
    let map = picture.gain_map.as_mut().unwrap();
    map.metadata.xmp = Some(hdrgm.as_bytes().to_vec());
    map.iso_21496 = None;
    picture.metadata.xmp = Some(PhotoSphere::full(64, 32).to_xmp());
    let (same, bytes) = again(&picture, "a.jpg");
    let second = bytes
        .windows(3)
        .rposition(|w| w == [0xff, 0xd8, 0xff])
        .unwrap();
    let length = bytes.len() - second;
    assert!(xmp(&same).contains(&format!("Item:Length=\"{length}\"")));
    assert_eq!(
        same.metadata.photosphere().unwrap(),
        Some(PhotoSphere::full(64, 32))
    );
    let map = same.gain_map.as_ref().unwrap();
    assert_eq!(map.metadata.xmp.as_deref(), Some(hdrgm.as_bytes()));
    // Without the gain map, or in another format, nothing is said of it.
    let alone = Picture {
        gain_map: None,
        ..same.clone()
    };
    assert_eq!(alone.left_out(FileFormat::Jpeg), ["gain map"]);
    for picture in [again(&alone, "a.jpg").0, again(&same, "a.png").0] {
        let text = xmp(&picture);
        assert!(
            !text.contains("hdrgm:Version") && !text.contains("GainMap"),
            "{text}"
        );
        assert_eq!(
            picture.metadata.photosphere().unwrap(),
            Some(PhotoSphere::full(64, 32))
        );
    }
}

#[test]
fn openexr_is_read_as_its_own_library_reads_it() {
    let half = read("half_dwab.exr");
    assert_eq!(
        (half.light, half.bit_depth),
        (Light::Linear, BitDepth::Float)
    );
    close(
        &colour(&half.raster, 9, 22),
        &[40.25, 35.0938, 20.1562],
        1e-5,
    );
    let wall = [0.223267, 0.568848, 0.487305];
    close(&colour(&half.raster, 30, 3), &wall, 1e-5);

    // Colours are not multiplied by opacity here.
    let alpha = read("float_alpha.exr");
    close(&colour(&alpha.raster, 9, 22), &[40.0, 35.0, 20.0], 1e-5);
    assert!((alpha.alpha.as_ref().unwrap().get(0, 9, 22) - 0.349206).abs() < 1e-5);

    let grey = read("luminance.exr");
    assert_eq!(grey.raster.shape(), [1, 32, 64]);
    close(&colour(&grey.raster, 30, 3), &[0.207813], 1e-5);

    let window = read("window.exr");
    assert_eq!(window.raster.shape(), [3, 32, 64]);
    // Row 9 of what is stored stands at row 13; outside it is black.
    close(&colour(&window.raster, 13, 32), &[40.0, 35.0, 20.0], 1e-6);
    assert_eq!(colour(&window.raster, 3, 20), [0.0; 3]);

    let error = Picture::read(&reference("depth_only.exr"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("channels are Z, but R, G and B, or Y"),
        "{error}"
    );
}

#[test]
fn radiance_is_read_as_opencv_reads_it() {
    for name in ["opencv.hdr", "rgbe.hdr"] {
        let picture = read(name);
        assert_eq!(picture.light, Light::Linear);
        assert_eq!(colour(&picture.raster, 9, 22), [40.0, 35.0, 20.0], "{name}");
        let wall = [0.222656, 0.566406, 0.488281];
        close(&colour(&picture.raster, 30, 3), &wall, 1e-5);
        let lines = match name {
            "rgbe.hdr" => &["EXPOSURE=2", "SOFTWARE=other"][..],
            _ => &[],
        };
        assert_eq!(picture.metadata.radiance_header, lines, "{name}");
        let (same, _) = again(&picture, "a.hdr");
        assert_eq!(same, picture, "{name}");
    }
}

#[test]
fn light_survives_in_the_formats_that_hold_it() {
    for name in ["half_dwab.exr", "float_alpha.exr", "luminance.exr"] {
        let picture = read(name);
        let (same, _) = again(&picture, "a.exr");
        assert_eq!(
            (same.light, same.raster.shape()),
            (picture.light, picture.raster.shape())
        );
        for (a, b) in same.raster.data().iter().zip(picture.raster.data()) {
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{name}: {a} {b}");
        }
        assert_eq!(same.alpha, picture.alpha);
        let (tiff, _) = again(&picture, "a.tif");
        assert_eq!(tiff.alpha, picture.alpha);
        if name == "half_dwab.exr" {
            assert_eq!(
                (tiff.light, tiff.raster),
                (Light::Linear, picture.raster.clone())
            );
        }
    }
}

#[test]
fn light_is_shown_on_screens_and_samples_of_screens_become_light() {
    let light = read("half_dwab.exr");
    let (shown, _) = again(&light, "a.png");
    assert_eq!(
        (shown.light, shown.bit_depth),
        (Light::Display, BitDepth::Sixteen)
    );
    let expected = nabla_data::tone_map(&light.raster);
    for (a, b) in shown.raster.data().iter().zip(expected.data()) {
        assert!((a - b).abs() <= 0.5 / 65535.0 + 1e-7);
    }
    // sRGB's 188 is half of the light of white.
    let grey = Raster::zeros(3, 2, 4).map(|_| 188.0 / 255.0);
    let mut screen = Picture::new(grey, BitDepth::Eight);
    screen.metadata.icc = Some(b"a profile of samples".to_vec());
    for name in ["a.exr", "a.hdr"] {
        let (light, _) = again(&screen, name);
        assert_eq!(light.light, Light::Linear);
        assert!((light.raster.get(0, 0, 0) - 0.5029).abs() < 0.003, "{name}");
        assert_eq!(light.metadata, Metadata::default());
    }
}

/// OpenEXR's attribute `envmap`, for what is a panorama of the whole sphere.
#[test]
fn an_openexr_panorama_says_that_it_is_one() {
    let mut picture = read("half_dwab.exr");
    let attribute = |picture: &Picture| {
        let (_, bytes) = again(picture, "a.exr");
        bytes.windows(6).any(|w| w == b"envmap")
    };
    assert!(!attribute(&picture));
    picture.metadata.xmp = Some(PhotoSphere::full(64, 32).to_xmp());
    assert!(attribute(&picture));
    let part = PhotoSphere {
        full_size: [128, 64],
        ..PhotoSphere::full(64, 32)
    };
    picture.metadata.xmp = Some(part.to_xmp());
    assert!(!attribute(&picture));
}
