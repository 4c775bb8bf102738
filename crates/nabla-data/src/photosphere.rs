//! Photosphere metadata: the GPano properties by which a viewer recognises a panorama.
//!
//! An XMP packet (RDF in XML) states the projection, the size of the whole panorama and the part of
//! it that the picture covers, in pixels. A picture that changes size must change them, or viewers
//! show it stretched or not at all. The rest of the packet stays unchanged, byte for byte.
//!
//! The properties need not fit the picture: many programs resize a panorama without changing them. In that
//! case the size of the picture counts, and the properties are scaled to it ([`PhotoSphere::fitted`]).
//!
//! Source: Google, "Photo Sphere XMP Metadata" (the namespace
//! `http://ns.google.com/photos/1.0/panorama/`); ISO 16684-1 (XMP).

use crate::xmp_packet::{Found, Packet, RDF, XmpError, packet_of};

const GPANO: &str = "http://ns.google.com/photos/1.0/panorama/";
const EXIF: &str = "http://ns.adobe.com/exif/1.0/";
const TIFF: &str = "http://ns.adobe.com/tiff/1.0/";

/// The properties that count pixels and give the position of the picture, by axis (width, height).
const FULL: [&str; 2] = ["FullPanoWidthPixels", "FullPanoHeightPixels"];
const CROPPED: [&str; 2] = [
    "CroppedAreaImageWidthPixels",
    "CroppedAreaImageHeightPixels",
];
const OFFSET: [&str; 2] = ["CroppedAreaLeftPixels", "CroppedAreaTopPixels"];
/// The largest rectangle without empty pixels, counted in the pixels of the whole panorama.
const INTERIOR: [[&str; 2]; 2] = [
    [
        "LargestValidInteriorRectLeft",
        "LargestValidInteriorRectTop",
    ],
    [
        "LargestValidInteriorRectWidth",
        "LargestValidInteriorRectHeight",
    ],
];

/// The GPano properties of a panorama.
#[derive(Clone, Debug, PartialEq)]
pub struct PhotoSphere {
    /// `equirectangular` for every panorama that Nabla writes.
    pub projection: String,
    /// Width and height of the whole panorama, pixels.
    pub full_size: [u32; 2],
    /// Width and height of the part that the picture covers, pixels.
    pub cropped_size: [u32; 2],
    /// Left and top of that part in the whole panorama, pixels.
    pub cropped_offset: [u32; 2],
    /// Compass heading of the centre of the picture, degrees.
    pub pose_heading_degrees: Option<f64>,
}

impl PhotoSphere {
    /// Creates the properties of a picture of `width` x `height` that covers the whole sphere.
    pub fn full(width: u32, height: u32) -> Self {
        Self {
            projection: "equirectangular".into(),
            full_size: [width, height],
            cropped_size: [width, height],
            cropped_offset: [0, 0],
            pose_heading_degrees: None,
        }
    }

    /// Whether the picture covers the whole sphere.
    pub fn is_full(&self) -> bool {
        self.cropped_size == self.full_size && self.cropped_offset == [0, 0]
    }

