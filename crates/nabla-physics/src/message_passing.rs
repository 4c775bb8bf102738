//! A layer that passes messages along the edges of a graph, and the networks that it is made of.
//!
//! With the features `h_v` of nodes and `h_e` of edges,
//!
//! ```text
//! m_e = [h_e, h_s(e), h_d(e)]
//! h'_e = MLP_e(m_e)
//! α_e = softmax over the edges with the same target of MLP_a(m_e)      without attention: 1
//! M_v = sum, mean or maximum over the edges that end in v of α_e h'_e
//! h'_v = MLP_n([M_v, h_v])
//! ```
//!
//! In a [`Perceptron`] of such a layer also the last linear map is followed by the activation.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_grad::seeded_noise::SeededNoise;
//! use nabla_physics::graph::Graph;
//! use nabla_physics::message_passing::MessagePassingConfig;
//!
//! let device = Device::flex();
//! let layer = MessagePassingConfig::new([2, 1], [8, 4]).init(&device, &mut SeededNoise::new(1, 0))?;
//! let graph = Graph::new(3, vec![0, 2], vec![1, 1])?;
//! let (nodes, edges) = layer.forward(&graph, Tensor::ones([3, 2], &device), Tensor::ones([2, 1], &device))?;
//! assert_eq!((nodes.dims(), edges.dims()), ([3, 8], [2, 4]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: the encoder of Park, Choo, Park, *Convergent Graph Solvers*, 2021, arXiv 2106.01680, in its code.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;
use nabla_kernels::linear::linear;
use rand::RngExt;

use crate::graph::{Graph, GraphError, columns};

/// `x`, or a hundredth of it where it is negative.
pub const LEAKY_RELU: Activation = Activation::LeakyRelu { slope: 0.01 };

/// Linear layers with activations between them.
#[derive(Module, Debug)]
pub struct Perceptron {
    layers: Vec<Linear>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    activated_end: bool,
}

impl Perceptron {
    /// Layers of these widths. Weights and biases are uniform within `1/√inputs`, as PyTorch draws them.
    ///
    /// - `widths`: of the input, between the layers and of the output
    /// - `activated_end`: whether the activation follows the last layer too
    ///
    /// # Errors
    /// If there are fewer than two widths, or one is 0.
    pub fn new(
        widths: &[usize],
        activation: Activation,
        activated_end: bool,
        device: &Device,
        draws: &mut SeededNoise,
    ) -> Result<Self, OutOfRange> {
        range::at_least("number of widths of a network", widths.len(), 2)?;
        for &width in widths {
            range::at_least("width of a layer", width, 1)?;
        }
        let layers = widths.windows(2).map(|pair| {
            let bound = 1.0 / (pair[0] as f64).sqrt();
            let mut uniform = |count: usize| -> Vec<f32> {
                let numbers = (0..count).map(|_| bound * (2.0 * draws.random::<f64>() - 1.0));
                numbers.map(|x| x as f32).collect()
            };
            let weight = TensorData::new(uniform(pair[0] * pair[1]), [pair[0], pair[1]]);
            let bias = TensorData::new(uniform(pair[1]), [pair[1]]);
            Linear {
                weight: Param::from_tensor(Tensor::from_data(weight, device)),
                bias: Some(Param::from_tensor(Tensor::from_data(bias, device))),
            }
        });
        Ok(Self {
            layers: layers.collect(),
            activation,
            activated_end,
        })
    }

    /// The width of the input.
    pub fn inputs(&self) -> usize {
        self.layers[0].weight.dims()[0]
    }

    /// - `x`: `[rows, inputs]`
    /// - returns `[rows, outputs]`
    ///
    /// # Errors
    /// If rows have another width.
    pub fn forward(&self, x: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        columns("the inputs of a network", x.dims()[1], self.inputs())?;
        let mut x = x;
        for (place, layer) in self.layers.iter().enumerate() {
            if x.dims()[0] == 0 {
                let width = layer.weight.dims()[1];
                x = Tensor::zeros([0, width], (&x.device(), x.dtype()));
                continue;
            }
            x = linear(layer, x);
            if self.activated_end || place + 1 < self.layers.len() {
                x = self.activation.forward(x);
            }
        }
        Ok(x)
    }
}

/// How the messages to a node become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregator {
    /// Their sum. The default.
    #[default]
    Sum,
    /// Their mean.
    Mean,
    /// The greatest number of each column.
    Max,
}

impl Aggregator {
    /// - `messages`: `[edges, width]`
    /// - returns `[nodes, width]`, by target
    ///
    /// # Errors
    /// If there is not a message for each edge.
    pub fn of(self, graph: &Graph, messages: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        let by = graph.by_target();
        match self {
            Self::Sum => by.sum(messages),
            Self::Mean => by.mean(messages),
            Self::Max => by.max(messages),
        }
    }
}

/// Makes a [`MessagePassing`].
#[derive(Clone, Debug, PartialEq)]
pub struct MessagePassingConfig {
    /// The widths of the features of nodes and edges.
    pub inputs: [usize; 2],
    /// Their widths after the layer.
    pub outputs: [usize; 2],
    /// Hidden widths of the three networks; 64 by default.
    pub hidden: Vec<usize>,
    /// [`LEAKY_RELU`] by default.
    pub activation: Activation,
    /// A sum by default.
    pub aggregator: Aggregator,
    /// Whether messages have weights that add up to 1; they have by default.
    pub attention: bool,
}

