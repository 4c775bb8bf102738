use super::*;
use burn::tensor::{DType, Device};
use nabla_base::vector::dot;
use proptest::prelude::*;
use serde_json::Value;

use crate::seeded_noise::SeededNoise;

fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&Device::flex(), DType::F32))
}

fn vector(values: &[f64]) -> Tensor<1> {
    tensor(values, [values.len()])
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// All operators, on matrices.
fn operators() -> Vec<(&'static str, Box<dyn Proximal<2>>)> {
    vec![
        ("l1", Box::new(L1::new(0.7).unwrap())),
        ("squared_l2", Box::new(SquaredL2::new(0.7).unwrap())),
        ("elastic_net", Box::new(ElasticNet::new(0.7, 1.3).unwrap())),
        ("l2", Box::new(GroupL2::new(2.5, Views::Whole).unwrap())),
        (
            "l2_inside",
            Box::new(GroupL2::new(25.0, Views::Whole).unwrap()),
        ),
        (
            "group_columns",
            Box::new(GroupL2::new(1.5, Views::Each(1)).unwrap()),
        ),
        ("nuclear", Box::new(NuclearNorm::new(2.0).unwrap())),
        ("l2_ball", Box::new(L2Ball::new(2.0).unwrap())),
        ("l1_ball", Box::new(L1Ball::new(6.0).unwrap())),
        ("linf_ball", Box::new(LInfBall::new(0.6).unwrap())),
        ("box", Box::new(BoxConstraint::new(-0.25, 1.5).unwrap())),
        ("simplex", Box::new(Simplex::new(2.0).unwrap())),
    ]
}

#[test]
fn values_are_those_of_pyproximal() {
    let reference: Value = serde_json::from_str(include_str!(
        "../../tests/reference/proximal_reference.json"
    ))
    .unwrap();
    let numbers = |value: &Value| -> Vec<f64> {
        let values = value.as_array().unwrap().iter();
        values.map(|v| v.as_f64().unwrap()).collect()
    };
    let x = tensor(&numbers(&reference["x"]), [5, 7]);
    let mut compared = 0;
    for (name, operator) in operators() {
        let expected = &reference["prox"][name];
        let found = operator
            .prox(x.clone(), expected["step"].as_f64().unwrap())
            .unwrap();
        assert_eq!(found.dims(), [5, 7]);
        let found = host(&found).unwrap();
        let expected = numbers(&expected["result"]);
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() < 1e-6,
                "{name}, {index}: {found} {expected}"
            );
        }
        if let Some(expected) = reference["value"][name].as_f64() {
            let found = operator.value(&x).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-6, "{name}: {found}");
            compared += 1;
        }
    }
    assert_eq!(
        reference["prox"].as_object().unwrap().len(),
        operators().len()
    );
    assert_eq!(compared, reference["value"].as_object().unwrap().len());
}