    /// Reads the GPano properties of a packet; `None` if it has no projection type.
    ///
    /// A size that is not stated is 0. Counts may be written as real numbers (`4096.0`), as some
    /// programs do.
    ///
    /// # Errors
    /// If the packet is not UTF-8 or not XML, or if a count of pixels is negative, a fraction or not a
    /// number. Programs that scale the properties without rounding leave fractions.
    ///
    /// ```
    /// use nabla_data::PhotoSphere;
    /// let sphere = PhotoSphere::full(4096, 2048);
    /// assert_eq!(PhotoSphere::read(&sphere.to_xmp())?, Some(sphere));
    /// assert_eq!(PhotoSphere::read(b"<x/>")?, None);
    /// # Ok::<(), nabla_data::XmpError>(())
    /// ```
    pub fn read(xmp: &[u8]) -> Result<Option<Self>, XmpError> {
        let packet = Packet::parse(xmp)?;
        let Some(projection) = packet.text_of(GPANO, "ProjectionType") else {
            return Ok(None);
        };
        let count = |name: &'static str| match packet.text_of(GPANO, name) {
            None => Ok(0),
            Some(text) => whole(text).ok_or_else(|| XmpError::Pixels {
                name,
                value: text.to_owned(),
            }),
        };
        let counts = |[width, height]: [&'static str; 2]| -> Result<[u32; 2], XmpError> {
            Ok([count(width)?, count(height)?])
        };
        Ok(Some(Self {
            projection: projection.to_owned(),
            full_size: counts(FULL)?,
            cropped_size: counts(CROPPED)?,
            cropped_offset: counts(OFFSET)?,
            pose_heading_degrees: packet.text_of(GPANO, "PoseHeadingDegrees").and_then(number),
        }))
    }

    /// Returns the properties for a picture of `size` (`[width, height]`, pixels), whatever size they were
    /// written for. Sizes and offsets are multiplied by the ratio of `size` to the stated size of the
    /// picture, and rounded. If the covered part is not stated, it is the whole panorama; if the size of the
    /// panorama is not stated, it is the covered part.
    ///
    /// ```
    /// use nabla_data::PhotoSphere;
    /// // Half of a panorama, reduced by a program that did not change the metadata.
    /// let stated = PhotoSphere { cropped_size: [8000, 2000], ..PhotoSphere::full(8000, 4000) };
    /// let fitted = stated.fitted([512, 128]);
    /// assert_eq!((fitted.full_size, fitted.cropped_size), ([512, 256], [512, 128]));
    /// ```
    #[must_use]
    pub fn fitted(&self, size: [u32; 2]) -> Self {
        let mut fitted = self.clone();
        for (axis, &pixels) in size.iter().enumerate() {
            let full = self.full_size[axis];
            let stated = match self.cropped_size[axis] {
                0 => full,
                cropped => cropped,
            };
            let scaled = |count: u32| match stated {
                0 => 0,
                stated => in_proportion(f64::from(count), pixels, stated) as u32,
            };
            fitted.cropped_size[axis] = pixels;
            fitted.full_size[axis] = match full {
                0 => pixels,
                full => scaled(full),
            };
            fitted.cropped_offset[axis] = scaled(self.cropped_offset[axis]);
        }
        fitted
    }

    /// Returns the properties of the same view with every pixel replaced by `scale` x `scale` pixels.
    #[must_use]
    pub fn enlarged(&self, scale: u32) -> Self {
        let larger = |counts: [u32; 2]| counts.map(|n| n.saturating_mul(scale));
        Self {
            full_size: larger(self.full_size),
            cropped_size: larger(self.cropped_size),
            cropped_offset: larger(self.cropped_offset),
            ..self.clone()
        }
    }

    /// The six counts of pixels, with the names of their properties.
    fn counts(&self) -> [(&'static str, u32); 6] {
        [
            (FULL[0], self.full_size[0]),
            (FULL[1], self.full_size[1]),
            (CROPPED[0], self.cropped_size[0]),
            (CROPPED[1], self.cropped_size[1]),
            (OFFSET[0], self.cropped_offset[0]),
            (OFFSET[1], self.cropped_offset[1]),
        ]
    }

    fn description(&self) -> String {
        let heading = match self.pose_heading_degrees {
            Some(degrees) => format!("\n    GPano:PoseHeadingDegrees=\"{degrees:?}\""),
            None => String::new(),
        };
        let projection = quick_xml::escape::escape(self.projection.as_str());
        let counts = attributes(self.counts());
        format!(
            r#"<rdf:Description xmlns:rdf="{RDF}" rdf:about=""
    xmlns:GPano="{GPANO}"
    GPano:UsePanoramaViewer="True"
    GPano:ProjectionType="{projection}"{heading}{counts}/>"#
        )
    }

    /// Returns a packet of XMP with these properties and no others.
    pub fn to_xmp(&self) -> Vec<u8> {
        packet_of(&self.description())
    }

    /// Returns the packet with these properties added; it must not have GPano properties yet.
    ///
    /// # Errors
    /// If the packet is not UTF-8 or not XML, or has no `rdf:RDF` element with an end tag.
    pub fn added_to(&self, xmp: &[u8]) -> Result<Vec<u8>, XmpError> {
        let packet = Packet::parse(xmp)?;
        Ok(packet.with_description(&self.description())?.into_bytes())
    }

    /// Returns the packet with this projection and these sizes and offsets, which replace those that it
    /// states and are added where it states none. A packet without GPano properties gets all of them. Angles
    /// stay unchanged.
    ///
    /// # Errors
    /// If the packet is not UTF-8 or not XML, or has no `rdf:RDF` element with an end tag where
    /// something must be added.
    pub fn set_in(&self, xmp: &[u8]) -> Result<Vec<u8>, XmpError> {
        let packet = Packet::parse(xmp)?;
        if packet.text_of(GPANO, "ProjectionType").is_none() {
            return self.added_to(xmp);
        }
        let set = packet.with_values(|found, old| {
            if found.is(GPANO, "ProjectionType") && !old.eq_ignore_ascii_case(&self.projection) {
                return Some(quick_xml::escape::escape(self.projection.as_str()).into_owned());
            }
            let mut counts = self.counts().into_iter();
            let (_, count) = counts.find(|(name, _)| found.is(GPANO, name))?;
            Some(count.to_string())
        });
        let missing: Vec<(&str, u32)> = self
            .counts()
            .into_iter()
            .filter(|(name, _)| packet.text_of(GPANO, name).is_none())
            .collect();
        if missing.is_empty() {
            return Ok(set.into_bytes());
        }
        let counts = attributes(missing);
        let description = format!(
            r#"<rdf:Description xmlns:rdf="{RDF}" rdf:about="" xmlns:GPano="{GPANO}"{counts}/>"#
        );
        let packet = Packet::parse(set.as_bytes())?;
        Ok(packet.with_description(&description)?.into_bytes())
    }
}

