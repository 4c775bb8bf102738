//! The sample panorama built into the program, so that its first run needs no files.

use std::path::Path;

use crate::image_file::{ImageFileError, Picture, ReadOptions};

/// The sample at full size, 1024 x 512, a PNG file with GPano metadata.
///
/// "St Fagans Interior" by Poly Haven, CC0 (`assets/README.md`); it is held out from training.
pub const SAMPLE_PANORAMA: &[u8] = include_bytes!("../assets/sample/panorama_1024x512.png");

/// The sample reduced by 4 (antialiased bicubic, 8 bit), 256 x 128, a PNG file with GPano metadata.
pub const SAMPLE_PANORAMA_SMALL: &[u8] = include_bytes!("../assets/sample/panorama_256x128.png");

/// The sample and its reduction by 4, decoded: `(large, small)`.
///
/// # Errors
/// If the files were replaced by files that are not images; never with the files of the repository.
///
/// ```
/// let (large, small) = nabla_data::sample_panorama()?;
/// assert_eq!(large.raster.shape(), [3, 512, 1024]);
/// assert_eq!(small.raster.shape(), [3, 128, 256]);
/// # Ok::<(), nabla_data::ImageFileError>(())
/// ```
pub fn sample_panorama() -> Result<(Picture, Picture), ImageFileError> {
    let read = |bytes, name| Picture::decode(bytes, Path::new(name), &ReadOptions::default());
    Ok((
        read(SAMPLE_PANORAMA, "panorama_1024x512.png")?,
        read(SAMPLE_PANORAMA_SMALL, "panorama_256x128.png")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PanoramaSet, PhotoSphere};

    #[test]
    fn the_sample_is_the_held_out_panorama_and_says_that_it_is_a_sphere() {
        let (large, small) = sample_panorama().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/panoramas");
        let set = PanoramaSet::open(&folder).unwrap();
        assert_eq!(large.raster, set.load(set.sample()).unwrap().raster);
        for (picture, [w, h]) in [(&large, [1024, 512]), (&small, [256, 128])] {
            let sphere = picture.metadata.photosphere().unwrap().unwrap();
            assert_eq!(
                sphere,
                PhotoSphere {
                    pose_heading_degrees: Some(0.0),
                    ..PhotoSphere::full(w, h)
                }
            );
        }
        let resized = small.metadata.resized(small.size(), large.size()).unwrap();
        assert_eq!(
            resized.photosphere().unwrap(),
            large.metadata.photosphere().unwrap()
        );
    }

    #[test]
    fn the_small_sample_has_the_means_of_the_large_one() {
        let (large, small) = sample_panorama().unwrap();
        let mean = |p: &Picture, c| {
            let plane = p.raster.plane(c);
            plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64
        };
        for c in 0..3 {
            assert!((mean(&large, c) - mean(&small, c)).abs() < 2e-3);
        }
    }
}
