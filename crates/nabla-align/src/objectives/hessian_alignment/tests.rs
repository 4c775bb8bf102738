use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_grad::seeded_noise::SeededNoise;

use super::*;
use crate::objectives::reference::gradients;

fn values(tensor: Tensor<1>) -> f64 {
    tensor.into_data().try_to_vec::<f64>().unwrap()[0]
}

/// Two logits on examples drawn from a stream, in 64 bits.
fn stats(theta: &[f64], seed: u64, device: &Device) -> HeadStats {
    let drawn = SeededNoise::new(seed, 0).normal_values(40);
    let drawn: Vec<f64> = drawn.into_iter().map(f64::from).collect();
    let z = TensorData::new(drawn, [20, 2]);
    let z = Tensor::<2>::from_data(z, (device, DType::F64));
    let labels: Vec<f64> = (0..20)
        .flat_map(|i| [f64::from(i % 3 == 0), f64::from(i % 3 != 0)])
        .collect();
    let y = Tensor::<2>::from_data(TensorData::new(labels, [20, 2]), (device, DType::F64));
    let theta = TensorData::new(theta.to_vec(), [2, 3]);
    let theta = Tensor::<2>::from_data(theta, (device, DType::F64));
    let logits = z
        .clone()
        .matmul(theta.clone().slice([0..2, 0..2]).transpose())
        + theta.slice([0..2, 2..3]).transpose();
    HeadStats::linear(z, logits, y).unwrap()
}

const THETA: [f64; 6] = [0.3, -0.2, 0.1, -0.5, 0.4, 0.2];

#[test]
fn identical_domains_have_no_penalty() {
    let device = Device::flex();
    for config in [
        HessianAlignmentConfig::hgp(),
        HessianAlignmentConfig::hutchinson(),
    ] {
        let one = stats(&THETA, 1, &device);
        let found = penalty(&[one.clone(), one], &config, &mut SeededNoise::new(0, 0)).unwrap();
        assert_eq!(values(found), 0.0);
    }
}

/// The penalty of the domains is the norm of differences of matrices that are formed.
#[test]
fn the_penalty_is_that_of_the_whole_matrices() {
    let device = Device::flex();
    let domains = [stats(&THETA, 1, &device), stats(&THETA, 2, &device)];
    let g: Vec<Tensor<2>> = domains
        .iter()
        .map(|d| d.gradient().reshape([6, 1]))
        .collect();
    let h: Vec<Tensor<2>> = domains.iter().map(HeadStats::hessian).collect();
    let mean = |a: &Tensor<2>, b: &Tensor<2>| (a.clone() + b.clone()) * 0.5;
    let square = |t: Tensor<2>| values(t.square().sum());
    let (centre, curvature) = (mean(&g[0], &g[1]), mean(&h[0], &h[1]));
    let middle = curvature.matmul(centre.clone()); // H̄ ḡ
    let mut expected = 0.0;
    for (g, h) in g.iter().zip(&h) {
        expected += 0.5 * 3.0 * square(h.clone().matmul(g.clone()) - middle.clone());
        expected += 0.5 * 2.0 * square(g.clone() - centre.clone());
    }
    let config = HessianAlignmentConfig::hgp().with_weights(3.0, 2.0);
    let mut noise = SeededNoise::new(0, 0);
    let found = values(penalty(&domains, &config, &mut noise).unwrap());
    assert!(
        (found / expected - 1.0).abs() < 1e-12,
        "{found} for {expected}"
    );
    let summed = HessianAlignmentConfig {
        sum: true,
        ..config
    };
    let twice = values(penalty(&domains, &summed, &mut noise).unwrap());
    assert!((twice / expected - 2.0).abs() < 1e-12);
}

/// The distance and the bound of a pair whose Hessians are known: one example each, at weights 0, has
/// `H = (I − 11ᵀ/2)/2 ⊗ z̃z̃ᵀ`, so that `λ_max(H_T − H_S)` is that of `(z̃_T z̃_Tᵀ − z̃_S z̃_Sᵀ)/2`.
#[test]
fn distances_and_bounds_are_those_of_a_pair_that_is_known() {
    let one = |z: f64| {
        let tensor = |values: Vec<f64>, shape: [usize; 2]| {
            Tensor::<2>::from_data(
                TensorData::new(values, shape),
                (&Device::flex(), DType::F64),
            )
        };
        let features = tensor(vec![z], [1, 1]);
        HeadStats::linear(
            features,
            tensor(vec![0.0; 2], [1, 2]),
            tensor(vec![1.0, 0.0], [1, 2]),
        )
        .unwrap()
    };
    let (source, target) = (one(1.0), one(2.0));
    // [[3, 1], [1, 0]]/2 has the eigenvalues (3 ± √13)/4.
    let largest = (3.0 + 13.0_f64.sqrt()) / 4.0;
    let found = transfer_bound(&source, &target, 0.1).unwrap();
    assert!((found - 0.005 * largest).abs() < 1e-12);
    let back = transfer_bound(&target, &source, 0.1).unwrap();
    assert!((back - 0.005 * (13.0_f64.sqrt() - 3.0) / 4.0).abs() < 1e-12);
    // The factor of the classes has norm 1.
    let distance = hessian_distance(&source, &target).unwrap();
    assert!((distance - 11.0_f64.sqrt() / 2.0).abs() < 1e-12);
    assert_eq!(hessian_distance(&source, &source).unwrap(), 0.0);
    assert_eq!(gradient_distance(&source, &source).unwrap(), 0.0);
    assert!(
        transfer_bound(&source, &target, 0.0)
            .unwrap_err()
            .to_string()
            .contains("radius")
    );
}

