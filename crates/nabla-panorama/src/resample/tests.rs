use super::*;
use proptest::prelude::*;

const ALL: [Interpolation; 5] = [
    Interpolation::Nearest,
    Interpolation::Bilinear,
    Interpolation::BICUBIC,
    Interpolation::BICUBIC_SHARP,
    Interpolation::Lanczos3,
];

/// A panorama without any pattern.
fn noise(channels: usize, height: usize) -> Raster {
    Raster::from_fn(channels, height, 2 * height, |c, y, x| {
        let n = ((c * 7919 + y) * 104_729 + x).wrapping_mul(0x9E37_79B9) as u32;
        (n >> 8) as f32 / (1 << 24) as f32
    })
}

#[test]
fn a_pixel_centre_gives_the_pixel() {
    let picture = noise(5, 6);
    for interpolation in ALL {
        for sampler in [
            PixelSampler::erp(&picture, interpolation).unwrap(),
            PixelSampler::planar(&picture, interpolation).unwrap(),
        ] {
            let points: Vec<_> = (0..72)
                .map(|i| ((i % 12) as f64, (i / 12) as f64))
                .collect();
            for (a, b) in sampler.sample(&points).data().iter().zip(picture.data()) {
                assert!((a - b).abs() < 1e-6, "{interpolation:?}");
            }
        }
    }
}

#[test]
fn keys_kernel_reproduces_parabolas_and_every_kernel_a_constant() {
    let parabola = Raster::from_fn(1, 1, 20, |_, _, x| (x as f32 - 9.0).powi(2) / 50.0);
    let sampler = PixelSampler::planar(&parabola, Interpolation::BICUBIC).unwrap();
    for i in 0..100 {
        let x = 3.0 + 0.13 * f64::from(i);
        let value = f64::from(sampler.sample(&[(x, 0.0)]).data()[0]);
        assert!((value - (x - 9.0).powi(2) / 50.0).abs() < 1e-5);
    }
    let constant = Raster::zeros(2, 6, 12).map(|_| 0.75);
    let points: Vec<_> = (0..50)
        .map(|i| (0.37 * f64::from(i) - 3.0, 0.11 * f64::from(i)))
        .collect();
    for interpolation in ALL {
        let sampler = PixelSampler::erp(&constant, interpolation).unwrap();
        assert!(
            sampler
                .sample(&points)
                .data()
                .iter()
                .all(|v| (v - 0.75).abs() < 1e-6)
        );
        for height in [1, 3, 6, 20] {
            let resized = resize_erp(&constant, height, interpolation).unwrap();
            assert!(resized.data().iter().all(|v| (v - 0.75).abs() < 1e-6));
        }
    }
}

#[test]
fn a_planar_picture_is_constant_beyond_its_border() {
    let picture = noise(1, 5);
    for interpolation in ALL {
        let sampler = PixelSampler::planar(&picture, interpolation).unwrap();
        let far = [
            (-1e9, 2.0),
            (1e9, 2.0),
            (f64::NEG_INFINITY, 2.0),
            (f64::INFINITY, 2.0),
        ];
        let values = sampler.sample(&far);
        let expected = [0, 9, 0, 9].map(|x| picture.get(0, 2, x));
        for (a, b) in values.data().iter().zip(expected) {
            assert!((a - b).abs() < 1e-6);
        }
        // Not a number, but no panic either.
        sampler.sample(&[(f64::NAN, f64::NAN)]);
        PixelSampler::erp(&picture, interpolation)
            .unwrap()
            .sample(&[(f64::NAN, f64::INFINITY)]);
    }
}

#[test]
fn the_pixels_of_a_frame_are_numbered_in_order() {
    for (height, width, reach) in [(4, 5, 3), (1, 1, 2), (3, 2, 1)] {
        let frame = Frame {
            height,
            width,
            reach,
        };
        let mut cells = 0;
        for (i, (column, row)) in frame.cells().enumerate() {
            assert_eq!(frame.cell(column as i32, row as i32), Some(i));
            cells = i + 1;
        }
        assert_eq!(frame.len(), cells);
        assert_eq!(frame.cell(0, 0), None);
        assert_eq!(frame.cell(-100, -100), Some(0));
    }
}

