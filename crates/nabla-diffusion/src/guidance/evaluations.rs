//! How often a network was evaluated in a run.

/// The number of network evaluations of a run: one for each row of the batch under each condition, whether
/// they are computed in one call or in several.
///
/// A run counts in it with [`Sampling::counted_in`](crate::sampler::Sampling::counted_in); several runs one
/// after the other add up.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::ddim::Ddim;
/// use nabla_diffusion::denoiser::{GaussianMixture, MixturePart};
/// use nabla_diffusion::guidance::{AdaptiveConfig, Evaluations};
/// use nabla_diffusion::sampler::{Sampler, Sampling};
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place; 2], deviation: 0.1 };
/// let model = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0)])?;
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?;
/// let sampler = Sampler::new(Ddim::new(), schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([8, 2], &Device::flex());
///
/// let (mut guidance, mut evaluations) = (AdaptiveConfig::new().init(), Evaluations::new());
/// let sampling = Sampling::of(&model).guided_by(&mut guidance).counted_in(&mut evaluations);
/// sampling.run(&sampler, start, &mut noise)?;
/// assert_eq!(evaluations.of_classifier_free(), 2 * 20 * 8);
/// assert!(evaluations.saved() > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluations {
    each: Vec<usize>,
    others: usize,
    queries: usize,
    calls: usize,
}

impl Evaluations {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All evaluations, including those of [other models](Self::of_others).
    pub fn total(&self) -> usize {
        self.each.iter().sum::<usize>() + self.others
    }

    /// The evaluations of the model for each row of the batch.
    pub fn each(&self) -> &[usize] {
        &self.each
    }

    /// The evaluations of other models, such as the weak one of
    /// [`Autoguidance`](crate::guidance::Autoguidance).
    pub fn of_others(&self) -> usize {
        self.others
    }

    /// The number of calls, each of which computes one or several evaluations.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The evaluations that classifier-free guidance would have taken in the same run: two for each row in
    /// each query of the sampler.
    pub fn of_classifier_free(&self) -> usize {
        2 * self.queries
    }

    /// The evaluations saved against classifier-free guidance; negative if there were more.
    pub fn saved(&self) -> isize {
        self.of_classifier_free() as isize - self.total() as isize
    }

    /// A query of the sampler, of this many rows.
    pub(crate) fn query(&mut self, rows: usize) {
        self.queries += rows;
        if self.each.len() < rows {
            self.each.resize(rows, 0);
        }
    }

    /// A call of the model for these rows.
    pub(crate) fn count(&mut self, rows: impl Iterator<Item = usize>) {
        self.calls += 1;
        for row in rows {
            if self.each.len() <= row {
                self.each.resize(row + 1, 0);
            }
            self.each[row] += 1;
        }
    }

    /// A call of another model with this many evaluations.
    pub(crate) fn count_other(&mut self, evaluations: usize) {
        self.calls += 1;
        self.others += evaluations;
    }
}
