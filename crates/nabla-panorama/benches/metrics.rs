//! Time of the metrics and of the degradation operator, beside scikit-image in one run.
//!
//! ```text
//! NABLA_PYTHON=/tmp/venv/bin/python cargo bench -p nabla-panorama --bench metrics
//! ```
//!
//! Without a Python that has scikit-image (`benches/peers/metrics.py` names the versions), only our
//! times are printed. Each number is the least of several runs on the cores that the process has;
//! scikit-image uses one core and has no other way.

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use nabla_data::Raster;
use nabla_panorama::{
    BicubicDown, Erp, LinearOperator, evaluate, gradient_decomposition, ssim, wavelet_colour_fix,
    ws_psnr,
};

fn pictures(height: usize) -> (Raster, Raster) {
    let level = |c: usize, y: usize, x: usize, seed: usize| {
        ((x * x + 2 * y * y + 3 * x * y + 57 * c + seed) % 256) as f32 / 255.0
    };
    let a = Raster::from_fn(3, height, 2 * height, |c, y, x| level(c, y, x, 0));
    let b = Raster::from_fn(3, height, 2 * height, |c, y, x| {
        0.9 * level(c, y, x, 0) + 0.1 * level(c, x, y, 5)
    });
    (a, b)
}

/// The least time of `runs` runs, in milliseconds, printed.
fn time<T>(name: &str, runs: usize, mut f: impl FnMut() -> T) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        black_box(f());
        least = least.min(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("{name:<55} {least:>10.1} ms");
    least
}

/// scikit-image's time for SSIM of pictures of `height` rows, in milliseconds.
fn peer(height: usize, runs: usize) -> Option<f64> {
    let python = std::env::var("NABLA_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/metrics.py");
    let output = Command::new(python)
        .arg(script)
        .args([height.to_string(), runs.to_string()])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` asks for a short run.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let (heights, runs): (&[usize], usize) = if quick { (&[64], 1) } else { (&[512, 2048], 5) };
    for &height in heights {
        let size = format!("{}x{height}", 2 * height);
        let (a, b) = pictures(height);
        let ours = time(&format!("ssim {size} RGB"), runs, || ssim(&a, &b));
        time(&format!("ws_psnr {size} RGB"), runs, || ws_psnr(&a, &b));
        time(&format!("evaluate {size} RGB"), runs, || evaluate(&a, &b));
        for scale in [2, 4] {
            let erp = Erp::new(height, 2 * height)?;
            time(&format!("BicubicDown::new x{scale} {size}"), runs, || {
                BicubicDown::new(scale, erp)
            });
            let operator = BicubicDown::new(scale, erp)?;
            let y = operator.apply(&b)?;
            time(&format!("apply x{scale} {size} RGB"), runs, || {
                operator.apply(&a)
            });
            time(&format!("pseudo_inverse x{scale} {size} RGB"), runs, || {
                operator.pseudo_inverse(&y)
            });
            time(
                &format!("gradient_decomposition x{scale} {size} RGB"),
                runs,
                || gradient_decomposition(&operator, &a, &y, 1.0),
            );
        }
        time(&format!("wavelet_colour_fix {size} RGB"), runs, || {
            wavelet_colour_fix(a.clone(), &b)
        });
        if quick {
            continue;
        }
        match peer(height, if height > 1000 { 2 } else { runs }) {
            Some(theirs) => println!(
                "scikit-image structural_similarity {size} RGB: {theirs:.1} ms, {:.1} times ours\n",
                theirs / ours
            ),
            None => println!("no Python with scikit-image: set NABLA_PYTHON\n"),
        }
    }
    Ok(())
}
