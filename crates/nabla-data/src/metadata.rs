//! The data in an image file besides its samples.

use crate::exif;
use crate::photosphere::{PhotoSphere, resize_xmp};
use crate::xmp_packet::XmpError;

/// The colour profile, the Exif data and the XMP packet of an image file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// ICC colour profile.
    pub icc: Option<Vec<u8>>,
    /// Exif data, from its TIFF header on (without `Exif\0\0`).
    pub exif: Option<Vec<u8>>,
    /// XMP packet. Its statements about bytes outside the picture refer to the file that was read, and are
    /// corrected on writing.
    pub xmp: Option<Vec<u8>>,
    /// The extended XMP of a JPEG file, which did not fit into the packet, such as an embedded picture; lost
    /// in other formats.
    pub extended_xmp: Option<Vec<u8>>,
    /// Texts by keyword, such as the `parameters` of a generated picture; only PNG files have them, and other
    /// formats lose them. A keyword has 1 to 79 Latin-1 characters.
    pub texts: Vec<(String, String)>,
    /// Lines of the header of a Radiance HDR file (`EXPOSURE=`, `VIEW=`, `PRIMARIES=` ...); lost in
    /// other formats.
    pub radiance_header: Vec<String>,
}

impl Metadata {
    /// Whether there is no metadata.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the metadata of the picture after its size changed from `from` to `to` (`[width, height]`,
    /// pixels). The XMP is changed as by [`resize_xmp`], and the Exif tags that state the size are set.
    ///
    /// # Errors
    /// If the XMP packet cannot be parsed. [`Metadata::without_xmp`] returns the part that can then be kept.
    ///
    /// ```
    /// use nabla_data::{Metadata, PhotoSphere};
    /// let metadata = Metadata { xmp: Some(PhotoSphere::full(256, 128).to_xmp()), ..Metadata::default() };
    /// let larger = metadata.resized([256, 128], [512, 256])?;
    /// assert_eq!(larger.photosphere()?, Some(PhotoSphere::full(512, 256)));
    /// # Ok::<(), nabla_data::XmpError>(())
    /// ```
    pub fn resized(&self, from: [u32; 2], to: [u32; 2]) -> Result<Self, XmpError> {
        let mut resized = self.clone();
        if let Some(xmp) = &self.xmp {
            resized.xmp = Some(resize_xmp(xmp, from, to)?);
        }
        if let Some(block) = &mut resized.exif {
            exif::set_pixel_size(block, to[0], to[1]);
        }
        Ok(resized)
    }

    /// The metadata without its XMP.
    #[must_use]
    pub fn without_xmp(self) -> Self {
        Self {
            xmp: None,
            extended_xmp: None,
            ..self
        }
    }

    /// The GPano properties; `None` if there are none.
    ///
    /// # Errors
    /// If the XMP packet cannot be parsed, or a count of pixels is not a count ([`PhotoSphere::read`]).
    pub fn photosphere(&self) -> Result<Option<PhotoSphere>, XmpError> {
        match &self.xmp {
            Some(xmp) => PhotoSphere::read(xmp),
            None => Ok(None),
        }
    }

    /// Writes the sizes and offsets of `sphere` into the XMP packet, replacing those that it has and adding
    /// those that it lacks. All else that it states about the panorama (angles) stays.
    ///
    /// # Errors
    /// If the XMP packet cannot be parsed.
    pub fn with_photosphere(mut self, sphere: &PhotoSphere) -> Result<Self, XmpError> {
        self.xmp = Some(match self.xmp.take() {
            None => sphere.to_xmp(),
            Some(xmp) => sphere.set_in(&xmp)?,
        });
        Ok(self)
    }
}
