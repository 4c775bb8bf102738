//! Photosphere metadata: the GPano properties by which a viewer knows that a picture is a panorama.
//!
//! An XMP packet (RDF in XML) states the projection, the size of the whole panorama and the part of
//! it that the picture covers, in pixels. A picture that changes size must change them, or viewers
//! show it stretched or not at all. RDF allows a property as an attribute
//! (`GPano:FullPanoWidthPixels="4096"`) or as an element
//! (`<GPano:FullPanoWidthPixels>4096</GPano:FullPanoWidthPixels>`); both are handled, under any
//! prefix. Everything else of the packet stays as it is, byte for byte.
//!
//! Source: Google, "Photo Sphere XMP Metadata" (the namespace
//! `http://ns.google.com/photos/1.0/panorama/`); ISO 16684-1 (XMP).

use std::ops::Range;

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

const GPANO: &str = "http://ns.google.com/photos/1.0/panorama/";
const EXIF: &str = "http://ns.adobe.com/exif/1.0/";
const TIFF: &str = "http://ns.adobe.com/tiff/1.0/";
const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";

/// A packet of XMP that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmpError {
    /// Not UTF-8.
    #[error("the XMP metadata is not UTF-8 text, although UTF-8 is expected in image files")]
    NotUtf8,
    /// Not XML.
    #[error("the XMP metadata is damaged at byte {position}: {reason}")]
    Malformed {
        /// Offset in the packet.
        position: u64,
        /// What the XML reader said.
        reason: String,
    },
    /// XML, but no RDF to add properties to.
    #[error("the XMP metadata has no rdf:RDF element to add properties to")]
    NoRdf,
}

/// What the GPano properties say about a panorama.
#[derive(Clone, Debug, PartialEq)]
pub struct PhotoSphere {
    /// `equirectangular` for every panorama that Nabla makes.
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
    /// A picture of `width` x `height` that covers the whole sphere.
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
    /// A size that is not stated is 0.
    ///
    /// # Errors
    /// If the packet is not UTF-8 or not XML.
    ///
    /// ```
    /// use nabla_data::PhotoSphere;
    /// let sphere = PhotoSphere::full(4096, 2048);
    /// assert_eq!(PhotoSphere::read(&sphere.to_xmp())?, Some(sphere));
    /// assert_eq!(PhotoSphere::read(b"<x/>")?, None);
    /// # Ok::<(), nabla_data::XmpError>(())
    /// ```
    pub fn read(xmp: &[u8]) -> Result<Option<Self>, XmpError> {
        let text = std::str::from_utf8(xmp).map_err(|_| XmpError::NotUtf8)?;
        let mut projection = None;
        let mut sphere = Self::full(0, 0);
        for Property { name, value, .. } in properties(text)?.found {
            let value = text[value].trim();
            let pixels = number(value).unwrap_or(0.0) as u32;
            match (name.namespace, name.local.as_str()) {
                (GPANO, "ProjectionType") => projection = Some(value.to_owned()),
                (GPANO, "FullPanoWidthPixels") => sphere.full_size[0] = pixels,
                (GPANO, "FullPanoHeightPixels") => sphere.full_size[1] = pixels,
                (GPANO, "CroppedAreaImageWidthPixels") => sphere.cropped_size[0] = pixels,
                (GPANO, "CroppedAreaImageHeightPixels") => sphere.cropped_size[1] = pixels,
                (GPANO, "CroppedAreaLeftPixels") => sphere.cropped_offset[0] = pixels,
                (GPANO, "CroppedAreaTopPixels") => sphere.cropped_offset[1] = pixels,
                (GPANO, "PoseHeadingDegrees") => sphere.pose_heading_degrees = number(value),
                _ => {}
            }
        }
        Ok(projection.map(|projection| Self {
            projection,
            ..sphere
        }))
    }

    fn description(&self) -> String {
        let [full_width, full_height] = self.full_size;
        let [width, height] = self.cropped_size;
        let [left, top] = self.cropped_offset;
        let heading = match self.pose_heading_degrees {
            Some(degrees) => format!("\n    GPano:PoseHeadingDegrees=\"{degrees:?}\""),
            None => String::new(),
        };
        let projection = quick_xml::escape::escape(self.projection.as_str());
        format!(
            r#"<rdf:Description xmlns:rdf="{RDF}" rdf:about=""
    xmlns:GPano="{GPANO}"
    GPano:UsePanoramaViewer="True"
    GPano:ProjectionType="{projection}"{heading}
    GPano:FullPanoWidthPixels="{full_width}"
    GPano:FullPanoHeightPixels="{full_height}"
    GPano:CroppedAreaImageWidthPixels="{width}"
    GPano:CroppedAreaImageHeightPixels="{height}"
    GPano:CroppedAreaLeftPixels="{left}"
    GPano:CroppedAreaTopPixels="{top}"/>"#
        )
    }

    /// A packet of XMP with these properties and no others.
    pub fn to_xmp(&self) -> Vec<u8> {
        format!(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n\
             <rdf:RDF xmlns:rdf=\"{RDF}\">\n{}\n</rdf:RDF>\n</x:xmpmeta>\n\
             <?xpacket end=\"w\"?>",
            self.description()
        )
        .into_bytes()
    }

