use super::*;
use crate::sparse_autoencoder::tests::{Reference, ids};

#[test]
fn loss_and_gradients_are_pytorchs() {
    let reference = Reference::read();
    let config = GatedSaeConfig { penalty: 0.7 };
    let mut sae = config.with(reference.dictionary()).unwrap();
    sae.magnitude = Param::from_tensor(reference.vector("magnitude"));
    sae.magnitude_bias = Param::from_tensor(reference.vector("magnitude_bias"));
    let mut parameters = ids(&sae.dictionary);
    parameters.extend([sae.magnitude.id, sae.magnitude_bias.id]);
    let objective = sae.objective(reference.batch(&[])).unwrap();
    let codes = objective.seen.codes.clone();
    reference.check("gated", &sae, objective, &parameters);
    // What is measured outside of training is what was trained.
    assert_eq!(sae.encode(reference.matrix("x"), None).unwrap(), codes);
}

#[test]
fn wrong_numbers_are_refused() {
    let dictionary = Reference::read().dictionary();
    for penalty in [-1.0, f64::NAN] {
        assert!(GatedSaeConfig { penalty }.with(dictionary.clone()).is_err());
    }
}
