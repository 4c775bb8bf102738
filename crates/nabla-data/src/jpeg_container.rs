//! The data in a JPEG file besides its picture: extended XMP in pieces, and a gain map after the picture.
//!
//! A JPEG file is a sequence of segments (`FF`, marker, length, payload), compressed samples, and the end
//! marker `FF D9`. XMP that does not fit into one segment is split into pieces that are named after the MD5
//! of the whole. A second picture follows the end of the first. Two places announce it: the container's
//! directory in XMP (lengths) and a multi-picture index (MPF: lengths and offsets).
//!
//! Source: ITU-T T.81 (JPEG); Adobe, "XMP Specification Part 3", section 1.1.3.1; CIPA DC-007
//! (multi-picture format); Android, "Ultra HDR Image Format v1.1"; ISO 21496-1 (gain maps).

use std::ops::Range;

use md5::{Digest, Md5};

use crate::outside_references::{items, speaks_of_a_gain_map};

const APP1: u8 = 0xe1;
const APP2: u8 = 0xe2;
const XMP_HEADER: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const EXTENDED_HEADER: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";
const ISO_HEADER: &[u8] = b"urn:iso:std:iso:ts:21496:-1\0";
const MPF_HEADER: &[u8] = b"MPF\0";
/// The largest number of bytes in a segment after its length.
const SEGMENT: usize = 65_533;
/// The size in bytes of the largest extended XMP that is assembled.
const LARGEST_EXTENDED: usize = 256 << 20;

/// The reason why the XMP of a picture does not fit into a JPEG file.
#[derive(Debug, thiserror::Error)]
#[error("{what} has {length} bytes, but a segment of JPEG holds at most {SEGMENT}")]
pub(crate) struct SegmentError {
    what: &'static str,
    length: usize,
}

/// Whether a packet of `length` bytes fits into its single segment.
pub(crate) fn xmp_fits(length: usize) -> bool {
    length <= SEGMENT - XMP_HEADER.len()
}

/// Whether Exif data of `length` bytes fits into its segment.
pub(crate) fn exif_fits(length: usize) -> bool {
    length <= SEGMENT - b"Exif\0\0".len()
}

/// A segment before the compressed samples, with its marker and the range of its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    marker: u8,
    payload: Range<usize>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair: [u8; 2] = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
    Some(u16::from_be_bytes(pair))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_be_bytes(four))
}

/// The segment or lone marker at `at`, and the start of the next one.
fn marker_at(bytes: &[u8], mut at: usize) -> Option<(Segment, usize)> {
    if *bytes.get(at)? != 0xff {
        return None;
    }
    // Any number of FF may precede a marker.
    while *bytes.get(at + 1)? == 0xff {
        at += 1;
    }
    let marker = bytes[at + 1];
    let begin = at + 2;
    if matches!(marker, 0x01 | 0xd0..=0xd9) {
        let payload = begin..begin;
        return Some((Segment { marker, payload }, begin));
    }
    let length = usize::from(u16_at(bytes, begin)?);
    let payload = begin + 2..begin.checked_add(length.max(2))?;
    bytes.get(payload.clone())?;
    let end = payload.end;
    Some((Segment { marker, payload }, end))
}

/// The segments before the compressed samples, as far as they can be read.
fn segments(bytes: &[u8]) -> Vec<Segment> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((segment, next)) = marker_at(bytes, at) {
        if matches!(segment.marker, 0xd9 | 0xda) {
            break;
        }
        found.push(segment);
        at = next;
    }
    found
}

/// The payloads of the segments with `marker` that begin with `header`, without it.
fn payloads<'a>(bytes: &'a [u8], marker: u8, header: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    segments(bytes)
        .into_iter()
        .filter(move |segment| segment.marker == marker)
        .filter_map(move |segment| bytes[segment.payload].strip_prefix(header))
}

