//! Metrics, the degradation operator and the colour fixes against scikit-image, numpy and torch
//! (`tests/reference/make_metrics.py`).

use nabla_data::Raster;
use nabla_panorama::{
    BicubicDown, Boundary, LinearOperator, SsimWeights, adain, psnr, ssim, wavelet_colour_fix,
    ws_psnr, ws_ssim, ws_ssim_with,
};
use serde_json::Value;

fn reference() -> Value {
    serde_json::from_str(include_str!("reference/metrics.json")).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// `picture` of the script: integer levels 0 to 255.
fn level(c: usize, y: usize, x: usize, [a, b, m]: [usize; 3]) -> i32 {
    ((a * x * x + b * y * y + 3 * x * y + 57 * c + (x / 7) * (y / 5) * m) % 256) as i32
}

fn pair([c, h, w]: [usize; 3]) -> (Raster, Raster) {
    let base = |c, y, x| level(c, y, x, [1, 2, 11]);
    let other =
        |c, y, x| (base(c, y, x) + (level(c, y, x, [5, 7, 3]) - 128).div_euclid(4)).clamp(0, 255);
    (
        Raster::from_fn(c, h, w, |c, y, x| other(c, y, x) as f32 / 255.0),
        Raster::from_fn(c, h, w, |c, y, x| base(c, y, x) as f32 / 255.0),
    )
}

fn shape(value: &Value) -> [usize; 3] {
    [size(&value[0]), size(&value[1]), size(&value[2])]
}

#[track_caller]
fn assert_close(ours: &Raster, theirs: &Value, tolerance: f64) {
    let theirs = numbers(theirs);
    assert_eq!(ours.data().len(), theirs.len());
    for (i, (a, b)) in ours.data().iter().zip(&theirs).enumerate() {
        assert!((f64::from(*a) - b).abs() < tolerance, "{i}: {a} {b}");
    }
}

#[test]
fn metrics_are_those_of_scikit_image() {
    for case in reference()["metrics"].as_array().unwrap() {
        let (a, b) = pair(shape(&case["shape"]));
        for (ours, name) in [
            (psnr(&a, &b), "psnr"),
            (ssim(&a, &b), "ssim"),
            (ws_psnr(&a, &b), "ws_psnr"),
            (ws_ssim(&a, &b), "ws_ssim"),
            (
                ws_ssim_with(&a, &b, SsimWeights::Cropped),
                "ws_ssim_cropped",
            ),
        ] {
            let (ours, theirs) = (ours.unwrap(), number(&case[name]));
            // Samples are f32 here and f64 there.
            assert!((ours - theirs).abs() < 1e-6, "{name}: {ours} {theirs}");
        }
    }
}

#[test]
fn the_operator_and_its_pseudo_inverse_are_those_of_dense_matrices() {
    for case in reference()["operators"].as_array().unwrap() {
        let scale = size(&case["scale"]);
        let (h, w) = (size(&case["height"]), size(&case["width"]));
        let horizontal = if case["wrap"].as_bool().unwrap() {
            Boundary::Wrap
        } else {
            Boundary::Reflect
        };
        let operator =
            BicubicDown::with_boundaries(scale, [h, w], Boundary::Reflect, horizontal).unwrap();
        let x = Raster::from_fn(1, h, w, |c, y, x| level(c, y, x, [1, 2, 11]) as f32 / 255.0);
        let y = Raster::from_fn(1, h / scale, w / scale, |c, y, x| {
            level(c, y, x, [5, 7, 3]) as f32 / 255.0
        });
        assert_close(&operator.apply(&x).unwrap(), &case["apply"], 1e-6);
        assert_close(
            &operator.pseudo_inverse(&y).unwrap(),
            &case["pseudo_inverse"],
            1e-6,
        );
    }
}

#[test]
fn the_colour_fixes_are_those_of_stablesr() {
    let case = &reference()["colour"];
    let (content, mut style) = pair(shape(&case["shape"]));
    for (channel, gain) in [0.5, 0.75, 1.0].into_iter().enumerate() {
        for v in style.plane_mut(channel) {
            *v = *v * gain + 0.125;
        }
    }
    assert_close(
        &adain(content.clone(), &style).unwrap(),
        &case["adain"],
        1e-6,
    );
    assert_close(
        &wavelet_colour_fix(content, &style).unwrap(),
        &case["wavelet"],
        1e-6,
    );
}
