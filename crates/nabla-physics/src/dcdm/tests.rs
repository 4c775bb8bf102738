use burn::module::{Module, Param};
use burn::tensor::{DType, Device};
use nabla_grad::seeded_noise::SeededNoise;
use serde::Deserialize;

use super::*;
use crate::linear::{
    Border, Cell, ConjugateGradient, Identity, IncompleteCholesky, Jacobi, Multigrid,
    MultigridConfig, PoissonGrid,
};

#[derive(Deserialize)]
struct Reference {
    white: Vec<White>,
}

#[derive(Deserialize)]
struct White {
    n: usize,
    b: Vec<f64>,
}

/// White noise of NumPy.
fn white(n: usize) -> Vec<f64> {
    let text = include_str!("../../tests/reference/linear.json");
    let reference: Reference = serde_json::from_str(text).unwrap();
    let mut all = reference.white.into_iter();
    all.find(|white| white.n == n).unwrap().b
}

fn square(n: usize) -> PoissonGrid {
    PoissonGrid::new(&[n, n], Border::Dirichlet).unwrap()
}

fn solver(keep: usize, iterations: usize) -> Dcdm {
    Dcdm {
        keep,
        iterations,
        ..Dcdm::default()
    }
}

/// The numbers of NumPy in f64.
#[test]
fn the_residual_itself_makes_conjugate_gradients() {
    for (n, expected, descent) in [(16, 33, 335), (32, 66, 1544)] {
        let (grid, b) = (square(n), white(n));
        for keep in [1, 2, 3] {
            let found = solver(keep, 1000)
                .solve(&grid, &Fixed(Identity), &b)
                .unwrap();
            assert_eq!(found.iterations, expected, "{n}, {keep}");
            assert!(found.converged);
            // Two products for each, since residuals are computed anew.
            assert_eq!(found.products, 2 * expected);
        }
        let along = Dcdm {
            recompute_residual: false,
            ..solver(2, 1000)
        };
        let found = along.solve(&grid, &Fixed(Identity), &b).unwrap();
        assert_eq!((found.iterations, found.products), (expected, expected + 1));
        let found = solver(0, 5000).solve(&grid, &Fixed(Identity), &b).unwrap();
        assert_eq!(found.iterations, descent);
        // The iterates, too.
        let few = solver(2, 30).solve(&grid, &Fixed(Identity), &b).unwrap();
        let cg = ConjugateGradient {
            tolerance: 1e-4,
            iterations: 30,
        };
        let cg = cg.solve(&grid, &Identity, &b).unwrap();
        for (x, y) in few.x.iter().zip(&cg.x) {
            assert!((x - y).abs() < 1e-13, "{x} {y}");
        }
    }
}

#[test]
fn a_fixed_preconditioner_makes_preconditioned_conjugate_gradients() {
    let (n, b) = (32, white(32));
    let grid = square(n);
    let matrix = grid.matrix();
    let cg = ConjugateGradient {
        tolerance: 1e-4,
        iterations: 1000,
    };
    let check = |m: &dyn Preconditioner| {
        let expected = cg.solve(&grid, &m, &b).unwrap().iterations;
        for keep in [1, 2] {
            let found = solver(keep, 1000).solve(&grid, &Fixed(m), &b).unwrap();
            assert_eq!(found.iterations, expected);
        }
        expected
    };
    assert_eq!(check(&Jacobi::new(&grid).unwrap()), 66);
    check(&IncompleteCholesky::new(&matrix).unwrap());
    check(&Multigrid::new(&matrix, &MultigridConfig::default()).unwrap());
    // Symmetric Gauss-Seidel: 24 in NumPy.
    let sweeps = |r: &[f64]| -> Vec<f64> {
        let mut x = vec![0.0; n * n];
        let mut sweep = |order: &mut dyn Iterator<Item = usize>| {
            for i in order {
                let mut sum = r[i];
                for (there, other) in [
                    (i % n > 0, i.wrapping_sub(1)),
                    (i % n < n - 1, i + 1),
                    (i >= n, i.wrapping_sub(n)),
                    (i < n * (n - 1), i + n),
                ] {
                    if there {
                        sum += x[other];
                    }
                }
                x[i] = sum / 4.0;
            }
        };
        sweep(&mut (0..n * n));
        sweep(&mut (0..n * n).rev());
        x
    };
    assert_eq!(
        solver(1, 100).solve(&grid, &sweeps, &b).unwrap().iterations,
        24
    );
}

