use super::*;
use crate::sparse_autoencoder::read;
use crate::sparse_autoencoder::tests::{Reference, ids};

#[test]
fn loss_and_estimated_gradients_are_pytorchs() {
    let reference = Reference::read();
    let config = JumpReluSaeConfig {
        penalty: 0.05,
        threshold: 1e-3,
        bandwidth: 0.4,
    };
    let mut sae = config.with(reference.dictionary()).unwrap();
    sae.log_threshold = Param::from_tensor(reference.vector("log_threshold"));
    let mut parameters = ids(&sae.dictionary);
    parameters.push(sae.log_threshold.id);
    let objective = sae.objective(reference.batch(&[])).unwrap();
    let codes = objective.seen.codes.clone();
    reference.check("jump", &sae, objective, &parameters);
    assert_eq!(sae.encode(reference.matrix("x"), None).unwrap(), codes);
}

#[test]
fn thresholds_begin_at_the_papers_scale() {
    let sae = JumpReluSaeConfig::new(0.01).with(Reference::read().dictionary());
    let thresholds = read(sae.unwrap().log_threshold.val().exp()).unwrap();
    assert!(
        thresholds
            .iter()
            .all(|t| (t - 1e-3 * 6_f64.sqrt()).abs() < 1e-9)
    );
}

#[test]
fn wrong_numbers_are_refused() {
    let dictionary = Reference::read().dictionary();
    let with = |change: fn(&mut JumpReluSaeConfig)| {
        let mut config = JumpReluSaeConfig::new(0.01);
        change(&mut config);
        config.with(dictionary.clone()).is_err()
    };
    assert!(with(|c| c.penalty = -1.0));
    assert!(with(|c| c.threshold = 0.0));
    assert!(with(|c| c.bandwidth = f64::INFINITY));
}
