use super::*;
use pulp::Scalar;

fn numbers<F: Real>(count: usize, step: usize) -> Vec<F> {
    let number = |i: usize| (i * step % 23) as f64 / 7.0 - 1.5;
    (0..count).map(|i| F::of(number(i))).collect()
}

/// On every instruction set that this processor has, the sums are those of plain loops.
fn check<F: Real, S: Simd>(simd: S, tolerance: f64) {
    for (rows, depth, columns, spread) in [
        (1, 1, 1, 0),
        (3, 5, 17, 4),
        (8, 9, 48, 7),
        (13, 20, 100, 11),
        (29, 31, 49, 1),
    ] {
        let offsets: Vec<usize> = (0..depth).map(|k| k * spread % 40).collect();
        let x = numbers::<F>(40 + padded(columns), 5);
        let weights = numbers::<F>(rows * depth, 3);
        let start = numbers::<F>(rows, 11);
        let mut y = vec![F::ZERO; rows * padded(columns)];
        let product = Product {
            x: &x,
            offsets: &offsets,
            weights: &weights,
            start: Some(&start),
            y: &mut y,
            columns,
        };
        simd.vectorize(product);
        let g = numbers::<F>(rows * padded(columns), 7);
        let mut sums = vec![F::ONE; rows * depth];
        let correlation = Correlation {
            x: &x,
            offsets: &offsets,
            g: &g,
            columns,
            sums: &mut sums,
            lanes: vec![F::ZERO; 27 * 16],
        };
        simd.vectorize(correlation);
        let mut turned = vec![F::ZERO; columns * padded(rows)];
        turn(
            rows,
            |row| &g[row * padded(columns)..][..columns],
            &mut turned,
        );
        let mut sums_of_turned = vec![F::ONE; rows * depth];
        let cut = columns / 3;
        let correlation = TurnedCorrelation {
            x: &x,
            offsets: &offsets,
            g: &turned,
            segments: &[(0, cut), (cut, columns - cut)],
            sums: &mut sums_of_turned,
        };
        simd.vectorize(correlation);
        for row in 0..rows {
            for n in 0..columns {
                let terms =
                    (0..depth).map(|k| weights[row * depth + k].wide() * x[offsets[k] + n].wide());
                let expected = start[row].wide() + terms.sum::<f64>();
                let found = y[row * padded(columns) + n].wide();
                assert!((found - expected).abs() < tolerance, "{found} {expected}");
            }
            for k in 0..depth {
                let terms = (0..columns)
                    .map(|n| g[row * padded(columns) + n].wide() * x[offsets[k] + n].wide());
                let expected = 1.0 + terms.sum::<f64>();
                for sums in [&sums, &sums_of_turned] {
                    let found = sums[row * depth + k].wide();
                    assert!(
                        (found - expected).abs() < 10.0 * tolerance,
                        "{found} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_computes_the_sums() {
    check::<f32, _>(Scalar, 1e-4);
    check::<f64, _>(Scalar, 1e-12);
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V3::try_new() {
            check::<f32, _>(simd, 1e-4);
            check::<f64, _>(simd, 1e-12);
        }
        if let Some(simd) = pulp::x86::V4::try_new() {
            check::<f32, _>(simd, 1e-4);
            check::<f64, _>(simd, 1e-12);
        }
    }
}
