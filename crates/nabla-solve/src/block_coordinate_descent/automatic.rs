//! Default choices of block coordinate descent that suit a problem.
//!
//! | choice | for | default |
//! |---|---|---|
//! | rule | no penalty | GSD; with the links of a graph GSL |
//! | | a penalty of groups | GSL, because the other greedy rules have no form for groups |
//! | | another penalty | GS-q |
//! | update | a penalty of groups | gradient |
//! | | a quadratic objective | matrix, which is exact |
//! | | others | Newton |
//! | blocks | a penalty of groups | its groups |
//! | | a graph, if no blocks are given | forests |
//! | | a partition, or the rule MI, which tries all blocks | fixed |
//! | | others | variable, of 5 coordinates |
//! | partition | a greedy rule | by Lipschitz constants, as the paper recommends |
//! | | others | neighbours |
//! | solver | forests without a penalty | message passing |

use nabla_base::choices;

use super::partition::USUAL_SIZE;
use super::{
    BlockCoordinateDescentConfig, BlockSolver, Blocks, DiagonalBound, Partition, Penalty,
    Selection, Update,
};

/// The objective to minimise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// `½ Σ (x·a − y)²`
    LeastSquares,
    /// `Σ log(1 + exp(−y x·a))`
    Logistic,
    /// Logistic regression of several classes.
    Softmax,
    /// `½ Σ w (y_i − y_j)²` over the links of a graph.
    LabelPropagation,
}

choices! {
    Objective: "loss" {
        "least-squares" => Self::LeastSquares, "½ (x·a − y)²";
        "logistic" => Self::Logistic, "log(1 + exp(−y x·a)) with labels −1 and 1";
        "softmax" => Self::Softmax, "Softmax regression, with one class per label";
        "label-propagation" => Self::LabelPropagation, "½ Σ w (y_i − y_j)² over the links between neighbouring examples, some with known labels";
    }
}

impl Objective {
    /// Its name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeastSquares => "least squares",
            Self::Logistic => "logistic regression",
            Self::Softmax => "softmax regression",
            Self::LabelPropagation => "label propagation",
        }
    }

    /// Whether it is a quadratic function, for which the matrix update is exact.
    pub fn is_quadratic(self) -> bool {
        matches!(self, Self::LeastSquares | Self::LabelPropagation)
    }

    /// The weight `λ` of `λ/2 ‖x‖²`: 1 for feature weights without another penalty, so that the minimum is
    /// unique, otherwise 0.
    pub fn l2(self, other_penalty: bool) -> f64 {
        match other_penalty || self == Self::LabelPropagation {
            true => 0.0,
            false => 1.0,
        }
    }
}

/// Which coordinates move together: the kinds of [`Blocks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// [`Blocks::Fixed`]
    Fixed,
    /// [`Blocks::Variable`]
    Variable,
    /// [`Blocks::Forest`]
    Forest,
}

choices! {
    BlockKind: "kind of blocks" {
        "fixed" => Self::Fixed, "A fixed partition";
        "variable" => Self::Variable, "Any set of weights";
        "forest" => Self::Forest, "The largest sets without cycles, for sparse problems; solved by message passing";
    }
}

/// The given choices of a descent; the others are [chosen automatically](Self::config).
///
/// ```
/// use nabla_solve::block_coordinate_descent::{
///     BlockDescentChoices, Blocks, Objective, Penalty, Selection, Update,
/// };
///
/// let choices = BlockDescentChoices {
///     block_size: Some(8),
///     ..BlockDescentChoices::default()
/// };
/// let config = choices.config(Objective::Logistic, 100, &Penalty::L1(0.1));
/// assert_eq!(config.blocks, Blocks::Variable { size: 8 });
/// assert_eq!(config.selection, Selection::ProximalDecrease);
/// assert_eq!(config.update, Update::Newton);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockDescentChoices {
    /// Which coordinates move together.
    pub blocks: Option<BlockKind>,
    /// Coordinates of a block.
    pub block_size: Option<usize>,
    /// How fixed blocks divide the coordinates.
    pub partition: Option<Partition>,
    /// Which block is next.
    pub selection: Option<Selection>,
    /// How a block moves.
    pub update: Option<Update>,
}

