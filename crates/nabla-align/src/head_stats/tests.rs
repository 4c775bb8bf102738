use super::*;
use burn::tensor::{DType, Device};

/// Three classes, two features, four examples; the values were computed with NumPy.
fn example() -> HeadStats {
    let z = tensor(&[1.0, 0.0, 0.5, -1.0, -1.0, 2.0, 0.0, 1.0], [4, 2]);
    let w = tensor(&[0.2, -0.1, 0.0, 0.3, -0.4, 0.1], [3, 2]);
    let b = tensor(&[0.1, 0.0, -0.2], [1, 3]);
    let y = tensor(
        &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0],
        [4, 3],
    );
    HeadStats::linear(z.clone(), z.matmul(w.transpose()) + b, y).unwrap()
}

fn tensor(values: &[f64], shape: [usize; 2]) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().try_to_vec::<f64>().unwrap()
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < tolerance, "{found:?} for {expected:?}");
    }
}

#[test]
fn a_softmax_has_the_reference_values() {
    let head = example();
    near(&values(head.loss()), &[0.984_115_020_4], 1e-9);
    let g = [
        -0.116_697, 0.043_047, 0.114_025, -0.116_765, 0.259_709, -0.129_058, 0.233_462, -0.302_756,
        0.015_034,
    ];
    near(&values(head.gradient()), &g, 1e-6);
    let hg = [
        -0.009_070, 0.036_939, 0.033_764, -0.091_469, 0.158_480, 0.022_891, 0.100_538, -0.195_419,
        -0.056_654,
    ];
    near(&values(head.hessian_product(head.gradient())), &hg, 1e-6);
    let diagonal = [
        0.115_161, 0.265_034, 0.215_248, 0.130_803, 0.357_926, 0.228_840, 0.107_404, 0.326_311,
        0.190_266,
    ];
    near(&values(head.hessian_diagonal()), &diagonal, 1e-6);
    let hessian = values(head.hessian());
    let trace: f64 = (0..9).map(|i| hessian[i * 10]).sum();
    let norm = hessian.iter().map(|x| x * x).sum::<f64>().sqrt();
    near(&[trace, norm], &[1.936_994_797, 1.013_254_585], 1e-8);
    let matrix = faer::Mat::from_fn(9, 9, |i, j| hessian[i * 9 + j]);
    let eigenvalues = matrix.self_adjoint_eigenvalues(faer::Side::Lower).unwrap();
    let largest = eigenvalues.iter().copied().fold(0.0, f64::max);
    near(&[largest], &[0.765_692_500], 1e-8);
    // (classes − 1)(d + 1)
    assert_eq!(eigenvalues.iter().filter(|x| x.abs() > 1e-10).count(), 6);
}

#[test]
fn one_logit_has_the_reference_values() {
    let z = tensor(&[1.0, 0.0, 0.5, -1.0, -1.0, 2.0, 0.0, 1.0], [4, 2]);
    let logit = z.clone().matmul(tensor(&[0.3, -0.2], [2, 1])) + 0.1;
    let y = tensor(&[1.0, 0.0, 1.0, 0.0], [4, 1]);
    let head = HeadStats::binary(z, logit.clone(), y.clone()).unwrap();
    near(
        &values(head.gradient()),
        &[0.137_416, -0.356_733, 0.009_673],
        1e-6,
    );
    let product = values(head.hessian_product(head.gradient()));
    near(&product, &[0.069_880, -0.143_728, -0.035_053], 1e-6);
    let losses = values(logit).into_iter().zip(values(y));
    let mean = losses
        .map(|(s, y)| (1.0 + s.exp()).ln() - y * s)
        .sum::<f64>()
        / 4.0;
    near(&values(head.loss()), &[mean], 1e-7);
}

