//! Pictures that go through a projection together with their opacity and metadata.

use nabla_data::{Metadata, Picture, Raster};

use crate::ErpArea;

/// A part of a panorama, placed in the whole panorama, which is transparent outside of the part.
pub fn on_the_sphere(picture: Picture, area: &ErpArea) -> Picture {
    if area.is_full() {
        return picture;
    }
    let opaque = || Raster::zeros(1, area.height(), area.width()).map(|_| 1.0);
    Picture {
        raster: area.on_black(&picture.raster),
        alpha: Some(area.on_black(&picture.alpha.unwrap_or_else(opaque))),
        // A gain map would have to be spread over the sphere, too, and no viewer uses one for planes or faces.
        gain_map: None,
        ..picture
    }
}

/// Colours and opacity as channels of one raster, so that both are projected in the same way.
pub fn join_alpha(picture: &Picture) -> Raster {
    match &picture.alpha {
        None => picture.raster.clone(),
        Some(alpha) => {
            let [channels, height, width] = picture.raster.shape();
            let (colours, opacity) = (&picture.raster, alpha);
            Raster::from_fn(channels + 1, height, width, |c, y, x| match c {
                c if c < channels => colours.get(c, y, x),
                _ => opacity.get(0, y, x),
            })
        }
    }
}

/// The opposite of [`join_alpha`] for the picture that was made from `like`.
pub fn split_alpha(joined: Raster, like: &Picture, metadata: Metadata) -> Picture {
    let [_, height, width] = joined.shape();
    let channels = like.raster.channels();
    let mut picture = Picture::new(Raster::zeros(0, 0, 0), like.bit_depth);
    picture.light = like.light;
    picture.metadata = metadata;
    if like.alpha.is_some() {
        let plane = |first: usize, count: usize| {
            Raster::from_fn(count, height, width, |c, y, x| joined.get(first + c, y, x))
        };
        picture.alpha = Some(plane(channels, 1));
        picture.raster = plane(0, channels);
    } else {
        picture.raster = joined;
    }
    picture
}

/// The metadata of a panorama of `from` pixels, `[width, height]`, that became a panorama of `area`.
///
/// Metadata that cannot be parsed are left out with a note. The GPano properties are set to the actual
/// values, whatever they were before, and added if they are missing: by upscaling or making a panorama, the
/// user has declared it to be one.
pub fn panorama_metadata(
    metadata: &Metadata,
    from: [u32; 2],
    area: &ErpArea,
    note: &mut dyn FnMut(&str),
) -> Metadata {
    let sphere = area.photosphere();
    let to = sphere.cropped_size;
    let resized = metadata.resized(from, to).or_else(|error| {
        note(&format!("{error}, so it is left out"));
        metadata.clone().without_xmp().resized(from, to)
    });
    let carried = resized.unwrap_or_default();
    carried
        .clone()
        .with_photosphere(&sphere)
        .unwrap_or_else(|error| {
            note(&format!("{error}, so no panorama properties were added"));
            carried
        })
}

/// The metadata of a picture that is no longer a panorama: its XMP, which declares it as one, is left out.
pub fn planar_metadata(metadata: &Metadata, from: [u32; 2], to: [u32; 2]) -> Metadata {
    let planar = metadata.clone().without_xmp();
    planar.resized(from, to).unwrap_or(planar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Erp;
    use nabla_data::{BitDepth, PhotoSphere};

    fn full(height: usize) -> ErpArea {
        ErpArea::full(Erp::new(height, 2 * height).unwrap())
    }

    #[test]
    fn alpha_is_joined_and_split_again() {
        let mut picture = Picture::new(
            Raster::from_fn(3, 2, 4, |c, y, x| (c + y + x) as f32 / 8.0),
            BitDepth::Sixteen,
        );
        assert_eq!(
            split_alpha(join_alpha(&picture), &picture, Metadata::default()),
            picture
        );
        picture.alpha = Some(Raster::from_fn(1, 2, 4, |_, y, x| (y * x) as f32 / 3.0));
        assert_eq!(join_alpha(&picture).channels(), 4);
        assert_eq!(
            split_alpha(join_alpha(&picture), &picture, Metadata::default()),
            picture
        );
    }

    #[test]
    fn panoramas_say_that_they_are_and_others_do_not() {
        let mut notes = Vec::new();
        let mut note = |text: &str| notes.push(text.to_owned());
        let sphere = |m: &Metadata| m.photosphere().unwrap();
        let none = Metadata::default();
        let made = panorama_metadata(&none, [8, 4], &full(8), &mut note);
        assert_eq!(sphere(&made), Some(PhotoSphere::full(16, 8)));
        let again = panorama_metadata(&made, [16, 8], &full(16), &mut note);
        assert_eq!(sphere(&again), Some(PhotoSphere::full(32, 16)));
        assert_eq!(sphere(&planar_metadata(&made, [16, 8], [4, 4])), None);
        assert!(notes.is_empty());
    }

    #[test]
    fn metadata_that_is_damaged_is_left_out_with_a_note() {
        let mut notes = Vec::new();
        let damaged = Metadata {
            xmp: Some(vec![0xff, b'<']),
            ..Metadata::default()
        };
        let made = panorama_metadata(&damaged, [8, 4], &full(8), &mut |text| {
            notes.push(text.to_owned())
        });
        assert_eq!(made.photosphere().unwrap(), Some(PhotoSphere::full(16, 8)));
        assert_eq!(notes.len(), 1);
    }
}
