//! Coloured pictures: two classes, and a colour that tells the class well in training and the opposite in the test.
//!
//! The rules are those of the coloured MNIST of Arjovsky et al. 2019 and DomainBed, for any grey pictures:
//!
//! ```text
//! label ← 1 if the class is 0 to 4, else 0;  flipped with probability 1/4
//! colour ← label, flipped with probability e of the domain        e = 0.1 ("+90%"), 0.2 ("+80%"), 0.9 ("-90%")
//! the picture is in channel `colour` of two; the other is 0
//! ```
//!
//! The shape tells the label for three quarters of the pictures, in every domain; the colour does better in the
//! first two domains, and fails in the third. The pictures are shuffled and dealt to the domains in turn.

use nabla_base::range;
use nabla_data::LabelledPictures;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::data_set::of_pictures;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::order::permutation;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::domains::{DomainError, Domains};

/// The rules; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coloured {
    /// `e`, how often the colour of a domain tells the wrong label. Default 0.1, 0.2 and 0.9.
    pub flips: Vec<f64>,
    /// How often a label is wrong. Default 0.25.
    pub label_noise: f64,
    /// Whether every other row and column is left out, as in the first coloured MNIST, 14 x 14 x 2. Default no, as in
    /// DomainBed.
    pub halved: bool,
}

impl Default for Coloured {
    fn default() -> Self {
        Self {
            flips: vec![0.1, 0.2, 0.9],
            label_noise: 0.25,
            halved: false,
        }
    }
}

/// Grey pictures and their classes.
#[derive(Clone, Debug, PartialEq)]
pub struct GreyPictures {
    /// Height and width.
    pub size: [usize; 2],
    /// `[pictures, height·width]`, between 0 and 1.
    pub pixels: Vec<f32>,
    /// The class of each.
    pub labels: Vec<u32>,
}

impl GreyPictures {
    /// Of a set of pictures with one channel.
    ///
    /// # Errors
    /// If they have several channels.
    pub fn of(pictures: &LabelledPictures) -> Result<Self, DomainError> {
        let [channels, height, width] = pictures.shape();
        if channels != 1 {
            return Err(DomainError::Pictures {
                expected: "one channel".into(),
                found: pictures.shape(),
            });
        }
        let Examples { features, labels } = of_pictures(pictures);
        Ok(Self {
            size: [height, width],
            pixels: features,
            labels,
        })
    }

    /// The pixels of a picture.
    pub fn picture(&self, i: usize) -> &[f32] {
        let [height, width] = self.size;
        let size = height * width;
        &self.pixels[i * size..(i + 1) * size]
    }

    /// Some of the pictures.
    pub fn chosen(&self, indices: &[usize]) -> Self {
        Self {
            size: self.size,
            pixels: indices
                .iter()
                .flat_map(|&i| self.picture(i))
                .copied()
                .collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }
}

/// The order in which pictures are dealt to domains.
const DEALT: u64 = 0;
/// What is drawn for a domain comes from stream `DOMAIN + domain` of the seed.
const DOMAIN: u64 = 1;

impl Coloured {
    /// The domains' names.
    pub fn names(&self) -> Vec<String> {
        let name = |flip: &f64| match *flip <= 0.5 {
            true => format!("+{}%", (100.0 * (1.0 - flip)).round()),
            false => format!("-{}%", (100.0 * flip).round()),
        };
        self.flips.iter().map(name).collect()
    }

    /// Deals pictures to the domains, and colours them.
    ///
    /// # Errors
    /// If the pictures have several channels, or a number is out of range.
    ///
    /// ```
    /// use nabla_align::Coloured;
    ///
    /// let domains = Coloured::default().of(&nabla_data::digits()?, 7)?;
    /// assert_eq!(domains.names(), ["+90%", "+80%", "-90%"]);
    /// assert_eq!(domains.shape().features(), 2 * 8 * 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(&self, pictures: &LabelledPictures, seed: u64) -> Result<Domains, DomainError> {
        let pictures = GreyPictures::of(pictures)?;
        let order = permutation(pictures.labels.len(), &mut SeededNoise::new(seed, DEALT));
        let count = self.flips.len();
        let dealt: Vec<GreyPictures> = (0..count)
            .map(|i| {
                let own: Vec<usize> = order.iter().skip(i).step_by(count).copied().collect();
                pictures.chosen(&own)
            })
            .collect();
        self.of_dealt(&dealt, seed)
    }

