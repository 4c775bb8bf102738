//! Plans: which training steps a run takes, and which blocks of the network it skips in each.

use std::collections::BTreeSet;

use nabla_base::choices;
use serde::{Deserialize, Serialize};

use crate::block_skipping::BlockSet;
use crate::level::Levels;
use crate::schedule::{ScheduleError, Spacing};

/// The reason why there is no such plan, or why it does not fit a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// No steps.
    #[error("a plan needs at least 1 step, but it has none")]
    Empty,
    /// A step occurs twice.
    #[error("step {0} occurs several times in a plan, but its steps must be different")]
    Repeated(usize),
    /// The model has fewer training steps.
    #[error("step {step} of the plan does not exist: the model has the steps 0 to {}", steps - 1)]
    NoSuchStep {
        /// The step.
        step: usize,
        /// The number of training steps.
        steps: usize,
    },
    /// The network has fewer blocks.
    #[error(
        "block {block}, which step {step} of the plan skips, does not exist: the network has {blocks}"
    )]
    NoSuchBlock {
        /// The block.
        block: usize,
        /// The step in which it is skipped.
        step: usize,
        /// The number of blocks.
        blocks: usize,
    },
    /// Not as many steps as there are.
    #[error(
        "{asked} steps were asked for, but a plan has 1 to {steps}, as the model was trained in {steps}"
    )]
    Steps {
        /// Asked for.
        asked: usize,
        /// The number of training steps.
        steps: usize,
    },
    /// A budget below one call of the whole network.
    #[error(
        "the budget is {units} blocks, but one step of the whole network has {blocks}: take at least that"
    )]
    Units {
        /// The budget.
        units: usize,
        /// The number of blocks.
        blocks: usize,
    },
    /// A budget of blocks for a network without any.
    #[error("the budget is given in blocks, but the network has no blocks that can be skipped")]
    NoBlocks,
    /// No stride gives this number of steps.
    #[error("no stride through {steps} training steps makes {count} steps")]
    NoStride {
        /// The number of steps.
        count: usize,
        /// The number of training steps.
        steps: usize,
    },
    /// The steps do not fit the levels.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

/// What a model offers to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// `T`, the number of training steps.
    pub steps: usize,
    /// `L`, the number of blocks that can be skipped; 0 if there are none.
    pub blocks: usize,
}

/// What a plan may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// `K` steps of the whole network.
    Steps(usize),
    /// `N` computed blocks in all steps together: blocks that are skipped pay for more steps.
    Units(usize),
}

impl Budget {
    /// Checks that a model has a plan within the budget.
    ///
    /// # Errors
    /// If it has not.
    pub fn check(self, space: Space) -> Result<(), PlanError> {
        match self {
            Self::Steps(asked) if asked == 0 || asked > space.steps => Err(PlanError::Steps {
                asked,
                steps: space.steps,
            }),
            Self::Units(_) if space.blocks == 0 => Err(PlanError::NoBlocks),
            Self::Units(units) if units < space.blocks => Err(PlanError::Units {
                units,
                blocks: space.blocks,
            }),
            _ => Ok(()),
        }
    }

    /// The number of steps of the whole network within the budget.
    pub fn whole_steps(self, space: Space) -> usize {
        match self {
            Self::Steps(steps) => steps,
            Self::Units(units) => (units / space.blocks.max(1)).min(space.steps),
        }
    }
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gene {
    /// The training step, from 0, which is the cleanest.
    pub step: usize,
    /// The blocks that are skipped.
    #[serde(default, skip_serializing_if = "BlockSet::is_empty")]
    pub skipped: BlockSet,
}

impl Gene {
    /// A step of the whole network.
    pub fn whole(step: usize) -> Self {
        Self {
            step,
            skipped: BlockSet::default(),
        }
    }
}

/// The steps of a run, rising and different from each other, at least one.
///
/// ```
/// use nabla_diffusion::autodiffusion::{Gene, Plan};
/// use nabla_diffusion::block_skipping::BlockSet;
///
/// let plan = Plan::new([
///     Gene { step: 700, skipped: BlockSet::of([2, 3]) },
///     Gene::whole(100),
/// ])?;
/// assert_eq!(plan.steps().collect::<Vec<_>>(), [100, 700]);
/// assert_eq!(plan.cost(6), 10); // of a network with 6 blocks
/// assert!(Plan::of_steps([5, 5]).is_err());
/// # Ok::<(), nabla_diffusion::autodiffusion::PlanError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Gene>", into = "Vec<Gene>")]
pub struct Plan {
    genes: Vec<Gene>,
}

impl TryFrom<Vec<Gene>> for Plan {
    type Error = PlanError;

    fn try_from(genes: Vec<Gene>) -> Result<Self, PlanError> {
        Self::new(genes)
    }
}

impl From<Plan> for Vec<Gene> {
    fn from(plan: Plan) -> Self {
        plan.genes
    }
}

impl Plan {
    /// Sorts the steps.
    ///
    /// # Errors
    /// If there are none, or one occurs several times.
    pub fn new(genes: impl IntoIterator<Item = Gene>) -> Result<Self, PlanError> {
        let mut genes: Vec<Gene> = genes.into_iter().collect();
        genes.sort();
        if genes.is_empty() {
            return Err(PlanError::Empty);
        }
        let repeated = genes.windows(2).find(|pair| pair[0].step == pair[1].step);
        match repeated {
            Some(pair) => Err(PlanError::Repeated(pair[0].step)),
            None => Ok(Self { genes }),
        }
    }

