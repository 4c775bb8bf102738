//! XMP packets as text: the position of each property, so that one can be changed, removed or added and
//! everything else stays unchanged, byte for byte.
//!
//! RDF allows a property as an attribute (`GPano:FullPanoWidthPixels="4096"`) or as an element
//! (`<GPano:FullPanoWidthPixels>4096</GPano:FullPanoWidthPixels>`), under any prefix; both are found.
//!
//! Source: ISO 16684-1 (XMP).

use std::ops::Range;

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// The namespace of RDF.
pub(crate) const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";

/// The reason why a packet of XMP cannot be parsed.
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
        /// The message of the XML reader.
        reason: String,
    },
    /// The packet is XML, but has no RDF to add properties to.
    #[error("the XMP metadata has no rdf:RDF element to add properties to")]
    NoRdf,
    /// A GPano property that counts pixels is not a count.
    #[error("GPano:{name} is {value:?}, but a whole number of pixels is expected")]
    Pixels {
        /// The property, without its prefix.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

/// A property, or an element that is not a property (such as `rdf:Description`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub namespace: String,
    pub local: String,
    /// The range of its text; `None` for an element without its own text.
    pub value: Option<Range<usize>>,
    /// The attribute with the space before it, or the element from its start tag to its end tag.
    pub whole: Range<usize>,
}

impl Found {
    pub fn is(&self, namespace: &str, local: &str) -> bool {
        self.namespace == namespace && self.local == local
    }
}

/// A packet with its properties and elements, ordered by their starts.
#[derive(Clone, Debug)]
pub(crate) struct Packet<'a> {
    pub text: &'a str,
    pub found: Vec<Found>,
    /// Offset of `</rdf:RDF>`.
    rdf_end: Option<usize>,
}

impl<'a> Packet<'a> {
    pub fn parse(xmp: &'a [u8]) -> Result<Self, XmpError> {
        let text = std::str::from_utf8(xmp).map_err(|_| XmpError::NotUtf8)?;
        let mut packet = Self {
            text,
            found: Vec::new(),
            rdf_end: None,
        };
        let mut reader = NsReader::from_str(text);
        // The open elements, as indices into `found`.
        let mut open: Vec<usize> = Vec::new();
        // Whether the innermost open element was opened last and has had no text yet.
        let mut fresh = false;
        loop {
            let start = reader.buffer_position() as usize;
            let malformed = |reason: String| XmpError::Malformed {
                position: start as u64,
                reason,
            };
            let event = reader.read_event().map_err(|e| malformed(e.to_string()))?;
            let end = reader.buffer_position() as usize;
            match &event {
                Event::Start(element) | Event::Empty(element) => {
                    let (namespace, local) = reader.resolver().resolve_element(element.name());
                    let name = (uri(&namespace), local.into_inner().to_owned());
                    packet.found.push(Found {
                        namespace: name.0,
                        local: name.1,
                        value: None,
                        whole: start..end,
                    });
                    fresh = matches!(event, Event::Start(_));
                    if fresh {
                        open.push(packet.found.len() - 1);
                    }
                    packet.attributes(&reader, element).map_err(malformed)?;
                }
                Event::Text(text) => {
                    if let (true, Some(&innermost)) = (fresh, open.last()) {
                        packet.found[innermost].value = range_in(packet.text, text);
                    }
                    fresh = false;
                }
                Event::End(_) => {
                    fresh = false;
                    if let Some(closed) = open.pop() {
                        let found = &mut packet.found[closed];
                        found.whole.end = end;
                        if found.is(RDF, "RDF") {
                            packet.rdf_end = Some(start);
                        }
                    }
                }
                Event::Eof => return Ok(packet),
                _ => {}
            }
        }
    }

