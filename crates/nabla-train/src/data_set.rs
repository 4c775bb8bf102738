//! Classified examples, from the usual data set formats.
//!
//! | source | what |
//! |---|---|
//! | `digits` | scikit-learn's handwritten digits, built in: 1797 pictures of 8 x 8 |
//! | `fashion` | a tenth of Fashion-MNIST, built in: 5500 + 1000 pictures of 28 x 28 |
//! | a folder | MNIST, Fashion-MNIST (IDX, plain or gzip) or CIFAR-10 (binary version) |
//! | a file `.csv`, `.tsv` | a table with a column of labels; row numbers of pandas and R are left out |
//! | another file | LIBSVM, with indices from 0 or 1 |
//!
//! [`DataSet::reading`] tells how ambiguous tables were read.
//!
//! If a source has no test set, a share of it is held out, drawn with a separate seed, so that all trainings
//! are measured on the same examples. Features are standardised with the mean and the standard deviation of
//! the training examples, per channel for pictures and per feature for tables; a feature that does not vary
//! becomes 0.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nabla_base::range::{self, OutOfRange};
use nabla_data::{
    CsvError, CsvOptions, CsvTable, IndexBase, LabelColumn, LabelledPictures,
    LabelledPicturesError, LibsvmError, LibsvmText, digits, fashion_sample,
};
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use crate::examples::{Examples, InputShape, Scaling};
use crate::order::permutation;

/// The reason why there is no data set.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Pictures.
    #[error(transparent)]
    Pictures(#[from] LabelledPicturesError),
    /// A table.
    #[error(transparent)]
    Csv(#[from] CsvError),
    /// A sparse table.
    #[error(transparent)]
    Libsvm(#[from] LibsvmError),
    /// The source is neither a name nor a path.
    #[error("there is no data set {0:?}: it is none of digits, fashion, a file or a folder")]
    NoSource(String),
    /// A share is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A test file was given for a source that is not a table.
    #[error("a test file can only be given with a CSV or LIBSVM file, not with {0:?}")]
    TestFile(String),
    /// The tables differ in features.
    #[error("the training table has {training} features, but the test table {test}")]
    Features {
        /// Of the training table.
        training: usize,
        /// Of the test table.
        test: usize,
    },
    /// The tables have the same number of features, but not the same ones.
    #[error(
        "the training table has the feature {training:?} where the test table has {test:?}: both need \
         the same columns in the same order"
    )]
    FeatureNames {
        /// Of the training table.
        training: String,
        /// Of the test table.
        test: String,
    },
    /// Only the test set has this label.
    #[error("the test set has the label {0:?}, which no training example has")]
    UnknownLabel(String),
    /// There are too many labels to be classes.
    #[error("the examples have {0} different labels, but there can be at most 1000 classes")]
    TooManyClasses(usize),
    /// There is only one class.
    #[error("all training examples have the label {0:?}, so there is nothing to learn")]
    OneClass(String),
    /// The dense table would not fit.
    #[error("{examples} examples of {features} features are more than 2^31 numbers")]
    TooLarge {
        /// Examples.
        examples: usize,
        /// Features.
        features: usize,
    },
    /// A part has no examples.
    #[error("with {0} examples, the shares leave no training examples or no test examples")]
    TooFew(usize),
}

/// How features are standardised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standardization {
    /// Pictures per channel, tables per feature.
    #[default]
    Auto,
    /// Not at all; pictures have values in `[0, 1]`.
    None,
}

/// The source of the examples, and how they are split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A name or a path; see the [module documentation](self). Default `digits`.
    pub source: String,
    /// The test examples of a table, in the same format; `None` for a share of the table.
    pub test: Option<PathBuf>,
    /// The share of examples held out for the test, in `(0, 1)`, if the source has no test set. Default 0.2.
    pub test_share: f64,
    /// The share of the training examples on which learning rates are chosen, in `(0, 1)`. Default
    /// 0.2.
    pub validation_share: f64,
    /// The seed of both splits. Default 0.
    pub split_seed: u64,
    /// The column of a CSV file's labels: `first`, `last`, or its name or number. Default `last`.
    pub label_column: String,
    /// Columns of a CSV file that are left out, by name or number. Default: none.
    pub drop_columns: Vec<String>,
    /// Whether a CSV file's column of row numbers or row names, as pandas and R write it (see
    /// [`CsvTable`]), is a feature. Default: no.
    pub keep_index: bool,
    /// Where the indices of a LIBSVM file start. Default: at 0 if an index 0 occurs in it or in the test file
    /// (see [`LibsvmText`]), otherwise at 1.
    pub index_base: Option<IndexBase>,
    /// Default `auto`.
    pub standardization: Standardization,
    /// The maximum number of training examples, drawn with the split's seed.
    pub limit: Option<usize>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: "digits".into(),
            test: None,
            test_share: 0.2,
            validation_share: 0.2,
            split_seed: 0,
            label_column: "last".into(),
            drop_columns: Vec::new(),
            keep_index: false,
            index_base: None,
            standardization: Standardization::Auto,
            limit: None,
        }
    }
}

