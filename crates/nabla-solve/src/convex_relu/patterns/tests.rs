use super::super::{DenseExamples, Loss};
use super::*;

fn problem(rows: &[Vec<f64>]) -> ConvexReluProblem {
    let labels: Vec<f64> = rows.iter().map(|_| 1.0).collect();
    let examples = DenseExamples::new(rows, &labels).unwrap();
    ConvexReluProblem::new(&examples, Loss::Squared, 0.1, false).unwrap()
}

fn gaussian(n: usize, d: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut noise = SeededNoise::new(seed, 0);
    (0..n).map(|_| direction(&mut noise, d)).collect()
}

fn set(patterns: &ActivationPatterns) -> HashSet<Vec<bool>> {
    (0..patterns.len())
        .map(|i| {
            (0..patterns.examples())
                .map(|k| patterns.active()[(k, i)] == 1.0)
                .collect()
        })
        .collect()
}

#[test]
fn general_position_has_as_many_patterns_as_cover_counted() {
    for (n, d) in [(1, 1), (7, 1), (9, 2), (12, 3), (9, 4), (7, 5), (3, 5)] {
        let problem = problem(&gaussian(n, d, 7));
        let patterns = ActivationPatterns::enumerate(&problem, 100_000).unwrap();
        let rank = d.min(n);
        assert_eq!(patterns.len() as f64, pattern_bound(n, rank), "{n} {d}");
        // And each is made by its direction.
        let gates = patterns.gates().unwrap();
        let product = problem.design() * gates;
        for i in 0..patterns.len() {
            for k in 0..n {
                let active = product[(k, i)] >= 0.0;
                assert_eq!(patterns.active()[(k, i)] == 1.0, active);
                assert!(product[(k, i)].abs() > 1e-9, "on a border");
            }
        }
    }
}

#[test]
fn degenerate_data_have_the_patterns_that_sampling_finds() {
    // Copies, opposite rows, zeros, and three rows in a plane of a rank of 3.
    let rows: Vec<Vec<f64>> = vec![
        vec![1.0, 0.0, 0.0],
        vec![0.0, 1.0, 0.0],
        vec![1.0, 1.0, 0.0],
        vec![-2.0, 0.0, 0.0],
        vec![0.0, 0.0, 1.0],
        vec![0.0, 0.0, 0.0],
        vec![1.0, 0.0, 0.0],
        vec![1.0, 1.0, 1.0],
    ];
    let problem = problem(&rows);
    let all = ActivationPatterns::enumerate(&problem, 1000).unwrap();
    let sampling = PatternSampling::new(10_000).with_max_draws(20_000);
    let sampled = ActivationPatterns::sample(&problem, sampling).unwrap();
    assert_eq!(set(&all), set(&sampled));
    assert!((all.len() as f64) < pattern_bound(8, 3));
    // The row of zeros is active in all.
    assert!((0..all.len()).all(|i| all.active()[(5, i)] == 1.0));
}

#[test]
fn a_low_rank_in_many_features_is_enumerated_in_its_row_space() {
    let factors = gaussian(10, 2, 1);
    let basis = gaussian(2, 6, 2);
    let rows: Vec<Vec<f64>> = factors
        .iter()
        .map(|f| {
            (0..6)
                .map(|j| f[0] * basis[0][j] + f[1] * basis[1][j])
                .collect()
        })
        .collect();
    let patterns = ActivationPatterns::enumerate(&problem(&rows), 1000).unwrap();
    assert_eq!(patterns.len(), 20);
}

#[test]
fn samples_differ_belong_to_the_arrangement_and_repeat_with_the_seed() {
    let problem = problem(&gaussian(12, 3, 5));
    let sampling = PatternSampling::new(40).with_seed(3);
    let patterns = ActivationPatterns::sample(&problem, sampling).unwrap();
    assert_eq!(patterns.len(), 40);
    let found = set(&patterns);
    assert_eq!(found.len(), 40);
    let all = set(&ActivationPatterns::enumerate(&problem, 1000).unwrap());
    assert!(found.is_subset(&all));
    let again = ActivationPatterns::sample(&problem, sampling).unwrap();
    assert_eq!(patterns, again);
    let other = ActivationPatterns::sample(&problem, sampling.with_seed(4)).unwrap();
    assert_ne!(patterns, other);
}

#[test]
fn perturbed_data_add_patterns() {
    let problem = problem(&gaussian(8, 2, 6));
    let sampling = PatternSampling::new(1000).with_max_draws(500);
    let plain = ActivationPatterns::sample_perturbed(&problem, sampling, 0.3, 1).unwrap();
    let moved = ActivationPatterns::sample_perturbed(&problem, sampling, 0.3, 4).unwrap();
    assert_eq!(
        set(&plain),
        set(&ActivationPatterns::sample(&problem, sampling).unwrap())
    );
    assert!(set(&plain).is_subset(&set(&moved)));
    assert!(moved.len() > plain.len());
    let none = ActivationPatterns::sample_perturbed(&problem, sampling, 0.0, 4).unwrap();
    assert_eq!(set(&none), set(&plain));
}

#[test]
fn the_sample_size_keeps_the_exact_binomial_tail() {
    // Campi and Garatti: the failure is at most Σ_{i<variables} C(N, i) ξ^i (1−ξ)^(N−i).
    for (n, violation, failure) in [(10, 0.1, 0.05), (40, 0.05, 1e-3), (5, 0.3, 0.2)] {
        let samples = sample_size(n, violation, failure).unwrap();
        let mut log_term = samples as f64 * (1.0f64 - violation).ln();
        let mut tail = 0.0;
        for i in 0..=n {
            tail += log_term.exp();
            log_term +=
                ((samples - i) as f64 / (i + 1) as f64).ln() + (violation / (1.0 - violation)).ln();
        }
        assert!(tail <= failure, "{tail} {failure}");
    }
    // For a mild confidence the first bound is the smaller one.
    assert_eq!(sample_size(1, 0.5, 0.9).unwrap(), 4);
    assert!(sample_size(10, 0.0, 0.1).is_err());
    assert!(sample_size(10, 0.1, 1.0).is_err());
}

#[test]
fn wrong_input_is_told() {
    let problem = problem(&gaussian(40, 8, 0));
    let error = ActivationPatterns::enumerate(&problem, 1000).unwrap_err();
    assert!(
        error.to_string().contains("sample patterns instead"),
        "{error}"
    );
    assert!(ActivationPatterns::sample(&problem, PatternSampling::new(0)).is_err());
    assert_eq!(
        ActivationPatterns::from_masks(&problem, &[vec![true; 3]]),
        Err(ConvexReluError::PatternLength {
            found: 3,
            expected: 40
        })
    );
    let none: [Vec<bool>; 0] = [];
    assert_eq!(
        ActivationPatterns::from_masks(&problem, &none),
        Err(ConvexReluError::NoPatterns)
    );
    assert!(ActivationPatterns::from_gates(&problem, &[[1.0]]).is_err());
    let sampling = PatternSampling::new(3);
    assert!(ActivationPatterns::sample_perturbed(&problem, sampling, f64::NAN, 2).is_err());
}
