use super::*;
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;

const D: usize = 60;
const M: usize = 12;

fn gradients(rows: usize, seed: u64) -> Mat<f64> {
    let values = SeededNoise::new(seed, 0).normal_values(rows * D);
    Mat::from_fn(rows, D, |i, j| f64::from(values[i * D + j]))
}

fn tensor(x: &Mat<f64>, dtype: DType) -> Tensor<2> {
    from_mat(x, &Device::flex(), dtype)
}

/// `(λ I + GᵀG/m)⁻¹`, dense.
fn dense(g: &Mat<f64>, m: usize, damping: f64) -> Mat<f64> {
    let gram = g.transpose() * g;
    let d = g.ncols();
    let fisher = Mat::from_fn(d, d, |i, j| {
        gram[(i, j)] / m as f64 + if i == j { damping } else { 0.0 }
    });
    fisher.llt(Side::Lower).unwrap().solve(Mat::identity(d, d))
}

fn apply(inverse: &Mat<f64>, x: &[f64]) -> Vec<f64> {
    let x = Mat::from_fn(x.len(), 1, |i, _| x[i]);
    let y = inverse * x;
    (0..y.nrows()).map(|i| y[(i, 0)]).collect()
}

fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * scale, "{a} against {b}");
    }
}

fn row(g: &Mat<f64>, i: usize) -> Vec<f64> {
    (0..g.ncols()).map(|j| g[(i, j)]).collect()
}

#[test]
fn static_products_are_those_of_the_dense_inverse() {
    for (dtype, damping, tolerance) in [
        (DType::F64, 1e-5, 1e-9),
        (DType::F64, 0.1, 1e-11),
        (DType::F32, 1e-2, 1e-3),
    ] {
        let g = gradients(M, 1);
        let inverse = dense(&g, M, damping);
        let fisher = StaticFisher::new(tensor(&g, dtype), damping).unwrap();
        let x = row(&gradients(1, 2), 0);
        let y = fisher.solve(&vector(&x, &Device::flex(), dtype)).unwrap();
        assert_close(&numbers(y).unwrap(), &apply(&inverse, &x), tolerance);
        let diagonal: Vec<f64> = (0..D).map(|i| inverse[(i, i)]).collect();
        let ours = numbers(fisher.inverse_diagonal().unwrap()).unwrap();
        assert_close(&ours, &diagonal, tolerance);
        for (a, b) in [(0, 0), (3, 41), (59, 2)] {
            let entry = fisher.inverse_entry(a, b).unwrap();
            assert!((entry - inverse[(a, b)]).abs() < tolerance * diagonal[0].abs());
        }
    }
}

/// The recursion of the paper, vector by vector.
#[test]
fn the_factors_are_those_of_the_papers_recursion() {
    let (g, damping) = (gradients(M, 3), 0.05);
    let fisher = StaticFisher::new(tensor(&g, DType::F64), damping).unwrap();
    let ours = to_mat(fisher.v.clone()).unwrap();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (mut v, mut q) = (Vec::<Vec<f64>>::new(), Vec::<f64>::new());
    for i in 0..M {
        let g_i = row(&g, i);
        let mut v_i: Vec<f64> = g_i.iter().map(|g| g / damping).collect();
        for (v_j, q_j) in v.iter().zip(&q) {
            let c = dot(v_j, &g_i) / q_j;
            for (a, b) in v_i.iter_mut().zip(v_j) {
                *a -= c * b;
            }
        }
        q.push(M as f64 + dot(&g_i, &v_i));
        assert_close(&row(&ours, i), &v_i, 1e-10);
        v.push(v_i);
    }
    assert_close(&fisher.q, &q, 1e-12);
}

#[test]
fn blocks_are_inverted_on_their_own() {
    let (g, damping) = (gradients(M, 4), 0.01);
    // More weights than gradients in a block, and fewer; the last block is shorter.
    for size in [25, 8] {
        let fisher = BlockFisher::new(tensor(&g, DType::F64), damping, size).unwrap();
        let x = row(&gradients(1, 5), 0);
        let y = fisher
            .solve(&vector(&x, &Device::flex(), DType::F64))
            .unwrap();
        let (mut expected, mut diagonal) = (Vec::new(), Vec::new());
        for start in (0..D).step_by(size) {
            let width = size.min(D - start);
            let part = Mat::from_fn(M, width, |i, j| g[(i, start + j)]);
            let inverse = dense(&part, M, damping);
            expected.extend(apply(&inverse, &x[start..start + width]));
            diagonal.extend((0..width).map(|i| inverse[(i, i)]));
        }
        assert_close(&numbers(y).unwrap(), &expected, 1e-10);
        let ours = numbers(fisher.inverse_diagonal().unwrap()).unwrap();
        assert_close(&ours, &diagonal, 1e-10);
    }
    // One block of everything is the whole matrix.
    let whole = BlockFisher::new(tensor(&g, DType::F64), damping, D).unwrap();
    let ours = numbers(whole.inverse_diagonal().unwrap()).unwrap();
    let full = StaticFisher::new(tensor(&g, DType::F64), damping).unwrap();
    assert_close(
        &ours,
        &numbers(full.inverse_diagonal().unwrap()).unwrap(),
        1e-10,
    );
}

