//! The geometry against other programs: PyTorch, SciPy, Pillow and py360convert, whose values
//! `reference/make_geometry.py` wrote to `reference/geometry.json`.

use nabla_data::Raster;
use nabla_panorama::{
    Convention, CubemapProjection, Erp, Interpolation, PixelSampler, TangentGrid, TangentOptions,
    TangentProjection, resize_planar,
};
use serde_json::Value;

const H: usize = 16;
const W: usize = 32;
/// Pixels along a side of planes and faces.
const P: usize = 8;
const TORCH_CUBIC: Interpolation = Interpolation::Bicubic { a: -0.75 };

fn reference() -> Value {
    serde_json::from_str(include_str!("reference/geometry.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|x| x.as_f64().unwrap()).collect()
}

fn raster(value: &Value, height: usize, width: usize) -> Raster {
    let data = numbers(value).into_iter().map(|x| x as f32).collect();
    Raster::new(1, height, width, data).unwrap()
}

fn points(value: &Value) -> Vec<(f64, f64)> {
    let pairs = numbers(value);
    pairs.chunks(2).map(|p| (p[0], p[1])).collect()
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &Value, tolerance: f64) {
    let theirs = numbers(theirs);
    assert_eq!(ours.len(), theirs.len());
    for (i, (&a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((f64::from(a) - b).abs() < tolerance, "{i}: {a} is not {b}");
    }
}

#[test]
fn sampling_agrees_with_scipy_and_pytorch() {
    let r = reference();
    let erp = raster(&r["erp"], H, W);
    let at = points(&r["points"]);
    let bilinear = PixelSampler::erp(&erp, Interpolation::Bilinear).unwrap();
    // Positions are rounded to 2^-16 pixels.
    assert_close(bilinear.sample(&at).data(), &r["erp_bilinear"], 5e-5);
    let bicubic = PixelSampler::erp(&erp, TORCH_CUBIC).unwrap();
    assert_close(bicubic.sample(&at).data(), &r["erp_bicubic_075"], 5e-5);
    let planar = raster(&r["planar"], 7, 10);
    let bicubic = PixelSampler::planar(&planar, TORCH_CUBIC).unwrap();
    let at = points(&r["planar_points"]);
    assert_close(bicubic.sample(&at).data(), &r["planar_bicubic_075"], 5e-5);
}

#[test]
fn resizing_agrees_with_pillow() {
    let r = reference();
    let planar = raster(&r["planar"], 7, 10);
    let cases = r["resize"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let interpolation = match case["interpolation"].as_str().unwrap() {
            "bilinear" => Interpolation::Bilinear,
            "bicubic" => Interpolation::BICUBIC,
            _ => Interpolation::Lanczos3,
        };
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let ours = resize_planar(&planar, size("height"), size("width"), interpolation).unwrap();
        assert_close(ours.data(), &case["values"], 6e-6);
    }
}

fn projection(options: TangentOptions) -> TangentProjection {
    let erp = Erp::new(H, W).unwrap();
    TangentProjection::new(TangentGrid::octadecaplex(), erp, P, options).unwrap()
}

#[test]
fn planes_agree_with_py360convert() {
    let r = reference();
    let erp = raster(&r["erp"], H, W);
    let options = TangentOptions {
        to_tangent: Interpolation::Bilinear,
        ..TangentOptions::default()
    };
    let planes = projection(options).to_tangent(&erp).unwrap();
    for (ours, theirs) in planes.iter().zip(r["tangent_bilinear"].as_array().unwrap()) {
        assert_close(ours.data(), theirs, 1e-4);
    }
    let way = CubemapProjection::new(Erp::new(H, W).unwrap(), P, Interpolation::Bilinear).unwrap();
    let cube = way.to_cubemap(&erp).unwrap();
    for (ours, theirs) in cube
        .faces()
        .iter()
        .zip(r["cube_bilinear"].as_array().unwrap())
    {
        assert_close(ours.data(), theirs, 1e-4);
    }
}

#[test]
fn blending_agrees_with_the_equations() {
    let r = reference();
    let all = numbers(&r["planes"]);
    let planes: Vec<Raster> = all
        .chunks(P * P)
        .map(|x| Raster::new(1, P, P, x.iter().map(|&x| x as f32).collect()).unwrap())
        .collect();
    let options = TangentOptions {
        to_erp: Interpolation::Bilinear,
        ..TangentOptions::default()
    };
    let ours = projection(options).to_erp(&planes).unwrap();
    assert_close(ours.data(), &r["blend_bilinear"], 1e-4);
}

#[test]
fn the_official_convention_agrees_with_its_equations() {
    let r = reference();
    let erp = raster(&r["erp"], H, W);
    let options = TangentOptions {
        to_tangent: TORCH_CUBIC,
        convention: Convention::Official,
        ..TangentOptions::default()
    };
    let planes = projection(options).to_tangent(&erp).unwrap();
    for (ours, theirs) in planes.iter().zip(r["official_tangent"].as_array().unwrap()) {
        assert_close(ours.data(), theirs, 1e-4);
    }
}
