//! Small pictures with a class each, for measuring classifiers: MNIST and its relatives, and CIFAR-10 in its
//! binary version, from folders with the published files. Two sets are built in.
//!
//! A record of CIFAR-10 is 1 byte for the class and 3072 bytes for the red, green and blue planes of 32 x 32
//! pixels each.
//!
//! Sources: LeCun, Cortes, Burges, *The MNIST database of handwritten digits*; Xiao, Rasul, Vollgraf,
//! *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms*, 2017, arXiv
//! 1708.07747; Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009; Alpaydin,
//! Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::idx::{IdxArray, IdxError, IdxValues};

/// The reason why there are no labelled pictures.
#[derive(Debug, thiserror::Error)]
pub enum LabelledPicturesError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An IDX file.
    #[error(transparent)]
    Idx(#[from] IdxError),
    /// The arrays are not pictures and their labels.
    #[error("the {what} must be unsigned bytes of {expected} dimensions, but are {found}")]
    Arrays {
        /// The pictures or the labels.
        what: &'static str,
        /// The number of dimensions.
        expected: usize,
        /// Type and shape.
        found: String,
    },
    /// The numbers of labels and of pictures differ.
    #[error("there are {pictures} pictures, but {labels} labels")]
    Count {
        /// Pictures.
        pictures: usize,
        /// Labels.
        labels: usize,
    },
    /// There are no pictures, or pictures without pixels.
    #[error("the pictures have the shape {0:?}, so there is nothing to learn")]
    Empty(Vec<usize>),
    /// A label is not below the number of classes.
    #[error("picture {index} has the label {label}, but the classes are 0 to {}", classes - 1)]
    Label {
        /// The picture, from 0.
        index: usize,
        /// Its label.
        label: u8,
        /// The number of classes.
        classes: usize,
    },
    /// The length of a CIFAR-10 file is wrong.
    #[error("{} is not a CIFAR-10 file: its length is {length}, but must be a multiple of 3073", path.display())]
    CifarLength {
        /// The file.
        path: PathBuf,
        /// Its length, or one more than the largest length that is read.
        length: u64,
    },
    /// The pictures of the two sets differ in shape.
    #[error("the training pictures are {training:?}, but the test pictures {test:?}")]
    Shapes {
        /// Channels, height, width.
        training: [usize; 3],
        /// Channels, height, width.
        test: [usize; 3],
    },
    /// The file with this error.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<LabelledPicturesError>,
    },
    /// The folder contains no known set.
    #[error(
        "{} holds neither MNIST files (train-images-idx3-ubyte[.gz], ...) nor CIFAR-10's binary \
         files (data_batch_1.bin, ...)", .0.display()
    )]
    Unknown(PathBuf),
}

/// Pictures of one size, each with a class.
///
/// ```
/// let digits = nabla_data::digits()?;
/// assert_eq!((digits.len(), digits.shape()), (1797, [1, 8, 8]));
/// assert_eq!(digits.labels()[..4], [0, 1, 2, 3]);
/// assert_eq!(digits.pixels(0).len(), 64);
/// # Ok::<(), nabla_data::LabelledPicturesError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledPictures {
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
    white: u8,
}

/// The 2 x 2 squares of a plane, row by row: the pixels of a picture half as wide and high are their means. A last row
/// or column of its own is left out.
///
/// - `plane`: `[height, width]`
///
/// ```
/// let squares: Vec<_> = nabla_data::squares_of_four(&[1, 2, 3, 4, 5, 6, 7, 8], 4).collect();
/// assert_eq!(squares, [[1, 2, 5, 6], [3, 4, 7, 8]]);
/// ```
pub fn squares_of_four<T: Copy>(plane: &[T], width: usize) -> impl Iterator<Item = [T; 4]> {
    let pairs = plane.chunks_exact(2 * width.max(1));
    pairs.flat_map(move |rows| {
        let (upper, lower) = rows.split_at(width);
        let columns = upper
            .as_chunks::<2>()
            .0
            .iter()
            .zip(lower.as_chunks::<2>().0);
        columns.map(|(&[a, b], &[c, d])| [a, b, c, d])
    })
}

fn ten_digits() -> Vec<String> {
    (0..10).map(|c| c.to_string()).collect()
}

