//! IA³: a number for each channel, by which a layer's outputs or inputs grow.
//!
//! ```text
//! ΔW[o, i, …] = W[o, i, …] l[o]        or l[i], if the numbers are for the inputs
//! ```
//!
//! Source: Liu et al., *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
//! Learning*, 2022, arXiv 2205.05638; the layout is that of LyCORIS (`weight` and `on_input`).

use super::matrices::Values;

/// The change of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChannelScale<'a> {
    /// `l`.
    pub(super) scale: &'a Values,
    /// Whether its numbers are for the inputs.
    pub(super) on_input: bool,
}

impl ChannelScale<'_> {
    /// `factor · ΔW` for a tensor `weight` of `shape`.
    pub(super) fn delta(
        &self,
        shape: &[usize],
        weight: &[f32],
        factor: f64,
    ) -> Result<Vec<f32>, String> {
        let [output, input] = match shape {
            [output] => [*output, 1],
            [output, input, ..] => [*output, *input],
            [] => [1, 1],
        };
        let (scale, channels) = (&self.scale.0, if self.on_input { input } else { output });
        let kernel = weight.len() / (output * input).max(1);
        if scale.len() != channels || kernel == 0 {
            let (side, found) = (if self.on_input { "input" } else { "output" }, scale.len());
            return Err(format!(
                "which has the shape {shape:?}, by {found} numbers for its {side}s"
            ));
        }
        let factor = factor as f32;
        let changed = weight.iter().enumerate().map(|(at, value)| {
            let channel = match self.on_input {
                true => at / kernel % input,
                false => at / (kernel * input),
            };
            value * scale[channel] * factor
        });
        Ok(changed.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_outputs_or_inputs() {
        let scale = (vec![2.0, 3.0], vec![2]);
        let weight = [1.0, 1.0, 5.0, 5.0, 7.0, 7.0, 9.0, 9.0];
        let delta = |on_input, shape: &[usize]| {
            let change = ChannelScale {
                scale: &scale,
                on_input,
            };
            change.delta(shape, &weight, 1.0)
        };
        let outputs = [2.0, 2.0, 10.0, 10.0, 21.0, 21.0, 27.0, 27.0];
        assert_eq!(delta(false, &[2, 2, 2]).unwrap(), outputs);
        let inputs = [2.0, 2.0, 15.0, 15.0, 14.0, 14.0, 27.0, 27.0];
        assert_eq!(delta(true, &[2, 2, 2]).unwrap(), inputs);
        assert!(
            delta(true, &[2, 4])
                .unwrap_err()
                .contains("2 numbers for its inputs")
        );
    }
}
