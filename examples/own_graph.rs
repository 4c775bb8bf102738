//! What a network of one's own is like at rest, learnt from examples and predicted for networks that were never seen.
//!
//! Here it is heat: nodes of a random tree lose heat to the air and pass it on along its edges. Sources heat some of them, and
//! the temperatures at rest are the targets. A convergent graph solver needs no simulation of the way there.

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use nabla::grad::SeededNoise;
use nabla::physics::cgs::CgsConfig;
use nabla::physics::graph::Graph;
use nabla::physics::graph_example::{GraphBatch, GraphExample};
use rand::RngExt;

/// `T_v = (q_v + Σ_u c_uv T_u) / (½ + Σ_u c_uv)`, by steps until they come to rest.
fn heated_tree(
    nodes: usize,
    noise: &mut SeededNoise,
) -> Result<GraphExample, Box<dyn std::error::Error>> {
    let pairs: Vec<[usize; 2]> = (1..nodes)
        .map(|node| [noise.random_range(0..node), node])
        .collect();
    let conductances: Vec<f64> = pairs.iter().map(|_| noise.random_range(0.5..2.0)).collect();
    let sources: Vec<f64> = (0..nodes)
        .map(|_| f64::from(u8::from(noise.random_bool(0.2))))
        .collect();
    let mut temperatures = vec![0.0; nodes];
    for _ in 0..500 {
        let mut inflow = sources.clone();
        let mut weight = vec![0.5; nodes];
        for (&[a, b], c) in pairs.iter().zip(&conductances) {
            inflow[a] += c * temperatures[b];
            inflow[b] += c * temperatures[a];
            weight[a] += c;
            weight[b] += c;
        }
        for ((t, inflow), weight) in temperatures.iter_mut().zip(inflow).zip(weight) {
            *t = inflow / weight;
        }
    }
    let column = |values: &[f64]| values.iter().map(|&x| vec![x]).collect::<Vec<_>>();
    // Two edges for each pair: first all as they are, then all the other way round.
    let edges = [column(&conductances), column(&conductances)].concat();
    let graph = Graph::undirected(nodes, &pairs)?;
    Ok(GraphExample::new(
        graph,
        column(&sources),
        edges,
        column(&temperatures),
    )?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let mut noise = SeededNoise::new(7, 0);
    let mut draw = |count: usize, nodes: usize, device: &Device| {
        let trees = (0..count).map(|_| heated_tree(nodes, &mut noise));
        let trees = trees.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Box<dyn std::error::Error>>(GraphBatch::new(&trees, device)?)
    };
    let train = draw(32, 15, &device)?;
    let test = draw(32, 40, &Device::flex())?; // larger than any tree of the training
    // Heat reaches far: γ near 1.
    let mut model = CgsConfig::new([1, 1], 1)
        .with_gamma(0.9)
        .init(&device, &mut SeededNoise::new(7, 1))?;
    let mut optimizer = AdamConfig::new().init();
    for _ in 0..300 {
        let found = model.forward(&train.graph, train.nodes.clone(), train.edges.clone())?;
        let loss = (found - train.targets.clone()).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(3e-3, model, gradients);
    }
    let model = model.valid();
    let solved = model.fixed_point(&test.graph, test.nodes.clone(), test.edges.clone())?;
    println!(
        "{} steps to the fixed points of 32 unseen trees",
        solved.iterations
    );
    let found = model.decode(&test.graph, solved.z)?;
    let mean = |x: Tensor<2>| x.square().mean().into_scalar::<f32>();
    let around = test.targets.clone() - test.targets.clone().mean().unsqueeze();
    let r2 = 1.0 - mean(found - test.targets) / mean(around);
    println!("R² = {r2:.3}");
    assert!(r2 > 0.8);
    Ok(())
}