    /// Colours pictures that have their domains.
    ///
    /// - `pictures`: of each domain
    ///
    /// # Errors
    /// If there are other domains than [`flips`](Self::flips), or a number is out of range.
    pub fn of_dealt(&self, pictures: &[GreyPictures], seed: u64) -> Result<Domains, DomainError> {
        let expected = format!("{}, one for each flip", self.flips.len());
        range::check(
            pictures.len() == self.flips.len(),
            "number of domains of the pictures",
            pictures.len(),
            expected,
        )?;
        for (name, value) in self
            .flips
            .iter()
            .map(|&flip| ("flip of the colour", flip))
            .chain([("label noise", self.label_noise)])
        {
            let fits = (0.0..=1.0).contains(&value);
            range::check(fits, name, value, "between 0 and 1")?;
        }
        let mut shape = [2, 0, 0];
        let mut domains = Vec::with_capacity(pictures.len());
        for (i, (own, name)) in pictures.iter().zip(self.names()).enumerate() {
            let mut draw = SeededNoise::new(seed, DOMAIN + i as u64);
            let [height, width] = own.size;
            let by = if self.halved { 2 } else { 1 };
            shape = [2, height.div_ceil(by), width.div_ceil(by)];
            let size = shape[1] * shape[2];
            let mut examples = Examples::default();
            for (j, &class) in own.labels.iter().enumerate() {
                let label = (class < 5) ^ draw.random_bool(self.label_noise);
                let colour = label ^ draw.random_bool(self.flips[i]);
                let begin = examples.features.len() + usize::from(colour) * size;
                examples
                    .features
                    .resize(examples.features.len() + 2 * size, 0.0);
                let rows = own.picture(j).chunks_exact(width).step_by(by);
                let pixels = rows.flat_map(|row| row.iter().step_by(by));
                for (to, from) in examples.features[begin..begin + size]
                    .iter_mut()
                    .zip(pixels)
                {
                    *to = *from;
                }
                examples.labels.push(u32::from(label));
            }
            domains.push((name, examples));
        }
        let classes = vec!["5 to 9".to_owned(), "0 to 4".to_owned()];
        Domains::new(domains, classes, InputShape::Picture(shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(pictures: usize) -> GreyPictures {
        GreyPictures {
            size: [3, 4],
            pixels: (0..pictures * 12)
                .map(|i| (1 + i % 12) as f32 / 12.0)
                .collect(),
            labels: (0..pictures).map(|i| (i % 10) as u32).collect(),
        }
    }

    /// The frequencies of flips are those of the rules, within four deviations.
    #[test]
    fn colours_and_labels_are_flipped_as_often_as_the_rules_say() {
        let count = 20_000;
        let rules = Coloured::default();
        let pictures = [grey(count), grey(count), grey(count)];
        let domains = rules.of_dealt(&pictures, 3).unwrap();
        for (examples, &flip) in domains.examples().iter().zip(&rules.flips) {
            let (mut wrong, mut flipped) = (0, 0);
            for (i, row) in examples.features.chunks_exact(24).enumerate() {
                let (first, second) = row.split_at(12);
                let colour = u32::from(first.iter().all(|&x| x == 0.0));
                let shown = if colour == 1 { second } else { first };
                assert_eq!(shown, pictures[0].picture(i));
                assert!(row.iter().filter(|&&x| x == 0.0).count() == 12);
                wrong += usize::from(examples.labels[i] != u32::from(i % 10 < 5));
                flipped += usize::from(examples.labels[i] != colour);
            }
            for (found, share) in [(wrong, 0.25), (flipped, flip)] {
                let off = found as f64 - share * count as f64;
                assert!(off.abs() < 4.0 * (count as f64 * share * (1.0 - share)).sqrt());
            }
        }
    }

    #[test]
    fn every_other_row_and_column_is_left_out() {
        let rules = Coloured {
            flips: vec![0.0],
            label_noise: 0.0,
            halved: true,
        };
        let domains = rules.of_dealt(&[grey(1)], 0).unwrap();
        assert_eq!(domains.shape(), InputShape::Picture([2, 2, 2]));
        let twelfths: Vec<f32> = [0, 0, 0, 0, 1, 3, 9, 11]
            .iter()
            .map(|&x| x as f32 / 12.0)
            .collect();
        assert_eq!(domains.examples()[0].features, twelfths);
        assert_eq!(domains.examples()[0].labels, [1]);
    }

    #[test]
    fn every_picture_is_dealt_once() {
        let digits = nabla_data::digits().unwrap();
        let domains = Coloured::default().of(&digits, 1).unwrap();
        let lengths: Vec<usize> = domains.examples().iter().map(Examples::len).collect();
        assert_eq!(lengths, [599, 599, 599]);
        let sum: f64 = domains
            .examples()
            .iter()
            .flat_map(|e| &e.features)
            .map(|&x| f64::from(x))
            .sum();
        assert!((sum - 561_718.0 / 16.0).abs() < 1e-3);
        let again = Coloured::default().of(&digits, 1).unwrap();
        assert_eq!(again, domains);
        assert_ne!(Coloured::default().of(&digits, 2).unwrap(), domains);
    }

    #[test]
    fn wrong_rules_are_refused_in_one_sentence() {
        let told = |rules: Coloured| rules.of_dealt(&[grey(2)], 0).unwrap_err().to_string();
        assert!(told(Coloured::default()).contains("number of domains"));
        let flips = vec![1.5];
        let one = Coloured {
            flips,
            ..Coloured::default()
        };
        assert!(told(one).contains("between 0 and 1"));
    }
}
