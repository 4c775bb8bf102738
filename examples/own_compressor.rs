//! Your own compressor, with error feedback, in a training: only the largest element of each block of the
//! gradient is sent.
//!
//! ```text
//! cargo run --release -p nabla --example own_compressor
//! ```

use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use nabla::grad::compressor::{Compressed, Compressor, CompressorError, Constant};
use nabla::grad::error_feedback::ErrorFeedback;
use nabla::grad::flat::ParameterLayout;
use nabla::grad::seeded_noise::SeededNoise;
use nabla::train::{
    DataConfig, GradientTransform, Gradients, MlpConfig, OptimizerConfig, TrainingConfig,
    TrainingError, he_normal,
};

/// The largest element of each block of `size` elements.
#[derive(Clone, Copy)]
struct BlockTop {
    size: usize,
}

impl Compressor for BlockTop {
    fn compress(
        &self,
        vector: &Tensor<1>,
        _noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let values = vector.clone().into_data().try_to_vec::<f32>();
        let values = values.map_err(|e| CompressorError::Device(format!("{e:?}")))?;
        let top = |(number, block): (usize, &[f32])| {
            let larger = |a: &usize, b: &usize| block[*a].abs().total_cmp(&block[*b].abs());
            let place = (0..block.len()).max_by(larger).unwrap_or(0);
            (number * self.size + place, block[place])
        };
        let (indices, kept): (Vec<usize>, Vec<f32>) =
            values.chunks(self.size).enumerate().map(top).unzip();
        Compressed::of_sparse(values.len(), &indices, &kept)
    }

    /// The square of the largest of `b` elements is at least a `b`-th of the sum of squares.
    fn constant(&self, dimension: usize) -> Constant {
        Constant::Contraction(1.0 / self.size.min(dimension).max(1) as f64)
    }
}

/// Replaces the gradient by the message that arrives.
struct Sent {
    worker: ErrorFeedback<BlockTop>,
    noise: SeededNoise,
}

impl<M: Module> GradientTransform<M> for Sent {
    fn name(&self) -> &str {
        "sent"
    }

    fn apply(&mut self, gradients: &mut Gradients<'_, M>) -> Result<(), TrainingError> {
        gradients.map_flat(|g| {
            let message = self.worker.compress(&g, &mut self.noise);
            Ok(message
                .map_err(TrainingError::task)?
                .decompress(&g.device()))
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(self.worker.to_bytes())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let restored = self.worker.clone().restored(state);
        self.worker = restored.map_err(TrainingError::task)?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let compressor = BlockTop { size: 16 };
    // Check its guarantee on one vector.
    let mut noise = SeededNoise::new(0, 0);
    let vector = noise.normal([1000], &Device::flex());
    let message = compressor.compress(&vector, &mut noise)?;
    let left = vector.clone() - message.decompress(&Device::flex());
    let share = |x: Tensor<1>| x.square().sum().into_scalar::<f32>();
    let (left, whole) = (share(left), share(vector));
    println!(
        "of a vector {:.0} % is left behind, {} of 32000 bits are sent",
        100.0 * left / whole,
        message.size_in_bits()
    );
    assert!(f64::from(left / whole) <= 1.0 - compressor.constant(1000).contraction());

    let data = DataConfig::default().open()?; // the built-in digits
    let device = Device::flex().autodiff();
    let config = TrainingConfig {
        epochs: 4,
        optimizer: OptimizerConfig {
            learning_rate: Some(0.1),
            ..OptimizerConfig::named("sgd")?
        },
        ..TrainingConfig::default()
    };
    let model = MlpConfig::default().init(data.shape.features(), data.classes.len(), &device)?;
    let model = he_normal(model, config.seed)?;
    let dimension = ParameterLayout::trainable(&model)?.total_length();
    let mut trainer = config
        .trainer(&data.training, &data.test, data.shape, model)?
        .with_transform(Sent {
            worker: ErrorFeedback::new(compressor, dimension),
            noise,
        });
    trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
    let accuracy = trainer.history().last().map_or(0.0, |e| e.test_accuracy);
    println!(
        "with a sixteenth of the gradient in a step, {:.1} % of the digits are right",
        100.0 * accuracy
    );
    assert!(accuracy > 0.8);
    Ok(())
}