#[test]
fn closed_forms() {
    let values = |x: Tensor<1>| x.into_data().try_to_vec::<f32>().unwrap();
    let x = || vector(&[3.0, -0.5, 0.0, -4.0]);
    let soft = L1::new(2.0).unwrap().prox(x(), 0.5).unwrap();
    assert_eq!(values(soft), [2.0, 0.0, 0.0, -3.0]);
    let shrunk = SquaredL2::new(2.0).unwrap().prox(x(), 0.5).unwrap();
    assert_eq!(values(shrunk), [1.5, -0.25, 0.0, -2.0]);
    let elastic = ElasticNet::new(2.0, 2.0).unwrap().prox(x(), 0.5).unwrap();
    assert_eq!(values(elastic), [1.0, 0.0, 0.0, -1.5]);
    // ‖(3, 4)‖ = 5.
    let rows = tensor(&[3.0, 4.0, 0.3, 0.4, 0.0, 0.0], [3, 2]);
    let rows = GroupL2::new(1.0, Views::Each(0)).unwrap().prox(rows, 1.0);
    let rows = rows.unwrap().reshape([6]);
    for (found, expected) in values(rows).into_iter().zip([2.4, 3.2, 0.0, 0.0, 0.0, 0.0]) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    let ball = L2Ball::new(2.5).unwrap().prox(vector(&[3.0, -4.0]), 1.0);
    assert_eq!(values(ball.unwrap()), [1.5, -2.0]);
    let ball = L1Ball::new(3.0).unwrap().prox(x(), 1.0);
    assert_eq!(values(ball.unwrap()), [1.0, 0.0, 0.0, -2.0]);
    let shares = Simplex::new(1.0).unwrap().prox(x(), 1.0);
    assert_eq!(values(shares.unwrap()), [1.0, 0.0, 0.0, 0.0]);
    let even = Simplex::new(1.0).unwrap().prox(vector(&[-7.0; 4]), 1.0);
    assert_eq!(values(even.unwrap()), [0.25; 4]);
    // diag(3, 1) by a threshold of 2.
    let matrix = tensor(&[0.0, 3.0, 1.0, 0.0], [2, 2]);
    let low = NuclearNorm::new(2.0).unwrap().prox(matrix, 1.0).unwrap();
    for (found, expected) in values(low.reshape([4]))
        .into_iter()
        .zip([0.0, 1.0, 0.0, 0.0])
    {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn groups_inside_of_the_threshold_are_exactly_zero() {
    // 1/t · t is not always 1 in f32; a zero group must be zero all the same.
    let mut noise = SeededNoise::new(3, 0);
    for _ in 0..200 {
        let values = noise.normal_values(5);
        let x = Tensor::<1>::from_data(TensorData::new(values, [5]), &Device::flex());
        let norm = nabla_base::vector::norm(&host(&x).unwrap());
        let operator = GroupL2::new(norm * 1.01, Views::Whole).unwrap();
        assert_eq!(
            host(&operator.prox(x.clone(), 1.0).unwrap()).unwrap(),
            [0.0; 5]
        );
        // A ball leaves points inside unchanged.
        let ball = L2Ball::new(norm * 1.01).unwrap();
        assert_eq!(ball.prox(x.clone(), 1.0).unwrap().to_data(), x.to_data());
    }
}

#[test]
fn norms_of_any_scale_are_right() {
    for scale in [1e-30, 1e30] {
        let x = vector(&[3.0 * scale, -4.0 * scale]);
        let ball = L2Ball::new(2.5 * scale).unwrap().prox(x, 1.0).unwrap();
        let ball = host(&ball).unwrap();
        assert!((ball[0] / scale - 1.5).abs() < 1e-6, "{ball:?}");
        assert!((ball[1] / scale + 2.0).abs() < 1e-6, "{ball:?}");
    }
    let zero = vector(&[0.0, 0.0]);
    for threshold in [0.0, 1e-60, 1.0] {
        let operator = GroupL2::new(threshold, Views::Whole).unwrap();
        let found = operator.prox(zero.clone(), 1.0).unwrap();
        assert_eq!(host(&found).unwrap(), [0.0, 0.0]);
    }
    // A sum far below the rounding of the elements.
    let shares = Simplex::new(1e-3).unwrap();
    let shares = shares.prox(vector(&[1e6, 1e6, -1e6]), 1.0).unwrap();
    assert!(
        shares.clone().max().into_scalar::<f32>() == 5e-4,
        "{shares}"
    );
}

fn any_matrix() -> impl Strategy<Value = (usize, usize, u64, f64)> {
    (1_usize..7, 1_usize..7, any::<u64>(), -2.0..2.0_f64)
}

fn random(rows: usize, columns: usize, seed: u64, stream: u64, scale: f64) -> Tensor<2> {
    let scale = 10_f64.powf(scale);
    let mut noise = SeededNoise::new(seed, stream);
    noise.normal([rows, columns], &Device::flex()) * scale
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// `‖p − q‖² ≤ ⟨p − q, x − y⟩`, the property that characterises proximal operators.
    #[test]
    fn firmly_nonexpansive((rows, columns, seed, scale) in any_matrix(), step in 0.01..4.0_f64) {
        let x = random(rows, columns, seed, 0, scale);
        let y = random(rows, columns, seed, 1, scale);
        let (host_x, host_y) = (host(&x).unwrap(), host(&y).unwrap());
        for (name, operator) in operators() {
            let p = host(&operator.prox(x.clone(), step).unwrap()).unwrap();
            let q = host(&operator.prox(y.clone(), step).unwrap()).unwrap();
            let (moved, apart) = (minus(&p, &q), minus(&host_x, &host_y));
            let rounding = 1e-5 * dot(&apart, &apart);
            prop_assert!(dot(&moved, &moved) <= dot(&moved, &apart) + rounding, "{}", name);
        }
    }

    /// `p` minimises `f(q) + ‖q − x‖² / (2τ)`: no `q` on the line to another point is better.
    #[test]
    fn minimises_its_definition((rows, columns, seed, scale) in any_matrix(), step in 0.01..4.0_f64) {
        let x = random(rows, columns, seed, 0, scale);
        let host_x = host(&x).unwrap();
        for (name, operator) in operators() {
            let objective = |q: &Tensor<2>| {
                let away = minus(&host(q).unwrap(), &host_x);
                operator.value(q).unwrap() + dot(&away, &away) / (2.0 * step)
            };
            let p = operator.prox(x.clone(), step).unwrap();
            let best = objective(&p);
            prop_assert!(best.is_finite(), "{}", name);
            for stream in 1..6 {
                // Another point where f is finite.
                let other = random(rows, columns, seed, stream, scale);
                let other = operator.prox(other, step).unwrap();
                for share in [1e-3, 0.03, 0.3, 1.0] {
                    let q = p.clone() * (1.0 - share) + other.clone() * share;
                    let found = objective(&q);
                    prop_assert!(
                        found >= best * (1.0 - 1e-5) - 1e-6,
                        "{}, {}: {} {}", name, share, found, best
                    );
                }
            }
        }
    }

    /// The certificate of a projection `p` onto a polytope: `⟨x − p, z − p⟩ ≤ 0` at each corner.
    #[test]
    fn exact_projections_onto_polytopes(
        (rows, columns, seed, scale) in any_matrix(),
        size in -2.0..2.0_f64,
    ) {
        let size = 10_f64.powf(size);
        let x = random(rows, columns, seed, 0, scale);
        let host_x = host(&x).unwrap();
        let rounding = 4e-6 * dot(&host_x, &host_x).max(size * size);

        let p = L1Ball::new(size).unwrap().prox(x.clone(), 1.0).unwrap();
        let p = host(&p).unwrap();
        let left = minus(&host_x, &p);
        // The corners are ± size in one element.
        let largest = left.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
        prop_assert!(one_norm(&p) <= size * (1.0 + 1e-6));
        prop_assert!(size * largest <= dot(&left, &p) + rounding);

        let p = Simplex::new(size).unwrap().prox(x, 1.0).unwrap();
        let p = host(&p).unwrap();
        let left = minus(&host_x, &p);
        let largest = left.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!((p.iter().sum::<f64>() - size).abs() <= 1e-6 * size);
        prop_assert!(p.iter().all(|&share| share >= 0.0));
        prop_assert!(size * largest <= dot(&left, &p) + rounding);
    }

    /// Moreau: the conjugate of a norm is the indicator of the dual norm's ball.
    #[test]
    fn conjugates_of_norms_are_dual_balls(
        (rows, columns, seed, scale) in any_matrix(),
        step in 0.05..4.0_f64,
    ) {
        let x = random(rows, columns, seed, 0, scale);
        let close = |name: &str, found: Tensor<2>, expected: Tensor<2>| {
            let far = (found - expected).abs().max().into_scalar::<f32>();
            let size = x.clone().abs().max().into_scalar::<f32>();
            prop_assert!(far <= 4e-6 * size.max(2.0), "{}: {}", name, far);
            Ok(())
        };
        let l1 = L1::new(0.8).unwrap();
        let ball = LInfBall::new(0.8).unwrap().prox(x.clone(), step).unwrap();
        close("l1", l1.prox_conjugate(x.clone(), step).unwrap(), ball)?;
        let l2 = GroupL2::new(0.8, Views::Whole).unwrap();
        let ball = L2Ball::new(0.8).unwrap().prox(x.clone(), step).unwrap();
        close("l2", l2.prox_conjugate(x.clone(), step).unwrap(), ball)?;
        // Conversely, the conjugate of the indicator of a ball is the norm.
        let ball = LInfBall::new(0.8).unwrap();
        let soft = l1.prox(x.clone(), step).unwrap();
        close("linf ball", ball.prox_conjugate(x.clone(), step).unwrap(), soft)?;
        // (w/2 ‖x‖²)* = ‖x‖² / (2w).
        let half = SquaredL2::new(0.5).unwrap();
        let double = SquaredL2::new(2.0).unwrap().prox(x.clone(), step).unwrap();
        close("squared", half.prox_conjugate(x.clone(), step).unwrap(), double)?;
        // The conjugate of the nuclear norm bounds the largest singular value.
        let dual = NuclearNorm::new(0.8).unwrap().prox_conjugate(x.clone(), step).unwrap();
        let largest = matrix(&dual).unwrap().singular_values().unwrap()[0];
        let expected = matrix(&x).unwrap().singular_values().unwrap()[0].min(0.8);
        prop_assert!((largest - expected).abs() < 4e-6 * 10_f64.powf(scale).max(1.0) * 6.0);
    }

    /// A projection stays where it is, and counts as inside.
    #[test]
    fn projections_are_idempotent((rows, columns, seed, scale) in any_matrix()) {
        for (name, operator) in operators() {
            if !["l2_ball", "l1_ball", "linf_ball", "box", "simplex"].contains(&name) {
                continue;
            }
            let x = random(rows, columns, seed, 0, scale);
            let once = operator.prox(x, 1.0).unwrap();
            prop_assert_eq!(operator.value(&once).unwrap(), 0.0);
            let twice = operator.prox(once.clone(), 1.0).unwrap();
            let far = (once - twice).abs().max().into_scalar::<f32>();
            prop_assert!(far < 1e-6, "{}: {}", name, far);
        }
    }
}

#[test]
fn points_outside_have_infinite_value() {
    let x = vector(&[2.0, -1.0]);
    let outside: Vec<Box<dyn Proximal<1>>> = vec![
        Box::new(L2Ball::new(2.2).unwrap()),
        Box::new(L1Ball::new(2.9).unwrap()),
        Box::new(LInfBall::new(1.9).unwrap()),
        Box::new(BoxConstraint::new(-0.9, 3.0).unwrap()),
        Box::new(BoxConstraint::new(-2.0, 1.9).unwrap()),
        // The sum is right, but one element is negative.
        Box::new(Simplex::new(1.0).unwrap()),
    ];
    for (index, operator) in outside.iter().enumerate() {
        assert_eq!(operator.value(&x).unwrap(), f64::INFINITY, "{index}");
    }
    let half = vector(&[0.5, 0.4]);
    assert_eq!(
        Simplex::new(1.0).unwrap().value(&half).unwrap(),
        f64::INFINITY
    );
}

#[test]
fn any_rank_and_the_element_type_are_kept() {
    let x = Tensor::<4>::ones([2, 1, 3, 2], (&Device::flex(), DType::F64)) * 2.0;
    let kept: [&dyn Proximal<4>; 4] = [
        &L1::new(0.1).unwrap(),
        &L1Ball::new(3.0).unwrap(),
        &Simplex::new(3.0).unwrap(),
        &GroupL2::new(0.1, Views::Each(2)).unwrap(),
    ];
    for operator in kept {
        let found = operator.prox(x.clone(), 1.0).unwrap();
        assert_eq!((found.dims(), found.dtype()), (x.dims(), DType::F64));
    }
    let found = L1Ball::new(3.0).unwrap().prox(x, 1.0).unwrap();
    assert_eq!(host(&found).unwrap(), [0.25; 12]);
}

#[test]
fn what_cannot_be_is_refused() {
    let x = || tensor(&[1.0, 2.0], [1, 2]);
    let error = L1::new(-1.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weight is -1, but it must be at least 0 and finite"
    );
    assert!(L2Ball::new(0.0).is_err() && L1Ball::new(f64::NAN).is_err());
    assert!(BoxConstraint::new(1.0, 0.0).is_err() && BoxConstraint::new(0.0, f64::NAN).is_err());
    assert!(BoxConstraint::new(0.0, f64::INFINITY).is_ok());
    for (name, operator) in operators() {
        for step in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            let error = operator.prox(x(), step).unwrap_err();
            assert!(
                matches!(&error, ProximalError::Range(error) if error.name == "step"),
                "{name}"
            );
        }
        let error = operator.prox_conjugate(x(), 0.0).unwrap_err();
        assert!(
            matches!(&error, ProximalError::Range(error) if error.name == "step"),
            "{name}"
        );
    }
    let group = GroupL2::new(1.0, Views::Each(2)).unwrap();
    let expected = ProximalError::Dim { dim: 2, rank: 2 };
    assert_eq!(group.prox(x(), 1.0).unwrap_err(), expected);
    assert_eq!(group.value(&x()).unwrap_err(), expected);
    let empty = Tensor::<2>::zeros([0, 2], &Device::flex());
    let broken = tensor(&[1.0, f64::INFINITY], [1, 2]);
    let strict: [&dyn Proximal<2>; 3] = [
        &NuclearNorm::new(1.0).unwrap(),
        &L1Ball::new(1.0).unwrap(),
        &Simplex::new(1.0).unwrap(),
    ];
    for operator in strict {
        assert_eq!(
            operator.prox(empty.clone(), 1.0).unwrap_err(),
            ProximalError::Empty(vec![0, 2])
        );
        assert_eq!(
            operator.prox(broken.clone(), 1.0).unwrap_err(),
            ProximalError::NotFinite {
                index: 1,
                value: f64::INFINITY
            }
        );
    }
}
