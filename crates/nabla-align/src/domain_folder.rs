//! Pictures in folders, `domain/class/picture`, as PACS, VLCS, OfficeHome and DomainNet come.
//!
//! Every folder in the folder is a domain, every folder in a domain a class, and every file in a class a picture (PNG,
//! JPEG, WebP and what else `nabla-data` reads). All domains must have the same classes. Names that begin with a dot, and
//! what operating systems leave behind (`Thumbs.db`, `desktop.ini`), are left out.
//!
//! [`DomainFolder::open`] reads names alone; [`read`](DomainFolder::read) decodes the pictures, in parallel, and brings
//! them to one size with three channels between 0 and 1, by a triangle filter that averages where it shrinks, as
//! DomainBed does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nabla_base::range::{self, OutOfRange};
use nabla_data::{ImageFileError, Picture, Raster};
use nabla_train::examples::{Examples, InputShape};
use rayon::prelude::*;

use crate::domains::{DomainError, Domains};

/// The reason why a folder of domains cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DomainFolderError {
    /// A folder cannot be listed.
    #[error("cannot read the folder {path}: {source}", path = path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There are not two domains.
    #[error(
        "{path} holds {found} folders of domains, but at least two are needed: one to train on, and one to test with \
         (domain/class/picture)", path = path.display()
    )]
    Domains {
        /// The folder.
        path: PathBuf,
        /// Their number.
        found: usize,
    },
    /// A file is where a folder should be.
    #[error("{path} is a file, but a folder of a {kind} is expected there (domain/class/picture)", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the folder is for.
        kind: &'static str,
    },
    /// A folder is where a picture should be.
    #[error("{path} is a folder, but a picture is expected there (domain/class/picture)", path = path.display())]
    Deep {
        /// The folder.
        path: PathBuf,
    },
    /// A domain has no classes.
    #[error("the domain {path} holds no folder of a class (domain/class/picture)", path = path.display())]
    NoClass {
        /// Its folder.
        path: PathBuf,
    },
    /// A class has no pictures.
    #[error("the class {path} holds no picture", path = path.display())]
    NoPicture {
        /// Its folder.
        path: PathBuf,
    },
    /// Domains have different classes.
    #[error(
        "the domain {domain:?} {found} the class {class:?}, and the domain {first:?} {expected}: all domains need the same \
         classes",
        found = if *.extra { "has" } else { "has not" }, expected = if *.extra { "has not" } else { "has it" }
    )]
    Classes {
        /// The first domain.
        first: String,
        /// The other domain.
        domain: String,
        /// The class.
        class: String,
        /// Whether the other domain has it, and the first has not.
        extra: bool,
    },
    /// All domains have one class.
    #[error("the domains have the class {0:?} alone, so there is nothing to learn")]
    OneClass(String),
    /// All pictures together would not fit.
    #[error(
        "{pictures} pictures of {side} x {side} pixels need {:.1} GiB of memory, but at most {} GiB may be used: choose a \
         smaller side", gibibytes(*.pictures, *.side), MAX_BYTES >> 30
    )]
    TooLarge {
        /// Their number.
        pictures: usize,
        /// The side to which they would be brought.
        side: usize,
    },
    /// A file is no picture.
    #[error(transparent)]
    Picture(#[from] ImageFileError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The domains do not fit together.
    #[error(transparent)]
    Set(#[from] DomainError),
}

/// The pictures of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderDomain {
    /// Its name, that of the folder.
    pub name: String,
    /// The files, in the order of their names within each class.
    pub files: Vec<PathBuf>,
    /// The class of each.
    pub labels: Vec<u32>,
}

/// The names in a folder of domains; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainFolder {
    domains: Vec<FolderDomain>,
    classes: Vec<String>,
}

/// An entry of a folder.
struct Named {
    name: String,
    path: PathBuf,
    folder: bool,
}

