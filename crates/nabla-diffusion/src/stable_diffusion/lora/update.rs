//! The change of one layer, from the tensors that a file has for it.

use std::collections::BTreeMap;

use super::channel_scale::ChannelScale;
use super::difference;
use super::hadamard::{self, Hadamard};
use super::kronecker::{self, Kronecker};
use super::low_rank::LowRank;
use super::magnitude::Magnitude;
use super::matrices::Values;
use crate::stable_diffusion::weights::{Scope, WeightsError};

/// What a tensor is in the change of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Down,
    Up,
    Middle,
    HadamardA1,
    HadamardB1,
    HadamardA2,
    HadamardB2,
    HadamardCore1,
    HadamardCore2,
    KroneckerLeft,
    KroneckerLeftA,
    KroneckerLeftB,
    KroneckerRight,
    KroneckerRightA,
    KroneckerRightB,
    KroneckerCore,
    Difference,
    DifferenceOfBias,
    /// Of IA³; its `weight` has no name of its own and is read with this.
    OnInput,
    ChannelScale,
    Magnitude,
    MagnitudeOfOutputs,
    Alpha,
}

/// The change of one layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Update {
    tensors: BTreeMap<Part, Values>,
    pub(super) alpha: Option<f64>,
    /// Whether the scale is `α/√r`.
    pub(super) by_root: bool,
    on_input: bool,
}

