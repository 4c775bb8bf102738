use super::*;
use crate::{BicubicDown, LinearOperator};
use proptest::prelude::*;

fn texture(channels: usize, height: usize, width: usize) -> Raster {
    Raster::from_fn(channels, height, width, |c, y, x| {
        let (x, y) = (x as f32, y as f32);
        0.5 + 0.3 * (0.7 * x + c as f32).sin() * (0.4 * y).cos() + 0.1 * (1.9 * x * y).sin()
    })
}

#[test]
fn a_part_is_measured_as_the_whole_is() {
    let reference = texture(3, 32, 64);
    let picture = reference.clone().map(|v| 0.9 * v + 0.01);
    let whole = evaluate(&picture, &reference).unwrap();
    let area = ErpArea::full(Erp::new(32, 64).unwrap());
    let same = evaluate_area(&picture, &reference, &area).unwrap();
    let of = |e: &Evaluation| [e.area.psnr, e.area.ssim, e.area.ws_psnr, e.area.ws_ssim];
    let found = [same.psnr, same.ssim, same.ws_psnr, same.ws_ssim];
    for (a, b) in found.iter().zip(of(&whole)) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }
    // An error in one row weighs as much as its latitude has area.
    let area = ErpArea::new(Erp::new(32, 64).unwrap(), [5, 1], [20, 12]).unwrap();
    let part = area.cut(&reference);
    let mut wrong = part.clone();
    for x in 0..20 {
        wrong.data_mut()[2 * 20 + x] += 0.3;
    }
    let measured = evaluate_area(&wrong, &part, &area).unwrap();
    let weights = latitude_weights(32);
    let expected = 0.09 * weights[3] / (3.0 * weights[1..13].iter().sum::<f64>());
    assert!((measured.ws_psnr + 10.0 * expected.log10()).abs() < 1e-3);
    assert!(evaluate_area(&part, &part, &ErpArea::full(area.whole())).is_err());
}

#[test]
fn pictures_that_cannot_be_compared_are_refused() {
    let a = texture(3, 16, 32);
    assert!(matches!(
        psnr(&a, &texture(1, 16, 32)),
        Err(MetricError::Shapes { .. })
    ));
    let small = texture(1, 10, 32);
    assert!(matches!(
        ssim(&small, &small),
        Err(MetricError::TooSmall { .. })
    ));
    let narrow = texture(1, 32, 17);
    assert!(seam_error(&narrow, &narrow).is_err());
    let none = Raster::zeros(0, 16, 32);
    assert!(psnr(&none, &none).is_err());
    let empty = Raster::zeros(3, 0, 0);
    assert!(psnr(&empty, &empty).is_err());
    let square = texture(3, 32, 32);
    assert!(matches!(
        evaluate(&square, &square),
        Err(MetricError::NotPanorama(_))
    ));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut b = a.clone();
        b.data_mut()[700] = bad;
        assert_eq!(evaluate(&b, &a), Err(MetricError::NotFinite));
        assert_eq!(psnr(&a, &b), Err(MetricError::NotFinite));
    }
    for latitude in [90.0, 89.0, f64::NAN] {
        assert!(matches!(
            pole_error(&a, &a, latitude),
            Err(MetricError::NoPolarRow { .. })
        ));
    }
}

#[test]
fn equal_pictures_are_perfect_and_their_infinite_psnr_is_null_in_json() {
    let a = texture(3, 16, 32);
    let evaluation = evaluate(&a, &a).unwrap();
    assert_eq!(evaluation.area.psnr, f64::INFINITY);
    assert_eq!(evaluation.area.ws_psnr, f64::INFINITY);
    assert!(
        (evaluation.area.ssim - 1.0).abs() < 1e-9 && (evaluation.area.ws_ssim - 1.0).abs() < 1e-9
    );
    assert_eq!((evaluation.seam_error, evaluation.pole_error), (0.0, 0.0));
    let json = serde_json::to_value(evaluation).unwrap();
    assert!(json["psnr"].is_null() && json["ssim"].is_number());
    let again: Evaluation = serde_json::from_value(json).unwrap();
    assert_eq!(again, evaluation);
    // One object, in the order of the measures.
    let text = serde_json::to_string(&Evaluation {
        area: AreaEvaluation {
            psnr: 30.5,
            ssim: 0.1,
            ws_psnr: f64::INFINITY,
            ws_ssim: 0.3,
        },
        seam_error: 0.25,
        pole_error: 1e-3,
    });
    assert_eq!(
        text.unwrap(),
        r#"{"psnr":30.5,"ssim":0.1,"ws_psnr":null,"ws_ssim":0.3,"seam_error":0.25,"pole_error":0.001}"#
    );
}

