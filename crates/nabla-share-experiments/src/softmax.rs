//! The probabilities of a softmax regression with ten classes; the weights of a feature follow each other.

use nabla_base::vector::add_scaled;

pub(crate) const CLASSES: usize = 10;

/// One per class.
pub(crate) fn scores(w: &[f64], row: &[f64]) -> [f64; CLASSES] {
    let mut scores = [0.0; CLASSES];
    for (x, w) in row.iter().zip(w.as_chunks::<CLASSES>().0) {
        add_scaled(&mut scores, *x, w);
    }
    scores
}

/// The class of the highest score.
pub(crate) fn best(scores: &[f64; CLASSES]) -> usize {
    let best = (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    best.unwrap_or_default()
}

pub(crate) fn probabilities(w: &[f64], row: &[f64]) -> [f64; CLASSES] {
    let scores = scores(w, row);
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares = scores.map(|score| (score - most).exp());
    let sum: f64 = shares.iter().sum();
    shares.map(|share| share / sum)
}