fn names(names: [&str; 10]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

/// The classes of Fashion-MNIST.
const FASHION: [&str; 10] = [
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

/// The classes of CIFAR-10.
const CIFAR_10: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

impl LabelledPictures {
    /// The largest number of bytes of a CIFAR-10 file that is read.
    pub const MAX_CIFAR_BYTES: u64 = 1 << 30;
    const CIFAR_RECORD: usize = 1 + 3072;

    /// Pictures of IDX arrays, `[n, height, width]` or `[n, channels, height, width]`, and their
    /// labels, `[n]`.
    ///
    /// - `white`: the highest value of a pixel
    ///
    /// # Errors
    /// If the arrays have other types or shapes or are empty, or a label is not one of `classes`.
    pub fn from_idx(
        pictures: IdxArray,
        labels: IdxArray,
        classes: Vec<String>,
        white: u8,
    ) -> Result<Self, LabelledPicturesError> {
        let wrong = |what, expected, array: &IdxArray| LabelledPicturesError::Arrays {
            what,
            expected,
            found: format!("{} of shape {:?}", array.values.type_name(), array.shape),
        };
        let shape = match pictures.shape[..] {
            [_, height, width] => [1, height, width],
            [_, channels, height, width] => [channels, height, width],
            _ => return Err(wrong("pictures", 3, &pictures)),
        };
        if labels.shape.len() != 1 {
            return Err(wrong("labels", 1, &labels));
        }
        let labels = match labels.values {
            IdxValues::U8(values) => values,
            _ => return Err(wrong("labels", 1, &labels)),
        };
        let count = pictures.shape[0];
        if count != labels.len() {
            return Err(LabelledPicturesError::Count {
                pictures: count,
                labels: labels.len(),
            });
        }
        if pictures.shape.contains(&0) {
            return Err(LabelledPicturesError::Empty(pictures.shape));
        }
        let pixels = match pictures.values {
            IdxValues::U8(values) => values,
            _ => return Err(wrong("pictures", 3, &pictures)),
        };
        Self {
            shape,
            pixels,
            labels,
            classes,
            white,
        }
        .checked()
    }

    /// Reads records of CIFAR-10.
    ///
    /// # Errors
    /// If the length is not a multiple of a record's, or a class is above 9.
    pub fn from_cifar_10(bytes: &[u8]) -> Result<Self, LabelledPicturesError> {
        let (records, rest) = bytes.as_chunks::<{ Self::CIFAR_RECORD }>();
        if records.is_empty() || !rest.is_empty() {
            return Err(LabelledPicturesError::CifarLength {
                path: PathBuf::from("the data"),
                length: bytes.len() as u64,
            });
        }
        Self {
            shape: [3, 32, 32],
            pixels: records.iter().flat_map(|r| &r[1..]).copied().collect(),
            labels: records.iter().map(|r| r[0]).collect(),
            classes: names(CIFAR_10),
            white: 255,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, LabelledPicturesError> {
        let classes = self.classes.len();
        let mut labels = self.labels.iter().enumerate();
        match labels.find(|(_, label)| usize::from(**label) >= classes) {
            Some((index, &label)) => Err(LabelledPicturesError::Label {
                index,
                label,
                classes,
            }),
            None => Ok(self),
        }
    }

    fn read_cifar_file(path: &Path) -> Result<Self, LabelledPicturesError> {
        let unreadable = |source| LabelledPicturesError::Read {
            path: path.into(),
            source,
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(Self::MAX_CIFAR_BYTES + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        let length = bytes.len() as u64;
        if length > Self::MAX_CIFAR_BYTES {
            return Err(LabelledPicturesError::CifarLength {
                path: path.into(),
                length,
            });
        }
        Self::from_cifar_10(&bytes).map_err(|error| match error {
            LabelledPicturesError::CifarLength { length, .. } => {
                LabelledPicturesError::CifarLength {
                    path: path.into(),
                    length,
                }
            }
            other => LabelledPicturesError::In {
                path: path.into(),
                source: Box::new(other),
            },
        })
    }

    /// Reads the training and the test set of a folder with the published files of MNIST, Fashion-MNIST or
    /// another set of their form, plain or gzip-compressed, or with the binary version of CIFAR-10 (also in
    /// its own sub-folder `cifar-10-batches-bin`).
    ///
    /// If the path contains `fashion`, the classes have the names of Fashion-MNIST.
    ///
    /// # Errors
    /// If the folder contains neither, or the content of a file does not match its name.
    pub fn read_folder(folder: &Path) -> Result<[Self; 2], LabelledPicturesError> {
        fs::read_dir(folder).map_err(|source| LabelledPicturesError::Read {
            path: folder.into(),
            source,
        })?;
        for inner in ["", "raw", "MNIST/raw", "FashionMNIST/raw"] {
            let inner = folder.join(inner);
            if idx_file(&inner, "train", "images", 3).is_some() {
                return Self::read_mnist(&inner);
            }
        }
        for inner in ["", "cifar-10-batches-bin"] {
            let inner = folder.join(inner);
            if inner.join("data_batch_1.bin").is_file() {
                return Self::read_cifar_10(&inner);
            }
        }
        Err(LabelledPicturesError::Unknown(folder.into()))
    }

    fn read_mnist(folder: &Path) -> Result<[Self; 2], LabelledPicturesError> {
        let fashion = folder
            .to_string_lossy()
            .to_ascii_lowercase()
            .contains("fashion");
        let read = |part: &str| {
            let file = |kind, rank| {
                idx_file(folder, part, kind, rank).ok_or_else(|| LabelledPicturesError::Read {
                    path: folder.join(format!("{part}-{kind}-idx{rank}-ubyte")),
                    source: io::ErrorKind::NotFound.into(),
                })
            };
            let (pictures, labels) = (file("images", 3)?, file("labels", 1)?);
            let classes = if fashion {
                names(FASHION)
            } else {
                ten_digits()
            };
            Self::from_idx(
                IdxArray::read(&pictures)?,
                IdxArray::read(&labels)?,
                classes,
                255,
            )
            .map_err(|source| LabelledPicturesError::In {
                path: pictures,
                source: Box::new(source),
            })
        };
        same_shape([read("train")?, read("t10k")?])
    }

    fn read_cifar_10(folder: &Path) -> Result<[Self; 2], LabelledPicturesError> {
        let mut training = Self::read_cifar_file(&folder.join("data_batch_1.bin"))?;
        for batch in 2..=5 {
            let more = Self::read_cifar_file(&folder.join(format!("data_batch_{batch}.bin")))?;
            training.pixels.extend(more.pixels);
            training.labels.extend(more.labels);
        }
        Ok([
            training,
            Self::read_cifar_file(&folder.join("test_batch.bin"))?,
        ])
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Channels, height and width of each.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The pixels of picture `i`, channel by channel, row by row; none if there is no such picture.
    pub fn pixels(&self, i: usize) -> &[u8] {
        let size: usize = self.shape.iter().product();
        let begin = i.saturating_mul(size);
        self.pixels
            .get(begin..begin.saturating_add(size))
            .unwrap_or(&[])
    }

    /// The class of each.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The highest value that a pixel may have.
    pub fn white(&self) -> u8 {
        self.white
    }
}

fn same_shape(
    [training, test]: [LabelledPictures; 2],
) -> Result<[LabelledPictures; 2], LabelledPicturesError> {
    if training.shape == test.shape {
        Ok([training, test])
    } else {
        Err(LabelledPicturesError::Shapes {
            training: training.shape,
            test: test.shape,
        })
    }
}

/// `train-images-idx3-ubyte`, in the published spelling or that of some archives.
fn idx_file(folder: &Path, part: &str, kind: &str, rank: usize) -> Option<PathBuf> {
    ["-", "."]
        .into_iter()
        .flat_map(|dash| {
            ["", ".gz"].map(|gz| folder.join(format!("{part}-{kind}{dash}idx{rank}-ubyte{gz}")))
        })
        .find(|path| path.is_file())
}

macro_rules! asset {
    ($path:literal) => {
        include_bytes!(concat!("../assets/", $path)) as &[u8]
    };
}

/// The 1797 handwritten digits of the test set of "Optical Recognition of Handwritten Digits" (as in
/// scikit-learn), 8 x 8 grey values of 0 to 16. CC BY 4.0, see `assets/README.md`.
///
/// # Errors
/// Never with the files of the repository.
pub fn digits() -> Result<LabelledPictures, LabelledPicturesError> {
    LabelledPictures::from_idx(
        IdxArray::decode(asset!("digits/digits-images-idx3-ubyte.gz"))?,
        IdxArray::decode(asset!("digits/digits-labels-idx1-ubyte.gz"))?,
        ten_digits(),
        16,
    )
}

/// A tenth of Fashion-MNIST: 5500 pictures to train on and 1000 to test with, equally many of each class, 28
/// x 28. MIT licence, see `assets/README.md`.
///
/// # Errors
/// Never with the files of the repository.
pub fn fashion_sample() -> Result<[LabelledPictures; 2], LabelledPicturesError> {
    let read = |pictures, labels| {
        LabelledPictures::from_idx(
            IdxArray::decode(pictures)?,
            IdxArray::decode(labels)?,
            names(FASHION),
            255,
        )
    };
    Ok([
        read(
            asset!("fashion/train-images-idx3-ubyte.gz"),
            asset!("fashion/train-labels-idx1-ubyte.gz"),
        )?,
        read(
            asset!("fashion/t10k-images-idx3-ubyte.gz"),
            asset!("fashion/t10k-labels-idx1-ubyte.gz"),
        )?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sums and class counts of the arrays that numpy read from the packages' own files.
    #[test]
    fn the_built_in_sets_are_those_of_the_packages() {
        let sum =
            |set: &LabelledPictures| -> u64 { set.pixels.iter().map(|&p| u64::from(p)).sum() };
        let counts = |set: &LabelledPictures| {
            let mut counts = [0; 10];
            set.labels.iter().for_each(|&l| counts[usize::from(l)] += 1);
            counts
        };
        let digits = digits().unwrap();
        assert_eq!((digits.len(), sum(&digits)), (1797, 561_718));
        assert_eq!(
            counts(&digits),
            [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
        );
        assert_eq!(digits.pixels.iter().max(), Some(&16));
        let [training, test] = fashion_sample().unwrap();
        assert_eq!((training.len(), sum(&training)), (5500, 315_910_708));
        assert_eq!((test.len(), sum(&test)), (1000, 56_973_981));
        assert_eq!((counts(&training), counts(&test)), ([550; 10], [100; 10]));
        assert_eq!(training.labels[..10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
        assert_eq!(test.labels[..10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
    }

    fn cifar(labels: &[u8]) -> Vec<u8> {
        labels
            .iter()
            .flat_map(|&l| std::iter::once(l).chain((0..3072).map(move |i| (i % 251) as u8 ^ l)))
            .collect()
    }

    #[test]
    fn folders_are_read_in_the_published_formats() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let told = |path: &Path| LabelledPictures::read_folder(path).unwrap_err().to_string();
        assert!(told(&root.join("absent")).starts_with("cannot read"));
        assert!(told(root).contains("holds neither"));

        let inner = root.join("cifar-10-batches-bin");
        fs::create_dir(&inner).unwrap();
        for batch in 1..=5 {
            fs::write(
                inner.join(format!("data_batch_{batch}.bin")),
                cifar(&[batch, 9]),
            )
            .unwrap();
        }
        assert!(told(root).contains("test_batch.bin"));
        fs::write(inner.join("test_batch.bin"), cifar(&[3])).unwrap();
        let [training, test] = LabelledPictures::read_folder(root).unwrap();
        assert_eq!(training.labels(), [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]);
        assert_eq!((test.len(), test.shape()), (1, [3, 32, 32]));
        assert_eq!(test.pixels(0)[..3], [3, 2, 1]);
        assert!(training.pixels(10).is_empty());
        fs::write(inner.join("test_batch.bin"), &cifar(&[3])[1..]).unwrap();
        assert!(told(root).contains("its length is 3072"));
        fs::write(inner.join("test_batch.bin"), cifar(&[10])).unwrap();
        assert!(told(root).contains("label 10, but the classes are 0 to 9"));

        let fashion = root.join("fashion");
        fs::create_dir(&fashion).unwrap();
        let array = |shape: &[usize]| IdxArray {
            shape: shape.to_vec(),
            values: IdxValues::U8(vec![1; shape.iter().product()]),
        };
        fs::write(
            fashion.join("train-images-idx3-ubyte"),
            array(&[2, 4, 5]).encode(),
        )
        .unwrap();
        assert!(told(&fashion).contains("train-labels-idx1-ubyte"));
        fs::write(
            fashion.join("train-labels-idx1-ubyte"),
            array(&[3]).encode(),
        )
        .unwrap();
        assert!(told(&fashion).contains("2 pictures, but 3 labels"));
        fs::write(
            fashion.join("train-labels-idx1-ubyte"),
            array(&[2]).encode(),
        )
        .unwrap();
        fs::write(
            fashion.join("t10k-images.idx3-ubyte"),
            array(&[1, 4, 6]).encode(),
        )
        .unwrap();
        fs::write(fashion.join("t10k-labels.idx1-ubyte"), array(&[1]).encode()).unwrap();
        assert!(told(&fashion).contains("[1, 4, 5], but the test pictures [1, 4, 6]"));
        fs::write(
            fashion.join("t10k-images.idx3-ubyte"),
            array(&[1, 4, 5]).encode(),
        )
        .unwrap();
        let [training, _] = LabelledPictures::read_folder(&fashion).unwrap();
        assert_eq!(
            (training.shape(), &training.classes()[1][..]),
            ([1, 4, 5], "trouser")
        );
        fs::write(fashion.join("t10k-images.idx3-ubyte"), "text").unwrap();
        assert!(told(&fashion).contains("is not IDX"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_give_pictures_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            records in 0usize..3,
            label in any::<u8>(),
        ) {
            let _ = LabelledPictures::from_cifar_10(&bytes);
            let whole = cifar(&vec![label; records]);
            let read = LabelledPictures::from_cifar_10(&whole);
            prop_assert_eq!(read.is_ok(), records > 0 && label < 10);
            if let (Ok(pictures), Ok(labels)) = (IdxArray::decode(&bytes), IdxArray::decode(&bytes)) {
                let _ = LabelledPictures::from_idx(pictures, labels, ten_digits(), 255);
            }
        }
    }
}
