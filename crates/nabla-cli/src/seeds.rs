//! The flags for the seed of what is drawn. The same seed on the same device gives the same bits.

use clap::Args;

/// The flag of jobs that draw something, with its default.
#[derive(Clone, Copy, Debug, Args)]
pub struct SeedFlag<const DEFAULT: u64 = 42> {
    /// Seed of everything random; the same seed gives the same result
    #[arg(long, default_value_t = DEFAULT)]
    seed: u64,
}

impl<const DEFAULT: u64> SeedFlag<DEFAULT> {
    /// The seed.
    pub fn value(self) -> u64 {
        self.seed
    }
}

/// The flag of jobs whose recipe has a seed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct RecipeSeedFlag {
    /// Seed of everything random, instead of the recipe's
    #[arg(long)]
    seed: Option<u64>,
}

impl RecipeSeedFlag {
    /// As if `--seed` were given.
    #[cfg(test)]
    pub fn given(seed: u64) -> Self {
        Self { seed: Some(seed) }
    }

    /// Whether it is given.
    pub fn is_given(self) -> bool {
        self.seed.is_some()
    }

    /// Replaces the recipe's seed by the given one.
    pub fn apply(self, seed: &mut u64) {
        *seed = self.seed.unwrap_or(*seed);
    }
}