/// The end of the picture at the beginning of `bytes`, after its end marker.
fn end_of_picture(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let (segment, next) = marker_at(bytes, at)?;
        at = next;
        match segment.marker {
            0xd9 => return Some(at),
            // Compressed samples follow, in which FF precedes 0 or a restart marker.
            0xda => loop {
                at += bytes.get(at..)?.iter().position(|&b| b == 0xff)?;
                match *bytes.get(at + 1)? {
                    0 | 0xd0..=0xd7 => at += 2,
                    _ => break,
                }
            },
            _ => {}
        }
    }
}

/// The extended XMP of that name, assembled from its pieces; `None` if a piece is missing or the MD5 of the
/// whole is not the name.
pub(crate) fn extended_xmp(bytes: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut whole: Vec<u8> = Vec::new();
    let mut filled = 0;
    for piece in payloads(bytes, APP1, EXTENDED_HEADER) {
        let Some(rest) = piece.strip_prefix(name.as_bytes()) else {
            continue;
        };
        let (length, offset) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)? as usize);
        let data = &rest[8..];
        // The claimed length cannot exceed the total size of the pieces.
        if whole.is_empty() {
            if length > LARGEST_EXTENDED.min(bytes.len()) {
                return None;
            }
            whole.resize(length, 0);
        }
        whole
            .get_mut(offset..offset.checked_add(data.len())?)?
            .copy_from_slice(data);
        filled += data.len();
    }
    (!whole.is_empty() && filled == whole.len() && name_of(&whole) == name.to_uppercase())
        .then_some(whole)
}

/// The name of an extended XMP: its MD5 in upper-case hexadecimal.
pub(crate) fn name_of(extended: &[u8]) -> String {
    let digest = Md5::digest(extended);
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The gain map of a picture with the packet `xmp`: a whole JPEG file after it whose own metadata says that
/// it is a gain map.
pub(crate) fn gain_map<'a>(bytes: &'a [u8], xmp: Option<&[u8]>) -> Option<&'a [u8]> {
    let end = end_of_picture(bytes)?;
    let mut candidates: Vec<usize> = Vec::new();
    let mut at = end;
    for item in xmp.map(items).unwrap_or_default() {
        if item.semantic == "GainMap" {
            candidates.push(at);
        }
        at = at.checked_add(item.length)?.checked_add(item.padding)?;
    }
    candidates.extend(multi_picture_offsets(bytes));
    candidates.push(end);
    candidates.into_iter().find_map(|at| {
        let rest = bytes.get(at.max(end)..)?;
        let file = &rest[..end_of_picture(rest)?];
        let says_so =
            own_xmp(file).is_some_and(speaks_of_a_gain_map) || iso_gain_map(file).is_some();
        (file.starts_with(&[0xff, 0xd8]) && says_so).then_some(file)
    })
}

fn own_xmp(bytes: &[u8]) -> Option<&[u8]> {
    payloads(bytes, APP1, XMP_HEADER).next()
}

/// The ISO 21496-1 metadata of a picture, without the name of the segment.
pub(crate) fn iso_gain_map(bytes: &[u8]) -> Option<&[u8]> {
    payloads(bytes, APP2, ISO_HEADER).next()
}

/// The starts of the pictures after the first, from the multi-picture index.
fn multi_picture_offsets(bytes: &[u8]) -> Vec<usize> {
    let read = || {
        let index = segments(bytes)
            .into_iter()
            .find(|s| s.marker == APP2 && bytes[s.payload.clone()].starts_with(MPF_HEADER))?;
        // Offsets count from the byte order mark.
        let base = index.payload.start + MPF_HEADER.len();
        let block = &bytes[base..index.payload.end];
        let little = match block.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        let short = |at| u16_at(block, at).map(|v| if little { v.swap_bytes() } else { v });
        let long = |at| u32_at(block, at).map(|v| if little { v.swap_bytes() } else { v });
        let directory = long(4)? as usize;
        for entry in 0..usize::from(short(directory)?) {
            let at = directory.checked_add(2 + 12 * entry)?;
            if short(at)? != 0xb002 {
                continue;
            }
            let (length, entries) = (long(at + 4)? as usize, long(at + 8)? as usize);
            return Some(
                (1..length / 16)
                    .map_while(|i| long(entries.checked_add(16 * i + 8)?))
                    .filter_map(|offset| base.checked_add(offset as usize))
                    .collect(),
            );
        }
        None
    };
    read().unwrap_or_default()
}

