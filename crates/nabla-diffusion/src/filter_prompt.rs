//! FilterPrompt: filters of the guiding pictures, which say what of them is taken over.
//!
//! Two pictures guide a model: one for the structure (a ControlNet), one for the appearance (an IP-Adapter). What
//! is meant is only a part of each, and the rest contradicts the other one: the light of a photograph that gives
//! the shape, the shape of a photograph that gives the material. FilterPrompt removes it before the pictures are
//! encoded, by ordinary filters of pixels:
//!
//! ```text
//! s' = F_s(structure),   a' = F_a(appearance),   x ~ p(x | E_s(s'), E_a(a'))
//! ```
//!
//! Nothing inside the model or the sampler changes, and the same filtered pictures guide all steps. What people use
//! them for:
//!
//! | purpose | chain |
//! |---|---|
//! | other colours | `rank`, `max` or `invert` on the appearance: the result has the colours of the filtered picture |
//! | a coarser texture | `blur` or `kernel` on the appearance |
//! | no conflict of contents | `gray\|match-polarity\|match-range` on the structure |
//!
//! The last one is the published composition of gray, inversion and contrast with a rule for the inversion: the structure
//! is inverted if light and dark disagree with the appearance. Without the right one of the two, more contrast
//! does not help.
//!
//! A chain is written as text, `gray|invert|contrast:1.5`: filters in their order, each with its
//! [options](crate::registry) after a colon, separated by commas. A value alone is that of the first option, and
//! `strength=0.5` mixes the filtered picture with the unfiltered one, for any filter. [`pixel_filters`] lists the
//! filters; your own ones can be added to that registry.
//!
//! The pictures are filtered at the size in which the model sees them, with values in `[0, 1]`. The filters are those of
//! Pillow, which the paper's figures name, without its rounding to whole numbers after each.
//!
//! Source: Wang, Peng, Fang, Wang, Xie, Yang, Li, *FilterPrompt: Guiding Image Transfer in Diffusion Models*,
//! 2024, arXiv 2404.13263. Its code is not published; the filters and their branches are those of its figures.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::Tensor;
use nabla_base::range::OutOfRange;

use crate::registry::{Options, Registry, RegistryError};

mod blur;
mod kernel;
mod matching;
mod pixels;
mod rank;
mod tone;

pub use blur::GaussianBlur;
pub use kernel::Kernel;
pub use matching::{MatchPolarity, MatchRange};
pub use pixels::Pixels;
pub use rank::{Max, Median, Min, Rank};
pub use tone::{AutoContrast, Contrast, Gray, Invert};

/// The reason why a picture cannot be filtered.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no such filter, or it has no such option.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An option of a filter is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The text is no chain of filters.
    #[error("{0:?} is no chain of filters: write them as gray|invert|contrast:1.5")]
    Chain(String),
    /// The picture has no pixels.
    #[error("a picture without pixels cannot be filtered")]
    Empty,
    /// A value of the picture is outside `[0, 1]`.
    #[error("a picture to filter must have values from 0 to 1, but one is {0}")]
    Value(f32),
    /// The filter compares with the other picture, and there is none.
    #[error(
        "the filter {0} compares the picture with the other one, but there is no other picture"
    )]
    NoOther(&'static str),
    /// A mask has another size.
    #[error("the mask has {mask:?} pixels (height, width), but the picture has {picture:?}")]
    Mask {
        /// `[height, width]`.
        mask: [usize; 2],
        /// `[height, width]`.
        picture: [usize; 2],
    },
    /// The picture cannot be read from its device.
    #[error("the picture cannot be read from the device: {0}")]
    Device(String),
}