impl BlockDescentChoices {
    /// The configuration for `weights` coordinates of an objective with a penalty.
    pub fn config(
        &self,
        objective: Objective,
        weights: usize,
        penalty: &Penalty,
    ) -> BlockCoordinateDescentConfig {
        let selection = self.selection(objective, penalty);
        let update = self.update(objective, penalty);
        let blocks = self.blocks(objective, weights, penalty, selection);
        let forests = matches!(
            blocks,
            Blocks::Forest | Blocks::Fixed(Partition::Forests(_))
        );
        let systems = matches!(update, Update::Matrix | Update::Newton);
        let solver = match forests && systems && *penalty == Penalty::None {
            true => BlockSolver::MessagePassing,
            false => BlockSolver::Dense,
        };
        BlockCoordinateDescentConfig::new()
            .with_blocks(blocks)
            .with_selection(selection)
            .with_update(update)
            .with_solver(solver)
    }

    fn selection(&self, objective: Objective, penalty: &Penalty) -> Selection {
        let graph = objective == Objective::LabelPropagation;
        match (self.selection, penalty) {
            (Some(selection), _) => selection,
            (None, Penalty::None) if !graph => {
                Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate)
            }
            (None, Penalty::None | Penalty::GroupL1 { .. }) => Selection::GaussSouthwellLipschitz,
            (None, _) => Selection::ProximalDecrease,
        }
    }

    fn update(&self, objective: Objective, penalty: &Penalty) -> Update {
        match (self.update, penalty) {
            (Some(update), _) => update,
            (None, Penalty::GroupL1 { .. }) => Update::Gradient(super::StepSize::Block),
            (None, _) if objective.is_quadratic() => Update::Matrix,
            (None, _) => Update::Newton,
        }
    }

    fn blocks(
        &self,
        objective: Objective,
        weights: usize,
        penalty: &Penalty,
        selection: Selection,
    ) -> Blocks {
        if let Penalty::GroupL1 { groups, .. } = penalty {
            return Blocks::Fixed(Partition::Explicit(groups.clone()));
        }
        let kind = match (self.blocks, &self.partition, self.block_size) {
            (Some(kind), ..) => kind,
            (None, Some(_), _) => BlockKind::Fixed,
            (None, None, None) if objective == Objective::LabelPropagation => BlockKind::Forest,
            _ if selection == Selection::MaximumImprovement => BlockKind::Fixed,
            _ => BlockKind::Variable,
        };
        let size = |usual: usize| self.block_size.unwrap_or(usual.min(weights));
        match kind {
            BlockKind::Forest => Blocks::Forest,
            BlockKind::Variable => Blocks::Variable {
                size: size(USUAL_SIZE),
            },
            BlockKind::Fixed => {
                let unordered = matches!(
                    selection,
                    Selection::Cyclic | Selection::Random | Selection::Lipschitz
                );
                let usual = match unordered {
                    true => Partition::Order { size: USUAL_SIZE },
                    false => Partition::Sort { size: USUAL_SIZE },
                };
                let partition = self.partition.clone().unwrap_or(usual);
                Blocks::Fixed(match partition.size() {
                    Some(usual) => partition.with_size(size(usual)),
                    None => partition,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nabla_base::choices::{Choice, Choices};

    use super::super::{DealOrder, StepSize};
    use super::*;

    fn chosen(objective: Objective, penalty: &Penalty) -> BlockCoordinateDescentConfig {
        BlockDescentChoices::default().config(objective, 12, penalty)
    }

    #[test]
    fn each_kind_of_problem_gets_what_suits_it() {
        let config = chosen(Objective::LeastSquares, &Penalty::None);
        assert_eq!(config.blocks, Blocks::Variable { size: 5 });
        assert_eq!(
            config.selection,
            Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate)
        );
        assert_eq!(config.update, Update::Matrix);
        assert_eq!(config.solver, BlockSolver::Dense);

        let config = chosen(Objective::LabelPropagation, &Penalty::None);
        assert_eq!(config.blocks, Blocks::Forest);
        assert_eq!(config.selection, Selection::GaussSouthwellLipschitz);
        assert_eq!(config.solver, BlockSolver::MessagePassing);

        let config = chosen(Objective::Softmax, &Penalty::NonNegative);
        assert_eq!(config.selection, Selection::ProximalDecrease);
        assert_eq!(config.update, Update::Newton);

        let groups = vec![(0..6).collect(), (6..12).collect::<Vec<_>>()];
        let penalty = Penalty::GroupL1 {
            weight: 1.0,
            groups: groups.clone(),
        };
        let config = chosen(Objective::Logistic, &penalty);
        assert_eq!(config.blocks, Blocks::Fixed(Partition::Explicit(groups)));
        assert_eq!(config.update, Update::Gradient(StepSize::Block));
        assert_eq!(config.selection, Selection::GaussSouthwellLipschitz);
    }

    #[test]
    fn what_is_said_is_taken() {
        let blocks = |choices: &BlockDescentChoices| {
            choices
                .config(Objective::LeastSquares, 3, &Penalty::None)
                .blocks
        };
        let mut choices = BlockDescentChoices::default();
        assert_eq!(blocks(&choices), Blocks::Variable { size: 3 });
        choices.block_size = Some(7);
        assert_eq!(blocks(&choices), Blocks::Variable { size: 7 });
        choices.blocks = Some(BlockKind::Fixed);
        let sorted = Blocks::Fixed(Partition::Sort { size: 7 });
        assert_eq!(blocks(&choices), sorted);
        choices.selection = Some(Selection::Cyclic);
        let neighbours = Blocks::Fixed(Partition::Order { size: 7 });
        assert_eq!(blocks(&choices), neighbours);
        // A partition alone implies that blocks are fixed, and states their size.
        choices = BlockDescentChoices {
            partition: Some(Partition::Average { size: 2 }),
            ..BlockDescentChoices::default()
        };
        let average = Blocks::Fixed(Partition::Average { size: 2 });
        assert_eq!(blocks(&choices), average);
        choices.partition = Some(Partition::Forests(DealOrder::Index));
        let config = choices.config(Objective::LeastSquares, 3, &Penalty::None);
        assert_eq!(config.solver, BlockSolver::MessagePassing);
        // MI tries all blocks of a partition.
        choices = BlockDescentChoices {
            selection: Some(Selection::MaximumImprovement),
            ..BlockDescentChoices::default()
        };
        let sorted = Blocks::Fixed(Partition::Sort { size: 3 });
        assert_eq!(blocks(&choices), sorted);
    }

    #[test]
    fn l2_is_there_where_nothing_else_makes_the_minimum_one() {
        assert_eq!(Objective::Softmax.l2(false), 1.0);
        assert_eq!(Objective::Softmax.l2(true), 0.0);
        assert_eq!(Objective::LabelPropagation.l2(false), 0.0);
    }

    /// Names are found again, and no two values have one.
    fn names_of<T: Choices + PartialEq + std::fmt::Debug>() {
        for Choice { name, value, .. } in T::choices() {
            assert_eq!(T::choice(name).unwrap(), value);
            assert_eq!(value.choice_name(), Some(name));
        }
    }

    #[test]
    fn every_name_is_one_value() {
        names_of::<Objective>();
        names_of::<BlockKind>();
        names_of::<Selection>();
        names_of::<Update>();
        names_of::<Partition>();
        names_of::<crate::convex_relu::Loss>();
        names_of::<crate::convex_relu::TrainingMethod>();
        names_of::<crate::normalized_lr::Rule>();
    }
}
