//! The in-memory picture that all crates of Nabla use.

/// A planar picture of `f32` samples, `[channels, height, width]`, row-major.
///
/// Sample values of a photograph are display-referred (gamma-encoded, as in the file) and lie
/// nominally in `[0, 1]`; nothing clamps them until they are written to a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Raster {
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<f32>,
}

/// The buffer passed to [`Raster::new`] does not have `channels * height * width` samples.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a raster of {channels} x {height} x {width} needs {} samples, but {len} were given",
    channels * height * width
)]
pub struct RasterSizeError {
    /// The number of channels requested.
    pub channels: usize,
    /// The number of rows requested.
    pub height: usize,
    /// The number of columns requested.
    pub width: usize,
    /// The number of samples given.
    pub len: usize,
}

impl Raster {
    /// Wraps `data`, which consists of `channels` planes of `height` rows of `width` samples.
    ///
    /// # Errors
    /// If `data.len() != channels * height * width`.
    ///
    /// ```
    /// use nabla_data::Raster;
    /// let grey = Raster::new(1, 2, 4, vec![0.5; 8])?;
    /// assert_eq!(grey.shape(), [1, 2, 4]);
    /// # Ok::<(), nabla_data::RasterSizeError>(())
    /// ```
    pub fn new(
        channels: usize,
        height: usize,
        width: usize,
        data: Vec<f32>,
    ) -> Result<Self, RasterSizeError> {
        if data.len() == channels * height * width {
            Ok(Self {
                channels,
                height,
                width,
                data,
            })
        } else {
            Err(RasterSizeError {
                channels,
                height,
                width,
                len: data.len(),
            })
        }
    }

    /// Creates a raster of zeros.
    pub fn zeros(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
            data: vec![0.0; channels * height * width],
        }
    }

    /// Creates a raster whose sample at `(channel, row, column)` is `f(channel, row, column)`.
    pub fn from_fn(
        channels: usize,
        height: usize,
        width: usize,
        mut f: impl FnMut(usize, usize, usize) -> f32,
    ) -> Self {
        let mut data = Vec::with_capacity(channels * height * width);
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    data.push(f(c, y, x));
                }
            }
        }
        Self {
            channels,
            height,
            width,
            data,
        }
    }

    /// `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The samples, `[channels, height, width]`, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The samples, mutable.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Returns the samples without a copy.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The samples of one channel, `[height, width]`.
    ///
    /// # Panics
    /// If `channel >= self.channels()`.
    pub fn plane(&self, channel: usize) -> &[f32] {
        let n = self.height * self.width;
        &self.data[channel * n..(channel + 1) * n]
    }

    /// The samples of one channel, mutable.
    ///
    /// # Panics
    /// If `channel >= self.channels()`.
    pub fn plane_mut(&mut self, channel: usize) -> &mut [f32] {
        let n = self.height * self.width;
        &mut self.data[channel * n..(channel + 1) * n]
    }

    /// Returns one sample.
    ///
    /// # Panics
    /// If a coordinate lies outside the raster.
    pub fn get(&self, channel: usize, row: usize, column: usize) -> f32 {
        self.data[(channel * self.height + row) * self.width + column]
    }

    /// Returns the raster with `f` applied to each sample.
    #[must_use]
    pub fn map(mut self, f: impl Fn(f32) -> f32) -> Self {
        for v in &mut self.data {
            *v = f(*v);
        }
        self
    }
}
