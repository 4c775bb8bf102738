//! Implicit graph neural networks, to compare convergent graph solvers with.
//!
//! The state of the nodes solves an equation whose weight matrix `W` is the same for all edges:
//!
//! ```text
//! Z = relu(Â Z Wᵀ + B),      ‖W‖_∞ ≤ κ < 1,      Â: the mean over the edges that come into a node
//! ```
//!
//! with offsets `B` from the same encoder that a convergent graph solver has. After every update, the rows of `W` are
//! [projected](Ignn::projected) onto the ball of sums of sizes at most `κ`: then the map is a contraction in the maximum norm,
//! since rows of `Â` add up to 1. With `g` the gradient by `Z` and `D` the slopes,
//!
//! ```text
//! S = D ∘ U,      U = g + Âᵀ S W,      ∂B = S,      ∂W = Sᵀ Â Z
//! ```
//!
//! Source: Gu, Chang, Zhu, Sojoudi, El Ghaoui, *Implicit Graph Neural Networks*, NeurIPS 2020, arXiv 2009.06211 (there `κ` is
//! divided by the largest eigenvalue of the adjacency matrix, which is 1 here).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;

use crate::cgs::{CgsConfig, GraphModel, ReadOut};
use crate::field::Pulled;
use crate::fixed_point::{FixedPoint, FixedPointError};
use crate::graph::{Graph, columns};
use crate::message_passing::Encoder;
use crate::numbers::{numbers, tensor_like};
use crate::operation::{Pullback, attached};

/// Makes an [`Ignn`].
#[derive(Clone, Debug, PartialEq)]
pub struct IgnnConfig {
    /// Encoder and decoder; its maps and solver are of no use.
    pub network: CgsConfig,
    /// `κ`, in (0, 1); 0.9 by default.
    pub kappa: f64,
    /// Steps end when no number moves by more than that share of the largest offset; `3e-6` by default.
    pub tolerance: f64,
    /// The most steps; 300 by default.
    pub most: usize,
}

impl IgnnConfig {
    /// With the defaults.
    pub fn new(network: CgsConfig) -> Self {
        Self {
            network,
            kappa: 0.9,
            tolerance: 3e-6,
            most: 300,
        }
    }

    /// The model.
    ///
    /// - `draws`: of the weights
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn init(&self, device: &Device, draws: &mut SeededNoise) -> Result<Ignn, OutOfRange> {
        self.network.validate()?;
        range::between("bound κ of the weights", self.kappa, 0.0, 1.0)?;
        range::positive("tolerance of a fixed point", self.tolerance)?;
        range::at_least("most steps to a fixed point", self.most, 1)?;
        let heads = self.network.heads;
        let bound = 1.0 / (heads as f64).sqrt();
        let weights = (0..heads * heads).map(|_| bound * (2.0 * draws.random::<f64>() - 1.0));
        let weights: Vec<f64> = weights.collect();
        let model = Ignn {
            encoder: self.network.encoder(device, draws)?,
            weight: Param::from_tensor(Tensor::from_data(
                TensorData::new(weights, [heads, heads]),
                device,
            )),
            read_out: self.network.read_out(device, draws)?,
            config: self.clone(),
        };
        // What cannot be read stays as it is, and is refused when the model is used.
        Ok(match model.clone().projected() {
            Ok(projected) => projected,
            Err(_) => model,
        })
    }
}

/// The model; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct Ignn {
    encoder: Encoder,
    /// `W`, `[heads, heads]`
    weight: Param<Tensor<2>>,
    read_out: ReadOut,
    #[module(skip)]
    config: IgnnConfig,
}

impl Ignn {
    /// With rows of `W` whose sizes add up to at most `κ`, as near as may be: to be called after every update.
    ///
    /// # Errors
    /// If `W` cannot be read.
    pub fn projected(mut self) -> Result<Self, FixedPointError> {
        let weight = self.weight.val();
        let mut values =
            numbers(&weight).map_err(|error| FixedPointError::Device(error.to_string()))?;
        let dims = weight.dims();
        for row in values.chunks_mut(dims[1]) {
            project(row, self.config.kappa);
        }
        self.weight = self.weight.map(|old| {
            let tracked = old.is_require_grad();
            let inner = tensor_like::<2>(values, dims, &old);
            inner.detach().set_require_grad(tracked)
        });
        Ok(self)
    }