    /// Steps of the whole network.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_steps(steps: impl IntoIterator<Item = usize>) -> Result<Self, PlanError> {
        Self::new(steps.into_iter().map(Gene::whole))
    }

    /// The steps with the blocks that each skips, rising.
    pub fn genes(&self) -> &[Gene] {
        &self.genes
    }

    /// The number of steps.
    pub fn count(&self) -> usize {
        self.genes.len()
    }

    /// The training steps, rising.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = usize> {
        self.genes.iter().map(|gene| gene.step)
    }

    /// `Σ (L − |S_i|)`, the number of blocks that a run computes in its steps.
    ///
    /// - `blocks`: `L`, at least the highest number of a skipped block
    pub fn cost(&self, blocks: usize) -> usize {
        let each = self.genes.iter();
        each.map(|gene| blocks.saturating_sub(gene.skipped.len()))
            .sum()
    }

    /// The number of blocks that are skipped in all steps together.
    pub fn skipped(&self) -> usize {
        self.genes.iter().map(|gene| gene.skipped.len()).sum()
    }

    /// Checks that a model has these steps and blocks.
    ///
    /// # Errors
    /// If it has not.
    pub fn check(&self, space: Space) -> Result<(), PlanError> {
        for Gene { step, skipped } in &self.genes {
            if *step >= space.steps {
                return Err(PlanError::NoSuchStep {
                    step: *step,
                    steps: space.steps,
                });
            }
            if let Some(block) = skipped.last().filter(|&block| block >= space.blocks) {
                return Err(PlanError::NoSuchBlock {
                    block,
                    step: *step,
                    blocks: space.blocks,
                });
            }
        }
        Ok(())
    }

    /// The levels of a run: those of the plan's steps, each with its own time.
    ///
    /// - `all`: the levels of all training steps
    ///
    /// # Errors
    /// If there are fewer training steps.
    pub fn levels(&self, all: &Levels) -> Result<Levels, PlanError> {
        Ok(all.keep(&self.steps().collect::<Vec<_>>())?)
    }
}

/// Plans that are not searched: the competitors of a search, and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FixedPlan {
    /// `0, i, 2i, …` with the smallest stride `i` that makes so many steps: "ddimK" of guided-diffusion, the paper's
    /// baseline. It starts from noise at a time when some of the picture should be left.
    Stride,
    /// [`Spacing::Trailing`]: always the last step.
    Trailing,
    /// `⌊u²⌋` with `u` even from 0 to `√(0.8 T)`, as in DDIM's code: more steps where little noise is left.
    Quadratic,
    /// [`Spacing::Linspace`]: the first and the last step.
    Linspace,
}

choices! {
    FixedPlan: "plan" {
        "stride" => Self::Stride, "0, i, 2i, … with the smallest stride that fits (ddimK)";
        "trailing" => Self::Trailing, "even steps to the last";
        "quadratic" => Self::Quadratic, "more steps where little noise is left";
        "linspace" => Self::Linspace, "even steps from the first to the last";
    }
}

impl FixedPlan {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Stride,
        Self::Trailing,
        Self::Quadratic,
        Self::Linspace,
    ];

    /// The plan with `count` of `steps` training steps.
    ///
    /// ```
    /// use nabla_diffusion::autodiffusion::FixedPlan;
    ///
    /// let ddim4 = FixedPlan::Stride.plan(1000, 4)?;
    /// assert_eq!(ddim4.steps().collect::<Vec<_>>(), [0, 250, 500, 750]);
    /// # Ok::<(), nabla_diffusion::autodiffusion::PlanError>(())
    /// ```
    ///
    /// # Errors
    /// If there are no steps or more than training steps, or no stride makes so many.
    pub fn plan(self, steps: usize, count: usize) -> Result<Plan, PlanError> {
        if count == 0 || count > steps {
            return Err(PlanError::Steps {
                asked: count,
                steps,
            });
        }
        match self {
            Self::Stride => {
                let fits = |stride: &usize| steps.div_ceil(*stride) == count;
                match (1..=steps).find(fits) {
                    Some(stride) => Plan::of_steps((0..steps).step_by(stride)),
                    None => Err(PlanError::NoStride { count, steps }),
                }
            }
            Self::Trailing => Plan::of_steps(Spacing::Trailing.timesteps(steps, count)?),
            Self::Linspace => Plan::of_steps(Spacing::Linspace.timesteps(steps, count)?),
            Self::Quadratic => {
                let end = (0.8 * steps as f64).sqrt();
                let mut kept = BTreeSet::new();
                for k in 0..count {
                    let u = end * k as f64 / (count - 1).max(1) as f64;
                    // √800² must not become 799.
                    let step = (u * u + 1e-9).floor() as usize;
                    // Near 0 the squares lie closer than whole steps, and near the end there may be no room.
                    let free = (step..steps).find(|step| !kept.contains(step));
                    let free = free.or_else(|| (0..steps).rev().find(|step| !kept.contains(step)));
                    kept.extend(free);
                }
                Plan::of_steps(kept)
            }
        }
    }
}