impl MessagePassingConfig {
    /// With the defaults.
    ///
    /// - `inputs`, `outputs`: the widths of the features of nodes and edges
    pub fn new(inputs: [usize; 2], outputs: [usize; 2]) -> Self {
        Self {
            inputs,
            outputs,
            hidden: vec![64],
            activation: LEAKY_RELU,
            aggregator: Aggregator::default(),
            attention: true,
        }
    }

    /// The layer.
    ///
    /// - `draws`: of its weights; the same draws give the same bits
    ///
    /// # Errors
    /// If a width is 0.
    pub fn init(
        &self,
        device: &Device,
        draws: &mut SeededNoise,
    ) -> Result<MessagePassing, OutOfRange> {
        let ([nodes, edges], [node_outputs, edge_outputs]) = (self.inputs, self.outputs);
        range::at_least("width of the features of nodes", nodes, 1)?;
        range::at_least("width of the features of edges", edges, 1)?;
        let mut network = |input: usize, output: usize| {
            let mut widths = vec![input];
            widths.extend(&self.hidden);
            widths.push(output);
            Perceptron::new(&widths, self.activation, true, device, draws)
        };
        let message = edges + 2 * nodes;
        Ok(MessagePassing {
            by_edge: network(message, edge_outputs)?,
            attention: match self.attention {
                true => Some(network(message, 1)?),
                false => None,
            },
            by_node: network(edge_outputs + nodes, node_outputs)?,
            aggregator: self.aggregator,
        })
    }
}

/// The layer; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct MessagePassing {
    by_edge: Perceptron,
    attention: Option<Perceptron>,
    by_node: Perceptron,
    #[module(skip)]
    aggregator: Aggregator,
}

impl MessagePassing {
    /// The features of nodes and edges after the layer.
    ///
    /// - `nodes`: `[nodes, node features]`
    /// - `edges`: `[edges, edge features]`
    ///
    /// # Errors
    /// If the features don't fit the graph or the layer.
    pub fn forward(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<(Tensor<2>, Tensor<2>), GraphError> {
        graph.check_nodes("the features of nodes", nodes.dims()[0])?;
        graph.check_edges("the features of edges", edges.dims()[0])?;
        let sources = graph.by_source().spread(nodes.clone())?;
        let targets = graph.by_target().spread(nodes.clone())?;
        let message = Tensor::cat(vec![edges, sources, targets], 1); // [edges, edge + 2 node features]
        let passed = self.by_edge.forward(message.clone())?;
        let weighted = match &self.attention {
            Some(attention) => {
                let logits = attention.forward(message)?; // [edges, 1]
                passed.clone() * graph.by_target().softmax(logits)?
            }
            None => passed.clone(),
        };
        let gathered = self.aggregator.of(graph, weighted)?;
        let found = self
            .by_node
            .forward(Tensor::cat(vec![gathered, nodes], 1))?;
        Ok((found, passed))
    }
}

/// Makes an [`Encoder`].
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The widths of the features of nodes and edges.
    pub inputs: [usize; 2],
    /// Their widths at the end.
    pub outputs: [usize; 2],
    /// How many layers come before the last one.
    pub hidden_layers: usize,
    /// The width of both after each of these.
    pub width: usize,
    /// Hidden widths of the networks of a layer.
    pub hidden: Vec<usize>,
    /// Of these networks.
    pub activation: Activation,
    /// Of messages.
    pub aggregator: Aggregator,
}

impl EncoderConfig {
    /// The layers.
    ///
    /// - `draws`: of their weights
    ///
    /// # Errors
    /// If a width is 0.
    pub fn init(&self, device: &Device, draws: &mut SeededNoise) -> Result<Encoder, OutOfRange> {
        let mut inputs = self.inputs;
        let mut layers = Vec::with_capacity(self.hidden_layers + 1);
        for place in 0..=self.hidden_layers {
            let outputs = match place < self.hidden_layers {
                true => [self.width; 2],
                false => self.outputs,
            };
            let config = MessagePassingConfig {
                inputs,
                outputs,
                hidden: self.hidden.clone(),
                activation: self.activation,
                aggregator: self.aggregator,
                attention: true,
            };
            layers.push(config.init(device, draws)?);
            inputs = outputs;
        }
        Ok(Encoder { layers })
    }
}

/// Layers of message passing, one after the other.
#[derive(Module, Debug)]
pub struct Encoder {
    layers: Vec<MessagePassing>,
}

impl Encoder {
    /// The features of nodes and edges after all layers.
    ///
    /// - `nodes`: `[nodes, node features]`
    /// - `edges`: `[edges, edge features]`
    ///
    /// # Errors
    /// If the features don't fit the graph or the first layer.
    pub fn forward(
        &self,
        graph: &Graph,
        nodes: Tensor<2>,
        edges: Tensor<2>,
    ) -> Result<(Tensor<2>, Tensor<2>), GraphError> {
        let mut features = (nodes, edges);
        for layer in &self.layers {
            features = layer.forward(graph, features.0, features.1)?;
        }
        Ok(features)
    }
}

#[cfg(test)]
mod tests;