/// An error `d` in the rows between two latitudes alone: the weights sum to the area of the
/// zone, `(sin φ₂ − sin φ₁)/2` of the sphere, since Σ cos over midpoints telescopes.
#[test]
fn an_error_in_one_zone_counts_by_the_area_of_the_zone() {
    let (h, w, d) = (180, 360, 0.1f32);
    let a = texture(3, h, w);
    for (top, bottom) in [(0, 10), (60, 120), (90, 91), (170, 180)] {
        let b = Raster::from_fn(3, h, w, |c, y, x| {
            a.get(c, y, x) + if (top..bottom).contains(&y) { d } else { 0.0 }
        });
        let sine = |row: usize| (90.0 - row as f64).to_radians().sin();
        let share = (sine(top) - sine(bottom)) / 2.0;
        let expected = -10.0 * (f64::from(d).powi(2) * share).log10();
        assert!((ws_psnr(&b, &a).unwrap() - expected).abs() < 1e-4);
        let flat = (bottom - top) as f64 / h as f64;
        let expected = -10.0 * (f64::from(d).powi(2) * flat).log10();
        assert!((psnr(&b, &a).unwrap() - expected).abs() < 1e-4);
    }
}

/// Constant pictures have SSIM (2ab + C₁)/(a² + b² + C₁) everywhere.
#[test]
fn constant_pictures_have_the_similarity_of_their_means() {
    let flat = |v: f32| Raster::zeros(2, 16, 32).map(|_| v);
    let (a, b) = (0.3f32, 0.5f32);
    let expected = {
        let (a, b) = (f64::from(a), f64::from(b));
        (2.0 * a * b + C1) / (a * a + b * b + C1)
    };
    for value in [ssim, ws_ssim] {
        assert!((value(&flat(a), &flat(b)).unwrap() - expected).abs() < 1e-12);
    }
}

#[test]
fn the_two_weights_of_ssim_differ_little_and_both_favour_the_equator() {
    let (h, w) = (64, 128);
    let a = texture(1, h, w);
    let b = Raster::from_fn(1, h, w, |c, y, x| if y < 12 { 0.5 } else { a.get(c, y, x) });
    let plain = ssim(&b, &a).unwrap();
    let full = ws_ssim_with(&b, &a, SsimWeights::FullHeight).unwrap();
    let cropped = ws_ssim_with(&b, &a, SsimWeights::Cropped).unwrap();
    assert!(full > plain && cropped > full);
    assert!(cropped - full < 0.1);
}

#[test]
fn similarity_is_symmetric_and_does_not_depend_on_the_number_of_threads() {
    let a = texture(3, 96, 192);
    let b = a.clone().map(|v| (v * 7.0).sin() * 0.1 + v);
    let run = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| evaluate(&b, &a).unwrap())
    };
    assert_eq!(run(1), run(5));
    let (there, back) = (ssim(&a, &b).unwrap(), ssim(&b, &a).unwrap());
    assert!((there - back).abs() < 1e-12);
}

#[test]
fn an_error_that_does_not_know_the_meridian_has_no_seam() {
    let (h, w) = (64, 128);
    let a = texture(3, h, w);
    // A wave of `n` periods around, of another phase in each row: continuous across the meridian
    // if `n` is whole, and broken there if it is not.
    let with_wave = |n: f32| {
        Raster::from_fn(3, h, w, |c, y, x| {
            let turn = n * x as f32 / w as f32 + 0.059 * y as f32;
            a.get(c, y, x) + 0.1 * (turn * std::f32::consts::TAU).sin()
        })
    };
    let (smooth, broken) = (with_wave(8.0), with_wave(8.25));
    let smooth = seam_error(&smooth, &a).unwrap();
    assert!(smooth.error.abs() < 0.003, "{smooth:?}");
    let broken_seam = seam_error(&broken, &a).unwrap();
    assert!(broken_seam.error > 0.04, "{broken_seam:?}");
    // Turned so that the break lies elsewhere, it does not count.
    let turn = |r: &Raster| Raster::from_fn(3, h, w, |c, y, x| r.get(c, y, (x + 40) % w));
    let away = seam_error(&turn(&broken), &turn(&a)).unwrap();
    assert!(away.error.abs() < 0.003, "{away:?}");
    // The step of the picture itself is no error.
    let ramp = Raster::from_fn(1, h, w, |_, _, x| x as f32 / w as f32);
    let ramp = seam_error(&ramp, &ramp).unwrap();
    assert_eq!(ramp.error, 0.0);
    assert!((ramp.step - 127.0 / 128.0).abs() < 1e-6 && ramp.step == ramp.reference_step);
}

