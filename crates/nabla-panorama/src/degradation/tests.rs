use super::*;
use proptest::prelude::*;

/// A picture of numbers in `[0, 1)` without pattern.
fn noise(channels: usize, height: usize, width: usize, seed: u32) -> Raster {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    Raster::from_fn(channels, height, width, |_, _, _| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 24) as f32
    })
}

fn inner(a: &Raster, b: &Raster) -> f64 {
    a.data()
        .iter()
        .zip(b.data())
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

fn greatest_difference(a: &Raster, b: &Raster) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.data()
        .iter()
        .zip(b.data())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

const BOUNDARIES: [Boundary; 3] = [Boundary::Reflect, Boundary::Wrap, Boundary::Replicate];

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let erp = Erp::new(6, 12).unwrap();
    assert_eq!(
        BicubicDown::new(4, erp).unwrap_err(),
        DegradationError::NotDivisible {
            width: 12,
            height: 6,
            scale: 4
        }
    );
    for scale in [0, 1, 17, usize::MAX] {
        let expected = OutOfRange::new("scale of a reduction", scale, "from 2 to 16");
        assert_eq!(
            BicubicDown::new(scale, erp).unwrap_err(),
            DegradationError::Range(expected)
        );
    }
    let operator = BicubicDown::new(2, erp).unwrap();
    let (x, y) = (noise(1, 6, 12, 1), noise(1, 3, 6, 2));
    assert!(operator.apply(&y).is_err());
    assert!(operator.adjoint(&x).is_err());
    assert!(operator.pseudo_inverse(&x).is_err());
    assert!(gradient_decomposition(&operator, &x, &x, 1.0).is_err());
    assert_eq!(
        gradient_decomposition(&operator, &x, &noise(3, 3, 6, 2), 1.0),
        Err(DegradationError::Channels {
            picture: 1,
            measurement: 3
        })
    );
    let empty = BicubicDown::with_boundaries(2, [0, 4], Boundary::Wrap, Boundary::Wrap);
    assert!(matches!(empty, Err(DegradationError::Empty { .. })));
    let huge = BicubicDown::with_boundaries(2, [2, 1 << 40], Boundary::Wrap, Boundary::Wrap);
    assert!(matches!(huge, Err(DegradationError::TooLarge { .. })));
}

#[test]
fn the_kernel_is_centred_so_a_ramp_stays_where_it_is() {
    for scale in [2, 3, 4, 5, 8] {
        let n = 16 * scale;
        let axis = Axis::new(n, scale, Boundary::Reflect).unwrap();
        let mut x: Vec<Lane> = (0..n).map(|i| [i as f64; LANES]).collect();
        let mut out = vec![[0.0; LANES]; 16];
        axis.reduce(&mut x, &mut out);
        for (i, out) in out.iter().enumerate().skip(2).take(12) {
            let middle = (i as f64 + 0.5) * scale as f64 - 0.5;
            assert!((out[0] - middle).abs() < 1e-12, "scale {scale}");
        }
    }
}

/// `A₁` is of full rank at every size and scale: the operator always has its inverse.
#[test]
fn every_size_and_scale_can_be_inverted() {
    for scale in 2..=BicubicDown::MAX_SCALE {
        for boundary in BOUNDARIES {
            for coarse in 1..=20 {
                let axis = Axis::new(coarse * scale, scale, boundary)
                    .unwrap_or_else(|| panic!("{scale} {boundary:?} {coarse}"));
                let y: Vec<Lane> = (0..coarse).map(|i| [(i % 3) as f64; LANES]).collect();
                let mut x = vec![[0.0; LANES]; axis.fine];
                let mut again = vec![[0.0; LANES]; coarse];
                axis.pseudo_invert(&mut y.clone(), &mut x);
                axis.reduce(&mut x, &mut again);
                for (a, b) in again.iter().zip(&y) {
                    assert!((a[3] - b[3]).abs() < 1e-11, "{scale} {boundary:?} {coarse}");
                }
            }
        }
    }
}

#[test]
fn reduction_after_the_pseudo_inverse_is_the_identity() {
    for scale in [2, 3, 4, 8] {
        let erp = Erp::new(48 * scale, 96 * scale).unwrap();
        for operator in [
            BicubicDown::new(scale, erp).unwrap(),
            BicubicDown::official(scale, erp).unwrap(),
        ] {
            let y = noise(2, 48, 96, scale as u32);
            let again = operator
                .apply(&operator.pseudo_inverse(&y).unwrap())
                .unwrap();
            let difference = greatest_difference(&again, &y);
            assert!(difference < 1e-5, "scale {scale}: {difference}");
        }
    }
}

