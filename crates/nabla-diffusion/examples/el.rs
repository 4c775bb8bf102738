use burn::tensor::{Device, Distribution, Tensor};
use std::time::Instant;
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut t: Vec<f64> = (0..7)
        .map(|_| {
            let b = Instant::now();
            f();
            b.elapsed().as_secs_f64()
        })
        .collect();
    t.sort_by(f64::total_cmp);
    t[2]
}
fn main() {
    let d = Device::flex();
    use nabla_grad::elementwise::Dense;
    use rayon::prelude::*;
    let t = time(|| {
        let o = Tensor::<3>::empty([1, 4096, 1280], (&d, burn::tensor::DType::F32));
        let mut o = Dense::take(o).unwrap();
        o.values_mut()[0] = 1.0;
    });
    println!("empty {:.2} ms", t * 1e3);
    let t = time(|| {
        let o = Tensor::<3>::empty([1, 4096, 1280], (&d, burn::tensor::DType::F32));
        let mut o = Dense::take(o).unwrap();
        o.values_mut()
            .par_chunks_mut(1 << 14)
            .for_each(|c| c.fill(2.0));
    });
    println!("empty and fill {:.2} ms", t * 1e3);
    let mut v = vec![0.0f32; 4096 * 1280];
    let t = time(|| {
        v.par_chunks_mut(1 << 14).for_each(|c| c.fill(2.0));
    });
    println!("fill {:.2} ms", t * 1e3);
    let t = time(|| {
        let v = vec![0.0f32; 4096 * 1280];
        std::hint::black_box(v);
    });
    println!("vec {:.2} ms", t * 1e3);
    let t = time(|| {
        let mut v = vec![0.0f32; 4096 * 1280];
        v.par_chunks_mut(1 << 14).for_each(|c| c.fill(2.0));
        std::hint::black_box(v);
    });
    println!("vec and fill {:.2} ms", t * 1e3);
    for input in [1, 8, 16] {
        let lin = burn::nn::LinearConfig::new(input, 2560).init(&d);
        let x = Tensor::<3>::random([1, 4096, input], Distribution::Normal(0.0, 1.0), &d);
        let t = time(|| {
            let _ = nabla_diffusion::transformer_kernels::linear_geglu(&lin, x.clone());
        });
        println!("geglu {input}: {:.2} ms", t * 1e3);
        let lin = burn::nn::LinearConfig::new(input, 1280).init(&d);
        let t = time(|| {
            let _ = nabla_diffusion::transformer_kernels::linear(&lin, x.clone());
        });
        println!("linear {input} to 1280: {:.2} ms", t * 1e3);
    }
    let x = Tensor::<4>::random([1, 320, 64, 64], Distribution::Normal(0.0, 1.0), &d);
    let t = time(|| {
        let _ = Tensor::cat(vec![x.clone(), x.clone()], 1);
    });
    println!("cat 320@64: {:.2} ms", t * 1e3);
    let t = time(|| {
        let _ = x.clone().reshape([1, 320, 4096]).swap_dims(1, 2) + 1.0;
    });
    println!("transposed + 1 320@64: {:.2} ms", t * 1e3);
    let y = x.clone().reshape([1, 320, 4096]).swap_dims(1, 2);
    let t = time(|| {
        let _ = nabla_grad::elementwise::Dense::take(y.clone());
    });
    println!("transpose 320@64: {:.2} ms", t * 1e3);
    let y2 = Tensor::<3>::random([1, 4096, 320], Distribution::Normal(0.0, 1.0), &d);
    let t = time(|| {
        let _ = x.clone() + y2.clone().swap_dims(1, 2).reshape([1, 320, 64, 64]);
    });
    println!("add of transposed 320@64: {:.2} ms", t * 1e3);
    let b = Tensor::<4>::random([1, 320, 1, 1], Distribution::Normal(0.0, 1.0), &d);
    let t = time(|| {
        let _ = x.clone() + b.clone();
    });
    println!("add broadcast 320@64: {:.2} ms", t * 1e3);
    let norm = burn::nn::GroupNormConfig::new(32, 320).init(&d);
    let t = time(|| {
        let _ = norm.forward(x.clone());
    });
    let t2 = time(|| {
        let _ = nabla_diffusion::kernels::group_norm(&norm, x.clone());
    });
    println!(
        "group norm 320@64: burn {:.2} ms ours {:.2} ms",
        t * 1e3,
        t2 * 1e3
    );
    let t = time(|| {
        let _ = nabla_diffusion::kernels::group_norm_silu(&norm, x.clone());
    });
    println!("group norm silu 320@64: {:.2} ms", t * 1e3);
}
