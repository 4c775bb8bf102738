//! What people's panoramas are: parts of the sphere, metadata of another size, gain maps, light.

use std::fs;
use std::path::Path;

use nabla::data::{BitDepth, Light, PhotoSphere, Picture, Raster, ToneCurve};
use nabla::panorama::{BicubicDown, Erp, ErpArea, Interpolation, LinearOperator, resize_erp};

use crate::desk::Desk;
use crate::program::{get, panorama, put, put_model};

/// A file that another program made.
fn foreign(desk: &Desk, name: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nabla-data/tests/reference")
        .join(name);
    fs::copy(source, desk.path(name)).unwrap();
}

fn desk() -> Desk {
    let desk = Desk::empty();
    put_model(&desk);
    desk
}

/// What a line that must succeed notes, without the progress.
fn notes(desk: &Desk, line: &str) -> String {
    let told = desk.told(line).1;
    let notes = told.lines().filter(|line| line.starts_with("nabla: "));
    notes.map(|line| format!("{line}\n")).collect()
}

/// A panorama, of which the file `name` has what `sphere` says.
fn put_part(desk: &Desk, name: &str, sphere: &PhotoSphere) -> ErpArea {
    let area = ErpArea::of_photosphere(sphere.cropped_size, Some(sphere)).unwrap();
    let mut picture = panorama(area.whole().height(), BitDepth::Eight);
    picture.raster = area.cut(&picture.raster);
    picture.metadata.xmp = Some(sphere.to_xmp());
    put(desk, name, &picture);
    area
}

fn sphere_of(picture: &Picture) -> PhotoSphere {
    picture.metadata.photosphere().unwrap().unwrap()
}

#[test]
fn a_part_of_the_sphere_is_upscaled_in_its_place() {
    let desk = desk();
    let phone = PhotoSphere {
        cropped_size: [38, 18],
        cropped_offset: [12, 8],
        pose_heading_degrees: Some(77.0),
        ..PhotoSphere::full(64, 32)
    };
    let band = PhotoSphere {
        cropped_size: [64, 16],
        cropped_offset: [0, 8],
        ..PhotoSphere::full(64, 32)
    };
    for (name, sphere) in [("phone.jpg", &phone), ("band.png", &band)] {
        let area = put_part(&desk, name, sphere);
        let line = format!("upscale {name} -o large_{name} --scale 2 --steps 2 --model model");
        let told = notes(&desk, &line);
        assert_eq!(told, "", "{name}");
        let large = get(&desk, &format!("large_{name}"));
        assert_eq!(sphere_of(&large), sphere.enlarged(2), "{name}");
        assert_eq!(large.size(), sphere.cropped_size.map(|n| 2 * n), "{name}");
        // The network has learnt nothing; what is left is the enlarged picture, in its place.
        let truth = panorama(64, BitDepth::Eight).raster;
        let truth = area.enlarged(2).unwrap().cut(&truth);
        let quality = nabla::panorama::psnr(&large.raster, &truth).unwrap();
        assert!(quality > 25.0, "{name}: {quality}");
        // The same part can be compared, another one cannot.
        let told = desk.json(&format!("evaluate large_{name} large_{name}"));
        assert_eq!(told["ws_ssim"], 1.0, "{name}");
    }
    desk.refused(
        "evaluate phone.jpg band.png",
        "cover the same part of the sphere",
    );
    // On planes and faces, what the part does not show is transparent.
    desk.done("project phone.jpg -o faces --to cubemap");
    let back = get(&desk, "faces/back.png");
    assert!(back.alpha.unwrap().data().contains(&0.0));
}

