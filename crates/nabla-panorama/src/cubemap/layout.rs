//! The faces of a cube, and their positions in one picture of all six.

use std::f64::consts::{FRAC_PI_2, PI};

use serde::{Deserialize, Serialize};

use crate::gnomonic::Axes;

/// A face of the cube; see [the module](super) for its orientation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CubeFace {
    /// Longitude 0.
    Front,
    /// Longitude 90 degrees.
    Right,
    /// Longitude 180 degrees.
    Back,
    /// Longitude −90 degrees.
    Left,
    /// The north pole.
    Up,
    /// The south pole.
    Down,
}

impl CubeFace {
    /// The faces in the order of [`Cubemap::faces`](super::Cubemap::faces).
    pub const ALL: [Self; 6] = [
        Self::Front,
        Self::Right,
        Self::Back,
        Self::Left,
        Self::Up,
        Self::Down,
    ];

    pub(super) fn axes(self) -> Axes {
        let (longitude, latitude) = self.centre();
        let axes = Axes::new(longitude, latitude);
        // The axes are those of the coordinates; the sines of their angles are rounded.
        let exact = |v: [f64; 3]| v.map(f64::round);
        Axes {
            right: exact(axes.right),
            up: exact(axes.up),
            forward: exact(axes.forward),
        }
    }

    pub(super) fn centre(self) -> (f64, f64) {
        match self {
            Self::Front => (0.0, 0.0),
            Self::Right => (FRAC_PI_2, 0.0),
            Self::Back => (-PI, 0.0),
            Self::Left => (-FRAC_PI_2, 0.0),
            Self::Up => (0.0, FRAC_PI_2),
            Self::Down => (0.0, -FRAC_PI_2),
        }
    }

    /// The face that sees a direction, and where: `u` to the right and `v` up, from −1 to 1.
    /// Where faces meet, the first of these is used: front and back, left and right, up and down.
    ///
    /// ```
    /// use nabla_panorama::{CubeFace, direction};
    /// let (face, u, v) = CubeFace::of(direction(std::f64::consts::FRAC_PI_2, 0.1));
    /// assert_eq!(face, CubeFace::Right);
    /// assert!(u.abs() < 1e-12 && (v - 0.1f64.tan()).abs() < 1e-12);
    /// ```
    pub fn of([x, y, z]: [f64; 3]) -> (Self, f64, f64) {
        let (face, right, up, forward) = if z.abs() >= x.abs() && z.abs() >= y.abs() {
            if z >= 0.0 {
                (Self::Front, x, y, z)
            } else {
                (Self::Back, -x, y, -z)
            }
        } else if x.abs() >= y.abs() {
            if x >= 0.0 {
                (Self::Right, -z, y, x)
            } else {
                (Self::Left, z, y, -x)
            }
        } else if y >= 0.0 {
            (Self::Up, x, -z, y)
        } else {
            (Self::Down, x, z, -y)
        };
        if forward == 0.0 {
            (face, 0.0, 0.0)
        } else {
            (face, right / forward, up / forward)
        }
    }
}

/// The arrangement of the six faces in one picture. No layout rotates a face.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CubeLayout {
    /// One row of six: front, right, back, left, up, down.
    #[default]
    Strip,
    /// Two rows of three: right, left, up; down, front, back (the order of FFmpeg's `c3x2`).
    Dice,
    /// The unfolded cube, four by three faces: up above and down below the front, and left, front,
    /// right, back in the middle row. The six empty places are 0.
    Cross,
}

nabla_base::choices! {
    CubeLayout: "layout" {
        "strip" => Self::Strip, "One row: front, right, back, left, up, down";
        "dice" => Self::Dice, "Two rows: right, left, up; down, front, back";
        "cross" => Self::Cross, "The unfolded cube, four by three faces";
    }
}

impl CubeLayout {
    /// `(rows, columns)` of faces.
    pub fn shape(self) -> (usize, usize) {
        match self {
            Self::Strip => (1, 6),
            Self::Dice => (2, 3),
            Self::Cross => (3, 4),
        }
    }

    /// `(row, column)` of a face.
    pub fn place(self, face: CubeFace) -> (usize, usize) {
        use CubeFace::{Back, Down, Front, Left, Right, Up};
        match (self, face) {
            (Self::Strip, face) => (0, face as usize),
            (Self::Dice, Right) => (0, 0),
            (Self::Dice, Left) => (0, 1),
            (Self::Dice, Up) => (0, 2),
            (Self::Dice, Down) => (1, 0),
            (Self::Dice, Front) => (1, 1),
            (Self::Dice, Back) => (1, 2),
            (Self::Cross, Up) => (0, 1),
            (Self::Cross, Left) => (1, 0),
            (Self::Cross, Front) => (1, 1),
            (Self::Cross, Right) => (1, 2),
            (Self::Cross, Back) => (1, 3),
            (Self::Cross, Down) => (2, 1),
        }
    }
}