    fn attributes(
        &mut self,
        reader: &NsReader<&[u8]>,
        element: &BytesStart<'_>,
    ) -> Result<(), String> {
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|e| e.to_string())?;
            let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
            let ResolveResult::Bound(_) = namespace else {
                continue;
            };
            let key = range_in(self.text, attribute.key.into_inner());
            let value = range_in(self.text, &attribute.value);
            if let (Some(key), Some(value)) = (key, value) {
                let before = self.text[..key.start].trim_end().len();
                self.found.push(Found {
                    namespace: uri(&namespace),
                    local: local.into_inner().to_owned(),
                    // The quotation mark after the value belongs to the attribute.
                    whole: before..value.end + 1,
                    value: Some(value),
                });
            }
        }
        Ok(())
    }

    /// The text of the first property of that name.
    pub fn text_of(&self, namespace: &str, local: &str) -> Option<&'a str> {
        let found = self.found.iter().find(|f| f.is(namespace, local))?;
        Some(self.text[found.value.clone()?].trim())
    }

    /// The packet with a new text wherever `change` returns one; white space around a value stays.
    pub fn with_values(&self, mut change: impl FnMut(&Found, &str) -> Option<String>) -> String {
        let mut out = String::with_capacity(self.text.len() + 64);
        let mut copied = 0;
        let mut values: Vec<(&Found, Range<usize>)> = self
            .found
            .iter()
            .filter_map(|f| Some((f, f.value.clone()?)))
            .collect();
        // In `found`, the attributes of an element come after it, and its text after them.
        values.sort_by_key(|(_, value)| value.start);
        for (found, value) in values {
            let old = &self.text[value.clone()];
            let Some(new) = change(found, old.trim()) else {
                continue;
            };
            let start = value.start + old.len() - old.trim_start().len();
            out.push_str(&self.text[copied..start]);
            out.push_str(&new);
            copied = start + old.trim().len();
        }
        out.push_str(&self.text[copied..]);
        out
    }

    /// The packet without the properties that `remove` names, wherever they are.
    pub fn without(&self, mut remove: impl FnMut(&Found) -> bool) -> String {
        let mut ranges: Vec<Range<usize>> = self
            .found
            .iter()
            .filter(|found| remove(found))
            .map(|found| found.whole.clone())
            .collect();
        ranges.sort_by_key(|range| range.start);
        let mut out = String::with_capacity(self.text.len());
        let mut copied = 0;
        for range in ranges {
            // This one is inside another one that is already removed.
            if range.end <= copied {
                continue;
            }
            out.push_str(&self.text[copied..range.start]);
            copied = range.end;
        }
        out.push_str(&self.text[copied..]);
        out
    }

    /// The packet with `description`, an `rdf:Description` element, added.
    pub fn with_description(&self, description: &str) -> Result<String, XmpError> {
        let at = self.rdf_end.ok_or(XmpError::NoRdf)?;
        let (before, after) = self.text.split_at(at);
        Ok(format!("{before}{description}\n{after}"))
    }
}

/// A packet that contains `description`, an `rdf:Description` element, and nothing else.
pub(crate) fn packet_of(description: &str) -> Vec<u8> {
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n\
         <rdf:RDF xmlns:rdf=\"{RDF}\">\n{description}\n</rdf:RDF>\n</x:xmpmeta>\n\
         <?xpacket end=\"w\"?>",
    )
    .into_bytes()
}

fn uri(namespace: &ResolveResult<'_>) -> String {
    match namespace {
        ResolveResult::Bound(bound) => bound.into_inner().to_owned(),
        _ => String::new(),
    }
}

/// The position of `part` in `whole`, from which it was sliced without a copy.
fn range_in(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (whole.get(start..end)? == part).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: &str = r#"<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description
 xmlns:a="urn:a" a:one = "1" a:two='2'><a:three> 3 </a:three><a:list><r:Seq><r:li a:one="4"/></r:Seq></a:list></r:Description></r:RDF>"#;

    #[test]
    fn attributes_and_elements_are_found_with_their_places() {
        let packet = Packet::parse(PACKET.as_bytes()).unwrap();
        let of = |local| packet.text_of("urn:a", local);
        assert_eq!(of("one"), Some("1"));
        assert_eq!(of("two"), Some("2"));
        assert_eq!(of("three"), Some("3"));
        assert_eq!(of("list"), None);
        let whole = |local| {
            let found = packet.found.iter().find(|f| f.is("urn:a", local)).unwrap();
            &PACKET[found.whole.clone()]
        };
        assert_eq!(whole("one"), " a:one = \"1\"");
        assert_eq!(whole("three"), "<a:three> 3 </a:three>");
        assert!(whole("list").starts_with("<a:list>") && whole("list").ends_with("</a:list>"));
    }

    #[test]
    fn what_is_removed_or_changed_leaves_the_rest_as_it_was() {
        let packet = Packet::parse(PACKET.as_bytes()).unwrap();
        assert_eq!(packet.without(|_| false), PACKET);
        assert_eq!(packet.with_values(|_, _| None), PACKET);
        let without = packet.without(|f| f.is("urn:a", "list") || f.is("urn:a", "one"));
        let expected = PACKET
            .replace(" a:one = \"1\"", "")
            .replace(r#"<a:list><r:Seq><r:li a:one="4"/></r:Seq></a:list>"#, "");
        assert_eq!(without, expected);
        let changed = packet.with_values(|f, old| (f.local == "three").then(|| old.repeat(2)));
        assert_eq!(changed, PACKET.replace("> 3 <", "> 33 <"));
        let added = packet.with_description("<d/>").unwrap();
        assert_eq!(added, PACKET.replace("</r:RDF>", "<d/>\n</r:RDF>"));
        let none = Packet::parse(b"<x/>").unwrap();
        assert_eq!(none.with_description("<d/>"), Err(XmpError::NoRdf));
    }
}