/// A filter of pixels.
///
/// ```
/// use nabla_diffusion::filter_prompt::{FilterError, FilterPrompt, PixelFilter, Pixels, pixel_filters};
/// use serde::{Deserialize, Serialize};
///
/// /// A filter of your own: fewer shades.
/// #[derive(Debug, Deserialize, Serialize)]
/// struct Posterize {
///     shades: usize,
/// }
///
/// impl PixelFilter for Posterize {
///     fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
///         let most = (self.shades - 1) as f32;
///         Ok(picture.map(|value| (value * most).round() / most))
///     }
/// }
///
/// let filters = pixel_filters().with("posterize", "fewer shades", Posterize { shades: 4 }, |filter| {
///     let filter: Box<dyn PixelFilter> = Box::new(filter);
///     filter
/// });
/// let prompt = FilterPrompt::new().with_appearance("posterize:2|invert", &filters)?;
/// assert_eq!(prompt.appearance.to_string(), "posterize:2|invert");
/// # Ok::<(), FilterError>(())
/// ```
pub trait PixelFilter: fmt::Debug + Send + Sync {
    /// Filters a picture.
    ///
    /// - `other`: the picture of the other branch, which some filters compare with
    ///
    /// # Errors
    /// If an option is out of range, or the other picture is needed and missing.
    fn apply(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError>;

    /// Whether it changes what is light and dark, each pixel by itself, and not where it is. Default false.
    fn is_tonal(&self) -> bool {
        false
    }
}

/// All of Nabla's filters, by name.
pub fn pixel_filters() -> Registry<Box<dyn PixelFilter>> {
    fn boxed(filter: impl PixelFilter + 'static) -> Box<dyn PixelFilter> {
        Box::new(filter)
    }
    Registry::new("filter")
        .with(
            "rank",
            "the value of this rank in a window",
            Rank::new(),
            boxed,
        )
        .with("median", "the median in a window", Median::new(), boxed)
        .with(
            "min",
            "the least value in a window: darker",
            Min::new(),
            boxed,
        )
        .with(
            "max",
            "the greatest value in a window: lighter",
            Max::new(),
            boxed,
        )
        .with(
            "blur",
            "Gauss's blur: a coarser texture",
            GaussianBlur::new(),
            boxed,
        )
        .with(
            "kernel",
            "a kernel of one's own, such as values=[0,-1,0,-1,5,-1,0,-1,0]",
            Kernel::new(),
            boxed,
        )
        .with("gray", "no colours", Gray::new(), boxed)
        .with(
            "invert",
            "light and dark, and colours, the other way round",
            Invert::new(),
            boxed,
        )
        .with(
            "contrast",
            "more contrast, or less below 1",
            Contrast::new(),
            boxed,
        )
        .with(
            "autocontrast",
            "each channel from black to white",
            AutoContrast::new(),
            boxed,
        )
        .with(
            "match-range",
            "the range of brightness of the other picture",
            MatchRange::new(),
            boxed,
        )
        .with(
            "match-polarity",
            "inverted if light and dark disagree with the other picture",
            MatchPolarity::new(),
            boxed,
        )
}

/// The option that any filter of a chain has.
const STRENGTH: &str = "strength";

/// Filters in their order; see the [module documentation](self) for the text.
#[derive(Clone, Debug, Default)]
pub struct FilterChain {
    filters: Vec<Arc<Link>>,
}

#[derive(Debug)]
struct Link {
    /// As it was written.
    text: String,
    filter: Box<dyn PixelFilter>,
    /// The share of the filtered picture.
    strength: f32,
}

impl FilterChain {
    /// Parses a chain with the filters of a registry. An empty text is no filter.
    ///
    /// # Errors
    /// If a filter or one of its options is unknown, or the text is no chain.
    pub fn parse(text: &str, family: &Registry<Box<dyn PixelFilter>>) -> Result<Self, FilterError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let links = text.split('|').map(|link| {
            let link = link.trim();
            let (name, options) = link.split_once(':').unwrap_or((link, ""));
            if name.is_empty() {
                return Err(FilterError::Chain(text.to_owned()));
            }
            let entry = family.entry(name)?;
            let first = entry.defaults().names().next().map(str::to_owned);
            let mut strength = 1.0;
            let mut given = Vec::new();
            for option in outer_parts(options) {
                match (option.split_once('='), &first) {
                    (Some((STRENGTH, value)), _) => {
                        let wrong = || FilterError::Chain(text.to_owned());
                        strength = value.trim().parse::<f32>().map_err(|_| wrong())?;
                        nabla_base::range::within(
                            "strength of a filter",
                            f64::from(strength),
                            0.0..=1.0,
                        )?;
                    }
                    (Some(_), _) => given.push(option.to_owned()),
                    (None, Some(first)) => given.push(format!("{first}={option}")),
                    (None, None) => return Err(FilterError::Chain(text.to_owned())),
                }
            }
            let filter = family.make(name, &Options::parse(&given)?)?;
            Ok(Arc::new(Link {
                text: link.to_owned(),
                filter,
                strength,
            }))
        });
        Ok(Self {
            filters: links.collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is no filter.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Filters a picture.
    ///
    /// - `other`: the picture of the other branch
    ///
    /// # Errors
    /// If the picture is empty or has values outside `[0, 1]`, or a filter fails.
    pub fn apply(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError> {
        for picture in [Some(&picture), other].into_iter().flatten() {
            picture.check()?;
        }
        self.filters.iter().try_fold(picture, |picture, link| {
            let before = (link.strength < 1.0).then(|| picture.clone());
            let filtered = link.filter.apply(picture, other)?;
            // A kernel may leave the range, like the contrast.
            let filtered = filtered.map(|value| value.clamp(0.0, 1.0));
            Ok(match before {
                Some(before) => before.mixed(&filtered, link.strength),
                None => filtered,
            })
        })
    }

    /// The same with the [tonal](PixelFilter::is_tonal) filters alone.
    fn apply_tonal(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let tonal = self.filters.iter().filter(|link| link.filter.is_tonal());
        let tonal = Self {
            filters: tonal.cloned().collect(),
        };
        tonal.apply(picture, other)
    }

    /// Filters a picture where a mask is white, and keeps it where it is black.
    ///
    /// - `mask`: the first channel counts
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and if the mask has another size.
    pub fn apply_within(
        &self,
        picture: Pixels,
        mask: &Pixels,
        other: Option<&Pixels>,
    ) -> Result<Pixels, FilterError> {
        if mask.size() != picture.size() {
            return Err(FilterError::Mask {
                mask: mask.size(),
                picture: picture.size(),
            });
        }
        mask.check()?;
        let filtered = self.apply(picture.clone(), other)?;
        Ok(picture.mixed_by(&filtered, mask))
    }

    /// [`apply`](Self::apply) to a tensor `[1, channels, height, width]`.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn filter(
        &self,
        picture: Tensor<4>,
        other: Option<&Pixels>,
    ) -> Result<Tensor<4>, FilterError> {
        if self.is_empty() {
            // The same bits as without filters.
            return Ok(picture);
        }
        let device = picture.device();
        let filtered = self.apply(Pixels::of_tensor(picture)?, other)?;
        Ok(filtered.into_tensor(&device))
    }
}

/// The text from which the chain is parsed.
impl fmt::Display for FilterChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.filters.iter().map(|link| link.text.as_str()).collect();
        f.write_str(&texts.join("|"))
    }
}

/// With Nabla's filters.
impl FromStr for FilterChain {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text, &pixel_filters())
    }
}

