//! DoRA: a change of the direction of a weight's vectors, and their magnitudes.
//!
//! ```text
//! W' = m (W + ΔW)/‖W + ΔW‖
//! ```
//!
//! where `ΔW` is any other change of this family. Two conventions are in use for what a vector is: the weights
//! of an output (PEFT's `lora_magnitude_vector`, and `dora_scale` of the shape `[output, 1 …]`) or those of an
//! input (`dora_scale` of the shape `[1, input …]`, older files of LyCORIS). The shape tells which.
//!
//! A strength `s` other than 1 leads a part of the way, `W + s (W' − W)`, as in ComfyUI. LyCORIS itself scales
//! only `m/‖W + ΔW‖ − 1` by `s`, so that its strength 0 still changes the weights.
//!
//! Source: Liu et al., *DoRA: Weight-Decomposed Low-Rank Adaptation*, 2024, arXiv 2402.09353.

use super::matrices::Values;

/// The magnitudes `m`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Magnitude<'a> {
    /// Their numbers.
    pub(super) values: &'a Values,
    /// Whether they are those of outputs whatever their shape, as PEFT's are.
    pub(super) of_outputs: bool,
}

impl Magnitude<'_> {
    /// `s (W' − W)`.
    ///
    /// - `delta`: `ΔW`
    pub(super) fn delta(
        &self,
        shape: &[usize],
        weight: &[f32],
        delta: &[f32],
        strength: f64,
    ) -> Result<Vec<f32>, String> {
        let (magnitudes, found) = self.values;
        let [output, input] = match shape {
            [output, input, ..] => [*output, *input],
            _ => [weight.len(), 1],
        };
        let of_outputs = self.of_outputs || found.first() == Some(&output);
        let of_inputs = !of_outputs && found.first() == Some(&1) && found.get(1) == Some(&input);
        let channels = if of_outputs { output } else { input };
        if magnitudes.len() != channels || !(of_outputs || of_inputs) || delta.len() != weight.len()
        {
            return Err(format!(
                "which has the shape {shape:?}, by magnitudes of {found:?}"
            ));
        }
        let kernel = weight.len() / (output * input).max(1);
        let channel = |at: usize| match of_outputs {
            true => at / (input * kernel),
            false => at / kernel % input,
        };
        let changed: Vec<f32> = weight.iter().zip(delta).map(|(w, d)| w + d).collect();
        let mut squares = vec![0.0f64; channels];
        for (at, value) in changed.iter().enumerate() {
            squares[channel(at)] += f64::from(*value).powi(2);
        }
        let scales: Vec<f64> = squares
            .iter()
            .zip(magnitudes)
            .map(|(square, &m)| f64::from(m) / (square.sqrt() + f64::from(f32::EPSILON)))
            .collect();
        let moved = changed.iter().zip(weight).enumerate();
        let moved = moved.map(|(at, (&changed, &weight))| {
            let whole = f64::from(changed) * scales[channel(at)] - f64::from(weight);
            (strength * whole) as f32
        });
        Ok(moved.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_get_their_magnitudes() {
        let (weight, delta) = ([3.0, 0.0, 0.0, 4.0], [0.0, 4.0, 3.0, 0.0]);
        // W + ΔW = [[3, 4], [3, 4]]: rows of norm 5, columns of norms √18 and √32.
        let moved = |values: &Values, of_outputs, strength| {
            let magnitude = Magnitude { values, of_outputs };
            let moved = magnitude.delta(&[2, 2], &weight, &delta, strength)?;
            let changed = moved.iter().zip(weight).map(|(d, w)| w + d);
            Ok::<Vec<f32>, String>(changed.collect())
        };
        let close = |found: Vec<f32>, expected: [f64; 4]| {
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-6,
                    "{found} {expected}"
                );
            }
        };
        let of_rows = [6.0, 8.0, 3.0, 4.0];
        close(
            moved(&(vec![10.0, 5.0], vec![2, 1]), false, 1.0).unwrap(),
            of_rows,
        );
        close(
            moved(&(vec![10.0, 5.0], vec![1, 2]), true, 1.0).unwrap(),
            of_rows,
        );
        let of_columns = [10.0 / 2.0f64.sqrt(), 5.0 / 2.0f64.sqrt()];
        let of_columns = [of_columns[0], of_columns[1], of_columns[0], of_columns[1]];
        close(
            moved(&(vec![10.0, 5.0], vec![1, 2]), false, 1.0).unwrap(),
            of_columns,
        );
        // Half the way, and none of it.
        let half = [4.5, 4.0, 1.5, 4.0];
        close(
            moved(&(vec![10.0, 5.0], vec![2, 1]), false, 0.5).unwrap(),
            half,
        );
        close(
            moved(&(vec![10.0, 5.0], vec![2, 1]), false, 0.0).unwrap(),
            weight.map(f64::from),
        );
        let refused = moved(&(vec![1.0], vec![1, 1]), false, 1.0).unwrap_err();
        assert!(refused.contains("magnitudes of [1, 1]"), "{refused}");
    }
}