/// One iteration with the inverse; more with noise around it, the same for any number of directions kept: they are as good as
/// conjugate already.
#[test]
fn the_inverse_needs_one_iteration() {
    let (grid, b) = (square(16), white(16));
    let exact = ConjugateGradient {
        tolerance: 1e-14,
        iterations: 1000,
    };
    let inverse = |r: &[f64]| exact.solve(&grid, &Identity, r).unwrap().x;
    // Any scale and sign.
    for scale in [1.0, -1e-7, 300.0] {
        let model = |r: &[f64]| {
            inverse(r)
                .into_iter()
                .map(|x| scale * x)
                .collect::<Vec<_>>()
        };
        let found = Dcdm::default().solve(&grid, &model, &b).unwrap();
        assert_eq!((found.iterations, found.converged), (1, true));
    }
    // NumPy: 5, 9 and 14 iterations.
    for (size, expected) in [(0.1, 5_usize), (0.3, 9), (0.5, 14)] {
        let noise = std::cell::RefCell::new(SeededNoise::new(1, 0));
        let model = |r: &[f64]| {
            let x = inverse(r);
            let norm = nabla_base::vector::norm(&x);
            let z = noise.borrow_mut().normal_values(256);
            let part = size * norm / 16.0;
            let noisy = x.iter().zip(z).map(|(x, z)| x + part * f64::from(z));
            noisy.collect::<Vec<_>>()
        };
        let found = solver(2, 100).solve(&grid, &model, &b).unwrap();
        assert!(
            found.iterations.abs_diff(expected) <= 2,
            "{size}: {}",
            found.iterations
        );
    }
}

#[test]
fn errors_in_the_norm_of_the_matrix_never_grow() {
    let grid = square(12);
    let exact = ConjugateGradient {
        tolerance: 1e-13,
        iterations: 1000,
    };
    let b: Vec<f64> = SeededNoise::new(3, 0)
        .normal_values(144)
        .into_iter()
        .map(f64::from)
        .collect();
    let solution = exact.solve(&grid, &Identity, &b).unwrap().x;
    // Whatever the directions are.
    let noise = std::cell::RefCell::new(SeededNoise::new(4, 0));
    let model = |_: &[f64]| -> Vec<f64> {
        let z = noise.borrow_mut().normal_values(144);
        z.into_iter().map(f64::from).collect()
    };
    let energy = |x: &[f64]| {
        let error: Vec<f64> = x.iter().zip(&solution).map(|(x, s)| x - s).collect();
        let mut image = vec![0.0; 144];
        grid.apply(&error, &mut image);
        dot(&error, &image)
    };
    let mut x = vec![0.0; 144];
    let mut before = energy(&x);
    for _ in 0..20 {
        let one = solver(2, 1).solve_observed(&grid, &model, &b, Some(&x), &mut |_, _| {
            ControlFlow::Continue(())
        });
        x = one.unwrap().x;
        let after = energy(&x);
        assert!(after <= before * (1.0 + 1e-12), "{after} {before}");
        before = after;
    }
}

#[test]
fn what_cannot_be_gone_along_is_refused() {
    let (grid, b) = (square(16), white(16));
    let zero = |r: &[f64]| vec![0.0; r.len()];
    let told = |model: &dyn Fn(&[f64]) -> Vec<f64>| {
        Dcdm::default()
            .solve(&grid, &model, &b)
            .unwrap_err()
            .to_string()
    };
    assert!(
        told(&zero).contains("in iteration 1, qᵀAq is 0"),
        "{}",
        told(&zero)
    );
    assert!(told(&|r| vec![f64::NAN; r.len()]).contains("qᵀAq is NaN"));
    assert!(told(&|_| vec![1.0; 3]).contains("has 3 numbers, but 256"));
    let found = Dcdm::default().solve(&grid, &zero, &[0.0; 256]).unwrap();
    assert_eq!((found.iterations, found.converged), (0, true));
}

fn tensor(values: &[f64], shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), shape),
        (device, DType::F64),
    )
}

/// The numbers of NumPy: 7.5 for a constant and the identity; 0.2239 for white noise; 0 for the inverse at any scale.
#[test]
fn the_loss_has_known_values() {
    let (grid, device) = (square(32), Device::flex());
    let loss = |q: &[f64], b: &[f64]| -> f64 {
        let q = tensor(q, [b.len() / 1024, 1024], &device);
        dcdm_loss(&grid, &q, b).unwrap().into_scalar()
    };
    let constant = vec![1.0 / 32.0; 1024];
    assert!((loss(&constant, &constant) - 7.5).abs() < 1e-12);
    let noise = white(32);
    assert!((loss(&noise, &noise) - 0.223_908_424_094_248_76).abs() < 1e-14);
    // A step and a norm of its own for each.
    let both = [constant, noise.clone()].concat();
    assert!((loss(&both, &both) - (7.5 + 0.223_908_424_094_248_76) / 2.0).abs() < 1e-12);
    let exact = ConjugateGradient {
        tolerance: 1e-15,
        iterations: 1000,
    };
    let x = exact.solve(&grid, &Identity, &noise).unwrap().x;
    for scale in [1.0, 7.0] {
        let q: Vec<f64> = x.iter().map(|x| scale * x).collect();
        assert!(loss(&q, &noise) < 1e-24, "{}", loss(&q, &noise));
    }
    let short = tensor(&[1.0; 8], [1, 8], &device);
    assert!(dcdm_loss(&grid, &short, &noise).is_err());
}

