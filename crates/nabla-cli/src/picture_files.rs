//! Panoramas in files: reading one, and what is said of it.

use std::path::Path;

use nabla::data::{FileFormat, Light, Picture, ReadOptions};
use nabla::panorama::ErpArea;

use crate::errors::Failure;

/// Reads a picture that must be an equirectangular panorama, or a part of one whose metadata say
/// where it lies; `note` gets what of them was not believed.
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

/// Says something of a file on the standard error, in one line.
pub fn note_of(path: &Path) -> impl FnMut(&str) {
    let name = path.display().to_string();
    move |text: &str| eprintln!("nabla: {name}: {text}")
}

/// What a file of the format of `path` does not take over of `picture`, in one line.
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
            Light::Linear => "its linear light is tone-mapped, since the output is for a screen",
            Light::Display => "its samples for a screen become linear light by the curve of sRGB",
        });
    }
}

/// Refuses an output that is the input: both paths name the same existing file or folder.
pub fn check_not_the_input(input: &Path, output: &Path) -> Result<(), Failure> {
    match (input.canonicalize(), output.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => Err(Failure::input(format!(
            "{} is the input, another output is needed",
            output.display()
        ))),
        _ => Ok(()),
    }
}

/// Whether a path names an image file that can be written, to judge by its extension.
pub fn is_writable_image(path: &Path) -> bool {
    FileFormat::from_path(path).is_some_and(|f| FileFormat::WRITABLE.contains(&f))
}
