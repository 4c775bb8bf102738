use super::*;
use crate::leakage::two_stages::{TwoStages, squared_distance};
use burn::tensor::TensorData;

/// Pictures that the generator cannot make from a latent vector alone.
const FAR: [[f32; 4]; 1] = [[0.9, 0.2, 0.6, 0.5]];

fn found(config: &GifdConfig) -> Gifd {
    gifd(
        &squared_distance(&FAR),
        &TwoStages,
        1,
        config,
        3,
        &Device::flex(),
    )
    .unwrap()
}

fn quick() -> GifdConfig {
    GifdConfig {
        steps: 200,
        radii: vec![0.5],
        restarts: 2,
        ..GifdConfig::default()
    }
}

#[test]
fn a_feature_fits_better_than_the_latent_vector_and_the_ball_holds_it() {
    let whole = found(&quick());
    assert_eq!(whole.stages.len(), 2);
    assert!(whole.stages[1].cost < whole.stages[0].cost);
    assert_eq!(whole.cost, whole.stages[1].cost);
    let free = found(&GifdConfig {
        ball: false,
        ..quick()
    });
    assert!(
        free.cost < whole.cost + 1e-6,
        "{} {}",
        free.cost,
        whole.cost
    );
    let tight = found(&GifdConfig {
        radii: vec![1e-3],
        ..quick()
    });
    assert!((tight.stages[1].cost - tight.stages[0].cost).abs() < 1e-2);
}

#[test]
fn the_best_restart_is_the_answer_unless_the_last_is_asked_for() {
    let best = found(&GifdConfig {
        restarts: 4,
        ..quick()
    });
    let last = found(&GifdConfig {
        restarts: 4,
        last_restart: true,
        ..quick()
    });
    assert!(best.cost <= last.cost);
}

#[test]
fn the_rate_rises_and_falls() {
    for (share, expected) in [
        (0.0, 0.0),
        (0.025, 0.5),
        (0.25, 1.0),
        (0.625, 0.5),
        (1.0, 0.0),
    ] {
        assert!((learning_rate_factor(share) - expected).abs() < 1e-12);
    }
}

/// (3, −1, ½) on 2: θ = 1; on 3.5: θ = 1/3. Each row has its own ball, around its centre.
#[test]
fn rows_are_projected_around_their_centres() {
    let device = Device::flex();
    let centre = Tensor::<2>::from_floats([[1.0, 1.0, 1.0], [0.0, 2.0, 0.0]], &device);
    let away = Tensor::<2>::from_floats([[3.0, -1.0, 0.5], [0.1, 0.1, 0.1]], &device);
    let project = |radius| {
        let ball = L1Ball::new(radius).unwrap();
        let moved = into_balls(centre.clone() + away.clone(), &centre, &ball).unwrap();
        (moved - centre.clone())
            .into_data()
            .iter::<f64>()
            .collect::<Vec<_>>()
    };
    let third = 1.0 / 3.0;
    let expected = [
        (2.0, [2.0, 0.0, 0.0]),
        (3.5, [3.0 - third, third - 1.0, 0.5 - third]),
    ];
    for (radius, row) in expected {
        let found = project(radius);
        for (found, expected) in found.iter().zip(row.into_iter().chain([0.1; 3])) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}

#[test]
fn the_sphere_keeps_each_rows_length() {
    let device = Device::flex();
    let z = Tensor::<2>::from_data(
        TensorData::new(vec![3.0f32, 4.0, 0.0, 2.0], [2, 2]),
        &device,
    );
    let lengths = Tensor::<2>::from_floats([[1.0], [3.0]], &device);
    let found: Vec<f64> = onto_sphere(z, &lengths).into_data().iter().collect();
    for (found, expected) in found.into_iter().zip([0.6, 0.8, 0.0, 3.0]) {
        assert!((found - expected).abs() < 1e-6);
    }
}

#[test]
fn radii_must_fit_the_generator() {
    let config = GifdConfig {
        radii: vec![1.0, 1.0],
        ..quick()
    };
    let found = gifd(
        &squared_distance(&FAR),
        &TwoStages,
        1,
        &config,
        0,
        &Device::flex(),
    );
    assert!(matches!(found, Err(LeakageError::Stages { .. })));
}
