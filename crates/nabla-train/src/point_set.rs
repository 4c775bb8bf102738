//! Points without labels, from the usual formats: what a density or a flow is learned from.
//!
//! | source | points |
//! |---|---|
//! | `digits`, `fashion`, a folder of pictures | the pixels of each picture, in `[0, 1]` |
//! | a file `.csv`, `.tsv` | its rows; columns can be left out |
//! | a file `.npy` | the rows of an array of NumPy; all but the first axis are one point |
//!
//! A tenth of the points is held out, drawn with a seed of its own, unless the source has a test set.

use std::path::Path;

use nabla_data::{CsvError, CsvOptions, CsvTable, LabelColumn, NpyArray, NpyError, NpyValues};
use nabla_grad::seeded_noise::SeededNoise;

use crate::data_set::{DataConfig, DataError, Standardization};
use crate::order::permutation;

/// Why there are no points.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// Pictures.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A table.
    #[error(transparent)]
    Csv(#[from] CsvError),
    /// An array.
    #[error("{0}")]
    Npy(#[from] NpyError),
    /// The array has no rows of real numbers.
    #[error("{path} holds {found}, but points are rows of real numbers")]
    Array {
        /// The file.
        path: String,
        /// What it holds.
        found: String,
    },
    /// Columns were named for something that has none.
    #[error("only columns of a table can be left out, and {0:?} is none")]
    NoColumns(String),
    /// There are too few points.
    #[error("{0} points are too few: a flow needs at least 10, a tenth of which is held out")]
    TooFew(usize),
    /// A number is not finite.
    #[error("number {place} of point {point} is {value}, but a finite number is expected")]
    NotFinite {
        /// The point, from 1.
        point: usize,
        /// The number, from 1.
        place: usize,
        /// Its value.
        value: f64,
    },
}

/// Points, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct PointSet {
    /// The names of a point's numbers.
    pub names: Vec<String>,
    /// To train on.
    pub training: Vec<f64>,
    /// To measure with.
    pub held_out: Vec<f64>,
}

/// One in so many points is held out.
const HELD_OUT: usize = 10;

impl PointSet {
    /// Reads points.
    ///
    /// - `drop`: columns of a table that are left out, by name or number from 1
    ///
    /// # Errors
    /// If the source cannot be read, has fewer than ten points, or a number is not finite.
    ///
    /// ```
    /// use nabla_train::point_set::PointSet;
    ///
    /// let digits = PointSet::open("digits", &[])?;
    /// assert_eq!(digits.dimension(), 64);
    /// # Ok::<(), nabla_train::point_set::PointError>(())
    /// ```
    pub fn open(source: &str, drop: &[String]) -> Result<Self, PointError> {
        let path = Path::new(source);
        let extension = path.extension().and_then(|ending| ending.to_str());
        let found = match extension.map(str::to_lowercase).as_deref() {
            Some("csv" | "tsv") => Self::of_table(path, drop),
            _ if !drop.is_empty() => Err(PointError::NoColumns(source.to_owned())),
            Some("npy") => Self::of_array(path),
            _ => Self::of_pictures(source),
        }?;
        let dimension = found.dimension();
        let values = found.training.iter().chain(&found.held_out).enumerate();
        for (i, &value) in values {
            if !value.is_finite() {
                return Err(PointError::NotFinite {
                    point: i / dimension + 1,
                    place: i % dimension + 1,
                    value,
                });
            }
        }
        Ok(found)
    }

    /// Numbers of a point.
    pub fn dimension(&self) -> usize {
        self.names.len()
    }

    fn of_table(path: &Path, drop: &[String]) -> Result<Self, PointError> {
        let options = CsvOptions {
            label: LabelColumn::None,
            drop: drop.to_vec(),
            ..CsvOptions::default()
        };
        let table = CsvTable::read(path, &options)?;
        let values = (0..table.len()).flat_map(|i| table.row(i).iter().copied());
        Self::split(table.features().to_vec(), values.collect())
    }

