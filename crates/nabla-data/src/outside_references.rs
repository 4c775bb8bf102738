//! The announcements in a picture's XMP of bytes that are not in the picture: a gain map, a motion photo, a
//! depth map or an extended part elsewhere in the file.
//!
//! A picture written without those bytes must not announce them: readers would look for a second picture at
//! an offset where there is none, and no checker of metadata would complain.
//!
//! Source: Android, "Ultra HDR Image Format v1.1" (gain maps, container directory), "Motion photo
//! format 1.0", "Dynamic Depth 1.0"; Adobe, "XMP Specification Part 3" (extended XMP).

use crate::xmp_packet::{Found, Packet, RDF, XmpError, packet_of};

/// Gain maps in the form of Adobe.
const HDRGM: &str = "http://ns.adobe.com/hdr-gain-map/1.0/";
/// The pictures in the file, one after the other.
const CONTAINER: &str = "http://ns.google.com/photos/1.0/container/";
/// The meaning of one of them.
const ITEM: &str = "http://ns.google.com/photos/1.0/container/item/";
/// Motion photos.
const CAMERA: &str = "http://ns.google.com/photos/1.0/camera/";
/// Dynamic depth: properties that name items of the container.
const DYNAMIC_DEPTH: &str = "http://ns.google.com/photos/dd/1.0/";
const NOTE: &str = "http://ns.adobe.com/xmp/note/";
/// The properties whose data is in the extended part.
const EMBEDDED: [(&str, &str); 3] = [
    ("http://ns.google.com/photos/1.0/image/", "embedded picture"),
    ("http://ns.google.com/photos/1.0/depthmap/", "depth map"),
    ("http://ns.google.com/photos/1.0/audio/", "sound"),
];

/// The data written besides the picture, which its XMP may continue to announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside<'a> {
    /// The size in bytes of the gain map's JPEG file, if there is one.
    pub gain_map: Option<usize>,
    /// Whether the gain map states its meaning in XMP. A gain map that does so only by ISO 21496-1 is not
    /// announced in XMP either.
    pub in_xmp: bool,
    /// The name (GUID) of the extended XMP, if there is one.
    pub extended: Option<&'a str>,
}

/// The content of an item of the container's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub semantic: String,
    pub length: usize,
    pub padding: usize,
}

/// Whether `xmp` belongs to a gain map, or to a picture that has one.
pub(crate) fn speaks_of_a_gain_map(xmp: &[u8]) -> bool {
    Packet::parse(xmp).is_ok_and(|packet| packet.text_of(HDRGM, "Version").is_some())
}

/// The name of the extended XMP that belongs to the packet.
pub(crate) fn extended_name(xmp: &[u8]) -> Option<String> {
    let packet = Packet::parse(xmp).ok()?;
    Some(packet.text_of(NOTE, "HasExtendedXMP")?.to_owned())
}

/// The items of the container's directory, in the order of the file.
pub(crate) fn items(xmp: &[u8]) -> Vec<Item> {
    let Ok(packet) = Packet::parse(xmp) else {
        return Vec::new();
    };
    items_of(&packet)
}

fn items_of(packet: &Packet<'_>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for found in &packet.found {
        // The properties of an item follow the list entry that contains it.
        if found.is(RDF, "li") {
            items.push(Item::default());
        }
        let (Some(item), true) = (items.last_mut(), found.namespace == ITEM) else {
            continue;
        };
        let text = found.value.clone().map_or("", |v| packet.text[v].trim());
        match found.local.as_str() {
            "Semantic" => item.semantic = text.to_owned(),
            "Length" => item.length = text.parse().unwrap_or(0),
            "Padding" => item.padding = text.parse().unwrap_or(0),
            _ => {}
        }
    }
    items.retain(|item| !item.semantic.is_empty());
    items
}

/// Lists, in words, the data that the packet announces but `beside` lacks.
pub(crate) fn dangling(xmp: &[u8], beside: Beside<'_>) -> Vec<String> {
    let Ok(packet) = Packet::parse(xmp) else {
        return Vec::new();
    };
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    };
    if beside.gain_map.is_none() && packet.text_of(HDRGM, "Version").is_some() {
        add("gain map");
    }
    for item in items_of(&packet) {
        match item.semantic.as_str() {
            "Primary" => {}
            "GainMap" if beside.gain_map.is_some() => {}
            "GainMap" => add("gain map"),
            "MotionPhoto" => add("motion photo"),
            "Depth" | "Confidence" => add("depth map"),
            other => add(other),
        }
    }
    if packet.found.iter().any(is_motion) {
        add("motion photo");
    }
    if beside.extended.is_none() && packet.text_of(NOTE, "HasExtendedXMP").is_some() {
        let embedded = EMBEDDED
            .iter()
            .filter(|(namespace, _)| packet.found.iter().any(|f| f.namespace == *namespace));
        for (_, name) in embedded {
            add(name);
        }
        add("extended XMP");
    }
    names
}

fn is_motion(found: &Found) -> bool {
    found.namespace == CAMERA
        && (found.local.starts_with("MicroVideo") || found.local.starts_with("MotionPhoto"))
}