/// The weight jumps at its step, and what the loss is divided by, too.
#[test]
fn the_loss_is_divided_by_a_weight_above_one() {
    let of = |config: HessianAlignmentConfig| {
        let mut objective = HessianAlignment::new(config);
        gradients(2, false, |step| objective.step(step))
    };
    let base = HessianAlignmentConfig::hgp().with_weights(1.0, 1.0);
    let plain = of(base.clone());
    let annealed = of(base.clone().with_anneal(1, 50.0));
    assert_eq!(plain[0], annealed[0]);
    let divided = of(base.clone().with_weights(50.0, 50.0));
    let ratio = divided[1].0 / annealed[1].0;
    assert!((ratio - 50.0).abs() < 1e-3, "{ratio}");
    for (a, b) in divided[1].1.iter().zip(&annealed[1].1) {
        assert!((a / 50.0 - b).abs() < 1e-5);
    }
    // The L2 norm is part of what is divided.
    let decayed = of(HessianAlignmentConfig {
        l2: 0.5,
        ..base.clone().with_anneal(1, 50.0)
    });
    let reference = crate::objectives::reference::reference();
    let model = crate::objectives::reference::Tiny::of(&reference, false);
    let layout = ParameterLayout::trainable(&model).unwrap();
    let weights = read(layout.flatten_parameters(&model).unwrap()).unwrap();
    for (i, divisor) in [(0, 1.0), (1, 50.0)] {
        for ((with, without), weight) in decayed[i].1.iter().zip(&annealed[i].1).zip(&weights) {
            assert!((with - without - weight / divisor).abs() < 1e-5);
        }
    }
}

/// With the centre that is not held fixed, HGP has another gradient, and the gradient's part alone has not.
#[test]
fn the_centre_matters_to_hgp_alone() {
    let of = |curvature: Curvature, fixed_centre: bool| {
        let base = HessianAlignmentConfig::hgp().with_weights(30.0, 2.0);
        let mut objective = HessianAlignment::new(HessianAlignmentConfig {
            curvature,
            fixed_centre,
            ..base
        });
        gradients(1, false, |step| objective.step(step)).remove(0).1
    };
    let differ = |curvature| {
        let (fixed, free) = (of(curvature, true), of(curvature, false));
        fixed
            .iter()
            .zip(&free)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    };
    assert!(differ(Curvature::Hgp) > 1e-3);
    assert!(differ(Curvature::Hutchinson) < 1e-5);
    assert!(differ(Curvature::None) < 1e-5);
}

/// Differences give what the closed form gives, for a linear last layer that is named as if it were another one.
#[test]
fn differences_agree_with_the_closed_form() {
    for (base, probes) in [
        (HessianAlignmentConfig::hgp(), None),
        (HessianAlignmentConfig::hutchinson(), Some(64)),
    ] {
        let base = base.with_weights(3.0, 2.0);
        let of = |config: HessianAlignmentConfig| {
            let mut objective = HessianAlignment::new(config);
            gradients(1, false, |step| objective.step(step)).remove(0)
        };
        let closed = of(base.clone());
        let head = Some("^output".to_owned());
        let (loss, gradient) = of(HessianAlignmentConfig {
            head,
            probes,
            ..base
        });
        let off = crate::objectives::reference::off(&gradient, &closed.1);
        // The probes' own noise is penalised, too.
        let tolerance = if probes.is_some() { 0.3 } else { 1e-2 };
        assert!(off < tolerance, "{off}");
        assert!(
            (loss / closed.0 - 1.0).abs() < tolerance / 2.0,
            "{loss} for {}",
            closed.0
        );
    }
}

#[test]
fn wrong_configurations_are_refused_in_one_sentence() {
    let told = |config: HessianAlignmentConfig| config.validate().unwrap_err().to_string();
    let base = HessianAlignmentConfig::hgp();
    assert!(told(base.clone().with_weights(-1.0, 0.0)).contains("alpha"));
    assert!(told(base.clone().with_probes(0)).contains("probes"));
    let device = Device::flex();
    let one = [stats(&THETA, 1, &device)];
    let error = penalty(&one, &base, &mut SeededNoise::new(0, 0)).unwrap_err();
    assert!(error.to_string().contains("at least two"));
    let head = Some("nothing".to_owned());
    let objective = HessianAlignment::new(HessianAlignmentConfig { head, ..base });
    let reference = crate::objectives::reference::reference();
    let model = crate::objectives::reference::Tiny::of(&reference, false);
    let plan = DomainPlan {
        batches: vec![2, 2],
        steps: 1,
        shape: None,
    };
    let error = objective.check(&model, &plan).unwrap_err().to_string();
    assert!(error.contains("they are: hidden.weight"), "{error}");
}