/// Against central differences, with an obstacle and walls alone, where the kernel is taken out.
#[test]
fn the_gradient_is_that_of_the_loss() {
    let mut cells = vec![Cell::Fluid; 30];
    cells[13] = Cell::Solid;
    for border in [Border::Dirichlet, Border::Neumann] {
        let grid = PoissonGrid::with_cells(&[5, 6], border, &cells).unwrap();
        let device = Device::flex().autodiff();
        let mut noise = SeededNoise::new(5, 0);
        let mut draw = || -> Vec<f64> {
            let mut x: Vec<f64> = noise.normal_values(60).into_iter().map(f64::from).collect();
            x.chunks_mut(30).for_each(|x| _ = grid.kernel().project(x));
            x
        };
        let b = draw();
        let mut q = draw();
        // What the network says inside of the obstacle counts for nothing.
        q[13] = 3.0;
        let leaf = tensor(&q, [2, 30], &device).require_grad();
        let loss = dcdm_loss(&grid, &leaf, &b).unwrap();
        let gradients = loss.backward();
        let gradient = leaf.grad(&gradients).unwrap();
        let gradient: Vec<f64> = gradient.try_into_vec_as().unwrap();
        let value = |q: &[f64]| -> f64 {
            let q = tensor(q, [2, 30], &Device::flex());
            dcdm_loss(&grid, &q, &b).unwrap().into_scalar()
        };
        for i in 0..60 {
            let mut moved = q.clone();
            let h = 1e-6;
            moved[i] += h;
            let above = value(&moved);
            moved[i] -= 2.0 * h;
            let expected = (above - value(&moved)) / (2.0 * h);
            assert!(
                (gradient[i] - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                "{border:?} {i}: {} {expected}",
                gradient[i]
            );
        }
        assert_eq!(gradient[13], 0.0);
    }
}

#[test]
fn right_sides_are_mixtures_of_ritz_vectors() {
    let grid = square(16);
    let config = RitzConfig {
        steps: 256,
        ..RitzConfig::default()
    };
    let space = RitzSpace::new(&grid, &config, 0).unwrap();
    // All eigenvalues that the start holds: those of pairs of waves, each once.
    let [first, last] = [space.values()[0], space.values()[space.values().len() - 1]];
    let eigenvalue = |k: f64| 2.0 - 2.0 * (k * std::f64::consts::PI / 17.0).cos();
    assert!((first - 2.0 * eigenvalue(1.0)).abs() < 1e-10, "{first}");
    assert!((last - 2.0 * eigenvalue(16.0)).abs() < 1e-10, "{last}");
    let draw = |seed| space.draw(40, &mut SeededNoise::new(seed, 0));
    let b = draw(1);
    assert_eq!(b, draw(1));
    assert_ne!(b, draw(2));
    let (mut low, mut whole) = (0.0, 0.0);
    for b in b.chunks(256) {
        assert!((nabla_base::vector::norm(b) - 1.0).abs() < 1e-12);
        // The energy in the lower half of the modes: 81 times the variance of the upper half.
        let mut image = vec![0.0; 256];
        grid.apply(b, &mut image);
        whole += 1.0;
        low += dot(b, &image);
    }
    // The mean of the spectrum is 4; low modes pull it below.
    assert!(low / whole < 3.0, "{}", low / whole);
    let wrong = RitzConfig {
        least: 100.0,
        ..config
    };
    assert!(matches!(
        RitzSpace::new(&grid, &wrong, 0),
        Err(DcdmError::NoRitzVectors(_))
    ));
}

#[test]
fn networks_are_the_papers() {
    let device = Device::flex();
    let weights = |config: DcdmNetConfig| {
        let network = config.init(&device, &mut SeededNoise::new(0, 0)).unwrap();
        network.num_params()
    };
    // 15 convolutions with biases, 3x3x3 but for the first input, and the last layer.
    let each = |channels: usize, taps: usize| channels * channels * taps + channels;
    let expected = |channels: usize, taps: usize, layers: usize| {
        channels * taps + channels + layers * each(channels, taps) + channels + 1
    };
    assert_eq!(weights(DcdmNetConfig::small(3)), expected(16, 27, 14));
    assert_eq!(weights(DcdmNetConfig::large(3)), expected(16, 27, 22));
    // The notes: 8.3 thousand.
    assert_eq!(
        weights(DcdmNetConfig::small(2).with_channels(8)),
        expected(8, 9, 14)
    );
    assert!((8_200..8_400).contains(&expected(8, 9, 14)));
    let wrong = DcdmNetConfig::small(4);
    assert!(wrong.init(&device, &mut SeededNoise::new(0, 0)).is_err());
}

/// With centre taps alone, everything is written out by hand: one channel and identities.
#[test]
fn the_skips_come_after_the_activation() {
    let device = Device::flex();
    let config = DcdmNetConfig::small(2).with_channels(1);
    let mut noise = SeededNoise::new(0, 0);
    let mut network = config.init(&device, &mut noise).unwrap();
    struct Centre;
    impl burn::module::ModuleMapper for Centre {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|w| {
                let count = w.shape().num_elements();
                let shape = w.dims();
                let mut values = vec![0.0_f32; count];
                if D == 5 {
                    values[count / 2] = 1.0;
                }
                Tensor::from_data(TensorData::new(values, shape), &Device::flex())
            })
        }
    }
    network = network.map(&mut Centre);
    // x ≥ 0: a = x, b = x, a = 2x, b = 2x; mean; 8 times; up 16x + 2x; 4 times.
    let r = Tensor::<2>::from_data([[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]], &device);
    let q = network.directions(r, &[2, 4]).unwrap();
    let q: Vec<f32> = q.try_into_vec_as().unwrap();
    assert_eq!(q, [72.0, 72.0, 144.0, 144.0, 72.0, 72.0, 144.0, 144.0]);
    // Below zero, ReLU leaves nothing: skips are added to it, not before it.
    let r = Tensor::<2>::from_data([[-1.0, -1.0, -1.0, -1.0]], &device);
    let q = network.directions(r, &[2, 2]).unwrap();
    let q: Vec<f32> = q.try_into_vec_as().unwrap();
    assert_eq!(q, [0.0; 4]);
}

