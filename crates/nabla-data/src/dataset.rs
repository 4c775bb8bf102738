//! The folders of pictures in the repository: panoramas with a fixed split, and photographs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::file_format::FileFormat;
use crate::image_file::{ImageFileError, Picture};

/// The reason why a folder is not the expected data set.
#[derive(Debug, thiserror::Error)]
pub enum DataSetError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The split is not valid.
    #[error("{} is not a split of panoramas: {reason}", path.display())]
    Split {
        /// The file of the split.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The split does not list a name.
    #[error("there is no panorama named {name:?}; the split lists {}", known.join(", "))]
    UnknownName {
        /// The name requested.
        name: String,
        /// The names that the split lists.
        known: Vec<String>,
    },
    /// There are no photographs.
    #[error("{} holds no PNG, JPEG, WebP, TIFF or Radiance HDR files", path.display())]
    NoPictures {
        /// The folder.
        path: PathBuf,
    },
    /// A picture cannot be read.
    #[error(transparent)]
    Image(#[from] ImageFileError),
}

/// The side of the split that a panorama is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For fitting.
    Training,
    /// For evaluation; never seen in training.
    HeldOut,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitFile {
    sample: String,
    training: Vec<String>,
    held_out: Vec<String>,
}

/// A folder of panoramas `NAME.png` with a `split.toml` that names each of them once.
///
/// ```toml
/// sample = "b"                # the held-out panorama of examples
/// training = ["a"]
/// held_out = ["b", "c"]
/// ```
///
/// ```
/// use nabla_data::{PanoramaSet, Split};
/// # let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/panoramas");
/// let set = PanoramaSet::open(&assets)?;
/// let first = set.load(&set.names(Split::HeldOut)[0])?;
/// assert_eq!(first.raster.width(), 2 * first.raster.height());
/// # Ok::<(), nabla_data::DataSetError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PanoramaSet {
    folder: PathBuf,
    split: SplitNames,
}

#[derive(Clone, Debug)]
struct SplitNames {
    sample: String,
    training: Vec<String>,
    held_out: Vec<String>,
}

impl PanoramaSet {
    /// Reads `folder/split.toml`.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML of the form above, names a panorama twice, names a file that
    /// is not in the folder, or its sample is not held out.
    pub fn open(folder: &Path) -> Result<Self, DataSetError> {
        let path = folder.join("split.toml");
        let text = fs::read_to_string(&path).map_err(|source| DataSetError::Read {
            path: path.clone(),
            source,
        })?;
        let wrong = |reason: String| DataSetError::Split {
            path: path.clone(),
            reason,
        };
        let SplitFile {
            sample,
            training,
            held_out,
        } = toml::from_str(&text).map_err(|e| wrong(e.message().to_owned()))?;
        let mut seen = BTreeSet::new();
        for name in training.iter().chain(&held_out) {
            let plain = name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            if !plain || name.is_empty() {
                return Err(wrong(format!(
                    "{name:?} is not a plain name of letters and digits"
                )));
            }
            if !seen.insert(name) {
                return Err(wrong(format!("{name:?} is listed twice")));
            }
            if !folder.join(format!("{name}.png")).is_file() {
                return Err(wrong(format!("{name}.png is not in the folder")));
            }
        }
        if !held_out.contains(&sample) {
            return Err(wrong(format!("the sample {sample:?} is not held out")));
        }
        Ok(Self {
            folder: folder.into(),
            split: SplitNames {
                sample,
                training,
                held_out,
            },
        })
    }

    /// The names on one side of the split, in the order of the file.
    pub fn names(&self, split: Split) -> &[String] {
        match split {
            Split::Training => &self.split.training,
            Split::HeldOut => &self.split.held_out,
        }
    }

    /// The name of the sample.
    pub fn sample(&self) -> &str {
        &self.split.sample
    }

    /// The file of a panorama.
    ///
    /// # Errors
    /// If the split does not list the name.
    pub fn path(&self, name: &str) -> Result<PathBuf, DataSetError> {
        let mut known = self.split.training.iter().chain(&self.split.held_out);
        if known.clone().any(|n| n == name) {
            return Ok(self.folder.join(format!("{name}.png")));
        }
        let known = known.by_ref().cloned().collect();
        Err(DataSetError::UnknownName {
            name: name.into(),
            known,
        })
    }