/// The data for a JPEG file besides the picture that an encoder wrote.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras<'a> {
    /// The main packet of XMP.
    pub xmp: Option<&'a [u8]>,
    /// The extended packet of XMP.
    pub extended: Option<&'a [u8]>,
    /// ISO 21496-1 metadata: the values for a gain map, the version for a picture that has one.
    pub iso: Option<&'a [u8]>,
    /// The gain map's file, which goes after the picture.
    pub gain_map: Option<&'a [u8]>,
}

/// The version of ISO 21496-1 that a picture with a gain map states: minimum version and writer's version,
/// both 0.
pub(crate) const ISO_VERSION: [u8; 4] = [0; 4];

/// The file of an encoder, `file`, with `extras`.
pub(crate) fn with_extras(file: &[u8], extras: Extras<'_>) -> Result<Vec<u8>, SegmentError> {
    let mut added = Vec::new();
    if let Some(xmp) = extras.xmp {
        push_segment(&mut added, "the XMP metadata", APP1, XMP_HEADER, xmp)?;
    }
    if let Some(extended) = extras.extended {
        let what = "a piece of extended XMP";
        let name = name_of(extended);
        let length = (extended.len() as u32).to_be_bytes();
        let room = SEGMENT - EXTENDED_HEADER.len() - name.len() - 8;
        for (i, piece) in extended.chunks(room).enumerate() {
            let offset = ((i * room) as u32).to_be_bytes();
            let data = [name.as_bytes(), &length, &offset, piece].concat();
            push_segment(&mut added, what, APP1, EXTENDED_HEADER, &data)?;
        }
    }
    if let Some(iso) = extras.iso {
        push_segment(
            &mut added,
            "the ISO 21496-1 metadata",
            APP2,
            ISO_HEADER,
            iso,
        )?;
    }
    let at = after_jfif_and_exif(file);
    if let Some(gain_map) = extras.gain_map {
        let index = MPF_HEADER.len() + MULTI_PICTURE_INDEX;
        let picture = file.len() + added.len() + 4 + index;
        // Offsets count from the end of the segment's header.
        let offset = picture - (at + added.len() + 4 + MPF_HEADER.len());
        let index = multi_picture_index([picture, gain_map.len()], offset as u32);
        push_segment(
            &mut added,
            "the multi-picture index",
            APP2,
            MPF_HEADER,
            &index,
        )?;
    }
    let gain_map = extras.gain_map.unwrap_or_default();
    Ok([&file[..at], &added, &file[at..], gain_map].concat())
}

fn push_segment(
    out: &mut Vec<u8>,
    what: &'static str,
    marker: u8,
    header: &[u8],
    data: &[u8],
) -> Result<(), SegmentError> {
    let length = header.len() + data.len();
    if length > SEGMENT {
        return Err(SegmentError { what, length });
    }
    out.extend([0xff, marker]);
    out.extend(((length + 2) as u16).to_be_bytes());
    out.extend(header);
    out.extend(data);
    Ok(())
}

/// The size in bytes of an index of two pictures: a header, a directory of 3 entries, and 2 picture entries
/// of 16 bytes each.
const MULTI_PICTURE_INDEX: usize = 8 + (2 + 3 * 12 + 4) + 2 * 16;

