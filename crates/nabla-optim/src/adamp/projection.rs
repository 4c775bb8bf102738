//! The test for scale-invariant weights and the projection Π, which AdamP and SGDP share; see the [parent
//! module](super) for their equations.

use burn::tensor::Tensor;
use nabla_grad::decomposition::{DecompositionError, Views, cosine_similarity};
use nabla_grad::elementwise::{
    Channels, Constant, Dense, Kernel, Real, Rule, step, update_channels,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::precision::like;

/// The dimension of a weight that corresponds to its layer's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelDim {
    /// Dimension 1 of matrices, Burn's `[d_input, d_output]`, and 0 of tensors of higher rank,
    /// `[channels_out, channels_in, ...]`.
    #[serde(alias = "ByRank")]
    ByRank,
    /// This dimension. Tensors without it are only tested as a whole.
    #[serde(alias = "Dim")]
    Dim(usize),
}

impl ChannelDim {
    /// The dimension, for a tensor of rank `rank`.
    pub(super) fn of_rank(self, rank: usize) -> usize {
        match self {
            Self::ByRank if rank == 2 => 1,
            Self::ByRank => 0,
            Self::Dim(dim) => dim,
        }
    }
}

/// Whether the gradient is so nearly orthogonal to the weight, in all vectors of `views`, that AdamP treats
/// the weight as scale invariant. AdamP then removes from the step the part
/// [along](nabla_grad::decomposition::decompose) the weight.
///
/// # Errors
/// If the tensors differ in shape or device, have no elements, or lack the dimension of the views.
pub fn is_scale_invariant<const D: usize>(
    weight: Tensor<D>,
    grad: Tensor<D>,
    views: Views,
    delta: f64,
) -> Result<bool, DecompositionError> {
    let shape = weight.dims();
    let cosines = cosine_similarity(grad, weight, views)?;
    let count = match views {
        Views::Whole => 1,
        Views::Each(dim) => shape[dim],
    };
    let size = shape.iter().product::<usize>() / count;
    let highest: f64 = cosines.abs().max().into_scalar();
    Ok(highest < threshold(delta, size))
}

/// The least norm by which a cosine is divided if there is no ε: its square is a normal `f32`.
const LEAST_NORM: f64 = 1e-18;

/// `δ/√K`.
fn threshold(delta: f64, size: usize) -> f64 {
    delta / (size as f64).sqrt()
}

/// The common parts of AdamP and SGDP: the test, the projection, the decay and the step.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    pub(super) delta: f64,
    pub(super) wd_ratio: f64,
    pub(super) epsilon: f64,
    pub(super) channel_dim: ChannelDim,
}

/// A step of which the radial part may be removed, with `M` moments; `W` is `M + 1`.
pub(super) trait Perturbation<const M: usize, const W: usize>: Copy + Sync {
    /// The new moments.
    fn moments<N: Real>(&self, moments: [N; M], g: N) -> [N; M];

    /// The step `p`, from the new moments.
    fn perturb<N: Real>(&self, moments: [N; M], g: N) -> N;

    /// The length of the step.
    fn length(&self) -> Constant;

    /// Whether `p` depends on `g` itself (Nesterov).
    fn looks_ahead(&self) -> bool;

    /// One value before those of the moments.
    fn join<T>(first: T, moments: [T; M]) -> [T; W];

    /// The values of [`join`](Self::join).
    fn split<T>(all: [T; W]) -> (T, [T; M]);

    /// The first value of [`join`](Self::join).
    fn first<T>(all: &[T; W]) -> &T {
        Self::split(all.each_ref()).0
    }
}

/// The terms of the sums over a channel that the test and the projection need.
struct Sums<N> {
    gw: N,
    gg: N,
    ww: N,
    wp: N,
}

impl<N: Real> Sums<N> {
    #[inline(always)]
    fn terms(w: N, g: N, p: N) -> Self {
        Self {
            gw: g.clone() * w.clone(),
            gg: g.square(),
            ww: w.clone().square(),
            wp: w * p,
        }
    }

    /// `|cos(w, g)|`.
    fn cosine(&self, epsilon: f64) -> N {
        let norm = |square: &N| {
            let norm = square.clone().sqrt();
            norm.at_least(epsilon.max(LEAST_NORM).into())
        };
        self.gw.clone().abs() / (norm(&self.gg) * norm(&self.ww))
    }