/// A change by its kind.
enum Kind<'a> {
    LowRank(LowRank<'a>),
    Hadamard(Hadamard<'a>),
    Kronecker(Kronecker<'a>),
    Difference(&'a Values),
    ChannelScale(ChannelScale<'a>),
    /// Only the bias is changed.
    None,
}

impl Update {
    /// Reads a tensor of the file.
    pub(super) fn read(
        &mut self,
        part: Part,
        root: &Scope<'_>,
        name: &str,
    ) -> Result<(), WeightsError> {
        match part {
            Part::Alpha => {
                let (values, _) = root.values(name)?;
                self.alpha = values.first().map(|&alpha| f64::from(alpha));
            }
            Part::OnInput => {
                self.on_input = root.is_nonzero(name)?;
                let layer = name.trim_end_matches(".on_input");
                let scale = root.values(&format!("{layer}.weight"))?;
                self.tensors.insert(Part::ChannelScale, scale);
            }
            part => {
                self.tensors.insert(part, root.values(name)?);
            }
        }
        Ok(())
    }

    /// Checks that no tensor is missing.
    ///
    /// # Errors
    /// The name of a missing one.
    pub(super) fn complete(&self) -> Result<(), &'static str> {
        self.kind().map(|_| ())
    }

    fn kind(&self) -> Result<Kind<'_>, &'static str> {
        let get = |part| self.tensors.get(&part);
        let need = |part, name: &'static str| get(part).ok_or(name);
        let any = |parts: &[Part]| parts.iter().any(|part| self.tensors.contains_key(part));
        if any(&[
            Part::HadamardA1,
            Part::HadamardB1,
            Part::HadamardA2,
            Part::HadamardB2,
        ]) {
            let cores = match (get(Part::HadamardCore1), get(Part::HadamardCore2)) {
                (Some(_), None) => return Err("hada_t2"),
                (None, Some(_)) => return Err("hada_t1"),
                (first, second) => [first, second],
            };
            return Ok(Kind::Hadamard(Hadamard([
                hadamard::Factor {
                    b: need(Part::HadamardA1, "hada_w1_a")?,
                    a: need(Part::HadamardB1, "hada_w1_b")?,
                    core: cores[0],
                },
                hadamard::Factor {
                    b: need(Part::HadamardA2, "hada_w2_a")?,
                    a: need(Part::HadamardB2, "hada_w2_b")?,
                    core: cores[1],
                },
            ])));
        }
        if any(&[
            Part::KroneckerLeft,
            Part::KroneckerLeftA,
            Part::KroneckerRight,
            Part::KroneckerRightA,
        ]) {
            let left = match get(Part::KroneckerLeft) {
                Some(whole) => kronecker::Factor::Whole(whole),
                None => kronecker::Factor::Product {
                    a: need(Part::KroneckerLeftA, "lokr_w1 or lokr_w1_a")?,
                    b: need(Part::KroneckerLeftB, "lokr_w1_b")?,
                    core: None,
                },
            };
            let right = match get(Part::KroneckerRight) {
                Some(whole) => kronecker::Factor::Whole(whole),
                None => kronecker::Factor::Product {
                    a: need(Part::KroneckerRightA, "lokr_w2 or lokr_w2_a")?,
                    b: need(Part::KroneckerRightB, "lokr_w2_b")?,
                    core: get(Part::KroneckerCore),
                },
            };
            return Ok(Kind::Kronecker(Kronecker { left, right }));
        }
        if let Some(values) = get(Part::Difference) {
            return Ok(Kind::Difference(values));
        }
        if let Some(scale) = get(Part::ChannelScale) {
            let on_input = self.on_input;
            return Ok(Kind::ChannelScale(ChannelScale { scale, on_input }));
        }
        let low_rank = any(&[Part::Down, Part::Up, Part::Middle]);
        if self.changes_bias() && !low_rank {
            return Ok(Kind::None);
        }
        Ok(Kind::LowRank(LowRank {
            down: need(Part::Down, "down")?,
            up: need(Part::Up, "up")?,
            middle: get(Part::Middle),
        }))
    }

    /// Whether its scale depends on `α`, and no `α` is known.
    pub(super) fn assumes_scale(&self) -> bool {
        self.alpha.is_none() && self.kind().is_ok_and(|kind| kind.rank().is_some())
    }

    pub(super) fn changes_weight(&self) -> bool {
        !matches!(self.kind(), Ok(Kind::None))
    }

    pub(super) fn changes_bias(&self) -> bool {
        self.tensors.contains_key(&Part::DifferenceOfBias)
    }

    /// `s Δb`.
    pub(super) fn delta_of_bias(&self, strength: f64) -> Result<Vec<f32>, String> {
        match self.tensors.get(&Part::DifferenceOfBias) {
            Some(values) => Ok(difference::delta(values, strength)),
            None => Err("of which the difference is missing".to_owned()),
        }
    }

    /// What is added to the tensor `weight` of `shape`.
    pub(super) fn delta(
        &self,
        strength: f64,
        shape: &[usize],
        weight: &[f32],
    ) -> Result<Vec<f32>, String> {
        let kind = self
            .kind()
            .map_err(|missing| format!("of which {missing} is missing"))?;
        let scale = match (self.alpha, kind.rank()) {
            (None, _) | (_, None) => 1.0,
            (Some(alpha), Some(rank)) if self.by_root => alpha / (rank as f64).sqrt(),
            (Some(alpha), Some(rank)) => alpha / rank as f64,
        };
        let magnitude = match (
            self.tensors.get(&Part::Magnitude),
            self.tensors.get(&Part::MagnitudeOfOutputs),
        ) {
            (_, Some(values)) => Some((values, true)),
            (Some(values), None) => Some((values, false)),
            (None, None) => None,
        };
        match magnitude {
            None => kind.delta(shape, weight, strength * scale),
            Some((values, of_outputs)) => {
                let delta = kind.delta(shape, weight, scale)?;
                let magnitude = Magnitude { values, of_outputs };
                magnitude.delta(shape, weight, &delta, strength)
            }
        }
    }
}

impl Kind<'_> {
    /// The rank by which `α` is divided.
    fn rank(&self) -> Option<usize> {
        match self {
            Self::LowRank(change) => Some(change.rank()),
            Self::Hadamard(change) => Some(change.rank()),
            Self::Kronecker(change) => change.rank(),
            Self::Difference(_) | Self::ChannelScale(_) | Self::None => None,
        }
    }

    fn delta(&self, shape: &[usize], weight: &[f32], factor: f64) -> Result<Vec<f32>, String> {
        match self {
            Self::LowRank(change) => change.delta(shape, factor),
            Self::Hadamard(change) => change.delta(shape, factor),
            Self::Kronecker(change) => change.delta(shape, factor),
            Self::Difference(values) => Ok(difference::delta(values, factor)),
            Self::ChannelScale(change) => change.delta(shape, weight, factor),
            Self::None => Ok(vec![0.0; weight.len()]),
        }
    }
}