/// How a table was read, where this is ambiguous.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReading {
    /// Where the indices start; `None` if the source is not a LIBSVM file.
    pub index_base: Option<IndexBase>,
    /// The headers of the columns with only row numbers or row names, which were left out.
    pub row_names: Vec<String>,
}

/// Examples to train on and to measure with.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSet {
    /// Its name or path.
    pub name: String,
    /// The shape of an example.
    pub shape: InputShape,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// To train on.
    pub training: Examples,
    /// To measure with: the test set, or the validation part.
    pub test: Examples,
    /// How the features of both were scaled.
    pub scaling: Scaling,
    /// How a table was read.
    pub reading: TableReading,
}

/// Streams of the split's seed.
const TEST_STREAM: u64 = 0;
const VALIDATION_STREAM: u64 = 1;
const LIMIT_STREAM: u64 = 2;

/// The maximum number of values in a dense table.
const MAX_NUMBERS: usize = 1 << 31;
const MAX_CLASSES: usize = 1000;

struct Loaded {
    shape: InputShape,
    classes: Vec<String>,
    training: Examples,
    test: Option<Examples>,
    reading: TableReading,
}

impl DataConfig {
    /// Switches to another source, and resets the test file and the options for columns and indices, which
    /// belonged to the previous one.
    pub fn switch_to(&mut self, source: &str) {
        self.source = source.to_owned();
        self.test = None;
        self.drop_columns.clear();
        self.index_base = None;
    }

    /// The training and the test examples.
    ///
    /// # Errors
    /// If the source cannot be read, is not a classification problem, or leaves a part empty.
    pub fn open(&self) -> Result<DataSet, DataError> {
        self.split(false)
    }

