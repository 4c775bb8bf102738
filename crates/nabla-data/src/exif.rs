//! The few changes that resizing a picture needs in its Exif data.
//!
//! Exif data is a small TIFF file: a header (`II` or `MM`, 42, the offset of the first directory)
//! and directories of 12-byte entries (tag, type, count, value or its offset). The first directory
//! describes the picture; it points at the Exif and the GPS directories. Source: CIPA DC-008
//! (Exif 2.32), TIFF 6.0.
//!
//! Where Exif data stays a block (PNG, JPEG, WebP), it is patched in place, so that maker notes, whose
//! offsets cannot be corrected, stay valid. A TIFF file has no such block; its entries are copied from
//! directory to directory, without the maker note.

use std::io::{Cursor, Seek, Write};

use tiff::TiffResult;
use tiff::encoder::{DirectoryEncoder, TiffEncoder, TiffKind, TiffKindStandard};
use tiff::tags::{Tag, Type};

/// Entries are copied only up to this many bytes in total, since each of many entries could claim the same
/// megabyte of a small file.
const MAX_COPIED_BYTES: usize = 4 << 20;

const IMAGE_WIDTH: u16 = 0x0100;
const IMAGE_LENGTH: u16 = 0x0101;
const EXIF_DIRECTORY: u16 = 0x8769;
const GPS_DIRECTORY: u16 = 0x8825;
const MAKER_NOTE: u16 = 0x927c;
const PIXEL_X_DIMENSION: u16 = 0xa002;
const PIXEL_Y_DIMENSION: u16 = 0xa003;
const INTEROPERABILITY_DIRECTORY: u16 = 0xa005;

const XMP: u16 = 0x02bc;

const BYTE: u16 = 1;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

/// The tags of the first directory that do not depend on the layout of the file: description, make, model,
/// software, date, artist, host, rating, copyright, and the Windows title, comment, author, keywords and
/// subject.
const DESCRIPTIVE: [u16; 15] = [
    0x010e, 0x010f, 0x0110, 0x0131, 0x0132, 0x013b, 0x013c, 0x4746, 0x4749, 0x8298, 0x9c9b, 0x9c9c,
    0x9c9d, 0x9c9e, 0x9c9f,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directory {
    Main,
    Exif,
    Gps,
}

/// The positions of an entry and its value in the block.
#[derive(Clone, Copy, Debug)]
struct Entry {
    directory: Directory,
    tag: u16,
    kind: u16,
    count: u32,
    /// Offset of the 12 bytes of the entry.
    at: usize,
    /// Offset and length of the value.
    value_at: usize,
    value_len: usize,
}

/// A block of Exif data or a classic TIFF file, read without trusting any offset.
struct Block<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> Block<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.get(..4)? {
            [b'I', b'I', 42, 0] => false,
            [b'M', b'M', 0, 42] => true,
            _ => return None,
        };
        Some(Self { bytes, big_endian })
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let b: [u8; 2] = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian {
            u16::from_be_bytes(b)
        } else {
            u16::from_le_bytes(b)
        })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let b: [u8; 4] = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big_endian {
            u32::from_be_bytes(b)
        } else {
            u32::from_le_bytes(b)
        })
    }

    fn directory(&self, directory: Directory, at: usize, entries: &mut Vec<Entry>) -> Option<()> {
        let count = usize::from(self.u16(at)?);
        for i in 0..count {
            let at = at.checked_add(2 + 12 * i)?;
            let (tag, kind, count) = (self.u16(at)?, self.u16(at + 2)?, self.u32(at + 4)?);
            self.u32(at + 8)?;
            let Some(size) = type_size(kind) else {
                continue;
            };
            let Some(value_len) = size.checked_mul(count as usize) else {
                continue;
            };
            let value_at = if value_len <= 4 {
                at + 8
            } else {
                self.u32(at + 8)? as usize
            };
            let inside = value_at
                .checked_add(value_len)
                .is_some_and(|end| end <= self.bytes.len());
            if inside {
                entries.push(Entry {
                    directory,
                    tag,
                    kind,
                    count,
                    at,
                    value_at,
                    value_len,
                });
            }
        }
        Some(())
    }

    /// The entries of the first directory and of the Exif and GPS directories it points at, as far
    /// as they can be read.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(at) = self.u32(4) {
            self.directory(Directory::Main, at as usize, &mut entries);
        }
        for (pointer, directory) in [
            (EXIF_DIRECTORY, Directory::Exif),
            (GPS_DIRECTORY, Directory::Gps),
        ] {
            let found = entries
                .iter()
                .find(|e| e.directory == Directory::Main && e.tag == pointer && e.value_len == 4);
            if let Some(at) = found.and_then(|e| self.u32(e.value_at)) {
                self.directory(directory, at as usize, &mut entries);
            }
        }
        entries
    }

    /// The value of an entry in the byte order of this machine, which is that of the TIFF encoder.
    fn native_value(&self, entry: &Entry) -> Vec<u8> {
        let mut value = self.bytes[entry.value_at..entry.value_at + entry.value_len].to_vec();
        if self.big_endian != cfg!(target_endian = "big") {
            for number in value.chunks_exact_mut(swap_unit(entry.kind)) {
                number.reverse();
            }
        }
        value
    }
}