fn attributes<'a>(counts: impl IntoIterator<Item = (&'a str, u32)>) -> String {
    counts
        .into_iter()
        .map(|(name, count)| format!("\n    GPano:{name}=\"{count}\""))
        .collect()
}

/// Returns the packet of a picture that was resized from `from` to `to` (`[width, height]`, pixels).
///
/// The GPano properties that count pixels are multiplied by the ratio of `to` to the size that they
/// state for the picture (to `from`, if they state none) and rounded, so that they fit the picture
/// even if they did not before. The sizes that Exif and TIFF state in XMP become `to`. Angles stay unchanged.
///
/// # Errors
/// If the packet is not UTF-8 or not XML.
///
/// ```
/// use nabla_data::{PhotoSphere, resize_xmp};
/// let small = PhotoSphere::full(256, 128).to_xmp();
/// let large = resize_xmp(&small, [256, 128], [1024, 512])?;
/// assert_eq!(PhotoSphere::read(&large)?, Some(PhotoSphere::full(1024, 512)));
/// # Ok::<(), nabla_data::XmpError>(())
/// ```
pub fn resize_xmp(xmp: &[u8], from: [u32; 2], to: [u32; 2]) -> Result<Vec<u8>, XmpError> {
    let packet = Packet::parse(xmp)?;
    let stated = [0, 1].map(|axis| {
        let count = |names: [&str; 2]| packet.text_of(GPANO, names[axis]).and_then(number);
        let stated = count(CROPPED).or_else(|| count(FULL));
        match stated {
            Some(stated) if stated >= 1.0 => stated,
            _ => f64::from(from[axis]),
        }
    });
    let resized = packet.with_values(|found, old| {
        if let Some(axis) = size_axis(found) {
            return Some(to[axis].to_string());
        }
        let axis = gpano_axis(found)?;
        let old = number(old)?;
        (stated[axis] > 0.0)
            .then(|| format!("{:.0}", (old * f64::from(to[axis]) / stated[axis]).round()))
    });
    Ok(resized.into_bytes())
}

/// 0 for a GPano property that counts pixels along the width, 1 along the height.
fn gpano_axis(found: &Found) -> Option<usize> {
    if found.namespace != GPANO {
        return None;
    }
    (0..2).find(|&axis| {
        [FULL, CROPPED, OFFSET, INTERIOR[0], INTERIOR[1]]
            .iter()
            .any(|names| names[axis] == found.local)
    })
}