#[test]
fn grids_may_have_odd_sides() {
    let device = Device::flex();
    for sides in [vec![7, 9], vec![5, 6, 7]] {
        let config = DcdmNetConfig::small(sides.len()).with_channels(4);
        let network = config.init(&device, &mut SeededNoise::new(1, 0)).unwrap();
        let cells: usize = sides.iter().product();
        let model = GridDirections::new(&network, &sides, &device);
        let q = model.direction(&vec![0.1; cells]).unwrap();
        assert_eq!(q.len(), cells);
        assert!(q.iter().all(|q| q.is_finite()));
        assert!(model.direction(&[1.0]).is_err());
        let flat = GridDirections::new(&network, &[cells], &device);
        assert!(matches!(
            flat.direction(&vec![0.1; cells]),
            Err(DcdmError::Dimensions { .. })
        ));
    }
}

/// A short training is better than conjugate gradients on its grid, resumes with the same bits, and survives its folder.
#[test]
fn directions_are_learnt_without_solutions() {
    let config = DcdmTrainingConfig {
        steps: 600,
        right_sides: RitzConfig {
            steps: 100,
            ..RitzConfig::default()
        },
        ..DcdmTrainingConfig::for_grid(&[16, 16])
    };
    let run = |config: &DcdmTrainingConfig| {
        let mut trainer = config.trainer(&Device::flex()).unwrap();
        trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        trainer
    };
    let trainer = run(&config);
    let losses = trainer.history().losses();
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    assert!(
        mean(&losses[500..]) < 0.25 * mean(&losses[..20]),
        "{losses:?}"
    );
    println!("loss {}", mean(&losses[500..]));
    let learnt = LearntDirections::of(&trainer);
    let (grid, b) = (square(16), white(16));
    let solver = Dcdm::default();
    let found = solver
        .solve(&grid, &learnt.on(&[16, 16]).unwrap(), &b)
        .unwrap();
    assert!(
        found.converged && found.iterations < 20,
        "{}",
        found.iterations
    );
    let folder = tempfile::tempdir().unwrap();
    learnt.save(folder.path()).unwrap();
    let again = LearntDirections::load(folder.path()).unwrap();
    assert_eq!(again.config(), learnt.config());
    let same = solver
        .solve(&grid, &again.on(&[16, 16]).unwrap(), &b)
        .unwrap();
    assert_eq!(same, found);
    assert!(again.on(&[4, 4, 4]).is_err());
    // The same seed, the same bits.
    let short = DcdmTrainingConfig { steps: 3, ..config };
    assert_eq!(
        run(&short).history().losses(),
        run(&short).history().losses()
    );
    let wrong = DcdmTrainingConfig {
        sides: vec![16],
        ..short
    };
    assert!(wrong.trainer(&Device::flex()).is_err());
}
