//! A linear layer that sees the time, as the neural ODEs of the papers have it.

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::linear::linear;
use rand::RngExt;

/// Makes a [`TimeLinear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLinearConfig {
    /// The width of the input, without the time.
    pub input: usize,
    /// The width of the output.
    pub output: usize,
    /// Whether the layer sees the time.
    pub time: bool,
}

impl TimeLinearConfig {
    /// A layer that sees the time.
    pub fn new(input: usize, output: usize) -> Self {
        Self {
            input,
            output,
            time: true,
        }
    }

    /// With the initial values of a layer whose inputs include the time, uniform by Glorot and Bengio, 2010, and zeros for
    /// the bias.
    ///
    /// - `draws`: from which the values are drawn
    pub fn init(&self, device: &Device, draws: &mut SeededNoise) -> TimeLinear {
        let inputs = self.input + usize::from(self.time);
        let bound = (6.0 / (inputs + self.output) as f64).sqrt();
        let mut uniform = |count: usize| -> Vec<f32> {
            let numbers = (0..count).map(|_| bound * (2.0 * draws.random::<f64>() - 1.0));
            numbers.map(|x| x as f32).collect()
        };
        let weight = TensorData::new(uniform(self.input * self.output), [self.input, self.output]);
        let by_time = self.time.then(|| {
            let data = TensorData::new(uniform(self.output), [self.output]);
            Param::from_tensor(Tensor::from_data(data, device))
        });
        let zeros = Tensor::<1>::zeros([self.output], device);
        TimeLinear {
            linear: Linear {
                weight: Param::from_tensor(Tensor::from_data(weight, device)),
                bias: Some(Param::from_tensor(zeros)),
            },
            by_time,
        }
    }
}

/// `y = u W + t w + b`, the linear layer of `(u, t)`, or `y = u W + b` without the time.
#[derive(Module, Debug)]
pub struct TimeLinear {
    /// `W`, `[input, output]`, and `b`, `[output]`.
    pub linear: Linear,
    /// `w`, `[output]`; `None` without the time.
    pub by_time: Option<Param<Tensor<1>>>,
}

impl TimeLinear {
    /// - `u`: `[batch, input]`; `t`: `[1, 1]` or `[batch, 1]`
    /// - returns `[batch, output]`
    pub fn forward(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let Some(by_time) = &self.by_time else {
            return linear(&self.linear, u);
        };
        let by_time = by_time.val();
        let Some(bias) = &self.linear.bias else {
            return linear(&self.linear, u) + t * by_time.unsqueeze();
        };
        if t.dims()[0] > 1 {
            return linear(&self.linear, u) + t * by_time.unsqueeze();
        }
        // At one time, the time is a part of the bias, which costs nothing.
        let bias = bias.val() + by_time * t.reshape([1]);
        let now = Linear {
            weight: self.linear.weight.clone(),
            bias: Some(Param::initialized(ParamId::new(), bias)),
        };
        linear(&now, u)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn the_time_is_one_more_input() {
        let device = Device::flex();
        let mut draws = SeededNoise::new(4, 0);
        let layer = TimeLinearConfig::new(3, 2).init(&device, &mut draws);
        let u = Tensor::<2>::random([4, 3], Distribution::Default, &device);
        let weight = layer.linear.weight.val();
        let row = layer.by_time.as_ref().unwrap().val();
        let whole = Tensor::cat(vec![weight, row.unsqueeze()], 0);
        for rows in [1, 4] {
            let t = Tensor::<2>::random([rows, 1], Distribution::Default, &device);
            let both = Tensor::cat(vec![u.clone(), t.clone().expand([4, 1])], 1);
            let expected = both.matmul(whole.clone()).into_data();
            let found = layer.forward(u.clone(), t).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
        let blind = TimeLinear {
            by_time: None,
            ..layer
        };
        let [early, late] = [0.0, 5.0].map(|t| {
            let t = Tensor::<2>::full([1, 1], t, &device);
            blind.forward(u.clone(), t).into_data()
        });
        assert_eq!(early, late);
    }

    /// Uniform in `±√(6/(inputs + outputs))`, of which the time is an input; the same seed gives the same bits.
    #[test]
    fn initial_values_are_those_of_a_layer_of_one_more_input() {
        let device = Device::flex();
        let config = TimeLinearConfig::new(200, 99);
        let drawn = || config.init(&device, &mut SeededNoise::new(7, 0));
        let layer = drawn();
        let weight = layer.linear.weight.val();
        let bound = (6.0_f64 / 300.0).sqrt();
        let largest = weight.clone().abs().max().into_scalar::<f64>();
        assert!(largest <= bound && largest > 0.99 * bound);
        let variance = weight.clone().square().mean().into_scalar::<f64>();
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.03);
        assert_eq!(weight.into_data(), drawn().linear.weight.val().into_data());
        assert_eq!(
            layer.linear.bias.unwrap().val().sum().into_scalar::<f64>(),
            0.0
        );
    }
}