#[test]
fn borders_are_sampled_as_the_middle_is() {
    // The same pixels once as a border and once amidst of what lies beyond it, bit for bit.
    let (height, width) = (6i64, 12i64);
    let small = noise(5, 6);
    let erp = Erp::of(&small).unwrap();
    let large = |at: &dyn Fn(i64, i64) -> (usize, usize)| {
        Raster::from_fn(5, 22, 28, |c, y, x| {
            let (x, y) = at(x as i64 - 8, y as i64 - 8);
            small.get(c, y, x)
        })
    };
    let wrapped = large(&|x, y| erp.wrap(x, y));
    let repeated = large(&|x, y| {
        (
            x.clamp(0, width - 1) as usize,
            y.clamp(0, height - 1) as usize,
        )
    });
    let points: Vec<(f64, f64)> = (0..400)
        .map(|i| {
            (
                f64::from(i % 25) / 2.0 - 0.25,
                f64::from(i / 25) * 0.375 - 0.5,
            )
        })
        .filter(|&(x, _)| (0.0..12.0).contains(&x))
        .collect();
    let inside: Vec<_> = points.iter().map(|(x, y)| (x + 8.0, y + 8.0)).collect();
    for interpolation in ALL {
        let pairs = [
            (PixelSampler::erp(&small, interpolation), &wrapped),
            (PixelSampler::planar(&small, interpolation), &repeated),
        ];
        for (border, large) in pairs {
            let middle = PixelSampler::planar(large, interpolation).unwrap();
            assert!(border.unwrap().sample(&points) == middle.sample(&inside));
        }
    }
}

#[test]
fn resizing_to_the_same_size_changes_nothing() {
    let picture = noise(2, 9);
    for interpolation in ALL {
        let same = resize_erp(&picture, 9, interpolation).unwrap();
        for (a, b) in same.data().iter().zip(picture.data()) {
            assert!((a - b).abs() < 1e-6, "{interpolation:?}");
        }
    }
}

#[test]
fn resizing_turns_with_the_panorama() {
    let panorama = noise(1, 8);
    let turned = Raster::from_fn(1, 8, 16, |_, y, x| panorama.get(0, y, (x + 4) % 16));
    for interpolation in ALL {
        for (height, shift) in [(16, 8), (4, 2), (24, 12)] {
            let a = resize_erp(&panorama, height, interpolation).unwrap();
            let b = resize_erp(&turned, height, interpolation).unwrap();
            for y in 0..height {
                for x in 0..2 * height {
                    let (a, b) = (a.get(0, y, (x + shift) % (2 * height)), b.get(0, y, x));
                    assert!((a - b).abs() < 1e-6);
                }
            }
        }
    }
}

#[test]
fn enlarging_is_sampling_at_the_new_centres() {
    let panorama = noise(1, 6);
    for interpolation in [Interpolation::Bilinear, Interpolation::BICUBIC] {
        let large = resize_erp(&panorama, 18, interpolation).unwrap();
        let sampler = PixelSampler::erp(&panorama, interpolation).unwrap();
        for y in 0..18 {
            for x in 0..36 {
                let at = |i: usize| (i as f64 + 0.5) / 3.0 - 0.5;
                let value = sampler.sample(&[(at(x), at(y))]).data()[0];
                assert!((large.get(0, y, x) - value).abs() < 2e-5);
            }
        }
    }
}

#[test]
fn what_cannot_be_resampled_is_refused() {
    let not_two_to_one = Raster::zeros(1, 4, 4);
    assert!(matches!(
        PixelSampler::erp(&not_two_to_one, Interpolation::BICUBIC),
        Err(ResampleError::Erp(ErpError::NotTwoToOne { .. }))
    ));
    let empty = Raster::zeros(0, 4, 8);
    assert!(matches!(
        PixelSampler::erp(&empty, Interpolation::BICUBIC),
        Err(ResampleError::Empty { channels: 0, .. })
    ));
    let panorama = Raster::zeros(1, 4, 8);
    let kernel = Interpolation::Bicubic { a: f32::NAN };
    assert!(matches!(
        resize_erp(&panorama, 8, kernel),
        Err(ResampleError::Range(_))
    ));
    assert!(resize_erp(&panorama, usize::MAX, Interpolation::BICUBIC).is_err());
    assert!(resize_erp(&panorama, 0, Interpolation::BICUBIC).is_err());
    assert!(matches!(
        resize_planar(&panorama, 0, 3, Interpolation::BICUBIC),
        Err(ResampleError::Size {
            height: 0,
            width: 3
        })
    ));
}

proptest! {
    #[test]
    fn sampling_a_panorama_is_periodic(
        x in -0.5f64..15.5,
        y in -0.5f64..7.5,
        turns in -3i32..4,
        kind in 0usize..5,
    ) {
        let panorama = noise(3, 8);
        let sampler = PixelSampler::erp(&panorama, ALL[kind]).unwrap();
        // Positions are multiples of 2^-16 pixels: take one, so that all are exact.
        let snap = |v: f64| (v * 65536.0).round() / 65536.0;
        let (x, y) = (snap(x), snap(y));
        let here = sampler.sample(&[(x, y)]);
        let around = sampler.sample(&[(x + 16.0 * f64::from(turns), y)]);
        prop_assert_eq!(here.data(), around.data());
        // Over the north pole and over the south pole, to the other side of the same parallel;
        // a mirrored position, whose taps are added in another order.
        if ALL[kind] != Interpolation::Nearest {
            for row in [-1.0 - y, 15.0 - y] {
                let over = sampler.sample(&[(x + 8.0, row)]);
                for (a, b) in here.data().iter().zip(over.data()) {
                    prop_assert!((a - b).abs() < 1e-5);
                }
            }
        }
    }
}
