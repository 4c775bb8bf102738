//! Delaunay tetrahedra of points in space, and the Voronoi graph that is dual to them.
//!
//! Points are inserted one after the other (Bowyer, Watson, 1981): the tetrahedra whose circumscribed balls hold the new
//! point make way for those between it and the border of what they filled. Outside of the hull there are tetrahedra with a
//! vertex at infinity, so that no large tetrahedron around everything spoils the hull. Signs of determinants are exact.

use nabla_base::range::{self, OutOfRange};
use robust::{Coord3D, insphere, orient3d};

/// Why there are no tetrahedra.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DelaunayError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Points that lie on a plane, or on a ball, do not determine tetrahedra.
    #[error(
        "point {0} lies on a plane or ball with others, so that the tetrahedra are not determined: move it a little"
    )]
    Degenerate(usize),
}

/// The vertex at infinity.
const INFINITE: usize = usize::MAX;

/// Four points of a [`Delaunay`], and the tetrahedra beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tetrahedron {
    /// Numbers of points.
    pub corners: [usize; 4],
    /// The tetrahedron opposite of each corner; `None` at the hull.
    pub neighbours: [Option<usize>; 4],
}

/// The tetrahedra of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Delaunay {
    points: Vec<[f64; 3]>,
    tetrahedra: Vec<Tetrahedron>,
}

fn coordinate(p: [f64; 3]) -> Coord3D<f64> {
    Coord3D {
        x: p[0],
        y: p[1],
        z: p[2],
    }
}

fn orientation(points: &[[f64; 3]], [a, b, c, d]: [usize; 4]) -> f64 {
    let [a, b, c, d] = [a, b, c, d].map(|i| coordinate(points[i]));
    orient3d(a, b, c, d)
}

/// The faces opposite of each corner.
fn faces([a, b, c, d]: [usize; 4]) -> [[usize; 3]; 4] {
    [[b, c, d], [a, c, d], [a, b, d], [a, b, c]].map(|mut face| {
        face.sort_unstable();
        face
    })
}

impl Delaunay {
    /// The tetrahedra of at least 4 points in general position.
    ///
    /// # Errors
    /// If there are fewer points, a coordinate is not finite, or points lie on a plane or ball so that the tetrahedra are
    /// not determined.
    pub fn new(points: Vec<[f64; 3]>) -> Result<Self, DelaunayError> {
        range::at_least("number of points", points.len(), 4)?;
        for &x in points.iter().flatten() {
            range::finite("coordinate of a point", x)?;
        }
        // A corner of the first tetrahedron more than once on a plane is a degenerate point.
        let first = match orientation(&points, [0, 1, 2, 3]) {
            sign if sign > 0.0 => [0, 1, 2, 3],
            sign if sign < 0.0 => [1, 0, 2, 3],
            _ => return Err(DelaunayError::Degenerate(3)),
        };
        let inside = {
            let mean = |axis: usize| first.iter().map(|&i| points[i][axis]).sum::<f64>() / 4.0;
            coordinate([mean(0), mean(1), mean(2)])
        };
        let mut cells: Vec<[usize; 4]> = vec![first];
        cells.extend(faces(first).map(|[a, b, c]| [a, b, c, INFINITE]));
        for point in 4..points.len() {
            let p = coordinate(points[point]);
            let (mut kept, mut removed) = (Vec::new(), Vec::new());
            for &cell in &cells {
                let [a, b, c, d] = cell;
                let sign = if d == INFINITE {
                    let [a, b, c] = [a, b, c].map(|i| coordinate(points[i]));
                    // Beyond a face of the hull: on the other side than what is inside.
                    let sign = orient3d(a, b, c, p);
                    match orient3d(a, b, c, inside) > 0.0 {
                        true => -sign,
                        false => sign,
                    }
                } else {
                    let [a, b, c, d] = [a, b, c, d].map(|i| coordinate(points[i]));
                    insphere(a, b, c, d, p)
                };
                if sign == 0.0 {
                    return Err(DelaunayError::Degenerate(point));
                }
                if sign > 0.0 {
                    removed.push(cell);
                } else {
                    kept.push(cell);
                }
            }
            // The border: faces of one removed cell only.
            let mut border: Vec<[usize; 3]> =
                removed.iter().flat_map(|&cell| faces(cell)).collect();
            border.sort_unstable();
            let mut place = 0;
            while place < border.len() {
                let face = border[place];
                if border.get(place + 1) == Some(&face) {
                    place += 2;
                    continue;
                }
                place += 1;
                let [a, b, c] = face;
                kept.push(match c == INFINITE {
                    true => [a, b, point, INFINITE],
                    false => match orientation(&points, [a, b, c, point]) {
                        sign if sign > 0.0 => [a, b, c, point],
                        sign if sign < 0.0 => [b, a, c, point],
                        _ => return Err(DelaunayError::Degenerate(point)),
                    },
                });
            }
            cells = kept;
        }
        cells.retain(|cell| cell[3] != INFINITE);
        Ok(Self {
            tetrahedra: joined(&cells),
            points,
        })
    }

    /// The points.
    pub fn points(&self) -> &[[f64; 3]] {
        &self.points
    }

    /// The tetrahedra.
    pub fn tetrahedra(&self) -> &[Tetrahedron] {
        &self.tetrahedra
    }