/// Bytes of one value of a TIFF type.
fn type_size(kind: u16) -> Option<usize> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 => Some(8),
        _ => None,
    }
}

/// The number of bytes reversed together when the byte order changes; a rational is two numbers.
fn swap_unit(kind: u16) -> usize {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 | 5 | 10 => 4,
        12 => 8,
        _ => 1,
    }
}

/// Writes the size of the picture into the tags that state it, where they are present.
pub(crate) fn set_pixel_size(bytes: &mut [u8], width: u32, height: u32) {
    let Some(block) = Block::new(bytes) else {
        return;
    };
    let big_endian = block.big_endian;
    for entry in block.entries() {
        let value = match (entry.directory, entry.tag) {
            (Directory::Main, IMAGE_WIDTH) | (Directory::Exif, PIXEL_X_DIMENSION) => width,
            (Directory::Main, IMAGE_LENGTH) | (Directory::Exif, PIXEL_Y_DIMENSION) => height,
            _ => continue,
        };
        if entry.count != 1 || !matches!(entry.kind, SHORT | LONG) {
            continue;
        }
        // A 16-bit tag becomes a 32-bit one: both fit the entry, and the new size may not fit 16.
        let (kind, value) = if big_endian {
            (LONG.to_be_bytes(), value.to_be_bytes())
        } else {
            (LONG.to_le_bytes(), value.to_le_bytes())
        };
        bytes[entry.at + 2..entry.at + 4].copy_from_slice(&kind);
        bytes[entry.at + 8..entry.at + 12].copy_from_slice(&value);
    }
}

/// The XMP packet of a TIFF file, whose tag has the type BYTE or, from some writers, UNDEFINED.
pub(crate) fn xmp_of_tiff(bytes: &[u8]) -> Option<Vec<u8>> {
    let entries = Block::new(bytes)?.entries();
    let entry = entries.iter().find(|e| {
        e.directory == Directory::Main && e.tag == XMP && matches!(e.kind, BYTE | UNDEFINED)
    })?;
    Some(bytes[entry.value_at..entry.value_at + entry.value_len].to_vec())
}

/// The entries that another file can take over, with their values in native byte order.
pub(crate) struct Portable {
    entries: Vec<(Directory, u16, Type, Vec<u8>)>,
}

