use std::path::Path;

use nabla_data::PanoramaSet;
use wide::f32x8;

use super::sightings::exp2;
use super::*;
use crate::erp::{direction, longitude_latitude};

/// A sum of smooth waves on the sphere, from 0 to 1.
fn smooth(height: usize) -> Raster {
    let erp = Erp::new(height, 2 * height).unwrap();
    Raster::from_fn(3, height, 2 * height, |c, row, column| {
        let [x, y, z] = direction(erp.longitude(column as f64), erp.latitude(row as f64));
        let s = 2.0 + c as f64;
        let f = (s * x + 0.3).sin() * (s * y).cos() + (s * z - y).sin();
        (0.5 + f / 4.0) as f32
    })
}

fn ws_psnr(a: &Raster, b: &Raster) -> f64 {
    let erp = Erp::of(a).unwrap();
    let (mut sum, mut weight) = (0.0, 0.0);
    for (i, (a, b)) in a.data().iter().zip(b.data()).enumerate() {
        let q = erp.row_weight(i / erp.width() % erp.height());
        sum += q * f64::from(a - b).powi(2);
        weight += q;
    }
    -10.0 * (sum / weight).log10()
}

fn projection(erp: Erp, size: usize, options: TangentOptions) -> TangentProjection {
    TangentProjection::new(TangentGrid::octadecaplex(), erp, size, options).unwrap()
}

fn round_trip(panorama: &Raster, size: usize, options: TangentOptions) -> f64 {
    let way = projection(Erp::of(panorama).unwrap(), size, options);
    ws_psnr(
        panorama,
        &way.to_erp(&way.to_tangent(panorama).unwrap()).unwrap(),
    )
}

#[test]
fn there_and_back_keeps_what_is_smooth() {
    let panorama = smooth(64);
    let db = round_trip(&panorama, 32, TangentOptions::default());
    assert!(db > 60.0, "{db}");
    for blend in [Blend::Feather, Blend::Uniform] {
        let options = TangentOptions {
            blend,
            ..TangentOptions::default()
        };
        assert!(round_trip(&panorama, 32, options) > 55.0);
    }
    let grid = TangentGrid::new(vec![(90.0, 1), (0.0, 4), (-90.0, 1)], 100.0).unwrap();
    let erp = Erp::of(&panorama).unwrap();
    let way = TangentProjection::new(grid, erp, 64, TangentOptions::default()).unwrap();
    let back = way.to_erp(&way.to_tangent(&panorama).unwrap()).unwrap();
    assert!(ws_psnr(&panorama, &back) > 60.0);
}

#[test]
fn there_and_back_keeps_a_real_panorama_better_than_the_official_way() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/panoramas");
    let set = PanoramaSet::open(&folder).unwrap();
    let panorama = set.load(set.sample()).unwrap().raster;
    let size = panorama.height() / 2;
    let options = TangentOptions::default();
    let db = round_trip(&panorama, size, options);
    assert!(db >= 40.0, "{db}");
    // The field that planes of 75 official degrees really have, to compare like with like.
    let fov = 2.0 * (75f64.to_radians() / 2.0).atan().to_degrees();
    let grid = TangentGrid::new(TangentGrid::octadecaplex().rows, fov).unwrap();
    let erp = Erp::of(&panorama).unwrap();
    let way = TangentProjection::new(grid, erp, size, options).unwrap();
    let back = way.to_erp(&way.to_tangent(&panorama).unwrap()).unwrap();
    let ours = ws_psnr(&panorama, &back);
    let without = TangentOptions {
        pre_upsample: 1,
        ..TangentOptions::official()
    };
    let without = round_trip(&panorama, size, without);
    let with = round_trip(&panorama, size, TangentOptions::official());
    assert!(
        ours > with + 2.0 && with > without + 6.0,
        "{ours} {with} {without}"
    );
}

#[test]
fn constant_panoramas_stay_constant_whatever_the_options() {
    let panorama = Raster::zeros(5, 16, 32).map(|_| 0.25);
    for to_tangent in [Interpolation::Nearest, Interpolation::Lanczos3] {
        for to_erp in [Interpolation::Bilinear, Interpolation::BICUBIC] {
            for convention in [Convention::PixelCentre, Convention::Official] {
                for pre_upsample in [1, 3] {
                    for size in [1, 7, 8] {
                        let options = TangentOptions {
                            to_tangent,
                            to_erp,
                            convention,
                            pre_upsample,
                            blend: Blend::Gaussian { variance: 1e-4 },
                        };
                        let erp = Erp::of(&panorama).unwrap();
                        let way = projection(erp, size, options);
                        let planes = way.to_tangent(&panorama).unwrap();
                        assert!(way.spread(&planes).unwrap() < 1e-10);
                        let back = way.to_erp(&planes).unwrap();
                        assert!(back.data().iter().all(|v| (v - 0.25).abs() < 1e-5));
                    }
                }
            }
        }
    }
}

