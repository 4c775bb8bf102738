use super::*;

/// A panorama given by a function of the direction.
fn panorama(height: usize, f: impl Fn([f64; 3]) -> f64) -> Raster {
    let erp = Erp::new(height, 2 * height).unwrap();
    Raster::from_fn(1, height, 2 * height, |_, row, column| {
        f(direction(
            erp.longitude(column as f64),
            erp.latitude(row as f64),
        )) as f32
    })
}

/// A cube given by a function of the direction.
fn cube(size: usize, f: impl Fn([f64; 3]) -> f64) -> Cubemap {
    let faces = CubeFace::ALL.map(|face| {
        Raster::from_fn(1, size, size, |_, row, column| {
            let at = |i: usize| (2 * i + 1) as f64 / size as f64 - 1.0;
            let d = face.axes().direction(at(column), -at(row));
            let length = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt();
            f(d.map(|x| x / length)) as f32
        })
    });
    Cubemap::from_faces(faces.into()).unwrap()
}

fn waves([x, y, z]: [f64; 3]) -> f64 {
    0.5 + ((3.0 * x + 0.3).sin() * (2.0 * y).cos() + (3.0 * z - y).sin()) / 4.0
}

fn largest_difference(a: &Raster, b: &Raster) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let pairs = a.data().iter().zip(b.data());
    pairs.fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn faces_look_where_they_say() {
    let erp = Erp::new(64, 128).unwrap();
    let way = CubemapProjection::new(erp, 32, Interpolation::BICUBIC).unwrap();
    for axis in 0..3 {
        let made = way.to_cubemap(&panorama(64, |d| d[axis])).unwrap();
        let exact = cube(32, |d| d[axis]);
        for face in CubeFace::ALL {
            let difference = largest_difference(made.face(face), exact.face(face));
            assert!(difference < 2e-3, "{face:?} {axis}: {difference}");
        }
    }
    // Row 0, column 0 of the right face: forward, up and x = 1.
    let d = CubeFace::Right.axes().direction(-1.0, 1.0);
    assert_eq!(d, [1.0, 1.0, 1.0]);
    let d = CubeFace::Up.axes().direction(-1.0, 1.0);
    assert_eq!(d, [-1.0, 1.0, -1.0]);
}

#[test]
fn the_face_of_a_direction_is_the_inverse_of_its_axes() {
    for face in CubeFace::ALL {
        for (u, v) in [(0.0, 0.0), (0.9, -0.4), (-0.3, 0.99)] {
            let (found, x, y) = CubeFace::of(face.axes().direction(u, v));
            assert_eq!(found, face);
            assert!((x - u).abs() < 1e-15 && (y - v).abs() < 1e-15);
        }
    }
    assert_eq!(CubeFace::of([0.0; 3]).0, CubeFace::Front);
}

#[test]
fn there_and_back_keeps_what_is_smooth() {
    let source = panorama(64, waves);
    let erp = Erp::of(&source).unwrap();
    for (interpolation, tolerance) in [
        (Interpolation::Bilinear, 5e-3),
        (Interpolation::BICUBIC, 1e-3),
        (Interpolation::Lanczos3, 2e-3),
    ] {
        let way = CubemapProjection::new(erp, 32, interpolation).unwrap();
        let back = way.to_erp(&way.to_cubemap(&source).unwrap()).unwrap();
        let difference = largest_difference(&source, &back);
        assert!(difference < tolerance, "{interpolation:?}: {difference}");
    }
}

/// In float32, to faces and to planes: the sample grids are exact, so only the kernel loses anything. One
/// with another `a` than Keys' does not even keep a slope, and ends below 90 dB.
#[test]
fn a_smooth_picture_comes_back_above_90_decibels_where_the_kernel_allows_it() {
    use crate::metrics::psnr;
    use crate::tangent::{TangentGrid, TangentOptions, TangentProjection};

    let source = panorama(512, waves);
    let erp = Erp::of(&source).unwrap();
    let decibels = |interpolation| {
        let way = CubemapProjection::new(erp, 256, interpolation).unwrap();
        let cube = way.to_erp(&way.to_cubemap(&source).unwrap()).unwrap();
        let options = TangentOptions::of(interpolation);
        let grid = TangentGrid::octadecaplex();
        let way = TangentProjection::new(grid, erp, 256, options).unwrap();
        let planes = way.to_erp(&way.to_tangent(&source).unwrap()).unwrap();
        [cube, planes].map(|back| psnr(&source, &back).unwrap())
    };
    let keys = decibels(Interpolation::BICUBIC);
    let sharp = decibels(Interpolation::BICUBIC_SHARP);
    println!("a = -0.5: {keys:.1?} dB, a = -0.75: {sharp:.1?} dB");
    assert!(keys.iter().all(|&db| db > 90.0), "{keys:?}");
    assert!(
        sharp
            .iter()
            .zip(keys)
            .all(|(&sharp, keys)| sharp < keys - 20.0),
        "{sharp:?}"
    );
}