impl Portable {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let mut entries = Vec::new();
        let mut total = 0;
        let Some(block) = Block::new(bytes) else {
            return Self { entries };
        };
        for entry in block.entries() {
            let wanted = match entry.directory {
                Directory::Main => DESCRIPTIVE.contains(&entry.tag),
                Directory::Exif => !matches!(entry.tag, MAKER_NOTE | INTEROPERABILITY_DIRECTORY),
                Directory::Gps => true,
            };
            total += entry.value_len;
            if let Some(kind) = Type::from_u16(entry.kind).filter(|_| wanted)
                && total <= MAX_COPIED_BYTES
            {
                entries.push((entry.directory, entry.tag, kind, block.native_value(&entry)));
            }
        }
        Self { entries }
    }

    fn copy<W: Write + Seek, K: TiffKind>(
        &self,
        directory: Directory,
        encoder: &mut DirectoryEncoder<'_, W, K>,
    ) -> TiffResult<()> {
        let mut written = tiff::Directory::empty();
        for (_, tag, kind, value) in self.entries.iter().filter(|e| e.0 == directory) {
            let entry = encoder.write_entry_bytes(*kind, value)?;
            written.extend([(Tag::from_u16_exhaustive(*tag), entry)]);
        }
        encoder.extend_from(&written);
        Ok(())
    }

    /// Writes the Exif and GPS directories; the returned pointers go into the first directory.
    pub(crate) fn write_subdirectories<W: Write + Seek>(
        &self,
        encoder: &mut TiffEncoder<W, TiffKindStandard>,
    ) -> TiffResult<Vec<(Tag, u32)>> {
        let mut pointers = Vec::new();
        for (directory, tag) in [
            (Directory::Exif, Tag::ExifDirectory),
            (Directory::Gps, Tag::GpsDirectory),
        ] {
            if self.entries.iter().any(|e| e.0 == directory) {
                let mut sub = encoder.extra_directory()?;
                self.copy(directory, &mut sub)?;
                pointers.push((tag, sub.finish_with_offsets()?.offset));
            }
        }
        Ok(pointers)
    }

    /// Writes the descriptive entries and the pointers into the first directory.
    pub(crate) fn write_main<W: Write + Seek>(
        &self,
        pointers: &[(Tag, u32)],
        encoder: &mut DirectoryEncoder<'_, W, TiffKindStandard>,
    ) -> TiffResult<()> {
        self.copy(Directory::Main, encoder)?;
        for &(tag, offset) in pointers {
            encoder.write_tag(tag, offset)?;
        }
        Ok(())
    }

    /// A block of Exif data with these entries; `None` if there are none.
    pub(crate) fn to_block(&self) -> TiffResult<Option<Vec<u8>>> {
        if self.entries.is_empty() {
            return Ok(None);
        }
        let mut block = Cursor::new(Vec::new());
        {
            let mut encoder = TiffEncoder::new(&mut block)?;
            let pointers = self.write_subdirectories(&mut encoder)?;
            let mut main = encoder.image_directory()?;
            self.write_main(&pointers, &mut main)?;
            main.finish()?;
        }
        Ok(Some(block.into_inner()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exif::{In, Tag as ExifTag};
    use proptest::prelude::*;

    /// Big-endian Exif with a 16-bit and a 32-bit size tag, a text, a rational and a GPS reference.
    fn sample() -> Vec<u8> {
        let mut writer = exif::experimental::Writer::new();
        let field = |tag, value| exif::Field {
            tag,
            ifd_num: In::PRIMARY,
            value,
        };
        let fields = [
            field(
                ExifTag::Make,
                exif::Value::Ascii(vec![b"Nabla optics".to_vec()]),
            ),
            field(ExifTag::ImageWidth, exif::Value::Long(vec![256])),
            field(ExifTag::PixelXDimension, exif::Value::Short(vec![256])),
            field(ExifTag::PixelYDimension, exif::Value::Short(vec![128])),
            field(
                ExifTag::FNumber,
                exif::Value::Rational(vec![exif::Rational { num: 28, denom: 10 }]),
            ),
            field(
                ExifTag::GPSLatitudeRef,
                exif::Value::Ascii(vec![b"N".to_vec()]),
            ),
        ];
        for f in &fields {
            writer.push_field(f);
        }
        let mut block = Cursor::new(Vec::new());
        writer.write(&mut block, false).unwrap();
        block.into_inner()
    }

    fn text(block: &[u8], tag: ExifTag) -> Option<String> {
        let read = exif::Reader::new().read_raw(block.to_vec()).unwrap();
        read.get_field(tag, In::PRIMARY)
            .map(|f| f.display_value().to_string())
    }

    #[test]
    fn size_tags_are_patched_for_an_independent_reader() {
        let mut block = sample();
        set_pixel_size(&mut block, 100_000, 50_000);
        assert_eq!(text(&block, ExifTag::PixelXDimension).unwrap(), "100000");
        assert_eq!(text(&block, ExifTag::PixelYDimension).unwrap(), "50000");
        assert_eq!(text(&block, ExifTag::ImageWidth).unwrap(), "100000");
        assert_eq!(text(&block, ExifTag::FNumber).unwrap(), "2.8");
        assert_eq!(text(&block, ExifTag::Make).unwrap(), "\"Nabla optics\"");
    }

    #[test]
    fn a_rebuilt_block_keeps_what_does_not_describe_the_layout() {
        let block = Portable::read(&sample()).to_block().unwrap().unwrap();
        assert_eq!(text(&block, ExifTag::Make).unwrap(), "\"Nabla optics\"");
        assert_eq!(text(&block, ExifTag::FNumber).unwrap(), "2.8");
        assert_eq!(text(&block, ExifTag::PixelXDimension).unwrap(), "256");
        assert_eq!(text(&block, ExifTag::GPSLatitudeRef).unwrap(), "N");
        assert_eq!(text(&block, ExifTag::ImageWidth), None);
        assert_eq!(Portable::read(b"no exif").to_block().unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            set_pixel_size(&mut bytes, 1, 1);
            let _ = Portable::read(&bytes).to_block();
        }

        #[test]
        fn any_damage_is_survived(
            cut in 0usize..300,
            hits in proptest::collection::vec((0usize..300, any::<u8>()), 0..8),
        ) {
            let mut block = sample();
            block.truncate(cut.max(4));
            for (at, value) in hits {
                if let Some(b) = block.get_mut(at) {
                    *b = value;
                }
            }
            let before = block.len();
            set_pixel_size(&mut block, 4096, 2048);
            prop_assert_eq!(block.len(), before);
            let _ = Portable::read(&block).to_block();
        }
    }
}
