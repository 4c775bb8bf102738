//! A linear layer that sees the time, as the neural ODEs of the papers have it.

use burn::config::Config;
use burn::module::{Module, Param, ParamId};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use nabla_kernels::linear::linear;

/// Makes a [`TimeLinear`].
#[derive(Config, Debug)]
pub struct TimeLinearConfig {
    /// The width of the input, without the time.
    pub input: usize,
    /// The width of the output.
    pub output: usize,
}

impl TimeLinearConfig {
    /// With the initial values of a layer of one more input, uniform by Glorot and Bengio, 2010.
    pub fn init(&self, device: &Device) -> TimeLinear {
        let whole = LinearConfig::new(self.input + 1, self.output)
            .with_initializer(Initializer::XavierUniform { gain: 1.0 })
            .init(device);
        let weight = whole.weight.val().inner();
        let tracked = |x: Tensor<2>| {
            if device.is_autodiff() {
                x.autodiff()
            } else {
                x
            }
        };
        let rows = |from: usize, to: usize| weight.clone().slice([from..to, 0..self.output]);
        let by_time = tracked(rows(self.input, self.input + 1)).reshape([self.output]);
        let zeros = Tensor::<1>::zeros([self.output], device);
        TimeLinear {
            linear: Linear {
                weight: Param::from_tensor(tracked(rows(0, self.input))),
                bias: Some(Param::from_tensor(zeros)),
            },
            by_time: Param::from_tensor(by_time.detach()),
        }
    }
}

/// `y = u W + t w + b`, the linear layer of `(u, t)`.
#[derive(Module, Debug)]
pub struct TimeLinear {
    /// `W`, `[input, output]`, and `b`, `[output]`.
    pub linear: Linear,
    /// `w`, `[output]`.
    pub by_time: Param<Tensor<1>>,
}

impl TimeLinear {
    /// - `u`: `[batch, input]`; `t`: `[1, 1]` or `[batch, 1]`
    /// - returns `[batch, output]`
    pub fn forward(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let by_time = self.by_time.val();
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
        let layer = TimeLinearConfig::new(3, 2).init(&device);
        let u = Tensor::<2>::random([4, 3], Distribution::Default, &device);
        let weight = layer.linear.weight.val();
        let whole = Tensor::cat(vec![weight, layer.by_time.val().unsqueeze()], 0);
        for rows in [1, 4] {
            let t = Tensor::<2>::random([rows, 1], Distribution::Default, &device);
            let both = Tensor::cat(vec![u.clone(), t.clone().expand([4, 1])], 1);
            let expected = both.matmul(whole.clone()).into_data();
            let found = layer.forward(u.clone(), t).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
    }
}