    /// `Z` for offsets `B`, both `[nodes, heads]`.
    ///
    /// # Errors
    /// If there is not a row for each node or another number of heads, or the steps don't come to an end.
    pub fn fixed_point(
        &self,
        graph: &Graph,
        offsets: Tensor<2>,
    ) -> Result<FixedPoint, FixedPointError> {
        let dims = offsets.dims();
        graph.check_nodes("offsets", dims[0])?;
        let weight = self.weight.val();
        let heads = weight.dims()[0];
        columns("offsets", dims[1], heads)?;
        let read = |tensor: &Tensor<2>| {
            numbers(tensor).map_err(|error| FixedPointError::Device(error.to_string()))
        };
        let system = System {
            graph: graph.clone(),
            sizes: graph.by_target().sizes(),
            weight: read(&weight)?,
            heads,
            tolerance: self.config.tolerance,
            most: self.config.most,
        };
        let b = read(&offsets)?;
        let (z, iterations, residual) = system.steps(&b, |z| {
            let mut next = system.products(&system.means(z), false);
            for (next, b) in next.iter_mut().zip(&b) {
                *next = (*next + b).max(0.0);
            }
            next
        });
        if residual.is_nan() || residual > self.config.tolerance {
            return Err(FixedPointError::NotConverged {
                iterations,
                residual,
            });
        }
        let values = tensor_like(z.clone(), [z.len()], &offsets);
        let pullback = Pullback::new(move |gradient: Tensor<1>| -> Pulled {
            let gradient: Tensor<2> = gradient.reshape(dims);
            let g = numbers(&gradient).unwrap_or_else(|_| vec![f64::NAN; z.len()]);
            let masked = |u: &[f64]| -> Vec<f64> {
                let pairs = u.iter().zip(&z);
                pairs
                    .map(|(&u, &z)| if z > 0.0 { u } else { 0.0 })
                    .collect()
            };
            let (u, _, _) = system.steps(&g, |u| {
                let mut next = system.spread(&system.products(&masked(u), true));
                for (next, g) in next.iter_mut().zip(&g) {
                    *next += g;
                }
                next
            });
            let s = masked(&u);
            let means = system.means(&z);
            let mut by_weight = vec![0.0; heads * heads];
            for (s, means) in s.chunks(heads).zip(means.chunks(heads)) {
                for (row, &s) in by_weight.chunks_mut(heads).zip(s) {
                    for (to, &from) in row.iter_mut().zip(means) {
                        *to += s * from;
                    }
                }
            }
            (
                tensor_like(s, dims, &gradient),
                Some(tensor_like(by_weight, [heads * heads], &gradient)),
            )
        });
        let flat = weight.reshape([heads * heads]);
        Ok(FixedPoint {
            z: attached(values, offsets, flat, pullback).reshape(dims),
            iterations,
            residual,
            converged: true,
        })
    }
}

impl GraphModel for Ignn {
    fn predict(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError> {
        let (offsets, _) = self.encoder.forward(graph, nodes, edges)?;
        let found = self.fixed_point(graph, offsets)?;
        self.read_out.forward(graph, found.z)
    }
}

/// The numbers of the equation.
struct System {
    graph: Graph,
    /// In-degrees.
    sizes: Vec<usize>,
    weight: Vec<f64>,
    heads: usize,
    tolerance: f64,
    most: usize,
}

impl System {
    /// `Â z`.
    fn means(&self, z: &[f64]) -> Vec<f64> {
        self.moved(z, false)
    }

    /// `Âᵀ z`.
    fn spread(&self, z: &[f64]) -> Vec<f64> {
        self.moved(z, true)
    }

    fn moved(&self, z: &[f64], back: bool) -> Vec<f64> {
        let heads = self.heads;
        let mut found = vec![0.0; z.len()];
        for (&source, &target) in self.graph.sources().iter().zip(self.graph.targets()) {
            let share = 1.0 / self.sizes[target] as f64;
            let (from, to) = if back {
                (target, source)
            } else {
                (source, target)
            };
            let to = &mut found[to * heads..(to + 1) * heads];
            for (to, from) in to.iter_mut().zip(&z[from * heads..(from + 1) * heads]) {
                *to += share * from;
            }
        }
        found
    }

    /// `z Wᵀ`, or `z W`.
    fn products(&self, z: &[f64], turned: bool) -> Vec<f64> {
        let heads = self.heads;
        let mut found = vec![0.0; z.len()];
        for (to, from) in found.chunks_mut(heads).zip(z.chunks(heads)) {
            if turned {
                for (row, &from) in self.weight.chunks(heads).zip(from) {
                    for (to, &weight) in to.iter_mut().zip(row) {
                        *to += weight * from;
                    }
                }
            } else {
                for (to, row) in to.iter_mut().zip(self.weight.chunks(heads)) {
                    *to = row
                        .iter()
                        .zip(from)
                        .map(|(weight, from)| weight * from)
                        .sum();
                }
            }
        }
        found
    }

    /// Steps from 0, how many, and the last one's share of `scale`.
    fn steps(&self, scale: &[f64], step: impl Fn(&[f64]) -> Vec<f64>) -> (Vec<f64>, usize, f64) {
        let greatest = |values: &mut dyn Iterator<Item = f64>| {
            values.fold(0.0, |most: f64, x| match x.is_nan() {
                true => f64::INFINITY,
                false => most.max(x.abs()),
            })
        };
        let size = greatest(&mut scale.iter().copied());
        let mut now = vec![0.0; scale.len()];
        let (mut iterations, mut moved) = (0, f64::INFINITY);
        while (moved.is_nan() || moved > self.tolerance) && iterations < self.most {
            let next = step(&now);
            let length = greatest(&mut now.iter().zip(&next).map(|(a, b)| b - a));
            moved = if length == 0.0 { 0.0 } else { length / size };
            now = next;
            iterations += 1;
        }
        (now, iterations, moved)
    }
}

/// The nearest point whose sizes add up to at most `radius`.
fn project(row: &mut [f64], radius: f64) {
    let total: f64 = row.iter().map(|x| x.abs()).sum();
    if total <= radius {
        return;
    }
    let mut sorted: Vec<f64> = row.iter().map(|x| x.abs()).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (mut sum, mut threshold) = (0.0, 0.0);
    for (place, &size) in sorted.iter().enumerate() {
        sum += size;
        let candidate = (sum - radius) / (place + 1) as f64;
        if size > candidate {
            threshold = candidate;
        }
    }
    for x in row {
        *x = x.signum() * (x.abs() - threshold).max(0.0);
    }
}

#[cfg(test)]
mod tests;