#[test]
fn metadata_of_another_size_give_way_to_the_picture() {
    let desk = desk();
    let mut picture = panorama(16, BitDepth::Eight);
    picture.metadata.xmp = Some(PhotoSphere::full(8000, 4000).to_xmp());
    put(&desk, "resized.jpg", &picture);
    desk.done("upscale resized.jpg -o large.jpg --scale 2 --steps 1 --model model");
    assert_eq!(
        sphere_of(&get(&desk, "large.jpg")),
        PhotoSphere::full(64, 32)
    );

    // A part of a panorama that was made smaller.
    let phone = PhotoSphere {
        cropped_size: [38, 18],
        cropped_offset: [12, 8],
        ..PhotoSphere::full(64, 32)
    };
    put_part(&desk, "phone.png", &phone);
    let mut picture = get(&desk, "phone.png");
    picture.metadata.xmp = Some(phone.enlarged(50).to_xmp());
    put(&desk, "phone.png", &picture);
    desk.done("upscale phone.png -o large.png --scale 2 --steps 1 --model model");
    assert_eq!(sphere_of(&get(&desk, "large.png")), phone.enlarged(2));

    let xmp = String::from_utf8(PhotoSphere::full(32, 16).to_xmp()).unwrap();
    let wrong = xmp.replace("LeftPixels=\"0\"", "LeftPixels=\"-3.5\"");
    let mut picture = panorama(16, BitDepth::Eight);
    picture.metadata.xmp = Some(wrong.clone().into_bytes());
    put(&desk, "wrong.png", &picture);
    let told = notes(
        &desk,
        "upscale wrong.png -o right.png --scale 2 --steps 1 --model model",
    );
    assert!(told.contains("CroppedAreaLeftPixels is \"-3.5\""), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(
        sphere_of(&get(&desk, "right.png")),
        PhotoSphere::full(64, 32)
    );
    let mut square = Picture::new(Raster::zeros(3, 16, 16), BitDepth::Eight);
    square.metadata.xmp = Some(wrong.into_bytes());
    put(&desk, "square.png", &square);
    desk.refused("upscale square.png -o out.png", "is \"-3.5\"");
}

#[test]
fn a_gain_map_is_enlarged_or_told_to_be_left_out() {
    let desk = desk();
    foreign(&desk, "ultrahdr.jpg");
    let told = notes(
        &desk,
        "upscale ultrahdr.jpg -o large.jpg --scale 2 --steps 1 --model model",
    );
    assert_eq!(told, "");
    let large = get(&desk, "large.jpg");
    let map = large.gain_map.unwrap();
    assert_eq!(map.raster.shape(), [map.raster.channels(), 64, 128]);
    assert!(map.iso_21496.is_some());
    let told = notes(
        &desk,
        "upscale ultrahdr.jpg -o large.png --scale 2 --steps 1 --model model",
    );
    assert_eq!(told, "nabla: ultrahdr.jpg: left out: gain map\n");
    // The extended part goes along in JPEG alone.
    foreign(&desk, "extended.jpg");
    let line = "upscale extended.jpg -o large.jpg --scale 2 --steps 1 --model model";
    assert_eq!(notes(&desk, line), "");
    let large = get(&desk, "large.jpg");
    assert!(large.metadata.extended_xmp.is_some());
    assert_eq!(sphere_of(&large).full_size, [256, 128]);
    let told = notes(
        &desk,
        "upscale extended.jpg -o large.webp --scale 2 --steps 1 --model model",
    );
    assert_eq!(
        told,
        "nabla: extended.jpg: left out: embedded picture, extended XMP\n"
    );
}

#[test]
fn light_goes_through_the_program_without_an_upper_end() {
    let desk = desk();
    foreign(&desk, "half_dwab.exr");
    foreign(&desk, "rgbe.hdr");
    for (input, output) in [
        ("half_dwab.exr", "large.exr"),
        ("rgbe.hdr", "large.hdr"),
        ("rgbe.hdr", "large.exr"),
        ("half_dwab.exr", "large.tif"),
    ] {
        let line = format!("upscale {input} -o {output} --scale 2 --steps 1 --model model");
        assert_eq!(notes(&desk, &line), "", "{input}");
        let large = get(&desk, output);
        assert_eq!(large.light, Light::Linear, "{output}");
        let sun = (0..3).map(|c| large.raster.get(c, 19, 45));
        for (found, truth) in sun.zip([40.0, 35.0, 20.0]) {
            assert!(
                (found / truth - 1.0f32).abs() < 0.3,
                "{output}: {found} {truth}"
            );
        }
        assert!((large.raster.get(0, 60, 7) / 0.22 - 1.0).abs() < 0.1);
    }
    assert_eq!(
        get(&desk, "large.hdr").metadata.radiance_header,
        ["EXPOSURE=2", "SOFTWARE=other"]
    );
    let told = notes(
        &desk,
        "upscale rgbe.hdr -o shown.png --scale 2 --steps 1 --model model",
    );
    assert!(told.contains("tone-mapped"), "{told}");
    assert_eq!(get(&desk, "shown.png").bit_depth, BitDepth::Sixteen);
    // A folder of light stays one.
    fs::create_dir(desk.path("in")).unwrap();
    fs::rename(desk.path("rgbe.hdr"), desk.path("in/sky.hdr")).unwrap();
    desk.done("upscale in -o out --scale 2 --steps 1 --model model");
    assert_eq!(get(&desk, "out/sky.hdr").light, Light::Linear);
    // Cubes and planes of light are files of light, and come back.
    desk.done("project half_dwab.exr -o faces --to cubemap --size 32");
    desk.done("project faces -o back.exr --to erp");
    desk.done("project half_dwab.exr -o planes --to tangent --size 32");
    desk.done("project planes -o back_too.exr --to erp");
    for name in ["back.exr", "back_too.exr"] {
        let back = get(&desk, name);
        let brightest = back.raster.data().iter().fold(0.0f32, |m, &v| m.max(v));
        assert!(brightest > 30.0, "{name}: {brightest}");
    }
    let told = desk.json("evaluate half_dwab.exr half_dwab.exr");
    assert_eq!(told["ws_ssim"], 1.0);
    put(&desk, "screen.png", &panorama(32, BitDepth::Eight));
    desk.refused("evaluate half_dwab.exr screen.png", "cannot be compared");
}

/// The bright regions of a real sky (Poly Haven's `venice_sunset`, which the prior
/// has not seen) after they were halved and
/// doubled again are as close to the truth as bicubic interpolation of their logarithm brings them.
#[test]
fn bright_regions_are_no_worse_than_bicubic_ones_of_the_logarithm() {
    let desk = Desk::empty();
    let name = "venice_sunset_256.hdr";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/panorama_files");
    let truth = Picture::read(&source.join(name)).unwrap();
    let erp = Erp::of(&truth.raster).unwrap();
    let down = BicubicDown::new(2, erp).unwrap();
    let positive = |raster: Raster| raster.map(|v| v.max(0.0));
    let low = positive(down.apply(&truth.raster).unwrap());
    let small = Picture {
        raster: low.clone(),
        ..truth.clone()
    };
    put(&desk, "small.exr", &small);
    desk.done("upscale small.exr -o large.exr --scale 2");
    let ours = get(&desk, "large.exr").raster;
    let logarithm = low.map(|v| (v + 1e-4).ln());
    let bicubic = resize_erp(&logarithm, erp.height(), Interpolation::BICUBIC).unwrap();
    let bicubic = bicubic.map(|v| v.exp() - 1e-4);
    let error = |picture: &Raster| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (a, b) in picture.data().iter().zip(truth.raster.data()) {
            if *b > 1.0 {
                sum += f64::from((a - b).abs() / b);
                count += 1.0;
            }
        }
        assert!(count > 100.0, "{count} bright samples");
        sum / count
    };
    let (ours, bicubic) = (error(&ours), error(&bicubic));
    assert!(ours <= bicubic, "{ours} {bicubic}");
    // The curve's own inverse is no source of error.
    let curve = ToneCurve::of(&truth.raster);
    let back = curve.decode(curve.encode(truth.raster.clone()));
    assert!(error(&back) < 1e-5);
}