/// The packet of a picture with `beside` and nothing else after it; `None` means no packet.
pub(crate) fn settled(xmp: Option<&[u8]>, beside: Beside<'_>) -> Result<Option<Vec<u8>>, XmpError> {
    let kept = match xmp {
        None => None,
        Some(xmp) => {
            let packet = Packet::parse(xmp)?;
            let extended = packet.text_of(NOTE, "HasExtendedXMP").is_some();
            // Data in the packet itself is not outside.
            let inside = |found: &Found| {
                packet
                    .found
                    .iter()
                    .any(|f| f.namespace == found.namespace && f.local == "Data")
            };
            Some(packet.without(|found| {
                let embedded = EMBEDDED.iter().any(|(n, _)| *n == found.namespace);
                let lost = extended && beside.extended.is_none() && embedded && !inside(found);
                [HDRGM, CONTAINER].contains(&found.namespace.as_str())
                    || found.namespace.starts_with(DYNAMIC_DEPTH)
                    || is_motion(found)
                    || found.is(NOTE, "HasExtendedXMP")
                    || lost
            }))
        }
    };
    let description = beside.description();
    Ok(match (kept, description) {
        (None, None) => None,
        (None, Some(description)) => Some(packet_of(&description)),
        (Some(kept), None) => Some(kept.into_bytes()),
        (Some(kept), Some(description)) => {
            let packet = Packet::parse(kept.as_bytes())?;
            Some(packet.with_description(&description)?.into_bytes())
        }
    })
}

impl Beside<'_> {
    /// Its description in XMP.
    fn description(&self) -> Option<String> {
        let mut properties = String::new();
        let mut elements = String::new();
        if let Some(name) = self.extended {
            properties += &format!(" xmlns:xmpNote=\"{NOTE}\" xmpNote:HasExtendedXMP=\"{name}\"");
        }
        if let Some(length) = self.gain_map.filter(|_| self.in_xmp) {
            properties += &format!(
                "\n    xmlns:hdrgm=\"{HDRGM}\" xmlns:Container=\"{CONTAINER}\" xmlns:Item=\"{ITEM}\"\n    \
                 hdrgm:Version=\"1.0\""
            );
            elements = format!(
                r#"
  <Container:Directory><rdf:Seq>
    <rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>
    <rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg" Item:Length="{length}"/></rdf:li>
  </rdf:Seq></Container:Directory>
"#
            );
        }
        (!properties.is_empty()).then(|| {
            format!(
                "<rdf:Description xmlns:rdf=\"{RDF}\" rdf:about=\"\"{properties}>{elements}</rdf:Description>"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the words of a phone: everything at once, as attributes and as elements.
    const PHONE: &str = r#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 xmlns:GImage="http://ns.google.com/photos/1.0/image/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 hdrgm:Version="1.0" GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" GImage:Mime="image/jpeg" dc:source="phone">
<xmpNote:HasExtendedXMP xmlns:xmpNote="http://ns.adobe.com/xmp/note/">0123</xmpNote:HasExtendedXMP>
<Container:Directory><rdf:Seq>
<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg" Item:Padding="8"/></rdf:li>
<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg" Item:Length="5030"/></rdf:li>
<rdf:li rdf:parseType="Resource"><Container:Item><Item:Semantic>MotionPhoto</Item:Semantic><Item:Length>77</Item:Length></Container:Item></rdf:li>
</rdf:Seq></Container:Directory></rdf:Description></rdf:RDF></x:xmpmeta>"#;

    #[test]
    fn items_are_read_in_both_forms() {
        let read = items(PHONE.as_bytes());
        let plain: Vec<_> = read
            .iter()
            .map(|i| (i.semantic.as_str(), i.length, i.padding))
            .collect();
        assert_eq!(
            plain,
            [
                ("Primary", 0, 8),
                ("GainMap", 5030, 0),
                ("MotionPhoto", 77, 0)
            ]
        );
        assert_eq!(extended_name(PHONE.as_bytes()).as_deref(), Some("0123"));
    }

    #[test]
    fn what_is_not_there_is_not_announced() {
        let settled = settled(Some(PHONE.as_bytes()), Beside::default());
        let settled = String::from_utf8(settled.unwrap().unwrap()).unwrap();
        for gone in [
            "5030",
            "MotionPhoto",
            "HasExtended",
            "hdrgm:Version",
            "GImage:Mime",
        ] {
            assert!(!settled.contains(gone), "{gone} in {settled}");
        }
        assert!(settled.contains("dc:source=\"phone\""));
        assert_eq!(
            dangling(settled.as_bytes(), Beside::default()),
            [""; 0].map(str::to_owned)
        );
        assert_eq!(
            dangling(PHONE.as_bytes(), Beside::default()),
            [
                "gain map",
                "motion photo",
                "embedded picture",
                "extended XMP"
            ]
            .map(str::to_owned)
        );
    }

    #[test]
    fn what_is_there_is_announced_with_its_new_length() {
        let beside = Beside {
            gain_map: Some(99),
            in_xmp: true,
            extended: Some("ABCD"),
        };
        assert_eq!(
            dangling(PHONE.as_bytes(), beside),
            ["motion photo"].map(str::to_owned)
        );
        for before in [Some(PHONE.as_bytes()), None] {
            let settled = settled(before, beside).unwrap().unwrap();
            let lengths: Vec<usize> = items(&settled).iter().map(|item| item.length).collect();
            assert_eq!(lengths, [0, 99]);
            assert_eq!(extended_name(&settled).as_deref(), Some("ABCD"));
            assert!(speaks_of_a_gain_map(&settled));
        }
        let iso_alone = Beside {
            in_xmp: false,
            ..beside
        };
        let plain = settled(None, iso_alone).unwrap().unwrap();
        assert!(items(&plain).is_empty() && !speaks_of_a_gain_map(&plain));
        let kept = settled(Some(PHONE.as_bytes()), beside).unwrap().unwrap();
        assert!(String::from_utf8(kept).unwrap().contains("GImage:Mime"));
        assert_eq!(settled(None, Beside::default()).unwrap(), None);
    }
}
