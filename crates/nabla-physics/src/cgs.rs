//! Convergent graph solvers: what a networked system is like at rest, predicted for graphs that were never seen.
//!
//! A network gives each edge logits `a` and each node offsets `b`, which make [contracting maps](crate::contracting_map), one for
//! each of `H` heads; their fixed points, found by steps or directly, are decoded:
//!
//! ```text
//! (a, b) = encoder(graph, features of nodes, features of edges)      a: [edges, H], b: [nodes, H]
//! z_m* = γ A_m z_m* + b_m                                            for each head m; A_m from a, rows add up to at most 1
//! y_v = MLP(z*_v)      or, for a whole graph,      y = MLP(Σ_v z*_v)
//! ```
//!
//! The inner iteration cannot diverge, whatever the weights and the graph are. The gradient follows from the implicit function
//! theorem; no step is kept for it ([`fixed_point`](crate::fixed_point)).
//!
//! ```
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use nabla_grad::seeded_noise::SeededNoise;
//! use nabla_physics::cgs::CgsConfig;
//! use nabla_physics::graph::Graph;
//!
//! let device = Device::flex().autodiff();
//! // 3 numbers of each node, 1 of each edge, and 1 to be found in each node.
//! let model = CgsConfig::new([3, 1], 1).with_gamma(0.9).init(&device, &mut SeededNoise::new(1, 0))?;
//! let graph = Graph::undirected(4, &[[0, 1], [1, 2], [2, 3]])?;
//! let y = model.forward(&graph, Tensor::ones([4, 3], &device), Tensor::ones([6, 1], &device))?;
//! assert_eq!(y.dims(), [4, 1]);
//! let gradients = GradientsParams::from_grads(y.square().mean().backward(), &model);
//! assert!(gradients.len() > 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Park, Choo, Park, *Convergent Graph Solvers*, ICLR 2022, arXiv 2106.01680. The paper computes fixed points by matrix
//! inversion, its code by at most 50 steps ([`FixedPointSolver::OFFICIAL`]); here it is steps with a bound of their number, or
//! elimination. The code's maps go against the edges ([`Direction::Out`](crate::fixed_point::Direction::Out)); here they follow
//! them by default.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;

use crate::contracting_map::ContractingMapConfig;
use crate::fixed_point::{EdgeMap, FixedPoint, FixedPointError, FixedPointSolver};
use crate::graph::Graph;
use crate::message_passing::{Aggregator, Encoder, EncoderConfig, LEAKY_RELU, Perceptron};

/// A network on graphs.
pub trait GraphModel {
    /// What it predicts: a row for each node, or for each graph of a batch.
    ///
    /// - `nodes`: `[nodes, node features]`
    /// - `edges`: `[edges, edge features]`
    ///
    /// # Errors
    /// If the features don't fit the graph or the model, or there is no fixed point.
    fn predict(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError>;
}

/// Makes a [`Cgs`], and the networks that it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct CgsConfig {
    /// The widths of the features of nodes and edges.
    pub features: [usize; 2],
    /// How many numbers are predicted.
    pub outputs: usize,
    /// `H`; 16 by default.
    pub heads: usize,
    /// Layers of the encoder before its last one; none by default.
    pub hidden_layers: usize,
    /// The width of the features between layers; 32 by default.
    pub width: usize,
    /// Hidden widths of the networks in a layer; 64 by default.
    pub hidden: Vec<usize>,
    /// Of the encoder and of the decoder; [`LEAKY_RELU`] by default.
    pub activation: Activation,
    /// Of messages; a sum by default.
    pub aggregator: Aggregator,
    /// Hidden widths of the decoder; 64 and 32 by default.
    pub decoder: Vec<usize>,
    /// `γ` and the form of the maps; `γ` is 0.5 by default, and should be nearer 1 where effects reach far.
    pub map: ContractingMapConfig,
    /// How fixed points are found.
    pub solver: FixedPointSolver,
    /// Whether numbers of whole graphs are predicted, from the sum over their nodes, and not numbers of nodes; of nodes by
    /// default.
    pub of_graphs: bool,
}

