//! Radiance HDR files: linear light, with three 8-bit mantissas and one exponent per pixel.
//!
//! A mantissa of 8 bits is within 1/256 of the true value if it is rounded. The encoder of the crate `image`
//! truncates it, which makes a picture 0.3 % darker each time it is written. So samples are rounded to the
//! format's precision before they are passed to the encoder.
//!
//! Source: G. Ward, "Real Pixels", Graphics Gems II, 1991; the Radiance file formats,
//! <https://radsite.lbl.gov/radiance/refer/filefmts.pdf>.

use std::error::Error;
use std::io::Cursor;

use image::codecs::hdr::{HdrDecoder, HdrEncoder};
use image::{ExtendedColorType, ImageDecoder, ImageEncoder, ImageError};

/// The signatures of the programs that write such files.
const SIGNATURES: [&[u8]; 2] = [b"#?RADIANCE", b"#?RGBE"];

/// Whether `bytes` begin as a Radiance file does.
pub(crate) fn is_radiance(bytes: &[u8]) -> bool {
    SIGNATURES.iter().any(|s| bytes.starts_with(s))
}

/// A file whose header has been read.
pub(crate) struct Header<'a> {
    decoder: HdrDecoder<Cursor<&'a [u8]>>,
    /// Width and height, pixels.
    pub size: [u32; 2],
    /// The lines of the header with further data about the picture (`EXPOSURE=`, `VIEW=`, `PRIMARIES=` ...).
    pub lines: Vec<String>,
}

impl<'a> Header<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        // The strict reader knows only one of the signatures; the lenient reader takes both for a comment.
        let decoder = HdrDecoder::new_nonstrict(Cursor::new(bytes))?;
        let (width, height) = decoder.dimensions();
        let lines = decoder.metadata().custom_attributes;
        let lines = lines.into_iter().map(|(key, value)| match key.as_str() {
            "" => value,
            _ => format!("{key}={value}"),
        });
        Ok(Self {
            decoder,
            size: [width, height],
            lines: lines.collect(),
        })
    }

    /// The samples, `[height, width, 3]`.
    pub fn samples(self) -> Result<Vec<f32>, ImageError> {
        let mut bytes = vec![0; self.decoder.total_bytes() as usize];
        self.decoder.read_image(&mut bytes)?;
        Ok(bytes
            .as_chunks()
            .0
            .iter()
            .map(|&b| f32::from_ne_bytes(b))
            .collect())
    }

    /// The lines to write into the header of another picture.
    pub fn kept_lines(&self) -> Vec<String> {
        let known = |line: &&String| !line.starts_with("FORMAT=");
        self.lines.iter().filter(known).cloned().collect()
    }
}

/// The greatest sample that a file can store, excluding the last binade, whose power of two is beyond `f32`.
const GREATEST: f32 = 255.0 / 256.0 * 1.701_411_8e38;

/// `[red, green, blue]` rounded to the precision of a pixel of the format; negative samples become 0.
fn rounded(rgb: [f32; 3]) -> [f32; 3] {
    let rgb = rgb.map(|v| v.clamp(0.0, GREATEST));
    let greatest = rgb[0].max(rgb[1]).max(rgb[2]);
    if greatest < f32::MIN_POSITIVE {
        return [0.0; 3];
    }
    // The unit of the mantissas: 2^(e − 8), where 2^(e − 1) ≤ greatest < 2^e.
    let exponent = (greatest.to_bits() >> 23) as i32 - 126;
    let unit = |exponent: i32| f64::from(exponent - 8).exp2();
    // A value that rounds up to the next power of two has a mantissa of 128 there.
    let unit = if (f64::from(greatest) / unit(exponent)).round() < 256.0 {
        unit(exponent)
    } else {
        unit(exponent + 1)
    };
    rgb.map(|v| ((f64::from(v) / unit).round() * unit) as f32)
}

/// The file of `samples`, `[height, width, 3]`, with `lines` in its header.
pub(crate) fn encode(
    samples: &[f32],
    [width, height]: [u32; 2],
    lines: &[String],
) -> Result<Vec<u8>, Box<dyn Error>> {
    let (pixels, _) = samples.as_chunks::<3>();
    let bytes: Vec<u8> = pixels
        .iter()
        .flat_map(|&rgb| rounded(rgb))
        .flat_map(f32::to_ne_bytes)
        .collect();
    let mut file = Vec::new();
    HdrEncoder::new(&mut file).write_image(&bytes, width, height, ExtendedColorType::Rgb32F)?;
    let end = b"\n\n";
    let at = file
        .windows(end.len())
        .position(|w| w == end)
        .ok_or("the encoder wrote no header")?;
    let more: String = lines
        .iter()
        .filter(|line| !line.is_empty() && !line.contains('\n'))
        .map(|line| format!("\n{line}"))
        .collect();
    file.splice(at..at, more.into_bytes());
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(samples: &[f32], lines: &[String]) -> (Vec<f32>, Vec<String>) {
        let size = [(samples.len() / 3) as u32, 1];
        let file = encode(samples, size, lines).unwrap();
        let header = Header::read(&file).unwrap();
        assert_eq!(header.size, size);
        let kept = header.kept_lines();
        (header.samples().unwrap(), kept)
    }

    #[test]
    fn samples_come_back_within_half_a_step_and_without_a_bias() {
        let samples: Vec<f32> = (0..3000)
            .map(|i| ((i as f32 * 0.37).sin() + 1.1) * 10f32.powi(i % 9 - 3))
            .collect();
        let (read, _) = round_trip(&samples, &[]);
        let (mut sum, mut signed) = (0.0, 0.0);
        for (a, b) in samples.chunks(3).zip(read.chunks(3)) {
            let greatest = a.iter().fold(0.0f32, |m, &v| m.max(v));
            for (a, b) in a.iter().zip(b) {
                // Half a step of a mantissa of 8 bits.
                assert!((a - b).abs() <= greatest / 255.0, "{a} {b}");
            }
            signed += f64::from((b[0] - a[0]) / greatest);
            sum += 1.0;
        }
        assert!((signed / sum).abs() < 2e-4, "{}", signed / sum);
        // Values that the format can store are written unchanged.
        assert_eq!(round_trip(&read, &[]).0, read);
    }

    #[test]
    fn the_ends_of_the_range_are_kept_or_cut_off() {
        let samples = [0.0, -1.0, 1e-42, 1e38, 1.0, 0.999_999, 3e38, 1.0, 0.0];
        let (read, _) = round_trip(&samples, &[]);
        assert_eq!(read[..3], [0.0; 3]);
        assert!((read[3] / 1e38 - 1.0).abs() < 0.004 && read[4] == 0.0);
        assert!((read[6] / GREATEST - 1.0).abs() < 1e-6);
    }

    #[test]
    fn lines_of_the_header_are_kept_and_another_format_is_seen() {
        let lines = ["EXPOSURE=0.5", "VIEW= -vta -vh 360", "pfilt -x 64"].map(str::to_owned);
        let (_, kept) = round_trip(&[1.0, 2.0, 3.0], &lines);
        assert_eq!(kept, lines);
        let xyz = b"#?RGBE\nFORMAT=32-bit_rle_xyze\n\n-Y 1 +X 1\n\x01\x02\x03\x80";
        let refused = Header::read(xyz).err().unwrap().to_string();
        assert!(refused.contains("xyze"), "{refused}");
        assert!(is_radiance(xyz) && !is_radiance(b"#?"));
    }
}
