//! Panoramas of a part of the sphere, such as a phone's photosphere.
//!
//! A partial panorama is a rectangle of an equirectangular panorama. It wraps around at the 180-degree
//! meridian only if it covers the full circle, and contains a pole only if it reaches one. The GPano
//! properties of its file ([`PhotoSphere`]) give its position; a picture without them that is twice as wide
//! as high is a whole panorama.

use nabla_data::{PhotoSphere, Picture, Raster};

use crate::{Erp, ErpError, Interpolation, ResampleError, resize_erp};

/// A picture is not a panorama, or its metadata do not say which part of one it is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ErpAreaError {
    /// The whole panorama cannot have this size.
    #[error(transparent)]
    Erp(#[from] ErpError),
    /// The part has no pixels.
    #[error("a part of a panorama needs pixels, but this one is {width} x {height}")]
    Empty {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The part reaches beyond the panorama.
    #[error(
        "a part of {width} x {height} pixels at row {top} does not fit into a panorama of {} x {}",
        whole.width(),
        whole.height()
    )]
    Outside {
        /// The whole panorama.
        whole: Erp,
        /// Columns of the part.
        width: usize,
        /// Rows of the part.
        height: usize,
        /// Its first row.
        top: usize,
    },
    /// The projection is not equirectangular.
    #[error("its metadata say that its projection is {0:?}, but \"equirectangular\" is expected")]
    Projection(String),
    /// The metadata do not fit the picture, or the whole panorama is not 2:1.
    #[error(
        "its metadata say that it is a {} x {} part of a {} x {} panorama, which does not fit its \
         own {width} x {height} pixels",
        stated.cropped_size[0], stated.cropped_size[1], stated.full_size[0], stated.full_size[1]
    )]
    Stretched {
        /// The content of the metadata.
        stated: PhotoSphere,
        /// Columns of the picture.
        width: u32,
        /// Rows of the picture.
        height: u32,
    },
    /// The metadata cannot be parsed.
    #[error("{0}")]
    Metadata(#[from] nabla_data::XmpError),
}