/// Splits at commas outside of brackets.
fn outer_parts(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begun) = (Vec::new(), 0usize, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[begun..at]);
                begun = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begun..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// The filters of both branches: `F_s` and `F_a`.
///
/// ```
/// use nabla_diffusion::filter_prompt::{FilterPrompt, Pixels, pixel_filters};
///
/// let filters = pixel_filters();
/// let prompt = FilterPrompt::new()
///     .with_structure("gray|match-polarity|match-range", &filters)?
///     .with_appearance("blur:3", &filters)?;
/// let dark = Pixels::from_fn(3, 8, 8, |_, y, x| if (2..5).contains(&y) && x > 3 { 0.9 } else { 0.1 });
/// let light = Pixels::from_fn(3, 8, 8, |_, y, x| if (2..5).contains(&y) && x < 3 { 0.4 } else { 1.0 });
/// let [structure, appearance] = prompt.filtered(dark, light)?;
/// // A dark thing on light ground, as in the other picture.
/// let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
/// assert!(near(structure.get(0, 3, 6), 0.4) && near(structure.get(0, 0, 0), 1.0));
/// assert_eq!(appearance.size(), [8, 8]);
/// # Ok::<(), nabla_diffusion::filter_prompt::FilterError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct FilterPrompt {
    /// `F_s`. Default: none.
    pub structure: FilterChain,
    /// `F_a`. Default: none.
    pub appearance: FilterChain,
}