/// On a photograph at x4: an operator that knows that columns wrap, and the official one, which
/// reflects them at the meridian. By every other measure the two are the same.
#[test]
fn the_seam_of_the_official_operator_is_seen_in_a_photograph() {
    let (large, _) = nabla_data::sample_panorama().unwrap();
    let large = large.raster;
    let erp = Erp::of(&large).unwrap();
    let run = |operator: BicubicDown| {
        let y = operator.apply(&large).unwrap();
        evaluate(&operator.pseudo_inverse(&y).unwrap(), &large).unwrap()
    };
    let wrapped = run(BicubicDown::new(4, erp).unwrap());
    let official = run(BicubicDown::official(4, erp).unwrap());
    assert!((wrapped.area.ws_psnr - official.area.ws_psnr).abs() < 0.01);
    assert!((wrapped.pole_error - official.pole_error).abs() < 1e-4);
    // 0.0001 and 0.0031 when this was written.
    assert!(wrapped.seam_error.abs() < 0.0005, "{wrapped:?}");
    assert!(official.seam_error > 0.0025, "{official:?}");
}

proptest! {
    #[test]
    fn any_size_is_measured_or_refused(c in 0usize..4, h in 0usize..40, w in 0usize..40) {
        let (a, b) = (texture(c, h, w), texture(c, h, w).map(|v| 0.9 * v));
        for value in [psnr(&b, &a), ws_psnr(&b, &a)] {
            prop_assert_eq!(value.is_ok_and(f64::is_finite), c * h * w > 0);
        }
        for value in [ssim(&b, &a), ws_ssim(&b, &a)] {
            prop_assert_eq!(value.is_ok_and(f64::is_finite), c > 0 && h > 10 && w > 10);
        }
        prop_assert_eq!(seam_error(&b, &a).is_ok(), c * h > 0 && w > 17);
        prop_assert_eq!(pole_error(&b, &a, 75.0).is_ok(), c > 0 && h > 6 && w > 5);
        prop_assert_eq!(evaluate(&b, &a).is_ok(), c > 0 && h > 10 && w == 2 * h);
    }
}

#[test]
fn the_pole_error_sees_the_caps_alone_and_weighs_them_by_area() {
    let (h, w) = (180, 360);
    let a = texture(1, h, w);
    // Rows 0..15 and 165..180 lie beyond 75 degrees.
    let middle = Raster::from_fn(1, h, w, |c, y, x| {
        a.get(c, y, x) + if (15..165).contains(&y) { 0.3 } else { 0.0 }
    });
    assert_eq!(pole_error(&middle, &a, 75.0).unwrap().error, 0.0);
    let row = Raster::from_fn(1, h, w, |c, y, x| {
        a.get(c, y, x) + if y == 14 { 0.3 } else { 0.0 }
    });
    let sine = |degrees: f64| degrees.to_radians().sin();
    let share = (sine(76.0) - sine(75.0)) / (2.0 * (1.0 - sine(75.0)));
    let error = pole_error(&row, &a, 75.0).unwrap().error;
    assert!((error - 0.3 * share.sqrt()).abs() < 1e-6);
}

#[test]
fn a_smooth_picture_of_the_sphere_is_consistent_at_its_poles() {
    let erp = Erp::new(64, 128).unwrap();
    let view = |frequency: f64| {
        Raster::from_fn(1, 64, 128, |_, y, x| {
            let [a, b, c] = crate::erp::direction(erp.longitude(x as f64), erp.latitude(y as f64));
            (0.5 + 0.5 * (frequency * (0.8 * a + 0.1 * b + 0.6 * c)).sin()) as f32
        })
    };
    let flat = Raster::zeros(1, 64, 128);
    // Up to half of the finest frequency, 64 radians per radian.
    for frequency in [1.0, 8.0, 32.0] {
        let pole = pole_error(&view(frequency), &flat, 75.0).unwrap();
        assert!(pole.inconsistency < 0.01, "{frequency}: {pole:?}");
        assert_eq!(pole.reference_inconsistency, 0.0);
    }
    let streaks = Raster::from_fn(1, 64, 128, |_, _, x| (x % 2) as f32);
    let pole = pole_error(&streaks, &flat, 75.0).unwrap();
    assert!((pole.inconsistency - 0.5).abs() < 1e-6);
}