/// 0 for the width of the picture in a property of Exif or TIFF, 1 for its height.
fn size_axis(found: &Found) -> Option<usize> {
    let is = |namespace, local| found.is(namespace, local);
    if is(EXIF, "PixelXDimension") || is(TIFF, "ImageWidth") {
        Some(0)
    } else if is(EXIF, "PixelYDimension") || is(TIFF, "ImageLength") {
        Some(1)
    } else {
        None
    }
}

/// `count * pixels / stated`, rounded to the nearest.
fn in_proportion(count: f64, pixels: u32, stated: u32) -> f64 {
    (count * f64::from(pixels) / f64::from(stated)).round()
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|v| v.is_finite())
}

fn whole(text: &str) -> Option<u32> {
    let value = number(text)?;
    (value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value)).then_some(value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone() -> PhotoSphere {
        PhotoSphere {
            cropped_size: [300, 140],
            cropped_offset: [100, 60],
            ..PhotoSphere::full(512, 256)
        }
    }

    #[test]
    fn counts_may_be_real_numbers_but_no_fractions() {
        let with = |text: &str| {
            let xmp = String::from_utf8(phone().to_xmp()).unwrap();
            PhotoSphere::read(xmp.replace("\"100\"", text).as_bytes())
        };
        assert_eq!(with("\"100.0\"").unwrap(), Some(phone()));
        assert_eq!(with("\"1e2\"").unwrap(), Some(phone()));
        for wrong in ["100.5", "-3", "many", "1e99", "NaN"] {
            let error = with(&format!("\"{wrong}\"")).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "GPano:CroppedAreaLeftPixels is \"{wrong}\", but a whole number of pixels is expected"
                )
            );
        }
    }

    #[test]
    fn properties_of_another_size_are_taken_in_proportion() {
        let large = phone().enlarged(7);
        assert_eq!(large.fitted([300, 140]), phone());
        assert_eq!(phone().fitted([300, 140]), phone());
        let whole = PhotoSphere::full(8000, 4000);
        assert_eq!(whole.fitted([512, 256]), PhotoSphere::full(512, 256));
        let unstated = PhotoSphere::full(0, 0);
        assert_eq!(unstated.fitted([64, 32]), PhotoSphere::full(64, 32));
        // Only the whole panorama is stated: the picture is all of it.
        let whole = PhotoSphere {
            cropped_size: [0, 0],
            ..PhotoSphere::full(8000, 4000)
        };
        assert_eq!(whole.fitted([512, 256]), PhotoSphere::full(512, 256));
    }

    #[test]
    fn a_packet_that_does_not_fit_the_picture_fits_it_after_a_change_of_size() {
        let stale = phone().enlarged(7).to_xmp();
        let resized = resize_xmp(&stale, [300, 140], [600, 280]).unwrap();
        assert_eq!(
            PhotoSphere::read(&resized).unwrap(),
            Some(phone().enlarged(2))
        );
    }

    #[test]
    fn what_a_packet_states_is_set_and_what_it_lacks_is_added() {
        let partly = r#"<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description xmlns:g="http://ns.google.com/photos/1.0/panorama/" g:ProjectionType="equirectangular" g:CroppedAreaLeftPixels="-3" g:InitialViewHeadingDegrees="5"/></r:RDF>"#;
        let set = phone().set_in(partly.as_bytes()).unwrap();
        assert_eq!(PhotoSphere::read(&set).unwrap(), Some(phone()));
        let text = String::from_utf8(set).unwrap();
        assert!(text.contains(r#"g:CroppedAreaLeftPixels="100""#), "{text}");
        assert!(
            text.contains(r#"g:InitialViewHeadingDegrees="5""#),
            "{text}"
        );
        let none = r#"<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></r:RDF>"#;
        let set = phone().set_in(none.as_bytes()).unwrap();
        assert_eq!(PhotoSphere::read(&set).unwrap(), Some(phone()));
    }
}