impl FilterPrompt {
    /// No filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with this chain for the structure.
    ///
    /// # Errors
    /// If it is no chain of such filters.
    pub fn with_structure(
        mut self,
        chain: &str,
        family: &Registry<Box<dyn PixelFilter>>,
    ) -> Result<Self, FilterError> {
        self.structure = FilterChain::parse(chain, family)?;
        Ok(self)
    }

    /// The same with this chain for the appearance.
    ///
    /// # Errors
    /// If it is no chain of such filters.
    pub fn with_appearance(
        mut self,
        chain: &str,
        family: &Registry<Box<dyn PixelFilter>>,
    ) -> Result<Self, FilterError> {
        self.appearance = FilterChain::parse(chain, family)?;
        Ok(self)
    }

    /// `F_a` of the appearance and `F_s` of the structure. A filter of the structure that compares it with the other
    /// picture sees that after its tonal filters: to an inverted appearance belongs another polarity, but a blurred one
    /// keeps the range that is meant. A filter of the appearance sees the structure unfiltered.
    ///
    /// # Errors
    /// If a filter fails.
    pub fn filtered(
        &self,
        structure: Pixels,
        appearance: Pixels,
    ) -> Result<[Pixels; 2], FilterError> {
        let toned = self
            .appearance
            .apply_tonal(appearance.clone(), Some(&structure))?;
        let appearance = self.appearance.apply(appearance, Some(&structure))?;
        let structure = self.structure.apply(structure, Some(&toned))?;
        Ok([structure, appearance])
    }

    /// The same for any number of pictures, `[1, 1 or 3, height, width]` each, of any sizes; those of the other
    /// branch that a picture is compared with are represented by the first one.
    ///
    /// # Errors
    /// If a filter fails, or a chain compares with the other branch and that has no picture.
    pub fn filtered_all(
        &self,
        structures: Vec<Tensor<4>>,
        appearances: Vec<Tensor<4>>,
    ) -> Result<[Vec<Tensor<4>>; 2], FilterError> {
        let all = |chain: &FilterChain, pictures: Vec<Tensor<4>>, other: Option<Pixels>| {
            let pictures = pictures.into_iter();
            let filtered = pictures.map(|picture| chain.filter(picture, other.as_ref()));
            filtered.collect::<Result<Vec<_>, _>>()
        };
        let first = |pictures: &[Tensor<4>]| {
            let first = pictures.first().cloned();
            first.map(Pixels::of_tensor).transpose()
        };
        let [structure, appearance] = [first(&structures)?, first(&appearances)?];
        let toned = appearance.map(|it| self.appearance.apply_tonal(it, structure.as_ref()));
        let appearances = all(&self.appearance, appearances, structure.clone())?;
        let structures = all(&self.structure, structures, toned.transpose()?)?;
        Ok([structures, appearances])
    }
}

#[cfg(test)]
mod tests;
