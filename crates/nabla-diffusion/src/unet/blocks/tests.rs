//! Skipped blocks against networks in which these blocks do nothing.

use burn::module::{ModuleMapper, Param};
use burn::tensor::Int;

use super::*;
use crate::block_skipping::BlockSet;
use crate::rddm_sampler::seeded_weights;
use crate::seeded_noise::SeededNoise;
use crate::unet::{Decoder, UNet, UNetConfig};

/// Draws every weight, because the last convolutions of a fresh network's blocks are 0.
struct Scatter(SeededNoise);

impl ModuleMapper for Scatter {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| {
            let noise = self.0.normal(value.dims(), &value.device());
            value + noise * 0.1
        })
    }
}

/// Attention at one of two levels and in the middle; two decoders.
fn network() -> UNet {
    let device = Device::flex();
    let config = UNetConfig::new(2, 2)
        .with_base_channels(8)
        .with_multipliers(vec![1, 2])
        .with_blocks_per_level(1)
        .with_attention_levels(vec![1])
        .with_head_channels(8)
        .with_classes(3)
        .with_decoders(vec![Decoder::Skip, Decoder::NoSkip])
        .with_normalization(Normalization::Group { groups: 4 });
    let network = seeded_weights(1, &device, || config.init(&device)).unwrap();
    network.map(&mut Scatter(SeededNoise::new(2, 0)))
}

enum Block<'a> {
    Residual(&'a mut ResidualBlock),
    Attention(&'a mut SelfAttention),
}

/// The blocks in the order in which the module's documentation numbers them.
fn blocks(network: &mut UNet) -> Vec<Block<'_>> {
    fn level<'a>(
        blocks: &'a mut [ResidualBlock],
        attentions: &'a mut [SelfAttention],
    ) -> Vec<Block<'a>> {
        let mut attentions = attentions.iter_mut();
        let mut all = Vec::new();
        for block in blocks {
            all.push(Block::Residual(block));
            all.extend(attentions.next().map(Block::Attention));
        }
        all
    }
    let UNet {
        encoder,
        middle: [first, last],
        middle_attention,
        decoders,
        ..
    } = network;
    let mut all = Vec::new();
    for down in encoder {
        all.extend(level(&mut down.blocks, &mut down.attentions));
    }
    all.push(Block::Residual(first));
    all.extend(middle_attention.as_mut().map(Block::Attention));
    all.push(Block::Residual(last));
    for up in decoders.iter_mut().flat_map(|decoder| &mut decoder.levels) {
        all.extend(level(&mut up.blocks, &mut up.attentions));
    }
    all
}

/// Every number of the convolution is `value`.
fn fill(convolution: &mut Conv2d, value: f32) {
    let weight = convolution.weight.clone();
    convolution.weight = weight.map(|w| w.full_like(value));
    if let Some(bias) = convolution.bias.clone() {
        convolution.bias = Some(bias.map(|b| b.full_like(value)));
    }
}

/// The network in which some blocks add nothing to their shortcut.
fn without(network: &UNet, skipped: &BlockSet) -> UNet {
    let mut changed = network.clone();
    for (number, block) in blocks(&mut changed).into_iter().enumerate() {
        match block {
            _ if !skipped.contains(number) => {}
            Block::Residual(block) => fill(&mut block.conv_out, 0.0),
            Block::Attention(block) => fill(&mut block.projection, 0.0),
        }
    }
    changed
}

/// The network in which some blocks cannot be computed.
fn broken(network: &UNet, skipped: &BlockSet) -> UNet {
    let mut changed = network.clone();
    for (number, block) in blocks(&mut changed).into_iter().enumerate() {
        match block {
            _ if !skipped.contains(number) => {}
            Block::Residual(block) => {
                fill(&mut block.conv_in, f32::NAN);
                fill(&mut block.conv_out, f32::NAN);
            }
            Block::Attention(block) => {
                fill(&mut block.qkv, f32::NAN);
                fill(&mut block.projection, f32::NAN);
            }
        }
    }
    changed
}

fn outputs(network: &UNet, skipped: &BlockSet) -> Tensor<4> {
    let device = Device::flex();
    let x = SeededNoise::new(3, 0).normal([2, 2, 8, 6], &device);
    let times = Tensor::<1>::from_floats([30.0, 700.0], &device);
    let classes = Tensor::<1, Int>::from_ints([0, 2], &device);
    let outputs = network.forward_skipping(x, times, None, Some(classes), skipped);
    Tensor::cat(outputs, 1)
}

fn apart(a: Tensor<4>, b: Tensor<4>) -> f32 {
    (a - b).abs().max().into_scalar()
}

#[test]
fn a_skipped_block_is_one_that_adds_nothing_and_is_not_computed() {
    let network = network();
    let count = network.blocks();
    // 1 + 2 on the way down, 3 in the middle, and twice 4 + 2 on the way up.
    assert_eq!(count, 18);
    assert_eq!(blocks(&mut network.clone()).len(), count);
    let whole = outputs(&network, BlockSet::none());
    let sets = (0..count).map(|block| BlockSet::of([block]));
    let sets = sets.chain([
        BlockSet::of([0, 4, 7, 13]),
        BlockSet::of(0..count),
        BlockSet::of([1, 2, 17]),
    ]);
    for skipped in sets {
        let found = outputs(&network, &skipped);
        let expected = outputs(&without(&network, &skipped), BlockSet::none());
        let difference = apart(found.clone(), expected);
        assert!(difference < 1e-5, "{skipped}: {difference}");
        assert!(apart(found.clone(), whole.clone()) > 1e-3, "{skipped}");
        let broken = broken(&network, &skipped);
        assert_eq!(apart(outputs(&broken, &skipped), found), 0.0, "{skipped}");
        assert!(apart(outputs(&broken, BlockSet::none()), whole.clone()).is_nan());
    }
    // Numbers beyond the last block have no effect.
    let beyond = outputs(&network, &BlockSet::of([count, 99]));
    assert_eq!(apart(beyond, whole), 0.0);
}