#[test]
fn coverage_is_that_of_the_solid_angle_and_leaves_no_hole() {
    let erp = Erp::new(128, 256).unwrap();
    let official = TangentOptions {
        convention: Convention::Official,
        ..TangentOptions::default()
    };
    for (options, planes) in [(TangentOptions::default(), 2.175), (official, 1.745)] {
        let way = projection(erp, 8, options);
        let seen = way.coverage();
        let (mut sum, mut area) = (0.0, 0.0);
        for row in 0..128 {
            for column in 0..256 {
                let n = seen.get(0, row, column);
                assert!((1.0..=6.0).contains(&n), "{n} at {column}, {row}");
                sum += erp.row_weight(row) * f64::from(n);
                area += erp.row_weight(row);
            }
        }
        // A square pyramid of half field h: 4 asin(h²/(1 + h²)).
        let h2 = way.half_field().powi(2);
        let exact = 18.0 * 4.0 * (h2 / (1.0 + h2)).asin() / (4.0 * PI);
        assert!((exact - planes).abs() < 1e-3);
        assert!((sum / area - exact).abs() < 0.03);
    }
}

#[test]
fn planes_that_leave_a_hole_are_refused() {
    let rows = TangentGrid::octadecaplex().rows().to_vec();
    assert_eq!(
        TangentGrid::new(rows.clone(), 75.0).unwrap(),
        TangentGrid::octadecaplex()
    );
    assert!(TangentGrid::new(rows.clone(), 66.0).is_ok());
    let hole = TangentGrid::new(rows.clone(), 65.0);
    let Err(TangentGridError::Uncovered {
        longitude,
        latitude,
    }) = hole
    else {
        panic!("{hole:?}");
    };
    // And nobody sees that point.
    let h = (65f64.to_radians() / 2.0).tan();
    let unseen = TangentGrid::octadecaplex().planes().iter().all(|plane| {
        plane
            .point(longitude.to_radians(), latitude.to_radians())
            .is_none_or(|(x, y)| x.abs() > h || y.abs() > h)
    });
    assert!(unseen);
    // In the official way of counting, 74 degrees is the smallest whole number.
    let erp = Erp::new(16, 32).unwrap();
    let official = |fov| {
        let grid = TangentGrid::new(rows.clone(), fov).unwrap();
        TangentProjection::new(grid, erp, 8, TangentOptions::official())
    };
    assert!(official(75.0).is_ok() && official(74.0).is_ok());
    assert!(matches!(
        official(73.0),
        Err(TangentError::Grid(TangentGridError::Uncovered { .. }))
    ));
    // Faces that touch leave no hole. (At the poles, one of four alike would do.)
    let cube = vec![(90.0, 4), (0.0, 4), (-90.0, 4)];
    assert!(TangentGrid::new(cube.clone(), 90.0).is_ok());
    assert!(TangentGrid::new(cube, 89.9).is_err());
}

#[test]
fn the_official_grids_cover_the_sphere() {
    for (grid, planes) in [
        (TangentGrid::three_rows(100.0), 10),
        (TangentGrid::five_rows(75.0), 26),
        (TangentGrid::six_rows(60.0), 46),
    ] {
        assert_eq!(grid.unwrap().len(), planes);
    }
    assert!(TangentGrid::three_rows(75.0).is_err());
}

#[test]
fn what_makes_no_grid_or_projection_is_refused() {
    let new = TangentGrid::new;
    assert_eq!(new(vec![], 75.0), Err(TangentGridError::NoRows));
    assert_eq!(
        new(vec![(0.0, 4), (10.0, 0)], 75.0),
        Err(TangentGridError::NoColumns { row: 1 })
    );
    assert_eq!(
        new(vec![(0.0, usize::MAX), (0.0, 1)], 75.0),
        Err(TangentGridError::TooManyPlanes)
    );
    assert!(new(vec![(f64::NAN, 4)], 75.0).is_err());
    assert!(new(vec![(91.0, 4)], 75.0).is_err());
    assert!(new(vec![(0.0, 4)], 180.0).is_err());
    assert!(new(vec![(0.0, 4)], f64::NAN).is_err());

    let erp = Erp::new(16, 32).unwrap();
    let grid = TangentGrid::octadecaplex;
    let options = TangentOptions::default;
    let with = |size, options| TangentProjection::new(grid(), erp, size, options);
    assert!(matches!(
        with(0, options()),
        Err(TangentError::PlaneSize { .. })
    ));
    assert!(matches!(
        with(usize::MAX, options()),
        Err(TangentError::PlaneSize { .. })
    ));
    let bad = TangentOptions {
        pre_upsample: 0,
        ..options()
    };
    assert!(matches!(with(8, bad), Err(TangentError::Range(_))));
    let bad = TangentOptions {
        pre_upsample: 2000,
        ..options()
    };
    assert!(matches!(with(8, bad), Err(TangentError::Erp(_))));
    let bad = TangentOptions {
        blend: Blend::Gaussian { variance: 0.0 },
        ..options()
    };
    assert!(matches!(with(8, bad), Err(TangentError::Range(_))));

    let way = with(8, options()).unwrap();
    assert!(matches!(
        way.to_tangent(&Raster::zeros(3, 8, 16)),
        Err(TangentError::WrongPanorama { .. })
    ));
    assert!(way.to_tangent(&Raster::zeros(0, 16, 32)).is_err());
    assert!(matches!(
        way.to_erp(&[]),
        Err(TangentError::WrongPlaneCount { .. })
    ));
    let mut planes = vec![Raster::zeros(3, 8, 8); 18];
    planes[5] = Raster::zeros(3, 8, 9);
    assert!(matches!(
        way.to_erp(&planes),
        Err(TangentError::WrongPlane { index: 5, .. })
    ));
    assert!(way.spread(&vec![Raster::zeros(0, 8, 8); 18]).is_err());
}