    /// The training examples without the validation part, with that part in place of the test examples, which
    /// are not used.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for_validation(&self) -> Result<DataSet, DataError> {
        self.split(true)
    }

    fn split(&self, validation: bool) -> Result<DataSet, DataError> {
        for (name, value) in [
            ("test share of the data", self.test_share),
            ("validation share of the data", self.validation_share),
        ] {
            let holds = value > 0.0 && value < 1.0;
            range::check(holds, name, value, "more than 0 and less than 1")?;
        }
        let loaded = self.load()?;
        let width = loaded.shape.features();
        let (mut training, mut test) = match loaded.test {
            Some(test) => (loaded.training, test),
            None => self.held_out(&loaded.training, width, self.test_share, TEST_STREAM)?,
        };
        if let Some(limit) = self.limit
            && limit < training.len()
        {
            let mut draw = SeededNoise::new(self.split_seed, LIMIT_STREAM);
            let mut order = permutation(training.len(), &mut draw);
            order.truncate(limit);
            training = training.chosen(&order, width);
        }
        if validation {
            (training, test) =
                self.held_out(&training, width, self.validation_share, VALIDATION_STREAM)?;
        }
        if training.is_empty() || test.is_empty() {
            return Err(DataError::TooFew(training.len() + test.len()));
        }
        let scaling = match self.standardization {
            Standardization::Auto => Scaling::of(&training, loaded.shape),
            Standardization::None => Scaling::none(),
        };
        for part in [&mut training, &mut test] {
            scaling.apply(&mut part.features, loaded.shape);
        }
        Ok(DataSet {
            name: self.source.clone(),
            shape: loaded.shape,
            classes: loaded.classes,
            training,
            test,
            scaling,
            reading: loaded.reading,
        })
    }

    fn held_out(
        &self,
        all: &Examples,
        width: usize,
        share: f64,
        stream: u64,
    ) -> Result<(Examples, Examples), DataError> {
        let count = (share * all.len() as f64).round() as usize;
        if count == 0 || count >= all.len() {
            return Err(DataError::TooFew(all.len()));
        }
        let order = permutation(all.len(), &mut SeededNoise::new(self.split_seed, stream));
        let (test, training) = order.split_at(count);
        Ok((all.chosen(training, width), all.chosen(test, width)))
    }

    fn load(&self) -> Result<Loaded, DataError> {
        let path = Path::new(&self.source);
        let pictures = match self.source.as_str() {
            "digits" => Some((digits()?, None)),
            "fashion" => {
                let [training, test] = fashion_sample()?;
                Some((training, Some(test)))
            }
            _ if path.is_dir() => {
                let [training, test] = LabelledPictures::read_folder(path)?;
                Some((training, Some(test)))
            }
            _ if path.is_file() => None,
            source => return Err(DataError::NoSource(source.into())),
        };
        match pictures {
            Some(_) if self.test.is_some() => Err(DataError::TestFile(self.source.clone())),
            Some((training, test)) => Ok(Loaded {
                shape: InputShape::Picture(training.shape()),
                classes: training.classes().to_vec(),
                training: of_pictures(&training),
                test: test.as_ref().map(of_pictures),
                reading: TableReading::default(),
            }),
            None if is_csv(path) => self.csv(path),
            None => self.libsvm(path),
        }
    }

    fn csv(&self, path: &Path) -> Result<Loaded, DataError> {
        let label = match self.label_column.as_str() {
            "first" => LabelColumn::First,
            "last" => LabelColumn::Last,
            name => LabelColumn::Named(name.into()),
        };
        let options = CsvOptions {
            label,
            drop: self.drop_columns.clone(),
            keep_row_names: self.keep_index,
        };
        let training = CsvTable::read(path, &options)?;
        let test = self.test.as_deref();
        let test = test
            .map(|path| CsvTable::read(path, &options))
            .transpose()?;
        if let Some(test) = &test {
            let (a, b) = (training.features(), test.features());
            if a.len() != b.len() {
                return Err(DataError::Features {
                    training: a.len(),
                    test: b.len(),
                });
            }
            let differing = a.iter().zip(b).find(|(a, b)| a != b);
            if let Some((a, b)) = differing
                && training.has_header()
                && test.has_header()
            {
                return Err(DataError::FeatureNames {
                    training: a.clone(),
                    test: b.clone(),
                });
            }
        }
        let reading = TableReading {
            index_base: None,
            row_names: training.row_names().to_vec(),
        };
        let table = |table: CsvTable| {
            let width = table.features().len();
            check_size(table.len(), width)?;
            let rows = (0..table.len()).flat_map(|i| table.row(i));
            Ok::<_, DataError>(Table {
                width,
                features: rows.map(|&v| v as f32).collect(),
                labels: table.labels().to_vec(),
            })
        };
        of_tables(table(training)?, test.map(table).transpose()?, reading)
    }

    fn libsvm(&self, path: &Path) -> Result<Loaded, DataError> {
        let training = LibsvmText::read(path)?;
        let test = self.test.as_deref();
        let test = test.map(LibsvmText::read).transpose()?;
        let found = || IndexBase::of([&training].into_iter().chain(&test));
        let base = self.index_base.unwrap_or_else(found);
        let table = |path: &Path, text: LibsvmText, width: Option<usize>| {
            let rows = text.into_rows(base, width).map_err(|e| e.of(path))?;
            let width = rows.features();
            check_size(rows.len(), width)?;
            let mut features = vec![0.0; rows.len() * width];
            for i in 0..rows.len() {
                for (column, value) in rows.row(i) {
                    features[i * width + column] = value as f32;
                }
            }
            Ok::<_, DataError>(Table {
                labels: rows.labels().iter().map(f64::to_string).collect(),
                width,
                features,
            })
        };
        let training = table(path, training, None)?;
        let test = match (self.test.as_deref(), test) {
            (Some(path), Some(text)) => Some(table(path, text, Some(training.width))?),
            _ => None,
        };
        let reading = TableReading {
            index_base: Some(base),
            row_names: Vec::new(),
        };
        of_tables(training, test, reading)
    }
}