    /// The packet with these properties added; it must not have GPano properties yet.
    ///
    /// # Errors
    /// If the packet is not UTF-8 or not XML, or has no `rdf:RDF` element with an end tag.
    pub fn added_to(&self, xmp: &[u8]) -> Result<Vec<u8>, XmpError> {
        let text = std::str::from_utf8(xmp).map_err(|_| XmpError::NotUtf8)?;
        let at = properties(text)?.rdf_end.ok_or(XmpError::NoRdf)?;
        let (before, after) = text.split_at(at);
        Ok(format!("{before}{}\n{after}", self.description()).into_bytes())
    }
}

/// The packet of a picture that changed from `from` to `to` (`[width, height]`, pixels): the GPano
/// properties that are counts of pixels, and the sizes that Exif and TIFF state in XMP, are
/// multiplied by the ratio and rounded. Angles stay as they are.
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
    let text = std::str::from_utf8(xmp).map_err(|_| XmpError::NotUtf8)?;
    let mut out = String::with_capacity(text.len() + 64);
    let mut copied = 0;
    for Property { name, value, .. } in properties(text)?.found {
        let Some(axis) = pixel_axis(name.namespace, &name.local) else {
            continue;
        };
        let old = &text[value.clone()];
        let (Some(number), 1..) = (number(old.trim()), from[axis]) else {
            continue;
        };
        let new = (number * f64::from(to[axis]) / f64::from(from[axis])).round();
        let lead = old.len() - old.trim_start().len();
        out.push_str(&text[copied..value.start + lead]);
        out.push_str(&format!("{new:.0}"));
        copied = value.start + lead + old.trim().len();
    }
    out.push_str(&text[copied..]);
    Ok(out.into_bytes())
}

/// 0 for a property that counts pixels along the width, 1 along the height.
fn pixel_axis(namespace: &str, local: &str) -> Option<usize> {
    match (namespace, local) {
        (GPANO, "FullPanoWidthPixels")
        | (GPANO, "CroppedAreaImageWidthPixels")
        | (GPANO, "CroppedAreaLeftPixels")
        | (GPANO, "LargestValidInteriorRectLeft")
        | (GPANO, "LargestValidInteriorRectWidth")
        | (EXIF, "PixelXDimension")
        | (TIFF, "ImageWidth") => Some(0),
        (GPANO, "FullPanoHeightPixels")
        | (GPANO, "CroppedAreaImageHeightPixels")
        | (GPANO, "CroppedAreaTopPixels")
        | (GPANO, "LargestValidInteriorRectTop")
        | (GPANO, "LargestValidInteriorRectHeight")
        | (EXIF, "PixelYDimension")
        | (TIFF, "ImageLength") => Some(1),
        _ => None,
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|v| v.is_finite())
}

struct Name {
    /// One of the namespaces above.
    namespace: &'static str,
    local: String,
}

struct Property {
    name: Name,
    /// Where the value stands in the packet.
    value: Range<usize>,
}

#[derive(Default)]
struct Properties {
    /// In the order of the packet.
    found: Vec<Property>,
    /// Offset of `</rdf:RDF>`.
    rdf_end: Option<usize>,
}

fn known(namespace: &ResolveResult<'_>, local: &str) -> Option<Name> {
    let ResolveResult::Bound(bound) = namespace else {
        return None;
    };
    let namespace = [GPANO, EXIF, TIFF]
        .into_iter()
        .find(|&n| n == bound.into_inner())?;
    Some(Name {
        namespace,
        local: local.to_owned(),
    })
}

/// Where `part`, which was cut out of `whole` without a copy, stands in it.
fn range_in(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (whole.get(start..end)? == part).then_some(start..end)
}

fn properties(text: &str) -> Result<Properties, XmpError> {
    let mut reader = NsReader::from_str(text);
    let mut all = Properties::default();
    // The property whose element was opened last and has had no text yet.
    let mut open: Option<Name> = None;
    loop {
        let start = reader.buffer_position() as usize;
        let malformed = |reason: String| XmpError::Malformed {
            position: start as u64,
            reason,
        };
        let event = reader.read_event().map_err(|e| malformed(e.to_string()))?;
        match &event {
            Event::Start(element) | Event::Empty(element) => {
                attributes(text, &reader, element, &mut all).map_err(malformed)?;
                let (namespace, local) = reader.resolver().resolve_element(element.name());
                open = match event {
                    Event::Start(_) => known(&namespace, local.into_inner()),
                    _ => None,
                };
            }
            Event::Text(value) => {
                let range = range_in(text, value);
                if let (Some(name), Some(value)) = (open.take(), range) {
                    all.found.push(Property { name, value });
                }
            }
            Event::End(element) => {
                open = None;
                let (namespace, local) = reader.resolver().resolve_element(element.name());
                let rdf = matches!(namespace, ResolveResult::Bound(n) if n.into_inner() == RDF);
                if rdf && local.into_inner() == "RDF" {
                    all.rdf_end = Some(start);
                }
            }
            Event::Eof => return Ok(all),
            _ => {}
        }
    }
}

fn attributes(
    text: &str,
    reader: &NsReader<&[u8]>,
    element: &BytesStart<'_>,
    all: &mut Properties,
) -> Result<(), String> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
        if let (Some(name), Some(value)) = (
            known(&namespace, local.into_inner()),
            range_in(text, &attribute.value),
        ) {
            all.found.push(Property { name, value });
        }
    }
    Ok(())
}