/// A rectangle of an equirectangular panorama. Columns are counted around the sphere, so a rectangle may
/// extend across the 180-degree meridian.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{Erp, ErpArea};
/// let area = ErpArea::new(Erp::new(256, 512)?, [100, 60], [300, 140])?;
/// assert!(!area.is_full_circle());
/// let panorama = Raster::from_fn(1, 256, 512, |_, y, x| (y * 512 + x) as f32);
/// let part = area.cut(&panorama);
/// assert_eq!((part.shape(), part.get(0, 0, 0)), ([1, 140, 300], (60 * 512 + 100) as f32));
/// # Ok::<(), nabla_panorama::ErpAreaError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErpArea {
    whole: Erp,
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl ErpArea {
    /// All of a panorama.
    pub fn full(whole: Erp) -> Self {
        Self {
            whole,
            left: 0,
            top: 0,
            width: whole.width(),
            height: whole.height(),
        }
    }

    /// The rectangle of `[width, height]` pixels at `[left, top]` of the panorama `whole`.
    ///
    /// # Errors
    /// If a side is 0, or the rectangle is wider than the panorama or reaches over a pole.
    pub fn new(
        whole: Erp,
        [left, top]: [usize; 2],
        [width, height]: [usize; 2],
    ) -> Result<Self, ErpAreaError> {
        if width == 0 || height == 0 {
            return Err(ErpAreaError::Empty { width, height });
        }
        if width > whole.width() || top.saturating_add(height) > whole.height() {
            return Err(ErpAreaError::Outside {
                whole,
                width,
                height,
                top,
            });
        }
        Ok(Self {
            whole,
            left: left % whole.width(),
            top,
            width,
            height,
        })
    }

    /// The area of a picture of `[width, height]` according to its `sphere`, scaled in proportion if the
    /// sizes there belong to another size of the picture (`PhotoSphere::fitted`). Without a `sphere`, the
    /// picture must be a whole panorama.
    ///
    /// # Errors
    /// If the properties name another projection or do not fit the picture, or the whole panorama is
    /// not 2:1 or too large.
    pub fn of_photosphere(
        size: [u32; 2],
        sphere: Option<&PhotoSphere>,
    ) -> Result<Self, ErpAreaError> {
        let [width, height] = size.map(|n| n as usize);
        let Some(sphere) = sphere else {
            return Ok(Self::full(Erp::new(height, width)?));
        };
        if !sphere.projection.eq_ignore_ascii_case("equirectangular") {
            return Err(ErpAreaError::Projection(sphere.projection.clone()));
        }
        let fitted = sphere.fitted(size);
        if fitted.is_full() {
            return Ok(Self::full(Erp::new(height, width)?));
        }
        let stretched = || ErpAreaError::Stretched {
            stated: sphere.clone(),
            width: size[0],
            height: size[1],
        };
        // The height of the whole panorama according to each axis. A side of n pixels was rounded, so it
        // gives the other length with a relative error of half a pixel in n.
        let along_width = f64::from(fitted.full_size[0]) / 2.0;
        let along_height = f64::from(fitted.full_size[1]);
        let tolerance = |estimate: f64, side: usize| 1.0 + estimate / side as f64;
        let apart = (along_width - along_height).abs();
        if apart > tolerance(along_width, width) + tolerance(along_height, height) {
            return Err(stretched());
        }
        let finer = if width >= height {
            along_width
        } else {
            along_height
        };
        let rows = (finer.round() as usize).max(height).max(width.div_ceil(2));
        let whole = Erp::new(rows, rows.saturating_mul(2))?;
        let [left, top] = fitted.cropped_offset.map(|n| n as usize);
        // Undo rounding that may have pushed the part over the pole.
        let slack = tolerance(along_height, height) as usize;
        let last = rows - height;
        if top > last + slack {
            return Err(stretched());
        }
        Self::new(whole, [left, top.min(last)], [width, height])
    }

    /// The area of `picture`, and a note if its metadata were ignored: this happens if they make no sense and
    /// the picture is twice as wide as high, so that it can be a panorama without them.
    ///
    /// # Errors
    /// As [`Self::of_photosphere`], if the picture is not twice as wide as high.
    pub fn of_picture(picture: &Picture) -> Result<(Self, Option<String>), ErpAreaError> {
        let size = picture.size();
        let sphere = picture.metadata.photosphere();
        let stated = match sphere {
            Ok(sphere) => Self::of_photosphere(size, sphere.as_ref()),
            Err(error) => Err(error.into()),
        };
        match (stated, Self::of_photosphere(size, None)) {
            (Ok(area), _) => Ok((area, None)),
            (Err(ErpAreaError::Erp(error)), _) => Err(error.into()),
            (Err(error), Ok(whole)) => Ok((
                whole,
                Some(format!("{error}; it is taken for a whole panorama")),
            )),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// The size of the whole panorama.
    pub fn whole(&self) -> Erp {
        self.whole
    }

    /// Left and top in the whole panorama, in pixels.
    pub fn offset(&self) -> [usize; 2] {
        [self.left, self.top]
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Whether it is all of the panorama, in the order of its columns.
    pub fn is_full(&self) -> bool {
        *self == Self::full(self.whole)
    }

    /// Whether its last column is the neighbour of its first one.
    pub fn is_full_circle(&self) -> bool {
        self.width == self.whole.width()
    }

    /// The same part of a panorama of `scale` times as many pixels along each side.
    ///
    /// # Errors
    /// If the whole panorama would be too large.
    pub fn enlarged(&self, scale: usize) -> Result<Self, ErpError> {
        let rows = self.whole.height().saturating_mul(scale);
        Ok(Self {
            whole: Erp::new(rows, rows.saturating_mul(2))?,
            left: self.left * scale,
            top: self.top * scale,
            width: self.width * scale,
            height: self.height * scale,
        })
    }

    /// Its GPano properties.
    pub fn photosphere(&self) -> PhotoSphere {
        // At most `Erp::MAX_WIDTH`.
        let pixels = |[a, b]: [usize; 2]| [a as u32, b as u32];
        PhotoSphere {
            cropped_size: pixels([self.width, self.height]),
            cropped_offset: pixels([self.left, self.top]),
            ..PhotoSphere::full(self.whole.width() as u32, self.whole.height() as u32)
        }
    }

    /// The latitude in radians of each of its rows.
    pub fn latitudes(&self) -> impl Iterator<Item = f64> + '_ {
        (self.top..self.top + self.height).map(|row| self.whole.latitude(row as f64))
    }

    /// The column of the whole panorama for a column of the part.
    pub fn column(&self, column: usize) -> usize {
        (self.left + column) % self.whole.width()
    }

    /// This part of `panorama`, `[channels, H, 2H]`, as `[channels, height, width]`.
    ///
    /// # Panics
    /// If the panorama is not of [`Self::whole`].
    pub fn cut(&self, panorama: &Raster) -> Raster {
        Raster::from_fn(panorama.channels(), self.height, self.width, |c, y, x| {
            panorama.get(c, self.top + y, self.column(x))
        })
    }

    /// Writes `part`, `[channels, height, width]`, into `panorama`, `[channels, H, 2H]`.
    ///
    /// # Panics
    /// If a size is wrong.
    pub fn paste(&self, part: &Raster, panorama: &mut Raster) {
        let whole = self.whole.width();
        for channel in 0..part.channels() {
            let plane = panorama.plane_mut(channel);
            for (row, line) in part.plane(channel).chunks_exact(self.width).enumerate() {
                let target = &mut plane[(self.top + row) * whole..][..whole];
                let first = self.width.min(whole - self.left);
                target[self.left..self.left + first].copy_from_slice(&line[..first]);
                target[..self.width - first].copy_from_slice(&line[first..]);
            }
        }
    }

    /// `part`, `[channels, height, width]`, in a whole panorama, with everything outside of it filled with
    /// the value of the nearest border pixel along rows and columns.
    ///
    /// # Panics
    /// If the part has the wrong size.
    pub fn extended(&self, part: &Raster) -> Raster {
        let (rows, columns) = (self.whole.height(), self.whole.width());
        let gap = columns - self.width;
        Raster::from_fn(part.channels(), rows, columns, |c, y, x| {
            let x = (x + columns - self.left) % columns;
            // Beyond the last column, use the nearer of the two ends.
            let x = match x.checked_sub(self.width) {
                None => x,
                Some(beyond) if 2 * beyond < gap => self.width - 1,
                Some(_) => 0,
            };
            part.get(
                c,
                y.clamp(self.top, self.top + self.height - 1) - self.top,
                x,
            )
        })
    }

    /// `part`, `[channels, height, width]`, enlarged `scale` times along each side, as a piece of a panorama
    /// whose border pixels are repeated outside of it.
    ///
    /// # Errors
    /// If the whole panorama would be too large, or the kernel is not finite.
    ///
    /// # Panics
    /// If the part has the wrong size.
    pub fn resize(
        &self,
        part: &Raster,
        scale: usize,
        interpolation: Interpolation,
    ) -> Result<Raster, ResampleError> {
        let rows = self.whole.height().saturating_mul(scale);
        if self.is_full() {
            return resize_erp(part, rows, interpolation);
        }
        let large = resize_erp(&self.extended(part), rows, interpolation)?;
        Ok(self.enlarged(scale)?.cut(&large))
    }

    /// `part`, `[channels, height, width]`, in a whole panorama of zeros.
    ///
    /// # Panics
    /// If the part has the wrong size.
    pub fn on_black(&self, part: &Raster) -> Raster {
        let (rows, columns) = (self.whole.height(), self.whole.width());
        let mut panorama = Raster::zeros(part.channels(), rows, columns);
        self.paste(part, &mut panorama);
        panorama
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_data::{BitDepth, Metadata};
    use proptest::prelude::*;

    fn area(left: usize) -> ErpArea {
        ErpArea::new(Erp::new(16, 32).unwrap(), [left, 3], [12, 9]).unwrap()
    }

    fn picture(size: [usize; 2], xmp: Option<Vec<u8>>) -> Picture {
        let mut picture = Picture::new(Raster::zeros(1, size[1], size[0]), BitDepth::Eight);
        picture.metadata = Metadata {
            xmp,
            ..Metadata::default()
        };
        picture
    }

    #[test]
    fn a_part_is_cut_out_of_what_it_was_pasted_into_also_over_the_meridian() {
        for left in [0, 4, 20, 27, 31] {
            let area = area(left);
            let part = Raster::from_fn(2, 9, 12, |c, y, x| (c * 1000 + y * 20 + x) as f32);
            assert_eq!(area.cut(&area.on_black(&part)), part);
            let extended = area.extended(&part);
            assert_eq!(area.cut(&extended), part);
            // One step beyond each border.
            let get = |y: usize, x: usize| extended.get(0, y, x % 32);
            assert_eq!(get(5, left + 12), part.get(0, 2, 11));
            assert_eq!(get(5, left + 31), part.get(0, 2, 0));
            assert_eq!(get(2, left + 4), part.get(0, 0, 4));
            assert_eq!(get(15, left + 4), part.get(0, 8, 4));
        }
    }

    #[test]
    fn a_phone_s_photosphere_lies_where_its_metadata_say() {
        let sphere = PhotoSphere {
            cropped_size: [300, 140],
            cropped_offset: [100, 60],
            ..PhotoSphere::full(512, 256)
        };
        let of = |sphere: &PhotoSphere| ErpArea::of_photosphere([300, 140], Some(sphere));
        let expected = ErpArea::new(Erp::new(256, 512).unwrap(), [100, 60], [300, 140]).unwrap();
        assert_eq!(of(&sphere), Ok(expected));
        // The same of a file that was made smaller and kept its metadata.
        assert_eq!(of(&sphere.enlarged(9)), Ok(expected));
        assert_eq!(expected.photosphere(), sphere);
        let two = expected.enlarged(2).unwrap();
        assert_eq!(two.photosphere(), sphere.enlarged(2));
        // A band around the whole circle.
        let band = PhotoSphere {
            cropped_size: [512, 128],
            cropped_offset: [0, 64],
            ..PhotoSphere::full(512, 256)
        };
        let band = ErpArea::of_photosphere([512, 128], Some(&band)).unwrap();
        assert!(band.is_full_circle() && !band.is_full());
    }

    #[test]
    fn metadata_that_make_no_sense_are_believed_less_than_a_picture_of_2_to_1() {
        let sphere = PhotoSphere {
            cropped_offset: [0, 4000],
            cropped_size: [8000, 2000],
            ..PhotoSphere::full(8000, 4000)
        };
        let (area, note) = ErpArea::of_picture(&picture([64, 32], Some(sphere.to_xmp()))).unwrap();
        assert!(area.is_full());
        assert!(
            note.unwrap()
                .contains("8000 x 2000 part of a 8000 x 4000 panorama")
        );
        let error = ErpArea::of_picture(&picture([64, 16], Some(sphere.to_xmp()))).unwrap_err();
        assert!(
            error.to_string().contains("does not fit its own 64 x 16"),
            "{error}"
        );

        let negative = String::from_utf8(PhotoSphere::full(64, 32).to_xmp()).unwrap();
        let negative = negative.replace("TopPixels=\"0\"", "TopPixels=\"-3\"");
        let (area, note) =
            ErpArea::of_picture(&picture([64, 32], Some(negative.clone().into_bytes()))).unwrap();
        assert!(area.is_full());
        assert!(note.unwrap().contains("CroppedAreaTopPixels is \"-3\""));
        let error = ErpArea::of_picture(&picture([64, 16], Some(negative.into_bytes())));
        assert!(error.unwrap_err().to_string().contains("is \"-3\""));

        let other = PhotoSphere {
            projection: "cylindrical".into(),
            ..PhotoSphere::full(64, 16)
        };
        let error = ErpArea::of_picture(&picture([64, 16], Some(other.to_xmp()))).unwrap_err();
        assert!(error.to_string().contains("\"cylindrical\""), "{error}");
        let none = ErpArea::of_picture(&picture([64, 16], None)).unwrap_err();
        assert!(none.to_string().contains("twice as wide as high"), "{none}");
    }

    proptest! {
        /// A partial panorama reduced to any size keeps its position within a pixel.
        #[test]
        fn a_resized_part_lies_where_it_lay(
            left in 0u32..1000, top in 0u32..500, width in 40u32..3000, height in 40u32..1500,
            share in 0.1f64..1.0,
        ) {
            let sphere = PhotoSphere {
                cropped_size: [width, height],
                cropped_offset: [left, top],
                ..PhotoSphere::full(4000, 2000)
            };
            let small = [width, height].map(|n| (f64::from(n) * share).round() as u32);
            let area = ErpArea::of_photosphere(small, Some(&sphere)).unwrap();
            prop_assert_eq!([area.width(), area.height()], small.map(|n| n as usize));
            // A pixel of the small one, or what rounding its sides did to it.
            let near = |a: f64, b: f64, side: u32| (a - b).abs() <= 1.5 + b / f64::from(side);
            prop_assert!(near(area.offset()[0] as f64, f64::from(left) * share, small[0]));
            prop_assert!(near(area.offset()[1] as f64, f64::from(top) * share, small[1]));
            prop_assert!(near(area.whole().height() as f64, 2000.0 * share, small[0].max(small[1])));
        }
    }
}