    /// Reads a panorama as `[3, height, width]`.
    ///
    /// # Errors
    /// If the split does not list the name or the file cannot be read.
    pub fn load(&self, name: &str) -> Result<Picture, DataSetError> {
        Ok(Picture::read(&self.path(name)?)?.into_rgb())
    }
}

/// A folder of photographs, in the order of their file names.
///
/// ```
/// use nabla_data::PhotoSet;
/// # let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/photos");
/// let photos = PhotoSet::open(&assets)?;
/// let first = photos.load(0)?;
/// assert_eq!(first.raster.channels(), 3);
/// # Ok::<(), nabla_data::DataSetError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PhotoSet {
    paths: Vec<PathBuf>,
}

impl PhotoSet {
    /// Lists the image files of `folder` (by their extension, without subfolders), sorted by the bytes of
    /// their names, which gives the same order on every machine.
    ///
    /// # Errors
    /// If the folder cannot be read or contains no image file.
    pub fn open(folder: &Path) -> Result<Self, DataSetError> {
        let failed = |source| DataSetError::Read {
            path: folder.into(),
            source,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_file() && FileFormat::from_path(&path).is_some() {
                paths.push(path);
            }
        }
        paths.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
        if paths.is_empty() {
            return Err(DataSetError::NoPictures {
                path: folder.into(),
            });
        }
        Ok(Self { paths })
    }

    /// The files.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Number of photographs; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Reads photograph `index` as `[3, height, width]`.
    ///
    /// # Errors
    /// If the file cannot be read.
    ///
    /// # Panics
    /// If `index >= self.len()`.
    pub fn load(&self, index: usize) -> Result<Picture, DataSetError> {
        Ok(Picture::read(&self.paths[index])?.into_rgb())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assets() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets")
    }

    #[test]
    fn every_panorama_of_the_repository_is_on_one_side() {
        let folder = assets().join("panoramas");
        let set = PanoramaSet::open(&folder).unwrap();
        let (training, held_out) = (set.names(Split::Training), set.names(Split::HeldOut));
        let listed: BTreeSet<_> = training.iter().chain(held_out).cloned().collect();
        let present: BTreeSet<_> = PhotoSet::open(&folder)
            .unwrap()
            .paths()
            .iter()
            .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(listed, present);
        assert_eq!((training.len(), held_out.len()), (16, 8));
        let wide = held_out
            .iter()
            .filter(|n| set.load(n).unwrap().raster.width() == 1024)
            .count();
        assert_eq!(wide, 5);
    }

    #[test]
    fn photographs_come_in_the_order_of_their_names() {
        let set = PhotoSet::open(&assets().join("photos")).unwrap();
        let names: Vec<_> = set.paths().iter().map(|p| p.file_name().unwrap()).collect();
        assert!(names.is_sorted());
        assert_eq!(
            (set.len(), names[0].to_str().unwrap()),
            (31, "aitzgorri.jpg")
        );
    }

    fn split_error(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("split.toml"), text).unwrap();
        fs::write(folder.path().join("a.png"), "").unwrap();
        PanoramaSet::open(folder.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_split_is_told_by_what_is_wrong() {
        let cases = [
            (
                "sample = \"a\"\ntraining = [\"a\"]\nheld_out = [\"a\"]",
                "\"a\" is listed twice",
            ),
            (
                "sample = \"a\"\ntraining = [\"a\"]\nheld_out = []",
                "not held out",
            ),
            (
                "sample = \"b\"\ntraining = []\nheld_out = [\"b\"]",
                "b.png is not in the folder",
            ),
            (
                "sample = \"../a\"\ntraining = []\nheld_out = [\"../a\"]",
                "not a plain name",
            ),
            ("training = [", "split.toml"),
        ];
        for (text, expected) in cases {
            let error = split_error(text);
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = PhotoSet::open(tempfile::tempdir().unwrap().path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("holds no"), "{error}");
        let set = PanoramaSet::open(&assets().join("panoramas")).unwrap();
        assert!(
            set.path("nowhere")
                .unwrap_err()
                .to_string()
                .contains("venice_sunset")
        );
    }
}