#[test]
fn memory_that_is_written_over_leaves_no_trace() {
    let way = |size| {
        let erp = Erp::new(32, 64).unwrap();
        CubemapProjection::new(erp, size, Interpolation::BICUBIC).unwrap()
    };
    let (source, other) = (panorama(32, waves), panorama(32, |d| d[1]));
    let mut made = way(16).to_cubemap(&other).unwrap();
    let mut back = way(16).to_erp(&made).unwrap();
    for size in [16, 12] {
        let way = way(size);
        way.to_cubemap_into(&source, &mut made).unwrap();
        assert_eq!(made, way.to_cubemap(&source).unwrap());
        way.to_erp_into(&made, &mut back).unwrap();
        assert_eq!(back, way.to_erp(&made).unwrap());
    }
}

#[test]
fn seams_are_as_good_as_the_middle_of_faces() {
    let erp = Erp::new(128, 256).unwrap();
    let exact = panorama(128, waves);
    let way = CubemapProjection::new(erp, 24, Interpolation::BICUBIC).unwrap();
    let made = way.to_erp(&cube(24, waves)).unwrap();
    let (mut seams, mut middle) = (0f32, 0f32);
    for row in 0..128 {
        for column in 0..256 {
            let d = direction(erp.longitude(column as f64), erp.latitude(row as f64));
            let (_, u, v) = CubeFace::of(d);
            let error = (made.get(0, row, column) - exact.get(0, row, column)).abs();
            let outermost = u.abs().max(v.abs());
            if outermost > 1.0 - 1.0 / 24.0 {
                seams = seams.max(error);
            } else if outermost < 0.8 {
                middle = middle.max(error);
            }
        }
    }
    assert!(
        seams < 2.0 * middle,
        "{seams} at the seams, {middle} inside"
    );
}

#[test]
fn pixels_are_looked_up_where_their_direction_is() {
    let erp = Erp::new(30, 60).unwrap();
    let way = CubemapProjection::new(erp, 16, Interpolation::BICUBIC).unwrap();
    for row in 0..30 {
        let mut seen = 0;
        for run in way.runs(row) {
            assert_eq!(run.columns.start, seen);
            seen = run.columns.end;
            for (column, &point) in run.columns.clone().zip(way.points(&run)) {
                let at = (erp.longitude(column as f64), erp.latitude(row as f64));
                let (owner, u, v) = CubeFace::of(direction(at.0, at.1));
                // On an edge either face will do.
                if u.abs().max(v.abs()) < 1.0 - 1e-9 {
                    assert_eq!(owner, run.face);
                    let position = way.position(run.factors, point);
                    for (p, x) in position.iter().zip([u, -v]) {
                        let exact = (8.0 + 8.0 * x - 0.5) * f64::from(ONE);
                        assert!((f64::from(*p) - exact).abs() < 0.51);
                    }
                }
            }
        }
        assert_eq!(seen, 60);
    }
}

#[test]
fn layouts_are_cut_as_they_are_put_together() {
    let source = cube(4, |d| d[0] + 10.0 * d[1] + 100.0 * d[2]);
    for layout in [CubeLayout::Strip, CubeLayout::Dice, CubeLayout::Cross] {
        let picture = source.to_layout(layout);
        let (rows, columns) = layout.shape();
        assert_eq!(picture.shape(), [1, 4 * rows, 4 * columns]);
        assert_eq!(Cubemap::from_layout(&picture, layout).unwrap(), source);
        assert!(matches!(
            Cubemap::from_layout(&Raster::zeros(1, 7, 9), layout),
            Err(CubemapError::LayoutSize { .. })
        ));
    }
}

#[test]
fn what_is_no_cube_is_refused() {
    let face = Raster::zeros(3, 4, 4);
    assert!(matches!(
        Cubemap::from_faces(vec![face.clone(); 5]),
        Err(CubemapError::FaceCount { found: 5 })
    ));
    let mut faces = vec![face; 6];
    faces[3] = Raster::zeros(3, 4, 5);
    assert!(matches!(
        Cubemap::from_faces(faces),
        Err(CubemapError::FaceShape {
            face: CubeFace::Left,
            ..
        })
    ));
    assert!(Cubemap::from_faces(vec![Raster::zeros(0, 0, 0); 6]).is_err());
    let erp = Erp::new(8, 16).unwrap();
    assert!(matches!(
        CubemapProjection::new(erp, 0, Interpolation::BICUBIC),
        Err(CubemapError::Range(_))
    ));
    let way = CubemapProjection::new(erp, 4, Interpolation::BICUBIC).unwrap();
    assert!(matches!(
        way.to_cubemap(&Raster::zeros(3, 4, 8)),
        Err(CubemapError::WrongPanorama { .. })
    ));
    assert!(matches!(
        way.to_erp(&cube(5, waves)),
        Err(CubemapError::FaceShape { .. })
    ));
    // Faces smaller than any kernel.
    let way = CubemapProjection::new(erp, 1, Interpolation::Lanczos3).unwrap();
    assert_eq!(way.to_erp(&cube(1, waves)).unwrap().shape(), [1, 8, 16]);
}