#[test]
fn a_panorama_turned_by_whole_pixels_gives_turned_planes() {
    let panorama = smooth(48);
    let shift = 96 / 3;
    let turned = Raster::from_fn(3, 48, 96, |c, y, x| panorama.get(c, y, (x + shift) % 96));
    let way = projection(Erp::of(&panorama).unwrap(), 24, TangentOptions::default());
    let planes = way.to_tangent(&panorama).unwrap();
    let turned_planes = way.to_tangent(&turned).unwrap();
    // One plane on in a row of three, two in a row of six.
    let mut start = 0;
    for &(_, columns) in way.grid().rows() {
        for j in 0..columns {
            let other = &planes[start + (j + columns / 3) % columns];
            assert!(turned_planes[start + j] == *other, "not bit for bit");
        }
        start += columns;
    }
    let back = way.to_erp(&planes).unwrap();
    let turned_back = way.to_erp(&turned_planes).unwrap();
    for c in 0..3 {
        for y in 0..48 {
            for x in 0..96 {
                let (a, b) = (back.get(c, y, (x + shift) % 96), turned_back.get(c, y, x));
                assert!((a - b).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn memory_that_is_written_over_leaves_no_trace() {
    let (a, b) = (smooth(32), smooth(32).map(|v| 1.0 - v));
    let mut planes = vec![Raster::zeros(1, 2, 3); 20];
    let mut back = Raster::zeros(3, 32, 64).map(|_| f32::NAN);
    for size in [16, 11] {
        let way = projection(Erp::of(&a).unwrap(), size, TangentOptions::default());
        for panorama in [&a, &b] {
            way.to_tangent_into(panorama, &mut planes).unwrap();
            assert!(planes == way.to_tangent(panorama).unwrap());
            way.to_erp_into(&planes, &mut back).unwrap();
            assert!(back == way.to_erp(&planes).unwrap());
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let panorama = smooth(40);
    let way = projection(Erp::of(&panorama).unwrap(), 21, TangentOptions::default());
    let run = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| {
                let planes = way.to_tangent(&panorama).unwrap();
                let back = way.to_erp(&planes).unwrap();
                let spread = way.spread(&planes).unwrap();
                (planes, back, spread.to_bits())
            })
    };
    assert!(run(1) == run(3));
}

#[test]
fn spread_is_the_variance_of_what_the_planes_say() {
    // Planes that alternate between 0 and 1: where n see a pixel and m say 1, the variance is
    // m/n (1 − m/n).
    let erp = Erp::new(32, 64).unwrap();
    let way = projection(erp, 16, TangentOptions::default());
    let planes: Vec<Raster> = (0..18)
        .map(|i| Raster::zeros(6, 16, 16).map(|_| (i % 2) as f32))
        .collect();
    let h = way.half_field();
    let (mut sum, mut area) = (0.0, 0.0);
    for row in 0..32 {
        for column in 0..64 {
            let at = (erp.longitude(column as f64), erp.latitude(row as f64));
            let says: Vec<usize> = (0..18)
                .filter(|&i| {
                    let point = way.planes()[i].point(at.0, at.1);
                    point.is_some_and(|(x, y)| x.abs() <= h && y.abs() <= h)
                })
                .map(|i| i % 2)
                .collect();
            if says.len() >= 2 {
                let p = says.iter().sum::<usize>() as f64 / says.len() as f64;
                sum += erp.row_weight(row) * p * (1.0 - p);
                area += erp.row_weight(row);
            }
        }
    }
    let spread = way.spread(&planes).unwrap();
    assert!(
        (spread - sum / area).abs() < 1e-6,
        "{spread} {}",
        sum / area
    );
}

#[test]
fn powers_of_two_are_close_enough() {
    for i in 0..2000 {
        let x = -i as f32 * 0.049;
        let y = exp2(f32x8::splat(x)).to_array()[3];
        let exact = f64::from(x).exp2();
        assert!((f64::from(y) / exact - 1.0).abs() < 1e-6, "2^{x}");
    }
    assert!(exp2(f32x8::splat(-1e9)).to_array()[0] > 0.0);
}

#[test]
fn directions_and_points_of_a_plane_are_inverse() {
    for plane in TangentGrid::octadecaplex().planes() {
        for (x, y) in [(0.0, 0.0), (0.7, -0.3), (-0.75, 0.75)] {
            let (longitude, latitude) = longitude_latitude(plane.direction(x, y));
            let (u, v) = plane.point(longitude, latitude).unwrap();
            assert!((u - x).abs() < 1e-12 && (v - y).abs() < 1e-12);
        }
    }
}