#[test]
fn the_window_slides() {
    let damping = 1e-3;
    let all = gradients(2 * M + 5, 6);
    let device = Device::flex();
    let mut fisher = SlidingFisher::new(D, M, damping, &device).unwrap();
    let x = row(&gradients(1, 7), 0);
    for i in 0..all.nrows() {
        let g = vector(&row(&all, i), &device, DType::F32);
        let mut before = fisher.clone();
        fisher.push(&g).unwrap();
        // The last M, or fewer at first; the mean divides by M all the same.
        let first = (i + 1).saturating_sub(M);
        let window = Mat::from_fn(i + 1 - first, D, |r, j| all[(first + r, j)]);
        let inverse = dense(&window, M, damping);
        let y = fisher.solve(&vector(&x, &device, DType::F32)).unwrap();
        assert_close(&numbers(y).unwrap(), &apply(&inverse, &x), 1e-3);
        // In one call it is the same to the bit.
        let own = fisher.solve(&g).unwrap().into_data();
        assert_eq!(before.push_solve(&g).unwrap().into_data(), own);
    }
    let inverse = dense(
        &Mat::from_fn(M, D, |r, j| all[(all.nrows() - M + r, j)]),
        M,
        damping,
    );
    let diagonal: Vec<f64> = (0..D).map(|i| inverse[(i, i)]).collect();
    let ours = numbers(fisher.inverse_diagonal().unwrap()).unwrap();
    assert_close(&ours, &diagonal, 1e-3);
}

fn model_and_gradients(device: &Device) -> (Linear, Tensor<2>) {
    let model: Linear = LinearConfig::new(5, 3).init(device);
    let values = SeededNoise::new(8, 0).normal_values(7 * 5);
    let x = Tensor::from_data(TensorData::new(values, [7, 5]), device);
    (model, x)
}

fn backward(model: &Linear, x: &Tensor<2>) -> GradientsParams {
    let loss = (model.forward(x.clone()) - 1.0).square().mean();
    GradientsParams::from_grads(loss.backward(), model)
}

#[test]
fn a_step_is_the_inverse_fisher_times_the_gradient() {
    let device = Device::flex().autodiff();
    let (model, x) = model_and_gradients(&device);
    let config = MFacConfig::new()
        .with_window(4)
        .with_damping(1e-2)
        .with_momentum(0.9)
        .with_weight_decay(0.1);
    let mut optimizer = config.init().unwrap();
    let layout = ParameterLayout::of(&model).unwrap();
    let (mut model, mut velocity) = (model, vec![0.0; 18]);
    let mut window: Vec<Vec<f64>> = Vec::new();
    for _ in 0..6 {
        let gradients = backward(&model, &x);
        let w = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
        let g = numbers(layout.flatten_gradients(&gradients).unwrap()).unwrap();
        let g: Vec<f64> = g.iter().zip(&w).map(|(g, w)| g + 0.1 * w).collect();
        window.push(g.clone());
        let last = &window[window.len().saturating_sub(4)..];
        let rows = Mat::from_fn(last.len(), 18, |i, j| last[i][j]);
        let u = apply(&dense(&rows, 4, 1e-2), &g);
        for (v, u) in velocity.iter_mut().zip(&u) {
            *v = 0.9 * *v + (1.0 - 0.9) * u;
        }
        let expected: Vec<f64> = w.iter().zip(&velocity).map(|(w, v)| w - 0.05 * v).collect();
        model = optimizer.step(0.05, model, gradients).unwrap();
        let found = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
        assert_close(&found, &expected, 1e-4);
    }
}