fn is_csv(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["csv", "tsv"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

struct Table {
    labels: Vec<String>,
    width: usize,
    features: Vec<f32>,
}

fn check_size(examples: usize, features: usize) -> Result<(), DataError> {
    match examples.checked_mul(features) {
        Some(numbers) if numbers <= MAX_NUMBERS => Ok(()),
        _ => Err(DataError::TooLarge { examples, features }),
    }
}

/// The examples of pictures: their pixels as shares of white.
pub fn of_pictures(pictures: &LabelledPictures) -> Examples {
    let white = f32::from(pictures.white());
    Examples {
        features: (0..pictures.len())
            .flat_map(|i| pictures.pixels(i))
            .map(|&pixel| f32::from(pixel) / white)
            .collect(),
        labels: pictures.labels().iter().map(|&l| l.into()).collect(),
    }
}

fn of_tables(
    training: Table,
    test: Option<Table>,
    reading: TableReading,
) -> Result<Loaded, DataError> {
    let mut classes = training.labels.clone();
    // Numbers by size, then other texts alphabetically.
    let key = |label: &String| label.parse::<f64>().unwrap_or(f64::INFINITY);
    classes.sort_by(|a, b| key(a).total_cmp(&key(b)).then_with(|| a.cmp(b)));
    classes.dedup();
    match classes.as_slice() {
        [one] => return Err(DataError::OneClass(one.clone())),
        many if many.len() > MAX_CLASSES => return Err(DataError::TooManyClasses(many.len())),
        _ => {}
    }
    let numbers: BTreeMap<&str, u32> = (0..).zip(&classes).map(|(i, c)| (c.as_str(), i)).collect();
    let examples = |table: Table| {
        let number = |label: &String| {
            let found = numbers.get(label.as_str()).copied();
            found.ok_or_else(|| DataError::UnknownLabel(label.clone()))
        };
        Ok::<_, DataError>(Examples {
            labels: table.labels.iter().map(number).collect::<Result<_, _>>()?,
            features: table.features,
        })
    };
    let shape = InputShape::Row(training.width);
    let training = examples(training)?;
    let test = test.map(examples).transpose()?;
    Ok(Loaded {
        shape,
        training,
        test,
        classes,
        reading,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn config(source: &Path) -> DataConfig {
        DataConfig {
            source: source.display().to_string(),
            ..DataConfig::default()
        }
    }

    #[test]
    fn the_digits_are_split_once_and_standardised_by_the_training_part() {
        let set = DataConfig::default().open().unwrap();
        assert_eq!((set.training.len(), set.test.len()), (1438, 359));
        assert_eq!(set.shape, InputShape::Picture([1, 8, 8]));
        let moments = |x: &[f32]| {
            let n = x.len() as f64;
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let square = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
            (mean, square - mean * mean)
        };
        let (mean, variance) = moments(&set.training.features);
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5);
        let (mean, variance) = moments(&set.test.features);
        assert!(mean.abs() > 1e-6 && mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05);

        // The validation part comes from the training part: no test example is in it.
        let raw = DataConfig {
            standardization: Standardization::None,
            ..DataConfig::default()
        };
        let (whole, tuning) = (raw.open().unwrap(), raw.open_for_validation().unwrap());
        assert_eq!((tuning.training.len(), tuning.test.len()), (1150, 288));
        let rows = |e: &Examples| {
            let mut rows: Vec<Vec<u32>> = e
                .features
                .chunks(64)
                .map(|r| r.iter().map(|v| v.to_bits()).collect())
                .collect();
            rows.sort();
            rows
        };
        let mut both = rows(&tuning.training);
        both.extend(rows(&tuning.test));
        both.sort();
        assert_eq!(both, rows(&whole.training));
    }

    #[test]
    fn tables_are_read_with_their_labels_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a.csv", "b.libsvm", "c.csv"].map(|n| folder.path().join(n));
        let rows: String = (0..10)
            .map(|i| format!("{i},{},{}\n", 5, i % 2 * 10 + 2))
            .collect();
        fs::write(&a, &rows).unwrap();
        let set = config(&a).open().unwrap();
        assert_eq!(set.classes, ["2", "12"]);
        assert_eq!(
            (set.training.len(), set.test.len(), set.shape),
            (8, 2, InputShape::Row(2))
        );
        // The second column does not vary.
        assert!(set.training.features.chunks(2).all(|r| r[1] == 0.0));

        fs::write(&b, "+1 1:2\n-1 3:1\n+1 2:1\n").unwrap();
        let mut libsvm = config(&b);
        libsvm.test = Some(b.clone());
        libsvm.standardization = Standardization::None;
        let set = libsvm.open().unwrap();
        assert_eq!(
            (&set.classes[..], &set.training.labels[..]),
            (&["-1".to_owned(), "1".into()][..], &[1, 0, 1][..])
        );
        assert_eq!(set.training.features, [2., 0., 0., 0., 0., 1., 0., 1., 0.]);
        assert_eq!(set.training, set.test);

        // The test file has the index 0 by which both count.
        let zero = folder.path().join("zero.libsvm");
        fs::write(&b, "+1 1:2\n-1 3:1\n+1 2:1\n").unwrap();
        fs::write(&zero, "+1 0:2\n").unwrap();
        libsvm.test = Some(zero.clone());
        let set = libsvm.open().unwrap();
        assert_eq!(set.reading.index_base, Some(IndexBase::Zero));
        assert_eq!(set.shape, InputShape::Row(4));
        assert_eq!(set.training.features[..4], [0., 2., 0., 0.]);
        assert_eq!(set.test.features, [2., 0., 0., 0.]);
        libsvm.index_base = Some(IndexBase::One);
        let refused = libsvm.open().unwrap_err().to_string();
        assert!(
            refused.contains("zero.libsvm: line 1 has an index 0, but"),
            "{refused}"
        );

        // A table of pandas, sorted by class: without the row numbers nothing tells the classes apart.
        let sorted: String = (0..40)
            .map(|i| format!("{i},{},{}\n", i % 2, i / 20))
            .collect();
        fs::write(&c, format!(",x,y\n{sorted}")).unwrap();
        let mut pandas = config(&c);
        let set = pandas.open().unwrap();
        assert_eq!(
            (set.shape, set.reading.row_names),
            (InputShape::Row(1), vec![String::new()])
        );
        pandas.keep_index = true;
        let set = pandas.open().unwrap();
        assert_eq!(
            (set.shape, set.reading.row_names.len()),
            (InputShape::Row(2), 0)
        );
        pandas.drop_columns = vec!["x".into()];
        assert_eq!(pandas.open().unwrap().shape, InputShape::Row(1));
        // The test table has its columns in another order, or no row numbers.
        let other = folder.path().join("other.csv");
        fs::write(&other, "x,y\n1,0\n0,1\n").unwrap();
        pandas = config(&c);
        pandas.test = Some(other.clone());
        assert_eq!(pandas.open().unwrap().test.len(), 2);
        fs::write(&other, "z,y\n1,0\n0,1\n").unwrap();
        let refused = pandas.open().unwrap_err().to_string();
        assert!(
            refused.contains("has the feature \"x\" where the test table has \"z\""),
            "{refused}"
        );

        let told = |config: &DataConfig| config.open().unwrap_err().to_string();
        let mut wrong = config(&a);
        wrong.test = Some(c.clone());
        fs::write(&c, "1,2,3\n").unwrap();
        assert!(told(&wrong).contains("has the label \"3\""));
        fs::write(&c, "1,2\n").unwrap();
        assert!(told(&wrong).contains("2 features, but the test table 1"));
        fs::write(&c, "1,2\n2,2\n").unwrap();
        assert!(told(&config(&c)).contains("all training examples"));
        let many: String = (0..1001).map(|i| format!("1,{i}.5\n")).collect();
        fs::write(&c, many).unwrap();
        assert!(told(&config(&c)).contains("1001 different labels"));
        wrong.source = "digits".into();
        assert!(told(&wrong).contains("with a CSV or LIBSVM file, not with \"digits\""));
        assert!(told(&config(Path::new("nowhere"))).contains("no data set \"nowhere\""));
        wrong.test_share = 1.0;
        assert!(told(&wrong).contains("test share of the data is 1"));
        let small = DataConfig {
            test_share: 1e-6,
            ..DataConfig::default()
        };
        assert!(told(&small).contains("with 1797 examples"));
        let huge = folder.path().join("huge.libsvm");
        fs::write(&huge, "1 4294967294:1\n0 1:1\n").unwrap();
        assert!(told(&config(&huge)).contains("more than 2^31"));
    }
}
