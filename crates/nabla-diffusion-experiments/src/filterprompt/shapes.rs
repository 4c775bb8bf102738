//! The pictures: a shape in a colour on a ground.

use nabla_diffusion::filter_prompt::Pixels;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Transferred;

/// The side of a picture and of a shape.
pub(super) const SIDE: usize = 8;
const SHAPE: usize = 5;

/// The shapes, row by row.
const FORMS: [[&str; SHAPE]; 8] = [
    ["#####", "#####", "#####", "#####", "#####"],
    ["..#..", "..#..", "#####", "..#..", "..#.."],
    ["#...#", ".#.#.", "..#..", ".#.#.", "#...#"],
    ["..#..", "..#..", ".###.", ".###.", "#####"],
    ["#.#.#", "#.#.#", "#.#.#", "#.#.#", "#.#.#"],
    ["#####", ".....", "#####", ".....", "#####"],
    ["#####", "#...#", "#...#", "#...#", "#####"],
    ["#....", "#....", "#....", "#....", "#####"],
];

/// A picture, with what it consists of.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    form: usize,
    place: [usize; 2],
    colour: [f32; 3],
    ground: [f32; 3],
}

/// Draws pictures.
pub(super) struct Shapes(StdRng);

impl Shapes {
    /// The pictures of a seed and a stream.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self(StdRng::seed_from_u64(
            seed.wrapping_mul(1_000_003).wrapping_add(stream),
        ))
    }

    /// An even number in `[0, 1)`.
    pub(super) fn share(&mut self) -> f32 {
        self.0.random_range(0.0..1.0)
    }

    /// A picture: half of them light on a dark ground.
    pub(super) fn draw(&mut self) -> Shape {
        let random = &mut self.0;
        let hue = random.random_range(0.0..6.0f32);
        let light = random.random_bool(0.5);
        let value = if light { 1.0 } else { 0.45 };
        let ground = match light {
            true => 0.0..0.15f32,
            false => 0.85..1.0,
        };
        Shape {
            form: random.random_range(0..FORMS.len()),
            place: [0, 1].map(|_| random.random_range(0..=SIDE - SHAPE)),
            colour: of_hue(hue).map(|part| part * value),
            ground: [0, 1, 2].map(|_| random.random_range(ground.clone())),
        }
    }
}

/// The pure colour of a hue from 0 to 6.
fn of_hue(hue: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + hue) % 6.0;
        1.0 - k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

impl Shape {
    fn covers(&self, row: usize, column: usize) -> bool {
        let [top, left] = self.place;
        let inside = |at: usize, from: usize| at.checked_sub(from).filter(|&at| at < SHAPE);
        match (inside(row, top), inside(column, left)) {
            (Some(row), Some(column)) => FORMS[self.form][row].as_bytes()[column] == b'#',
            _ => false,
        }
    }

    /// The picture, `[3, 8, 8]`.
    pub(super) fn pixels(&self) -> Pixels {
        Pixels::from_fn(3, SIDE, SIDE, |channel, row, column| {
            match self.covers(row, column) {
                true => self.colour[channel],
                false => self.ground[channel],
            }
        })
    }

    /// Compares a drawn picture with this shape in the colours of another picture, or the opposite ones.
    ///
    /// A drawn pixel belongs to the shape if its colour is nearer to that of the shape than to the ground.
    pub(super) fn compared(&self, drawn: &Pixels, colours: &Self, inverted: bool) -> Transferred {
        let turned = |colour: [f32; 3]| match inverted {
            true => colour.map(|part| 1.0 - part),
            false => colour,
        };
        let (colour, ground) = (turned(colours.colour), turned(colours.ground));
        let (mut both, mut either) = (0usize, 0usize);
        let mut errors = [(0.0, 0usize); 2];
        for row in 0..SIDE {
            for column in 0..SIDE {
                let found = [0, 1, 2].map(|channel| drawn.get(channel, row, column));
                let distance = |to: [f32; 3]| -> f32 {
                    found.iter().zip(to).map(|(a, b)| (a - b).powi(2)).sum()
                };
                let marked = distance(colour) < distance(ground);
                let covered = self.covers(row, column);
                both += usize::from(marked && covered);
                either += usize::from(marked || covered);
                let (expected, kind) = if covered { (colour, 0) } else { (ground, 1) };
                let parts = found
                    .iter()
                    .zip(expected)
                    .map(|(a, b)| f64::from((a - b).abs()));
                errors[kind].0 += parts.sum::<f64>() / 3.0;
                errors[kind].1 += 1;
            }
        }
        let [colour, ground] = errors.map(|(sum, count)| sum / count.max(1) as f64);
        Transferred {
            overlap: both as f64 / either.max(1) as f64,
            colour,
            ground,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The picture itself is the perfect transfer; the other one's shape is not.
    #[test]
    fn the_right_picture_has_no_error() {
        let mut shapes = Shapes::new(3, 0);
        for _ in 0..50 {
            let (structure, appearance) = (shapes.draw(), shapes.draw());
            let wanted = Shape {
                colour: appearance.colour,
                ground: appearance.ground,
                ..structure.clone()
            };
            let perfect = structure.compared(&wanted.pixels(), &appearance, false);
            assert_eq!(perfect.overlap, 1.0);
            assert!(perfect.colour < 1e-6 && perfect.ground < 1e-6);
            let opposite = wanted.pixels().map(|v| 1.0 - v);
            let inverted = structure.compared(&opposite, &appearance, true);
            assert!(inverted.overlap == 1.0 && inverted.colour < 1e-6);
        }
        let colours = [0.0, 2.0, 4.0].map(of_hue);
        assert_eq!(colours, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
    }
}