impl CgsConfig {
    /// With the defaults, which are those of the paper's code for pore networks.
    ///
    /// - `features`: the widths of the features of nodes and edges
    /// - `outputs`: how many numbers are predicted for each node, or each graph
    pub fn new(features: [usize; 2], outputs: usize) -> Self {
        Self {
            features,
            outputs,
            heads: 16,
            hidden_layers: 0,
            width: 32,
            hidden: vec![64],
            activation: LEAKY_RELU,
            aggregator: Aggregator::Sum,
            decoder: vec![64, 32],
            map: ContractingMapConfig::default(),
            solver: FixedPointSolver::default(),
            of_graphs: false,
        }
    }

    /// That of the paper's code for pore networks: place, boundary and pressure of a pore; diameter, length and conductance of a
    /// throat.
    pub fn pore_networks() -> Self {
        Self::new([5, 3], 1)
    }

    /// That of the paper's code for value iteration: 64 heads, 4 layers.
    pub fn value_iteration() -> Self {
        Self {
            heads: 64,
            hidden_layers: 3,
            width: 64,
            hidden: vec![128],
            ..Self::new([1, 1], 1)
        }
    }

    /// That of the paper's code for the classification of graphs: 32 heads, 3 layers, means of messages.
    ///
    /// - `features`: the widths of the features of nodes and edges; what has no features on edges gets a zero
    pub fn classification(features: [usize; 2], classes: usize) -> Self {
        Self {
            heads: 32,
            hidden_layers: 2,
            width: 64,
            hidden: vec![128],
            activation: Activation::Silu,
            aggregator: Aggregator::Mean,
            of_graphs: true,
            ..Self::new(features, classes)
        }
    }

    /// Sets `γ`, in (0, 1).
    #[must_use]
    pub fn with_gamma(mut self, gamma: f64) -> Self {
        self.map.gamma = gamma;
        self
    }

    /// Sets the number of heads.
    #[must_use]
    pub fn with_heads(mut self, heads: usize) -> Self {
        self.heads = heads;
        self
    }

    /// Sets how many layers of the encoder come before its last one.
    #[must_use]
    pub fn with_hidden_layers(mut self, layers: usize) -> Self {
        self.hidden_layers = layers;
        self
    }

    /// Sets the form of the maps.
    #[must_use]
    pub fn with_map(mut self, map: ContractingMapConfig) -> Self {
        self.map = map;
        self
    }

    /// Sets how fixed points are found.
    #[must_use]
    pub fn with_solver(mut self, solver: FixedPointSolver) -> Self {
        self.solver = solver;
        self
    }

    /// Sets whether numbers of whole graphs are predicted.
    #[must_use]
    pub fn with_of_graphs(mut self, of_graphs: bool) -> Self {
        self.of_graphs = of_graphs;
        self
    }

    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("number of outputs", self.outputs, 1)?;
        range::at_least("number of heads", self.heads, 1)?;
        self.map.validate()?;
        self.solver.validate()
    }

    /// The encoder, with as many outputs as heads on nodes and edges.
    pub(crate) fn encoder(
        &self,
        device: &Device,
        draws: &mut SeededNoise,
    ) -> Result<Encoder, OutOfRange> {
        let config = EncoderConfig {
            inputs: self.features,
            outputs: [self.heads; 2],
            hidden_layers: self.hidden_layers,
            width: self.width,
            hidden: self.hidden.clone(),
            activation: self.activation,
            aggregator: self.aggregator,
        };
        config.init(device, draws)
    }

    /// What makes predictions of as many numbers as heads.
    pub(crate) fn read_out(
        &self,
        device: &Device,
        draws: &mut SeededNoise,
    ) -> Result<ReadOut, OutOfRange> {
        let mut widths = vec![self.heads];
        widths.extend(&self.decoder);
        widths.push(self.outputs);
        Ok(ReadOut {
            decoder: Perceptron::new(&widths, self.activation, false, device, draws)?,
            of_graphs: self.of_graphs,
        })
    }

    /// The model.
    ///
    /// - `draws`: of the weights; the same draws give the same bits
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn init(&self, device: &Device, draws: &mut SeededNoise) -> Result<Cgs, OutOfRange> {
        self.validate()?;
        Ok(Cgs {
            encoder: self.encoder(device, draws)?,
            read_out: self.read_out(device, draws)?,
            map: self.map,
            solver: self.solver,
        })
    }
}