    /// `w·p/(‖w‖ + ε)²`.
    fn along(&self, epsilon: f64) -> N {
        let norm = self.ww.clone().sqrt() + Constant::from(epsilon);
        self.wp.clone() / norm.at_least(LEAST_NORM.into()).square()
    }
}

impl Sums<Tensor<3>> {
    /// `[outer, channels, inner]` to `[1, channels, 1]`.
    fn summed(self) -> Self {
        let sum = |x: Tensor<3>| x.sum_dim(2).sum_dim(0);
        Self {
            gw: sum(self.gw),
            gg: sum(self.gg),
            ww: sum(self.ww),
            wp: sum(self.wp),
        }
    }
}

impl From<[f64; 4]> for Sums<f64> {
    fn from([gw, gg, ww, wp]: [f64; 4]) -> Self {
        Self { gw, gg, ww, wp }
    }
}

/// `keep w − length p`, the step without projection.
#[inline(always)]
fn unprojected<N: Real>(w: N, p: N, keep: Constant, length: Constant) -> N {
    w * keep - p * length
}

/// The step without projection.
struct Whole<P, const M: usize, const W: usize> {
    rule: P,
    keep: Constant,
}

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Whole<P, M, W> {
    /// The new `[w, moments]`, and `p`.
    #[inline(always)]
    fn apply_with_p<N: Real>(&self, written: [N; W], g: N) -> ([N; W], N) {
        let (w, moments) = P::split(written);
        let moments = self.rule.moments(moments, g.clone());
        let p = self.rule.perturb(moments.clone(), g);
        let w = unprojected(w, p.clone(), self.keep, self.rule.length());
        (P::join(w, moments), p)
    }
}

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Rule<W, 1> for Whole<P, M, W> {
    #[inline(always)]
    fn apply<N: Real>(&self, written: [N; W], [g]: [N; 1]) -> [N; W] {
        self.apply_with_p(written, g).0
    }
}

/// The step without projection, and the terms of the sums.
struct Tested<P, const M: usize, const W: usize>(Whole<P, M, W>);

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Kernel<W, 1, 4> for Tested<P, M, W> {
    #[inline(always)]
    fn apply(&self, written: [f32; W], [g]: [f32; 1], _: f32) -> ([f32; W], [f32; 4]) {
        let (w, _) = P::split(written);
        let (written, p) = self.0.apply_with_p(written, g);
        let Sums { gw, gg, ww, wp } = Sums::terms(w, g, p);
        (written, [gw, gg, ww, wp])
    }
}

/// Gives back the radial part of a step that was taken without projection; reads the gradient and the moments.
struct GiveBackAhead<P, const M: usize, const W: usize>(Whole<P, M, W>);

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Kernel<1, W, 0>
    for GiveBackAhead<P, M, W>
{
    #[inline(always)]
    fn apply(&self, [w]: [f32; 1], read: [f32; W], back: f32) -> ([f32; 1], [f32; 0]) {
        let (g, moments) = P::split(read);
        ([self.0.given_back(w, moments, g, back)], [])
    }
}

/// Gives back the radial part of a step that does not depend on the gradient itself; reads the moments.
struct GiveBack<P, const M: usize, const W: usize>(Whole<P, M, W>);

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Kernel<1, M, 0> for GiveBack<P, M, W> {
    #[inline(always)]
    fn apply(&self, [w]: [f32; 1], moments: [f32; M], back: f32) -> ([f32; 1], [f32; 0]) {
        ([self.0.given_back(w, moments, 0.0, back)], [])
    }
}

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Whole<P, M, W> {
    /// The projected weight, from the one after the step without projection and the moments after it.
    ///
    /// The old weight, which is no longer there, is `(w + length p)/keep`, up to the rounding error of the larger
    /// one of weight and step. What is given back is at most ‖length p‖/‖w‖ times this, so the error is below
    /// that of the step itself unless the step is longer than the weight.
    #[inline(always)]
    fn given_back(&self, w: f32, moments: [f32; M], g: f32, back_over_keep: f32) -> f32 {
        let p = self.rule.perturb(moments, g);
        w + (w + p * self.rule.length()) * back_over_keep
    }
}

