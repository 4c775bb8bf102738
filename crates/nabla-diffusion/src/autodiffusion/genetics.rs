//! Random plans, mutations and crossovers.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{Behaviour, Budget, Gene, Plan, PlanError, SearchConfig, Space};
use crate::block_skipping::BlockSet;
use crate::seeded_noise::SeededNoise;

/// The genes of a candidate. In the published form they have no order, and a step may occur twice; otherwise they
/// are those of a plan.
pub(super) type Genome = Vec<Gene>;

/// How candidates are made in a stage of the search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Genetics<'a> {
    pub(super) config: &'a SearchConfig,
    pub(super) space: Space,
    /// The lowest and the highest share of blocks that a new step skips; 0 and 0 in the first stage.
    pub(super) pruned: [f64; 2],
}

impl Genetics<'_> {
    fn published(&self) -> bool {
        self.config.behaviour == Behaviour::Published
    }

    /// The plan that runs.
    pub(super) fn expressed(&self, genome: &Genome) -> Result<Plan, PlanError> {
        match self.published() {
            false => Plan::new(genome.iter().cloned()),
            // The set of the steps; and the blocks of a step are looked up by its rank.
            true => {
                let mut steps: Vec<usize> = genome.iter().map(|gene| gene.step).collect();
                steps.sort_unstable();
                steps.dedup();
                let by_rank = steps.into_iter().zip(genome);
                Plan::new(by_rank.map(|(step, gene)| Gene {
                    step,
                    skipped: gene.skipped.clone(),
                }))
            }
        }
    }

    /// The number of blocks that a step with the draw `u` in `[0, 1)` skips.
    fn count(&self, u: f64) -> usize {
        let [low, high] = self.pruned;
        ((low + u * (high - low)) * self.space.blocks as f64) as usize
    }

    /// A random set of so many blocks.
    fn blocks(&self, count: usize, noise: &mut SeededNoise) -> BlockSet {
        let mut all: Vec<usize> = (0..self.space.blocks).collect();
        all.shuffle(noise);
        BlockSet::of(all.into_iter().take(count))
    }

    /// A random candidate that uses the budget up.
    pub(super) fn random(&self, noise: &mut SeededNoise) -> Genome {
        let mut genome = Vec::new();
        self.fill(&mut genome, noise);
        self.ordered(genome)
    }

    fn ordered(&self, mut genome: Genome) -> Genome {
        if !self.published() {
            genome.sort();
        }
        genome
    }

    fn cost(&self, genome: &Genome) -> usize {
        let each = genome.iter();
        each.map(|gene| self.space.blocks - gene.skipped.len())
            .sum()
    }

    /// Adds random steps until the budget is used up.
    fn fill(&self, genome: &mut Genome, noise: &mut SeededNoise) {
        let mut unused = self.unused(genome);
        unused.shuffle(noise);
        let most_skipped = self.count(1.0);
        while let Some(step) = unused.pop() {
            let skipped = match self.config.budget {
                Budget::Steps(steps) if genome.len() >= steps => return,
                Budget::Steps(_) => 0,
                Budget::Units(units) => {
                    let left = units.saturating_sub(self.cost(genome));
                    // As many blocks must be skipped as the budget lacks for a whole step.
                    let needed = self.space.blocks.saturating_sub(left);
                    if needed > most_skipped {
                        return;
                    }
                    self.count(noise.random::<f64>()).max(needed)
                }
            };
            let skipped = self.blocks(skipped, noise);
            genome.push(Gene { step, skipped });
        }
    }

    fn unused(&self, genome: &Genome) -> Vec<usize> {
        let used = |step: &usize| genome.iter().any(|gene| gene.step == *step);
        (0..self.space.steps).filter(|step| !used(step)).collect()
    }

    /// Brings a candidate back to the budget: random steps go, or come.
    fn repaired(&self, mut genome: Genome, noise: &mut SeededNoise) -> Genome {
        if self.published() {
            return genome;
        }
        if let Budget::Units(units) = self.config.budget {
            while self.cost(&genome) > units {
                let surplus = noise.random_range(0..genome.len());
                genome.swap_remove(surplus);
            }
        }
        self.fill(&mut genome, noise);
        self.ordered(genome)
    }

    /// Each step is replaced with a probability, and in the second stage so is the set of blocks that it skips.
    pub(super) fn mutated(
        &self,
        genome: &Genome,
        probability: f64,
        noise: &mut SeededNoise,
    ) -> Genome {
        let mut unused = self.unused(genome);
        let mut genome = genome.clone();
        for gene in &mut genome {
            if noise.random_bool(probability) && !unused.is_empty() {
                let chosen = noise.random_range(0..unused.len());
                gene.step = unused.swap_remove(chosen);
            }
        }
        if self.pruned[1] > 0.0 {
            for gene in &mut genome {
                // Published: `==` for `=`, so that a set with blocks in it never changes.
                let stuck = self.published() && !gene.skipped.is_empty();
                if noise.random_bool(probability) && !stuck {
                    let count = self.count(noise.random::<f64>());
                    gene.skipped = self.blocks(count, noise);
                }
            }
        }
        self.repaired(genome, noise)
    }

    /// Each place from one of the parents.
    pub(super) fn crossed(&self, [first, second]: [&Genome; 2], noise: &mut SeededNoise) -> Genome {
        match self.published() {
            true => published_cross(first, second, noise),
            false => self.merged([first, second], noise),
        }
    }

    /// Of each pair of steps of the same rank one, or the other if its step is used already, or a new step. Steps
    /// that only the longer parent has are taken or left.
    fn merged(&self, [first, second]: [&Genome; 2], noise: &mut SeededNoise) -> Genome {
        let mut child: Genome = Vec::new();
        for rank in 0..first.len().max(second.len()) {
            let heads = noise.random_bool(0.5);
            let (gene, other) = match (first.get(rank), second.get(rank)) {
                (Some(a), Some(b)) if heads => (a, Some(b)),
                (Some(a), Some(b)) => (b, Some(a)),
                (Some(only), None) | (None, Some(only)) if heads => (only, None),
                _ => continue,
            };
            let free = |gene: &&Gene| child.iter().all(|used| used.step != gene.step);
            let chosen = [Some(gene), other].into_iter().flatten().find(free);
            let chosen = match chosen {
                Some(gene) => Some(gene.clone()),
                None => self.unused(&child).choose(noise).map(|&step| Gene {
                    step,
                    skipped: gene.skipped.clone(),
                }),
            };
            child.extend(chosen);
        }
        self.repaired(child, noise)
    }
}

/// The parents' places have no meaning in time, a step may occur twice, and where the lengths of the lists of steps
/// were meant to be compared, the lists are.
fn published_cross(first: &Genome, second: &Genome, noise: &mut SeededNoise) -> Genome {
    let pairs = first.iter().zip(second);
    let mut child: Genome = pairs
        .map(|(a, b)| if noise.random_bool(0.5) { a } else { b }.clone())
        .collect();
    for parent in [first, second] {
        let steps = |genome: &Genome| genome.iter().map(|gene| gene.step).collect::<Vec<_>>();
        if steps(&child) < steps(parent) {
            child.extend(parent.iter().skip(child.len()).cloned());
        }
    }
    child
}
