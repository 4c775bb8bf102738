//! Filters that choose one of the values in a window, for each channel by itself. Windows end at the border.

use burn::config::Config;
use nabla_base::range::{self, OutOfRange};

use super::{FilterError, PixelFilter, Pixels};

/// The value of rank `rank` in a window of `size` x `size` pixels.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Rank {
    /// Odd. Default 3.
    #[config(default = 3)]
    pub size: usize,
    /// From 0, the least value, to `size² − 1`. Default 4, the median of 3 x 3.
    #[config(default = 4)]
    pub rank: usize,
}

/// The median of a window.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Median {
    /// Odd. Default 3.
    #[config(default = 3)]
    pub size: usize,
}

/// The least value of a window.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Min {
    /// Odd. Default 3.
    #[config(default = 3)]
    pub size: usize,
}

/// The greatest value of a window.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Max {
    /// Odd. Default 3.
    #[config(default = 3)]
    pub size: usize,
}

/// # Errors
/// If the window is even.
pub(super) fn check_window(size: usize) -> Result<(), OutOfRange> {
    range::check(size % 2 == 1, "window of a filter", size, "odd")
}

/// Beyond the border, the nearest pixel counts.
impl PixelFilter for Rank {
    fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let Self { size, rank } = *self;
        check_window(size)?;
        let told = format!("below {}, the number of values in the window", size * size);
        range::check(rank < size * size, "rank of a filter", rank, told)?;
        let reach = (size / 2) as isize;
        Ok(picture.map_pixels(|picture, channel, row, column| {
            let around = (-reach..=reach).flat_map(|dy| {
                (-reach..=reach).map(move |dx| {
                    picture.nearest(channel, row as isize + dy, column as isize + dx)
                })
            });
            let mut window: Vec<f32> = around.collect();
            *window.select_nth_unstable_by(rank, f32::total_cmp).1
        }))
    }
}

impl PixelFilter for Median {
    fn apply(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let rank = self.size * self.size / 2;
        Rank {
            size: self.size,
            rank,
        }
        .apply(picture, other)
    }
}

impl PixelFilter for Min {
    fn apply(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError> {
        Rank {
            size: self.size,
            rank: 0,
        }
        .apply(picture, other)
    }
}

impl PixelFilter for Max {
    fn apply(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError> {
        check_window(self.size)?;
        let rank = self.size * self.size - 1;
        Rank {
            size: self.size,
            rank,
        }
        .apply(picture, other)
    }
}