/// The Hessian's products and diagonal are those of the whole matrix, and the moments those of single gradients.
#[test]
fn the_closed_forms_agree_with_each_other_and_with_single_examples() {
    let head = example();
    let hessian = head.hessian();
    let direction = tensor(&[0.3, -1.0, 0.2, 0.7, 0.1, -0.4, 0.9, 0.0, 0.5], [3, 3]);
    let product = hessian.clone().matmul(direction.clone().reshape([9, 1]));
    near(
        &values(head.hessian_product(direction)),
        &values(product),
        1e-12,
    );
    let whole = values(hessian);
    let diagonal: Vec<f64> = (0..9).map(|i| whole[i * 10]).collect();
    near(&values(head.hessian_diagonal()), &diagonal, 1e-12);

    let single: Vec<Vec<f64>> = (0..4)
        .map(|i| {
            let row = |t: &Tensor<2>| values(t.clone().slice([i..i + 1, 0..t.dims()[1]]));
            let (residual, feature) = (row(&head.residuals), row(&head.features));
            residual
                .iter()
                .flat_map(|r| feature.iter().map(move |z| r * z))
                .collect()
        })
        .collect();
    let mean = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..9)
            .map(|j| (0..4).map(|i| of(i, j)).sum::<f64>() / 4.0)
            .collect()
    };
    let gradient = mean(&|i, j| single[i][j]);
    near(&values(head.gradient()), &gradient, 1e-12);
    near(
        &values(head.variance()),
        &mean(&|i, j| (single[i][j] - gradient[j]).powi(2)),
        1e-12,
    );
    let centre = head.gradient() + 0.3;
    let around = mean(&|i, j| (single[i][j] - gradient[j] - 0.3).powi(2));
    near(&values(head.variance_around(centre)), &around, 1e-7);
    let [matrix, bias] = head.mean_squared_norms();
    let squares = |bias: bool| {
        let of = |i: usize| (0..9).filter(|j| (j % 3 == 2) == bias).map(move |j| (i, j));
        let all = (0..4).flat_map(of);
        all.map(|(i, j)| single[i][j].powi(2)).sum::<f64>() / 4.0
    };
    near(&values(matrix), &[squares(false)], 1e-12);
    near(&values(bias), &[squares(true)], 1e-12);
}

/// The columns of `g` and of `H U` sum to 0 over the classes, `H (1 ⊗ v) = 0`, and `gᵀ H g ≥ 0`.
#[test]
fn what_a_softmax_cannot_see_is_not_seen() {
    let head = example();
    let product = head.hessian_product(head.gradient());
    for tensor in [head.gradient(), product.clone()] {
        near(&values(tensor.sum_dim(0)), &[0.0; 3], 1e-12);
    }
    let same = tensor(&[0.4, -2.0, 0.7].repeat(3), [3, 3]);
    near(&values(head.hessian_product(same)), &[0.0; 9], 1e-12);
    assert!(values((head.gradient() * product).sum())[0] > 0.0);
}

/// The error of an estimate of `R` probes has the variance `(‖H‖² − ‖diag H‖²)/R`.
#[test]
fn the_estimated_diagonal_has_the_variance_of_theory() {
    let head = example();
    let exact = values(head.hessian_diagonal());
    let mut noise = SeededNoise::new(5, 0);
    let (probes, times) = (30, 400);
    let mut sum = 0.0;
    for _ in 0..times {
        let signs = head.signs(probes, &mut noise).unwrap();
        let found = values(head.estimated_diagonal(&signs).unwrap());
        sum += found
            .iter()
            .zip(&exact)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f64>();
    }
    let squares: f64 = exact.iter().map(|x| x * x).sum();
    let expected = (1.013_254_585_f64.powi(2) - squares) / probes as f64;
    let found = sum / f64::from(times);
    assert!(
        (found / expected - 1.0).abs() < 0.15,
        "{found} for {expected}"
    );
}

#[test]
fn passes_that_do_not_fit_are_refused_in_one_sentence() {
    let two = |rows: usize, columns: usize| Tensor::<2>::zeros([rows, columns], &Device::flex());
    let told = |z, s, y| HeadStats::linear(z, s, y).unwrap_err().to_string();
    assert!(told(two(3, 2), two(3, 2), two(2, 2)).contains("must agree"));
    assert!(told(two(3, 2), two(3, 1), two(3, 1)).contains("binary"));
    assert_eq!(
        example().signs(0, &mut SeededNoise::new(0, 0)).unwrap_err(),
        HeadError::Probes(0)
    );
}