/// The multiple of the old weight that a projected step adds to one without projection: the radial part, which Π
/// removes, and the part of the decay that the ratio spares.
fn given_back<N: Real>(along: N, length: Constant, decay: N, ratio: N) -> N {
    along * length + (decay.clone() - decay * ratio)
}

impl Projection {
    /// The channels of a weight, with which the sums over the layer are sums of theirs. `None` for a weight
    /// that is not projected.
    pub(super) fn channels(&self, shape: &[usize]) -> Option<Channels> {
        if shape.len() < 2 || shape.contains(&0) {
            return None;
        }
        let along = Channels::along(shape, self.channel_dim.of_rank(shape.len()));
        Some(along.unwrap_or(Channels::whole(shape.iter().product())))
    }

    /// The factor of `w` in the radial part of the step, for each channel, if the weight is scale invariant,
    /// from the sums over the channels.
    fn decide(&self, channels: Channels, sums: &[[f64; 4]]) -> Option<Vec<f64>> {
        let views = [
            (channels, sums.to_vec()),
            (
                Channels::whole(channels.size() * channels.count()),
                vec![sums.iter().fold([0.0; 4], |mut total, sums| {
                    for (total, sum) in total.iter_mut().zip(sums) {
                        *total += sum;
                    }
                    total
                })],
            ),
        ];
        views.into_iter().find_map(|(view, sums)| {
            // A cosine that is NaN is not below the threshold.
            let limit = threshold(self.delta, view.size());
            let sums: Vec<Sums<f64>> = sums.into_iter().map(Sums::from).collect();
            let fires = sums.iter().all(|s| s.cosine(self.epsilon) < limit);
            let along = |s: &Sums<f64>| s.along(self.epsilon);
            fires.then(|| match sums.as_slice() {
                [all] => vec![along(all); channels.count()],
                each => each.iter().map(along).collect(),
            })
        })
    }

    /// The step `w ← (1 − r decay) w − Π(p)` of `rule`, and the new moments, of the numbers of a weight of the shape
    /// `shape`.
    pub(super) fn step<P, const M: usize, const W: usize>(
        &self,
        rule: &P,
        decay: f64,
        shape: &[usize],
        w: Tensor<1>,
        moments: [Tensor<1>; M],
        g: Tensor<1>,
    ) -> (Tensor<1>, [Tensor<1>; M])
    where
        P: Perturbation<M, W>,
    {
        let Some(channels) = self.channels(shape) else {
            let keep = (1.0 - decay).into();
            let whole = Whole::<P, M, W> { rule: *rule, keep };
            return P::split(step(&whole, P::join(w, moments), [g]));
        };
        // One pass after the other finds the old weight from the new one. A decay that leaves less than half of it
        // would cost bits.
        if decay > 0.5 {
            return self.composed(rule, channels, decay, w, moments, g);
        }
        let (written, g) = match (Dense::take_all(P::join(w, moments)), Dense::take(g)) {
            (Ok(written), Ok(g)) => {
                let written = self.fused(rule, channels, decay, written, &g);
                return P::split(written.map(Dense::into_tensor));
            }
            (Ok(written), Err(g)) => (written.map(Dense::into_tensor), g),
            (Err(written), Ok(g)) => (written, g.into_tensor()),
            (Err(written), Err(g)) => (written, g),
        };
        let (w, moments) = P::split(written);
        self.composed(rule, channels, decay, w, moments, g)
    }

