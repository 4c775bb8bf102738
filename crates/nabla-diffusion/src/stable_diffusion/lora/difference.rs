//! Full changes: a file has the difference of a weight or a bias itself, of linear layers and convolutions
//! (`diff`, `diff_b`) and of norms (`w_norm`, `b_norm`).
//!
//! Source: LyCORIS (Yeh et al., 2023, arXiv 2309.14859), its algorithms `full` and `norm`.

use super::matrices::Values;

/// `factor · ΔW`.
pub(super) fn delta((values, _): &Values, factor: f64) -> Vec<f32> {
    let factor = factor as f32;
    values.iter().map(|value| factor * value).collect()
}