#[test]
fn a_full_step_agrees_with_the_measurement_and_no_step_changes_nothing() {
    for scale in [2, 4] {
        let operator = BicubicDown::new(scale, Erp::new(64, 128).unwrap()).unwrap();
        let x = noise(3, 64, 128, 7);
        let y = noise(3, 64 / scale, 128 / scale, 8);
        let full = gradient_decomposition(&operator, &x, &y, 1.0).unwrap();
        assert!(greatest_difference(&operator.apply(&full).unwrap(), &y) < 1e-5);
        assert_eq!(gradient_decomposition(&operator, &x, &y, 0.0).unwrap(), x);
        // Half a step leaves half of the residual.
        let half = gradient_decomposition(&operator, &x, &y, 0.5).unwrap();
        let (before, after) = (operator.apply(&x).unwrap(), operator.apply(&half).unwrap());
        for ((b, a), y) in before.data().iter().zip(after.data()).zip(y.data()) {
            assert!((0.5 * (b - y) - (a - y)).abs() < 1e-5);
        }
    }
}

#[test]
fn the_operator_commutes_with_a_turn_of_the_panorama() {
    let operator = BicubicDown::new(4, Erp::new(32, 64).unwrap()).unwrap();
    let x = noise(1, 32, 64, 3);
    let turned = Raster::from_fn(1, 32, 64, |c, j, i| x.get(c, j, (i + 20) % 64));
    let (y, y_turned) = (
        operator.apply(&x).unwrap(),
        operator.apply(&turned).unwrap(),
    );
    let expected = Raster::from_fn(1, 8, 16, |c, j, i| y.get(c, j, (i + 5) % 16));
    assert!(greatest_difference(&y_turned, &expected) < 1e-6);
}

#[test]
fn a_constant_stays_constant_both_ways() {
    let operator = BicubicDown::new(4, Erp::new(32, 64).unwrap()).unwrap();
    let y = operator
        .apply(&Raster::zeros(1, 32, 64).map(|_| 0.25))
        .unwrap();
    assert!(y.data().iter().all(|v| (v - 0.25).abs() < 1e-6));
}

#[test]
fn the_small_sample_is_the_operator_applied_to_the_large_one() {
    let (large, small) = nabla_data::sample_panorama().unwrap();
    let erp = Erp::of(&large.raster).unwrap();
    let reduced = BicubicDown::new(4, erp)
        .unwrap()
        .apply(&large.raster)
        .unwrap();
    assert_eq!(reduced.shape(), small.raster.shape());
    let level = |v: f32| (255.0 * v.clamp(0.0, 1.0)).round();
    let mut different = 0;
    for (a, b) in reduced.data().iter().zip(small.raster.data()) {
        let difference = (level(*a) - level(*b)).abs();
        assert!(difference <= 1.0);
        different += usize::from(difference > 0.0);
    }
    // A sample may fall on the other side of a half in f32, but hardly ever.
    assert!(different < 10, "{different} samples differ");
}

proptest! {
    #[test]
    fn the_adjoint_is_the_adjoint(
        scale in 2usize..=8,
        rows in 1usize..6,
        columns in 1usize..20,
        vertical in 0usize..3,
        horizontal in 0usize..3,
        seed in 1u32..1000,
    ) {
        let size = [rows * scale, columns * scale];
        let operator = BicubicDown::with_boundaries(
            scale, size, BOUNDARIES[vertical], BOUNDARIES[horizontal],
        ).unwrap();
        let (x, y) = (noise(2, size[0], size[1], seed), noise(2, rows, columns, seed + 1));
        let left = inner(&operator.apply(&x).unwrap(), &y);
        let right = inner(&x, &operator.adjoint(&y).unwrap());
        prop_assert!((left - right).abs() < 1e-5 * left.abs().max(1.0), "{left} {right}");
    }

    #[test]
    fn the_pseudo_inverse_satisfies_penrose(
        scale in 2usize..=5,
        rows in 1usize..6,
        columns in 1usize..20,
        seed in 1u32..1000,
    ) {
        // A⁺A is symmetric: A⁺ is the pseudo-inverse and not just some right inverse.
        let size = [rows * scale, columns * scale];
        let operator = BicubicDown::with_boundaries(
            scale, size, Boundary::Reflect, Boundary::Wrap,
        ).unwrap();
        let project = |x: &Raster| {
            operator.pseudo_inverse(&operator.apply(x).unwrap()).unwrap()
        };
        let (a, b) = (noise(1, size[0], size[1], seed), noise(1, size[0], size[1], seed + 1));
        let (left, right) = (inner(&project(&a), &b), inner(&a, &project(&b)));
        prop_assert!((left - right).abs() < 1e-5 * left.abs().max(1.0), "{left} {right}");
    }
}
