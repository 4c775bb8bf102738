//! OpenEXR files: linear light in half or single precision, with opacity.
//!
//! A file may hold several layers of any channels; the picture is the first layer that has red, green and
//! blue, or only luminance. Colours in OpenEXR are multiplied by opacity; a [`Picture`](crate::Picture)'s are
//! not. The area outside the stored rectangle (the data window) but inside the picture (the display window)
//! is black.
//!
//! Source: "Technical Introduction to OpenEXR" and "OpenEXR File Layout", <https://openexr.com>.

use std::io::Cursor;

use exr::image::{AnyChannel, AnyChannels, Encoding, FlatSamples, Image, Layer};
use exr::math::Vec2;
use exr::meta::MetaData;
use exr::meta::attribute::{EnvironmentMap, IntegerBounds};
use exr::meta::header::{Header, LayerAttributes};
use exr::prelude::{ReadChannels, ReadLayers, WritableImage, read as reader};
use smallvec::SmallVec;

use crate::Raster;

/// The signature of the format.
pub(crate) const SIGNATURE: [u8; 4] = [0x76, 0x2f, 0x31, 0x01];

/// The reason why a file is not read.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The decoder reports damage.
    Damaged(String),
    /// It contains something that is not supported.
    Unsupported(String),
}

impl From<exr::error::Error> for Refused {
    fn from(error: exr::error::Error) -> Self {
        match error {
            exr::error::Error::NotSupported(what) => Self::Unsupported(what.into()),
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// A file whose headers have been read.
pub(crate) struct Parts {
    /// Width and height of the picture, pixels.
    pub size: [u32; 2],
    /// The number of samples in the layers to decode.
    pub samples: u64,
    window: IntegerBounds,
}

impl Parts {
    pub fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let meta = MetaData::read_from_buffered(Cursor::new(bytes), false)?;
        let Some(first) = meta.headers.first() else {
            return Err(Refused::Damaged("it has no layer".into()));
        };
        let window = first.shared_attributes.display_window;
        let samples = |header: &Header| {
            let Vec2(width, height) = header.layer_size;
            (width as u64)
                .saturating_mul(height as u64)
                .saturating_mul(header.channels.list.len() as u64)
        };
        let samples = meta.headers.iter().map(samples);
        Ok(Self {
            size: [window.size.0, window.size.1].map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            samples: samples.fold(0, u64::saturating_add),
            window,
        })
    }

    /// The colours, `[1 or 3, height, width]`, and the opacity.
    pub fn decode(&self, bytes: &[u8]) -> Result<(Raster, Option<Raster>), Refused> {
        let image = reader()
            .no_deep_data()
            .largest_resolution_level()
            .all_channels()
            .all_layers()
            .all_attributes()
            .non_parallel()
            .from_buffered(Cursor::new(bytes))?;
        let chosen = image.layer_data.iter().find_map(|layer| {
            let names = channel_names(&layer.channel_data)?;
            Some((layer, names))
        });
        let Some((layer, names)) = chosen else {
            let names = image.layer_data.iter().flat_map(|layer| {
                let list = layer.channel_data.list.iter();
                list.map(|channel| channel.name.to_string())
            });
            return Err(Refused::Unsupported(format!(
                "its channels are {}, but R, G and B, or Y, are expected",
                names.collect::<Vec<_>>().join(", ")
            )));
        };
        if layer.attributes.environment_map == Some(EnvironmentMap::Cube) {
            return Err(Refused::Unsupported(
                "it is a cube of six faces in OpenEXR's own layout".into(),
            ));
        }
        let plane = |name: &str| self.plane(layer, name);
        let colours = names.colours.iter().map(|name| plane(name));
        let colours = colours.collect::<Result<Vec<_>, _>>()?.concat();
        let [width, height] = self.size.map(|n| n as usize);
        let raster = |channels, data| {
            Raster::new(channels, height, width, data).map_err(|e| Refused::Damaged(e.to_string()))
        };
        let mut raster_of_colours = raster(names.colours.len(), colours)?;
        let alpha = names.alpha.map(|name| plane(&name)).transpose()?;
        let Some(alpha) = alpha else {
            return Ok((raster_of_colours, None));
        };
        for channel in 0..raster_of_colours.channels() {
            for (v, &a) in raster_of_colours.plane_mut(channel).iter_mut().zip(&alpha) {
                if a > 0.0 {
                    *v /= a;
                }
            }
        }
        Ok((raster_of_colours, Some(raster(1, alpha)?)))
    }

    /// A channel within the picture's window.
    fn plane(
        &self,
        layer: &Layer<AnyChannels<FlatSamples>>,
        name: &str,
    ) -> Result<Vec<f32>, Refused> {
        let [width, height] = self.size.map(|n| n as usize);
        let mut plane = vec![0.0; width * height];
        let is_it = |c: &&AnyChannel<FlatSamples>| c.name.eq(name);
        let Some(channel) = layer.channel_data.list.iter().find(is_it) else {
            return Ok(plane);
        };
        if channel.sampling != Vec2(1, 1) {
            return Err(Refused::Unsupported(format!(
                "its channel {name} has fewer samples than the picture has pixels"
            )));
        }
        let Vec2(columns, _) = layer.size;
        let left = i64::from(layer.attributes.layer_position.0) - i64::from(self.window.position.0);
        let top = i64::from(layer.attributes.layer_position.1) - i64::from(self.window.position.1);
        for (i, value) in channel.sample_data.values_as_f32().enumerate() {
            let (x, y) = (left + (i % columns) as i64, top + (i / columns) as i64);
            if (0..width as i64).contains(&x) && (0..height as i64).contains(&y) {
                plane[y as usize * width + x as usize] = value;
            }
        }
        Ok(plane)
    }
}

/// The channels of a layer that make a picture.
struct Names {
    colours: Vec<String>,
    alpha: Option<String>,
}

/// Red, green and blue, or only luminance, with or without the name of a layer before them
/// (`beauty.R`); `None` if there is no such picture.
fn channel_names(channels: &AnyChannels<FlatSamples>) -> Option<Names> {
    let names: Vec<String> = channels.list.iter().map(|c| c.name.to_string()).collect();
    let has = |name: &String| names.contains(name);
    let prefixes = std::iter::once(String::new()).chain(names.iter().filter_map(|name| {
        let (prefix, _) = name.rsplit_once('.')?;
        Some(format!("{prefix}."))
    }));
    for prefix in prefixes {
        let named = |letter: &str| format!("{prefix}{letter}");
        let alpha = Some(named("A")).filter(has);
        let colours = ["R", "G", "B"].map(named);
        if colours.iter().all(has) {
            let colours = colours.to_vec();
            return Some(Names { colours, alpha });
        }
        // With RY and BY there is more than luminance.
        if has(&named("Y")) && !has(&named("RY")) {
            let colours = vec![named("Y")];
            return Some(Names { colours, alpha });
        }
    }
    None
}

/// The file of a picture `[1 or 3, height, width]` with the opacity `alpha`, in single precision and without
/// loss; `panorama` marks it as an equirectangular panorama.
pub(crate) fn encode(
    raster: &Raster,
    alpha: Option<&Raster>,
    panorama: bool,
) -> Result<Vec<u8>, exr::error::Error> {
    let [channels, height, width] = raster.shape();
    let names: &[&str] = if channels == 1 {
        &["Y"]
    } else {
        &["R", "G", "B"]
    };
    let mut list: SmallVec<[AnyChannel<FlatSamples>; 4]> = SmallVec::new();
    for (channel, name) in names.iter().enumerate() {
        let mut plane = raster.plane(channel).to_vec();
        if let Some(alpha) = alpha {
            for (v, &a) in plane.iter_mut().zip(alpha.plane(0)) {
                // The colour of a fully transparent pixel is kept, as on reading.
                if a > 0.0 {
                    *v *= a;
                }
            }
        }
        list.push(AnyChannel::new(*name, FlatSamples::F32(plane)));
    }
    if let Some(alpha) = alpha {
        let plane = alpha.plane(0).to_vec();
        list.push(AnyChannel::new("A", FlatSamples::F32(plane)));
    }
    let attributes = LayerAttributes {
        environment_map: panorama.then_some(EnvironmentMap::LatitudeLongitude),
        ..LayerAttributes::default()
    };
    let layer = Layer::new(
        (width, height),
        attributes,
        Encoding::SMALL_LOSSLESS,
        AnyChannels::sort(list),
    );
    let mut file = Cursor::new(Vec::new());
    Image::from_layer(layer)
        .write()
        .non_parallel()
        .to_buffered(&mut file)?;
    Ok(file.into_inner())
}