/// A refusal is one line, although there was a doubt before it.
#[test]
fn doubts_are_said_when_a_job_is_done() {
    let desk = desk();
    let xmp = String::from_utf8(PhotoSphere::full(32, 16).to_xmp()).unwrap();
    let wrong = xmp.replace("LeftPixels=\"0\"", "LeftPixels=\"-3.5\"");
    let mut picture = panorama(16, BitDepth::Eight);
    picture.metadata.xmp = Some(wrong.into_bytes());
    put(&desk, "wrong.png", &picture);
    put(&desk, "other.png", &panorama(32, BitDepth::Eight));
    for (line, lines) in [
        ("project wrong.png -o planes --to tangent", 1),
        ("project wrong.png -o faces.png --to cubemap", 1),
        ("evaluate wrong.png wrong.png", 2),
    ] {
        let told = notes(&desk, line);
        assert_eq!(told.lines().count(), lines, "{line}: {told}");
        assert!(
            told.contains("wrong.png: ") && told.contains("\"-3.5\""),
            "{line}: {told}"
        );
    }
    let out = "project wrong.png -o out";
    desk.refused(&format!("{out} --to cubemap --layout dice"), "--layout");
    desk.refused(&format!("{out} --to tangent --fov 20"), "plane");
    desk.refused(&format!("{out}.gif --to cubemap --layout dice"), "--layout");
    desk.refused("evaluate wrong.png other.png", "must have the same size");
}