/// An index of two pictures of `lengths` bytes, the second at `offset`.
fn multi_picture_index(lengths: [usize; 2], offset: u32) -> Vec<u8> {
    let mut index = b"MM\0*\0\0\0\x08\0\x03".to_vec();
    // The version, the number of pictures, and the picture entries (2 of 16 bytes each) after the directory.
    index.extend(b"\xb0\x00\0\x07\0\0\0\x040100");
    index.extend(b"\xb0\x01\0\x04\0\0\0\x01\0\0\0\x02");
    index.extend(b"\xb0\x02\0\x07\0\0\0\x20\0\0\0\x32");
    index.extend([0; 4]);
    // "Baseline MP Primary Image", then a picture of no stated kind.
    for (attribute, length, offset) in [(0x0003_0000u32, lengths[0], 0), (0, lengths[1], offset)] {
        index.extend(attribute.to_be_bytes());
        index.extend((length as u32).to_be_bytes());
        index.extend(offset.to_be_bytes());
        index.extend([0; 4]);
    }
    debug_assert_eq!(index.len(), MULTI_PICTURE_INDEX);
    index
}

/// The offset after the start marker and the JFIF and Exif segments of an encoder's file.
fn after_jfif_and_exif(file: &[u8]) -> usize {
    let mut at = 2;
    while let Some((segment, next)) = marker_at(file, at) {
        if !matches!(segment.marker, 0xe0 | APP1) {
            break;
        }
        at = next;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(marker: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16 + 2).to_be_bytes();
        [&[0xff, marker], &length[..], payload].concat()
    }

    fn picture(more: &[u8]) -> Vec<u8> {
        // A scan with a stuffed FF and a restart marker in it.
        let scan = b"\x01\xff\x00\x02\xff\xd3\x04";
        [b"\xff\xd8", more, &segment(0xda, b"abc"), scan, b"\xff\xd9"].concat()
    }

    #[test]
    fn a_picture_ends_where_its_end_marker_stands() {
        let one = picture(b"");
        assert_eq!(end_of_picture(&one), Some(one.len()));
        let two = [&one[..], &one].concat();
        assert_eq!(end_of_picture(&two), Some(one.len()));
        assert_eq!(end_of_picture(&one[..one.len() - 2]), None);
        assert_eq!(end_of_picture(b""), None);
    }

    #[test]
    fn extended_xmp_is_cut_into_pieces_and_put_together() {
        let extended: Vec<u8> = (0..150_000u32).map(|i| (i % 251) as u8).collect();
        let extras = Extras {
            extended: Some(&extended),
            ..Extras::default()
        };
        let file = with_extras(&picture(b""), extras).unwrap();
        let name = name_of(&extended);
        assert_eq!(extended_xmp(&file, &name), Some(extended.clone()));
        assert_eq!(payloads(&file, APP1, EXTENDED_HEADER).count(), 3);
        // A piece that is damaged, or another name.
        let mut damaged = file.clone();
        damaged[1000] ^= 1;
        assert_eq!(extended_xmp(&damaged, &name), None);
        assert_eq!(extended_xmp(&file, &"0".repeat(32)), None);
        // RFC 1321.
        assert_eq!(name_of(b"abc"), "900150983CD24FB0D6963F7D28E17F72");
    }

    #[test]
    fn a_gain_map_is_found_by_its_index_and_by_its_place() {
        let map_xmp = br#"<a xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" h:Version="1.0"/>"#;
        let map = picture(&segment(APP1, &[XMP_HEADER, map_xmp].concat()));
        let extras = Extras {
            gain_map: Some(&map),
            iso: Some(&ISO_VERSION),
            ..Extras::default()
        };
        let file = with_extras(&picture(&segment(0xe0, b"JFIF")), extras).unwrap();
        assert_eq!(gain_map(&file, None), Some(&map[..]));
        assert_eq!(multi_picture_offsets(&file), [file.len() - map.len()]);
        // Something else between them: only the index knows.
        let end = file.len() - map.len();
        let mut moved = [&file[..end], &[7; 5], &map].concat();
        assert_eq!(gain_map(&moved, None), None);
        let items = br#"<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:i="http://ns.google.com/photos/1.0/container/item/">
            <r:li i:Semantic="Primary" i:Padding="5"/><r:li i:Semantic="GainMap"/></r:RDF>"#;
        assert_eq!(gain_map(&moved, Some(items)), Some(&map[..]));
        // A second picture that is no gain map.
        moved.truncate(end);
        moved.extend(picture(b""));
        assert_eq!(gain_map(&moved, None), None);
    }
}
