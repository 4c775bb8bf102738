//! Your own denoiser: points in the plane, around two places, one for each condition.
//!
//! A closure would be enough for one condition; for several conditions in one call, implement the trait. The tensors
//! are `[points, 2]`: samplers work with any rank.

use nabla::diffusion::denoiser::OwnError;
use nabla::diffusion::guidance::ClassifierFree;
use nabla::prelude::*;

use burn::tensor::{Device, Tensor};

/// `x_0 ~ N(place, s²)` has the exact answer `E[x_0 | x] = place + gain (x − signal place)`.
struct TwoPlaces {
    places: [[f32; 2]; 2],
    deviation: f64,
}

impl Denoiser<2> for TwoPlaces {
    fn prediction(&self) -> Prediction {
        Prediction::Sample
    }

    fn predict(
        &self,
        x: Tensor<2>, // [points, 2]
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        let [a, b] = self.places;
        let variance = self.deviation * self.deviation;
        let around = |place: [f32; 2], variance: f64| {
            let place = Tensor::<1>::from_floats(place, &x.device()).unsqueeze::<2>();
            let power = level.signal() * level.signal() * variance + level.noise() * level.noise();
            let gain = level.signal() * variance / power;
            place.clone() + (x.clone() - place * level.signal()) * gain
        };
        conditions
            .iter()
            .map(|condition| match condition {
                Condition::Given(0) => Ok(around(a, variance)),
                Condition::Given(1) => Ok(around(b, variance)),
                // For both places together: their mean, with a wider spread.
                Condition::Without => {
                    let middle = [0, 1].map(|i| (a[i] + b[i]) / 2.0);
                    Ok(around(middle, variance + 1.0))
                }
                other => Err(format!("there is no place {other}").into()),
            })
            .collect()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = TwoPlaces {
        places: [[1.0, 0.0], [-1.0, 0.5]],
        deviation: 0.1,
    };
    let device = Device::flex();
    // The straight line of flow matching, starting just below pure noise.
    let levels = StraightLine::new().with_start(0.999).levels(20)?;
    let sampler = Sampler::new(samplers().get("dpm++2m")?, levels)?;
    let mut noise = SeededNoise::new(42, 0);
    let start = noise.normal([500, 2], &device);

    let points = sampler.sample(&model, start.clone(), &mut noise)?;
    let mean: Vec<f32> = points.mean_dim(0).into_data().iter().collect();
    println!(
        "drawn around (1, 0): their mean is ({:.3}, {:.3})",
        mean[0], mean[1]
    );
    assert!((mean[0] - 1.0).abs() < 0.05 && mean[1].abs() < 0.05);

    // Guidance pushes the points away from the middle of both places.
    let mut guidance = ClassifierFree::new().with_scale(4.0);
    let guided = Sampling::of(&model)
        .guided_by(&mut guidance)
        .run(&sampler, start, &mut noise)?;
    let away: Vec<f32> = guided.mean_dim(0).into_data().iter().collect();
    println!(
        "guided away from the middle: ({:.3}, {:.3})",
        away[0], away[1]
    );
    // Both runs use the same noise, so the difference of the means comes from the guidance alone.
    assert!(away[0] > mean[0] + 0.005);
    Ok(())
}