    /// `channels`, or all numbers as one channel if the first columns of a wide matrix already show that not all
    /// columns are scale invariant.
    ///
    /// The sums over the columns of a wide matrix take the place of its numbers in the fastest cache, which
    /// makes a step half as long again. Where the test by columns fails anyway, one sum over all of them does.
    fn candidates(&self, channels: Channels, w: &Dense, g: &Dense) -> Channels {
        const WIDE: usize = 1024;
        const FIRST: usize = 4;
        const ROWS: usize = 256;
        let [_, count, inner] = channels.shape();
        if inner > 1 || count < WIDE {
            return channels;
        }
        let part = |(w, g): (&[f32], &[f32])| {
            let mut sums = [[0.0; 4]; FIRST];
            for (w, g) in w.chunks(count).zip(g.chunks(count)) {
                for (sums, (&w, &g)) in sums.iter_mut().zip(w.iter().zip(g)) {
                    let Sums { gw, gg, ww, .. } = Sums::terms(f64::from(w), f64::from(g), 0.0);
                    for (sum, term) in sums.iter_mut().zip([gw, gg, ww]) {
                        *sum += term;
                    }
                }
            }
            sums
        };
        let [w, g] = [w, g].map(|x| x.values().par_chunks(ROWS * count));
        let parts: Vec<_> = w.zip(g).map(part).collect();
        let limit = threshold(self.delta, channels.size());
        let passes = |column: usize| {
            let sums = parts.iter().fold([0.0; 4], |mut total, part| {
                for (total, sum) in total.iter_mut().zip(part[column]) {
                    *total += sum;
                }
                total
            });
            Sums::from(sums).cosine(self.epsilon) < limit
        };
        if (0..FIRST).all(passes) {
            channels
        } else {
            Channels::whole(channels.size() * count)
        }
    }

    /// The step in one pass, which also takes the sums of the test, and a second one for a weight that the test
    /// found to be scale invariant: it gives back what the projection removes from the step.
    fn fused<P, const M: usize, const W: usize>(
        &self,
        rule: &P,
        channels: Channels,
        decay: f64,
        written: [Dense; W],
        g: &Dense,
    ) -> [Dense; W]
    where
        P: Perturbation<M, W>,
    {
        let mut written = written;
        let channels = self.candidates(channels, P::first(&written), g);
        let whole = || Whole::<P, M, W> {
            rule: *rule,
            keep: (1.0 - decay).into(),
        };
        let sums = update_channels(&Tested(whole()), channels, None, written.each_mut(), [g]);
        let Some(along) = self.decide(channels, &sums) else {
            return written;
        };
        let back: Vec<f32> = along
            .into_iter()
            .map(|along| given_back(along, rule.length(), decay, self.wd_ratio) / (1.0 - decay))
            .map(|back| back as f32)
            .collect();
        let (mut w, moments) = P::split(written);
        let read = moments.each_ref();
        if rule.looks_ahead() {
            let read = P::join(g, read);
            let pass = GiveBackAhead(whole());
            update_channels(&pass, channels, Some(&back), [&mut w], read);
        } else {
            update_channels(&GiveBack(whole()), channels, Some(&back), [&mut w], read);
        }
        P::join(w, moments)
    }

    /// The step with Burn's operations. The result of the test stays on the device, as a factor of 0 or 1.
    fn composed<P, const M: usize, const W: usize>(
        &self,
        rule: &P,
        channels: Channels,
        decay: f64,
        w: Tensor<1>,
        moments: [Tensor<1>; M],
        g: Tensor<1>,
    ) -> (Tensor<1>, [Tensor<1>; M])
    where
        P: Perturbation<M, W>,
    {
        let count = w.dims();
        let keep = (1.0 - decay).into();
        let whole = Whole::<P, M, W> { rule: *rule, keep };
        let written = P::join(w.clone(), moments);
        let (written, p) = whole.apply_with_p(written, g.clone());
        let (stepped, moments) = P::split(written);
        let one = [1, 1, 1];
        // 1 as long as no view was found to be scale invariant.
        let mut open = Tensor::<3>::ones(one, (&w.device(), w.dtype()));
        let mut along = open.zeros_like();
        for view in [channels, Channels::whole(count[0])] {
            let [w, g, p] = [&w, &g, &p].map(|x| x.clone().reshape(view.shape()));
            let sums = Sums::terms(w, g, p).summed();
            let fires = sums.cosine(self.epsilon).max().reshape(one);
            let fires = fires.lower_elem(threshold(self.delta, view.size()));
            let fires = like(fires.float(), &open) * open.clone();
            along = along + sums.along(self.epsilon) * fires.clone();
            open = open - fires;
        }
        let decay = open.ones_like() * decay;
        let ratio = open * (1.0 - self.wd_ratio) + self.wd_ratio;
        let back = given_back(along, rule.length(), decay, ratio);
        let [w, stepped] = [w, stepped].map(|x| x.reshape(channels.shape()));
        let w = stepped + w * back;
        (w.reshape(count), moments)
    }
}