#[test]
fn a_record_goes_on_to_the_bit() {
    let device = Device::flex().autodiff();
    let (model, x) = model_and_gradients(&device);
    let config = MFacConfig::new()
        .with_window(3)
        .with_momentum(0.5)
        .with_sparse(true);
    let mut optimizer = config.init().unwrap();
    let mut model = model;
    for _ in 0..4 {
        let gradients = backward(&model, &x);
        model = optimizer.step(1e-3, model, gradients).unwrap();
    }
    let bytes = optimizer.into_bytes().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m-fac.bpk");
    optimizer.save(&file).unwrap();
    let fresh = || config.init().unwrap();
    // A record that was not yet stepped with is the same record.
    let loaded = fresh().from_bytes(bytes.clone()).unwrap();
    assert_eq!(loaded.into_bytes().unwrap().to_vec(), bytes.to_vec());
    let from_record = fresh().load_record(optimizer.to_record().unwrap()).unwrap();
    let from_file = fresh().load(&file).unwrap();
    let ways = [loaded, from_record, from_file];
    let mut ways = ways.map(|resumed| (resumed, model.clone()));
    for _ in 0..4 {
        let gradients = backward(&model, &x);
        model = optimizer.step(1e-3, model, gradients).unwrap();
        for (resumed, copy) in &mut ways {
            let gradients = backward(copy, &x);
            *copy = resumed.step(1e-3, copy.clone(), gradients).unwrap();
            assert_eq!(
                model.weight.val().into_data(),
                copy.weight.val().into_data()
            );
        }
    }
    // Nothing so far is a record, too.
    let empty = fresh().into_bytes().unwrap();
    fresh().from_bytes(empty).unwrap().prepared(&model).unwrap();

    let other = config.clone().with_window(4).init().unwrap();
    let told = other.from_bytes(bytes.clone()).unwrap_err();
    assert!(told.to_string().contains("the window is 4"), "{told}");
    let larger: Linear = LinearConfig::new(6, 3).init(&device);
    let told = fresh().from_bytes(bytes).unwrap().prepared(&larger);
    let told = told.unwrap_err().to_string();
    assert!(told.contains("the model has 21 parameters"), "{told}");
    let adam = burn::optim::AdamConfig::new().init();
    let mut adam = adam;
    let gradients = backward(&model, &x);
    adam.step(1e-3, model, gradients);
    let told = fresh().from_bytes(adam.into_bytes().unwrap()).unwrap_err();
    assert!(
        told.to_string().contains("it has no m_fac.gradients"),
        "{told}"
    );
    for damaged in [vec![], vec![1, 2, 3], vec![0xff; 64]] {
        let damaged = burn::tensor::Bytes::from_bytes_vec(damaged);
        assert!(matches!(
            fresh().from_bytes(damaged),
            Err(MFacError::Load(_))
        ));
    }
}

#[test]
fn gradients_are_clipped_parameter_by_parameter() {
    use burn::grad_clipping::GradientClippingConfig;
    let device = Device::flex().autodiff();
    let (model, x) = model_and_gradients(&device);
    let clip = GradientClippingConfig::Norm(1e-3);
    let config = MFacConfig::new().with_window(2).with_damping(1e-2);
    let clipping = config.clone().with_grad_clipping(Some(clip.clone()));
    let clipped = clipping.init().unwrap();
    let mut clipped = clipped.prepared(&model).unwrap();
    let found = clipped
        .step(0.1, model.clone(), backward(&model, &x))
        .unwrap();
    // As if the gradients had come clipped.
    let (gradients, clip) = (backward(&model, &x), clip.init());
    let mut short = GradientsParams::new();
    let weight = gradients.get::<2>(model.weight.id).unwrap();
    short.register::<2>(model.weight.id, clip.clip_gradient(weight));
    let bias = model.bias.as_ref().unwrap().id;
    let own = gradients.get::<1>(bias).unwrap();
    short.register::<1>(bias, clip.clip_gradient(own));
    let expected = config.init().unwrap().step(0.1, model, short).unwrap();
    let numbers = |m: &Linear| m.weight.val().into_data().try_to_vec::<f32>().unwrap();
    for (a, b) in numbers(&found).iter().zip(numbers(&expected)) {
        assert!((a - b).abs() < 1e-6);
    }
}

#[test]
fn pruned_weights_stay_away() {
    let device = Device::flex().autodiff();
    let (model, x) = model_and_gradients(&device);
    let layout = ParameterLayout::of(&model).unwrap();
    let w = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
    let sparse: Vec<f64> = w
        .iter()
        .enumerate()
        .map(|(i, w)| if i % 3 == 0 { 0.0 } else { *w })
        .collect();
    let mut model = layout
        .with_parameters(model, vector(&sparse, layout.device(), DType::F32))
        .unwrap();
    let config = MFacConfig::new().with_window(4).with_sparse(true);
    let mut optimizer = config.init().unwrap();
    for _ in 0..3 {
        let gradients = backward(&model, &x);
        model = optimizer.step(1e-2, model, gradients).unwrap();
    }
    let after = numbers(layout.flatten_parameters(&model).unwrap()).unwrap();
    for (i, (before, after)) in sparse.iter().zip(&after).enumerate() {
        assert_eq!(i % 3 == 0, *after == 0.0, "{before} {after}");
    }
}