/// The model; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct Cgs {
    encoder: Encoder,
    read_out: ReadOut,
    #[module(skip)]
    map: ContractingMapConfig,
    #[module(skip)]
    solver: FixedPointSolver,
}

impl Cgs {
    /// What the encoder gives: logits `[edges, heads]` and offsets `[nodes, heads]`.
    ///
    /// # Errors
    /// If the features don't fit the graph or the model.
    pub fn encode(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<(Tensor<2>, Tensor<2>), FixedPointError> {
        let (offsets, logits) = self.encoder.forward(graph, nodes, edges)?;
        Ok((logits, offsets))
    }

    /// The contracting maps of a graph.
    ///
    /// # Errors
    /// If the features don't fit the graph or the model.
    pub fn map(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<EdgeMap, FixedPointError> {
        let (logits, offsets) = self.encode(graph, nodes, edges)?;
        self.map.map(graph, logits, offsets)
    }

    /// The fixed points of a graph, `[nodes, heads]`, and what they took.
    ///
    /// # Errors
    /// If the features don't fit the graph or the model, or are not finite.
    pub fn fixed_point(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<FixedPoint, FixedPointError> {
        self.map(graph, nodes, edges)?.solve(&self.solver)
    }

    /// From fixed points, `[nodes, heads]`, to `[nodes or graphs, outputs]`.
    ///
    /// # Errors
    /// If there is another number of nodes or heads.
    pub fn decode(&self, graph: &Graph, z: Tensor<2>) -> Result<Tensor<2>, FixedPointError> {
        self.read_out.forward(graph, z)
    }

    /// The same weights with fixed points found in another way.
    #[must_use]
    pub fn with_solver(mut self, solver: FixedPointSolver) -> Self {
        self.solver = solver;
        self
    }

    /// `[nodes or graphs, outputs]`.
    ///
    /// - `nodes`: `[nodes, node features]`
    /// - `edges`: `[edges, edge features]`
    ///
    /// # Errors
    /// If the features don't fit the graph or the model, or are not finite.
    pub fn forward(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError> {
        let found = self.fixed_point(graph, nodes, edges)?;
        self.decode(graph, found.z)
    }
}

impl GraphModel for Cgs {
    fn predict(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError> {
        self.forward(graph, nodes, edges)
    }
}

/// The same encoder and decoder without the fixed point between them: a plain network of as many layers and parameters.
#[derive(Module, Debug)]
pub struct StackedMessagePassing {
    encoder: Encoder,
    read_out: ReadOut,
}

impl StackedMessagePassing {
    /// - `config`: its maps and solver are of no use
    /// - `draws`: of the weights
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn new(
        config: &CgsConfig,
        device: &Device,
        draws: &mut SeededNoise,
    ) -> Result<Self, OutOfRange> {
        config.validate()?;
        Ok(Self {
            encoder: config.encoder(device, draws)?,
            read_out: config.read_out(device, draws)?,
        })
    }
}

impl GraphModel for StackedMessagePassing {
    fn predict(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError> {
        let (found, _) = self.encoder.forward(graph, nodes, edges)?;
        self.read_out.forward(graph, found)
    }
}

/// A network that makes predictions of the states of nodes, or of their sums over graphs.
#[derive(Module, Debug)]
pub(crate) struct ReadOut {
    decoder: Perceptron,
    #[module(skip)]
    of_graphs: bool,
}

impl ReadOut {
    /// - `states`: `[nodes, heads]`
    /// - returns `[nodes or graphs, outputs]`
    pub(crate) fn forward(
        &self,
        graph: &Graph,
        states: Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError> {
        graph.check_nodes("states", states.dims()[0])?;
        let states = match self.of_graphs {
            true => graph.by_graph().sum(states)?,
            false => states,
        };
        Ok(self.decoder.forward(states)?)
    }
}

#[cfg(test)]
mod tests;
