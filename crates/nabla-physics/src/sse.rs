//! Stochastic steady-state embedding: damped steps of a free network, to compare convergent graph solvers with.
//!
//! ```text
//! h_v ← (1 − α) h_v + α MLP([b_v, Σ_{e → v} [a_e, h_s(e)]])      from 0, a number of times
//! ```
//!
//! with `a` and `b` from the encoder. Nothing makes the steps come to an end. Only the last of them has a gradient.
//!
//! Source: Dai, Kozareva, Dai, Smola, Song, *Learning Steady-States of Iterative Algorithms over Graphs*, ICML 2018; number and
//! damping of steps are those with which convergent graph solvers are compared with it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;

use crate::cgs::{CgsConfig, GraphModel, ReadOut};
use crate::fixed_point::FixedPointError;
use crate::graph::{Graph, GraphError};
use crate::message_passing::{Aggregator, Encoder, Perceptron};

/// Makes an [`Sse`].
#[derive(Clone, Debug, PartialEq)]
pub struct SseConfig {
    /// Encoder and decoder; its maps and solver are of no use.
    pub network: CgsConfig,
    /// `α`, in (0, 1]; 0.1 by default.
    pub damping: f64,
    /// How many steps; 20 by default.
    pub steps: usize,
}

impl SseConfig {
    /// With the defaults.
    pub fn new(network: CgsConfig) -> Self {
        Self {
            network,
            damping: 0.1,
            steps: 20,
        }
    }

    /// The model.
    ///
    /// - `draws`: of the weights
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn init(&self, device: &Device, draws: &mut SeededNoise) -> Result<Sse, OutOfRange> {
        self.network.validate()?;
        let fits = self.damping > 0.0 && self.damping <= 1.0;
        range::check(fits, "damping of steps", self.damping, "in (0, 1]")?;
        range::at_least("number of steps", self.steps, 1)?;
        let (config, heads) = (&self.network, self.network.heads);
        let mut widths = vec![3 * heads];
        widths.extend(&config.hidden);
        widths.push(heads);
        Ok(Sse {
            encoder: config.encoder(device, draws)?,
            step: Perceptron::new(&widths, config.activation, false, device, draws)?,
            read_out: config.read_out(device, draws)?,
            config: self.clone(),
        })
    }
}

/// The model; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct Sse {
    encoder: Encoder,
    step: Perceptron,
    read_out: ReadOut,
    #[module(skip)]
    config: SseConfig,
}

impl Sse {
    /// One step, without damping.
    fn stepped(
        &self,
        graph: &Graph,
        (offsets, edges): (&Tensor<2>, &Tensor<2>),
        h: Tensor<2>,
    ) -> Result<Tensor<2>, GraphError> {
        let seen = graph.by_source().spread(h)?;
        let messages = Tensor::cat(vec![edges.clone(), seen], 1); // [edges, 2 heads]
        let gathered = Aggregator::Sum.of(graph, messages)?;
        self.step
            .forward(Tensor::cat(vec![offsets.clone(), gathered], 1))
    }
}

impl GraphModel for Sse {
    fn predict(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError> {
        let (offsets, edges) = self.encoder.forward(graph, nodes, edges)?;
        let alpha = self.config.damping;
        let mut h = offsets.zeros_like().detach();
        let constant = (&offsets.clone().detach(), &edges.clone().detach());
        for step in 0..self.config.steps {
            let last = step + 1 == self.config.steps;
            let features = if last { (&offsets, &edges) } else { constant };
            let next = self.stepped(graph, features, h.clone())?;
            h = h * (1.0 - alpha) + next * alpha;
            if !last {
                h = h.detach();
            }
        }
        self.read_out.forward(graph, h)
    }
}