    /// Pairs of points that are corners of a tetrahedron, sorted, smaller number first.
    pub fn edges(&self) -> Vec<[usize; 2]> {
        let mut edges = Vec::new();
        for tetrahedron in &self.tetrahedra {
            let mut corners = tetrahedron.corners;
            corners.sort_unstable();
            for i in 0..4 {
                edges.extend((i + 1..4).map(|j| [corners[i], corners[j]]));
            }
        }
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// The middle of the ball around each tetrahedron: the vertices of the Voronoi graph.
    pub fn circumcentres(&self) -> Vec<[f64; 3]> {
        let each = self.tetrahedra.iter().map(|tetrahedron| {
            let [a, b, c, d] = tetrahedron.corners.map(|corner| self.points[corner]);
            let from_a = |p: [f64; 3]| [p[0] - a[0], p[1] - a[1], p[2] - a[2]];
            let [u, v, w] = [b, c, d].map(from_a);
            let square = |x: [f64; 3]| dot(x, x);
            let (vw, wu, uv) = (cross(v, w), cross(w, u), cross(u, v));
            let volume = 2.0 * dot(u, vw);
            std::array::from_fn(|i| {
                a[i] + (square(u) * vw[i] + square(v) * wu[i] + square(w) * uv[i]) / volume
            })
        });
        each.collect()
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

/// Tetrahedra with their neighbours: those with which they have a face in common.
fn joined(cells: &[[usize; 4]]) -> Vec<Tetrahedron> {
    let mut found: Vec<Tetrahedron> = cells
        .iter()
        .map(|&corners| Tetrahedron {
            corners,
            neighbours: [None; 4],
        })
        .collect();
    let mut all: Vec<([usize; 3], usize, usize)> = Vec::with_capacity(4 * cells.len());
    for (cell, &corners) in cells.iter().enumerate() {
        let own = faces(corners).into_iter().enumerate();
        all.extend(own.map(|(side, face)| (face, cell, side)));
    }
    all.sort_unstable();
    for pair in all.windows(2) {
        let [(face, cell, side), (other_face, other, other_side)] = [pair[0], pair[1]];
        if face == other_face {
            found[cell].neighbours[side] = Some(other);
            found[other].neighbours[other_side] = Some(cell);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_grad::seeded_noise::SeededNoise;
    use rand::RngExt;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Reference {
        points: Vec<[f64; 3]>,
        delaunay_edges: Vec<[usize; 2]>,
        tetrahedra: usize,
        circumcentre_sum: [f64; 3],
    }

    /// Those of SciPy, which calls Qhull.
    #[test]
    fn edges_and_centres_are_those_of_scipy() {
        let text = include_str!("../tests/reference/cgs.json");
        let all: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases: Vec<Reference> = serde_json::from_value(all["delaunay"].clone()).unwrap();
        for case in cases {
            let found = Delaunay::new(case.points).unwrap();
            assert_eq!(found.edges(), case.delaunay_edges);
            assert_eq!(found.tetrahedra().len(), case.tetrahedra);
            for axis in 0..3 {
                let centres = found.circumcentres();
                let sum: f64 = centres.iter().map(|c| c[axis].clamp(-9.0, 9.0)).sum();
                assert!((sum - case.circumcentre_sum[axis]).abs() < 1e-6);
            }
        }
    }

    /// No ball around a tetrahedron holds a point, and volumes add up to that of the hull, which a cube's corners make known.
    #[test]
    fn balls_are_empty_and_the_hull_is_filled() {
        let mut noise = SeededNoise::new(3, 0);
        let mut points: Vec<[f64; 3]> = (0..30).map(|_| [0; 3].map(|_| noise.random())).collect();
        for corner in 0..8 {
            let bit = |axis: usize| f64::from(corner >> axis & 1);
            // A little off, since corners of a cube lie on a ball.
            let off = 1e-9 * f64::from(corner * corner);
            points.push([
                bit(0) * 2.0 - 0.5 + off,
                bit(1) * 2.0 - 0.5 - off,
                bit(2) * 2.0 - 0.5,
            ]);
        }
        // Neither are four of them to lie on a plane.
        for (place, point) in points.iter_mut().enumerate().skip(30) {
            point[2] += 1e-9 * (place as f64).sin();
        }
        let found = Delaunay::new(points.clone()).unwrap();
        let mut volume = 0.0;
        for tetrahedron in found.tetrahedra() {
            let corners = tetrahedron.corners;
            let [a, b, c, d] = corners.map(|i| coordinate(points[i]));
            volume += orient3d(a, b, c, d) / 6.0;
            for &point in &points {
                assert!(insphere(a, b, c, d, coordinate(point)) <= 0.0);
            }
            for (side, neighbour) in tetrahedron.neighbours.iter().enumerate() {
                if let &Some(other) = neighbour {
                    let theirs = faces(found.tetrahedra()[other].corners);
                    assert!(theirs.contains(&faces(corners)[side]));
                }
            }
        }
        assert!((volume - 8.0).abs() < 1e-6, "{volume}");
    }

    #[test]
    fn points_on_a_plane_are_refused_in_words() {
        let flat = (0..5).map(|i| [f64::from(i), f64::from(i * i), 0.0]);
        let error = Delaunay::new(flat.collect()).unwrap_err();
        assert!(error.to_string().starts_with("point 3 lies"), "{error}");
        assert!(Delaunay::new(vec![[0.0; 3]; 3]).is_err());
    }
}