/// On a quadratic whose Hessian is F, removing one weight and moving the others costs what its
/// saliency says, and less than removing it alone.
#[test]
fn the_surgeon_makes_up_for_what_it_removes() {
    let (g, damping) = (gradients(M, 9), 0.5);
    let device = Device::flex();
    let fisher = StaticFisher::new(tensor(&g, DType::F64), damping).unwrap();
    let w = row(&gradients(1, 10), 0);
    let weights = vector(&w, &device, DType::F64);
    let there = vec![true; D];
    let pruned = optimal_brain_surgeon(&weights, &there, &fisher, 1.0 / D as f64).unwrap();
    assert_eq!(pruned.mask.iter().filter(|m| !**m).count(), 1);
    let after = numbers(pruned.weights.clone()).unwrap();
    let inverse = dense(&g, M, damping);
    let hessian = inverse.llt(Side::Lower).unwrap().solve(Mat::identity(D, D));
    let cost = |change: &[f64]| {
        let product = apply(&hessian, change);
        0.5 * change.iter().zip(&product).map(|(a, b)| a * b).sum::<f64>()
    };
    let q = pruned.mask.iter().position(|m| !m).unwrap();
    let moved: Vec<f64> = after.iter().zip(&w).map(|(a, b)| a - b).collect();
    let alone: Vec<f64> = (0..D).map(|i| if i == q { -w[q] } else { 0.0 }).collect();
    let saliency = w[q] * w[q] / (2.0 * inverse[(q, q)]);
    assert!((cost(&moved) - saliency).abs() < 1e-9 * saliency.max(1e-9));
    assert!(cost(&moved) < cost(&alone));
    for i in 0..D {
        assert!(saliency <= w[i] * w[i] / (2.0 * inverse[(i, i)]) + 1e-12);
    }
    // Further on: what is gone stays gone.
    let half = optimal_brain_surgeon(&pruned.weights, &pruned.mask, &fisher, 0.5).unwrap();
    assert_eq!(half.mask.iter().filter(|m| !**m).count(), D / 2);
    assert!(!half.mask[q]);
    assert!(optimal_brain_surgeon(&half.weights, &half.mask, &fisher, 0.3).is_err());
    assert!(optimal_brain_surgeon(&half.weights, &half.mask, &fisher, 1.0).is_err());
    assert!(optimal_brain_surgeon(&half.weights, &[true], &fisher, 0.9).is_err());
    assert_eq!(gradual_density(1.0, 0.1, 16, 16), 0.1);
}

#[test]
fn wrong_input_is_told() {
    let device = Device::flex();
    let g = || tensor(&gradients(2, 1), DType::F32);
    assert_eq!(
        StaticFisher::new(g(), 0.0).unwrap_err().to_string(),
        "the damping of M-FAC is 0, but it must be positive and finite"
    );
    assert_eq!(
        BlockFisher::new(g(), 0.1, 0).unwrap_err().to_string(),
        "the block size of M-FAC is 0, but it must be at least 1"
    );
    assert_eq!(
        SlidingFisher::new(4, 0, 0.1, &device)
            .unwrap_err()
            .to_string(),
        "the window of M-FAC is 0, but it must be at least 1"
    );
    assert!(StaticFisher::new(Tensor::zeros([0, 3], &device), 0.1).is_err());
    let bad = g() * f32::NAN;
    assert!(matches!(
        StaticFisher::new(bad, 0.1),
        Err(MFacError::NotFinite)
    ));
    let fisher = StaticFisher::new(g(), 0.1).unwrap();
    let told = fisher.solve(&Tensor::zeros([3], &device)).unwrap_err();
    assert_eq!(
        told.to_string(),
        "the vector has 3 numbers, but the Fisher matrix has 60 rows"
    );
    assert!(fisher.inverse_entry(0, D).is_err());
    let mut sliding = SlidingFisher::new(D, 3, 0.1, &device).unwrap();
    let infinite = Tensor::<1>::full([D], f32::INFINITY, &device);
    assert!(matches!(sliding.push(&infinite), Err(MFacError::NotFinite)));
    // The window is as before.
    sliding.push(&Tensor::ones([D], &device)).unwrap();
    assert!(
        numbers(sliding.solve(&Tensor::ones([D], &device)).unwrap())
            .unwrap()
            .iter()
            .all(|v| v.is_finite())
    );
    assert!(MFacConfig::new().with_momentum(1.0).init().is_err());
    assert!(MFacConfig::new().with_weight_decay(-1.0).init().is_err());
    assert!(MFacConfig::new().with_window(0).init().is_err());
    assert!(MFacConfig::new().with_damping(0.0).init().is_err());
}
