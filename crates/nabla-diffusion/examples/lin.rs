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
    for (rows, input, out) in [
        (64, 1280, 1280),
        (64, 1280, 10240),
        (64, 5120, 1280),
        (77, 2048, 1280),
        (256, 640, 640),
        (256, 640, 5120),
        (256, 1280, 1280),
        (256, 1280, 10240),
        (256, 5120, 1280),
        (1024, 640, 640),
        (1024, 640, 5120),
        (1024, 2560, 640),
        (4096, 320, 320),
        (4096, 320, 2560),
        (4096, 1280, 320),
    ] {
        let x = Tensor::<3>::random([1, rows, input], Distribution::Normal(0.0, 1.0), &d);
        let w = Tensor::<2>::random([out, input], Distribution::Normal(0.0, 1.0), &d).transpose();
        let lin = burn::nn::Linear {
            weight: burn::module::Param::from_tensor(w.clone()),
            bias: None,
        };
        let gf = |t: f64| 2.0 * (rows * input * out) as f64 / t / 1e9;
        let a = time(|| {
            let _ = lin.forward(x.clone());
        });
        let mut s = format!("{rows:5} {input:5} {out:6}  burn {:6.1} |", gf(a));
        let t = time(|| {
            let _ = nabla_diffusion::transformer_kernels::linear(&lin, x.clone());
        });
        s += &format!(" ours {:5.1}", gf(t));
        let x: Tensor<3> = Tensor::random([1, rows, input], Distribution::Normal(0.0, 1.0), &d);
        let norm = burn::nn::LayerNormConfig::new(input).init(&d);
        let t = time(|| {
            let _ = norm.forward(x.clone());
        });
        s += &format!(
            " lnorm {:5.2} ms {:.1} GB/s",
            t * 1e3,
            8.0 * (rows * input) as f64 / t / 1e9
        );
        let t = time(|| {
            let _ = x.clone() + x.clone();
        });
        s += &format!(" add {:5.2} ms", t * 1e3);
        if out % 2 == 0 {
            let lin = burn::nn::Linear {
                weight: lin.weight.clone(),
                bias: Some(burn::module::Param::from_tensor(Tensor::zeros([out], &d))),
            };
            let x = Tensor::<3>::random([1, rows, input], Distribution::Normal(0.0, 1.0), &d);
            let t = time(|| {
                let _ = nabla_diffusion::transformer_kernels::linear_geglu(&lin, x.clone());
            });
            s += &format!(" geglu {:5.1}", gf(t));
        }
        println!("{s}");
    }
    for (ci, co, k, stride, side) in [
        (320, 320, 3, 2, 64),
        (640, 640, 3, 2, 32),
        (960, 320, 1, 1, 64),
        (640, 320, 1, 1, 64),
        (1920, 640, 1, 1, 32),
        (2560, 1280, 1, 1, 16),
        (256, 128, 1, 1, 256),
        (512, 256, 1, 1, 128),
        (128, 128, 3, 2, 256),
        (256, 256, 3, 2, 128),
        (4, 320, 3, 1, 64),
        (320, 4, 3, 1, 64),
        (128, 3, 3, 1, 256),
        (128, 128, 3, 1, 256),
        (512, 512, 3, 1, 64),
    ] {
        let x = Tensor::<4>::random([1, ci, side, side], Distribution::Normal(0.0, 1.0), &d);
        let conv = burn::nn::conv::Conv2dConfig::new([ci, co], [k, k])
            .with_stride([stride, stride])
            .with_padding(burn::nn::PaddingConfig2d::Explicit(
                k / 2,
                k / 2,
                k / 2,
                k / 2,
            ))
            .init(&d);
        let t = time(|| {
            let _ = conv.forward(x.clone());
        });
        let t2 = time(|| {
            let _ = nabla_diffusion::kernels::convolution(&conv, x.clone());
        });
        let f = 2.0 * (ci * co * k * k * side * side / stride / stride) as f64 / 1e9;
        println!(
            "conv {ci}->{co} k{k} s{stride} @{side}: burn {:.2} ms {:.1}, ours {:.2} ms {:.1}",
            t * 1e3,
            f / t,
            t2 * 1e3,
            f / t2
        );
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