    fn of_array(path: &Path) -> Result<Self, PointError> {
        let array = NpyArray::read(path)?;
        let found = |found: String| PointError::Array {
            path: path.display().to_string(),
            found,
        };
        let shape = format!("an array of the shape {:?}", array.shape);
        let dimension: usize = array.shape.iter().skip(1).product();
        match array.values {
            NpyValues::Complex(_) => Err(found("complex numbers".to_owned())),
            NpyValues::Real(_) if array.shape.is_empty() || dimension == 0 => Err(found(shape)),
            NpyValues::Real(values) => {
                let names = (1..=dimension).map(|i| i.to_string()).collect();
                Self::split(names, values)
            }
        }
    }

    fn of_pictures(source: &str) -> Result<Self, PointError> {
        let config = DataConfig {
            source: source.to_owned(),
            standardization: Standardization::None,
            test_share: 1.0 / HELD_OUT as f64,
            ..DataConfig::default()
        };
        let data = config.open()?;
        let values = |features: Vec<f32>| features.into_iter().map(f64::from).collect();
        Ok(Self {
            names: (1..=data.shape.features()).map(|i| i.to_string()).collect(),
            training: values(data.training.features),
            held_out: values(data.test.features),
        })
    }

    fn split(names: Vec<String>, values: Vec<f64>) -> Result<Self, PointError> {
        let dimension = names.len();
        let count = values.len() / dimension;
        if count < HELD_OUT {
            return Err(PointError::TooFew(count));
        }
        let order = permutation(count, &mut SeededNoise::new(0, 0));
        let (held_out, training) = order.split_at(count / HELD_OUT);
        let chosen = |rows: &[usize]| {
            let rows = rows
                .iter()
                .flat_map(|i| &values[i * dimension..(i + 1) * dimension]);
            rows.copied().collect()
        };
        Ok(Self {
            training: chosen(training),
            held_out: chosen(held_out),
            names,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn tables_and_arrays_are_split_into_all_their_points() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("points.csv");
        let rows: String = (0..25).map(|i| format!("{i},{}.5,red\n", 2 * i)).collect();
        fs::write(&table, format!("x,y,colour\n{rows}")).unwrap();
        let open = |path: &Path, drop: &[String]| PointSet::open(path.to_str().unwrap(), drop);
        let found = open(&table, &["colour".to_owned()]).unwrap();
        assert_eq!(found.names, ["x", "y"]);
        assert_eq!([found.training.len(), found.held_out.len()], [46, 4]);
        let mut all = [found.training, found.held_out].concat();
        assert!(all.chunks(2).all(|point| point[1] == 2.0 * point[0] + 0.5));
        all.sort_by(f64::total_cmp);
        assert_eq!(all[49], 48.5);

        let array = NpyArray {
            shape: vec![10, 2, 2],
            values: NpyValues::Real((0..40).map(f64::from).collect()),
        };
        let file = folder.path().join("points.npy");
        fs::write(&file, array.encode()).unwrap();
        let found = open(&file, &[]).unwrap();
        assert_eq!((found.dimension(), found.held_out.len()), (4, 4));
    }

    #[test]
    fn what_is_no_points_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let told = |name: &str, bytes: &[u8], drop: &[String]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            PointSet::open(path.to_str().unwrap(), drop)
                .unwrap_err()
                .to_string()
        };
        assert!(told("a.csv", b"x\n1\n2\n", &[]).contains("2 points are too few"));
        assert!(told("a.csv", b"x,y\n1,red\n", &[]).contains("\"red\" is not a finite number"));
        let array = |shape: Vec<usize>, values| NpyArray { shape, values }.encode();
        let nan = array(vec![10], NpyValues::Real(vec![f64::NAN; 10]));
        assert!(told("a.npy", &nan, &[]).contains("number 1 of point 1 is NaN"));
        let complex = array(vec![1], NpyValues::Complex(vec![[1.0, 2.0]]));
        assert!(told("a.npy", &complex, &[]).contains("complex numbers"));
        assert!(told("a.npy", &nan, &["x".to_owned()]).contains("left out"));
        let missing = PointSet::open("no-such-file", &[]).unwrap_err().to_string();
        assert!(missing.contains("no data set"), "{missing}");
    }
}