/// What is in a folder, in the order of the names.
fn entries(folder: &Path) -> Result<Vec<Named>, DomainFolderError> {
    let failed = |source| DomainFolderError::List {
        path: folder.into(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let left_behind =
            ["thumbs.db", "desktop.ini"].contains(&name.to_ascii_lowercase().as_str());
        if name.starts_with('.') || left_behind {
            continue;
        }
        let path = entry.path();
        // Of what a link leads to.
        let folder = fs::metadata(&path).map_err(failed)?.is_dir();
        found.push(Named { name, path, folder });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The folders in a folder.
fn folders(folder: &Path, kind: &'static str) -> Result<Vec<Named>, DomainFolderError> {
    let found = entries(folder)?;
    match found.iter().find(|entry| !entry.folder) {
        Some(file) => Err(DomainFolderError::File {
            path: file.path.clone(),
            kind,
        }),
        None => Ok(found),
    }
}

/// The memory that all pictures of a set may take, 8 GiB: PACS and VLCS fit in the customary size of 224 pixels. A
/// training holds the set twice while it is divided.
const MAX_BYTES: u64 = 8 << 30;

/// Memory for pictures with three channels of 32-bit numbers.
fn bytes(pictures: usize, side: usize) -> u64 {
    (pictures as u64).saturating_mul(3 * 4 * (side as u64).pow(2))
}

fn gibibytes(pictures: usize, side: usize) -> f64 {
    bytes(pictures, side) as f64 / (1_u64 << 30) as f64
}

impl DomainFolder {
    /// Lists the domains, classes and files of a folder.
    ///
    /// # Errors
    /// If there are fewer than two domains, a domain without a class, a class without a picture, domains with different
    /// classes, or files where folders are expected.
    pub fn open(folder: &Path) -> Result<Self, DomainFolderError> {
        let found = folders(folder, "domain")?;
        if found.len() < 2 {
            return Err(DomainFolderError::Domains {
                path: folder.into(),
                found: found.len(),
            });
        }
        let mut classes: Vec<String> = Vec::new();
        let mut domains: Vec<FolderDomain> = Vec::with_capacity(found.len());
        for domain in found {
            let own = folders(&domain.path, "class")?;
            if own.is_empty() {
                return Err(DomainFolderError::NoClass { path: domain.path });
            }
            let names: Vec<String> = own.iter().map(|class| class.name.clone()).collect();
            match domains.first() {
                None => classes = names,
                Some(first) => {
                    let missing = classes.iter().find(|class| !names.contains(class));
                    let extra = names.iter().find(|class| !classes.contains(class));
                    if let Some(class) = missing.or(extra) {
                        return Err(DomainFolderError::Classes {
                            first: first.name.clone(),
                            domain: domain.name,
                            class: class.clone(),
                            extra: missing.is_none(),
                        });
                    }
                }
            }
            let mut files = Vec::new();
            let mut labels = Vec::new();
            for (label, class) in own.into_iter().enumerate() {
                let pictures = entries(&class.path)?;
                if pictures.is_empty() {
                    return Err(DomainFolderError::NoPicture { path: class.path });
                }
                for picture in pictures {
                    if picture.folder {
                        return Err(DomainFolderError::Deep { path: picture.path });
                    }
                    files.push(picture.path);
                    labels.push(label as u32);
                }
            }
            domains.push(FolderDomain {
                name: domain.name,
                files,
                labels,
            });
        }
        match classes.as_slice() {
            [one] => Err(DomainFolderError::OneClass(one.clone())),
            _ => Ok(Self { domains, classes }),
        }
    }

    /// The names of the domains.
    pub fn names(&self) -> Vec<String> {
        self.domains.iter().map(|d| d.name.clone()).collect()
    }

    /// The domains.
    pub fn domains(&self) -> &[FolderDomain] {
        &self.domains
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Decodes all pictures, `3·side·side` numbers each.
    ///
    /// # Errors
    /// If a file is no picture, or all of them together would take more than 8 GiB.
    pub fn read(&self, side: usize) -> Result<Domains, DomainFolderError> {
        range::within("side of the pictures", side, 1..=4096)?;
        let width = 3 * side * side;
        let pictures: usize = self.domains.iter().map(|domain| domain.files.len()).sum();
        if bytes(pictures, side) > MAX_BYTES {
            return Err(DomainFolderError::TooLarge { pictures, side });
        }
        let mut domains = Vec::with_capacity(self.domains.len());
        for domain in &self.domains {
            let mut features = vec![0.0; domain.files.len() * width];
            let pairs = features.par_chunks_exact_mut(width).zip(&domain.files);
            pairs.try_for_each(|(to, path)| -> Result<(), ImageFileError> {
                let picture = Picture::read(path)?;
                to.copy_from_slice(&of_size(&picture.raster, side));
                Ok(())
            })?;
            let labels = domain.labels.clone();
            domains.push((domain.name.clone(), Examples { features, labels }));
        }
        let shape = InputShape::Picture([3, side, side]);
        Ok(Domains::new(domains, self.classes.clone(), shape)?)
    }
}

/// A picture with three channels of `side` x `side`.
fn of_size(raster: &Raster, side: usize) -> Vec<f32> {
    let [channels, height, width] = raster.shape();
    let columns = taps(width, side);
    let rows = taps(height, side);
    let plane = |channel: usize| {
        let plane = raster.plane(channel);
        let mut wide = vec![0.0_f32; height * side];
        for (to, from) in wide.chunks_exact_mut(side).zip(plane.chunks_exact(width)) {
            for (to, (begin, weights)) in to.iter_mut().zip(&columns) {
                let values = weights.iter().zip(&from[*begin..]);
                *to = values.map(|(w, x)| w * x).sum();
            }
        }
        let mut out = vec![0.0_f32; side * side];
        for (to, (begin, weights)) in out.chunks_exact_mut(side).zip(&rows) {
            for (row, weight) in weights.iter().enumerate() {
                let from = &wide[(begin + row) * side..(begin + row + 1) * side];
                for (to, x) in to.iter_mut().zip(from) {
                    *to += weight * x;
                }
            }
        }
        out
    };
    // Grey pictures have one channel, and an alpha is not among the channels.
    let chosen = (0..3).map(|i| if channels >= 3 { i } else { 0 });
    chosen.flat_map(plane).collect()
}

/// For every new pixel, the first old one and the weights: a triangle as wide as two old or new pixels, whichever is
/// more.
fn taps(old: usize, new: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = old as f64 / new as f64;
    let reach = scale.max(1.0);
    let of = |i: usize| {
        let middle = (i as f64 + 0.5) * scale;
        let begin = ((middle - reach + 0.5).max(0.0) as usize).min(old - 1);
        let end = ((middle + reach + 0.5) as usize).clamp(begin + 1, old);
        let weight = |j: usize| (1.0 - ((j as f64 + 0.5 - middle) / reach).abs()).max(0.0);
        let weights: Vec<f64> = (begin..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        (begin, weights.iter().map(|w| (w / sum) as f32).collect())
    };
    (0..new).map(of).collect()
}

#[cfg(test)]
mod tests;
