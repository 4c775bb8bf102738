//! Reading panorama files, and notes about them.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use nabla::data::{FileFormat, Light, Picture, Raster, ReadOptions};
use nabla::panorama::pixels::{to_rasters, to_tensor};
use nabla::panorama::{ErpArea, Interpolation, resize_planar};

use crate::errors::Failure;

/// Reads a picture that must be an equirectangular panorama, or a part of one whose metadata say
/// where it lies; `note` is called if the metadata are implausible.
pub fn read_panorama(
    path: &Path,
    options: &ReadOptions,
    note: &mut dyn FnMut(&str),
) -> Result<(Picture, ErpArea), Failure> {
    let picture = Picture::read_with(path, options)?;
    let (area, doubt) = ErpArea::of_picture(&picture)
        .map_err(|e| Failure::input_because(format!("{} is not a panorama", path.display()), e))?;
    if let Some(doubt) = doubt {
        note(&doubt);
    }
    Ok((picture, area))
}

/// Returns a function that prints a note about a file on standard error, on one line.
pub fn note_of(path: &Path) -> impl FnMut(&str) {
    let name = path.display().to_string();
    move |text: &str| eprintln!("nabla: {name}: {text}")
}

/// Notes what of `picture` a file in the format of `path` cannot hold, on one line.
pub fn told_left_out(picture: &Picture, path: &Path, note: &mut dyn FnMut(&str)) {
    let Some(format) = FileFormat::from_path(path) else {
        return;
    };
    let names = picture.left_out(format);
    if !names.is_empty() {
        note(&format!("left out: {}", names.join(", ")));
    }
    let depth = picture.depth_for(format, &nabla::data::WriteOptions::default());
    if picture.light != format.light(picture.light, depth) {
        note(match picture.light {
            Light::Linear => {
                "its linear light is tone-mapped, because the output format is for screens"
            }
            Light::Display => "its samples are converted from sRGB to linear light",
        });
    }
}

/// Refuses an output that is the input: both paths name the same existing file or folder.
pub fn check_not_the_input(input: &Path, output: &Path) -> Result<(), Failure> {
    match (input.canonicalize(), output.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => Err(Failure::input(format!(
            "{} is the input: choose another output",
            output.display()
        ))),
        _ => Ok(()),
    }
}

/// A picture of another height and width, `[1, channels, height, width]` in `[−1, 1]`.
pub fn resized(
    raster: &Raster,
    [height, width]: [usize; 2],
    device: &Device,
) -> Result<Tensor<4>, Failure> {
    let raster = resize_planar(raster, height, width, Interpolation::Lanczos3)?;
    Ok(to_tensor([&raster], device).clamp(-1.0, 1.0))
}

/// Whether a path names an image file in a format that can be written, judging by its extension.
pub fn is_writable_image(path: &Path) -> bool {
    FileFormat::from_path(path).is_some_and(|f| FileFormat::WRITABLE.contains(&f))
}

/// The pictures of each row beside each other, and the rows below each other.
///
/// - `rows`: `[pictures, channels, height, width]` each, in `[−1, 1]`
pub fn sheet(rows: Vec<Tensor<4>>) -> Raster {
    let pictures: Vec<Vec<Raster>> = rows.into_iter().map(to_rasters).collect();
    let [channels, height, width] = pictures[0][0].shape();
    let columns = pictures[0].len();
    Raster::from_fn(
        channels,
        pictures.len() * height,
        columns * width,
        |channel, row, column| {
            let picture = &pictures[row / height][column / width];
            picture
                .get(channel, row % height, column % width)
                .clamp(0.0, 1.0)
        },
    )
}
